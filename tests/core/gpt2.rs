//! What a merge writes of a GPT-2, whose linear layers are `Conv1D`: weights transposed, fan_in_fan_out.

#![allow(clippy::unwrap_used, reason = "a test stops at what it did not expect")]

use std::{collections::BTreeMap, path::PathBuf, rc::Rc};

use crate::support::{folder, goldens, json, relative_error};
use iteris_web::{
    adapter::Adapter,
    binding::{Base, ReadAdapter, lanes::lane_deltas},
    calibrate::TaskSamples,
    compute::Compute,
    generate::{GenerateContext, logits},
    io::{ByteSource, Folder, MemorySink, MemorySource},
    jobs::{
        AdapterInput,
        merge::{MergeRequest, merge},
    },
    merge::options::{MergeOptions, OutputKind},
    model::{self, batch::Sample},
    progress::Silent,
};
use serde_json::Value;

fn case() -> PathBuf {
    goldens().join("families/gpt2")
}

fn samples(task: &str) -> Vec<Sample> {
    let inputs = json(&case().join("inputs.json"));
    let ids: Vec<Vec<u32>> = serde_json::from_value(inputs["samples"][task].clone()).unwrap();
    ids.into_iter().map(Sample::text).collect()
}

fn merged(output: OutputKind) -> Folder {
    let adapter = |name: &str| AdapterInput {
        name: name.into(),
        folder: folder(&case().join(name)),
        samples: Some(TaskSamples {
            samples: samples(name),
            ..TaskSamples::default()
        }),
        pictures: None,
        weight: 1.0,
        path: None,
    };
    let request = MergeRequest {
        base: Some(folder(&case().join("base"))),
        base_path: None,
        device_why: None,
        adapters: vec![adapter("a"), adapter("b")],
        options: MergeOptions {
            output,
            ..MergeOptions::default()
        },
    };
    let mut sink = MemorySink::default();
    pollster::block_on(merge(request, &Compute::cpu(), &Silent, &mut sink)).unwrap();
    let files = sink
        .files()
        .iter()
        .map(|(name, bytes)| Rc::new(MemorySource::new(name.as_str(), bytes.clone())) as Rc<dyn ByteSource>);
    Folder::new("merged", files.collect()).unwrap()
}

async fn logits_of(base: &Base, adapter: Option<&Folder>) -> Vec<f32> {
    let compute = Compute::cpu();
    let model = base.model("the test").unwrap();
    let generation = GenerateContext {
        model,
        known_as: 0,
        compute: &compute,
        keep_host: None,
        observer: &Silent,
    };
    let mut lane = BTreeMap::new();
    if let Some(folder) = adapter {
        let adapter = ReadAdapter::alone(Adapter::read("merged", folder).await.unwrap());
        for (name, delta) in lane_deltas(base, &adapter).await.unwrap() {
            lane.insert(name, Rc::new(delta.to_device(&compute)));
        }
    }
    logits(&generation, &lane, &samples("b")).await.unwrap().1
}

#[test]
fn a_merged_base_gives_the_logits_of_the_merged_adapter() {
    pollster::block_on(async {
        let base = Base::open(Some(folder(&case().join("base")))).await.unwrap();
        let plain = logits_of(&base, None).await;
        let adapted = logits_of(&base, Some(&merged(OutputKind::Adapter))).await;
        let whole = Base::open(Some(merged(OutputKind::Base))).await.unwrap();
        let whole = logits_of(&whole, None).await;
        assert!(relative_error(&whole, &adapted) < 1e-5);
        assert!(relative_error(&whole, &plain) > 1e-2);
    });
}

#[test]
fn a_merged_adapter_says_that_the_weights_are_transposed() {
    let config: Option<Value> =
        pollster::block_on(merged(OutputKind::Adapter).read_json("adapter_config.json")).unwrap();
    assert_eq!(config.unwrap()["fan_in_fan_out"], true);
}

#[test]
fn a_merged_base_keeps_how_the_model_writes() {
    let settings = |folder: Folder| pollster::block_on(model::open(folder)).unwrap().generation;
    let base = settings(folder(&case().join("base")));
    assert!(!base.stop.is_empty());
    let whole = merged(OutputKind::Base);
    assert!(whole.find("generation_config.json").is_some());
    assert_eq!(settings(whole), base);
}
