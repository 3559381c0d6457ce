//! Merging: from a base model, adapters and calibration samples to one adapter.
//!
//! A method is one file beside this one and one line in [`METHODS`]. It sees [`Work`]: the model, and
//! each task's deltas and samples in the model's own naming, already checked against it. What it returns
//! is written by [`output`] and described by [`crate::report`].

mod absent;
mod average;
pub mod iteris;
mod options;
mod output;
mod work;

use std::collections::BTreeMap;

use async_trait::async_trait;

pub use self::{
    options::{MergeOptions, MethodName, OutputKind, Schedule, Target},
    work::{AdapterInput, Factors, ReadAdapter, Task, Work, check_samples, deltas, read_adapters},
};
use crate::{
    batch::{Sample, micro_batches},
    compute::{Compute, Stage, svd},
    error::Result,
    generate::Scene,
    io::{Folder, Sink},
    linear::Delta,
    model::{self, Load},
    progress::{Observer, Progress},
    report::{LayerReport, MergeReport},
    samples::{self, Incomplete, TaskSamples},
};

/// A way to merge.
#[async_trait(?Send)]
pub trait Method {
    /// Whether it runs the model on calibration samples.
    fn needs_samples(&self) -> bool;
    /// The merged delta of every targeted module, and what there is to tell of each.
    ///
    /// # Errors
    /// Whatever reading weights, the device or the mathematics reports, and cancellation.
    async fn merge(&self, work: &Work<'_>) -> Result<Merged>;
}

/// Every method, by the name that options and the command line use.
const METHODS: &[(MethodName, &dyn Method)] = &[
    (MethodName::Iteris, &iteris::Iteris),
    (MethodName::Linear, &average::Linear),
    (MethodName::TaskArithmetic, &average::TaskArithmetic),
];

/// What a method found.
pub struct Merged {
    /// By module, in the model's naming.
    pub solutions: BTreeMap<String, Solution>,
    /// What there is to tell, in the order of the forward pass.
    pub layers: Vec<LayerReport>,
}

/// The merged delta of one module.
#[derive(Debug, Clone, PartialEq)]
pub enum Solution {
    /// B A, the scaling inside B.
    Factors(Factors),
    /// A dense (d_out x d_in) matrix, row-major.
    Dense {
        /// The numbers.
        data: Vec<f32>,
        /// Rows.
        d_out: usize,
        /// Columns.
        d_in: usize,
    },
}

impl Solution {
    /// The delta on a device.
    pub fn on(&self, compute: &Compute) -> Delta {
        match self {
            Self::Factors(factors) => factors.on(compute),
            Self::Dense { data, d_out, d_in } => Delta::Dense(compute.weight(data, *d_out, *d_in)),
        }
    }

    /// The delta as factors of at most `rank` (the exact rank of factors if `None`, else `fallback` of a
    /// dense matrix), and the share of its squared norm that is kept.
    fn factors(&self, rank: Option<usize>, fallback: usize) -> (Factors, f64) {
        let (truncated, d_out, d_in, rank) = match self {
            Self::Factors(factors) => {
                let rank = rank.filter(|&k| k < factors.rank);
                let Some(rank) = rank else {
                    return (factors.clone(), 1.0);
                };
                let shape = (factors.d_out, factors.rank, factors.d_in);
                (
                    svd::truncate_factors(&factors.a, &factors.b, shape, rank),
                    factors.d_out,
                    factors.d_in,
                    rank,
                )
            }
            Self::Dense { data, d_out, d_in } => {
                let rank = rank.unwrap_or(fallback).min(*d_out).min(*d_in);
                (
                    svd::truncate_dense(data, *d_out, *d_in, rank),
                    *d_out,
                    *d_in,
                    rank,
                )
            }
        };
        let factors = Factors {
            a: truncated.a,
            b: truncated.b,
            rank,
            d_out,
            d_in,
        };
        (factors, truncated.energy_kept)
    }
}

/// What is to be merged.
pub struct MergeRequest {
    /// The base model's files.
    pub base: Folder,
    /// The adapters with their samples.
    pub adapters: Vec<AdapterInput>,
    /// How.
    pub options: MergeOptions,
}

/// Merges and writes: `adapter_config.json` and `adapter_model.safetensors` (or the base model's
/// `config.json` and `model.safetensors`), each adapter's heads under `heads/`, and `merge_report.json`.
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
    let model = model::open(base).await?;
    let adapters = work::read_adapters(adapters).await?;
    let tasks = work::tasks(&model, &adapters)?;
    let method = options.method.find();
    if method.needs_samples() {
        work::check_samples(&model, &adapters)?;
    }
    compute.meter.add_since(Stage::Load, start);
    let mut work = Work::new(&model, compute, tasks, &options, observer);
    if method.needs_samples() {
        complete_samples(&mut work, &adapters).await?;
    }
    let merged = method.merge(&work).await?;
    output::write(&work, merged, &adapters, sink).await
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
        let batches = micro_batches(&given, work.options.padding, 0, iteris::MICRO_BATCH_ROWS)?;
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

impl MethodName {
    fn find(self) -> &'static dyn Method {
        METHODS
            .iter()
            .find(|(name, _)| *name == self)
            .map_or(&average::Linear as &dyn Method, |(_, method)| *method)
    }
}
