//! Task arithmetic (Ilharco et al., ICLR 2023): scale * sum(w_i D_i), exactly, as stacked factors.

use async_trait::async_trait;

use crate::{
    delta::Delta,
    error::Result,
    merge::{
        methods::{Layer, Method},
        options::MergeOptions,
    },
};

/// `task_arithmetic`.
pub(super) struct TaskArithmetic;

#[async_trait(?Send)]
impl Method for TaskArithmetic {
    fn reads(&self) -> &'static [&'static str] {
        &["scale"]
    }

    fn alone(&self, options: &MergeOptions, weight: f64) -> Option<f64> {
        Some(options.scale * weight)
    }

    async fn layer(&self, layer: &Layer<'_>) -> Result<Delta> {
        Ok(layer.weighted_sum(layer.options.scale))
    }
}
