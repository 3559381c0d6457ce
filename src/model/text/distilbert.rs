//! DistilBERT: BERT's layers under other names, without token types and without a pooler.
//!
//! Its positions may be sinusoids (`sinusoidal_pos_embds`); checkpoints have them as a table all the same.
//! Reference: transformers, `models/distilbert/modeling_distilbert.py`.

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
            encoder::{self, Names, Settings, Sizes},
            pool::{self, Between, Pooled},
        },
    },
};

#[derive(Deserialize)]
struct Config {
    vocab_size: usize,
    max_position_embeddings: usize,
    n_layers: usize,
    n_heads: usize,
    dim: usize,
    hidden_dim: usize,
    activation: String,
    pad_token_id: Option<u32>,
}

const NAMES: Names = Names {
    layers: "transformer.layer",
    query: "attention.q_lin",
    key: "attention.k_lin",
    value: "attention.v_lin",
    attention_output: "attention.out_lin",
    attention_norm: "sa_layer_norm",
    widen: "ffn.lin1",
    narrow: "ffn.lin2",
    output_norm: "output_layer_norm",
};

/// See [`super::FAMILIES`].
pub(super) fn open(config: &Value, checkpoint: &Checkpoint) -> Result<Box<dyn Family>> {
    let defaults = json!({
        "vocab_size": 30522,
        "max_position_embeddings": 512,
        "n_layers": 6,
        "n_heads": 12,
        "dim": 768,
        "hidden_dim": 3072,
        "activation": "gelu",
        "pad_token_id": 0,
    });
    let value = with_defaults(config, defaults);
    let config: Config = parse(&value)?;
    let settings = Settings {
        family: "distilbert",
        activation: activation("activation", &config.activation)?,
        sizes: Sizes {
            vocabulary: config.vocab_size,
            positions: config.max_position_embeddings,
            token_types: 0,
            layers: config.n_layers,
            heads: config.n_heads,
            hidden: config.dim,
            wide: config.hidden_dim,
        },
        names: &NAMES,
        prefixes: &["distilbert.", ""],
        epsilon: 1e-12,
        pad_id: config.pad_token_id.unwrap_or(0),
        positions_behind_padding: false,
        pool: pool::Settings {
            rows: Pooled::First,
            between: vec![Between::dense("pre_classifier", Activation::Relu)],
            readouts: &["classifier"],
            needed: Some("pre_classifier"),
        },
    };
    encoder::open(&value, checkpoint, settings)
}
