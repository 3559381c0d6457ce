//! What goes from block to block.

use burn::tensor::Tensor;

use crate::{
    error::{Code, Error, Result},
    model::streams::StreamId,
};

/// The states of one micro-batch between blocks: the rows of each stream, and a stack of skip connections.
#[derive(Clone, Default)]
pub struct State {
    streams: Vec<Option<Tensor<2>>>,
    skips: Vec<Tensor<2>>,
}

impl State {
    /// The rows of a stream, (rows x width).
    ///
    /// # Errors
    /// [`Code::Internal`] if it has none here.
    pub fn rows(&self, stream: StreamId) -> Result<Tensor<2>> {
        self.get(stream).ok_or_else(|| absent(stream))
    }

    /// Whether a stream has rows: that of an input which no sample has is without.
    pub fn has(&self, stream: StreamId) -> bool {
        self.streams.get(stream.index()).is_some_and(Option::is_some)
    }

    /// The rows of a stream, if it has any.
    pub fn get(&self, stream: StreamId) -> Option<Tensor<2>> {
        self.streams.get(stream.index()).cloned().flatten()
    }

    /// The rows of a stream, which is left without.
    ///
    /// # Errors
    /// [`Code::Internal`] if it has none here.
    pub fn take(&mut self, stream: StreamId) -> Result<Tensor<2>> {
        let slot = self.streams.get_mut(stream.index());
        slot.and_then(Option::take).ok_or_else(|| absent(stream))
    }

    /// The same with other rows of a stream.
    #[must_use]
    pub fn with(mut self, stream: StreamId, rows: Tensor<2>) -> Self {
        if self.streams.len() <= stream.index() {
            self.streams.resize(stream.index() + 1, None);
        }
        self.streams[stream.index()] = Some(rows);
        self
    }

    /// Keeps rows for a later block (a UNet's skip connection).
    pub fn push_skip(&mut self, rows: Tensor<2>) {
        self.skips.push(rows);
    }

    /// The rows that were kept last.
    ///
    /// # Errors
    /// [`Code::Internal`] if none were.
    pub fn pop_skip(&mut self) -> Result<Tensor<2>> {
        let none = || {
            Error::new(
                Code::Internal,
                "a block asks for a skip connection that none left",
            )
        };
        self.skips.pop().ok_or_else(none)
    }

    /// The last of `copies` copies of all rows.
    pub(super) fn last_copy(self, copies: usize) -> Self {
        self.map(|tensor| {
            let [rows, columns] = tensor.dims();
            tensor.slice([rows - rows / copies..rows, 0..columns])
        })
    }

    /// `copies` copies of all rows.
    pub(super) fn repeat(self, copies: usize) -> Self {
        self.map(|tensor| tensor.repeat_dim(0, copies))
    }

    fn map(self, change: impl Fn(Tensor<2>) -> Tensor<2>) -> Self {
        Self {
            streams: self.streams.into_iter().map(|rows| rows.map(&change)).collect(),
            skips: self.skips.into_iter().map(change).collect(),
        }
    }
}

fn absent(stream: StreamId) -> Error {
    let at = stream.index();
    Error::new(
        Code::Internal,
        format!("a block asks for the rows of stream {at}, which has none"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compute::Compute;

    #[test]
    fn copies_are_of_every_stream_and_of_what_was_kept() {
        let compute = Compute::cpu();
        let rows = |numbers: &[f32]| compute.tensor(numbers.to_vec(), numbers.len(), 1);
        let mut state = State::default().with(StreamId::new(1), rows(&[1.0, 2.0]));
        state.push_skip(rows(&[3.0]));
        assert!(state.get(StreamId::new(0)).is_none());
        assert!(
            state.has(StreamId::new(1)) && ![0, 2].map(StreamId::new).iter().any(|&none| state.has(none))
        );
        assert_eq!(state.rows(StreamId::new(0)).err().unwrap().code(), Code::Internal);
        let mut back = state.repeat(3).last_copy(3);
        assert_eq!(back.take(StreamId::new(1)).unwrap().dims(), [2, 1]);
        assert!(back.take(StreamId::new(1)).is_err());
        assert_eq!(back.pop_skip().unwrap().dims(), [1, 1]);
        assert!(back.pop_skip().is_err());
    }
}
