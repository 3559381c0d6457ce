//! Truncation of a delta to a smaller rank by its singular values, and how many of them an energy asks for.
//!
//! What is left out is measured, never taken as one minus what is kept: that difference would have no digits left
//! where a cut is nearly exact.

use nalgebra::{DMatrix, Dyn, linalg::SymmetricEigen};

use crate::compute::{
    gemm::{self, Part, View, multiply},
    narrow,
    qr::{ThinQr, gram, times, view},
    transpose,
};

/// How far a matrix is cut.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Cut {
    /// The most directions that are left.
    pub most: usize,
    /// The share of the squared norm that is to be kept, by as few directions as keep it.
    pub energy: Option<f64>,
}

impl Cut {
    /// To a rank.
    pub const fn to(rank: usize) -> Self {
        Self {
            most: rank,
            energy: None,
        }
    }

    /// The rank that is left of a matrix of these singular values (largest first), which are asked for only where they
    /// decide.
    pub fn rank(self, values: impl FnOnce() -> Vec<f64>) -> usize {
        match self.energy {
            Some(energy) => self.most.min(rank_for(&values(), energy)),
            None => self.most,
        }
    }
}

/// The best approximation of a given rank.
pub struct Truncated {
    /// (rank x d_in)
    pub a: Vec<f32>,
    /// (d_out x rank)
    pub b: Vec<f32>,
    /// The share of the squared Frobenius norm that is kept, 0 to 1.
    pub energy_kept: f64,
    /// The Frobenius norm of what is left out, relative to the whole's.
    pub error: f64,
    /// Whether it was found at random columns, near the best one.
    pub random: bool,
}

/// A share of the squared norm below this is rounding of the f32 in which deltas are kept, and counts as nothing.
const ROUNDING: f64 = 1e-13;

/// The smallest rank, at least 1, that keeps the share `energy` of the squares of `values` (largest first).
pub fn rank_for(values: &[f64], energy: f64) -> usize {
    let total: f64 = values.iter().map(|s| s * s).sum();
    let allowed = (1.0 - energy + ROUNDING) * total;
    let mut left_out = 0.0;
    let mut rank = values.len();
    // From the smallest on, so that small ones add up before they meet large ones.
    while rank > 1 {
        left_out += values[rank - 1] * values[rank - 1];
        if left_out > allowed {
            break;
        }
        rank -= 1;
    }
    rank.max(1)
}

/// The singular values of a dense (d_out x d_in) matrix, largest first: roots of the eigenvalues of its smaller
/// Gram matrix. Squares are exact to rounding of the largest one.
#[cfg(test)]
pub fn dense_values(dense: &[f32], d_out: usize, d_in: usize) -> Vec<f64> {
    eigenvalues(gram(upright(dense, d_out, d_in)))
        .into_iter()
        .map(|value| value.max(0.0).sqrt())
        .collect()
}

/// B A (`b` is d_out x r, `a` is r x d_in, row-major) by a thin QR of each factor: B = Q R, A^T = P T and the small core
/// C = R T^T, never the product.
pub struct Factored<'a> {
    left: ThinQr<'a>,
    right: ThinQr<'a>,
    core: DMatrix<f64>,
}

impl<'a> Factored<'a> {
    /// Factors of these sizes.
    pub fn new(a: &'a [f32], b: &'a [f32], (d_out, r, d_in): (usize, usize, usize)) -> Self {
        let left = ThinQr::new(View::new(b, d_out, r));
        let right = ThinQr::new(View::new(a, r, d_in).transposed());
        let core = times(view(left.r()), view(right.r()).transposed());
        Self { left, right, core }
    }

    /// The singular values, largest first.
    pub fn values(&self) -> Vec<f64> {
        descending(self.core.singular_values().iter().copied())
    }

    /// The best approximation of a rank: Q U U^T C P^T, U being the eigenvectors of C C^T. What is left out is
    /// C - U U^T C itself: its digits do not suffer from the squares in C C^T.
    pub fn truncated(&self, rank: usize) -> Truncated {
        let core = &self.core;
        let (_, vectors) = eigen(times(view(core), view(core).transposed()));
        let kept = rank.min(vectors.ncols());
        let mut u = vectors.columns(0, kept).clone_owned();
        let mut image = times(view(core).transposed(), view(&u));
        let left_out = (core - times(view(&u), view(&image).transposed())).norm_squared();
        // Singular values are split evenly between the factors.
        for k in 0..kept {
            let root = image.column(k).norm().sqrt();
            u.column_mut(k).scale_mut(root);
            let inverse = if root > 0.0 { root.recip() } else { 0.0 };
            image.column_mut(k).scale_mut(inverse);
        }
        let b = padded(&self.left.q_times(&u), kept, rank);
        let columns = padded(&self.right.q_times(&image), kept, rank);
        Truncated::new(
            transpose(&columns, columns.len() / rank, rank),
            b,
            left_out,
            core.norm_squared(),
        )
    }
}

/// Truncates a dense (d_out x d_in) matrix to `rank`: by the eigenvectors of its smaller Gram matrix where that is
/// small or most of them are wanted, else by subspace iteration until the kept energy no longer grows.
pub fn truncate_dense(dense: &[f32], d_out: usize, d_in: usize, rank: usize) -> Truncated {
    let view = upright(dense, d_out, d_in);
    let (_, side) = view.dimensions();
    let kept = rank.min(side);
    let basis = if side <= WHOLE_SIDE || 2 * (kept + OVERSAMPLING) > side {
        eigenvectors(view, kept)
    } else {
        subspace(view, kept)
    };
    onto(dense, (d_out, d_in), &basis, (kept, rank))
}

/// As [`truncate_dense`], as far as `cut` says: one decomposition of the smaller Gram matrix tells the rank and the
/// directions.
pub fn cut_dense(dense: &[f32], d_out: usize, d_in: usize, cut: Cut) -> Truncated {
    if cut.energy.is_none() {
        return truncate_dense(dense, d_out, d_in, cut.most);
    }
    let (squares, vectors) = eigen(gram(upright(dense, d_out, d_in)));
    let rank = cut.rank(|| squares.iter().map(|square| square.max(0.0).sqrt()).collect());
    let rank = rank.min(squares.len());
    let basis = row_major(&vectors.columns(0, rank).clone_owned());
    onto(dense, (d_out, d_in), &basis, (rank, rank))
}

/// What a dense matrix is along `kept` orthonormal directions of its smaller side (side x kept), as factors of `rank`
/// columns.
fn onto(
    dense: &[f32],
    (d_out, d_in): (usize, usize),
    basis: &[f64],
    (kept, rank): (usize, usize),
) -> Truncated {
    let view = upright(dense, d_out, d_in);
    let (tall, side) = view.dimensions();
    let image = product(view, basis, kept);
    let total: f64 = dense.iter().map(|&x| f64::from(x) * f64::from(x)).sum();
    let left_out = residual(view, &image, basis, kept);
    let norms: Vec<f64> = (0..kept)
        .map(|k| {
            image
                .iter()
                .skip(k)
                .step_by(kept)
                .map(|x| x * x)
                .sum::<f64>()
                .sqrt()
        })
        .collect();
    // Singular values are split evenly between the factors.
    let mut long = vec![0.0; tall * rank];
    let mut short = vec![0.0; side * rank];
    for (k, norm) in norms.iter().enumerate().filter(|(_, norm)| **norm > 0.0) {
        let root = norm.sqrt();
        (0..tall).for_each(|i| long[i * rank + k] = narrow(image[i * kept + k] / root));
        (0..side).for_each(|j| short[j * rank + k] = narrow(basis[j * kept + k] * root));
    }
    let (b, columns) = if d_in <= d_out {
        (long, short)
    } else {
        (short, long)
    };
    let a = transpose(&columns, columns.len() / rank, rank);
    Truncated::new(a, b, left_out, total)
}

/// Extra directions of the subspace, which make the wanted ones converge fast.
const OVERSAMPLING: usize = 16;
/// A bound on the iterations; a spectrum without a gap stops improving long before.
const MOST_ITERATIONS: usize = 60;
/// The share by which the kept energy still grows when it is taken as converged.
const CONVERGED: f64 = 1e-12;
/// Gram matrices up to this size are formed: 128 MiB.
const GRAM_SIDE: usize = 4096;
/// Gram matrices up to this size are decomposed whole.
const WHOLE_SIDE: usize = 192;
/// Rows whose residual is formed at a time.
const RESIDUAL_ROWS: usize = 256;

impl Truncated {
    pub(super) fn new(a: Vec<f32>, b: Vec<f32>, left_out: f64, total: f64) -> Self {
        let share = if total > 0.0 {
            (left_out / total).min(1.0)
        } else {
            0.0
        };
        Self {
            a,
            b,
            energy_kept: 1.0 - share,
            error: share.sqrt(),
            random: false,
        }
    }
}

/// The matrix or its transpose, whichever has no more columns than rows.
fn upright(dense: &[f32], d_out: usize, d_in: usize) -> View<'_, f32> {
    let view = View::new(dense, d_out, d_in);
    if d_in <= d_out { view } else { view.transposed() }
}

/// Eigenvalues, largest first, and eigenvectors, as columns, of a symmetric positive semidefinite matrix.
pub fn eigen(mut gram: DMatrix<f64>) -> (Vec<f64>, DMatrix<f64>) {
    let ridge = add_ridge(&mut gram);
    let eigen: SymmetricEigen<f64, Dyn> = gram.symmetric_eigen();
    let values = eigen.eigenvalues;
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by(|&i, &j| values[j].total_cmp(&values[i]));
    let descending = order.iter().map(|&k| values[k] - ridge).collect();
    (descending, eigen.eigenvectors.select_columns(&order))
}

/// The eigenvalues alone, which cost a third.
pub(super) fn eigenvalues(mut gram: DMatrix<f64>) -> Vec<f64> {
    let ridge = add_ridge(&mut gram);
    descending(gram.symmetric_eigenvalues().iter().map(|value| value - ridge))
}

/// nalgebra's iteration divides by denormal numbers where a row is zero and gives infinite eigenvalues; a ridge of the
/// size of its own rounding keeps it from that.
fn add_ridge(gram: &mut DMatrix<f64>) -> f64 {
    let ridge = f64::EPSILON * gram.diagonal().amax();
    (0..gram.nrows()).for_each(|i| gram[(i, i)] += ridge);
    ridge
}

/// The right singular vectors of the `count` largest singular values, as columns (side x count), row-major.
fn eigenvectors(view: View<'_, f32>, count: usize) -> Vec<f64> {
    let (_, vectors) = eigen(gram(view));
    row_major(&vectors.columns(0, count).clone_owned())
}

/// The seed of random columns: the same input gives the same bytes.
pub const SEED: u32 = 0x9e37_79b9;

/// Numbers from -1 to 1 of a linear congruential generator: 24 bits, which f32 holds exactly.
pub(super) fn random(seed: u32, count: usize) -> impl Iterator<Item = f32> {
    let mut state = seed;
    (0..count).map(move |_| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / (1u32 << 23) as f32 - 1.0
    })
}

/// As [`eigenvectors`], by subspace iteration from a fixed start, so that the same input gives the same bytes.
fn subspace(view: View<'_, f32>, count: usize) -> Vec<f64> {
    let (_, side) = view.dimensions();
    let width = count + OVERSAMPLING;
    // A step costs the square of the side with the Gram matrix at hand, and the whole matrix twice without.
    let gram = (side <= GRAM_SIDE).then(|| row_major(&gram(view)));
    let step = |basis: &[f64]| match &gram {
        Some(gram) => {
            let (left, right) = (View::new(gram, side, side), View::new(basis, side, width));
            gemm::product(left, right)
        }
        None => product(view.transposed(), &product(view, basis, width), width),
    };
    let start: Vec<f64> = random(SEED, side * width).map(f64::from).collect();
    let mut basis = orthonormal(&start, side, width);
    let mut image = step(&basis);
    let mut kept = -1.0;
    for _ in 0..MOST_ITERATIONS {
        basis = orthonormal(&image, side, width);
        image = step(&basis);
        let energy: f64 = basis.iter().zip(&image).map(|(x, y)| x * y).sum();
        let converged = energy - kept <= energy * CONVERGED;
        kept = energy;
        if converged {
            break;
        }
    }
    let (left, right) = (View::new(&basis, side, width), View::new(&image, side, width));
    let core: Vec<f64> = gemm::product(left.transposed(), right);
    let core = DMatrix::from_row_slice(width, width, &core);
    let (_, rotation) = eigen((&core + core.transpose()) * 0.5);
    row_major(&(DMatrix::from_row_slice(side, width, &basis) * rotation.columns(0, count)))
}

/// `||D - image basis^T||_F^2`, by rows.
fn residual(view: View<'_, f32>, image: &[f64], basis: &[f64], count: usize) -> f64 {
    let (tall, side) = view.dimensions();
    let right = View::new(basis, side, count).transposed();
    let mut elements = view.elements();
    let mut sum = 0.0;
    for start in (0..tall).step_by(RESIDUAL_ROWS) {
        let rows = RESIDUAL_ROWS.min(tall - start);
        let mut left: Vec<f64> = elements.by_ref().take(rows * side).map(f64::from).collect();
        let image = View::new(&image[start * count..(start + rows) * count], rows, count);
        multiply(image, right, -1.0, Part::Full, &mut left, side);
        sum += left.iter().map(|x| x * x).sum::<f64>();
    }
    sum
}

fn product(left: View<'_, f32>, right: &[f64], width: usize) -> Vec<f64> {
    let (_, depth) = left.dimensions();
    gemm::product(left, View::new(right, depth, width))
}

fn orthonormal(columns: &[f64], rows: usize, width: usize) -> Vec<f64> {
    row_major(&DMatrix::from_row_slice(rows, width, columns).qr().q())
}

fn descending(values: impl Iterator<Item = f64>) -> Vec<f64> {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(|a, b| b.total_cmp(a));
    values
}

/// Rows of `from` numbers as f32, with zeros up to `to`.
fn padded(rows: &[f64], from: usize, to: usize) -> Vec<f32> {
    let mut out = vec![0.0; rows.len() / from * to];
    for (out, row) in out.chunks_exact_mut(to).zip(rows.chunks_exact(from)) {
        out.iter_mut().zip(row).for_each(|(out, &x)| *out = narrow(x));
    }
    out
}

fn row_major(m: &DMatrix<f64>) -> Vec<f64> {
    m.transpose().as_slice().to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A matrix of the given singular values between random orthonormal bases.
    fn with_values(d_out: usize, d_in: usize, values: &[f64]) -> Vec<f32> {
        let mut state = 5u32;
        let mut random = |rows: usize| {
            let numbers: Vec<f64> = (0..rows * values.len())
                .map(|_| {
                    state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                    f64::from(state >> 8) / f64::from(1u32 << 23) - 1.0
                })
                .collect();
            DMatrix::from_row_slice(rows, values.len(), &numbers).qr().q()
        };
        let (u, v) = (random(d_out), random(d_in));
        let scaled = DMatrix::from_fn(d_out, values.len(), |i, k| u[(i, k)] * values[k]);
        row_major(&(scaled * v.transpose()))
            .into_iter()
            .map(narrow)
            .collect()
    }

    fn distance(dense: &[f32], cut: &Truncated, d_out: usize, d_in: usize, rank: usize) -> f64 {
        let mut left: Vec<f64> = dense.iter().map(|&x| f64::from(x)).collect();
        let (b, a) = (View::new(&cut.b, d_out, rank), View::new(&cut.a, rank, d_in));
        multiply(b, a, -1.0, Part::Full, &mut left, d_in);
        let norm = |values: &[f64]| values.iter().map(|x| x * x).sum::<f64>().sqrt();
        let all: Vec<f64> = dense.iter().map(|&x| f64::from(x)).collect();
        norm(&left) / norm(&all)
    }

    #[test]
    fn a_dense_matrix_is_cut_to_its_largest_values_on_every_path() {
        let values: Vec<f64> = (0..40).map(|k| 0.8f64.powi(k)).collect();
        // Whole decomposition, subspace iteration upright and lying, and more than half of the directions.
        for (d_out, d_in, rank) in [
            (60, 50, 7),
            (50, 60, 7),
            (400, 300, 9),
            (300, 400, 9),
            (250, 240, 120),
        ] {
            let dense = with_values(d_out, d_in, &values);
            let cut = truncate_dense(&dense, d_out, d_in, rank);
            let total: f64 = values.iter().map(|s| s * s).sum();
            let best: f64 = values.iter().skip(rank).map(|s| s * s).sum::<f64>() / total;
            // Factors in f32 add their rounding to what is left out.
            assert!(
                (cut.error - best.sqrt()).abs() < 1e-7,
                "{d_out} {d_in}: {}",
                cut.error
            );
            assert!((cut.energy_kept - (1.0 - best)).abs() < 1e-7);
            let found = distance(&dense, &cut, d_out, d_in, rank);
            assert!(
                (found - cut.error).abs() < 2e-7,
                "{d_out} {d_in}: {found} {}",
                cut.error
            );
        }
    }

    #[test]
    fn a_nearly_exact_cut_keeps_the_digits_of_its_error() {
        // 1 - energy_kept would be 1e-12 with two digits.
        let mut values = vec![3.0, 2.0, 1.0];
        values.push(1e-6 * 14.0f64.sqrt());
        let dense = with_values(30, 20, &values);
        let cut = truncate_dense(&dense, 30, 20, 3);
        // The matrix itself is rounded to f32: 6e-8 of its numbers, spread over all directions.
        assert!((cut.error - 1e-6).abs() < 5e-8, "{}", cut.error);
        let a = &dense;
        let identity: Vec<f32> = (0..900).map(|i| if i % 31 == 0 { 1.0 } else { 0.0 }).collect();
        let factored = Factored::new(a, &identity, (30, 30, 20)).truncated(3);
        assert!(
            (factored.error / cut.error - 1.0).abs() < 1e-6,
            "{} {}",
            factored.error,
            cut.error
        );
    }

    #[test]
    fn the_rank_for_an_energy_is_the_smallest_that_keeps_it() {
        let values = [3.0, 2.0, 1.0, 0.0];
        for (energy, rank) in [
            (0.5, 1),
            (9.0 / 14.0, 1),
            (0.65, 2),
            (13.0 / 14.0, 2),
            (0.95, 3),
            (1.0, 3),
        ] {
            assert_eq!(rank_for(&values, energy), rank, "{energy}");
        }
        assert_eq!(rank_for(&[0.0, 0.0], 1.0), 1);
        let dense = with_values(30, 20, &values);
        for (found, value) in dense_values(&dense, 30, 20).iter().zip(values) {
            assert!((found - value).abs() < 1e-6);
        }
        assert_eq!(rank_for(&dense_values(&dense, 30, 20), 1.0), 3);
    }

    #[test]
    fn columns_of_zeros_do_not_upset_the_eigenvalues() {
        // Without the ridge of `eigen` nalgebra finds an infinite one at the sizes 305 and 323 of these.
        let mut state = 5u32;
        for size in (290..324).step_by(3) {
            let dense: Vec<f32> = (0..size * size)
                .map(|i| {
                    state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                    let x = (state >> 8) as f32 / (1u32 << 23) as f32 - 1.0;
                    if (i % size) % 3 == 0 { x } else { 0.0 }
                })
                .collect();
            let total: f64 = dense.iter().map(|&x| f64::from(x) * f64::from(x)).sum();
            let found: f64 = dense_values(&dense, size, size).iter().map(|s| s * s).sum();
            assert!((found / total - 1.0).abs() < 1e-12, "{size}: {found} {total}");
        }
    }

    #[test]
    fn nothing_is_cut_from_nothing() {
        let cut = truncate_dense(&[0.0; 12], 4, 3, 2);
        assert_eq!((cut.energy_kept, cut.error), (1.0, 0.0));
        assert!(cut.a.iter().chain(&cut.b).all(|&x| x == 0.0));
    }
}
