//! The pre-norm encoder that models of pictures are made of, and the text towers beside them: x + attention(norm(x)),
//! then x + narrow(act(widen(norm(x)))) of that, layer by layer.
//!
//! A family is its [`Names`] and numbers, [`Pictures`] where it reads any, and what it does behind the last layer. A model
//! may have two towers, over streams of their own; a tower whose stream is given nothing passes the state on.

use std::rc::Rc;

use async_trait::async_trait;
use burn::tensor::Tensor;

use crate::{
    compute::{Activation, Attention, LayerNorm, Sight},
    error::Result,
    model::{
        batch::Stack,
        config::{invalid, positive},
        family::{Block, Module},
        lanes::Lanes,
        load::{LinearShape, Loader},
        parts::Spelling,
        projection::Projection,
        state::State,
        streams::StreamId,
    },
};

/// Widths and counts.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(in crate::model) struct Sizes {
    pub(in crate::model) layers: usize,
    pub(in crate::model) heads: usize,
    pub(in crate::model) hidden: usize,
    /// Width of the feed-forward layers.
    pub(in crate::model) wide: usize,
}

impl Sizes {
    /// Whether they make a model.
    ///
    /// # Errors
    /// `config_invalid` naming what does not.
    pub(in crate::model) fn check(&self) -> Result<()> {
        positive(&[
            ("the hidden width", self.hidden),
            ("the number of layers", self.layers),
            ("the number of attention heads", self.heads),
            ("the width of the feed-forward layers", self.wide),
        ])?;
        if !self.hidden.is_multiple_of(self.heads) {
            return Err(invalid(&format!(
                "{} hidden units make no {} heads",
                self.hidden, self.heads
            )));
        }
        Ok(())
    }
}

/// What a family calls the parts of a layer, behind the layer's own path.
pub(in crate::model) struct Names {
    /// The list of layers.
    pub(in crate::model) layers: &'static str,
    pub(in crate::model) attention_norm: &'static str,
    pub(in crate::model) query_key_value: QueryKeyValue<&'static str>,
    pub(in crate::model) attention_output: &'static str,
    pub(in crate::model) feed_forward_norm: &'static str,
    pub(in crate::model) feed_forward: FeedForward<&'static str>,
    /// Factors, one a column, of what attention and the feed-forward layers add.
    pub(in crate::model) scales: Option<[&'static str; 2]>,
}

/// The layers in front of an attention.
pub(in crate::model) enum QueryKeyValue<T> {
    /// One each.
    Split([T; 3]),
    /// One, whose outputs are the query's, then the key's, then the value's.
    Fused(T),
}

impl<T> QueryKeyValue<T> {
    fn all(&self) -> &[T] {
        match self {
            Self::Split(all) => all,
            Self::Fused(one) => std::slice::from_ref(one),
        }
    }
}

/// The feed-forward layers.
pub(in crate::model) enum FeedForward<T> {
    /// narrow(act(widen(x))).
    Plain([T; 2]),
    /// narrow(act(gate(x)) * up(x)).
    Gated([T; 3]),
    /// The same, gate and up being the first and the second half of one layer's outputs.
    GatedFused([T; 2]),
}

impl<T> FeedForward<T> {
    fn all(&self) -> &[T] {
        match self {
            Self::Plain(all) | Self::GatedFused(all) => all,
            Self::Gated(all) => all,
        }
    }
}

/// One tower over one checkpoint.
pub(in crate::model) struct Tower {
    /// What stands before its names in the family's naming, such as `vision_model.`.
    pub(in crate::model) path: &'static str,
    pub(in crate::model) names: &'static Names,
    pub(in crate::model) sizes: Sizes,
    pub(in crate::model) activation: Activation,
    /// Added to the variance in every norm.
    pub(in crate::model) epsilon: f32,
    /// Whether query, key and value have a bias.
    pub(in crate::model) qkv_bias: bool,
    pub(in crate::model) sight: Sight,
    /// Its rows.
    pub(in crate::model) stream: StreamId,
    pub(in crate::model) spelling: Spelling,
}

/// A linear layer by its name: outputs, inputs, and whether it has a bias.
type Linear = (String, usize, usize, bool);

impl Tower {
    /// A name of the tower's own in the family's naming.
    pub(in crate::model) fn name(&self, name: &str) -> String {
        format!("{}{name}", self.path)
    }

    /// The checkpoint's key of a name of the tower's own.
    pub(in crate::model) fn key(&self, name: &str) -> String {
        self.spelling.key(&self.name(name))
    }

    /// A layer that adapters may target; `name` is the tower's own.
    pub(in crate::model) fn module(&self, name: &str, [d_out, d_in]: [usize; 2], block: usize) -> Module {
        self.spelling.module(&self.name(name), [d_out, d_in], block)
    }

    /// The layers of the encoder that adapters may target, in the order of the forward pass; layer 0 is block `first`.
    pub(in crate::model) fn modules(&self, first: usize) -> impl Iterator<Item = Module> {
        (0..self.sizes.layers).flat_map(move |layer| {
            let linears = self.linears(layer).into_iter();
            linears.map(move |(name, d_out, d_in, _)| self.module(&name, [d_out, d_in], first + layer))
        })
    }

    fn linears(&self, layer: usize) -> Vec<Linear> {
        let Sizes { hidden, wide, .. } = self.sizes;
        let Names {
            layers,
            query_key_value,
            attention_output,
            feed_forward,
            ..
        } = self.names;
        let in_front = query_key_value.all();
        let d_out = 3 / in_front.len() * hidden;
        let mut linears: Vec<(&str, usize, usize, bool)> = in_front
            .iter()
            .map(|&name| (name, d_out, hidden, self.qkv_bias))
            .collect();
        linears.push((attention_output, hidden, hidden, true));
        match *feed_forward {
            FeedForward::Plain([widen, narrow]) => {
                linears.extend([(widen, wide, hidden, true), (narrow, hidden, wide, true)]);
            }
            FeedForward::Gated([gate, up, narrow]) => linears.extend([
                (gate, wide, hidden, true),
                (up, wide, hidden, true),
                (narrow, hidden, wide, true),
            ]),
            FeedForward::GatedFused([gate_up, narrow]) => {
                linears.extend([(gate_up, 2 * wide, hidden, true), (narrow, hidden, wide, true)]);
            }
        }
        let full = |(name, d_out, d_in, bias)| (format!("{layers}.{layer}.{name}"), d_out, d_in, bias);
        linears.into_iter().map(full).collect()
    }

    /// A layer normalisation over the tower's width; `name` is the tower's own.
    ///
    /// # Errors
    /// As [`Loader::parameter`].
    pub(in crate::model) async fn norm(&self, loader: &Loader<'_>, name: &str) -> Result<LayerNorm> {
        loader
            .layer_norm(&self.key(name), self.sizes.hidden, self.epsilon)
            .await
    }

    /// A linear layer; `name` is the tower's own.
    ///
    /// # Errors
    /// As [`Loader::parameter`].
    pub(in crate::model) async fn linear(
        &self,
        loader: &Loader<'_>,
        name: &str,
        [d_out, d_in]: [usize; 2],
        bias: bool,
    ) -> Result<Projection> {
        let shape = LinearShape::new(d_out, d_in).biased(bias);
        loader.linear(self.name(name), &self.key(name), shape).await
    }

    /// Reads one layer of the encoder.
    ///
    /// # Errors
    /// As [`Loader::parameter`].
    pub(in crate::model) async fn layer(&self, loader: &Loader<'_>, layer: usize) -> Result<Rc<dyn Block>> {
        let Sizes { heads, hidden, .. } = self.sizes;
        let names = self.names;
        let full = |name: &str| format!("{}.{layer}.{name}", names.layers);
        let mut linears = Vec::new();
        for (name, d_out, d_in, bias) in self.linears(layer) {
            linears.push(self.linear(loader, &name, [d_out, d_in], bias).await?);
        }
        let mut linears = linears.into_iter();
        let mut next = || {
            let Some(linear) = linears.next() else {
                unreachable!("as many as there are names")
            };
            linear
        };
        let scale = async |at: usize| match names.scales {
            Some(scales) => {
                let key = self.key(&full(scales[at]));
                loader.parameter(&key, &[hidden]).await.map(Some)
            }
            None => Ok(None),
        };
        Ok(Rc::new(Layer {
            stream: self.stream,
            query_key_value: match names.query_key_value {
                QueryKeyValue::Split(_) => QueryKeyValue::Split([next(), next(), next()]),
                QueryKeyValue::Fused(_) => QueryKeyValue::Fused(next()),
            },
            attention_output: next(),
            feed_forward: match names.feed_forward {
                FeedForward::Plain(_) => FeedForward::Plain([next(), next()]),
                FeedForward::Gated(_) => FeedForward::Gated([next(), next(), next()]),
                FeedForward::GatedFused(_) => FeedForward::GatedFused([next(), next()]),
            },
            attention_norm: self.norm(loader, &full(names.attention_norm)).await?,
            feed_forward_norm: self.norm(loader, &full(names.feed_forward_norm)).await?,
            scales: [scale(0).await?, scale(1).await?],
            attention: Attention {
                sight: self.sight,
                ..Attention::full(heads, hidden / heads)
            },
            activation: self.activation,
        }))
    }
}

/// One layer of an encoder.
struct Layer {
    stream: StreamId,
    attention_norm: LayerNorm,
    query_key_value: QueryKeyValue<Projection>,
    attention_output: Projection,
    feed_forward_norm: LayerNorm,
    feed_forward: FeedForward<Projection>,
    /// Of what attention adds, and of what the feed-forward layers add.
    scales: [Option<Vec<f32>>; 2],
    attention: Attention,
    activation: Activation,
}

impl Layer {
    async fn attend(&self, lanes: &Lanes<'_>, stack: &Stack<'_>, x: Tensor<2>) -> Result<Tensor<2>> {
        let (name, projected) = match &self.query_key_value {
            QueryKeyValue::Split([query, key, value]) => {
                let projected = lanes.group(stack, self.stream, [query, key, value], x).await?;
                (&query.name, projected)
            }
            QueryKeyValue::Fused(fused) => {
                let all = lanes.linear(stack, self.stream, fused, x).await?;
                (&fused.name, thirds(&all))
            }
        };
        let context = lanes.attend(stack, self.stream, name, projected, &self.attention);
        lanes
            .linear(stack, self.stream, &self.attention_output, context)
            .await
    }

    async fn feed_forward(&self, lanes: &Lanes<'_>, stack: &Stack<'_>, x: Tensor<2>) -> Result<Tensor<2>> {
        let compute = lanes.compute();
        let (wide, narrow) = match &self.feed_forward {
            FeedForward::Plain([widen, narrow]) => {
                let wide = lanes.linear(stack, self.stream, widen, x).await?;
                (compute.activation(self.activation, wide), narrow)
            }
            FeedForward::Gated([gate, up, narrow]) => {
                let [gate, up] = lanes.group(stack, self.stream, [gate, up], x).await?;
                (compute.gated(self.activation, gate, up), narrow)
            }
            FeedForward::GatedFused([gate_up, narrow]) => {
                let both = lanes.linear(stack, self.stream, gate_up, x).await?;
                let [rows, columns] = both.dims();
                let gate = both.clone().slice([0..rows, 0..columns / 2]);
                let up = both.slice([0..rows, columns / 2..columns]);
                (compute.gated(self.activation, gate, up), narrow)
            }
        };
        lanes.linear(stack, self.stream, narrow, wide).await
    }
}

/// The columns of query, key and value.
fn thirds(all: &Tensor<2>) -> [Tensor<2>; 3] {
    let [rows, columns] = all.dims();
    let width = columns / 3;
    [0, 1, 2].map(|part| all.clone().slice([0..rows, part * width..(part + 1) * width]))
}

#[async_trait(?Send)]
impl Block for Layer {
    async fn forward(&self, lanes: &Lanes<'_>, stack: &Stack<'_>, mut state: State) -> Result<State> {
        if !state.has(self.stream) {
            return Ok(state);
        }
        let compute = lanes.compute();
        let scaled = |x: Tensor<2>, scale: &Option<Vec<f32>>| match scale {
            Some(scale) => x * compute.tensor(scale.clone(), 1, scale.len()),
            None => x,
        };
        let x = state.take(self.stream)?;
        let normed = compute.layer_norm(x.clone(), &self.attention_norm);
        let x = scaled(self.attend(lanes, stack, normed).await?, &self.scales[0]) + x;
        let normed = compute.layer_norm(x.clone(), &self.feed_forward_norm);
        let output = scaled(self.feed_forward(lanes, stack, normed).await?, &self.scales[1]);
        Ok(state.with(self.stream, output + x))
    }

    fn linears(&self) -> Vec<&Projection> {
        let in_front = self.query_key_value.all().iter();
        in_front
            .chain([&self.attention_output])
            .chain(self.feed_forward.all())
            .collect()
    }
}

/// The first row of every sample, (samples x width).
pub(in crate::model) fn first_rows(
    lanes: &Lanes<'_>,
    stack: &Stack<'_>,
    stream: StreamId,
    x: Tensor<2>,
) -> Tensor<2> {
    let sequences = stack.sequences(stream);
    let first: Vec<usize> = sequences.iter().map(|sequence| sequence.start).collect();
    x.select(0, lanes.compute().indices(&first))
}

/// The mean of every sample's rows behind the first `behind`, (samples x width).
pub(in crate::model) fn mean_rows(
    stack: &Stack<'_>,
    stream: StreamId,
    x: Tensor<2>,
    behind: usize,
) -> Tensor<2> {
    let sequences = stack.sequences(stream);
    let [rows, width] = x.dims();
    let length = sequences.first().map_or(0, |sequence| sequence.length);
    // Pictures are mostly of one size.
    if sequences.iter().all(|sequence| sequence.length == length) {
        let samples = rows / length.max(1);
        let rows = x.reshape([samples, length, width]);
        let rows = rows.slice([0..samples, behind..length, 0..width]);
        return rows.mean_dim(1).reshape([samples, width]);
    }
    let means = sequences.into_iter().map(|sequence| {
        let rows = sequence.start + behind..sequence.start + sequence.length;
        x.clone().slice([rows]).mean_dim(0)
    });
    Tensor::cat(means.collect(), 0)
}
