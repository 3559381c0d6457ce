//! Reading `config.json`: what every family needs to say when it cannot take a model.

use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::{
    compute::Activation,
    error::{Code, Error, Result},
};

/// The parts of `config.json` that a family depends on.
///
/// # Errors
/// [`Code::ConfigInvalid`] naming the field.
pub(super) fn parse<T: DeserializeOwned>(config: &Value) -> Result<T> {
    T::deserialize(config).map_err(|error| {
        let what = error.to_string();
        // serde names a field that is absent, but not one whose value is of another kind: that is the one
        // without which the complaint is another.
        let without = |field: &&String| {
            let mut rest = config.clone();
            rest.as_object_mut()?.remove(*field);
            T::deserialize(&rest).err().map(|error| error.to_string())
        };
        let field = config
            .as_object()
            .and_then(|fields| fields.keys().find(|field| without(field).as_ref() != Some(&what)));
        invalid(&match field {
            Some(field) => format!("{field}: {what}"),
            None => what,
        })
    })
}

/// A configuration that makes no model.
pub(super) fn invalid(what: &str) -> Error {
    Error::new(
        Code::ConfigInvalid,
        format!("config.json of the base model: {what}"),
    )
}

/// An option that would change the mathematics and is not handled.
pub(super) fn unsupported(what: &str) -> Error {
    Error::new(
        Code::ModelUnsupported,
        format!("config.json of the base model: {what}"),
    )
}

/// The activation of that name; `option` is what `config.json` calls it.
///
/// # Errors
/// [`Code::ModelUnsupported`] naming the option and those that are known.
pub(super) fn activation(option: &str, name: &str) -> Result<Activation> {
    Activation::from_name(name).ok_or_else(|| {
        unsupported(&format!(
            "{option} \"{name}\" is not supported (gelu, gelu_new, gelu_fast, gelu_pytorch_tanh, quick_gelu, relu, silu, tanh)"
        ))
    })
}

/// The value of `option`, if it is there and not one of `accepted` (or null), is refused.
///
/// # Errors
/// [`Code::ModelUnsupported`] naming the option and what is accepted.
pub(super) fn only(config: &Value, option: &str, accepted: &[Value]) -> Result<()> {
    match config.get(option) {
        None | Some(Value::Null) => Ok(()),
        Some(value) if accepted.contains(value) => Ok(()),
        Some(value) => {
            let accepted: Vec<String> = accepted.iter().map(Value::to_string).collect();
            Err(unsupported(&format!(
                "{option} is {value}, which is not supported (only {})",
                accepted.join(", ")
            )))
        }
    }
}

/// The configuration with `defaults` (those of transformers' class) for what it leaves out.
pub(super) fn with_defaults(config: &Value, mut defaults: Value) -> Value {
    if let (Some(all), Some(own)) = (defaults.as_object_mut(), config.as_object()) {
        all.extend(own.clone());
    }
    defaults
}

/// Weights that are stored quantised are refused: they are no numbers to add an adapter to.
///
/// # Errors
/// [`Code::ModelUnsupported`] naming the method.
pub(super) fn unquantised(config: &Value) -> Result<()> {
    match config.get("quantization_config") {
        None | Some(Value::Null) => Ok(()),
        Some(quantisation) => Err(unsupported(&format!(
            "quantization_config says that the weights are quantised ({}); take the model in bf16, f16 or f32",
            quantisation
                .get("quant_method")
                .and_then(Value::as_str)
                .unwrap_or("unknown method")
        ))),
    }
}

/// Which layers see only a window: what `layer_types` says, or `otherwise` where it is absent.
///
/// # Errors
/// [`Code::ModelUnsupported`] for other kinds of layers, [`Code::ConfigInvalid`] for another count.
pub(super) fn sliding_layers(
    config: &Value,
    layers: usize,
    otherwise: impl Fn(usize) -> bool,
) -> Result<Vec<bool>> {
    let Some(types) = config.get("layer_types").filter(|types| !types.is_null()) else {
        return Ok((0..layers).map(otherwise).collect());
    };
    let types: Vec<String> = parse(types)?;
    if types.len() != layers {
        return Err(invalid(&format!(
            "layer_types has {} entries for {layers} layers",
            types.len()
        )));
    }
    types
        .iter()
        .map(|kind| match kind.as_str() {
            "sliding_attention" => Ok(true),
            "full_attention" => Ok(false),
            other => Err(unsupported(&format!(
                "layer_types has \"{other}\", which is not supported (only full_attention, sliding_attention)"
            ))),
        })
        .collect()
}

/// Whether numbers that must be positive are, and heads divide widths.
///
/// # Errors
/// [`Code::ConfigInvalid`] naming the first that is zero.
pub(super) fn positive(numbers: &[(&str, usize)]) -> Result<()> {
    match numbers.iter().find(|(_, number)| *number == 0) {
        Some((name, _)) => Err(invalid(&format!("{name} is 0, which makes no model"))),
        None => Ok(()),
    }
}

/// The class that the configuration names, or `fallback`.
pub(super) fn architecture(config: &Value, fallback: &str) -> String {
    config
        .get("architectures")
        .and_then(|names| names.get(0))
        .and_then(Value::as_str)
        .unwrap_or(fallback)
        .to_owned()
}
