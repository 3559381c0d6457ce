//! BLIP for captions (Li et al., ICML 2022): a vision transformer, and a BERT that attends to it and writes what is to be
//! seen.
//!
//! The decoder reads a token of its own, `[DEC]`, where a tokenizer would put `[CLS]`, and ends with `[SEP]`. Its head is
//! the embedding table behind one more dense layer.
//! Reference: transformers, `models/blip/modeling_blip.py` and `modeling_blip_text.py`.

use std::rc::Rc;

use async_trait::async_trait;
use burn::tensor::Tensor;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::{
    compute::{Activation, Attention, LayerNorm, Sight},
    error::{Error, Result},
    io::Checkpoint,
    model::{
        batch::{Batch, Stack},
        config::{activation, architecture, invalid, only, parse, positive, unquantised, unsupported, with_defaults},
        family::{Block, Family, Heads, Kind, ModelFacts, Module, PictureFacts},
        generation::GenerationConfig,
        lanes::Lanes,
        lm_head::LmHead,
        load::{LinearShape, Loader},
        multi_head::{self, MultiHead, Names, Widths},
        parts::modules,
        projection::Projection,
        state::State,
        streams::{Stream, StreamId, StreamRows},
    },
    naming::family::FamilyNames,
};

/// The picture, a row a pixel.
const PIXELS: StreamId = StreamId::new(0);
/// What the decoder reads.
const DECODER: StreamId = StreamId::new(1);
/// A row a patch.
const PATCHES: StreamId = StreamId::new(2);
/// The class token and the patches.
const IMAGE: StreamId = StreamId::new(3);

/// The layers of an attention of the decoder.
const ATTENTION: Names = ["self.query", "self.key", "self.value", "output.dense"];
const TO_ITSELF: &str = "attention";
const TO_IMAGE: &str = "crossattention";
/// The dense layer before the head.
const TRANSFORM: &str = "text_decoder.cls.predictions.transform";
const WORDS: &str = "text_decoder.bert.embeddings.word_embeddings.weight";

/// The parts of `text_config` that the forward pass depends on.
#[derive(Deserialize)]
struct TextConfig {
    vocab_size: usize,
    hidden_size: usize,
    encoder_hidden_size: usize,
    intermediate_size: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    max_position_embeddings: usize,
    hidden_act: String,
    layer_norm_eps: f32,
    bos_token_id: u32,
    sep_token_id: u32,
    pad_token_id: u32,
}

impl TextConfig {
    fn read(config: &Value, image_width: usize) -> Result<Self> {
        let defaults = json!({
            "vocab_size": 30524, "hidden_size": 768, "encoder_hidden_size": 768, "intermediate_size": 3072,
            "num_hidden_layers": 12, "num_attention_heads": 8, "max_position_embeddings": 512, "hidden_act": "gelu",
            "layer_norm_eps": 1e-12, "bos_token_id": 30522, "sep_token_id": 102, "pad_token_id": 0,
        });
        let given = config.get("text_config").unwrap_or(&Value::Null);
        only(given, "position_embedding_type", &["absolute".into()])?;
        only(given, "is_decoder", &[true.into()])?;
        let text: Self = parse(&with_defaults(given, defaults))?;
        positive(&[
            ("text_config's vocab_size", text.vocab_size),
            ("text_config's hidden_size", text.hidden_size),
            ("text_config's intermediate_size", text.intermediate_size),
            ("text_config's num_hidden_layers", text.num_hidden_layers),
            ("text_config's num_attention_heads", text.num_attention_heads),
            ("text_config's max_position_embeddings", text.max_position_embeddings),
        ])?;
        if !text.hidden_size.is_multiple_of(text.num_attention_heads) {
            return Err(invalid(&format!(
                "text_config's hidden_size {} is no multiple of its num_attention_heads {}",
                text.hidden_size, text.num_attention_heads
            )));
        }
        // transformers' BlipConfig writes the vision model's width over it, whatever it says.
        Ok(Self {
            encoder_hidden_size: image_width,
            ..text
        })
    }

    fn layer(layer: usize) -> String {
        format!("text_decoder.bert.encoder.layer.{layer}")
    }

    /// The targetable layers of a decoder layer: name, outputs, inputs, in the order of the forward pass.
    fn linears(&self, layer: usize) -> Vec<(String, usize, usize)> {
        let (path, hidden, wide) = (Self::layer(layer), self.hidden_size, self.intermediate_size);
        let attention = |name: &str, widths| multi_head::layers(&format!("{path}.{name}"), ATTENTION, widths, hidden);
        let feed_forward = [
            (format!("{path}.intermediate.dense"), wide, hidden),
            (format!("{path}.output.dense"), hidden, wide),
        ];
        attention(TO_ITSELF, Widths::alike(hidden))
            .into_iter()
            .chain(attention(TO_IMAGE, self.to_image()))
            .chain(feed_forward)
            .collect()
    }

    const fn to_image(&self) -> Widths {
        Widths {
            own: self.hidden_size,
            other: self.encoder_hidden_size,
        }
    }
}
