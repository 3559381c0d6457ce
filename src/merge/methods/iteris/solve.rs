//! From sums over samples to one layer's merged delta.

use std::borrow::Cow;

use crate::{
    compute::{
        gemm::{Part, View, multiply},
        narrow,
        solve::{Cholesky, largest_eigenvalue},
    },
    delta::{Delta, Dense, LowRank},
    error::{Code, Error, Result},
    merge::{
        context::{SolveContext, Task},
        methods::iteris::{
            objective::{Objective, Regularized},
            statistics::{GroupStatistics, TaskStatistics},
        },
        options::LeastSquares,
    },
    model::projection::Projection,
};

/// A layer's solution.
pub(super) struct Solution {
    /// D*.
    pub(super) delta: Delta,
    /// lambda, one a task.
    pub(super) lambdas: Vec<f64>,
    /// An estimate of the condition number of S.
    pub(super) condition: f64,
}

/// The linear system of one member of a group.
pub(super) struct System<'a> {
    pub(super) work: &'a SolveContext<'a>,
    pub(super) objective: &'a Objective,
    pub(super) statistics: &'a GroupStatistics,
    pub(super) member: usize,
    pub(super) layer: &'a Projection,
}

/// A regularised product of features: `factor` times it, plus a diagonal.
struct Form {
    factor: f64,
    diagonal: Vec<f64>,
}

impl System<'_> {
    /// D*.
    ///
    /// # Errors
    /// [`Code::NotPositiveDefinite`] naming the layer; [`Code::NotFinite`] if the features overflow.
    pub(super) fn solve(&self, weight_norms: &[f64]) -> Result<Solution> {
        let d_in = self.statistics.d_in;
        let lambdas = self.lambdas(weight_norms)?;
        let unseen = self.unseen();
        let mut s = vec![0.0; d_in * d_in];
        for (sums, lambda) in self.statistics.tasks.iter().zip(&lambdas) {
            let Form { factor, diagonal } = self.gram(sums, &unseen);
            let scale = lambda * factor;
            s.iter_mut().zip(&sums.gram).for_each(|(s, g)| *s += scale * g);
            (0..d_in).for_each(|i| s[i * d_in + i] += lambda * diagonal[i]);
        }
        let largest = largest_eigenvalue(&s, d_in);
        let cholesky = Cholesky::new(s, d_in).map_err(|at| self.singular(at.row))?;
        let condition = largest / cholesky.smallest_eigenvalue();
        let factored = self.objective.target == LeastSquares::Delta
            && self.deltas().all(|(_, delta)| delta.as_low_rank().is_some());
        let crosses = self.crosses(&unseen)?;
        let delta = if factored {
            Delta::LowRank(self.solve_factors(&lambdas, &crosses, &cholesky))
        } else {
            self.solve_dense(&lambdas, &crosses, &cholesky)?
        };
        Ok(Solution {
            delta,
            lambdas,
            condition,
        })
    }

    fn lambdas(&self, weight_norms: &[f64]) -> Result<Vec<f64>> {
        let mut lambdas = Vec::with_capacity(self.work.tasks.len());
        for ((task, sums), norm) in self
            .work
            .tasks
            .iter()
            .zip(&self.statistics.tasks)
            .zip(weight_norms)
        {
            let output_norm = sums.members[self.member].output_norm;
            let weight = task.weight_at(&self.layer.name);
            let lambda = if self.objective.adaptive_weights {
                weight * norm / output_norm
            } else {
                weight
            };
            if !(lambda.is_finite() && lambda > 0.0) {
                return Err(Error::new(
                    Code::NotFinite,
                    format!(
                        "task \"{}\": the layer's output has squared norm {output_norm}, so its weight lambda is {lambda}; the samples or the adapter overflow, or the layer is dead; layer: {}",
                        task.name, self.layer.name
                    ),
                ));
            }
            lambdas.push(lambda);
        }
        Ok(lambdas)
    }

    /// A*_i = lambda_i A_i C_i^T S^-1, stacked with the B_i.
    fn solve_factors(&self, lambdas: &[f64], crosses: &[Form], cholesky: &Cholesky) -> LowRank {
        let d_in = self.statistics.d_in;
        let mut right = Vec::new();
        let mut parts = Vec::new();
        for (index, delta) in self.deltas() {
            let Some(factors) = delta.as_low_rank() else {
                continue;
            };
            let (sums, lambda) = (&self.statistics.tasks[index], lambdas[index]);
            let Form { factor, diagonal } = &crosses[index];
            let projected = self.projected(sums, factors);
            let places = projected
                .iter()
                .zip(&factors.a)
                .zip(diagonal.iter().cycle().take(projected.len()));
            right.extend(places.map(|((sum, &a), ridge)| lambda * (factor * sum + ridge * f64::from(a))));
            parts.push(factors.clone());
        }
        cholesky.solve_rows(&mut right);
        debug_assert_eq!(right.len() % d_in, 0);
        let parts: Vec<(f64, &LowRank)> = parts.iter().map(|part| (1.0, part)).collect();
        let mut stacked = LowRank::sum(&parts);
        stacked.a = right.into_iter().map(narrow).collect();
        stacked
    }

    /// A_i (X_i^T Xt_i), as it was summed, or from the Gram matrix where the features are the same.
    fn projected<'a>(&self, sums: &'a TaskStatistics, factors: &LowRank) -> Cow<'a, [f64]> {
        let summed = &sums.members[self.member].projected;
        if !summed.is_empty() {
            return Cow::Borrowed(summed);
        }
        let (d_in, rank) = (self.statistics.d_in, factors.rank);
        let gram = sums.whole_cross(d_in);
        let mut product = vec![0.0; rank * d_in];
        let (left, right) = (View::new(&factors.a, rank, d_in), View::new(&gram, d_in, d_in));
        multiply(left, right.transposed(), 1.0, Part::Full, &mut product, d_in);
        Cow::Owned(product)
    }

    /// D* = (sum_i lambda_i D_i C_i^T) S^-1; with the whole layer as target W0 + D_i stands for D_i, and W0 is
    /// subtracted.
    fn solve_dense(&self, lambdas: &[f64], crosses: &[Form], cholesky: &Cholesky) -> Result<Delta> {
        let d_in = self.statistics.d_in;
        let d_out = self.layer.weight.d_out();
        let full = self.objective.target == LeastSquares::Full;
        let w0 = if full {
            self.layer.host()?.widened()
        } else {
            Vec::new()
        };
        let mut right = vec![0.0; d_out * d_in];
        let tasks = self.work.tasks.iter().zip(&self.statistics.tasks);
        for ((task, sums), (lambda, form)) in tasks.zip(lambdas.iter().zip(crosses)) {
            let own = task.deltas.get(&self.layer.name);
            if own.is_none() && !full {
                continue;
            }
            let mut wanted: Vec<f64> = if full {
                w0.iter().map(|&x| f64::from(x)).collect()
            } else {
                vec![0.0; d_out * d_in]
            };
            if let Some(delta) = own {
                delta.add_to(1.0, &mut wanted);
            }
            let Form { factor, diagonal } = form;
            let mut cross = sums.whole_cross(d_in);
            cross.iter_mut().for_each(|x| *x *= factor);
            (0..d_in).for_each(|i| cross[i * d_in + i] += diagonal[i]);
            let (left, cross) = (
                View::new(&wanted, d_out, d_in),
                View::new(&cross, d_in, d_in).transposed(),
            );
            multiply(left, cross, *lambda, Part::Full, &mut right, d_in);
        }
        cholesky.solve_rows(&mut right);
        let data = if full {
            let moved = right.into_iter().zip(w0);
            moved.map(|(x, w)| narrow(x - f64::from(w))).collect()
        } else {
            right.into_iter().map(narrow).collect()
        };
        Ok(Delta::Dense(Dense { data, d_out, d_in }))
    }

    /// The tasks' changes of the layer, with the places of the tasks.
    fn deltas(&self) -> impl Iterator<Item = (usize, &Delta)> {
        let tasks = self.work.tasks.iter().enumerate();
        tasks.filter_map(|(index, task)| Some((index, task.deltas.get(&self.layer.name)?)))
    }

    /// G_i.
    fn gram(&self, sums: &TaskStatistics, unseen: &[bool]) -> Form {
        let d_in = self.statistics.d_in;
        match self.objective.regularized {
            Regularized::Ridge { alpha2, .. } => Form::ridge(alpha2 * sums.gram_norm(d_in), d_in),
            Regularized::NonDiagonal(factor) => Form::non_diagonal(factor, sums, unseen),
        }
    }

    /// C_i, one a task.
    fn crosses(&self, unseen: &[bool]) -> Result<Vec<Form>> {
        let d_in = self.statistics.d_in;
        let tasks = self.work.tasks.iter().zip(&self.statistics.tasks);
        let form = |(task, sums): (&Task, &TaskStatistics)| match self.objective.regularized {
            Regularized::Ridge { alpha1, .. } => {
                let norm = sums.cross_norm(d_in);
                if !norm.is_finite() {
                    return Err(Error::new(
                        Code::NotFinite,
                        format!(
                            "task \"{}\": the products of the layer's features overflow; the samples or the adapter are out of range; layer: {}",
                            task.name, self.layer.name
                        ),
                    ));
                }
                Ok(Form::ridge(alpha1 * norm, d_in))
            }
            Regularized::NonDiagonal(factor) => Ok(Form::non_diagonal(factor, sums, unseen)),
        };
        tasks.map(form).collect()
    }

    /// The inputs that are zero in every sample.
    fn unseen(&self) -> Vec<bool> {
        let d_in = self.statistics.d_in;
        let zero = |i: usize| {
            self.statistics
                .tasks
                .iter()
                .all(|sums| sums.gram[i * d_in + i] == 0.0)
        };
        (0..d_in).map(zero).collect()
    }

    fn singular(&self, row: usize) -> Error {
        let remedy = match self.objective.regularized {
            Regularized::Ridge { alpha2, .. } => format!("raise alpha2 (now {alpha2:e})"),
            Regularized::NonDiagonal(factor) => format!("lower nonDiagonal (now {factor})"),
        };
        Error::new(
            Code::NotPositiveDefinite,
            format!(
                "the Gram matrix has no positive pivot in row {row} of {}; {remedy} or give more calibration samples; layer: {}",
                self.statistics.d_in, self.layer.name
            ),
        )
    }
}

impl Form {
    fn ridge(ridge: f64, d_in: usize) -> Self {
        Self {
            factor: 1.0,
            diagonal: vec![ridge; d_in],
        }
    }

    /// a G + (1 - a) diag(G), and one where nothing is seen of any task: the limit of a common ridge there.
    fn non_diagonal(factor: f64, sums: &TaskStatistics, unseen: &[bool]) -> Self {
        let d_in = unseen.len();
        let entry = |(i, &unseen): (usize, &bool)| {
            if unseen {
                1.0
            } else {
                (1.0 - factor) * sums.gram[i * d_in + i]
            }
        };
        Self {
            factor,
            diagonal: unseen.iter().enumerate().map(entry).collect(),
        }
    }
}
