//! Task arithmetic (Ilharco et al., ICLR 2023): scale * sum(w_i D_i), exactly, as stacked factors.

use super::{Layer, Method};
use crate::{error::Result, merge::Change};

/// The method. See the module.
pub(super) struct TaskArithmetic;

impl Method for TaskArithmetic {
    fn layer(&self, layer: &Layer<'_>) -> Result<Change> {
        Ok(layer.weighted_sum(layer.options.scale))
    }
}
