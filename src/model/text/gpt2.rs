//! GPT-2: a decoder with learned positions, whose linear layers are `Conv1D`, stored (inputs x outputs).
//!
//! Checkpoints come with the `transformer.` prefix or without it; causal masks that old ones keep beside
//! the weights are not read.
//! Reference: transformers, `models/gpt2/modeling_gpt2.py`.

use std::rc::Rc;

use async_trait::async_trait;
use burn::tensor::Tensor;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::{
    compute::{Activation, Attention, Sight},
    error::Result,
    io::Checkpoint,
    model::{
        batch::Batch,
        config::{activation, architecture, invalid, only, parse, positive, unquantised, with_defaults},
        family::{Block, Family, Heads, Kind, ModelFacts, Module},
        lm_head::LmHead,
        load::{LinearShape, Loader},
        parts::{is_language_model, modules, prefix},
        streams::{Stream, StreamId},
        text::{
            DECODER_STREAMS, TEXT,
            gpt::{FinalNorm, Layer},
        },
    },
    naming::family::FamilyNames,
};

/// The parts of `config.json` that the forward pass depends on.
#[derive(Deserialize)]
struct Config {
    vocab_size: usize,
    n_positions: usize,
    n_embd: usize,
    n_layer: usize,
    n_head: usize,
    /// Four times `n_embd`, if it says nothing.
    n_inner: Option<usize>,
    activation_function: String,
    layer_norm_epsilon: f32,
    scale_attn_weights: bool,
    scale_attn_by_inverse_layer_idx: bool,
    tie_word_embeddings: bool,
    pad_token_id: Option<u32>,
}

/// The defaults of transformers' configuration class.
fn defaults() -> Value {
    json!({
        "vocab_size": 50257,
        "n_positions": 1024,
        "n_embd": 768,
        "n_layer": 12,
        "n_head": 12,
        "activation_function": "gelu_new",
        "layer_norm_epsilon": 1e-5,
        "scale_attn_weights": true,
        "scale_attn_by_inverse_layer_idx": false,
        "tie_word_embeddings": true,
    })
}

/// The family over one checkpoint.
struct Gpt2 {
    config: Config,
    architecture: String,
    activation: Activation,
    prefix: &'static str,
    head: Option<LmHead>,
    modules: Vec<Module>,
}

const PREFIX: &str = "transformer.";

/// See [`super::FAMILIES`].
pub(super) fn open(config: &Value, checkpoint: &Checkpoint) -> Result<Box<dyn Family>> {
    let architecture = architecture(config, "GPT2LMHeadModel");
    let config = Config::read(config)?;
    let prefix = prefix(checkpoint, "wte.weight", &[PREFIX, ""]);
    Ok(Box::new(Gpt2 {
        head: head(&config, &architecture, checkpoint, prefix),
        modules: (0..config.n_layer)
            .flat_map(|block| modules(prefix, block, config.layers(block)))
            .map(|module| Module {
                transposed: true,
                ..module
            })
            .collect(),
        activation: activation("activation_function", &config.activation_function)?,
        architecture,
        prefix,
        config,
    }))
}

/// The head: the checkpoint's own, or the embedding table.
fn head(config: &Config, architecture: &str, checkpoint: &Checkpoint, prefix: &str) -> Option<LmHead> {
    let own = "lm_head.weight";
    let weight = if checkpoint.info(own).is_some() {
        own.to_owned()
    } else if config.tie_word_embeddings && is_language_model(architecture) {
        format!("{prefix}wte.weight")
    } else {
        return None;
    };
    Some(LmHead {
        weight,
        bias: None,
        vocab_size: config.vocab_size,
        hidden_size: config.n_embd,
        scale: 1.0,
        soft_cap: None,
    })
}

impl Config {
    fn read(config: &Value) -> Result<Self> {
        only(config, "add_cross_attention", &[false.into()])?;
        unquantised(config)?;
        let config: Self = parse(&with_defaults(config, defaults()))?;
        let (hidden, heads) = (config.n_embd, config.n_head);
        positive(&[
            ("vocab_size", config.vocab_size),
            ("n_positions", config.n_positions),
            ("n_embd", hidden),
            ("n_layer", config.n_layer),
            ("n_head", heads),
            ("n_inner", config.inner()),
        ])?;
        if !hidden.is_multiple_of(heads) {
            return Err(invalid(&format!(
                "n_embd {hidden} is no multiple of n_head {heads}"
            )));
        }
        Ok(config)
    }

    fn inner(&self) -> usize {
        self.n_inner.unwrap_or(4 * self.n_embd)
    }

    /// The targetable layers of one layer: `(name, d_out, d_in)`, in the order of the forward pass.
    fn layers(&self, block: usize) -> [(String, usize, usize); 4] {
        let (hidden, wide) = (self.n_embd, self.inner());
        [
            ("attn.c_attn", 3 * hidden, hidden),
            ("attn.c_proj", hidden, hidden),
            ("mlp.c_fc", wide, hidden),
            ("mlp.c_proj", hidden, wide),
        ]
        .map(|(suffix, d_out, d_in)| (format!("h.{block}.{suffix}"), d_out, d_in))
    }

    /// The attention of one layer.
    fn attention(&self, layer: usize) -> Attention {
        let size = self.n_embd / self.n_head;
        let full = Attention::full(self.n_head, size);
        let mut scale = if self.scale_attn_weights { full.scale } else { 1.0 };
        if self.scale_attn_by_inverse_layer_idx {
            scale /= (layer + 1) as f32;
        }
        Attention {
            scale,
            sight: Sight::CAUSAL,
            ..full
        }
    }
}

#[async_trait(?Send)]
impl Family for Gpt2 {
    fn facts(&self) -> ModelFacts {
        let config = &self.config;
        ModelFacts {
            family: "gpt2".into(),
            kind: Kind::Decoder,
            generates: self.head.is_some(),
            architecture: self.architecture.clone(),
            hidden_size: config.n_embd,
            layers: config.n_layer,
            heads: config.n_head,
            max_length: config.n_positions,
            vocab_size: config.vocab_size,
            ..ModelFacts::default()
        }
    }

    fn modules(&self) -> &[Module] {
        &self.modules
    }

    fn blocks(&self) -> usize {
        self.config.n_layer + 1
    }

    fn pad_id(&self) -> u32 {
        self.config.pad_token_id.unwrap_or(0)
    }

    fn names(&self) -> FamilyNames {
        FamilyNames::prefixed(&[PREFIX])
    }

    fn readouts(&self) -> &'static [&'static str] {
        &["score", "classifier"]
    }

    fn head(&self) -> Option<LmHead> {
        self.head.clone()
    }

    fn streams(&self) -> &[Stream] {
        DECODER_STREAMS
    }

    fn output(&self) -> StreamId {
        TEXT
    }

    async fn embed(&self, loader: &Loader<'_>, batch: &Batch, stream: StreamId) -> Result<Tensor<2>> {
        let config = &self.config;
        let (ids, positions) = (&batch.stream(stream).ids, &batch.stream(stream).positions);
        let key = |name: &str| format!("{}{name}.weight", self.prefix);
        let tables = [
            (key("wte"), config.vocab_size, ids.as_slice()),
            (key("wpe"), config.n_positions, positions.as_slice()),
        ];
        loader.embedded(&tables, config.n_embd).await
    }

    async fn load(&self, loader: &Loader<'_>, block: usize, _heads: Option<&Heads>) -> Result<Rc<dyn Block>> {
        let config = &self.config;
        let norm = async |name: &str| {
            let key = format!("{}{name}", self.prefix);
            loader
                .layer_norm(&key, config.n_embd, config.layer_norm_epsilon)
                .await
        };
        if block == config.n_layer {
            return Ok(Rc::new(FinalNorm(norm("ln_f").await?)));
        }
        let linear = async |(name, d_out, d_in): (String, usize, usize)| {
            let key = format!("{}{name}", self.prefix);
            let shape = LinearShape::new(d_out, d_in).biased(true).transposed();
            loader.linear(name, &key, shape).await
        };
        let [query_key_value, attention_output, widen, narrow] = config.layers(block);
        Ok(Rc::new(Layer {
            attention_norm: norm(&format!("h.{block}.ln_1")).await?,
            query_key_value: linear(query_key_value).await?,
            interleaved: false,
            rotary: None,
            attention: config.attention(block),
            attention_output: linear(attention_output).await?,
            feed_forward_norm: norm(&format!("h.{block}.ln_2")).await?,
            widen: linear(widen).await?,
            activation: self.activation,
            narrow: linear(narrow).await?,
            parallel: false,
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Code;

    #[test]
    fn scores_are_scaled_as_the_options_say() {
        let scale = |own: Value, layer| Config::read(&own).unwrap().attention(layer).scale;
        assert!((scale(json!({}), 3) - 0.125).abs() < 1e-7);
        assert!((scale(json!({"scale_attn_weights": false}), 3) - 1.0).abs() < 1e-7);
        let by_layer = json!({"scale_attn_by_inverse_layer_idx": true});
        assert!((scale(by_layer, 3) - 0.125 / 4.0).abs() < 1e-7);
    }

    #[test]
    fn options_that_are_not_handled_are_refused_by_name() {
        for (own, code, name) in [
            (json!({"n_head": 7}), Code::ConfigInvalid, "n_head 7"),
            (json!({"n_inner": 0}), Code::ConfigInvalid, "n_inner"),
            (
                json!({"add_cross_attention": true}),
                Code::ModelUnsupported,
                "add_cross_attention",
            ),
            (
                json!({"quantization_config": {"quant_method": "gptq"}}),
                Code::ModelUnsupported,
                "gptq",
            ),
        ] {
            let error = Config::read(&own).err().unwrap();
            assert_eq!(error.code(), code, "{own}");
            assert!(error.to_string().contains(name), "{error}");
        }
    }
}
