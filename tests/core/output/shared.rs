//! Merges that are shared out to workers: the same bytes come of layers, the same numbers of samples, and what goes wrong in
//! a worker is the merge's error.

use std::{
    cell::{Cell, RefCell},
    collections::BTreeMap,
    pin::Pin,
    rc::Rc,
    sync::{
        Arc,
        mpsc::{Receiver, Sender, TryRecvError, channel},
    },
    task::Poll,
    thread,
};

use crate::support::{folder, goldens, json, pictures, relative_error, written_deltas};
use async_trait::async_trait;
use iteris_web::{
    calibrate::{SelfWritten, TaskSamples},
    compare::CompareReport,
    compute::{Answer, Available, Compute, Questions, Workers},
    error::{Code, Error, Result},
    export::report::MergeReport,
    generate::Sampling,
    io::{Checkpoint, Folder, MemorySink, OutDtype, OutTensor, serialize},
    jobs::{
        AdapterInput,
        compare::{CompareRequest, MergedInput, compare, compare_share},
        generate::{GenerateRequest, Variant, write_variants, write_variants_share},
        merge::{MergeRequest, merge},
        share::solve_share,
    },
    merge::options::{LeastSquares, MergeOptions, MethodName, OutputKind, Schedule},
    model::batch::{Padding, Sample},
    progress::{Observer, Progress},
};

use super::{files, golden, options, tiny};

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

/// What a thread does: its share of a job, until nothing more is asked.
type Helping = Arc<dyn Fn(&Asked) -> Result<()> + Send + Sync>;

/// Threads, each of which opens the inputs by itself.
struct Threads {
    helping: Helping,
    available: Available,
    /// Answers after which a thread ends without a word.
    lives: usize,
    members: RefCell<Vec<Member>>,
    answered: Rc<Cell<usize>>,
}

/// Where a thread is asked, and what it answers.
type Member = (Sender<Vec<u8>>, Rc<Replies>);

/// What a thread answers, in the order in which it was asked.
struct Replies {
    answers: Receiver<Result<Vec<u8>>>,
    asked: Cell<usize>,
    given: Cell<usize>,
}

/// The other end of it, in the thread.
struct Asked {
    questions: Receiver<Vec<u8>>,
    answers: Sender<Result<Vec<u8>>>,
    lives: Cell<usize>,
}

#[async_trait(?Send)]
impl Questions for Asked {
    async fn next(&self) -> Result<Option<Vec<u8>>> {
        if self.lives.get() == 0 {
            return Ok(None);
        }
        self.lives.set(self.lives.get() - 1);
        Ok(self.questions.recv().ok())
    }

    async fn answer(&self, answer: Vec<u8>) -> Result<()> {
        // Nobody waits for it where the merge has ended.
        let _ = self.answers.send(Ok(answer));
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
            let (helping, lives) = (Arc::clone(&self.helping), self.lives);
            thread::spawn(move || {
                let failed = answers.clone();
                let asked = Asked {
                    questions,
                    answers,
                    lives: Cell::new(lives),
                };
                if let Err(error) = helping(&asked) {
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

    fn ask(&self, worker: usize, question: Vec<u8>) -> Answer {
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

/// A device with threads beside it that help, and how many answers they have given.
fn with_threads(helping: Helping, available: Available, lives: usize) -> (Compute, Rc<Cell<usize>>) {
    let answered = Rc::new(Cell::new(0));
    let threads = Threads {
        helping,
        available,
        lives,
        members: RefCell::default(),
        answered: Rc::clone(&answered),
    };
    (Compute::cpu().with_workers(Rc::new(threads)), answered)
}

fn shared(inputs: Inputs, options: &MergeOptions, available: Available, lives: usize) -> Result<Outcome> {
    let own = options.clone();
    let helping = Arc::new(move |asked: &Asked| {
        let request = request(inputs(), own.clone());
        pollster::block_on(solve_share(request, &Compute::cpu(), asked))
    });
    let (compute, answered) = with_threads(helping, available, lives);
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

/// The tiny model of a family with the adapters and samples of its goldens; what an encoder-decoder's adapters answer they
/// write themselves.
fn family(name: &str) -> (Option<Folder>, Vec<AdapterInput>) {
    let path = goldens().join("families").join(name);
    let inputs = json(&path.join("inputs.json"));
    let adapter = |name: &str| {
        let ids: Vec<Vec<u32>> = serde_json::from_value(inputs["samples"][name].clone()).unwrap();
        let samples = TaskSamples {
            samples: ids.into_iter().map(Sample::text).collect(),
            ..TaskSamples::default()
        };
        AdapterInput {
            samples: Some(samples),
            ..super::input(name, folder(&path.join(name)), 1.0)
        }
    };
    (Some(folder(&path.join("base"))), ["a", "b"].map(adapter).into())
}

fn encoder() -> (Option<Folder>, Vec<AdapterInput>) {
    family("roberta")
}

fn decoder() -> (Option<Folder>, Vec<AdapterInput>) {
    family("llama")
}

fn encoder_decoder() -> (Option<Folder>, Vec<AdapterInput>) {
    family("t5")
}

/// Texts that the adapters write themselves.
fn writers() -> (Option<Folder>, Vec<AdapterInput>) {
    let (base, mut adapters) = family("llama");
    for adapter in &mut adapters {
        let mut own = SelfWritten::default();
        (own.options.count, own.options.max_new_tokens) = (5, 6);
        adapter.samples = Some(TaskSamples {
            own: Some(own),
            ..TaskSamples::default()
        });
    }
    (base, adapters)
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

/// Holds a shared merge against one worker's: layers and what is told of them.
fn assert_alike(name: &str, helped: &Outcome, alone: &Outcome) {
    let file = |outcome: &Outcome| written_deltas(outcome.sink.file("adapter_model.safetensors").unwrap());
    let (found, wanted) = (file(helped), file(alone));
    let near = |a: Option<f64>, b: Option<f64>, within: f64| match (a, b) {
        (Some(a), Some(b)) => (a - b).abs() <= within * b.abs(),
        (a, b) => a == b,
    };
    assert_eq!(helped.report.layers.len(), alone.report.layers.len(), "{name}");
    for (layer, other) in helped.report.layers.iter().zip(&alone.report.layers) {
        let module = &layer.module;
        assert_eq!((module, layer.rank), (&other.module, other.rank), "{name}");
        let error = relative_error(&found(module), &wanted(module));
        // The order of the sums is all that differs; an f32 of a solution that is rounded otherwise comes back magnified.
        assert!(error < 1e-6, "{name}, {module}: {error:.1e}");
        for (task, other) in layer.tasks.iter().zip(&other.tasks) {
            // Weights are of sums in f64; residuals of features in f32 under solutions that are themselves a little apart.
            assert!(
                near(task.lambda, other.lambda, 1e-6),
                "{name}, {module}: {task:?} {other:?}"
            );
            assert!(
                near(task.residual, other.residual, 1e-4),
                "{name}, {module}: {task:?} {other:?}"
            );
        }
    }
    for (adapter, other) in helped.report.adapters.iter().zip(&alone.report.adapters) {
        assert_eq!(adapter.samples, other.samples, "{name}");
    }
    let count = |outcome: &Outcome| outcome.report.operations;
    assert!(
        near(Some(count(helped).forward), Some(count(alone).forward), 1e-12),
        "{name}"
    );
    assert!(
        near(Some(count(helped).gram), Some(count(alone).gram), 1e-12),
        "{name}"
    );
}

#[test]
fn shared_out_samples_give_the_same_layers() {
    let iteris = || of(MethodName::Iteris);
    let iterate = MergeOptions {
        schedule: Schedule::Iterate,
        max_iter: 3,
        ..iteris()
    };
    let padded = MergeOptions {
        padding: Padding::Include,
        ..iteris()
    };
    let whole = MergeOptions {
        target: LeastSquares::Full,
        alpha2: 1e-3,
        ..iteris()
    };
    let models: [(&str, Inputs); 5] = [
        ("encoder", encoder),
        ("decoder", decoder),
        ("encoder-decoder", encoder_decoder),
        ("self-written", writers),
        ("captioner", captioners),
    ];
    for (model, inputs) in models {
        let ways = [
            iteris(),
            iterate.clone(),
            padded.clone(),
            whole.clone(),
            of(MethodName::Regmean),
            of(MethodName::RegmeanPlusPlus),
        ];
        for mut options in ways {
            options.max_new_tokens = Some(8);
            let alone = shared(inputs, &options, Available::Exactly(0), usize::MAX).unwrap();
            assert_eq!((alone.answered, alone.report.workers), (0, 1));
            // With more workers than samples there is one sample in each share, and so none of the other task.
            for workers in [1, 100] {
                let helped = shared(inputs, &options, Available::Exactly(workers), usize::MAX).unwrap();
                let name = format!(
                    "{model}, {:?} {:?}, {workers} workers",
                    options.method, options.schedule
                );
                assert!(
                    helped.answered > 0 && helped.report.workers > 1,
                    "{name}: nobody helped"
                );
                assert_alike(&name, &helped, &alone);
            }
        }
    }
}

/// One block of the tiny llama with an MLP so wide that its factorisation is shared out, and adapters of its last layer.
fn wide() -> (Option<Folder>, Vec<AdapterInput>) {
    const WIDTH: usize = 2304;
    const HIDDEN: usize = 16;
    let path = goldens().join("families/llama");
    let narrow = folder(&path.join("base"));
    let base = pollster::block_on(Checkpoint::open(&narrow, "model")).unwrap();
    // Numbers around zero that follow no simple rule, as large as those that a model begins with.
    let numbers = |seed: usize, count: usize| -> Vec<f32> {
        let number = |at: usize| ((at * 7919 + seed * 104_729) % 10_007) as f32 / 10_007.0 - 0.5;
        (0..count).map(number).collect()
    };
    let tensor = |name: String, shape: Vec<usize>, data: Vec<f32>| OutTensor { name, shape, data };
    let file = |tensors: Vec<OutTensor>| serialize(&tensors, OutDtype::F32, &BTreeMap::new()).unwrap();
    let mut tensors = Vec::new();
    for info in base.infos().filter(|info| !info.name.contains("layers.1.")) {
        let mlp = |layer: &str| info.name.contains(&format!("mlp.{layer}"));
        let (shape, data) = if mlp("gate") || mlp("up") {
            (vec![WIDTH, HIDDEN], numbers(tensors.len(), WIDTH * HIDDEN))
        } else if mlp("down") {
            (vec![HIDDEN, WIDTH], numbers(tensors.len(), WIDTH * HIDDEN))
        } else {
            let data = pollster::block_on(base.f32(&info.name)).unwrap();
            (info.shape.clone(), data)
        };
        tensors.push(tensor(info.name.clone(), shape, data));
    }
    let mut config = json(&path.join("base/config.json"));
    (config["intermediate_size"], config["num_hidden_layers"]) = (WIDTH.into(), 1.into());
    let base = files(
        "wide",
        vec![
            ("config.json", config.to_string().into_bytes()),
            ("model.safetensors", file(tensors)),
        ],
    );
    let mut config = json(&path.join("a/adapter_config.json"));
    config["target_modules"] = vec!["down_proj"].into();
    let adapter = |(at, mut input): (usize, AdapterInput)| {
        let name = |side: &str| format!("base_model.model.model.layers.0.mlp.down_proj.lora_{side}.weight");
        let weights = file(vec![
            tensor(name("A"), vec![2, WIDTH], numbers(50 + at, 2 * WIDTH)),
            tensor(name("B"), vec![HIDDEN, 2], numbers(60 + at, 2 * HIDDEN)),
        ]);
        input.folder = files(
            &input.name,
            vec![
                ("adapter_config.json", config.to_string().into_bytes()),
                ("adapter_model.safetensors", weights),
            ],
        );
        input
    };
    (
        Some(base),
        decoder().1.into_iter().enumerate().map(adapter).collect(),
    )
}

#[test]
fn the_factorisation_of_a_wide_layer_is_shared_out() {
    // A ridge under which the rounding of sums is not magnified: there are many more columns than rows.
    let options = MergeOptions {
        alpha1: 1e-4,
        alpha2: 1e-4,
        ..of(MethodName::Iteris)
    };
    let alone = shared(wide, &options, Available::Exactly(0), usize::MAX).unwrap();
    assert_eq!(alone.report.layers.len(), 1);
    // Two share it; a third and a fourth that share the samples only wait.
    for workers in [1, 3] {
        let helped = shared(wide, &options, Available::Exactly(workers), usize::MAX).unwrap();
        // Sums and norms go in few parcels; of nine panels four are told twice.
        assert!(helped.answered > 8 + 7 * workers, "{}", helped.answered);
        assert_alike("wide", &helped, &alone);
    }
}

#[test]
fn a_worker_that_ends_in_the_middle_of_a_factorisation_fails_the_merge() {
    for lives in [8, 12] {
        let error = shared(wide, &of(MethodName::Iteris), Available::Exactly(1), lives)
            .err()
            .unwrap();
        assert_eq!(error.code(), Code::Internal, "{error}");
    }
}

#[test]
fn a_worker_that_ends_in_the_middle_of_a_pass_fails_the_merge() {
    for lives in [0, 1, 3] {
        let error = shared(encoder, &of(MethodName::Iteris), Available::Exactly(2), lives)
            .err()
            .unwrap();
        assert_eq!(error.code(), Code::Internal, "{error}");
    }
}

#[test]
fn what_goes_wrong_with_a_share_of_the_samples_is_the_error_of_the_merge() {
    // An adapter that only the other workers find to be another one, as where a file is exchanged in between.
    fn inputs() -> (Option<Folder>, Vec<AdapterInput>) {
        let (base, mut adapters) = encoder();
        if thread::current().name().is_none() {
            adapters.remove(0);
        }
        (base, adapters)
    }
    let error = shared(inputs, &of(MethodName::Iteris), Available::Exactly(1), usize::MAX)
        .err()
        .unwrap();
    assert_eq!(error.code(), Code::Internal, "{error}");
}

#[test]
fn shared_out_prompts_are_answered_alike() {
    let prompts = || GenerateRequest {
        base: folder(&goldens().join("families/llama/base")),
        variants: ["base", "a", "b"]
            .map(|name| Variant {
                name: name.to_owned(),
                folder: (name != "base").then(|| folder(&goldens().join("families/llama").join(name))),
            })
            .into(),
        prompts: (0..7u32)
            .map(|at| (0..=at).map(|id| 5 + (3 * at + id) % 20).collect())
            .collect(),
        pictures: None,
        // Draws, so that it is seen which prompt has which.
        sampling: Sampling {
            max_new_tokens: 9,
            temperature: 1.5,
            seed: 3,
            ..Sampling::default()
        },
    };
    let written = |workers| {
        let helping = Arc::new(move |asked: &Asked| {
            pollster::block_on(write_variants_share(prompts(), &Compute::cpu(), asked))
        });
        let (compute, answered) = with_threads(helping, Available::Exactly(workers), usize::MAX);
        let written = pollster::block_on(write_variants(prompts(), &compute, &Yielding::default())).unwrap();
        (written.variants, answered.get())
    };
    let (alone, none) = written(0);
    assert_eq!(none, 0);
    assert_ne!(alone[0].1, alone[1].1);
    // Two share; and each has one prompt or none of one adapter.
    for workers in [1, 100] {
        let (helped, answered) = written(workers);
        assert!(answered > 0);
        assert_eq!(helped, alone, "{workers} workers");
    }
}

/// A model that captions pictures, and its adapters with some.
fn captioners() -> (Option<Folder>, Vec<AdapterInput>) {
    let root = goldens().join("blip");
    let adapter = |name: &str| AdapterInput {
        name: name.to_owned(),
        folder: folder(&root.join(name)),
        samples: None,
        pictures: Some(pictures(&root.join(format!("{name}.samples")))),
        weight: 1.0,
        path: None,
    };
    (Some(folder(&root.join("base"))), vec![adapter("a"), adapter("b")])
}

#[test]
fn shared_out_samples_are_compared_alike() {
    // One that predicts classes, two that write; some labels are what the adapter writes, others are not.
    for name in ["roberta", "llama", "blip"] {
        let request = move || {
            let (base, mut adapters) = if name == "blip" {
                captioners()
            } else {
                family(name)
            };
            for adapter in &mut adapters {
                let samples = adapter.samples.get_or_insert_default();
                let count = adapter
                    .pictures
                    .as_ref()
                    .map_or(samples.samples.len(), |all| all.files().len());
                samples.label_answers = (0..count).map(|at| vec![7; at % 3]).collect();
            }
            CompareRequest {
                base: base.unwrap(),
                merged: adapters
                    .iter()
                    .map(|adapter| MergedInput {
                        name: format!("merged {}", adapter.name),
                        folder: adapter.folder.clone(),
                    })
                    .collect(),
                adapters,
                max_new_tokens: Some(6),
                classes: Vec::new(),
            }
        };
        let compared = |workers| {
            let helping = Arc::new(move |asked: &Asked| {
                pollster::block_on(compare_share(request(), &Compute::cpu(), asked))
            });
            let (compute, answered) = with_threads(helping, Available::Exactly(workers), usize::MAX);
            let (report, _) = pollster::block_on(compare(request(), &compute, &Yielding::default())).unwrap();
            (report, answered.get())
        };
        let (alone, none) = compared(0);
        assert_eq!(none, 0);
        for workers in [1, 100] {
            let (helped, answered) = compared(workers);
            assert!(answered > 0, "{name}");
            let counted = |report: &CompareReport| {
                let tasks = report.tasks.iter();
                tasks
                    .flat_map(|task| task.variants.iter().map(|one| (one.agreement, one.accuracy)))
                    .collect::<Vec<_>>()
            };
            assert_eq!(counted(&helped), counted(&alone), "{name}, {workers} workers");
            let told = |report: &CompareReport| -> Vec<_> {
                report.tasks.iter().map(|task| task.said.clone()).collect()
            };
            assert_eq!(told(&helped), told(&alone), "{name}, {workers} workers");
            assert_eq!(alone.tasks[0].said.is_empty(), name != "blip");
            let measured = |report: &CompareReport| {
                let variants = report.tasks.iter().flat_map(|task| &task.variants);
                let residuals = report.residuals.iter().map(|one| one.residual);
                variants
                    .map(|one| one.cosine)
                    .chain(residuals)
                    .collect::<Vec<f64>>()
            };
            let (found, wanted) = (measured(&helped), measured(&alone));
            assert_eq!(found.len(), wanted.len());
            for (a, b) in found.iter().zip(&wanted) {
                assert!(
                    (a - b).abs() <= 1e-6 * b.abs().max(1.0),
                    "{name}, {workers} workers: {a} {b}"
                );
            }
        }
    }
}
