//! Gemma 2: norms around every part, scaled embeddings, soft caps, a window in every other layer.
//!
//! Reference: transformers, `models/gemma2/modeling_gemma2.py`.

use serde::Deserialize;
use serde_json::{Value, json};

use crate::{
    compute::narrow,
    error::Result,
    io::Checkpoint,
    model::{
        config::{activation, invalid, parse, sliding_layers, with_defaults},
        family::Family,
        text::{
            decoder::{self, LayerKind, Norms, Settings, Sizes},
            rope::{Rope, Source},
        },
    },
};

/// Options of Gemma 2 and 3.
#[derive(Deserialize)]
pub(super) struct Options {
    hidden_activation: String,
    attention_bias: bool,
    query_pre_attn_scalar: f64,
    pub(super) sliding_window: Option<usize>,
    attn_logit_softcapping: Option<f32>,
    final_logit_softcapping: Option<f32>,
}

/// See [`super::FAMILIES`].
pub(super) fn open(config: &Value, checkpoint: &Checkpoint) -> Result<Box<dyn Family>> {
    let config = with_defaults(config, defaults());
    decoder::open(&config, checkpoint, settings(&config)?)
}

/// What Gemma 2 leaves out of `config.json`.
pub(super) fn defaults() -> Value {
    json!({
        "vocab_size": 256_000,
        "hidden_size": 2304,
        "intermediate_size": 9216,
        "num_hidden_layers": 26,
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
        "head_dim": 256,
        "hidden_activation": "gelu_pytorch_tanh",
        "max_position_embeddings": 8192,
        "rms_norm_eps": 1e-6,
        "pad_token_id": 0,
        "tie_word_embeddings": true,
        "attention_bias": false,
        "query_pre_attn_scalar": 256,
        "sliding_window": 4096,
        "final_logit_softcapping": 30.0,
        "attn_logit_softcapping": 50.0,
    })
}

fn settings(config: &Value) -> Result<Settings> {
    let options: Options = parse(config)?;
    let sizes = Sizes::read(config)?;
    // Every other layer, the first included, where nothing else is said.
    let sliding = sliding_layers(config, sizes.num_hidden_layers, |layer| layer % 2 == 0)?;
    let rope = Rope::read(config, &Source::PLAIN)?;
    let rotary = rope.rotary(sizes.head_size())?;
    let layers = LayerKind::all(&sliding, options.sliding_window, |_| rotary.clone())?;
    shared("gemma2", sizes, &options, layers, rope.max_length())
}

/// What Gemma 2 and 3 have in common.
///
/// # Errors
/// `model_unsupported` for an unknown activation, `config_invalid` for a scale or a cap that is not
/// positive.
pub(super) fn shared(
    family: &'static str,
    sizes: Sizes,
    options: &Options,
    layers: Vec<LayerKind>,
    max_length: usize,
) -> Result<Settings> {
    for (name, number) in [
        ("query_pre_attn_scalar", Some(options.query_pre_attn_scalar)),
        (
            "attn_logit_softcapping",
            options.attn_logit_softcapping.map(f64::from),
        ),
        (
            "final_logit_softcapping",
            options.final_logit_softcapping.map(f64::from),
        ),
    ] {
        if number.is_some_and(|number| number <= 0.0) {
            return Err(invalid(&format!("{name} is not positive")));
        }
    }
    let activation = activation("hidden_activation", &options.hidden_activation)?;
    Ok(Settings {
        projection_bias: options.attention_bias,
        output_bias: options.attention_bias,
        norms: Norms::Around,
        norm_offset: 1.0,
        embedding_scale: narrow((sizes.hidden_size as f64).sqrt()),
        attention_scale: narrow(options.query_pre_attn_scalar.sqrt().recip()),
        attention_cap: options.attn_logit_softcapping,
        logit_cap: options.final_logit_softcapping,
        ..Settings::plain(family, sizes, activation, layers, max_length)
    })
}
