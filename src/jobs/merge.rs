//! A merge: from a base model, adapters and calibration samples to files.

use std::rc::Rc;

use crate::{
    binding::{Base, Binding, Place, ReadAdapter},
    calibrate::{self, Completing, Incomplete, TaskSamples, check_samples},
    compute::{Compute, Stage},
    error::Result,
    export::{self, report::MergeReport},
    generate::GenerateContext,
    io::{Folder, Sink},
    jobs::{
        estimate,
        inputs::{AdapterInput, Hashing, read_adapters},
    },
    merge::{
        context::{SolveContext, check_weights, tasks},
        crew::Crew,
        layer::{LayerReport, SolvedLayer},
        methods::iteris::MICRO_BATCH_ROWS,
        options::MergeOptions,
        solution::{Solution, merged},
        truncate::Truncated,
    },
    model::{
        Model, WorkloadEstimate,
        batch::{Padding, Sample},
    },
    progress::{Observer, Pace, Progress},
};

/// What is to be merged.
pub struct MergeRequest {
    /// The base model's files, where there is one.
    pub base: Option<Folder>,
    /// Where they are, as a recipe finds them again.
    pub base_path: Option<String>,
    /// Why the device was chosen, where the caller left that open; recorded.
    pub device_why: Option<String>,
    /// The adapters with their samples.
    pub adapters: Vec<AdapterInput>,
    /// How.
    pub options: MergeOptions,
}

/// Merges and writes; see [`export::write`] for the files.
///
/// # Errors
/// Every kind that bad input can cause; see [`crate::error::Code`]. Nothing is written before the layers that a pass of
/// the model solves are complete.
pub async fn merge(
    request: MergeRequest,
    compute: &Compute,
    observer: &dyn Observer,
    sink: &mut dyn Sink,
) -> Result<MergeReport> {
    let MergeRequest {
        base,
        base_path,
        device_why,
        adapters,
        options,
    } = request;
    options.check()?;
    let loading = Progress {
        stage: "load",
        layer: "inputs".into(),
        done: 0,
        total: 1,
        seconds: 0.0,
        written: None,
    };
    observer.progress(loading.clone()).await?;
    let now = || compute.meter.elapsed();
    let pace = Pace::new(observer, &now, loading);
    let start = compute.meter.elapsed();
    let method = options.method.find();
    let base = Base::open(base).await?;
    if method.needs_samples() {
        base.model("this method")?;
    }
    let (adapters, samples) = read_adapters(adapters, &base, Hashing::Done(&pace)).await?;
    let binding = Binding::new(&base, &adapters, &options.layer_weights.patterns(adapters.len())?)?;
    let mut inputs = export::Inputs {
        base_path,
        device_why,
        samples: &samples,
        tasks: Vec::new(),
    };
    let mut biases = Vec::new();
    let mut passed = Vec::new();
    if method.needs_samples() {
        let model = base.model("this method")?;
        check_weights(&adapters, &options)?;
        check_samples(model, &adapters, &samples)?;
        let context;
        (context, biases) = solve_context(model, &binding, &options, compute, observer).await?;
        compute.meter.add_since(Stage::Load, start);
        let mut context = context;
        complete_samples(&mut context, &adapters, &samples).await?;
        let samples = context.tasks.iter().map(|task| task.samples.len()).sum();
        context.crew = Crew::of(compute, samples);
        passed = method.pass(&context).await?;
        inputs.tasks = context.tasks;
    } else {
        let cost = estimate::cost(&binding, &options);
        estimate::check_fits(&cost)?;
        let workers = estimate::workers(&cost, binding.sites.len(), compute.available());
        compute.start_workers(workers);
        compute.meter.add_since(Stage::Load, start);
    }
    let mut solution = Solution::new(&binding, &options, passed, compute, observer);
    biases.into_iter().for_each(|layer| solution.hold(layer));
    let layers = Truncated::new(solution);
    export::write(&inputs, layers, sink).await
}

/// What a method works on that runs the model, the tasks still without samples; beside it the biases, which no pass
/// solves for.
///
/// # Errors
/// Whatever is wrong with the adapters.
pub(super) async fn solve_context<'a>(
    model: &'a Model,
    binding: &Binding<'_>,
    options: &'a MergeOptions,
    compute: &'a Compute,
    observer: &'a dyn Observer,
) -> Result<(SolveContext<'a>, Vec<SolvedLayer>)> {
    let mut context = SolveContext::new(model, compute, tasks(binding).await?, options, observer);
    let mut biases = Vec::new();
    for site in binding.sites.iter().filter(|site| site.place == Place::Bias) {
        let method = options.method.find();
        let delta = merged(binding, method, options, site, &Pace::unwatched()).await?;
        let device = Rc::new(delta.to_device(compute));
        context.biases.insert(site.name.clone(), device);
        let report = LayerReport::plain(&site.name);
        biases.push(SolvedLayer { delta, report });
    }
    Ok((context, biases))
}

/// Gives every task its samples, with the answers that its adapter writes.
async fn complete_samples(
    context: &mut SolveContext<'_>,
    adapters: &[ReadAdapter],
    samples: &[Option<TaskSamples>],
) -> Result<()> {
    let none = TaskSamples::default();
    let tasks: Vec<Incomplete<'_>> = adapters
        .iter()
        .zip(samples)
        .zip(&context.tasks)
        .map(|((read, samples), task)| Incomplete {
            name: &read.adapter.name,
            deltas: task.to_device(context.compute),
            samples: samples.as_ref().unwrap_or(&none),
        })
        .collect();
    let how = completing(context.options);
    // Before adapters write answers, which takes its time.
    let given: Vec<&[Sample]> = tasks.iter().map(|task| task.samples.samples.as_slice()).collect();
    let padded =
        context.options.padding == Padding::Include && given.iter().all(|samples| !samples.is_empty());
    let lengths = padded
        .then(|| context.model.padded(&given, Padding::Include))
        .transpose()?
        .flatten();
    let batches = context
        .model
        .micro_batches_of(&given, lengths.as_ref(), MICRO_BATCH_ROWS)?;
    let load = WorkloadEstimate::of(&batches, 2, Some((&context.targeted, tasks.len())));
    context.model.check_fits(context.compute, &load)?;
    let written = tasks
        .iter()
        .map(|task| calibrate::to_write(context.model, &how, task.samples))
        .sum();
    let own = |task: &Incomplete<'_>| task.samples.own.as_ref().map_or(0, |own| own.options.count);
    let pieces = tasks
        .iter()
        .map(|task| task.samples.samples.len() + own(task))
        .sum();
    let workers = estimate::workers_for_samples(context, &load, written, pieces);
    context.compute.start_workers(workers);
    let generation = GenerateContext {
        model: context.model,
        known_as: 0,
        compute: context.compute,
        keep_host: Some(&context.targeted),
        observer: context.observer,
    };
    let complete = calibrate::complete(&generation, &tasks, &how).await?;
    for (task, complete) in context.tasks.iter_mut().zip(complete) {
        task.samples = complete.samples;
        task.answers = complete.answers;
        task.answer_tokens = complete.answer_tokens;
    }
    Ok(())
}

/// How samples are made complete.
const fn completing(options: &MergeOptions) -> Completing {
    Completing {
        decoder_inputs: options.decoder_inputs,
        positions: options.positions,
        max_new_tokens: options.max_new_tokens,
    }
}
