//! Truncation of a wide dense delta by a randomised range finder: a few products in f32 in place of a decomposition.
//!
//! A block of random columns is taken through D and D^T a few times, and the best approximation is found exactly within
//! all the blocks together (block Krylov, Musco and Musco 2015): at the same number of products that comes far nearer
//! to the best one than the last block alone, where singular values hardly fall. What it keeps is within 1e-3 of what
//! the best approximation keeps: steps are taken until what another one would add is below a part of that. The error is
//! measured, from the difference itself.

use nalgebra::DMatrix;

use crate::{
    compute::{
        gemm::{self, Part, View, multiply},
        narrow,
        qr::{ThinQr, gram, product},
        svd::{Cut, SEED, Truncated, cut_dense, eigen, eigenvalues, random},
        transpose,
    },
    error::Result,
    progress::Pace,
};

/// Columns of a block beyond half of the rank: narrow blocks and more steps find more than wide ones and few.
pub const OVERSAMPLING: usize = 10;
/// How often the columns go through D^T D, at most; most matrices need three or four steps.
pub const POWER_STEPS: usize = 12;
/// The share of the squared norm that further steps would add when no more are taken.
pub const TOLERANCE: f64 = 1e-4;

/// A share of the squared norm in which blocks in f32 cannot be told from the rounding of their columns.
const ROUNDING: f64 = 1e-6;
/// The kernel works on so many columns at a time, whether they are used or not.
const COLUMNS: usize = 8;
/// How many directions are looked for first where a share of the squared norm is asked for.
const FIRST_RANK: usize = 32;
/// The largest share that is looked for at random columns: what is left out of it is a hundred times [`TOLERANCE`].
const FINDABLE_ENERGY: f64 = 1.0 - 100.0 * TOLERANCE;
/// Matrices whose smaller side is at most this are decomposed whole.
const WHOLE_SIDE: usize = 192;
/// Numbers of D that are worked on between two breaths: 0.2 s at a block of 138 columns.
const RUN_NUMBERS: usize = 1 << 24;
/// Numbers of D whose residual is formed at a time: they stay in the cache.
const RESIDUAL_NUMBERS: usize = 1 << 16;

/// Whether a matrix of that size is truncated at random columns, and not decomposed whole.
pub fn is_random(d_out: usize, d_in: usize) -> bool {
    d_out.min(d_in) > WHOLE_SIDE
}

/// Cuts a dense (d_out x d_in) matrix: near the best, where [`cut_dense`] is the best. Where a share of the squared norm
/// is asked for, twice as many directions are found each time until they keep it, which ||D||_F^2 less what they keep
/// tells; a share that takes most of the directions, or is so near to 1 that what is left out has to be known to its
/// digits, is found exactly.
///
/// # Errors
/// Cancellation.
pub async fn cut_dense_fast(
    dense: &[f32],
    d_out: usize,
    d_in: usize,
    cut: Cut,
    pace: &Pace<'_>,
) -> Result<Truncated> {
    let side = d_out.min(d_in);
    if !is_random(d_out, d_in) {
        return Ok(cut_dense(dense, d_out, d_in, cut));
    }
    let matrix = Matrix {
        dense,
        d_out,
        d_in,
        total: sum_of_squares(dense),
        pace,
    };
    let Some(energy) = cut.energy else {
        let found = matrix.find(cut.most.min(side)).await?;
        return matrix.cut_to(&found, cut.most).await;
    };
    let fine = energy > FINDABLE_ENERGY;
    let mut wanted = cut.most.min(if fine { side } else { FIRST_RANK });
    while wanted <= side / 2 {
        let found = matrix.find(wanted).await?;
        match found.rank_for(energy * matrix.total, wanted) {
            None if wanted == cut.most => return matrix.cut_to(&found, wanted).await,
            None => wanted = cut.most.min(2 * wanted),
            Some(_) if fine => break,
            Some(rank) => return matrix.cut_to(&found, rank).await,
        }
    }
    Ok(cut_dense(dense, d_out, d_in, cut))
}

/// A space of D's rows in which the best approximation is looked for.
struct Found {
    /// Its orthonormal basis V (d_in x columns).
    basis: Vec<f32>,
    /// D V (d_out x columns).
    image: Vec<f32>,
    /// (D V)^T D V.
    gram: DMatrix<f64>,
    /// Squares of the singular values of D V, largest first.
    squares: Vec<f64>,
}

impl Found {
    /// The fewest of the largest `most` directions that keep `wanted` of the squared norm.
    fn rank_for(&self, wanted: f64, most: usize) -> Option<usize> {
        let mut kept = 0.0;
        let enough = self.squares.iter().take(most).position(|square| {
            kept += square;
            kept >= wanted
        });
        enough.map(|last| last + 1)
    }
}

impl Matrix<'_> {
    /// A space that holds the largest `kept` directions, nearly.
    async fn find(&self, kept: usize) -> Result<Found> {
        let (d_out, d_in, total) = (self.d_out, self.d_in, self.total);
        let side = d_out.min(d_in);
        let width = side.min((kept.div_ceil(2) + OVERSAMPLING).next_multiple_of(COLUMNS));
        let first: Vec<f32> = random(SEED, d_out * width).collect();
        // From the outputs' side on, so that the basis lies in the space of D's rows.
        let start = self.transpose_times(&first, (width, width)).await?;
        let mut basis = orthonormal(&start, d_in, width);
        let mut last = self.times(&basis, width).await?;
        let mut image = last.clone();
        let mut gram = gram(View::new(&image, d_out, width));
        let mut columns = width;
        let mut growth = Growth::default();
        loop {
            let squares = eigenvalues(gram.clone());
            let within: f64 = squares.iter().sum();
            growth.add(squares.iter().take(kept).sum());
            let next = width.min(side - columns);
            let whole = total - within <= ROUNDING * total;
            if next == 0 || whole || columns >= kept && growth.is_over(total) {
                return Ok(Found {
                    basis,
                    image,
                    gram,
                    squares,
                });
            }
            let mut block = self.transpose_times(&last, (next, width)).await?;
            // Twice is enough: the first time leaves the rounding of what was there.
            for _ in 0..2 {
                remove_components(&mut block, &basis, d_in, (next, columns));
                block = orthonormal(&block, d_in, next);
            }
            last = self.times(&block, next).await?;
            basis = side_by_side(&basis, &block, (columns, next));
            image = side_by_side(&image, &last, (columns, next));
            gram = grown(&gram, &image, &last, d_out);
            columns += next;
        }
    }

    /// The best approximation within the space that was found: D V V^T, whose right singular vectors are V times the
    /// eigenvectors of (D V)^T D V.
    async fn cut_to(&self, found: &Found, rank: usize) -> Result<Truncated> {
        let (_, vectors) = eigen(found.gram.clone());
        let columns = vectors.ncols();
        let kept = rank.min(columns);
        let rotation = vectors.columns(0, kept).clone_owned();
        let left = product(View::new(&found.image, self.d_out, columns), &rotation);
        let right = product(View::new(&found.basis, self.d_in, columns), &rotation);
        let (b, columns) = split(&left, &right, kept, rank);
        let a = transpose(&columns, self.d_in, rank);
        let left_out = self.residual(&b, &a, rank).await?;
        Ok(Truncated {
            random: true,
            ..Truncated::new(a, b, left_out, self.total)
        })
    }
}

/// How the squared norm that is kept grows from step to step.
#[derive(Default)]
struct Growth {
    kept: Vec<f64>,
}

impl Growth {
    fn add(&mut self, kept: f64) {
        self.kept.push(kept);
    }

    /// Whether further steps would add less than [`TOLERANCE`] of `total`, if growth goes on falling as it did.
    fn is_over(&self, total: f64) -> bool {
        let [.., second, third] = self.kept[..] else {
            return false;
        };
        let now = third - second;
        if now <= ROUNDING * total || self.kept.len() > POWER_STEPS {
            return true;
        }
        let [.., first, _, _] = self.kept[..] else {
            return false;
        };
        let before = second - first;
        // What is to come is now q + now q^2 + …, with q = now / before.
        now < before && now * now <= TOLERANCE * total * (before - now)
    }
}

/// Factors of `left` `right^T` (both of `kept` columns, those of `right` orthonormal), `rank` columns each: singular
/// values are split evenly between them.
fn split(left: &[f64], right: &[f64], kept: usize, rank: usize) -> (Vec<f32>, Vec<f32>) {
    let mut squares = vec![0.0; kept];
    for row in left.chunks_exact(kept) {
        squares.iter_mut().zip(row).for_each(|(sum, x)| *sum += x * x);
    }
    let roots: Vec<f64> = squares.iter().map(|square: &f64| square.sqrt().sqrt()).collect();
    let inverses: Vec<f64> = roots
        .iter()
        .map(|&root| if root > 0.0 { root.recip() } else { 0.0 })
        .collect();
    (scaled(left, &inverses, rank), scaled(right, &roots, rank))
}

/// Columns times a factor each, with zeros up to `rank`.
fn scaled(rows: &[f64], factors: &[f64], rank: usize) -> Vec<f32> {
    let mut out = vec![0.0; rows.len() / factors.len() * rank];
    for (out, row) in out.chunks_exact_mut(rank).zip(rows.chunks_exact(factors.len())) {
        for ((out, x), factor) in out.iter_mut().zip(row).zip(factors) {
            *out = narrow(x * factor);
        }
    }
    out
}

/// Orthonormal columns that span those given.
fn orthonormal(columns: &[f32], rows: usize, width: usize) -> Vec<f32> {
    let qr = ThinQr::new(View::new(columns, rows, width));
    let q = qr.q_times(&DMatrix::identity(width, width));
    q.into_iter().map(narrow).collect()
}

/// Takes the components along the orthonormal columns of `basis` (rows x columns) out of those of `block` (rows x
/// width).
fn remove_components(block: &mut [f32], basis: &[f32], rows: usize, (width, columns): (usize, usize)) {
    let basis = View::new(basis, rows, columns);
    let mut components = vec![0.0; columns * width];
    let own = View::new(block, rows, width);
    multiply(basis.transposed(), own, 1.0, Part::Full, &mut components, width);
    let components = View::new(&components, columns, width);
    multiply(basis, components, -1.0, Part::Full, block, width);
}

/// The Gram matrix of `image` (rows x columns), whose last columns are `last` and the others those that `gram` is of.
fn grown(gram: &DMatrix<f64>, image: &[f32], last: &[f32], rows: usize) -> DMatrix<f64> {
    let (columns, width) = (image.len() / rows, last.len() / rows);
    let (left, right) = (View::new(last, rows, width), View::new(image, rows, columns));
    let products: Vec<f64> = gemm::product(left.transposed(), right);
    let known = gram.ncols();
    DMatrix::from_fn(columns, columns, |i, j| {
        let (low, high) = (i.min(j), i.max(j));
        if high < known {
            gram[(i, j)]
        } else {
            products[(high - known) * columns + low]
        }
    })
}

/// Rows of `left` and `right`, one after the other.
fn side_by_side(left: &[f32], right: &[f32], (columns, more): (usize, usize)) -> Vec<f32> {
    let rows = left.chunks_exact(columns).zip(right.chunks_exact(more));
    rows.flat_map(|(left, right)| left.iter().chain(right))
        .copied()
        .collect()
}

/// The sum of the squares, in f64. Several sums side by side: one would wait for every addition.
pub fn sum_of_squares(numbers: &[f32]) -> f64 {
    let mut sums = [0.0; 8];
    let chunks = numbers.chunks_exact(8);
    let rest: f64 = chunks
        .remainder()
        .iter()
        .map(|&x| f64::from(x) * f64::from(x))
        .sum();
    for chunk in chunks {
        for (sum, &x) in sums.iter_mut().zip(chunk) {
            *sum += f64::from(x) * f64::from(x);
        }
    }
    sums.iter().sum::<f64>() + rest
}

/// A dense matrix that is gone through in runs of rows, with a breath after each.
struct Matrix<'a> {
    dense: &'a [f32],
    d_out: usize,
    d_in: usize,
    /// ||D||_F^2.
    total: f64,
    pace: &'a Pace<'a>,
}

impl Matrix<'_> {
    /// D X (d_out x width).
    async fn times(&self, x: &[f32], width: usize) -> Result<Vec<f32>> {
        let mut out = vec![0.0; self.d_out * width];
        let rows = (RUN_NUMBERS / self.d_in).max(1);
        let runs = self.dense.chunks(rows * self.d_in);
        for (run, out) in runs.zip(out.chunks_mut(rows * width)) {
            let left = View::new(run, run.len() / self.d_in, self.d_in);
            let right = View::new(x, self.d_in, width);
            multiply(left, right, 1.0, Part::Full, out, width);
            self.pace.breathe().await?;
        }
        Ok(out)
    }

    /// D^T Y (d_in x width), Y being the first columns of `y` (d_out x stride).
    async fn transpose_times(&self, y: &[f32], (width, stride): (usize, usize)) -> Result<Vec<f32>> {
        let mut out = vec![0.0; self.d_in * width];
        let rows = (RUN_NUMBERS / self.d_in).max(1);
        let runs = self.dense.chunks(rows * self.d_in);
        for (run, y) in runs.zip(y.chunks(rows * stride)) {
            let count = run.len() / self.d_in;
            let left = View::new(run, count, self.d_in).transposed();
            let right = View::strided(y, count, width, stride);
            multiply(left, right, 1.0, Part::Full, &mut out, width);
            self.pace.breathe().await?;
        }
        Ok(out)
    }

    /// `||D - B A||_F^2`.
    async fn residual(&self, b: &[f32], a: &[f32], rank: usize) -> Result<f64> {
        let mut left_out = 0.0;
        let rows = (RESIDUAL_NUMBERS / self.d_in).max(1);
        let a = View::new(a, rank, self.d_in);
        let mut left = Vec::new();
        for (run, b) in self.dense.chunks(rows * self.d_in).zip(b.chunks(rows * rank)) {
            left.clear();
            left.extend_from_slice(run);
            let b = View::new(b, run.len() / self.d_in, rank);
            multiply(b, a, -1.0, Part::Full, &mut left, self.d_in);
            left_out += sum_of_squares(&left);
            self.pace.breathe().await?;
        }
        Ok(left_out)
    }
}

#[cfg(test)]
mod tests {
    use std::{cell::Cell, collections::BTreeSet};

    use async_trait::async_trait;

    use super::*;
    use crate::{
        compute::svd::{dense_values, rank_for},
        error::{Code, Error},
        progress::{Observer, Progress, Silent},
    };

    fn progress() -> Progress {
        Progress::single("merge", "layer", 0.0)
    }

    fn cut(dense: &[f32], d_out: usize, d_in: usize, rank: usize) -> Truncated {
        cut_as(dense, d_out, d_in, Cut::to(rank))
    }

    fn cut_as(dense: &[f32], d_out: usize, d_in: usize, cut: Cut) -> Truncated {
        let now = || 0.0;
        let pace = Pace::new(&Silent, &now, progress());
        pollster::block_on(cut_dense_fast(dense, d_out, d_in, cut, &pace)).unwrap()
    }

    fn numbers(count: usize, seed: u32) -> Vec<f32> {
        random(seed, count).collect()
    }

    /// A product of random factors whose columns fall off.
    fn low_rank(d_out: usize, d_in: usize, rank: usize, fall: f32) -> Vec<f32> {
        let mut b = numbers(d_out * rank, 3);
        for row in b.chunks_exact_mut(rank) {
            let mut factor = 1.0;
            for x in row {
                *x *= factor;
                factor *= fall;
            }
        }
        let a = numbers(rank * d_in, 4);
        let mut out = vec![0.0f32; d_out * d_in];
        let (b, a) = (View::new(&b, d_out, rank), View::new(&a, rank, d_in));
        multiply(b, a, 1.0, Part::Full, &mut out, d_in);
        out
    }

    /// Two low-rank changes of which the larger half is kept, averaged where the signs agree: what TIES leaves.
    fn pruned(d_out: usize, d_in: usize) -> Vec<f32> {
        let halved = |rank, fall| {
            let mut dense = low_rank(d_out, d_in, rank, fall);
            let mut sorted: Vec<f32> = dense.iter().map(|x| x.abs()).collect();
            let middle = sorted.len() / 2;
            let (_, &mut threshold, _) = sorted.select_nth_unstable_by(middle, f32::total_cmp);
            dense
                .iter_mut()
                .filter(|x| x.abs() < threshold)
                .for_each(|x| *x = 0.0);
            dense
        };
        let (one, other) = (halved(8, 0.8), halved(12, 1.0));
        let agree = |(x, y): (f32, f32)| if x * y < 0.0 { 0.0 } else { (x + y) * 0.5 };
        one.into_iter().zip(other).map(agree).collect()
    }

    fn distance(dense: &[f32], cut: &Truncated, (d_out, d_in, rank): (usize, usize, usize)) -> f64 {
        let mut left: Vec<f64> = dense.iter().map(|&x| f64::from(x)).collect();
        let (b, a) = (View::new(&cut.b, d_out, rank), View::new(&cut.a, rank, d_in));
        multiply(b, a, -1.0, Part::Full, &mut left, d_in);
        let left_out: f64 = left.iter().map(|x| x * x).sum();
        (left_out / sum_of_squares(dense)).sqrt()
    }

    #[test]
    fn nearly_as_much_is_kept_as_the_best_cut_keeps() {
        for (d_out, d_in) in [(420, 260), (260, 420)] {
            let flat = numbers(d_out * d_in, 9);
            let sparse: Vec<f32> = flat
                .iter()
                .map(|&x| if x.abs() > 0.9 { x } else { 0.0 })
                .collect();
            for (what, dense) in [
                ("pruned", pruned(d_out, d_in)),
                ("flat", flat),
                ("sparse", sparse),
                ("falling", low_rank(d_out, d_in, 60, 0.9)),
            ] {
                let values = dense_values(&dense, d_out, d_in);
                let total: f64 = values.iter().map(|s| s * s).sum();
                for rank in [1, 8, 20, 32, 128, 255] {
                    let best: f64 = values.iter().take(rank).map(|s| s * s).sum::<f64>() / total;
                    let cut = cut(&dense, d_out, d_in, rank);
                    let missing = best - cut.energy_kept;
                    // What the issue asks for; that the best is better is the rounding of f32 factors.
                    assert!(
                        (-1e-9..1e-3).contains(&missing),
                        "{what} {d_out} {d_in} {rank}: {missing:e}"
                    );
                    let found = distance(&dense, &cut, (d_out, d_in, rank));
                    // Residuals are formed in f32.
                    assert!(
                        (found - cut.error).abs() < 1e-6,
                        "{what} {rank}: {found} {}",
                        cut.error
                    );
                }
            }
        }
    }

    #[test]
    fn a_share_is_kept_by_as_few_directions_as_of_the_exact_decomposition() {
        let (d_out, d_in) = (500, 400);
        let flat = numbers(d_out * d_in, 9);
        let mut at_random = BTreeSet::new();
        for (what, dense) in [
            ("pruned", pruned(d_out, d_in)),
            ("flat", flat),
            ("falling", low_rank(d_out, d_in, 120, 0.95)),
            ("steep", low_rank(d_out, d_in, 60, 0.7)),
        ] {
            let values = dense_values(&dense, d_out, d_in);
            let total: f64 = values.iter().map(|s| s * s).sum();
            for energy in [0.2, 0.5, 0.8, 0.9, 0.95, 0.99, 0.999, 1.0] {
                for most in [usize::MAX, 20] {
                    let exact = rank_for(&values, energy);
                    let best: f64 = values.iter().take(exact).map(|s| s * s).sum::<f64>() / total;
                    let wanted = Cut {
                        most,
                        energy: Some(energy),
                    };
                    let cut = cut_as(&dense, d_out, d_in, wanted);
                    let rank = cut.a.len() / d_in;
                    // The next direction where the exact ones keep hardly more than is asked for: what is found keeps
                    // up to 1e-3 less.
                    let one_more = rank == exact + 1 && best - energy < 1e-3;
                    assert!(
                        rank == exact.min(most) || one_more,
                        "{what} {energy} {most}: {rank} {exact}"
                    );
                    if rank < most {
                        // Residuals are formed in f32.
                        assert!(
                            cut.energy_kept >= energy - 1e-6,
                            "{what} {energy}: {}",
                            cut.energy_kept
                        );
                    }
                    if cut.random {
                        at_random.insert((what, most));
                    }
                }
            }
        }
        // Both ways were gone.
        assert!(at_random.contains(&("falling", usize::MAX)), "{at_random:?}");
        assert!(at_random.contains(&("flat", 20)), "{at_random:?}");
    }

    #[test]
    fn a_matrix_of_a_smaller_rank_is_kept_whole() {
        for (d_out, d_in) in [(300, 200), (200, 300)] {
            let dense = low_rank(d_out, d_in, 5, 0.5);
            for rank in [5, 6, 40, 200, 400] {
                let cut = cut(&dense, d_out, d_in, rank);
                // The rounding of f32 in the matrix, the basis, the factors and the residual.
                assert!(cut.error < 3e-6, "{rank}: {}", cut.error);
                assert_eq!((cut.b.len(), cut.a.len()), (d_out * rank, rank * d_in), "{rank}");
                assert!(cut.a.iter().chain(&cut.b).all(|x| x.is_finite()));
            }
        }
        let nothing = cut(&[0.0; 200 * 200], 200, 200, 3);
        assert_eq!((nothing.energy_kept, nothing.error), (1.0, 0.0));
        assert!(nothing.a.iter().chain(&nothing.b).all(|&x| x == 0.0));
    }

    #[test]
    fn the_same_matrix_gives_the_same_bits() {
        let dense = pruned(260, 210);
        let [one, other] = [(); 2].map(|()| cut(&dense, 260, 210, 7));
        assert_eq!((one.a, one.b), (other.a, other.b));
    }

    /// Cancels at the given call.
    struct Cancels {
        at: usize,
        calls: Cell<usize>,
    }

    #[async_trait(?Send)]
    impl Observer for Cancels {
        async fn progress(&self, _progress: Progress) -> Result<()> {
            self.calls.set(self.calls.get() + 1);
            if self.calls.get() == self.at {
                return Err(Error::new(Code::Cancelled, "cancelled"));
            }
            Ok(())
        }
    }

    #[test]
    fn it_can_be_cancelled_in_its_midst() {
        let dense = pruned(260, 210);
        let clock = Cell::new(0.0);
        let now = || {
            clock.set(clock.get() + 1.0);
            clock.get()
        };
        for at in [1, 4, 6] {
            let observer = Cancels {
                at,
                calls: Cell::new(0),
            };
            let pace = Pace::new(&observer, &now, progress());
            let error = pollster::block_on(cut_dense_fast(&dense, 260, 210, Cut::to(7), &pace));
            assert_eq!(error.err().unwrap().code(), Code::Cancelled);
            assert_eq!(observer.calls.get(), at);
        }
    }
}
