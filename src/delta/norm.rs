//! The norm of a weight with a delta added, without forming the sum.

use crate::{
    compute::{
        gemm::{Part, View, multiply},
        squares,
    },
    delta::{Delta, LowRank},
};

/// `||W0 + D||_F^2`; for factors from r x r products and one pass over W0. No delta gives `||W0||_F^2`.
pub fn adapted_weight_norm(w0: &[f32], delta: Option<&Delta>) -> f64 {
    let factors = match delta {
        Some(Delta::Dense(dense)) => {
            let sum = w0
                .iter()
                .zip(&dense.data)
                .map(|(&w, &d)| f64::from(w) + f64::from(d));
            return sum.map(|x| x * x).sum();
        }
        Some(Delta::LowRank(factors)) if factors.rank > 0 => factors,
        Some(Delta::LowRank(_)) | None => return squares(w0),
    };
    let LowRank {
        rank, d_out, d_in, ..
    } = *factors;
    let (a, b) = (
        View::new(&factors.a, rank, d_in),
        View::new(&factors.b, d_out, rank),
    );
    // <W0, BA> = <B^T W0, A>;  ||BA||^2 = <B^T B, A A^T>.
    let dot = |x: &[f64], y: &[f64]| x.iter().zip(y).map(|(x, y)| x * y).sum::<f64>();
    let mut image = vec![0.0; rank * d_in];
    multiply(
        b.transposed(),
        View::new(w0, d_out, d_in),
        1.0,
        Part::Full,
        &mut image,
        d_in,
    );
    let wide: Vec<f64> = a.elements().map(f64::from).collect();
    let (mut bb, mut aa) = (vec![0.0; rank * rank], vec![0.0; rank * rank]);
    multiply(b.transposed(), b, 1.0, Part::Full, &mut bb, rank);
    multiply(a, a.transposed(), 1.0, Part::Full, &mut aa, rank);
    squares(w0) + 2.0 * dot(&image, &wide) + dot(&bb, &aa)
}
