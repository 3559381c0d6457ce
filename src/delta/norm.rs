//! The norm of a weight with a delta added, without forming the sum.

use crate::{
    compute::{
        RawWeight,
        gemm::{Part, View, multiply},
        squares,
    },
    delta::{Delta, LowRank},
};

/// Rows of W0 that are widened at once.
const ROWS: usize = 256;

/// `||W0 + D||_F^2`; for factors from r x r products and one pass over W0. No delta gives `||W0||_F^2`.
pub fn adapted_weight_norm(w0: &RawWeight, delta: Option<&Delta>) -> f64 {
    let bands = (0..w0.d_out())
        .step_by(ROWS)
        .map(|first| first..w0.d_out().min(first + ROWS));
    let mut room = Vec::new();
    let factors = match delta {
        Some(Delta::Dense(dense)) => {
            let sums = bands.map(|rows| -> f64 {
                let added = &dense.data[rows.start * dense.d_in..rows.end * dense.d_in];
                let w0 = w0.rows(rows, &mut room).elements();
                let sum = w0.zip(added).map(|(w, &d)| f64::from(w) + f64::from(d));
                sum.map(|x| x * x).sum()
            });
            return sums.sum();
        }
        Some(Delta::LowRank(factors)) if factors.rank > 0 => factors,
        Some(Delta::LowRank(_)) | None => {
            let sums = bands.map(|rows| {
                w0.rows(rows, &mut room);
                squares(&room)
            });
            return sums.sum();
        }
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
    let mut norm = 0.0;
    for rows in bands {
        let b = View::new(&factors.b[rows.start * rank..rows.end * rank], rows.len(), rank);
        let w0 = w0.rows(rows, &mut room);
        multiply(b.transposed(), w0, 1.0, Part::Full, &mut image, d_in);
        norm += squares(&room);
    }
    let wide: Vec<f64> = a.elements().map(f64::from).collect();
    let (mut bb, mut aa) = (vec![0.0; rank * rank], vec![0.0; rank * rank]);
    multiply(b.transposed(), b, 1.0, Part::Full, &mut bb, rank);
    multiply(a, a.transposed(), 1.0, Part::Full, &mut aa, rank);
    norm + 2.0 * dot(&image, &wide) + dot(&bb, &aa)
}
