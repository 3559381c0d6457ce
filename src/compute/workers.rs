//! Other workers of the same job: the processor's other cores.
//!
//! Each is an instance of this program with a memory of its own, which has opened the same inputs. Nothing is shared, so
//! that no special headers are asked of whoever serves the page; what passes between them is a question and its answer.

use std::{future::Future, pin::Pin};

use async_trait::async_trait;

use crate::{
    compute::message::{Message, MessageReader, mangled},
    error::Result,
};

/// What a worker will answer. The work begins when it is asked, whether or not anyone waits.
pub type Answer = Pin<Box<dyn Future<Output = Result<Vec<u8>>>>>;

/// How many workers there can be beside this one.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Available {
    /// So many are asked for.
    Exactly(usize),
    /// As many as the work is worth, within these limits.
    UpTo {
        /// Cores that nobody works on yet.
        cores: usize,
        /// Memory of the machine, as far as that is known.
        memory_bytes: Option<f64>,
    },
}

impl Available {
    /// How many to start for work that takes one worker about `seconds`, falls into `pieces`, and takes `bytes` of memory
    /// in each.
    pub fn for_work(self, seconds: f64, pieces: usize, bytes: f64) -> usize {
        let wanted = match self {
            Self::Exactly(count) => count,
            Self::UpTo { cores, memory_bytes } => {
                let worth = whole(seconds / WORTH_SECONDS);
                // The first one is there whatever it takes.
                let room = memory_bytes.map_or(usize::MAX, |all| {
                    whole(all * MEMORY_SHARE / bytes).saturating_sub(1)
                });
                cores.min(worth).min(room)
            }
        };
        wanted.min(pieces.saturating_sub(1))
    }
}

/// The least that a worker takes off the others: starting one takes a tenth of that, and opening the inputs again some
/// more.
const WORTH_SECONDS: f64 = 0.75;

/// The share of the machine's memory that may be taken: what others have taken of it, nobody tells.
const MEMORY_SHARE: f64 = 0.5;

/// The whole part of a count.
#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "the cast saturates, and NaN is none"
)]
const fn whole(number: f64) -> usize {
    number as usize
}

/// The workers beside this one.
pub trait Workers {
    /// How many there can be.
    fn available(&self) -> Available;

    /// Starts so many. They can be asked at once; what hinders them from starting is an error of their first answer.
    fn start(&self, count: usize);

    /// Asks a worker, which answers one question after the other.
    ///
    /// # Errors
    /// What went wrong in it, or that it is gone.
    fn ask(&self, worker: usize, question: Vec<u8>) -> Answer;
}

/// Who asks, seen from one of the others.
#[async_trait(?Send)]
pub trait Questions {
    /// The next question; none where no more come. The first call says that the inputs are open.
    ///
    /// # Errors
    /// Where there is nobody left to ask.
    async fn next(&self) -> Result<Option<Vec<u8>>>;

    /// Answers it.
    ///
    /// # Errors
    /// As [`Questions::next`].
    async fn answer(&self, answer: Vec<u8>) -> Result<()>;
}

/// What a worker is asked to do; the first number of a question that begins something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Errand {
    /// Solve a layer.
    Layer,
    /// Run a method's passes on a share of the samples.
    Passes,
    /// Write answers to a share of the prompts.
    Write,
    /// Run the variants of a comparison on a share of the samples.
    Compare,
}

impl Errand {
    const ALL: [Self; 4] = [Self::Layer, Self::Passes, Self::Write, Self::Compare];

    /// The beginning of a question.
    pub fn question(self) -> Message {
        Message::default().number(self as usize)
    }

    /// What a question asks for; what it says of it follows.
    ///
    /// # Errors
    /// [`Code::Internal`](crate::error::Code::Internal) for what [`Errand::question`] never begins with.
    pub fn of(question: &mut MessageReader<'_>) -> Result<Self> {
        Self::ALL.get(question.number()?).copied().ok_or_else(mangled)
    }
}

#[cfg(test)]
mod tests {
    use super::Available;

    #[test]
    fn as_many_are_started_as_the_work_is_worth_and_the_machine_can_hold() {
        let machine = |memory_bytes| Available::UpTo {
            cores: 7,
            memory_bytes,
        };
        let mib = 1024.0 * 1024.0;
        // Half a second is over before another worker has begun.
        assert_eq!(machine(None).for_work(0.5, 1000, mib), 0);
        assert_eq!(machine(None).for_work(3.1, 1000, mib), 4);
        assert_eq!(machine(None).for_work(300.0, 1000, mib), 7);
        assert_eq!(machine(None).for_work(300.0, 3, mib), 2);
        // Of 8 GiB half, which has room for four of 1000 MiB, this one among them.
        assert_eq!(machine(Some(8192.0 * mib)).for_work(300.0, 1000, 1000.0 * mib), 3);
        assert_eq!(machine(Some(1024.0 * mib)).for_work(300.0, 1000, 1000.0 * mib), 0);
        assert_eq!(Available::Exactly(3).for_work(0.0, 1000, 1e12), 3);
        assert_eq!(Available::Exactly(3).for_work(0.0, 2, mib), 1);
        assert_eq!(Available::Exactly(3).for_work(0.0, 0, mib), 0);
    }
}
