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
    compute::{Answer, Workers},
    delta::{Delta, Dense, LowRank},
    error::{Code, Error, Result},
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

/// Stands for a part that is absent.
const ABSENT: u32 = u32::MAX;

impl Unit {
    /// As it is sent to a worker.
    ///
    /// # Errors
    /// [`Code::Internal`] for numbers that are none of a layer's.
    pub fn to_words(&self) -> Result<Vec<u32>> {
        let word = |number: &usize| u32::try_from(*number).map_err(|_| mangled());
        let sites = self
            .sites
            .iter()
            .map(|site| site.as_ref().map_or(Ok(ABSENT), word));
        let count = std::iter::once(word(&self.sites.len()));
        count.chain(sites).chain(self.heights.iter().map(word)).collect()
    }

    /// As a worker reads it.
    ///
    /// # Errors
    /// [`Code::Internal`] for what [`Unit::to_words`] never gives.
    pub fn from_words(words: &[u32]) -> Result<Self> {
        let (&count, rest) = words.split_first().ok_or_else(mangled)?;
        let (sites, heights) = rest.split_at_checked(count as usize).ok_or_else(mangled)?;
        Ok(Self {
            sites: sites
                .iter()
                .map(|&site| (site != ABSENT).then_some(site as usize))
                .collect(),
            heights: heights.iter().map(|&height| height as usize).collect(),
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
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut put = |number: usize| bytes.extend((number as u64).to_le_bytes());
        put(self.parts.len());
        put(usize::from(self.whole));
        put(self.rank);
        put(usize::from(self.random));
        bytes.extend(self.kept.to_le_bytes());
        bytes.extend(self.error.to_le_bytes());
        for part in &self.parts {
            let (d_out, d_in) = part.as_ref().map_or((0, 0), Delta::shape);
            let (rank, numbers): (usize, [&[f32]; 2]) = match part {
                None => (0, [&[], &[]]),
                Some(Delta::LowRank(factors)) => (factors.rank, [&factors.a, &factors.b]),
                Some(Delta::Dense(dense)) => (0, [&dense.data, &[]]),
            };
            for number in [usize::from(part.is_some()), d_out, d_in, rank] {
                bytes.extend((number as u64).to_le_bytes());
            }
            for numbers in numbers {
                let start = bytes.len();
                bytes.resize(start + 4 * numbers.len(), 0);
                let places = bytes[start..].as_chunks_mut::<4>().0;
                for (place, number) in places.iter_mut().zip(numbers) {
                    *place = number.to_le_bytes();
                }
            }
        }
        bytes
    }

    /// What a worker answered, of parts of these names.
    ///
    /// # Errors
    /// [`Code::Internal`] for what [`Solved::to_bytes`] never gives.
    pub fn from_bytes(bytes: &[u8], names: &[&str]) -> Result<Self> {
        let mut reader = Reader { bytes };
        let count = reader.number()?;
        let whole = reader.number()? != 0;
        let rank = reader.number()?;
        let random = reader.number()? != 0;
        let kept = f64::from_le_bytes(reader.eight()?);
        let error = f64::from_le_bytes(reader.eight()?);
        let mut parts = Vec::new();
        for _ in 0..count {
            parts.push(reader.part()?);
        }
        Ok(Self {
            parts,
            whole,
            rank,
            kept,
            error,
            random,
            reports: names.iter().map(|name| LayerReport::plain(name)).collect(),
        })
    }
}

/// Reads what [`Solved::to_bytes`] made.
struct Reader<'b> {
    bytes: &'b [u8],
}

impl Reader<'_> {
    fn eight(&mut self) -> Result<[u8; 8]> {
        let (&eight, rest) = self.bytes.split_first_chunk().ok_or_else(mangled)?;
        self.bytes = rest;
        Ok(eight)
    }

    fn number(&mut self) -> Result<usize> {
        usize::try_from(u64::from_le_bytes(self.eight()?)).map_err(|_| mangled())
    }

    fn numbers(&mut self, count: usize) -> Result<Vec<f32>> {
        let length = count.checked_mul(4).ok_or_else(mangled)?;
        let (bytes, rest) = self.bytes.split_at_checked(length).ok_or_else(mangled)?;
        self.bytes = rest;
        Ok(bytes
            .as_chunks::<4>()
            .0
            .iter()
            .map(|&four| f32::from_le_bytes(four))
            .collect())
    }

    fn part(&mut self) -> Result<Option<Delta>> {
        let there = self.number()? != 0;
        let (d_out, d_in, rank) = (self.number()?, self.number()?, self.number()?);
        if !there {
            return Ok(None);
        }
        Ok(Some(if rank == 0 {
            let data = self.numbers(d_out.checked_mul(d_in).ok_or_else(mangled)?)?;
            Delta::Dense(Dense { data, d_out, d_in })
        } else {
            let a = self.numbers(rank.checked_mul(d_in).ok_or_else(mangled)?)?;
            let b = self.numbers(rank.checked_mul(d_out).ok_or_else(mangled)?)?;
            Delta::LowRank(LowRank {
                a,
                b,
                rank,
                d_out,
                d_in,
            })
        }))
    }
}

fn mangled() -> Error {
    Error::new(
        Code::Internal,
        "what a worker was told or answered cannot be read",
    )
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
    ///
    /// # Errors
    /// As [`Unit::to_words`].
    pub(super) fn give_out(&mut self) -> Result<()> {
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
                    return Ok(());
                };
                let answer = self.workers.ask(worker, unit.to_words()?);
                self.given.push(Given { unit, worker, answer });
            }
        }
        Ok(())
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
        self.solved.insert(unit, Solved::from_bytes(answer, &names)?);
        Ok(names)
    }
}
