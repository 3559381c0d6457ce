//! A vision transformer end to end: pictures in, hidden states, logits and merged deltas against transformers' numbers
//! and an f64 oracle's, in both spellings of its names.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test stops at what it did not expect"
)]

use std::{collections::BTreeSet, path::Path, rc::Rc};

use crate::support::{
    Alone, devices, fixtures, folder, goldens, json, largest_difference, relative_error, tensors,
    written_deltas,
};
use iteris_web::{
    calibrate::TaskSamples,
    compute::Compute,
    error::Code,
    io::{ByteSource, Folder, MemorySink, MemorySource},
    jobs::{
        AdapterInput,
        compare::{CompareRequest, compare},
        logits::logits,
        merge::{MergeRequest, merge},
    },
    merge::options::{MergeOptions, Schedule},
    model::{
        self, Pass, Steps,
        batch::{Input, Padding, Sample},
        streams::StreamId,
    },
    pictures::Pixels,
    progress::Silent,
};

/// Of merged deltas, relative Frobenius error: f32 features move them by 1e-5.
const DELTAS: f64 = 2e-4;

/// Preprocessed pictures (samples x channels x height x width) as samples.
pub(crate) fn samples((shape, data): &(Vec<usize>, Vec<f32>)) -> Vec<Sample> {
    let &[_, channels, height, width] = &shape[..] else {
        panic!("{shape:?}")
    };
    data.chunks_exact(channels * height * width)
        .map(|data| {
            Sample::of(Input::Grid(Pixels {
                channels,
                height,
                width,
                data: data.to_vec(),
            }))
        })
        .collect()
}

pub(crate) fn given(samples: Vec<Sample>) -> TaskSamples {
    TaskSamples {
        samples,
        ..TaskSamples::default()
    }
}

/// The rows of a stream after `until` blocks of the base model.
pub(crate) fn states(
    compute: &Compute,
    base: &Path,
    samples: &[Sample],
    until: usize,
    stream: usize,
) -> Vec<f32> {
    pollster::block_on(async {
        let model = model::open(folder(base)).await.unwrap();
        let targeted = BTreeSet::new();
        let steps = Steps::new("forward", until);
        let pass = Pass {
            compute,
            targeted: &targeted,
            keep_host: false,
            until,
            heads: None,
            observer: &Silent,
            steps: &steps,
        };
        // Every sample in a micro-batch of its own, so that rows come in the order of the samples.
        let batches = model.micro_batches(&[samples], Padding::Exclude, 1).unwrap();
        let mut rows = Vec::new();
        for (state, _) in model.run(&pass, &batches, &Alone).await.unwrap() {
            rows.extend(
                compute
                    .read(state.rows(StreamId::new(stream)).unwrap())
                    .await
                    .unwrap(),
            );
        }
        rows
    })
}

#[test]
fn hidden_states_equal_transformers_in_both_spellings() {
    let root = goldens().join("vit");
    let expected = tensors(&root.join("expected.safetensors"));
    let samples = samples(&expected.get("pixels.b"));
    for compute in devices() {
        for base in ["base", "base-v5"] {
            for layer in 0..=2 {
                let found = states(&compute, &root.join(base), &samples, layer + 1, 2);
                let worst = largest_difference(&found, &expected.get(&format!("hidden.{layer}")).1);
                assert!(worst < 2e-5, "{base}, hidden.{layer}: {worst:.1e}");
            }
            let found = states(&compute, &root.join(base), &samples, 4, 2);
            let worst = largest_difference(&found, &expected.get("hidden.3").1);
            assert!(worst < 2e-5, "{base}, behind the last norm: {worst:.1e}");
        }
        let root = root.join("pooler");
        let expected = tensors(&root.join("expected.safetensors"));
        let samples = self::samples(&expected.get("pixels"));
        let found = states(&compute, &root, &samples, 3, 4);
        let worst = largest_difference(&found, &expected.get("pooled").1);
        assert!(worst < 2e-5, "pooler: {worst:.1e}");
    }
}

#[test]
fn logits_equal_transformers_and_peft() {
    let root = goldens().join("vit");
    let expected = tensors(&root.join("expected.safetensors"));
    let samples = given(samples(&expected.get("pixels.b")));
    for compute in devices() {
        for (adapter, wanted) in [
            (None, "logits"),
            (Some("a"), "logits.a"),
            (Some("a-v4"), "logits.a"),
            (Some("b"), "logits.b"),
            (Some("b-v4"), "logits.b"),
        ] {
            let adapter = adapter.map(|name| folder(&root.join(name)));
            let base = folder(&root.join("base"));
            let (_, found) = pollster::block_on(logits(base, adapter, None, &samples, &compute)).unwrap();
            let worst = largest_difference(&found, &expected.get(wanted).1);
            assert!(worst < 2e-5, "{wanted}: {worst:.1e}");
        }
    }
}

/// Merges two adapters; the deltas by module as the file has them.
pub(crate) fn merged(
    base: &Path,
    adapters: [(&Path, Option<TaskSamples>, Option<Folder>); 2],
    options: &MergeOptions,
    compute: &Compute,
) -> MemorySink {
    let adapters = adapters
        .into_iter()
        .enumerate()
        .map(|(at, (path, samples, pictures))| AdapterInput {
            name: format!("task {at}"),
            folder: folder(path),
            samples,
            pictures,
            weight: 1.0,
            path: None,
        });
    let request = MergeRequest {
        base: Some(folder(base)),
        base_path: None,
        device_why: None,
        adapters: adapters.collect(),
        options: options.clone(),
    };
    let mut sink = MemorySink::default();
    pollster::block_on(merge(request, compute, &Silent, &mut sink)).unwrap();
    sink
}

pub(crate) fn schedule(name: &str) -> MergeOptions {
    let schedule = if name == "sweep" {
        Schedule::Sweep
    } else {
        Schedule::Iterate
    };
    MergeOptions {
        schedule,
        max_iter: name
            .strip_prefix("iterate")
            .map_or(1, |passes| passes.parse().unwrap()),
        ..MergeOptions::default()
    }
}

/// A module's path in transformers 4's spelling.
fn old_spelling(module: &str) -> String {
    let mut module = module.replace("layers.", "encoder.layer.");
    for (new, old) in [
        ("attention.q_proj", "attention.attention.query"),
        ("attention.k_proj", "attention.attention.key"),
        ("attention.v_proj", "attention.attention.value"),
        ("attention.o_proj", "attention.output.dense"),
        ("mlp.fc1", "intermediate.dense"),
        ("mlp.fc2", "output.dense"),
    ] {
        module = module.replace(new, old);
    }
    module
}

#[test]
fn merges_equal_the_oracle_whatever_the_spelling_of_base_and_adapters() {
    let root = goldens().join("vit");
    let pixels = tensors(&root.join("expected.safetensors"));
    let expected = tensors(&root.join("merged.safetensors"));
    let given = |task: &str| Some(given(samples(&pixels.get(&format!("pixels.{task}")))));
    for compute in devices() {
        for (base, first, second, old) in [
            ("base", "a", "b", false),
            ("base-v5", "a-v4", "b-v4", true),
            ("base", "a-v4", "b", true),
            ("base-v5", "a", "b-v4", false),
        ] {
            for name in ["sweep", "iterate3"] {
                let paths = [root.join(first), root.join(second)];
                let adapters = [(&*paths[0], given("a"), None), (&*paths[1], given("b"), None)];
                let sink = merged(&root.join(base), adapters, &schedule(name), &compute);
                let found = written_deltas(sink.file("adapter_model.safetensors").unwrap());
                let modules = json(&root.join("facts.json"))["modules"].clone();
                for module in modules.as_array().unwrap() {
                    let module = module.as_str().unwrap();
                    let written = if old {
                        old_spelling(module)
                    } else {
                        module.to_owned()
                    };
                    let error = relative_error(
                        &found(&format!("vit.{written}")),
                        &expected.get(&format!("{name}.{module}")).1,
                    );
                    assert!(
                        error < DELTAS,
                        "{base}, {first} + {second}, {name}, {module}: {error:.1e}"
                    );
                }
            }
        }
    }
}

#[test]
fn pictures_of_the_fixtures_are_read_and_merged_as_the_oracle_does() {
    let Some(root) = fixtures("images/vit", "golden.safetensors") else {
        return;
    };
    let golden = tensors(&root.join("golden.safetensors"));
    let expected = tensors(&root.join("expected.a-b.safetensors"));
    for (base, first, second, old) in [("base", "a", "b", false), ("base-v4", "a-v4", "b-v4", true)] {
        for name in ["sweep", "iterate1", "iterate3"] {
            let paths = [root.join(first), root.join(second)];
            let pictures = |task: &str| Some(folder(&root.join(format!("{task}.samples"))));
            let adapters = [
                (&*paths[0], None, pictures("a")),
                (&*paths[1], None, pictures("b")),
            ];
            let sink = merged(&root.join(base), adapters, &schedule(name), &Compute::cpu());
            let found = written_deltas(sink.file("adapter_model.safetensors").unwrap());
            for module in json(&root.join("facts.json"))["modules"].as_array().unwrap() {
                let module = module.as_str().unwrap();
                let written = if old {
                    old_spelling(module)
                } else {
                    module.to_owned()
                };
                let factor = |side: &str| expected.get(&format!("{name}/{module}.lora_{side}"));
                let wanted = crate::support::product(&factor("B"), &factor("A"));
                let error = relative_error(&found(&written), &wanted);
                assert!(error < DELTAS, "{base}, {name}, {module}: {error:.1e}");
            }
        }
    }
    // Forward, on the pixels that transformers made of the pictures.
    for compute in devices() {
        for task in ["a", "b"] {
            let samples = samples(&golden.get(&format!("{task}.pixel_values")));
            let found = states(&compute, &root.join("base"), &samples, 4, 2);
            let worst = largest_difference(
                &found,
                &golden.get(&format!("{task}.out.base.last_hidden_state")).1,
            );
            assert!(worst < 6e-5, "{task}: {worst:.1e}");
            for (adapter, wanted) in [(None, "base"), (Some(root.join(task)), "own")] {
                let adapter = adapter.map(|path| folder(&path));
                let given = given(samples.clone());
                let base = folder(&root.join("base"));
                let (_, found) = pollster::block_on(logits(base, adapter, None, &given, &compute)).unwrap();
                let worst = largest_difference(&found, &golden.get(&format!("{task}.out.{wanted}.logits")).1);
                assert!(worst < 6e-5, "{task}, {wanted}: {worst:.1e}");
            }
        }
    }
}

#[test]
fn a_comparison_of_pictures_gives_the_own_adapter_full_agreement() {
    let root = goldens().join("vit");
    let pixels = tensors(&root.join("expected.safetensors"));
    let adapters = ["a", "b"].map(|name| AdapterInput {
        name: name.to_owned(),
        folder: folder(&root.join(name)),
        samples: Some(given(samples(&pixels.get(&format!("pixels.{name}"))))),
        pictures: None,
        weight: 1.0,
        path: None,
    });
    let request = CompareRequest {
        base: folder(&root.join("base")),
        adapters: adapters.into(),
        merged: Vec::new(),
        max_new_tokens: None,
        classes: Vec::new(),
    };
    let (report, _) = pollster::block_on(compare(request, &Compute::cpu(), &Silent)).unwrap();
    for task in &report.tasks {
        let own = &task.variants[1];
        assert_eq!((own.variant.as_str(), own.agreement), ("adapter", Some(1.0)));
        assert!((own.cosine - 1.0).abs() < 1e-9 && task.variants[0].cosine < 0.9999);
    }
}

#[test]
fn what_is_no_picture_for_the_model_is_refused() {
    let root = goldens().join("vit");
    let refused = |samples: Option<TaskSamples>, pictures: Option<Folder>| {
        let request = MergeRequest {
            base: Some(folder(&root.join("base"))),
            base_path: None,
            device_why: None,
            adapters: vec![AdapterInput {
                name: "a".into(),
                folder: folder(&root.join("a")),
                samples,
                pictures,
                weight: 1.0,
                path: None,
            }],
            options: MergeOptions::default(),
        };
        let mut sink = MemorySink::default();
        pollster::block_on(merge(request, &Compute::cpu(), &Silent, &mut sink)).unwrap_err()
    };
    let error = refused(Some(given(vec![Sample::text(vec![1, 2, 3])])), None);
    assert_eq!(error.code(), Code::SamplesInvalid);
    assert!(error.to_string().contains("reads pictures"), "{error}");
    // 24 high and 40 wide is right.
    for (channels, height, width, words) in [
        (3, 40, 24, "24 x 40"),
        (1, 24, 40, "1 numbers a pixel"),
        (3, 4, 4, "patch"),
    ] {
        let pixels = Pixels {
            channels,
            height,
            width,
            data: vec![0.5; channels * height * width],
        };
        let error = refused(Some(given(vec![Sample::of(Input::Grid(pixels))])), None);
        assert_eq!(error.code(), Code::SamplesInvalid);
        assert!(error.to_string().contains(words), "{error}");
    }
    // The golden's base has no preprocessor_config.json.
    let file = Rc::new(MemorySource::new("x.png", vec![1, 2, 3])) as Rc<dyn ByteSource>;
    let error = refused(None, Some(Folder::new("pictures", vec![file]).unwrap()));
    assert_eq!(error.code(), Code::Missing);
    assert!(error.to_string().contains("preprocessor_config.json"), "{error}");
}
