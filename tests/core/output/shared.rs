//! Layers that are shared out to workers: the same bytes come of it, and what goes wrong in a worker is the merge's error.

use std::{
    cell::{Cell, RefCell},
    pin::Pin,
    rc::Rc,
    sync::mpsc::{Receiver, Sender, TryRecvError, channel},
    task::Poll,
    thread,
};

use async_trait::async_trait;
use iteris_web::{
    compute::{Answer, Available, Compute, Workers},
    error::{Code, Error, Result},
    export::report::MergeReport,
    io::{Folder, MemorySink},
    jobs::{
        AdapterInput,
        merge::{MergeRequest, merge},
        share::{Questions, solve_share},
    },
    merge::options::{MergeOptions, MethodName, OutputKind},
    progress::{Observer, Progress},
};

use super::{golden, options, tiny};

type Inputs = fn() -> (Option<Folder>, Vec<AdapterInput>);

fn request((base, adapters): (Option<Folder>, Vec<AdapterInput>), options: MergeOptions) -> MergeRequest {
    MergeRequest {
        base,
        base_path: None,
        device_why: None,
        adapters,
        options,
    }
}

/// Threads, each of which opens the inputs by itself.
struct Threads {
    inputs: Inputs,
    options: MergeOptions,
    available: Available,
    /// Answers after which a thread ends without a word.
    lives: usize,
    members: RefCell<Vec<Member>>,
    answered: Rc<Cell<usize>>,
}

/// Where a thread is asked, and what it answers.
type Member = (Sender<Vec<u32>>, Rc<Replies>);

/// What a thread answers, in the order in which it was asked.
struct Replies {
    answers: Receiver<Result<Vec<u8>>>,
    asked: Cell<usize>,
    given: Cell<usize>,
}

/// The other end of it, in the thread.
struct Asked {
    questions: Receiver<Vec<u32>>,
    answers: Sender<Result<Vec<u8>>>,
    lives: Cell<usize>,
}

#[async_trait(?Send)]
impl Questions for Asked {
    async fn next(&self) -> Result<Option<Vec<u32>>> {
        if self.lives.get() == 0 {
            return Ok(None);
        }
        self.lives.set(self.lives.get() - 1);
        Ok(self.questions.recv().ok())
    }

    async fn answer(&self, answer: &[u8]) -> Result<()> {
        // Nobody waits for it where the merge has ended.
        let _ = self.answers.send(Ok(answer.to_vec()));
        Ok(())
    }
}

impl Workers for Threads {
    fn available(&self) -> Available {
        self.available
    }

    fn start(&self, count: usize) {
        for _ in 0..count {
            let ((ask, questions), (answers, replies)) = (channel(), channel());
            let (inputs, options, lives) = (self.inputs, self.options.clone(), self.lives);
            thread::spawn(move || {
                let failed = answers.clone();
                let asked = Asked {
                    questions,
                    answers,
                    lives: Cell::new(lives),
                };
                let compute = Compute::cpu();
                let solving = solve_share(request(inputs(), options), &compute, &asked);
                if let Err(error) = pollster::block_on(solving) {
                    let _ = failed.send(Err(error));
                }
            });
            let replies = Replies {
                answers: replies,
                asked: Cell::new(0),
                given: Cell::new(0),
            };
            self.members.borrow_mut().push((ask, Rc::new(replies)));
        }
    }

    fn ask(&self, worker: usize, question: Vec<u32>) -> Answer {
        let (ask, replies) = &self.members.borrow()[worker];
        let gone = || Error::new(Code::Internal, "a thread is gone");
        // A thread that has ended has said why, if it could.
        let _ = ask.send(question);
        let (replies, answered) = (Rc::clone(replies), Rc::clone(&self.answered));
        let turn = replies.asked.replace(replies.asked.get() + 1);
        let poll = move |context: &mut std::task::Context<'_>| {
            if replies.given.get() == turn {
                match replies.answers.try_recv() {
                    Ok(answer) => {
                        replies.given.set(turn + 1);
                        answered.set(answered.get() + 1);
                        return Poll::Ready(answer);
                    }
                    Err(TryRecvError::Disconnected) => return Poll::Ready(Err(gone())),
                    Err(TryRecvError::Empty) => {}
                }
            }
            context.waker().wake_by_ref();
            Poll::Pending
        };
        Pin::from(Box::new(std::future::poll_fn(poll)))
    }
}

/// Lets the threads run, as a browser's worker lets messages in.
#[derive(Default)]
struct Yielding {
    merged: RefCell<Vec<(usize, usize)>>,
}

#[async_trait(?Send)]
impl Observer for Yielding {
    async fn progress(&self, progress: Progress) -> Result<()> {
        if progress.stage == "merge" {
            self.merged.borrow_mut().push((progress.done, progress.total));
        }
        thread::yield_now();
        Ok(())
    }
}

struct Outcome {
    sink: MemorySink,
    report: MergeReport,
    /// Layers that came from threads.
    answered: usize,
    merged: Vec<(usize, usize)>,
}

fn shared(inputs: Inputs, options: &MergeOptions, available: Available, lives: usize) -> Result<Outcome> {
    let answered = Rc::new(Cell::new(0));
    let threads = Threads {
        inputs,
        options: options.clone(),
        available,
        lives,
        members: RefCell::default(),
        answered: Rc::clone(&answered),
    };
    let compute = Compute::cpu().with_workers(Rc::new(threads));
    let (observer, mut sink) = (Yielding::default(), MemorySink::default());
    let merging = merge(request(inputs(), options.clone()), &compute, &observer, &mut sink);
    let report = pollster::block_on(merging)?;
    Ok(Outcome {
        sink,
        report,
        answered: answered.get(),
        merged: observer.merged.into_inner(),
    })
}

fn both() -> (Option<Folder>, Vec<AdapterInput>) {
    (Some(tiny()), vec![golden("qv"), golden("all")])
}

/// The written files, but for the report with its seconds.
fn weights(sink: &MemorySink) -> Vec<&(String, Vec<u8>)> {
    let files = sink.files().iter();
    files.filter(|(name, _)| name.ends_with(".safetensors")).collect()
}

fn of(method: MethodName) -> MergeOptions {
    MergeOptions { method, ..options() }
}

#[test]
fn shared_out_a_merge_writes_the_same_bytes() {
    let ways = [
        of(MethodName::Linear),
        MergeOptions {
            rank: Some(2),
            ..of(MethodName::Svd)
        },
        // The rank depends on the numbers, so that layers wait in the sink.
        MergeOptions {
            energy: Some(0.9),
            ..of(MethodName::Linear)
        },
        MergeOptions {
            rank: Some(3),
            ..of(MethodName::DareTies)
        },
        of(MethodName::Knots),
        // Whole changes: factors, and dense ones.
        MergeOptions {
            output: OutputKind::Base,
            ..of(MethodName::Linear)
        },
        MergeOptions {
            output: OutputKind::Base,
            ..of(MethodName::Ties)
        },
    ];
    for options in ways {
        let alone = shared(both, &options, Available::Exactly(0), usize::MAX).unwrap();
        assert_eq!(alone.answered, 0);
        // More than there are layers, too.
        for workers in [1, 3, 100] {
            let helped = shared(both, &options, Available::Exactly(workers), usize::MAX).unwrap();
            let name = format!("{:?} to {:?}, {workers} workers", options.method, options.output);
            assert!(helped.answered > 0, "{name}: nobody helped");
            assert!(weights(&helped.sink) == weights(&alone.sink), "{name}");
            let told = |outcome: &Outcome| {
                let layers = outcome.report.layers.iter().cloned();
                layers
                    .map(|layer| (layer.module, layer.rank, layer.energy_kept, layer.error))
                    .collect::<Vec<_>>()
            };
            assert_eq!(told(&helped), told(&alone), "{name}");
            assert_eq!(helped.report.notes, alone.report.notes, "{name}");
            // Progress goes up, and to the end.
            let (done, total): (Vec<usize>, Vec<usize>) = helped.merged.iter().copied().unzip();
            assert!(done.is_sorted(), "{name}: {done:?}");
            assert!(done.last().unwrap() < &total[0], "{name}: {done:?} of {total:?}");
        }
    }
}

#[test]
fn a_small_merge_is_not_shared_out_where_nobody_asks_for_it() {
    let machine = Available::UpTo {
        cores: 7,
        memory_bytes: None,
    };
    assert_eq!(
        shared(both, &of(MethodName::Svd), machine, usize::MAX)
            .unwrap()
            .answered,
        0
    );
}

#[test]
fn a_worker_that_ends_fails_the_merge() {
    let error = shared(both, &of(MethodName::Svd), Available::Exactly(1), 1)
        .err()
        .unwrap();
    assert_eq!(
        (error.code(), error.to_string().as_str()),
        (Code::Internal, "a thread is gone")
    );
}

#[test]
fn what_goes_wrong_in_a_worker_is_the_error_of_the_merge() {
    // What only one of them finds, as where a file is taken away in between.
    fn inputs() -> (Option<Folder>, Vec<AdapterInput>) {
        let (base, mut adapters) = both();
        if thread::current().name().is_none() {
            adapters.remove(0);
            adapters.remove(0);
        }
        (base, adapters)
    }
    let error = shared(inputs, &of(MethodName::Svd), Available::Exactly(1), usize::MAX)
        .err()
        .unwrap();
    assert_eq!(error.code(), Code::NoAdapters, "{error}");
}
