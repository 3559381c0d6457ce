//! The benchmark's native row: the same core and kernels compiled for this machine, on one core.
//!
//!     cargo run --example native_bench -- emotion BASE FIXTURES
//!     cargo run --example native_bench -- model FOLDER
//!
//! Prints the report of a sweep as JSON: over the three emotion adapters, the best of three runs, or over
//! the adapters of a folder that `random-model.mjs` has written.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a benchmark stops at what it did not expect, and prints"
)]

#[path = "../support/mod.rs"]
mod support;

use std::path::Path;

use iteris_web::{
    calibrate::{Given, TaskSamples},
    compute::Compute,
    export::report::MergeReport,
    io::MemorySink,
    jobs::{
        AdapterInput,
        merge::{MergeRequest, merge},
    },
    merge::options::MergeOptions,
    model::batch::Sample,
    progress::Silent,
};
use serde_json::{Value, from_value};
use support::{adapter, fixture_samples, folder, json};

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let report = match arguments[..] {
        ["emotion", base, fixtures] => (0..3)
            .map(|_| sweep(Path::new(base), emotion(Path::new(fixtures))))
            .min_by(|a, b| a.seconds.total.total_cmp(&b.seconds.total))
            .unwrap(),
        ["model", path] => sweep(&Path::new(path).join("base"), random(Path::new(path))),
        _ => panic!("emotion BASE FIXTURES, or model FOLDER"),
    };
    println!("{}", serde_json::to_string(&report).unwrap());
}

fn sweep(base: &Path, adapters: Vec<AdapterInput>) -> MergeReport {
    let request = MergeRequest {
        base: Some(folder(base)),
        base_path: None,
        device_why: None,
        adapters,
        options: MergeOptions::default(),
    };
    pollster::block_on(merge(
        request,
        &Compute::cpu(),
        &Silent,
        &mut MemorySink::default(),
    ))
    .unwrap()
}

fn emotion(fixtures: &Path) -> Vec<AdapterInput> {
    ["emoint", "emotion-cause", "isear"]
        .map(|task| {
            let samples = fixture_samples(&fixtures.join(format!("{task}.ids.safetensors")));
            adapter(task, &fixtures.join(task), samples, 1.0)
        })
        .into()
}

fn random(path: &Path) -> Vec<AdapterInput> {
    let rows = |value: &Value| from_value::<Option<Vec<Vec<u32>>>>(value.clone()).unwrap();
    json(&path.join("samples.json"))["tasks"]
        .as_array()
        .unwrap()
        .iter()
        .map(|task| {
            let name = task["name"].as_str().unwrap();
            let samples = TaskSamples {
                samples: rows(&task["ids"])
                    .unwrap()
                    .into_iter()
                    .map(Sample::text)
                    .collect(),
                answers: rows(&task["answers"])
                    .into_iter()
                    .flatten()
                    .map(Given::Tokens)
                    .collect(),
                ..TaskSamples::default()
            };
            AdapterInput {
                name: name.to_owned(),
                folder: folder(&path.join(name)),
                samples: Some(samples),
                pictures: None,
                weight: 1.0,
                path: None,
            }
        })
        .collect()
}
