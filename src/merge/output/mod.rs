//! Writing what a merge found: an adapter or a merged base model, heads, the model card and the report.

mod adapter;
mod base;
mod card;
mod copied;
mod cut;
mod extra;
mod layout;
mod metadata;
mod method;
mod paths;
mod text;

use std::collections::{BTreeMap, BTreeSet};

use sha2::{Digest, Sha256};

use self::card::{CARD_FILE, Card};
use super::{Change, Found, Method, OutputKind, Place, Plan, Target, Task, work::ReadAdapter};
use crate::{
    adapter::Adapter,
    compute::{Compute, Stage},
    error::{Code, Error, Result},
    io::{FileDigest, OutDtype, OutTensor, Sink, serialize},
    progress::{Observer, Progress},
    report::{
        AdapterReport, InputReport, LayerReport, MergeReport, Operations, SamplesReport, SelfReport,
        peak_bytes,
    },
    samples::AnswersFrom,
};

/// The name of the report.
const REPORT_FILE: &str = "merge_report.json";

/// What a result is made of, and described by.
pub(super) struct Inputs<'a> {
    pub(super) plan: &'a Plan<'a>,
    pub(super) method: &'static dyn Method,
    pub(super) base_path: Option<String>,
    pub(super) compute: &'a Compute,
    pub(super) observer: &'a dyn Observer,
    /// The tasks of a method that ran the model; else none.
    pub(super) tasks: Vec<Task>,
}

/// The merged changes, each made when it is wanted.
struct Results<'a> {
    plan: &'a Plan<'a>,
    method: &'static dyn Method,
    found: BTreeMap<String, Change>,
    /// The strings of every written header.
    metadata: BTreeMap<String, String>,
    compute: &'a Compute,
    observer: &'a dyn Observer,
}

impl Results<'_> {
    /// The merged change of one target.
    async fn change(&self, target: &Target) -> Result<Change> {
        match self.found.get(&target.name) {
            Some(change) => Ok(change.clone()),
            None => self.method.layer(&self.plan.layer(target).await?),
        }
    }

    /// The strings of a header beside those that a file of the base had.
    fn metadata_beside(&self, own: &BTreeMap<String, String>) -> BTreeMap<String, String> {
        metadata::beside(&self.metadata, own)
    }

    /// Tells what is being written; a place to cancel.
    async fn tell(&self, what: &str) -> Result<()> {
        let seconds = self.compute.meter.elapsed();
        self.observer.progress(writing(what, 1, seconds)).await
    }
}

/// The steps of writing.
fn writing(what: &str, done: usize, seconds: f64) -> Progress {
    Progress {
        stage: "write",
        layer: what.to_owned(),
        done,
        total: 3,
        seconds,
    }
}

/// Writes everything; see [`super::merge`].
pub(super) async fn write(inputs: &Inputs<'_>, found: Found, sink: &mut dyn Sink) -> Result<MergeReport> {
    let Inputs {
        plan,
        method,
        compute,
        observer,
        ..
    } = *inputs;
    let start = compute.meter.elapsed();
    let event = |layer: &str, done| writing(layer, done, compute.meter.elapsed());
    observer.progress(event("hashing the inputs", 0)).await?;
    let base = match plan.base.folder() {
        Some(folder) => Some(InputReport {
            name: folder.label().to_owned(),
            path: inputs.base_path.clone(),
            files: folder.sha256().await?,
        }),
        None => None,
    };
    observer.progress(event("the result", 1)).await?;
    let mut layers = found.layers;
    let results = Results {
        plan,
        method,
        found: found.changes,
        metadata: metadata::metadata(plan, base.as_ref())?,
        compute,
        observer,
    };
    for target in &plan.targets {
        if !layers.iter().any(|layer| layer.module == target.name) {
            layers.push(LayerReport::plain(&target.name, 0));
        }
    }
    let mut notes = Vec::new();
    let mut sink = Digesting {
        sink,
        files: Vec::new(),
    };
    match plan.options.output {
        OutputKind::Adapter => adapter::write(&results, &mut layers, &mut notes, &mut sink).await?,
        OutputKind::Base => base::write(&results, &mut layers, &mut sink).await?,
    }
    let dtype = plan.options.dtype.or(OutDtype::F32);
    for (index, read) in plan.adapters.iter().enumerate() {
        let merged = plan
            .targets
            .iter()
            .filter(|target| matches!(target.place, Place::Whole(_)));
        let merged: BTreeSet<&String> = merged
            .filter_map(|target| target.sources[index].as_ref())
            .collect();
        write_heads(&read.adapter, &merged, dtype, &results.metadata, &mut sink).await?;
    }
    notes.extend(sample_notes(inputs));
    observer.progress(event("the report", 2)).await?;
    compute.meter.add_since(Stage::Write, start);
    let mut report = MergeReport {
        version: 2,
        created_by: metadata::created_by(),
        options: plan.options.clone(),
        device: compute.name().to_owned(),
        base,
        adapters: plan
            .adapters
            .iter()
            .enumerate()
            .map(|(index, read)| adapter_report(read, inputs.tasks.get(index)))
            .collect(),
        layers,
        seconds: (&compute.meter).into(),
        operations: Operations {
            forward: compute.meter.operations(Stage::Forward),
            gram: compute.meter.operations(Stage::Gram),
        },
        peak_bytes: peak_bytes(),
        notes,
        output: Vec::new(),
    };
    let card = Card {
        plan,
        report: &report,
        written: &sink.digests(),
    };
    let card = card.text()?;
    sink.write(CARD_FILE, card.as_bytes()).await?;
    report.output = sink.digests();
    let text = json(&report)?;
    sink.write(REPORT_FILE, &text).await?;
    Ok(report)
}

/// What is to be told of the samples.
fn sample_notes(inputs: &Inputs<'_>) -> Vec<String> {
    let mut notes = Vec::new();
    for read in inputs.plan.adapters {
        let own = read.samples.iter().flat_map(|samples| &samples.notes);
        notes.extend(own.map(|note| format!("{}: {note}", read.adapter.name)));
        if read.samples.as_ref().is_some_and(|samples| samples.own.is_some()) {
            notes.push(format!(
                "{}: no samples were given; the adapter wrote its calibration texts itself",
                read.adapter.name
            ));
        }
        if let Some(samples) = read.samples.as_ref().filter(|samples| samples.truncated > 0) {
            let limit = match inputs.plan.base {
                crate::base::Base::Model(model) => Some(model.family.facts().max_length),
                crate::base::Base::Absent | crate::base::Base::Weights(_) => None,
            };
            notes.push(format!(
                "{}: {} of {} samples were longer than {} tokens and were cut",
                read.adapter.name,
                samples.truncated,
                samples.samples.len(),
                inputs.plan.options.max_length.or(limit).unwrap_or(0),
            ));
        }
    }
    notes
}

/// `heads/<adapter>.safetensors` with the tensors under their names in the base model, and the labels; without those
/// that are merged, the base's own.
async fn write_heads(
    adapter: &Adapter,
    merged: &BTreeSet<&String>,
    dtype: OutDtype,
    metadata: &BTreeMap<String, String>,
    sink: &mut dyn Sink,
) -> Result<()> {
    let stem = format!("heads/{}", file_name(&adapter.name));
    let own: Vec<_> = adapter
        .heads
        .iter()
        .filter(|(name, _)| !merged.contains(name))
        .collect();
    if !own.is_empty() {
        let tensors: Vec<OutTensor> = own
            .into_iter()
            .map(|(name, head)| OutTensor {
                name: name.clone(),
                shape: head.shape.clone(),
                data: head.data.clone(),
            })
            .collect();
        sink.write(
            &format!("{stem}.safetensors"),
            &serialize(&tensors, dtype, metadata)?,
        )
        .await?;
    }
    if let Some(labels) = &adapter.labels {
        sink.write(&format!("{stem}.labels.json"), &json(labels)?).await?;
    }
    Ok(())
}

/// A name that is a file name everywhere.
fn file_name(name: &str) -> String {
    let safe = |c: char| {
        if c.is_alphanumeric() || matches!(c, '-' | '_' | '.' | ' ') {
            c
        } else {
            '-'
        }
    };
    let name: String = name.chars().map(safe).collect();
    let trimmed = name.trim_matches(['.', ' ']);
    if trimmed.is_empty() {
        "adapter".into()
    } else {
        trimmed.to_owned()
    }
}

fn adapter_report(read: &ReadAdapter, task: Option<&Task>) -> AdapterReport {
    AdapterReport {
        name: read.adapter.name.clone(),
        path: read.path.clone(),
        weight: read.weight,
        rank: read
            .adapter
            .modules
            .values()
            .map(|lora| lora.rank)
            .max()
            .unwrap_or(0),
        files: read.files.clone(),
        samples: read.samples.as_ref().map(|given| {
            // A method that needs no samples has not made them complete.
            let complete = task.filter(|task| !task.samples.is_empty());
            let samples = complete.map_or(&given.samples, |task| &task.samples);
            let mut hash = Sha256::new();
            for sample in samples {
                for ids in [&sample.ids, &sample.targets] {
                    if ids.is_empty() {
                        continue;
                    }
                    hash.update((ids.len() as u64).to_le_bytes());
                    ids.iter().for_each(|id| hash.update(id.to_le_bytes()));
                }
            }
            SamplesReport {
                source: given.source.clone(),
                path: given.path.clone(),
                count: samples.len(),
                truncated: given.truncated,
                tokens: samples
                    .iter()
                    .map(|sample| sample.ids.len() + sample.targets.len())
                    .sum(),
                answers: task.map_or(AnswersFrom::None, |task| task.answers),
                answer_tokens: task.map_or(0, |task| task.answer_tokens),
                own: given.own.as_ref().map(|own| SelfReport {
                    count: own.count,
                    max_new_tokens: own.sampling.max_new_tokens,
                    temperature: own.sampling.temperature,
                    top_p: own.sampling.top_p,
                    seed: own.sampling.seed,
                    prompt_tokens: own.prompt.len(),
                    prompt: own.text.clone(),
                }),
                sha256: hex(&hash.finalize()),
            }
        }),
    }
}

fn json(value: &impl serde::Serialize) -> Result<Vec<u8>> {
    let mut text = serde_json::to_vec_pretty(value).map_err(|error| {
        Error::new(
            Code::Internal,
            format!("a result cannot be written as JSON: {error}"),
        )
    })?;
    text.push(b'\n');
    Ok(text)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A sink that hashes what passes through it.
struct Digesting<'a> {
    sink: &'a mut dyn Sink,
    files: Vec<(String, u64, Sha256)>,
}

impl Digesting<'_> {
    fn digests(&self) -> Vec<FileDigest> {
        let digest = |(name, bytes, hash): &(String, u64, Sha256)| FileDigest {
            name: name.clone(),
            bytes: *bytes,
            sha256: hex(&hash.clone().finalize()),
        };
        self.files.iter().map(digest).collect()
    }
}

#[async_trait::async_trait(?Send)]
impl Sink for Digesting<'_> {
    async fn write(&mut self, file: &str, bytes: &[u8]) -> Result<()> {
        if self.files.last().is_none_or(|(name, ..)| name != file) {
            self.files.push((file.to_owned(), 0, Sha256::new()));
        }
        if let Some((_, count, hash)) = self.files.last_mut() {
            *count += bytes.len() as u64;
            hash.update(bytes);
        }
        self.sink.write(file, bytes).await
    }
}
