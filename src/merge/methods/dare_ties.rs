//! `dare_ties` and `dare_ties_svd`: numbers of every change are dropped at random as in [`super::dare_linear`], and
//! what is left is merged by the election of [`super::ties`].
//!
//! PEFT's `dare_ties` does this to the factors A and B one by one; its `dare_ties_svd` does it to the deltas and cuts
//! the result to `svd_rank`. Both forms here are of the deltas.

use async_trait::async_trait;

use crate::{
    delta::Delta,
    error::Result,
    merge::{
        methods::{Form, Layer, Method, elementwise, prune::Dropped, signs::Combine},
        options::MergeOptions,
    },
};

/// `dare_ties` and `dare_ties_svd`.
pub(super) struct DareTies {
    /// Whether the result is cut to `svd_rank`.
    pub(super) svd: bool,
}

#[async_trait(?Send)]
impl Method for DareTies {
    fn reads(&self) -> &'static [&'static str] {
        if self.svd {
            &["density", "majority_sign_method", "seed", "space", "svd_rank"]
        } else {
            &["density", "majority_sign_method", "seed", "space"]
        }
    }

    fn rank(&self, options: &MergeOptions, largest: usize) -> Option<usize> {
        self.svd.then(|| options.svd_rank.unwrap_or(largest))
    }

    fn form(&self, options: &MergeOptions) -> Form {
        elementwise::form(options)
    }

    async fn layer(&self, layer: &Layer<'_>) -> Result<Delta> {
        let vote = layer.options.majority_sign_method;
        elementwise::merge(layer, Dropped::Random, Combine::Elect(vote)).await
    }
}
