//! What a merge promises whatever the adapters, and what it refuses.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::cast_possible_truncation,
    reason = "a test stops at what it did not expect"
)]

use std::cell::Cell;

use crate::support::{
    self, adapter, folder, golden_samples, goldens, json, relative_error, tensors, written_deltas,
};
use async_trait::async_trait;
use iteris_web::{
    compute::Compute,
    error::{Code, Error, Result},
    export::report::MergeReport,
    io::{DtypeChoice, Folder, MemorySink, MemorySource},
    jobs::{
        AdapterInput,
        merge::{MergeRequest, merge},
    },
    merge::options::{LeastSquares, MergeOptions, MethodName, OutputKind, Schedule},
    model::{self, batch::Sample},
    progress::{Observer, Progress, Silent},
};

/// A golden adapter with its own samples.
fn golden(name: &str) -> AdapterInput {
    let path = goldens().join("adapters").join(name);
    adapter(name, &path, golden_samples(&path), 1.0)
}

fn base() -> Folder {
    folder(&goldens().join("adapters/base"))
}

fn run(adapters: Vec<AdapterInput>, options: MergeOptions) -> Result<(MemorySink, MergeReport)> {
    support::run(Some(base()), adapters, options)
}

fn deltas(sink: &MemorySink) -> impl Fn(&str) -> Vec<f32> + use<> {
    written_deltas(sink.file("adapter_model.safetensors").unwrap())
}

fn modules(report: &MergeReport) -> Vec<String> {
    report.layers.iter().map(|layer| layer.module.clone()).collect()
}

fn linear() -> MergeOptions {
    MergeOptions {
        method: MethodName::Average,
        ..MergeOptions::default()
    }
}

#[test]
fn one_adapter_alone_returns_its_own_delta() {
    for target in [LeastSquares::Delta, LeastSquares::Full] {
        // The average of one adapter is that adapter.
        let (own, report) = run(vec![golden("all")], linear()).unwrap();
        let (found, solved) = run(
            vec![golden("all")],
            MergeOptions {
                target,
                ..MergeOptions::default()
            },
        )
        .unwrap();
        let (own, found) = (deltas(&own), deltas(&found));
        for (module, layer) in modules(&report).iter().zip(&solved.layers) {
            // The features of both lanes agree to f32 rounding, which the solve magnifies little here.
            let error = relative_error(&found(module), &own(module));
            assert!(error < 1e-4, "{target:?} {module}: {error:e}");
            let residual = layer.tasks[0].residual.unwrap();
            assert!(residual < 1e-8, "{module}: residual {residual:e}");
        }
    }
}

#[test]
fn two_equal_adapters_return_the_adapter() {
    let twin = |name: &str| AdapterInput {
        name: name.into(),
        ..golden("qv")
    };
    let (own, report) = run(vec![golden("qv")], linear()).unwrap();
    let (found, _) = run(vec![twin("first"), twin("second")], MergeOptions::default()).unwrap();
    let (own, found) = (deltas(&own), deltas(&found));
    for module in modules(&report) {
        let error = relative_error(&found(&module), &own(&module));
        assert!(error < 1e-4, "{module}: {error:e}");
    }
}

#[test]
fn the_order_of_adapters_does_not_matter() {
    for method in [
        MethodName::Iteris,
        MethodName::Average,
        MethodName::Linear,
        MethodName::TaskArithmetic,
    ] {
        let options = MergeOptions {
            method,
            ..MergeOptions::default()
        };
        let (one, report) = run(
            vec![golden("qv"), golden("all"), golden("dense")],
            options.clone(),
        )
        .unwrap();
        let (other, _) = run(vec![golden("dense"), golden("qv"), golden("all")], options).unwrap();
        let (one, other) = (deltas(&one), deltas(&other));
        for module in modules(&report) {
            let error = relative_error(&one(&module), &other(&module));
            // Sums in another order differ by rounding, magnified where only the ridge holds a direction.
            assert!(error < 2e-4, "{method:?} {module}: {error:e}");
        }
    }
}

#[test]
fn enough_passes_of_the_iteration_equal_a_sweep() {
    // A strong ridge, so that rounding is not magnified; eight levels: four a layer, two layers.
    let options = |schedule, max_iter| MergeOptions {
        schedule,
        max_iter,
        alpha1: 1e-3,
        alpha2: 1e-2,
        ..MergeOptions::default()
    };
    let adapters = || vec![golden("qv"), golden("all")];
    let (sweep, report) = run(adapters(), options(Schedule::Sweep, 1)).unwrap();
    let (iterate, _) = run(adapters(), options(Schedule::Iterate, 8)).unwrap();
    let (fewer, _) = run(adapters(), options(Schedule::Iterate, 2)).unwrap();
    let (sweep, iterate, fewer) = (deltas(&sweep), deltas(&iterate), deltas(&fewer));
    let error =
        |found: &dyn Fn(&str) -> Vec<f32>, module: &str| relative_error(&found(module), &sweep(module));
    let names = modules(&report);
    let worst = names
        .iter()
        .map(|module| error(&iterate, module))
        .fold(0.0, f64::max);
    assert!(worst < 1e-5, "{worst:e}");
    assert!(
        names.iter().any(|module| error(&fewer, module) > 1e-3),
        "two passes should not be enough"
    );
}

#[test]
fn the_same_inputs_give_the_same_bytes() {
    let adapters = || vec![golden("qv"), golden("all")];
    let (one, first) = run(adapters(), MergeOptions::default()).unwrap();
    let (two, second) = run(adapters(), MergeOptions::default()).unwrap();
    for (name, bytes) in one.files().iter().filter(|(name, _)| name != "merge_report.json") {
        assert_eq!(two.file(name), Some(bytes.as_slice()), "{name}");
    }
    assert_eq!(first.output, second.output);
    assert_eq!(first.base, second.base);
}

#[test]
fn a_device_gives_what_the_cpu_gives() {
    let adapters = || vec![golden("qv"), golden("all")];
    let (cpu, report) = run(adapters(), MergeOptions::default()).unwrap();
    let cpu = deltas(&cpu);
    for compute in support::devices().into_iter().skip(1) {
        let merged = support::run_on(Some(base()), &compute, adapters(), MergeOptions::default());
        let (found, on_device) = merged.unwrap();
        let found = deltas(&found);
        for module in modules(&report) {
            let error = relative_error(&found(&module), &cpu(&module));
            // Features are f32 on both, summed in another order: what that moves is magnified where they lie in a plane.
            assert!(error < 1e-4, "{} {module}: {error:e}", compute.name());
        }
        for (layer, expected) in on_device.layers.iter().zip(&report.layers) {
            for (task, expected) in layer.tasks.iter().zip(&expected.tasks) {
                match (task.residual, expected.residual) {
                    (Some(found), Some(expected)) => {
                        assert!((found - expected).abs() < 1e-4 * expected, "{}", layer.module);
                    }
                    (found, expected) => assert_eq!(found, expected, "{}", layer.module),
                }
            }
        }
    }
}

#[test]
fn a_truncated_adapter_is_the_best_of_its_rank() {
    let adapters = || vec![golden("qv"), golden("all")];
    let (exact, report) = run(adapters(), MergeOptions::default()).unwrap();
    let (cut, cut_report) = run(
        adapters(),
        MergeOptions {
            rank: Some(3),
            ..MergeOptions::default()
        },
    )
    .unwrap();
    let (exact, cut) = (deltas(&exact), deltas(&cut));
    let config = json(&goldens().join("adapters/base/config.json"));
    for (module, layer) in modules(&report).iter().zip(&cut_report.layers) {
        let (full, low) = (exact(module), cut(module));
        assert!(layer.rank <= 3, "{module}: rank {}", layer.rank);
        let kept = layer.energy_kept.unwrap();
        // What is left out is orthogonal to what is kept: 1 - kept of the squared norm.
        let error = relative_error(&low, &full).powi(2);
        assert!(
            (error - (1.0 - kept)).abs() < 1e-5,
            "{module}: error {error}, kept {kept}"
        );
        let wide = module.ends_with("output.dense") && !module.contains("attention");
        let columns = config[if wide { "intermediate_size" } else { "hidden_size" }]
            .as_u64()
            .unwrap() as usize;
        let dense = full.iter().map(|&x| f64::from(x));
        let svd =
            nalgebra::DMatrix::from_row_iterator(full.len() / columns, columns, dense).singular_values();
        let mut svd: Vec<f64> = svd.iter().copied().collect();
        svd.sort_by(|a, b| b.total_cmp(a));
        let best: f64 =
            svd.iter().take(3).map(|s| s * s).sum::<f64>() / svd.iter().map(|s| s * s).sum::<f64>();
        assert!(
            (kept - best).abs() < 1e-6,
            "{module}: kept {kept}, the best is {best}"
        );
    }
}

#[test]
fn a_merged_base_model_is_the_base_plus_the_merged_adapter() {
    let adapters = || vec![golden("qv"), golden("all")];
    let (as_adapter, report) = run(adapters(), MergeOptions::default()).unwrap();
    let delta = deltas(&as_adapter);
    let before = tensors(&goldens().join("adapters/base/model.safetensors"));
    for (dtype, tolerance) in [(DtypeChoice::F32, 1e-6), (DtypeChoice::F16, 1e-3)] {
        let options = MergeOptions {
            output: OutputKind::Base,
            dtype,
            ..MergeOptions::default()
        };
        let (as_base, _) = run(adapters(), options).unwrap();
        let directory = tempfile::tempdir().unwrap();
        for name in ["config.json", "model.safetensors"] {
            std::fs::write(directory.path().join(name), as_base.file(name).unwrap()).unwrap();
        }
        let after = tensors(&directory.path().join("model.safetensors"));
        assert_eq!(before.names(), after.names());
        for name in before.names() {
            let (shape, mut expected) = before.get(&name);
            if let Some(module) = modules(&report)
                .iter()
                .find(|module| name == format!("{module}.weight"))
            {
                expected.iter_mut().zip(delta(module)).for_each(|(w, d)| *w += d);
            }
            let (found_shape, found) = after.get(&name);
            assert_eq!(shape, found_shape);
            if expected.iter().any(|&x| x != 0.0) {
                let error = relative_error(&found, &expected);
                assert!(error < tolerance, "{name} as {dtype:?}: {error:e}");
            }
        }
        pollster::block_on(model::open(folder(directory.path()))).unwrap();
    }
}

#[test]
fn heads_stay_available_for_every_task() {
    let (sink, _) = run(vec![golden("qv"), golden("all")], MergeOptions::default()).unwrap();
    for (name, labels) in [("qv", 3), ("all", 5)] {
        let original = tensors(&goldens().join(format!("adapters/{name}/adapter_model.safetensors")));
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("head.safetensors");
        std::fs::write(&path, sink.file(&format!("heads/{name}.safetensors")).unwrap()).unwrap();
        let (shape, found) = tensors(&path).get("classifier.weight");
        assert_eq!(shape[0], labels);
        assert_eq!(found, original.get("base_model.model.classifier.weight").1);
    }
}

#[test]
fn a_merge_report_says_what_went_in_and_came_out() {
    let mut cut = golden("all");
    if let Some(samples) = cut.samples.as_mut() {
        samples.truncated = 2;
    }
    let (sink, report) = run(vec![golden("qv"), cut], MergeOptions::default()).unwrap();
    let json: serde_json::Value = serde_json::from_slice(sink.file("merge_report.json").unwrap()).unwrap();
    assert_eq!(json["options"]["alpha1"], 1e-5);
    assert_eq!(json["options"]["schedule"], "sweep");
    assert_eq!(json["adapters"][1]["samples"]["truncated"], 2);
    assert!(
        report.notes.iter().any(|note| note.contains("all: 2 of")),
        "{:?}",
        report.notes
    );
    for digest in &report.output {
        let file = sink.file(&digest.name).unwrap();
        assert_eq!(digest.bytes, file.len() as u64);
    }
    assert_eq!(json["layers"].as_array().unwrap().len(), 12);
    assert!(report.layers.iter().all(|layer| layer.condition.unwrap() > 1.0));
}

fn refused(adapters: Vec<AdapterInput>, options: MergeOptions, code: Code, part: &str) {
    let error: Error = run(adapters, options).err().unwrap();
    assert_eq!(error.code(), code, "{error}");
    assert!(error.to_string().contains(part), "{error}");
}

#[test]
fn bad_input_is_refused_with_its_code_and_place() {
    let defaults = MergeOptions::default;
    refused(vec![], defaults(), Code::NoAdapters, "no adapter");
    refused(
        vec![golden("qv"), golden("qv")],
        defaults(),
        Code::Duplicate,
        "\"qv\"",
    );
    refused(
        vec![AdapterInput {
            weight: -1.0,
            path: None,
            ..golden("qv")
        }],
        defaults(),
        Code::OptionInvalid,
        "weight -1",
    );
    refused(
        vec![AdapterInput {
            samples: None,
            pictures: None,
            ..golden("qv")
        }],
        defaults(),
        Code::SamplesInvalid,
        "\"qv\"",
    );
    refused(
        vec![golden("qv")],
        MergeOptions {
            alpha1: -1.0,
            ..defaults()
        },
        Code::OptionInvalid,
        "alpha1",
    );
    refused(
        vec![golden("qv")],
        MergeOptions {
            max_iter: 0,
            ..defaults()
        },
        Code::OptionInvalid,
        "maxIter",
    );
    refused(
        vec![golden("qv")],
        MergeOptions {
            rank: Some(0),
            ..defaults()
        },
        Code::OptionInvalid,
        "rank",
    );

    let mut strange = golden("qv");
    if let Some(samples) = strange.samples.as_mut() {
        samples.samples[1] = Sample::text(vec![1_000_000, 5]);
    }
    refused(
        vec![strange],
        defaults(),
        Code::SamplesInvalid,
        "sample 2: token id 1000000",
    );
    let mut long = golden("qv");
    if let Some(samples) = long.samples.as_mut() {
        samples.samples[0] = Sample::text(vec![5; 65]);
    }
    refused(vec![long], defaults(), Code::SamplesInvalid, "65 tokens");
    // Fewer tokens (four) than inputs of a layer: without a ridge nothing holds the rest.
    let mut short = golden("qv");
    if let Some(samples) = short.samples.as_mut() {
        samples.samples.truncate(1);
    }
    let no_ridge = MergeOptions {
        alpha1: 0.0,
        alpha2: 0.0,
        ..defaults()
    };
    refused(
        vec![short],
        no_ridge,
        Code::NotPositiveDefinite,
        "layer: encoder.layer.0",
    );
}

#[test]
fn an_adapter_for_another_base_is_refused_with_both_shapes() {
    let base = folder(&goldens().join("plain"));
    // The adapters' base is of another width.
    let request = MergeRequest {
        base: Some(base),
        base_path: None,
        device_why: None,
        adapters: vec![golden("qv")],
        options: MergeOptions::default(),
    };
    let error = pollster::block_on(merge(
        request,
        &Compute::cpu(),
        &Silent,
        &mut MemorySink::default(),
    ))
    .err()
    .unwrap();
    assert_eq!(error.code(), Code::ShapeMismatch);
    let text = error.to_string();
    assert!(
        text.contains("36 x 36") && text.contains("encoder.layer.0.attention.self.query"),
        "{text}"
    );
}

#[test]
fn a_base_that_is_not_there_or_not_known_is_refused() {
    let open = |files: Vec<(&str, &[u8])>| {
        let files = files
            .into_iter()
            .map(|(name, bytes)| std::rc::Rc::new(MemorySource::new(name, bytes.to_vec())) as _);
        pollster::block_on(model::open(Folder::new("base", files.collect()).unwrap()))
            .err()
            .unwrap()
    };
    assert_eq!(open(vec![]).code(), Code::Missing);
    assert_eq!(
        open(vec![("config.json", b"{}"), ("pytorch_model.bin", b"PK")]).code(),
        Code::PickleRefused
    );
    let weights = std::fs::read(goldens().join("plain/model.safetensors")).unwrap();
    let error = open(vec![
        ("config.json", br#"{"model_type": "mamba"}"#),
        ("model.safetensors", &weights),
    ]);
    assert_eq!(error.code(), Code::ModelUnsupported);
    assert!(error.to_string().contains("mamba"));
}

/// Cancels at the n-th call.
struct Impatient {
    left: Cell<usize>,
}

#[async_trait(?Send)]
impl Observer for Impatient {
    async fn progress(&self, _progress: Progress) -> Result<()> {
        match self.left.get() {
            0 => Err(Error::new(Code::Cancelled, "enough")),
            left => {
                self.left.set(left - 1);
                Ok(())
            }
        }
    }
}

#[test]
fn a_merge_can_be_cancelled_at_every_step_and_leaves_nothing() {
    let mut steps = 0;
    loop {
        let request = MergeRequest {
            base: Some(base()),
            base_path: None,
            device_why: None,
            adapters: vec![golden("qv"), golden("all")],
            options: MergeOptions::default(),
        };
        let mut sink = MemorySink::default();
        let observer = Impatient {
            left: Cell::new(steps),
        };
        match pollster::block_on(merge(request, &Compute::cpu(), &observer, &mut sink)) {
            Ok(_) => break,
            Err(error) => assert_eq!(error.code(), Code::Cancelled),
        }
        steps += 1;
    }
    // Every one of the twelve layers is a place to stop, and more.
    assert!(steps > 12, "{steps}");
}
