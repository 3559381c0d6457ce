//! `adapter_config.json`, parsed: what it says about scaling, ranks and saved modules.
//!
//! Defaults are PEFT's. A field of the wrong type is an error and not a default.

use serde::Deserialize;
use serde_json::{Map, Value};

use crate::{
    adapter::{Init, features},
    error::{Code, Error, Result},
    naming::pattern::Patterns,
};

/// Which modules the configuration says it adapts. The tensors in the file are what counts.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum TargetModules {
    /// PEFT's own choice for the architecture.
    #[default]
    Unset,
    /// Modules whose name is one of these or ends in `.` and one of these.
    Names(Vec<String>),
    /// Modules whose whole name matches this regular expression.
    Pattern(String),
    /// `all-linear`: every linear layer but the output's.
    AllLinear,
}

/// Which biases of the base were trained with the factors and saved beside them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TrainedBiases {
    /// None.
    #[default]
    None,
    /// Those of the modules that have factors.
    LoraOnly,
    /// All of the model's.
    All,
}

/// Which rows of embedding tables were trained one by one (`trainable_token_indices`).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum TrainedTokens {
    /// None.
    #[default]
    None,
    /// These of the table that the model's inputs are looked up in.
    Inputs(Vec<usize>),
    /// By the end of the table's module path.
    ByModule(Vec<(String, Vec<usize>)>),
}

/// The parts of PEFT's `LoraConfig` that matter to a merge.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct AdapterConfig {
    /// PEFT's task type, such as `SEQ_CLS`.
    pub task_type: Option<String>,
    /// The base model it was trained on, as its trainer called it.
    pub base_model_name_or_path: Option<String>,
    /// The release of PEFT that wrote it.
    pub peft_version: Option<String>,
    /// The rank of modules that `rank_pattern` does not name.
    pub r: usize,
    /// The alpha of modules that `alpha_pattern` does not name.
    pub lora_alpha: f64,
    /// Whether the scaling is `alpha / sqrt(r)` in place of `alpha / r`.
    pub use_rslora: bool,
    /// Ranks of single modules.
    pub rank_pattern: Patterns<usize>,
    /// Alphas of single modules.
    pub alpha_pattern: Patterns<f64>,
    /// Which modules it says it adapts.
    pub target_modules: TargetModules,
    /// Modules that were trained and saved whole.
    pub modules_to_save: Vec<String>,
    /// Whether the base layers keep their weights as (in, out); the factors are the same either way.
    pub fan_in_fan_out: bool,
    /// What the factors' first product meant.
    pub init: Init,
    /// Whether the adapted weights' rows are scaled to trained norms (DoRA).
    pub use_dora: bool,
    /// Whether `lora_B` has a bias.
    pub lora_bias: bool,
    /// Which biases of the base were trained.
    pub bias: TrainedBiases,
    /// Which rows of embedding tables were trained.
    pub trainable_token_indices: TrainedTokens,
    /// Parameters that are no layer's `weight` and were adapted.
    pub target_parameters: Vec<String>,
}

/// The fields as JSON has them: any may be absent or null.
#[derive(Deserialize)]
struct Fields {
    task_type: Option<String>,
    base_model_name_or_path: Option<String>,
    peft_version: Option<String>,
    r: Option<usize>,
    lora_alpha: Option<f64>,
    use_rslora: Option<bool>,
    rank_pattern: Option<Map<String, Value>>,
    alpha_pattern: Option<Map<String, Value>>,
    target_modules: Option<OneOrMany>,
    modules_to_save: Option<Vec<String>>,
    fan_in_fan_out: Option<bool>,
    use_dora: Option<bool>,
    lora_bias: Option<bool>,
    bias: Option<TrainedBiases>,
    trainable_token_indices: Option<Tokens>,
    target_parameters: Option<Vec<String>>,
}

#[derive(Deserialize)]
#[serde(
    untagged,
    expecting = "trainable_token_indices is neither a list of token ids nor lists by module"
)]
enum Tokens {
    Inputs(Vec<usize>),
    ByModule(Map<String, Value>),
}

#[derive(Deserialize)]
#[serde(
    untagged,
    expecting = "target_modules is neither a string nor a list of strings"
)]
enum OneOrMany {
    One(String),
    Many(Vec<String>),
}

/// PEFT's default for both `r` and `lora_alpha`.
const DEFAULT_RANK: usize = 8;
const DEFAULT_ALPHA: f64 = 8.0;

impl AdapterConfig {
    /// Parses a configuration; messages call it `file`.
    ///
    /// # Errors
    /// `config_invalid` if it is not a LoRA configuration or a value is out of range,
    /// `adapter_unsupported` listing everything in it that is not a plain LoRA's.
    pub fn parse(json: &Value, file: &str) -> Result<Self> {
        let invalid = |what: String| Error::new(Code::ConfigInvalid, format!("{what}: {file}"));
        let object = json
            .as_object()
            .ok_or_else(|| invalid(String::from("The configuration is not a JSON object")))?;
        match object.get("peft_type") {
            Some(Value::String(kind)) if kind == "LORA" => {}
            Some(Value::String(kind)) => {
                return Err(Error::new(
                    Code::AdapterUnsupported,
                    format!("Adapters of peft_type {kind} are not merged, only LORA: {file}"),
                ));
            }
            _ => {
                return Err(invalid(String::from(
                    "There is no peft_type in it; choose the adapter_config.json that PEFT saved",
                )));
            }
        }
        features::check(object, file)?;
        let fields = Fields::deserialize(json).map_err(|error| invalid(error.to_string()))?;

        let r = fields.r.unwrap_or(DEFAULT_RANK);
        if r == 0 {
            return Err(invalid(String::from("r is 0 and has to be at least 1")));
        }
        let rank_pattern = entries(fields.rank_pattern, |value| {
            value
                .as_u64()
                .and_then(|rank| usize::try_from(rank).ok())
                .filter(|&rank| rank > 0)
        })
        .map_err(|key| {
            invalid(format!(
                "rank_pattern has a rank that is no whole number above 0 ({key})"
            ))
        })?;
        let alpha_pattern = entries(fields.alpha_pattern, Value::as_f64)
            .map_err(|key| invalid(format!("alpha_pattern has an alpha that is no number ({key})")))?;
        Ok(Self {
            task_type: fields.task_type,
            base_model_name_or_path: fields.base_model_name_or_path,
            peft_version: fields.peft_version,
            r,
            lora_alpha: fields.lora_alpha.unwrap_or(DEFAULT_ALPHA),
            use_rslora: fields.use_rslora.unwrap_or(false),
            rank_pattern: Patterns::new("rank_pattern", rank_pattern)?,
            alpha_pattern: Patterns::new("alpha_pattern", alpha_pattern)?,
            target_modules: match fields.target_modules {
                None => TargetModules::Unset,
                Some(OneOrMany::One(name)) if name == "all-linear" => TargetModules::AllLinear,
                Some(OneOrMany::One(pattern)) => TargetModules::Pattern(pattern),
                Some(OneOrMany::Many(names)) => TargetModules::Names(names),
            },
            modules_to_save: fields.modules_to_save.unwrap_or_default(),
            fan_in_fan_out: fields.fan_in_fan_out.unwrap_or(false),
            init: features::init(object),
            use_dora: fields.use_dora.unwrap_or(false),
            lora_bias: fields.lora_bias.unwrap_or(false),
            bias: fields.bias.unwrap_or_default(),
            trainable_token_indices: match fields.trainable_token_indices {
                None => TrainedTokens::None,
                Some(Tokens::Inputs(ids)) if ids.is_empty() => TrainedTokens::None,
                Some(Tokens::Inputs(ids)) => TrainedTokens::Inputs(ids),
                Some(Tokens::ByModule(map)) => TrainedTokens::ByModule(
                    entries(Some(map), |value| Vec::<usize>::deserialize(value).ok()).map_err(|key| {
                        invalid(format!(
                            "trainable_token_indices has no list of token ids for a module ({key})"
                        ))
                    })?,
                ),
            },
            target_parameters: fields.target_parameters.unwrap_or_default(),
        })
    }

    /// The trained rows of the embedding table at `module`, in the order of the file's tensor.
    pub fn tokens_of(&self, module: &str) -> Option<&[usize]> {
        match &self.trainable_token_indices {
            TrainedTokens::None => None,
            TrainedTokens::Inputs(ids) => Some(ids),
            TrainedTokens::ByModule(lists) => lists
                .iter()
                .find(|(name, _)| ends_with_path(module, name))
                .map(|(_, ids)| ids.as_slice()),
        }
    }

    /// The rank of a module, by its full name in the base model.
    pub fn rank_of(&self, module: &str) -> usize {
        self.rank_pattern.get(module).unwrap_or(self.r)
    }

    /// The scaling s of a module's `s B A`, by its full name in the base model.
    #[allow(clippy::cast_precision_loss, reason = "ranks are far below 2^53")]
    pub fn scaling_of(&self, module: &str) -> f64 {
        let alpha = self.alpha_pattern.get(module).unwrap_or(self.lora_alpha);
        let rank = self.rank_of(module) as f64;
        if self.use_rslora {
            alpha / rank.sqrt()
        } else {
            alpha / rank
        }
    }
}

/// The values of a pattern map in its order, or the first key whose value `read` refuses.
fn entries<T>(
    map: Option<Map<String, Value>>,
    read: impl Fn(&Value) -> Option<T>,
) -> std::result::Result<Vec<(String, T)>, String> {
    map.unwrap_or_default()
        .into_iter()
        .map(|(key, value)| match read(&value) {
            Some(value) => Ok((key, value)),
            None => Err(key),
        })
        .collect()
}

/// Whether `path` is `end` or ends in `.` and `end`.
pub(super) fn ends_with_path(path: &str, end: &str) -> bool {
    path.strip_suffix(end)
        .is_some_and(|before| before.is_empty() || before.ends_with('.'))
}
