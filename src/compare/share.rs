//! Samples of a comparison that are shared out to workers, each of which runs all variants on its own.

use std::collections::BTreeMap;

use crate::{
    compare::{Pooled, ResidualSums},
    compute::{Answer, Compute, Errand, Message, MessageReader, mangled},
    error::Result,
    model::{batch::Sample, picked, shared_out},
};

/// What is run: the variants of a task on one of the models.
#[derive(Clone, Copy)]
pub(super) struct Place {
    /// Among the contest's tasks.
    pub(super) task: usize,
    /// 0 for the base model with all adapters, then the whole models.
    pub(super) model: usize,
}

/// Samples of which others have some.
pub(super) struct Split {
    /// By worker, this one first: which samples it has. Nobody is asked for none.
    places: Vec<Vec<usize>>,
    answers: Vec<Answer>,
}

impl Split {
    /// Asks the workers that are started, if any are, for their shares.
    pub(super) fn hand_out(
        compute: &Compute,
        sizes: Vec<usize>,
        question: impl Fn(&[usize]) -> Vec<u8>,
    ) -> Self {
        let started = compute.started();
        let count = started.as_ref().map_or(0, |(_, count)| *count);
        let shares = shared_out(&[sizes], 1 + count).into_iter();
        let mut places: Vec<Vec<usize>> = shares.map(|share| share.concat()).collect();
        places.retain(|places| !places.is_empty());
        let others = places.iter().skip(1).enumerate();
        let answers = started.map_or_else(Vec::new, |(workers, _)| {
            others
                .map(|(worker, places)| workers.ask(worker, question(places)))
                .collect()
        });
        Self { places, answers }
    }

    /// The samples that are left to this worker.
    pub(super) fn own<T: Clone>(&self, all: &[T]) -> Vec<T> {
        self.places
            .first()
            .map_or_else(Vec::new, |places| picked(all, places))
    }

    /// What each share came to, with its samples' places.
    ///
    /// # Errors
    /// What went wrong in a worker, and whatever `read` reports.
    pub(super) async fn gather<T>(
        self,
        own: T,
        read: impl Fn(&mut MessageReader<'_>) -> Result<T>,
    ) -> Result<Vec<(Vec<usize>, T)>> {
        let mut found = vec![own];
        for answer in self.answers {
            found.push(read(&mut MessageReader::new(&answer.await?))?);
        }
        Ok(self.places.into_iter().zip(found).collect())
    }
}

/// The question for what a place's variants make of samples, along answers where there are some.
pub(super) fn question(place: Place, samples: &[Sample], answers: Option<&[Vec<u32>]>) -> Vec<u8> {
    let question = Errand::Compare
        .question()
        .number(place.task)
        .number(place.model)
        .each(samples.iter(), |message, sample| sample.say(message))
        .number(usize::from(answers.is_some()));
    let question = answers.iter().fold(question, |question, answers| {
        question.each(answers.iter(), |question, answer| question.list(answer))
    });
    question.into_bytes()
}

/// Adds residuals to a message.
pub(super) fn say_residuals(message: Message, residuals: &BTreeMap<String, ResidualSums>) -> Message {
    message.each(residuals.iter(), |message, (module, sums)| {
        message
            .list(module.as_bytes())
            .float(sums.norm)
            .list(&sums.distances)
    })
}

/// Reads what [`say_residuals`] added.
///
/// # Errors
/// As [`MessageReader::number`].
pub(super) fn read_residuals(message: &mut MessageReader<'_>) -> Result<BTreeMap<String, ResidualSums>> {
    let residuals = message.each(|message| {
        let module = String::from_utf8(message.list()?).map_err(|_| mangled())?;
        let (norm, distances) = (message.float()?, message.list()?);
        Ok((module, ResidualSums { norm, distances }))
    })?;
    Ok(residuals.into_iter().collect())
}

/// Adds the residuals on other samples.
pub(super) fn add_residuals(to: &mut BTreeMap<String, ResidualSums>, from: BTreeMap<String, ResidualSums>) {
    for (module, sums) in from {
        to.entry(module).or_default().add(sums.norm, &sums.distances);
    }
}

/// Reads pooled features of every lane, with residuals.
///
/// # Errors
/// As [`MessageReader::number`].
pub(super) fn read_features(
    message: &mut MessageReader<'_>,
) -> Result<(Vec<Pooled>, BTreeMap<String, ResidualSums>)> {
    Ok((message.each(MessageReader::list)?, read_residuals(message)?))
}

/// What a question asks for.
pub(super) struct Question {
    pub(super) place: Place,
    pub(super) samples: Vec<Sample>,
    pub(super) answers: Option<Vec<Vec<u32>>>,
}

impl Question {
    /// Reads what [`question`] says.
    ///
    /// # Errors
    /// As [`MessageReader::number`].
    pub(super) fn read(question: &mut MessageReader<'_>) -> Result<Self> {
        let place = Place {
            task: question.number()?,
            model: question.number()?,
        };
        let samples = question.each(Sample::read)?;
        let answered = question.number()? != 0;
        let answers = answered.then(|| question.each(MessageReader::list)).transpose()?;
        Ok(Self {
            place,
            samples,
            answers,
        })
    }
}
