//! What a caller may choose, with the defaults.

use serde::{Deserialize, Serialize};

use crate::{
    batch::Padding,
    error::{Code, Error, Result},
    generate::Sampling,
    io::OutDtype,
    samples::{Completing, DecoderInputs, Positions},
};

/// Names of the merge methods.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum MethodName {
    /// IterIS (Chen et al., CVPR 2025).
    Iteris,
    /// The weighted average of the deltas.
    Linear,
    /// The weighted sum of the deltas, scaled (Ilharco et al., ICLR 2023).
    TaskArithmetic,
}

/// When a solution is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Schedule {
    /// Each layer's is used by the layers after it in the same pass: the limit of the iteration.
    Sweep,
    /// A pass uses the previous pass's, as the paper does.
    Iterate,
}

/// What the least-squares problem reproduces.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Target {
    /// What each adapter adds.
    Delta,
    /// The whole adapted layer.
    Full,
}

/// What is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OutputKind {
    /// A PEFT adapter.
    Adapter,
    /// The base model with the merged delta added.
    Base,
}

/// Options of a merge. In JavaScript the names are camelCase; in a report they are as here.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all(deserialize = "camelCase"))]
pub struct MergeOptions {
    /// The method.
    pub method: MethodName,
    /// IterIS: when solutions are used.
    pub schedule: Schedule,
    /// IterIS, `iterate`: how many passes.
    pub max_iter: usize,
    /// IterIS: what is reproduced.
    pub target: Target,
    /// IterIS: ridge on the cross Gram matrix, relative to its Frobenius norm.
    pub alpha1: f64,
    /// IterIS: ridge on the Gram matrix of the merged features, relative to its Frobenius norm.
    pub alpha2: f64,
    /// IterIS: whether each task is weighted by the inverse of its layer's output norm.
    pub adaptive_weights: bool,
    /// IterIS: what becomes of padding rows.
    pub padding: Padding,
    /// Encoder-decoders: what the decoder reads.
    pub decoder_inputs: DecoderInputs,
    /// The most tokens of an answer that an adapter writes to its own samples.
    pub max_new_tokens: usize,
    /// Decoder-only models: whose features count.
    pub positions: Positions,
    /// Task arithmetic: the factor of the sum.
    pub scale: f64,
    /// The rank of the written adapter; exact if `None`.
    pub rank: Option<usize>,
    /// What is written.
    pub output: OutputKind,
    /// Element type of what is written.
    pub dtype: OutDtype,
    /// The longest sample in tokens, as the caller tokenised; recorded.
    pub max_length: Option<usize>,
}

impl Default for MergeOptions {
    fn default() -> Self {
        Self {
            method: MethodName::Iteris,
            schedule: Schedule::Sweep,
            max_iter: 3,
            target: Target::Delta,
            alpha1: 1e-5,
            alpha2: 1e-5,
            adaptive_weights: true,
            padding: Padding::Exclude,
            decoder_inputs: DecoderInputs::Own,
            max_new_tokens: 16,
            positions: Positions::All,
            scale: 1.0,
            rank: None,
            output: OutputKind::Adapter,
            dtype: OutDtype::F32,
            max_length: None,
        }
    }
}

impl MergeOptions {
    /// How samples are made complete.
    pub(super) const fn completing(&self) -> Completing {
        Completing {
            decoder_inputs: self.decoder_inputs,
            positions: self.positions,
            max_new_tokens: self.max_new_tokens,
        }
    }

    /// Checks every range.
    ///
    /// # Errors
    /// [`Code::OptionInvalid`] naming the option.
    pub fn check(&self) -> Result<()> {
        let refuse = |what: String| Err(Error::new(Code::OptionInvalid, what));
        for (name, value) in [("alpha1", self.alpha1), ("alpha2", self.alpha2)] {
            if !(0.0..=1.0).contains(&value) {
                return refuse(format!(
                    "{name} is {value}; a ridge is from 0 to 1, usually 1e-6 to 1e-2"
                ));
            }
        }
        if !(1..=1000).contains(&self.max_iter) {
            return refuse(format!("maxIter is {}; give 1 to 1000 passes", self.max_iter));
        }
        Sampling::greedy(self.max_new_tokens).check()?;
        if self.rank == Some(0) {
            return refuse("rank is 0; give at least 1, or leave it out for the exact rank".into());
        }
        if !self.scale.is_finite() {
            return refuse(format!("scale is {}; give a finite number", self.scale));
        }
        Ok(())
    }
}
