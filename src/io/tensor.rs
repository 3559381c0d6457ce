//! What a checked file says of its tensors.

use std::{collections::BTreeMap, ops::Range};

use crate::io::Dtype;

/// What a checked file says of one tensor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorInfo {
    /// The tensor's name in the file.
    pub name: String,
    /// Its element type.
    pub dtype: Dtype,
    /// Its shape; an empty shape is a scalar, a zero in it an empty tensor.
    pub shape: Vec<usize>,
    /// Which of the checkpoint's files holds it.
    pub source: usize,
    /// Where in that file its bytes are, counted from the file's start: from its first element to its
    /// last.
    pub range: Range<u64>,
    /// How many elements lie between neighbours along each dimension, where they do not simply follow
    /// each other row by row: a transposed matrix or some of its columns, as torch saves a view.
    pub strides: Option<Vec<usize>>,
}

/// What one file holds, read and checked.
pub(super) struct Contents {
    pub(super) metadata: BTreeMap<String, String>,
    pub(super) tensors: Vec<TensorInfo>,
}

impl TensorInfo {
    /// The number of elements.
    pub fn elements(&self) -> usize {
        // With a zero among them, the product of the others was not checked and may overflow.
        if self.shape.contains(&0) {
            0
        } else {
            self.shape.iter().product()
        }
    }

    /// The length of its bytes in the file.
    pub fn bytes(&self) -> u64 {
        self.range.end - self.range.start
    }

    /// Whether its elements are floating-point numbers that [`Checkpoint::f32`](super::Checkpoint::f32) reads: weights, as
    /// opposed to positions and masks.
    pub fn is_float(&self) -> bool {
        matches!(self.dtype, Dtype::F64 | Dtype::F32 | Dtype::F16 | Dtype::BF16)
    }
}
