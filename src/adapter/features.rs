//! What PEFT's `LoraConfig` can ask for, and which of it this program refuses.
//!
//! Every field of PEFT 0.21 (and those that earlier releases wrote) is listed, because the default
//! for an unlisted one is refusal: a field that PEFT adds tomorrow may change the mathematics.

use serde_json::{Map, Value};

use crate::error::{Code, Error, Result};

/// Fields that leave `W0 + s B A` as it is, or that [`AdapterConfig`](super::AdapterConfig) reads.
const KNOWN: &[&str] = &[
    // Read by the configuration's parser.
    "alpha_pattern",
    "base_model_name_or_path",
    "fan_in_fan_out",
    "lora_alpha",
    "modules_to_save",
    "peft_type",
    "peft_version",
    "r",
    "rank_pattern",
    "revision",
    "target_modules",
    "task_type",
    "use_rslora",
    // Judged below by their value.
    "bias",
    "init_lora_weights",
    // About training, or about where the weights are; the tensors in the file say which modules have them.
    "auto_mapping",
    "exclude_modules",
    "inference_mode",
    "layers_pattern",
    "layers_to_transform",
    "lora_dropout",
    "megatron_core",
    "merge_weights",
    "runtime_config",
    // Settings of an initialisation, which count only if `init_lora_weights` names it.
    "corda_config",
    "eva_config",
    "loftq_config",
    "lora_ga_config",
    // Counts only with `use_qalora`.
    "qalora_group_size",
];

/// Fields that change the mathematics when they are set, and how.
const REFUSED: &[(&str, &str)] = &[
    (
        "alora_invocation_tokens",
        "activated LoRA acts on some tokens only",
    ),
    ("arrow_config", "Arrow routes every token to other factors"),
    ("enable_lora", "a merged linear layer is adapted in parts"),
    (
        "ensure_weight_tying",
        "a layer's update also acts on the layer it is tied to",
    ),
    (
        "kasa_config",
        "KaSA truncates the base weights and adds singular values",
    ),
    ("layer_replication", "layers of the base model are repeated"),
    ("lora_bias", "lora_B has a bias"),
    (
        "megatron_config",
        "the factors belong to Megatron's parallel layers",
    ),
    ("monteclora_config", "MonteCLoRA samples its weights"),
    (
        "target_parameters",
        "parameters are adapted that are no linear layer's",
    ),
    ("trainable_token_indices", "single token embeddings were trained"),
    ("use_bdlora", "the factors are block-diagonal"),
    ("use_dora", "DoRA rescales the columns of the weights"),
    ("use_qalora", "QALoRA pools the inputs"),
    ("velora_config", "VeLoRA keeps training state in the file"),
];

/// Initialisations that leave the base weights alone.
const PLAIN_INITS: &[&str] = &["gaussian", "eva", "orthogonal", "mica"];

/// Initialisations that take a part out of the base weights, so that the factors fit no original model.
const MUTATING_INITS: &[&str] = &["pissa", "olora", "corda", "loftq", "lora_ga"];

/// Refuses a configuration that means more than a plain LoRA; the error lists every reason.
pub(super) fn check(config: &Map<String, Value>, file: &str) -> Result<()> {
    let mut reasons = Vec::new();
    for (field, value) in config {
        let field = field.as_str();
        if field == "bias" {
            reasons.extend(bias(value));
        } else if field == "init_lora_weights" {
            reasons.extend(initialisation(value));
        } else if let Some((_, reason)) = REFUSED.iter().find(|(refused, _)| *refused == field) {
            if is_set(value) {
                reasons.push(format!("{field} ({reason})"));
            }
        } else if !KNOWN.contains(&field) && is_set(value) {
            reasons.push(format!("{field} (unknown to this program)"));
        }
    }
    if reasons.is_empty() {
        return Ok(());
    }
    Err(Error::new(
        Code::AdapterUnsupported,
        format!(
            "The adapter is more than a plain LoRA and merging it would give something else; train or convert it without {}: {file}",
            reasons.join(", ")
        ),
    ))
}

/// Whether a field asks for something, as opposed to being left at null, false or empty.
fn is_set(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::Bool(on) => *on,
        Value::Number(_) => true,
        Value::String(text) => !text.is_empty(),
        Value::Array(items) => !items.is_empty(),
        Value::Object(fields) => !fields.is_empty(),
    }
}

fn bias(value: &Value) -> Option<String> {
    let none = value.is_null() || value.as_str() == Some("none");
    (!none).then(|| format!("bias = {value} (biases were trained; only \"none\" is merged)"))
}

fn initialisation(value: &Value) -> Option<String> {
    let name = match value {
        Value::Null | Value::Bool(_) => return None,
        Value::String(name) => name.to_lowercase(),
        other => return Some(format!("init_lora_weights = {other} (unknown to this program)")),
    };
    if PLAIN_INITS.contains(&name.as_str()) {
        None
    } else if MUTATING_INITS.iter().any(|init| name.starts_with(init)) {
        Some(format!(
            "init_lora_weights = {value} (it changed the base weights; PEFT's save_pretrained converts it with path_initial_model_for_weight_conversion)"
        ))
    } else {
        Some(format!("init_lora_weights = {value} (unknown to this program)"))
    }
}
