//! Every merge method gives the numbers of PEFT and of the papers' oracles (tests/goldens/methods.py), and keeps what
//! its definition promises whatever the adapters.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::cast_possible_truncation,
    reason = "a test stops at what it did not expect"
)]

use crate::support::{
    adapter, devices, folder, golden_samples, goldens, json, largest_difference, relative_error, run_on,
    tensors, written_deltas,
};
use iteris_web::{
    compute::Compute,
    error::{Code, Result},
    export::report::MergeReport,
    io::{Folder, MemorySink},
    jobs::AdapterInput,
    merge::{
        methods::METHODS,
        options::{LayerWeights, MergeOptions, MethodName, OutputKind, Ranks},
    },
};
use serde_json::Value;

/// More than any layer here has: a dense result loses nothing.
const WHOLE: Option<usize> = Some(1000);

fn golden(name: &str, weight: f64) -> AdapterInput {
    let path = goldens().join("adapters").join(name);
    adapter(name, &path, golden_samples(&path), weight)
}

fn base() -> Option<Folder> {
    Some(folder(&goldens().join("adapters/base")))
}

fn run(adapters: Vec<AdapterInput>, options: &MergeOptions) -> Result<(MemorySink, MergeReport)> {
    run_on(base(), &Compute::cpu(), adapters, options.clone())
}

fn deltas(sink: &MemorySink) -> impl Fn(&str) -> Vec<f32> + use<> {
    written_deltas(sink.file("adapter_model.safetensors").unwrap())
}

fn modules(report: &MergeReport) -> Vec<String> {
    report.layers.iter().map(|layer| layer.module.clone()).collect()
}

fn with(method: MethodName) -> MergeOptions {
    MergeOptions {
        method,
        ..MergeOptions::default()
    }
}

/// The method where it keeps every number and every direction.
fn undamped(method: MethodName) -> MergeOptions {
    MergeOptions {
        density: 1.0,
        svd_rank: WHOLE,
        rank: WHOLE,
        ..with(method)
    }
}

fn all_methods() -> impl Iterator<Item = MethodName> {
    METHODS.iter().map(|facts| facts.name)
}

fn needs_samples(method: MethodName) -> bool {
    method.find().needs_samples()
}

/// The deltas of a golden adapter alone, by the exact sum.
fn own(name: &str) -> (impl Fn(&str) -> Vec<f32>, Vec<String>) {
    let (sink, report) = run(vec![golden(name, 1.0)], &with(MethodName::Linear)).unwrap();
    (deltas(&sink), modules(&report))
}

fn times(factor: f64, values: &[f32]) -> Vec<f32> {
    values.iter().map(|&x| (factor * f64::from(x)) as f32).collect()
}

#[test]
fn every_method_gives_the_numbers_of_peft_or_of_its_oracle() {
    let root = goldens().join("methods");
    let expected = tensors(&root.join("cases.safetensors"));
    let mut seen = Vec::new();
    for case in json(&root.join("cases.json")).as_array().unwrap() {
        let (key, list) = (case["key"].as_str().unwrap(), |name: &str| {
            case[name].as_array().unwrap()
        });
        for name in list("methods") {
            let method: MethodName = serde_json::from_value(name.clone()).unwrap();
            seen.push(method);
            // The others use no device.
            let count = if needs_samples(method) { usize::MAX } else { 1 };
            for compute in devices().into_iter().take(count) {
                let adapters = list("adapters").iter().zip(list("weights"));
                let adapters = adapters
                    .map(|(name, weight)| golden(name.as_str().unwrap(), weight.as_f64().unwrap()))
                    .collect();
                let (sink, _) = run_on(base(), &compute, adapters, options_of(case, method)).unwrap();
                let found = deltas(&sink);
                let prefix = format!("{key}/");
                let mut worst = (0.0, String::new());
                for name in expected.names().iter().filter(|name| name.starts_with(&prefix)) {
                    let module = &name[prefix.len()..];
                    let error = relative_error(&found(module), &expected.get(name).1);
                    if error > worst.0 {
                        worst = (error, module.to_owned());
                    }
                }
                eprintln!(
                    "case {key} {method:?} on {}: worst relative error {:.1e} ({})",
                    compute.name(),
                    worst.0,
                    worst.1
                );
                assert!(
                    worst.0 < tolerance(method) && !worst.1.is_empty(),
                    "case {key} {method:?}: {worst:?}"
                );
            }
        }
    }
    for method in all_methods() {
        // These two have cases of their own in tests/merge_goldens.rs.
        let elsewhere = matches!(method, MethodName::Average | MethodName::TaskArithmetic);
        assert!(elsewhere || seen.contains(&method), "{method:?} has no case");
    }
}

/// Data-free methods round a few times to f32. RegMean's features are f32; IterIS's ridge magnifies that where it
/// alone holds a direction (tests/goldens/README.md).
fn tolerance(method: MethodName) -> f64 {
    match method {
        MethodName::Iteris => 1e-3,
        MethodName::Regmean | MethodName::RegmeanPlusPlus => 1e-5,
        _ => 1e-6,
    }
}

/// A case's options, with the names that JavaScript callers use.
fn options_of(case: &Value, method: MethodName) -> MergeOptions {
    let mut options = serde_json::Map::new();
    for (name, value) in case["options"].as_object().unwrap() {
        let mut words = name.split('_');
        let mut camel = words.next().unwrap().to_owned();
        for word in words {
            camel += &word[..1].to_uppercase();
            camel += &word[1..];
        }
        options.insert(camel, value.clone());
    }
    let mut options: MergeOptions = serde_json::from_value(options.into()).unwrap();
    options.method = method;
    // What the method itself does not cut is compared whole.
    if method.find().rank(&options, 1).is_none() {
        options.rank = WHOLE;
    }
    options
}

#[test]
fn one_adapter_of_weight_w_gives_w_times_its_delta() {
    for name in ["all", "qv"] {
        let (own, names) = own(name);
        for method in all_methods() {
            let (sink, _) = run(vec![golden(name, 1.7)], &undamped(method)).unwrap();
            let found = deltas(&sink);
            // Means, and least squares of one task, know no weight.
            let mean = needs_samples(method) || method == MethodName::Average;
            let weight = if mean { 1.0 } else { 1.7 };
            for module in &names {
                let error = relative_error(&found(module), &times(weight, &own(module)));
                let tolerance = if method == MethodName::Iteris { 1e-4 } else { 2e-6 };
                assert!(error < tolerance, "{method:?} {name} {module}: {error:e}");
            }
        }
    }
}

#[test]
fn weights_of_the_other_sign_give_the_other_sign() {
    let adapters = |sign: f64| {
        vec![
            golden("qv", sign),
            golden("all", -0.5 * sign),
            golden("dense", 2.0 * sign),
        ]
    };
    for method in all_methods().filter(|&method| !needs_samples(method)) {
        let options = with(method);
        let (plus, report) = run(adapters(1.0), &options).unwrap();
        let (minus, _) = run(adapters(-1.0), &options).unwrap();
        let (plus, minus) = (deltas(&plus), deltas(&minus));
        // The average divides by the sum of the weights.
        let sign = if method == MethodName::Average { 1.0 } else { -1.0 };
        for module in modules(&report) {
            let error = relative_error(&minus(&module), &times(sign, &plus(&module)));
            assert!(error < 2e-6, "{method:?} {module}: {error:e}");
        }
    }
}

#[test]
fn the_order_of_adapters_does_not_matter_to_any_method() {
    for method in all_methods() {
        let options = with(method);
        let (one, report) = run(
            vec![golden("qv", 1.0), golden("all", 0.5), golden("dense", 2.0)],
            &options,
        )
        .unwrap();
        let (other, _) = run(
            vec![golden("dense", 2.0), golden("qv", 1.0), golden("all", 0.5)],
            &options,
        )
        .unwrap();
        let (one, other) = (deltas(&one), deltas(&other));
        for module in modules(&report) {
            let error = relative_error(&one(&module), &other(&module));
            let tolerance = if needs_samples(method) { 2e-4 } else { 2e-6 };
            assert!(error < tolerance, "{method:?} {module}: {error:e}");
        }
    }
}

#[test]
fn linear_and_cat_are_the_exact_sum_of_the_deltas() {
    let (qv, _) = own("qv");
    let (all, names) = own("all");
    for method in [MethodName::Linear, MethodName::Cat] {
        let (sink, _) = run(vec![golden("qv", 0.75), golden("all", -2.0)], &with(method)).unwrap();
        let found = deltas(&sink);
        for module in &names {
            let mut sum = times(-2.0, &all(module));
            if module.ends_with("query") || module.ends_with("value") {
                sum.iter_mut().zip(qv(module)).for_each(|(x, y)| *x += 0.75 * y);
            }
            assert!(relative_error(&found(module), &sum) < 1e-6, "{method:?} {module}");
        }
    }
}

/// Columns of a module's weight in the golden base.
fn columns(module: &str) -> usize {
    let wide = module.ends_with("output.dense") && !module.contains("attention");
    if wide { 24 } else { 16 }
}

/// Singular values, largest first, of a dense SVD.
fn spectrum(module: &str, delta: &[f32]) -> Vec<f64> {
    let columns = columns(module);
    let numbers = delta.iter().map(|&x| f64::from(x));
    let dense = nalgebra::DMatrix::from_row_iterator(delta.len() / columns, columns, numbers);
    let mut values: Vec<f64> = dense.singular_values().iter().copied().collect();
    values.sort_by(|a, b| b.total_cmp(a));
    values
}

fn share_left(values: &[f64], rank: usize) -> f64 {
    let total: f64 = values.iter().map(|s| s * s).sum();
    values.iter().skip(rank).rev().map(|s| s * s).sum::<f64>() / total
}

#[test]
fn the_factored_svd_is_the_dense_svd() {
    let adapters = || vec![golden("qv", 1.0), golden("all", -0.5)];
    let (whole, report) = run(adapters(), &with(MethodName::Linear)).unwrap();
    let whole = deltas(&whole);
    for rank in [1, 3, 6] {
        let options = MergeOptions {
            svd_rank: Some(rank),
            ..with(MethodName::Svd)
        };
        let (cut, cut_report) = run(adapters(), &options).unwrap();
        let cut = deltas(&cut);
        for (module, layer) in modules(&report).iter().zip(&cut_report.layers) {
            let left = share_left(&spectrum(module, &whole(module)), rank).sqrt();
            // What the report says, what is true, and the best there is.
            let error = layer.error.unwrap();
            assert!((error - left).abs() < 1e-6, "{module}: {error} {left}");
            let found = relative_error(&cut(module), &whole(module));
            assert!((found - left).abs() < 1e-6, "{module}: {found} {left}");
        }
    }
}

#[test]
fn a_rank_asked_for_stays_within_what_the_method_cuts_to() {
    let adapters = || vec![golden("qv", 1.0), golden("all", 1.0)];
    for (rank, energy, expected) in [(Some(5), None, 2), (Some(1), None, 1), (None, Some(0.999), 2)] {
        for ranks in [Ranks::Auto, Ranks::Uniform, Ranks::PerLayer] {
            let options = MergeOptions {
                svd_rank: Some(2),
                rank,
                energy,
                ranks,
                ..with(MethodName::TiesSvd)
            };
            let (_, report) = run(adapters(), &options).unwrap();
            assert!(
                report.layers.iter().all(|layer| layer.rank == expected),
                "{rank:?} {energy:?}"
            );
        }
    }
}

#[test]
fn an_energy_is_kept_by_the_smallest_uniform_rank_and_by_each_layers_own() {
    for method in [MethodName::Linear, MethodName::Ties, MethodName::Knots] {
        let adapters = || vec![golden("qv", 1.0), golden("all", 1.0), golden("dense", 1.0)];
        let whole = MergeOptions {
            rank: WHOLE,
            ..with(method)
        };
        let (whole, report) = run(adapters(), &whole).unwrap();
        let whole = deltas(&whole);
        let spectra: Vec<(String, Vec<f64>)> = modules(&report)
            .into_iter()
            .map(|module| {
                let values = spectrum(&module, &whole(&module));
                (module, values)
            })
            .collect();
        for energy in [0.6, 0.9, 0.99] {
            let smallest = |values: &[f64]| {
                (1..=values.len())
                    .find(|&rank| share_left(values, rank) <= 1.0 - energy)
                    .unwrap()
            };
            let needed = spectra.iter().map(|(_, values)| smallest(values)).max().unwrap();
            for ranks in [Ranks::Auto, Ranks::Uniform, Ranks::PerLayer] {
                let options = MergeOptions {
                    energy: Some(energy),
                    ranks,
                    ..with(method)
                };
                let (sink, cut_report) = run(adapters(), &options).unwrap();
                let cut = deltas(&sink);
                let config: Value =
                    serde_json::from_slice(sink.file("adapter_config.json").unwrap()).unwrap();
                for ((module, values), layer) in spectra.iter().zip(&cut_report.layers) {
                    let own = smallest(values);
                    match ranks {
                        // A layer of a smaller rank has nothing more to keep.
                        Ranks::Auto | Ranks::Uniform => assert!(layer.rank <= needed, "{method:?} {module}"),
                        Ranks::PerLayer => assert_eq!(layer.rank, own, "{method:?} {module} {energy}"),
                    }
                    assert!(
                        layer.energy_kept.unwrap() >= energy - 1e-12,
                        "{method:?} {module}"
                    );
                    let found = relative_error(&cut(module), &whole(module));
                    let error = layer.error.unwrap();
                    assert!(
                        (found - error).abs() < 1e-6,
                        "{method:?} {module}: {found} {error}"
                    );
                }
                match ranks {
                    Ranks::Auto | Ranks::Uniform => {
                        assert_eq!(config["r"], needed, "{method:?} {energy}");
                        assert_eq!(config["rank_pattern"], serde_json::json!({}));
                    }
                    Ranks::PerLayer => assert!(
                        !config["rank_pattern"].as_object().unwrap().is_empty(),
                        "{method:?} {energy}"
                    ),
                }
            }
        }
    }
}

#[test]
fn a_merged_base_has_what_the_method_cuts_to() {
    let adapters = || vec![golden("qv", 1.0), golden("all", 1.0)];
    let options = MergeOptions {
        svd_rank: Some(2),
        ..with(MethodName::Svd)
    };
    let (as_adapter, report) = run(adapters(), &options).unwrap();
    let options = MergeOptions {
        output: OutputKind::Base,
        ..options
    };
    let (as_base, _) = run(adapters(), &options).unwrap();
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("model.safetensors");
    std::fs::write(&path, as_base.file("model.safetensors").unwrap()).unwrap();
    let (before, after) = (
        tensors(&goldens().join("adapters/base/model.safetensors")),
        tensors(&path),
    );
    let delta = deltas(&as_adapter);
    for module in modules(&report) {
        let key = format!("{module}.weight");
        let mut expected = before.get(&key).1;
        expected.iter_mut().zip(delta(&module)).for_each(|(w, d)| *w += d);
        assert!(
            largest_difference(&after.get(&key).1, &expected) < 1e-6,
            "{module}"
        );
    }
}

#[test]
fn weights_of_single_layers_stand_in_for_the_adapters_own() {
    let (qv, names) = own("qv");
    let (all, _) = own("all");
    let options = MergeOptions {
        layer_weights: LayerWeights(vec![
            ("encoder.layer.0.*".into(), vec![1.0, 0.5]),
            ("query".into(), vec![0.0, -3.0]),
        ]),
        ..with(MethodName::Linear)
    };
    let (sink, _) = run(vec![golden("qv", 2.0), golden("all", 4.0)], &options).unwrap();
    let found = deltas(&sink);
    for module in &names {
        // The first pattern that matches; else the adapters' weights.
        let [a, b] = match (module.contains("layer.0"), module.ends_with("query")) {
            (true, _) => [1.0, 0.5],
            (false, true) => [0.0, -3.0],
            (false, false) => [2.0, 4.0],
        };
        let mut sum = times(a, &qv(module));
        sum.iter_mut()
            .zip(times(b, &all(module)))
            .for_each(|(x, y)| *x += y);
        assert!(relative_error(&found(module), &sum) < 1e-6, "{module}");
    }
}

#[test]
fn methods_that_need_no_samples_need_no_base_either() {
    for method in all_methods().filter(|&method| !needs_samples(method)) {
        let adapters = || vec![golden("qv", 1.0), golden("all", 0.5)];
        let options = undamped(method);
        let (with_base, report) = run(adapters(), &options).unwrap();
        let (without, _) = run_on(None, &Compute::cpu(), adapters(), options).unwrap();
        // Which other layers an end of a name would select is not known, so whole names are written.
        let config: Value = serde_json::from_slice(without.file("adapter_config.json").unwrap()).unwrap();
        let targets: Vec<String> = serde_json::from_value(config["target_modules"].clone()).unwrap();
        let mut expected: Vec<String> = modules(&report)
            .iter()
            .map(|name| format!("bert.{name}"))
            .collect();
        expected.sort();
        assert_eq!(targets, expected, "{method:?}");
        let (with_base, without) = (deltas(&with_base), deltas(&without));
        for module in modules(&report) {
            assert_eq!(with_base(&module), without(&module), "{method:?} {module}");
        }
    }
}

#[test]
fn dare_draws_by_its_seed() {
    let numbers = |seed| {
        let options = MergeOptions {
            seed,
            rank: WHOLE,
            ..with(MethodName::DareLinear)
        };
        let (sink, _) = run(vec![golden("qv", 1.0)], &options).unwrap();
        deltas(&sink)("encoder.layer.0.attention.self.query")
    };
    assert_eq!(numbers(3), numbers(3));
    assert!(relative_error(&numbers(3), &numbers(4)) > 0.1);
}

#[test]
fn regmean_averages_the_columns_of_an_input_that_no_sample_reaches() {
    // The first layer's last norm writes a zero into one place, whatever it reads.
    const DEAD: usize = 5;
    let directory = tempfile::tempdir().unwrap();
    let from = goldens().join("adapters/base");
    std::fs::copy(from.join("config.json"), directory.path().join("config.json")).unwrap();
    let mut bytes = std::fs::read(from.join("model.safetensors")).unwrap();
    let start = 8 + u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let header: Value = serde_json::from_slice(&bytes[8..start]).unwrap();
    for part in ["weight", "bias"] {
        let info = &header[format!("encoder.layer.0.output.LayerNorm.{part}")];
        assert_eq!(info["dtype"], "F32");
        let offset = start + info["data_offsets"][0].as_u64().unwrap() as usize + 4 * DEAD;
        bytes[offset..offset + 4].fill(0);
    }
    std::fs::write(directory.path().join("model.safetensors"), bytes).unwrap();

    let module = "encoder.layer.1.attention.self.query";
    let (qv, all) = (own("qv").0(module), own("all").0(module));
    for method in [MethodName::Regmean, MethodName::RegmeanPlusPlus] {
        let base = Some(folder(directory.path()));
        let adapters = vec![golden("qv", 1.0), golden("all", 3.0)];
        let (sink, _) = run_on(base, &Compute::cpu(), adapters, with(method)).unwrap();
        let found = deltas(&sink)(module);
        let column = |delta: &[f32]| -> Vec<f32> { delta.iter().skip(DEAD).step_by(16).copied().collect() };
        let mean: Vec<f32> = column(&qv)
            .iter()
            .zip(column(&all))
            .map(|(x, y)| (x + 3.0 * y) / 4.0)
            .collect();
        assert!(relative_error(&column(&found), &mean) < 1e-5, "{method:?}");
        // And no other column is.
        let average: Vec<f32> = qv.iter().zip(&all).map(|(x, y)| (x + 3.0 * y) / 4.0).collect();
        assert!(relative_error(&found, &average) > 1e-2, "{method:?}");
    }
}

#[test]
fn weights_and_shares_that_mean_nothing_are_refused() {
    let refused = |adapters: Vec<AdapterInput>, options: MergeOptions, part: &str| {
        let error = run(adapters, &options).err().unwrap();
        assert_eq!(error.code(), Code::OptionInvalid, "{error}");
        assert!(error.to_string().contains(part), "{error}");
    };
    let pair = |a: f64, b: f64| vec![golden("qv", a), golden("all", b)];
    refused(pair(1.0, -1.0), with(MethodName::Average), "no average");
    refused(pair(1.0, 0.0), with(MethodName::Linear), "weight 0");
    for method in [
        MethodName::Iteris,
        MethodName::Regmean,
        MethodName::RegmeanPlusPlus,
    ] {
        refused(pair(1.0, -1.0), with(method), "not positive");
        let layer_weights = LayerWeights(vec![("query".into(), vec![1.0, 0.0])]);
        let options = MergeOptions {
            layer_weights,
            ..with(method)
        };
        refused(pair(1.0, 1.0), options, "layerWeights of \"query\"");
    }
    for (weights, part) in [
        (vec![1.0], "1 weights for 2 adapters"),
        (vec![1.0, f64::NAN], "NaN"),
    ] {
        let options = MergeOptions {
            layer_weights: LayerWeights(vec![("query".into(), weights)]),
            ..with(MethodName::Linear)
        };
        refused(pair(1.0, 1.0), options, part);
    }
    let pattern = MergeOptions {
        layer_weights: LayerWeights(vec![("(?=query)".into(), vec![1.0, 1.0])]),
        ..with(MethodName::Linear)
    };
    refused(pair(1.0, 1.0), pattern, "layerWeights");
    for density in [0.0, -0.5, 1.5, f64::NAN] {
        let options = MergeOptions {
            density,
            ..with(MethodName::Ties)
        };
        refused(pair(1.0, 1.0), options, "density");
    }
}
