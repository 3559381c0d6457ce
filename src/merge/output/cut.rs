//! Where changes are cut before they are written: the caller's rank or energy, or the rank that a method asks for.

use super::Results;
use crate::merge::{
    Change, Ranks,
    reduce::{self, Reduced},
};

/// Where changes are cut.
pub(super) enum Cut {
    /// At this rank at the latest.
    Rank(usize),
    /// Each at the smallest rank that keeps this share.
    Energy(f64),
}

impl Cut {
    /// What options and method ask for; none if they leave changes as they are.
    pub(super) async fn asked(results: &Results<'_>) -> crate::error::Result<Option<Self>> {
        let options = results.plan.options;
        if let Some(energy) = options.energy {
            if options.ranks == Ranks::PerLayer {
                return Ok(Some(Self::Energy(energy)));
            }
            let mut rank = 1;
            for target in &results.plan.targets {
                let reduced = reduce::to_energy(&results.change(target).await?, energy);
                rank = rank.max(reduced.factors.rank);
            }
            return Ok(Some(Self::Rank(rank)));
        }
        let adapters = results.plan.adapters.iter();
        let ranks = adapters.flat_map(|read| read.adapter.modules.values().map(|lora| lora.rank));
        let largest = ranks.max().unwrap_or(1);
        let rank = options.rank.or_else(|| results.method.rank(options, largest));
        Ok(rank.map(Self::Rank))
    }

    pub(super) fn apply(&self, change: &Change) -> Reduced {
        match *self {
            Self::Rank(rank) => reduce::to_rank(change, rank),
            Self::Energy(energy) => reduce::to_energy(change, energy),
        }
    }
}
