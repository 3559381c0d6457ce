//! `regmean` (Jin et al., ICLR 2023) and `regmean++` (Nguyen et al., TMLR 2026), on the deltas:
//!
//! ```text
//! D* = (sum_i w_i D_i G_i') (sum_i w_i G_i')^-1      G_i' = a G_i + (1 - a) diag(G_i),   G_i = X_i^T X_i
//! ```
//!
//! RegMean's X_i are what the layer reads when the model runs with adapter i alone. RegMean++'s are what it reads in
//! adapter i's own block behind the blocks that are merged already: lanes part at the start of every block and go on
//! as the merged one at its end. On whole weights both would give W0 plus the same.
//!
//! It is [`super::iteris`]'s least-squares problem with other features, so D* stays factored in the same way. There
//! is no ridge. An input that is zero in every sample leaves a column of D* open; there it is the weighted average,
//! which is what a vanishing ridge gives.

use async_trait::async_trait;

use crate::{
    delta::Delta,
    error::Result,
    merge::{
        context::SolveContext,
        layer::SolvedLayer,
        methods::{
            Layer, Method,
            average::Average,
            iteris::{self, objective::Objective},
        },
    },
};

/// `regmean` and `regmean++`.
pub(super) struct Regmean {
    /// Whether features are of the layers that are already merged.
    pub(super) plus_plus: bool,
}

#[async_trait(?Send)]
impl Method for Regmean {
    fn needs_samples(&self) -> bool {
        true
    }

    fn reads(&self) -> &'static [&'static str] {
        &["non_diagonal", "padding"]
    }

    /// What no pass sees has no features: it is averaged, as in the paper.
    async fn layer(&self, layer: &Layer<'_>) -> Result<Delta> {
        Average.layer(layer).await
    }

    async fn pass(&self, work: &SolveContext<'_>) -> Result<Vec<SolvedLayer>> {
        iteris::pass(work, &Objective::regmean(work.options, self.plus_plus)).await
    }
}
