//! Half a minute of fuzzing: every file of the corpus, and as many changes of them as the time allows.
//!
//! No input may panic, hang or take memory out of proportion. Changes are drawn from a fixed sequence; an
//! input that is refused in a new way is kept to be changed further, which leads deeper into a format than
//! changing good files alone. Whatever fails is left in the target folder, to be added to the corpus.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test's helpers fail the test by panicking"
)]

#[path = "support/memory.rs"]
mod memory;
#[path = "fuzz/mutate.rs"]
mod mutate;
#[path = "fuzz/targets.rs"]
mod targets;
#[path = "fuzz/watch.rs"]
mod watch;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Instant;

use iteris_web::error::Result;

use mutate::{Random, change};
use watch::Watch;

#[global_allocator]
static ALLOCATOR: memory::Counting = memory::Counting;

/// For all targets together.
const SECONDS: f64 = 30.0;
const TARGETS: f64 = 6.0;

/// How many inputs that were refused in a new way are kept.
const KEPT: usize = 400;

/// Inputs grow no longer than this.
const LONGEST: usize = 1 << 16;

/// One thing to fuzz.
struct Fuzz {
    name: &'static str,
    target: fn(&[u8]) -> Result<()>,
    /// Files and folders beside `corpus/NAME`, relative to `tests`.
    seeds: &'static [&'static str],
    /// Parts of the format that chance would not write.
    words: &'static [&'static [u8]],
    /// How many inputs have to be read in the time there is: a tenth of what a slow machine does.
    least: usize,
    /// How many of them at least are read to the end: the changes must not only break things.
    least_accepted: usize,
}

#[test]
fn safetensors_header() {
    fuzz(&Fuzz {
        name: "safetensors_header",
        target: targets::safetensors_header,
        seeds: &[
            "pickle/data/state.safetensors",
            "pickle/data/expected.safetensors",
        ],
        words: &[
            b"\"dtype\":\"F32\"",
            b"\"BF16\"",
            b"\"F4\"",
            b"\"F8_E4M3\"",
            b"\"I64\"",
            b"\"shape\":[]",
            b"[0]",
            b"18446744073709551615",
            b"\"data_offsets\":[0,0]",
            b"__metadata__",
            b":{}",
            b"null",
            b"\\u0000",
            b"\"a\":",
            b"-1",
            b"1e9",
        ],
        least: 2000,
        least_accepted: 50,
    });
}

#[test]
fn adapter_config() {
    fuzz(&Fuzz {
        name: "adapter_config",
        target: targets::adapter_config,
        seeds: &[
            "goldens/data/adapters/all/adapter_config.json",
            "goldens/data/adapters/regex/adapter_config.json",
            "goldens/data/families/gpt2/b/adapter_config.json",
        ],
        words: &[
            b"null",
            b"true",
            b"[]",
            b"{}",
            b"0",
            b"1e308",
            b"-1",
            b"18446744073709551616",
            b"\"r\":",
            b"\"rank_pattern\":{",
            b"\"alpha_pattern\":{",
            b"\"all-linear\"",
            b"(?:",
            b"\\\\d+",
            b"{1000}",
            b".*",
            b"[^x]",
            b"(?<x>",
            b"(?i)",
            b"\\\\p{L}",
            b"|",
            b")*",
            b"\"use_dora\":true",
            b"\"modules_to_save\":[",
        ],
        least: 2000,
        least_accepted: 50,
    });
}

#[test]
fn adapter_keys() {
    fuzz(&Fuzz {
        name: "adapter_keys",
        target: targets::adapter_keys,
        seeds: &[],
        words: &[
            b"base_model.model.",
            b".lora_A",
            b".lora_B",
            b".weight",
            b".bias",
            b".default",
            b".modules_to_save",
            b"lora_embedding_A",
            b"lora_magnitude_vector",
            b"base_layer",
            b"\n4x8 ",
            b"\n8x4 ",
            b"\n4 ",
            b"..",
            b"classifier",
            b"embed_tokens",
            b"score",
        ],
        least: 2000,
        least_accepted: 50,
    });
}

/// What names of image models are made of.
const NAME_WORDS: &[&[u8]] = &[
    b"lora_unet_",
    b"lora_te_",
    b"lora_te1_",
    b"lora_te2_",
    b"lora_transformer_",
    b"unet.",
    b"transformer.",
    b"text_encoder.",
    b"diffusion_model.",
    b"model.diffusion_model.",
    b"down_blocks_0_",
    b"input_blocks_4_1_",
    b"transformer_blocks_0_",
    b"attentions.1.",
    b"attn1.to_q",
    b"to_out_0",
    b"double_blocks_0_img_attn_qkv",
    b"single_blocks.0.linear1",
    b".processor.to_q_lora",
    b".lora_down.weight",
    b".lora_up.weight",
    b".lora_mid.weight",
    b".lora_A.weight",
    b".lora_B.weight",
    b".alpha",
    b".dora_scale",
    b".hada_w1_a",
    b"\n\n",
    b"\n4x8 ",
    b"\n8x4 ",
    b"\n4x2x3x3 ",
    b"_0_",
    b"..",
];

#[test]
fn module_names() {
    fuzz(&Fuzz {
        name: "module_names",
        target: targets::module_names,
        seeds: &[],
        words: NAME_WORDS,
        least: 1000,
        least_accepted: 20,
    });
}

#[test]
fn image_keys() {
    fuzz(&Fuzz {
        name: "image_keys",
        target: targets::image_keys,
        seeds: &[],
        words: NAME_WORDS,
        least: 1000,
        least_accepted: 20,
    });
}

#[test]
fn pickle() {
    fuzz(&Fuzz {
        name: "pickle",
        target: targets::pickle,
        seeds: &["pickle/data", "pickle/data/refused"],
        words: &[
            b"PK\x03\x04",
            b"PK\x01\x02",
            b"PK\x05\x06",
            b"PK\x06\x06",
            b"PK\x06\x07",
            b"ctorch\nFloatStorage\n",
            b"ctorch\nHalfStorage\n",
            b"ctorch._utils\n_rebuild_tensor_v2\n",
            b"ctorch._utils\n_rebuild_parameter\n",
            b"ccollections\nOrderedDict\n",
            b"cos\nsystem\n",
            b"X\x01\x00\x00\x00w",
            b"X\x01\x00\x00\x000",
            b"X\x07\x00\x00\x00storage",
            b"\x8a\x08",
            b"K\x00",
            b"K\x02",
            b"(",
            b"tQ",
            b"tR",
            b"}",
            b")R",
            b"h\x00",
            b"q\x00",
            b"u.",
            b"\x85",
            b"\x86",
            b"\x87",
            b"\xff\xff\xff\xff",
            b"b",
            b"\x93",
            b"\x94",
            b"\x95",
            b"e",
            b"s",
            b"]",
        ],
        least: 2000,
        least_accepted: 50,
    });
}

fn fuzz(fuzz: &Fuzz) {
    let watch = Watch::new(fuzz.name);
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    let mut pool = corpus(fuzz);
    let seeds = pool.len();
    let (mut read, mut accepted) = (0, 0);
    let mut ways = BTreeSet::new();
    let begin = Instant::now();
    for input in &pool {
        ways.insert(way(&watch.run(fuzz.target, input)));
    }
    while begin.elapsed().as_secs_f64() < SECONDS / TARGETS {
        let other = random.below(pool.len());
        // Half of the time a file of the corpus: those kept are further from being good.
        let within = if random.below(2) == 0 { seeds } else { pool.len() };
        let mut input = pool[random.below(within)].clone();
        for _ in 0..=random.below(4) {
            change(&mut input, &pool[other], fuzz.words, &mut random);
        }
        input.truncate(LONGEST);
        let outcome = watch.run(fuzz.target, &input);
        read += 1;
        accepted += usize::from(outcome.is_ok());
        if ways.insert(way(&outcome)) && pool.len() < seeds + KEPT {
            pool.push(input);
        }
    }
    eprintln!(
        "{}: {seeds} files, {read} changes of them, {accepted} of those good, {:.1} s",
        fuzz.name,
        begin.elapsed().as_secs_f64()
    );
    assert!(
        read >= fuzz.least && accepted >= fuzz.least_accepted,
        "{}: only {read} inputs were read, {accepted} of them to the end",
        fuzz.name
    );
}

/// How an input was refused: the first words of the message, without those of this input alone.
fn way(outcome: &Result<()>) -> String {
    let Err(error) = outcome else {
        return String::new();
    };
    let is_word = |word: &&str| word.chars().all(|c| c.is_ascii_alphabetic());
    let text = error.to_string();
    text.split(' ')
        .take(7)
        .filter(is_word)
        .collect::<Vec<_>>()
        .join(" ")
}

/// The files of a target's corpus, sorted by name.
fn corpus(fuzz: &Fuzz) -> Vec<Vec<u8>> {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests");
    let mut files: Vec<PathBuf> = Vec::new();
    let own = format!("fuzz/corpus/{}", fuzz.name);
    for seed in fuzz.seeds.iter().copied().chain([own.as_str()]) {
        let path = tests.join(seed);
        if path.is_dir() {
            let inside = std::fs::read_dir(path).unwrap().map(|file| file.unwrap().path());
            files.extend(inside.filter(|file| file.is_file()));
        } else {
            files.push(path);
        }
    }
    files.sort();
    assert!(
        files.len() >= 3,
        "{}: a corpus of {} files",
        fuzz.name,
        files.len()
    );
    files.iter().map(|file| std::fs::read(file).unwrap()).collect()
}
