//! GPT-NeoX, Pythia among it: a decoder with rotary positions on a part of each head, whose attention and
//! feed-forward read the same rows unless the configuration says otherwise.
//!
//! Masks and frequencies that old checkpoints keep beside the weights are not read.
//! Reference: transformers, `models/gpt_neox/modeling_gpt_neox.py`.

use std::rc::Rc;

use async_trait::async_trait;
use burn::tensor::Tensor;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::{
    compute::{Activation, Attention, Rotary, Sight},
    error::Result,
    io::Checkpoint,
    model::{
        batch::{Batch, Rows},
        config::{activation, architecture, invalid, parse, positive, unquantised, with_defaults},
        family::{Block, Family, Heads, Kind, ModelFacts, Module},
        lm_head::LmHead,
        load::{LinearShape, Loader},
        parts::{is_language_model, modules, prefix},
        text::{
            gpt::{FinalNorm, Layer},
            rope::{Rope, Source},
        },
    },
    naming::family::FamilyNames,
};

/// The parts of `config.json` that the forward pass depends on, but for the rotary positions.
#[derive(Deserialize)]
struct Config {
    vocab_size: usize,
    hidden_size: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    intermediate_size: usize,
    hidden_act: String,
    layer_norm_eps: f32,
    use_parallel_residual: bool,
    attention_bias: bool,
    tie_word_embeddings: bool,
    pad_token_id: Option<u32>,
}

/// The defaults of transformers' configuration class.
fn defaults() -> Value {
    json!({
        "vocab_size": 50432,
        "hidden_size": 6144,
        "num_hidden_layers": 44,
        "num_attention_heads": 64,
        "intermediate_size": 24576,
        "hidden_act": "gelu",
        "max_position_embeddings": 2048,
        "layer_norm_eps": 1e-5,
        "use_parallel_residual": true,
        "attention_bias": true,
        "tie_word_embeddings": false,
    })
}

/// Where the configuration has the rotary positions.
const ROPE: Source<'static> = Source {
    theta: ("rotary_emb_base", 10_000.0),
    partial: Some(("rotary_pct", 0.25)),
    ..Source::PLAIN
};

/// The family over one checkpoint.
struct GptNeoX {
    config: Config,
    architecture: String,
    activation: Activation,
    rotary: Rc<Rotary>,
    max_length: usize,
    prefix: &'static str,
    head: Option<LmHead>,
    modules: Vec<Module>,
}

const PREFIX: &str = "gpt_neox.";

/// See [`super::FAMILIES`].
pub(super) fn open(config: &Value, checkpoint: &Checkpoint) -> Result<Box<dyn Family>> {
    let architecture = architecture(config, "GPTNeoXForCausalLM");
    let rope = Rope::read(&with_defaults(config, defaults()), &ROPE)?;
    let config = Config::read(config)?;
    let prefix = prefix(checkpoint, "embed_in.weight", &[PREFIX, ""]);
    Ok(Box::new(GptNeoX {
        activation: activation("hidden_act", &config.hidden_act)?,
        rotary: rope.rotary(config.hidden_size / config.num_attention_heads)?,
        max_length: rope.max_length(),
        head: head(&config, &architecture, checkpoint, prefix),
        modules: (0..config.num_hidden_layers)
            .flat_map(|block| modules(prefix, block, config.layers(block)))
            .collect(),
        architecture,
        prefix,
        config,
    }))
}

/// The head: the checkpoint's own, which transformers 5 calls `lm_head`, or the embedding table.
fn head(config: &Config, architecture: &str, checkpoint: &Checkpoint, prefix: &str) -> Option<LmHead> {
    let own = ["embed_out.weight", "lm_head.weight"]
        .into_iter()
        .find(|key| checkpoint.info(key).is_some());
    let tied = config.tie_word_embeddings && is_language_model(architecture);
    Some(LmHead {
        weight: match own {
            Some(own) => own.to_owned(),
            None if tied => format!("{prefix}embed_in.weight"),
            None => return None,
        },
        bias: None,
        vocab_size: config.vocab_size,
        hidden_size: config.hidden_size,
        scale: 1.0,
        soft_cap: None,
    })
}

impl Config {
    fn read(config: &Value) -> Result<Self> {
        unquantised(config)?;
        let config: Self = parse(&with_defaults(config, defaults()))?;
        let (hidden, heads) = (config.hidden_size, config.num_attention_heads);
        positive(&[
            ("vocab_size", config.vocab_size),
            ("hidden_size", hidden),
            ("num_hidden_layers", config.num_hidden_layers),
            ("num_attention_heads", heads),
            ("intermediate_size", config.intermediate_size),
        ])?;
        if !hidden.is_multiple_of(heads) {
            return Err(invalid(&format!(
                "hidden_size {hidden} is no multiple of num_attention_heads {heads}"
            )));
        }
        Ok(config)
    }

    /// The targetable layers of one layer: `(name, d_out, d_in)`, in the order of the forward pass.
    fn layers(&self, block: usize) -> [(String, usize, usize); 4] {
        let (hidden, wide) = (self.hidden_size, self.intermediate_size);
        [
            ("attention.query_key_value", 3 * hidden, hidden),
            ("attention.dense", hidden, hidden),
            ("mlp.dense_h_to_4h", wide, hidden),
            ("mlp.dense_4h_to_h", hidden, wide),
        ]
        .map(|(suffix, d_out, d_in)| (format!("layers.{block}.{suffix}"), d_out, d_in))
    }
}

#[async_trait(?Send)]
impl Family for GptNeoX {
    fn facts(&self) -> ModelFacts {
        let config = &self.config;
        ModelFacts {
            family: "gpt_neox".into(),
            kind: Kind::Decoder,
            generates: self.head.is_some(),
            architecture: self.architecture.clone(),
            hidden_size: config.hidden_size,
            layers: config.num_hidden_layers,
            heads: config.num_attention_heads,
            max_length: self.max_length,
            vocab_size: config.vocab_size,
            ..ModelFacts::default()
        }
    }

    fn modules(&self) -> &[Module] {
        &self.modules
    }

    fn blocks(&self) -> usize {
        self.config.num_hidden_layers + 1
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

    async fn embed(&self, loader: &Loader<'_>, batch: &Batch, _rows: Rows) -> Result<Tensor<2>> {
        let (vocabulary, width) = (self.config.vocab_size, self.config.hidden_size);
        let key = format!("{}embed_in.weight", self.prefix);
        let ids = &batch.tokens.ids;
        let rows = loader.rows(&key, vocabulary, width, ids).await?;
        Ok(loader.compute.tensor(rows, ids.len(), width))
    }

    async fn load(&self, loader: &Loader<'_>, block: usize, _heads: Option<&Heads>) -> Result<Rc<dyn Block>> {
        let config = &self.config;
        let norm = async |name: &str| {
            let key = format!("{}{name}", self.prefix);
            loader
                .layer_norm(&key, config.hidden_size, config.layer_norm_eps)
                .await
        };
        if block == config.num_hidden_layers {
            return Ok(Rc::new(FinalNorm(norm("final_layer_norm").await?)));
        }
        let linear = async |(name, d_out, d_in): (String, usize, usize), bias| {
            let key = format!("{}{name}", self.prefix);
            loader
                .linear(name, &key, LinearShape::new(d_out, d_in).biased(bias))
                .await
        };
        let [query_key_value, attention_output, widen, narrow] = config.layers(block);
        let heads = config.num_attention_heads;
        Ok(Rc::new(Layer {
            attention_norm: norm(&format!("layers.{block}.input_layernorm")).await?,
            query_key_value: linear(query_key_value, config.attention_bias).await?,
            interleaved: true,
            rotary: Some(Rc::clone(&self.rotary)),
            attention: Attention {
                sight: Sight::CAUSAL,
                ..Attention::full(heads, config.hidden_size / heads)
            },
            attention_output: linear(attention_output, config.attention_bias).await?,
            feed_forward_norm: norm(&format!("layers.{block}.post_attention_layernorm")).await?,
            widen: linear(widen, true).await?,
            activation: self.activation,
            narrow: linear(narrow, true).await?,
            parallel: config.use_parallel_residual,
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Code;

    #[test]
    fn a_configuration_that_makes_no_model_is_refused() {
        for (own, code, name) in [
            (
                json!({"num_attention_heads": 7}),
                Code::ConfigInvalid,
                "num_attention_heads 7",
            ),
            (
                json!({"num_hidden_layers": 0}),
                Code::ConfigInvalid,
                "num_hidden_layers",
            ),
            (
                json!({"quantization_config": {"quant_method": "awq"}}),
                Code::ModelUnsupported,
                "awq",
            ),
        ] {
            let error = Config::read(&own).err().unwrap();
            assert_eq!(error.code(), code, "{own}");
            assert!(error.to_string().contains(name), "{error}");
        }
    }

    #[test]
    fn rotary_scalings_that_are_not_handled_are_refused_by_name() {
        let own = json!({"rope_scaling": {"type": "dynamic", "factor": 2.0}});
        let error = Rope::read(&with_defaults(&own, defaults()), &ROPE).err().unwrap();
        assert_eq!(error.code(), Code::ModelUnsupported);
        assert!(error.to_string().contains("dynamic"), "{error}");
    }
}
