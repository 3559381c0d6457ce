//! The post-norm encoder: what BERT, RoBERTa and DistilBERT are made of.
//!
//! A layer is norm(x + attention(x)), then norm(x + narrow(act(widen(x)))) of that; positions are learned,
//! and every layer has a bias. Checkpoints of the model itself and of the classes around it (a classifier,
//! a language model head) are read alike. A family is what its configuration turns into [`Settings`]; the
//! last block is [`super::pool`]'s.

use std::rc::Rc;

use async_trait::async_trait;
use burn::tensor::Tensor;
use serde_json::Value;

use super::{
    Block, Family, Heads, Kind, Loader, ModelFacts, Module, State,
    config::{architecture, invalid, only, positive, unquantised},
    load::LinearShape,
    parts::{modules, prefix, without_prefix},
    pool::{self, Pooling},
};
use crate::{
    batch::{Batch, Rows, Stack},
    compute::{Activation, Attention, LayerNorm},
    error::Result,
    io::Checkpoint,
    linear::{Lanes, Linear},
};

/// Widths and counts.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Sizes {
    pub(super) vocabulary: usize,
    /// Rows of the table of positions.
    pub(super) positions: usize,
    /// Rows of the table of token types; 0 if there is none.
    pub(super) token_types: usize,
    pub(super) layers: usize,
    pub(super) heads: usize,
    pub(super) hidden: usize,
    /// Width of the feed-forward layers.
    pub(super) wide: usize,
}

/// What a family calls the parts of a layer, behind the layer's own path.
pub(super) struct Names {
    /// The list of layers.
    pub(super) layers: &'static str,
    pub(super) query: &'static str,
    pub(super) key: &'static str,
    pub(super) value: &'static str,
    pub(super) attention_output: &'static str,
    pub(super) attention_norm: &'static str,
    pub(super) widen: &'static str,
    pub(super) narrow: &'static str,
    pub(super) output_norm: &'static str,
}

/// BERT's names, which most of its descendants keep.
pub(super) const BERT: Names = Names {
    layers: "encoder.layer",
    query: "attention.self.query",
    key: "attention.self.key",
    value: "attention.self.value",
    attention_output: "attention.output.dense",
    attention_norm: "attention.output.LayerNorm",
    widen: "intermediate.dense",
    narrow: "output.dense",
    output_norm: "output.LayerNorm",
};

/// What makes one of these families.
pub(super) struct Settings {
    /// Its name in reports.
    pub(super) family: &'static str,
    pub(super) sizes: Sizes,
    pub(super) names: &'static Names,
    /// What may stand before the names of modules in checkpoints and adapters, the usual one first.
    pub(super) prefixes: &'static [&'static str],
    pub(super) activation: Activation,
    /// Added to the variance in every norm.
    pub(super) epsilon: f32,
    pub(super) pad_id: u32,
    /// Whether positions are counted from behind the padding token's id, which has a position of its own
    /// and is not counted (RoBERTa).
    pub(super) positions_behind_padding: bool,
    /// How its classifiers read it.
    pub(super) pool: pool::Settings,
}

impl Settings {
    /// The first row of the table of positions that a token has.
    const fn first_position(&self) -> usize {
        if self.positions_behind_padding {
            self.pad_id as usize + 1
        } else {
            0
        }
    }

    /// The targetable layers of a block: name, outputs, inputs, in the order of the forward pass.
    fn linears(&self, block: usize) -> [(String, usize, usize); 6] {
        let (names, hidden, wide) = (self.names, self.sizes.hidden, self.sizes.wide);
        [
            (names.query, hidden, hidden),
            (names.key, hidden, hidden),
            (names.value, hidden, hidden),
            (names.attention_output, hidden, hidden),
            (names.widen, wide, hidden),
            (names.narrow, hidden, wide),
        ]
        .map(|(suffix, d_out, d_in)| (format!("{}.{block}.{suffix}", names.layers), d_out, d_in))
    }
}

/// The family over one checkpoint.
struct Encoder {
    settings: Settings,
    architecture: String,
    prefix: &'static str,
    pooling: Pooling,
    modules: Vec<Module>,
}

/// The family that `settings` makes of `config`.
///
/// # Errors
/// `model_unsupported` naming an option that all these families share and that is not handled,
/// `config_invalid` for sizes that make no model.
pub(super) fn open(config: &Value, checkpoint: &Checkpoint, settings: Settings) -> Result<Box<dyn Family>> {
    unquantised(config)?;
    only(config, "position_embedding_type", &["absolute".into()])?;
    only(config, "is_decoder", &[false.into()])?;
    let sizes = &settings.sizes;
    let Sizes { hidden, heads, .. } = *sizes;
    positive(&[
        ("the vocabulary", sizes.vocabulary),
        ("the number of layers", sizes.layers),
        ("the number of attention heads", heads),
        ("the hidden width", hidden),
        ("the width of the feed-forward layers", sizes.wide),
    ])?;
    if hidden % heads != 0 {
        return Err(invalid(&format!("{hidden} hidden units make no {heads} heads")));
    }
    if sizes.positions <= settings.first_position() {
        return Err(invalid(&format!(
            "{} positions, of which the first is {}, are none",
            sizes.positions,
            settings.first_position()
        )));
    }
    let prefix = prefix(checkpoint, "embeddings.word_embeddings.weight", settings.prefixes);
    let pooling = Pooling::new(checkpoint, prefix, hidden, settings.pool.clone());
    let modules = (0..sizes.layers)
        .flat_map(|block| modules(prefix, block, settings.linears(block)))
        .chain(pooling.module(sizes.layers))
        .collect();
    Ok(Box::new(Encoder {
        architecture: architecture(config, settings.family),
        prefix,
        pooling,
        modules,
        settings,
    }))
}

#[async_trait(?Send)]
impl Family for Encoder {
    fn facts(&self) -> ModelFacts {
        let sizes = &self.settings.sizes;
        ModelFacts {
            family: self.settings.family.into(),
            kind: Kind::Encoder,
            generates: false,
            architecture: self.architecture.clone(),
            parameters: 0,
            hidden_size: sizes.hidden,
            layers: sizes.layers,
            heads: sizes.heads,
            max_length: sizes.positions - self.settings.first_position(),
            vocab_size: sizes.vocabulary,
            dtype: String::new(),
            bytes: 0,
            has_tokenizer: false,
            has_pooler: self.pooling.is_in_checkpoint(),
        }
    }

    fn modules(&self) -> &[Module] {
        &self.modules
    }

    fn blocks(&self) -> usize {
        self.settings.sizes.layers + 1
    }

    fn pad_id(&self) -> u32 {
        self.settings.pad_id
    }

    fn canonical<'a>(&self, module: &'a str) -> &'a str {
        without_prefix(module, self.settings.prefixes)
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
        let sizes = &self.settings.sizes;
        let table = async |name: &str, size, ids: &[u32]| {
            let key = format!("{}embeddings.{name}.weight", self.prefix);
            loader.rows(&key, size, sizes.hidden, ids).await
        };
        let ids = &batch.tokens.ids;
        let mut sum = table("word_embeddings", sizes.vocabulary, ids).await?;
        let mut add = |rows: Vec<f32>| sum.iter_mut().zip(rows).for_each(|(sum, x)| *sum += x);
        add(table("position_embeddings", sizes.positions, &self.positions(batch)).await?);
        if sizes.token_types > 0 {
            add(table("token_type_embeddings", sizes.token_types, &batch.type_ids).await?);
        }
        let key = format!("{}embeddings.LayerNorm", self.prefix);
        let norm = loader
            .layer_norm(&key, sizes.hidden, self.settings.epsilon)
            .await?;
        let embedded = loader.compute.tensor(sum, ids.len(), sizes.hidden);
        Ok(loader.compute.layer_norm(embedded, &norm))
    }

    async fn load(&self, loader: &Loader<'_>, block: usize, heads: Option<&Heads>) -> Result<Rc<dyn Block>> {
        let Settings {
            sizes,
            names,
            activation,
            epsilon,
            ..
        } = &self.settings;
        if block == sizes.layers {
            let pool = self.pooling.load(loader, heads, |name| self.canonical(name));
            return Ok(Rc::new(pool.await?));
        }
        let linear = async |(name, d_out, d_in): (String, usize, usize)| {
            let key = format!("{}{name}", self.prefix);
            let shape = LinearShape::new(d_out, d_in).biased(true);
            loader.linear(name, &key, shape).await
        };
        let norm = async |suffix: &str| {
            let key = format!("{}{}.{block}.{suffix}", self.prefix, names.layers);
            loader.layer_norm(&key, sizes.hidden, *epsilon).await
        };
        let [query, key, value, attention_output, widen, narrow] = self.settings.linears(block);
        Ok(Rc::new(Layer {
            query: linear(query).await?,
            key: linear(key).await?,
            value: linear(value).await?,
            attention_output: linear(attention_output).await?,
            attention_norm: norm(names.attention_norm).await?,
            widen: linear(widen).await?,
            narrow: linear(narrow).await?,
            output_norm: norm(names.output_norm).await?,
            attention: Attention::full(sizes.heads, sizes.hidden / sizes.heads),
            activation: *activation,
        }))
    }
}

impl Encoder {
    /// The row of the table of positions of every token.
    fn positions(&self, batch: &Batch) -> Vec<u32> {
        if !self.settings.positions_behind_padding {
            return batch.tokens.positions.clone();
        }
        // transformers' `create_position_ids_from_input_ids`: whatever has the padding token's id, be it in
        // the middle of a text, stays at that position and is not counted.
        let pad = self.settings.pad_id;
        let mut positions = vec![pad; batch.tokens.ids.len()];
        for place in &batch.places {
            let rows = place.rows.start..place.rows.start + place.rows.length;
            let mut last = pad;
            for row in rows.filter(|&row| batch.tokens.ids[row] != pad) {
                last += 1;
                positions[row] = last;
            }
        }
        positions
    }
}

struct Layer {
    query: Linear,
    key: Linear,
    value: Linear,
    attention_output: Linear,
    attention_norm: LayerNorm,
    widen: Linear,
    narrow: Linear,
    output_norm: LayerNorm,
    attention: Attention,
    activation: Activation,
}

#[async_trait(?Send)]
impl Block for Layer {
    async fn forward(&self, lanes: &Lanes<'_>, stack: &Stack<'_>, state: State) -> Result<State> {
        let compute = lanes.compute();
        let rows = Rows::Tokens;
        let x = state.tokens.clone();
        let projections = [&self.query, &self.key, &self.value];
        let projected = lanes.group(stack, rows, projections, x.clone()).await?;
        let context = lanes.attend(stack, rows, &self.query.name, projected, &self.attention);
        let attended = lanes.linear(stack, rows, &self.attention_output, context).await?;
        let x = compute.layer_norm(attended + x, &self.attention_norm);

        let wide = lanes.linear(stack, rows, &self.widen, x.clone()).await?;
        let wide = compute.activation(self.activation, wide);
        let output = lanes.linear(stack, rows, &self.narrow, wide).await?;
        Ok(state.with_tokens(compute.layer_norm(output + x, &self.output_norm)))
    }

    fn linears(&self) -> Vec<&Linear> {
        vec![
            &self.query,
            &self.key,
            &self.value,
            &self.attention_output,
            &self.widen,
            &self.narrow,
        ]
    }
}
