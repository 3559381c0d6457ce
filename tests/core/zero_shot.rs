//! Classes without a head: what CLIP finds a picture most like, against transformers' `logits_per_image`.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test stops at what it did not expect"
)]

use std::path::Path;

use iteris_web::{
    calibrate::TaskSamples,
    compare::{Class, CompareReport},
    compute::Compute,
    error::{Code, Error},
    io::MemorySink,
    jobs::{
        AdapterInput,
        compare::{CompareRequest, compare},
        merge::{MergeRequest, merge},
    },
    merge::options::MergeOptions,
    progress::Silent,
};

use crate::{
    support::{Tensors, fixtures, folder, tensors, unpadded},
    vit::samples,
};

/// The texts of the oracle, as ids without padding.
fn texts(golden: &Tensors, task: &str) -> Vec<Vec<u32>> {
    unpadded(
        golden,
        &format!("{task}.input_ids"),
        &format!("{task}.attention_mask"),
    )
}

fn adapter(root: &Path, golden: &Tensors, task: &str) -> AdapterInput {
    AdapterInput {
        name: task.to_owned(),
        folder: folder(&root.join(task)),
        samples: Some(TaskSamples {
            samples: samples(&golden.get(&format!("{task}.pixel_values"))),
            labels: (0..12).map(|at| Some(format!("text {at}"))).collect(),
            ..TaskSamples::default()
        }),
        pictures: None,
        weight: 1.0,
        path: None,
    }
}

fn compared(root: &Path, adapter: AdapterInput, texts: Vec<Vec<u32>>) -> Result<CompareReport, Error> {
    let class = |(at, ids)| Class {
        name: format!("text {at}"),
        ids,
    };
    let request = CompareRequest {
        base: folder(&root.join("base")),
        adapters: vec![adapter],
        merged: Vec::new(),
        max_new_tokens: None,
        classes: texts.into_iter().enumerate().map(class).collect(),
    };
    pollster::block_on(compare(request, &Compute::cpu(), &Silent)).map(|(report, _)| report)
}

#[test]
fn shares_of_texts_are_the_softmax_of_transformers_logits() {
    let Some(root) = fixtures("images/clip", "golden.safetensors") else {
        return;
    };
    let golden = tensors(&root.join("golden.safetensors"));
    for task in ["a", "b"] {
        let report = compared(&root, adapter(&root, &golden, task), texts(&golden, task)).unwrap();
        let told = &report.tasks[0];
        assert_eq!(told.said.len(), 12);
        for (variant, wanted) in ["base", "own"].into_iter().enumerate() {
            let (shape, logits) = golden.get(&format!("{task}.out.{wanted}.logits_per_image"));
            let mut hits = 0;
            for (picture, row) in told.said.iter().zip(logits.chunks_exact(shape[1])) {
                let most = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
                let exponents: Vec<f64> = row.iter().map(|x| f64::from(x - most).exp()).collect();
                let sum: f64 = exponents.iter().sum();
                let classes = picture.variants[variant].classes.as_ref().unwrap();
                assert_eq!(classes.len(), 5);
                for class in classes {
                    let at: usize = class.label.strip_prefix("text ").unwrap().parse().unwrap();
                    // Logits are good to 6e-5 times their scale.
                    assert!(
                        (class.share - exponents[at] / sum).abs() < 1e-4,
                        "{task}, {wanted}: {class:?}"
                    );
                }
                assert!(classes.is_sorted_by(|a, b| a.share >= b.share));
                hits += usize::from(classes[0].label == format!("text {}", picture.sample));
            }
            assert_eq!(told.variants[variant].accuracy, Some(hits as f64 / 12.0));
        }
        assert_eq!(told.variants[1].agreement, Some(1.0));
    }
}

#[test]
fn without_classes_features_are_compared_and_a_text_too_long_is_refused() {
    let Some(root) = fixtures("images/clip", "golden.safetensors") else {
        return;
    };
    let golden = tensors(&root.join("golden.safetensors"));
    let report = compared(&root, adapter(&root, &golden, "a"), Vec::new()).unwrap();
    assert!(report.tasks[0].said.is_empty() && report.tasks[0].variants[0].agreement.is_none());
    assert!(
        report
            .notes
            .iter()
            .any(|note| note.contains("no classes to choose from")),
        "{:?}",
        report.notes
    );
    let error = compared(&root, adapter(&root, &golden, "a"), vec![vec![1; 78]]).unwrap_err();
    assert_eq!(error.code(), Code::OptionInvalid);
    assert!(
        error.to_string().contains("text 0") && error.to_string().contains("77"),
        "{error}"
    );
}

#[test]
fn a_picture_without_the_caption_that_layers_depend_on_is_refused() {
    let Some(root) = fixtures("images/clip", "golden.safetensors") else {
        return;
    };
    let golden = tensors(&root.join("golden.safetensors"));
    let request = MergeRequest {
        base: Some(folder(&root.join("base"))),
        base_path: None,
        device_why: None,
        adapters: ["a", "b"].map(|task| adapter(&root, &golden, task)).into(),
        options: MergeOptions::default(),
    };
    let mut sink = MemorySink::default();
    let error = pollster::block_on(merge(request, &Compute::cpu(), &Silent, &mut sink)).unwrap_err();
    assert_eq!(error.code(), Code::SamplesInvalid);
    for words in [
        "adapter \"a\"",
        "caption of picture 1",
        "text_model",
        "metadata.jsonl",
    ] {
        assert!(error.to_string().contains(words), "{error}");
    }
}
