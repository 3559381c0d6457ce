//! What encoder-decoders of texts have in common: two stacks of layers over rows of their own.

use burn::tensor::Tensor;
use serde_json::Value;

use crate::{
    compute::Sight,
    error::{Code, Error, Result},
    io::Checkpoint,
    model::{
        config::{architecture, only, unsupported},
        state::State,
        streams::StreamId,
        text::{DECODER, TEXT},
    },
};

/// One half of the model: a stack of layers over rows of its own.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Half {
    Encoder,
    Decoder,
}

impl Half {
    pub(super) const BOTH: [Self; 2] = [Self::Encoder, Self::Decoder];

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Encoder => "encoder",
            Self::Decoder => "decoder",
        }
    }

    /// The stream that it works on.
    pub(super) const fn stream(self) -> StreamId {
        match self {
            Self::Encoder => TEXT,
            Self::Decoder => DECODER,
        }
    }

    /// The half that works on a stream.
    pub(super) fn of_stream(stream: StreamId) -> Self {
        if stream == DECODER {
            Self::Decoder
        } else {
            Self::Encoder
        }
    }

    /// What a token of the stack sees of its own sample.
    pub(super) const fn sight(self) -> Sight {
        match self {
            Self::Encoder => Sight::FULL,
            Self::Decoder => Sight::CAUSAL,
        }
    }

    /// The stack's hidden states, which `state` is left without.
    ///
    /// # Errors
    /// [`Code::SamplesInvalid`] if the samples have nothing for the decoder.
    pub(super) fn take(self, state: &mut State) -> Result<Tensor<2>> {
        if self == Self::Decoder && state.get(DECODER).is_none() {
            return Err(Error::new(
                Code::SamplesInvalid,
                "the samples have nothing for the decoder to read; an encoder-decoder needs an answer of each, or its start token",
            ));
        }
        state.take(self.stream())
    }
}

/// The class that the configuration names, which must be the whole model: with the language model's head,
/// or saved without any, so that the embedding table is the head.
///
/// # Errors
/// [`Code::ModelUnsupported`] naming an encoder or a decoder alone, or a classifier.
pub(super) fn whole_model(config: &Value, fallback: &str) -> Result<String> {
    only(config, "is_encoder_decoder", &[true.into()])?;
    only(config, "is_decoder", &[false.into()])?;
    let architecture = architecture(config, fallback);
    let is_part = architecture.ends_with("EncoderModel");
    if architecture.ends_with("ForConditionalGeneration") || architecture.ends_with("Model") && !is_part {
        return Ok(architecture);
    }
    Err(unsupported(&format!(
        "architectures has {architecture}, which is not supported in this family (only {fallback})"
    )))
}

/// The key of a half's embedding table: its own, where the checkpoint has one, or that of both, under
/// whichever name a file that has each tensor once kept it.
pub(super) fn embedding(checkpoint: &Checkpoint, prefix: &str, half: Half) -> String {
    let own = format!("{prefix}{}.embed_tokens.weight", half.name());
    let shared = format!("{prefix}shared.weight");
    let [encoder, decoder] = Half::BOTH.map(|half| format!("{prefix}{}.embed_tokens.weight", half.name()));
    [own, shared.clone(), encoder, decoder, "lm_head.weight".into()]
        .into_iter()
        .find(|key| checkpoint.info(key).is_some())
        .unwrap_or(shared)
}
