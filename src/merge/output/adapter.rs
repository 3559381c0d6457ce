//! A merged adapter: every change cut to factors, under the names that the adapters have.

use std::collections::BTreeMap;

use super::{Results, cut::Cut, json, metadata, paths::Paths};
use crate::{
    adapter::{Adapter, CONFIG_FILE, Lora, WEIGHTS_FILE, adapter_tensors, merged_config, suffix_targets},
    base::Base,
    error::Result,
    io::{OutDtype, Sink, serialize},
    merge::{Factors, Place, Ranks, Target},
    report::LayerReport,
};

/// Writes the adapter, and tells `layers` what its ranks keep.
pub(super) async fn write(
    results: &Results<'_>,
    layers: &mut [LayerReport],
    notes: &mut Vec<String>,
    sink: &mut dyn Sink,
) -> Result<()> {
    let plan = results.plan;
    let mut found: BTreeMap<String, (Factors, &Target)> = BTreeMap::new();
    let cut = Cut::asked(results).await?.unwrap_or_else(|| Cut::exact(plan));
    for target in &plan.targets {
        let reduced = cut.apply(&results.change(target).await?);
        if let Some(layer) = layers.iter_mut().find(|layer| layer.module == target.name) {
            layer.rank = reduced.factors.rank;
            layer.energy_kept = Some(reduced.energy_kept);
            layer.error = Some(reduced.error);
        }
        found.insert(target.name.clone(), (reduced.factors, target));
    }
    let largest = found.values().map(|(factors, _)| factors.rank).max().unwrap_or(1);
    let uniform = plan.options.ranks == Ranks::Uniform;
    // One rank for all modules, so that programs which know no `rank_pattern` load the adapter too.
    if uniform && found.values().any(|(factors, _)| factors.rank < largest) {
        notes.push(format!(
            "modules of a smaller rank are filled with zeros up to rank {largest}, so that all have one rank"
        ));
    }
    let paths = Paths::of(plan);
    let modules: BTreeMap<String, Lora> = found
        .into_iter()
        .filter_map(|(name, (factors, target))| {
            let Place::Weight(layer) = &target.place else {
                return None;
            };
            let Factors {
                a,
                b,
                rank,
                d_out,
                d_in,
            } = if uniform { factors.padded(largest) } else { factors };
            let lora = Lora {
                a,
                b,
                rank,
                d_in,
                d_out,
                scaling: 1.0,
                layer: layer.clone(),
                ..Lora::default()
            };
            Some((paths.path(&name), lora))
        })
        .collect();

    let names: Vec<&str> = modules.keys().map(String::as_str).collect();
    let targets = match plan.base {
        // An end of a name may be that of other layers too, and nothing says which there are.
        Base::Absent => names.iter().map(|&name| name.to_owned()).collect(),
        Base::Model(_) | Base::Weights(_) => {
            let all = paths.all(plan);
            let all: Vec<&str> = all.iter().map(String::as_str).collect();
            suffix_targets(&names, &all)
        }
    };
    let ranks = modules
        .iter()
        .map(|(name, lora)| (name.clone(), lora.rank))
        .collect();
    let read: Vec<&Adapter> = plan.adapters.iter().map(|read| &read.adapter).collect();
    let mut config = merged_config(&read, &ranks, &targets);
    // What PEFT itself sets when it puts an adapter on such layers, or on others.
    config["fan_in_fan_out"] = plan
        .targets
        .iter()
        .any(|target| target.tensor.as_ref().is_some_and(|tensor| tensor.transposed))
        .into();
    let dtype = plan.options.dtype.or(OutDtype::F32);
    let weights = serialize(&adapter_tensors(&modules), dtype, &metadata())?;
    sink.write(CONFIG_FILE, &json(&config)?).await?;
    sink.write(WEIGHTS_FILE, &weights).await
}
