//! Writing text: what a model says after a prompt, under each task's adapter.
//!
//! All prompts of all tasks go through the model together, a task being one lane, and every token's keys
//! and values are computed once ([`Cache`]). What can go wrong: a prompt's place among the rows. Answers
//! are returned in the caller's order, whatever order the micro-batches had.

mod choose;

use std::{
    collections::{BTreeMap, BTreeSet},
    rc::Rc,
};

use async_trait::async_trait;
use burn::tensor::Tensor;
use serde::{Deserialize, Serialize};

pub(crate) use self::choose::Chooser;
use crate::{
    compute::{Cache, Compute},
    delta::DeviceDelta,
    error::{Code, Error, Result},
    model::{
        Kind, Model, Pass, State, Steps, WorkloadEstimate,
        batch::{Batch, Padding, Rows, Sample, micro_batches},
        lanes::Hook,
    },
    progress::{Observer, Progress},
};

/// How an answer is written.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all(deserialize = "camelCase"))]
pub struct Sampling {
    /// The most tokens of an answer.
    pub max_new_tokens: usize,
    /// 0 takes the likeliest token each time; above, tokens are drawn from softmax(logits / temperature).
    pub temperature: f64,
    /// Tokens are drawn from the fewest that have this much of the probability together.
    pub top_p: f64,
    /// Of the draws.
    pub seed: u64,
}

impl Default for Sampling {
    fn default() -> Self {
        Self {
            max_new_tokens: 16,
            temperature: 0.0,
            top_p: 1.0,
            seed: 0,
        }
    }
}

impl Sampling {
    /// The likeliest tokens, at most `max_new_tokens` of them.
    pub fn greedy(max_new_tokens: usize) -> Self {
        Self {
            max_new_tokens,
            ..Self::default()
        }
    }

    /// Checks every range.
    ///
    /// # Errors
    /// [`Code::OptionInvalid`] naming the option.
    pub fn check(&self) -> Result<()> {
        let refuse = |what: String| Err(Error::new(Code::OptionInvalid, what));
        if !(1..=MOST_NEW_TOKENS).contains(&self.max_new_tokens) {
            return refuse(format!(
                "maxNewTokens is {}; give 1 to {MOST_NEW_TOKENS} tokens",
                self.max_new_tokens
            ));
        }
        if !(0.0..=100.0).contains(&self.temperature) {
            return refuse(format!(
                "temperature is {}; give 0 for the likeliest token, or up to 100",
                self.temperature
            ));
        }
        if !(self.top_p > 0.0 && self.top_p <= 1.0) {
            return refuse(format!(
                "topP is {}; give a number above 0 and up to 1",
                self.top_p
            ));
        }
        Ok(())
    }
}

/// Tokens of an answer that nobody waits for in vain.
const MOST_NEW_TOKENS: usize = 16384;

/// One task's prompts and the adapter that answers them.
pub struct Speaker<'a> {
    /// Its name, for messages.
    pub name: &'a str,
    /// What its adapter adds, by module.
    pub deltas: &'a BTreeMap<String, Rc<DeviceDelta>>,
    /// Token ids of each prompt: what a decoder-only model goes on with, or an encoder reads.
    pub prompts: Vec<Vec<u32>>,
}

/// What was written after one prompt.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Answer {
    /// The new tokens, the stop token among them if it was reached.
    pub ids: Vec<u32>,
    /// Whether a stop token ended it.
    pub finished: bool,
}

/// Rows of a micro-batch: bounds the keys and values that are kept.
const MICRO_BATCH_ROWS: usize = 4096;

/// Where a generation runs.
pub struct Scene<'a> {
    /// The base model.
    pub model: &'a Model,
    /// The device.
    pub compute: &'a Compute,
    /// Modules whose W0 stays in memory beside its device form, for a merge that follows.
    pub keep_host: Option<&'a BTreeSet<String>>,
    /// Told of every token; may cancel.
    pub observer: &'a dyn Observer,
}

/// The answers of every speaker to its prompts, in the order given.
///
/// # Errors
/// [`Code::ModelUnsupported`] if the model does not write text, [`Code::SamplesInvalid`] for a prompt
/// that leaves no room for an answer, and whatever reading weights or the device reports.
pub async fn generate(
    scene: &Scene<'_>,
    speakers: &[Speaker<'_>],
    how: &Sampling,
) -> Result<Vec<Vec<Answer>>> {
    how.check()?;
    let model = scene.model;
    let facts = model.family.facts();
    if !facts.generates {
        return Err(Error::new(
            Code::ModelUnsupported,
            format!(
                "{} ({}) is no model that writes text; generation needs a decoder with its language model head",
                model.folder.label(),
                facts.architecture
            ),
        ));
    }
    let prompts: Vec<Vec<Sample>> = speakers
        .iter()
        .map(|speaker| prompts_of(scene, speaker, how))
        .collect::<Result<_>>()?;
    let tasks: Vec<&[Sample]> = prompts.iter().map(Vec::as_slice).collect();
    let batches = micro_batches(&tasks, Padding::Exclude, model.family.pad_id(), MICRO_BATCH_ROWS)?;

    model.check_fits(scene.compute, &WorkloadEstimate::of(&batches, 1, None))?;

    let _generating = scene.compute.meter.generating();
    let deltas = Voices {
        tasks: speakers.iter().map(|speaker| speaker.deltas).collect(),
    };
    let mut targeted: BTreeSet<String> = speakers
        .iter()
        .flat_map(|speaker| speaker.deltas.keys().cloned())
        .collect();
    targeted.extend(scene.keep_host.into_iter().flatten().cloned());
    let steps = Steps::new("generate", 0);
    let pass = Pass {
        compute: scene.compute,
        targeted: &targeted,
        keep_host: scene.keep_host.is_some(),
        until: model.family.blocks(),
        heads: None,
        observer: scene.observer,
        steps: &steps,
    };
    let mut answers: Vec<Vec<Answer>> = tasks
        .iter()
        .map(|task| vec![Answer::default(); task.len()])
        .collect();
    let all: usize = tasks.iter().map(|task| task.len()).sum();
    let mut before = 0;
    for batch in &batches {
        let session = Session {
            scene,
            pass: &pass,
            hook: &deltas,
            batch,
            how,
            counted: (before, all),
        };
        for (place, answer) in batch.places.iter().zip(session.run(&tasks).await?) {
            answers[place.task][place.sample] = answer;
        }
        before += batch.places.len();
    }
    Ok(answers)
}

/// A speaker's prompts as samples, the decoder's start token among them where there is one.
fn prompts_of(scene: &Scene<'_>, speaker: &Speaker<'_>, how: &Sampling) -> Result<Vec<Sample>> {
    let model = scene.model;
    let facts = model.family.facts();
    let targets = match facts.kind {
        Kind::EncoderDecoder => vec![decoder_start(model)?],
        _ => Vec::new(),
    };
    let sample = |(index, ids): (usize, &Vec<u32>)| {
        let refuse = |what: String| {
            Err(Error::new(
                Code::SamplesInvalid,
                format!("{}, prompt {}: {what}", speaker.name, index + 1),
            ))
        };
        let room = match facts.kind {
            Kind::EncoderDecoder => ids.len(),
            _ => ids.len() + how.max_new_tokens,
        };
        if room > facts.max_length {
            return refuse(format!(
                "{} tokens and {} to be written, the model takes {}; shorten the prompt or set maxNewTokens",
                ids.len(),
                how.max_new_tokens,
                facts.max_length
            ));
        }
        if let Some(id) = ids.iter().find(|&&id| id as usize >= facts.vocab_size) {
            return refuse(format!(
                "token id {id} is outside the vocabulary of {}; the tokenizer is of another model",
                facts.vocab_size
            ));
        }
        if ids.is_empty() {
            return refuse("no token; give a prompt that the tokenizer makes a token of".into());
        }
        Ok(Sample {
            targets: targets.clone(),
            ..Sample::text(ids.clone())
        })
    };
    speaker.prompts.iter().enumerate().map(sample).collect()
}

/// The first input of an encoder-decoder's decoder.
///
/// # Errors
/// [`Code::ConfigInvalid`] if the model's files do not tell.
pub fn decoder_start(model: &Model) -> Result<u32> {
    model.generation.decoder_start.ok_or_else(|| {
        Error::new(
            Code::ConfigInvalid,
            format!(
                "{}: neither generation_config.json nor config.json has decoder_start_token_id, with which the decoder begins; add it",
                model.folder.label()
            ),
        )
    })
}

/// One lane a task, each under its own adapter.
struct Voices<'a> {
    tasks: Vec<&'a BTreeMap<String, Rc<DeviceDelta>>>,
}

#[async_trait(?Send)]
impl Hook for Voices<'_> {
    fn variants(&self) -> usize {
        1
    }

    fn tasks(&self) -> usize {
        self.tasks.len()
    }

    fn delta(&self, layer: &str, task: usize, _variant: usize) -> Option<Rc<DeviceDelta>> {
        self.tasks[task].get(layer).cloned()
    }
}

/// One micro-batch's generation.
struct Session<'a> {
    scene: &'a Scene<'a>,
    pass: &'a Pass<'a>,
    hook: &'a Voices<'a>,
    batch: &'a Batch,
    how: &'a Sampling,
    /// Prompts answered before, and in all.
    counted: (usize, usize),
}

impl Session<'_> {
    /// The answers, in the order of the batch's places.
    async fn run(&self, tasks: &[&[Sample]]) -> Result<Vec<Answer>> {
        let model = self.scene.model;
        let cache = Cache::default();
        let facts = model.family.facts();
        let side = match facts.kind {
            Kind::EncoderDecoder => Rows::Targets,
            _ => Rows::Tokens,
        };
        let places = &self.batch.places;
        let mut choosers: Vec<Chooser<'_>> = places
            .iter()
            .map(|place| {
                let sample = &tasks[place.task][place.sample];
                let read = if side == Rows::Targets {
                    &sample.targets
                } else {
                    &sample.ids
                };
                // A stream of draws for each prompt, whatever micro-batch it is in.
                let stream = (place.task as u64) << 32 | place.sample as u64;
                Chooser::new(&model.generation, self.how, read, stream)
            })
            .collect();

        let loader = model.loader(self.pass);
        let mut state = model.embed(&loader, self.batch).await?;
        let encoder = model.family.encoder_blocks();
        if encoder > 0 {
            state = self.blocks(self.batch, None, (state, 0..encoder)).await?;
        }
        let blocks = encoder..model.family.blocks();
        let memory = state.tokens.clone();
        let mut state = self
            .blocks(self.batch, Some(&cache), (state, blocks.clone()))
            .await?;
        let mut last: Vec<usize> = places
            .iter()
            .map(|place| {
                let rows = if side == Rows::Targets {
                    place.targets
                } else {
                    place.rows
                };
                rows.start + rows.length - 1
            })
            .collect();
        let mut stepped;
        for step in 0..self.how.max_new_tokens {
            self.progress(step, &choosers).await?;
            let hidden = state.last().select(0, self.scene.compute.indices(&last));
            let logits = model.logits(self.pass, hidden).await?;
            for (chooser, logits) in choosers
                .iter_mut()
                .zip(logits.chunks_exact(logits.len() / places.len()))
            {
                chooser.choose(logits);
            }
            if choosers.iter().all(Chooser::finished) || step + 1 == self.how.max_new_tokens {
                break;
            }
            let next: Vec<u32> = choosers
                .iter()
                .map(|chooser| chooser.last().unwrap_or_else(|| model.family.pad_id()))
                .collect();
            let positions: Vec<u32> = choosers.iter().map(Chooser::position).collect();
            stepped = self.batch.step(side, &next, &positions);
            let new = model.family.embed(&loader, &stepped, side).await?;
            let entering = if side == Rows::Targets {
                State {
                    tokens: memory.clone(),
                    targets: Some(new),
                }
            } else {
                State {
                    tokens: new,
                    targets: None,
                }
            };
            state = self
                .blocks(&stepped, Some(&cache), (entering, blocks.clone()))
                .await?;
            last = (0..places.len()).collect();
        }
        Ok(choosers.into_iter().map(Chooser::answer).collect())
    }

    async fn blocks(
        &self,
        batch: &Batch,
        cache: Option<&Cache>,
        work: (State, std::ops::Range<usize>),
    ) -> Result<State> {
        self.scene
            .model
            .step(self.pass, batch, self.hook, cache, work)
            .await
    }

    async fn progress(&self, step: usize, choosers: &[Chooser<'_>]) -> Result<()> {
        let most = self.how.max_new_tokens;
        let done: usize = choosers
            .iter()
            .map(|chooser| if chooser.finished() { most } else { step })
            .sum();
        self.scene
            .observer
            .progress(Progress {
                stage: "generate",
                layer: format!("token {} of at most {most}", step + 1),
                done: self.counted.0 * most + done,
                total: self.counted.1 * most,
                seconds: self.scene.compute.meter.elapsed(),
            })
            .await
    }
}

/// Logits of every row that the head reads, sample after sample: what the model says of each token that
/// it has read. A sample's rows are its tokens, or its decoder's inputs for an encoder-decoder.
///
/// # Errors
/// As [`generate`].
pub async fn logits(
    scene: &Scene<'_>,
    deltas: &BTreeMap<String, Rc<DeviceDelta>>,
    samples: &[Sample],
) -> Result<(usize, Vec<f32>)> {
    let model = scene.model;
    let batches = micro_batches(
        &[samples],
        Padding::Exclude,
        model.family.pad_id(),
        MICRO_BATCH_ROWS,
    )?;
    let hook = Voices { tasks: vec![deltas] };
    let targeted = deltas.keys().cloned().collect();
    let steps = Steps::new("forward", model.family.blocks());
    let pass = Pass {
        compute: scene.compute,
        targeted: &targeted,
        keep_host: false,
        until: model.family.blocks(),
        heads: None,
        observer: scene.observer,
        steps: &steps,
    };
    let mut rows: Vec<Vec<f32>> = vec![Vec::new(); samples.len()];
    let states = model.run(&pass, &batches, &hook).await?;
    for (batch, (state, _)) in batches.iter().zip(states) {
        let decoder = state.targets.is_some();
        let hidden: Tensor<2> = state.last();
        let count = hidden.dims()[0];
        let logits = model.logits(&pass, hidden).await?;
        let vocabulary = logits.len() / count.max(1);
        for place in &batch.places {
            let own = if decoder { place.targets } else { place.rows };
            rows[place.sample] =
                logits[own.start * vocabulary..(own.start + own.length) * vocabulary].to_vec();
        }
    }
    Ok((model.family.facts().vocab_size, rows.concat()))
}
