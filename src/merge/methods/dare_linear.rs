//! `dare_linear` and `dare_linear_svd` (Yu et al., ICML 2024): every number of a change is kept with probability
//! `density` and divided by it, then the changes are summed with the weights. `seed` fixes the draws.
//!
//! PEFT's `dare_linear` drops numbers of the factors and adds those up, with cross terms as in its `linear`, and draws
//! anew each time; its `dare_linear_svd` drops numbers of the deltas and cuts the result to `svd_rank`. Both forms
//! here are of the deltas.

use async_trait::async_trait;

use crate::{
    delta::Delta,
    error::Result,
    merge::{
        methods::{Form, Layer, Method, elementwise, prune::Dropped, signs::Combine},
        options::MergeOptions,
    },
};

/// `dare_linear` and `dare_linear_svd`.
pub(super) struct DareLinear {
    /// Whether the result is cut to `svd_rank`.
    pub(super) svd: bool,
}

#[async_trait(?Send)]
impl Method for DareLinear {
    fn reads(&self) -> &'static [&'static str] {
        if self.svd {
            &["density", "seed", "space", "svd_rank"]
        } else {
            &["density", "seed", "space"]
        }
    }

    fn rank(&self, options: &MergeOptions, largest: usize) -> Option<usize> {
        self.svd.then(|| options.svd_rank.unwrap_or(largest))
    }

    fn form(&self, options: &MergeOptions) -> Form {
        elementwise::form(options)
    }

    async fn layer(&self, layer: &Layer<'_>) -> Result<Delta> {
        elementwise::merge(layer, Dropped::Random, Combine::Sum).await
    }
}
