//! A tensor that stays in its file until its numbers are wanted.

use std::{ops::Range, rc::Rc};

use crate::{
    error::Result,
    io::{Checkpoint, TensorInfo},
};

/// A tensor of a checkpoint, such as one of an adapter's `modules_to_save`: an embedding table may be larger than
/// everything else in its file.
#[derive(Debug, Clone)]
pub struct StoredTensor {
    /// Its shape.
    pub shape: Vec<usize>,
    name: String,
    checkpoint: Rc<Checkpoint>,
}

impl StoredTensor {
    /// The tensor of that name.
    ///
    /// # Errors
    /// `missing`, naming the tensor.
    pub fn new(checkpoint: &Rc<Checkpoint>, name: &str) -> Result<Self> {
        Ok(Self {
            shape: checkpoint.require(name)?.shape.clone(),
            name: name.to_owned(),
            checkpoint: Rc::clone(checkpoint),
        })
    }

    /// How many numbers it has.
    pub fn elements(&self) -> usize {
        self.checkpoint.info(&self.name).map_or(0, TensorInfo::elements)
    }

    /// Its numbers, row by row.
    ///
    /// # Errors
    /// As [`Checkpoint::f32`].
    pub async fn load(&self) -> Result<Vec<f32>> {
        self.checkpoint.f32(&self.name).await
    }

    /// Some of its numbers, counted row by row.
    ///
    /// # Errors
    /// As [`Checkpoint::f32_range`].
    pub async fn load_range(&self, range: Range<usize>) -> Result<Vec<f32>> {
        self.checkpoint.f32_range(&self.name, range).await
    }
}
