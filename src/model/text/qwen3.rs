//! Qwen 3: Qwen 2 with normalised heads, and biases only where the configuration says so.
//!
//! Reference: transformers, `models/qwen3/modeling_qwen3.py`.

use serde::Deserialize;
use serde_json::Value;

use crate::{
    error::Result,
    io::Checkpoint,
    model::{
        config::{parse, with_defaults},
        family::Family,
        text::{
            decoder::{self, Settings},
            qwen2,
        },
    },
};

/// Options of this family alone.
#[derive(Deserialize)]
struct Options {
    attention_bias: bool,
}

/// See [`super::FAMILIES`].
pub(super) fn open(config: &Value, checkpoint: &Checkpoint) -> Result<Box<dyn Family>> {
    let config = with_defaults(config, defaults());
    decoder::open(&config, checkpoint, settings(&config)?)
}

fn defaults() -> Value {
    let mut defaults = qwen2::defaults();
    defaults["head_dim"] = 128.into();
    defaults["attention_bias"] = false.into();
    defaults
}

fn settings(config: &Value) -> Result<Settings> {
    let options: Options = parse(config)?;
    Ok(Settings {
        projection_bias: options.attention_bias,
        output_bias: options.attention_bias,
        head_norms: true,
        ..qwen2::shared("qwen3", config)?
    })
}
