//! ModernBERT: pre-norm layers with rotary positions, gated feed-forward layers, and a window in most of
//! the attentions.
//!
//! The first layer has no norm before its attention, the embeddings having one. Queries, keys and values are
//! one layer, and so are the two halves of the gated one: first what goes through the activation, then the
//! gate. A windowed token sees `local_attention / 2` tokens to either side.
//! Reference: transformers, `models/modernbert/modeling_modernbert.py`.

use std::rc::Rc;

use async_trait::async_trait;
use burn::tensor::Tensor;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::{
    compute::{Activation, Attention, LayerNorm, Rotary, Sight},
    error::Result,
    io::Checkpoint,
    model::{
        batch::{Batch, Rows, Stack},
        config::{
            activation, architecture, invalid, only, parse, positive, sliding_layers, unquantised,
            unsupported, with_defaults,
        },
        family::{Block, Family, Heads, Kind, ModelFacts, Module, State},
        lanes::Lanes,
        load::{LinearShape, Loader},
        parts::{modules, prefix},
        projection::Projection,
        text::{
            pool::{self, Between, Norm, Pooled, Pooling},
            rope::{Rope, Source},
        },
    },
    naming::family::FamilyNames,
};

/// The parts of `config.json` that the forward pass depends on.
#[derive(Deserialize)]
struct Config {
    vocab_size: usize,
    hidden_size: usize,
    intermediate_size: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    hidden_activation: String,
    norm_eps: f32,
    norm_bias: bool,
    attention_bias: bool,
    mlp_bias: bool,
    local_attention: usize,
    global_attn_every_n_layers: usize,
    classifier_pooling: String,
    classifier_bias: bool,
    classifier_activation: String,
    pad_token_id: Option<u32>,
}

fn defaults() -> Value {
    json!({
        "vocab_size": 50368,
        "hidden_size": 768,
        "intermediate_size": 1152,
        "num_hidden_layers": 22,
        "num_attention_heads": 12,
        "hidden_activation": "gelu",
        "max_position_embeddings": 8192,
        "norm_eps": 1e-5,
        "norm_bias": false,
        "attention_bias": false,
        "mlp_bias": false,
        "local_attention": 128,
        "global_attn_every_n_layers": 3,
        "classifier_pooling": "cls",
        "classifier_bias": false,
        "classifier_activation": "gelu",
        "pad_token_id": 50283,
    })
}

/// The family over one checkpoint.
struct ModernBert {
    config: Config,
    architecture: String,
    activation: Activation,
    prefix: &'static str,
    /// Attention and rotary embedding of each layer.
    layers: Vec<(Attention, Rc<Rotary>)>,
    max_length: usize,
    pooling: Pooling,
    modules: Vec<Module>,
}

const PREFIXES: &[&str] = &["model.", ""];

/// See [`super::FAMILIES`].
pub(super) fn open(config: &Value, checkpoint: &Checkpoint) -> Result<Box<dyn Family>> {
    let value = with_defaults(config, defaults());
    let config: Config = parse(&value)?;
    unquantised(&value)?;
    let (hidden, heads, count) = (
        config.hidden_size,
        config.num_attention_heads,
        config.num_hidden_layers,
    );
    positive(&[
        ("vocab_size", config.vocab_size),
        ("hidden_size", hidden),
        ("intermediate_size", config.intermediate_size),
        ("num_hidden_layers", count),
        ("num_attention_heads", heads),
        ("global_attn_every_n_layers", config.global_attn_every_n_layers),
    ])?;
    if hidden % heads != 0 {
        return Err(invalid(&format!("{hidden} hidden units make no {heads} heads")));
    }
    let head_size = hidden / heads;
    only(&value, "head_dim", &[head_size.into()])?;
    let rope = |layer_type, theta| {
        let source = Source {
            layer_type: Some(layer_type),
            theta,
            partial: None,
            scaled: true,
        };
        Rope::read(&value, &source)
    };
    let full = rope("full_attention", ("global_rope_theta", 160_000.0))?;
    let sliding = rope("sliding_attention", ("local_rope_theta", 10_000.0))?;
    let max_length = full.max_length().min(sliding.max_length());
    let (full, sliding) = (full.rotary(head_size)?, sliding.rotary(head_size)?);
    let window = Sight {
        back: config.local_attention / 2,
        ahead: config.local_attention / 2,
    };
    let layers = sliding_layers(&value, count, |layer| {
        layer % config.global_attn_every_n_layers != 0
    })?
    .into_iter()
    .map(|is_sliding| {
        let attention = Attention::full(heads, head_size);
        if is_sliding {
            let attention = Attention {
                sight: window,
                ..attention
            };
            (attention, sliding.clone())
        } else {
            (attention, full.clone())
        }
    })
    .collect();
    let prefix = prefix(checkpoint, "embeddings.tok_embeddings.weight", PREFIXES);
    let pooling = Pooling::new(checkpoint, prefix, hidden, pool(&config)?);
    let modules = (0..count)
        .flat_map(|block| {
            let layers = linears(&config, block).map(|(name, shape)| (name, shape.d_out, shape.d_in));
            modules(prefix, block, layers)
        })
        .chain(pooling.module(count + 1))
        .collect();
    Ok(Box::new(ModernBert {
        architecture: architecture(&value, "ModernBertModel"),
        activation: activation("hidden_activation", &config.hidden_activation)?,
        config,
        prefix,
        layers,
        max_length,
        pooling,
        modules,
    }))
}

/// The head of `ModernBertForSequenceClassification`; that of the masked language model is of the same
/// kind and takes its place in a checkpoint where no classifier was trained.
fn pool(config: &Config) -> Result<pool::Settings> {
    let rows = match config.classifier_pooling.as_str() {
        "cls" => Pooled::First,
        "mean" => Pooled::Mean,
        other => {
            return Err(unsupported(&format!(
                "classifier_pooling is \"{other}\", which is not supported (only cls, mean)"
            )));
        }
    };
    let head = Between {
        dense: "head.dense",
        bias: config.classifier_bias,
        activation: activation("classifier_activation", &config.classifier_activation)?,
        norm: Some(Norm {
            name: "head.norm",
            bias: config.norm_bias,
            epsilon: config.norm_eps,
        }),
    };
    Ok(pool::Settings {
        rows,
        between: vec![head],
        readouts: &["classifier"],
        needed: Some("head.dense"),
    })
}

/// The targetable layers of a block, in the order of the forward pass.
fn linears(config: &Config, block: usize) -> [(String, LinearShape); 4] {
    let (hidden, wide) = (config.hidden_size, config.intermediate_size);
    [
        ("attn.Wqkv", 3 * hidden, hidden, config.attention_bias),
        ("attn.Wo", hidden, hidden, config.attention_bias),
        ("mlp.Wi", 2 * wide, hidden, config.mlp_bias),
        ("mlp.Wo", hidden, wide, config.mlp_bias),
    ]
    .map(|(suffix, d_out, d_in, bias)| {
        let shape = LinearShape::new(d_out, d_in).biased(bias);
        (format!("layers.{block}.{suffix}"), shape)
    })
}

#[async_trait(?Send)]
impl Family for ModernBert {
    fn facts(&self) -> ModelFacts {
        ModelFacts {
            family: "modernbert".into(),
            kind: Kind::Encoder,
            generates: false,
            architecture: self.architecture.clone(),
            hidden_size: self.config.hidden_size,
            layers: self.config.num_hidden_layers,
            heads: self.config.num_attention_heads,
            max_length: self.max_length,
            vocab_size: self.config.vocab_size,
            has_pooler: self.pooling.is_in_checkpoint(),
            ..ModelFacts::default()
        }
    }

    fn modules(&self) -> &[Module] {
        &self.modules
    }

    fn blocks(&self) -> usize {
        // The final norm and the pool.
        self.config.num_hidden_layers + 2
    }

    fn pad_id(&self) -> u32 {
        self.config.pad_token_id.unwrap_or(0)
    }

    fn names(&self) -> FamilyNames {
        FamilyNames::prefixed(PREFIXES)
    }

    fn is_readout(&self, head: &str) -> bool {
        self.pooling.has(head)
    }

    fn readouts(&self) -> &'static [&'static str] {
        self.pooling.settings.readouts
    }

    fn readouts_need(&self) -> Option<&'static str> {
        self.pooling.settings.needed
    }

    async fn embed(&self, loader: &Loader<'_>, batch: &Batch, _rows: Rows) -> Result<Tensor<2>> {
        let (hidden, ids) = (self.config.hidden_size, &batch.tokens.ids);
        let key = format!("{}embeddings.tok_embeddings.weight", self.prefix);
        let rows = loader.rows(&key, self.config.vocab_size, hidden, ids).await?;
        let norm = self.norm(loader, "embeddings.norm").await?;
        let embedded = loader.compute.tensor(rows, ids.len(), hidden);
        Ok(loader.compute.layer_norm(embedded, &norm))
    }

    async fn load(&self, loader: &Loader<'_>, block: usize, heads: Option<&Heads>) -> Result<Rc<dyn Block>> {
        let count = self.config.num_hidden_layers;
        let Some((attention, rotary)) = self.layers.get(block) else {
            if block == count {
                return Ok(Rc::new(FinalNorm(self.norm(loader, "final_norm").await?)));
            }
            let pool = self.pooling.load(loader, heads, self.names());
            return Ok(Rc::new(pool.await?));
        };
        let linear = async |(name, shape): (String, LinearShape)| {
            let key = format!("{}{name}", self.prefix);
            loader.linear(name, &key, shape).await
        };
        let norm = async |suffix: &str| self.norm(loader, &format!("layers.{block}.{suffix}")).await;
        let [query_key_value, attention_output, widen, narrow] = linears(&self.config, block);
        Ok(Rc::new(Layer {
            attention_norm: if block == 0 {
                None
            } else {
                Some(norm("attn_norm").await?)
            },
            query_key_value: linear(query_key_value).await?,
            attention_output: linear(attention_output).await?,
            feed_forward_norm: norm("mlp_norm").await?,
            widen: linear(widen).await?,
            narrow: linear(narrow).await?,
            attention: attention.clone(),
            rotary: rotary.clone(),
            activation: self.activation,
        }))
    }
}

impl ModernBert {
    async fn norm(&self, loader: &Loader<'_>, name: &str) -> Result<LayerNorm> {
        let key = format!("{}{name}", self.prefix);
        let (width, epsilon) = (self.config.hidden_size, self.config.norm_eps);
        if self.config.norm_bias {
            loader.layer_norm(&key, width, epsilon).await
        } else {
            loader.scale_norm(&key, width, epsilon).await
        }
    }
}

struct Layer {
    /// None in the first layer.
    attention_norm: Option<LayerNorm>,
    query_key_value: Projection,
    attention_output: Projection,
    feed_forward_norm: LayerNorm,
    widen: Projection,
    narrow: Projection,
    attention: Attention,
    rotary: Rc<Rotary>,
    activation: Activation,
}

#[async_trait(?Send)]
impl Block for Layer {
    async fn forward(&self, lanes: &Lanes<'_>, stack: &Stack<'_>, state: State) -> Result<State> {
        let compute = lanes.compute();
        let (rows, head_size) = (Rows::Tokens, self.attention.head_size);
        let x = state.tokens.clone();
        let normed = match &self.attention_norm {
            Some(norm) => compute.layer_norm(x.clone(), norm),
            None => x.clone(),
        };
        let fused = lanes.linear(stack, rows, &self.query_key_value, normed).await?;
        let [query, key, value] = compute.split(fused, 1, [self.attention.key_columns(); 3]);
        let rotate = |x| lanes.rotary(stack, rows, x, head_size, &self.rotary);
        let projected = [rotate(query), rotate(key), value];
        let name = &self.query_key_value.name;
        let context = lanes.attend(stack, rows, name, projected, &self.attention);
        let x = x + lanes.linear(stack, rows, &self.attention_output, context).await?;

        let normed = compute.layer_norm(x.clone(), &self.feed_forward_norm);
        let wide = lanes.linear(stack, rows, &self.widen, normed).await?;
        let [input, gate] = compute.split(wide, 1, [self.narrow.weight.d_in(); 2]);
        let wide = compute.activation(self.activation, input) * gate;
        let output = lanes.linear(stack, rows, &self.narrow, wide).await?;
        Ok(state.with_tokens(x + output))
    }

    fn linears(&self) -> Vec<&Projection> {
        vec![
            &self.query_key_value,
            &self.attention_output,
            &self.widen,
            &self.narrow,
        ]
    }
}

struct FinalNorm(LayerNorm);

#[async_trait(?Send)]
impl Block for FinalNorm {
    async fn forward(&self, lanes: &Lanes<'_>, _stack: &Stack<'_>, state: State) -> Result<State> {
        let normed = lanes.compute().layer_norm(state.tokens.clone(), &self.0);
        Ok(state.with_tokens(normed))
    }

    fn linears(&self) -> Vec<&Projection> {
        Vec::new()
    }
}
