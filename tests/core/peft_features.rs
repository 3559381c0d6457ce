//! Claims about everything that PEFT can train: what an adapter adds is what PEFT's own merge adds, a lone adapter of
//! weight w gives w times that in either output, and what is written means the same when it is read again.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test stops at what it did not expect"
)]

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    rc::Rc,
};

use crate::support::{folder, given, goldens, json, tensors};
use iteris_web::{
    adapter::Adapter,
    binding::{Base, Binding, Place, ReadAdapter},
    compute::Compute,
    error::{Code, Error},
    io::{ByteSource, Folder, MemorySink, MemorySource},
    jobs::{
        AdapterInput,
        logits::logits,
        merge::{MergeRequest, merge},
    },
    merge::options::{MergeOptions, MethodName, OutputKind},
    model::batch::Sample,
    naming::pattern::Patterns,
    progress::Silent,
};
use pollster::block_on;

/// What separates f64 from PEFT's own arithmetic in f32, relative to a tensor's norm.
const TOLERANCE: f64 = 1e-5;

fn root() -> PathBuf {
    goldens().join("features")
}

/// Every `base/case`.
fn cases() -> Vec<String> {
    let listed = |path: &Path| -> Vec<String> {
        let entries = std::fs::read_dir(path).unwrap().map(Result::unwrap);
        let folders = entries.filter(|entry| entry.path().is_dir());
        folders
            .map(|entry| entry.file_name().to_string_lossy().into_owned())
            .collect()
    };
    let mut cases: Vec<String> = listed(&root())
        .into_iter()
        .flat_map(|base| {
            let own = listed(&root().join(&base));
            own.into_iter()
                .filter(|case| case != "base")
                .map(move |case| format!("{base}/{case}"))
        })
        .collect();
    cases.sort();
    assert!(cases.len() > 30, "goldens are missing");
    cases
}

fn base_of(case: &str) -> PathBuf {
    root().join(case.split('/').next().unwrap()).join("base")
}

fn open(case: &str) -> Base {
    block_on(Base::open(Some(folder(&base_of(case))))).unwrap()
}

fn read(folder: &Folder) -> ReadAdapter {
    ReadAdapter::alone(block_on(Adapter::read("mine", folder)).unwrap())
}

/// What an adapter adds to each of the base's tensors, by key.
type Deltas = BTreeMap<String, Vec<f32>>;

fn deltas(base: &Base, adapters: &[ReadAdapter]) -> Result<Deltas, Error> {
    let binding = Binding::new(base, adapters, &Patterns::default())?;
    let mut all = Deltas::new();
    for site in &binding.sites {
        let tensor = site.tensor.as_ref().unwrap();
        let sum = all
            .entry(tensor.key.clone())
            .or_insert_with(|| vec![0.0; tensor.shape.iter().product()]);
        for part in block_on(binding.parts(site))? {
            let delta = site.stored(part.delta.dense());
            let places: Vec<usize> = match &site.place {
                Place::Rows(ids) => ids
                    .iter()
                    .flat_map(|id| id * site.d_in..(id + 1) * site.d_in)
                    .collect(),
                _ => site.range().collect(),
            };
            assert_eq!(places.len(), delta.len(), "{}", site.name);
            for (at, d) in places.into_iter().zip(delta) {
                sum[at] += d;
            }
        }
    }
    Ok(all)
}

fn expected(case: &str) -> Deltas {
    let file = tensors(&root().join(case).join("expected.safetensors"));
    let names = file.names();
    let deltas = names.iter().filter_map(|name| {
        let key = name.strip_prefix("delta/")?;
        Some((key.to_owned(), file.get(name).1))
    });
    deltas.collect()
}

/// Holds `found` against `factor` times what PEFT adds; tensors that nothing is added to may be left out.
#[track_caller]
fn agree(case: &str, found: &Deltas, factor: f32, tolerance: f64) {
    let wanted = expected(case);
    for (key, delta) in &wanted {
        let scaled: Vec<f32> = delta.iter().map(|x| factor * x).collect();
        let found = found
            .get(key)
            .unwrap_or_else(|| panic!("{case}: nothing is added to {key}"));
        let error = crate::support::relative_error(found, &scaled);
        assert!(error < tolerance, "{case}: {key} is off by {error:e}");
    }
    for (key, delta) in found.iter().filter(|(key, _)| !wanted.contains_key(*key)) {
        let largest = delta.iter().fold(0.0f32, |most, x| most.max(x.abs()));
        assert!(largest < 1e-6, "{case}: {largest} is added to {key}");
    }
}

fn options(output: OutputKind) -> MergeOptions {
    MergeOptions {
        method: MethodName::Linear,
        output,
        ..MergeOptions::default()
    }
}

fn try_merge(base: Option<Folder>, adapters: &[(&str, f64)], options: MergeOptions) -> Result<Folder, Error> {
    let input = |(index, (case, weight)): (usize, &(&str, f64))| AdapterInput {
        name: format!("{index} {case}"),
        folder: folder(&root().join(case)),
        samples: None,
        pictures: None,
        weight: *weight,
        path: None,
    };
    let request = MergeRequest {
        base,
        base_path: None,
        device_why: None,
        adapters: adapters.iter().enumerate().map(input).collect(),
        options,
    };
    let mut sink = MemorySink::default();
    block_on(merge(request, &Compute::cpu(), &Silent, &mut sink))?;
    let files = sink.files().iter();
    let files = files
        .map(|(name, bytes)| Rc::new(MemorySource::new(name.as_str(), bytes.clone())) as Rc<dyn ByteSource>);
    Ok(Folder::new("merged", files.collect()).unwrap())
}

#[track_caller]
fn merged(case: &str, adapters: &[(&str, f64)], options: MergeOptions) -> Folder {
    try_merge(Some(folder(&base_of(case))), adapters, options)
        .unwrap_or_else(|error| panic!("{case}: {error}"))
}

/// What a merged base differs by from its base.
fn moved(case: &str, after: &Folder) -> Deltas {
    let parts = |base: &Base| -> Deltas {
        let (_, checkpoint) = base.parts()[0];
        let names: Vec<String> = checkpoint.names().map(str::to_owned).collect();
        names
            .into_iter()
            .map(|name| {
                let data = block_on(checkpoint.f32(&name)).unwrap();
                (name, data)
            })
            .collect()
    };
    let before = parts(&open(case));
    let after = parts(&block_on(Base::open(Some(after.clone()))).unwrap());
    let pairs = after.into_iter().map(|(key, data)| {
        let own = &before[&key];
        let delta = data.iter().zip(own).map(|(a, b)| a - b).collect();
        (key, delta)
    });
    pairs.collect()
}

#[test]
fn what_an_adapter_adds_is_what_pefts_merge_adds() {
    for case in cases() {
        let adapter = read(&folder(&root().join(&case)));
        let found = deltas(&open(&case), &[adapter]).unwrap_or_else(|error| panic!("{case}: {error}"));
        agree(&case, &found, 1.0, TOLERANCE);
    }
}

#[test]
fn a_lone_adapter_of_weight_w_gives_w_times_its_change_to_the_base() {
    for case in cases() {
        for weight in [0.7f32, -1.0] {
            let base = Some(folder(&base_of(&case)));
            let written = try_merge(base, &[(&case, f64::from(weight))], options(OutputKind::Base));
            // The table is the head, too, and the change is the table's alone.
            if ["gpt2/embedding", "llama-tied/embedding"].contains(&case.as_str()) {
                let error = written.expect_err("the head would change with it");
                assert_eq!(error.code(), Code::AdapterUnsupported, "{error}");
                assert!(error.to_string().contains("its head"), "{error}");
                continue;
            }
            let written = written.unwrap_or_else(|error| panic!("{case}: {error}"));
            // Weights of size 1 are rounded to f32 before and after.
            agree(&case, &moved(&case, &written), weight, 1e-5);
        }
    }
}

#[test]
fn a_written_adapter_is_read_back_as_w_times_the_change() {
    for case in cases() {
        for weight in [0.7f32, -1.0] {
            let options = MergeOptions {
                // DoRA's change has every rank; others lose nothing at the rank that is taken by itself.
                rank: case.contains("dora").then_some(64),
                ..options(OutputKind::Adapter)
            };
            let written = merged(&case, &[(&case, f64::from(weight))], options);
            let found =
                deltas(&open(&case), &[read(&written)]).unwrap_or_else(|error| panic!("{case}: {error}"));
            // f32 values of size 1 less the base's lose what f32 has no place for.
            agree(&case, &found, weight, 2e-5);
        }
    }
}

#[test]
fn a_change_that_is_told_without_the_base_is_merged_without_it() {
    let mut alone = 0;
    for case in cases() {
        let adapter = read(&folder(&root().join(&case)));
        let written = try_merge(None, &[(&case, 1.0)], options(OutputKind::Adapter));
        if adapter.adapter.needs_base() {
            let error = written.expect_err("the base is needed");
            assert_eq!(error.code(), Code::Missing, "{case}: {error}");
            assert!(error.to_string().contains("give the base model"), "{error}");
            continue;
        }
        alone += 1;
        let written = written.unwrap_or_else(|error| panic!("{case}: {error}"));
        let found = deltas(&open(&case), &[read(&written)]).unwrap();
        agree(&case, &found, 1.0, TOLERANCE);
    }
    assert!(alone > 10, "{alone}");
}

#[test]
fn adapters_of_different_kinds_are_summed() {
    for (one, other) in [
        ("bert/dora", "bert/pissa"),
        ("bert/lora-bias", "bert/bias-all"),
        ("bert/embedding", "bert/lora-bias"),
        ("bert/embedding", "bert/dora-embedding"),
        ("bert/saved", "bert/bias-lora-only"),
        ("llama/tokens", "llama/tokens-by-module"),
        ("llama/parameter", "llama/head"),
        ("toy/convolutions", "toy/convolutions-dora"),
        ("toy/convolutions-bias", "toy/experts"),
        ("toy/saved", "toy/embedding"),
    ] {
        let options = MergeOptions {
            rank: Some(64),
            ..options(OutputKind::Adapter)
        };
        let written = merged(one, &[(one, 0.5), (other, -2.0)], options);
        let found = deltas(&open(one), &[read(&written)]).unwrap();
        let mut wanted = Deltas::new();
        for (case, weight) in [(one, 0.5f32), (other, -2.0)] {
            for (key, delta) in expected(case) {
                let sum = wanted.entry(key).or_insert_with(|| vec![0.0; delta.len()]);
                sum.iter_mut().zip(delta).for_each(|(sum, d)| *sum += weight * d);
            }
        }
        for (key, wanted) in wanted {
            let error = crate::support::relative_error(&found[&key], &wanted);
            assert!(error < 2e-5, "{one} and {other}: {key} is off by {error:e}");
        }
    }
}

#[test]
fn what_peft_cannot_keep_in_one_adapter_is_refused_by_name() {
    for (one, other, parameter) in [
        ("llama/tokens", "llama/embedding", "embed_tokens.trainable_tokens"),
        ("llama/tokens", "llama/saved", "embed_tokens"),
        ("llama/head", "llama/saved", "lm_head.weight"),
        ("bert/embedding", "bert/saved", "word_embeddings"),
    ] {
        let base = Some(folder(&base_of(one)));
        let error = try_merge(base, &[(one, 1.0), (other, 1.0)], options(OutputKind::Adapter)).unwrap_err();
        assert_eq!(error.code(), Code::AdapterUnsupported, "{error}");
        assert!(error.to_string().contains(parameter), "{parameter}: {error}");
        // A merged base has room for the sum.
        let base = merged(one, &[(one, 1.0), (other, 1.0)], options(OutputKind::Base));
        assert!(base.find("model.safetensors").is_some());
    }
}

#[test]
fn a_pass_of_the_model_computes_pefts_logits() {
    let samples: Vec<Vec<u32>> = serde_json::from_value(json(&root().join("samples.json"))).unwrap();
    let samples: Vec<Sample> = samples.into_iter().map(Sample::text).collect();
    let mut computed = 0;
    for case in cases() {
        if !matches!(open(&case), Base::Model(_)) {
            continue;
        }
        let adapter = read(&folder(&root().join(&case))).adapter;
        let found = block_on(logits(
            folder(&base_of(&case)),
            Some(folder(&root().join(&case))),
            None,
            &given(samples.clone()),
            &Compute::cpu(),
        ));
        let elsewhere = case.contains("embedding")
            || case.contains("saved")
            || case.contains("tokens")
            || case.ends_with("/head")
            || case.ends_with("/bias-all");
        if elsewhere {
            let error = found.expect_err(&case);
            assert_eq!(error.code(), Code::AdapterUnsupported, "{case}: {error}");
            assert!(error.to_string().contains("needs no samples"), "{error}");
            continue;
        }
        let (_, found) = found.unwrap_or_else(|error| panic!("{case}: {error}"));
        let (_, wanted) = tensors(&root().join(&case).join("expected.safetensors")).get("logits");
        let distance = crate::support::largest_difference(&found, &wanted);
        let largest = wanted.iter().fold(1.0f32, |most, x| most.max(x.abs()));
        assert!(
            distance < 2e-5 * f64::from(largest),
            "{case}: off by {distance} of {largest}"
        );
        assert!(adapter.facts().modules > 0);
        computed += 1;
    }
    assert!(computed > 10, "{computed}");
}

#[test]
fn a_guided_merge_of_a_lone_adapter_gives_its_biases_and_its_change() {
    let samples: Vec<Vec<u32>> = serde_json::from_value(json(&root().join("samples.json"))).unwrap();
    for case in [
        "bert/lora-bias",
        "bert/bias-lora-only",
        "bert/both-biases",
        "bert/pissa",
    ] {
        let texts: Vec<Sample> = samples.iter().cloned().map(Sample::text).collect();
        let request = MergeRequest {
            base: Some(folder(&base_of(case))),
            base_path: None,
            device_why: None,
            adapters: vec![crate::support::adapter("a", &root().join(case), texts, 1.0)],
            options: MergeOptions {
                output: OutputKind::Base,
                ..MergeOptions::default()
            },
        };
        let mut sink = MemorySink::default();
        let report = block_on(merge(request, &Compute::cpu(), &Silent, &mut sink)).unwrap();
        // The merged lanes run with the merged biases: without them their features would be others.
        let residuals = report.layers.iter().flat_map(|layer| &layer.tasks);
        let worst = residuals.filter_map(|task| task.residual).fold(0.0, f64::max);
        assert!(worst < 1e-6, "{case}: residual {worst:e}");
        let files = sink.files().iter().map(|(name, bytes)| {
            Rc::new(MemorySource::new(name.as_str(), bytes.clone())) as Rc<dyn ByteSource>
        });
        let written = Folder::new("merged", files.collect()).unwrap();
        let found = moved(case, &written);
        // A lone adapter is found again but for the ridge, which is a part in 10^5 of the features' norm; its biases
        // exactly.
        for (key, wanted) in expected(case) {
            let error = crate::support::relative_error(&found[&key], &wanted);
            let tolerance = if key.ends_with("bias") { 1e-5 } else { 0.2 };
            assert!(error < tolerance, "{case}: {key} is off by {error:e}");
        }
    }
}
