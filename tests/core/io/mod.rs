//! Claims about files: what is read is what was written, and whatever is wrong with a file is an
//! error that says so.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test's helpers fail the test by panicking"
)]

mod damaged;
mod folder;
mod reader;
mod shards;
mod writer;

use std::collections::BTreeMap;
use std::rc::Rc;

use iteris_web::error::{Code, Result};
use iteris_web::io::{ByteSource, Checkpoint, Folder, MemorySource, OutTensor};
use pollster::block_on;
use serde_json::{Value, json};

fn source(name: &str, bytes: Vec<u8>) -> Rc<dyn ByteSource> {
    Rc::new(MemorySource::new(name, bytes))
}

fn folder(files: &[(&str, Vec<u8>)]) -> Folder {
    let files = files
        .iter()
        .map(|(name, bytes)| source(name, bytes.clone()))
        .collect();
    Folder::new("the folder", files).unwrap()
}

/// A safetensors file of any header and data, well-formed or not.
fn raw(header: &str, data: &[u8]) -> Vec<u8> {
    let mut file = (header.len() as u64).to_le_bytes().to_vec();
    file.extend_from_slice(header.as_bytes());
    file.extend_from_slice(data);
    file
}

fn entry(dtype: &str, shape: &[u64], begin: u64, end: u64) -> Value {
    json!({ "dtype": dtype, "shape": shape, "data_offsets": [begin, end] })
}

fn open(bytes: Vec<u8>) -> Result<Checkpoint> {
    block_on(Checkpoint::open_source(source("m.safetensors", bytes)))
}

#[track_caller]
fn refused<T: std::fmt::Debug>(result: Result<T>, code: Code, parts: &[&str]) {
    let error = result.expect_err("this has to be refused");
    assert_eq!(error.code(), code, "{error}");
    for part in parts {
        assert!(error.to_string().contains(part), "`{part}` is not in: {error}");
    }
}

fn tensors() -> Vec<OutTensor> {
    vec![
        OutTensor {
            name: "b".into(),
            shape: vec![2, 3],
            data: vec![1.0, -2.0, 3.5, 0.0, 1e-3, 65504.0],
        },
        OutTensor {
            name: "a".into(),
            shape: vec![],
            data: vec![0.25],
        },
        OutTensor {
            name: "none".into(),
            shape: vec![0, 4],
            data: vec![],
        },
    ]
}

fn metadata() -> BTreeMap<String, String> {
    [("format", "pt"), ("made_by", "a test"), ("b", "2"), ("a", "1")]
        .into_iter()
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .collect()
}

/// A source that notes the ranges it was asked for.
struct Watched {
    inner: MemorySource,
    reads: std::cell::RefCell<Vec<std::ops::Range<u64>>>,
}

#[async_trait::async_trait(?Send)]
impl ByteSource for Watched {
    fn name(&self) -> &str {
        self.inner.name()
    }
    fn len(&self) -> u64 {
        self.inner.len()
    }
    async fn read(&self, range: std::ops::Range<u64>) -> Result<Vec<u8>> {
        self.reads.borrow_mut().push(range.clone());
        self.inner.read(range).await
    }
}
