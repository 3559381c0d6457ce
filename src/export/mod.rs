//! Writing what a merge found: an adapter or a merged base model, heads, the model card and the report.

mod adapter;
mod base;
mod card;
mod copied;
mod extra;
mod file;
mod layout;
mod metadata;
mod method;
pub mod report;
mod source;
mod spool;
mod text;
mod whole;

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Range,
};

use sha2::{Digest, Sha256};

use crate::{
    adapter::{Adapter, Format},
    binding::{Base, Binding, Place, ReadAdapter},
    calibrate::{AnswersFrom, TaskSamples},
    compute::{Compute, Stage, peak_bytes},
    error::{Code, Error, Result},
    export::{
        card::{CARD_FILE, Card},
        report::{AdapterReport, InputReport, MergeReport, Operations, SamplesReport, SelfReport},
        spool::SPOOL_FILE,
    },
    io::{FileDigest, OutDtype, Sink, StreamHeader, StreamWriter, encode},
    merge::{
        context::Task,
        methods::Method,
        options::{MergeOptions, OutputKind, Ranks},
        solution::Solution,
        truncate::Truncated,
    },
    model::batch::{Input, StreamInput},
    progress::{Observer, Pace, Progress},
};

/// The name of the report.
const REPORT_FILE: &str = "merge_report.json";

/// What a result is described by, beside its layers.
pub struct Inputs<'a> {
    /// Where the base is, as a recipe finds it again.
    pub base_path: Option<String>,
    /// Why the device was chosen, where the caller left it open.
    pub device_why: Option<String>,
    /// By adapter: its samples as they were given.
    pub samples: &'a [Option<TaskSamples>],
    /// The tasks of a method that ran the model; else none.
    pub tasks: Vec<Task>,
}

/// What every written file needs to know.
struct Writing<'a> {
    binding: &'a Binding<'a>,
    options: &'a MergeOptions,
    method: &'static dyn Method,
    /// The strings of every written header.
    metadata: BTreeMap<String, String>,
    compute: &'a Compute,
    observer: &'a dyn Observer,
}

impl Writing<'_> {
    /// Whose adapter files are written.
    fn format(&self) -> Format {
        format_of(self.binding, self.options)
    }

    /// The strings of a header beside those that a file of the base had.
    fn metadata_beside(&self, own: &BTreeMap<String, String>) -> BTreeMap<String, String> {
        metadata::beside(&self.metadata, own)
    }

    /// Notes how much of the file at hand is written, for whoever tells of progress.
    fn written(&self, bytes: u64, total: u64) {
        self.compute.meter.set_written(bytes, total);
    }

    /// Tells what is being written while `done` of all layers are; a place to cancel.
    async fn tell(&self, what: &str, done: usize) -> Result<()> {
        let progress = Progress {
            stage: "write",
            layer: what.to_owned(),
            done,
            total: self.binding.sites.len(),
            seconds: self.compute.meter.elapsed(),
            written: self.compute.meter.written(),
        };
        self.observer.progress(progress).await
    }
}

/// Whose adapter files are written.
fn format_of(binding: &Binding<'_>, options: &MergeOptions) -> Format {
    let formats = binding.adapters.iter().map(|read| read.adapter.format);
    options.format.of(formats)
}

/// Whether all modules of an adapter are written with one rank.
fn has_one_rank(binding: &Binding<'_>, options: &MergeOptions) -> bool {
    match options.ranks {
        Ranks::Auto => format_of(binding, options) == Format::Peft,
        Ranks::Uniform => true,
        Ranks::PerLayer => false,
    }
}

/// The element type of an adapter's tensors: the caller's, or the widest of the adapters'.
pub fn dtype_of(binding: &Binding<'_>, options: &MergeOptions) -> OutDtype {
    let own = binding.adapters.iter().map(|read| read.adapter.widest);
    options
        .dtype
        .or(own.reduce(OutDtype::or_wider).unwrap_or(OutDtype::F32))
}

/// Writes a finished solution: `adapter_config.json` and `adapter_model.safetensors` (or the base model in the files
/// that it came in, with its configuration and tokenizer), each adapter's heads under `heads/`, the model card
/// `README.md`, and `merge_report.json`.
///
/// # Errors
/// Whatever reading the base, solving a layer or the sink reports.
pub async fn write(
    inputs: &Inputs<'_>,
    mut layers: Truncated<'_>,
    sink: &mut dyn Sink,
) -> Result<MergeReport> {
    let &Solution {
        binding,
        options,
        method,
        compute,
        observer,
        ..
    } = layers.solution();
    let start = compute.meter.elapsed();
    let hashing = Progress::single("load", "hashing the inputs", start);
    observer.progress(hashing.clone()).await?;
    let now = || compute.meter.elapsed();
    let pace = Pace::new(observer, &now, hashing);
    let base = match binding.base.folder() {
        Some(folder) => Some(InputReport {
            name: folder.label().to_owned(),
            path: inputs.base_path.clone(),
            files: folder.sha256(&pace).await?,
        }),
        None => None,
    };
    let out = Writing {
        binding,
        options,
        method,
        metadata: metadata::metadata(binding, options, base.as_ref())?,
        compute,
        observer,
    };
    let mut reports = BTreeMap::new();
    let mut notes = Vec::new();
    let mut sink = Digesting {
        sink,
        files: Vec::new(),
    };
    match options.output {
        OutputKind::Adapter => adapter::write(&out, &mut layers, &mut reports, &mut notes, &mut sink).await?,
        OutputKind::Base => base::write(&out, &mut layers, &mut reports, &mut sink).await?,
    }
    let sites = binding.sites.iter();
    let reports = layers
        .solution()
        .in_order(sites.filter_map(|site| reports.remove(&site.name)));
    let dtype = dtype_of(binding, options);
    for (index, read) in binding.adapters.iter().enumerate() {
        let merged = binding
            .sites
            .iter()
            .filter(|site| matches!(site.place, Place::Whole(_)));
        let merged: BTreeSet<&String> = merged.filter_map(|site| site.sources[index].as_ref()).collect();
        write_heads(&read.adapter, &merged, dtype, &out.metadata, &mut sink).await?;
    }
    notes.extend(layers.note());
    notes.extend(binding.notes());
    notes.extend(sample_notes(&out, inputs.samples));
    out.tell("the report", binding.sites.len()).await?;
    compute.meter.add_since(Stage::Write, start);
    let mut report = MergeReport {
        version: 2,
        created_by: metadata::created_by(),
        options: options.clone(),
        device: compute.name().to_owned(),
        device_why: inputs.device_why.clone(),
        workers: 1 + compute.started().map_or(0, |(_, count)| count),
        base,
        adapters: binding
            .adapters
            .iter()
            .enumerate()
            .map(|(index, read)| {
                let given = inputs.samples.get(index).and_then(Option::as_ref);
                adapter_report(read, given, inputs.tasks.get(index))
            })
            .collect(),
        layers: reports,
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
        binding,
        options,
        report: &report,
        written: &sink.digests().await?,
    };
    let card = card.text()?;
    sink.write(CARD_FILE, card.as_bytes()).await?;
    report.output = sink.digests().await?;
    let text = json(&report)?;
    sink.write(REPORT_FILE, &text).await?;
    Ok(report)
}

/// What is to be told of the samples.
fn sample_notes(out: &Writing<'_>, samples: &[Option<TaskSamples>]) -> Vec<String> {
    let mut notes = Vec::new();
    for (read, samples) in out.binding.adapters.iter().zip(samples) {
        let own = samples.iter().flat_map(|samples| &samples.notes);
        notes.extend(own.map(|note| format!("{}: {note}", read.adapter.name)));
        if samples.as_ref().is_some_and(|samples| samples.own.is_some()) {
            notes.push(format!(
                "{}: no samples were given; the adapter wrote its calibration texts itself",
                read.adapter.name
            ));
        }
        if let Some(samples) = samples.as_ref().filter(|samples| samples.truncated > 0) {
            let limit = match out.binding.base {
                Base::Model(model) => Some(model.family.facts().max_length),
                Base::Absent | Base::Weights(_) => None,
            };
            notes.push(format!(
                "{}: {} of {} samples were longer than {} tokens and were cut",
                read.adapter.name,
                samples.truncated,
                samples.samples.len(),
                out.options.max_length.or(limit).unwrap_or(0),
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
        let entries = own
            .iter()
            .map(|(name, head)| ((*name).clone(), dtype.into(), head.shape.clone()));
        let header = StreamHeader::new(entries, metadata)?;
        let mut writer = StreamWriter::begin(sink, &format!("{stem}.safetensors"), header);
        // Of one type they are written in the order of their names, which is that of the map.
        for (name, head) in own {
            let data = head.load().await;
            let data = data.map_err(|error| error.about(&format!("adapter \"{}\"", adapter.name)))?;
            writer.write(name, &encode(name, &data, dtype)?).await?;
        }
        writer.finish().await?;
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

fn adapter_report(read: &ReadAdapter, given: Option<&TaskSamples>, task: Option<&Task>) -> AdapterReport {
    AdapterReport {
        name: read.adapter.name.clone(),
        path: read.path.clone(),
        weight: read.weight,
        rank: read
            .adapter
            .modules
            .values()
            .map(|module| module.rank)
            .max()
            .unwrap_or(0),
        files: read.files.clone(),
        samples: given.map(|given| {
            // A method that needs no samples has not made them complete.
            let complete = task.filter(|task| !task.samples.is_empty());
            let samples = complete.map_or(&given.samples, |task| &task.samples);
            let mut hash = Sha256::new();
            for input in samples.iter().flat_map(|sample| &sample.inputs) {
                update(&mut hash, &input.input);
            }
            SamplesReport {
                source: given.source.clone(),
                path: given.path.clone(),
                count: samples.len(),
                truncated: given.truncated,
                tokens: samples.iter().flat_map(|sample| &sample.inputs).map(tokens).sum(),
                answers: task.map_or(AnswersFrom::None, |task| task.answers),
                answer_tokens: task.map_or(0, |task| task.answer_tokens),
                own: given.own.as_ref().map(|own| SelfReport {
                    count: own.options.count,
                    max_new_tokens: own.options.max_new_tokens,
                    temperature: own.options.temperature,
                    top_p: own.options.top_p,
                    seed: own.options.seed,
                    prompt_tokens: own.prompt.len(),
                    prompt: own.text.clone(),
                }),
                sha256: hex(&hash.finalize()),
            }
        }),
    }
}

/// How many tokens an input is.
const fn tokens(given: &StreamInput) -> usize {
    match &given.input {
        Input::Tokens { ids, .. } => ids.len(),
        Input::Grid(_) | Input::Rows { .. } => 0,
    }
}

/// Adds an input to a hash: a length or lengths as u64, then token ids as u32 or numbers as f32, all little-endian.
fn update(hash: &mut Sha256, input: &Input) {
    let mut lengths = |lengths: &[usize]| {
        lengths
            .iter()
            .for_each(|length| hash.update((*length as u64).to_le_bytes()));
    };
    match input {
        Input::Tokens { ids, .. } if ids.is_empty() => {}
        Input::Tokens { ids, .. } => {
            lengths(&[ids.len()]);
            ids.iter().for_each(|id| hash.update(id.to_le_bytes()));
        }
        Input::Grid(pixels) => {
            lengths(&[pixels.channels, pixels.height, pixels.width]);
            pixels.data.iter().for_each(|x| hash.update(x.to_le_bytes()));
        }
        Input::Rows { width, data } => {
            lengths(&[*width]);
            data.iter().for_each(|x| hash.update(x.to_le_bytes()));
        }
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

/// A sink that hashes what passes through it, where the one behind it does not.
struct Digesting<'a> {
    sink: &'a mut dyn Sink,
    files: Vec<(String, u64, Sha256)>,
}

impl Digesting<'_> {
    async fn digests(&mut self) -> Result<Vec<FileDigest>> {
        let own = self.sink.hashes();
        let mut digests = Vec::with_capacity(self.files.len());
        for (name, bytes, hash) in &self.files {
            digests.push(FileDigest {
                name: name.clone(),
                bytes: *bytes,
                sha256: if own {
                    self.sink.own_sha256(name).await?
                } else {
                    hex(&hash.clone().finalize())
                },
            });
        }
        Ok(digests)
    }
}

#[async_trait::async_trait(?Send)]
impl Sink for Digesting<'_> {
    async fn write(&mut self, file: &str, bytes: &[u8]) -> Result<()> {
        if file == SPOOL_FILE {
            return self.sink.write(file, bytes).await;
        }
        if self.files.last().is_none_or(|(name, ..)| name != file) {
            self.files.push((file.to_owned(), 0, Sha256::new()));
        }
        let own = self.sink.hashes();
        if let Some((_, count, hash)) = self.files.last_mut() {
            *count += bytes.len() as u64;
            if !own {
                hash.update(bytes);
            }
        }
        self.sink.write(file, bytes).await
    }

    async fn read(&mut self, file: &str, range: Range<u64>) -> Result<Vec<u8>> {
        self.sink.read(file, range).await
    }

    async fn remove(&mut self, file: &str) -> Result<()> {
        self.sink.remove(file).await
    }
}
