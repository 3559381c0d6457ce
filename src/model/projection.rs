//! The layers that an adapter may target.

use std::rc::Rc;

use crate::{
    compute::{Bias, Weight, Windows},
    error::{Code, Error, Result},
};

/// A linear layer of the base model, y = x W^T + bias: over the rows of a stream, or over the unfolded windows of one
/// with a height and a width, which makes it a convolution.
pub struct Projection {
    /// Its module path in the family's own naming, e.g. `encoder.layer.0.attention.self.query`.
    pub name: String,
    /// W0 (d_out x d_in) on the device; of a convolution, d_in is channels x kernel area.
    pub weight: Weight,
    /// The bias, if the layer has one.
    pub bias: Option<Bias>,
    /// W0 (d_out x d_in, row-major) in memory, kept where a merge needs its norm.
    pub host: Option<Rc<Vec<f32>>>,
    /// The windows of a convolution.
    pub windows: Option<Windows>,
}

impl Projection {
    /// The windows of a convolution.
    ///
    /// # Errors
    /// [`Code::Internal`] for a layer over rows.
    pub(super) fn windows(&self) -> Result<&Windows> {
        self.windows.as_ref().ok_or_else(|| {
            let what = format!("a layer over rows was run as a convolution; layer: {}", self.name);
            Error::new(Code::Internal, what)
        })
    }
}
