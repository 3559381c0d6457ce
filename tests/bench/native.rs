//! The benchmark's native row: the same core and kernels compiled for this machine, on one core.
//!
//!     cargo run --example native_bench -- BASE FIXTURES
//!
//! Prints the report of a sweep over the three emotion adapters as JSON, after the best of three runs.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a benchmark stops at what it did not expect, and prints"
)]

#[path = "../support/mod.rs"]
mod support;

use std::path::PathBuf;

use iteris_web::{
    compute::Compute,
    io::MemorySink,
    merge::{MergeOptions, MergeRequest, merge},
    progress::Silent,
};
use support::{adapter, fixture_samples, folder};

fn main() {
    let [base, root]: [PathBuf; 2] = std::env::args_os()
        .skip(1)
        .map(PathBuf::from)
        .collect::<Vec<_>>()
        .try_into()
        .unwrap();
    let run = || {
        let adapters = ["emoint", "emotion-cause", "isear"].map(|task| {
            let samples = fixture_samples(&root.join(format!("{task}.ids.safetensors")));
            adapter(task, &root.join(task), samples, 1.0)
        });
        let request = MergeRequest {
            base: folder(&base),
            adapters: adapters.into(),
            options: MergeOptions::default(),
        };
        pollster::block_on(merge(
            request,
            &Compute::cpu(),
            &Silent,
            &mut MemorySink::default(),
        ))
        .unwrap()
    };
    let best = (0..3)
        .map(|_| run())
        .min_by(|a, b| a.seconds.total.total_cmp(&b.seconds.total))
        .unwrap();
    println!("{}", serde_json::to_string(&best).unwrap());
}
