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

use crate::model::{
    family::Open,
    streams::{Stream, StreamId},
};

/// The text that an encoder or a decoder-only model reads.
pub const TEXT: StreamId = StreamId::new(0);

/// What an encoder-decoder's decoder reads.
pub const DECODER: StreamId = StreamId::new(1);

/// What an encoder's classifier reads.
const POOLED: StreamId = StreamId::new(1);

/// The streams of an encoder with a classifier.
const ENCODER_STREAMS: &[Stream] = &[Stream::input("text"), Stream::pooled()];

/// The streams of a decoder-only model.
const DECODER_STREAMS: &[Stream] = &[Stream::input("text")];

/// The streams of an encoder-decoder.
const ENCODER_DECODER_STREAMS: &[Stream] = &[Stream::input("text"), Stream::input("decoder")];

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
