//! Truncation of a delta to a smaller rank by its singular values.

use nalgebra::DMatrix;

use super::{
    gemm::{Part, View, multiply},
    narrow,
};

/// The best approximation of a given rank.
pub struct Truncated {
    /// (rank x d_in)
    pub a: Vec<f32>,
    /// (d_out x rank)
    pub b: Vec<f32>,
    /// The share of the squared Frobenius norm that is kept, 0 to 1.
    pub energy_kept: f64,
}

/// Truncates B A (`b` is d_out x r, `a` is r x d_in, row-major) to `rank`: a thin QR of each factor and
/// an SVD of the small core, never of the product.
pub fn truncate_factors(
    a: &[f32],
    b: &[f32],
    (d_out, r, d_in): (usize, usize, usize),
    rank: usize,
) -> Truncated {
    let left = matrix(b, d_out, r).qr();
    let right = matrix(a, r, d_in).transpose().qr();
    let core = left.r() * right.r().transpose();
    let svd = core.svd(true, true);
    let total: f64 = svd.singular_values.iter().map(|s| s * s).sum();
    let (Some(u), Some(vt)) = (svd.u, svd.v_t) else {
        unreachable!("both singular bases were asked for");
    };
    finish(
        &(left.q() * u),
        &(vt * right.q().transpose()),
        svd.singular_values.as_slice(),
        total,
        rank,
    )
}

/// Truncates a dense (d_out x d_in) matrix to `rank` by subspace iteration, converged until the kept
/// energy no longer grows.
pub fn truncate_dense(dense: &[f32], d_out: usize, d_in: usize, rank: usize) -> Truncated {
    let total: f64 = dense.iter().map(|&x| f64::from(x) * f64::from(x)).sum();
    let width = (rank + OVERSAMPLING).min(d_out).min(d_in);
    let view = View::new(dense, d_out, d_in);
    // A fixed start, so that the same input gives the same bytes.
    let mut state = 0x9e37_79b9u32;
    let mut basis: Vec<f64> = (0..d_in * width)
        .map(|_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            f64::from(state >> 8) / f64::from(1u32 << 23) - 1.0
        })
        .collect();
    let mut kept = -1.0;
    for _ in 0..MOST_ITERATIONS {
        let image = orthonormal(&product(view, &basis, width), d_out, width);
        basis = orthonormal(&product(view.transposed(), &image, width), d_in, width);
        let energy = product(view, &basis, width).iter().map(|x| x * x).sum::<f64>();
        let converged = energy - kept <= total * 1e-13;
        kept = energy;
        if converged {
            break;
        }
    }
    let image = DMatrix::from_row_slice(d_out, width, &product(view, &basis, width));
    let svd = image.svd(true, true);
    let (Some(u), Some(vt)) = (svd.u, svd.v_t) else {
        unreachable!("both singular bases were asked for");
    };
    let vt = vt * DMatrix::from_row_slice(d_in, width, &basis).transpose();
    finish(&u, &vt, svd.singular_values.as_slice(), total, rank)
}

/// Extra directions of the subspace, which make the wanted ones converge fast.
const OVERSAMPLING: usize = 16;
/// A bound on the iterations; a spectrum without a gap stops improving long before.
const MOST_ITERATIONS: usize = 60;

fn product(left: View<'_, f32>, right: &[f64], width: usize) -> Vec<f64> {
    let (rows, depth) = left.dimensions();
    let mut out = vec![0.0; rows * width];
    multiply(
        left,
        View::new(right, depth, width),
        1.0,
        Part::Full,
        &mut out,
        width,
    );
    out
}

fn orthonormal(columns: &[f64], rows: usize, width: usize) -> Vec<f64> {
    let q = DMatrix::from_row_slice(rows, width, columns).qr().q();
    row_major(&q)
}

fn matrix(data: &[f32], rows: usize, columns: usize) -> DMatrix<f64> {
    DMatrix::from_row_iterator(rows, columns, data.iter().map(|&x| f64::from(x)))
}

fn row_major(m: &DMatrix<f64>) -> Vec<f64> {
    m.transpose().as_slice().to_vec()
}

/// Splits singular values evenly between the factors, largest first.
fn finish(u: &DMatrix<f64>, vt: &DMatrix<f64>, values: &[f64], total: f64, rank: usize) -> Truncated {
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by(|&i, &j| values[j].total_cmp(&values[i]));
    order.truncate(rank);
    let (d_out, d_in) = (u.nrows(), vt.ncols());
    let mut a = Vec::with_capacity(rank * d_in);
    let mut b = vec![0.0; d_out * rank];
    for (place, &index) in order.iter().enumerate() {
        let root = values[index].max(0.0).sqrt();
        a.extend((0..d_in).map(|j| narrow(root * vt[(index, j)])));
        (0..d_out).for_each(|i| b[i * rank + place] = narrow(root * u[(i, index)]));
    }
    a.resize(rank * d_in, 0.0);
    let kept: f64 = order.iter().map(|&i| values[i] * values[i]).sum();
    Truncated {
        a,
        b,
        energy_kept: if total > 0.0 { (kept / total).min(1.0) } else { 1.0 },
    }
}
