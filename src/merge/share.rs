//! Layers that are shared out to workers: what is asked of one, what it answers, and which are asked for when.
//!
//! The layers are taken in the order in which they are written. While this worker is at one, the others are at those
//! that follow; each has the next one waiting, so that none is idle while this one is too busy to hand out work. A layer
//! comes out the same whoever solves it.

use std::{
    collections::{BTreeMap, VecDeque},
    rc::Rc,
};

use futures_util::future::{FutureExt, select_all};

use crate::{
    compute::{Answer, Errand, Message, MessageReader, Workers},
    delta::Delta,
    error::Result,
    merge::layer::LayerReport,
};

/// Layers that one worker is given before it has answered: one to work on, one that waits.
const DEPTH: usize = 2;

/// What is solved as one: a layer of a file by the sites of its parts, or a site by itself.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Unit {
    /// The places of the parts among the binding's sites; none where a part is absent.
    pub sites: Vec<Option<usize>>,
    /// Outputs of each part, of a layer that is wanted as factors; empty where a site's whole change is wanted.
    pub heights: Vec<usize>,
}

impl Unit {
    /// The question that asks a worker for it.
    pub fn question(&self) -> Vec<u8> {
        let question = Errand::Layer.question();
        let question = question.each(self.sites.iter(), |question, site| {
            question.number(site.map_or(0, |site| site + 1))
        });
        question
            .each(self.heights.iter(), |question, &height| question.number(height))
            .into_bytes()
    }

    /// As a worker reads it.
    ///
    /// # Errors
    /// [`Code::Internal`](crate::error::Code::Internal) for what [`Unit::question`] never says.
    pub fn read(question: &mut MessageReader<'_>) -> Result<Self> {
        Ok(Self {
            sites: question.each(|question| Ok(question.number()?.checked_sub(1)))?,
            heights: question.each(MessageReader::number)?,
        })
    }
}

/// A solved layer of a file.
#[derive(Debug, Clone, PartialEq)]
pub struct Solved {
    /// The change of each part; one alone where the parts were cut as the one matrix that they are in the file.
    pub parts: Vec<Option<Delta>>,
    /// Whether they were.
    pub whole: bool,
    /// The rank that results.
    pub rank: usize,
    /// See [`LayerReport::energy_kept`].
    pub kept: f64,
    /// See [`LayerReport::error`].
    pub error: f64,
    /// Whether it was cut by random columns.
    pub random: bool,
    /// What the method told of each part that is there.
    pub reports: Vec<LayerReport>,
}

impl Solved {
    /// Changes that nothing is taken from; the reports are still to come.
    pub(super) fn uncut(parts: Vec<Option<Delta>>) -> Self {
        Self {
            rank: parts.iter().flatten().map(Delta::rank).max().unwrap_or(1),
            parts,
            whole: false,
            kept: 1.0,
            error: 0.0,
            random: false,
            reports: Vec::new(),
        }
    }

    /// As a worker answers it: all but the reports, of which a worker's have nothing to tell.
    pub fn answer(&self) -> Vec<u8> {
        let message = Message::default()
            .number(usize::from(self.whole))
            .number(self.rank)
            .number(usize::from(self.random))
            .float(self.kept)
            .float(self.error);
        message
            .each(self.parts.iter(), |message, part| {
                let message = message.number(usize::from(part.is_some()));
                part.iter().fold(message, |message, delta| delta.say(message))
            })
            .into_bytes()
    }

    /// What a worker answered, of parts of these names.
    ///
    /// # Errors
    /// [`Code::Internal`](crate::error::Code::Internal) for what [`Solved::answer`] never gives.
    pub fn read(answer: &[u8], names: &[&str]) -> Result<Self> {
        let mut reader = MessageReader::new(answer);
        Ok(Self {
            whole: reader.number()? != 0,
            rank: reader.number()?,
            random: reader.number()? != 0,
            kept: reader.float()?,
            error: reader.float()?,
            parts: reader.each(|reader| {
                let there = reader.number()? != 0;
                there.then(|| Delta::read(reader)).transpose()
            })?,
            reports: names.iter().map(|name| LayerReport::plain(name)).collect(),
        })
    }
}

/// The layers of a merge on their way: those that nobody has begun, those that workers have, those that are solved
/// before their turn.
pub(super) struct Ahead {
    workers: Rc<dyn Workers>,
    count: usize,
    /// In the order in which they will be taken.
    waiting: VecDeque<Unit>,
    given: Vec<Given>,
    solved: BTreeMap<Unit, Solved>,
}

/// A layer that a worker has.
struct Given {
    unit: Unit,
    worker: usize,
    answer: Answer,
}

impl Ahead {
    /// `count` of the workers are started.
    pub(super) fn new(workers: Rc<dyn Workers>, count: usize, units: impl IntoIterator<Item = Unit>) -> Self {
        Self {
            workers,
            count,
            waiting: units.into_iter().collect(),
            given: Vec::new(),
            solved: BTreeMap::new(),
        }
    }

    /// Says that `unit` is solved here, unless somebody has begun it.
    pub(super) fn claim(&mut self, unit: &Unit) {
        if let Some(at) = self.waiting.iter().position(|waiting| waiting == unit) {
            self.waiting.remove(at);
        }
    }

    /// Whether a worker has it.
    pub(super) fn is_given(&self, unit: &Unit) -> bool {
        self.given.iter().any(|given| given.unit == *unit)
    }

    /// The next layer that may be solved here while workers are at those before it; none where enough lie ready.
    pub(super) fn next_here(&mut self) -> Option<Unit> {
        if self.is_full() {
            return None;
        }
        self.waiting.pop_front()
    }

    /// Whether enough layers wait for their turn, each of which takes memory.
    fn is_full(&self) -> bool {
        self.solved.len() > DEPTH * self.count
    }

    /// Keeps a layer until its turn.
    pub(super) fn keep(&mut self, unit: Unit, solved: Solved) {
        self.solved.insert(unit, solved);
    }

    /// A layer that was solved before its turn.
    pub(super) fn take(&mut self, unit: &Unit) -> Option<Solved> {
        self.solved.remove(unit)
    }

    /// Gives every worker as much as it may have.
    pub(super) fn give_out(&mut self) {
        for depth in 1..=DEPTH {
            if self.is_full() {
                break;
            }
            for worker in 0..self.count {
                let has = self.given.iter().filter(|given| given.worker == worker).count();
                if has >= depth {
                    continue;
                }
                let Some(unit) = self.waiting.pop_front() else {
                    return;
                };
                let answer = self.workers.ask(worker, unit.question());
                self.given.push(Given { unit, worker, answer });
            }
        }
    }

    /// Takes in what workers have answered, whose parts have these names; tells the names of the parts.
    ///
    /// # Errors
    /// What went wrong in a worker.
    pub(super) fn collect<'n>(&mut self, names: impl Fn(&Unit) -> Vec<&'n str>) -> Result<Vec<&'n str>> {
        let (mut arrived, mut at) = (Vec::new(), 0);
        while let Some(given) = self.given.get_mut(at) {
            match (&mut given.answer).now_or_never() {
                None => at += 1,
                Some(answer) => arrived.extend(self.arrived(at, &answer?, &names)?),
            }
        }
        Ok(arrived)
    }

    /// Waits until a worker has answered, if one was asked, and takes that in.
    ///
    /// # Errors
    /// As [`Ahead::collect`].
    pub(super) async fn wait<'n>(&mut self, names: impl Fn(&Unit) -> Vec<&'n str>) -> Result<Vec<&'n str>> {
        if self.given.is_empty() {
            return Ok(Vec::new());
        }
        let (answer, at, _) = select_all(self.given.iter_mut().map(|given| &mut given.answer)).await;
        self.arrived(at, &answer?, names)
    }

    fn arrived<'n>(
        &mut self,
        at: usize,
        answer: &[u8],
        names: impl Fn(&Unit) -> Vec<&'n str>,
    ) -> Result<Vec<&'n str>> {
        let unit = self.given.remove(at).unit;
        let names = names(&unit);
        self.solved.insert(unit, Solved::read(answer, &names)?);
        Ok(names)
    }
}
