//! What PEFT's `LoraConfig` can ask for, and which of it cannot be converted.
//!
//! Every field of PEFT 0.21 (and those that earlier releases wrote) is listed, because the default
//! for an unlisted one is refusal: a field that PEFT adds tomorrow may change the mathematics.

use serde_json::{Map, Value};

use crate::{
    adapter::Init,
    error::{Code, Error, Result},
};

/// Fields that leave the adapter's change as it is, or that [`AdapterConfig`](super::AdapterConfig) reads.
const KNOWN: &[&str] = &[
    // Read by the configuration's parser.
    "alpha_pattern",
    "base_model_name_or_path",
    "bias",
    "fan_in_fan_out",
    "lora_alpha",
    "lora_bias",
    "modules_to_save",
    "peft_type",
    "peft_version",
    "r",
    "rank_pattern",
    "revision",
    "target_modules",
    "target_parameters",
    "task_type",
    "trainable_token_indices",
    "use_dora",
    "use_rslora",
    // Judged below by its value.
    "init_lora_weights",
    // About training, or about where the weights are; the tensors in the file say which modules have them, and a
    // layer that is tied to another has its own tensors in the file.
    "auto_mapping",
    "ensure_weight_tying",
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
        "kasa_config",
        "KaSA truncates the base weights and adds singular values",
    ),
    ("layer_replication", "layers of the base model are repeated"),
    (
        "megatron_config",
        "the factors belong to Megatron's parallel layers",
    ),
    ("monteclora_config", "MonteCLoRA samples its weights"),
    ("use_bdlora", "the factors are block-diagonal"),
    ("use_qalora", "QALoRA pools the inputs"),
    ("velora_config", "VeLoRA keeps training state in the file"),
];

/// Initialisations that leave the base weights alone.
const PLAIN_INITS: &[&str] = &["gaussian", "eva", "orthogonal", "mica"];

/// Initialisations that took a part out of the base weights which cannot be told from the base alone, and why.
const LOST_INITS: &[(&str, &str)] = &[
    (
        "corda",
        "what it took out of the base weights depends on the samples it was initialised with",
    ),
    (
        "lora_ga",
        "what it took out of the base weights depends on the gradients it was initialised with",
    ),
    (
        "loftq",
        "the base weights were quantised, and the factors make up for what that lost",
    ),
];

/// Refuses a configuration that means more than a plain LoRA; the error lists every reason.
pub(super) fn check(config: &Map<String, Value>, file: &str) -> Result<()> {
    let mut reasons = Vec::new();
    for (field, value) in config {
        let field = field.as_str();
        if field == "init_lora_weights" {
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
            "The adapter has what cannot be merged and would give something else; train or convert it without {}: {file}",
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

/// What the factors' first product meant, of a configuration that [`check`] has passed.
pub(super) fn init(config: &Map<String, Value>) -> Init {
    let name = config.get("init_lora_weights").and_then(Value::as_str);
    match name.map(str::to_lowercase).as_deref() {
        Some("olora") => Init::Olora,
        // `pissa_niter_N` draws its subspace at random, also when PEFT loads the adapter: the exact one stands for it.
        Some(name) if name.starts_with("pissa") => Init::Pissa,
        _ => Init::Plain,
    }
}

fn initialisation(value: &Value) -> Option<String> {
    let unknown = || Some(format!("init_lora_weights = {value} (unknown to this program)"));
    let name = match value {
        Value::Null | Value::Bool(_) => return None,
        Value::String(name) => name.to_lowercase(),
        _ => return unknown(),
    };
    let iterations = name.strip_prefix("pissa_niter_");
    if PLAIN_INITS.contains(&name.as_str())
        || name == "pissa"
        || name == "olora"
        || iterations.is_some_and(|count| count.parse::<u32>().is_ok())
    {
        return None;
    }
    match LOST_INITS.iter().find(|(init, _)| name.starts_with(init)) {
        Some((_, why)) => Some(format!(
            "init_lora_weights = {value} ({why}; PEFT's save_pretrained converts it with path_initial_model_for_weight_conversion)"
        )),
        None => unknown(),
    }
}
