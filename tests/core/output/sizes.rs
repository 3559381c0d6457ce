//! Files that people have come out about as large as they went in, unless more is asked for.

use std::path::Path;

use iteris_web::{
    io::{Dtype, DtypeChoice},
    merge::options::{MergeOptions, Ranks},
};

use super::{file, files, input, opened, options, run};
use crate::support::fixtures;

const RESIZED: &str = "sdxl_resized.safetensors";
const STYLE: &str = "sdxl_style.safetensors";

/// The merged file of the two adapters, which are in f16: one of rank 4 everywhere, one with a rank of its own in every
/// module, as kohya's `resize_lora.py --dynamic_method` leaves it.
fn merged(folder: &Path, options: MergeOptions) -> Vec<u8> {
    let adapter = |name: &str| {
        let bytes = std::fs::read(folder.join(name)).unwrap();
        input(name, files(name, vec![(name, bytes)]), 1.0)
    };
    let (sink, _) = run(None, vec![adapter(RESIZED), adapter(STYLE)], options).unwrap();
    file(&sink, "merged_lora.safetensors")
}

#[test]
fn an_sdxl_adapter_with_a_rank_for_each_layer_does_not_grow() {
    let Some(folder) = fixtures("field/image", RESIZED) else {
        return;
    };
    let bytes = |name: &str| std::fs::metadata(folder.join(name)).unwrap().len();
    let read = bytes(RESIZED) + bytes(STYLE);
    let plain = merged(&folder, options());
    // A sum's factors are those of both, number for number; the tenth is room for names and the header's strings.
    assert!(
        plain.len() as u64 * 10 <= read * 11,
        "{} bytes of {read}",
        plain.len()
    );
    assert!(opened(&plain).infos().all(|info| info.dtype == Dtype::F16));

    let uniform = merged(
        &folder,
        MergeOptions {
            ranks: Ranks::Uniform,
            ..options()
        },
    );
    let single = merged(
        &folder,
        MergeOptions {
            dtype: DtypeChoice::F32,
            ..options()
        },
    );
    // The largest rank in every layer; four bytes a number for two.
    assert!(uniform.len() > plain.len() * 3 / 2, "{} bytes", uniform.len());
    assert!(single.len() > plain.len() * 19 / 10, "{} bytes", single.len());
}
