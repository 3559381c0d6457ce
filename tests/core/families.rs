//! Every language family equals transformers on a tiny model of the real architecture: hidden states, what
//! each layer reads under an adapter, logits, and merged deltas.
//!
//! Cases are the folders of `tests/goldens/data/families`; a case whose family is not there fails. While
//! working on a family, `FAMILY=llama,mistral cargo test --test core families -- --nocapture` runs those alone, and
//! `FAMILIES=folder` takes cases from another folder.
//! Two numbers are printed and checked of each matrix: ||x - y|| / ||y||, and the largest |x - y| as a part
//! of the largest |y|.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test stops at what it did not expect"
)]

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    rc::Rc,
};

use crate::support::{
    Tensors, devices, folder, goldens, json, largest_difference, relative_error, tensors, written_deltas,
};
use async_trait::async_trait;
use iteris_web::{
    adapter::Adapter,
    binding::{Base, ReadAdapter, lanes::lane_deltas},
    calibrate::{DecoderInputs, Given, Positions, TaskSamples},
    compute::{Compute, Features},
    delta::DeviceDelta,
    error::{Error, Result},
    generate::{GenerateContext, PromptedTask, Sampling, generate, logits},
    io::{Folder, MemorySink},
    jobs::{
        AdapterInput,
        logits::logits as model_logits,
        merge::{MergeRequest, merge},
    },
    merge::options::{MergeOptions, MethodName, Schedule},
    model::{
        self, DECODER, Kind, Model, Pass, Steps, TEXT,
        batch::{Batch, Padding, Sample},
        lanes::{Group, Hook},
    },
    progress::Silent,
};
use serde_json::Value;

/// The goldens are computed in f64; transformers in f32 is within some 1e-6 of them.
const TOLERANCE: f64 = 1e-4;
/// Of merged deltas: see tests/goldens/README.md, rounding of features is magnified where only the ridge
/// holds a direction.
const MERGED_TOLERANCE: f64 = 1e-3;
/// Rows of a micro-batch: all samples in one, and a few in each.
const ALL_ROWS: usize = 1_000_000;
const FEW_ROWS: usize = 20;

/// One folder of goldens.
struct Case {
    name: String,
    path: PathBuf,
    inputs: Value,
}

impl Case {
    fn all() -> Vec<Self> {
        let root = std::env::var_os("FAMILIES").map_or_else(|| goldens().join("families"), PathBuf::from);
        let only = std::env::var("FAMILY").ok();
        let wanted = |name: &str| {
            only.as_ref()
                .is_none_or(|only| only.split(',').any(|one| one == name))
        };
        let mut cases: Vec<Self> = std::fs::read_dir(&root)
            .unwrap_or_else(|error| panic!("{}: {error}", root.display()))
            .map(|entry| entry.unwrap())
            .filter(|entry| entry.path().join("inputs.json").is_file())
            .map(|entry| Self {
                name: entry.file_name().to_string_lossy().into_owned(),
                inputs: json(&entry.path().join("inputs.json")),
                path: entry.path(),
            })
            .filter(|case| wanted(&case.name))
            .collect();
        cases.sort_by(|a, b| a.name.cmp(&b.name));
        assert!(!cases.is_empty(), "no cases in {}", root.display());
        cases
    }

    /// Cases that have the given file: those of generation settings have answers only.
    fn with(file: &str) -> Vec<Self> {
        let mut cases = Self::all();
        cases.retain(|case| case.path.join(file).is_file());
        cases
    }

    fn base(&self) -> PathBuf {
        self.path.join("base")
    }

    fn model(&self) -> Result<Model> {
        pollster::block_on(model::open(folder(&self.base())))
    }

    fn expected(&self) -> Tensors {
        tensors(&self.path.join("expected.safetensors"))
    }

    fn ids(&self, list: &str, key: &str) -> Vec<Vec<u32>> {
        serde_json::from_value(self.inputs[list][key].clone())
            .unwrap_or_else(|error| panic!("{}: inputs.json: {list}.{key}: {error}", self.name))
    }

    /// A task's samples: an encoder-decoder reads the start token and the task's own answers but their last
    /// token.
    fn samples(&self, task: &str, model: &Model) -> Vec<Sample> {
        let mut samples: Vec<Sample> = self.ids("samples", task).into_iter().map(Sample::text).collect();
        if model.family.facts().kind == Kind::EncoderDecoder {
            for (sample, answer) in samples.iter_mut().zip(self.ids("targets", task)) {
                let mut read = vec![model.generation.decoder_start.unwrap()];
                read.extend(&answer[..answer.len() - 1]);
                *sample = sample.clone().and_tokens(read);
            }
        }
        samples
    }
}

/// What a claim found, case by case: printed as a table, with what is beyond the tolerance at its end.
struct Findings {
    claim: &'static str,
    tolerance: f64,
    wrong: Vec<String>,
}

/// The largest error of one case on one device.
#[derive(Default)]
struct Worst {
    relative: (f64, String),
    largest: (f64, String),
    compared: usize,
}

impl Worst {
    fn compare(&mut self, what: &str, found: &[f32], wanted: &[f32]) {
        self.compared += 1;
        let infinite = |of: &str| (f64::INFINITY, format!("{what}: {of}"));
        if found.len() != wanted.len() {
            self.relative = infinite(&format!("{} numbers, not {}", found.len(), wanted.len()));
            return;
        }
        let scale = wanted.iter().fold(0.0f32, |most, x| most.max(x.abs()));
        for (worst, error) in [
            (&mut self.relative, relative_error(found, wanted)),
            (
                &mut self.largest,
                largest_difference(found, wanted) / f64::from(scale),
            ),
        ] {
            if error.is_nan() {
                *worst = infinite("not a number");
            } else if error > worst.0 || worst.1.is_empty() {
                *worst = (error, what.to_owned());
            }
        }
    }
}

impl Findings {
    const fn new(claim: &'static str, tolerance: f64) -> Self {
        Self {
            claim,
            tolerance,
            wrong: Vec::new(),
        }
    }

    /// Runs one check of a case on one device; `check` compares what it finds.
    fn of(&mut self, case: &str, compute: &Compute, check: impl FnOnce(&mut Worst) -> Result<()>) {
        let mut worst = Worst::default();
        let (claim, device) = (self.claim, compute.name());
        if let Err(error) = check(&mut worst) {
            eprintln!("{claim:28} {case:18} {device:8} {}", error.code().as_str());
            self.wrong.push(format!("{case} on {device}: {error}"));
            return;
        }
        let Worst {
            relative,
            largest,
            compared,
        } = worst;
        eprintln!(
            "{claim:28} {case:18} {device:8} {compared:4} matrices   relative {:.1e} {:34} largest {:.1e} {}",
            relative.0, relative.1, largest.0, largest.1
        );
        if compared == 0 {
            self.wrong
                .push(format!("{case} on {device}: nothing was compared"));
        }
        for (what, (error, at)) in [("relative error", relative), ("largest difference", largest)] {
            if error.is_nan() || error > self.tolerance {
                self.wrong
                    .push(format!("{case} on {device}: {what} {error:.2e} at {at}"));
            }
        }
    }

    fn demand(self) {
        assert!(
            self.wrong.is_empty(),
            "{}:\n  {}",
            self.claim,
            self.wrong.join("\n  ")
        );
    }
}

/// One lane under one adapter (or none), whose linear layers' inputs are kept.
struct Capture<'a> {
    compute: &'a Compute,
    deltas: BTreeMap<String, Rc<DeviceDelta>>,
    /// Rows that are wanted, of each kind of rows by how many there are; all of kinds that are not here.
    wanted: BTreeMap<usize, Vec<usize>>,
    inputs: RefCell<BTreeMap<String, Vec<f32>>>,
}

impl<'a> Capture<'a> {
    fn new(compute: &'a Compute, deltas: BTreeMap<String, Rc<DeviceDelta>>) -> Self {
        Self {
            compute,
            deltas,
            wanted: BTreeMap::new(),
            inputs: RefCell::default(),
        }
    }
}

#[async_trait(?Send)]
impl Hook for Capture<'_> {
    fn variants(&self) -> usize {
        1
    }

    fn tasks(&self) -> usize {
        1
    }

    fn delta(&self, layer: &str, _task: usize, _variant: usize) -> Option<Rc<DeviceDelta>> {
        self.deltas.get(layer).cloned()
    }

    async fn collect(&self, group: &Group<'_>) -> Result<()> {
        let lane: Vec<usize> = group.lane(0, 0).collect();
        let rows = self.wanted.get(&lane.len()).unwrap_or(&lane);
        let input = match group.input.gather(rows) {
            Features::Host { data, .. } => data,
            Features::Device(tensor) => self.compute.read(tensor).await?,
        };
        for layer in group.layers {
            let twice = self.inputs.borrow_mut().insert(layer.name.clone(), input.clone());
            assert!(twice.is_none(), "{} ran twice", layer.name);
        }
        Ok(())
    }
}

async fn adapter_on(
    base: Folder,
    path: &Path,
    compute: &Compute,
) -> Result<BTreeMap<String, Rc<DeviceDelta>>> {
    let base = Base::open(Some(base)).await?;
    let adapter = ReadAdapter::alone(Adapter::read("adapter", &folder(path)).await?);
    Ok(lane_deltas(&base, &adapter)
        .await?
        .into_iter()
        .map(|(name, delta)| (name, Rc::new(delta.to_device(compute))))
        .collect())
}

/// The rows of the tokens and of the targets after `until` blocks, sample after sample without padding.
async fn states(
    compute: &Compute,
    model: &Model,
    batches: &[Batch],
    until: usize,
    hook: &Capture<'_>,
) -> Result<(Vec<f32>, Vec<f32>)> {
    let targeted: BTreeSet<String> = hook.deltas.keys().cloned().collect();
    let steps = Steps::new("forward", until);
    let pass = Pass {
        compute,
        targeted: &targeted,
        keep_host: false,
        until,
        heads: None,
        observer: &Silent,
        steps: &steps,
    };
    let mut tokens: BTreeMap<usize, Vec<f32>> = BTreeMap::new();
    let mut targets = tokens.clone();
    for (batch, (state, _)) in batches.iter().zip(model.run(&pass, batches, hook).await?) {
        // An encoder's pooled rows take the place of its tokens'.
        let output = model.family.output();
        let first = if state.get(TEXT).is_some() { TEXT } else { output };
        let second = (model.family.encoder_blocks() > 0).then_some(DECODER);
        for (stream, by_sample) in [(Some(first), &mut tokens), (second, &mut targets)] {
            let Some(stream) = stream else { continue };
            let Some(state) = state.get(stream) else { continue };
            let [_, width] = state.dims();
            let data = compute.read(state).await?;
            for (place, sequence) in batch.places.iter().zip(&batch.stream(stream).sequences) {
                let rows = sequence.start..sequence.start + sequence.attended;
                by_sample.insert(place.sample, data[rows.start * width..rows.end * width].to_vec());
            }
        }
    }
    let packed = |rows: BTreeMap<usize, Vec<f32>>| rows.into_values().collect::<Vec<_>>().concat();
    Ok((packed(tokens), packed(targets)))
}

fn batches(model: &Model, samples: &[Sample], padding: Padding, most_rows: usize) -> Result<Vec<Batch>> {
    model.micro_batches(&[samples], padding, most_rows)
}

/// Compares the states after every block with those of the goldens.
async fn compare_states(
    compute: &Compute,
    case: &Case,
    (padding, most_rows): (Padding, usize),
    worst: &mut Worst,
) -> Result<()> {
    let (model, expected) = (case.model()?, case.expected());
    let batches = batches(&model, &case.samples("b", &model), padding, most_rows)?;
    let mut seen = 0;
    for until in 0..=model.family.blocks() {
        let (tokens, targets) = states(
            compute,
            &model,
            &batches,
            until,
            &Capture::new(compute, BTreeMap::new()),
        )
        .await?;
        let encoding = until <= model.family.encoder_blocks();
        let sides = match model.family.facts().kind {
            Kind::EncoderDecoder => vec![
                (encoding, format!("encoder.hidden.{until}"), tokens),
                (
                    !encoding || until == 0,
                    format!("decoder.hidden.{until}"),
                    targets,
                ),
            ],
            Kind::Encoder
            | Kind::Decoder
            | Kind::ImageEncoder
            | Kind::ImageTextEncoder
            | Kind::ImageToText
            | Kind::Weights => {
                vec![(true, format!("hidden.{until}"), tokens)]
            }
        };
        for (_, name, found) in sides.into_iter().filter(|(here, name, _)| {
            *here && (expected.has(name) || model.family.facts().kind != Kind::Encoder)
        }) {
            worst.compare(&name, &found, &expected.get(&name).1);
            seen += 1;
        }
    }
    let names = expected.names();
    let wanted = names.iter().filter(|name| name.contains("hidden.")).count();
    if seen != wanted {
        worst.compare(
            &format!("{seen} states, where the golden has {wanted}"),
            &[],
            &[0.0],
        );
    }
    Ok(())
}

#[test]
fn hidden_states_after_every_block_equal_transformers() {
    let mut findings = Findings::new("hidden states", TOLERANCE);
    for case in Case::with("expected.safetensors") {
        for compute in devices() {
            findings.of(&case.name, &compute, |worst| {
                [ALL_ROWS, FEW_ROWS].into_iter().try_for_each(|most_rows| {
                    pollster::block_on(compare_states(
                        &compute,
                        &case,
                        (Padding::Exclude, most_rows),
                        worst,
                    ))
                })
            });
        }
    }
    findings.demand();
}

#[test]
fn padding_rows_change_no_other_row() {
    let mut findings = Findings::new("hidden states with padding", TOLERANCE);
    for case in Case::with("expected.safetensors") {
        for compute in devices() {
            findings.of(&case.name, &compute, |worst| {
                pollster::block_on(compare_states(
                    &compute,
                    &case,
                    (Padding::Include, ALL_ROWS),
                    worst,
                ))
            });
        }
    }
    findings.demand();
}

/// What every targeted layer reads under adapter b on b's samples, against the goldens.
async fn compare_features(compute: &Compute, case: &Case, padding: Padding, worst: &mut Worst) -> Result<()> {
    let (model, expected) = (case.model()?, case.expected());
    let batches = batches(&model, &case.samples("b", &model), padding, ALL_ROWS)?;
    let deltas = adapter_on(folder(&case.base()), &case.path.join("b"), compute).await?;
    let targeted: Vec<String> = deltas.keys().cloned().collect();
    let mut hook = Capture::new(compute, deltas);
    for stream in batches[0].streams() {
        let real = stream.sequences.iter();
        let real = real.flat_map(|s| s.start..s.start + s.attended).collect();
        hook.wanted.insert(stream.rows, real);
    }
    let until = model.family.blocks();
    states(compute, &model, &batches, until, &hook).await?;
    let inputs = hook.inputs.into_inner();
    let wanted: BTreeSet<String> = expected
        .names()
        .iter()
        .filter_map(|name| Some(name.strip_prefix("features.")?.to_owned()))
        .collect();
    assert_eq!(
        targeted.iter().collect::<BTreeSet<_>>(),
        wanted.iter().collect(),
        "{}: the adapter's modules are not the golden's",
        case.name
    );
    for module in &wanted {
        match inputs.get(module) {
            Some(found) => worst.compare(module, found, &expected.get(&format!("features.{module}")).1),
            None => worst.compare(&format!("{module}, which never ran,"), &[], &[0.0]),
        }
    }
    Ok(())
}

#[test]
fn what_every_layer_reads_under_an_adapter_equals_transformers() {
    let mut findings = Findings::new("features under b", TOLERANCE);
    for case in Case::with("expected.safetensors") {
        for compute in devices() {
            findings.of(&case.name, &compute, |worst| {
                pollster::block_on(compare_features(&compute, &case, Padding::Exclude, worst))
            });
        }
    }
    findings.demand();
}

#[test]
fn a_decoder_reads_the_same_at_real_positions_beside_padding() {
    let mut findings = Findings::new("features with padding", TOLERANCE);
    for case in Case::with("expected.safetensors") {
        // Tokens and targets of an encoder-decoder are told apart by their number, which padding makes equal.
        if case.inputs["kind"] == "encoder-decoder" {
            continue;
        }
        for compute in devices() {
            findings.of(&case.name, &compute, |worst| {
                pollster::block_on(compare_features(&compute, &case, Padding::Include, worst))
            });
        }
    }
    findings.demand();
}

/// The modules of a family are those that transformers has, in the order in which it calls them.
#[test]
fn modules_are_in_the_order_of_the_forward_pass() {
    let mut wrong = Vec::new();
    for case in Case::with("expected.safetensors") {
        let wanted: Vec<String> = serde_json::from_value(case.inputs["modules"].clone()).unwrap();
        match case.model() {
            Err(error) => wrong.push(format!("{}: {error}", case.name)),
            Ok(model) => {
                let found: Vec<&str> = model
                    .family
                    .modules()
                    .iter()
                    .map(|module| module.name.as_str())
                    .filter(|name| wanted.iter().any(|one| one == name))
                    .collect();
                if found != wanted {
                    wrong.push(format!("{}: {found:?}, not {wanted:?}", case.name));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

const fn generation<'a>(model: &'a Model, compute: &'a Compute) -> GenerateContext<'a> {
    GenerateContext {
        model,
        known_as: 0,
        compute,
        keep_host: None,
        observer: &Silent,
    }
}

/// The deltas of a variant of the goldens: `base` or an adapter's name.
async fn variant(case: &Case, name: &str, compute: &Compute) -> Result<BTreeMap<String, Rc<DeviceDelta>>> {
    if name == "base" {
        return Ok(BTreeMap::new());
    }
    adapter_on(folder(&case.base()), &case.path.join(name), compute).await
}

#[test]
fn logits_of_base_and_adapters_equal_transformers() {
    let mut findings = Findings::new("logits", TOLERANCE);
    for case in Case::with("expected.safetensors") {
        let expected = case.expected();
        let variants: Vec<String> = expected
            .names()
            .iter()
            .filter_map(|name| Some(name.strip_prefix("logits.")?.to_owned()))
            .collect();
        assert!(
            !variants.is_empty() || case.inputs["kind"] == "encoder",
            "{}: no logits",
            case.name
        );
        for compute in devices().into_iter().filter(|_| !variants.is_empty()) {
            findings.of(&case.name, &compute, |worst| {
                let model = case.model()?;
                let samples = case.samples("b", &model);
                for name in &variants {
                    let (shape, wanted) = expected.get(&format!("logits.{name}"));
                    let (vocabulary, found) = pollster::block_on(async {
                        let deltas = variant(&case, name, &compute).await?;
                        logits(&generation(&model, &compute), &deltas, &samples).await
                    })?;
                    assert_eq!(vocabulary, shape[1], "{}: vocabulary", case.name);
                    worst.compare(name, &found, &wanted);
                }
                Ok(())
            });
        }
    }
    findings.demand();
}

/// All variants answer side by side, as lanes of one generation.
#[test]
fn greedy_answers_are_those_of_transformers_token_for_token() {
    let mut wrong = Vec::new();
    let mut compared = 0;
    for case in Case::all() {
        let Some(generated) = case.inputs["generated"].as_object() else {
            assert_eq!(case.inputs["kind"], "encoder", "{}: no answers", case.name);
            continue;
        };
        let prompts: Vec<Vec<u32>> = serde_json::from_value(case.inputs["prompts"].clone()).unwrap();
        let most = serde_json::from_value(case.inputs["max_new_tokens"].clone()).unwrap();
        for compute in devices() {
            let found = pollster::block_on(async {
                let model = model::open(folder(&case.base())).await?;
                let mut deltas = Vec::new();
                for name in generated.keys() {
                    deltas.push(variant(&case, name, &compute).await?);
                }
                let prompted_tasks: Vec<PromptedTask<'_>> = generated
                    .keys()
                    .zip(&deltas)
                    .map(|(name, deltas)| PromptedTask {
                        name,
                        deltas,
                        speaker: 0,
                        prompts: prompts.iter().cloned().map(Sample::text).collect(),
                    })
                    .collect();
                generate(
                    &generation(&model, &compute),
                    &prompted_tasks,
                    &Sampling::greedy(most),
                )
                .await
            });
            let found = match found {
                Ok(found) => found,
                Err(error) => {
                    wrong.push(format!("{} on {}: {error}", case.name, compute.name()));
                    continue;
                }
            };
            for ((name, wanted), found) in generated.iter().zip(found) {
                let wanted: Vec<Vec<u32>> = serde_json::from_value(wanted.clone()).unwrap();
                for (index, (wanted, found)) in wanted.iter().zip(&found).enumerate() {
                    compared += 1;
                    if *wanted != found.ids {
                        wrong.push(format!(
                            "{} {name} on {}, prompt {index}: {:?}, not {wanted:?}",
                            case.name,
                            compute.name(),
                            found.ids
                        ));
                    }
                }
            }
        }
    }
    eprintln!(
        "answers: {compared} compared, {} wrong or not written",
        wrong.len()
    );
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// A task with its samples under the named variant of the goldens, as a caller would give them.
fn task(case: &Case, variant: &str, name: &str) -> AdapterInput {
    let mut prompts = case.ids("samples", name);
    let mut answers = Vec::new();
    if variant == "completion" {
        let given = case.inputs["completion_samples"][name].as_array().unwrap();
        let ids = |key: &str| -> Vec<Vec<u32>> {
            given
                .iter()
                .map(|sample| serde_json::from_value(sample[key].clone()).unwrap())
                .collect()
        };
        prompts = ids("prompt");
        answers = ids("completion").into_iter().map(Given::Tokens).collect();
    }
    AdapterInput {
        name: name.to_owned(),
        folder: folder(&case.path.join(name)),
        samples: Some(TaskSamples {
            samples: prompts.into_iter().map(Sample::text).collect(),
            answers,
            ..TaskSamples::default()
        }),
        pictures: None,
        weight: 1.0,
        path: None,
    }
}

/// An encoder-decoder's adapters write the answers to their samples themselves, as those of the golden did.
fn merged_by(case: &Case, variant: &str, compute: &Compute) -> Result<impl Fn(&str) -> Vec<f32> + use<>> {
    let mut options = MergeOptions {
        max_iter: 3,
        max_new_tokens: serde_json::from_value(case.inputs["max_new_tokens"].clone()).unwrap(),
        ..MergeOptions::default()
    };
    match variant {
        "sweep" => {}
        "iterate3" => options.schedule = Schedule::Iterate,
        "start" => options.decoder_inputs = DecoderInputs::Start,
        "completion" => options.positions = Positions::Completion,
        _ => panic!("{}: a merge called {variant}", case.name),
    }
    let request = MergeRequest {
        base: Some(folder(&case.base())),
        base_path: None,
        device_why: None,
        adapters: ["a", "b"].map(|name| task(case, variant, name)).into(),
        options,
    };
    let mut sink = MemorySink::default();
    pollster::block_on(merge(request, compute, &Silent, &mut sink))?;
    Ok(written_deltas(sink.file("adapter_model.safetensors").unwrap()))
}

#[test]
fn merged_deltas_equal_the_oracle() {
    let mut findings = Findings::new("merged deltas", MERGED_TOLERANCE);
    for case in Case::with("merged.safetensors") {
        let expected = tensors(&case.path.join("merged.safetensors"));
        let names = expected.names();
        let variants: BTreeSet<&str> = names.iter().filter_map(|name| name.split('.').next()).collect();
        for compute in devices() {
            for variant in &variants {
                let label = format!("{} {variant}", case.name);
                findings.of(&label, &compute, |worst| {
                    let found = merged_by(&case, variant, &compute)?;
                    let prefix = format!("{variant}.");
                    for name in names.iter().filter(|name| name.starts_with(&prefix)) {
                        let module = &name[prefix.len()..];
                        worst.compare(module, &found(module), &expected.get(name).1);
                    }
                    Ok(())
                });
            }
        }
    }
    findings.demand();
}

#[test]
fn merges_over_weights_that_are_read_anew_are_those_over_weights_that_stay_bit_for_bit() {
    let mut compared = 0;
    for case in Case::with("merged.safetensors") {
        let names = tensors(&case.path.join("merged.safetensors")).names();
        let modules = case.model().unwrap().family.modules().to_vec();
        let all: usize = modules.iter().map(|module| 4 * module.d_in * module.d_out).sum();
        for variant in ["sweep", "iterate3"] {
            let modules: Vec<&str> = names
                .iter()
                .filter_map(|name| name.strip_prefix(variant)?.strip_prefix('.'))
                .collect();
            if modules.is_empty() {
                continue;
            }
            let stays = merged_by(&case, variant, &Compute::cpu()).unwrap();
            for bound in [0, all - 1] {
                let anew = merged_by(&case, variant, &Compute::cpu().keeping(bound)).unwrap();
                for module in &modules {
                    let bits =
                        |numbers: Vec<f32>| -> Vec<u32> { numbers.iter().map(|x| x.to_bits()).collect() };
                    assert!(
                        bits(stays(module)) == bits(anew(module)),
                        "{} {variant} {module}",
                        case.name
                    );
                    compared += 1;
                }
            }
        }
    }
    assert!(compared > 100, "{compared}");
}

/// The deltas of a merge of `adapters` by a method that runs the model.
fn merged_with(
    case: &Case,
    adapters: Vec<AdapterInput>,
    method: MethodName,
) -> Result<impl Fn(&str) -> Vec<f32> + use<>> {
    let request = MergeRequest {
        base: Some(folder(&case.base())),
        base_path: None,
        device_why: None,
        adapters,
        options: MergeOptions {
            method,
            max_new_tokens: serde_json::from_value(case.inputs["max_new_tokens"].clone()).unwrap(),
            ..MergeOptions::default()
        },
    };
    let mut sink = MemorySink::default();
    pollster::block_on(merge(request, &Compute::cpu(), &Silent, &mut sink))?;
    Ok(written_deltas(sink.file("adapter_model.safetensors").unwrap()))
}

#[test]
fn regmean_plus_plus_parts_from_regmean_behind_the_first_block() {
    for case in Case::with("merged.safetensors") {
        let merged = |method| {
            let adapters = ["a", "b"].map(|name| task(&case, "sweep", name)).into();
            merged_with(&case, adapters, method).unwrap()
        };
        let (own, behind) = (merged(MethodName::Regmean), merged(MethodName::RegmeanPlusPlus));
        let model = case.model().unwrap();
        let names = tensors(&case.path.join("merged.safetensors")).names();
        let (mut first, mut moved) = (0, 0);
        for module in model.family.modules() {
            if !names.contains(&format!("sweep.{}", module.name)) {
                continue;
            }
            let error = relative_error(&behind(&module.name), &own(&module.name));
            if module.block == 0 {
                // Nothing is merged before it: both read the same.
                assert!(error < 1e-5, "{} {}: {error:e}", case.name, module.name);
                first += 1;
            } else if error > 1e-4 {
                moved += 1;
            }
        }
        assert!(first > 0 && moved > 0, "{}: {first}, {moved}", case.name);
    }
}

#[test]
fn regmean_of_an_adapter_and_its_twin_is_the_adapter() {
    for case in Case::with("merged.safetensors") {
        let own = merged_with(&case, vec![task(&case, "sweep", "b")], MethodName::Linear).unwrap();
        for method in [MethodName::Regmean, MethodName::RegmeanPlusPlus] {
            let twin = AdapterInput {
                name: "twin".into(),
                ..task(&case, "sweep", "b")
            };
            let found = merged_with(&case, vec![task(&case, "sweep", "b"), twin], method).unwrap();
            let model = case.model().unwrap();
            let adapter = tensors(&case.path.join("b/adapter_model.safetensors")).names();
            for module in model.family.modules() {
                if !adapter
                    .iter()
                    .any(|name| name.contains(&format!("{}.lora_A", module.name)))
                {
                    continue;
                }
                let error = relative_error(&found(&module.name), &own(&module.name));
                assert!(
                    error < 1e-5,
                    "{} {method:?} {}: {error:e}",
                    case.name,
                    module.name
                );
            }
        }
    }
}

#[test]
fn classifiers_of_adapters_equal_peft() {
    let mut findings = Findings::new("classifiers", TOLERANCE);
    for case in Case::with("expected.safetensors") {
        let expected = case.expected();
        for name in ["a", "b"] {
            let key = format!("classifier.{name}");
            if !expected.has(&key) {
                continue;
            }
            for compute in devices() {
                findings.of(&case.name, &compute, |worst| {
                    let samples = case.samples("b", &case.model()?);
                    let adapter = Some(folder(&case.path.join(name)));
                    let samples = crate::support::given(samples);
                    let found = model_logits(folder(&case.base()), adapter, None, &samples, &compute);
                    let (shape, wanted) = expected.get(&key);
                    let (labels, found) = pollster::block_on(found)?;
                    assert_eq!(labels, shape[1], "{}: labels", case.name);
                    worst.compare(&key, &found, &wanted);
                    Ok::<(), Error>(())
                });
            }
        }
    }
    findings.demand();
}
