//! The layers that an adapter may target.

use std::rc::Rc;

use crate::compute::{Bias, Weight};

/// A linear layer of the base model, y = x W^T + bias.
pub struct Projection {
    /// Its module path in the family's own naming, e.g. `encoder.layer.0.attention.self.query`.
    pub name: String,
    /// W0 on the device.
    pub weight: Weight,
    /// The bias, if the layer has one.
    pub bias: Option<Bias>,
    /// W0 (d_out x d_in, row-major) in memory, kept where a merge needs its norm.
    pub host: Option<Rc<Vec<f32>>>,
}
