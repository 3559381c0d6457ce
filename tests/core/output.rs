//! What a merge writes: files that hold what they should, say where they are from, and are the same every time.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test stops at what it did not expect"
)]

mod base;
mod card;
mod damaged;
mod header;
mod ranks;
mod reading;
mod shared;
mod sizes;
mod streaming;

use std::{collections::BTreeMap, rc::Rc};

use crate::support::{folder, goldens, run};
use iteris_web::{
    error::Code,
    io::{
        ByteSource, Checkpoint, Dtype, Folder, MemorySink, MemorySource, OutDtype, StreamHeader,
        StreamWriter, encode,
    },
    jobs::AdapterInput,
    merge::options::{MergeOptions, MethodName},
};

/// A golden adapter without samples.
fn golden(name: &str) -> AdapterInput {
    input(name, folder(&goldens().join("adapters").join(name)), 1.0)
}

fn input(name: &str, folder: Folder, weight: f64) -> AdapterInput {
    AdapterInput {
        name: name.to_owned(),
        folder,
        samples: None,
        pictures: None,
        weight,
        path: None,
    }
}

/// The goldens' base.
fn tiny() -> Folder {
    folder(&goldens().join("adapters/base"))
}

/// A method without samples.
fn options() -> MergeOptions {
    MergeOptions {
        method: MethodName::Linear,
        ..MergeOptions::default()
    }
}

fn refused(
    base: Option<Folder>,
    adapters: Vec<AdapterInput>,
    options: MergeOptions,
    code: Code,
    parts: &[&str],
) {
    let error = run(base, adapters, options).err().unwrap();
    assert_eq!(error.code(), code, "{error}");
    for part in parts {
        assert!(error.to_string().contains(part), "{error}");
    }
}

/// A folder of files in memory.
fn files(label: &str, files: Vec<(&str, Vec<u8>)>) -> Folder {
    let sources = files
        .into_iter()
        .map(|(name, bytes)| Rc::new(MemorySource::new(name, bytes)) as Rc<dyn ByteSource>);
    Folder::new(label, sources.collect()).unwrap()
}

/// What was written, as a folder.
fn written(sink: &MemorySink) -> Folder {
    let all = sink
        .files()
        .iter()
        .map(|(name, bytes)| (name.as_str(), bytes.clone()));
    // A file beside the others keeps one folder from being taken for the whole.
    files("written", all.collect())
}

fn opened(bytes: &[u8]) -> Checkpoint {
    let source = Rc::new(MemorySource::new("file.safetensors", bytes.to_vec()));
    pollster::block_on(Checkpoint::open_source(source)).unwrap()
}

fn file(sink: &MemorySink, name: &str) -> Vec<u8> {
    let found = sink.file(name);
    found.unwrap_or_else(|| panic!("{name} was not written")).to_vec()
}

fn json_of(sink: &MemorySink, name: &str) -> serde_json::Value {
    serde_json::from_slice(&file(sink, name)).unwrap()
}

/// Every tensor's type, shape and bytes.
type Raw = BTreeMap<String, (Dtype, Vec<usize>, Vec<u8>)>;

fn raw(checkpoint: &Checkpoint) -> Raw {
    checkpoint
        .infos()
        .map(|info| {
            let bytes = pollster::block_on(checkpoint.bytes(&info.name)).unwrap();
            (info.name.clone(), (info.dtype, info.shape.clone(), bytes))
        })
        .collect()
}

/// A safetensors file of tensors of several types.
fn mixed(tensors: &Raw) -> Vec<u8> {
    let list = tensors
        .iter()
        .map(|(name, (dtype, shape, _))| (name.clone(), *dtype, shape.clone()));
    let header = StreamHeader::new(list, &BTreeMap::from([("format".into(), "pt".into())])).unwrap();
    let order: Vec<String> = header.tensors().map(|(name, _)| name.to_owned()).collect();
    let mut sink = MemorySink::default();
    pollster::block_on(async {
        let mut writer = StreamWriter::begin(&mut sink, "file", header);
        for name in order {
            writer.write(&name, &tensors[&name].2).await?;
        }
        writer.finish().await
    })
    .unwrap();
    file(&sink, "file")
}

/// Numbers in a type.
fn numbers(dtype: OutDtype, shape: &[usize], data: &[f32]) -> (Dtype, Vec<usize>, Vec<u8>) {
    (dtype.into(), shape.to_vec(), encode("test", data, dtype).unwrap())
}

/// A PEFT adapter of rank 1 and alpha 1 for modules of the given shapes; the i-th module's factors are i+1 and ones.
fn adapter(modules: &[(&str, usize, usize)]) -> Folder {
    let mut tensors = Raw::new();
    for (at, (module, d_out, d_in)) in modules.iter().enumerate() {
        #[allow(clippy::cast_precision_loss, reason = "small numbers")]
        let value = (at + 1) as f32;
        let key = |part: &str| format!("base_model.model.{module}.lora_{part}.weight");
        tensors.insert(key("A"), numbers(OutDtype::F32, &[1, *d_in], &vec![1.0; *d_in]));
        tensors.insert(
            key("B"),
            numbers(OutDtype::F32, &[*d_out, 1], &vec![value; *d_out]),
        );
    }
    let names: Vec<&str> = modules.iter().map(|(module, ..)| *module).collect();
    let config = serde_json::json!({
        "peft_type": "LORA", "r": 1, "lora_alpha": 1, "target_modules": names,
        "base_model_name_or_path": "org/base",
    });
    files(
        "adapter",
        vec![
            ("adapter_config.json", config.to_string().into_bytes()),
            ("adapter_model.safetensors", mixed(&tensors)),
        ],
    )
}
