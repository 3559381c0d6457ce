//! A model in several files.

use iteris_web::error::{Code, Result};
use iteris_web::io::{Checkpoint, OutDtype, OutTensor, serialize};
use pollster::block_on;

use super::{folder, metadata, refused};

fn shard(names: &[&str]) -> Vec<u8> {
    let tensors: Vec<OutTensor> = names
        .iter()
        .map(|name| OutTensor {
            name: (*name).to_owned(),
            shape: vec![1],
            data: vec![name.len() as f32],
        })
        .collect();
    serialize(&tensors, OutDtype::F32, &metadata()).unwrap()
}

fn sharded(map: &str) -> Result<Checkpoint> {
    let folder = folder(&[
        (
            "model.safetensors.index.json",
            format!(r#"{{"metadata":{{}},"weight_map":{map}}}"#).into_bytes(),
        ),
        ("s1.safetensors", shard(&["a", "bb"])),
        ("s2.safetensors", shard(&["ccc"])),
        ("s3.safetensors", shard(&["a"])),
    ]);
    block_on(Checkpoint::open(&folder, "model"))
}

#[test]
fn shards_are_read_as_one_checkpoint() {
    let map = r#"{"a":"s1.safetensors","bb":"s1.safetensors","ccc":"s2.safetensors"}"#;
    let checkpoint = sharded(map).unwrap();
    assert_eq!(checkpoint.names().collect::<Vec<_>>(), ["a", "bb", "ccc"]);
    assert_eq!(checkpoint.sources().len(), 2);
    assert_eq!(checkpoint.metadata()["format"], "pt");
    for (name, value) in [("a", 1.0), ("bb", 2.0), ("ccc", 3.0)] {
        assert_eq!(block_on(checkpoint.f32(name)).unwrap(), [value]);
    }
}

#[test]
fn every_entry_of_a_shard_index_is_checked() {
    let index = "model.safetensors.index.json";
    refused(
        sharded(r#"{"a":"s4.safetensors"}"#),
        Code::Missing,
        &[index, "the folder", "s4.safetensors"],
    );
    refused(
        sharded(r#"{"x":"s1.safetensors"}"#),
        Code::Missing,
        &[index, "s1.safetensors", "x"],
    );
    refused(
        sharded(r#"{"a":"s1.safetensors","bb":"s2.safetensors"}"#),
        Code::Missing,
        &["s2.safetensors", "does not hold it", "bb"],
    );
    refused(
        sharded(r#"{"a":"s1.safetensors","a":"s2.safetensors"}"#),
        Code::Duplicate,
        &[index, "twice", "a"],
    );
    refused(
        sharded(r#"{"bb":"s1.safetensors","a":"s3.safetensors"}"#),
        Code::Duplicate,
        &["s1.safetensors", "s3.safetensors", "a"],
    );
    refused(sharded("{}"), Code::HeaderInvalid, &["no tensors", index]);
    refused(sharded(r#"{"a":1}"#), Code::HeaderInvalid, &[index]);
    refused(sharded("[]"), Code::HeaderInvalid, &[index]);
    refused(
        sharded(r#"{"a":"../s1.safetensors"}"#),
        Code::Missing,
        &["../s1.safetensors"],
    );
}
