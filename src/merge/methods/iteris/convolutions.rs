//! A convolution, its Gram matrix and its solved delta against PyTorch's numbers and the oracle's.

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    rc::Rc,
};

use async_trait::async_trait;
use burn::tensor::Tensor;

use crate::{
    binding::Base,
    calibrate::AnswersFrom,
    compute::{Compute, RawWeight, Symmetric, Windows, accumulate_gram},
    delta::{Delta, DeviceDelta, LowRank},
    io::{ByteSource, Checkpoint, FileSource, Folder},
    merge::{
        context::{SolveContext, Task},
        methods::iteris::{MergedLane, Objective, Solver},
        options::MergeOptions,
    },
    model::{
        Steps,
        batch::{Batch, Input, Sample, Stack, micro_batches},
        lanes::{Hook, Lanes},
        projection::Projection,
        streams::{Stream, StreamId, StreamRows},
    },
    pictures::Pixels,
    progress::Silent,
};

fn data() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens/data")
}

/// Any model: the solver asks it nothing.
fn model() -> Base {
    let files = std::fs::read_dir(data().join("plain")).unwrap().map(|entry| {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        Rc::new(FileSource::open(&path, name).unwrap()) as Rc<dyn ByteSource>
    });
    let folder = Folder::new("golden", files.collect()).unwrap();
    pollster::block_on(Base::open(Some(folder))).unwrap()
}

/// A convolution of goldens' `convolutions`, with the windows of a case.
fn convolution(compute: &Compute, inputs: &Checkpoint, case: &serde_json::Value) -> (Projection, Vec<f32>) {
    let side = |name: &str| {
        case[name]
            .as_u64()
            .map(|side| usize::try_from(side).unwrap())
            .unwrap()
    };
    let windows = Windows {
        kernel: [side("kernel"); 2],
        stride: [side("stride"); 2],
        padding: [side("padding"); 2],
    };
    let number = |part: &str| format!("kernel {}/{part}", side("kernel"));
    let read = |name: &str| pollster::block_on(inputs.f32(&number(name))).unwrap();
    let (weight, bias) = (read("weight"), read("bias"));
    let (d_out, d_in) = (bias.len(), weight.len() / bias.len());
    let layer = Projection {
        name: "convolution".into(),
        weight: compute.weight(&weight, d_out, d_in),
        bias: Some(compute.bias(bias)),
        host: Some(Rc::new(RawWeight::of_f32(&weight, d_out, d_in))),
        windows: Some(windows),
    };
    (layer, weight)
}

const FROM: StreamId = StreamId::new(0);
const TO: StreamId = StreamId::new(1);

/// Pictures (samples x 3 x 7 x 6) of each task as one micro-batch that a convolution reads.
fn picture_batch(tasks: &[Vec<f32>], windows: Windows) -> Batch {
    let streams = [
        Stream::input("pixels"),
        Stream {
            name: "windows",
            rows: StreamRows::Windows(FROM, windows),
        },
    ];
    let picture = |data: &[f32]| {
        Sample::of(Input::Grid(Pixels {
            channels: 3,
            height: 7,
            width: 6,
            data: data.to_vec(),
        }))
    };
    let tasks: Vec<Vec<Sample>> = tasks
        .iter()
        .map(|data| data.chunks_exact(3 * 7 * 6).map(picture).collect())
        .collect();
    let tasks: Vec<&[Sample]> = tasks.iter().map(Vec::as_slice).collect();
    let mut batches = micro_batches(&streams, &tasks, None, 0, 10_000).unwrap();
    batches.pop().unwrap()
}

/// A layer's rows of the first stream.
fn rows(compute: &Compute, batch: &Batch) -> Tensor<2> {
    let pixels = batch.stream(FROM);
    compute.tensor(pixels.numbers.clone(), pixels.rows, 3)
}

struct Alone;

#[async_trait(?Send)]
impl Hook for Alone {
    fn variants(&self) -> usize {
        1
    }
    fn tasks(&self) -> usize {
        1
    }
    fn delta(&self, _layer: &str, _task: usize, _variant: usize) -> Option<Rc<DeviceDelta>> {
        None
    }
}

fn checkpoint(name: &str) -> Checkpoint {
    let path = data().join("convolutions").join(name);
    let source = FileSource::open(&path, name.to_owned()).unwrap();
    pollster::block_on(Checkpoint::open_source(Rc::new(source))).unwrap()
}

fn cases() -> serde_json::Value {
    let path = data().join("convolutions/cases.json");
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

fn devices() -> [Compute; 2] {
    [
        Compute::cpu(),
        Compute::tensors(burn::tensor::Device::flex(), "tensors"),
    ]
}

#[test]
fn a_convolution_and_its_gram_matrix_are_pytorchs() {
    let (inputs, expected) = (checkpoint("inputs.safetensors"), checkpoint("cases.safetensors"));
    let read = |file: &Checkpoint, name: &str| pollster::block_on(file.f32(name)).unwrap();
    for (case, compute) in cases()["cases"]
        .as_array()
        .unwrap()
        .iter()
        .flat_map(|case| devices().map(|d| (case, d)))
    {
        let key = case["key"].as_str().unwrap();
        let (layer, _) = convolution(&compute, &inputs, case);
        let batch = picture_batch(&[read(&inputs, "x")], layer.windows.unwrap());
        let stack = Stack::new(&batch, 1);
        let windows = compute.unfold(
            rows(&compute, &batch),
            &stack.grids(FROM),
            &layer.windows.unwrap(),
        );
        let d_in = windows.dims()[1];
        let features = compute.features(windows.clone());
        let mut gram = Symmetric::zeros(d_in);
        pollster::block_on(accumulate_gram(&features, features.all(), &mut gram)).unwrap();
        let windows = pollster::block_on(compute.read(windows)).unwrap();
        assert_eq!(windows, read(&expected, &format!("{key}/windows")), "{key}");
        let bytes = pollster::block_on(expected.bytes(&format!("{key}/gram"))).unwrap();
        let wanted = bytes
            .as_chunks::<8>()
            .0
            .iter()
            .map(|bytes| f64::from_le_bytes(*bytes));
        let largest = windows.iter().map(|&x| f64::from(x).powi(2)).fold(0.0, f64::max);
        let summed = windows.len() / d_in;
        // Products of f32 are exact in f64. Slices of a tensor keep 24 bits below its largest number, and so half a bit
        // of two factors is lost where a number is smaller.
        let share = if compute.name() == "cpu" { -50 } else { -24 };
        let tolerance = 2.0_f64.powi(share) * largest * summed as f64;
        for (found, wanted) in gram.entries().into_iter().zip(wanted) {
            assert!(
                (found - wanted).abs() < tolerance,
                "{key}: {found} is not {wanted}"
            );
        }
        let targeted = BTreeSet::new();
        let lanes = Lanes::new(&compute, &Alone, &targeted, 1);
        let output = lanes.convolve(&stack, [FROM, TO], &layer, rows(&compute, &batch));
        let output = pollster::block_on(async { compute.read(output.await.unwrap()).await.unwrap() });
        // (samples x 5 x height x width) against a row a window.
        let wanted = read(&expected, &format!("{key}/output"));
        let places = output.len() / 2 / 5;
        for (at, wanted) in wanted.iter().enumerate() {
            let (sample, channel, place) = (at / (5 * places), at / places % 5, at % places);
            let found = output[(sample * places + place) * 5 + channel];
            assert!((found - wanted).abs() < 4e-6, "{key}: {found} is not {wanted}");
        }
    }
}

#[test]
fn a_convolution_is_solved_as_the_oracle_solves_it() {
    let (inputs, expected) = (checkpoint("inputs.safetensors"), checkpoint("cases.safetensors"));
    let read = |file: &Checkpoint, name: &str| pollster::block_on(file.f32(name)).unwrap();
    let base = model();
    let model = base.model("the test").unwrap();
    let all = cases();
    for (case, compute) in all["cases"]
        .as_array()
        .unwrap()
        .iter()
        .flat_map(|case| devices().map(|d| (case, d)))
    {
        let key = case["key"].as_str().unwrap();
        let (layer, weight) = convolution(&compute, &inputs, case);
        let d_in = weight.len() / 5;
        for (name, given) in all["options"].as_object().unwrap() {
            let options = MergeOptions {
                alpha1: given["alpha1"].as_f64().unwrap(),
                alpha2: given["alpha2"].as_f64().unwrap(),
                adaptive_weights: given["adaptive_weights"].as_bool().unwrap(),
                target: serde_json::from_value(given["target"].clone()).unwrap(),
                ..MergeOptions::default()
            };
            let task = |task: &str| {
                let facts = &all["adapters"][task];
                let (rank, alpha) = (
                    facts["r"].as_u64().unwrap(),
                    facts["lora_alpha"].as_f64().unwrap(),
                );
                let factor =
                    |side: &str| read(&inputs, &format!("kernel {}/{task}.lora_{side}", case["kernel"]));
                let factors = LowRank {
                    a: factor("A"),
                    b: factor("B"),
                    rank: usize::try_from(rank).unwrap(),
                    d_out: 5,
                    d_in,
                };
                Task {
                    name: task.to_owned(),
                    weight: facts["weight"].as_f64().unwrap(),
                    layer_weights: BTreeMap::new(),
                    deltas: [(
                        "convolution".to_owned(),
                        Delta::LowRank(factors.scaled(alpha / rank as f64)),
                    )]
                    .into(),
                    samples: Vec::new(),
                    answers: AnswersFrom::None,
                    answer_tokens: 0,
                }
            };
            let work = SolveContext::new(model, &compute, vec![task("a"), task("b")], &options, &Silent);
            let objective = Objective::iteris(&options);
            let steps = Steps::new("forward", 1);
            let deltas: Vec<_> = work.tasks.iter().map(|task| task.to_device(&compute)).collect();
            let weight_norms = RefCell::default();
            for (features, merged_lane) in [
                ("first", MergedLane::TaskFeatures),
                ("later", MergedLane::Current),
            ] {
                let solver = Solver {
                    work: &work,
                    objective: &objective,
                    steps: &steps,
                    deltas: &deltas,
                    merged_lane,
                    weight_norms: &weight_norms,
                    statistics: RefCell::default(),
                    on_device: RefCell::default(),
                    found: RefCell::default(),
                    measures: true,
                    residuals: RefCell::default(),
                };
                let variants = solver.variants();
                let prefixes = &["x", "xt"][..variants];
                let pictures: Vec<Vec<f32>> = prefixes
                    .iter()
                    .flat_map(|prefix| ["a", "b"].map(|task| read(&inputs, &format!("{prefix}.{task}"))))
                    .collect();
                let batch = picture_batch(&pictures[..2], layer.windows.unwrap());
                let copies = pictures
                    .chunks_exact(2)
                    .map(|tasks| rows(&compute, &picture_batch(tasks, layer.windows.unwrap())));
                let x = Tensor::cat(copies.collect(), 0);
                let lanes = Lanes::new(&compute, &solver, &work.targeted, 1);
                let stack = Stack::new(&batch, variants);
                pollster::block_on(async {
                    lanes.convolve(&stack, [FROM, TO], &layer, x).await.unwrap();
                    solver.finish().await.unwrap();
                });
                let found = solver.found.borrow();
                let found = found["convolution"].delta.dense();
                let wanted = read(&expected, &format!("{key}/{name}.{features}"));
                let norm = |values: &[f32]| values.iter().map(|x| x * x).sum::<f32>().sqrt();
                let difference: Vec<f32> = found.iter().zip(&wanted).map(|(x, y)| x - y).collect();
                let error = norm(&difference) / norm(&wanted);
                assert!(error < 2e-5, "{key}, {name}, {features}: {error:.1e}");
            }
        }
    }
}
