//! One sample: an input for each stream that the family reads.

use crate::{
    compute::Grid,
    model::streams::{SampleRows, StreamId},
    pictures::Pixels,
};

/// What a stream is given of one sample.
#[derive(Debug, Clone, PartialEq)]
pub enum Input {
    /// A text: token ids, special tokens included, and the token type (segment) of each.
    Tokens {
        /// One a token.
        ids: Vec<u32>,
        /// One a token.
        type_ids: Vec<u32>,
    },
    /// A picture, or a latent: one row a place, a column a channel.
    Grid(Pixels),
    /// Rows of numbers as they are: states of another network, or a single one such as a timestep.
    Rows {
        /// Numbers a row.
        width: usize,
        /// Row by row.
        data: Vec<f32>,
    },
}

impl Input {
    /// Nothing, in the place of a picture or a text that a sample does not have.
    pub const fn absent() -> Self {
        Self::Tokens {
            ids: Vec::new(),
            type_ids: Vec::new(),
        }
    }

    /// How many rows it is.
    pub fn rows(&self) -> usize {
        match self {
            Self::Tokens { ids, .. } => ids.len(),
            Self::Grid(pixels) => pixels.height * pixels.width,
            Self::Rows { width, data } => data.len() / (*width).max(1),
        }
    }
}

/// An input and which of its rows count.
#[derive(Debug, Clone, PartialEq)]
pub struct StreamInput {
    /// The input.
    pub input: Input,
    /// Rows before this one take part in the forward pass, but not in Gram matrices.
    pub counted_from: usize,
}

/// One sample, ready for the model: an input for each stream of inputs, in the order of the family's list.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Sample {
    /// By stream; a stream beyond the end of the list is given nothing.
    pub inputs: Vec<StreamInput>,
}

impl Sample {
    /// A text of one segment for the first stream.
    pub fn text(ids: Vec<u32>) -> Self {
        let type_ids = vec![0; ids.len()];
        Self::of(Input::Tokens { ids, type_ids })
    }

    /// One input for the first stream.
    pub fn of(input: Input) -> Self {
        Self {
            inputs: vec![StreamInput {
                input,
                counted_from: 0,
            }],
        }
    }

    /// The same with an input for the next stream.
    #[must_use]
    pub fn and(mut self, input: Input) -> Self {
        self.inputs.push(StreamInput {
            input,
            counted_from: 0,
        });
        self
    }

    /// The same with a text of one segment for the next stream, such as what a decoder reads.
    #[must_use]
    pub fn and_tokens(self, ids: Vec<u32>) -> Self {
        let type_ids = vec![0; ids.len()];
        self.and(Input::Tokens { ids, type_ids })
    }

    /// The same whose first stream counts from a row on.
    #[must_use]
    pub fn counted_from(mut self, row: usize) -> Self {
        if let Some(first) = self.inputs.first_mut() {
            first.counted_from = row;
        }
        self
    }

    /// Whether its first input is a picture.
    pub fn is_picture(&self) -> bool {
        let first = self.inputs.first().map(|given| &given.input);
        matches!(first, Some(Input::Grid(_)))
    }

    /// Its first input without the others.
    #[must_use]
    pub fn alone(&self) -> Self {
        Self {
            inputs: self.inputs.iter().take(1).cloned().collect(),
        }
    }

    /// The token ids of a stream; empty if it is given none.
    pub fn tokens(&self, stream: StreamId) -> &[u32] {
        match self.inputs.get(stream.index()).map(|given| &given.input) {
            Some(Input::Tokens { ids, .. }) => ids,
            Some(Input::Grid(_) | Input::Rows { .. }) | None => &[],
        }
    }

    /// The rows that it has in all streams.
    pub fn size(&self) -> usize {
        self.inputs.iter().map(|given| given.input.rows()).sum()
    }

    /// The rows that it has in a stream of inputs.
    pub(super) fn rows(&self, stream: usize) -> SampleRows {
        let Some(given) = self.inputs.get(stream) else {
            return SampleRows::all(0);
        };
        let grid = match &given.input {
            Input::Grid(pixels) => Some(Grid {
                height: pixels.height,
                width: pixels.width,
            }),
            Input::Tokens { .. } | Input::Rows { .. } => None,
        };
        SampleRows {
            counted_from: given.counted_from,
            grid,
            ..SampleRows::all(given.input.rows())
        }
    }
}
