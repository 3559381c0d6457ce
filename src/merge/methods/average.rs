//! The weighted mean and the weighted sum of the changes, exact as stacked factors.
//!
//! PEFT's `linear` sums the factors, `(sum_i sqrt(w_i s_i) B_i)(sum_i sqrt(w_i s_i) A_i)`, which has cross terms
//! `B_i A_j` of adapters that have nothing to do with each other, and wants one rank of all. Here it is
//! `sum_i w_i s_i B_i A_i`.

use super::{Change, Layer, Method};
use crate::error::Result;

/// sum(w_i D_i) / sum(w_i), over the weights of all adapters.
pub(super) struct Average;

/// sum(w_i D_i).
pub(super) struct Linear;

/// scale * sum(w_i D_i) (Ilharco et al., ICLR 2023).
pub(super) struct TaskArithmetic;

impl Method for Average {
    fn layer(&self, layer: &Layer<'_>) -> Result<Change> {
        let total: f64 = layer.weights.iter().sum();
        Ok(layer.weighted_sum(1.0 / total))
    }
}

impl Method for Linear {
    fn layer(&self, layer: &Layer<'_>) -> Result<Change> {
        Ok(layer.weighted_sum(1.0))
    }
}

impl Method for TaskArithmetic {
    fn layer(&self, layer: &Layer<'_>) -> Result<Change> {
        Ok(layer.weighted_sum(layer.options.scale))
    }
}
