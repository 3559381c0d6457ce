//! Models that write: how often each variant writes what the task's own adapter writes, or the label.
//!
//! Nothing is generated but the own adapter's answers. Whether a variant would write a given answer is
//! read off one pass over prompt and answer: it would, if after each part of the answer its choice is
//! the answer's next token, and so for all variants side by side.

use std::collections::BTreeMap;

use crate::{
    compare::{
        Contest, ResidualSums, Run, VariantScore,
        classify::mean_cosine,
        said::{Said, captions},
        share::{Place, Split, add_residuals, question, read_residuals},
    },
    compute::{Message, MessageReader},
    delta::{Delta, on_device},
    error::{Code, Error, Result},
    generate::{Chooser, GenerateContext, PromptedTask, Sampling, decoder_start, generate},
    model::{
        Kind, Model, TEXT,
        batch::{Sample, Stack},
        picked,
    },
};

/// Rows of logits in memory at a time.
const LOGIT_ROWS: usize = 256;

/// One task's scores.
pub(super) struct Written {
    /// In the order of the lanes, the whole models after them.
    pub(super) variants: Vec<VariantScore>,
    /// Samples with a label.
    pub(super) labelled: usize,
    /// Of pictures: what each variant says of the first ones.
    pub(super) said: Vec<Said>,
    pub(super) residuals: BTreeMap<String, ResidualSums>,
}

/// Whether each variant would write each answer, and the hidden states from which it would.
#[derive(Default)]
pub(super) struct Reading {
    /// One a variant and sample.
    would: Vec<Vec<bool>>,
    /// (rows x hidden) of each variant.
    hidden: Vec<Vec<f32>>,
}

/// What is run: a place with its model and lanes.
type Runners<'a> = (Place, &'a Model, &'a [&'a BTreeMap<String, Delta>]);

/// Compares the variants on one task.
///
/// # Errors
/// As [`generate`], and what reading weights or the device reports.
pub(super) async fn task(
    run: &Run<'_>,
    contest: &Contest<'_>,
    at: usize,
    names: Vec<String>,
) -> Result<Written> {
    let empty = Vec::new();
    let compared = &contest.tasks[at];
    let given = compared.samples;
    let samples = given.map_or(&empty, |s| &s.samples);
    let deltas = on_device(compared.deltas, run.compute);
    let generation = GenerateContext {
        model: contest.model,
        known_as: 0,
        compute: run.compute,
        keep_host: None,
        observer: run.observer,
    };
    let prompted_task = PromptedTask {
        name: &compared.read.adapter.name,
        deltas: &deltas,
        speaker: at,
        prompts: samples.clone(),
    };
    let written = generate(
        &generation,
        &[prompted_task],
        &Sampling::greedy(contest.max_new_tokens),
    )
    .await?;
    let own: Vec<Vec<u32>> = written.into_iter().flatten().map(|answer| answer.ids).collect();
    let (reading, residuals) = read_all(run, contest, at, samples, &own).await?;

    // What is right if the label is what the own adapter writes is known already.
    let none = Vec::new();
    let labels = given.map_or(&none, |s| &s.label_answers);
    let labelled: Vec<usize> = (0..labels.len()).filter(|&i| !labels[i].is_empty()).collect();
    let others: Vec<usize> = labelled
        .iter()
        .copied()
        .filter(|&i| labels[i] != own[i])
        .collect();
    for &i in &others {
        check_label(contest, at, (i, &samples[i]), &labels[i])?;
    }
    let subset = |all: &[Sample]| others.iter().map(|&i| all[i].clone()).collect::<Vec<_>>();
    let wanted: Vec<Vec<u32>> = others.iter().map(|&i| labels[i].clone()).collect();
    let right = if others.is_empty() {
        Reading::default()
    } else {
        read_all(run, contest, at, &subset(samples), &wanted).await?.0
    };

    let said = match contest.model.family.facts().picture {
        Some(_) => captions(run, contest, &names, samples, &own).await?,
        None => Vec::new(),
    };
    let share = |hits: usize, of: usize| (of > 0).then(|| hits as f64 / of as f64);
    let width = contest.model.family.facts().hidden_size;
    let count = |hits: &[bool]| hits.iter().filter(|hit| **hit).count();
    let variants = names.into_iter().enumerate().map(|(v, name)| {
        let as_own = labelled
            .iter()
            .filter(|&&i| labels[i] == own[i] && reading.would[v][i])
            .count();
        let hits = as_own + right.would.get(v).map_or(0, |would| count(would));
        VariantScore {
            variant: name,
            agreement: share(count(&reading.would[v]), samples.len()),
            accuracy: share(hits, labelled.len()),
            cosine: mean_cosine(&reading.hidden[v], &reading.hidden[0], width),
        }
    });
    Ok(Written {
        variants: variants.collect(),
        labelled: labelled.len(),
        said,
        residuals,
    })
}

/// Whether all models can read a label behind its sample.
fn check_label(
    contest: &Contest<'_>,
    task: usize,
    (index, sample): (usize, &Sample),
    label: &[u32],
) -> Result<()> {
    let whole = contest.models.iter().map(|(_, model)| model);
    for model in [contest.model].into_iter().chain(whole) {
        let facts = model.family.facts();
        let read = match facts.kind {
            Kind::EncoderDecoder => 0,
            // The start token takes the last one's place.
            Kind::ImageToText => label.len(),
            _ => label.len().saturating_sub(1),
        };
        let wrong = facts
            .unknown_token(label)
            .or_else(|| facts.too_long(sample.tokens(TEXT).len() + read));
        if let Some(what) = wrong {
            return Err(Error::new(
                Code::SamplesInvalid,
                format!(
                    "adapter \"{}\", sample {}: its label does not fit the model: {what}",
                    contest.tasks[task].read.adapter.name,
                    index + 1
                ),
            ));
        }
    }
    Ok(())
}

/// All variants over prompts and answers.
async fn read_all(
    run: &Run<'_>,
    contest: &Contest<'_>,
    task: usize,
    samples: &[Sample],
    answers: &[Vec<u32>],
) -> Result<(Reading, BTreeMap<String, ResidualSums>)> {
    let none = BTreeMap::new();
    let lanes = contest.lanes(Place { task, model: 0 }, &none);
    let runners = (Place { task, model: 0 }, contest.model, &lanes[..]);
    let (mut reading, residuals) = read(run, contest, runners, samples, answers).await?;
    for (whole, (_, model)) in contest.models.iter().enumerate() {
        let place = Place {
            task,
            model: 1 + whole,
        };
        let (more, _) = read(run, contest, (place, model, &[&none]), samples, answers).await?;
        reading.would.extend(more.would);
        reading.hidden.extend(more.hidden);
    }
    Ok((reading, residuals))
}

/// The lanes of one model over prompts and answers; where workers are started, they have some of them.
async fn read(
    run: &Run<'_>,
    contest: &Contest<'_>,
    runners: Runners<'_>,
    samples: &[Sample],
    answers: &[Vec<u32>],
) -> Result<(Reading, BTreeMap<String, ResidualSums>)> {
    let pairs = samples.iter().zip(answers);
    let sizes = pairs
        .map(|(sample, answer)| sample.size() + answer.len())
        .collect();
    let split = Split::hand_out(run.compute, sizes, |places| {
        question(
            runners.0,
            &picked(samples, places),
            Some(&picked(answers, places)),
        )
    });
    let own = read_of(run, contest, runners, &split.own(samples), &split.own(answers)).await?;
    let (_, _, lanes) = runners;
    let mut reading = Reading {
        would: vec![vec![true; samples.len()]; lanes.len()],
        hidden: vec![Vec::new(); lanes.len()],
    };
    let mut residuals = BTreeMap::new();
    let shares = split.gather(own, |message| {
        Ok((Reading::read(message)?, read_residuals(message)?))
    });
    for (places, (found, sums)) in shares.await? {
        for (to, from) in reading.would.iter_mut().zip(found.would) {
            places.iter().zip(from).for_each(|(&at, would)| to[at] = would);
        }
        for (to, from) in reading.hidden.iter_mut().zip(found.hidden) {
            to.extend(from);
        }
        add_residuals(&mut residuals, sums);
    }
    Ok((reading, residuals))
}

impl Reading {
    /// Adds it to a message.
    pub(super) fn say(&self, message: Message) -> Message {
        let message = message.each(self.would.iter(), |message, would| {
            message.list(&would.iter().map(|&would| u8::from(would)).collect::<Vec<u8>>())
        });
        message.each(self.hidden.iter(), |message, rows| message.list(rows))
    }

    fn read(message: &mut MessageReader<'_>) -> Result<Self> {
        let would = message.each(MessageReader::list::<u8>)?;
        Ok(Self {
            would: would
                .iter()
                .map(|would| would.iter().map(|&would| would != 0).collect())
                .collect(),
            hidden: message.each(MessageReader::list)?,
        })
    }
}

/// The same, of samples that this worker alone has.
pub(super) async fn read_of(
    run: &Run<'_>,
    contest: &Contest<'_>,
    (_, model, lanes): Runners<'_>,
    samples: &[Sample],
    answers: &[Vec<u32>],
) -> Result<(Reading, BTreeMap<String, ResidualSums>)> {
    let facts = model.family.facts();
    let apart = facts.kind.answers_apart();
    let mut joined = Vec::with_capacity(samples.len());
    for (sample, answer) in samples.iter().zip(answers) {
        // The last token is written, never read.
        let read = &answer[..answer.len().saturating_sub(1)];
        joined.push(if apart {
            sample
                .alone()
                .and_tokens([&[decoder_start(model)?], read].concat())
        } else {
            Sample::text([sample.tokens(TEXT), read].concat())
        });
    }
    let (batches, states, residuals) = run.pass(model, &joined, None, lanes).await?;
    let mut reading = Reading {
        would: vec![vec![true; samples.len()]; lanes.len()],
        hidden: vec![Vec::new(); lanes.len()],
    };
    let settings: Vec<Sampling> = answers
        .iter()
        .map(|answer| Sampling::greedy(answer.len().max(contest.max_new_tokens)))
        .collect();
    for (batch, (state, copies)) in batches.iter().zip(states) {
        let stack = Stack::new(batch, copies);
        let output = model.family.output();
        let sequences = stack.sequences(output);
        let hidden = state.rows(output)?;
        for variant in 0..lanes.len() {
            // Lanes that never split are one and the same.
            let copy = if copies == 1 { 0 } else { variant };
            let own = &sequences[copy * batch.places.len()..(copy + 1) * batch.places.len()];
            // The rows that write: the last of the prompt, and those of the answer but for its last token.
            let mut writing: Vec<(usize, usize)> = Vec::new();
            for (place, sequence) in batch.places.iter().zip(own) {
                let end = sequence.start + sequence.length;
                let length = answers[place.sample].len();
                writing.extend((end - length..end).map(|row| (place.sample, row)));
            }
            let mut choosers: BTreeMap<usize, (Chooser<'_>, usize)> = BTreeMap::new();
            let picked: Vec<usize> = writing.iter().map(|(_, row)| *row).collect();
            for (part, rows) in writing.chunks(LOGIT_ROWS).zip(picked.chunks(LOGIT_ROWS)) {
                let selected = hidden.clone().select(0, run.compute.indices(rows));
                let numbers = run.compute.read(selected.clone()).await?;
                reading.hidden[variant].extend(numbers);
                let logits = run.logits(model, selected).await?;
                let vocabulary = logits.len() / rows.len();
                for ((sample, _), logits) in part.iter().zip(logits.chunks_exact(vocabulary)) {
                    let answer = &answers[*sample];
                    let (chooser, at) = choosers.entry(*sample).or_insert_with(|| {
                        let read = if apart {
                            &joined[*sample].tokens(output)[..1]
                        } else {
                            samples[*sample].tokens(TEXT)
                        };
                        (Chooser::new(&model.generation, &settings[*sample], read, 0), 0)
                    });
                    if chooser.next(logits) != answer[*at] {
                        reading.would[variant][*sample] = false;
                    }
                    chooser.push(answer[*at]);
                    *at += 1;
                }
            }
        }
    }
    Ok((reading, residuals))
}
