//! Phi-3, 3.5 and 4 (the dense text models): Llama with fused projections and partly rotated heads.
//!
//! Reference: transformers, `models/phi3/modeling_phi3.py`.

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
        "vocab_size": 32064,
        "hidden_size": 3072,
        "intermediate_size": 8192,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "hidden_act": "silu",
        "max_position_embeddings": 4096,
        "original_max_position_embeddings": 4096,
        "rms_norm_eps": 1e-5,
        "pad_token_id": 32000,
        "tie_word_embeddings": false,
        "sliding_window": null,
    })
}

fn settings(config: &Value) -> Result<Settings> {
    let sizes = Sizes::read(config)?;
    let options: Options = parse(config)?;
    only(config, "attention_bias", &[false.into()])?;
    let activation = activation("hidden_act", &options.hidden_act)?;
    let source = Source {
        partial: Some(("partial_rotary_factor", 1.0)),
        ..Source::PLAIN
    };
    let rope = Rope::read(config, &source)?;
    let rotary = rope.rotary(sizes.head_size())?;
    let sliding = vec![options.sliding_window.is_some(); sizes.num_hidden_layers];
    let layers = LayerKind::all(&sliding, options.sliding_window, |_| rotary.clone())?;
    Ok(Settings {
        fused: true,
        ..Settings::plain("phi3", sizes, activation, layers, rope.max_length())
    })
}
