//! Task arithmetic (Ilharco et al., ICLR 2023): scale * sum(w_i D_i), exactly, as stacked factors.

use super::{Layer, Method};
use crate::{
    error::Result,
    merge::{Change, MergeOptions},
};

/// The method. See the module.
pub(super) struct TaskArithmetic;

impl Method for TaskArithmetic {
    fn alone(&self, options: &MergeOptions, weight: f64) -> Option<f64> {
        Some(options.scale * weight)
    }

    fn layer(&self, layer: &Layer<'_>) -> Result<Change> {
        Ok(layer.weighted_sum(layer.options.scale))
    }
}
