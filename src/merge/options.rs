//! What a caller may choose: each option once, with its default, its range and all that is told of it.
//!
//! Adding an option is an entry in [`MergeOptions`] and its name in [`Method::reads`](super::methods::Method::reads)
//! of the methods that look at it; `npm run generate` takes it to TypeScript, the command line and the page.

use std::fmt::Formatter;

use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{MapAccess, Visitor},
};

use crate::{
    adapter::FormatChoice,
    calibrate::{DecoderInputs, Positions},
    describe::{Kind, Place, Range, Section, Told, Value, Word, options},
    error::{Code, Error, Result},
    generate::ANSWER_LENGTH,
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

/// Which numbers a method looks at that looks at each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Space {
    /// Those of the weights.
    Weights,
    /// Those of Core Space (Panariello et al., NeurIPS 2025).
    Core,
}

/// Whether all layers are written with one rank.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Ranks {
    /// One rank in PEFT's form, each layer's own in forms of which every reader takes it.
    Auto,
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

/// The ends of a ridge.
const RIDGE: Range = Range::from_to(0.0, 1.0);
/// A share of something, which is not nothing.
const SHARE: Range = Range::above(0.0, 1.0);

options! {
    /// Options of a merge. In JavaScript the names are camelCase; in a report they are as here.
    #[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
    #[serde(default, deny_unknown_fields, rename_all(deserialize = "camelCase"))]
    pub struct MergeOptions {
        /// How; `METHODS` tells of each. Those of PEFT's `add_weighted_adapter` bear its names.
        method: MethodName = MethodName::Iteris, Told::new(Kind::Method);

        /// `sweep` solves each layer once as the pass reaches it; `iterate` is the paper's loop.
        schedule: Schedule = Schedule::Sweep,
            Told::word(&[
                Word::new("sweep", "Sweep: every layer once, in order"),
                Word::new("iterate", "Iterate: whole passes, as in the paper"),
            ])
            .flag("schedule", "KIND")
            .field(Place::Folded, "Schedule");

        /// Passes of `iterate`.
        max_iter: usize = 3,
            Told::number(Range::whole(1.0, 1000.0))
                .needs("schedule", "iterate")
                .flag("max-iter", "N")
                .field(Place::Folded, "Passes");

        /// What is solved for: the adapters' deltas (`delta`), or the weights with them (`full`).
        target: LeastSquares = LeastSquares::Delta,
            Told::word(&[
                Word::new("delta", "The adapters’ changes"),
                Word::new("full", "The changed weights"),
            ])
            .flag("target", "KIND")
            .field(Place::Folded, "Solve for");

        /// Ridge of the cross terms, relative to their norm; usually 1e-6 to 1e-2.
        alpha1: f64 = 1e-5,
            Told::number(RIDGE)
                .flag("alpha", "A")
                .help("ridge of both Gram matrices, relative to their norms; usually 1e-6 to 1e-2")
                .field(Place::Folded, "Alpha 1 (ridge of the cross terms)");

        /// Ridge of the Gram matrices, relative to their norm; usually 1e-6 to 1e-2.
        alpha2: f64 = 1e-5,
            Told::number(RIDGE)
                .flag("alpha", "A")
                .field(Place::Folded, "Alpha 2 (ridge of the Gram matrices)");

        /// Whether lambda evens out the tasks' scales (the paper's adaptive weights).
        adaptive_weights: bool = true,
            Told::new(Kind::Flag)
                .switch("no-adaptive-weights")
                .help("leave out the weights that even out the tasks' scales")
                .field(Place::Folded, "Adaptive weights")
                .hint("Evens out tasks whose layers work at different scales.");

        /// What becomes of the rows of padding tokens: `exclude` leaves them out, `include` counts them as the
        /// published code does.
        padding: Padding = Padding::Exclude,
            Told::word(&[
                Word::new("exclude", "Left out"),
                Word::new("include", "Counted, as in the published code"),
            ])
            .flag("padding", "KIND")
            .field(Place::Folded, "Padding tokens");

        /// What an encoder-decoder's decoder reads: `own` is the sample's target or what the adapter itself writes;
        /// `start` is the start token alone, as in the published code.
        decoder_inputs: DecoderInputs = DecoderInputs::Own,
            Told::word(&[
                Word::new("own", "Whole answers"),
                Word::new("start", "The start token alone"),
            ])
            .flag("decoder-inputs", "KIND")
            .section(Section::Samples)
            .field(Place::Writing, "The decoder reads")
            .hint("Whole answers are the samples’ own or what the adapter writes; the start token is the published code’s way.");

        /// Tokens that an adapter writes, at most, where a sample has no answer.
        max_new_tokens: Option<usize> = None,
            Told::number(ANSWER_LENGTH)
                .unit("tokens")
                .unset("16, and 12 of a caption")
                .flag("max-new-tokens", "N")
                .section(Section::Samples)
                .field(Place::Writing, "Longest answer")
                .hint("Where samples have no answers, the adapters write them, here and in the comparison.")
                .empty("16, captions 12");

        /// Which positions of a decoder-only model's samples are features: `all`, or those of the completion alone
        /// (`completion`).
        positions: Positions = Positions::All,
            Told::word(&[
                Word::new("all", "All of a sample"),
                Word::new("completion", "The answer’s alone"),
            ])
            .flag("positions", "KIND")
            .section(Section::Samples)
            .field(Place::Writing, "Tokens that count")
            .hint("Whether a layer is also to be kept right on the prompts, or only on the answers.");

        /// Factor of the merged deltas.
        scale: f64 = 1.0,
            Told::number(Range::FINITE)
                .flag("scale", "S")
                .field(Place::Beside, "Scale");

        /// RegMean's factor a of what lies off a Gram matrix's diagonal.
        non_diagonal: f64 = 0.9,
            Told::number(Range::from_to(0.0, 1.0))
                .flag("non-diagonal", "A")
                .field(Place::Beside, "Non-diagonal a")
                .hint("0: diagonals alone, 1: whole Gram matrices.");

        /// Share of each delta's numbers that is kept.
        density: f64 = 0.5,
            Told::number(SHARE)
                .flag("density", "D")
                .field(Place::Beside, "Density")
                .hint("Share of numbers kept.");

        /// How a sign is elected: by the sum of the numbers (`total`), or by their count (`frequency`).
        majority_sign_method: MajoritySign = MajoritySign::Total,
            Told::word(&[
                Word::new("total", "Sum"),
                Word::new("frequency", "Count"),
            ])
            .flag("majority-sign-method", "KIND")
            .field(Place::Beside, "Sign by");

        /// Which numbers are pruned and voted on: those of the `weights`, as in PEFT, or those of the adapters' coordinates
        /// in the bases of all their factors (`core`: Core Space).
        space: Space = Space::Weights,
            Told::word(&[
                Word::new("weights", "Weights"),
                Word::new("core", "Core Space").hint("Adapters’ coordinates in common bases: as small as the ranks, and fast."),
            ])
            .flag("space", "KIND")
            .field(Place::Beside, "Numbers of");

        /// Rank to which the method cuts its result.
        svd_rank: Option<usize> = None,
            Told::number(Range::whole_from(1.0))
                .unset("the largest among the adapters, as PEFT does")
                .flag("svd-rank", "R")
                .field(Place::Beside, "Rank of the cut")
                .empty("the largest");

        /// Seed of what is dropped at random.
        seed: u64 = 0,
            Told::number(Range::whole_from(0.0))
                .flag("seed", "N")
                .help("seed of what is dropped at random, and of --samples self")
                .field(Place::Beside, "Seed");

        /// Weights of single layers, one an adapter in their order, in place of the adapters' own: by a regular
        /// expression that the end of a module's path must match from a dot on, as PEFT matches `rank_pattern`; the
        /// first that matches counts.
        ///
        /// @example
        /// ```ts
        /// { "encoder.layer.[0-5].*": [1, 0.5] }
        /// ```
        layer_weights: LayerWeights = LayerWeights::default(),
            Told::new(Kind::Weights)
                .flag("layer-weights", "'PATTERN: [1, 0.5]'")
                .help("weights of the modules whose path ends with PATTERN, a regular expression, one for each adapter; any number, the first that matches counts; also PATTERN=1,0.5");

        /// Rank to which the merged adapter is cut.
        rank: Option<usize> = None,
            Told::number(Range::whole_from(1.0))
                .unset("exact, the sum of the ranks")
                .flag("rank", "R")
                .section(Section::Output)
                .field(Place::Output, "Output rank");

        /// In place of a rank: each layer is cut to the least rank that keeps this share of its squared Frobenius norm.
        energy: Option<f64> = None,
            Told::number(SHARE)
                .unset("all of it")
                .flag("energy", "E")
                .section(Section::Output)
                .field(Place::Output, "Share kept")
                .hint("Of each layer’s squared norm.");

        /// One rank for all layers, which every program loads (`uniform`), or each layer's own (`per-layer`, in PEFT's
        /// form by `rank_pattern`); `auto`: one rank in PEFT's form, each layer's own in the others.
        ranks: Ranks = Ranks::Auto,
            Told::word(&[
                Word::new("auto", "As the form has it"),
                Word::new("uniform", "One for all"),
                Word::new("per-layer", "Per layer"),
            ])
            .flag("ranks", "KIND")
            .section(Section::Output)
            .field(Place::Output, "Ranks");

        /// Whose adapter files are written: those of `peft`, `kohya` (ComfyUI too) or `diffusers`; `auto`: of the
        /// adapters' own form.
        format: FormatChoice = FormatChoice::Auto,
            Told::word(&[
                Word::new("auto", "As the adapters are")
                    .hint("PEFT’s folder, or one file where the adapters are such files."),
                Word::new("peft", "A LoRA adapter for PEFT").hint("For PEFT, transformers, vLLM and llama.cpp."),
                Word::new("kohya", "A LoRA file for ComfyUI")
                    .hint("One .safetensors file, as kohya’s scripts write it."),
                Word::new("diffusers", "A LoRA file for diffusers")
                    .hint("One .safetensors file for load_lora_weights."),
            ])
            .flag("format", "KIND")
            .section(Section::Output)
            .field(Place::Output, "Result");

        /// What is written: an `adapter`, or the `base` model with the merge applied.
        output: OutputKind = OutputKind::Adapter,
            Told::word(&[
                Word::new("adapter", "An adapter"),
                Word::new("base", "The base model with it merged in")
                    .hint("A whole model, in files of at most 4 GB."),
            ])
            .flag("output", "KIND")
            .section(Section::Output)
            .field(Place::Output, "Result");

        /// Element type of the written tensors: `f32`, `f16` or `bf16`; `auto`: in an adapter the widest of those it is
        /// made of, in a base model each tensor's own.
        dtype: DtypeChoice = DtypeChoice::Auto,
            Told::word(&[
                Word::new("auto", "Automatic"),
                Word::new("f32", "32-bit float"),
                Word::new("f16", "16-bit float"),
                Word::new("bf16", "bfloat16"),
            ])
            .flag("dtype", "TYPE")
            .section(Section::Output)
            .field(Place::Output, "Precision");

        /// Bytes of one file of a merged base model, at most, as transformers' `max_shard_size`.
        max_shard_bytes: Option<u64> = None,
            Told::bytes()
                .unset("as the base's files, and 4GB for one that came in a single file")
                .needs("output", "base")
                .flag("max-shard-size", "S")
                .help("largest file of a merged base, such as 4GB or 500MB")
                .section(Section::Output);

        /// Tokens that a sample is cut to.
        max_length: Option<usize> = None,
            Told::number(Range::whole_from(1.0))
                .unit("tokens")
                .unset("what tokenizer and model can read, at most 512")
                .flag("max-length", "N")
                .section(Section::Samples)
                .field(Place::Folded, "Longest text")
                .hint("Longer texts are cut.")
                .empty("the model’s limit");
    }
}

impl MergeOptions {
    /// Tokens that a sample is cut to where nobody says: language models read many thousands, but calibration gains
    /// nothing from them, and attention costs their square.
    pub const LONGEST_SAMPLE: usize = 512;

    /// Checks every range, and what contradicts.
    ///
    /// # Errors
    /// [`Code::OptionInvalid`] naming the option.
    pub fn check(&self) -> Result<()> {
        self.check_ranges()?;
        if self.rank.is_some() && self.energy.is_some() {
            return Err(Error::new(
                Code::OptionInvalid,
                "rank and energy both say where to cut; give one of them",
            ));
        }
        Ok(())
    }
}

macro_rules! not_numbers {
    ($($type:ty),+) => { $(impl Value for $type {})+ };
}

not_numbers!(
    bool,
    MethodName,
    Schedule,
    LeastSquares,
    Padding,
    DecoderInputs,
    Positions,
    MajoritySign,
    LayerWeights,
    Space,
    Ranks,
    FormatChoice,
    OutputKind,
    DtypeChoice
);

#[cfg(test)]
mod tests {
    use serde_json::{Map, Value as Json};

    use super::MergeOptions;
    use crate::describe::{Kind, Range, camel_case};

    fn fields() -> Map<String, Json> {
        serde_json::to_value(MergeOptions::default())
            .unwrap()
            .as_object()
            .unwrap()
            .clone()
    }

    fn read(name: &str, value: Json) -> Result<MergeOptions, String> {
        serde_json::from_value(Json::Object([(camel_case(name), value)].into_iter().collect()))
            .map_err(|error: serde_json::Error| error.to_string())
    }

    #[test]
    fn the_defaults_are_inside_their_ranges_and_read_as_they_are_written() {
        MergeOptions::default().check().unwrap();
        for (name, value) in fields() {
            assert_eq!(read(&name, value).unwrap(), MergeOptions::default(), "{name}");
        }
    }

    #[test]
    fn what_is_told_of_an_option_fits_its_value() {
        for option in MergeOptions::OPTIONS {
            let value = &fields()[option.name];
            let fits = match option.told.kind {
                Kind::Number | Kind::Bytes => {
                    option.told.range.is_some() && (value.is_number() || value.is_null())
                }
                Kind::Flag => value.is_boolean(),
                Kind::Word(words) => words.iter().any(|word| value == word.name),
                Kind::Weights => value.is_object(),
                Kind::Method => value.is_string(),
            };
            assert!(fits, "{}: {value}", option.name);
            assert_eq!(value.is_null(), option.told.unset.is_some(), "{}", option.name);
        }
        let told = MergeOptions::OPTIONS.iter().map(|option| option.name);
        assert!(told.eq(fields().keys().map(String::as_str)));
    }

    #[test]
    fn the_words_told_are_those_that_are_read() {
        for option in MergeOptions::OPTIONS {
            let Kind::Word(words) = option.told.kind else {
                continue;
            };
            // serde's refusal lists every word that it reads.
            let refusal = read(option.name, "no such word".into()).unwrap_err();
            let (_, list) = refusal.split_once("expected ").unwrap();
            let known: Vec<&str> = list.split('`').skip(1).step_by(2).collect();
            let told: Vec<&str> = words.iter().map(|word| word.name).collect();
            assert_eq!(told, known, "{}", option.name);
            for word in told {
                assert!(
                    option.doc.contains(&format!("`{word}`")),
                    "{} says nothing of {word}",
                    option.name
                );
            }
        }
    }

    #[test]
    fn numbers_outside_are_refused_by_the_name_that_the_caller_knows() {
        for option in MergeOptions::OPTIONS {
            let Some(Range {
                least: Some(least), ..
            }) = option.told.range
            else {
                continue;
            };
            // A number below 0 is none that a count can be.
            let (value, whole) = (least - 1.0, option.told.range.is_some_and(|range| range.whole));
            if whole && value < 0.0 {
                assert!(read(option.name, (-1).into()).is_err(), "{}", option.name);
                continue;
            }
            let value = if whole { Json::from(0) } else { Json::from(value) };
            let error = read(option.name, value).unwrap().check().unwrap_err();
            assert!(error.to_string().starts_with(&camel_case(option.name)), "{error}");
        }
        let both = MergeOptions {
            rank: Some(2),
            energy: Some(0.5),
            ..MergeOptions::default()
        };
        assert!(both.check().unwrap_err().to_string().contains("give one of them"));
        let endless = MergeOptions {
            scale: f64::NAN,
            ..MergeOptions::default()
        };
        assert!(
            endless
                .check()
                .unwrap_err()
                .to_string()
                .starts_with("scale is NaN")
        );
    }

    #[test]
    fn the_longest_sample_is_the_one_that_is_told() {
        let told = MergeOptions::OPTIONS
            .iter()
            .find(|option| option.name == "max_length")
            .unwrap();
        let longest = MergeOptions::LONGEST_SAMPLE.to_string();
        assert!(told.told.unset.unwrap().ends_with(&longest));
    }
}
