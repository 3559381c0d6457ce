//! Inputs of a merge, read and checked: adapters in the model's naming, samples that fit the model; and what a method
//! works on that runs the model.

use std::{
    collections::{BTreeMap, BTreeSet},
    rc::Rc,
};

use super::{Change, MergeOptions, Part, Place, Plan, Target};
use crate::{
    adapter::{Adapter, LayerKind},
    base::Base,
    batch::Sample,
    compute::Compute,
    error::{Code, Error, Result},
    io::{FileDigest, Folder},
    linear::Delta,
    model::{Model, Module},
    progress::Observer,
    samples::{AnswersFrom, TaskSamples},
};

/// One adapter as the caller gives it.
pub struct AdapterInput {
    /// What reports call it; names are distinct.
    pub name: String,
    /// Its files.
    pub folder: Folder,
    /// Its calibration (or held-out) samples.
    pub samples: Option<TaskSamples>,
    /// The user's weight: any but zero, and positive for a method that reads samples.
    pub weight: f64,
    /// Where its files are, as a recipe finds them again.
    pub path: Option<String>,
}

/// An adapter with all that was given for it.
pub struct ReadAdapter {
    /// The adapter.
    pub adapter: Adapter,
    /// Its samples.
    pub samples: Option<TaskSamples>,
    /// The user's weight.
    pub weight: f64,
    /// Name, size and SHA-256 of its files.
    pub files: Vec<FileDigest>,
    /// Where its files are, as a recipe finds them again.
    pub path: Option<String>,
}

impl ReadAdapter {
    /// An adapter by itself, for work that knows no samples and no weights.
    pub fn alone(adapter: Adapter) -> Self {
        Self {
            adapter,
            samples: None,
            weight: 1.0,
            files: Vec::new(),
            path: None,
        }
    }
}

/// One task: an adapter's deltas in the model's naming, and its samples.
pub struct Task {
    /// The adapter's name.
    pub name: String,
    /// The user's weight.
    pub weight: f64,
    /// The weights of modules that have another.
    pub layer_weights: BTreeMap<String, f64>,
    /// Deltas by module, and those of [biases](crate::linear::bias_of) by their names.
    pub deltas: BTreeMap<String, Change>,
    /// Calibration samples, complete; empty for a method that needs none.
    pub samples: Vec<Sample>,
    /// Where the samples' answers are from.
    pub answers: AnswersFrom,
    /// Tokens of the answers.
    pub answer_tokens: usize,
}

impl Task {
    /// The weight at a module.
    pub fn weight_at(&self, module: &str) -> f64 {
        self.layer_weights.get(module).copied().unwrap_or(self.weight)
    }

    /// The deltas on a device.
    pub fn on(&self, compute: &Compute) -> BTreeMap<String, Rc<Delta>> {
        self.deltas
            .iter()
            .map(|(name, change)| (name.clone(), Rc::new(change.on(compute))))
            .collect()
    }
}

/// What a method works on.
pub struct Work<'a> {
    /// The base model.
    pub model: &'a Model,
    /// The device.
    pub compute: &'a Compute,
    /// The tasks.
    pub tasks: Vec<Task>,
    /// Modules that at least one adapter targets, in the order of the forward pass.
    pub modules: Vec<&'a Module>,
    /// Their names, and those of biases that at least one adapter changes.
    pub targeted: BTreeSet<String>,
    /// What the merged model adds to biases, which no pass solves for.
    pub biases: BTreeMap<String, Rc<Delta>>,
    /// The options.
    pub options: &'a MergeOptions,
    /// Told of progress.
    pub observer: &'a dyn Observer,
}

impl<'a> Work<'a> {
    pub(super) fn new(
        model: &'a Model,
        compute: &'a Compute,
        tasks: Vec<Task>,
        options: &'a MergeOptions,
        observer: &'a dyn Observer,
    ) -> Self {
        let targeted: BTreeSet<String> = tasks
            .iter()
            .flat_map(|task| task.deltas.keys().cloned())
            .collect();
        let modules = model
            .family
            .modules()
            .iter()
            .filter(|m| targeted.contains(&m.name))
            .collect();
        Self {
            model,
            compute,
            tasks,
            modules,
            targeted,
            biases: BTreeMap::new(),
            options,
            observer,
        }
    }
}

/// Reads every adapter, for a base model.
///
/// # Errors
/// [`Code::NoAdapters`], [`Code::Duplicate`] for two of one name, [`Code::OptionInvalid`] for a weight
/// of zero, and whatever is wrong with the files.
pub async fn read_adapters(inputs: Vec<AdapterInput>, base: &Base) -> Result<Vec<ReadAdapter>> {
    if inputs.is_empty() {
        return Err(Error::new(
            Code::NoAdapters,
            "no adapter was given; give at least one, and two to merge",
        ));
    }
    let mut names = BTreeSet::new();
    let mut adapters = Vec::with_capacity(inputs.len());
    for AdapterInput {
        name,
        folder,
        samples,
        weight,
        path,
    } in inputs
    {
        if !names.insert(name.clone()) {
            return Err(Error::new(
                Code::Duplicate,
                format!("two adapters are called \"{name}\"; give each a name of its own"),
            ));
        }
        if !weight.is_finite() || weight == 0.0 {
            return Err(Error::new(
                Code::OptionInvalid,
                format!("adapter \"{name}\": weight {weight} gives nothing; choose a number other than 0"),
            ));
        }
        let adapter = Adapter::read_for(&name, &folder, base.names()).await?;
        adapters.push(ReadAdapter {
            adapter,
            samples,
            weight,
            files: folder.sha256().await?,
            path,
        });
    }
    Ok(adapters)
}

/// The tasks of a method that runs the model.
///
/// # Errors
/// [`Code::AdapterUnsupported`] for an adapter that changes what no pass of the model tells apart by task.
pub(super) async fn tasks(plan: &Plan<'_>) -> Result<Vec<Task>> {
    let mut tasks: Vec<Task> = plan
        .adapters
        .iter()
        .map(|read| Task {
            name: read.adapter.name.clone(),
            weight: read.weight,
            layer_weights: BTreeMap::new(),
            deltas: BTreeMap::new(),
            samples: Vec::new(),
            answers: AnswersFrom::None,
            answer_tokens: 0,
        })
        .collect();
    for target in &plan.targets {
        let parts = plan.layer(target).await?.parts;
        if !in_lanes(plan, target) {
            // PEFT saves copies of tables that nobody trained.
            let nothing = |part: &Part<'_>| part.change.dense().iter().all(|&x| x == 0.0);
            if matches!(target.place, Place::Whole(_)) && parts.iter().all(nothing) {
                continue;
            }
            return Err(Error::new(
                Code::AdapterUnsupported,
                format!(
                    "a model pass keeps tasks apart at linear layers alone, and an adapter changes another part of the model; choose a method that needs no samples; parameter: {}",
                    target.name
                ),
            ));
        }
        for (task, &weight) in tasks.iter_mut().zip(&target.weights) {
            if weight != task.weight {
                task.layer_weights.insert(target.name.clone(), weight);
            }
        }
        for part in parts {
            tasks[part.task].deltas.insert(target.name.clone(), part.change);
        }
    }
    Ok(tasks)
}

/// Whether a pass of the model tells tasks apart at this: the weight or the bias of a layer that it runs in lanes.
fn in_lanes(plan: &Plan<'_>, target: &Target) -> bool {
    let Base::Model(model) = plan.base else {
        return true;
    };
    let module = match &target.place {
        Place::Weight(LayerKind::Linear) => target.name.as_str(),
        Place::Bias => target.name.strip_suffix(".bias").unwrap_or_default(),
        Place::Weight(_) | Place::Rows(_) | Place::Whole(_) => return false,
    };
    model.module(module).is_some()
}

/// One adapter's deltas in the model's naming.
///
/// # Errors
/// As [`Plan::new`] and [`tasks`].
pub async fn deltas(base: &Base, read: &ReadAdapter) -> Result<BTreeMap<String, Change>> {
    let options = MergeOptions::default();
    let plan = Plan::new(base, std::slice::from_ref(read), &options)?;
    let task = tasks(&plan).await?.pop();
    Ok(task.map(|task| task.deltas).unwrap_or_default())
}

/// The name of an adapter by its place.
pub(super) fn name_of(adapters: &[ReadAdapter], index: usize) -> &str {
    adapters.get(index).map_or("", |read| &read.adapter.name)
}

/// Whether every weight is one that a method can take which solves for what each adapter does.
///
/// # Errors
/// [`Code::OptionInvalid`] naming the adapter, or the pattern of `layerWeights`.
pub(super) fn check_weights(adapters: &[ReadAdapter], options: &MergeOptions) -> Result<()> {
    let own = adapters
        .iter()
        .map(|read| (format!("adapter \"{}\"", read.adapter.name), read.weight));
    let of_layers = options.layer_weights.0.iter().flat_map(|(pattern, weights)| {
        weights
            .iter()
            .map(move |&weight| (format!("layerWeights of \"{pattern}\""), weight))
    });
    for (place, weight) in own.chain(of_layers) {
        if weight <= 0.0 {
            return Err(Error::new(
                Code::OptionInvalid,
                format!(
                    "{place}: weight {weight} is not positive, and a method that solves for what each adapter does can give it no other; take a positive one, or a method that needs no samples"
                ),
            ));
        }
    }
    Ok(())
}

/// Whether every adapter has samples that the model can take.
///
/// # Errors
/// [`Code::SamplesInvalid`] naming adapter and sample.
pub fn check_samples(model: &Model, adapters: &[ReadAdapter]) -> Result<()> {
    let facts = model.family.facts();
    for read in adapters {
        let name = &read.adapter.name;
        let samples = read.samples.as_ref().map_or(&[][..], |s| &s.samples);
        if let Some(own) = read.samples.as_ref().and_then(|s| s.own.as_ref()) {
            if !facts.generates {
                return Err(Error::new(
                    Code::OptionInvalid,
                    format!(
                        "adapter \"{name}\" cannot write its own samples: {} does not write text; give a file of texts",
                        facts.architecture
                    ),
                ));
            }
            if own.count == 0 {
                return Err(Error::new(
                    Code::OptionInvalid,
                    format!("adapter \"{name}\": count is 0; let it write at least one sample"),
                ));
            }
            own.sampling.check()?;
            continue;
        }
        if samples.is_empty() {
            return Err(Error::new(
                Code::SamplesInvalid,
                format!(
                    "adapter \"{name}\" has no calibration samples; give a file with a few texts of its task, one a line"
                ),
            ));
        }
        for (index, sample) in samples.iter().enumerate() {
            let number = index + 1;
            if sample.ids.is_empty() {
                return Err(Error::new(
                    Code::SamplesInvalid,
                    format!(
                        "adapter \"{name}\", sample {number}: the tokenizer makes no token of it; remove it or give a text"
                    ),
                ));
            }
            if sample.ids.len() > facts.max_length {
                return Err(Error::new(
                    Code::SamplesInvalid,
                    format!(
                        "adapter \"{name}\", sample {number}: {} tokens, the model takes {}; set maxLength",
                        sample.ids.len(),
                        facts.max_length
                    ),
                ));
            }
            if let Some(id) = sample.ids.iter().find(|&&id| id as usize >= facts.vocab_size) {
                return Err(Error::new(
                    Code::SamplesInvalid,
                    format!(
                        "adapter \"{name}\", sample {number}: token id {id} is outside the vocabulary of {}; the tokenizer is of another model",
                        facts.vocab_size
                    ),
                ));
            }
        }
    }
    Ok(())
}
