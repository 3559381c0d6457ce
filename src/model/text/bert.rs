//! BERT.
//!
//! Its pooler is a part of the model, with a dense layer that is a linear layer like any other; a
//! checkpoint without one ends with each sample's first token.
//! Reference: transformers, `models/bert/modeling_bert.py`.

use serde::Deserialize;
use serde_json::{Value, json};

use crate::{
    compute::Activation,
    error::Result,
    io::Checkpoint,
    model::{
        config::{activation, parse, with_defaults},
        family::Family,
        text::{
            encoder::{self, BERT, Settings, Sizes},
            pool::{self, Between, Pooled},
        },
    },
};

/// What the configurations of BERT and RoBERTa have, defaults filled in.
#[derive(Deserialize)]
pub(super) struct Config {
    hidden_size: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    intermediate_size: usize,
    hidden_act: String,
    layer_norm_eps: f32,
    max_position_embeddings: usize,
    type_vocab_size: usize,
    vocab_size: usize,
    pad_token_id: Option<u32>,
}

impl Config {
    /// The settings of BERT itself under the name `family`.
    ///
    /// # Errors
    /// `config_invalid` naming a field, `model_unsupported` for an unknown activation.
    pub(super) fn settings(config: &Value, family: &'static str) -> Result<Settings> {
        let config: Self = parse(config)?;
        Ok(Settings {
            family,
            activation: activation("hidden_act", &config.hidden_act)?,
            sizes: Sizes {
                vocabulary: config.vocab_size,
                positions: config.max_position_embeddings,
                token_types: config.type_vocab_size,
                layers: config.num_hidden_layers,
                heads: config.num_attention_heads,
                hidden: config.hidden_size,
                wide: config.intermediate_size,
            },
            names: &BERT,
            prefixes: &["bert.", ""],
            epsilon: config.layer_norm_eps,
            pad_id: config.pad_token_id.unwrap_or(0),
            positions_behind_padding: false,
            pool: pool::Settings {
                rows: Pooled::First,
                between: vec![POOLER],
                readouts: &["classifier", "score"],
                needed: None,
            },
        })
    }
}

/// tanh(dense(x)) of the first token, a part of the model.
pub(super) const POOLER: Between = Between::dense("pooler.dense", Activation::Tanh);

/// See [`super::FAMILIES`].
pub(super) fn open(config: &Value, checkpoint: &Checkpoint) -> Result<Box<dyn Family>> {
    let defaults = json!({
        "hidden_act": "gelu",
        "layer_norm_eps": 1e-12,
        "type_vocab_size": 2,
        "pad_token_id": 0,
    });
    let config = with_defaults(config, defaults);
    encoder::open(&config, checkpoint, Config::settings(&config, "bert")?)
}
