//! `average`: sum(w_i D_i) / sum(w_i), exactly, as stacked factors. An adapter that leaves a layer alone counts there
//! as zero.

use async_trait::async_trait;

use crate::{
    delta::Delta,
    error::{Code, Error, Result},
    merge::{
        methods::{Layer, Method},
        options::MergeOptions,
    },
};

/// `average`: the weighted mean.
pub(super) struct Average;

#[async_trait(?Send)]
impl Method for Average {
    fn alone(&self, _options: &MergeOptions, _weight: f64) -> Option<f64> {
        Some(1.0)
    }

    async fn layer(&self, layer: &Layer<'_>) -> Result<Delta> {
        let total: f64 = layer.weights.iter().sum();
        let size: f64 = layer.weights.iter().map(|weight| weight.abs()).sum();
        // Weights of both signs may cancel, but for rounding.
        if total.abs() <= 1e-12 * size {
            return Err(Error::new(
                Code::OptionInvalid,
                format!(
                    "the weights add up to {total}, so there is no average; choose other weights or the method linear; layer: {}",
                    layer.name
                ),
            ));
        }
        Ok(layer.weighted_sum(1.0 / total))
    }
}
