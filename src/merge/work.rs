//! Inputs of a merge, read and checked: adapters in the model's naming, samples that fit the model.

use std::{
    collections::{BTreeMap, BTreeSet},
    rc::Rc,
};

use super::{MergeOptions, absent};
use crate::{
    adapter::Adapter,
    batch::Sample,
    compute::{Compute, narrow},
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
    /// The user's weight, positive.
    pub weight: f64,
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
}

/// Low-rank factors of a delta: B A, with the scaling inside B.
#[derive(Debug, Clone, PartialEq)]
pub struct Factors {
    /// A (rank x d_in), row-major.
    pub a: Vec<f32>,
    /// B (d_out x rank), row-major.
    pub b: Vec<f32>,
    /// The rank.
    pub rank: usize,
    /// Outputs.
    pub d_out: usize,
    /// Inputs.
    pub d_in: usize,
}

impl Factors {
    /// The factors on a device.
    pub fn on(&self, compute: &Compute) -> Delta {
        Delta::Factors {
            a: compute.weight(&self.a, self.rank, self.d_in),
            b: compute.weight(&self.b, self.d_out, self.rank),
        }
    }

    /// `factor` times the delta.
    #[must_use]
    pub fn scaled(&self, factor: f64) -> Self {
        let b = self.b.iter().map(|&x| narrow(f64::from(x) * factor)).collect();
        Self { b, ..self.clone() }
    }

    /// [B_1 … B_N] [A_1; …; A_N]: the sum of deltas of one shape, exactly.
    ///
    /// # Panics
    /// If there are none.
    pub fn stack(parts: Vec<Self>) -> Self {
        let (d_out, d_in) = (parts[0].d_out, parts[0].d_in);
        let rank = parts.iter().map(|part| part.rank).sum();
        let mut b = Vec::with_capacity(d_out * rank);
        for row in 0..d_out {
            for part in &parts {
                b.extend(&part.b[row * part.rank..(row + 1) * part.rank]);
            }
        }
        let a = parts.into_iter().flat_map(|part| part.a).collect();
        Self {
            a,
            b,
            rank,
            d_out,
            d_in,
        }
    }

    /// The same delta with rows and columns of zeros up to `rank`.
    #[must_use]
    pub fn padded(mut self, rank: usize) -> Self {
        if rank > self.rank {
            let mut b = vec![0.0; self.d_out * rank];
            for (to, from) in b.chunks_exact_mut(rank).zip(self.b.chunks_exact(self.rank)) {
                to[..self.rank].copy_from_slice(from);
            }
            self.a.resize(rank * self.d_in, 0.0);
            self.b = b;
            self.rank = rank;
        }
        self
    }

    /// The dense (d_out x d_in) delta.
    pub fn dense(&self) -> Vec<f32> {
        use crate::compute::gemm::{Part, View, multiply};
        let mut out = vec![0.0f64; self.d_out * self.d_in];
        let (b, a) = (
            View::new(&self.b, self.d_out, self.rank),
            View::new(&self.a, self.rank, self.d_in),
        );
        multiply(b, a, 1.0, Part::Full, &mut out, self.d_in);
        out.into_iter().map(narrow).collect()
    }
}

/// One task: an adapter's deltas in the model's naming, and its samples.
pub struct Task {
    /// The adapter's name.
    pub name: String,
    /// The user's weight.
    pub weight: f64,
    /// Deltas by module.
    pub deltas: BTreeMap<String, Factors>,
    /// Calibration samples, complete; empty for a method that needs none.
    pub samples: Vec<Sample>,
    /// Where the samples' answers are from.
    pub answers: AnswersFrom,
    /// Tokens of the answers.
    pub answer_tokens: usize,
}

impl Task {
    /// The deltas on a device.
    pub fn on(&self, compute: &Compute) -> BTreeMap<String, Rc<Delta>> {
        self.deltas
            .iter()
            .map(|(name, factors)| (name.clone(), Rc::new(factors.on(compute))))
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
    /// Their names.
    pub targeted: BTreeSet<String>,
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
            options,
            observer,
        }
    }
}

/// Reads every adapter.
///
/// # Errors
/// [`Code::NoAdapters`], [`Code::Duplicate`] for two of one name, [`Code::OptionInvalid`] for a weight
/// that is not positive, and whatever is wrong with the files.
pub async fn read_adapters(inputs: Vec<AdapterInput>) -> Result<Vec<ReadAdapter>> {
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
    } in inputs
    {
        if !names.insert(name.clone()) {
            return Err(Error::new(
                Code::Duplicate,
                format!("two adapters are called \"{name}\"; give each a name of its own"),
            ));
        }
        if !(weight.is_finite() && weight > 0.0) {
            return Err(Error::new(
                Code::OptionInvalid,
                format!("adapter \"{name}\": weight {weight} is not a positive number"),
            ));
        }
        let adapter = Adapter::read(&name, &folder).await?;
        adapters.push(ReadAdapter {
            adapter,
            samples,
            weight,
            files: folder.sha256().await?,
        });
    }
    Ok(adapters)
}

/// The adapters' deltas in the model's naming.
///
/// # Errors
/// [`Code::ShapeMismatch`] naming the module, if an adapter is for another base model.
pub(super) fn tasks(model: &Model, adapters: &[ReadAdapter]) -> Result<Vec<Task>> {
    adapters
        .iter()
        .map(|read| {
            Ok(Task {
                name: read.adapter.name.clone(),
                weight: read.weight,
                deltas: deltas(model, &read.adapter)?,
                samples: Vec::new(),
                answers: AnswersFrom::None,
                answer_tokens: 0,
            })
        })
        .collect()
}

/// One adapter's deltas in the model's naming; errors as [`tasks`].
pub fn deltas(model: &Model, adapter: &Adapter) -> Result<BTreeMap<String, Factors>> {
    let mut deltas = BTreeMap::new();
    for (path, lora) in &adapter.modules {
        let mismatch = |what: String| {
            Err(Error::new(
                Code::ShapeMismatch,
                format!(
                    "adapter \"{}\" is not for this base model: {what}; module: {path}",
                    adapter.name
                ),
            ))
        };
        let name = model.family.canonical(path);
        let Some(module) = model.module(name) else {
            return mismatch(absent::instead(model.family.modules(), name));
        };
        if (module.d_out, module.d_in) != (lora.d_out, lora.d_in) {
            return mismatch(format!(
                "the adapter's layer is {} x {}, the base's is {} x {}",
                lora.d_out, lora.d_in, module.d_out, module.d_in
            ));
        }
        let factors = Factors {
            a: lora.a.clone(),
            b: lora.b.clone(),
            rank: lora.rank,
            d_out: lora.d_out,
            d_in: lora.d_in,
        };
        if deltas
            .insert(name.to_owned(), factors.scaled(lora.scaling))
            .is_some()
        {
            return Err(Error::new(
                Code::Duplicate,
                format!(
                    "adapter \"{}\" targets one layer under two names; module: {path}",
                    adapter.name
                ),
            ));
        }
    }
    // By the family's names: either side may carry a prefix that the other lacks.
    let base: BTreeSet<&str> = model
        .checkpoint
        .names()
        .map(|key| model.family.canonical(key))
        .collect();
    if let Some(head) = adapter.heads.keys().find(|head| {
        let name = model.family.canonical(head);
        !model.family.is_readout(name) && base.contains(name)
    }) {
        return Err(Error::new(
            Code::AdapterUnsupported,
            format!(
                "adapter \"{}\" brings its own copy of a part of the base model (modules_to_save), which a merge cannot keep; train it without; tensor: {head}",
                adapter.name
            ),
        ));
    }
    Ok(deltas)
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
