//! Base models: opening one, and running blocks of a family over stacks of lanes.
//!
//! A family is one file beside this one and one line in [`open`]. It reads its checkpoint block by
//! block, so that a pass holds one block's weights and the lanes' hidden states and nothing else, and it
//! calls every layer that an adapter may target through [`crate::linear`].

mod bart;
mod bert;
mod config;
mod decoder;
mod distilbert;
mod encoder;
mod encoder_decoder;
mod gemma2;
mod gemma3;
mod generation;
mod gpt;
mod gpt2;
mod gpt_neox;
mod head;
mod limits;
mod llama;
mod load;
mod mistral;
mod modernbert;
mod parts;
mod phi3;
mod pool;
mod qwen2;
mod qwen3;
mod roberta;
mod rope;
mod t5;

use std::{
    cell::{Cell, RefCell},
    collections::{BTreeMap, BTreeSet},
    ops::Range,
    rc::Rc,
};

use async_trait::async_trait;
use burn::tensor::Tensor;
use futures_util::stream::{FuturesUnordered, TryStreamExt};
use serde::Serialize;
use serde_json::Value;

pub(crate) use self::load::transpose;
pub use self::{generation::GenerationConfig, head::LmHead, limits::Load, load::Loader};
use crate::{
    adapter::HeadTensor,
    batch::{Batch, Rows, Stack},
    compute::{Cache, Compute, Stage},
    error::{Code, Error, Result},
    io::{Checkpoint, Folder},
    linear::{Hook, Lanes, Linear, bias_of},
    progress::{Observer, Progress},
};

/// Heads of one task (`modules_to_save`), by tensor name in the base model.
pub type Heads = BTreeMap<String, HeadTensor>;

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
    /// Cannot be run here: its tensors alone are known.
    Weights,
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
}

/// The hidden states of one micro-batch between blocks.
#[derive(Clone)]
pub struct State {
    /// The text's rows, (tokens x hidden); one row a sample behind a pooler.
    pub tokens: Tensor<2>,
    /// The rows of an encoder-decoder's decoder, (targets x hidden); none for other families.
    pub targets: Option<Tensor<2>>,
}

impl State {
    /// The rows that the head reads: the decoder's, where there is one.
    pub fn last(self) -> Tensor<2> {
        self.targets.unwrap_or(self.tokens)
    }

    /// The same with other rows of the text.
    #[must_use]
    pub fn with_tokens(self, tokens: Tensor<2>) -> Self {
        Self { tokens, ..self }
    }

    /// The last of `copies` copies of the rows.
    fn last_copy(self, copies: usize) -> Self {
        let last = |tensor: Tensor<2>| {
            let [rows, columns] = tensor.dims();
            tensor.slice([rows - rows / copies..rows, 0..columns])
        };
        Self {
            tokens: last(self.tokens),
            targets: self.targets.map(last),
        }
    }

    fn repeat(self, copies: usize) -> Self {
        Self {
            tokens: self.tokens.repeat_dim(0, copies),
            targets: self.targets.map(|targets| targets.repeat_dim(0, copies)),
        }
    }
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
    /// How many of them, from the first, are an encoder-decoder's encoder.
    fn encoder_blocks(&self) -> usize {
        0
    }
    /// The token id of padding.
    fn pad_id(&self) -> u32;
    /// The family's name for a module path of an adapter, which may carry a prefix of the class it was
    /// trained with.
    fn canonical<'a>(&self, module: &'a str) -> &'a str;
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
    /// The head that turns the last block's rows into logits over the vocabulary; none for an encoder.
    fn head(&self) -> Option<LmHead> {
        None
    }
    /// The state of the given rows that enters the first block, (rows x hidden), before lanes differ.
    async fn embed(&self, loader: &Loader<'_>, batch: &Batch, rows: Rows) -> Result<Tensor<2>>;
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
    fn linears(&self) -> Vec<&Linear>;
}

/// An opened base model.
pub struct Model {
    /// The family's view of it.
    pub family: Box<dyn Family>,
    /// Its tensors.
    pub checkpoint: Checkpoint,
    /// Its files.
    pub folder: Folder,
    /// `config.json`.
    pub config: Value,
    /// How the model begins and ends what it writes.
    pub generation: GenerationConfig,
    /// Blocks kept between passes, for models that fit the memory several times over.
    kept: RefCell<BTreeMap<usize, Rc<dyn Block>>>,
    /// The head's parts, kept likewise.
    kept_head: RefCell<head::Kept>,
}

/// Weights of a model are kept in memory between passes if they take at most this many bytes as f32.
const KEEP_BYTES: usize = 1536 << 20;

/// A family's constructor: it reads the parts of `config.json` that it depends on, refuses options that
/// change the mathematics and that it does not handle, and looks into the checkpoint for names.
type Open = fn(&Value, &Checkpoint) -> Result<Box<dyn Family>>;

/// Every family, by `model_type` of `config.json`.
const FAMILIES: &[(&str, Open)] = &[
    ("bart", bart::open),
    ("bert", bert::open),
    ("distilbert", distilbert::open),
    ("gemma2", gemma2::open),
    ("gemma3", gemma3::open_multimodal),
    ("gemma3_text", gemma3::open),
    ("gpt2", gpt2::open),
    ("gpt_neox", gpt_neox::open),
    ("llama", llama::open),
    ("mistral", mistral::open),
    ("modernbert", modernbert::open),
    ("mt5", t5::open),
    ("phi3", phi3::open),
    ("qwen2", qwen2::open),
    ("qwen3", qwen3::open),
    ("roberta", roberta::open),
    ("t5", t5::open),
    ("xlm-roberta", roberta::open_multilingual),
];

/// Names of the families.
pub fn supported() -> String {
    let supported: Vec<&str> = FAMILIES.iter().map(|(name, _)| *name).collect();
    supported.join(", ")
}

/// Opens the base model in a folder: `config.json`, its safetensors, and `generation_config.json`.
///
/// # Errors
/// [`Code::Missing`] without a configuration or weights, [`Code::ModelUnsupported`] for a family that is
/// not here, and whatever is wrong with the files.
pub async fn open(folder: Folder) -> Result<Model> {
    let config: Value = folder.read_json("config.json").await?.ok_or_else(|| {
        Error::new(
            Code::Missing,
            format!(
                "{}: no config.json; drop the whole folder of the base model as it was downloaded",
                folder.label()
            ),
        )
    })?;
    let checkpoint = Checkpoint::open(&folder, "model").await?;
    let kind = config.get("model_type").and_then(Value::as_str).unwrap_or("");
    let Some((_, family)) = FAMILIES.iter().find(|(name, _)| *name == kind) else {
        return Err(Error::new(
            Code::ModelUnsupported,
            format!(
                "{}: config.json says model_type \"{kind}\"; supported: {}",
                folder.label(),
                supported()
            ),
        ));
    };
    let family = family(&config, &checkpoint)?;
    let generation = GenerationConfig::read(&folder, &config).await?;
    Ok(Model {
        family,
        checkpoint,
        folder,
        config,
        generation,
        kept: RefCell::default(),
        kept_head: RefCell::default(),
    })
}

impl Model {
    /// What a person wants to know of it.
    pub fn facts(&self) -> ModelFacts {
        let (parameters, dtype) = tally(&[&self.checkpoint]);
        ModelFacts {
            parameters,
            dtype,
            bytes: self.checkpoint.file_bytes(),
            has_tokenizer: self.folder.find("tokenizer.json").is_some(),
            ..self.family.facts()
        }
    }

    /// The module of that name in the family's naming.
    pub fn module(&self, canonical: &str) -> Option<&Module> {
        self.family.modules().iter().find(|m| m.name == canonical)
    }

    /// Runs the micro-batches through blocks `0..until` under `hook`; the state that results of each, and
    /// how many copies of its rows that has.
    ///
    /// Lanes split at the first block with a layer in `targeted`; before it there is one copy. Where the hook lets
    /// them rejoin, they do so at the end of a block, and split again at the next such block.
    ///
    /// # Errors
    /// Whatever reading weights, the hook or the device reports, and cancellation.
    pub async fn run(
        &self,
        pass: &Pass<'_>,
        batches: &[Batch],
        hook: &dyn Hook,
    ) -> Result<Vec<(State, usize)>> {
        let solved = pass.keep_host.then_some((pass.targeted, hook.tasks()));
        self.check_fits(pass.compute, &Load::of(batches, hook.variants(), solved))?;
        let loader = self.loader(pass);
        let lanes = Lanes::new(pass.compute, hook, pass.targeted, batches.len());
        let mut states = Vec::with_capacity(batches.len());
        for batch in batches {
            states.push(self.embed(&loader, batch).await?);
        }
        let mut variants = 1;
        for index in 0..pass.until {
            pass.observer
                .progress(Progress {
                    stage: pass.steps.stage,
                    layer: format!("block {} of {}", index + 1, pass.until),
                    done: pass.steps.done(),
                    total: pass.steps.total(),
                    seconds: pass.compute.meter.elapsed(),
                })
                .await?;
            let block = self.block(&loader, index, pass.heads).await?;
            let differs = block.linears().iter().any(|linear| {
                pass.targeted.contains(&linear.name) || pass.targeted.contains(&bias_of(&linear.name))
            });
            if variants < hook.variants() && differs {
                variants = hook.variants();
                states = states.into_iter().map(|state| state.repeat(variants)).collect();
            }
            let work = batches.iter().zip(states).map(|(batch, state)| {
                let (lanes, block) = (&lanes, &block);
                async move { block.forward(lanes, &Stack::new(batch, variants), state).await }
            });
            states = all_or_first_error(work).await?;
            if hook.rejoins() {
                states = states
                    .into_iter()
                    .map(|state| state.last_copy(variants))
                    .collect();
                variants = 1;
            }
            pass.compute.cleanup();
            pass.steps.advance();
        }
        Ok(states.into_iter().map(|state| (state, variants)).collect())
    }

    /// One step of a generation: `state` through `blocks`, attentions through `cache` if there is one.
    ///
    /// # Errors
    /// As [`run`](Self::run), but for cancellation.
    pub async fn step(
        &self,
        pass: &Pass<'_>,
        batch: &Batch,
        hook: &dyn Hook,
        cache: Option<&Cache>,
        (mut state, blocks): (State, Range<usize>),
    ) -> Result<State> {
        let loader = self.loader(pass);
        let lanes = match cache {
            Some(cache) => Lanes::with_cache(pass.compute, hook, pass.targeted, cache),
            None => Lanes::new(pass.compute, hook, pass.targeted, 1),
        };
        let stack = Stack::new(batch, 1);
        for index in blocks {
            let block = self.block(&loader, index, pass.heads).await?;
            state = block.forward(&lanes, &stack, state).await?;
        }
        pass.compute.cleanup();
        Ok(state)
    }

    /// The state that enters the first block.
    ///
    /// # Errors
    /// Whatever reading weights reports, and token ids outside the vocabulary.
    pub async fn embed(&self, loader: &Loader<'_>, batch: &Batch) -> Result<State> {
        let targets = if batch.targets.ids.is_empty() {
            None
        } else {
            Some(self.family.embed(loader, batch, Rows::Targets).await?)
        };
        Ok(State {
            tokens: self.family.embed(loader, batch, Rows::Tokens).await?,
            targets,
        })
    }

    /// Logits (rows x vocabulary, row-major) of hidden states (rows x hidden) behind the last block.
    ///
    /// # Errors
    /// [`Code::ModelUnsupported`] for a model without a language model's head, and whatever reading it
    /// reports.
    pub async fn logits(&self, pass: &Pass<'_>, hidden: Tensor<2>) -> Result<Vec<f32>> {
        let head = self.family.head().ok_or_else(|| {
            let facts = self.family.facts();
            Error::new(
                Code::ModelUnsupported,
                format!(
                    "{} ({}) has no head that writes text; give the checkpoint of the language model itself",
                    self.folder.label(),
                    facts.architecture
                ),
            )
        })?;
        let keep = 4 * head.vocab_size * head.hidden_size <= KEEP_BYTES;
        let mut kept = self.kept_head.take();
        let logits = head.logits(&self.loader(pass), hidden, &mut kept, keep).await;
        self.kept_head.replace(kept);
        logits
    }

    /// The reader of weights for a pass.
    pub fn loader<'a>(&'a self, pass: &Pass<'a>) -> Loader<'a> {
        Loader {
            checkpoint: &self.checkpoint,
            compute: pass.compute,
            keep_host: pass.keep_host.then_some(pass.targeted),
        }
    }

    async fn block(&self, loader: &Loader<'_>, index: usize, heads: Option<&Heads>) -> Result<Rc<dyn Block>> {
        let own_heads = heads.is_some_and(|heads| !heads.is_empty()) && index + 1 == self.family.blocks();
        let enough = |block: &Rc<dyn Block>| {
            let wanted =
                |linear: &&Linear| loader.keep_host.is_some_and(|names| names.contains(&linear.name));
            block
                .linears()
                .iter()
                .all(|linear| !wanted(linear) || linear.host.is_some())
        };
        if !own_heads && let Some(block) = self.kept.borrow().get(&index).filter(|block| enough(block)) {
            return Ok(Rc::clone(block));
        }
        let start = loader.compute.meter.elapsed();
        let block = self.family.load(loader, index, heads).await?;
        loader.compute.meter.add_since(Stage::Load, start);
        let bytes: usize = self.family.modules().iter().map(|m| 4 * m.d_in * m.d_out).sum();
        if !own_heads && bytes <= KEEP_BYTES {
            self.kept.borrow_mut().insert(index, Rc::clone(&block));
        }
        Ok(block)
    }
}

/// How many numbers checkpoints hold, and the element type of most of them.
pub(crate) fn tally(checkpoints: &[&Checkpoint]) -> (u64, String) {
    let mut by_type: BTreeMap<String, usize> = BTreeMap::new();
    let mut parameters = 0u64;
    for info in checkpoints.iter().flat_map(|checkpoint| checkpoint.infos()) {
        parameters += info.elements() as u64;
        *by_type.entry(format!("{:?}", info.dtype)).or_default() += info.elements();
    }
    let dtype = by_type.into_iter().max_by_key(|(_, count)| *count);
    (parameters, dtype.map(|(name, _)| name).unwrap_or_default())
}

/// How a forward pass is to be run.
pub struct Pass<'a> {
    /// The device.
    pub compute: &'a Compute,
    /// Layers (and [biases](crate::linear::bias_of) of layers) at which lanes differ, in the family's naming.
    pub targeted: &'a BTreeSet<String>,
    /// Whether W0 of targeted layers stays in memory beside its device form.
    pub keep_host: bool,
    /// Blocks to run.
    pub until: usize,
    /// The task's own heads, where one task alone is run.
    pub heads: Option<&'a Heads>,
    /// Told of every block.
    pub observer: &'a dyn Observer,
    /// Counted a block at a time.
    pub steps: &'a Steps,
}

/// How far work of several passes is, in blocks.
pub struct Steps {
    stage: &'static str,
    done: Cell<usize>,
    total: usize,
}

impl Steps {
    /// `total` steps to do; `stage` is what progress events call them.
    pub const fn new(stage: &'static str, total: usize) -> Self {
        Self {
            stage,
            done: Cell::new(0),
            total,
        }
    }

    /// Steps done.
    pub const fn done(&self) -> usize {
        self.done.get()
    }

    /// Steps in all.
    pub const fn total(&self) -> usize {
        self.total
    }

    fn advance(&self) {
        self.done.set(self.done.get() + 1);
    }
}

/// All results in the order of `work`, or the first error at once.
///
/// Not `try_join_all`: given more than 30 futures it hands results on in order, so that an error of one
/// micro-batch is never seen while those before it wait for that one in a meeting.
async fn all_or_first_error<T>(
    work: impl Iterator<Item = impl Future<Output = Result<T>>>,
) -> Result<Vec<T>> {
    let mut running: FuturesUnordered<_> = work
        .enumerate()
        .map(|(index, one)| async move { one.await.map(|done| (index, done)) })
        .collect();
    let mut done = Vec::new();
    while let Some(one) = running.try_next().await? {
        done.push(one);
    }
    done.sort_by_key(|(index, _)| *index);
    Ok(done.into_iter().map(|(_, value)| value).collect())
}
