//! Methods that need no samples: the weighted average and the weighted sum of the deltas, both exact as
//! stacked factors.

use async_trait::async_trait;

use super::{Factors, Merged, Method, Solution, Work};
use crate::{error::Result, report::LayerReport};

/// sum(w_i D_i) / sum(w_i).
pub(super) struct Linear;

/// scale * sum(w_i D_i).
pub(super) struct TaskArithmetic;

#[async_trait(?Send)]
impl Method for Linear {
    fn needs_samples(&self) -> bool {
        false
    }

    async fn merge(&self, work: &Work<'_>) -> Result<Merged> {
        let total: f64 = work.tasks.iter().map(|task| task.weight).sum();
        Ok(weighted_sum(work, 1.0 / total))
    }
}

#[async_trait(?Send)]
impl Method for TaskArithmetic {
    fn needs_samples(&self) -> bool {
        false
    }

    async fn merge(&self, work: &Work<'_>) -> Result<Merged> {
        Ok(weighted_sum(work, work.options.scale))
    }
}

fn weighted_sum(work: &Work<'_>, scale: f64) -> Merged {
    let mut merged = Merged {
        solutions: Default::default(),
        layers: Vec::new(),
    };
    for module in &work.modules {
        let parts = work
            .tasks
            .iter()
            .filter_map(|task| Some((task.deltas.get(&module.name)?, scale * task.weight)));
        let factors = Factors::stack(parts.map(|(factors, weight)| factors.scaled(weight)).collect());
        merged.layers.push(LayerReport::plain(&module.name, factors.rank));
        merged
            .solutions
            .insert(module.name.clone(), Solution::Factors(factors));
    }
    merged
}
