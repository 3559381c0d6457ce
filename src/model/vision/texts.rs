//! The text towers beside pictures: tokens and positions in, one row a text out.

use async_trait::async_trait;
use burn::tensor::Tensor;

use crate::{
    compute::LayerNorm,
    error::Result,
    model::{
        batch::{Batch, Stack},
        config::{invalid, positive},
        family::Block,
        lanes::Lanes,
        load::Loader,
        projection::Projection,
        state::State,
        streams::StreamId,
        vision::tower::Tower,
    },
};

/// Which row of a text becomes its one row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Pooled {
    /// That of the largest token id, the first of several.
    Largest,
    /// The first of that token id; the first row where there is none.
    FirstOf(u32),
    /// The last, which may be padding.
    Last,
}

impl Pooled {
    /// Its place among a text's tokens.
    fn of(self, ids: &[u32]) -> usize {
        match self {
            Self::Largest => (0..ids.len()).rev().max_by_key(|&at| ids[at]).unwrap_or(0),
            Self::FirstOf(id) => ids.iter().position(|&other| other == id).unwrap_or(0),
            Self::Last => ids.len().saturating_sub(1),
        }
    }
}

/// The texts that a tower reads.
pub(super) struct Texts {
    pub(super) vocabulary: usize,
    /// Rows of the table of positions.
    pub(super) positions: usize,
    pub(super) pad_id: u32,
    pub(super) pooled: Pooled,
    /// Whether every text is filled up with padding, which is read like any token.
    pub(super) filled: bool,
}

impl Texts {
    /// Whether the sizes make a model.
    ///
    /// # Errors
    /// `config_invalid` naming what is 0, or a padding token outside the vocabulary where it is read.
    pub(super) fn check(&self) -> Result<()> {
        positive(&[
            ("the vocabulary", self.vocabulary),
            ("the number of positions", self.positions),
        ])?;
        if self.filled && self.pad_id as usize >= self.vocabulary {
            return Err(invalid(&format!(
                "pad_token_id {} is outside the vocabulary of {}, and texts are padded with it",
                self.pad_id, self.vocabulary
            )));
        }
        Ok(())
    }

    /// The rows that enter the tower, (tokens x hidden).
    ///
    /// # Errors
    /// As [`Loader::rows`].
    pub(super) async fn embed(&self, loader: &Loader<'_>, tower: &Tower, batch: &Batch) -> Result<Tensor<2>> {
        let text = batch.stream(tower.stream);
        let key = |name: &str| tower.key(&format!("embeddings.{name}.weight"));
        let tables = [
            (key("token_embedding"), self.vocabulary, text.ids.as_slice()),
            (
                key("position_embedding"),
                self.positions,
                text.positions.as_slice(),
            ),
        ];
        loader.embedded(&tables, tower.sizes.hidden).await
    }
}

/// The last block of a text tower: the norm of all rows, one row of each text, and the projection where there is one.
pub(super) struct End {
    pub(super) text: StreamId,
    pub(super) embeds: StreamId,
    pub(super) norm: LayerNorm,
    pub(super) pooled: Pooled,
    pub(super) projection: Option<Projection>,
}

#[async_trait(?Send)]
impl Block for End {
    async fn forward(&self, lanes: &Lanes<'_>, stack: &Stack<'_>, mut state: State) -> Result<State> {
        if !state.has(self.text) {
            return Ok(state);
        }
        let compute = lanes.compute();
        let text = compute.layer_norm(state.take(self.text)?, &self.norm);
        let ids = stack.ids(self.text);
        let rows: Vec<usize> = stack
            .sequences(self.text)
            .iter()
            .map(|sequence| {
                let own = &ids[sequence.start..sequence.start + sequence.length];
                sequence.start + self.pooled.of(own)
            })
            .collect();
        let mut embeds = text.clone().select(0, compute.indices(&rows));
        if let Some(projection) = &self.projection {
            embeds = lanes.linear(stack, self.embeds, projection, embeds).await?;
        }
        Ok(state.with(self.text, text).with(self.embeds, embeds))
    }

    fn linears(&self) -> Vec<&Projection> {
        self.projection.iter().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::Pooled;

    #[test]
    fn a_text_is_pooled_at_its_end() {
        let ids = [5, 9, 2, 9, 1];
        assert_eq!(Pooled::Largest.of(&ids), 1);
        assert_eq!(Pooled::FirstOf(9).of(&ids), 1);
        assert_eq!(Pooled::FirstOf(7).of(&ids), 0);
        assert_eq!(Pooled::Last.of(&ids), 4);
    }
}
