//! Calibration samples: what the caller gives, and what the model is run on.
//!
//! A sample of a language model may lack its answer (the completion of a prompt, the target of an
//! encoder-decoder), or the whole text. What is missing is written by the task's own adapter, before the
//! merge and once: so nothing that the merged model writes feeds back into what it is calibrated on.

use std::{
    collections::{BTreeMap, BTreeSet},
    rc::Rc,
};

use serde::{Deserialize, Serialize};

use crate::{
    binding::ReadAdapter,
    delta::DeviceDelta,
    describe::{Range, Told, options},
    error::{Code, Error, Result},
    generate::{
        ANSWER_LENGTH, Answer, GenerateContext, MOST_TEMPERATURE, PromptedTask, Sampling, TOP_P,
        decoder_start, generate,
    },
    model::{Kind, Model, TEXT, batch::Sample},
};

/// Tokenised samples of one task, as the caller gives them.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct TaskSamples {
    /// The texts or prompts; pictures, with what a model reads beside them.
    pub samples: Vec<Sample>,
    /// The tokens that come with each picture, for models that read both; they join the samples when those are decoded.
    pub captions: Vec<Vec<u32>>,
    /// What messages call each picture.
    pub names: Vec<String>,
    /// What follows each of them; a sample beyond the end of the list has nothing.
    pub answers: Vec<Given>,
    /// How many were cut to the longest length.
    pub truncated: usize,
    /// A label of each sample, where the caller has them.
    pub labels: Vec<Option<String>>,
    /// The tokens of each label as an answer, for models that write their answers; empty where there is none.
    pub label_answers: Vec<Vec<u32>>,
    /// The file they came from.
    pub source: Option<String>,
    /// Where that is, as a recipe finds it again.
    pub path: Option<String>,
    /// Things the reader of a report should know of them.
    pub notes: Vec<String>,
    /// The adapter is to write the samples itself; then none are given.
    pub own: Option<SelfWritten>,
}

/// What follows a text.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Given {
    /// Nothing; an encoder-decoder's adapter answers all the same.
    #[default]
    Nothing,
    /// These tokens.
    Tokens(Vec<u32>),
    /// What the adapter writes.
    Own,
}

options! {
    /// How an adapter writes its own calibration texts, as a caller says it.
    #[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
    #[serde(default, rename_all = "camelCase")]
    pub struct SelfOptions {
        /// How many.
        count: usize = 32, Told::number(Range::whole_from(1.0));
        /// Tokens of one, at most; less where the model can read less.
        max_new_tokens: usize = 64, Told::number(ANSWER_LENGTH).unit("tokens");
        /// How far from the likeliest; at 0 all would be the same.
        temperature: f64 = 1.0, Told::number(Range::above(0.0, MOST_TEMPERATURE));
        /// Tokens are drawn from the likeliest that together have this probability.
        top_p: f64 = 1.0, Told::number(TOP_P);
        /// The same seed gives the same samples.
        seed: u64 = 0, Told::number(Range::whole_from(0.0));
    }
}

/// How an adapter writes its own calibration texts.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct SelfWritten {
    /// How many, and how they are drawn.
    pub options: SelfOptions,
    /// What each begins with; the beginning-of-sequence token if empty.
    pub prompt: Vec<u32>,
    /// The same as a text.
    pub text: Option<String>,
}

impl SelfWritten {
    fn sampling(&self) -> Sampling {
        let SelfOptions {
            max_new_tokens,
            temperature,
            top_p,
            seed,
            ..
        } = self.options;
        Sampling {
            max_new_tokens,
            temperature,
            top_p,
            seed,
        }
    }
}

/// What an encoder-decoder's decoder reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DecoderInputs {
    /// The adapter's own greedy answer, or the given one.
    Own,
    /// The start token alone, as in the first step of the published code.
    Start,
}

/// Whose features a decoder-only model is calibrated on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Positions {
    /// Those of every token.
    All,
    /// Those of the completion's tokens, in samples that have one.
    Completion,
}

/// How samples are made complete.
#[derive(Debug, Clone, PartialEq)]
pub struct Completing {
    /// For encoder-decoders.
    pub decoder_inputs: DecoderInputs,
    /// For decoder-only models.
    pub positions: Positions,
    /// The most tokens of an answer that an adapter writes.
    pub max_new_tokens: usize,
}

/// Where the answers of a task's samples are from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum AnswersFrom {
    /// There are none.
    None,
    /// The caller.
    Given,
    /// The adapter.
    Own,
    /// The start token alone was read.
    Start,
    /// Some of one kind, some of another.
    Mixed,
}

/// A task whose samples are to be made complete.
pub struct Incomplete<'a> {
    /// The adapter's name.
    pub name: &'a str,
    /// What it adds, by module.
    pub deltas: BTreeMap<String, Rc<DeviceDelta>>,
    /// Its samples.
    pub samples: &'a TaskSamples,
}

/// Samples that the model can be run on.
#[derive(Debug, Clone, PartialEq)]
pub struct Complete {
    /// The samples.
    pub samples: Vec<Sample>,
    /// Where their answers are from.
    pub answers: AnswersFrom,
    /// Tokens of the answers.
    pub answer_tokens: usize,
}

/// Makes every task's samples complete; answers that are missing are written by the task's adapter.
///
/// # Errors
/// [`Code::SamplesInvalid`] naming adapter and sample, and as [`generate`].
pub async fn complete(
    generation: &GenerateContext<'_>,
    tasks: &[Incomplete<'_>],
    how: &Completing,
) -> Result<Vec<Complete>> {
    let model = generation.model;
    let kind = model.family.facts().kind;
    let mut given = Vec::with_capacity(tasks.len());
    for (speaker, task) in tasks.iter().enumerate() {
        given.push(match &task.samples.own {
            Some(own) => write_texts(generation, (speaker, task), own).await?,
            None => task.samples.clone(),
        });
    }
    let wanted: Vec<Vec<usize>> = given.iter().map(|samples| missing(kind, how, samples)).collect();
    let prompted_tasks: Vec<PromptedTask<'_>> = tasks
        .iter()
        .zip(&given)
        .zip(&wanted)
        .enumerate()
        .filter(|(_, (_, wanted))| !wanted.is_empty())
        .map(|(speaker, ((task, given), wanted))| PromptedTask {
            name: task.name,
            deltas: &task.deltas,
            speaker,
            prompts: wanted.iter().map(|&at| given.samples[at].clone()).collect(),
        })
        .collect();
    let mut written = if prompted_tasks.is_empty() {
        Vec::new()
    } else {
        generate(generation, &prompted_tasks, &Sampling::greedy(how.max_new_tokens)).await?
    }
    .into_iter();
    tasks
        .iter()
        .zip(given)
        .zip(wanted)
        .map(|((task, given), wanted)| {
            let written = if wanted.is_empty() {
                Vec::new()
            } else {
                written.next().unwrap_or_default()
            };
            let own: BTreeMap<usize, Answer> = wanted.into_iter().zip(written).collect();
            assemble(model, task.name, given, &own, how)
        })
        .collect()
}

/// The tokens that an adapter has to write, at most.
pub fn to_write(model: &Model, how: &Completing, given: &TaskSamples) -> usize {
    match &given.own {
        Some(SelfWritten { options, .. }) => options.count * options.max_new_tokens,
        None => missing(model.family.facts().kind, how, given).len() * how.max_new_tokens,
    }
}

/// The samples whose answer the adapter has to write.
fn missing(kind: Kind, how: &Completing, given: &TaskSamples) -> Vec<usize> {
    let is_missing = |index: &usize| match (kind, given.answers.get(*index)) {
        (Kind::Encoder | Kind::ImageEncoder | Kind::ImageTextEncoder | Kind::Weights, _)
        | (_, Some(Given::Tokens(_))) => false,
        (Kind::EncoderDecoder | Kind::ImageToText, _) => how.decoder_inputs == DecoderInputs::Own,
        (Kind::Decoder, answer) => answer == Some(&Given::Own),
    };
    (0..given.samples.len()).filter(is_missing).collect()
}

/// Joins samples with their answers.
fn assemble(
    model: &Model,
    name: &str,
    given: TaskSamples,
    own: &BTreeMap<usize, Answer>,
    how: &Completing,
) -> Result<Complete> {
    let facts = model.family.facts();
    let mut sources = BTreeSet::new();
    let mut answer_tokens = 0;
    let mut samples = Vec::with_capacity(given.samples.len());
    for (index, sample) in given.samples.into_iter().enumerate() {
        let refuse = |what: String| {
            Err(Error::new(
                Code::SamplesInvalid,
                format!("adapter \"{name}\", sample {}: {what}", index + 1),
            ))
        };
        let answer = match (given.answers.get(index), own.get(&index)) {
            (Some(Given::Tokens(ids)), _) => Some(("given", ids.as_slice())),
            (_, Some(answer)) => Some(("own", answer.ids.as_slice())),
            _ => None,
        };
        if let Some(what) = answer.and_then(|(_, ids)| facts.unknown_token(ids)) {
            return refuse(format!("its answer: {what}"));
        }
        let ids = answer.map_or(&[][..], |(_, ids)| ids);
        let sample = match facts.kind {
            Kind::Encoder | Kind::ImageEncoder | Kind::ImageTextEncoder | Kind::Weights
                if !ids.is_empty() =>
            {
                return refuse(
                    "it has an answer, but this base model only reads; give the text alone".into(),
                );
            }
            Kind::Encoder | Kind::ImageEncoder | Kind::ImageTextEncoder | Kind::Weights => sample,
            Kind::Decoder => {
                let counted = how.positions == Positions::Completion && !ids.is_empty();
                let prompt = sample.tokens(TEXT);
                let counted_from = if counted { prompt.len() } else { 0 };
                let all = [prompt, ids].concat();
                if let Some(what) = facts.too_long(all.len()) {
                    return refuse(format!(
                        "with its completion {what}; set maxLength or maxNewTokens"
                    ));
                }
                Sample::text(all).counted_from(counted_from)
            }
            Kind::EncoderDecoder | Kind::ImageToText => {
                let start = how.decoder_inputs == DecoderInputs::Start;
                let ids = if start { &[][..] } else { ids };
                // An answer's last token is written, never read.
                let read = &ids[..ids.len().saturating_sub(1)];
                let begun = [&[decoder_start(model)?], read].concat();
                // Of an encoder-decoder the first stream is what the positions are for, and T5 has no end of them.
                if let Some(what) = facts.too_long(begun.len()).filter(|_| facts.picture.is_some()) {
                    return refuse(format!("its caption has {what}; set maxLength or maxNewTokens"));
                }
                sample.and_tokens(begun)
            }
        };
        let start = facts.kind.answers_apart() && how.decoder_inputs == DecoderInputs::Start;
        sources.insert(if start {
            "start"
        } else {
            answer.map_or("none", |(from, _)| from)
        });
        answer_tokens += if start { 0 } else { ids.len() };
        samples.push(sample);
    }
    let answers = match sources.into_iter().collect::<Vec<_>>()[..] {
        ["given"] => AnswersFrom::Given,
        ["own"] => AnswersFrom::Own,
        ["start"] => AnswersFrom::Start,
        [] | ["none"] => AnswersFrom::None,
        _ => AnswersFrom::Mixed,
    };
    Ok(Complete {
        samples,
        answers,
        answer_tokens,
    })
}

/// Texts that the adapter writes itself, drawn from what it takes to be likely.
async fn write_texts(
    generation: &GenerateContext<'_>,
    (speaker, task): (usize, &Incomplete<'_>),
    own: &SelfWritten,
) -> Result<TaskSamples> {
    let model = generation.model;
    let kind = model.family.facts().kind;
    let rules = &model.generation;
    let first = rules.stop.first().copied();
    let prompt = if !own.prompt.is_empty() {
        own.prompt.clone()
    } else if let Some(id) = rules.bos.or(first).filter(|_| kind == Kind::Decoder).or(first) {
        vec![id]
    } else {
        return Err(Error::new(
            Code::OptionInvalid,
            format!(
                "adapter \"{}\": the model's files name no token that begins a text, so the adapter needs a prompt to write its own samples",
                task.name
            ),
        ));
    };
    let prompted_task = PromptedTask {
        name: task.name,
        deltas: &task.deltas,
        speaker,
        prompts: vec![Sample::text(prompt.clone()); own.options.count],
    };
    let written = generate(generation, &[prompted_task], &own.sampling()).await?;
    let samples = written.into_iter().flatten().map(|answer| match kind {
        // What an encoder-decoder writes is a text for its encoder, which ends as its texts do.
        Kind::EncoderDecoder => {
            let mut ids = answer.ids;
            if !answer.finished {
                ids.extend(first);
            }
            Sample::text(ids)
        }
        _ => Sample::text([prompt.as_slice(), &answer.ids].concat()),
    });
    Ok(TaskSamples {
        samples: samples.collect(),
        ..TaskSamples::default()
    })
}

/// Whether every adapter has samples, in the order of the adapters, that the model can take.
///
/// # Errors
/// [`Code::SamplesInvalid`] naming adapter and sample.
pub fn check_samples(model: &Model, adapters: &[ReadAdapter], samples: &[Option<TaskSamples>]) -> Result<()> {
    let facts = model.family.facts();
    for (read, given) in adapters.iter().zip(samples) {
        let name = &read.adapter.name;
        let samples = given.as_ref().map_or(&[][..], |s| &s.samples);
        if let Some(own) = given.as_ref().and_then(|s| s.own.as_ref()) {
            if !facts.generates || facts.picture.is_some() {
                let (not, give) = match facts.picture {
                    None => ("does not write text", "give a file of texts"),
                    Some(_) => ("reads pictures, which no adapter makes", "give a folder of them"),
                };
                return Err(Error::new(
                    Code::OptionInvalid,
                    format!(
                        "adapter \"{name}\" cannot write its own samples: {} {not}; {give}",
                        facts.architecture
                    ),
                ));
            }
            own.options
                .check_ranges()
                .map_err(|error| error.about(&format!("adapter \"{name}\"")))?;
            continue;
        }
        if samples.is_empty() {
            return Err(Error::new(
                Code::SamplesInvalid,
                format!(
                    "adapter \"{name}\" has no calibration samples; give a file with a few texts of its task, one a line"
                ),
            ));
        }
        for (index, sample) in samples.iter().enumerate() {
            let (number, ids) = (index + 1, sample.tokens(TEXT));
            let is_picture = sample.is_picture();
            if is_picture != facts.picture.is_some() {
                let reads = if is_picture { "texts" } else { "pictures" };
                return Err(Error::new(
                    Code::SamplesInvalid,
                    format!(
                        "adapter \"{name}\", sample {number}: the base model reads {reads}; give such samples"
                    ),
                ));
            }
            if is_picture {
                let text = model.family.text_stream();
                let ids = text.map_or(&[][..], |text| sample.tokens(text));
                let too_long = || facts.too_long(ids.len());
                if let Some(what) = facts.unknown_token(ids).or_else(too_long) {
                    return Err(Error::new(
                        Code::SamplesInvalid,
                        format!(
                            "adapter \"{name}\", the caption of {}: {what}; set maxLength",
                            picture(given.as_ref(), index)
                        ),
                    ));
                }
                continue;
            }
            if ids.is_empty() {
                return Err(Error::new(
                    Code::SamplesInvalid,
                    format!(
                        "adapter \"{name}\", sample {number}: the tokenizer makes no token of it; remove it or give a text"
                    ),
                ));
            }
            let wrong = match facts.too_long(ids.len()) {
                Some(what) => Some(format!("{what}; set maxLength")),
                None => facts.unknown_token(ids),
            };
            if let Some(what) = wrong {
                return Err(Error::new(
                    Code::SamplesInvalid,
                    format!("adapter \"{name}\", sample {number}: {what}"),
                ));
            }
        }
    }
    Ok(())
}

/// What messages call a picture.
fn picture(given: Option<&TaskSamples>, index: usize) -> String {
    let name = given.and_then(|given| given.names.get(index));
    name.map_or_else(|| format!("picture {}", index + 1), Clone::clone)
}

/// Settles whether a model of pictures and texts reads captions: those of all pictures where an adapter changes the part
/// that reads texts, and none where nothing depends on them.
///
/// # Errors
/// [`Code::SamplesInvalid`] for a picture without a caption that is needed.
pub fn settle_captions(
    model: &Model,
    adapters: &[ReadAdapter],
    samples: &mut [Option<TaskSamples>],
    changed: &BTreeSet<String>,
) -> Result<()> {
    let Some(text) = model.family.text_stream() else {
        return Ok(());
    };
    let first = model.family.encoder_blocks();
    let mut of_texts = model
        .family
        .modules()
        .iter()
        .filter(|module| module.block >= first);
    let needed = of_texts.find(|module| changed.contains(&module.name));
    for (read, given) in adapters.iter().zip(samples) {
        let Some(given) = given else { continue };
        let has = |sample: &Sample| !sample.tokens(text).is_empty();
        match needed {
            Some(module) => {
                if let Some(index) = given.samples.iter().position(|sample| !has(sample)) {
                    return Err(Error::new(
                        Code::SamplesInvalid,
                        format!(
                            "adapter \"{}\": no caption of {}, and the merge changes layers that read captions, such as {}; give one of every picture, in metadata.jsonl or in a text file of its name",
                            read.adapter.name,
                            picture(Some(given), index),
                            module.name
                        ),
                    ));
                }
            }
            None if given.samples.iter().any(has) => {
                given.samples = given.samples.iter().map(Sample::alone).collect();
                given
                    .notes
                    .push("captions are not read: no adapter changes a layer that reads them".to_owned());
            }
            None => {}
        }
    }
    Ok(())
}
