//! What of a merge is no low-rank change of a weight, as an adapter keeps it: biases, rows of tables, whole modules.
//!
//! What can go wrong is a place that PEFT has for one of two things only, such as factors and trained rows of one
//! table: it is refused by name, since the file would be loaded without the other.

use std::collections::BTreeMap;

use super::{Results, paths::Paths};
use crate::{
    adapter::{Extra, LayerKind, Lora, TokenRows, WholeTensor},
    compute::narrow,
    error::{Code, Error, Result},
    merge::{Place, Target},
    report::LayerReport,
};

/// What the merged adapter has beside the factors of `modules`, to which `lora_B`'s biases are added.
pub(super) async fn of(
    results: &Results<'_>,
    paths: &Paths,
    modules: &mut BTreeMap<String, Lora>,
    layers: &mut [LayerReport],
) -> Result<Extra> {
    let plan = results.plan;
    let mut extra = Extra::default();
    let mut added: BTreeMap<String, Vec<f32>> = BTreeMap::new();
    let in_place = biases_in_place(results, paths, modules);
    for target in &plan.targets {
        if matches!(target.place, Place::Weight(_)) {
            continue;
        }
        let change = results.change(target).await?;
        if let Some(layer) = layers.iter_mut().find(|layer| layer.module == target.name) {
            layer.rank = change.rank();
            layer.energy_kept = Some(1.0);
            layer.error = Some(0.0);
        }
        let path = paths.of_target(plan, target);
        if target.place == Place::Bias && !in_place {
            let module = path.strip_suffix(".bias").unwrap_or(&path);
            added.insert(module.to_owned(), change.dense());
            continue;
        }
        let data = sum(&plan.original(target).await?, &change.dense());
        match &target.place {
            Place::Weight(_) => {}
            Place::Bias => {
                extra.biases.insert(path, data);
            }
            Place::Rows(ids) => {
                alone(&path, modules, target)?;
                let rows = TokenRows {
                    ids: ids.clone(),
                    width: target.d_in,
                    data,
                };
                extra.tokens.insert(path, rows);
            }
            Place::Whole(shape) => {
                let saved = plan.adapters.iter().zip(&target.sources);
                let config = saved
                    .filter(|(_, source)| source.is_some())
                    .map(|(read, _)| &read.adapter.config.modules_to_save);
                let module = module_of(&path, config.flatten().map(String::as_str));
                alone(module, modules, target)?;
                extra.whole.push(WholeTensor {
                    module: module.to_owned(),
                    parameter: path.get(module.len() + 1..).unwrap_or(&path).to_owned(),
                    shape: shape.clone(),
                    data,
                });
            }
        }
    }
    if let Some(both) = extra
        .whole
        .iter()
        .find(|tensor| extra.tokens.contains_key(&tensor.module))
    {
        return Err(both_ways(&both.module));
    }
    if !added.is_empty() {
        for (module, lora) in modules.iter_mut() {
            lora.bias = Some(added.remove(module).unwrap_or_else(|| vec![0.0; lora.d_out]));
        }
    }
    Ok(extra)
}

/// Whether biases are written as the base's own with the changes added, in place of biases of `lora_B`: where an
/// adapter trained those, or has factors of what PEFT gives no such bias.
fn biases_in_place(results: &Results<'_>, paths: &Paths, modules: &BTreeMap<String, Lora>) -> bool {
    let plan = results.plan;
    let without = |lora: &Lora| matches!(lora.layer, LayerKind::Embedding | LayerKind::Parameter { .. });
    modules.values().any(without)
        || plan
            .targets
            .iter()
            .filter(|target| target.place == Place::Bias)
            .any(|target| {
                let path = paths.of_target(plan, target);
                let module = path.strip_suffix(".bias").unwrap_or(&path);
                let trained = |(read, source): (&crate::merge::ReadAdapter, &Option<String>)| {
                    source
                        .as_ref()
                        .is_some_and(|path| read.adapter.biases.contains_key(path))
                };
                !modules.contains_key(module) || plan.adapters.iter().zip(&target.sources).any(trained)
            })
}

/// The module that a saved tensor is of: the one that `modules_to_save` names, or the tensor's own.
fn module_of<'a, 'b>(path: &'a str, mut saved: impl Iterator<Item = &'b str>) -> &'a str {
    let parent = path.rfind('.').unwrap_or(0);
    let end = saved.find_map(|name| {
        path.match_indices('.')
            .map(|(at, _)| at)
            .find(|&at| !name.is_empty() && path[..at].ends_with(name))
    });
    &path[..end.unwrap_or(parent)]
}

fn alone(module: &str, modules: &BTreeMap<String, Lora>, target: &Target) -> Result<()> {
    if modules.contains_key(module) {
        return Err(both_ways(&target.name));
    }
    Ok(())
}

fn both_ways(parameter: &str) -> Error {
    Error::new(
        Code::AdapterUnsupported,
        format!(
            "one adapter changes a module by factors or single rows and another saved it whole or trained single rows, which PEFT has no place for in one adapter; write a merged base model; parameter: {parameter}"
        ),
    )
}

fn sum(original: &[f32], change: &[f32]) -> Vec<f32> {
    let pairs = original.iter().zip(change);
    pairs
        .map(|(&w, &d)| narrow(f64::from(w) + f64::from(d)))
        .collect()
}
