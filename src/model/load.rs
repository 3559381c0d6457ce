//! Reading a block's parameters onto the device, with every shape checked.

use std::{collections::BTreeSet, rc::Rc};

use crate::{
    compute::{Compute, LayerNorm},
    error::{Code, Error, Result},
    io::Checkpoint,
    linear::Linear,
};

/// Reads parameters of a checkpoint onto a device.
pub struct Loader<'a> {
    /// Where from.
    pub checkpoint: &'a Checkpoint,
    /// Where to.
    pub compute: &'a Compute,
    /// Linear layers (in the family's naming) whose weights stay in memory too.
    pub keep_host: Option<&'a BTreeSet<String>>,
}

impl Loader<'_> {
    /// A parameter of the given shape.
    ///
    /// # Errors
    /// [`Code::Missing`] or [`Code::ShapeMismatch`] naming the tensor, or what reading reports.
    pub async fn parameter(&self, key: &str, shape: &[usize]) -> Result<Vec<f32>> {
        let found = &self.checkpoint.require(key)?.shape;
        if found != shape {
            return Err(Error::new(
                Code::ShapeMismatch,
                format!(
                    "base model: config.json asks for shape {shape:?} where the file has {found:?}; config and weights are of different models; tensor: {key}"
                ),
            ));
        }
        self.checkpoint.f32(key).await
    }

    /// A linear layer with a bias; `key` is its path in the checkpoint, `name` in the family's naming.
    ///
    /// # Errors
    /// As [`parameter`](Self::parameter).
    pub async fn linear(&self, name: String, key: &str, d_out: usize, d_in: usize) -> Result<Linear> {
        let weight = self.parameter(&format!("{key}.weight"), &[d_out, d_in]).await?;
        let bias = self.parameter(&format!("{key}.bias"), &[d_out]).await?;
        Ok(self.linear_of(name, weight, bias, d_out, d_in))
    }

    /// A linear layer from parameters already read.
    pub fn linear_of(
        &self,
        name: String,
        weight: Vec<f32>,
        bias: Vec<f32>,
        d_out: usize,
        d_in: usize,
    ) -> Linear {
        let keep = self.keep_host.is_some_and(|names| names.contains(&name));
        Linear {
            name,
            weight: self.compute.weight(&weight, d_out, d_in),
            bias: Some(self.compute.bias(bias)),
            host: keep.then(|| Rc::new(weight)),
        }
    }

    /// A layer normalisation, under PyTorch's parameter names or TensorFlow's (`gamma`, `beta`).
    ///
    /// # Errors
    /// As [`parameter`](Self::parameter).
    pub async fn layer_norm(&self, key: &str, width: usize, epsilon: f32) -> Result<LayerNorm> {
        let legacy = format!("{key}.gamma");
        let (gamma, beta) = if self.checkpoint.info(&legacy).is_some() {
            (legacy, format!("{key}.beta"))
        } else {
            (format!("{key}.weight"), format!("{key}.bias"))
        };
        Ok(LayerNorm {
            gamma: self.parameter(&gamma, &[width]).await?,
            beta: self.parameter(&beta, &[width]).await?,
            epsilon,
        })
    }
}
