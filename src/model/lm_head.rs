//! The head of a language model: from hidden states to logits over the vocabulary.
//!
//! The matrix of a head is the largest of a small model and often the embedding table itself. It is
//! read in parts of some thousand tokens each, and only rows that somebody asks for are multiplied.

use std::{ops::Range, rc::Rc};

use burn::tensor::Tensor;

use crate::{
    compute::{Bias, Compute, Weight, soft_cap},
    error::Result,
    model::load::{Loader, raw_weight},
};

/// Where a head is in the checkpoint, and what it does beside the product.
#[derive(Debug, Clone, PartialEq)]
pub struct LmHead {
    /// The checkpoint's key of its matrix (vocabulary x hidden).
    pub weight: String,
    /// The key of its bias, of any shape with `vocab_size` numbers.
    pub bias: Option<String>,
    /// Tokens.
    pub vocab_size: usize,
    /// Width of the hidden states.
    pub hidden_size: usize,
    /// Factor of the hidden states (d_model^-0.5 for T5's tied head).
    pub scale: f32,
    /// `cap * tanh(logit / cap)` (Gemma 2).
    pub soft_cap: Option<f32>,
}

/// Tokens of one part of a head.
const PART: usize = 8192;

/// The parts of a head that are kept between uses.
pub(super) type Kept = Vec<Rc<Part>>;

/// Some consecutive rows of a head's matrix.
pub(super) struct Part {
    weight: Weight,
    bias: Option<Bias>,
}

impl LmHead {
    /// Logits (rows x vocabulary, row-major) of hidden states (rows x hidden) behind the last block. `kept`
    /// has the head's parts from an earlier call; with `keep` they are left there for the next.
    pub(super) async fn logits(
        &self,
        loader: &Loader<'_>,
        hidden: Tensor<2>,
        kept: &mut Kept,
        keep: bool,
    ) -> Result<Vec<f32>> {
        let compute: &Compute = loader.compute;
        let rows = hidden.dims()[0];
        let mut hidden = hidden;
        if (self.scale - 1.0).abs() > f32::EPSILON {
            hidden = hidden * self.scale;
        }
        let hidden = compute.features(hidden);
        let mut logits = vec![0.0; rows * self.vocab_size];
        for (index, start) in (0..self.vocab_size).step_by(PART).enumerate() {
            let end = self.vocab_size.min(start + PART);
            let part = match kept.get(index) {
                Some(part) => Rc::clone(part),
                None => Rc::new(self.read(loader, start..end, keep).await?),
            };
            if keep && kept.len() == index {
                kept.push(Rc::clone(&part));
            }
            compute
                .meter
                .add_operations(crate::compute::Stage::Forward, part.weight.operations(rows));
            let mut product = hidden.project(hidden.all(), &part.weight);
            if let Some(bias) = &part.bias {
                product.add_bias(bias);
            }
            let product = compute.read(compute.tensor_of(product)).await?;
            for (to, from) in logits
                .chunks_exact_mut(self.vocab_size)
                .zip(product.chunks_exact(end - start))
            {
                to[start..end].copy_from_slice(from);
            }
        }
        if let Some(cap) = self.soft_cap {
            soft_cap(&mut logits, cap);
        }
        Ok(logits)
    }

    async fn read(
        &self,
        loader: &Loader<'_>,
        Range { start, end }: Range<usize>,
        stays: bool,
    ) -> Result<Part> {
        let width = self.hidden_size;
        let shape = &loader.checkpoint.require(&self.weight)?.shape;
        if *shape != [self.vocab_size, width] {
            // Says what is wrong, and where.
            loader.parameter(&self.weight, &[self.vocab_size, width]).await?;
        }
        let numbers = loader
            .checkpoint
            .own_range(&self.weight, start * width..end * width)
            .await?;
        let weight = Rc::new(raw_weight(numbers, end - start, width));
        let bias = match &self.bias {
            Some(key) => Some(loader.checkpoint.f32_range(key, start..end).await?),
            None => None,
        };
        Ok(Part {
            weight: loader.compute.weight_of(&weight, stays),
            bias: bias.map(|bias| loader.compute.bias(bias)),
        })
    }
}
