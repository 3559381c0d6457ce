//! To which rank the changes of a merge are cut: what the options ask for, else the method, else what loses nothing
//! where nothing has to be lost.

use super::Results;
use crate::{
    error::Result,
    merge::{
        Change, Plan, Ranks,
        reduce::{self, Reduced},
    },
};

/// Where changes are cut.
pub(super) enum Cut {
    /// At this rank at the latest.
    Rank(usize),
    /// Each at the smallest rank that keeps this share.
    Energy(f64),
}

impl Cut {
    /// What the options or the method ask for; none if they leave the changes whole.
    pub(super) async fn asked(results: &Results<'_>) -> Result<Option<Self>> {
        let Plan {
            adapters, options, ..
        } = *results.plan;
        if let Some(energy) = options.energy {
            if options.ranks == Ranks::PerLayer {
                return Ok(Some(Self::Energy(energy)));
            }
            // One rank for all: the smallest with which every layer keeps that share.
            let mut rank = 1;
            for target in &results.plan.targets {
                rank = rank.max(reduce::rank_for(&results.change(target).await?, energy));
            }
            return Ok(Some(Self::Rank(rank)));
        }
        let ranks = adapters.iter().flat_map(|read| read.adapter.modules.values());
        let largest = ranks.map(|lora| lora.rank).max().unwrap_or(1);
        let wanted = options.rank.or_else(|| results.method.rank(options, largest));
        Ok(wanted.map(Self::Rank))
    }

    /// The exact rank of a sum of the adapters, which is what a dense change is cut to by default.
    pub(super) fn exact(plan: &Plan<'_>) -> Self {
        let ranks = plan.targets.iter().map(|target| {
            let sources = target.sources.iter().zip(plan.adapters);
            sources
                .filter_map(|(path, read)| read.adapter.modules.get(path.as_ref()?))
                .map(|lora| lora.rank)
                .sum()
        });
        Self::Rank(ranks.max().unwrap_or(1))
    }

    /// The change at its rank.
    pub(super) fn apply(&self, change: &Change) -> Reduced {
        match *self {
            Self::Rank(rank) => reduce::to_rank(change, rank),
            Self::Energy(energy) => reduce::to_energy(change, energy),
        }
    }
}
