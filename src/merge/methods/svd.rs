//! `svd`: sum(w_i D_i), cut to `svd_rank` (the largest rank among the adapters, if it is not given, as in PEFT).
//!
//! The sum stays factored, and so does its SVD: a QR of the stacked factors and an SVD of a small core. PEFT up
//! to 0.20 scales twice here, and 0.21 still keeps rsLoRA's scaling of the first adapter; this is the sum.

use async_trait::async_trait;

use crate::{
    delta::Delta,
    error::Result,
    merge::{
        methods::{Layer, Method},
        options::MergeOptions,
    },
};

/// `svd`.
pub(super) struct Svd;

#[async_trait(?Send)]
impl Method for Svd {
    fn reads(&self) -> &'static [&'static str] {
        &["svd_rank"]
    }

    fn rank(&self, options: &MergeOptions, largest: usize) -> Option<usize> {
        Some(options.svd_rank.unwrap_or(largest))
    }

    async fn layer(&self, layer: &Layer<'_>) -> Result<Delta> {
        Ok(layer.weighted_sum(1.0))
    }
}
