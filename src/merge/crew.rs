//! Samples of passes that are shared out to workers.
//!
//! Every worker runs the same passes, each on its share of every task's samples. At a linear group each has the sums of its
//! own; the first adds up all of them, solves, where that takes long with the others' help, and tells them what was found,
//! with which all go on. So a layer's solution differs from one worker's by the order of the sums alone.
//!
//! The first asks, the others answer: the first question brings a share of the samples, every further one what the last
//! answer was waited for; the answers are the sums of one group after the other, in pieces, what a worker has done to help,
//! and at the end of a pass what was measured in it.

use std::{cell::RefCell, collections::VecDeque, rc::Rc};

use crate::{
    compute::{Answer, Compute, Errand, Message, Questions, Workers},
    error::{Code, Error, Result},
    model::SampleShare,
};

/// Who runs a method's passes.
pub enum Crew<'a> {
    /// This worker, on all samples.
    Alone,
    /// This worker is the first of several.
    First(First),
    /// This worker is one of the others.
    Other(Other<'a>),
}

/// The first worker's side.
pub struct First {
    workers: Rc<dyn Workers>,
    count: usize,
    answers: RefCell<VecDeque<Answer>>,
}

/// Another worker's side.
pub struct Other<'a> {
    questions: &'a dyn Questions,
    /// Its share of the samples.
    pub share: SampleShare,
}

impl<'a> Crew<'a> {
    /// With the workers that are started, as many as get one of the samples.
    pub fn of(compute: &Compute, samples: usize) -> Self {
        match compute.started() {
            Some((workers, count)) if samples > 1 => Self::First(First {
                workers,
                count: count.min(samples - 1),
                answers: RefCell::default(),
            }),
            _ => Self::Alone,
        }
    }

    /// One of the others, with its share.
    pub const fn other(questions: &'a dyn Questions, share: SampleShare) -> Self {
        Self::Other(Other { questions, share })
    }
}

impl First {
    /// How many workers there are, this one among them.
    pub const fn workers(&self) -> usize {
        1 + self.count
    }

    /// Hands the shares of the samples out; that of this worker is kept.
    pub fn hand_out(&self, shares: Vec<SampleShare>) -> SampleShare {
        let mut shares = shares.into_iter();
        let own = shares.next().unwrap_or_default();
        for (worker, share) in (0..self.count).zip(shares) {
            self.tell_one(worker, &share.say(Errand::Passes.question()));
        }
        own
    }

    /// Tells all others.
    pub fn tell(&self, message: &Message) {
        for worker in 0..self.count {
            self.tell_one(worker, message);
        }
    }

    /// Tells one of the others, of which the first is 0.
    pub fn tell_one(&self, worker: usize, message: &Message) {
        let answer = self.workers.ask(worker, message.bytes().to_vec());
        self.answers.borrow_mut().push_back(answer);
    }

    /// What each has answered, one after the other.
    ///
    /// # Errors
    /// What went wrong in a worker, and whatever `take` reports.
    pub async fn answers(&self, mut take: impl FnMut(&[u8]) -> Result<()>) -> Result<()> {
        loop {
            let Some(answer) = self.answers.borrow_mut().pop_front() else {
                return Ok(());
            };
            take(&answer.await?)?;
        }
    }
}

impl Other<'_> {
    /// Answers, and waits for what follows.
    ///
    /// # Errors
    /// [`Code::Internal`] if nothing follows.
    pub async fn exchange(&self, answer: Message) -> Result<Vec<u8>> {
        self.answer(answer).await?;
        self.hear().await
    }

    /// Answers.
    ///
    /// # Errors
    /// As [`Questions::answer`].
    pub async fn answer(&self, answer: Message) -> Result<()> {
        self.questions.answer(answer.into_bytes()).await
    }

    /// Waits for what follows.
    ///
    /// # Errors
    /// [`Code::Internal`] if nothing does.
    pub async fn hear(&self) -> Result<Vec<u8>> {
        let next = self.questions.next().await?;
        next.ok_or_else(|| Error::new(Code::Internal, "the worker that shares samples out is gone"))
    }
}
