//! Core Space (Panariello et al., NeurIPS 2025, arXiv 2509.17786): the methods that look at each number, on coordinates
//! as small as the ranks in place of the weights.
//!
//! ```text
//! [B_1 … B_N] = U_B S X^T      [A_1; …; A_N] = Y T V_A^T      M_i = U_B^T B_i A_i V_A      D* = U_B M* V_A^T
//! ```
//!
//! Both bases have at most sum(r) directions, and D_i = U_B M_i V_A^T loses nothing, so the method prunes and combines
//! the M_i, and nothing dense is formed. As in the authors' code the bases are of the factors as they are stored; here
//! the scaling belongs to B, and how a change is split between B and A has a say in the basis, though not in what it
//! spans. A direction that is the rounding of f32 would take part in the pruning, so it is left out, and each direction
//! has a definite sign (see [`super::basis`]). [`super::knots`] has a basis of the outputs alone, which depends on the
//! changes and not on their factors; it leaves the inputs as they are. What is linear in the numbers is the same in
//! either; pruning and votes are not.
//!
//! A change that has no factors of a small rank (that of a DoRA adapter) has no core smaller than the layer: such a
//! layer is merged by its weights.

use crate::{
    compute::{
        gemm::{self, View},
        qr::ThinQr,
    },
    delta::{Delta, LowRank},
    error::Result,
    merge::methods::{
        Layer,
        basis::{Basis, row_major},
        prune::{Dropped, Pruner},
        signs::Combine,
    },
};

/// The merged change, as factors; nothing if one of the changes has none.
pub(super) async fn merge(layer: &Layer<'_>, dropped: Dropped, combine: Combine) -> Result<Option<Delta>> {
    let factors: Option<Vec<&LowRank>> = layer.parts.iter().map(|part| part.delta.as_low_rank()).collect();
    let Some(factors) = factors else {
        return Ok(None);
    };
    let stacked = LowRank::sum(&factors.iter().map(|&part| (1.0, part)).collect::<Vec<_>>());
    let (d_out, d_in, rank) = (layer.d_out, layer.d_in, stacked.rank);
    let outputs = singular_basis(View::new(&stacked.b, d_out, rank));
    layer.pace.breathe().await?;
    let inputs = singular_basis(View::new(&stacked.a, rank, d_in).transposed());
    layer.pace.breathe().await?;
    if outputs.size == 0 || inputs.size == 0 {
        return Ok(Some(layer.weighted_sum(0.0)));
    }
    let mut start = 0;
    let mut cores = Vec::new();
    for (part, factors) in layer.parts.iter().zip(&factors) {
        let left = outputs.coordinates.columns(start, factors.rank);
        let right = inputs.coordinates.columns(start, factors.rank);
        start += factors.rank;
        let mut core = row_major(&(left * right.transpose()));
        let mut pruner = match dropped {
            Dropped::Smallest => Pruner::magnitude(&core, layer.options.density),
            Dropped::Random => Pruner::of_task(layer, part),
        };
        pruner.apply(&mut core);
        cores.push(core);
    }
    let weights: Vec<f64> = layer.parts.iter().map(|part| part.weight).collect();
    let cores: Vec<&[f32]> = cores.iter().map(Vec::as_slice).collect();
    let merged = combine.apply(&cores, &weights);
    // The smaller side is the rank; the other one takes the core in.
    let core = View::new(&merged, outputs.size, inputs.size);
    let left = View::new(&outputs.vectors, d_out, outputs.size);
    let right = View::new(&inputs.vectors, d_in, inputs.size).transposed();
    let (b, a, rank) = if outputs.size <= inputs.size {
        (outputs.vectors.clone(), gemm::product(core, right), outputs.size)
    } else {
        (gemm::product(left, core), right.elements().collect(), inputs.size)
    };
    Ok(Some(Delta::LowRank(LowRank {
        a,
        b,
        rank,
        d_out,
        d_in,
    })))
}

/// The left singular vectors of a matrix.
fn singular_basis(matrix: View<'_, f32>) -> Basis {
    let qr = ThinQr::new(matrix);
    Basis::new(&qr, qr.r() * qr.r().transpose())
}
