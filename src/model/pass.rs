//! Passes of a model: its blocks run over stacks of lanes.
//!
//! A pass holds one block's weights, the next one's on their way, and the lanes' states and nothing else, unless the
//! whole model is small enough to be kept between passes.

use std::{
    cell::{Cell, RefCell},
    collections::{BTreeMap, BTreeSet},
    ops::Range,
    pin::pin,
    rc::Rc,
};

use burn::tensor::Tensor;
use futures_util::{
    future::{Either, select},
    stream::{FuturesUnordered, TryStreamExt},
};
use serde_json::Value;

use crate::{
    compute::{Cache, Compute, Stage},
    error::{Code, Error, Result},
    io::{Checkpoint, Folder},
    model::{
        batch::{Batch, Lengths, Padding, Sample, Stack, longest, micro_batches, working_rows},
        family::{Block, Family, Heads, ModelFacts, Module},
        generation::GenerationConfig,
        lanes::{Hook, Lanes, bias_of},
        limits::{self, Weights, WorkloadEstimate},
        lm_head,
        load::{Fetched, Loader, fetch},
        projection::Projection,
        state::State,
        streams::StreamId,
    },
    progress::{Observer, Progress},
};

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
    kept_head: RefCell<lm_head::Kept>,
}

impl Model {
    pub(super) fn new(
        family: Box<dyn Family>,
        checkpoint: Checkpoint,
        folder: Folder,
        config: Value,
        generation: GenerationConfig,
    ) -> Self {
        Self {
            family,
            checkpoint,
            folder,
            config,
            generation,
            kept: RefCell::default(),
            kept_head: RefCell::default(),
        }
    }

    /// Whether the device can hold the model's largest block with this load.
    ///
    /// # Errors
    /// [`Code::DeviceLimit`] with the numbers.
    pub fn check_fits(&self, compute: &Compute, load: &WorkloadEstimate<'_>) -> Result<()> {
        limits::check(&self.weights(compute), load)
    }

    /// Bytes that a pass with this load must have at once, from below.
    pub fn bytes_needed(&self, compute: &Compute, load: &WorkloadEstimate<'_>) -> f64 {
        self.weights(compute).needed(load)
    }

    fn weights<'a>(&'a self, compute: &'a Compute) -> Weights<'a> {
        Weights {
            family: self.family.as_ref(),
            checkpoint: &self.checkpoint,
            compute,
        }
    }

    /// What a person wants to know of it.
    pub fn facts(&self) -> ModelFacts {
        let (parameters, dtype) = tally(&[&self.checkpoint]);
        let facts = self.family.facts();
        ModelFacts {
            parameters,
            dtype,
            bytes: self.checkpoint.file_bytes(),
            has_tokenizer: self.folder.find("tokenizer.json").is_some(),
            answer_length: facts.kind.answer_length(None),
            ..facts
        }
    }

    /// What the samples of each task are padded to, stream by stream; none where they are not.
    ///
    /// # Errors
    /// [`Code::SamplesInvalid`] if a task has no samples.
    pub fn padded(&self, tasks: &[&[Sample]], padding: Padding) -> Result<Option<Lengths>> {
        let lengths = longest(self.family.streams(), tasks)?;
        Ok((padding == Padding::Include).then_some(lengths))
    }

    /// The tasks' samples as micro-batches; see [`micro_batches`].
    ///
    /// # Errors
    /// As [`micro_batches`], and as [`padded`](Self::padded).
    pub fn micro_batches(
        &self,
        tasks: &[&[Sample]],
        padding: Padding,
        most_rows: usize,
    ) -> Result<Vec<Batch>> {
        let padded = self.padded(tasks, padding)?;
        self.micro_batches_of(tasks, padded.as_ref(), most_rows)
    }

    /// The micro-batches of samples of which others may have more; see [`micro_batches`].
    ///
    /// # Errors
    /// As [`micro_batches`].
    pub fn micro_batches_of(
        &self,
        tasks: &[&[Sample]],
        padded: Option<&Lengths>,
        most_rows: usize,
    ) -> Result<Vec<Batch>> {
        let family = &self.family;
        micro_batches(family.streams(), tasks, padded, family.pad_id(), most_rows)
    }

    /// The rows that its blocks work on for a sample, which of a picture are not its pixels.
    pub fn rows(&self, sample: &Sample) -> usize {
        working_rows(self.family.streams(), sample)
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
        let load = WorkloadEstimate::of(batches, hook.variants(), solved);
        self.check_fits(pass.compute, &load)?;
        let loader = self.loader(pass);
        let lanes = Lanes::new(pass.compute, hook, pass.targeted, batches.len());
        let mut states = Vec::with_capacity(batches.len());
        for batch in batches {
            states.push(self.embed(&loader, batch).await?);
        }
        let mut variants = 1;
        let mut ahead = None;
        for index in 0..pass.until {
            pass.observer
                .progress(Progress {
                    stage: pass.steps.stage,
                    layer: format!("block {} of {}", index + 1, pass.until),
                    done: pass.steps.done(),
                    total: pass.steps.total(),
                    seconds: pass.compute.meter.elapsed(),
                    written: None,
                })
                .await?;
            let block = self.block(pass, index, ahead.take()).await?;
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
            (states, ahead) = self
                .ahead_of(pass, index + 1, Some(&load), all_or_first_error(work))
                .await?;
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
        let lanes = match cache {
            Some(cache) => Lanes::with_cache(pass.compute, hook, pass.targeted, cache),
            None => Lanes::new(pass.compute, hook, pass.targeted, 1),
        };
        let stack = Stack::new(batch, 1);
        let mut ahead = None;
        for index in blocks.clone() {
            let block = self.block(pass, index, ahead.take()).await?;
            let work = block.forward(&lanes, &stack, state);
            (state, ahead) = match index + 1 {
                next if blocks.contains(&next) => self.ahead_of(pass, next, None, work).await?,
                _ => (work.await?, None),
            };
        }
        pass.compute.cleanup();
        Ok(state)
    }

    /// The state that enters the first block.
    ///
    /// # Errors
    /// Whatever reading weights reports, and token ids outside the vocabulary.
    pub async fn embed(&self, loader: &Loader<'_>, batch: &Batch) -> Result<State> {
        let mut state = State::default();
        for (at, (stream, rows)) in self.family.streams().iter().zip(batch.streams()).enumerate() {
            if stream.rows.is_input() && rows.rows > 0 {
                let stream = StreamId::new(at);
                state = state.with(stream, self.family.embed(loader, batch, stream).await?);
            }
        }
        Ok(state)
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
        let keep = 4 * head.vocab_size * head.hidden_size <= pass.compute.kept_bytes;
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
            stays: self.weights(pass.compute).stay(),
            fetched: RefCell::default(),
        }
    }

    /// The block of that place; `ahead` is what was read of it already.
    async fn block(&self, pass: &Pass<'_>, index: usize, ahead: Option<Ahead>) -> Result<Rc<dyn Block>> {
        if let Some(block) = self.kept(pass, index) {
            return Ok(block);
        }
        let loading = async {
            let fetched = match ahead {
                Some(fetched) => fetched?,
                None => self.fetch(index).await?,
            };
            let loader = Loader {
                fetched: RefCell::new(fetched),
                ..self.loader(pass)
            };
            let block = self.family.load(&loader, index, pass.heads).await?;
            if loader.stays && !self.has_own_heads(pass, index) {
                self.kept.borrow_mut().insert(index, Rc::clone(&block));
            }
            Ok(block)
        };
        pass.compute.meter.until(Stage::Load, loading).await
    }

    /// The block as an earlier pass has left it, if it did and it has all that this one needs.
    fn kept(&self, pass: &Pass<'_>, index: usize) -> Option<Rc<dyn Block>> {
        let enough = |block: &Rc<dyn Block>| {
            let wanted = |linear: &&Projection| pass.keep_host && pass.targeted.contains(&linear.name);
            block
                .linears()
                .iter()
                .all(|linear| !wanted(linear) || linear.host.is_some())
        };
        let kept = self.kept.borrow();
        let block = kept.get(&index).filter(|block| enough(block));
        block.filter(|_| !self.has_own_heads(pass, index)).cloned()
    }

    /// Whether a block has layers of the task that is run.
    fn has_own_heads(&self, pass: &Pass<'_>, index: usize) -> bool {
        pass.heads.is_some_and(|heads| !heads.is_empty()) && index + 1 == self.family.blocks()
    }

    async fn fetch(&self, index: usize) -> Ahead {
        let modules = self.family.modules().iter();
        let keys = modules.filter(|module| module.block == index);
        fetch(&self.checkpoint, keys.map(|module| module.key.as_str())).await
    }

    /// What `work` on a block gives, and what was read meanwhile of block `next`, where there is need and room for it.
    /// What went wrong with reading is found there, by who asks for that block.
    async fn ahead_of<T>(
        &self,
        pass: &Pass<'_>,
        next: usize,
        load: Option<&WorkloadEstimate<'_>>,
        work: impl Future<Output = Result<T>>,
    ) -> Result<(T, Option<Ahead>)> {
        let wanted = next < pass.until && self.kept(pass, next).is_none();
        if !wanted || !self.weights(pass.compute).reads_ahead(next, load) {
            return Ok((work.await?, None));
        }
        let meter = &pass.compute.meter;
        let (reading, work) = (pin!(meter.beside(Stage::Load, self.fetch(next))), pin!(work));
        // Reading is asked first, so that files are read while this thread computes.
        match select(reading, work).await {
            Either::Left((fetched, work)) => Ok((work.await?, Some(fetched))),
            Either::Right((done, reading)) => {
                let done = done?;
                Ok((done, Some(meter.until(Stage::Load, reading).await)))
            }
        }
    }
}

/// The weights of a block that were read while the one before was computed on, or what went wrong with it.
type Ahead = Result<Fetched>;

/// How many numbers checkpoints hold, and the element type of most of them.
pub fn tally(checkpoints: &[&Checkpoint]) -> (u64, String) {
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
    /// Layers (and [biases](bias_of) of layers) at which lanes differ, in the family's naming.
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
