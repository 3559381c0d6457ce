//! Writing what a merge found: a PEFT adapter or a merged base model, heads, and the report.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;
use sha2::{Digest, Sha256};

use super::{Factors, Merged, OutputKind, Solution, Task, Work, work::ReadAdapter};
use crate::{
    adapter::{Adapter, CONFIG_FILE, Lora, WEIGHTS_FILE, adapter_tensors, merged_config, suffix_targets},
    compute::Stage,
    error::{Code, Error, Result},
    io::{FileDigest, OutDtype, OutTensor, Sink, StreamHeader, StreamWriter, encode, serialize},
    model::Module,
    progress::Progress,
    report::{
        AdapterReport, InputReport, LayerReport, MergeReport, Operations, SamplesReport, SelfReport,
        peak_bytes,
    },
};

/// The name of the report.
const REPORT_FILE: &str = "merge_report.json";

/// Writes everything; see [`super::merge`].
pub(super) async fn write(
    work: &Work<'_>,
    merged: Merged,
    adapters: &[ReadAdapter],
    sink: &mut dyn Sink,
) -> Result<MergeReport> {
    let start = work.compute.meter.elapsed();
    let event = |layer: &str, done| Progress {
        stage: "write",
        layer: layer.to_owned(),
        done,
        total: 3,
        seconds: work.compute.meter.elapsed(),
    };
    work.observer.progress(event("hashing the inputs", 0)).await?;
    let base = InputReport {
        name: work.model.folder.label().to_owned(),
        files: work.model.folder.sha256().await?,
    };
    work.observer.progress(event("the result", 1)).await?;
    let Merged {
        solutions,
        mut layers,
    } = merged;
    let mut notes = Vec::new();
    let mut sink = Digesting {
        sink,
        files: Vec::new(),
    };
    match work.options.output {
        OutputKind::Adapter => {
            write_adapter(work, solutions, &mut layers, adapters, &mut notes, &mut sink).await?;
        }
        OutputKind::Base => write_base(work, solutions, &mut sink).await?,
    }
    for read in adapters {
        write_heads(&read.adapter, work.options.dtype, &mut sink).await?;
    }
    for read in adapters {
        let own = read.samples.iter().flat_map(|samples| &samples.notes);
        notes.extend(own.map(|note| format!("{}: {note}", read.adapter.name)));
        if read.samples.as_ref().is_some_and(|samples| samples.own.is_some()) {
            notes.push(format!(
                "{}: no samples were given; the adapter wrote its calibration texts itself",
                read.adapter.name
            ));
        }
        if let Some(samples) = read.samples.as_ref().filter(|samples| samples.truncated > 0) {
            notes.push(format!(
                "{}: {} of {} samples were longer than {} tokens and were cut",
                read.adapter.name,
                samples.truncated,
                samples.samples.len(),
                work.options
                    .max_length
                    .unwrap_or_else(|| work.model.family.facts().max_length),
            ));
        }
    }
    work.observer.progress(event("the report", 2)).await?;
    work.compute.meter.add_since(Stage::Write, start);
    let report = MergeReport {
        version: 1,
        created_by: format!("iteris-web {}", env!("CARGO_PKG_VERSION")),
        options: work.options.clone(),
        device: work.compute.name().to_owned(),
        base,
        adapters: adapters.iter().zip(&work.tasks).map(adapter_report).collect(),
        layers,
        seconds: (&work.compute.meter).into(),
        operations: Operations {
            forward: work.compute.meter.operations(Stage::Forward),
            gram: work.compute.meter.operations(Stage::Gram),
        },
        peak_bytes: peak_bytes(),
        notes,
        output: sink.digests(),
    };
    let text = json(&report)?;
    sink.write(REPORT_FILE, &text).await?;
    Ok(report)
}

async fn write_adapter(
    work: &Work<'_>,
    solutions: BTreeMap<String, Solution>,
    layers: &mut [LayerReport],
    adapters: &[ReadAdapter],
    notes: &mut Vec<String>,
    sink: &mut dyn Sink,
) -> Result<()> {
    // The exact rank of a sum of the adapters, which is what a dense solution is cut to by default.
    let exact = work.modules.iter().map(|module| {
        work.tasks
            .iter()
            .filter_map(|task| task.deltas.get(&module.name))
            .map(|factors| factors.rank)
            .sum()
    });
    let exact: usize = exact.max().unwrap_or(1);
    let mut found: BTreeMap<String, Factors> = BTreeMap::new();
    for (name, solution) in solutions {
        let (factors, kept) = solution.factors(work.options.rank, exact);
        if let Some(layer) = layers.iter_mut().find(|layer| layer.module == name) {
            layer.rank = factors.rank;
            layer.energy_kept = Some(kept);
        }
        found.insert(name, factors);
    }
    // One rank for all modules, so that programs which know no `rank_pattern` load the adapter too.
    let rank = found.values().map(|factors| factors.rank).max().unwrap_or(1);
    if found.values().any(|factors| factors.rank < rank) {
        notes.push(format!(
            "modules of a smaller rank are filled with zeros up to rank {rank}, so that all have one rank"
        ));
    }
    let paths = Paths::of(work, adapters);
    let modules: BTreeMap<String, Lora> = found
        .into_iter()
        .map(|(name, factors)| {
            let Factors {
                a,
                b,
                rank,
                d_out,
                d_in,
            } = factors.padded(rank);
            (
                paths.path(&name),
                Lora {
                    a,
                    b,
                    rank,
                    d_in,
                    d_out,
                    scaling: 1.0,
                },
            )
        })
        .collect();

    let all = paths.all(work);
    let all: Vec<&str> = all.iter().map(String::as_str).collect();
    let names: Vec<&str> = modules.keys().map(String::as_str).collect();
    let ranks = modules.keys().map(|name| (name.clone(), rank)).collect();
    let read: Vec<&Adapter> = adapters.iter().map(|read| &read.adapter).collect();
    let mut config = merged_config(&read, &ranks, &suffix_targets(&names, &all));
    // What PEFT itself sets when it puts an adapter on such layers, or on others.
    config["fan_in_fan_out"] = work.modules.iter().any(|module| module.transposed).into();
    let weights = serialize(&adapter_tensors(&modules), work.options.dtype, &metadata())?;
    sink.write(CONFIG_FILE, &json(&config)?).await?;
    sink.write(WEIGHTS_FILE, &weights).await
}

/// Names of modules as the adapters have them: behind the prefix of the class that they were trained with.
struct Paths {
    /// The first adapter's prefix of the model's own modules, e.g. `bert.`.
    prefix: String,
    /// Modules that lie outside the class that the prefix names: layers of a head.
    outside: BTreeSet<String>,
}

impl Paths {
    fn of(work: &Work<'_>, adapters: &[ReadAdapter]) -> Self {
        let family = &work.model.family;
        let mut paths = Self {
            prefix: String::new(),
            outside: BTreeSet::new(),
        };
        for (index, read) in adapters.iter().enumerate() {
            let prefix_of = |path: &String| path[..path.len() - family.canonical(path).len()].to_owned();
            let modules = &read.adapter.modules;
            let prefix = modules
                .keys()
                .map(prefix_of)
                .max_by_key(String::len)
                .unwrap_or_default();
            if !prefix.is_empty() {
                let bare = modules.keys().filter(|path| prefix_of(path).is_empty());
                paths.outside.extend(bare.cloned());
            }
            if index == 0 {
                paths.prefix = prefix;
            }
        }
        paths
    }

    /// The path of a module of the model.
    fn path(&self, name: &str) -> String {
        if self.outside.contains(name) {
            return name.to_owned();
        }
        format!("{}{name}", self.prefix)
    }

    /// The paths of every linear layer that PEFT may find in the model: those an adapter may target, and
    /// whatever else the checkpoint or a task's head has a matrix for.
    fn all(&self, work: &Work<'_>) -> Vec<String> {
        let family = &work.model.family;
        let known: BTreeSet<&str> = family
            .modules()
            .iter()
            .map(|module| module.name.as_str())
            .collect();
        let stored = work
            .model
            .checkpoint
            .names()
            .filter_map(|name| Some(family.canonical(name.strip_suffix(".weight")?)));
        let heads = family.readouts().iter().copied().chain(family.readouts_need());
        let others = stored.chain(heads).filter(|name| !known.contains(name));
        let others: Vec<String> = others.map(str::to_owned).collect();
        known.iter().map(|name| self.path(name)).chain(others).collect()
    }
}

async fn write_base(
    work: &Work<'_>,
    solutions: BTreeMap<String, Solution>,
    sink: &mut dyn Sink,
) -> Result<()> {
    let checkpoint = &work.model.checkpoint;
    let mut config = work.model.config.clone();
    if let Some(fields) = config.as_object_mut() {
        let dtype = if work.options.dtype == OutDtype::F16 {
            "float16"
        } else {
            "float32"
        };
        for name in ["torch_dtype", "dtype"] {
            if fields.contains_key(name) {
                fields.insert(name.to_owned(), dtype.into());
            }
        }
    }
    sink.write("config.json", &json(&config)?).await?;
    // Without it a model begins or ends what it writes in another way (BART's first token).
    let generation: Option<Value> = work.model.folder.read_json("generation_config.json").await?;
    if let Some(generation) = generation {
        sink.write("generation_config.json", &json(&generation)?).await?;
    }
    let entries = checkpoint.infos().map(|info| {
        let dtype = if info.is_float() {
            work.options.dtype.into()
        } else {
            info.dtype
        };
        (info.name.clone(), dtype, info.shape.clone())
    });
    let header = StreamHeader::new(entries, &metadata())?;
    let order: Vec<String> = header.tensors().map(|(name, _)| name.to_owned()).collect();
    let deltas: BTreeMap<&str, (&Module, &Solution)> = work
        .modules
        .iter()
        .filter_map(|&module| Some((module.key.as_str(), (module, solutions.get(&module.name)?))))
        .collect();
    let mut writer = StreamWriter::begin(sink, "model.safetensors", header).await?;
    for name in order {
        let info = checkpoint.require(&name)?;
        if !info.is_float() {
            writer.write(&name, &checkpoint.bytes(&name).await?).await?;
            continue;
        }
        let mut data = checkpoint.f32(&name).await?;
        if let Some((module, solution)) = deltas.get(name.as_str()) {
            let delta = match solution {
                Solution::Factors(factors) => factors.dense(),
                Solution::Dense { data, .. } => data.clone(),
            };
            let delta = module.stored(delta);
            data.iter_mut().zip(delta).for_each(|(w, d)| *w += d);
        }
        writer
            .write(&name, &encode(&name, &data, work.options.dtype)?)
            .await?;
    }
    writer.finish()
}

/// `heads/<adapter>.safetensors` with the tensors under their names in the base model, and the labels.
async fn write_heads(adapter: &Adapter, dtype: OutDtype, sink: &mut dyn Sink) -> Result<()> {
    let stem = format!("heads/{}", file_name(&adapter.name));
    if !adapter.heads.is_empty() {
        let tensors: Vec<OutTensor> = adapter
            .heads
            .iter()
            .map(|(name, head)| OutTensor {
                name: name.clone(),
                shape: head.shape.clone(),
                data: head.data.clone(),
            })
            .collect();
        sink.write(
            &format!("{stem}.safetensors"),
            &serialize(&tensors, dtype, &metadata())?,
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

fn adapter_report((read, task): (&ReadAdapter, &Task)) -> AdapterReport {
    AdapterReport {
        name: read.adapter.name.clone(),
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
            let samples = if task.samples.is_empty() {
                &given.samples
            } else {
                &task.samples
            };
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
                count: samples.len(),
                truncated: given.truncated,
                tokens: samples
                    .iter()
                    .map(|sample| sample.ids.len() + sample.targets.len())
                    .sum(),
                answers: task.answers,
                answer_tokens: task.answer_tokens,
                own: given.own.as_ref().map(|own| SelfReport {
                    count: own.count,
                    max_new_tokens: own.sampling.max_new_tokens,
                    temperature: own.sampling.temperature,
                    top_p: own.sampling.top_p,
                    seed: own.sampling.seed,
                    prompt_tokens: own.prompt.len(),
                }),
                sha256: hex(&hash.finalize()),
            }
        }),
    }
}

fn metadata() -> BTreeMap<String, String> {
    BTreeMap::from([("format".to_owned(), "pt".to_owned())])
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
