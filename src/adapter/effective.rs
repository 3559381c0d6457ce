//! What an adapter's module really adds to the base's weight.
//!
//! The hazard is a base that training changed: under PiSSA and OLoRA the factors' first product was taken out of
//! the weight, and under DoRA the adapted weight's rows were scaled to other norms. Both are told against the
//! original weight, as PEFT does when it loads such an adapter.

use nalgebra::DMatrix;

use crate::{
    adapter::{Init, Lora},
    compute::{
        gemm::{Part, View, multiply},
        narrow, svd,
    },
    delta::{Delta, Dense, LowRank},
    error::{Code, Error, Result},
};

/// What is added to the weight (d_out x d_in) that `lora` is for, [one expert's](Lora::expert) where there are several;
/// `weight` is the base's, where [`Module::needs_base`](crate::adapter::Module::needs_base). `module` is named in
/// errors.
///
/// # Errors
/// [`Code::Missing`] without the base's weight where it is needed, [`Code::NotFinite`] for a change that overflows.
pub fn delta_of(mut lora: Lora, weight: Option<&[f32]>, module: &str) -> Result<Delta> {
    let mut factors = plain(&mut lora);
    if lora.magnitude.is_none() && lora.init == Init::Plain {
        return Ok(Delta::LowRank(factors));
    }
    let Some(weight) = weight.filter(|weight| weight.len() == lora.d_out * lora.d_in) else {
        return Err(Error::new(
            Code::Missing,
            format!("the adapter's change is told against the base's own weight; module: {module}"),
        ));
    };
    if lora.init != Init::Plain {
        if lora.rank > lora.d_out.min(lora.d_in) {
            return Err(Error::new(
                Code::ShapeMismatch,
                format!(
                    "rank {} is more than a weight of {} x {} has; module: {module}",
                    lora.rank, lora.d_out, lora.d_in
                ),
            ));
        }
        let first = match lora.init {
            Init::Olora => leading_columns(&lora, weight),
            Init::Pissa | Init::Plain => leading_part(&lora, weight),
        };
        factors = LowRank::sum(&[(1.0, &factors), (-1.0, &first)]);
    }
    match &lora.magnitude {
        Some(magnitude) => rescaled(&factors, magnitude, weight, module),
        None => Ok(Delta::LowRank(factors)),
    }
}

/// s B A as factors, the scaling in B, out of an update that keeps the rest.
fn plain(lora: &mut Lora) -> LowRank {
    let mut b = std::mem::take(&mut lora.b);
    b.iter_mut()
        .for_each(|x| *x = narrow(f64::from(*x) * lora.scaling));
    LowRank {
        a: std::mem::take(&mut lora.a),
        b,
        rank: lora.rank,
        d_out: lora.d_out,
        d_in: lora.d_in,
    }
}

/// PiSSA's first product s B_0 A_0: the best approximation of the weight by its rank.
fn leading_part(lora: &Lora, weight: &[f32]) -> LowRank {
    let best = svd::truncate_dense(weight, lora.d_out, lora.d_in, lora.rank);
    LowRank {
        a: best.a,
        b: best.b,
        rank: lora.rank,
        d_out: lora.d_out,
        d_in: lora.d_in,
    }
}

/// OLoRA's first product s B_0 A_0 = s Q_r R_r of W = Q R: the weight's part in the span of its first r columns.
/// PEFT takes it out with the scaling, though the factors themselves are not divided by it.
fn leading_columns(lora: &Lora, weight: &[f32]) -> LowRank {
    let &Lora {
        rank, d_out, d_in, ..
    } = lora;
    let columns = DMatrix::from_fn(d_out, rank, |row, column| f64::from(weight[row * d_in + column]));
    let q = columns.qr().q();
    // Column-major, it is Q_r^T row by row.
    let transposed = View::new(q.as_slice(), rank, d_out);
    let mut r = vec![0.0; rank * d_in];
    multiply(
        transposed,
        View::new(weight, d_out, d_in),
        1.0,
        Part::Full,
        &mut r,
        d_in,
    );
    let b = transposed.transposed().elements();
    LowRank {
        a: r.into_iter().map(narrow).collect(),
        b: b.map(|x| narrow(x * lora.scaling)).collect(),
        rank,
        d_out,
        d_in,
    }
}

/// DoRA: m / ||W0 + D|| (W0 + D) - W0, the norm a row's.
fn rescaled(factors: &LowRank, magnitude: &[f32], weight: &[f32], module: &str) -> Result<Delta> {
    let (d_out, d_in) = (factors.d_out, factors.d_in);
    let mut sum: Vec<f64> = weight.iter().map(|&x| f64::from(x)).collect();
    factors.add_to(1.0, &mut sum);
    let mut data = Vec::with_capacity(sum.len());
    for ((row, own), &m) in sum
        .chunks_exact(d_in)
        .zip(weight.chunks_exact(d_in))
        .zip(magnitude)
    {
        let norm = row.iter().map(|x| x * x).sum::<f64>().sqrt();
        let factor = f64::from(m) / norm;
        if !factor.is_finite() {
            return Err(Error::new(
                Code::NotFinite,
                format!(
                    "a row of the adapted weight has norm {norm}, which DoRA divides by; module: {module}"
                ),
            ));
        }
        data.extend(
            row.iter()
                .zip(own)
                .map(|(x, &w)| narrow(factor * x - f64::from(w))),
        );
    }
    Ok(Delta::Dense(Dense { data, d_out, d_in }))
}
