//! A merged adapter as PEFT wants it: tensor names, configuration and target names.
//!
//! Scaling is folded into the factors and `lora_alpha = r`, so every reader computes the same delta.
//! The thing that can go wrong is `target_modules`: a short name that also matches a module without
//! factors makes PEFT build (and warn about) an adapter that is not in the file.

mod diffusers;
mod extra;
mod image;
mod kohya;

use std::collections::{BTreeMap, BTreeSet};

pub use self::diffusers::diffusers_file;
pub use self::image::{ImageFile, fitting, lone};
pub use self::kohya::{KOHYA_FILE, kohya_file};

use serde_json::{Map, Value, json};

pub use self::extra::{Extra, WholeTensor};
use super::module::in_wrapping_order;
use super::{Adapter, LayerKind, Lora, most};
use crate::io::OutTensor;

/// The tensors of a merged adapter under PEFT's names, each module's scaling folded into its `lora_B`.
pub fn adapter_tensors(modules: &BTreeMap<String, Lora>) -> Vec<OutTensor> {
    let mut tensors = Vec::with_capacity(2 * modules.len());
    for (path, lora) in modules {
        let (rank, d_in, d_out) = (lora.rank * lora.products(), lora.d_in, lora.d_out);
        let of_weight = |side: &str| format!("base_model.model.{path}.{side}.weight");
        let (names, shapes) = match &lora.layer {
            LayerKind::Linear => (
                [of_weight("lora_A"), of_weight("lora_B")],
                [vec![rank, d_in], vec![d_out, rank]],
            ),
            LayerKind::Conv { channels, kernel } => {
                let sides = [rank, *channels].into_iter().chain(kernel.iter().copied());
                let ones = [d_out, rank].into_iter().chain(kernel.iter().map(|_| 1));
                (
                    [of_weight("lora_A"), of_weight("lora_B")],
                    [sides.collect(), ones.collect()],
                )
            }
            LayerKind::Embedding => (
                ["A", "B"].map(|side| format!("base_model.model.{path}.lora_embedding_{side}")),
                [vec![rank, d_in], vec![d_out, rank]],
            ),
            LayerKind::Parameter { .. } => {
                let wrapped = wrapped(path, modules);
                (
                    ["A", "B"].map(|side| format!("base_model.model.{wrapped}.lora_{side}.weight")),
                    [vec![rank, d_in], vec![d_out, rank]],
                )
            }
        };
        let [name_a, name_b] = names;
        let [shape_a, shape_b] = shapes;
        tensors.push(OutTensor {
            name: name_a,
            shape: shape_a,
            data: lora.a.clone(),
        });
        tensors.push(OutTensor {
            name: name_b,
            shape: shape_b,
            data: scaled(&lora.b, lora.scaling),
        });
        if let Some(bias) = &lora.bias {
            tensors.push(OutTensor {
                name: format!("base_model.model.{path}.lora_B.bias"),
                shape: vec![d_out],
                data: scaled(bias, lora.scaling),
            });
        }
    }
    tensors
}

/// Adapted parameters of one module, the innermost of PEFT's wrappers first; none if its class has them in an order
/// that is not known.
pub fn wrapping_order<'a>(module: &str, paths: impl Iterator<Item = &'a str>) -> Option<Vec<&'a str>> {
    let own = paths.filter_map(|path| path.rsplit_once('.').filter(|(of, _)| *of == module));
    let mut names: Vec<&str> = own.map(|(_, name)| name).collect();
    in_wrapping_order(&mut names).then_some(names)
}

/// The path of an adapted parameter's wrapper.
fn wrapped(path: &str, modules: &BTreeMap<String, Lora>) -> String {
    let (module, name) = path.rsplit_once('.').unwrap_or(("", path));
    let paths = modules
        .iter()
        .filter(|(_, lora)| matches!(lora.layer, LayerKind::Parameter { .. }))
        .map(|(path, _)| path.as_str());
    let names = wrapping_order(module, paths).unwrap_or_default();
    let depth = names.iter().rev().position(|other| *other == name).unwrap_or(0);
    format!("{module}{}", ".base_layer".repeat(depth))
}

#[allow(
    clippy::cast_possible_truncation,
    reason = "the product is rounded once, to the type that is written"
)]
fn scaled(values: &[f32], scaling: f64) -> Vec<f32> {
    values
        .iter()
        .map(|&value| (f64::from(value) * scaling) as f32)
        .collect()
}

/// The configuration of a merged adapter: a plain LoRA with `lora_alpha = r`.
///
/// `ranks` gives each merged module's rank; `r` is the commonest of them and the others go into
/// `rank_pattern`, with an equal `alpha_pattern`. `targets` are as [`suffix_targets`] gives them.
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

/// Names for `target_modules` that select the merged modules among all linear layers of the base
/// model, sorted: for each the shortest end of its name (`query`, `attention.output.dense`) that
/// selects no layer outside the merge, or its full name where there is none.
///
/// PEFT selects a module whose name is a target or ends in `.` and a target.
pub fn suffix_targets(merged: &[&str], all_linear: &[&str]) -> Vec<String> {
    let merged_set: BTreeSet<&str> = merged.iter().copied().collect();
    let others: Vec<&str> = all_linear
        .iter()
        .copied()
        .filter(|module| !merged_set.contains(module))
        .collect();
    let mut targets: BTreeSet<&str> = BTreeSet::new();
    for &module in &merged_set {
        let target = suffixes(module)
            .find(|suffix| !others.iter().any(|other| selects(suffix, other)))
            .unwrap_or(module);
        targets.insert(target);
    }
    targets.into_iter().map(str::to_owned).collect()
}

/// Whether PEFT takes `target` to name `module`.
fn selects(target: &str, module: &str) -> bool {
    module
        .strip_suffix(target)
        .is_some_and(|before| before.is_empty() || before.ends_with('.'))
}

/// The ends of a name, shortest first, that start at a part and hold no layer's number: with a number
/// an end names one layer, for which the full name is plainer.
fn suffixes(module: &str) -> impl Iterator<Item = &str> {
    module
        .rmatch_indices('.')
        .map(|(at, _)| &module[at + 1..])
        .take_while(|suffix| !suffix.split('.').any(is_number))
}

/// The kinds of modules among these names: what follows the last layer number, each as short as it
/// can be told from the other kinds, sorted.
pub(super) fn kinds(modules: &[&str]) -> Vec<String> {
    let tails: BTreeSet<&str> = modules.iter().map(|module| tail(module)).collect();
    let tails: Vec<&str> = tails.into_iter().collect();
    let mut kinds: Vec<String> = tails
        .iter()
        .flat_map(|kind| suffix_targets(&[kind], &tails))
        .collect();
    kinds.sort();
    kinds
}

/// What follows the last part of a name that is a number.
fn tail(module: &str) -> &str {
    let ends = suffixes(module).last().unwrap_or(module);
    if module.split('.').any(is_number) {
        ends
    } else {
        module
    }
}

fn is_number(part: &str) -> bool {
    !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit())
}
