//! Symmetric positive definite systems in f64: a blocked Cholesky factorisation and its solves.
//!
//! The factorisation goes panel by panel: what is found of one is taken from all behind it (right-looking). Those may
//! lie with several workers ([`PartialFactor`]). What is done to a panel is the same, in the same order, wherever it lies,
//! so that the factor does not depend on how many share the work.
//!
//! A matrix that is not positive definite is found at the first bad pivot and reported, so that no NaN leaves here.

use std::{collections::BTreeMap, ops::Range};

use crate::compute::{
    gemm::{LowerPanel, Part, View, multiply, multiply_lower},
    symmetric::{
        ITERATIONS, PANEL, Symmetric, add_multiple, dot, normalise, panel_at, panels_of, start_vector,
    },
};

/// Columns factored at a time; the rest of their panel is matrix multiplication.
const BLOCK: usize = 32;

/// The factor L (lower triangle, n x n) of a positive definite matrix S = L L^T, in the panels of [`Symmetric`].
pub struct Cholesky {
    n: usize,
    panels: Vec<Vec<f64>>,
}

/// The matrix has no Cholesky factor that means anything: the pivot of this row is not positive beyond
/// rounding.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NotPositiveDefinite {
    /// The row whose pivot is negative, not a number, or nothing but the rounding of its diagonal entry.
    pub row: usize,
}

/// Those panels of a matrix (n x n) that are not factored yet and lie here: all of them, or those that a worker has.
pub struct PartialFactor {
    n: usize,
    panels: BTreeMap<usize, Unfactored>,
}

/// A panel to be factored.
struct Unfactored {
    rows: Vec<f64>,
    /// What a pivot of each of its columns is at least, if it is more than rounding.
    rounding: Vec<f64>,
}

impl PartialFactor {
    /// None yet of a matrix (n x n).
    pub const fn new(n: usize) -> Self {
        Self {
            n,
            panels: BTreeMap::new(),
        }
    }

    /// Adds a panel of the matrix.
    pub fn insert(&mut self, index: usize, rows: Vec<f64>) {
        let width = panel_at(self.n, index).len();
        let diagonal = rows.iter().step_by(width + 1).take(width);
        let rounding = diagonal.map(|x| x.abs() * f64::EPSILON * self.n as f64).collect();
        self.panels.insert(index, Unfactored { rows, rounding });
    }

    /// Factors a panel from which all before it have been taken; it is given away. None if it does not lie here.
    ///
    /// # Errors
    /// [`NotPositiveDefinite`] at the first pivot that is not finite and positive beyond rounding.
    pub fn factor(&mut self, index: usize) -> Result<Option<Vec<f64>>, NotPositiveDefinite> {
        let Some(Unfactored { mut rows, rounding }) = self.panels.remove(&index) else {
            return Ok(None);
        };
        factor_panel(&mut rows, &rounding).map_err(|at| NotPositiveDefinite {
            row: index * PANEL + at,
        })?;
        Ok(Some(rows))
    }

    /// The panel behind a factored one, factored; that one is taken from it before. None if it does not lie here.
    ///
    /// # Errors
    /// As [`PartialFactor::factor`].
    pub fn next(&mut self, index: usize, found: &[f64]) -> Result<Option<Vec<f64>>, NotPositiveDefinite> {
        self.subtract(index, found, index + 1..index + 2);
        self.factor(index + 1)
    }

    /// Takes the outer product of a factored panel from those of the panels `behind` it that lie here.
    pub fn subtract(&mut self, index: usize, found: &[f64], behind: Range<usize>) {
        let columns = panel_at(self.n, index);
        let (rest, width) = (self.n - columns.end, columns.len());
        let found = View::new(&found[width * width..], rest, width);
        let mut panels: Vec<_> = self
            .panels
            .range_mut(behind)
            .map(|(&behind, panel)| {
                let place = panel_at(self.n, behind);
                LowerPanel {
                    columns: place.start - columns.end..place.end - columns.end,
                    rows: &mut panel.rows,
                }
            })
            .collect();
        multiply_lower(found, found.transposed(), -1.0, &mut panels);
    }
}

impl Cholesky {
    /// Factors a matrix, in its place.
    ///
    /// # Errors
    /// As [`PartialFactor::factor`].
    pub fn new(s: Symmetric) -> Result<Self, NotPositiveDefinite> {
        let n = s.side();
        let mut rest = PartialFactor::new(n);
        for (index, panel) in s.into_iter().enumerate() {
            rest.insert(index, panel);
        }
        let mut panels = Vec::new();
        while let Some(found) = rest.factor(panels.len())? {
            let index = panels.len();
            rest.subtract(index, &found, index + 1..usize::MAX);
            panels.push(found);
        }
        Ok(Self { n, panels })
    }

    /// Of the factored panels of a matrix (n x n), the first columns first.
    pub const fn of_panels(n: usize, panels: Vec<Vec<f64>>) -> Self {
        Self { n, panels }
    }

    /// Their columns, the square on the diagonal and the rows below it.
    fn panels(&self) -> impl DoubleEndedIterator<Item = (Range<usize>, &[f64], &[f64])> {
        panels_of(self.n).zip(&self.panels).map(|(columns, panel)| {
            let (square, below) = panel.split_at(columns.len() * columns.len());
            (columns, square, below)
        })
    }

    /// Solves S x = v for every row v of `rows` (m x n, row-major), in place.
    pub fn solve_rows(&self, rows: &mut [f64]) {
        let n = self.n;
        let count = rows.len() / n;
        let copied = |rows: &[f64], columns: Range<usize>| -> Vec<f64> {
            let rows = rows.chunks_exact(n);
            rows.flat_map(|row| &row[columns.clone()]).copied().collect()
        };
        // L y = v, then L^T x = y, over all right-hand sides at once.
        for (columns, square, below) in self.panels() {
            let width = columns.len();
            for block in blocks(width) {
                for row in rows.chunks_exact_mut(n) {
                    let row = &mut row[columns.clone()];
                    for j in block.clone() {
                        let factors = &square[j * width..][block.start..=j];
                        let (known, value) = row[block.start..=j].split_at_mut(j - block.start);
                        let sum: f64 = known.iter().zip(factors).map(|(a, b)| a * b).sum();
                        value[0] = (value[0] - sum) / factors[j - block.start];
                    }
                }
                let rest = width - block.end;
                if rest > 0 {
                    let first = columns.start;
                    let known = copied(rows, first + block.start..first + block.end);
                    let left = View::new(&known, count, block.len());
                    let right = &square[block.end * width + block.start..];
                    let right = View::strided(right, rest, block.len(), width).transposed();
                    multiply(left, right, -1.0, Part::Full, &mut rows[first + block.end..], n);
                }
            }
            if !below.is_empty() {
                let known = copied(rows, columns.clone());
                let left = View::new(&known, count, width);
                let right = View::new(below, n - columns.end, width).transposed();
                multiply(left, right, -1.0, Part::Full, &mut rows[columns.end..], n);
            }
        }
        let mut taken = Vec::new();
        for (columns, square, below) in self.panels().rev() {
            let (first, width) = (columns.start, columns.len());
            if !below.is_empty() {
                taken.clear();
                taken.resize(count * width, 0.0);
                let left = View::strided(&rows[columns.end..], count, n - columns.end, n);
                let right = View::new(below, n - columns.end, width);
                multiply(left, right, 1.0, Part::Full, &mut taken, width);
                for (row, taken) in rows.chunks_exact_mut(n).zip(taken.chunks_exact(width)) {
                    add_multiple(&mut row[columns.clone()], -1.0, taken);
                }
            }
            for block in blocks(width).rev() {
                for row in rows.chunks_exact_mut(n) {
                    let row = &mut row[columns.clone()];
                    for j in block.clone().rev() {
                        let factors = &square[j * width..];
                        let value = row[j] / factors[j];
                        row[j] = value;
                        let before = block.start..j;
                        add_multiple(&mut row[before.clone()], -value, &factors[before]);
                    }
                }
                if block.start > 0 {
                    let known = copied(rows, first + block.start..first + block.end);
                    let left = View::new(&known, count, block.len());
                    let right =
                        View::strided(&square[block.start * width..], block.len(), block.start, width);
                    multiply(left, right, -1.0, Part::Full, &mut rows[first..], n);
                }
            }
        }
    }

    /// The smallest eigenvalue of S, by inverse iteration from a fixed start: an estimate from above.
    pub fn smallest_eigenvalue(&self) -> f64 {
        let mut v = start_vector(self.n);
        let mut value = 0.0;
        for _ in 0..ITERATIONS {
            self.solve_vector(&mut v);
            value = 1.0 / normalise(&mut v);
        }
        value
    }

    /// Solves S x = v in place. Every number of L is read once each way, so that memory bounds it, and packing would cost
    /// more than it saves.
    fn solve_vector(&self, v: &mut [f64]) {
        for (columns, square, below) in self.panels() {
            let width = columns.len();
            let (known, behind) = v[columns.start..].split_at_mut(width);
            for (j, factors) in square.chunks_exact(width).enumerate() {
                let sum = dot(&factors[..j], known);
                known[j] = (known[j] - sum) / factors[j];
            }
            for (value, factors) in behind.iter_mut().zip(below.chunks_exact(width)) {
                *value -= dot(factors, known);
            }
        }
        for (columns, square, below) in self.panels().rev() {
            let width = columns.len();
            let (wanted, known) = v[columns.start..].split_at_mut(width);
            for (value, factors) in known.iter().zip(below.chunks_exact(width)) {
                add_multiple(wanted, -value, factors);
            }
            for (j, factors) in square.chunks_exact(width).enumerate().rev() {
                let value = wanted[j] / factors[j];
                wanted[j] = value;
                add_multiple(&mut wanted[..j], -value, factors);
            }
        }
    }
}

/// The blocks of a panel so wide.
fn blocks(width: usize) -> impl DoubleEndedIterator<Item = Range<usize>> {
    (0..width.div_ceil(BLOCK)).map(move |block| block * BLOCK..width.min((block + 1) * BLOCK))
}

/// Factors, in place, the columns of a panel (rows x rounding.len()) that begins at the diagonal.
///
/// # Errors
/// The first column whose pivot is not finite and larger than its rounding.
fn factor_panel(panel: &mut [f64], rounding: &[f64]) -> Result<(), usize> {
    let width = rounding.len();
    let mut found: Vec<f64> = Vec::new();
    for columns in blocks(width) {
        factor_square(panel, columns.clone(), rounding)?;
        let (upper, below) = panel.split_at_mut(columns.end * width);
        solve_below(&upper[columns.start * width..], below, columns.clone(), width);
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

#[cfg(test)]
mod tests {
    use super::*;

    /// A Gram matrix of `rows` pseudo-random rows plus a ridge.
    fn gram(n: usize, rows: usize, ridge: f64) -> Symmetric {
        let mut state = 1u32;
        let x: Vec<f64> = (0..rows * n)
            .map(|_| {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                f64::from(state >> 8) / f64::from(1u32 << 23) - 1.0
            })
            .collect();
        let mut s = Symmetric::zeros(n);
        s.add_gram(View::new(&x, rows, n));
        s.add_to_diagonal((0..n).map(|_| ridge));
        s
    }

    const SIDES: [usize; 10] = [1, 5, 32, 33, 65, 200, 256, 257, 300, 520];

    #[test]
    fn solutions_satisfy_the_system() {
        for n in SIDES {
            let s = gram(n, n + 10, 0.1);
            let count = 3;
            let x: Vec<f64> = (0..count * n).map(|i| ((i * 31) % 17) as f64 - 8.0).collect();
            let mut b = vec![0.0; count * n];
            s.add_product(1.0, View::new(&x, count, n), &mut b);
            let mut first = b[..n].to_vec();
            let cholesky = Cholesky::new(s).unwrap();
            cholesky.solve_rows(&mut b);
            cholesky.solve_vector(&mut first);
            for (solved, expected) in b.iter().chain(&first).zip(x.iter().chain(&x)) {
                assert!((solved - expected).abs() < 1e-8, "n = {n}: {solved} {expected}");
            }
        }
    }

    #[test]
    fn the_factor_is_the_one_of_the_definition() {
        for n in SIDES {
            let s = gram(n, n + 10, 0.1);
            let mut l = s.entries();
            // Row by row, each entry from those before it.
            for i in 0..n {
                for j in 0..=i {
                    let sum: f64 = (0..j).map(|k| l[i * n + k] * l[j * n + k]).sum();
                    let value = l[i * n + j] - sum;
                    l[i * n + j] = if i == j {
                        value.sqrt()
                    } else {
                        value / l[j * n + j]
                    };
                }
            }
            let largest = l.iter().step_by(n + 1).copied().fold(0.0, f64::max);
            let found = Cholesky::new(s).unwrap();
            for (columns, panel) in panels_of(n).zip(&found.panels) {
                for (i, row) in (columns.start..).zip(panel.chunks_exact(columns.len())) {
                    for (j, x) in columns.clone().zip(row).take_while(|&(j, _)| j <= i) {
                        // n roundings of numbers that are no larger than the largest pivot; the smallest is some 1e-2 of it.
                        let error = (x - l[i * n + j]).abs();
                        assert!(error < 1e-13 * n as f64 * largest, "n = {n}, {i} {j}: {error:e}");
                    }
                }
            }
        }
    }

    #[test]
    fn panels_that_lie_apart_are_factored_to_the_same_bits() {
        let n = 1100;
        let s = gram(n, 50, 3.0);
        let whole = Cholesky::new(s.clone()).unwrap();
        for count in [2, 3, 7] {
            let mut parts: Vec<_> = (0..count).map(|_| PartialFactor::new(n)).collect();
            for (index, panel) in s.clone().into_iter().enumerate() {
                parts[index % count].insert(index, panel);
            }
            for (index, wanted) in whole.panels.iter().enumerate() {
                let mut found = None;
                for part in &mut parts {
                    found = part.factor(index).unwrap().or(found);
                }
                let found = found.unwrap();
                // What is above the diagonal says nothing.
                let width = panel_at(n, index).len();
                let rows = found.chunks_exact(width).zip(wanted.chunks_exact(width));
                for (i, (found, wanted)) in rows.enumerate() {
                    assert_eq!(
                        found[..width.min(i + 1)],
                        wanted[..width.min(i + 1)],
                        "{count} {index} {i}"
                    );
                }
                for part in &mut parts {
                    // The next one first, as where its owner goes ahead.
                    part.subtract(index, &found, index + 1..index + 2);
                    part.subtract(index, &found, index + 2..usize::MAX);
                }
            }
        }
    }

    #[test]
    fn an_indefinite_matrix_is_refused_at_its_pivot() {
        for (n, row) in [(100, 70), (600, 70), (600, 513)] {
            let mut s = gram(n, n + 20, 0.1);
            s.add_to_diagonal((0..n).map(|i| if i == row { -1e4 } else { 0.0 }));
            assert_eq!(Cholesky::new(s).err(), Some(NotPositiveDefinite { row }));
        }
        let mut s = Symmetric::zeros(1);
        s.add_to_diagonal([f64::NAN]);
        assert!(Cholesky::new(s).is_err());
        // Fewer rows than columns: singular, and its pivots are rounding of either sign.
        assert!(Cholesky::new(gram(60, 50, 0.0)).is_err());
    }

    #[test]
    fn the_smallest_eigenvalue_of_a_diagonal_matrix_is_its_smallest_entry() {
        for n in [20, 300] {
            let mut s = Symmetric::zeros(n);
            s.add_to_diagonal((0..n).map(|i| if i == n - 3 { 1e-3 } else { 1.0 }));
            assert!((Cholesky::new(s).unwrap().smallest_eigenvalue() - 1e-3).abs() < 1e-9);
        }
    }
}
