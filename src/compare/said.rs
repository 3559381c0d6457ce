//! What every variant says of the first pictures of a task, for reading side by side: a caption, or the likeliest classes.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::{
    compare::{Contest, Run},
    compute::{Compute, narrow},
    delta::on_device,
    error::Result,
    generate::{GenerateContext, PromptedTask, Sampling, Speakers, generate},
    model::batch::Sample,
};

/// Pictures of a task of which is told what is said of them.
pub(super) const TOLD: usize = 16;
/// Classes that are told of a picture, at most.
const CLASSES: usize = 5;

/// What is said of one picture.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Said {
    /// Its place among the task's samples.
    pub sample: usize,
    /// One a variant, in the order of the scores.
    pub variants: Vec<Saying>,
}

/// What one variant says of a picture.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Saying {
    /// `base`, `adapter` or a merged model's name.
    pub variant: String,
    /// The tokens of its caption.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ids: Option<Vec<u32>>,
    /// The likeliest classes, the likeliest first.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub classes: Option<Vec<Likely>>,
}

/// A class and how likely it is.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Likely {
    /// Its name.
    pub label: String,
    /// From 0 to 1.
    pub share: f64,
}

/// Turns what each variant says of each picture round: by picture.
pub(super) fn by_picture(names: &[String], said: Vec<Vec<Saying>>) -> Vec<Said> {
    let mut variants: Vec<_> = said.into_iter().map(Vec::into_iter).collect();
    let mut told = Vec::new();
    loop {
        let row: Vec<Saying> = variants.iter_mut().filter_map(Iterator::next).collect();
        if row.is_empty() || row.len() != names.len() {
            return told;
        }
        told.push(Said {
            sample: told.len(),
            variants: row,
        });
    }
}

/// Who writes in a comparison, as every worker knows them: the tasks' own adapters, none, and the merged adapters.
pub fn speakers<'c>(contest: &Contest<'c>, compute: &Compute) -> Speakers<'c> {
    let own = contest.tasks.iter().map(|task| task.deltas);
    let none = BTreeMap::new();
    let merged = contest.adapters.iter().map(|(_, deltas)| deltas);
    let all = own.chain([&none]).chain(merged);
    let whole = contest.models.iter().map(|(_, model)| model);
    Speakers {
        adapters: all.map(|deltas| on_device(deltas, compute)).collect(),
        models: std::iter::once(contest.model).chain(whole).collect(),
    }
}

/// The captions that every variant writes of a task's first pictures; those of its own adapter, `own`, are known.
///
/// # Errors
/// As [`generate`].
pub(super) async fn captions(
    run: &Run<'_>,
    contest: &Contest<'_>,
    names: &[String],
    samples: &[Sample],
    own: &[Vec<u32>],
) -> Result<Vec<Said>> {
    let pictures: Vec<Sample> = samples.iter().take(TOLD).map(Sample::alone).collect();
    let all = speakers(contest, run.compute);
    let deltas = &all.adapters[contest.tasks.len()..];
    let how = Sampling::greedy(contest.max_new_tokens);
    let asked = |name, deltas, speaker| PromptedTask {
        name,
        deltas,
        speaker,
        prompts: pictures.clone(),
    };
    let on = |model, known_as| GenerateContext {
        model,
        known_as,
        compute: run.compute,
        keep_host: None,
        observer: run.observer,
    };
    let speakers: Vec<PromptedTask<'_>> = deltas
        .iter()
        .enumerate()
        .map(|(at, deltas)| asked(names[1 + at].as_str(), deltas, contest.tasks.len() + at))
        .collect();
    let mut written = vec![own.iter().take(TOLD).cloned().collect::<Vec<_>>()];
    let ids = |answers: Vec<crate::generate::Answer>| answers.into_iter().map(|answer| answer.ids).collect();
    written.extend(
        generate(&on(contest.model, 0), &speakers, &how)
            .await?
            .into_iter()
            .map(ids),
    );
    for (whole, (name, model)) in contest.models.iter().enumerate() {
        let speaker = asked(name.as_str(), &deltas[0], contest.tasks.len());
        let answers = generate(&on(model, 1 + whole), &[speaker], &how).await?;
        written.extend(answers.into_iter().map(ids));
    }
    let said = names.iter().zip(written).map(|(name, captions)| {
        let say = |ids| Saying {
            variant: name.clone(),
            ids: Some(ids),
            classes: None,
        };
        captions.into_iter().map(say).collect()
    });
    Ok(by_picture(names, said.collect()))
}

/// The likeliest of a row of logits.
pub(super) fn likeliest(logits: &[f32], labels: &[String], chances: Chances) -> Vec<Likely> {
    let highest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let exponents: Vec<f64> = logits.iter().map(|x| f64::from(x - highest).exp()).collect();
    let sum: f64 = exponents.iter().sum();
    let mut all: Vec<Likely> = logits
        .iter()
        .zip(exponents)
        .zip(labels)
        .map(|((&logit, exponent), label)| Likely {
            label: label.clone(),
            share: match chances {
                Chances::OneOf => exponent / sum,
                Chances::Each => 1.0 / (1.0 + (-f64::from(logit)).exp()),
            },
        })
        .collect();
    // The sort is stable: of two that are as likely the first stays the first.
    all.sort_by(|a, b| narrow(b.share).total_cmp(&narrow(a.share)));
    all.truncate(CLASSES);
    all
}

/// How logits become chances.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Chances {
    /// Exactly one of the classes is right.
    OneOf,
    /// Each is right or not, whatever the others are (SigLIP).
    Each,
}
