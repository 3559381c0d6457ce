//! What encoder-decoders have in common: two stacks of layers over rows of their own, and attention with
//! a linear layer each for queries, keys, values and output, of a stack's rows to themselves or of the
//! decoder's to the encoder's.

use burn::tensor::Tensor;
use serde_json::Value;

use crate::{
    compute::{Attention, Sight},
    error::{Code, Error, Result},
    io::Checkpoint,
    model::{
        batch::{Rows, Stack},
        config::{architecture, only, unsupported},
        family::State,
        lanes::Lanes,
        load::{LinearShape, Loader},
        projection::Projection,
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

    pub(super) const fn rows(self) -> Rows {
        match self {
            Self::Encoder => Rows::Tokens,
            Self::Decoder => Rows::Targets,
        }
    }

    /// What a token of the stack sees of its own sample.
    pub(super) const fn sight(self) -> Sight {
        match self {
            Self::Encoder => Sight::FULL,
            Self::Decoder => Sight::CAUSAL,
        }
    }

    /// The stack's hidden states.
    ///
    /// # Errors
    /// [`Code::SamplesInvalid`] if the samples have nothing for the decoder.
    pub(super) fn of(self, state: &State) -> Result<Tensor<2>> {
        match self {
            Self::Encoder => Ok(state.tokens.clone()),
            Self::Decoder => state.targets.clone().ok_or_else(|| {
                Error::new(
                    Code::SamplesInvalid,
                    "the samples have nothing for the decoder to read; an encoder-decoder needs an answer of each, or its start token",
                )
            }),
        }
    }

    /// The state with other hidden states of the stack.
    pub(super) fn put(self, state: State, x: Tensor<2>) -> State {
        match self {
            Self::Encoder => state.with_tokens(x),
            Self::Decoder => State {
                targets: Some(x),
                ..state
            },
        }
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

/// The four layers and what is computed between them.
pub(super) struct MultiHead {
    query: Projection,
    key: Projection,
    value: Projection,
    output: Projection,
    how: Attention,
}

/// What the layers are called below the attention, query, key, value and output.
pub(super) type Names = [&'static str; 4];

/// The layers as modules `(name, d_out, d_in)`, in the order of the forward pass; `inner` is the width of
/// all heads.
pub(super) fn layers(path: &str, names: Names, width: usize, inner: usize) -> [(String, usize, usize); 4] {
    let [query, key, value, output] = names.map(|name| format!("{path}.{name}"));
    [
        (query, inner, width),
        (key, inner, width),
        (value, inner, width),
        (output, width, inner),
    ]
}

impl MultiHead {
    /// Reads the layers below `path`, which in the checkpoint is behind `prefix`; hidden states are
    /// `width` wide.
    ///
    /// # Errors
    /// As [`Loader::linear`].
    pub(super) async fn read(
        loader: &Loader<'_>,
        (prefix, path): (&str, &str),
        names: Names,
        (width, bias): (usize, bool),
        how: Attention,
    ) -> Result<Self> {
        let inner = how.heads * how.head_size;
        let read = async |name: &str, d_out, d_in| {
            let name = format!("{path}.{name}");
            let key = format!("{prefix}{name}");
            let shape = LinearShape::new(d_out, d_in).biased(bias);
            loader.linear(name, &key, shape).await
        };
        Ok(Self {
            query: read(names[0], inner, width).await?,
            key: read(names[1], inner, width).await?,
            value: read(names[2], inner, width).await?,
            output: read(names[3], width, inner).await?,
            how,
        })
    }

    /// Self-attention of `x`, which are `rows`.
    ///
    /// # Errors
    /// As [`Lanes::group`].
    pub(super) async fn to_itself(
        &self,
        lanes: &Lanes<'_>,
        stack: &Stack<'_>,
        rows: Rows,
        x: Tensor<2>,
    ) -> Result<Tensor<2>> {
        let projections = [&self.query, &self.key, &self.value];
        let projected = lanes.group(stack, rows, projections, x).await?;
        let context = lanes.attend(stack, rows, &self.query.name, projected, &self.how);
        lanes.linear(stack, rows, &self.output, context).await
    }

    /// Attention of a decoder's rows `x` to the encoder's output.
    ///
    /// # Errors
    /// As [`Lanes::group`].
    pub(super) async fn to_encoder(
        &self,
        lanes: &Lanes<'_>,
        stack: &Stack<'_>,
        x: Tensor<2>,
        encoder: &Tensor<2>,
    ) -> Result<Tensor<2>> {
        let rows = Rows::Targets;
        let query = lanes.linear(stack, rows, &self.query, x).await?;
        let keys_values = async || {
            lanes
                .group(stack, Rows::Tokens, [&self.key, &self.value], encoder.clone())
                .await
        };
        let context = lanes
            .attend_encoder(stack, &self.query.name, query, keys_values, &self.how)
            .await?;
        lanes.linear(stack, rows, &self.output, context).await
    }

    pub(super) const fn linears(&self) -> [&Projection; 4] {
        [&self.query, &self.key, &self.value, &self.output]
    }
}
