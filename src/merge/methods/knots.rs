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
//! Nothing dense is decomposed: with D_i = B_i A_i and a QR of the B side by side, [D_1 … D_N] = Q [R_1 A_1 … R_N A_N],
//! so U is Q times the eigenvectors of sum(R_i A_i A_i^T R_i^T), and C_i = (U^T B_i) A_i. The C_i are formed in f32, a
//! few roundings of 6e-8 beside their largest numbers. A direction that is rounding would take part in the pruning, so
//! it is left out, and each direction has a definite sign (see [`super::basis`]).
//!
//! This aligns the outputs as [`super::core_space`] does, but by the changes in place of the factors B, and leaves the
//! inputs unaligned: components are as wide as the layer, where a core is as small as the ranks.

use std::borrow::Cow;

use nalgebra::DMatrix;

use async_trait::async_trait;

use crate::{
    compute::{
        gemm::{self, View},
        qr::{ThinQr, gram},
    },
    delta::{Delta, Dense, LowRank},
    error::Result,
    merge::{
        methods::{
            Form, Layer, Method,
            basis::{Basis, row_major},
            prune::Pruner,
            signs,
        },
        options::MergeOptions,
    },
};

/// `knots`.
pub(super) struct Knots;

/// Numbers of a component that are merged at a time.
const RUN_NUMBERS: usize = 1 << 16;

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
        let factors: Vec<Cow<'_, LowRank>> = layer.parts.iter().map(|part| thin(&part.delta)).collect();
        let basis = common_basis(&factors, d_out);
        layer.pace.breathe().await?;
        let rank = basis.size;
        if rank == 0 {
            return Ok(layer.weighted_sum(0.0));
        }
        let mut start = 0;
        let mut components = Vec::new();
        for factors in &factors {
            let image = row_major(&basis.coordinates.columns(start, factors.rank).clone_owned());
            start += factors.rank;
            let image = View::new(&image, rank, factors.rank);
            let a = View::new(&factors.a, factors.rank, d_in);
            let mut component: Vec<f32> = gemm::product(image, a);
            Pruner::magnitude(&component, options.density).apply(&mut component);
            components.push(component);
            layer.pace.breathe().await?;
        }
        let weights: Vec<f64> = layer
            .parts
            .iter()
            .map(|part| options.scale * part.weight)
            .collect();
        let mut a = Vec::with_capacity(rank * d_in);
        for start in (0..rank * d_in).step_by(RUN_NUMBERS) {
            let end = (rank * d_in).min(start + RUN_NUMBERS);
            let numbers: Vec<&[f32]> = components.iter().map(|all| &all[start..end]).collect();
            a.extend(signs::elect(&numbers, &weights, options.majority_sign_method));
            layer.pace.breathe().await?;
        }
        Ok(Delta::LowRank(LowRank {
            a,
            b: basis.vectors,
            rank,
            d_out,
            d_in,
        }))
    }
}

/// B and A of a change; a dense one is a product with the identity, on its smaller side.
fn thin(delta: &Delta) -> Cow<'_, LowRank> {
    let identity = |side: usize| {
        (0..side * side)
            .map(|i| if i % (side + 1) == 0 { 1.0 } else { 0.0 })
            .collect()
    };
    match delta {
        Delta::LowRank(factors) => Cow::Borrowed(factors),
        Delta::Dense(Dense { data, d_out, d_in }) => {
            let rank = *d_out.min(d_in);
            let (b, a) = if d_out <= d_in {
                (identity(rank), data.clone())
            } else {
                (data.clone(), identity(rank))
            };
            Cow::Owned(LowRank {
                a,
                b,
                rank,
                d_out: *d_out,
                d_in: *d_in,
            })
        }
    }
}

/// U, and U^T B_i of each part side by side.
fn common_basis(parts: &[Cow<'_, LowRank>], d_out: usize) -> Basis {
    let total: usize = parts.iter().map(|factors| factors.rank).sum();
    let same: Vec<(f64, &LowRank)> = parts.iter().map(|factors| (1.0, factors.as_ref())).collect();
    let side_by_side = LowRank::upper_sum(&same);
    let qr = ThinQr::new(View::new(&side_by_side, d_out, total));
    let rows = qr.r().nrows();
    let mut squares = DMatrix::zeros(rows, rows);
    let mut start = 0;
    for factors in parts {
        let block = qr.r().columns(start, factors.rank);
        let a = View::new(&factors.a, factors.rank, factors.d_in);
        squares += block * gram(a.transposed()) * block.transpose();
        start += factors.rank;
    }
    Basis::new(&qr, squares)
}
