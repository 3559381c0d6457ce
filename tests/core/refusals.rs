//! What no family may be given: bases and adapters that are not what they say, whatever the family.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test stops at what it did not expect"
)]

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    rc::Rc,
};

use crate::support::{folder, given, goldens};
use iteris_web::{
    calibrate::{DecoderInputs, TaskSamples},
    compute::Compute,
    error::{Code, Error},
    io::{ByteSource, Folder, MemorySink, MemorySource},
    jobs::{
        AdapterInput,
        compare::{CompareRequest, compare},
        logits::logits,
        merge::{MergeRequest, merge},
    },
    merge::options::MergeOptions,
    model::{self, batch::Sample},
    progress::Silent,
};
use safetensors::{SafeTensors, tensor::TensorView};
use serde_json::{Value, json};

/// The golden families that have adapters.
fn cases() -> Vec<PathBuf> {
    let mut cases: Vec<PathBuf> = std::fs::read_dir(goldens().join("families"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.join("a/adapter_config.json").is_file())
        .collect();
    cases.sort();
    assert!(cases.len() > 10, "goldens are missing");
    cases
}

fn case(name: &str) -> PathBuf {
    goldens().join("families").join(name)
}

fn config(case: &Path) -> Value {
    crate::support::json(&case.join("base/config.json"))
}

/// The files of a directory, each as `change` leaves it.
fn changed(path: &Path, change: impl Fn(&str, Vec<u8>) -> Vec<u8>) -> Folder {
    let files = std::fs::read_dir(path).unwrap().map(|entry| {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        let bytes = change(&name, std::fs::read(&path).unwrap());
        Rc::new(MemorySource::new(name, bytes)) as Rc<dyn ByteSource>
    });
    Folder::new("changed", files.collect()).unwrap()
}

/// A base whose `config.json` has `fields` as well.
fn configured(case: &Path, fields: &Value) -> Folder {
    changed(&case.join("base"), |name, bytes| {
        if name != "config.json" {
            return bytes;
        }
        let mut config: Value = serde_json::from_slice(&bytes).unwrap();
        let all = config.as_object_mut().unwrap();
        all.extend(fields.as_object().unwrap().clone());
        config.to_string().into_bytes()
    })
}

/// An adapter without the tensors whose names have `part` in them.
fn without(adapter: &Path, part: &str) -> Folder {
    changed(adapter, |name, bytes| {
        if name != "adapter_model.safetensors" {
            return bytes;
        }
        let all = SafeTensors::deserialize(&bytes).unwrap();
        let kept: Vec<(String, TensorView<'_>)> = all
            .tensors()
            .into_iter()
            .filter(|(name, _)| !name.contains(part))
            .collect();
        assert!(kept.len() < all.len(), "nothing has {part} in its name");
        safetensors::serialize(kept, None).unwrap()
    })
}

fn texts(ids: &[&[u32]]) -> TaskSamples {
    given(ids.iter().map(|ids| Sample::text(ids.to_vec())).collect())
}

fn adapter(name: &str, folder: Folder, samples: TaskSamples) -> AdapterInput {
    AdapterInput {
        name: name.to_owned(),
        folder,
        samples: Some(samples),
        pictures: None,
        weight: 1.0,
        path: None,
    }
}

/// The error of a merge of one adapter; an encoder-decoder's decoder reads the start token alone.
fn refused(base: Folder, input: AdapterInput) -> Error {
    let request = MergeRequest {
        base: Some(base),
        base_path: None,
        device_why: None,
        adapters: vec![input],
        options: MergeOptions {
            decoder_inputs: DecoderInputs::Start,
            ..MergeOptions::default()
        },
    };
    let compute = Compute::cpu();
    let mut sink = MemorySink::default();
    let merged = pollster::block_on(merge(request, &compute, &Silent, &mut sink));
    merged.err().unwrap_or_else(|| panic!("a merge of what is wrong"))
}

fn says(error: &Error, code: Code, words: &[&str]) {
    assert_eq!(error.code(), code, "{error}");
    for word in words {
        assert!(error.to_string().contains(word), "\"{word}\" in: {error}");
    }
}

#[test]
fn a_model_type_that_is_not_here_is_told_those_that_are() {
    let llama = case("llama");
    let base = configured(&llama, &json!({"model_type": "mamba"}));
    let error = pollster::block_on(model::open(base)).err().unwrap();
    says(&error, Code::ModelUnsupported, &["\"mamba\"", "config.json"]);
    let message = error.to_string();
    let (_, list) = message.split_once("supported: ").unwrap();
    let listed: BTreeSet<&str> = list.split(", ").collect();
    for case in cases() {
        let config = config(&case);
        let kind = config["model_type"].as_str().unwrap();
        assert!(listed.contains(kind), "{kind} in: {message}");
    }
}

#[test]
fn a_vocabulary_larger_than_the_embedding_is_refused_with_both_shapes() {
    for case in cases() {
        let vocabulary = config(&case)["vocab_size"].as_u64().unwrap();
        let base = configured(&case, &json!({"vocab_size": vocabulary + 7}));
        let samples = texts(&[&[3, 4, 5, 6]]);
        let error = refused(base, adapter("a", folder(&case.join("a")), samples));
        let (asked, found) = ((vocabulary + 7).to_string(), vocabulary.to_string());
        let words = [asked.as_str(), &found, "tensor: ", "weight"];
        says(&error, Code::ShapeMismatch, &words);
    }
}

#[test]
fn a_token_outside_the_vocabulary_is_refused_with_its_sample() {
    for case in cases() {
        let vocabulary = config(&case)["vocab_size"].as_u64().unwrap();
        let beyond = u32::try_from(vocabulary).unwrap();
        let samples = texts(&[&[3, 4, 5], &[3, beyond, 5]]);
        let error = refused(
            folder(&case.join("base")),
            adapter("a", folder(&case.join("a")), samples),
        );
        let (id, size) = (format!("id {beyond}"), format!("vocabulary of {vocabulary}"));
        let words = ["\"a\"", "sample 2", &id, &size, "tokenizer"];
        says(&error, Code::SamplesInvalid, &words);
    }
}

#[test]
fn samples_without_a_token_are_refused_by_every_family() {
    for case in cases() {
        let samples = texts(&[&[3, 4, 5], &[]]);
        let error = refused(
            folder(&case.join("base")),
            adapter("a", folder(&case.join("a")), samples),
        );
        says(&error, Code::SamplesInvalid, &["\"a\"", "sample 2", "no token"]);
    }
}

#[test]
fn a_sample_longer_than_the_positions_is_refused() {
    for (name, longest) in [("roberta", 18), ("distilbert", 16), ("modernbert", 32)] {
        let case = case(name);
        let run = |length: usize| {
            let samples = texts(&[&vec![5; length]]);
            let request = MergeRequest {
                base: Some(folder(&case.join("base"))),
                base_path: None,
                device_why: None,
                adapters: vec![adapter("a", folder(&case.join("a")), samples)],
                options: MergeOptions::default(),
            };
            let mut sink = MemorySink::default();
            pollster::block_on(merge(request, &Compute::cpu(), &Silent, &mut sink))
        };
        run(longest).unwrap();
        let error = run(longest + 1).err().unwrap();
        let takes = format!("the model takes {longest}");
        says(&error, Code::SamplesInvalid, &["\"a\"", "sample 1", &takes]);
    }
}

/// The linear layers that an adapter targets, as a set of what `target_modules` may say.
fn modules(case: &Path) -> BTreeSet<String> {
    let adapter = crate::support::tensors(&case.join("a/adapter_model.safetensors"));
    adapter
        .names()
        .iter()
        .filter_map(|name| Some(name.split(".lora_A").next()?.to_owned()).filter(|part| part != name))
        .map(|module| module.rsplit('.').next().unwrap().to_owned())
        .collect()
}

#[test]
fn an_adapter_of_another_architecture_is_refused_with_its_layer() {
    for base in cases() {
        for other in cases() {
            if modules(&base) == modules(&other) {
                continue;
            }
            let error = refused(
                folder(&base.join("base")),
                adapter("other", folder(&other.join("a")), texts(&[&[3, 4, 5]])),
            );
            let words = ["\"other\"", "not for this base model", "module: "];
            says(&error, Code::ShapeMismatch, &words);
        }
    }
}

#[test]
fn weights_of_another_size_than_the_configuration_are_refused() {
    for (name, field) in [
        ("roberta", "intermediate_size"),
        ("distilbert", "hidden_dim"),
        ("modernbert", "intermediate_size"),
        ("llama", "intermediate_size"),
        ("t5", "d_ff"),
        ("gpt2", "n_inner"),
        ("neox", "intermediate_size"),
        ("bart", "encoder_ffn_dim"),
    ] {
        let case = case(name);
        let base = configured(&case, &json!({field: 30}));
        let input = adapter("a", folder(&case.join("a")), texts(&[&[3, 4, 5]]));
        says(
            &refused(base, input),
            Code::ShapeMismatch,
            &["config.json asks for shape", "tensor: "],
        );
    }
}

/// A classifier on rows that it was not trained for says something, and it means nothing.
#[test]
fn a_classifier_without_its_first_layer_predicts_nothing() {
    for (name, layer) in [
        ("distilbert", "pre_classifier"),
        ("xlm-roberta", "classifier.dense"),
    ] {
        let case = case(name);
        let samples = || texts(&[&[3, 4, 5], &[6, 7]]);
        let lacking = || without(&case.join("a"), layer);
        let (base, compute) = (folder(&case.join("base")), Compute::cpu());
        let found = async { logits(base, Some(lacking()), None, &samples(), &compute).await };
        let error = pollster::block_on(found).err().unwrap();
        says(&error, Code::Missing, &[layer, "modules_to_save"]);

        let request = CompareRequest {
            base: folder(&case.join("base")),
            adapters: vec![
                adapter("lacking", lacking(), samples()),
                adapter("whole", folder(&case.join("b")), samples()),
            ],
            merged: Vec::new(),
            max_new_tokens: None,
            classes: Vec::new(),
        };
        let (report, _) = pollster::block_on(compare(request, &Compute::cpu(), &Silent)).unwrap();
        let [lacking, whole] = report.tasks.as_slice() else {
            panic!("two tasks")
        };
        assert!(lacking.variants.iter().all(|one| one.agreement.is_none()));
        assert!(whole.variants.iter().all(|one| one.agreement.is_some()));
        let notes: Vec<&String> = report.notes.iter().filter(|note| note.contains(layer)).collect();
        assert!(notes.len() == 1 && notes[0].starts_with("lacking: "), "{notes:?}");
    }
}
