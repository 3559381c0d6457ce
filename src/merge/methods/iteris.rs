//! IterIS (Chen et al., CVPR 2025, arXiv 2411.15231): every layer solved in closed form from the
//! features of the merged model itself.
//!
//! For a layer with base weight W0, task i with delta D_i = B_i A_i (scaling inside B_i), task features
//! X_i and merged features Xt_i (rows are tokens):
//!
//! ```text
//! C_i = Xt_i^T X_i + alpha_1 ||Xt_i^T X_i||_F I      G_i = Xt_i^T Xt_i + alpha_2 ||Xt_i^T Xt_i||_F I
//! lambda_i = w_i ||W0 + D_i||_F^2 / ||X_i (W0 + D_i)^T||_F^2
//! D* = (sum_i lambda_i D_i C_i^T) S^-1,   S = sum_i lambda_i G_i
//! ```
//!
//! With D_i low-rank the solution is too: D* = [B_1 … B_N] [A*_1; …; A*_N], A*_i = lambda_i A_i C_i^T S^-1.
//! [`statistics`] holds the sums over samples, which add up across micro-batches; [`solve`] turns them
//! into a layer's solution; this file lets the lanes meet both.

mod solve;
mod statistics;

use std::{
    cell::{Cell, RefCell},
    collections::BTreeMap,
    rc::Rc,
};

use async_trait::async_trait;

use self::statistics::GroupStatistics;
use super::{Change, Found, Layer, Method};
use crate::{
    batch::{Sample, micro_batches},
    compute::Stage,
    error::Result,
    linear::{Delta, Group, Hook, Linear, adapted_weight_norm},
    merge::{Schedule, Work},
    model::{Pass, Steps},
    progress::Progress,
    report::{LayerReport, TaskReport},
};

/// The method. See the module.
pub(super) struct Iteris;

/// Rows of a micro-batch, one copy: bounds the temporaries of a forward pass.
pub(crate) const MICRO_BATCH_ROWS: usize = 8192;

#[async_trait(?Send)]
impl Method for Iteris {
    fn needs_samples(&self) -> bool {
        true
    }

    /// What no pass sees has no features and is averaged; so are biases, which the merged lanes then run with.
    fn layer(&self, layer: &Layer<'_>) -> Result<Change> {
        super::average::Average.layer(layer)
    }

    async fn pass(&self, work: &Work<'_>) -> Result<Found> {
        let samples: Vec<&[Sample]> = work.tasks.iter().map(|task| task.samples.as_slice()).collect();
        let pad_id = work.model.family.pad_id();
        let batches = micro_batches(&samples, work.options.padding, pad_id, MICRO_BATCH_ROWS)?;
        let passes = match work.options.schedule {
            Schedule::Sweep => 1,
            Schedule::Iterate => work.options.max_iter,
        };
        // Blocks after the last layer that is solved change nothing.
        let until = work
            .modules
            .iter()
            .map(|module| module.block + 1)
            .max()
            .unwrap_or(0);
        let steps = Steps::new("forward", passes * until);
        let deltas: Vec<_> = work.tasks.iter().map(|task| task.on(work.compute)).collect();
        let weight_norms = RefCell::default();
        let mut merged = Found::default();
        let mut previous = BTreeMap::new();
        for pass in 0..passes {
            let hook = Solver {
                work,
                steps: &steps,
                deltas: &deltas,
                merged_lane: match work.options.schedule {
                    Schedule::Sweep => MergedLane::Current,
                    Schedule::Iterate if pass == 0 => MergedLane::TaskFeatures,
                    Schedule::Iterate => MergedLane::Previous(std::mem::take(&mut previous)),
                },
                weight_norms: &weight_norms,
                statistics: RefCell::default(),
                found: RefCell::default(),
            };
            let settings = Pass {
                compute: work.compute,
                targeted: &work.targeted,
                keep_host: true,
                until,
                heads: None,
                observer: work.observer,
                steps: &steps,
            };
            work.model.run(&settings, &batches, &hook).await?;
            let mut found = hook.found.into_inner();
            previous = found
                .iter()
                .map(|(name, found)| (name.clone(), Rc::clone(&found.delta)))
                .collect();
            merged.layers = work
                .modules
                .iter()
                .filter_map(|module| Some(found.get(&module.name)?.report(work)))
                .collect();
            merged.changes = std::mem::take(&mut found)
                .into_iter()
                .map(|(name, found)| (name, found.change))
                .collect();
        }
        Ok(merged)
    }
}

/// Where the merged lane's deltas come from.
enum MergedLane {
    /// There is none: the first pass of the iteration takes Xt = X.
    TaskFeatures,
    /// The solutions of the pass before.
    Previous(BTreeMap<String, Rc<Delta>>),
    /// The solutions of this pass.
    Current,
}

/// One pass at the linear groups.
struct Solver<'a> {
    work: &'a Work<'a>,
    steps: &'a Steps,
    deltas: &'a [BTreeMap<String, Rc<Delta>>],
    merged_lane: MergedLane,
    /// ||W0 + D_i||_F^2 by module, the same in every pass.
    weight_norms: &'a RefCell<BTreeMap<String, Vec<f64>>>,
    /// Sums of the group at hand.
    statistics: RefCell<Option<GroupStatistics>>,
    found: RefCell<BTreeMap<String, Solved>>,
}

/// A solved layer.
struct Solved {
    change: Change,
    delta: Rc<Delta>,
    lambdas: Vec<f64>,
    condition: f64,
    seconds: f64,
    module: String,
    /// ||X_i D_i^T - Xt_i D*^T||^2 and ||X_i D_i^T||^2, summed over micro-batches; one pair a task.
    residuals: Vec<Cell<(f64, f64)>>,
}

impl Solved {
    fn report(&self, work: &Work<'_>) -> LayerReport {
        let tasks = work.tasks.iter().enumerate().map(|(i, task)| {
            let (distance, norm) = self.residuals[i].get();
            TaskReport {
                task: task.name.clone(),
                lambda: Some(self.lambdas[i]),
                residual: (norm > 0.0).then(|| distance / norm),
            }
        });
        LayerReport {
            module: self.module.clone(),
            rank: self.change.rank(),
            energy_kept: None,
            error: None,
            condition: Some(self.condition),
            seconds: self.seconds,
            tasks: tasks.collect(),
        }
    }
}

impl Solver<'_> {
    /// The variant whose features are Xt.
    fn merged_variant(&self) -> usize {
        self.variants() - 1
    }

    fn weight_norms(&self, layer: &Linear) -> Vec<f64> {
        if let Some(norms) = self.weight_norms.borrow().get(&layer.name) {
            return norms.clone();
        }
        let w0 = layer.host.as_ref().map_or(&[][..], |w0| w0.as_slice());
        let norms: Vec<f64> = self
            .work
            .tasks
            .iter()
            .map(|task| adapted_weight_norm(w0, task.deltas.get(&layer.name)))
            .collect();
        self.weight_norms
            .borrow_mut()
            .insert(layer.name.clone(), norms.clone());
        norms
    }
}

#[async_trait(?Send)]
impl Hook for Solver<'_> {
    fn variants(&self) -> usize {
        match self.merged_lane {
            MergedLane::TaskFeatures => 1,
            MergedLane::Previous(_) | MergedLane::Current => 2,
        }
    }

    fn tasks(&self) -> usize {
        self.work.tasks.len()
    }

    fn delta(&self, layer: &str, task: usize, variant: usize) -> Option<Rc<Delta>> {
        if variant == 0 {
            return self.deltas[task].get(layer).cloned();
        }
        if let Some(bias) = self.work.biases.get(layer) {
            return Some(Rc::clone(bias));
        }
        match &self.merged_lane {
            MergedLane::TaskFeatures => None,
            MergedLane::Previous(previous) => previous.get(layer).cloned(),
            MergedLane::Current => self
                .found
                .borrow()
                .get(layer)
                .map(|found| Rc::clone(&found.delta)),
        }
    }

    async fn collect(&self, group: &Group<'_>) -> Result<()> {
        let start = self.work.compute.meter.elapsed();
        let mut sums = GroupStatistics::new(
            self.work,
            group.layers,
            group.input.columns(),
            self.merged_variant() == 0,
        );
        sums.collect(self.work, self.deltas, group, self.merged_variant())
            .await?;
        let mut slot = self.statistics.borrow_mut();
        match slot.as_mut() {
            Some(all) => all.add(&sums),
            None => *slot = Some(sums),
        }
        self.work.compute.meter.add_since(Stage::Gram, start);
        Ok(())
    }

    async fn solve(&self, layers: &[&Linear]) -> Result<()> {
        let Some(statistics) = self.statistics.take() else {
            return Ok(());
        };
        for (member, layer) in layers
            .iter()
            .enumerate()
            .filter(|(_, layer)| self.work.targeted.contains(&layer.name))
        {
            let event = Progress {
                stage: "solve",
                layer: layer.name.clone(),
                done: self.steps.done(),
                total: self.steps.total(),
                seconds: self.work.compute.meter.elapsed(),
            };
            self.work.observer.progress(event).await?;
            let start = self.work.compute.meter.elapsed();
            let norms = self.weight_norms(layer);
            let solved = solve::layer(self.work, &statistics, member, layer, &norms)?;
            let delta = Rc::new(solved.change.on(self.work.compute));
            self.work.compute.meter.add_since(Stage::Solve, start);
            let found = Solved {
                change: solved.change,
                delta,
                lambdas: solved.lambdas,
                condition: solved.condition,
                seconds: self.work.compute.meter.elapsed() - start,
                module: layer.name.clone(),
                residuals: vec![Cell::new((0.0, 0.0)); self.tasks()],
            };
            self.found.borrow_mut().insert(layer.name.clone(), found);
        }
        Ok(())
    }

    async fn measure(&self, group: &Group<'_>) -> Result<()> {
        for layer in group
            .layers
            .iter()
            .filter(|layer| self.work.targeted.contains(&layer.name))
        {
            let Some(merged) = self
                .found
                .borrow()
                .get(&layer.name)
                .map(|found| Rc::clone(&found.delta))
            else {
                continue;
            };
            for task in 0..self.tasks() {
                let (own, lane) = (group.lane(task, 0), group.lane(task, self.merged_variant()));
                let Some(delta) = self.deltas[task].get(&layer.name).filter(|_| !own.is_empty()) else {
                    continue;
                };
                let wanted = delta.apply(group.input, own);
                let norm = wanted.sum_of_squares(wanted.all()).await?;
                let distance = wanted.squared_distance(merged.apply(group.input, lane)).await?;
                if let Some(found) = self.found.borrow().get(&layer.name) {
                    let (distances, norms) = found.residuals[task].get();
                    found.residuals[task].set((distances + distance, norms + norm));
                }
            }
        }
        Ok(())
    }
}
