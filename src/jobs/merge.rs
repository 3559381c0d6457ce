//! A merge: from a base model, adapters and calibration samples to files.

use std::{collections::BTreeSet, rc::Rc};

use web_time::Instant;

use crate::{
    binding::{Base, Binding, Place, ReadAdapter},
    calibrate::{self, Completing, Incomplete, TaskSamples, check_samples},
    compute::{Compute, Stage},
    error::Result,
    export::{self, report::MergeReport},
    generate::GenerateContext,
    io::{Folder, Sink},
    jobs::{
        choice::Devices,
        estimate::{self, Calibration, ModelWork},
        inputs::{AdapterInput, Reading, read_adapters},
    },
    merge::{
        context::{SolveContext, Task, check_weights, targeted, tasks},
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
pub async fn merge<'a>(
    request: MergeRequest,
    devices: impl Into<Devices<'a>>,
    observer: &dyn Observer,
    sink: &mut dyn Sink,
) -> Result<MergeReport> {
    let devices = devices.into();
    let MergeRequest {
        base,
        base_path,
        device_why,
        adapters,
        options,
    } = request;
    options.check()?;
    let loading = Progress::single("load", "inputs", 0.0);
    observer.progress(loading.clone()).await?;
    let started = Instant::now();
    let now = || started.elapsed().as_secs_f64();
    let pace = Pace::new(observer, &now, loading);
    let method = options.method.find();
    let base = Base::open(base).await?;
    if method.needs_samples() {
        base.model("this method")?;
    }
    let reading = Reading {
        hashing: Some(&pace),
        pictures: method.needs_samples().then_some(observer),
    };
    let (adapters, mut samples) = read_adapters(adapters, &base, reading).await?;
    let binding = Binding::new(&base, &adapters, &options.layer_weights.patterns(adapters.len())?)?;
    let mut passing = None;
    if method.needs_samples() {
        let model = base.model("this method")?;
        check_weights(&adapters, &options)?;
        check_samples(model, &adapters, &samples)?;
        let tasks = tasks(&binding).await?;
        let changed = targeted(&tasks);
        calibrate::settle_captions(model, &adapters, &mut samples, &changed)?;
        passing = Some((model, tasks, changed));
    }
    let mut inputs = export::Inputs {
        base_path,
        device_why,
        samples: &samples,
        tasks: Vec::new(),
    };
    let mut biases = Vec::new();
    let mut passed = Vec::new();
    let compute;
    if let Some((model, tasks, changed)) = passing {
        let calibration = calibration(model, &changed, tasks.len(), &samples, &options)?;
        let work = ModelWork::of_merge(model, &changed, &options, &calibration);
        let check = |compute: &Compute| model.check_fits(compute, &calibration.load);
        let choice = devices.choose(&work, check, observer).await?;
        choice.compile(model, true, observer).await?;
        compute = choice.compute;
        inputs.device_why = choice.why.or(inputs.device_why);
        let context;
        (context, biases) = solve_context(model, &binding, tasks, &options, compute, observer).await?;
        compute.meter.add(Stage::Load, now());
        compute.start_workers(work.workers(compute));
        let mut context = context;
        complete_samples(&mut context, &adapters, &samples).await?;
        let samples = context.tasks.iter().map(|task| task.samples.len()).sum();
        context.crew = Crew::of(compute, samples);
        passed = method.pass(&context).await?;
        inputs.tasks = context.tasks;
    } else {
        let cost = estimate::cost(&binding, &options);
        estimate::check_fits(&cost)?;
        compute = devices.without_model();
        let workers = estimate::workers(&cost, binding.sites.len(), compute.available());
        compute.start_workers(workers);
        compute.meter.add(Stage::Load, now());
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
    tasks: Vec<Task>,
    options: &'a MergeOptions,
    compute: &'a Compute,
    observer: &'a dyn Observer,
) -> Result<(SolveContext<'a>, Vec<SolvedLayer>)> {
    let mut context = SolveContext::new(model, compute, tasks, options, observer);
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

/// What a merge reads and has written, told before anything is.
fn calibration<'a>(
    model: &Model,
    changed: &'a BTreeSet<String>,
    tasks: usize,
    samples: &[Option<TaskSamples>],
    options: &MergeOptions,
) -> Result<Calibration<'a>> {
    let none = TaskSamples::default();
    let tasks_samples: Vec<&TaskSamples> = samples.iter().map(|own| own.as_ref().unwrap_or(&none)).collect();
    let given: Vec<&[Sample]> = tasks_samples.iter().map(|own| own.samples.as_slice()).collect();
    // Of what is yet to be written nobody knows how long it is padded.
    let complete = given.iter().all(|samples| !samples.is_empty());
    let lengths = match options.padding {
        Padding::Include if complete => model.padded(&given, Padding::Include)?,
        Padding::Include | Padding::Exclude => None,
    };
    let batches = model.micro_batches_of(&given, lengths.as_ref(), MICRO_BATCH_ROWS)?;
    let how = completing(model, options);
    let own = |task: &TaskSamples| task.own.as_ref().map_or(0, |own| own.options.count);
    Ok(Calibration {
        load: WorkloadEstimate::of(&batches, 2, Some((changed, tasks))),
        written: tasks_samples
            .iter()
            .map(|task| calibrate::to_write(model, &how, task))
            .sum(),
        samples: tasks_samples
            .iter()
            .map(|task| task.samples.len() + own(task))
            .sum(),
        batches: batches.len(),
    })
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
    let how = completing(context.model, context.options);
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
fn completing(model: &Model, options: &MergeOptions) -> Completing {
    Completing {
        decoder_inputs: options.decoder_inputs,
        positions: options.positions,
        max_new_tokens: model.family.facts().kind.answer_length(options.max_new_tokens),
    }
}
