//! `ties` and `ties_svd` (Yadav et al., NeurIPS 2023): of every change the share `density` of its largest numbers;
//! number by number the sign that `majority_sign_method` elects; the mean of the weighted numbers that have it.
//!
//! PEFT's `ties` does this to the factors A and B one by one, and its product is no TIES of the deltas; its
//! `ties_svd` does it to the deltas and cuts the result to `svd_rank`. Both forms here are of the deltas.

use async_trait::async_trait;

use crate::{
    delta::Delta,
    error::Result,
    merge::{
        methods::{Form, Layer, Method, elementwise, prune::Dropped, signs::Combine},
        options::MergeOptions,
    },
};

/// `ties` and `ties_svd`.
pub(super) struct Ties {
    /// Whether the result is cut to `svd_rank`.
    pub(super) svd: bool,
}

#[async_trait(?Send)]
impl Method for Ties {
    fn reads(&self) -> &'static [&'static str] {
        if self.svd {
            &["density", "majority_sign_method", "space", "svd_rank"]
        } else {
            &["density", "majority_sign_method", "space"]
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
        elementwise::merge(layer, Dropped::Smallest, Combine::Elect(vote)).await
    }
}
