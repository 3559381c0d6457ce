//! What a model family is to the rest: its modules, its blocks, and what goes from block to block.

use std::{borrow::Cow, collections::BTreeMap, rc::Rc};

use async_trait::async_trait;
use burn::tensor::Tensor;
use serde::Serialize;
use serde_json::Value;

use crate::{
    compute::Windows,
    error::Result,
    io::{Checkpoint, StoredTensor},
    model::{
        batch::{Batch, Stack},
        generation::GenerationConfig,
        lanes::Lanes,
        lm_head::LmHead,
        load::Loader,
        projection::Projection,
        state::State,
        streams::{Stream, StreamId},
    },
    naming::family::FamilyNames,
};

/// Heads of one task (`modules_to_save`), by tensor name in the base model.
pub type Heads = BTreeMap<String, StoredTensor>;

/// A layer that adapters may target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Module {
    /// Its name in the family's naming, e.g. `encoder.layer.0.attention.self.query`.
    pub name: String,
    /// The checkpoint's key of its weight.
    pub key: String,
    /// Outputs.
    pub d_out: usize,
    /// Inputs.
    pub d_in: usize,
    /// The block it is in.
    pub block: usize,
    /// Whether the checkpoint has its weight as (d_in x d_out), as GPT-2's `Conv1D` does.
    pub transposed: bool,
    /// The windows of a convolution, whose `d_in` is channels x kernel area.
    pub windows: Option<Windows>,
}

/// What a family's models read and write.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// Reads a text.
    #[default]
    Encoder,
    /// Reads a text and goes on with it.
    Decoder,
    /// Reads a text and writes another.
    EncoderDecoder,
    /// Reads a picture.
    ImageEncoder,
    /// Reads a picture, a text, or both, in one space of embeddings.
    ImageTextEncoder,
    /// Reads a picture and writes what is to be seen.
    ImageToText,
    /// Cannot be run here: its tensors alone are known.
    Weights,
}

impl Kind {
    /// Whether what it writes is a text of its own, in a stream behind that of what it reads, and no continuation.
    pub const fn answers_apart(self) -> bool {
        matches!(self, Self::EncoderDecoder | Self::ImageToText)
    }

    /// Tokens of an answer that an adapter writes, at most: so many as are asked for, or as models of this kind write.
    pub fn answer_length(self, asked: Option<usize>) -> usize {
        asked.unwrap_or(match self {
            // As the paper's captions.
            Self::ImageToText => 12,
            _ => 16,
        })
    }
}

/// What a person wants to know of a base model before merging.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ModelFacts {
    /// The family, e.g. `bert`.
    pub family: String,
    /// What its models read and write.
    pub kind: Kind,
    /// Whether it can write text: a language model with its head.
    pub generates: bool,
    /// Tokens of an answer that an adapter writes, at most, where a caller asks for no other number.
    pub answer_length: usize,
    /// The architecture that the configuration names.
    pub architecture: String,
    /// Numbers in the checkpoint.
    pub parameters: u64,
    /// Width of the hidden states.
    pub hidden_size: usize,
    /// Transformer layers.
    pub layers: usize,
    /// Attention heads.
    pub heads: usize,
    /// The longest sample in tokens.
    pub max_length: usize,
    /// Token ids below this one.
    pub vocab_size: usize,
    /// Element type of most weights.
    pub dtype: String,
    /// Bytes of the weight files.
    pub bytes: u64,
    /// Whether there is a `tokenizer.json`.
    pub has_tokenizer: bool,
    /// Whether the checkpoint has what a classifier needs before its head.
    pub has_pooler: bool,
    /// The pictures that it reads, if it does.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub picture: Option<PictureFacts>,
}

impl ModelFacts {
    /// What is wrong with token ids that are not all in the vocabulary.
    pub fn unknown_token(&self, ids: &[u32]) -> Option<String> {
        let id = ids.iter().find(|&&id| id as usize >= self.vocab_size)?;
        Some(format!(
            "token id {id} is outside the vocabulary of {}; the tokenizer is of another model",
            self.vocab_size
        ))
    }

    /// What is wrong with so many tokens, where the model has not as many positions.
    pub fn too_long(&self, tokens: usize) -> Option<String> {
        (tokens > self.max_length).then(|| format!("{tokens} tokens, the model takes {}", self.max_length))
    }
}

/// What a model's pictures are like, preprocessed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct PictureFacts {
    /// Numbers a pixel.
    pub channels: usize,
    /// Pixels from top to bottom.
    pub height: usize,
    /// Pixels from left to right.
    pub width: usize,
}

/// How alike a model says that a picture and a text are: exp(scale) cos(picture, text) + bias, over their embeddings
/// ([`Family::output`], [`Family::text_output`]).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Similarity {
    /// The checkpoint's key of the scale, of one number.
    pub scale: String,
    /// That of the bias, of one number; none where there is none (CLIP).
    pub bias: Option<String>,
}

/// A model family over one checkpoint.
#[async_trait(?Send)]
pub trait Family {
    /// Its facts, but for those that the files alone tell (parameters, bytes, element type, tokenizer).
    fn facts(&self) -> ModelFacts;
    /// Every layer that an adapter may target, in the order of the forward pass.
    fn modules(&self) -> &[Module];
    /// How many blocks a forward pass has.
    fn blocks(&self) -> usize;
    /// How many of them, from the first, read what comes first alone: an encoder-decoder's encoder, a picture's tower.
    fn encoder_blocks(&self) -> usize {
        0
    }
    /// The token id of padding.
    fn pad_id(&self) -> u32;
    /// The family's name for a module path of an adapter, which may carry a prefix of the class it was
    /// trained with.
    fn canonical<'a>(&self, module: &'a str) -> Cow<'a, str> {
        self.names().canonical(module)
    }
    /// What its modules are called in checkpoints and adapters.
    fn names(&self) -> FamilyNames;
    /// Whether a tensor is of a head that only follows the model's features (a pooler, a classifier), so
    /// that merging may ignore a task's own.
    fn is_readout(&self, head: &str) -> bool {
        self.readouts()
            .iter()
            .any(|name| head.strip_prefix(name).is_some_and(|rest| rest.starts_with('.')))
    }
    /// Names of a classifier's weight and bias in a checkpoint or an adapter, in the order they are looked
    /// for.
    fn readouts(&self) -> &'static [&'static str];
    /// The layer of the last block that a classifier cannot do without, where it is the classifier's own:
    /// among a task's heads, or in the checkpoint.
    fn readouts_need(&self) -> Option<&'static str> {
        None
    }
    /// How it begins and ends what it writes, where it goes by rules of its own and not by `generation_config.json`.
    fn generation(&self) -> Option<GenerationConfig> {
        None
    }
    /// The head that turns the last block's rows into logits over the vocabulary; none for an encoder.
    fn head(&self) -> Option<LmHead> {
        None
    }
    /// Its streams, those of inputs first.
    fn streams(&self) -> &[Stream];
    /// The stream that a head reads behind the last block: one row a sample, or a text of which a classifier reads the
    /// last token.
    fn output(&self) -> StreamId;
    /// Numbers a row of [`output`](Self::output), with a task's own `heads` as they are given to [`load`](Self::load): what
    /// a classifier reads.
    fn features_width(&self, _heads: &Heads) -> usize {
        self.facts().hidden_size
    }
    /// The stream of inputs that is a text beside a picture; none where there is no such.
    fn text_stream(&self) -> Option<StreamId> {
        None
    }
    /// The stream of the text's embedding behind the last block, one row a sample, in one space with
    /// [`output`](Self::output), which is the picture's; neither is normalised.
    fn text_output(&self) -> Option<StreamId> {
        None
    }
    /// How pictures and texts are held against each other, where the checkpoint says so.
    fn similarity(&self) -> Option<Similarity> {
        None
    }
    /// The rows of an input stream that enter the first block, (rows x width), before lanes differ.
    async fn embed(&self, loader: &Loader<'_>, batch: &Batch, stream: StreamId) -> Result<Tensor<2>>;
    /// Reads one block. `heads` are the task's own tensors, where one task alone is run; the last block may
    /// have one of them in the place of the base model's (a pooler).
    async fn load(&self, loader: &Loader<'_>, block: usize, heads: Option<&Heads>) -> Result<Rc<dyn Block>>;
}

/// One block's weights and the computation on them.
#[async_trait(?Send)]
pub trait Block {
    /// The state after the block.
    async fn forward(&self, lanes: &Lanes<'_>, stack: &Stack<'_>, state: State) -> Result<State>;
    /// The layers that adapters may target.
    fn linears(&self) -> Vec<&Projection>;
}

/// A family's constructor: it reads the parts of `config.json` that it depends on, refuses options that
/// change the mathematics and that it does not handle, and looks into the checkpoint for names.
pub type Open = fn(&Value, &Checkpoint) -> Result<Box<dyn Family>>;
