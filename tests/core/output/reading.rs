//! What is read of large tensors, and when: nothing of what an adapter saved whole before it is worked on, then some
//! rows of every adapter at a time, and each expert's factors once.

use std::{cell::RefCell, collections::BTreeMap, ops::Range, rc::Rc};

use async_trait::async_trait;
use iteris_web::{
    adapter::Adapter,
    error::Result,
    io::{ByteSource, Dtype, Folder, MemorySource, OutDtype},
    merge::options::{MergeOptions, MethodName, OutputKind},
};

use super::{Raw, file, files, input, mixed, numbers, opened, options, run};

/// The ranges that were read of files, in their order, each with the file's place in the list.
type Reads = Rc<RefCell<Vec<(usize, Range<u64>)>>>;

/// A file in memory that notes what is read of it. Its hash is known, as in a browser, so that nothing is read for it.
struct Watched {
    own: MemorySource,
    place: usize,
    reads: Reads,
}

#[async_trait(?Send)]
impl ByteSource for Watched {
    fn name(&self) -> &str {
        self.own.name()
    }

    fn len(&self) -> u64 {
        self.own.len()
    }

    async fn read(&self, range: Range<u64>) -> Result<Vec<u8>> {
        self.reads.borrow_mut().push((self.place, range.clone()));
        self.own.read(range).await
    }

    async fn own_sha256(&self) -> Result<Option<String>> {
        Ok(Some("0".repeat(64)))
    }
}

/// A PEFT adapter whose weights are watched.
fn watched(config: &serde_json::Value, weights: Vec<u8>, place: usize, reads: &Reads) -> Folder {
    let sources: Vec<Rc<dyn ByteSource>> = vec![
        Rc::new(MemorySource::new(
            "adapter_config.json",
            config.to_string().into_bytes(),
        )),
        Rc::new(Watched {
            own: MemorySource::new("adapter_model.safetensors", weights),
            place,
            reads: Rc::clone(reads),
        }),
    ];
    Folder::new("adapter", sources).unwrap()
}

/// How many bytes of a tensor's range were read of the file at `place`, each time counted.
fn read_of(reads: &Reads, place: usize, tensor: &Range<u64>) -> u64 {
    let of_file = reads.borrow();
    let of_file = of_file.iter().filter(|(of, _)| *of == place);
    of_file
        .map(|(_, range)| {
            let (start, end) = (range.start.max(tensor.start), range.end.min(tensor.end));
            end.saturating_sub(start)
        })
        .sum()
}

/// Numbers that f16 holds, some of them large, so that sums and differences round.
fn drawn(count: usize, seed: u32) -> Vec<f32> {
    let mut state = seed;
    let mut draw = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 21) as f32 / 512.0 - 2.0
    };
    (0..count).map(|_| draw()).collect()
}

const TABLE: &str = "model.embed_tokens.weight";
const ROWS: usize = 4200;
const WIDTH: usize = 1024;

/// A base with a table of 4.3 million numbers, which is worked on in two pieces or more.
fn base() -> (Folder, Vec<f32>) {
    let table = drawn(ROWS * WIDTH, 1);
    let tensors = Raw::from([
        (TABLE.to_owned(), numbers(OutDtype::F32, &[ROWS, WIDTH], &table)),
        (
            "model.layers.0.self_attn.q_proj.weight".to_owned(),
            numbers(OutDtype::F32, &[4, 3], &drawn(12, 2)),
        ),
    ]);
    let config = serde_json::json!({ "model_type": "of_no_family" });
    let folder = files(
        "base",
        vec![
            ("config.json", config.to_string().into_bytes()),
            ("model.safetensors", mixed(&tensors)),
        ],
    );
    (folder, table)
}

/// An adapter that trained the whole table.
fn of_table(seed: u32) -> (serde_json::Value, Vec<u8>, Vec<f32>) {
    let table = drawn(ROWS * WIDTH, seed);
    let key = |name: &str| format!("base_model.model.{name}");
    let tensors = Raw::from([
        (key(TABLE), numbers(OutDtype::F32, &[ROWS, WIDTH], &table)),
        (
            key("model.layers.0.self_attn.q_proj.lora_A.weight"),
            numbers(OutDtype::F32, &[1, 3], &drawn(3, seed + 1)),
        ),
        (
            key("model.layers.0.self_attn.q_proj.lora_B.weight"),
            numbers(OutDtype::F32, &[4, 1], &drawn(4, seed + 2)),
        ),
    ]);
    let config = serde_json::json!({
        "peft_type": "LORA", "r": 1, "lora_alpha": 1, "target_modules": ["q_proj"],
        "modules_to_save": ["embed_tokens"],
    });
    (config, mixed(&tensors), table)
}

fn place_of(weights: &[u8], tensor: &str) -> Range<u64> {
    opened(weights).info(tensor).unwrap().range.clone()
}

#[test]
fn a_table_that_was_saved_whole_is_read_when_it_is_merged_some_rows_of_every_adapter_at_a_time() {
    let reads = Reads::default();
    let adapters = [of_table(3), of_table(7)];
    let range = place_of(&adapters[0].1, &format!("base_model.model.{TABLE}"));
    let folder = |place: usize| {
        let (config, weights, _) = &adapters[place];
        watched(config, weights.clone(), place, &reads)
    };
    let opened_one = pollster::block_on(Adapter::read("one", &folder(0))).unwrap();
    assert_eq!(opened_one.heads[TABLE].shape, [ROWS, WIDTH]);
    assert_eq!(opened_one.facts().heads.len(), 1);
    assert_eq!(read_of(&reads, 0, &range), 0, "{:?}", reads.borrow());

    let (base, own) = base();
    // A change is told against the base and rounded, half of each is taken and rounded, and so is what results.
    #[allow(clippy::cast_possible_truncation, reason = "this is how results are rounded")]
    let wanted: Vec<f32> = (0..ROWS * WIDTH)
        .map(|at| {
            let w = f64::from(own[at]);
            let change = |table: &[f32]| f64::from((f64::from(table[at]) - w) as f32);
            let half = 0.5 * change(&adapters[0].2) + 0.5 * change(&adapters[1].2);
            (w + f64::from(half as f32)) as f32
        })
        .collect();
    for (output, name, key) in [
        (
            OutputKind::Adapter,
            "adapter_model.safetensors",
            format!("base_model.model.{TABLE}"),
        ),
        (OutputKind::Base, "model.safetensors", TABLE.to_owned()),
    ] {
        reads.borrow_mut().clear();
        let inputs = vec![input("one", folder(0), 1.0), input("two", folder(1), 1.0)];
        let average = MergeOptions {
            method: MethodName::Average,
            output,
            ..options()
        };
        let (sink, report) = run(Some(base.clone()), inputs, average).unwrap();
        let merged = opened(&file(&sink, name));
        assert_eq!(merged.info(&key).unwrap().dtype, Dtype::F32);
        let found = pollster::block_on(merged.f32(&key)).unwrap();
        assert!(
            found == wanted,
            "{output:?}: other numbers than by the definition"
        );
        let told = report.layers.iter().find(|layer| layer.module == TABLE);
        assert_eq!(told.unwrap().error, Some(0.0));
        // Each number once, and never the whole table of one adapter before the other's turn.
        let table = range.end - range.start;
        for place in 0..2 {
            assert_eq!(read_of(&reads, place, &range), table, "{output:?}");
        }
        let order: Vec<usize> = {
            let reads = reads.borrow();
            let of_table = reads
                .iter()
                .filter(|(_, read)| read.start >= range.start && read.end <= range.end && !read.is_empty());
            of_table.map(|(place, _)| *place).collect()
        };
        let turns = order.windows(2).filter(|pair| pair[0] != pair[1]).count();
        assert!(turns >= 3, "{output:?}: {order:?}");
    }
}

#[test]
fn the_factors_of_experts_are_read_once() {
    // The upper factor is larger than what is read of small tensors beforehand.
    let (experts, rank, d_out, d_in) = (8, 16, 16384, 32);
    let key = |part: &str| format!("base_model.model.model.layers.0.mlp.experts.lora_{part}.weight");
    let adapter = |seed: u32| {
        let (lower, upper) = (
            drawn(experts * rank * d_in, seed),
            drawn(d_out * experts * rank, seed + 1),
        );
        mixed(&BTreeMap::from([
            (key("A"), numbers(OutDtype::F32, &[experts * rank, d_in], &lower)),
            (key("B"), numbers(OutDtype::F32, &[d_out, experts * rank], &upper)),
        ]))
    };
    let config = serde_json::json!({
        "peft_type": "LORA", "r": rank, "lora_alpha": rank, "target_modules": [],
        "target_parameters": ["experts.down_proj"],
    });
    let reads = Reads::default();
    let weights = [adapter(3), adapter(7)];
    let ranges = ["A", "B"].map(|part| place_of(&weights[0], &key(part)));
    let folder = |place: usize| watched(&config, weights[place].clone(), place, &reads);
    let inputs = vec![input("one", folder(0), 1.0), input("two", folder(1), 1.0)];
    let (_, report) = run(None, inputs, options()).unwrap();
    assert_eq!(report.layers.len(), experts);
    for place in 0..2 {
        // With the lower factor a stretch of 4 MiB is read, which may reach into the upper one.
        let upper = &ranges[1];
        let once = upper.end - upper.start..=upper.end - upper.start + (4 << 20);
        let found = read_of(&reads, place, upper);
        assert!(once.contains(&found), "{found} of {once:?}");
        let lower = &ranges[0];
        assert_eq!(read_of(&reads, place, lower), lower.end - lower.start);
    }
}
