//! Writing text: what a model says after a prompt, under each task's adapter.
//!
//! All prompts of all tasks go through the model together, a task being one lane, and every token's keys and values are
//! computed once ([`Cache`]). Answers are returned in the caller's order, whatever order the micro-batches had.

mod choose;
mod share;

use std::{
    collections::{BTreeMap, BTreeSet},
    rc::Rc,
};

use async_trait::async_trait;
use burn::tensor::Tensor;
use serde::{Deserialize, Serialize};

pub(crate) use self::choose::Chooser;
use self::share::{Prompts, Shared};
pub use self::share::{Speakers, write_share};
use crate::{
    compute::{Cache, Compute},
    delta::DeviceDelta,
    describe::{Place, Range, Section, Told, options},
    error::{Code, Error, Result},
    model::{
        DECODER, Kind, Model, Pass, State, Steps, TEXT, WorkloadEstimate,
        batch::{Batch, Padding, Sample},
        lanes::Hook,
    },
    progress::{Observer, Progress},
};

/// The tokens of an answer: as many as nobody waits for in vain.
pub const ANSWER_LENGTH: Range = Range::whole(1.0, 16384.0);
/// How far tokens are drawn from the likeliest.
pub const MOST_TEMPERATURE: f64 = 100.0;
/// The probability that the tokens drawn from have together.
pub const TOP_P: Range = Range::above(0.0, 1.0);

options! {
    /// How an answer is written.
    #[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
    #[serde(default, deny_unknown_fields, rename_all(deserialize = "camelCase"))]
    pub struct Sampling {
        /// Tokens of an answer, at most.
        max_new_tokens: usize = 64,
            Told::number(ANSWER_LENGTH)
                .unit("tokens")
                .flag("max-new-tokens", "N")
                .section(Section::Writing)
                .field(Place::Writing, "Longest answer");

        /// 0 takes the likeliest token each time; above, tokens are drawn from softmax(logits / temperature).
        temperature: f64 = 0.0,
            Told::number(Range::from_to(0.0, MOST_TEMPERATURE))
                .flag("temperature", "T")
                .section(Section::Writing)
                .field(Place::Writing, "Temperature")
                .hint("0 takes the likeliest token each time.");

        /// Tokens are drawn from the likeliest that together have this probability.
        top_p: f64 = 1.0,
            Told::number(TOP_P)
                .flag("top-p", "P")
                .section(Section::Writing)
                .field(Place::Writing, "Top-p")
                .hint("Above temperature 0: draws from the likeliest tokens that have this share.");

        /// Seed of the draws: the same one writes the same.
        seed: u64 = 0,
            Told::number(Range::whole_from(0.0))
                .flag("seed", "N")
                .section(Section::Writing)
                .field(Place::Writing, "Seed")
                .hint("Above temperature 0: the same seed writes the same.");
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
        self.check_ranges()
    }
}

/// One task's prompts and the adapter that answers them.
pub struct PromptedTask<'a> {
    /// Its name, for messages.
    pub name: &'a str,
    /// What its adapter adds, by module.
    pub deltas: &'a BTreeMap<String, Rc<DeviceDelta>>,
    /// What a decoder-only model goes on with, or an encoder reads; a picture may come with the tokens that its caption
    /// begins with.
    pub prompts: Vec<Sample>,
    /// The adapter's place among those that other workers know.
    pub speaker: usize,
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
pub struct GenerateContext<'a> {
    /// The model.
    pub model: &'a Model,
    /// Its place among those that other workers have opened.
    pub known_as: usize,
    /// The device.
    pub compute: &'a Compute,
    /// Modules whose W0 stays in memory beside its device form, for a merge that follows.
    pub keep_host: Option<&'a BTreeSet<String>>,
    /// Told of every token; may cancel.
    pub observer: &'a dyn Observer,
}

/// The answers of every task to its prompts, in the order given; where workers are started, they write some of them.
///
/// # Errors
/// [`Code::ModelUnsupported`] if the model does not write text, [`Code::SamplesInvalid`] for a prompt
/// that leaves no room for an answer, and whatever reading weights or the device reports.
pub async fn generate(
    generation: &GenerateContext<'_>,
    prompted_tasks: &[PromptedTask<'_>],
    how: &Sampling,
) -> Result<Vec<Vec<Answer>>> {
    how.check()?;
    let model = generation.model;
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
    let prompts: Vec<Prompts> = prompted_tasks
        .iter()
        .enumerate()
        .map(|(task, prompted_task)| {
            Ok(Prompts {
                speaker: prompted_task.speaker,
                samples: prompts_of(generation, prompted_task, how)?,
                // A stream of draws for each prompt, whoever writes its answer, and beside whichever others.
                draws: (0..prompted_task.prompts.len())
                    .map(|at| (task as u64) << 32 | at as u64)
                    .collect(),
            })
        })
        .collect::<Result<_>>()?;
    let tasks: Vec<&[Sample]> = prompts.iter().map(|task| task.samples.as_slice()).collect();
    model.padded(&tasks, Padding::Exclude)?;
    let deltas: Vec<_> = prompted_tasks
        .iter()
        .map(|prompted_task| prompted_task.deltas)
        .collect();
    match generation.compute.started() {
        None => write(generation, deltas, &prompts, how).await,
        Some((workers, count)) => {
            let shared = Shared::hand_out(generation.known_as, &prompts, how, (workers.as_ref(), count));
            let own = write(generation, deltas, shared.own(), how).await?;
            shared.gather(own).await
        }
    }
}

/// Writes the answers to prompts of tasks with these deltas.
async fn write(
    generation: &GenerateContext<'_>,
    deltas: Vec<&BTreeMap<String, Rc<DeviceDelta>>>,
    prompts: &[Prompts],
    how: &Sampling,
) -> Result<Vec<Vec<Answer>>> {
    let model = generation.model;
    let tasks: Vec<&[Sample]> = prompts.iter().map(|task| task.samples.as_slice()).collect();
    let batches = model.micro_batches_of(&tasks, None, MICRO_BATCH_ROWS)?;
    model.check_fits(generation.compute, &WorkloadEstimate::of(&batches, 1, None))?;

    let _generating = generation.compute.meter.generating();
    let mut targeted: BTreeSet<String> = deltas.iter().flat_map(|deltas| deltas.keys().cloned()).collect();
    targeted.extend(generation.keep_host.into_iter().flatten().cloned());
    let hook = TaskDeltas { tasks: deltas };
    let steps = Steps::new("generate", 0);
    let pass = Pass {
        compute: generation.compute,
        targeted: &targeted,
        keep_host: generation.keep_host.is_some(),
        until: model.family.blocks(),
        heads: None,
        observer: generation.observer,
        steps: &steps,
    };
    let mut answers: Vec<Vec<Answer>> = tasks
        .iter()
        .map(|task| vec![Answer::default(); task.len()])
        .collect();
    let all: usize = tasks.iter().map(|task| task.len()).sum();
    let mut before = 0;
    for batch in batches.iter().filter(|batch| !batch.places.is_empty()) {
        let session = Session {
            generation,
            pass: &pass,
            hook: &hook,
            batch,
            how,
            counted: (before, all),
        };
        for (place, answer) in batch.places.iter().zip(session.run(prompts).await?) {
            answers[place.task][place.sample] = answer;
        }
        before += batch.places.len();
    }
    Ok(answers)
}

/// A task's prompts as samples, the decoder's start token among them where there is one.
fn prompts_of(
    generation: &GenerateContext<'_>,
    prompted_task: &PromptedTask<'_>,
    how: &Sampling,
) -> Result<Vec<Sample>> {
    let model = generation.model;
    let facts = model.family.facts();
    let start = if facts.kind.answers_apart() {
        Some(decoder_start(model)?)
    } else {
        None
    };
    let sample = |(index, asked): (usize, &Sample)| {
        let refuse = |what: String| {
            Err(Error::new(
                Code::SamplesInvalid,
                format!("{}, prompt {}: {what}", prompted_task.name, index + 1),
            ))
        };
        let pictured = facts.picture.is_some();
        if pictured != asked.is_picture() {
            return refuse(match pictured {
                true => "the model says what is to be seen in a picture; give one".into(),
                false => "the model reads texts and no pictures; give a text".into(),
            });
        }
        let ids = asked.tokens(if pictured { DECODER } else { TEXT });
        let room = match facts.kind {
            Kind::EncoderDecoder => ids.len(),
            _ => usize::from(pictured) + ids.len() + how.max_new_tokens,
        };
        if let Some(what) = facts.too_long(room) {
            return refuse(format!(
                "with what is to be written {what}; shorten the prompt or set maxNewTokens"
            ));
        }
        if let Some(what) = facts.unknown_token(ids) {
            return refuse(what);
        }
        if ids.is_empty() && !pictured {
            return refuse("no token; give a prompt that the tokenizer makes a token of".into());
        }
        Ok(match start {
            Some(start) if pictured => asked.alone().and_tokens([&[start], ids].concat()),
            Some(start) => asked.clone().and_tokens(vec![start]),
            None => asked.clone(),
        })
    };
    prompted_task.prompts.iter().enumerate().map(sample).collect()
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
struct TaskDeltas<'a> {
    tasks: Vec<&'a BTreeMap<String, Rc<DeviceDelta>>>,
}

#[async_trait(?Send)]
impl Hook for TaskDeltas<'_> {
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
    generation: &'a GenerateContext<'a>,
    pass: &'a Pass<'a>,
    hook: &'a TaskDeltas<'a>,
    batch: &'a Batch,
    how: &'a Sampling,
    /// Prompts answered before, and in all.
    counted: (usize, usize),
}

impl Session<'_> {
    /// The answers, in the order of the batch's places.
    async fn run(&self, tasks: &[Prompts]) -> Result<Vec<Answer>> {
        let model = self.generation.model;
        let cache = Cache::default();
        let written = model.family.output();
        let places = &self.batch.places;
        let mut choosers: Vec<Chooser<'_>> = places
            .iter()
            .map(|place| {
                let task = &tasks[place.task];
                let read = task.samples[place.sample].tokens(written);
                Chooser::new(&model.generation, self.how, read, task.draws[place.sample])
            })
            .collect();

        let loader = model.loader(self.pass);
        let mut state = model.embed(&loader, self.batch).await?;
        let encoder = model.family.encoder_blocks();
        if encoder > 0 {
            state = self.blocks(self.batch, None, (state, 0..encoder)).await?;
        }
        let blocks = encoder..model.family.blocks();
        let entered = state.clone();
        let mut state = self
            .blocks(self.batch, Some(&cache), (state, blocks.clone()))
            .await?;
        let mut last: Vec<usize> = self
            .batch
            .stream(written)
            .sequences
            .iter()
            .map(|rows| rows.start + rows.length - 1)
            .collect();
        let mut stepped;
        for step in 0..self.how.max_new_tokens {
            self.progress(step, &choosers).await?;
            let hidden = state
                .take(written)?
                .select(0, self.generation.compute.indices(&last));
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
            stepped = self.batch.step(written, &next, &positions);
            let new = model.family.embed(&loader, &stepped, written).await?;
            let entering = entered.clone().with(written, new);
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
        self.generation
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
        self.generation
            .observer
            .progress(Progress {
                stage: "generate",
                layer: format!("token {} of at most {most}", step + 1),
                done: self.counted.0 * most + done,
                total: self.counted.1 * most,
                seconds: self.generation.compute.meter.elapsed(),
                written: None,
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
    generation: &GenerateContext<'_>,
    deltas: &BTreeMap<String, Rc<DeviceDelta>>,
    samples: &[Sample],
) -> Result<(usize, Vec<f32>)> {
    let model = generation.model;
    let batches = model.micro_batches(&[samples], Padding::Exclude, MICRO_BATCH_ROWS)?;
    let hook = TaskDeltas { tasks: vec![deltas] };
    let targeted = deltas.keys().cloned().collect();
    let steps = Steps::new("forward", model.family.blocks());
    let pass = Pass {
        compute: generation.compute,
        targeted: &targeted,
        keep_host: false,
        until: model.family.blocks(),
        heads: None,
        observer: generation.observer,
        steps: &steps,
    };
    let mut rows: Vec<Vec<f32>> = vec![Vec::new(); samples.len()];
    let states = model.run(&pass, &batches, &hook).await?;
    for (batch, (state, _)) in batches.iter().zip(states) {
        let hidden: Tensor<2> = state.rows(model.family.output())?;
        let count = hidden.dims()[0];
        let logits = model.logits(&pass, hidden).await?;
        let vocabulary = logits.len() / count.max(1);
        let sequences = &batch.stream(model.family.output()).sequences;
        for (place, own) in batch.places.iter().zip(sequences) {
            rows[place.sample] =
                logits[own.start * vocabulary..(own.start + own.length) * vocabulary].to_vec();
        }
    }
    Ok((model.family.facts().vocab_size, rows.concat()))
}
