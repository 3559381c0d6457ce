//! What merging language models promises, on the tiny models of `tests/goldens/data/families`.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test stops at what it did not expect"
)]

use std::{cell::RefCell, path::PathBuf};

use crate::support::{folder, given, goldens, json, tensors};
use async_trait::async_trait;
use iteris_web::{
    calibrate::{DecoderInputs, Given, Positions, SelfOptions, SelfWritten, TaskSamples},
    compute::{Compute, Limits},
    error::{Code, Error, Result},
    export::report::MergeReport,
    generate::Sampling,
    io::{ByteSource, Folder, MemorySink, MemorySource},
    jobs::{
        AdapterInput,
        compare::{CompareRequest, MergedInput, compare},
        generate::{GenerateRequest, Variant, write_variants},
        logits::logits,
        merge::{MergeRequest, merge},
    },
    merge::options::{MergeOptions, OutputKind},
    model::{TEXT, batch::Sample},
    progress::{Observer, Progress, Silent},
};
use serde_json::Value;

/// One golden family.
struct Case {
    path: PathBuf,
    inputs: Value,
}

impl Case {
    fn of(name: &str) -> Self {
        let path = goldens().join("families").join(name);
        let inputs = json(&path.join("inputs.json"));
        Self { path, inputs }
    }

    fn base(&self) -> Folder {
        folder(&self.path.join("base"))
    }

    fn lists(&self, pointer: &str) -> Vec<Vec<u32>> {
        let value = self.inputs.pointer(pointer).unwrap().clone();
        serde_json::from_value(value).unwrap()
    }

    /// The samples of task `a` or `b`, as a caller who has no answers gives them.
    fn samples(&self, task: &str) -> TaskSamples {
        let ids = self.lists(&format!("/samples/{task}"));
        given(ids.into_iter().map(Sample::text).collect())
    }

    fn adapter(&self, name: &str, samples: TaskSamples) -> AdapterInput {
        AdapterInput {
            name: name.to_owned(),
            folder: folder(&self.path.join(name)),
            samples: Some(samples),
            pictures: None,
            weight: 1.0,
            path: None,
        }
    }

    fn merge(&self, samples: [TaskSamples; 2], options: MergeOptions) -> Result<(MemorySink, MergeReport)> {
        self.merge_on(&Compute::cpu(), &Silent, samples, options)
    }

    fn merge_on(
        &self,
        compute: &Compute,
        observer: &dyn Observer,
        [a, b]: [TaskSamples; 2],
        options: MergeOptions,
    ) -> Result<(MemorySink, MergeReport)> {
        let request = MergeRequest {
            base: Some(self.base()),
            base_path: None,
            device_why: None,
            adapters: vec![self.adapter("a", a), self.adapter("b", b)],
            options,
        };
        let mut sink = MemorySink::default();
        let report = pollster::block_on(merge(request, compute, observer, &mut sink))?;
        Ok((sink, report))
    }

    fn write(
        &self,
        variants: Vec<Variant>,
        prompts: Vec<Vec<u32>>,
        sampling: Sampling,
    ) -> Vec<Vec<Vec<u32>>> {
        let request = GenerateRequest {
            base: self.base(),
            variants,
            prompts,
            pictures: None,
            sampling,
        };
        let written = pollster::block_on(write_variants(request, &Compute::cpu(), &Silent)).unwrap();
        written
            .variants
            .into_iter()
            .map(|(_, answers)| answers.into_iter().map(|answer| answer.ids).collect())
            .collect()
    }
}

fn own(samples: TaskSamples) -> TaskSamples {
    TaskSamples {
        answers: vec![Given::Own; samples.samples.len()],
        ..samples
    }
}

fn answered(samples: TaskSamples, answers: Vec<Vec<u32>>) -> TaskSamples {
    TaskSamples {
        answers: answers.into_iter().map(Given::Tokens).collect(),
        ..samples
    }
}

/// Answers as short as those of the goldens.
fn short() -> MergeOptions {
    MergeOptions {
        max_new_tokens: Some(12),
        ..MergeOptions::default()
    }
}

fn weights(sink: &MemorySink) -> &[u8] {
    let file = |name: &str| sink.files().iter().find(|(file, _)| file == name);
    &file("adapter_model.safetensors").unwrap().1
}

fn written(sink: &MemorySink) -> Folder {
    let files = sink.files().iter().map(|(name, bytes)| {
        std::rc::Rc::new(MemorySource::new(name.as_str(), bytes.clone())) as std::rc::Rc<dyn ByteSource>
    });
    Folder::new("merged", files.collect()).unwrap()
}

fn variant(name: &str, folder: Option<Folder>) -> Variant {
    Variant {
        name: name.to_owned(),
        folder,
    }
}

#[test]
fn answers_that_the_caller_gives_count_as_those_the_adapter_writes() {
    for name in ["t5", "llama"] {
        let case = Case::of(name);
        let options = short();
        let samples = ["a", "b"].map(|task| case.samples(task));
        let (ours, report) = case.merge(samples.clone().map(own), options.clone()).unwrap();
        let answers = ["a", "b"].map(|task| {
            let adapter = variant(task, Some(folder(&case.path.join(task))));
            let prompts = case.lists(&format!("/samples/{task}"));
            case.write(vec![adapter], prompts, Sampling::greedy(12)).remove(0)
        });
        let [a, b] = samples;
        let [own_a, own_b] = answers;
        let given = [answered(a, own_a), answered(b, own_b)];
        let (theirs, given) = case.merge(given, options).unwrap();
        assert_eq!(weights(&ours), weights(&theirs), "{name}");
        let of = |report: MergeReport| {
            let samples = report.adapters[0].samples.clone().unwrap();
            (
                serde_json::to_value(samples.answers).unwrap(),
                samples.answer_tokens,
                samples.sha256,
            )
        };
        let ((source, tokens, hash), (given_source, given_tokens, given_hash)) = (of(report), of(given));
        assert_eq!((source, given_source), ("own".into(), "given".into()));
        assert_eq!((tokens, hash), (given_tokens, given_hash));
        assert!(tokens > 0);
    }
}

#[test]
fn the_start_token_alone_needs_no_answer() {
    let case = Case::of("t5");
    let options = MergeOptions {
        decoder_inputs: DecoderInputs::Start,
        ..MergeOptions::default()
    };
    let stages = Stages::default();
    let samples = ["a", "b"].map(|task| case.samples(task));
    let (_, report) = case.merge_on(&Compute::cpu(), &stages, samples, options).unwrap();
    let samples = report.adapters[0].samples.as_ref().unwrap();
    assert_eq!(serde_json::to_value(samples.answers).unwrap(), "start");
    assert_eq!(samples.answer_tokens, 0);
    assert!(!stages.0.borrow().contains(&"generate"));
}

/// The stages that were told of.
#[derive(Default)]
struct Stages(RefCell<Vec<&'static str>>);

#[async_trait(?Send)]
impl Observer for Stages {
    async fn progress(&self, progress: Progress) -> Result<()> {
        self.0.borrow_mut().push(progress.stage);
        Ok(())
    }
}

#[test]
fn an_adapter_can_write_its_own_samples() {
    let case = Case::of("llama");
    let alone = |seed, prompt: Vec<u32>| TaskSamples {
        own: Some(SelfWritten {
            text: None,
            prompt,
            options: SelfOptions {
                count: 6,
                max_new_tokens: 9,
                temperature: 1.0,
                top_p: 0.95,
                seed,
            },
        }),
        ..TaskSamples::default()
    };
    let run = |seed, prompt: &[u32]| {
        let samples = [alone(seed, prompt.to_vec()), alone(seed + 1, prompt.to_vec())];
        case.merge(samples, MergeOptions::default()).unwrap()
    };
    let (first, report) = run(1, &[]);
    assert_eq!(weights(&first), weights(&run(1, &[]).0), "a seed repeats");
    assert_ne!(weights(&first), weights(&run(2, &[]).0), "another seed does not");
    assert_ne!(weights(&first), weights(&run(1, &[1, 20]).0), "nor does a prompt");
    let samples = report.adapters[0].samples.as_ref().unwrap();
    let own = samples.own.as_ref().unwrap();
    assert_eq!((own.count, own.max_new_tokens, own.seed), (6, 9, 1));
    assert_eq!(samples.count, 6);
    assert!(samples.tokens > 6);
    assert!(
        report
            .notes
            .iter()
            .any(|note| note.contains("wrote its calibration texts itself"))
    );

    let t5 = Case::of("t5");
    let samples = [alone(1, vec![5, 9, 1]), alone(2, Vec::new())];
    let (_, report) = t5.merge(samples, MergeOptions::default()).unwrap();
    let samples = report.adapters[0].samples.as_ref().unwrap();
    assert_eq!(serde_json::to_value(samples.answers).unwrap(), "own");
}

#[test]
fn counting_the_completion_alone_changes_the_solution_and_not_the_forward_pass() {
    let case = Case::of("llama");
    let samples = || ["a", "b"].map(|task| own(case.samples(task)));
    let merged = |positions| {
        let options = MergeOptions { positions, ..short() };
        case.merge(samples(), options).unwrap()
    };
    let ((all, every), (some, counted)) = (merged(Positions::All), merged(Positions::Completion));
    assert_ne!(weights(&all), weights(&some));
    assert_eq!(
        every.adapters[0].samples.as_ref().unwrap().sha256,
        counted.adapters[0].samples.as_ref().unwrap().sha256
    );
    assert!(counted.operations.gram < every.operations.gram);
}

#[test]
fn a_merged_model_writes_what_its_adapter_writes() {
    for name in ["t5", "llama", "gpt2"] {
        let case = Case::of(name);
        let samples = || ["a", "b"].map(|task| own(case.samples(task)));
        let (adapter, _) = case.merge(samples(), short()).unwrap();
        let options = MergeOptions {
            output: OutputKind::Base,
            ..short()
        };
        let (whole, _) = case.merge(samples(), options).unwrap();
        let variants = vec![
            variant("base", None),
            variant("a", Some(folder(&case.path.join("a")))),
            variant("merged", Some(written(&adapter))),
            variant("whole", Some(written(&whole))),
        ];
        let answers = case.write(variants, case.lists("/prompts"), Sampling::greedy(12));
        assert_eq!(answers[0], case.lists("/generated/base"), "{name}");
        assert_eq!(answers[1], case.lists("/generated/a"), "{name}");
        assert_eq!(answers[2], answers[3], "{name}");
        assert_ne!(
            answers[2], answers[0],
            "{name}: the adapter changes what is written"
        );
    }
}

#[test]
fn a_comparison_counts_what_the_variants_write() {
    for name in ["t5", "llama", "gpt2"] {
        let case = Case::of(name);
        let (sink, _) = case
            .merge(["a", "b"].map(|task| own(case.samples(task))), short())
            .unwrap();
        let prompts = case.lists("/prompts");
        let all = case.write(
            vec![
                variant("base", None),
                variant("a", Some(folder(&case.path.join("a")))),
                variant("merged", Some(written(&sink))),
            ],
            prompts.clone(),
            Sampling::greedy(12),
        );
        // Labels of which the base, the adapter and the merged adapter each have some right.
        let labels: Vec<Vec<u32>> = (0..prompts.len()).map(|i| all[i % 3][i].clone()).collect();
        let samples = TaskSamples {
            label_answers: labels.clone(),
            ..given(prompts.into_iter().map(Sample::text).collect())
        };
        let request = CompareRequest {
            base: case.base(),
            adapters: vec![case.adapter("a", samples)],
            merged: vec![MergedInput {
                name: "merged".into(),
                folder: written(&sink),
            }],
            max_new_tokens: Some(12),
            classes: Vec::new(),
        };
        let (report, chosen) = pollster::block_on(compare(request, &Compute::cpu(), &Silent)).unwrap();
        assert_eq!((chosen.device, chosen.why), ("cpu", None));
        let task = &report.tasks[0];
        assert_eq!((task.samples, task.labelled), (labels.len(), labels.len()));
        let share = |hits: usize| Some(hits as f64 / labels.len() as f64);
        let equal = |x: &[Vec<u32>], y: &[Vec<u32>]| share(x.iter().zip(y).filter(|(x, y)| x == y).count());
        for (variant, (name_of, answers)) in task
            .variants
            .iter()
            .zip(["base", "adapter", "merged"].into_iter().zip(&all))
        {
            assert_eq!(variant.variant, name_of);
            assert_eq!(variant.agreement, equal(answers, &all[1]), "{name}, {name_of}");
            assert_eq!(variant.accuracy, equal(answers, &labels), "{name}, {name_of}");
            assert!(variant.cosine <= 1.0 + 1e-9);
        }
        assert!((task.variants[1].cosine - 1.0).abs() < 1e-9);
        assert!(!report.residuals.is_empty());
    }
}

#[test]
fn what_is_larger_than_the_device_is_refused_before_the_work() {
    let case = Case::of("llama");
    let refused = |limits| {
        let stages = Stages::default();
        let compute = Compute::cpu().with_limits(limits);
        let samples = ["a", "b"].map(|task| own(case.samples(task)));
        let error = case
            .merge_on(&compute, &stages, samples, MergeOptions::default())
            .err()
            .unwrap();
        let stages = stages.0.into_inner();
        assert!(stages.iter().all(|stage| *stage == "load"), "{stages:?}");
        error
    };
    let error = refused(Limits {
        memory_bytes: Some(1000.0),
        buffer_bytes: None,
    });
    assert_eq!(error.code(), Code::DeviceLimit);
    assert!(error.to_string().contains("MiB of Gram matrices"), "{error}");
    let error = refused(Limits {
        memory_bytes: None,
        buffer_bytes: Some(1000.0),
    });
    assert_eq!(error.code(), Code::DeviceLimit);
    assert!(error.to_string().contains("module: layers."), "{error}");
}

#[test]
fn bad_samples_are_refused_with_adapter_and_number() {
    let refused = |case: &Case, change: &dyn Fn(&mut TaskSamples)| -> Error {
        let [a, mut b] = ["a", "b"].map(|task| case.samples(task));
        change(&mut b);
        case.merge([a, b], MergeOptions::default()).err().unwrap()
    };
    let llama = Case::of("llama");
    let says = |error: Error, code: Code, words: &[&str]| {
        assert_eq!(error.code(), code, "{error}");
        for word in words {
            assert!(error.to_string().contains(word), "\"{word}\" in: {error}");
        }
    };
    let beyond = refused(&llama, &|samples| {
        samples.samples[2] = Sample::text(vec![5, 5000, 5]);
    });
    says(
        beyond,
        Code::SamplesInvalid,
        &["\"b\"", "sample 3", "5000", "vocabulary"],
    );
    let empty = refused(&llama, &|samples| samples.samples[1] = Sample::text(Vec::new()));
    says(empty, Code::SamplesInvalid, &["\"b\"", "sample 2", "no token"]);
    let answer = refused(&llama, &|samples| {
        samples.answers = vec![Given::Tokens(vec![4, 999])];
    });
    says(answer, Code::SamplesInvalid, &["\"b\"", "sample 1", "999"]);
    let long = refused(&llama, &|samples| {
        samples.answers = vec![Given::Tokens(vec![4; 100_000])];
    });
    says(long, Code::SamplesInvalid, &["\"b\"", "sample 1", "completion"]);
    let roberta = Case::of("roberta");
    let encoder = refused(&roberta, &|samples| {
        samples.answers = vec![Given::Tokens(vec![4])];
    });
    says(encoder, Code::SamplesInvalid, &["only reads"]);
    let writes = refused(&roberta, &|samples| {
        samples.own = Some(SelfWritten::default());
    });
    says(writes, Code::OptionInvalid, &["\"b\"", "does not write text"]);
}

#[test]
fn an_adapter_of_another_vocabulary_or_form_is_refused() {
    let llama = Case::of("llama");
    let phi3 = Case::of("phi3");
    let refused = |base: &Case, adapter: &Case| {
        let request = MergeRequest {
            base: Some(base.base()),
            base_path: None,
            device_why: None,
            adapters: vec![adapter.adapter("b", base.samples("b"))],
            options: MergeOptions::default(),
        };
        let (compute, mut sink) = (Compute::cpu(), MemorySink::default());
        let merged = merge(request, &compute, &Silent, &mut sink);
        pollster::block_on(merged).err().unwrap()
    };
    let unfused = refused(&phi3, &llama);
    assert_eq!(unfused.code(), Code::ShapeMismatch);
    assert!(unfused.to_string().contains("gate_up_proj"), "{unfused}");
    let fused = refused(&llama, &phi3);
    assert_eq!(fused.code(), Code::ShapeMismatch);
    assert!(fused.to_string().contains("gate_proj"), "{fused}");
}

#[test]
fn the_merged_adapter_has_the_exact_rank() {
    let case = Case::of("llama");
    let (sink, report) = case
        .merge(["a", "b"].map(|task| case.samples(task)), MergeOptions::default())
        .unwrap();
    for layer in &report.layers {
        let both = layer.module.ends_with("q_proj") || layer.module.ends_with("v_proj");
        assert_eq!(layer.rank, if both { 2 + 3 } else { 3 }, "{}", layer.module);
    }
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("adapter_model.safetensors");
    std::fs::write(&path, weights(&sink)).unwrap();
    let file = tensors(&path);
    for name in file.names() {
        assert!(name.starts_with("base_model.model.model.layers."), "{name}");
        let (shape, _) = file.get(&name);
        assert_eq!(
            if name.contains("lora_A") {
                shape[0]
            } else {
                shape[1]
            },
            5,
            "{name}"
        );
    }
}

#[test]
fn a_classifier_on_a_decoder_reads_each_samples_last_token() {
    let case = Case::of("llama");
    let base = case.base();
    let width = json(&case.path.join("base/config.json"))["hidden_size"]
        .as_u64()
        .unwrap();
    let width = usize::try_from(width).unwrap();
    let weight: Vec<f32> = (0..3 * width)
        .map(|i| ((i * 37) % 23) as f32 / 23.0 - 0.5)
        .collect();

    // The adapter's file with a `score` beside its factors, as PEFT saves a sequence classifier.
    let bytes = std::fs::read(case.path.join("a/adapter_model.safetensors")).unwrap();
    let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let score: Vec<u8> = weight.iter().flat_map(|x| x.to_le_bytes()).collect();
    let score =
        safetensors::tensor::TensorView::new(safetensors::Dtype::F32, vec![3, width], &score).unwrap();
    let mut all: Vec<(String, safetensors::tensor::TensorView<'_>)> = file.tensors().into_iter().collect();
    all.push(("base_model.model.score.weight".into(), score));
    let mut config = json(&case.path.join("a/adapter_config.json"));
    config["task_type"] = "SEQ_CLS".into();
    config["modules_to_save"] = serde_json::json!(["score"]);
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("adapter_config.json"), config.to_string()).unwrap();
    std::fs::write(
        directory.path().join("adapter_model.safetensors"),
        safetensors::serialize(all, None).unwrap(),
    )
    .unwrap();

    let samples = case.samples("b");
    let compute = Compute::cpu();
    let found = logits(base, None, Some(folder(directory.path())), &samples, &compute);
    let (labels, found) = pollster::block_on(found).unwrap();
    assert_eq!((labels, found.len()), (3, 3 * samples.samples.len()));
    let expected = tensors(&case.path.join("expected.safetensors"));
    let last = expected
        .names()
        .iter()
        .filter_map(|name| name.strip_prefix("hidden.")?.parse::<usize>().ok())
        .max()
        .unwrap();
    let (_, hidden) = expected.get(&format!("hidden.{last}"));
    let mut end = 0;
    for (sample, found) in samples.samples.iter().zip(found.chunks_exact(3)) {
        end += sample.tokens(TEXT).len();
        let row = &hidden[(end - 1) * width..end * width];
        for (label, found) in found.iter().enumerate() {
            let weights = &weight[label * width..(label + 1) * width];
            let wanted: f32 = row.iter().zip(weights).map(|(x, w)| x * w).sum();
            // f32 against the f64 goldens' hidden states.
            assert!(
                (found - wanted).abs() < 1e-4 * wanted.abs().max(1.0),
                "{found} is not {wanted}"
            );
        }
    }
}

#[test]
fn targets_of_a_merged_adapter_name_no_layer_of_a_head() {
    for (name, head) in [
        ("xlm-roberta", "classifier.dense"),
        ("roberta", "classifier.dense"),
    ] {
        let case = Case::of(name);
        let (sink, _) = case
            .merge(["a", "b"].map(|task| case.samples(task)), MergeOptions::default())
            .unwrap();
        let file = sink
            .files()
            .iter()
            .find(|(file, _)| file == "adapter_config.json");
        let config: Value = serde_json::from_slice(&file.unwrap().1).unwrap();
        let targets: Vec<String> = serde_json::from_value(config["target_modules"].clone()).unwrap();
        // As PEFT selects: the whole name, or its end behind a dot.
        for target in &targets {
            let ends = format!(".{target}");
            assert!(
                target != head && !head.ends_with(&ends),
                "{name}: {target} selects {head}"
            );
        }
        assert!(
            targets.iter().any(|target| target.ends_with("dense")),
            "{targets:?}"
        );
    }
}
