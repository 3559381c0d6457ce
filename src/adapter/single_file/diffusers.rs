//! A merged adapter as diffusers reads it: dotted names with their component, and the configuration in the header.
//!
//! Scales are folded into the upper factors, so that readers which know no header compute the same. The thing that can
//! go wrong is `target_modules` in that header: PEFT takes a name without a dot for the end of many, so a component
//! with such a name says which modules it means by a regular expression.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use crate::{
    adapter::{
        FileLayer, FilePlan, Format, Scale, Shape,
        file::Alpha,
        most,
        single_file::{image::check, metadata::ENTRY, spelling},
    },
    error::{Code, Error, Result},
    io::OutDtype,
    naming::{ModulePath, split_component, without_text_model},
};

/// The file of an adapter with these modules.
///
/// # Errors
/// `option_invalid`, with the formats that fit, for modules that are of no component of a pipeline.
pub fn diffusers_plan(modules: &BTreeMap<ModulePath, Shape>) -> Result<FilePlan> {
    check(modules, Format::Diffusers, "diffusers")?;
    let layers = modules.iter().map(|(path, shape)| {
        let (component, module) = place(path);
        // diffusers' own names; for text encoders it tells its layouts apart by these.
        let (lower, upper) = if component.starts_with("text_encoder") {
            ("lora_linear_layer.down", "lora_linear_layer.up")
        } else {
            ("lora_A", "lora_B")
        };
        FileLayer {
            parts: vec![Some(path.clone())],
            heights: vec![shape.d_out],
            shape: shape.clone(),
            lower: format!("{component}.{module}.{lower}.weight"),
            upper: format!("{component}.{module}.{upper}.weight"),
            alpha_name: String::new(),
            alpha: Alpha::Folded,
            bias_name: String::new(),
            swapped: false,
        }
    });
    Ok(FilePlan {
        layers: layers.collect(),
        header: metadata,
    })
}

/// A module's component and its name there.
fn place(path: &ModulePath) -> (&str, &str) {
    let component = spelling::component(path).unwrap_or_default();
    (
        component,
        split_component(path).map_or(path.as_str(), |(_, module)| module),
    )
}

/// The configuration of each component.
fn metadata(layers: &[(&FileLayer, Scale)], _dtype: OutDtype) -> Result<BTreeMap<String, String>> {
    let mut components: BTreeMap<&str, BTreeMap<&str, usize>> = BTreeMap::new();
    for (layer, scale) in layers {
        for path in layer.parts.iter().flatten() {
            let (component, module) = place(path);
            components
                .entry(component)
                .or_default()
                .insert(module, scale.rank);
        }
    }
    let mut said = BTreeMap::new();
    for (component, modules) in &components {
        for (key, value) in config(component, modules) {
            said.insert(format!("{component}.{key}"), value);
        }
    }
    let said = serde_json::to_string_pretty(&said).map_err(|error| {
        Error::new(
            Code::Internal,
            format!("a header cannot be written as JSON: {error}"),
        )
    })?;
    Ok(BTreeMap::from([
        (String::from("format"), String::from("pt")),
        (String::from(ENTRY), said),
    ]))
}

/// PEFT's configuration of one component's modules, given with their ranks.
fn config(component: &str, modules: &BTreeMap<&str, usize>) -> Map<String, Value> {
    // transformers builds CLIP's encoder with or without the model around it; the end of the name fits both.
    let text = component.starts_with("text_encoder");
    let inner = |module: &&str| -> String {
        let name = if text { without_text_model(module) } else { module };
        name.to_owned()
    };
    let r = most(modules.values().copied()).unwrap_or(1);
    let pattern: Map<String, Value> = modules
        .iter()
        .filter(|(_, rank)| **rank != r)
        .map(|(module, rank)| {
            let anchor = if text { "" } else { "^" };
            (
                format!("{anchor}{}", inner(module).replace('.', "\\.")),
                json!(rank),
            )
        })
        .collect();
    let names: Vec<String> = modules.keys().map(inner).collect();
    let targets = if !text && names.iter().any(|name| !name.contains('.')) {
        let any: Vec<String> = names.iter().map(|name| name.replace('.', "\\.")).collect();
        json!(format!("(?:{})", any.join("|")))
    } else {
        json!(names)
    };
    let Value::Object(config) = json!({
        "alpha_pattern": pattern.clone(),
        "bias": "none",
        "fan_in_fan_out": false,
        "inference_mode": true,
        "init_lora_weights": true,
        "lora_alpha": r,
        "lora_dropout": 0.0,
        "peft_type": "LORA",
        "r": r,
        "rank_pattern": pattern,
        "target_modules": targets,
        "use_dora": false,
        "use_rslora": false,
    }) else {
        return Map::new();
    };
    config
}
