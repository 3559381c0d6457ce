//! `magnitude_prune` and `magnitude_prune_svd`: of every change the share `density` of its largest numbers, summed
//! with the weights.
//!
//! PEFT's `magnitude_prune` prunes the factors and adds them up, with cross terms as in its `linear`; its
//! `magnitude_prune_svd` prunes the deltas and cuts the result to `svd_rank`. Both forms here are of the deltas.

use async_trait::async_trait;

use crate::{
    delta::Delta,
    error::Result,
    merge::{
        methods::{Form, Layer, Method, elementwise, prune::Dropped, signs::Combine},
        options::MergeOptions,
    },
};

/// `magnitude_prune` and `magnitude_prune_svd`.
pub(super) struct MagnitudePrune {
    /// Whether the result is cut to `svd_rank`.
    pub(super) svd: bool,
}

#[async_trait(?Send)]
impl Method for MagnitudePrune {
    fn reads(&self) -> &'static [&'static str] {
        if self.svd {
            &["density", "space", "svd_rank"]
        } else {
            &["density", "space"]
        }
    }

    fn rank(&self, options: &MergeOptions, largest: usize) -> Option<usize> {
        self.svd.then(|| options.svd_rank.unwrap_or(largest))
    }

    fn form(&self, options: &MergeOptions) -> Form {
        elementwise::form(options)
    }

    async fn layer(&self, layer: &Layer<'_>) -> Result<Delta> {
        elementwise::merge(layer, Dropped::Smallest, Combine::Sum).await
    }
}
