//! Claims about pickles: tensors come out as torch saved them, and nothing else comes out at all.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test's helpers fail the test by panicking"
)]

mod bombs;
mod bytes;
mod containers;
mod damaged;
mod instructions;
#[path = "../support/memory.rs"]
mod memory;
mod read;

use std::path::{Path, PathBuf};
use std::rc::Rc;

use iteris_web::error::{Code, Result};
use iteris_web::io::{Checkpoint, MemorySource};
use pollster::block_on;

#[global_allocator]
static ALLOCATOR: memory::Counting = memory::Counting;

fn data(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/pickle/data")
        .join(file)
}

fn golden(file: &str) -> Vec<u8> {
    std::fs::read(data(file)).unwrap()
}

fn open(bytes: Vec<u8>) -> Result<Checkpoint> {
    block_on(Checkpoint::open_pickle(Rc::new(MemorySource::new(
        "m.bin", bytes,
    ))))
}

/// Asserts a refusal of a file by its code, with the file's name in the end and `part` before.
#[track_caller]
fn refused(bytes: Vec<u8>, code: Code, part: &str) {
    let error = open(bytes).expect_err("this has to be refused");
    let text = error.to_string();
    assert_eq!(error.code(), code, "{text}");
    assert!(text.contains(part), "`{part}` is not in: {text}");
    assert!(text.contains("m.bin"), "{text}");
}
