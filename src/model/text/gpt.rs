//! The layer that GPT-2 and GPT-NeoX are made of: layer normalisation before each part, queries, keys and
//! values from one linear layer, and a feed-forward without a gate.

use std::rc::Rc;

use async_trait::async_trait;
use burn::tensor::Tensor;

use crate::{
    compute::{Activation, Attention, LayerNorm, Rotary},
    error::Result,
    model::{
        batch::{Rows, Stack},
        family::{Block, State},
        lanes::Lanes,
        projection::Projection,
    },
};

/// The rows of a decoder-only model.
const ROWS: Rows = Rows::Tokens;

/// One layer.
pub(super) struct Layer {
    pub(super) attention_norm: LayerNorm,
    pub(super) query_key_value: Projection,
    /// Whether a head's query, key and value are side by side in the output of `query_key_value`; else all
    /// queries are before all keys.
    pub(super) interleaved: bool,
    pub(super) rotary: Option<Rc<Rotary>>,
    pub(super) attention: Attention,
    pub(super) attention_output: Projection,
    pub(super) feed_forward_norm: LayerNorm,
    pub(super) widen: Projection,
    pub(super) activation: Activation,
    pub(super) narrow: Projection,
    /// Whether the feed-forward reads what the attention reads, and not its result.
    pub(super) parallel: bool,
}

impl Layer {
    async fn attend(&self, lanes: &Lanes<'_>, stack: &Stack<'_>, x: Tensor<2>) -> Result<Tensor<2>> {
        let Attention { heads, head_size, .. } = self.attention;
        let all = lanes.linear(stack, ROWS, &self.query_key_value, x).await?;
        let (groups, width) = if self.interleaved {
            (heads, head_size)
        } else {
            (1, heads * head_size)
        };
        let [query, key, value] = lanes.compute().split(all, groups, [width; 3]);
        let place = |x| match &self.rotary {
            Some(rotary) => lanes.rotary(stack, ROWS, x, head_size, rotary),
            None => x,
        };
        let projected = [place(query), place(key), value];
        let name = &self.query_key_value.name;
        let context = lanes.attend(stack, ROWS, name, projected, &self.attention);
        lanes.linear(stack, ROWS, &self.attention_output, context).await
    }
}

#[async_trait(?Send)]
impl Block for Layer {
    async fn forward(&self, lanes: &Lanes<'_>, stack: &Stack<'_>, state: State) -> Result<State> {
        let compute = lanes.compute();
        let x = state.tokens.clone();
        let normed = compute.layer_norm(x.clone(), &self.attention_norm);
        let attended = self.attend(lanes, stack, normed).await?;
        let sum = attended + x.clone();
        let read = if self.parallel { x } else { sum.clone() };
        let normed = compute.layer_norm(read, &self.feed_forward_norm);
        let wide = lanes.linear(stack, ROWS, &self.widen, normed).await?;
        let wide = compute.activation(self.activation, wide);
        let output = lanes.linear(stack, ROWS, &self.narrow, wide).await?;
        Ok(state.with_tokens(sum + output))
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

/// The normalisation behind the last layer.
pub(super) struct FinalNorm(pub(super) LayerNorm);

#[async_trait(?Send)]
impl Block for FinalNorm {
    async fn forward(&self, lanes: &Lanes<'_>, _stack: &Stack<'_>, state: State) -> Result<State> {
        let tokens = lanes.compute().layer_norm(state.tokens.clone(), &self.0);
        Ok(state.with_tokens(tokens))
    }

    fn linears(&self) -> Vec<&Projection> {
        Vec::new()
    }
}
