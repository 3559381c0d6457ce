//! A place that a merge changes: one parameter of the base model, and where the base has it.

use std::ops::Range;

use crate::{
    adapter::LayerKind,
    binding::base::BaseTensor,
    compute::transpose,
    delta::LowRank,
    error::{Code, Error, Result},
};

/// What of a parameter is changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// A layer's weight, by factors.
    Weight(LayerKind),
    /// A bias, (d_out x 1).
    Bias,
    /// Some rows of an embedding table, (rows x width).
    Rows(Vec<usize>),
    /// A tensor that was saved whole (`modules_to_save`), of this shape.
    Whole(Vec<usize>),
}

/// One parameter that a merge changes.
#[derive(Debug, Clone)]
pub struct MergeSite {
    /// A module's path in the base's own naming, a parameter's (`….bias`), an expert's (`….down_proj[3]`) or that of
    /// trained rows (`….trainable_tokens`).
    pub name: String,
    /// What of it is changed.
    pub place: Place,
    /// Which of several matrices in one tensor.
    pub expert: usize,
    /// Outputs.
    pub d_out: usize,
    /// Inputs.
    pub d_in: usize,
    /// Where the base has it, if there is a base.
    pub tensor: Option<BaseTensor>,
    /// Whether the base's tensor serves as another module's weight, too (a tied head), which the change is not of.
    pub shared: bool,
    /// By adapter: its own path of it, if it changes it.
    pub sources: Vec<Option<String>>,
    /// By adapter: its weight here.
    pub weights: Vec<f64>,
}

impl MergeSite {
    /// Whether the base has the matrix transposed, (d_in x d_out).
    pub fn stored_transposed(&self) -> bool {
        self.place == Place::Weight(LayerKind::Embedding)
            || self.tensor.as_ref().is_some_and(|tensor| tensor.transposed)
    }

    /// The base's tensor that the change is added to.
    ///
    /// # Errors
    /// [`Code::AdapterUnsupported`] if the base has none of its own for it.
    pub fn tensor_alone(&self) -> Result<&BaseTensor> {
        let refuse = |why: &str| {
            Error::new(
                Code::AdapterUnsupported,
                format!(
                    "the change cannot be added to the base's weights: {why}; write an adapter; parameter: {}",
                    self.name
                ),
            )
        };
        match &self.tensor {
            None => Err(refuse("the base has no such tensor")),
            Some(_) if self.shared => Err(refuse(
                "the base has one tensor for the table of its inputs and for its head, and the change is of one of them",
            )),
            Some(tensor) => Ok(tensor),
        }
    }

    /// Whether it is a tensor whose rows lie in the base's as they are, so that some of them can be told alone.
    pub fn has_rows(&self) -> bool {
        let swapped = self.tensor.as_ref().is_some_and(|tensor| tensor.halves_swapped);
        matches!(self.place, Place::Whole(_)) && !swapped && !self.stored_transposed()
    }

    /// Where the base's tensor has the matrix, in numbers; rows of a table are found one by one.
    pub fn range(&self) -> Range<usize> {
        let size = self.d_out * self.d_in;
        let offset = self.tensor.as_ref().map_or(0, |tensor| tensor.offset);
        offset + self.expert * size..offset + (self.expert + 1) * size
    }

    /// Lets the two halves of a (d_out x d_in) matrix's rows change places, if the base has them so.
    pub(super) fn swap_halves(&self, matrix: &mut [f32]) {
        if self.tensor.as_ref().is_some_and(|tensor| tensor.halves_swapped) {
            matrix.rotate_left(self.d_out / 2 * self.d_in);
        }
    }

    /// Factors of a (d_out x d_in) matrix as those of the matrix that the base's tensor has.
    pub fn stored_factors(&self, mut factors: LowRank) -> LowRank {
        if self.tensor.as_ref().is_some_and(|tensor| tensor.halves_swapped) {
            factors.b.rotate_left(self.d_out / 2 * factors.rank);
        }
        if self.stored_transposed() {
            factors.transposed()
        } else {
            factors
        }
    }

    /// A (d_out x d_in) matrix as the base's tensor has it.
    pub fn stored(&self, mut matrix: Vec<f32>) -> Vec<f32> {
        self.swap_halves(&mut matrix);
        if self.stored_transposed() {
            transpose(&matrix, self.d_out, self.d_in)
        } else {
            matrix
        }
    }
}
