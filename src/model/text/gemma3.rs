//! Gemma 3 (text): Gemma 2 with normalised heads instead of capped scores, and rotary positions of its own
//! in the layers with a window.
//!
//! A checkpoint of the image and text model (`gemma3`) is read for its language model alone.
//! Reference: transformers, `models/gemma3/modeling_gemma3.py`.

use serde::Deserialize;
use serde_json::{Value, json};

use crate::{
    error::Result,
    io::Checkpoint,
    model::{
        config::{invalid, only, parse, sliding_layers, with_defaults},
        family::Family,
        text::{
            decoder::{self, LayerKind, Settings, Sizes},
            gemma2,
            rope::{Rope, Source},
        },
    },
};

/// Options of this family alone.
#[derive(Deserialize)]
struct Own {
    /// One layer in so many sees all, where `layer_types` says nothing.
    #[serde(default)]
    sliding_window_pattern: Option<usize>,
}

/// Gemma 3's language model. See [`super::FAMILIES`].
pub(super) fn open(config: &Value, checkpoint: &Checkpoint) -> Result<Box<dyn Family>> {
    let config = with_defaults(config, defaults());
    decoder::open(&config, checkpoint, settings(&config)?)
}

/// Gemma 3 of images and text, as far as it is about text. See [`super::FAMILIES`].
pub(super) fn open_multimodal(config: &Value, checkpoint: &Checkpoint) -> Result<Box<dyn Family>> {
    open(&text_config(config)?, checkpoint)
}

/// The part of a `gemma3` configuration that is about text, with what the whole says of it.
fn text_config(config: &Value) -> Result<Value> {
    let Some(text) = config.get("text_config").filter(|text| text.is_object()) else {
        return Err(invalid("a gemma3 model without text_config"));
    };
    let mut text = text.clone();
    for name in ["architectures", "tie_word_embeddings", "quantization_config"] {
        if let Some(value) = config.get(name).filter(|value| !value.is_null()) {
            text[name] = value.clone();
        }
    }
    Ok(text)
}

fn defaults() -> Value {
    let own = json!({
        "vocab_size": 262_208,
        "max_position_embeddings": 131_072,
        "final_logit_softcapping": null,
        "attn_logit_softcapping": null,
    });
    with_defaults(&own, gemma2::defaults())
}

fn settings(config: &Value) -> Result<Settings> {
    // transformers reads it and does not use it.
    only(config, "attn_logit_softcapping", &[Value::Null])?;
    let options: gemma2::Options = parse(config)?;
    let sizes = Sizes::read(config)?;
    let own: Own = parse(config)?;
    let pattern = own.sliding_window_pattern.unwrap_or(6);
    if pattern == 0 {
        return Err(invalid("sliding_window_pattern is 0"));
    }
    let sliding = sliding_layers(config, sizes.num_hidden_layers, |layer| {
        (layer + 1) % pattern != 0
    })?;
    let source = |layer_type, theta, scaled| Source {
        layer_type: Some(layer_type),
        theta,
        scaled,
        ..Source::PLAIN
    };
    let global = Rope::read(config, &source("full_attention", ("rope_theta", 1e6), true))?;
    let local = Rope::read(
        config,
        &source("sliding_attention", ("rope_local_base_freq", 1e4), false),
    )?;
    let (far, near) = (
        global.rotary(sizes.head_size())?,
        local.rotary(sizes.head_size())?,
    );
    let layers = LayerKind::all(&sliding, options.sliding_window, |sliding| {
        if sliding { near.clone() } else { far.clone() }
    })?;
    let max_length = global.max_length().min(local.max_length());
    Ok(Settings {
        head_norms: true,
        prefixes: &[
            "model.language_model.",
            "language_model.model.",
            "language_model.",
            "model.",
            "",
        ],
        head_keys: &["lm_head.weight", "language_model.lm_head.weight"],
        ..gemma2::shared("gemma3", sizes, &options, layers, max_length)?
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_are_the_same_in_both_spellings() {
        let windows = |changes: Value| -> Vec<Option<usize>> {
            let own = json!({"num_hidden_layers": 7, "sliding_window": 5});
            let config = with_defaults(&changes, with_defaults(&own, defaults()));
            let settings = settings(&config).ok().unwrap();
            settings.layers.iter().map(|layer| layer.window).collect()
        };
        let near = Some(5);
        assert_eq!(windows(json!({})), [near, near, near, near, near, None, near]);
        let pattern = windows(json!({"sliding_window_pattern": 3}));
        assert_eq!(pattern, [near, near, None, near, near, None, near]);
        let kinds = pattern.iter().map(|window| match window {
            Some(_) => "sliding_attention",
            None => "full_attention",
        });
        let kinds: Vec<&str> = kinds.collect();
        assert_eq!(windows(json!({"layer_types": kinds})), pattern);
    }

    #[test]
    fn a_hub_configuration_says_little() {
        let hub = json!({
            "model_type": "gemma3", "architectures": ["Gemma3ForConditionalGeneration"],
            "text_config": {
                "hidden_size": 2560, "intermediate_size": 10240, "model_type": "gemma3_text",
                "num_hidden_layers": 34, "rope_scaling": {"factor": 8.0, "rope_type": "linear"},
                "sliding_window": 1024
            },
            "vision_config": {"hidden_size": 1152}
        });
        let config = with_defaults(&text_config(&hub).unwrap(), defaults());
        let settings = settings(&config).ok().unwrap();
        assert_eq!(settings.sizes.vocab_size, 262_208);
        assert_eq!(settings.sizes.head_size(), 256);
        assert_eq!(settings.max_length, 131_072);
        assert_eq!(settings.layers[5].window, None);
        assert_eq!(settings.layers[33].window, Some(1024));
        assert!(settings.attention_cap.is_none() && settings.logit_cap.is_none());
    }
}
