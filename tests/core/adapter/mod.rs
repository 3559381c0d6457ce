//! Claims about adapters: what PEFT means is what is read, and whatever is more than a plain LoRA is
//! refused by name.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test's helpers fail the test by panicking"
)]

mod config;
mod fixtures;
mod image_refusals;
mod images;
mod tensors;
mod whole;
mod write;

use std::collections::BTreeMap;
use std::rc::Rc;

use iteris_web::adapter::{CONFIG_FILE, WEIGHTS_FILE};
use iteris_web::error::{Code, Result};
use iteris_web::io::{ByteSource, Folder, MemorySource, OutDtype, OutTensor, serialize};
use serde_json::{Value, json};

use whole::Loaded;

const QUERY: &str = "bert.encoder.layer.0.attention.self.query";

/// The configuration of a plain adapter, with some fields set otherwise.
fn config(changes: &[(&str, Value)]) -> Value {
    let mut config = json!({
        "base_model_name_or_path": "a/base", "bias": "none", "fan_in_fan_out": false,
        "init_lora_weights": true, "lora_alpha": 4, "modules_to_save": null, "peft_type": "LORA", "r": 2,
        "target_modules": ["query"], "task_type": null, "use_dora": false, "use_rslora": false,
    });
    for (field, value) in changes {
        config[*field] = value.clone();
    }
    config
}

fn tensor(name: &str, shape: &[usize]) -> OutTensor {
    let elements: usize = shape.iter().product();
    OutTensor {
        name: name.to_owned(),
        shape: shape.to_vec(),
        data: (0..elements).map(|at| at as f32 - 1.5).collect(),
    }
}

/// The two factors of a module of width 3 to 4 under PEFT's names.
fn factors(module: &str, rank: usize) -> Vec<OutTensor> {
    vec![
        tensor(&format!("base_model.model.{module}.lora_A.weight"), &[rank, 3]),
        tensor(&format!("base_model.model.{module}.lora_B.weight"), &[4, rank]),
    ]
}

fn weights(tensors: &[OutTensor]) -> Vec<u8> {
    serialize(tensors, OutDtype::F32, &BTreeMap::new()).unwrap()
}

fn read_files(files: Vec<(&str, Vec<u8>)>) -> Result<Loaded> {
    let files = files
        .into_iter()
        .map(|(name, bytes)| Rc::new(MemorySource::new(name, bytes)) as Rc<dyn ByteSource>)
        .collect();
    Loaded::read("mine", &Folder::new("the adapter", files)?)
}

fn read(config: &Value, tensors: &[OutTensor]) -> Result<Loaded> {
    read_files(vec![
        (CONFIG_FILE, config.to_string().into_bytes()),
        (WEIGHTS_FILE, weights(tensors)),
    ])
}

#[track_caller]
fn refused<T: std::fmt::Debug>(result: Result<T>, code: Code, parts: &[&str]) {
    let error = result.expect_err("this has to be refused");
    assert_eq!(error.code(), code, "{error}");
    for part in parts {
        assert!(error.to_string().contains(part), "`{part}` is not in: {error}");
    }
}
