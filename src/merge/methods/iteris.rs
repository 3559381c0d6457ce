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
//! [`objective`] says which least-squares problem is solved: IterIS's, or RegMean's, which is the same on other
//! features; [`statistics`] holds the sums over samples, which add up across micro-batches; [`solve`] turns them
//! into a layer's solution, with the help of other workers where it is wide ([`factor`]); this file lets the lanes meet
//! them.

#[cfg(test)]
mod convolutions;
mod device;
mod factor;
pub(super) mod objective;
mod solve;
mod statistics;

use std::{
    cell::{Cell, RefCell},
    collections::BTreeMap,
    rc::Rc,
};

use async_trait::async_trait;

use crate::{
    compute::{Features, Message, MessageReader, Stage},
    delta::{Delta, DeviceDelta, adapted_weight_norm},
    error::Result,
    merge::{
        context::SolveContext,
        crew::{Crew, Other},
        layer::{LayerReport, SolvedLayer, TaskReport},
        methods::{
            Layer, Method,
            average::Average,
            iteris::{
                device::{GroupSums, Residuals},
                factor::Call,
                objective::{Lanes, Objective},
                statistics::{GroupStatistics, Wanted},
            },
        },
        options::LeastSquares,
    },
    model::{
        Pass, Steps,
        batch::Sample,
        lanes::{Group, Hook},
        projection::Projection,
    },
    progress::Progress,
};

/// `iteris`.
pub(super) struct Iteris;

/// Rows of a micro-batch, one copy: bounds the temporaries of a forward pass.
pub(crate) const MICRO_BATCH_ROWS: usize = 8192;

/// Stages whose operations are those of all workers.
const COUNTED: [Stage; 2] = [Stage::Forward, Stage::Gram];

#[async_trait(?Send)]
impl Method for Iteris {
    fn needs_samples(&self) -> bool {
        true
    }

    fn reads(&self) -> &'static [&'static str] {
        &[
            "schedule",
            "max_iter",
            "target",
            "alpha1",
            "alpha2",
            "adaptive_weights",
            "padding",
        ]
    }

    /// What no pass sees has no features and is averaged; so are biases, which the merged lanes then run with.
    async fn layer(&self, layer: &Layer<'_>) -> Result<Delta> {
        Average.layer(layer).await
    }

    async fn pass(&self, work: &SolveContext<'_>) -> Result<Vec<SolvedLayer>> {
        pass(work, &Objective::iteris(work.options)).await
    }
}

/// Runs the model on the tasks' samples and solves every layer as it is reached.
///
/// # Errors
/// As [`Method::pass`].
pub(super) async fn pass(work: &SolveContext<'_>, objective: &Objective) -> Result<Vec<SolvedLayer>> {
    let share = work.share()?;
    let samples: Vec<&[Sample]> = share.samples.iter().map(Vec::as_slice).collect();
    let batches = work
        .model
        .micro_batches_of(&samples, share.lengths.as_ref(), MICRO_BATCH_ROWS)?;
    let passes = match objective.lanes {
        Lanes::Iterate(passes) => passes,
        Lanes::Sweep | Lanes::Tasks | Lanes::Rejoining => 1,
    };
    // Blocks after the last layer that is solved change nothing.
    let until = work
        .modules
        .iter()
        .map(|module| module.block + 1)
        .max()
        .unwrap_or(0);
    let steps = Steps::new("forward", passes * until);
    let deltas: Vec<_> = work
        .tasks
        .iter()
        .map(|task| task.to_device(work.compute))
        .collect();
    let weight_norms = RefCell::default();
    let mut merged = Vec::new();
    let mut previous = BTreeMap::new();
    for pass in 0..passes {
        let hook = Solver {
            work,
            objective,
            steps: &steps,
            deltas: &deltas,
            merged_lane: match objective.lanes {
                Lanes::Sweep | Lanes::Rejoining => MergedLane::Current,
                Lanes::Tasks => MergedLane::TaskFeatures,
                Lanes::Iterate(_) if pass == 0 => MergedLane::TaskFeatures,
                Lanes::Iterate(_) => MergedLane::Previous(std::mem::take(&mut previous)),
            },
            weight_norms: &weight_norms,
            statistics: RefCell::default(),
            on_device: RefCell::default(),
            found: RefCell::default(),
            measures: pass + 1 == passes,
            residuals: RefCell::default(),
        };
        let settings = Pass {
            compute: work.compute,
            targeted: &work.targeted,
            // For solving, which one worker does.
            keep_host: !matches!(work.crew, Crew::Other(_)),
            until,
            heads: None,
            observer: work.observer,
            steps: &steps,
        };
        work.model.run(&settings, &batches, &hook).await?;
        hook.finish().await?;
        hook.meet(pass + 1 < passes).await?;
        let mut found = hook.found.into_inner();
        previous = found
            .iter()
            .map(|(name, found)| (name.clone(), Rc::clone(&found.device)))
            .collect();
        if let Crew::Other(_) = work.crew {
            // The first worker's are the layers that are handed on.
            continue;
        }
        merged = work
            .modules
            .iter()
            .filter_map(|module| Some(found.remove(&module.name)?.into_layer(work)))
            .collect();
    }
    Ok(merged)
}

/// Where the merged lane's deltas come from.
enum MergedLane {
    /// There is none: Xt = X, as in the first pass of the iteration.
    TaskFeatures,
    /// The solutions of the pass before.
    Previous(BTreeMap<String, Rc<DeviceDelta>>),
    /// The solutions of this pass.
    Current,
}

/// One pass at the linear groups.
struct Solver<'a> {
    work: &'a SolveContext<'a>,
    objective: &'a Objective,
    steps: &'a Steps,
    deltas: &'a [BTreeMap<String, Rc<DeviceDelta>>],
    merged_lane: MergedLane,
    /// ||W0 + D_i||_F^2 by module, the same in every pass.
    weight_norms: &'a RefCell<BTreeMap<String, Vec<f64>>>,
    /// Sums of the group at hand.
    statistics: RefCell<Option<GroupStatistics>>,
    /// The same where features are on a device.
    on_device: RefCell<Option<GroupSums>>,
    found: RefCell<BTreeMap<String, Solved>>,
    /// Whether residuals are asked for: of the last pass alone, whose solutions are what the merge gives.
    measures: bool,
    /// Where features are on a device: the residuals of this pass.
    residuals: RefCell<Option<Residuals>>,
}

/// A solved layer.
struct Solved {
    delta: Delta,
    device: Rc<DeviceDelta>,
    lambdas: Vec<f64>,
    condition: f64,
    seconds: f64,
    module: String,
    /// ||X_i D_i^T - Xt_i D*^T||^2 and ||X_i D_i^T||^2, summed over micro-batches; one pair a task.
    residuals: Vec<Cell<(f64, f64)>>,
}

impl Solved {
    fn into_layer(self, work: &SolveContext<'_>) -> SolvedLayer {
        let tasks = work.tasks.iter().enumerate().map(|(i, task)| {
            let (distance, norm) = self.residuals[i].get();
            TaskReport {
                task: task.name.clone(),
                lambda: Some(self.lambdas[i]),
                residual: (norm > 0.0).then(|| distance / norm),
            }
        });
        let report = LayerReport {
            rank: self.delta.rank(),
            condition: Some(self.condition),
            seconds: self.seconds,
            tasks: tasks.collect(),
            ..LayerReport::plain(&self.module)
        };
        SolvedLayer {
            delta: self.delta,
            report,
        }
    }
}

impl Solver<'_> {
    /// The variant whose features are Xt.
    fn merged_variant(&self) -> usize {
        match self.objective.lanes {
            Lanes::Tasks | Lanes::Rejoining => 0,
            Lanes::Sweep | Lanes::Iterate(_) => self.variants() - 1,
        }
    }

    /// What is told to the other workers of the layers of a group: what was found.
    fn findings(&self, layers: &[&Projection]) -> Message {
        let found = self.found.borrow();
        let layers: Vec<&Delta> = layers
            .iter()
            .filter_map(|layer| Some(&found.get(&layer.name)?.delta))
            .collect();
        Call::Found
            .message()
            .each(layers.into_iter(), |message, delta| delta.say(message))
    }

    /// Takes what the first worker has found for the layers of a group.
    fn take_findings(&self, layers: &[&Projection], findings: &mut MessageReader<'_>) -> Result<()> {
        let deltas = findings.each(Delta::read)?;
        let solved = layers
            .iter()
            .filter(|layer| self.work.targeted.contains(&layer.name));
        for (layer, delta) in solved.zip(deltas) {
            let device = Rc::new(delta.to_device(self.work.compute));
            let found = Solved {
                delta,
                device,
                lambdas: Vec::new(),
                condition: 0.0,
                seconds: 0.0,
                module: layer.name.clone(),
                residuals: self.no_residuals(),
            };
            self.found.borrow_mut().insert(layer.name.clone(), found);
        }
        Ok(())
    }

    fn no_residuals(&self) -> Vec<Cell<(f64, f64)>> {
        vec![Cell::new((0.0, 0.0)); self.tasks()]
    }

    /// Where workers meet at the end of a pass: residuals are added up, and where another pass follows, it begins.
    async fn meet(&self, goes_on: bool) -> Result<()> {
        match &self.work.crew {
            Crew::Alone => {}
            Crew::First(first) => {
                first.answers(|measured| self.add_measured(measured)).await?;
                if goes_on {
                    first.tell(&Message::default());
                }
            }
            Crew::Other(other) => {
                other.answer(self.measured()).await?;
                if goes_on {
                    other.hear().await?;
                }
            }
        }
        Ok(())
    }

    /// What is told of a pass to the first worker: residuals, and operations to be counted there.
    fn measured(&self) -> Message {
        let found = self.found.borrow();
        let residuals = found.values().flat_map(|found| &found.residuals);
        let message = residuals.fold(Message::default(), |message, sums| {
            let (distance, norm) = sums.get();
            message.float(distance).float(norm)
        });
        let meter = &self.work.compute.meter;
        COUNTED.into_iter().fold(message, |message, stage| {
            message.float(meter.take_operations(stage))
        })
    }

    fn add_measured(&self, measured: &[u8]) -> Result<()> {
        let mut measured = MessageReader::new(measured);
        let found = self.found.borrow();
        for sums in found.values().flat_map(|found| &found.residuals) {
            let (distance, norm) = sums.get();
            sums.set((distance + measured.float()?, norm + measured.float()?));
        }
        for stage in COUNTED {
            self.work.compute.meter.add_operations(stage, measured.float()?);
        }
        Ok(())
    }

    /// Whether a layer is solved from Xt^T X itself, and not from its product with A and its norm.
    fn needs_whole_cross(&self, layers: &[&Projection]) -> bool {
        let dense = |layer: &Projection| {
            let deltas = self
                .work
                .tasks
                .iter()
                .filter_map(|task| task.deltas.get(&layer.name));
            deltas.into_iter().any(|delta| delta.as_low_rank().is_none())
        };
        self.objective.target == LeastSquares::Full || layers.iter().any(|layer| dense(layer))
    }

    /// Makes the sums those of all workers, and looks at what is only looked at once they are.
    async fn complete(&self, statistics: &mut GroupStatistics) -> Result<()> {
        let meter = &self.work.compute.meter;
        let mut parcels = statistics.parcels().into_iter().peekable();
        while let Some(parcel) = parcels.next() {
            let start = meter.elapsed();
            let mut crosses = statistics.crosses(&parcel, self.work.compute);
            meter.add_since(Stage::Gram, start);
            if let Crew::First(first) = &self.work.crew {
                let start = meter.elapsed();
                let take = |said: &[u8]| statistics.add_said(&parcel, &mut crosses, said);
                first.answers(take).await?;
                meter.add_since(Stage::Wait, start);
                if parcels.peek().is_some() {
                    // On to the next one.
                    first.tell(&Message::default());
                }
            }
            statistics.add_squares(&parcel, &crosses);
        }
        Ok(())
    }

    /// Tells the first worker the sums, parcel by parcel, and takes what it finds; helps with that where it is asked to.
    async fn hand_in(
        &self,
        other: &Other<'_>,
        mut statistics: GroupStatistics,
        layers: &[&Projection],
    ) -> Result<()> {
        let mut said = Vec::new();
        for parcel in statistics.parcels() {
            let crosses = statistics.crosses(&parcel, self.work.compute);
            let message = statistics.say(&parcel, &crosses);
            drop(crosses);
            said = other.exchange(message).await?;
        }
        drop(statistics);
        loop {
            let mut call = MessageReader::new(&said);
            match Call::of(&mut call)? {
                Call::Found => return self.take_findings(layers, &mut call),
                Call::Factor => factor::help(other, &mut call).await?,
            }
            said = other.hear().await?;
        }
    }

    /// Brings what was measured on a device here: the one readback of a pass.
    async fn finish(&self) -> Result<()> {
        let Some(residuals) = self.residuals.take() else {
            return Ok(());
        };
        let measured = residuals.read().await?;
        let found = self.found.borrow();
        for (layer, tasks) in measured {
            let residuals = found.get(&layer).map(|found| &found.residuals);
            for (to, pair) in residuals.into_iter().flatten().zip(tasks) {
                to.set(pair);
            }
        }
        Ok(())
    }

    fn weight_norms(&self, layer: &Projection) -> Result<Vec<f64>> {
        if let Some(norms) = self.weight_norms.borrow().get(&layer.name) {
            return Ok(norms.clone());
        }
        let w0 = layer.host()?;
        let norms: Vec<f64> = self
            .work
            .tasks
            .iter()
            .map(|task| adapted_weight_norm(w0, task.deltas.get(&layer.name)))
            .collect();
        self.weight_norms
            .borrow_mut()
            .insert(layer.name.clone(), norms.clone());
        Ok(norms)
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

    fn rejoins(&self) -> bool {
        matches!(self.objective.lanes, Lanes::Rejoining)
    }

    fn delta(&self, layer: &str, task: usize, variant: usize) -> Option<Rc<DeviceDelta>> {
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
                .map(|found| Rc::clone(&found.device)),
        }
    }

    async fn collect(&self, group: &Group<'_>) -> Result<()> {
        let start = self.work.compute.meter.elapsed();
        let on_device = matches!(**group.input, Features::Device(_));
        let wanted = match self.merged_variant() {
            0 => Wanted::Nothing,
            _ if self.needs_whole_cross(group.layers) => Wanted::Whole,
            _ => Wanted::Norm,
        };
        let d_in = group.input.columns();
        let zeros = || GroupStatistics::new(self.work, self.objective, group.layers, d_in, wanted);
        if on_device {
            let mut sums = self.on_device.borrow_mut();
            let sums = sums.get_or_insert_with(|| GroupSums::new(zeros(), self.work.compute));
            sums.collect(self.work.compute, self.deltas, group, self.merged_variant());
            self.work.compute.meter.add_since(Stage::Gram, start);
            return Ok(());
        }
        let mut sums = self.statistics.take().unwrap_or_else(zeros);
        sums.collect(self.work, self.deltas, group, self.merged_variant())
            .await?;
        // Nothing waits where features are in memory, so no other micro-batch has begun sums of its own.
        let others = self.statistics.replace(Some(sums));
        assert!(others.is_none(), "micro-batches are summed one after another");
        self.work.compute.meter.add_since(Stage::Gram, start);
        Ok(())
    }

    async fn solve(&self, layers: &[&Projection]) -> Result<()> {
        let start = self.work.compute.meter.elapsed();
        let statistics = match self.on_device.take() {
            Some(sums) => Some(sums.read().await?),
            None => self.statistics.take(),
        };
        self.work.compute.meter.add_since(Stage::Gram, start);
        let Some(mut statistics) = statistics else {
            return Ok(());
        };
        if let Crew::Other(other) = &self.work.crew {
            return self.hand_in(other, statistics, layers).await;
        }
        self.complete(&mut statistics).await?;
        let solved = layers
            .iter()
            .enumerate()
            .filter(|(_, layer)| self.work.targeted.contains(&layer.name));
        let mut solved = solved.peekable();
        while let Some((member, layer)) = solved.next() {
            let event = Progress {
                stage: "solve",
                layer: layer.name.clone(),
                done: self.steps.done(),
                total: self.steps.total(),
                seconds: self.work.compute.meter.elapsed(),
                written: None,
            };
            self.work.observer.progress(event).await?;
            let start = self.work.compute.meter.elapsed();
            let norms = self.weight_norms(layer)?;
            let system = solve::System {
                work: self.work,
                objective: self.objective,
                statistics: &mut statistics,
                member,
                layer,
                last: solved.peek().is_none(),
            };
            let solution = system.solve(&norms).await?;
            let device = Rc::new(solution.delta.to_device(self.work.compute));
            self.work.compute.meter.add_since(Stage::Solve, start);
            let found = Solved {
                delta: solution.delta,
                device,
                lambdas: solution.lambdas,
                condition: solution.condition,
                seconds: self.work.compute.meter.elapsed() - start,
                module: layer.name.clone(),
                residuals: self.no_residuals(),
            };
            self.found.borrow_mut().insert(layer.name.clone(), found);
        }
        if let Crew::First(first) = &self.work.crew {
            first.tell(&self.findings(layers));
        }
        Ok(())
    }

    async fn measure(&self, group: &Group<'_>) -> Result<()> {
        if !self.measures {
            return Ok(());
        }
        for layer in group
            .layers
            .iter()
            .filter(|layer| self.work.targeted.contains(&layer.name))
        {
            let Some(merged) = self
                .found
                .borrow()
                .get(&layer.name)
                .map(|found| Rc::clone(&found.device))
            else {
                continue;
            };
            if let Features::Device(_) = **group.input {
                let mut residuals = self.residuals.borrow_mut();
                let layers = self.work.modules.iter().map(|module| module.name.as_str());
                let residuals = residuals.get_or_insert_with(|| Residuals::new(layers, self.tasks()));
                residuals.measure(
                    self.work.compute,
                    (layer, &merged),
                    self.deltas,
                    group,
                    self.merged_variant(),
                );
                continue;
            }
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

#[cfg(test)]
mod tests {
    use std::path::{Path, PathBuf};

    use super::*;
    use crate::{
        adapter::Adapter,
        binding::{Base, Binding, ReadAdapter},
        compute::Compute,
        delta::Dense,
        io::{ByteSource, FileSource, Folder},
        merge::{
            context::tasks,
            options::{MergeOptions, Schedule},
        },
        naming::pattern::Patterns,
        progress::Silent,
    };

    fn goldens() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens/data/adapters")
    }

    fn folder(path: &Path) -> Folder {
        let files = std::fs::read_dir(path).unwrap().map(|entry| {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            Rc::new(FileSource::open(&path, name).unwrap()) as Rc<dyn ByteSource>
        });
        Folder::new("golden", files.collect()).unwrap()
    }

    fn samples(path: &Path) -> Vec<Sample> {
        let text = std::fs::read(path.join("inputs.json")).unwrap();
        let inputs: serde_json::Value = serde_json::from_slice(&text).unwrap();
        let ids: Vec<Vec<u32>> = serde_json::from_value(inputs["ids"].clone()).unwrap();
        ids.into_iter().map(Sample::text).collect()
    }

    /// What an objective gives on the goldens `qv` and `all`, the latter's deltas dense if `dense`.
    fn solved(options: &MergeOptions, objective: &Objective, dense: bool) -> Vec<SolvedLayer> {
        pollster::block_on(async {
            let base = Base::open(Some(folder(&goldens().join("base")))).await.unwrap();
            let mut adapters = Vec::new();
            for name in ["qv", "all"] {
                let adapter = Adapter::read(name, &folder(&goldens().join(name))).await;
                adapters.push(ReadAdapter::alone(adapter.unwrap()));
            }
            let binding = Binding::new(&base, &adapters, &Patterns::default()).unwrap();
            let mut tasks = tasks(&binding).await.unwrap();
            for task in &mut tasks {
                task.samples = samples(&goldens().join(&task.name));
            }
            if dense {
                for delta in tasks[1].deltas.values_mut() {
                    let (d_out, d_in) = delta.shape();
                    let data = delta.dense();
                    *delta = Delta::Dense(Dense { data, d_out, d_in });
                }
            }
            let compute = Compute::cpu();
            let model = base.model("the test").unwrap();
            let work = SolveContext::new(model, &compute, tasks, options, &Silent);
            pass(&work, objective).await.unwrap()
        })
    }

    #[test]
    fn dense_deltas_are_solved_as_the_same_deltas_in_factors() {
        // A strong ridge, so that the rounding of features is not magnified.
        let options = |schedule| MergeOptions {
            schedule,
            max_iter: 2,
            alpha1: 1e-3,
            alpha2: 1e-2,
            ..MergeOptions::default()
        };
        for schedule in [Schedule::Sweep, Schedule::Iterate] {
            let options = options(schedule);
            for objective in [
                Objective::iteris(&options),
                Objective::regmean(&options, false),
                Objective::regmean(&options, true),
            ] {
                let factored = solved(&options, &objective, false);
                let dense = solved(&options, &objective, true);
                assert_eq!(factored.len(), 12);
                for (one, other) in factored.iter().zip(&dense) {
                    let name = &one.report.module;
                    assert_eq!(*name, other.report.module);
                    assert!(one.delta.as_low_rank().is_some() && other.delta.as_low_rank().is_none());
                    let (a, b) = (one.delta.dense(), other.delta.dense());
                    let norm = |values: &[f32]| values.iter().map(|x| x * x).sum::<f32>().sqrt();
                    let difference: Vec<f32> = a.iter().zip(&b).map(|(x, y)| x - y).collect();
                    assert!(norm(&difference) < 1e-5 * norm(&a), "{name}");
                    // A residual is told of dense deltas too.
                    let residual = |layer: &SolvedLayer| layer.report.tasks[1].residual.unwrap();
                    assert!((residual(one) - residual(other)).abs() < 1e-4, "{name}");
                }
            }
        }
    }
}
