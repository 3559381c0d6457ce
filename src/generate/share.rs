//! Prompts that are shared out to workers, each of which writes its own answers.

use std::{collections::BTreeMap, rc::Rc};

use crate::{
    compute::{Answer as Answered, Compute, Errand, Message, MessageReader, Workers, mangled},
    delta::DeviceDelta,
    error::Result,
    generate::{Answer, GenerateContext, Sampling, write},
    model::{Model, batch::Sample, picked, shared_out},
    progress::Silent,
};

/// Prompts of one task.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Prompts {
    /// See [`PromptedTask::speaker`](super::PromptedTask::speaker).
    pub(super) speaker: usize,
    /// The prompts.
    pub(super) samples: Vec<Sample>,
    /// The stream of draws of each.
    pub(super) draws: Vec<u64>,
}

/// Prompts of which others write some.
pub(super) struct Shared {
    /// By worker, this one first, and task: which prompts it has.
    places: Vec<Vec<Vec<usize>>>,
    own: Vec<Prompts>,
    answers: Vec<Answered>,
}

impl Shared {
    /// Asks the others for their shares.
    pub(super) fn hand_out(
        model: usize,
        prompts: &[Prompts],
        how: &Sampling,
        (workers, count): (&dyn Workers, usize),
    ) -> Self {
        let size = |sample: &Sample| sample.size() + how.max_new_tokens;
        let sizes: Vec<Vec<usize>> = prompts
            .iter()
            .map(|task| task.samples.iter().map(size).collect())
            .collect();
        let places = shared_out(&sizes, 1 + count);
        let mut shares = places.iter().map(|places| share(prompts, places));
        let own = shares.next().unwrap_or_default();
        let answers = shares
            .enumerate()
            .map(|(worker, share)| workers.ask(worker, question(model, &share, how)))
            .collect();
        Self { places, own, answers }
    }

    /// The prompts that are left to this worker.
    pub(super) fn own(&self) -> &[Prompts] {
        &self.own
    }

    /// The answers of all, in the order of the prompts.
    pub(super) async fn gather(self, own: Vec<Vec<Answer>>) -> Result<Vec<Vec<Answer>>> {
        let mut written = vec![own];
        for answer in self.answers {
            written.push(read_answers(&answer.await?)?);
        }
        let mut found: Vec<Vec<Answer>> = (0..self.own.len())
            .map(|task| {
                let count = self.places.iter().map(|places| places[task].len()).sum();
                vec![Answer::default(); count]
            })
            .collect();
        for (places, written) in self.places.iter().zip(written) {
            for ((places, answers), found) in places.iter().zip(written).zip(&mut found) {
                if answers.len() != places.len() {
                    return Err(mangled());
                }
                places
                    .iter()
                    .zip(answers)
                    .for_each(|(&at, answer)| found[at] = answer);
            }
        }
        Ok(found)
    }
}

/// Prompts by their places.
fn share(prompts: &[Prompts], places: &[Vec<usize>]) -> Vec<Prompts> {
    let tasks = prompts.iter().zip(places);
    tasks
        .map(|(task, places)| Prompts {
            speaker: task.speaker,
            samples: picked(&task.samples, places),
            draws: picked(&task.draws, places),
        })
        .collect()
}

fn question(model: usize, share: &[Prompts], how: &Sampling) -> Vec<u8> {
    Errand::Write
        .question()
        .number(model)
        .number(how.max_new_tokens)
        .float(how.temperature)
        .float(how.top_p)
        .list(&[how.seed])
        .each(share.iter(), |message, task| {
            message
                .number(task.speaker)
                .each(task.samples.iter(), |message, sample| sample.say(message))
                .list(&task.draws)
        })
        .into_bytes()
}

fn read_answers(answers: &[u8]) -> Result<Vec<Vec<Answer>>> {
    MessageReader::new(answers).each(|answers| {
        answers.each(|answer| {
            Ok(Answer {
                finished: answer.number()? != 0,
                ids: answer.list()?,
            })
        })
    })
}

/// Who writes, as every worker knows them by their places.
pub struct Speakers<'a> {
    /// Models.
    pub models: Vec<&'a Model>,
    /// What adapters add, by module.
    pub adapters: Vec<BTreeMap<String, Rc<DeviceDelta>>>,
}

/// Answers a question for text.
///
/// # Errors
/// As [`generate`](super::generate).
pub async fn write_share(
    speakers: &Speakers<'_>,
    compute: &Compute,
    question: &mut MessageReader<'_>,
) -> Result<Vec<u8>> {
    let known_as = question.number()?;
    let generation = GenerateContext {
        model: speakers.models.get(known_as).copied().ok_or_else(mangled)?,
        known_as,
        compute,
        keep_host: None,
        observer: &Silent,
    };
    let how = Sampling {
        max_new_tokens: question.number()?,
        temperature: question.float()?,
        top_p: question.float()?,
        seed: question.list()?.first().copied().ok_or_else(mangled)?,
    };
    let prompts = question.each(|question| {
        Ok(Prompts {
            speaker: question.number()?,
            samples: question.each(Sample::read)?,
            draws: question.list()?,
        })
    })?;
    let deltas = prompts
        .iter()
        .map(|task| speakers.adapters.get(task.speaker).ok_or_else(mangled))
        .collect::<Result<_>>()?;
    let written = write(&generation, deltas, &prompts, &how).await?;
    let message = Message::default().each(written.iter(), |message, answers| {
        message.each(answers.iter(), |message, answer| {
            message.number(usize::from(answer.finished)).list(&answer.ids)
        })
    });
    Ok(message.into_bytes())
}
