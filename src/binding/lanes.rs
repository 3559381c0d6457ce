//! What adapters add to the layers that a pass of the model runs in lanes.

use std::collections::BTreeMap;

use crate::{
    adapter::LayerKind,
    binding::{
        base::Base,
        bind::{Binding, Part},
        read::ReadAdapter,
        site::{MergeSite, Place},
    },
    delta::Delta,
    error::{Code, Error, Result},
    naming::pattern::Patterns,
};

/// One adapter's deltas as the lanes of a pass add them.
#[derive(Default)]
pub struct LaneDeltas {
    /// By module in the model's naming, and those of [biases](crate::model::lanes::bias_of) by their names.
    pub deltas: BTreeMap<String, Delta>,
    /// The adapter's weights at modules where it is another than its own.
    pub weights: BTreeMap<String, f64>,
}

/// The deltas of every adapter, in the order of the adapters.
///
/// # Errors
/// [`Code::AdapterUnsupported`] for an adapter that changes what no pass of the model tells apart by task, and as
/// [`Binding::parts`].
pub async fn of_all(binding: &Binding<'_>) -> Result<Vec<LaneDeltas>> {
    let mut all: Vec<LaneDeltas> = binding.adapters.iter().map(|_| LaneDeltas::default()).collect();
    for site in &binding.sites {
        let parts = binding.parts(site).await?;
        if !in_lanes(binding, site) {
            // PEFT saves copies of tables that nobody trained.
            let nothing = |part: &Part<'_>| part.delta.dense().iter().all(|&x| x == 0.0);
            if matches!(site.place, Place::Whole(_)) && parts.iter().all(nothing) {
                continue;
            }
            return Err(Error::new(
                Code::AdapterUnsupported,
                format!(
                    "a model pass keeps tasks apart at linear layers alone, and an adapter changes another part of the model; choose a method that needs no samples; parameter: {}",
                    site.name
                ),
            ));
        }
        for ((lanes, read), &weight) in all.iter_mut().zip(binding.adapters).zip(&site.weights) {
            if weight != read.weight {
                lanes.weights.insert(site.name.clone(), weight);
            }
        }
        for part in parts {
            all[part.task].deltas.insert(site.name.clone(), part.delta);
        }
    }
    Ok(all)
}

/// One adapter's deltas in the model's naming.
///
/// # Errors
/// As [`Binding::new`] and [`of_all`].
pub async fn lane_deltas(base: &Base, read: &ReadAdapter) -> Result<BTreeMap<String, Delta>> {
    let binding = Binding::new(base, std::slice::from_ref(read), &Patterns::default())?;
    let lanes = of_all(&binding).await?.pop();
    Ok(lanes.map(|lanes| lanes.deltas).unwrap_or_default())
}

/// Whether a pass of the model tells tasks apart at this: the weight or the bias of a layer that it runs in lanes.
fn in_lanes(binding: &Binding<'_>, site: &MergeSite) -> bool {
    let Base::Model(model) = binding.base else {
        return true;
    };
    let module = match &site.place {
        Place::Weight(LayerKind::Linear) => site.name.as_str(),
        Place::Bias => site.name.strip_suffix(".bias").unwrap_or_default(),
        Place::Weight(_) | Place::Rows(_) | Place::Whole(_) => return false,
    };
    model.module(module).is_some()
}
