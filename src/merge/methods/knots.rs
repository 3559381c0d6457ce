//! `knots`: KnOTS (Stoica et al., ICLR 2025) with TIES. The deltas are brought into one basis of the layer's outputs,
//! merged there by TIES, and brought back.
//!
//! ```text
//! [D_1 … D_N] = U S [V_1^T … V_N^T]      C_i = S V_i^T = U^T D_i      D* = scale U ties(C_1, …, C_N)
//! ```
//!
//! The components carry the singular values, as in the authors' code; numbers are pruned tensor by tensor, as PEFT's
//! TIES does, where that code prunes over the whole model. The result has the rank of the basis and is factored.
//!
//! Nothing dense is decomposed: with D_i = B_i A_i, [D_1 … D_N] = [B_1 … B_N] diag(A_1, …, A_N), so a QR of the B side
//! by side, one of each A_i and an SVD of the small core give U and S, and C_i = (U^T B_i) A_i. A direction of the core
//! that is rounding would take part in the pruning, so it is left out. A direction has no sign of its own, but where as
//! many tasks vote for plus as for minus the election has: so each direction points to where its largest number is
//! positive.

use nalgebra::DMatrix;

use async_trait::async_trait;

use crate::{
    compute::narrow,
    delta::{Delta, LowRank},
    error::Result,
    merge::{
        methods::{Form, Layer, Method, prune::Pruner, signs},
        options::MergeOptions,
    },
};

/// `knots`.
pub(super) struct Knots;

/// Directions whose singular value is below this share of the largest are the rounding of factors in f32.
const NEGLIGIBLE: f64 = 1e-6;

#[async_trait(?Send)]
impl Method for Knots {
    fn reads(&self) -> &'static [&'static str] {
        &["density", "majority_sign_method", "scale"]
    }

    fn form(&self, _options: &MergeOptions) -> Form {
        Form::Unknown
    }

    async fn layer(&self, layer: &Layer<'_>) -> Result<Delta> {
        let (d_out, d_in) = (layer.d_out, layer.d_in);
        let options = layer.options;
        let parts: Vec<(DMatrix<f64>, DMatrix<f64>)> =
            layer.parts.iter().map(|part| thin(&part.delta)).collect();
        let (basis, images) = common_basis(&parts, d_out);
        let rank = basis.ncols();
        if rank == 0 {
            return Ok(layer.weighted_sum(0.0));
        }
        let components: Vec<Vec<f64>> = parts
            .iter()
            .zip(images)
            .map(|((_, a), image)| {
                let component = image * a;
                let mut component = component.transpose().as_slice().to_vec();
                Pruner::magnitude(component.iter().copied(), options.density).apply(&mut component);
                component
            })
            .collect();
        let weights: Vec<f64> = layer.parts.iter().map(|part| part.weight).collect();
        let merged = signs::elect(&components, &weights, options.majority_sign_method);
        Ok(Delta::LowRank(LowRank {
            a: merged.into_iter().map(|x| narrow(options.scale * x)).collect(),
            b: basis.transpose().as_slice().iter().map(|&x| narrow(x)).collect(),
            rank,
            d_out,
            d_in,
        }))
    }
}

/// B and A of a change; a dense one is a product with the identity, on its smaller side.
fn thin(delta: &Delta) -> (DMatrix<f64>, DMatrix<f64>) {
    let matrix = |data: &[f32], rows: usize, columns: usize| {
        DMatrix::from_row_iterator(rows, columns, data.iter().map(|&x| f64::from(x)))
    };
    let (d_out, d_in) = delta.shape();
    match delta {
        Delta::LowRank(factors) => (
            matrix(&factors.b, d_out, factors.rank),
            matrix(&factors.a, factors.rank, d_in),
        ),
        Delta::Dense(dense) => {
            let own = matrix(&dense.data, d_out, d_in);
            if d_out <= d_in {
                (DMatrix::identity(d_out, d_out), own)
            } else {
                (own, DMatrix::identity(d_in, d_in))
            }
        }
    }
}

/// U (d_out x k), and U^T B_i (k x r_i) of each part.
fn common_basis(parts: &[(DMatrix<f64>, DMatrix<f64>)], d_out: usize) -> (DMatrix<f64>, Vec<DMatrix<f64>>) {
    let ranks: Vec<usize> = parts.iter().map(|(b, _)| b.ncols()).collect();
    let total = ranks.iter().sum();
    let starts = ranks.iter().scan(0, |next, rank| {
        let start = *next;
        *next += rank;
        Some(start)
    });
    let starts: Vec<usize> = starts.collect();
    let mut side_by_side = DMatrix::zeros(d_out, total);
    for ((b, _), &start) in parts.iter().zip(&starts) {
        side_by_side.columns_mut(start, b.ncols()).copy_from(b);
    }
    let left = side_by_side.qr();
    let r = left.r();
    let mut core = DMatrix::zeros(r.nrows(), 0);
    for ((b, a), &start) in parts.iter().zip(&starts) {
        // A_i^T = Q R, so A_i = R^T Q^T, and Q has no say in U and S.
        let block = r.columns(start, b.ncols()) * a.transpose().qr().r().transpose();
        let at = core.ncols();
        core = core.resize_horizontally(at + block.ncols(), 0.0);
        core.columns_mut(at, block.ncols()).copy_from(&block);
    }
    let svd = core.svd(true, false);
    let Some(u) = svd.u else {
        unreachable!("the left singular basis was asked for");
    };
    let largest = svd.singular_values.iter().copied().fold(0.0, f64::max);
    let kept: Vec<usize> = (0..svd.singular_values.len())
        .filter(|&k| svd.singular_values[k] > NEGLIGIBLE * largest)
        .collect();
    let mut u = u.select_columns(&kept);
    let mut basis = left.q() * &u;
    for k in 0..kept.len() {
        let column = basis.column(k);
        if column[column.iamax()] < 0.0 {
            u.column_mut(k).neg_mut();
            basis.column_mut(k).neg_mut();
        }
    }
    let images = starts
        .iter()
        .zip(&ranks)
        .map(|(&start, &rank)| u.transpose() * r.columns(start, rank))
        .collect();
    (basis, images)
}
