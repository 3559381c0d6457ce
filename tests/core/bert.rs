//! BERT's forward pass equals transformers', and PEFT's with an adapter, on tiny models of the real layout.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::cast_possible_truncation,
    reason = "a test stops at what it did not expect"
)]

use std::{collections::BTreeSet, path::Path};

use crate::support::{Alone, devices, folder, given, golden_samples, goldens, largest_difference, tensors};
use iteris_web::{
    compute::Compute,
    jobs::logits::logits,
    model::{
        self, Pass, Steps, TEXT,
        batch::{Padding, Sample},
    },
    progress::Silent,
};

/// transformers in f32 is within 3e-6 of the f64 goldens; another order of summation costs some more.
const TOLERANCE: f64 = 2e-5;

/// The state after `blocks` blocks from the end are left out, rows in the order of the samples.
fn run(compute: &Compute, base: &Path, samples: &[Sample], leave: usize, most_rows: usize) -> Vec<f32> {
    pollster::block_on(async {
        let model = model::open(folder(base)).await.unwrap();
        let batches = model
            .micro_batches(&[samples], Padding::Exclude, most_rows)
            .unwrap();
        let until = model.family.blocks() - leave;
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
        let states = model.run(&pass, &batches, &Alone).await.unwrap();
        let mut rows: Vec<Vec<f32>> = vec![Vec::new(); samples.len()];
        for (batch, (state, _)) in batches.iter().zip(states) {
            let stream = if leave == 0 { model.family.output() } else { TEXT };
            let state = state.rows(stream).unwrap();
            let width = state.dims()[1];
            let data = compute.read(state).await.unwrap();
            for (place, rows_of) in batch.places.iter().zip(&batch.stream(stream).sequences) {
                let range = rows_of.start..rows_of.start + rows_of.length;
                rows[place.sample] = data[range.start * width..range.end * width].to_vec();
            }
        }
        rows.concat()
    })
}

#[test]
fn hidden_states_and_pooled_outputs_equal_transformers() {
    for compute in devices() {
        for name in [
            "plain",
            "classifier",
            "sharded",
            "f16",
            "bf16",
            "masked-lm",
            "legacy",
            "one-type",
        ] {
            let path = goldens().join(name);
            let expected = tensors(&path.join("expected.safetensors"));
            let samples = golden_samples(&path);
            for most_rows in [1_000_000, 20] {
                let hidden = run(&compute, &path, &samples, 1, most_rows);
                let error = largest_difference(&hidden, &expected.get("hidden").1);
                assert!(
                    error < TOLERANCE,
                    "{name} on {}: hidden differs by {error:e}",
                    compute.name()
                );
            }
            if expected.has("pooled") {
                let error =
                    largest_difference(&run(&compute, &path, &samples, 0, 50), &expected.get("pooled").1);
                assert!(
                    error < TOLERANCE,
                    "{name} on {}: pooled differs by {error:e}",
                    compute.name()
                );
            }
        }
    }
}

#[test]
fn every_activation_equals_transformers() {
    let path = goldens().join("activations");
    let expected = tensors(&path.join("expected.safetensors"));
    let samples = golden_samples(&path);
    let names: Vec<String> = expected
        .names()
        .into_iter()
        .filter_map(|n| Some(n.strip_prefix("hidden.")?.to_owned()))
        .collect();
    let mut tested = 0;
    for name in names
        .iter()
        .filter(|name| iteris_web::compute::Activation::from_name(name).is_some())
    {
        let changed = tempfile::tempdir().unwrap();
        std::fs::copy(
            path.join("model.safetensors"),
            changed.path().join("model.safetensors"),
        )
        .unwrap();
        let mut config = crate::support::json(&path.join("config.json"));
        config["hidden_act"] = name.as_str().into();
        std::fs::write(changed.path().join("config.json"), config.to_string()).unwrap();
        for compute in devices() {
            let hidden = run(&compute, changed.path(), &samples, 1, 1000);
            let error = largest_difference(&hidden, &expected.get(&format!("hidden.{name}")).1);
            assert!(error < TOLERANCE, "{name} on {}: {error:e}", compute.name());
        }
        tested += 1;
    }
    assert!(tested >= 6, "only {tested} of {names:?} were tested");
}

#[test]
fn logits_under_an_adapter_equal_peft() {
    for compute in devices() {
        for name in ["qv", "all", "dense", "regex"] {
            let path = goldens().join("adapters").join(name);
            let expected = tensors(&path.join("expected.safetensors"));
            let (shape, wanted) = expected.get("logits");
            let base = folder(&goldens().join("adapters/base"));
            let samples = golden_samples(&path);
            let samples = given(samples);
            let found = logits(base, Some(folder(&path)), None, &samples, &compute);
            let (labels, found) = pollster::block_on(found).unwrap();
            assert_eq!(labels, shape[1]);
            let error = largest_difference(&found, &wanted);
            assert!(
                error < TOLERANCE,
                "{name} on {}: logits differ by {error:e}",
                compute.name()
            );
        }
    }
}

#[test]
fn a_classifier_of_the_base_gives_its_logits() {
    let path = goldens().join("classifier");
    let (shape, wanted) = tensors(&path.join("expected.safetensors")).get("logits");
    let (samples, compute) = (golden_samples(&path), Compute::cpu());
    let samples = given(samples);
    let found = logits(folder(&path), None, None, &samples, &compute);
    let (labels, found) = pollster::block_on(found).unwrap();
    assert_eq!((labels, found.len()), (shape[1], wanted.len()));
    assert!(largest_difference(&found, &wanted) < TOLERANCE);
}
