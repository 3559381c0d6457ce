//! What a method works on that runs the model: tasks with their samples, and where they differ.

use std::{
    borrow::Cow,
    collections::{BTreeMap, BTreeSet},
    rc::Rc,
};

use crate::{
    binding::{
        Binding, ReadAdapter,
        lanes::{self, LaneDeltas},
    },
    calibrate::AnswersFrom,
    compute::Compute,
    delta::{Delta, DeviceDelta, on_device},
    error::{Code, Error, Result},
    merge::{crew::Crew, options::MergeOptions},
    model::{Model, Module, SampleShare, batch::Sample},
    progress::Observer,
};

/// One task: an adapter's deltas in the model's naming, and its samples.
pub struct Task {
    /// The adapter's name.
    pub name: String,
    /// The user's weight.
    pub weight: f64,
    /// The weights of modules that have another.
    pub layer_weights: BTreeMap<String, f64>,
    /// Deltas by module, and those of [biases](crate::model::lanes::bias_of) by their names.
    pub deltas: BTreeMap<String, Delta>,
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
    pub fn to_device(&self, compute: &Compute) -> BTreeMap<String, Rc<DeviceDelta>> {
        on_device(&self.deltas, compute)
    }
}

/// What a method works on.
pub struct SolveContext<'a> {
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
    pub biases: BTreeMap<String, Rc<DeviceDelta>>,
    /// The options.
    pub options: &'a MergeOptions,
    /// Who runs the passes.
    pub crew: Crew<'a>,
    /// Told of progress.
    pub observer: &'a dyn Observer,
}

impl<'a> SolveContext<'a> {
    /// The context of `tasks` over a model.
    pub fn new(
        model: &'a Model,
        compute: &'a Compute,
        tasks: Vec<Task>,
        options: &'a MergeOptions,
        observer: &'a dyn Observer,
    ) -> Self {
        let targeted = targeted(&tasks);
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
            crew: Crew::Alone,
            observer,
        }
    }

    /// The samples that this worker runs the passes on: all, or its share; the other shares are handed out.
    ///
    /// # Errors
    /// [`Code::SamplesInvalid`] if a task has no samples.
    pub fn share(&self) -> Result<Cow<'_, SampleShare>> {
        if let Crew::Other(other) = &self.crew {
            return Ok(Cow::Borrowed(&other.share));
        }
        let samples: Vec<&[Sample]> = self.tasks.iter().map(|task| task.samples.as_slice()).collect();
        let lengths = self.model.padded(&samples, self.options.padding)?;
        let workers = match &self.crew {
            Crew::First(first) => first.workers(),
            Crew::Alone | Crew::Other(_) => 1,
        };
        let shares = SampleShare::of_each(&samples, lengths.as_ref(), workers);
        Ok(Cow::Owned(match &self.crew {
            Crew::First(first) => first.hand_out(shares),
            Crew::Alone | Crew::Other(_) => shares.into_iter().next().unwrap_or_default(),
        }))
    }
}

/// What at least one task's adapter changes, by name.
pub fn targeted(tasks: &[Task]) -> BTreeSet<String> {
    tasks
        .iter()
        .flat_map(|task| task.deltas.keys().cloned())
        .collect()
}

/// The tasks of a method that runs the model.
///
/// # Errors
/// As [`lanes::of_all`].
pub async fn tasks(binding: &Binding<'_>) -> Result<Vec<Task>> {
    let lanes = lanes::of_all(binding).await?.into_iter().zip(binding.adapters);
    let task = |(lanes, read): (LaneDeltas, &ReadAdapter)| Task {
        name: read.adapter.name.clone(),
        weight: read.weight,
        layer_weights: lanes.weights,
        deltas: lanes.deltas,
        samples: Vec::new(),
        answers: AnswersFrom::None,
        answer_tokens: 0,
    };
    Ok(lanes.map(task).collect())
}

/// Whether every weight is one that a method can take which solves for what each adapter does.
///
/// # Errors
/// [`Code::OptionInvalid`] naming the adapter, or the pattern of `layerWeights`.
pub fn check_weights(adapters: &[ReadAdapter], options: &MergeOptions) -> Result<()> {
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
