//! What a caller may choose, with the defaults.

use std::fmt::Formatter;

use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{MapAccess, Visitor},
};

use crate::{
    adapter::FormatChoice,
    calibrate::{DecoderInputs, Positions},
    error::{Code, Error, Result},
    generate::Sampling,
    io::DtypeChoice,
    model::batch::Padding,
    naming::pattern::Patterns,
};

/// Names of the merge methods; those that PEFT has too bear its names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MethodName {
    /// IterIS (Chen et al., CVPR 2025).
    Iteris,
    /// RegMean (Jin et al., ICLR 2023), on the changes.
    Regmean,
    /// RegMean++: RegMean on features behind the layers that are already merged.
    #[serde(rename = "regmean++")]
    RegmeanPlusPlus,
    /// The weighted mean of the changes.
    Average,
    /// The weighted sum of the changes.
    Linear,
    /// The weighted sum of the changes, scaled (Ilharco et al., ICLR 2023).
    #[serde(alias = "task-arithmetic")]
    TaskArithmetic,
    /// The weighted sum, as stacked factors.
    Cat,
    /// The weighted sum, cut to a rank.
    Svd,
    /// TIES (Yadav et al., NeurIPS 2023).
    Ties,
    /// TIES, cut to a rank.
    TiesSvd,
    /// DARE (Yu et al., ICML 2024), then the weighted sum.
    DareLinear,
    /// The same, cut to a rank.
    DareLinearSvd,
    /// DARE, then the vote of TIES.
    DareTies,
    /// The same, cut to a rank.
    DareTiesSvd,
    /// The largest numbers of each change, then the weighted sum.
    MagnitudePrune,
    /// The same, cut to a rank.
    MagnitudePruneSvd,
    /// KnOTS (Stoica et al., ICLR 2025) with TIES.
    Knots,
}

/// How TIES elects the sign of a number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MajoritySign {
    /// That of the sum of the tasks' numbers.
    Total,
    /// That which more tasks have.
    Frequency,
}

/// Whether all layers are written with one rank.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Ranks {
    /// One rank, which every program loads.
    Uniform,
    /// Each layer's own, in PEFT's `rank_pattern`.
    PerLayer,
}

/// Weights of single layers, by a pattern of the module's path, in the order given.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct LayerWeights(pub Vec<(String, Vec<f64>)>);

impl LayerWeights {
    /// The patterns, for as many adapters.
    ///
    /// # Errors
    /// [`Code::OptionInvalid`] for a pattern with another number of weights, a weight that is not finite, or a pattern
    /// that is no regular expression.
    pub fn patterns(&self, adapters: usize) -> Result<Patterns<Vec<f64>>> {
        for (pattern, weights) in &self.0 {
            if weights.len() != adapters {
                return Err(Error::new(
                    Code::OptionInvalid,
                    format!(
                        "layerWeights has {} weights for {adapters} adapters; give one for each, in their order; pattern: {pattern}",
                        weights.len()
                    ),
                ));
            }
            if let Some(weight) = weights.iter().find(|weight| !weight.is_finite()) {
                return Err(Error::new(
                    Code::OptionInvalid,
                    format!("layerWeights has the weight {weight}; give finite numbers; pattern: {pattern}"),
                ));
            }
        }
        Patterns::new("layerWeights", self.0.iter().cloned())
            .map_err(|error| Error::new(Code::OptionInvalid, error.to_string()))
    }
}

impl Serialize for LayerWeights {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(pattern, weights)| (pattern, weights)))
    }
}

impl<'de> Deserialize<'de> for LayerWeights {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        struct InOrder;
        impl<'de> Visitor<'de> for InOrder {
            type Value = LayerWeights;

            fn expecting(&self, formatter: &mut Formatter<'_>) -> std::fmt::Result {
                formatter.write_str("an object of lists of weights, by pattern")
            }

            fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> std::result::Result<LayerWeights, M::Error> {
                let mut entries = Vec::new();
                while let Some(entry) = map.next_entry()? {
                    entries.push(entry);
                }
                Ok(LayerWeights(entries))
            }
        }
        deserializer.deserialize_map(InOrder)
    }
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
pub enum LeastSquares {
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
    pub target: LeastSquares,
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
    /// Task arithmetic and KnOTS: the factor of the merged change.
    pub scale: f64,
    /// RegMean: the factor a of what lies off a Gram matrix's diagonal.
    pub non_diagonal: f64,
    /// TIES, DARE, magnitude pruning, KnOTS: the share of numbers that is kept.
    pub density: f64,
    /// TIES: how signs are elected.
    pub majority_sign_method: MajoritySign,
    /// `svd` and `*_svd`: the rank they cut to; the largest of the adapters if `None`, as in PEFT.
    pub svd_rank: Option<usize>,
    /// DARE: of the numbers that are dropped.
    pub seed: u64,
    /// Weights of single layers, in place of the adapters' own.
    pub layer_weights: LayerWeights,
    /// The rank of the written adapter; exact, or as `energy` asks, if `None`.
    pub rank: Option<usize>,
    /// The share of each change's squared norm that the written rank keeps.
    pub energy: Option<f64>,
    /// Whether all layers are written with one rank.
    pub ranks: Ranks,
    /// Whose adapter files are written.
    pub format: FormatChoice,
    /// What is written.
    pub output: OutputKind,
    /// Element type of what is written.
    pub dtype: DtypeChoice,
    /// A merged base model is split into files of at most so many bytes of tensors; if `None`, as the base came, and
    /// from 4 GB on.
    pub max_shard_bytes: Option<u64>,
    /// The longest sample in tokens, as the caller tokenised; recorded.
    pub max_length: Option<usize>,
}

impl Default for MergeOptions {
    fn default() -> Self {
        Self {
            method: MethodName::Iteris,
            schedule: Schedule::Sweep,
            max_iter: 3,
            target: LeastSquares::Delta,
            alpha1: 1e-5,
            alpha2: 1e-5,
            adaptive_weights: true,
            padding: Padding::Exclude,
            decoder_inputs: DecoderInputs::Own,
            max_new_tokens: 16,
            positions: Positions::All,
            scale: 1.0,
            non_diagonal: 0.9,
            density: 0.5,
            majority_sign_method: MajoritySign::Total,
            svd_rank: None,
            seed: 0,
            layer_weights: LayerWeights::default(),
            rank: None,
            energy: None,
            ranks: Ranks::Uniform,
            format: FormatChoice::Auto,
            output: OutputKind::Adapter,
            dtype: DtypeChoice::Auto,
            max_shard_bytes: None,
            max_length: None,
        }
    }
}

impl MergeOptions {
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
        for (name, rank) in [("rank", self.rank), ("svdRank", self.svd_rank)] {
            if rank == Some(0) {
                return refuse(format!("{name} is 0; give at least 1, or leave it out"));
            }
        }
        for (name, share) in [
            ("density", Some(self.density)),
            ("energy", self.energy),
            ("nonDiagonal", Some(self.non_diagonal).filter(|&a| a != 0.0)),
        ] {
            if let Some(share) = share
                && !(share > 0.0 && share <= 1.0)
            {
                return refuse(format!("{name} is {share}; it is a share, up to 1"));
            }
        }
        if self.max_shard_bytes == Some(0) {
            return refuse("maxShardBytes is 0; give the most bytes of a file, or leave it out".into());
        }
        if self.rank.is_some() && self.energy.is_some() {
            return refuse("rank and energy both say where to cut; give one of them".into());
        }
        if !self.scale.is_finite() {
            return refuse(format!("scale is {}; give a finite number", self.scale));
        }
        Ok(())
    }
}
