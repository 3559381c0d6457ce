//! RoBERTa and XLM-RoBERTa: BERT with positions counted from behind the padding token's, and a classifier
//! of two layers that reads the first token and not the pooler.
//!
//! Reference: transformers, `models/roberta/modeling_roberta.py`.

use serde_json::{Value, json};

use crate::{
    compute::Activation,
    error::Result,
    io::Checkpoint,
    model::{
        config::{invalid, with_defaults},
        family::Family,
        text::{
            bert::{Config, POOLER},
            encoder::{self, Settings},
            pool::{self, Between, Pooled},
        },
    },
};

/// See [`super::FAMILIES`].
pub(super) fn open(config: &Value, checkpoint: &Checkpoint) -> Result<Box<dyn Family>> {
    named(config, checkpoint, "roberta")
}

/// See [`super::FAMILIES`].
pub(super) fn open_multilingual(config: &Value, checkpoint: &Checkpoint) -> Result<Box<dyn Family>> {
    named(config, checkpoint, "xlm-roberta")
}

fn named(config: &Value, checkpoint: &Checkpoint, family: &'static str) -> Result<Box<dyn Family>> {
    if config.get("pad_token_id").is_some_and(Value::is_null) {
        return Err(invalid("pad_token_id is null, but positions are counted from it"));
    }
    let defaults = json!({
        "hidden_act": "gelu",
        "layer_norm_eps": 1e-12,
        "max_position_embeddings": 512,
        "type_vocab_size": 2,
        "pad_token_id": 1,
    });
    let config = with_defaults(config, defaults);
    let settings = Settings {
        prefixes: &["roberta.", ""],
        positions_behind_padding: true,
        pool: pool::Settings {
            rows: Pooled::First,
            between: vec![Between::dense("classifier.dense", Activation::Tanh), POOLER],
            readouts: &["classifier.out_proj"],
            needed: Some("classifier.dense"),
        },
        ..Config::settings(&config, family)?
    };
    encoder::open(&config, checkpoint, settings)
}
