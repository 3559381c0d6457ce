//! An adapter's folder, read into factors and heads, with every tensor accounted for.
//!
//! The thing that can go wrong is a tensor that is silently left out: then the merge is of less than
//! the adapter. Each one ends up in a factor, in a head, or in an error.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::keys::{Key, Side, is_embedding, is_saved};
use super::{Adapter, AdapterConfig, CONFIG_FILE, Format, HeadTensor, Lora, labels, most};
use crate::error::{Code, Error, Result};
use crate::io::{Checkpoint, Dtype, Folder, TensorInfo, parse_json};

/// How many tensors an error lists by name.
const LISTED: usize = 20;

/// The tensors of a file by what they are, as names in the file.
#[derive(Default)]
struct Sorted {
    factors: BTreeMap<String, BTreeMap<Side, String>>,
    heads: BTreeMap<String, String>,
}

impl Adapter {
    /// Reads the adapter in a folder as PEFT saved it; messages and reports call it `name`.
    ///
    /// # Errors
    /// `missing` for an absent file or factor, `config_invalid` and `adapter_unsupported` as
    /// [`AdapterConfig::parse`], `shape_mismatch` for factors that do not fit each other or the
    /// configuration's rank, `tensors_unaccounted` listing tensors that are neither factors nor heads;
    /// whatever reading safetensors gives.
    pub async fn read(name: &str, folder: &Folder) -> Result<Self> {
        let file = folder.require(CONFIG_FILE)?;
        let config = AdapterConfig::parse(&parse_json::<Value>(file.as_ref()).await?, file.name())?;
        let checkpoint = Checkpoint::open(folder, "adapter_model").await?;
        let sorted = sort(&checkpoint, &config)?;

        let mut modules = BTreeMap::new();
        for (module, sides) in &sorted.factors {
            modules.insert(
                module.clone(),
                factors(&checkpoint, &config, module, sides).await?,
            );
        }
        let mut heads = BTreeMap::new();
        for (head, tensor) in &sorted.heads {
            let shape = checkpoint.require(tensor)?.shape.clone();
            heads.insert(
                head.clone(),
                HeadTensor {
                    shape,
                    data: checkpoint.f32(tensor).await?,
                },
            );
        }
        let dtypes = sorted.factors.values().flat_map(BTreeMap::values);
        let dtype = most(
            dtypes
                .filter_map(|tensor| checkpoint.info(tensor))
                .map(|info| info.dtype),
        );
        Ok(Self {
            name: name.to_owned(),
            format: Format::Peft,
            labels: labels::read(folder, &heads).await?,
            config,
            modules,
            heads,
            biases: BTreeMap::new(),
            tokens: BTreeMap::new(),
            dtype: dtype.unwrap_or(Dtype::F32),
            bytes: checkpoint.file_bytes(),
        })
    }
}

/// Gives every tensor its place, or refuses the file.
fn sort(checkpoint: &Checkpoint, config: &AdapterConfig) -> Result<Sorted> {
    let file = checkpoint.sources().first().map_or("", |source| source.name());
    let mut sorted = Sorted::default();
    let mut adapters = BTreeSet::new();
    let mut refused = Vec::new();
    let mut unaccounted = Vec::new();
    let saved = saved_modules(config);
    for tensor in checkpoint.names() {
        let twice = match Key::of(tensor) {
            Key::Factor {
                module,
                side,
                adapter,
            } => {
                adapters.extend(adapter);
                sorted
                    .factors
                    .entry(module)
                    .or_default()
                    .insert(side, tensor.to_owned())
            }
            Key::Refused(what) => {
                refused.push(format!("{tensor} ({what})"));
                None
            }
            Key::Saved { name, .. } | Key::Other(name) if is_embedding(&name) => {
                refused.push(format!("{tensor} (an embedding saved with the adapter)"));
                None
            }
            Key::Saved { name, adapter } => {
                adapters.extend(adapter);
                sorted.heads.insert(name, tensor.to_owned())
            }
            Key::Other(name) if is_saved(&name, &saved) => sorted.heads.insert(name, tensor.to_owned()),
            Key::Other(_) => {
                unaccounted.push(tensor.to_owned());
                None
            }
        };
        if let Some(other) = twice {
            return Err(Error::new(
                Code::Duplicate,
                format!("{file} holds the same tensor of a module under two names: {other}, {tensor}"),
            ));
        }
    }
    if adapters.len() > 1 {
        let names: Vec<String> = adapters.into_iter().collect();
        return Err(Error::new(
            Code::AdapterUnsupported,
            format!(
                "A file holds several adapters ({}); save each in its own folder: {file}",
                names.join(", ")
            ),
        ));
    }
    if !refused.is_empty() {
        return Err(Error::new(
            Code::AdapterUnsupported,
            format!(
                "{file} holds more than the factors of linear layers, which merging would lose; train without these: {}",
                list(&refused)
            ),
        ));
    }
    if !unaccounted.is_empty() {
        return Err(Error::new(
            Code::TensorsUnaccounted,
            format!(
                "{file} holds tensors that are neither LoRA factors nor of modules_to_save; save the adapter again with PEFT: {}",
                list(&unaccounted)
            ),
        ));
    }
    if sorted.factors.is_empty() {
        return Err(Error::new(
            Code::Missing,
            format!("There are no LoRA factors (lora_A, lora_B) in it; is this an adapter?: {file}"),
        ));
    }
    Ok(sorted)
}

/// The modules that PEFT saves whole: those named, and the heads it adds for a task.
fn saved_modules(config: &AdapterConfig) -> Vec<&str> {
    let of_task: &[&str] = match config.task_type.as_deref() {
        Some("SEQ_CLS" | "TOKEN_CLS") => &["classifier", "score"],
        Some("QUESTION_ANS") => &["qa_outputs"],
        _ => &[],
    };
    config
        .modules_to_save
        .iter()
        .map(String::as_str)
        .chain(of_task.iter().copied())
        .collect()
}

/// Reads the two factors of a module and checks that they fit each other and the configuration.
async fn factors(
    checkpoint: &Checkpoint,
    config: &AdapterConfig,
    module: &str,
    sides: &BTreeMap<Side, String>,
) -> Result<Lora> {
    let (Some(a), Some(b)) = (sides.get(&Side::A), sides.get(&Side::B)) else {
        let (there, absent) = if sides.contains_key(&Side::A) {
            ("lora_A", "lora_B")
        } else {
            ("lora_B", "lora_A")
        };
        return Err(Error::new(
            Code::Missing,
            format!("A module has a {there} but no {absent}; save the adapter again with PEFT: {module}"),
        ));
    };
    let (rank, d_in) = matrix(checkpoint.require(a)?)?;
    let (d_out, rank_of_b) = matrix(checkpoint.require(b)?)?;
    let expected = config.rank_of(module);
    if rank != expected {
        return Err(Error::new(
            Code::ShapeMismatch,
            format!(
                "lora_A has rank {rank}, but the configuration's r and rank_pattern say {expected}; config and weights are of different adapters: {module}"
            ),
        ));
    }
    if rank_of_b != rank {
        return Err(Error::new(
            Code::ShapeMismatch,
            format!("lora_A has rank {rank}, but lora_B has rank {rank_of_b}; the file is damaged: {module}"),
        ));
    }
    Ok(Lora {
        a: checkpoint.f32(a).await?,
        b: checkpoint.f32(b).await?,
        rank,
        d_in,
        d_out,
        scaling: config.scaling_of(module),
        ..Lora::default()
    })
}

/// Rows and columns of a factor of a linear layer.
fn matrix(info: &TensorInfo) -> Result<(usize, usize)> {
    match *info.shape {
        [rows, columns] if rows > 0 && columns > 0 => Ok((rows, columns)),
        [_, _, _, ..] => Err(Error::new(
            Code::AdapterUnsupported,
            format!(
                "A convolution's factor, of shape {:?}, is not merged: {}",
                info.shape, info.name
            ),
        )),
        _ => Err(Error::new(
            Code::ShapeMismatch,
            format!(
                "A factor has shape {:?}, which is no matrix; if it was trained with ZeRO or FSDP, gather its weights before saving: {}",
                info.shape, info.name
            ),
        )),
    }
}

/// Names for a message, cut to a readable number.
fn list(names: &[String]) -> String {
    let listed = names
        .iter()
        .take(LISTED)
        .map(String::as_str)
        .collect::<Vec<_>>()
        .join(", ");
    match names.len().checked_sub(LISTED) {
        Some(more) if more > 0 => format!("{listed} and {more} more"),
        _ => listed,
    }
}
