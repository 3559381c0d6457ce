//! Mistral: Llama with a window in every layer.
//!
//! Reference: transformers, `models/mistral/modeling_mistral.py`.

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
    sliding_window: Option<usize>,
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
        "intermediate_size": 14336,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "hidden_act": "silu",
        "max_position_embeddings": 131_072,
        "rms_norm_eps": 1e-6,
        "tie_word_embeddings": false,
        "sliding_window": 4096,
    })
}

fn settings(config: &Value) -> Result<Settings> {
    let sizes = Sizes::read(config)?;
    let options: Options = parse(config)?;
    let sliding = options.sliding_window.is_some();
    let kind = if sliding {
        "sliding_attention"
    } else {
        "full_attention"
    };
    let layers = sizes.num_hidden_layers;
    only(config, "layer_types", &[vec![kind; layers].into()])?;
    only(config, "attention_bias", &[false.into()])?;
    let activation = activation("hidden_act", &options.hidden_act)?;
    let rope = Rope::read(config, &Source::PLAIN)?;
    let rotary = rope.rotary(sizes.head_size())?;
    let layers = LayerKind::all(&vec![sliding; layers], options.sliding_window, |_| rotary.clone())?;
    Ok(Settings::plain(
        "mistral",
        sizes,
        activation,
        layers,
        rope.max_length(),
    ))
}
