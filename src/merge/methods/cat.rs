//! `cat`: the adapters' factors side by side, [B_1 … B_N] [w_1 s_1 A_1; …; w_N s_N A_N], which is sum(w_i D_i).
//!
//! As PEFT's `cat`, but that PEFT keeps rsLoRA's scaling of the first adapter: its result is off by sqrt(rank) there.

use async_trait::async_trait;

use crate::{
    delta::Delta,
    error::Result,
    merge::{
        methods::{Layer, Method},
        options::MergeOptions,
    },
};

/// `cat`: factors side by side.
pub(super) struct Cat;

#[async_trait(?Send)]
impl Method for Cat {
    fn alone(&self, _options: &MergeOptions, weight: f64) -> Option<f64> {
        Some(weight)
    }

    async fn layer(&self, layer: &Layer<'_>) -> Result<Delta> {
        Ok(layer.weighted_sum(1.0))
    }
}
