//! PEFT LoRA adapters: read into factors, and written back.
//!
//! A configuration is read field by field, and whatever changes the mathematics and cannot be converted is refused by
//! name, as is every tensor that nothing accounts for: else PEFT would do one thing and the merge another, without a
//! sign.

mod config;
mod effective;
mod features;
mod file;
mod labels;
mod module;
mod peft;
mod read;
mod single_file;

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

pub use self::{
    config::{AdapterConfig, TargetModules, TrainedBiases, TrainedTokens},
    effective::delta_of,
    file::{FileLayer, FilePlan, Scale, Shape},
    module::{Module, lone},
    peft::{Extra, WholeTensor, merged_config, peft_plan, wrapping_order},
    single_file::{DIFFUSERS_FILE, KOHYA_FILE, diffusers_plan, fitting, kohya_plan},
};
use crate::{
    io::{Dtype, Folder, OutDtype, StoredTensor},
    naming::{ModulePath, groups::layer_groups, roles::is_bases_own, targets::kinds},
};

/// The name of an adapter's configuration file.
pub const CONFIG_FILE: &str = "adapter_config.json";

/// The name of an adapter's weight file.
pub const WEIGHTS_FILE: &str = "adapter_model.safetensors";

/// Whether a folder is an adapter's, as opposed to a whole model's.
pub fn is_adapter(folder: &Folder) -> bool {
    folder.find(CONFIG_FILE).is_some() || folder.find("config.json").is_none()
}

/// Whose files an adapter is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// `adapter_config.json` and `adapter_model.safetensors`.
    #[default]
    Peft,
    /// One file of kohya's scripts or of ComfyUI.
    Kohya,
    /// One file of diffusers.
    Diffusers,
}

impl Format {
    /// Its name as an option.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Peft => "peft",
            Self::Kohya => "kohya",
            Self::Diffusers => "diffusers",
        }
    }
}

/// The form that a caller asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FormatChoice {
    /// That of the adapters; of several, that which is not PEFT's.
    Auto,
    /// PEFT's.
    Peft,
    /// Kohya's and ComfyUI's.
    Kohya,
    /// Diffusers'.
    Diffusers,
}

impl FormatChoice {
    /// The form that is meant, for adapters of these.
    pub fn of(self, adapters: impl IntoIterator<Item = Format>) -> Format {
        match self {
            Self::Auto => adapters
                .into_iter()
                .find(|format| *format != Format::Peft)
                .unwrap_or_default(),
            Self::Peft => Format::Peft,
            Self::Kohya => Format::Kohya,
            Self::Diffusers => Format::Diffusers,
        }
    }
}

/// What kind of parameter the factors are for, and how the matrix of their product lies in it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum LayerKind {
    /// A weight (d_out x d_in).
    #[default]
    Linear,
    /// A weight (d_out x channels x kernel…), seen as (d_out x d_in) with `d_in = channels * product(kernel)`.
    Conv {
        /// Channels of the input that one filter sees.
        channels: usize,
        /// The kernel's sides, one to three.
        kernel: Vec<usize>,
    },
    /// A table (d_in x d_out) whose rows are looked up: the product's transpose is added to it.
    Embedding,
    /// A parameter that is no layer's `weight` (PEFT's `target_parameters`).
    Parameter {
        /// Its name within the module, e.g. `gate_up_proj`.
        name: String,
        /// How many matrices are stacked in it, one an expert; `None` of a single matrix.
        experts: Option<usize>,
    },
}

impl LayerKind {
    /// How many matrices the factors' products are for.
    pub fn products(&self) -> usize {
        match self {
            Self::Parameter { experts, .. } => experts.unwrap_or(1),
            Self::Linear | Self::Conv { .. } | Self::Embedding => 1,
        }
    }

    /// Whether it is a convolution that sees one place at a time, which is a linear layer.
    pub fn is_pointwise(&self) -> bool {
        matches!(self, Self::Conv { kernel, .. } if kernel.iter().all(|&side| side == 1))
    }
}

/// Whether the factors' first product was taken out of the base weight when training began.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Init {
    /// No: the factors are the whole update.
    #[default]
    Plain,
    /// PiSSA: the first product is the weight's best approximation of that rank.
    Pissa,
    /// OLoRA: the first product is the leading part of the weight's QR factorisation.
    Olora,
}

/// One module's low-rank update in memory, `scaling * b a`.
///
/// Of experts there are as many products: `a` has their factors one after another (experts * `rank` rows), and `b`
/// (`d_out` rows of experts * `rank` numbers) those of one expert in every experts-th column, as PEFT has them.
#[derive(Debug, Clone, PartialEq, Default)]
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
    /// What the product is added to.
    pub layer: LayerKind,
    /// DoRA's magnitudes, one an output: the adapted weight's rows are scaled to these norms.
    pub magnitude: Option<Vec<f32>>,
    /// `lora_B`'s bias (`lora_bias`), one an output, without the scaling.
    pub bias: Option<Vec<f32>>,
    /// What the factors' first product meant.
    pub init: Init,
}

/// Rows of an embedding table that were trained one by one (`trainable_token_indices`).
#[derive(Debug, Clone, PartialEq)]
pub struct TokenRows {
    /// Which rows, ascending.
    pub ids: Vec<usize>,
    /// Numbers a row.
    pub width: usize,
    /// The trained rows, one after another.
    pub data: Vec<f32>,
}

/// A LoRA adapter whose files were opened and checked. The factors of its modules and the tensors that it saved whole
/// are read when they are wanted.
#[derive(Debug, Clone)]
pub struct Adapter {
    /// What messages and reports call it.
    pub name: String,
    /// Whose files it is in.
    pub format: Format,
    /// Its configuration.
    pub config: AdapterConfig,
    /// The updates by module path in the base model, such as
    /// `bert.encoder.layer.0.attention.self.query`: without `base_model.model.` and the adapter's name.
    pub modules: BTreeMap<ModulePath, Module>,
    /// How a file of kohya's spells the modules' names, by path; empty for others.
    pub spelled: BTreeMap<String, String>,
    /// The tensors of `modules_to_save` by their name in the base model, such as `classifier.weight`.
    pub heads: BTreeMap<String, StoredTensor>,
    /// Trained biases (`bias: all` or `lora_only`) by their name in the base model; whole values.
    pub biases: BTreeMap<String, Vec<f32>>,
    /// Trained rows of embedding tables by the table's module path.
    pub tokens: BTreeMap<String, TokenRows>,
    /// The labels' names by class, if the folder has them.
    pub labels: Option<Vec<String>>,
    /// The element type of the factors in the file (of most of them, if they differ).
    pub dtype: Dtype,
    /// The narrowest type that holds all of the factors.
    pub widest: OutDtype,
    /// The length of the weight file in bytes.
    pub bytes: u64,
}

/// What a person wants to know of an adapter before merging it.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct AdapterFacts {
    /// Whose files it is in.
    pub format: Format,
    /// What it has beyond plain factors of linear layers, in words.
    pub features: Vec<&'static str>,
    /// Whether its change can only be told with the base model's weights.
    pub needs_base: bool,
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
    /// The modules it targets, those of the same part of different blocks together.
    pub groups: Vec<GroupFacts>,
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

/// Modules that are the same part of different blocks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct GroupFacts {
    /// Their names, with a `*` for what differs; see [`groups`](crate::naming::groups).
    pub pattern: String,
    /// How many modules they are.
    pub modules: usize,
    /// The ranks that occur, ascending.
    pub ranks: Vec<usize>,
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

impl Lora {
    /// The same update with directions of zeros up to `rank`.
    #[must_use]
    pub fn padded(mut self, rank: usize) -> Self {
        if rank <= self.rank {
            return self;
        }
        let all = self.layer.products();
        let (from, to) = (self.rank * all, rank * all);
        let mut b = vec![0.0; self.d_out * to];
        for (to, from) in b.chunks_exact_mut(to).zip(self.b.chunks_exact(from.max(1))) {
            to[..from.len()].copy_from_slice(from);
        }
        let mut a = Vec::with_capacity(to * self.d_in);
        let one = self.rank * self.d_in;
        for expert in 0..all {
            a.extend_from_slice(&self.a[expert * one..(expert + 1) * one]);
            a.resize((expert + 1) * rank * self.d_in, 0.0);
        }
        (self.a, self.b, self.rank) = (a, b, rank);
        self
    }

    /// One expert's update, by itself.
    #[must_use]
    pub fn expert(&self, expert: usize) -> Self {
        let (rank, all) = (self.rank, self.layer.products());
        let row = |row: &[f32]| (0..rank).map(|k| row[k * all + expert]).collect::<Vec<_>>();
        let mut one = Self {
            a: self.a[expert * rank * self.d_in..(expert + 1) * rank * self.d_in].to_vec(),
            b: self.b.chunks_exact(rank * all).flat_map(row).collect(),
            layer: self.layer.clone(),
            magnitude: None,
            bias: None,
            ..*self
        };
        if let LayerKind::Parameter { experts, .. } = &mut one.layer {
            *experts = None;
        }
        one
    }

    /// Whether the update can only be told with the base weight at hand.
    pub fn needs_base(&self) -> bool {
        self.magnitude.is_some() || self.init != Init::Plain
    }
}

impl Adapter {
    /// Whether its change can only be told with the base model's weights at hand.
    pub fn needs_base(&self) -> bool {
        !self.biases.is_empty()
            || !self.tokens.is_empty()
            || self.modules.values().any(Module::needs_base)
            || self.heads.keys().any(|name| is_bases_own(name))
    }

    /// What it has beyond plain factors of linear layers, in words.
    fn features(&self) -> Vec<&'static str> {
        let any = |test: fn(&Module) -> bool| self.modules.values().any(test);
        let all: [(bool, &'static str); 10] = [
            (any(|module| module.has_magnitude), "DoRA"),
            (any(|module| module.init == Init::Pissa), "PiSSA"),
            (any(|module| module.init == Init::Olora), "OLoRA"),
            (
                any(|module| matches!(module.layer, LayerKind::Conv { .. })),
                "convolutions",
            ),
            (any(|module| module.layer == LayerKind::Embedding), "embeddings"),
            (
                any(|module| matches!(module.layer, LayerKind::Parameter { .. })),
                "parameters",
            ),
            (any(|module| module.has_bias) || !self.biases.is_empty(), "biases"),
            (!self.tokens.is_empty(), "token rows"),
            (
                self.heads.keys().any(|name| is_bases_own(name)),
                "modules of the base",
            ),
            (self.config.use_rslora, "rank-stabilised"),
        ];
        all.into_iter()
            .filter(|(has, _)| *has)
            .map(|(_, what)| what)
            .collect()
    }

    /// What a person wants to know of it before merging.
    pub fn facts(&self) -> AdapterFacts {
        let of_modules: Vec<usize> = self.modules.values().map(|module| module.rank).collect();
        let ranks = distinct(of_modules.iter().copied());
        let names: Vec<&str> = self.modules.keys().map(ModulePath::as_str).collect();
        AdapterFacts {
            format: self.format,
            features: self.features(),
            needs_base: self.needs_base(),
            peft_type: String::from("LORA"),
            task_type: self.config.task_type.clone(),
            rank: ranks.last().copied().unwrap_or(self.config.r),
            ranks,
            alpha: self.config.lora_alpha,
            scaling: most(self.modules.values().map(|module| module.scaling)).unwrap_or(0.0),
            targets: kinds(&names),
            groups: layer_groups(&names)
                .into_iter()
                .map(|group| GroupFacts {
                    pattern: group.pattern,
                    modules: group.members.len(),
                    ranks: distinct(group.members.into_iter().map(|index| of_modules[index])),
                })
                .collect(),
            modules: self.modules.len(),
            parameters: self.modules.values().map(Module::parameters).sum(),
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

/// The narrowest of the types that are written which holds numbers of all of these types.
fn widest(dtypes: impl IntoIterator<Item = Dtype>) -> OutDtype {
    let each = dtypes.into_iter().map(|dtype| match dtype {
        Dtype::F16 => OutDtype::F16,
        Dtype::BF16 => OutDtype::Bf16,
        _ => OutDtype::F32,
    });
    each.reduce(OutDtype::or_wider).unwrap_or(OutDtype::F32)
}

/// Each value once, ascending.
fn distinct(values: impl Iterator<Item = usize>) -> Vec<usize> {
    BTreeSet::from_iter(values).into_iter().collect()
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
