//! Symmetric matrices in f64, of which the lower triangle is kept: half the memory, which is what bounds the width of a
//! layer that can be solved.
//!
//! The triangle lies in panels of 256 columns, each from the row of its first diagonal entry down, row-major. A panel is
//! what a Cholesky factorisation works on, what workers tell each other, and a piece of memory of its own.

use std::ops::Range;

use crate::compute::gemm::{LowerPanel, Part, View, multiply, multiply_lower};

/// Columns of a panel, and so the depth of the products that all behind it is left to in a factorisation: with few,
/// reading and writing the rest costs as much as multiplying.
pub const PANEL: usize = 256;

/// The columns of every panel of an n x n matrix.
pub fn panels_of(n: usize) -> impl ExactSizeIterator<Item = Range<usize>> + DoubleEndedIterator {
    (0..n.div_ceil(PANEL)).map(move |index| panel_at(n, index))
}

/// The columns of a panel of an n x n matrix.
pub fn panel_at(n: usize, index: usize) -> Range<usize> {
    index * PANEL..n.min((index + 1) * PANEL)
}

/// Numbers of a panel of an n x n matrix.
pub fn panel_size(n: usize, index: usize) -> usize {
    let columns = panel_at(n, index);
    (n - columns.start) * columns.len()
}

/// A symmetric matrix (n x n).
#[derive(Debug, Clone, Default)]
pub struct Symmetric {
    n: usize,
    /// What lies above the diagonal in them has no meaning.
    panels: Vec<Vec<f64>>,
}

impl Symmetric {
    /// Zeros (n x n).
    pub fn zeros(n: usize) -> Self {
        let count = n.div_ceil(PANEL);
        Self {
            n,
            panels: (0..count).map(|index| vec![0.0; panel_size(n, index)]).collect(),
        }
    }

    /// Rows, and columns.
    pub const fn side(&self) -> usize {
        self.n
    }

    /// The panels, the first columns first.
    pub fn panels_mut(&mut self) -> &mut [Vec<f64>] {
        &mut self.panels
    }

    /// Their columns, and their rows from the diagonal down.
    fn panels(&self) -> impl Iterator<Item = (Range<usize>, &[f64])> {
        panels_of(self.n).zip(self.panels.iter().map(Vec::as_slice))
    }

    /// `self += x^T x`, of rows of n numbers.
    pub fn add_gram<T: Copy + Into<f64>>(&mut self, x: View<'_, T>) {
        let panels = panels_of(self.n).zip(&mut self.panels);
        let mut panels: Vec<_> = panels
            .map(|(columns, rows)| LowerPanel { columns, rows })
            .collect();
        multiply_lower(x.transposed(), x, 1.0, &mut panels);
    }

    /// Adds to the entries of a row up to the diagonal, one after another as `add` gives them.
    pub fn add_to_row(&mut self, row: usize, mut add: impl FnMut(usize) -> f64) {
        for (columns, panel) in panels_of(self.n).zip(&mut self.panels) {
            if columns.start > row {
                break;
            }
            let entries = &mut panel[(row - columns.start) * columns.len()..];
            for (entry, column) in entries.iter_mut().zip(columns.start..columns.end.min(row + 1)) {
                *entry += add(column);
            }
        }
    }

    /// `factor * self`, in place.
    pub fn scale(&mut self, factor: f64) {
        let numbers = self.panels.iter_mut().flatten();
        numbers.for_each(|x| *x *= factor);
    }

    /// `self += factor * other`, of the same side. One that is given away is freed panel by panel as it is added.
    pub fn add_scaled<P: AsRef<[f64]>>(&mut self, factor: f64, other: impl IntoIterator<Item = P>) {
        for (panel, other) in self.panels.iter_mut().zip(other) {
            add_multiple(panel, factor, other.as_ref());
        }
    }

    /// The diagonal.
    pub fn diagonal(&self) -> Vec<f64> {
        self.panels()
            .flat_map(|(columns, rows)| rows.iter().step_by(columns.len() + 1).take(columns.len()))
            .copied()
            .collect()
    }

    /// Adds to the diagonal.
    pub fn add_to_diagonal(&mut self, values: impl IntoIterator<Item = f64>) {
        let mut values = values.into_iter();
        for (columns, rows) in panels_of(self.n).zip(&mut self.panels) {
            let diagonal = rows.iter_mut().step_by(columns.len() + 1).take(columns.len());
            diagonal.zip(&mut values).for_each(|(x, value)| *x += value);
        }
    }

    /// The Frobenius norm.
    pub fn norm(&self) -> f64 {
        let mut sum = 0.0;
        for (columns, rows) in self.panels() {
            for (i, row) in rows.chunks_exact(columns.len()).enumerate() {
                let below = &row[..i.min(row.len())];
                sum += 2.0 * dot(below, below);
                sum += row.get(i).map_or(0.0, |diagonal| diagonal * diagonal);
            }
        }
        sum.sqrt()
    }

    /// `out += factor * left * self` (rows of `left` x n, row-major).
    pub fn add_product<T: Copy + Into<f64>>(&self, factor: f64, left: View<'_, T>, out: &mut [f64]) {
        let n = self.n;
        for (columns, rows) in self.panels() {
            let width = columns.len();
            let (square, below) = rows.split_at(width * width);
            let square = mirrored(square, width);
            let own = left.columns(columns.clone());
            let square = View::new(&square, width, width);
            multiply(own, square, factor, Part::Full, &mut out[columns.start..], n);
            if below.is_empty() {
                continue;
            }
            let below = View::new(below, n - columns.end, width);
            let rest = left.columns(columns.end..n);
            multiply(rest, below, factor, Part::Full, &mut out[columns.start..], n);
            multiply(
                own,
                below.transposed(),
                factor,
                Part::Full,
                &mut out[columns.end..],
                n,
            );
        }
    }

    /// The largest eigenvalue, by power iteration: an estimate from below.
    pub fn largest_eigenvalue(&self) -> f64 {
        let mut v = start_vector(self.n);
        let mut value = 0.0;
        for _ in 0..ITERATIONS {
            v = self.times(&v);
            value = normalise(&mut v);
        }
        value
    }

    /// All entries (n x n, row-major), for tests.
    #[cfg(test)]
    pub fn entries(&self) -> Vec<f64> {
        let n = self.n;
        let mut one = vec![0.0; n * n];
        one.iter_mut().step_by(n + 1).for_each(|x| *x = 1.0);
        let mut out = vec![0.0; n * n];
        self.add_product(1.0, View::new(&one, n, n), &mut out);
        out
    }

    fn times(&self, v: &[f64]) -> Vec<f64> {
        let mut product = vec![0.0; self.n];
        for (columns, rows) in self.panels() {
            let (top, width) = (columns.start, columns.len());
            for (i, row) in rows.chunks_exact(width).enumerate() {
                let below = &row[..i.min(width)];
                product[top + i] += dot(below, &v[columns.clone()]);
                add_multiple(&mut product[columns.clone()], v[top + i], below);
                if let Some(diagonal) = row.get(i) {
                    product[top + i] += diagonal * v[top + i];
                }
            }
        }
        product
    }
}

impl IntoIterator for Symmetric {
    type Item = Vec<f64>;
    type IntoIter = std::vec::IntoIter<Vec<f64>>;

    /// The panels, each of which is free to go when it has been looked at.
    fn into_iter(self) -> Self::IntoIter {
        self.panels.into_iter()
    }
}

impl<'a> IntoIterator for &'a Symmetric {
    type Item = &'a Vec<f64>;
    type IntoIter = std::slice::Iter<'a, Vec<f64>>;

    fn into_iter(self) -> Self::IntoIter {
        self.panels.iter()
    }
}

/// A square of which the lower triangle is given, whole.
fn mirrored(square: &[f64], width: usize) -> Vec<f64> {
    let mut whole = square.to_vec();
    for i in 0..width {
        for j in 0..i {
            whole[j * width + i] = whole[i * width + j];
        }
    }
    whole
}

/// Enough for an estimate of an eigenvalue within a few per cent, which is what a condition number is read for.
pub(super) const ITERATIONS: usize = 12;

/// A fixed vector without symmetry, so that no eigenvector is orthogonal to it by construction.
pub(super) fn start_vector(n: usize) -> Vec<f64> {
    let mut v: Vec<f64> = (0..n).map(|i| 1.0 + ((i * 7919) % 101) as f64 / 101.0).collect();
    normalise(&mut v);
    v
}

/// Divides by the norm, and tells it.
pub(super) fn normalise(v: &mut [f64]) -> f64 {
    let norm = v.iter().map(|x| x * x).sum::<f64>().sqrt();
    if norm > 0.0 {
        v.iter_mut().for_each(|x| *x /= norm);
    }
    norm
}

/// The sum of products, in eight sums side by side, which vector instructions can add to.
pub(super) fn dot(a: &[f64], b: &[f64]) -> f64 {
    let length = a.len().min(b.len());
    let (a, a_rest) = a[..length].as_chunks::<8>();
    let (b, b_rest) = b[..length].as_chunks::<8>();
    let mut sums = [0.0; 8];
    for (a, b) in a.iter().zip(b) {
        for (sum, (a, b)) in sums.iter_mut().zip(a.iter().zip(b)) {
            *sum += a * b;
        }
    }
    let rest = a_rest.iter().zip(b_rest).map(|(a, b)| a * b);
    sums.iter().sum::<f64>() + rest.sum::<f64>()
}

/// `to += factor * values`.
pub(super) fn add_multiple(to: &mut [f64], factor: f64, values: &[f64]) {
    to.iter_mut()
        .zip(values)
        .for_each(|(to, value)| *to += factor * value);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Rows (rows x n) of numbers of [-1, 1).
    fn features(rows: usize, n: usize) -> Vec<f32> {
        let mut state = 7u32;
        let number = |_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) as f32 / (1u32 << 23) as f32 - 1.0
        };
        (0..rows * n).map(number).collect()
    }

    /// A Gram matrix and the same with every entry (n x n).
    fn gram(rows: usize, n: usize) -> (Symmetric, Vec<f64>) {
        let x = features(rows, n);
        let x = View::new(&x, rows, n);
        let (mut found, mut dense) = (Symmetric::zeros(n), vec![0.0; n * n]);
        found.add_gram(x);
        multiply(x.transposed(), x, 1.0, Part::Full, &mut dense, n);
        (found, dense)
    }

    // One panel, and panels that are full, of one column, of some.
    const SIDES: [usize; 6] = [1, 5, 256, 257, 300, 600];

    #[test]
    fn its_entries_are_those_of_the_whole_product() {
        for n in SIDES {
            let (found, dense) = gram(40, n);
            assert_eq!(found.entries(), dense, "n = {n}");
            let diagonal: Vec<f64> = dense.iter().step_by(n + 1).copied().collect();
            assert_eq!(found.diagonal(), diagonal);
            let squares: f64 = dense.iter().map(|x| x * x).sum();
            assert!((found.norm() / squares.sqrt() - 1.0).abs() < 1e-14, "n = {n}");
            // No more memory than half of the square and half of the squares on the diagonal.
            let kept: usize = (&found).into_iter().map(Vec::len).sum();
            assert!(kept <= (n * n + n * PANEL).div_ceil(2), "n = {n}: {kept}");
        }
    }

    #[test]
    fn sums_of_matrices_are_those_of_their_entries() {
        for n in SIDES {
            let ((one, a), (other, b)) = (gram(9, n), gram(30, n));
            let mut sum = one;
            sum.scale(0.5);
            sum.add_scaled(-2.0, &other);
            sum.add_scaled(4.0, other);
            sum.add_to_diagonal((0..n).map(|i| i as f64));
            sum.add_to_row(n - 1, |column| 10.0 * column as f64);
            let found = sum.entries();
            for (at, (a, b)) in a.into_iter().zip(b).enumerate() {
                let (i, j) = (at / n, at % n);
                let diagonal = if i == j { i as f64 } else { 0.0 };
                let row = if i.max(j) == n - 1 {
                    10.0 * i.min(j) as f64
                } else {
                    0.0
                };
                let wanted = 0.5 * a + 2.0 * b + diagonal + row;
                // Terms of at most 60 and 6000, rounded a few times.
                assert!((found[at] - wanted).abs() < 1e-11, "n = {n}, {i} {j}");
            }
        }
    }

    #[test]
    fn products_equal_those_with_the_whole_matrix() {
        for n in SIDES {
            let (found, dense) = gram(20, n);
            let left = features(3, n);
            let left = View::new(&left, 3, n);
            let (mut out, mut wanted) = (vec![1.0; 3 * n], vec![1.0; 3 * n]);
            found.add_product(0.25, left, &mut out);
            multiply(left, View::new(&dense, n, n), 0.25, Part::Full, &mut wanted, n);
            for (found, wanted) in out.iter().zip(&wanted) {
                // n terms of at most 20, whose order differs.
                assert!((found - wanted).abs() < 1e-13 * 20.0 * n as f64, "n = {n}");
            }
            let v: Vec<f64> = left.elements().take(n).map(f64::from).collect();
            let product = found.times(&v);
            for (found, row) in product.iter().zip(dense.chunks_exact(n)) {
                let wanted: f64 = row.iter().zip(&v).map(|(a, b)| a * b).sum();
                assert!((found - wanted).abs() < 1e-13 * 20.0 * n as f64, "n = {n}");
            }
        }
    }

    #[test]
    fn the_largest_eigenvalue_of_a_diagonal_matrix_is_its_largest_entry() {
        let mut s = Symmetric::zeros(300);
        s.add_to_diagonal((0..300).map(|i| if i == 270 { 100.0 } else { 1.0 }));
        assert!((s.largest_eigenvalue() - 100.0).abs() < 1e-6);
    }
}
