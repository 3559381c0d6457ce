//! BERT: encoders with learned positions and layer normalisation after each residual.
//!
//! Checkpoints of `BertModel` and of the classes around it (`bert.` prefix, a classifier, a language
//! model head) are read alike. The last block is the pooler, whose `dense` layer is a linear layer of
//! the model like any other; a checkpoint without one ends with each sample's first token.
//! Reference: transformers, `models/bert/modeling_bert.py`.

use std::rc::Rc;

use async_trait::async_trait;
use burn::tensor::Tensor;
use serde::Deserialize;
use serde_json::Value;

use super::{
    Block, Family, Heads, Kind, Loader, ModelFacts, Module, State,
    config::{activation, architecture, invalid, only, parse, unsupported},
    load::LinearShape,
    parts::{modules, prefix, without_prefix},
};
use crate::{
    batch::{Batch, Rows, Stack},
    compute::{Activation, Attention, Compute, LayerNorm},
    error::{Code, Error, Result},
    io::Checkpoint,
    linear::{Lanes, Linear},
};

/// The parts of `config.json` that the forward pass depends on.
#[derive(Deserialize)]
struct Config {
    hidden_size: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    intermediate_size: usize,
    #[serde(default = "gelu")]
    hidden_act: String,
    #[serde(default = "small")]
    layer_norm_eps: f32,
    max_position_embeddings: usize,
    #[serde(default = "two")]
    type_vocab_size: usize,
    vocab_size: usize,
    #[serde(default)]
    pad_token_id: Option<u32>,
    #[serde(default)]
    is_decoder: bool,
}

fn gelu() -> String {
    "gelu".into()
}
const fn small() -> f32 {
    1e-12
}
const fn two() -> usize {
    2
}

/// The family over one checkpoint.
struct Bert {
    config: Config,
    architecture: String,
    activation: Activation,
    prefix: &'static str,
    modules: Vec<Module>,
    has_pooler: bool,
}

/// See [`super::FAMILIES`].
pub(super) fn open(config: &Value, checkpoint: &Checkpoint) -> Result<Box<dyn Family>> {
    let architecture = architecture(config, "BertModel");
    only(config, "position_embedding_type", &["absolute".into()])?;
    let config: Config = parse(config)?;
    let activation = activation("hidden_act", &config.hidden_act)?;
    if config.is_decoder {
        return Err(unsupported(
            "is_decoder is true; only encoders are supported in this family",
        ));
    }
    let (hidden, heads) = (config.hidden_size, config.num_attention_heads);
    if hidden == 0
        || heads == 0
        || hidden % heads != 0
        || config.num_hidden_layers == 0
        || config.intermediate_size == 0
    {
        return Err(invalid(&format!(
            "{hidden} hidden units in {heads} heads and {} layers make no model",
            config.num_hidden_layers
        )));
    }
    let prefix = prefix(checkpoint, "embeddings.word_embeddings.weight", &["bert.", ""]);
    let has_pooler = checkpoint.info(&format!("{prefix}pooler.dense.weight")).is_some();
    let wide = config.intermediate_size;
    let layers = (0..config.num_hidden_layers).flat_map(|block| {
        let layers = LAYERS.map(|(suffix, kind)| {
            let name = format!("encoder.layer.{block}.{suffix}");
            match kind {
                Shape::Square => (name, hidden, hidden),
                Shape::Widen => (name, wide, hidden),
                Shape::Narrow => (name, hidden, wide),
            }
        });
        modules(prefix, block, layers)
    });
    let pooler = has_pooler.then(|| (String::from("pooler.dense"), hidden, hidden));
    let modules = layers
        .chain(modules(prefix, config.num_hidden_layers, pooler))
        .collect();
    Ok(Box::new(Bert {
        config,
        architecture,
        activation,
        prefix,
        modules,
        has_pooler,
    }))
}

#[derive(Clone, Copy)]
enum Shape {
    Square,
    Widen,
    Narrow,
}

/// The targetable layers of an encoder layer, in the order of the forward pass.
const LAYERS: [(&str, Shape); 6] = [
    ("attention.self.query", Shape::Square),
    ("attention.self.key", Shape::Square),
    ("attention.self.value", Shape::Square),
    ("attention.output.dense", Shape::Square),
    ("intermediate.dense", Shape::Widen),
    ("output.dense", Shape::Narrow),
];

#[async_trait(?Send)]
impl Family for Bert {
    fn facts(&self) -> ModelFacts {
        ModelFacts {
            family: "bert".into(),
            kind: Kind::Encoder,
            generates: false,
            architecture: self.architecture.clone(),
            parameters: 0,
            hidden_size: self.config.hidden_size,
            layers: self.config.num_hidden_layers,
            heads: self.config.num_attention_heads,
            max_length: self.config.max_position_embeddings,
            vocab_size: self.config.vocab_size,
            dtype: String::new(),
            bytes: 0,
            has_tokenizer: false,
            has_pooler: self.has_pooler,
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

    fn canonical<'a>(&self, module: &'a str) -> &'a str {
        without_prefix(module, &["bert."])
    }

    fn readouts(&self) -> &'static [&'static str] {
        &["classifier", "score"]
    }

    async fn embed(&self, loader: &Loader<'_>, batch: &Batch, _rows: Rows) -> Result<Tensor<2>> {
        let config = &self.config;
        let table = async |name: &str, size, ids| {
            let key = format!("{}embeddings.{name}.weight", self.prefix);
            loader.rows(&key, size, config.hidden_size, ids).await
        };
        let (ids, positions) = (&batch.tokens.ids, &batch.tokens.positions);
        let mut sum = table("word_embeddings", config.vocab_size, ids).await?;
        let positions = table("position_embeddings", config.max_position_embeddings, positions).await?;
        let types = table("token_type_embeddings", config.type_vocab_size, &batch.type_ids).await?;
        for ((sum, position), kind) in sum.iter_mut().zip(positions).zip(types) {
            *sum += kind + position;
        }
        let norm = loader
            .layer_norm(
                &format!("{}embeddings.LayerNorm", self.prefix),
                config.hidden_size,
                config.layer_norm_eps,
            )
            .await?;
        let embedded = loader.compute.tensor(sum, ids.len(), config.hidden_size);
        Ok(loader.compute.layer_norm(embedded, &norm))
    }

    async fn load(&self, loader: &Loader<'_>, block: usize, heads: Option<&Heads>) -> Result<Rc<dyn Block>> {
        let config = &self.config;
        let (hidden, wide) = (config.hidden_size, config.intermediate_size);
        if block == config.num_hidden_layers {
            return Ok(Rc::new(Pooler {
                dense: self.pooler(loader, heads).await?,
            }));
        }
        let name = |suffix: &str| format!("encoder.layer.{block}.{suffix}");
        let key = |suffix: &str| format!("{}encoder.layer.{block}.{suffix}", self.prefix);
        let linear = async |suffix: &str, d_out, d_in| {
            let shape = LinearShape::new(d_out, d_in).biased(true);
            loader.linear(name(suffix), &key(suffix), shape).await
        };
        let norm = async |suffix: &str| {
            loader
                .layer_norm(&key(suffix), hidden, config.layer_norm_eps)
                .await
        };
        Ok(Rc::new(Layer {
            query: linear("attention.self.query", hidden, hidden).await?,
            key: linear("attention.self.key", hidden, hidden).await?,
            value: linear("attention.self.value", hidden, hidden).await?,
            attention_output: linear("attention.output.dense", hidden, hidden).await?,
            attention_norm: norm("attention.output.LayerNorm").await?,
            intermediate: linear("intermediate.dense", wide, hidden).await?,
            output: linear("output.dense", hidden, wide).await?,
            output_norm: norm("output.LayerNorm").await?,
            attention: Attention::full(config.num_attention_heads, hidden / config.num_attention_heads),
            activation: self.activation,
        }))
    }
}

impl Bert {
    async fn pooler(&self, loader: &Loader<'_>, heads: Option<&Heads>) -> Result<Option<Linear>> {
        let hidden = self.config.hidden_size;
        let own = |part: &str| {
            let found = heads?.iter().find(|(name, _)| self.canonical(name) == part);
            found.map(|(_, tensor)| tensor.data.clone())
        };
        if let (Some(weight), Some(bias)) = (own("pooler.dense.weight"), own("pooler.dense.bias")) {
            if weight.len() != hidden * hidden || bias.len() != hidden {
                return Err(Error::new(
                    Code::ShapeMismatch,
                    format!("the adapter's own pooler is not {hidden} wide as the base model is"),
                ));
            }
            return Ok(Some(loader.linear_of(
                "pooler.dense".into(),
                weight,
                Some(bias),
                hidden,
                hidden,
            )));
        }
        if !self.has_pooler {
            return Ok(None);
        }
        let key = format!("{}pooler.dense", self.prefix);
        loader
            .linear(
                "pooler.dense".into(),
                &key,
                LinearShape::new(hidden, hidden).biased(true),
            )
            .await
            .map(Some)
    }
}

struct Layer {
    query: Linear,
    key: Linear,
    value: Linear,
    attention_output: Linear,
    attention_norm: LayerNorm,
    intermediate: Linear,
    output: Linear,
    output_norm: LayerNorm,
    attention: Attention,
    activation: Activation,
}

#[async_trait(?Send)]
impl Block for Layer {
    async fn forward(&self, lanes: &Lanes<'_>, stack: &Stack<'_>, state: State) -> Result<State> {
        let compute: &Compute = lanes.compute();
        let rows = Rows::Tokens;
        let x = state.tokens.clone();
        let projections = [&self.query, &self.key, &self.value];
        let projected = lanes.group(stack, rows, projections, x.clone()).await?;
        let context = lanes.attend(stack, rows, &self.query.name, projected, &self.attention);
        let attended = lanes.linear(stack, rows, &self.attention_output, context).await?;
        let x = compute.layer_norm(attended + x, &self.attention_norm);

        let wide = lanes.linear(stack, rows, &self.intermediate, x.clone()).await?;
        let wide = compute.activation(self.activation, wide);
        let output = lanes.linear(stack, rows, &self.output, wide).await?;
        Ok(state.with_tokens(compute.layer_norm(output + x, &self.output_norm)))
    }

    fn linears(&self) -> Vec<&Linear> {
        vec![
            &self.query,
            &self.key,
            &self.value,
            &self.attention_output,
            &self.intermediate,
            &self.output,
        ]
    }
}

/// Each sample's first token, through tanh(dense) where the checkpoint has it.
struct Pooler {
    dense: Option<Linear>,
}

#[async_trait(?Send)]
impl Block for Pooler {
    async fn forward(&self, lanes: &Lanes<'_>, stack: &Stack<'_>, state: State) -> Result<State> {
        let compute = lanes.compute();
        let first: Vec<usize> = stack
            .sequences(Rows::Tokens)
            .iter()
            .map(|sequence| sequence.start)
            .collect();
        let first = state.tokens.clone().select(0, compute.indices(&first));
        let Some(dense) = &self.dense else {
            return Ok(state.with_tokens(first));
        };
        let pooled = lanes.linear(stack, Rows::Samples, dense, first).await?;
        Ok(state.with_tokens(compute.activation(Activation::Tanh, pooled)))
    }

    fn linears(&self) -> Vec<&Linear> {
        self.dense.iter().collect()
    }
}
