//! To which rank the changes of a merge are cut: what the options ask for, within what the method itself cuts to, else
//! what loses nothing where nothing has to be lost.

use super::Results;
use crate::{
    adapter::Lora,
    error::Result,
    merge::{
        Change, Place, Plan, Ranks, Target,
        reduce::{self, Reduced},
    },
};

/// Where changes are cut.
pub(super) struct Cut {
    /// At this rank at the latest.
    most: usize,
    /// Before it, each at the smallest rank that keeps this share.
    energy: Option<f64>,
}

impl Cut {
    /// What the options or the method ask for; none if they leave the changes whole.
    pub(super) async fn asked(results: &Results<'_>) -> Result<Option<Self>> {
        let Plan {
            adapters, options, ..
        } = *results.plan;
        let ranks = adapters.iter().flat_map(|read| read.adapter.modules.values());
        let largest = ranks.map(|lora| lora.rank).max().unwrap_or(1);
        let own = results.method.rank(options, largest);
        let (energy, uniform) = (options.energy, options.ranks == Ranks::Uniform);
        let mut wanted = options.rank;
        if let Some(energy) = energy.filter(|_| uniform) {
            // One rank for all: the smallest with which every layer keeps that share.
            let mut rank = 1;
            let weights = |target: &&Target| matches!(target.place, Place::Weight(_));
            for target in results.plan.targets.iter().filter(weights) {
                rank = rank.max(reduce::rank_for(&results.change(target).await?, energy));
            }
            wanted = Some(rank);
        }
        let energy = energy.filter(|_| !uniform);
        let most = own.into_iter().chain(wanted).min();
        Ok(match (most, energy) {
            (None, None) => None,
            (most, energy) => Some(Self {
                most: most.unwrap_or(usize::MAX),
                energy,
            }),
        })
    }

    /// The exact rank of a sum of the adapters, which is what a dense change is cut to by default.
    pub(super) fn exact(plan: &Plan<'_>) -> Self {
        let ranks = plan.targets.iter().map(|target| {
            let sources = target.sources.iter().zip(plan.adapters);
            sources
                .filter_map(|(path, read)| read.adapter.modules.get(path.as_ref()?))
                .map(Lora::change_rank)
                .sum()
        });
        Self {
            most: ranks.max().unwrap_or(1),
            energy: None,
        }
    }

    /// The change at its rank.
    pub(super) fn apply(&self, change: &Change) -> Reduced {
        let rank = match self.energy {
            Some(energy) => self.most.min(reduce::rank_for(change, energy)),
            None => self.most,
        };
        reduce::to_rank(change, rank)
    }
}
