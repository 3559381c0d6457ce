//! `linear`: sum(w_i D_i), exactly, as stacked factors.
//!
//! PEFT's `linear` adds the factors up, sum(sqrt(|w_i s_i|) B_i) sum(sqrt(|w_i s_i|) A_i), so that B_i of one adapter
//! also meets A_j of another. Those cross terms belong to no adapter; here there are none. Ranks may differ.

use async_trait::async_trait;

use crate::{
    delta::Delta,
    error::Result,
    merge::{
        methods::{Layer, Method},
        options::MergeOptions,
    },
};

/// `linear`: the weighted sum.
pub(super) struct Linear;

#[async_trait(?Send)]
impl Method for Linear {
    fn alone(&self, _options: &MergeOptions, weight: f64) -> Option<f64> {
        Some(weight)
    }

    async fn layer(&self, layer: &Layer<'_>) -> Result<Delta> {
        Ok(layer.weighted_sum(1.0))
    }
}
