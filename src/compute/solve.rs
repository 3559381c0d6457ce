//! Symmetric positive definite systems in f64: a blocked Cholesky factorisation and its solves.
//!
//! A matrix that is not positive definite is found at the first bad pivot and reported, so that no NaN leaves here.

use std::ops::Range;

use crate::compute::gemm::{Part, View, multiply};

/// Columns factored at a time; the rest of their panel is matrix multiplication.
const BLOCK: usize = 32;
/// Columns of a panel, and so the depth of the products that all behind it is left to: with few, reading and writing
/// the rest costs as much as multiplying.
const PANEL: usize = 256;

/// The factor L (lower triangle, row-major n x n) of a positive definite matrix S = L L^T.
pub struct Cholesky {
    n: usize,
    l: Vec<f64>,
}

/// The matrix has no Cholesky factor that means anything: the pivot of this row is not positive beyond
/// rounding.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NotPositiveDefinite {
    /// The row whose pivot is negative, not a number, or nothing but the rounding of its diagonal entry.
    pub row: usize,
}

impl Cholesky {
    /// Factors the matrix whose lower triangle is in `s` (n x n, row-major).
    ///
    /// # Errors
    /// [`NotPositiveDefinite`] at the first pivot that is not finite and positive beyond rounding.
    pub fn new(mut s: Vec<f64>, n: usize) -> Result<Self, NotPositiveDefinite> {
        let rounding: Vec<f64> = (0..n)
            .map(|i| s[i * n + i].abs() * f64::EPSILON * n as f64)
            .collect();
        let mut panel = Vec::new();
        for first in (0..n).step_by(PANEL) {
            let columns = first..n.min(first + PANEL);
            // Away from the matrix, whose rows lie so far apart that each is on a page of its own.
            panel.clear();
            let rows = s[first * n..].chunks_exact(n);
            panel.extend(rows.flat_map(|row| &row[columns.clone()]));
            factor_panel(&mut panel, &rounding[columns.clone()])
                .map_err(|at| NotPositiveDefinite { row: first + at })?;
            let rows = s[first * n..].chunks_exact_mut(n);
            for (row, found) in rows.zip(panel.chunks_exact(columns.len())) {
                row[columns.clone()].copy_from_slice(found);
            }
            // The matrix behind it loses the outer product of what was just found.
            let (rest, width) = (n - columns.end, columns.len());
            if rest > 0 {
                let found = View::new(&panel[width * width..], rest, width);
                let behind = &mut s[columns.end * n + columns.end..];
                multiply(found, found.transposed(), -1.0, Part::Lower, behind, n);
            }
        }
        Ok(Self { n, l: s })
    }

    /// Solves S x = v for every row v of `rows` (m x n, row-major), in place.
    pub fn solve_rows(&self, rows: &mut [f64]) {
        let n = self.n;
        // Blocked forward and backward substitution over all right-hand sides at once.
        let count = rows.len() / n;
        for start in (0..n).step_by(BLOCK) {
            let end = n.min(start + BLOCK);
            for row in rows.chunks_exact_mut(n) {
                for j in start..end {
                    let factors = &self.l[j * n + start..=j * n + j];
                    let (known, value) = row[start..=j].split_at_mut(j - start);
                    let sum: f64 = known.iter().zip(factors).map(|(a, b)| a * b).sum();
                    value[0] = (value[0] - sum) / factors[j - start];
                }
            }
            if end < n {
                let known: Vec<f64> = rows
                    .chunks_exact(n)
                    .flat_map(|row| row[start..end].to_vec())
                    .collect();
                let left = View::new(&known, count, end - start);
                let right = View::strided(&self.l[end * n + start..], n - end, end - start, n).transposed();
                multiply(left, right, -1.0, Part::Full, &mut rows[end..], n);
            }
        }
        for start in (0..n).step_by(BLOCK).rev() {
            let end = n.min(start + BLOCK);
            for row in rows.chunks_exact_mut(n) {
                for j in (start..end).rev() {
                    let value = row[j] / self.l[j * n + j];
                    row[j] = value;
                    for (k, entry) in row[start..j].iter_mut().enumerate() {
                        *entry -= value * self.l[j * n + start + k];
                    }
                }
            }
            if start > 0 {
                let known: Vec<f64> = rows
                    .chunks_exact(n)
                    .flat_map(|row| row[start..end].to_vec())
                    .collect();
                let left = View::new(&known, count, end - start);
                let right = View::strided(&self.l[start * n..], end - start, start, n);
                multiply(left, right, -1.0, Part::Full, rows, n);
            }
        }
    }

    /// The smallest eigenvalue of S, by inverse iteration from a fixed start: an estimate from above.
    pub fn smallest_eigenvalue(&self) -> f64 {
        let mut v = start_vector(self.n);
        let mut value = 0.0;
        for _ in 0..ITERATIONS {
            self.solve_rows(&mut v);
            value = 1.0 / normalise(&mut v);
        }
        value
    }
}

/// Factors, in place, the columns of a panel (rows x rounding.len()) that begins at the diagonal.
///
/// # Errors
/// The first column whose pivot is not finite and larger than its rounding.
fn factor_panel(panel: &mut [f64], rounding: &[f64]) -> Result<(), usize> {
    let width = rounding.len();
    let mut found: Vec<f64> = Vec::new();
    for start in (0..width).step_by(BLOCK) {
        let columns = start..width.min(start + BLOCK);
        factor_square(panel, columns.clone(), rounding)?;
        let (upper, below) = panel.split_at_mut(columns.end * width);
        solve_below(&upper[start * width..], below, columns.clone(), width);
        let (rest, rows) = (width - columns.end, below.len() / width);
        if rest > 0 {
            found.clear();
            found.extend(below.chunks_exact(width).flat_map(|row| &row[columns.clone()]));
            let left = View::new(&found, rows, columns.len());
            let right = View::new(&found, rest, columns.len()).transposed();
            multiply(left, right, -1.0, Part::Full, &mut below[columns.end..], width);
        }
    }
    Ok(())
}

/// Factors the square of `columns` on the diagonal of a panel.
fn factor_square(panel: &mut [f64], columns: Range<usize>, rounding: &[f64]) -> Result<(), usize> {
    let (start, width) = (columns.start, rounding.len());
    for j in columns {
        let (above, current) = panel.split_at_mut(j * width);
        let row = &mut current[start..=j];
        for k in 0..j - start {
            let above = &above[(start + k) * width + start..][..=k];
            let sum: f64 = row[..k].iter().zip(above).map(|(a, b)| a * b).sum();
            row[k] = (row[k] - sum) / above[k];
        }
        let (factors, pivot) = row.split_at_mut(j - start);
        let value = pivot[0] - factors.iter().map(|v| v * v).sum::<f64>();
        if !(value.is_finite() && value > rounding[j]) {
            return Err(j);
        }
        pivot[0] = value.sqrt();
    }
    Ok(())
}

/// Solves `columns` of the rows below a factored square against it; `square` begins with its first row.
fn solve_below(square: &[f64], below: &mut [f64], columns: Range<usize>, width: usize) {
    // Transposed, so that what a found number takes from those behind it lies together.
    let mut transposed = [[0.0; BLOCK]; BLOCK];
    for (j, row) in square.chunks_exact(width).enumerate() {
        for (k, value) in row[columns.clone()].iter().enumerate().take(j + 1) {
            transposed[k][j] = *value;
        }
    }
    for row in below.chunks_exact_mut(width) {
        let row = &mut row[columns.clone()];
        for k in 0..row.len() {
            let (found, behind) = row[k..].split_at_mut(1);
            found[0] /= transposed[k][k];
            for (value, factor) in behind.iter_mut().zip(&transposed[k][k + 1..]) {
                *value -= found[0] * factor;
            }
        }
    }
}

/// The largest eigenvalue of the symmetric matrix whose lower triangle is in `s`, by power iteration:
/// an estimate from below.
pub fn largest_eigenvalue(s: &[f64], n: usize) -> f64 {
    let mut v = start_vector(n);
    let mut value = 0.0;
    for _ in 0..ITERATIONS {
        let mut product = vec![0.0; n];
        for (i, row) in s.chunks_exact(n).enumerate() {
            let (below, diagonal) = row[..=i].split_at(i);
            let mut sum = diagonal[0] * v[i];
            for (j, &entry) in below.iter().enumerate() {
                sum += entry * v[j];
                product[j] += entry * v[i];
            }
            product[i] += sum;
        }
        v = product;
        value = normalise(&mut v);
    }
    value
}

/// Enough for an estimate within a few per cent, which is what a condition number is read for.
const ITERATIONS: usize = 12;

/// A fixed vector without symmetry, so that no eigenvector is orthogonal to it by construction.
fn start_vector(n: usize) -> Vec<f64> {
    let mut v: Vec<f64> = (0..n).map(|i| 1.0 + ((i * 7919) % 101) as f64 / 101.0).collect();
    normalise(&mut v);
    v
}

fn normalise(v: &mut [f64]) -> f64 {
    let norm = v.iter().map(|x| x * x).sum::<f64>().sqrt();
    if norm > 0.0 {
        v.iter_mut().for_each(|x| *x /= norm);
    }
    norm
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A Gram matrix of `rows` pseudo-random rows plus a ridge.
    fn gram(n: usize, rows: usize, ridge: f64) -> Vec<f64> {
        let mut state = 1u32;
        let x: Vec<f64> = (0..rows * n)
            .map(|_| {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                f64::from(state >> 8) / f64::from(1u32 << 23) - 1.0
            })
            .collect();
        let x = View::new(&x, rows, n);
        let mut s = vec![0.0; n * n];
        multiply(x.transposed(), x, 1.0, Part::Full, &mut s, n);
        (0..n).for_each(|i| s[i * n + i] += ridge);
        s
    }

    #[test]
    fn solutions_satisfy_the_system() {
        for n in [1, 5, 32, 33, 65, 200, 256, 257, 300, 520] {
            let s = gram(n, n + 10, 0.1);
            let count = 3;
            let x: Vec<f64> = (0..count * n).map(|i| ((i * 31) % 17) as f64 - 8.0).collect();
            let mut b = vec![0.0; count * n];
            multiply(
                View::new(&x, count, n),
                View::new(&s, n, n),
                1.0,
                Part::Full,
                &mut b,
                n,
            );
            Cholesky::new(s, n).unwrap().solve_rows(&mut b);
            for (solved, expected) in b.iter().zip(&x) {
                assert!((solved - expected).abs() < 1e-8, "n = {n}: {solved} {expected}");
            }
        }
    }

    #[test]
    fn an_indefinite_matrix_is_refused_at_its_pivot() {
        let mut s = gram(100, 120, 0.1);
        s[70 * 100 + 70] = -1.0;
        assert_eq!(Cholesky::new(s, 100).err(), Some(NotPositiveDefinite { row: 70 }));
        assert!(Cholesky::new(vec![f64::NAN], 1).is_err());
        // Fewer rows than columns: singular, and its pivots are rounding of either sign.
        assert!(Cholesky::new(gram(60, 50, 0.0), 60).is_err());
    }

    #[test]
    fn extreme_eigenvalues_of_a_diagonal_matrix_are_its_entries() {
        let n = 20;
        let mut s = vec![0.0; n * n];
        (0..n).for_each(|i| {
            s[i * n + i] = if i == 3 {
                100.0
            } else if i == 5 {
                1e-3
            } else {
                1.0
            }
        });
        assert!((largest_eigenvalue(&s, n) - 100.0).abs() < 1e-6);
        assert!((Cholesky::new(s, n).unwrap().smallest_eigenvalue() - 1e-3).abs() < 1e-9);
    }
}
