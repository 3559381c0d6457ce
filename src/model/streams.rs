//! Streams of rows: what a family reads, and what its blocks hand on.
//!
//! A text is one row a token, a picture one row a place, a pooled representation one row a sample. A family lists its
//! streams; batches, lanes, attention and Gram matrices work on the rows of a stream and know nothing else of it.

use crate::compute::{Grid, Windows};

/// A stream, by its place in the family's list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StreamId(usize);

impl StreamId {
    /// The stream at that place of the list.
    pub const fn new(at: usize) -> Self {
        Self(at)
    }

    /// Its place in the list.
    pub const fn index(self) -> usize {
        self.0
    }
}

/// One stream of a family.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stream {
    /// What messages call it.
    pub name: &'static str,
    /// Which rows a sample has in it.
    pub rows: StreamRows,
}

/// Which rows a sample has in a stream. Streams of inputs come first in a family's list, and every other one behind
/// those that it is told by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StreamRows {
    /// Those of the sample's input at the same place. An input that a picture's stream is read from, or that stands beside
    /// one, may be absent: then it has no rows, and no other stream has any on its account.
    Input,
    /// The same, filled up with padding to that many, which is read and counts like any other row (SigLIP's texts).
    Filled(usize),
    /// One: a pooled representation.
    One,
    /// One a window over a stream that has a height and a width: what a convolution makes of it.
    Windows(StreamId, Windows),
    /// Those of another stream behind some more, such as a class token.
    Behind(usize, StreamId),
}

impl StreamRows {
    /// Whether they are a sample's input.
    pub const fn is_input(self) -> bool {
        matches!(self, Self::Input | Self::Filled(_))
    }
}

impl Stream {
    /// A stream of inputs.
    pub const fn input(name: &'static str) -> Self {
        Self {
            name,
            rows: StreamRows::Input,
        }
    }

    /// A stream of one row a sample.
    pub const fn pooled() -> Self {
        Self {
            name: "pooled",
            rows: StreamRows::One,
        }
    }
}

/// Rows of one sample in one stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct SampleRows {
    /// How many, padding among them.
    pub(super) length: usize,
    /// Those that are no padding.
    pub(super) attended: usize,
    /// Rows before this one do not count in Gram matrices.
    pub(super) counted_from: usize,
    /// Height and width, where the rows are the places of a grid.
    pub(super) grid: Option<Grid>,
}

impl SampleRows {
    /// `length` rows that all count.
    pub(super) const fn all(length: usize) -> Self {
        Self {
            length,
            attended: length,
            counted_from: 0,
            grid: None,
        }
    }
}
