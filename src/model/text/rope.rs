//! Rotary position embeddings as `config.json` asks for them.
//!
//! Hub checkpoints spell them `rope_theta` and `rope_scaling`, transformers 5 `rope_parameters`; both are
//! read into one [`Rope`]. A kind of scaling that is not here is refused by its name.
//! Reference: transformers, `modeling_rope_utils.py`.

use std::{f64::consts::TAU, rc::Rc};

use serde_json::{Map, Value};

use crate::{
    compute::{Rotary, narrow},
    error::Result,
    model::config::{invalid, unsupported},
};

/// Where a configuration has the parameters of some layers' rotary embedding.
pub(super) struct Source<'a> {
    /// Their entry of `rope_parameters`, where each type of layer has one (`sliding_attention`, …).
    pub(super) layer_type: Option<&'a str>,
    /// The old name of the base, and the base where the configuration has none.
    pub(super) theta: (&'a str, f64),
    /// The old name of the share of a head that is rotated, and the share where the configuration has
    /// none; without a name the family rotates whole heads.
    pub(super) partial: Option<(&'a str, f64)>,
    /// Whether the old `rope_scaling` is meant for these layers.
    pub(super) scaled: bool,
}

impl Source<'_> {
    /// One embedding for all layers, of whole heads, as Llama has it.
    pub(super) const PLAIN: Source<'static> = Source {
        layer_type: None,
        theta: ("rope_theta", 10_000.0),
        partial: None,
        scaled: true,
    };
}

/// A rotary embedding before it is known how wide a head is.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Rope {
    theta: f64,
    /// The share of a head that is rotated.
    partial: f64,
    scaling: Scaling,
    /// The longest sample for which these are the model's frequencies.
    max_length: usize,
}

/// What is done to the frequencies `theta^(-2i / width)`.
#[derive(Debug, Clone, PartialEq)]
enum Scaling {
    None,
    /// They are divided by the factor.
    Projection(f64),
    Llama3(Llama3),
    /// Each is divided by a number of its own, and cos and sin are multiplied by `factor` (LongRoPE, for
    /// samples that fit the length before the extension).
    Long {
        short: Vec<f64>,
        factor: f64,
    },
}

/// Llama 3.1: frequencies whose wavelength is longer than `length / low` are divided by `factor`, those
/// of less than `length / high` are kept, those between are blended.
#[derive(Debug, Clone, PartialEq)]
struct Llama3 {
    factor: f64,
    low: f64,
    high: f64,
    length: f64,
}

/// What transformers knows in a set of rope parameters. Others may change the mathematics.
const KNOWN: &[&str] = &[
    "attention_factor",
    "beta_fast",
    "beta_slow",
    "factor",
    "high_freq_factor",
    "long_factor",
    "low_freq_factor",
    "mrope_section",
    "mscale",
    "mscale_all_dim",
    "original_max_position_embeddings",
    "partial_rotary_factor",
    "rope_theta",
    "rope_type",
    "short_factor",
    "truncate",
    "type",
];

impl Rope {
    /// The embedding that `config` asks for at `source`.
    ///
    /// # Errors
    /// `model_unsupported` for scalings and parameters that are not handled, by name; `config_invalid` for
    /// parameters that are absent or no positive numbers.
    pub(super) fn read(config: &Value, source: &Source<'_>) -> Result<Self> {
        let parameters = parameters(config, source)?;
        let max_length = length(config, "max_position_embeddings")?
            .ok_or_else(|| invalid("max_position_embeddings is missing"))?;
        if let Some(name) = parameters
            .0
            .iter()
            .find_map(|(name, value)| (!value.is_null() && !KNOWN.contains(&name.as_str())).then_some(name))
        {
            return Err(unsupported(&format!(
                "{} has {name}, which is not supported",
                parameters.1
            )));
        }
        let (theta_name, theta) = source.theta;
        let (partial_name, partial) = source.partial.unwrap_or(("partial_rotary_factor", 1.0));
        let theta = match parameters.number("rope_theta")? {
            Some(theta) => theta,
            None => number(config, theta_name)?.unwrap_or(theta),
        };
        let partial = match parameters.number("partial_rotary_factor")? {
            Some(partial) => partial,
            None => number(config, partial_name)?.unwrap_or(partial),
        };
        let whole = (partial - 1.0).abs() < f64::EPSILON;
        if partial > 1.0 || (source.partial.is_none() && !whole) {
            return Err(unsupported(&format!(
                "{partial_name} is {partial}, which is not supported in this family (only 1)"
            )));
        }
        let mut rope = Self {
            theta,
            partial,
            scaling: Scaling::None,
            max_length,
        };
        rope.scaling = match parameters.kind() {
            "default" => Scaling::None,
            "linear" => Scaling::Projection(parameters.required("factor")?),
            "llama3" => Scaling::Llama3(Llama3 {
                factor: parameters.required("factor")?,
                low: parameters.required("low_freq_factor")?,
                high: parameters.required("high_freq_factor")?,
                length: parameters
                    .number("original_max_position_embeddings")?
                    .unwrap_or(max_length as f64),
            }),
            // Phi-3's first checkpoints call it `su`, or `yarn` with LongRoPE's factors.
            "longrope" | "su" => rope.long(config, &parameters)?,
            "yarn" if parameters.0.contains_key("short_factor") => rope.long(config, &parameters)?,
            kind => {
                return Err(unsupported(&format!(
                    "{} has rope_type \"{kind}\", which is not supported (only default, linear, llama3, longrope)",
                    parameters.1
                )));
            }
        };
        Ok(rope)
    }

    /// LongRoPE for samples that fit the original length, which becomes the longest length.
    fn long(&mut self, config: &Value, parameters: &Parameters<'_>) -> Result<Scaling> {
        let name = "original_max_position_embeddings";
        let original = match length(config, name)? {
            Some(original) => Some(original),
            None => length(&Value::Object(parameters.0.clone()), name)?,
        };
        let original = original.ok_or_else(|| invalid(&format!("longrope without {name}")))?;
        let short = parameters.0.get("short_factor").and_then(Value::as_array);
        let short: Option<Vec<f64>> = short.and_then(|factors| {
            factors
                .iter()
                .map(|factor| factor.as_f64().filter(|factor| *factor > 0.0))
                .collect()
        });
        let short = short.ok_or_else(|| {
            invalid(&format!(
                "{}.short_factor is no list of positive numbers",
                parameters.1
            ))
        })?;
        let (full, original_length) = (self.max_length as f64, original as f64);
        let extension = parameters.number("factor")?.unwrap_or(full / original_length);
        let factor = match parameters.number("attention_factor")? {
            Some(factor) => factor,
            None if extension <= 1.0 => 1.0,
            None => (1.0 + extension.ln() / original_length.ln()).sqrt(),
        };
        self.max_length = self.max_length.min(original);
        Ok(Scaling::Long { short, factor })
    }

    /// The longest sample that these frequencies are for.
    pub(super) const fn max_length(&self) -> usize {
        self.max_length
    }

    /// The embedding for heads of that width.
    ///
    /// # Errors
    /// `config_invalid` if the parameters do not fit the width.
    pub(super) fn rotary(&self, head_size: usize) -> Result<Rc<Rotary>> {
        let factor = match self.scaling {
            Scaling::Long { factor, .. } => narrow(factor),
            _ => 1.0,
        };
        Ok(Rc::new(Rotary::new(self.frequencies(head_size)?, factor)))
    }

    /// Angles a position, one a pair of rotated numbers of a head. In f32, step by step as transformers
    /// computes them: at position 1000 the last bit of a frequency is a difference of 1e-4.
    fn frequencies(&self, head_size: usize) -> Result<Vec<f32>> {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a share of a head's width, rounded down as transformers does"
        )]
        let width = (head_size as f64 * self.partial) as usize;
        let pairs = width.div_ceil(2);
        if pairs == 0 || 2 * pairs > head_size {
            return Err(invalid(&format!(
                "{width} rotated numbers of heads of {head_size} make no pairs"
            )));
        }
        let base = f64::from(narrow(self.theta));
        let powers = (0..pairs).map(|pair| {
            let exponent = (2 * pair) as f32 / width as f32;
            narrow(base.powf(f64::from(exponent)))
        });
        Ok(match &self.scaling {
            Scaling::None => powers.map(f32::recip).collect(),
            Scaling::Projection(factor) => powers.map(|power| power.recip() / narrow(*factor)).collect(),
            Scaling::Llama3(scaling) => powers.map(|power| scaling.frequency(power.recip())).collect(),
            Scaling::Long { short, .. } if short.len() != pairs => {
                return Err(invalid(&format!(
                    "short_factor has {} numbers for {pairs} pairs of a head",
                    short.len()
                )));
            }
            Scaling::Long { short, .. } => powers
                .zip(short)
                .map(|(power, factor)| (narrow(*factor) * power).recip())
                .collect(),
        })
    }
}

impl Llama3 {
    fn frequency(&self, frequency: f32) -> f32 {
        let wavelength = narrow(TAU) * frequency.recip();
        if wavelength > narrow(self.length / self.low) {
            return frequency / narrow(self.factor);
        }
        if wavelength < narrow(self.length / self.high) {
            return frequency;
        }
        let turns = wavelength.recip() * narrow(self.length);
        let smooth = (turns - narrow(self.low)) / narrow(self.high - self.low);
        (1.0 - smooth) * frequency / narrow(self.factor) + smooth * frequency
    }
}

/// A set of rope parameters, and what the configuration calls it.
struct Parameters<'a>(Map<String, Value>, &'a str);

impl Parameters<'_> {
    fn kind(&self) -> &str {
        let name = |field: &str| self.0.get(field).and_then(Value::as_str);
        name("rope_type").or_else(|| name("type")).unwrap_or("default")
    }

    fn number(&self, field: &str) -> Result<Option<f64>> {
        positive_number(self.0.get(field), || format!("{}.{field}", self.1))
    }

    fn required(&self, field: &str) -> Result<f64> {
        self.number(field)?
            .ok_or_else(|| invalid(&format!("{}.{field} is missing", self.1)))
    }
}

/// The parameters at `source` in either spelling; none is as good as an empty set.
fn parameters(config: &Value, source: &Source<'_>) -> Result<Parameters<'static>> {
    let set = |name: &str| match config.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::Object(fields)) => Ok(Some(fields).filter(|fields| !fields.is_empty())),
        Some(_) => Err(invalid(&format!("{name} is no set of parameters"))),
    };
    let old = if source.scaled { set("rope_scaling")? } else { None };
    let new = set("rope_parameters")?;
    let nested = new.is_some_and(|fields| fields.values().any(Value::is_object));
    let new = match (new, source.layer_type) {
        (Some(fields), Some(kind)) if nested => match fields.get(kind) {
            Some(Value::Object(fields)) => Some(fields),
            _ => None,
        },
        (Some(_), Some(_)) => {
            return Err(unsupported(
                "rope_parameters without an entry for each type of layer is not supported in this family",
            ));
        }
        (Some(_), None) if nested => {
            return Err(unsupported(
                "rope_parameters with an entry for each type of layer is not supported in this family",
            ));
        }
        (fields, _) => fields,
    };
    match (old, new) {
        (Some(old), Some(new)) if old != new => Err(unsupported(
            "rope_scaling and rope_parameters say different things; keep the one that is meant",
        )),
        (Some(fields), _) => Ok(Parameters(fields.clone(), "rope_scaling")),
        (None, fields) => Ok(Parameters(fields.cloned().unwrap_or_default(), "rope_parameters")),
    }
}

/// A positive number of the configuration.
fn number(config: &Value, name: &str) -> Result<Option<f64>> {
    positive_number(config.get(name), || name.to_owned())
}

fn positive_number(value: Option<&Value>, name: impl Fn() -> String) -> Result<Option<f64>> {
    match value {
        None | Some(Value::Null) => Ok(None),
        Some(value) => match value.as_f64().filter(|number| *number > 0.0) {
            Some(number) => Ok(Some(number)),
            None => Err(invalid(&format!("{} is {value}, no positive number", name()))),
        },
    }
}

fn length(config: &Value, name: &str) -> Result<Option<usize>> {
    match config.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(value) => {
            let length = value.as_u64().and_then(|length| usize::try_from(length).ok());
            match length.filter(|length| *length > 0) {
                Some(length) => Ok(Some(length)),
                None => Err(invalid(&format!("{name} is {value}, no length"))),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::error::Code;

    const PARTIAL: Source<'static> = Source {
        partial: Some(("partial_rotary_factor", 1.0)),
        ..Source::PLAIN
    };

    fn read(mut config: Value, source: &Source<'_>) -> Result<Rope> {
        config["max_position_embeddings"] = 131_072.into();
        Rope::read(&config, source)
    }

    #[test]
    fn frequencies_equal_transformers() {
        // `inv_freq` of LlamaRotaryEmbedding and Phi3RotaryEmbedding, transformers 5.23, heads of 16.
        let cases: [(&str, Value, &[f32], f32); 6] = [
            (
                "default",
                json!({}),
                &[
                    1.0,
                    0.316_227_76,
                    0.1,
                    0.031_622_78,
                    0.01,
                    3.162_277_9e-3,
                    1e-3,
                    3.162_278e-4,
                ],
                1.0,
            ),
            (
                "theta",
                json!({"rope_theta": 500_000.0}),
                &[
                    1.0,
                    0.193_922_76,
                    0.037_606_03,
                    7.292_665e-3,
                    1.414_213_4e-3,
                    2.742_482e-4,
                    5.318_296e-5,
                    1.031_338_5e-5,
                ],
                1.0,
            ),
            (
                "linear",
                json!({"rope_scaling": {"type": "linear", "factor": 3.0}}),
                &[
                    0.333_333_34,
                    0.105_409_26,
                    0.033_333_335,
                    0.010_540_926,
                    3.333_333_2e-3,
                    1.054_092_7e-3,
                    3.333_333_6e-4,
                    1.054_092_6e-4,
                ],
                1.0,
            ),
            (
                "llama3",
                json!({"rope_theta": 500_000.0, "rope_scaling": {"rope_type": "llama3", "factor": 32.0,
                    "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}}),
                &[
                    1.0,
                    0.193_922_76,
                    0.037_606_03,
                    7.292_665e-3,
                    4.295_567e-4,
                    8.570_256e-6,
                    1.661_967_4e-6,
                    3.222_933e-7,
                ],
                1.0,
            ),
            (
                "partial",
                json!({"partial_rotary_factor": 0.75}),
                &[
                    1.0,
                    0.215_443_45,
                    0.046_415_884,
                    0.01,
                    2.154_434_3e-3,
                    4.641_589_5e-4,
                ],
                1.0,
            ),
            (
                "longrope",
                json!({"partial_rotary_factor": 0.75, "original_max_position_embeddings": 4096,
                    "rope_scaling": {"type": "su", "long_factor": [9, 9, 9, 9, 9, 9],
                        "short_factor": [1.0, 1.05, 1.1, 1.2, 1.5, 2.0]}}),
                &[
                    1.0,
                    0.205_184_27,
                    0.042_196_255,
                    8.333_333e-3,
                    1.436_289_5e-3,
                    2.320_794_7e-4,
                ],
                1.190_238_1,
            ),
        ];
        for (name, config, expected, factor) in cases {
            let rope = read(config, &PARTIAL).unwrap();
            let found = rope.frequencies(16).unwrap();
            assert_eq!(found.len(), expected.len(), "{name}");
            for (found, expected) in found.iter().zip(expected) {
                // Two powers in f32, each rounded to the last bit or the one before.
                assert!(
                    (found / expected - 1.0).abs() < 4e-7,
                    "{name}: {found} is not {expected}"
                );
            }
            if let Scaling::Long { factor: found, .. } = rope.scaling {
                assert!((narrow(found) - factor).abs() < 1e-6, "{name}: {found}");
                assert_eq!(rope.max_length(), 4096);
            } else {
                assert_eq!(rope.max_length(), 131_072);
            }
        }
    }

    #[test]
    fn both_spellings_are_one() {
        let scaling = json!({"rope_type": "llama3", "factor": 8, "low_freq_factor": 1, "high_freq_factor": 4,
            "original_max_position_embeddings": 8192});
        let mut parameters = scaling.clone();
        parameters["rope_theta"] = 5e5.into();
        let old = read(
            json!({"rope_theta": 5e5, "rope_scaling": scaling}),
            &Source::PLAIN,
        );
        let new = read(json!({"rope_parameters": parameters}), &Source::PLAIN);
        assert_eq!(old.unwrap(), new.unwrap());

        let local = Source {
            layer_type: Some("sliding_attention"),
            theta: ("rope_local_base_freq", 1e4),
            scaled: false,
            ..Source::PLAIN
        };
        let global = Source {
            layer_type: Some("full_attention"),
            theta: ("rope_theta", 1e6),
            scaled: true,
            ..Source::PLAIN
        };
        let old = json!({"rope_theta": 2e6, "rope_local_base_freq": 2e4,
            "rope_scaling": {"factor": 8.0, "rope_type": "linear"}});
        let new = json!({"rope_parameters": {
            "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 2e6},
            "sliding_attention": {"rope_type": "default", "rope_theta": 2e4}}});
        for (source, scaling) in [(&local, Scaling::None), (&global, Scaling::Projection(8.0))] {
            let rope = read(old.clone(), source).unwrap();
            assert_eq!(rope.scaling, scaling);
            assert_eq!(rope, read(new.clone(), source).unwrap());
        }
        assert_eq!(read(json!({}), &local).unwrap().theta, 1e4);
        assert_eq!(read(json!({}), &global).unwrap().theta, 1e6);
    }

    #[test]
    fn what_is_not_handled_is_refused_by_name() {
        let scaling = |scaling: Value| json!({"rope_scaling": scaling});
        let (unsupported, invalid) = (Code::ModelUnsupported, Code::ConfigInvalid);
        for (config, code, named) in [
            (
                scaling(json!({"type": "dynamic", "factor": 2.0})),
                unsupported,
                "dynamic",
            ),
            (
                scaling(json!({"rope_type": "yarn", "factor": 2.0})),
                unsupported,
                "yarn",
            ),
            (scaling(json!({"short_mscale": 1.1})), unsupported, "short_mscale"),
            (scaling(json!({"type": "linear"})), invalid, "factor"),
            (scaling(json!({"type": "linear", "factor": 0})), invalid, "factor"),
            (
                scaling(json!({"type": "linear", "factor": "2"})),
                invalid,
                "factor",
            ),
            (
                scaling(json!({"type": "llama3", "factor": 2})),
                invalid,
                "low_freq_factor",
            ),
            (
                scaling(json!({"type": "longrope"})),
                invalid,
                "original_max_position_embeddings",
            ),
            (
                scaling(json!({"type": "longrope", "original_max_position_embeddings": 8})),
                invalid,
                "short_factor",
            ),
            (scaling(json!([1])), invalid, "rope_scaling"),
            (json!({"rope_theta": -1}), invalid, "rope_theta"),
            (
                json!({"partial_rotary_factor": 0.5}),
                unsupported,
                "partial_rotary_factor",
            ),
            (
                json!({"rope_parameters": {"full_attention": {"rope_theta": 1}}}),
                unsupported,
                "rope_parameters",
            ),
            (
                json!({"rope_scaling": {"type": "linear", "factor": 2}, "rope_parameters": {"rope_theta": 1}}),
                unsupported,
                "rope_scaling and rope_parameters",
            ),
        ] {
            let error = read(config, &Source::PLAIN).unwrap_err();
            assert_eq!(error.code(), code, "{error}");
            assert!(error.to_string().contains(named), "{error}");
        }
        let short = json!({"original_max_position_embeddings": 8,
            "rope_scaling": {"type": "longrope", "short_factor": [1, 1]}});
        let rope = read(short, &Source::PLAIN).unwrap();
        assert!(
            rope.frequencies(16)
                .unwrap_err()
                .to_string()
                .contains("short_factor")
        );
        assert!(
            rope.frequencies(3).is_err(),
            "an odd head has a number without a pair"
        );
    }
}
