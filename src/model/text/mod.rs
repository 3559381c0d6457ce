//! Language models. A family is one file here and one line in [`FAMILIES`].

mod bart;
mod bert;
mod decoder;
mod distilbert;
mod encoder;
mod encoder_decoder;
mod gemma2;
mod gemma3;
mod gpt;
mod gpt2;
mod gpt_neox;
mod llama;
mod mistral;
mod modernbert;
mod phi3;
mod pool;
mod qwen2;
mod qwen3;
mod roberta;
mod rope;
mod t5;

use crate::model::family::Open;

/// Every family, by `model_type` of `config.json`.
pub(super) const FAMILIES: &[(&str, Open)] = &[
    ("bart", bart::open),
    ("bert", bert::open),
    ("distilbert", distilbert::open),
    ("gemma2", gemma2::open),
    ("gemma3", gemma3::open_multimodal),
    ("gemma3_text", gemma3::open),
    ("gpt2", gpt2::open),
    ("gpt_neox", gpt_neox::open),
    ("llama", llama::open),
    ("mistral", mistral::open),
    ("modernbert", modernbert::open),
    ("mt5", t5::open),
    ("phi3", phi3::open),
    ("qwen2", qwen2::open),
    ("qwen3", qwen3::open),
    ("roberta", roberta::open),
    ("t5", t5::open),
    ("xlm-roberta", roberta::open_multilingual),
];
