//! PEFT LoRA adapters: read into factors, and written back.
//!
//! The thing that can go wrong is an adapter that means something other than `W0 + s B A`: DoRA, a
//! bias, an initialisation that changed the base. PEFT would compute one thing and the merge
//! another, without a sign. So a configuration is read field by field, and whatever changes the
//! mathematics and is not handled is refused by name; so is every tensor nothing accounts for.

mod config;
mod features;
mod keys;
mod labels;
pub mod names;
mod pattern;
mod read;
mod write;

use std::collections::BTreeMap;

use serde::Serialize;

pub use self::config::{AdapterConfig, TargetModules};
pub use self::pattern::Patterns;
pub use self::write::{adapter_tensors, merged_config, suffix_targets};
use crate::io::Dtype;

/// The name of an adapter's configuration file.
pub const CONFIG_FILE: &str = "adapter_config.json";

/// The name of an adapter's weight file.
pub const WEIGHTS_FILE: &str = "adapter_model.safetensors";

/// One module's low-rank update, `scaling * b a`.
#[derive(Debug, Clone, PartialEq)]
pub struct Lora {
    /// `lora_A`, `rank` x `d_in`, row by row.
    pub a: Vec<f32>,
    /// `lora_B`, `d_out` x `rank`, row by row.
    pub b: Vec<f32>,
    /// The rank, at least 1.
    pub rank: usize,
    /// The width of the module's input.
    pub d_in: usize,
    /// The width of the module's output.
    pub d_out: usize,
    /// The factor s of the product: `alpha / r`, or `alpha / sqrt(r)` with `use_rslora`.
    pub scaling: f64,
}

/// A tensor of `modules_to_save`, kept as it is.
#[derive(Debug, Clone, PartialEq)]
pub struct HeadTensor {
    /// Its shape.
    pub shape: Vec<usize>,
    /// Its elements, row by row.
    pub data: Vec<f32>,
}

/// A PEFT LoRA adapter, read and checked.
#[derive(Debug, Clone, PartialEq)]
pub struct Adapter {
    /// What messages and reports call it.
    pub name: String,
    /// Its configuration.
    pub config: AdapterConfig,
    /// The updates by module path in the base model, such as
    /// `bert.encoder.layer.0.attention.self.query`: without `base_model.model.` and the adapter's name.
    pub modules: BTreeMap<String, Lora>,
    /// The tensors of `modules_to_save` by their name in the base model, such as `classifier.weight`.
    pub heads: BTreeMap<String, HeadTensor>,
    /// The labels' names by class, if the folder has them.
    pub labels: Option<Vec<String>>,
    /// The element type of the factors in the file (of most of them, if they differ).
    pub dtype: Dtype,
    /// The length of the weight file in bytes.
    pub bytes: u64,
}

/// What a person wants to know of an adapter before merging it.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct AdapterFacts {
    /// `LORA`.
    pub peft_type: String,
    /// PEFT's task type, such as `SEQ_CLS`.
    pub task_type: Option<String>,
    /// The largest rank of a module.
    pub rank: usize,
    /// The ranks that occur, ascending.
    pub ranks: Vec<usize>,
    /// `lora_alpha`.
    pub alpha: f64,
    /// The scaling of most modules.
    pub scaling: f64,
    /// Short names of the kinds of modules it targets, sorted.
    pub targets: Vec<String>,
    /// How many modules it targets.
    pub modules: usize,
    /// How many numbers the factors hold together.
    pub parameters: usize,
    /// Its own heads.
    pub heads: Vec<HeadFacts>,
    /// The base model its configuration names.
    pub base_name: Option<String>,
    /// The labels' names by class, if known.
    pub labels: Option<Vec<String>>,
    /// The element type in the file, such as `F32`.
    pub dtype: String,
    /// The length of the weight file in bytes.
    pub bytes: u64,
}

/// Name and shape of a head's tensor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct HeadFacts {
    /// The tensor's name in the base model.
    pub name: String,
    /// Its shape.
    pub shape: Vec<usize>,
}

impl Adapter {
    /// What a person wants to know of it before merging.
    pub fn facts(&self) -> AdapterFacts {
        let mut ranks: Vec<usize> = self.modules.values().map(|lora| lora.rank).collect();
        ranks.sort_unstable();
        ranks.dedup();
        let names: Vec<&str> = self.modules.keys().map(String::as_str).collect();
        AdapterFacts {
            peft_type: String::from("LORA"),
            task_type: self.config.task_type.clone(),
            rank: ranks.last().copied().unwrap_or(self.config.r),
            ranks,
            alpha: self.config.lora_alpha,
            scaling: most(self.modules.values().map(|lora| lora.scaling)).unwrap_or(0.0),
            targets: write::kinds(&names),
            modules: self.modules.len(),
            parameters: self
                .modules
                .values()
                .map(|lora| lora.a.len() + lora.b.len())
                .sum(),
            heads: self
                .heads
                .iter()
                .map(|(name, head)| HeadFacts {
                    name: name.clone(),
                    shape: head.shape.clone(),
                })
                .collect(),
            base_name: self.config.base_model_name_or_path.clone(),
            labels: self.labels.clone(),
            dtype: self.dtype.to_string(),
            bytes: self.bytes,
        }
    }
}

/// The value that occurs most often; of several, the one that occurs first.
fn most<T: PartialEq + Copy>(values: impl Iterator<Item = T>) -> Option<T> {
    let mut counts: Vec<(T, usize)> = Vec::new();
    for value in values {
        match counts.iter_mut().find(|(known, _)| *known == value) {
            Some((_, count)) => *count += 1,
            None => counts.push((value, 1)),
        }
    }
    counts
        .into_iter()
        .rev()
        .max_by_key(|(_, count)| *count)
        .map(|(value, _)| value)
}
