//! Orthonormal bases that several tasks' factors have in common, for methods that merge coordinates in place of
//! weights.

use nalgebra::DMatrix;

use crate::compute::{narrow, qr::ThinQr, svd};

/// Directions whose singular value is below this share of the largest are the rounding of factors in f32.
const NEGLIGIBLE: f64 = 1e-6;

/// An orthonormal basis of the columns of a matrix M, by falling singular values.
///
/// A direction has no sign of its own, but where as many tasks vote for plus as for minus TIES' election has: so each
/// direction points to where its largest number is positive.
pub(super) struct Basis {
    /// The basis (rows x size), row-major.
    pub(super) vectors: Vec<f32>,
    /// How many directions it has.
    pub(super) size: usize,
    /// M's columns in it (size x columns).
    pub(super) coordinates: DMatrix<f64>,
}

impl Basis {
    /// Of a matrix that is factored as Q R: Q times the eigenvectors of `squares`, a symmetric matrix of R's rows.
    pub(super) fn new(qr: &ThinQr<'_>, squares: DMatrix<f64>) -> Self {
        let (values, vectors) = svd::eigen(squares);
        let least = values
            .first()
            .map_or(0.0, |largest| NEGLIGIBLE * NEGLIGIBLE * largest);
        let size = values.iter().take_while(|&&value| value > least).count();
        let mut rotation = vectors.columns(0, size).clone_owned();
        let mut columns = qr.q_times(&rotation);
        for k in 0..size {
            let column = columns.iter().skip(k).step_by(size);
            let largest = column.fold(0.0f64, |m, &x| if x.abs() > m.abs() { x } else { m });
            if largest < 0.0 {
                rotation.column_mut(k).neg_mut();
                columns.iter_mut().skip(k).step_by(size).for_each(|x| *x = -*x);
            }
        }
        Self {
            vectors: columns.into_iter().map(narrow).collect(),
            size,
            coordinates: rotation.transpose() * qr.r(),
        }
    }
}

/// A column-major matrix's numbers, row by row.
pub(super) fn row_major(matrix: &DMatrix<f64>) -> Vec<f32> {
    matrix.transpose().iter().map(|&x| narrow(x)).collect()
}
