//! A merged adapter as PEFT wants it: tensor names, configuration and target names.
//!
//! Scaling is folded into the factors and `lora_alpha = r`, so every reader computes the same delta. `target_modules`
//! names no module without factors, for which PEFT would build (and warn about) an adapter that is not in the file.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value, json};

use crate::{
    adapter::{
        Adapter, FileLayer, FilePlan, LayerKind, Scale, Shape, file::Alpha, most,
        peft::module::in_wrapping_order,
    },
    error::Result,
    io::OutDtype,
    naming::ModulePath,
};

/// The file of an adapter with these modules under PEFT's names, each module's scaling folded into its `lora_B`.
pub fn peft_plan(modules: &BTreeMap<ModulePath, Shape>) -> FilePlan {
    let layers = modules.iter().map(|(path, shape)| {
        let of_weight = |side: &str| format!("base_model.model.{path}.{side}.weight");
        let [lower, upper] = match &shape.layer {
            LayerKind::Linear | LayerKind::Conv { .. } => [of_weight("lora_A"), of_weight("lora_B")],
            LayerKind::Embedding => {
                ["A", "B"].map(|side| format!("base_model.model.{path}.lora_embedding_{side}"))
            }
            LayerKind::Parameter { .. } => {
                let wrapped = wrapped(path, modules);
                ["A", "B"].map(|side| format!("base_model.model.{wrapped}.lora_{side}.weight"))
            }
        };
        FileLayer {
            parts: vec![Some(path.clone())],
            heights: vec![shape.d_out],
            shape: shape.clone(),
            lower,
            upper,
            alpha_name: String::new(),
            alpha: Alpha::Folded,
            bias_name: format!("base_model.model.{path}.lora_B.bias"),
            swapped: false,
        }
    });
    FilePlan {
        layers: layers.collect(),
        header: metadata,
    }
}

#[expect(clippy::unnecessary_wraps, reason = "other formats' headers may fail")]
fn metadata(_layers: &[(&FileLayer, Scale)], _dtype: OutDtype) -> Result<BTreeMap<String, String>> {
    Ok(BTreeMap::from([(String::from("format"), String::from("pt"))]))
}

/// Adapted parameters of one module, the innermost of PEFT's wrappers first; none if its class has them in an order
/// that is not known.
pub fn wrapping_order<'a>(module: &str, paths: impl Iterator<Item = &'a str>) -> Option<Vec<&'a str>> {
    let own = paths.filter_map(|path| path.rsplit_once('.').filter(|(of, _)| *of == module));
    let mut names: Vec<&str> = own.map(|(_, name)| name).collect();
    in_wrapping_order(&mut names).then_some(names)
}

/// The path of an adapted parameter's wrapper.
fn wrapped(path: &str, modules: &BTreeMap<ModulePath, Shape>) -> String {
    let (module, name) = path.rsplit_once('.').unwrap_or(("", path));
    let paths = modules
        .iter()
        .filter(|(_, shape)| matches!(shape.layer, LayerKind::Parameter { .. }))
        .map(|(path, _)| path.as_str());
    let names = wrapping_order(module, paths).unwrap_or_default();
    let depth = names.iter().rev().position(|other| *other == name).unwrap_or(0);
    format!("{module}{}", ".base_layer".repeat(depth))
}

/// The configuration of a merged adapter: a plain LoRA with `lora_alpha = r`.
///
/// `ranks` gives each merged module's rank; `r` is the commonest of them and the others go into
/// `rank_pattern`, with an equal `alpha_pattern`. `targets` are as [`suffix_targets`](crate::naming::targets::suffix_targets) gives them.
/// Heads are not part of the merged adapter, so a task type for which PEFT would look for one is
/// left out.
pub fn merged_config(adapters: &[&Adapter], ranks: &BTreeMap<String, usize>, targets: &[String]) -> Value {
    let r = most(ranks.values().copied()).unwrap_or(1);
    let pattern: Map<String, Value> = ranks
        .iter()
        .filter(|(_, rank)| **rank != r)
        .map(|(module, &rank)| (format!("^{module}"), json!(rank)))
        .collect();
    let task_type = shared(adapters, |adapter| adapter.config.task_type.as_deref())
        .filter(|task| !matches!(*task, "SEQ_CLS" | "TOKEN_CLS" | "QUESTION_ANS"));
    let targets: BTreeSet<&String> = targets.iter().collect();
    json!({
        "alpha_pattern": pattern.clone(),
        "auto_mapping": null,
        "base_model_name_or_path":
            shared(adapters, |adapter| adapter.config.base_model_name_or_path.as_deref()),
        "bias": "none",
        "fan_in_fan_out": adapters.iter().any(|adapter| adapter.config.fan_in_fan_out),
        "inference_mode": true,
        "init_lora_weights": true,
        "layers_pattern": null,
        "layers_to_transform": null,
        "lora_alpha": r,
        "lora_dropout": 0.0,
        "modules_to_save": null,
        "peft_type": "LORA",
        "r": r,
        "rank_pattern": pattern,
        "revision": null,
        "target_modules": targets,
        "task_type": task_type,
        "use_dora": false,
        "use_rslora": false,
    })
}

/// What all adapters say, if they agree.
fn shared<'a>(adapters: &[&'a Adapter], of: impl Fn(&'a Adapter) -> Option<&'a str>) -> Option<&'a str> {
    let first = of(adapters.first()?);
    adapters
        .iter()
        .all(|adapter| of(adapter) == first)
        .then_some(first)
        .flatten()
}
