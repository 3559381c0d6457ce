//! BLIP end to end: pictures in, captions, logits and merged deltas against transformers' and an f64 oracle's.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a test stops at what it did not expect; ids are small and whole, whatever type a file has them in"
)]

use std::path::Path;

use iteris_web::{
    calibrate::{Given, TaskSamples},
    compute::Compute,
    error::Code,
    generate::Sampling,
    io::{Folder, MemorySink},
    jobs::{
        AdapterInput,
        compare::{CompareRequest, compare},
        generate::{GenerateRequest, Variant, write_variants},
        logits::logits,
        merge::{MergeRequest, merge},
    },
    merge::options::MergeOptions,
    model::batch::Sample,
    progress::Silent,
};
use serde_json::Value;

use crate::{
    support::{
        Tensors, devices, fixtures, folder, goldens, json, largest_difference, pictures, relative_error,
        tensors, unpadded, written_deltas,
    },
    vit::{samples, schedule, states},
};

/// Of merged deltas, relative Frobenius error: f32 features move them by 1e-5.
const DELTAS: f64 = 2e-4;
/// Of hidden states and logits: what f32 loses in six layers.
const FORWARD: f64 = 6e-5;
/// `[SEP]`, which ends a caption.
const END: u32 = 3;

/// The captions that an oracle's decoder has read, with the token that ends each.
fn captions(golden: &Tensors, task: &str) -> Vec<Vec<u32>> {
    let read = unpadded(
        golden,
        &format!("{task}.decoder_input_ids"),
        &format!("{task}.attention_mask"),
    );
    // [DEC] is not the caption's, and its last token is not read.
    read.iter().map(|ids| [&ids[1..], &[END]].concat()).collect()
}

fn answered(samples: Vec<Sample>, captions: &[Vec<u32>]) -> TaskSamples {
    TaskSamples {
        samples,
        answers: captions.iter().cloned().map(Given::Tokens).collect(),
        ..TaskSamples::default()
    }
}

/// Task a writes its captions itself, those of b are given.
fn adapters(root: &Path, golden: &Tensors) -> Vec<AdapterInput> {
    let adapter = |name: &str, given: Option<TaskSamples>| AdapterInput {
        name: name.to_owned(),
        folder: folder(&root.join(name)),
        samples: given,
        pictures: Some(pictures(&root.join(format!("{name}.samples")))),
        weight: 1.0,
        path: None,
    };
    vec![
        adapter("a", None),
        adapter("b", Some(answered(Vec::new(), &captions(golden, "b")))),
    ]
}

fn merged(root: &Path, golden: &Tensors, options: MergeOptions, compute: &Compute) -> MemorySink {
    let request = MergeRequest {
        base: Some(folder(&root.join("base"))),
        base_path: None,
        device_why: None,
        adapters: adapters(root, golden),
        options,
    };
    let mut sink = MemorySink::default();
    pollster::block_on(merge(request, compute, &Silent, &mut sink)).unwrap();
    sink
}

#[test]
fn states_and_logits_equal_transformers_and_peft() {
    let Some(root) = fixtures("images/blip", "golden.safetensors") else {
        return;
    };
    let golden = tensors(&root.join("golden.safetensors"));
    for compute in devices() {
        for task in ["a", "b"] {
            let pictures = samples(&golden.get(&format!("{task}.pixel_values")));
            // Embeddings, three layers and the norm behind them.
            let found = states(&compute, &root.join("base"), &pictures, 5, 3);
            let worst = largest_difference(&found, &golden.get(&format!("{task}.out.base.image_embeds")).1);
            assert!(worst < FORWARD, "{task}, image: {worst:.1e}");
            let captions = captions(&golden, task);
            for (adapter, wanted) in [(None, "base"), (Some(root.join(task)), "own")] {
                let adapter = adapter.map(|path| folder(&path));
                let given = answered(pictures.clone(), &captions);
                let base = folder(&root.join("base"));
                let (vocabulary, found) =
                    pollster::block_on(logits(base, adapter, None, &given, &compute)).unwrap();
                let (shape, all) = golden.get(&format!("{task}.out.{wanted}.logits"));
                // Without the rows of padding.
                let rows = all.chunks_exact(shape[1] * vocabulary).zip(&captions);
                let expected: Vec<f32> = rows
                    .flat_map(|(rows, caption)| rows[..caption.len() * vocabulary].to_vec())
                    .collect();
                let worst = largest_difference(&found, &expected);
                assert!(worst < FORWARD, "{task}, {wanted}: {worst:.1e}");
            }
        }
    }
}

#[test]
fn merges_equal_the_oracle_with_captions_given_or_written() {
    let Some(root) = fixtures("images/blip", "golden.safetensors") else {
        return;
    };
    let golden = tensors(&root.join("golden.safetensors"));
    let expected = tensors(&root.join("expected.a-b.safetensors"));
    for name in ["sweep", "iterate1", "iterate3"] {
        let sink = merged(&root, &golden, schedule(name), &Compute::cpu());
        let found = written_deltas(sink.file("adapter_model.safetensors").unwrap());
        for module in json(&root.join("facts.json"))["modules"].as_array().unwrap() {
            let module = module.as_str().unwrap();
            let factor = |side: &str| expected.get(&format!("{name}/{module}.lora_{side}"));
            let wanted = crate::support::product(&factor("B"), &factor("A"));
            let error = relative_error(&found(module), &wanted);
            assert!(error < DELTAS, "{name}, {module}: {error:.1e}");
        }
        let report: Value = serde_json::from_slice(sink.file("merge_report.json").unwrap()).unwrap();
        let answers = |at: usize| report["adapters"][at]["samples"]["answers"].clone();
        assert_eq!((answers(0), answers(1)), ("own".into(), "given".into()));
    }
}

#[test]
fn captions_are_those_that_transformers_writes() {
    let Some(root) = fixtures("images/blip", "golden.safetensors") else {
        return;
    };
    let golden = tensors(&root.join("golden.safetensors"));
    let wanted = captions(&golden, "a");
    for compute in devices() {
        let request = GenerateRequest {
            base: folder(&root.join("base")),
            variants: ["own", "base"]
                .into_iter()
                .zip([Some(folder(&root.join("a"))), None])
                .map(|(name, folder)| Variant {
                    name: name.into(),
                    folder,
                })
                .collect(),
            prompts: Vec::new(),
            pictures: Some(pictures(&root.join("a.samples"))),
            sampling: Sampling::greedy(12),
        };
        let written = pollster::block_on(write_variants(request, &compute, &Silent)).unwrap();
        let own: Vec<Vec<u32>> = written.variants[0]
            .1
            .iter()
            .map(|answer| answer.ids.clone())
            .collect();
        // The oracle's decoder has not read the twelfth token.
        let read = |captions: &[Vec<u32>]| -> Vec<Vec<u32>> {
            captions.iter().map(|ids| ids[..ids.len() - 1].to_vec()).collect()
        };
        assert_eq!(read(&own), read(&wanted));
        assert!(own.iter().all(|ids| ids.len() <= 12));
        assert_ne!(written.variants[0].1, written.variants[1].1);
    }
}

#[test]
fn a_comparison_tells_what_each_variant_writes_of_the_pictures() {
    let Some(root) = fixtures("images/blip", "golden.safetensors") else {
        return;
    };
    let golden = tensors(&root.join("golden.safetensors"));
    let request = CompareRequest {
        base: folder(&root.join("base")),
        adapters: adapters(&root, &golden),
        merged: Vec::new(),
        max_new_tokens: None,
        classes: Vec::new(),
    };
    let (report, _) = pollster::block_on(compare(request, &Compute::cpu(), &Silent)).unwrap();
    for task in &report.tasks {
        let own = &task.variants[1];
        assert_eq!((own.variant.as_str(), own.agreement), ("adapter", Some(1.0)));
        assert_eq!(task.said.len(), 8);
        let same = |variant: usize| {
            let same = task
                .said
                .iter()
                .filter(|said| said.variants[variant].ids == said.variants[1].ids);
            same.count() as f64 / task.said.len() as f64
        };
        assert_eq!(task.said[0].variants[0].variant, "base");
        assert_eq!(
            Some(same(0)),
            task.variants[0].agreement,
            "what is counted is what is shown"
        );
        assert!(same(0) < 1.0);
    }
    let own: Vec<Vec<u32>> = report.tasks[0]
        .said
        .iter()
        .map(|said| said.variants[1].ids.clone().unwrap())
        .collect();
    let wanted = captions(&golden, "a");
    for (found, wanted) in own.iter().zip(&wanted) {
        assert_eq!(found[..11], wanted[..11]);
    }
}

#[test]
fn captions_that_do_not_fit_are_refused() {
    let Some(root) = fixtures("images/blip", "golden.safetensors") else {
        return;
    };
    let golden = tensors(&root.join("golden.safetensors"));
    let refused = |captions: Vec<Vec<u32>>| {
        let mut adapters = adapters(&root, &golden);
        adapters[1].samples = Some(answered(Vec::new(), &captions));
        let request = MergeRequest {
            base: Some(folder(&root.join("base"))),
            base_path: None,
            device_why: None,
            adapters,
            options: MergeOptions::default(),
        };
        let mut sink = MemorySink::default();
        let error = pollster::block_on(merge(request, &Compute::cpu(), &Silent, &mut sink)).unwrap_err();
        assert_eq!(error.code(), Code::SamplesInvalid);
        error.to_string()
    };
    let long = refused(vec![vec![5; 70]; 8]);
    assert!(
        long.contains("adapter \"b\", sample 1") && long.contains("64"),
        "{long}"
    );
    let unknown = refused(vec![vec![5000, END]; 8]);
    assert!(unknown.contains("5000"), "{unknown}");
}

/// A captioner with what the fixtures' has not: other widths of text and picture, other activations, pixels that no patch
/// reads. Its checkpoint is also there as the hub's are, with the tied head stored once more.
struct Odd {
    facts: Value,
    expected: Tensors,
    end: u32,
}

impl Odd {
    fn read() -> Self {
        let root = goldens().join("blip");
        let end = &json(&root.join("base/config.json"))["text_config"]["sep_token_id"];
        Self {
            end: end.as_u64().unwrap() as u32,
            facts: json(&root.join("facts.json")),
            expected: tensors(&root.join("expected.safetensors")),
        }
    }

    /// Those that were read, with what ends each.
    fn captions(&self, task: &str) -> Vec<Vec<u32>> {
        let read: Vec<Vec<u32>> = serde_json::from_value(self.facts["decoder_ids"][task].clone()).unwrap();
        read.iter().map(|ids| [&ids[1..], &[self.end]].concat()).collect()
    }

    fn written(&self, variant: &str, task: &str) -> Vec<Vec<u32>> {
        serde_json::from_value(self.facts["captions"][variant][task].clone()).unwrap()
    }
}

/// The checkpoint in one of its forms, with what says how its pictures are preprocessed.
fn odd_base(name: &str) -> Folder {
    let root = goldens().join("blip");
    let mut files: Vec<_> = folder(&root.join(name)).files().cloned().collect();
    if name != "base" {
        files.extend(folder(&root.join("base")).find("preprocessor_config.json"));
    }
    Folder::new("base", files).unwrap()
}

#[test]
fn every_layer_of_an_odd_model_and_its_logits_equal_transformers() {
    let (root, odd) = (goldens().join("blip"), Odd::read());
    let pictures = samples(&odd.expected.get("pixels.b"));
    let captions = odd.captions("b");
    for compute in devices() {
        for base in ["base", "base-hub"] {
            for layer in 0..4 {
                let found = states(&compute, &root.join(base), &pictures, layer + 1, 3);
                let worst = largest_difference(&found, &odd.expected.get(&format!("image.{layer}")).1);
                assert!(worst < FORWARD, "{base}, image.{layer}: {worst:.1e}");
            }
            let read: Vec<Sample> = pictures
                .iter()
                .zip(odd.facts["decoder_ids"]["b"].as_array().unwrap())
                .map(|(picture, ids)| {
                    picture
                        .clone()
                        .and_tokens(serde_json::from_value(ids.clone()).unwrap())
                })
                .collect();
            for layer in 0..3 {
                // One by one: micro-batches are in the order of their lengths.
                let found: Vec<f32> = read
                    .iter()
                    .flat_map(|one| {
                        states(
                            &compute,
                            &root.join(base),
                            std::slice::from_ref(one),
                            4 + layer,
                            1,
                        )
                    })
                    .collect();
                let worst = largest_difference(&found, &odd.expected.get(&format!("text.{layer}")).1);
                assert!(worst < FORWARD, "{base}, text.{layer}: {worst:.1e}");
            }
            for (adapter, wanted) in [
                (None, "logits.base"),
                (Some("a"), "logits.a"),
                (Some("b"), "logits.b"),
            ] {
                let adapter = adapter.map(|name| folder(&root.join(name)));
                let given = answered(pictures.clone(), &captions);
                let base = folder(&root.join(base));
                let (_, found) = pollster::block_on(logits(base, adapter, None, &given, &compute)).unwrap();
                let worst = largest_difference(&found, &odd.expected.get(wanted).1);
                assert!(worst < FORWARD, "{wanted}: {worst:.1e}");
            }
        }
    }
}

#[test]
fn captions_of_an_odd_model_equal_transformers_token_for_token() {
    let (root, odd) = (goldens().join("blip"), Odd::read());
    for compute in devices() {
        let begun: Vec<u32> = serde_json::from_value(odd.facts["begins"]["ids"].clone()).unwrap();
        for (task, begun) in [("a", None), ("b", None), ("a", Some(begun))] {
            let variants = ["base", "a", "b"];
            let request = GenerateRequest {
                base: odd_base("base-hub"),
                variants: variants
                    .map(|name| Variant {
                        name: name.into(),
                        folder: (name != "base").then(|| folder(&root.join(name))),
                    })
                    .into(),
                prompts: begun.iter().cycle().take(4).cloned().collect(),
                pictures: Some(pictures(&root.join(format!("{task}.samples")))),
                sampling: Sampling::greedy(12),
            };
            let written = pollster::block_on(write_variants(request, &compute, &Silent)).unwrap();
            for (name, answers) in written.variants {
                let found: Vec<Vec<u32>> = answers.into_iter().map(|answer| answer.ids).collect();
                let wanted = match begun {
                    None => odd.written(&name, task),
                    Some(_) => {
                        let begins = &odd.facts["begins"]["captions"][&name];
                        serde_json::from_value(begins.clone()).unwrap()
                    }
                };
                assert_eq!(found, wanted, "{name} of {task}, begun with {begun:?}");
            }
        }
    }
}

#[test]
fn merges_of_an_odd_model_equal_the_oracle_with_captions_of_some_pictures() {
    let (root, odd) = (goldens().join("blip"), Odd::read());
    let expected = tensors(&root.join("merged.safetensors"));
    // Of b's pictures three have a caption, and its adapter writes that of the fourth.
    let mut b = answered(Vec::new(), &odd.captions("b"));
    b.answers[3] = Given::Nothing;
    for base in ["base", "base-hub"] {
        for name in ["sweep", "iterate1"] {
            let adapter = |name: &str, samples| AdapterInput {
                name: name.to_owned(),
                folder: folder(&root.join(name)),
                samples,
                pictures: Some(pictures(&root.join(format!("{name}.samples")))),
                weight: 1.0,
                path: None,
            };
            let request = MergeRequest {
                base: Some(odd_base(base)),
                base_path: None,
                device_why: None,
                adapters: vec![adapter("a", None), adapter("b", Some(b.clone()))],
                options: schedule(name),
            };
            let mut sink = MemorySink::default();
            pollster::block_on(merge(request, &Compute::cpu(), &Silent, &mut sink)).unwrap();
            let found = written_deltas(sink.file("adapter_model.safetensors").unwrap());
            for module in odd.facts["modules"].as_array().unwrap() {
                let module = module.as_str().unwrap();
                let error = relative_error(&found(module), &expected.get(&format!("{name}.{module}")).1);
                assert!(error < DELTAS, "{base}, {name}, {module}: {error:.1e}");
            }
        }
    }
}
