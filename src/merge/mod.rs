//! Merging: from a base model, adapters and calibration samples to one adapter.
//!
//! [`target`] holds the adapters against the base and lists what a merge changes; a method of [`methods`] merges that,
//! layer by layer or with passes of the model ([`work`]); [`reduce`] cuts the result to a rank; [`output`] writes it,
//! and [`crate::report`] describes it.

mod absent;
mod change;
mod locate;
pub mod methods;
mod options;
mod output;
mod reduce;
mod target;
mod work;

use std::rc::Rc;

pub use self::{
    change::{Change, Dense, Factors},
    methods::{Found, Layer, METHODS, Method, Part},
    options::{
        LayerWeights, LeastSquares, MajoritySign, MergeOptions, MethodName, OutputKind, Ranks, Schedule,
    },
    target::{Place, Plan, Target},
    work::{AdapterInput, ReadAdapter, Task, Work, check_samples, deltas, read_adapters},
};
use crate::{
    base::Base,
    batch::{Sample, micro_batches},
    compute::{Compute, Stage},
    error::Result,
    generate::Scene,
    io::{Folder, Sink},
    model::Load,
    progress::{Observer, Progress},
    report::MergeReport,
    samples::{self, Incomplete, TaskSamples},
};

/// What is to be merged.
pub struct MergeRequest {
    /// The base model's files, where there is one.
    pub base: Option<Folder>,
    /// Where they are, as a recipe finds them again.
    pub base_path: Option<String>,
    /// The adapters with their samples.
    pub adapters: Vec<AdapterInput>,
    /// How.
    pub options: MergeOptions,
}

/// Merges and writes: `adapter_config.json` and `adapter_model.safetensors` (or the base model in the files that it
/// came in, with its configuration and tokenizer), each adapter's heads under `heads/`, the model card `README.md`,
/// and `merge_report.json`.
///
/// # Errors
/// Every kind that bad input can cause; see [`crate::error::Code`]. Nothing is written before the merge
/// is complete.
pub async fn merge(
    request: MergeRequest,
    compute: &Compute,
    observer: &dyn Observer,
    sink: &mut dyn Sink,
) -> Result<MergeReport> {
    let MergeRequest {
        base,
        base_path,
        adapters,
        options,
    } = request;
    options.check()?;
    observer
        .progress(Progress {
            stage: "load",
            layer: "inputs".into(),
            done: 0,
            total: 1,
            seconds: 0.0,
        })
        .await?;
    let start = compute.meter.elapsed();
    let method = options.method.find();
    let base = Base::open(base).await?;
    if method.needs_samples() {
        base.model("this method")?;
    }
    let adapters = work::read_adapters(adapters, &base).await?;
    let plan = Plan::new(&base, &adapters, &options)?;
    let mut inputs = output::Inputs {
        plan: &plan,
        method,
        base_path,
        compute,
        observer,
        tasks: Vec::new(),
    };
    let found = if method.needs_samples() {
        let model = base.model("this method")?;
        work::check_weights(&adapters, &options)?;
        work::check_samples(model, &adapters)?;
        let tasks = work::tasks(&plan).await?;
        compute.meter.add_since(Stage::Load, start);
        let mut work = Work::new(model, compute, tasks, &options, observer);
        for target in plan.targets.iter().filter(|target| target.place == Place::Bias) {
            let merged = method.layer(&plan.layer(target).await?)?;
            work.biases
                .insert(target.name.clone(), Rc::new(merged.on(compute)));
        }
        complete_samples(&mut work, &adapters).await?;
        let found = method.pass(&work).await?;
        inputs.tasks = work.tasks;
        found
    } else {
        compute.meter.add_since(Stage::Load, start);
        Found::default()
    };
    output::write(&inputs, found, sink).await
}

/// Gives every task its samples, with the answers that its adapter writes.
async fn complete_samples(work: &mut Work<'_>, adapters: &[ReadAdapter]) -> Result<()> {
    let none = TaskSamples::default();
    let tasks: Vec<Incomplete<'_>> = adapters
        .iter()
        .zip(&work.tasks)
        .map(|(read, task)| Incomplete {
            name: &read.adapter.name,
            deltas: task.on(work.compute),
            samples: read.samples.as_ref().unwrap_or(&none),
        })
        .collect();
    // Before adapters write answers, which takes its time.
    let given: Vec<&[Sample]> = tasks.iter().map(|task| task.samples.samples.as_slice()).collect();
    if given.iter().all(|samples| !samples.is_empty()) {
        let batches = micro_batches(&given, work.options.padding, 0, methods::iteris::MICRO_BATCH_ROWS)?;
        let load = Load::of(&batches, 2, Some((&work.targeted, tasks.len())));
        work.model.check_fits(work.compute, &load)?;
    }
    let scene = Scene {
        model: work.model,
        compute: work.compute,
        keep_host: Some(&work.targeted),
        observer: work.observer,
    };
    let how = work.options.completing();
    let complete = samples::complete(&scene, &tasks, &how).await?;
    for (task, complete) in work.tasks.iter_mut().zip(complete) {
        task.samples = complete.samples;
        task.answers = complete.answers;
        task.answer_tokens = complete.answer_tokens;
    }
    Ok(())
}
