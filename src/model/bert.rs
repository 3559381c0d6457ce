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

use super::{Block, Family, Heads, Loader, ModelFacts, Module};
use crate::{
    batch::{Batch, Rows, Stack},
    compute::{Activation, Compute, LayerNorm},
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
    position_embedding_type: Option<String>,
    #[serde(default)]
    is_decoder: bool,
    #[serde(default)]
    architectures: Option<Vec<String>>,
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
pub(super) struct Bert {
    config: Config,
    activation: Activation,
    prefix: &'static str,
    modules: Vec<Module>,
    has_pooler: bool,
}

/// Rows of an embedding table read at a time.
const TABLE_ROWS: usize = 4096;

impl Bert {
    pub(super) fn new(config: &Value, checkpoint: &Checkpoint) -> Result<Self> {
        let config = Config::deserialize(config).map_err(|error| {
            Error::new(
                Code::ConfigInvalid,
                format!("config.json of the base model: {error}"),
            )
        })?;
        let refuse = |what: String| {
            Err(Error::new(
                Code::ModelUnsupported,
                format!("config.json of the base model: {what}"),
            ))
        };
        let Some(activation) = Activation::from_name(&config.hidden_act) else {
            return refuse(format!(
                "hidden_act \"{}\" is not supported (gelu, gelu_new, gelu_fast, gelu_pytorch_tanh, quick_gelu, relu, silu, tanh)",
                config.hidden_act
            ));
        };
        if let Some(kind) = config
            .position_embedding_type
            .as_deref()
            .filter(|&kind| kind != "absolute")
        {
            return refuse(format!(
                "position_embedding_type \"{kind}\" is not supported (absolute)"
            ));
        }
        if config.is_decoder {
            return refuse("is_decoder is true; only encoders are supported in this family".into());
        }
        let (hidden, heads) = (config.hidden_size, config.num_attention_heads);
        if hidden == 0
            || heads == 0
            || hidden % heads != 0
            || config.num_hidden_layers == 0
            || config.intermediate_size == 0
        {
            return Err(Error::new(
                Code::ConfigInvalid,
                format!(
                    "config.json of the base model: {hidden} hidden units in {heads} heads and {} layers make no model",
                    config.num_hidden_layers
                ),
            ));
        }
        let prefix = if checkpoint
            .info("bert.embeddings.word_embeddings.weight")
            .is_some()
        {
            "bert."
        } else {
            ""
        };
        let has_pooler = checkpoint.info(&format!("{prefix}pooler.dense.weight")).is_some();
        let mut modules = Vec::new();
        let wide = config.intermediate_size;
        for block in 0..config.num_hidden_layers {
            for (suffix, d_out, d_in) in LAYERS.map(|(suffix, kind)| match kind {
                Shape::Square => (suffix, hidden, hidden),
                Shape::Widen => (suffix, wide, hidden),
                Shape::Narrow => (suffix, hidden, wide),
            }) {
                let name = format!("encoder.layer.{block}.{suffix}");
                modules.push(Module {
                    key: format!("{prefix}{name}.weight"),
                    name,
                    d_out,
                    d_in,
                    block,
                });
            }
        }
        if has_pooler {
            let name = String::from("pooler.dense");
            let block = config.num_hidden_layers;
            modules.push(Module {
                key: format!("{prefix}{name}.weight"),
                name,
                d_out: hidden,
                d_in: hidden,
                block,
            });
        }
        Ok(Self {
            config,
            activation,
            prefix,
            modules,
            has_pooler,
        })
    }

    /// Rows `ids` of an embedding table, one after another, without holding the table.
    async fn rows(&self, loader: &Loader<'_>, table: &str, size: usize, ids: &[u32]) -> Result<Vec<f32>> {
        let width = self.config.hidden_size;
        let key = format!("{}embeddings.{table}.weight", self.prefix);
        let found = loader.checkpoint.require(&key)?;
        if found.shape != [size, width] {
            return Err(Error::new(
                Code::ShapeMismatch,
                format!(
                    "base model: config.json asks for shape {:?} where the file has {:?}; tensor: {key}",
                    [size, width],
                    found.shape
                ),
            ));
        }
        if let Some(id) = ids.iter().find(|&&id| id as usize >= size) {
            return Err(Error::new(
                Code::SamplesInvalid,
                format!(
                    "a sample needs row {id} of {table}, which has {size}; the tokenizer is of another model, or the sample is too long"
                ),
            ));
        }
        let mut out = vec![0.0; ids.len() * width];
        for start in (0..size).step_by(TABLE_ROWS) {
            let end = size.min(start + TABLE_ROWS);
            if !ids.iter().any(|&id| (start..end).contains(&(id as usize))) {
                continue;
            }
            let part = loader
                .checkpoint
                .f32_range(&key, start * width..end * width)
                .await?;
            for (row, &id) in out.chunks_exact_mut(width).zip(ids) {
                if (start..end).contains(&(id as usize)) {
                    let from = (id as usize - start) * width;
                    row.copy_from_slice(&part[from..from + width]);
                }
            }
        }
        Ok(out)
    }
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
            architecture: self
                .config
                .architectures
                .iter()
                .flatten()
                .next()
                .cloned()
                .unwrap_or_else(|| "BertModel".into()),
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
        module.strip_prefix("bert.").unwrap_or(module)
    }

    fn is_readout(&self, head: &str) -> bool {
        self.readouts()
            .iter()
            .any(|name| head.strip_prefix(name).is_some_and(|rest| rest.starts_with('.')))
    }

    fn readouts(&self) -> &'static [&'static str] {
        &["classifier", "score"]
    }

    async fn embed(&self, loader: &Loader<'_>, batch: &Batch) -> Result<Tensor<2>> {
        let config = &self.config;
        let mut sum = self
            .rows(loader, "word_embeddings", config.vocab_size, &batch.ids)
            .await?;
        let positions = self
            .rows(
                loader,
                "position_embeddings",
                config.max_position_embeddings,
                &batch.positions,
            )
            .await?;
        let types = self
            .rows(
                loader,
                "token_type_embeddings",
                config.type_vocab_size,
                &batch.type_ids,
            )
            .await?;
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
        let embedded = loader.compute.tensor(sum, batch.ids.len(), config.hidden_size);
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
        let linear =
            async |suffix: &str, d_out, d_in| loader.linear(name(suffix), &key(suffix), d_out, d_in).await;
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
            heads: config.num_attention_heads,
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
                bias,
                hidden,
                hidden,
            )));
        }
        if !self.has_pooler {
            return Ok(None);
        }
        let key = format!("{}pooler.dense", self.prefix);
        loader
            .linear("pooler.dense".into(), &key, hidden, hidden)
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
    heads: usize,
    activation: Activation,
}

#[async_trait(?Send)]
impl Block for Layer {
    async fn forward(&self, lanes: &Lanes<'_>, stack: &Stack<'_>, state: Tensor<2>) -> Result<Tensor<2>> {
        let compute: &Compute = lanes.compute();
        let rows = Rows::Tokens;
        let [query, key, value] = lanes
            .group(stack, rows, [&self.query, &self.key, &self.value], state.clone())
            .await?;
        let context = compute.attention(query, key, value, &stack.sequences(), self.heads);
        let attended = lanes.linear(stack, rows, &self.attention_output, context).await?;
        let state = compute.layer_norm(attended + state, &self.attention_norm);

        let wide = lanes
            .linear(stack, rows, &self.intermediate, state.clone())
            .await?;
        let wide = compute.activation(self.activation, wide);
        let output = lanes.linear(stack, rows, &self.output, wide).await?;
        Ok(compute.layer_norm(output + state, &self.output_norm))
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
    async fn forward(&self, lanes: &Lanes<'_>, stack: &Stack<'_>, state: Tensor<2>) -> Result<Tensor<2>> {
        let compute = lanes.compute();
        let first: Vec<usize> = stack.sequences().iter().map(|sequence| sequence.start).collect();
        let first = state.select(0, compute.indices(&first));
        let Some(dense) = &self.dense else {
            return Ok(first);
        };
        let pooled = lanes.linear(stack, Rows::Samples, dense, first).await?;
        Ok(compute.activation(Activation::Tanh, pooled))
    }

    fn linears(&self) -> Vec<&Linear> {
        self.dense.iter().collect()
    }
}
