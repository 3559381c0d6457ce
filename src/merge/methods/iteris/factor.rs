//! A Cholesky factorisation that the first worker shares out to the others, who wait for it anyway.
//!
//! Panels are dealt out in turn. Whoever has a panel factors it when all before it have been taken from it, and tells the
//! first worker, who tells all; every worker takes it from its own panels behind it, and from the next one first, so that
//! this is found while the others are still at their share. The factor is the same to the bit, however many there are.
//!
//! Of what the first worker tells, the others answer everything at once: with the next panel, where that is theirs, or with
//! nothing.

use crate::{
    compute::{
        Message, MessageReader, Symmetric, mangled,
        solve::{Cholesky, NotPositiveDefinite, PartialFactor},
        symmetric::{panel_size, panels_of},
    },
    error::Result,
    merge::crew::{Crew, First, Other},
};

/// Below this width a worker alone is done before the others have their panels.
const LEAST_SHARED: usize = 2048;

/// Columns for each worker, at least: with fewer it waits for panels longer than it works.
const COLUMNS_EACH: usize = 1024;

/// What the first worker says when all sums are told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Call {
    /// What was found, and all go on.
    Found,
    /// Help with a factorisation.
    Factor,
}

impl Call {
    /// The beginning of what is said.
    pub(super) fn message(self) -> Message {
        Message::default().number(self as usize)
    }

    /// What is said, whose particulars follow.
    ///
    /// # Errors
    /// [`Code::Internal`](crate::error::Code::Internal) for what [`Call::message`] never begins with.
    pub(super) fn of(said: &mut MessageReader<'_>) -> Result<Self> {
        let all = [Self::Found, Self::Factor];
        all.get(said.number()?).copied().ok_or_else(mangled)
    }
}

/// How the panels of a matrix (n x n) are dealt out.
#[derive(Clone, Copy)]
struct Dealt {
    n: usize,
    workers: usize,
}

impl Dealt {
    fn panels(self) -> usize {
        panels_of(self.n).len()
    }

    /// Who has a panel; the first worker is 0.
    const fn owner(self, index: usize) -> usize {
        index % self.workers
    }

    /// Reads a panel.
    fn read(self, index: usize, said: &mut MessageReader<'_>) -> Result<Vec<f64>> {
        let rows = said.list()?;
        let expected = index < self.panels() && rows.len() == panel_size(self.n, index);
        expected.then_some(rows).ok_or_else(mangled)
    }
}

/// Factors a matrix, in its place, with the others where it is wide enough.
///
/// # Errors
/// What goes wrong in another worker; inside, a matrix without a factor.
pub(super) async fn factor(
    s: Symmetric,
    crew: &Crew<'_>,
) -> Result<std::result::Result<Cholesky, NotPositiveDefinite>> {
    let n = s.side();
    match crew {
        Crew::First(first) if n > LEAST_SHARED => {
            let workers = first.workers().min(n / COLUMNS_EACH);
            share(s, first, Dealt { n, workers }).await
        }
        Crew::First(_) | Crew::Alone | Crew::Other(_) => Ok(Cholesky::new(s)),
    }
}

async fn share(
    s: Symmetric,
    first: &First,
    dealt: Dealt,
) -> Result<std::result::Result<Cholesky, NotPositiveDefinite>> {
    let Dealt { n, workers } = dealt;
    let mut own = PartialFactor::new(n);
    for worker in 1..workers {
        let call = Call::Factor.message().number(n).number(workers).number(worker);
        first.tell_one(worker - 1, &call);
    }
    for (index, panel) in s.into_iter().enumerate() {
        match dealt.owner(index) {
            0 => own.insert(index, panel),
            worker => first.tell_one(worker - 1, &Message::default().list(&panel)),
        }
    }
    let tell = |index: usize, panel: &[f64]| {
        // Nothing lies behind the last.
        if index + 1 < dealt.panels() {
            let message = Message::default().list(panel);
            let others = (1..workers).filter(|&worker| worker != dealt.owner(index));
            others.for_each(|worker| first.tell_one(worker - 1, &message));
        }
    };
    let mut found: Vec<Vec<f64>> = Vec::new();
    let mut next = match own.factor(0) {
        Ok(panel) => panel,
        Err(error) => return Ok(Err(error)),
    };
    next.iter().for_each(|panel| tell(0, panel));
    while let Some(panel) = next {
        let index = found.len();
        next = match own.next(index, &panel) {
            Ok(next) => next,
            Err(error) => return Ok(Err(error)),
        };
        next.iter().for_each(|next| tell(index + 1, next));
        own.subtract(index, &panel, index + 1..usize::MAX);
        found.push(panel);
        if next.is_none() && found.len() < dealt.panels() {
            let mut answered = Ok(None);
            let take = |said: &[u8]| {
                if !said.is_empty() {
                    answered = read_answer(dealt, found.len(), said)?.map(Some);
                }
                Ok(())
            };
            first.answers(take).await?;
            next = match answered {
                Ok(panel) => Some(panel.ok_or_else(mangled)?),
                Err(error) => return Ok(Err(error)),
            };
            next.iter().for_each(|next| tell(found.len(), next));
        }
    }
    Ok(Ok(Cholesky::of_panels(n, found)))
}

/// Another worker's part in what a [`Call::Factor`] begins.
///
/// # Errors
/// As [`Other::exchange`], and for what [`factor`] never says.
pub(super) async fn help(other: &Other<'_>, call: &mut MessageReader<'_>) -> Result<()> {
    let (n, workers, me) = (call.number()?, call.number()?, call.number()?);
    if !(1..workers).contains(&me) {
        return Err(mangled());
    }
    let dealt = Dealt { n, workers };
    let mut own = PartialFactor::new(n);
    for index in (0..dealt.panels()).filter(|&index| dealt.owner(index) == me) {
        let said = other.exchange(Message::default()).await?;
        own.insert(index, dealt.read(index, &mut MessageReader::new(&said))?);
    }
    other.answer(Message::default()).await?;
    let mut index = 0;
    while index + 1 < dealt.panels() {
        let said = other.hear().await?;
        let panel = dealt.read(index, &mut MessageReader::new(&said))?;
        drop(said);
        let next = own.next(index, &panel);
        other.answer(answer(&next)).await?;
        let Ok(next) = next else {
            return Ok(());
        };
        own.subtract(index, &panel, index + 1..usize::MAX);
        index += 1;
        if let Some(next) = next {
            // Nobody tells it what it has found.
            own.subtract(index, &next, index + 1..usize::MAX);
            index += 1;
        }
    }
    Ok(())
}

/// What another worker says of the panel behind the one that it is told.
fn answer(next: &std::result::Result<Option<Vec<f64>>, NotPositiveDefinite>) -> Message {
    match next {
        Ok(None) => Message::default(),
        Ok(Some(panel)) => Message::default().number(1).list(panel),
        Err(error) => Message::default().number(0).number(error.row),
    }
}

/// Reads an [`answer`] that is not empty.
fn read_answer(
    dealt: Dealt,
    index: usize,
    said: &[u8],
) -> Result<std::result::Result<Vec<f64>, NotPositiveDefinite>> {
    let mut said = MessageReader::new(said);
    Ok(if said.number()? == 0 {
        Err(NotPositiveDefinite { row: said.number()? })
    } else {
        Ok(dealt.read(index, &mut said)?)
    })
}

#[cfg(test)]
mod tests {
    use std::{
        cell::RefCell,
        collections::VecDeque,
        future::{Future, poll_fn},
        pin::Pin,
        rc::Rc,
        task::Poll,
    };

    use async_trait::async_trait;
    use futures_util::future::{Either, join_all, select};

    use super::*;
    use crate::{
        compute::{Answer, Available, Compute, Questions, Workers, gemm::View},
        error::{Code, Error},
        model::SampleShare,
    };

    /// What waits between two workers of one thread.
    #[derive(Default)]
    struct Line {
        questions: RefCell<VecDeque<Vec<u8>>>,
        answers: RefCell<VecDeque<Vec<u8>>>,
    }

    /// The first of a queue, when there is one.
    fn taken(queue: impl Fn() -> Option<Vec<u8>>) -> impl Future<Output = Vec<u8>> {
        poll_fn(move |context| {
            context.waker().wake_by_ref();
            queue().map_or(Poll::Pending, Poll::Ready)
        })
    }

    struct Lines(Vec<Rc<Line>>);

    impl Workers for Lines {
        fn available(&self) -> Available {
            Available::Exactly(self.0.len())
        }

        fn start(&self, _count: usize) {}

        fn ask(&self, worker: usize, question: Vec<u8>) -> Answer {
            let line = Rc::clone(&self.0[worker]);
            line.questions.borrow_mut().push_back(question);
            let answer = async move { Ok(taken(|| line.answers.borrow_mut().pop_front()).await) };
            Box::pin(answer) as Pin<Box<_>>
        }
    }

    #[async_trait(?Send)]
    impl Questions for Rc<Line> {
        async fn next(&self) -> Result<Option<Vec<u8>>> {
            Ok(Some(taken(|| self.questions.borrow_mut().pop_front()).await))
        }

        async fn answer(&self, answer: Vec<u8>) -> Result<()> {
            self.answers.borrow_mut().push_back(answer);
            Ok(())
        }
    }

    /// What `count` workers make of a matrix.
    fn shared(s: Symmetric, count: usize) -> std::result::Result<Cholesky, NotPositiveDefinite> {
        let lines: Vec<_> = (1..count).map(|_| Rc::new(Line::default())).collect();
        let compute = Compute::cpu().with_workers(Rc::new(Lines(lines.clone())));
        compute.start_workers(count - 1);
        let crew = Crew::of(&compute, count);
        let Crew::First(first) = &crew else {
            panic!("there are others")
        };
        let n = s.side();
        let helping = lines.iter().map(|line| async move {
            let crew = Crew::other(line, SampleShare::default());
            let Crew::Other(other) = &crew else {
                unreachable!("it is another")
            };
            let call = other.hear().await?;
            let mut call = MessageReader::new(&call);
            assert_eq!(Call::of(&mut call)?, Call::Factor);
            help(other, &mut call).await
        });
        let dealt = Dealt { n, workers: count };
        let (sharing, helping) = (Box::pin(share(s, first, dealt)), Box::pin(join_all(helping)));
        pollster::block_on(async {
            // The others are done first where the last panel is theirs, and never where there is no factor.
            let (factor, helped) = match select(sharing, helping).await {
                Either::Left((factor, helping)) => (factor.unwrap()?, helping.await),
                Either::Right((helped, sharing)) => (sharing.await.unwrap()?, helped),
            };
            helped.into_iter().for_each(|helped| helped.unwrap());
            assert!(lines.iter().all(|line| line.questions.borrow().is_empty()));
            Ok(factor)
        })
    }

    /// A positive definite matrix.
    fn matrix(n: usize) -> Symmetric {
        let x: Vec<f32> = (0..40 * n)
            .map(|at| ((at * 7919) % 1013) as f32 / 1013.0)
            .collect();
        let mut s = Symmetric::zeros(n);
        s.add_gram(View::new(&x, 40, n));
        s.add_to_diagonal((0..n).map(|i| 1.0 + i as f64 / n as f64));
        s
    }

    /// The solution for some right-hand sides: it tells of every number of a factor.
    fn solved(factor: &Cholesky, n: usize) -> Vec<f64> {
        let mut rows: Vec<f64> = (0..3 * n).map(|at| (at % 13) as f64 - 6.0).collect();
        factor.solve_rows(&mut rows);
        rows
    }

    #[test]
    fn several_workers_find_the_factor_of_one_to_the_bit() {
        // Seven panels, the last one narrow; one worker more than there are panels, too.
        let n = 1600;
        let s = matrix(n);
        let wanted = solved(&Cholesky::new(s.clone()).unwrap(), n);
        for count in [2, 3, 4, 8] {
            let found = shared(s.clone(), count).unwrap();
            assert!(solved(&found, n) == wanted, "{count} workers");
        }
    }

    #[test]
    fn whoever_finds_it_a_matrix_without_a_factor_is_refused_at_its_row() {
        // Of the first worker's panels and of the other's.
        for row in [70, 300, 600, 1599] {
            let mut s = matrix(1600);
            s.add_to_diagonal((0..1600).map(|i| if i == row { -1e5 } else { 0.0 }));
            let alone = Cholesky::new(s.clone()).err();
            assert_eq!(alone, Some(NotPositiveDefinite { row }));
            for count in [2, 3] {
                assert_eq!(shared(s.clone(), count).err(), alone, "{count} workers");
            }
        }
    }

    #[test]
    fn what_no_worker_says_is_an_error() {
        let dealt = Dealt { n: 600, workers: 2 };
        let said = Message::default().number(1).list(&[1.0; 3]).into_bytes();
        let error: Error = read_answer(dealt, 1, &said).err().unwrap();
        assert_eq!(error.code(), Code::Internal);
        let said = Message::default().list(&vec![0.0; 88 * 88]).into_bytes();
        assert!(dealt.read(2, &mut MessageReader::new(&said)).is_ok());
        assert!(dealt.read(3, &mut MessageReader::new(&said)).is_err());
        let said = Message::default().number(7).into_bytes();
        assert!(Call::of(&mut MessageReader::new(&said)).is_err());
    }
}
