//! The layers that an adapter may target.

use std::rc::Rc;

use crate::{
    compute::{Bias, RawWeight, Weight, Windows},
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
    /// W0 (d_out x d_in) as the file has it, where a merge needs its numbers; one with `weight` where that is the same.
    pub host: Option<Rc<RawWeight>>,
    /// The windows of a convolution.
    pub windows: Option<Windows>,
}

impl Projection {
    /// W0 as the file has it.
    ///
    /// # Errors
    /// [`Code::Internal`] where a pass did not ask for it ([`Pass::keep_host`](crate::model::Pass::keep_host)).
    pub fn host(&self) -> Result<&RawWeight> {
        self.host.as_deref().ok_or_else(|| {
            let what = format!(
                "a layer is solved whose weight was not kept; layer: {}",
                self.name
            );
            Error::new(Code::Internal, what)
        })
    }

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
