//! Llama, and what is built like it: TinyLlama, SmolLM2, Llama 3.
//!
//! Reference: transformers, `models/llama/modeling_llama.py`.

use serde::Deserialize;
use serde_json::{Value, json};

use crate::{
    error::Result,
    io::Checkpoint,
    model::{
        config::{activation, only, parse, with_defaults},
        family::Family,
        text::{
            decoder::{self, LayerKind, Settings, Sizes},
            rope::{Rope, Source},
        },
    },
};

/// Options of this family alone.
#[derive(Deserialize)]
struct Options {
    hidden_act: String,
    attention_bias: bool,
    mlp_bias: bool,
}

/// See [`super::FAMILIES`].
pub(super) fn open(config: &Value, checkpoint: &Checkpoint) -> Result<Box<dyn Family>> {
    let config = with_defaults(config, defaults());
    decoder::open(&config, checkpoint, settings(&config)?)
}

fn defaults() -> Value {
    json!({
        "vocab_size": 32000,
        "hidden_size": 4096,
        "intermediate_size": 11008,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "hidden_act": "silu",
        "max_position_embeddings": 2048,
        "rms_norm_eps": 1e-6,
        "tie_word_embeddings": false,
        "attention_bias": false,
        "mlp_bias": false,
    })
}

fn settings(config: &Value) -> Result<Settings> {
    let sizes = Sizes::read(config)?;
    let layers = sizes.num_hidden_layers;
    only(config, "layer_types", &[vec!["full_attention"; layers].into()])?;
    let options: Options = parse(config)?;
    let activation = activation("hidden_act", &options.hidden_act)?;
    let rope = Rope::read(config, &Source::PLAIN)?;
    let layer = LayerKind {
        window: None,
        rotary: rope.rotary(sizes.head_size())?,
    };
    Ok(Settings {
        projection_bias: options.attention_bias,
        output_bias: options.attention_bias,
        feed_forward_bias: options.mlp_bias,
        ..Settings::plain("llama", sizes, activation, vec![layer; layers], rope.max_length())
    })
}
