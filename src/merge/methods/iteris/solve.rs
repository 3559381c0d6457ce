//! From sums over samples to one layer's merged delta.

use super::statistics::GroupStatistics;
use crate::{
    compute::{
        gemm::{Part, View, multiply},
        narrow,
        solve::{Cholesky, largest_eigenvalue},
    },
    error::{Code, Error, Result},
    linear::Linear,
    merge::{Change, Dense, Factors, LeastSquares, Work},
};

/// A layer's solution.
pub(super) struct Solved {
    /// D*.
    pub(super) change: Change,
    /// lambda, one a task.
    pub(super) lambdas: Vec<f64>,
    /// An estimate of the condition number of S.
    pub(super) condition: f64,
}

/// Solves one member of a group.
///
/// # Errors
/// [`Code::NotPositiveDefinite`] naming the layer; [`Code::NotFinite`] if the features overflow.
pub(super) fn layer(
    work: &Work<'_>,
    statistics: &GroupStatistics,
    member: usize,
    layer: &Linear,
    weight_norms: &[f64],
) -> Result<Solved> {
    let d_in = statistics.d_in;
    let options = work.options;
    let mut lambdas = Vec::with_capacity(work.tasks.len());
    for ((task, sums), norm) in work.tasks.iter().zip(&statistics.tasks).zip(weight_norms) {
        let output_norm = sums.members[member].output_norm;
        let lambda = if options.adaptive_weights {
            task.weight * norm / output_norm
        } else {
            task.weight
        };
        if !(lambda.is_finite() && lambda > 0.0) {
            return Err(Error::new(
                Code::NotFinite,
                format!(
                    "task \"{}\": the layer's output has squared norm {output_norm}, so its weight lambda is {lambda}; the samples or the adapter overflow, or the layer is dead; layer: {}",
                    task.name, layer.name
                ),
            ));
        }
        lambdas.push(lambda);
    }

    let mut s = vec![0.0; d_in * d_in];
    for (sums, lambda) in statistics.tasks.iter().zip(&lambdas) {
        s.iter_mut().zip(&sums.gram).for_each(|(s, g)| *s += lambda * g);
        let ridge = lambda * options.alpha2 * sums.gram_norm(d_in);
        (0..d_in).for_each(|i| s[i * d_in + i] += ridge);
    }
    let largest = largest_eigenvalue(&s, d_in);
    let cholesky = Cholesky::new(s, d_in).map_err(|at| {
        Error::new(
            Code::NotPositiveDefinite,
            format!(
                "the Gram matrix has no positive pivot in row {} of {d_in}; raise alpha2 (now {:e}) or give more calibration samples; layer: {}",
                at.row, options.alpha2, layer.name
            ),
        )
    })?;
    let condition = largest / cholesky.smallest_eigenvalue();
    let change = match options.target {
        LeastSquares::Delta => Change::Factors(solve_factors(
            work,
            statistics,
            member,
            &layer.name,
            &lambdas,
            &cholesky,
        )),
        LeastSquares::Full => solve_dense(work, statistics, layer, &lambdas, &cholesky),
    };
    Ok(Solved {
        change,
        lambdas,
        condition,
    })
}

/// A*_i = lambda_i A_i C_i^T S^-1, stacked with the B_i.
fn solve_factors(
    work: &Work<'_>,
    statistics: &GroupStatistics,
    member: usize,
    layer: &str,
    lambdas: &[f64],
    cholesky: &Cholesky,
) -> Factors {
    let d_in = statistics.d_in;
    let mut right = Vec::new();
    let mut parts = Vec::new();
    for ((task, sums), lambda) in work.tasks.iter().zip(&statistics.tasks).zip(lambdas) {
        let Some(factors) = task.deltas.get(layer).and_then(Change::as_factors) else {
            continue;
        };
        let ridge = work.options.alpha1 * sums.cross_norm(d_in);
        let projected = sums.members[member].projected.iter().zip(&factors.a);
        right.extend(projected.map(|(sum, &a)| lambda * (sum + ridge * f64::from(a))));
        parts.push(factors.clone());
    }
    cholesky.solve_rows(&mut right);
    let mut stacked = Factors::stack(parts);
    stacked.a = right.into_iter().map(narrow).collect();
    stacked
}

/// D* = (sum_i lambda_i (W0 + D_i) C_i^T) S^-1 - W0.
fn solve_dense(
    work: &Work<'_>,
    statistics: &GroupStatistics,
    layer: &Linear,
    lambdas: &[f64],
    cholesky: &Cholesky,
) -> Change {
    let d_in = statistics.d_in;
    let w0 = layer.host.as_ref().map_or(&[][..], |w0| w0.as_slice());
    let d_out = w0.len() / d_in;
    let mut right = vec![0.0; d_out * d_in];
    for ((task, sums), lambda) in work.tasks.iter().zip(&statistics.tasks).zip(lambdas) {
        let mut adapted: Vec<f64> = w0.iter().map(|&x| f64::from(x)).collect();
        if let Some(change) = task.deltas.get(&layer.name) {
            change.add_to(1.0, &mut adapted);
        }
        let mut cross = if sums.cross.is_empty() {
            symmetric(&sums.gram, d_in)
        } else {
            sums.cross.clone()
        };
        let ridge = work.options.alpha1 * sums.cross_norm(d_in);
        (0..d_in).for_each(|i| cross[i * d_in + i] += ridge);
        let (left, cross) = (
            View::new(&adapted, d_out, d_in),
            View::new(&cross, d_in, d_in).transposed(),
        );
        multiply(left, cross, *lambda, Part::Full, &mut right, d_in);
    }
    cholesky.solve_rows(&mut right);
    let data = right
        .into_iter()
        .zip(w0)
        .map(|(x, &w)| narrow(x - f64::from(w)))
        .collect();
    Change::Dense(Dense { data, d_out, d_in })
}

fn symmetric(lower: &[f64], n: usize) -> Vec<f64> {
    let mut full = lower.to_vec();
    for i in 0..n {
        for j in 0..i {
            full[j * n + i] = full[i * n + j];
        }
    }
    full
}
