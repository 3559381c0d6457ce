//! What is written layer by layer: ranks that are asked for or depend on the numbers, types, and runs that end early.

use std::ops::Range;

use iteris_web::{
    adapter::Adapter,
    compute::{Available, Compute},
    error::{Code, Error, Result},
    io::{Dtype, DtypeChoice, Folder, MemorySink, OutDtype, Sink},
    jobs::{
        AdapterInput,
        merge::{MergeRequest, merge},
        plan::plan,
    },
    merge::options::{MergeOptions, MethodName},
    progress::Silent,
};

use super::{Raw, adapter, file, files, golden, input, mixed, numbers, opened, options, run, tiny, written};
use crate::support::goldens;

fn image(case: &str) -> Folder {
    let file = goldens().join("images").join(case).join("adapter.safetensors");
    files(case, vec![("adapter.safetensors", std::fs::read(file).unwrap())])
}

/// A module's factors as kohya's scripts write them.
fn kohya(layers: &[(&str, [usize; 3], f32)], dtype: OutDtype) -> Vec<u8> {
    let mut tensors = Raw::new();
    for (name, [d_out, rank, d_in], seed) in layers {
        let draw = |count: usize, start: f32| -> Vec<f32> {
            (0..count)
                .map(|at| (at as f32).mul_add(0.37 + start, *seed).sin())
                .collect()
        };
        let key = |end: &str| format!("{name}.{end}");
        tensors.insert(
            key("lora_down.weight"),
            numbers(dtype, &[*rank, *d_in], &draw(rank * d_in, 0.11)),
        );
        tensors.insert(
            key("lora_up.weight"),
            numbers(dtype, &[*d_out, *rank], &draw(d_out * rank, 0.23)),
        );
        tensors.insert(key("alpha"), numbers(dtype, &[], &[*rank as f32]));
    }
    mixed(&tensors)
}

fn of(name: &str, bytes: Vec<u8>) -> AdapterInput {
    input(name, files(name, vec![("adapter.safetensors", bytes)]), 1.0)
}

const QKV: &str = "lora_unet_double_blocks_0_img_attn_qkv";
const LINEAR1: &str = "lora_unet_single_blocks_0_linear1";

/// Two adapters of Flux's fused layers, 9216 outputs being query, key and value of 3072 each.
fn fused() -> Vec<AdapterInput> {
    let one = |name, rank, seed| {
        let layers = [
            (QKV, [9216, rank, 3072], seed),
            (LINEAR1, [21504, rank, 3072], seed + 1.0),
        ];
        of(name, kohya(&layers, OutDtype::F16))
    };
    vec![one("a", 2, 0.3), one("b", 3, 1.7)]
}

fn rank_of(sink: &MemorySink, name: &str) -> usize {
    let weights = opened(&file(sink, "merged_lora.safetensors"));
    let down = weights.info(&format!("{name}.lora_down.weight")).unwrap();
    let up = weights.info(&format!("{name}.lora_up.weight")).unwrap();
    assert_eq!(down.shape[0], up.shape[1], "{name}");
    down.shape[0]
}

#[test]
fn a_fused_layer_is_cut_as_the_one_matrix_that_it_is() {
    let exact = run(None, fused(), options()).unwrap().0;
    for name in [QKV, LINEAR1] {
        assert_eq!(rank_of(&exact, name), 5, "parts share their directions: {name}");
    }
    let cut = MergeOptions {
        rank: Some(4),
        ..options()
    };
    let (sink, report) = run(None, fused(), cut).unwrap();
    let product = |sink: &MemorySink, name: &str| -> Vec<f64> {
        let weights = opened(&file(sink, "merged_lora.safetensors"));
        let numbers = |end: &str| pollster::block_on(weights.f32(&format!("{name}.{end}.weight"))).unwrap();
        let (down, up) = (numbers("lora_down"), numbers("lora_up"));
        let rank = rank_of(sink, name);
        // Some rows of each part are enough to see an error.
        let rows = up.chunks_exact(rank).step_by(61);
        rows.flat_map(|row| {
            (0..3072).step_by(7).map(|column| {
                let terms = row.iter().enumerate();
                terms
                    .map(|(k, &b)| f64::from(b) * f64::from(down[k * 3072 + column]))
                    .sum::<f64>()
            })
        })
        .collect()
    };
    for name in [QKV, LINEAR1] {
        assert_eq!(rank_of(&sink, name), 4, "{name}");
        let (found, whole) = (product(&sink, name), product(&exact, name));
        let norm = |values: &[f64]| values.iter().map(|x| x * x).sum::<f64>().sqrt();
        let left: Vec<f64> = found.iter().zip(&whole).map(|(x, y)| x - y).collect();
        let error = norm(&left) / norm(&whole);
        let told = report.layers.iter().filter_map(|layer| layer.error);
        let told: Vec<f64> = told.collect();
        // A sample of the rows, and factors rounded to f16.
        assert!(
            told.iter().any(|told| (told - error).abs() < 0.15 * told + 1e-3),
            "{name}: {error}, {told:?}"
        );
    }
}

#[test]
fn a_rank_that_is_asked_for_comes_out() {
    for method in [MethodName::Svd, MethodName::Linear, MethodName::TiesSvd] {
        let options = MergeOptions {
            method,
            rank: Some(6),
            ..options()
        };
        // Adapters of rank 3 and 4; TIES has a dense result, which has any rank.
        let (sink, _) = run(Some(tiny()), vec![golden("qv"), golden("all")], options).unwrap();
        let weights = opened(&file(&sink, "adapter_model.safetensors"));
        for info in weights
            .infos()
            .filter(|info| info.name.ends_with("lora_A.weight"))
        {
            assert_eq!(info.shape[0], 6, "{method:?} {}", info.name);
        }
    }
    let options = MergeOptions {
        method: MethodName::Svd,
        svd_rank: Some(2),
        rank: Some(6),
        ..options()
    };
    let (_, report) = run(Some(tiny()), vec![golden("qv"), golden("all")], options).unwrap();
    assert!(report.layers.iter().all(|layer| layer.rank == 2));
}

#[test]
fn a_layer_with_less_than_the_rank_asked_for_is_filled_and_the_report_says_so() {
    let adapters = || {
        let folder = adapter(&[("a", 8, 9), ("b", 8, 9)]);
        vec![input("one", folder.clone(), 1.0), input("two", folder, 2.0)]
    };
    let options = MergeOptions {
        rank: Some(5),
        ..options()
    };
    let (sink, report) = run(None, adapters(), options).unwrap();
    let weights = opened(&file(&sink, "adapter_model.safetensors"));
    assert_eq!(
        weights.info("base_model.model.a.lora_A.weight").unwrap().shape,
        [5, 9]
    );
    assert!(
        report
            .notes
            .iter()
            .any(|note| note.contains("smaller rank than was asked for")),
        "{:?}",
        report.notes
    );
}

#[test]
fn ranks_that_depend_on_the_numbers_wait_in_the_sink_and_leave_nothing_there() {
    for (method, energy) in [(MethodName::Linear, Some(0.9)), (MethodName::Knots, None)] {
        let options = MergeOptions {
            method,
            energy,
            ..options()
        };
        let adapters = || vec![input("one", image("sdxl"), 1.0), input("two", image("sdxl"), 0.5)];
        let (sink, report) = run(None, adapters(), options.clone()).unwrap();
        let names: Vec<&str> = sink.files().iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(
            names,
            ["merged_lora.safetensors", "README.md", "merge_report.json"],
            "{method:?}"
        );
        assert!(report.output.iter().all(|file| !file.name.contains("layers")));
        let weights = opened(&file(&sink, "merged_lora.safetensors"));
        assert!(!report.layers.is_empty() && weights.names().len() >= 2 * report.layers.len());
    }
}

#[test]
fn types_are_those_of_the_adapters_and_f32_where_they_disagree() {
    let one = |name, dtype| {
        of(
            name,
            kohya(
                &[("lora_te_text_model_encoder_layers_0_mlp_fc1", [8, 2, 6], 0.5)],
                dtype,
            ),
        )
    };
    let (half, brain, single) = (OutDtype::F16, OutDtype::Bf16, OutDtype::F32);
    for (types, wanted) in [
        ([half, half], Dtype::F16),
        ([brain, brain], Dtype::BF16),
        ([half, brain], Dtype::F32),
        ([half, single], Dtype::F32),
    ] {
        let adapters = vec![one("a", types[0]), one("b", types[1])];
        let (sink, _) = run(None, adapters, options()).unwrap();
        for info in opened(&file(&sink, "merged_lora.safetensors")).infos() {
            assert_eq!(info.dtype, wanted, "{types:?} {}", info.name);
        }
        let asked = MergeOptions {
            dtype: DtypeChoice::F32,
            ..options()
        };
        let adapters = vec![one("a", types[0]), one("b", types[1])];
        let (sink, _) = run(None, adapters, asked).unwrap();
        assert!(
            opened(&file(&sink, "merged_lora.safetensors"))
                .infos()
                .all(|info| info.dtype == Dtype::F32)
        );
    }
}

/// A disk that is full after some bytes.
struct Full {
    room: usize,
    written: usize,
}

#[async_trait::async_trait(?Send)]
impl Sink for Full {
    async fn write(&mut self, file: &str, bytes: &[u8]) -> Result<()> {
        self.written += bytes.len();
        if self.written > self.room {
            return Err(Error::new(
                Code::WriteFailed,
                format!("no space left on device: {file}"),
            ));
        }
        Ok(())
    }

    async fn read(&mut self, _file: &str, range: Range<u64>) -> Result<Vec<u8>> {
        Ok(vec![0; usize::try_from(range.end - range.start).unwrap()])
    }

    async fn remove(&mut self, _file: &str) -> Result<()> {
        Ok(())
    }
}

fn merge_into(sink: &mut dyn Sink, adapters: Vec<AdapterInput>, options: MergeOptions) -> Error {
    pollster::block_on(merge(request(adapters, options), &Compute::cpu(), &Silent, sink)).unwrap_err()
}

#[test]
fn a_disk_that_fills_up_ends_the_merge_with_its_error() {
    for energy in [None, Some(0.9)] {
        for room in [0, 100, 40_000] {
            let mut sink = Full { room, written: 0 };
            let options = MergeOptions { energy, ..options() };
            let error = merge_into(&mut sink, fused(), options);
            assert_eq!(error.code(), Code::WriteFailed, "{error}");
            // Nothing is written any more after that.
            assert!(sink.written < room + (8 << 20), "{} bytes", sink.written);
        }
    }
}

#[test]
fn a_number_that_is_none_in_one_layer_is_named_with_its_tensor_and_file() {
    let layers = |seed: f32| [(QKV, [9216, 2, 3072], 0.3), (LINEAR1, [21504, 2, 3072], seed)];
    let mut damaged = kohya(&layers(0.7), OutDtype::F16);
    // The last tensor by name is the upper factor of the second layer.
    let end = damaged.len();
    damaged[end - 2..].copy_from_slice(&[0x00, 0x7e]);
    let error = merge_into(
        &mut MemorySink::default(),
        vec![of("good", kohya(&layers(0.1), OutDtype::F16)), of("bad", damaged)],
        options(),
    );
    assert_eq!(error.code(), Code::NotFinite, "{error}");
    for part in [LINEAR1, "lora_up", "adapter.safetensors"] {
        assert!(error.to_string().contains(part), "{error}");
    }
}

fn request(adapters: Vec<AdapterInput>, options: MergeOptions) -> MergeRequest {
    MergeRequest {
        base: None,
        base_path: None,
        device_why: None,
        adapters,
        options,
    }
}

#[test]
fn a_plan_tells_what_is_read_and_written_and_grows_with_the_work() {
    let with = |method| MergeOptions { method, ..options() };
    let mut operations = Vec::new();
    for method in [MethodName::Linear, MethodName::Svd, MethodName::Ties] {
        let plan = pollster::block_on(plan(request(fused(), with(method)), Available::Exactly(0))).unwrap();
        let (sink, report) = run(None, fused(), with(method)).unwrap();
        let size = |file: &[u8]| file.len() as f64;
        let read: f64 = report
            .adapters
            .iter()
            .flat_map(|read| &read.files)
            .map(|file| file.bytes as f64)
            .sum();
        assert_eq!(plan.bytes_read, read);
        assert_eq!(plan.layers, report.layers.len());
        let written = size(&file(&sink, "merged_lora.safetensors"));
        // Fused parts are counted apart, each with the lower factor that the file has once.
        assert!(
            (0.5..2.0).contains(&(plan.bytes_written / written)),
            "{method:?}: {} {written}",
            plan.bytes_written
        );
        assert!(plan.fits && plan.seconds.unwrap() > 0.0 && plan.peak_bytes.unwrap() > 0.0);
        operations.push(plan.operations.unwrap());
        // Only TIES has dense layers to cut.
        let random = report
            .notes
            .iter()
            .any(|note| note.contains("randomised range finder (seed"));
        assert_eq!(random, method == MethodName::Ties, "{:?}", report.notes);
    }
    assert!(
        operations.is_sorted_by(|less, more| less < more),
        "{operations:?}"
    );
    let samples = pollster::block_on(plan(
        request(fused(), with(MethodName::Iteris)),
        Available::Exactly(0),
    ))
    .unwrap();
    assert_eq!(
        (samples.seconds, samples.peak_bytes, samples.operations),
        (None, None, None)
    );
}

#[test]
fn the_factors_of_a_layer_are_read_when_it_is_worked_on() {
    let folder = written(&run(None, fused(), options()).unwrap().0);
    let read = pollster::block_on(Adapter::read("merged", &folder)).unwrap();
    let facts = read.facts();
    assert_eq!((facts.modules, facts.rank, facts.dtype.as_str()), (7, 5, "F16"));
}
