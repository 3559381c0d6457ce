//! Thin QR factorisations of matrices with many rows and few columns.
//!
//! M^T M = L L^T gives R = L^T and Q = M L^-T by two products and no reflection (CholeskyQR), many times faster than
//! Householder's way. Its Q and R are off by about the rounding of f64 times the square of the condition of M, which
//! is below the rounding of M's own f32 while that condition is below 1e4 or so. Where it is not, or columns depend on
//! each other, Householder's reflections serve.

use nalgebra::{Cholesky, DMatrix, DVector};

use crate::compute::gemm::{self, Part, View, multiply};

/// M = Q R, with orthonormal columns of Q and, if M has full rank, as many as M has.
pub struct ThinQr<'a> {
    r: DMatrix<f64>,
    q: Q<'a>,
}

enum Q<'a> {
    /// M R^-1.
    Product(View<'a, f32>),
    /// As it is.
    Formed(DMatrix<f64>),
}

/// The least pivot of the Cholesky factor of columns of norm 1.
const LEAST_PIVOT: f64 = 1e-4;

impl<'a> ThinQr<'a> {
    /// Factors `matrix` (rows x columns). Sums are in f64.
    pub fn new(matrix: View<'a, f32>) -> Self {
        Self::by_cholesky(matrix).unwrap_or_else(|| Self::by_householder(matrix))
    }

    fn by_cholesky(matrix: View<'a, f32>) -> Option<Self> {
        let mut gram = gram(matrix);
        // Columns that differ in nothing but their scale are well conditioned: they get the norm 1.
        let norms: DVector<f64> = gram.diagonal().map(f64::sqrt);
        if norms.iter().any(|norm| !norm.is_normal()) {
            return None;
        }
        let columns = gram.ncols();
        for j in 0..columns {
            (0..columns).for_each(|i| gram[(i, j)] /= norms[i] * norms[j]);
        }
        let factor = Cholesky::new(gram)?.unpack();
        if factor.diagonal().min() < LEAST_PIVOT {
            return None;
        }
        let mut r = factor.transpose();
        for (j, norm) in norms.iter().enumerate() {
            r.column_mut(j).scale_mut(*norm);
        }
        let q = Q::Product(matrix);
        Some(Self { r, q })
    }

    fn by_householder(matrix: View<'a, f32>) -> Self {
        let (rows, columns) = matrix.dimensions();
        let own = DMatrix::from_row_iterator(rows, columns, matrix.elements().map(f64::from));
        let qr = own.qr();
        Self {
            r: qr.r(),
            q: Q::Formed(qr.q()),
        }
    }

    /// R, upper triangular (k x columns), k at most the number of rows.
    pub const fn r(&self) -> &DMatrix<f64> {
        &self.r
    }

    /// Q X (rows x columns of `x`), row-major.
    pub fn q_times(&self, x: &DMatrix<f64>) -> Vec<f64> {
        match &self.q {
            Q::Product(matrix) => {
                let mut solved = x.clone();
                // Its diagonal is positive, see `LEAST_PIVOT`.
                let regular = self.r.solve_upper_triangular_mut(&mut solved);
                debug_assert!(regular, "a pivot is 0");
                product(*matrix, &solved)
            }
            Q::Formed(q) => product(view(q), x),
        }
    }
}

/// M^T M (columns x columns), whole.
pub fn gram(matrix: View<'_, f32>) -> DMatrix<f64> {
    let (_, side) = matrix.dimensions();
    let mut gram = vec![0.0; side * side];
    multiply(matrix.transposed(), matrix, 1.0, Part::Lower, &mut gram, side);
    // Row-major lower is column-major upper, which what follows has to be told of.
    let mut gram = DMatrix::from_vec(side, side, gram);
    gram.fill_lower_triangle_with_upper_triangle();
    gram
}

/// A matrix as the kernels of [`gemm`] read it.
pub fn view(matrix: &DMatrix<f64>) -> View<'_, f64> {
    let (rows, columns) = matrix.shape();
    // A column-major matrix is the transpose of a row-major one.
    View::new(matrix.as_slice(), columns, rows).transposed()
}

/// The product of two matrices: nalgebra's own runs without vector code in wasm, at a tenth of the speed.
pub fn times(left: View<'_, f64>, right: View<'_, f64>) -> DMatrix<f64> {
    let ((rows, _), (_, columns)) = (left.dimensions(), right.dimensions());
    DMatrix::from_vec(
        rows,
        columns,
        gemm::product(right.transposed(), left.transposed()),
    )
}

/// L X (rows of `left` x columns of `x`), row-major.
pub fn product<T: Copy + Into<f64>>(left: View<'_, T>, x: &DMatrix<f64>) -> Vec<f64> {
    gemm::product(left, view(x))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Columns of falling norms, the last of which is nearly the sum of the others where `nearly` is small.
    fn columns(rows: usize, columns: usize, nearly: f32) -> Vec<f32> {
        let mut state = 7u32;
        let mut data: Vec<f32> = (0..rows * columns)
            .map(|index| {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                let number = (state >> 8) as f32 / (1u32 << 23) as f32 - 1.0;
                number * [1.0, 1e-3, 1e3, 1e-6][index % columns % 4]
            })
            .collect();
        for row in data.chunks_exact_mut(columns) {
            let sum: f32 = row[..columns - 1].iter().sum();
            row[columns - 1] = sum + nearly * row[columns - 1];
        }
        data
    }

    #[test]
    fn q_is_orthonormal_and_q_r_is_the_matrix_on_both_ways() {
        for (rows, count, nearly, cholesky) in [
            (300, 12, 1e6, true),
            (300, 12, 0.0, false),
            (300, 12, 1e-9, false),
            (12, 12, 1e6, true),
            (7, 12, 1e6, false),
        ] {
            let data = columns(rows, count, nearly);
            let matrix = View::new(&data, rows, count);
            let qr = ThinQr::new(matrix);
            assert_eq!(matches!(qr.q, Q::Product(..)), cholesky, "{rows} {nearly}");
            let k = qr.r().nrows();
            let q = DMatrix::from_row_slice(rows, k, &qr.q_times(&DMatrix::identity(k, k)));
            // The rounding of f64 by the square of a condition of at most 1e4.
            let off = (q.transpose() * &q - DMatrix::identity(k, k)).amax();
            assert!(off < 1e-8, "{rows} {nearly}: {off:e}");
            let whole = DMatrix::from_row_iterator(rows, count, data.iter().map(|&x| f64::from(x)));
            for j in 0..count {
                let left = (&q * qr.r().column(j) - whole.column(j)).norm() / whole.column(j).norm();
                assert!(left < 1e-12, "{rows} {nearly} {j}: {left:e}");
            }
        }
    }
}
