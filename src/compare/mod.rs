//! Comparison: how well merged models do each task's work.
//!
//! On a task's samples the base model, the task's own adapter and every merged model run side by side,
//! as lanes of one pass. What is counted needs no labels (agreement with the task's own adapter, the
//! residual of each layer); accuracy is added where there are labels. [`classify`] scores models that put
//! a text into a class, [`written`] those that write.

mod classify;
mod said;
mod share;
mod written;
mod zero_shot;

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
    rc::Rc,
};

use async_trait::async_trait;
use burn::tensor::Tensor;
use serde::Serialize;

use crate::compare::{
    classify::{Classes, Scores},
    share::{Place, Question, Split, add_residuals, question, read_features, say_residuals},
};

pub use self::{
    classify::{find_head, has_classifier, no_classifier},
    said::{Likely, Said, Saying, speakers},
};
use crate::{
    binding::ReadAdapter,
    calibrate::TaskSamples,
    compute::{Compute, Message, MessageReader, mangled},
    delta::{Delta, DeviceDelta, on_device},
    error::Result,
    model::{
        Heads, Model, Pass, State, Steps,
        batch::{Batch, Padding, Sample, Stack},
        lanes::{Group, Hook},
        picked,
    },
    progress::{Observer, Silent},
};

/// The result of a comparison.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct CompareReport {
    /// One a task.
    pub tasks: Vec<TaskComparison>,
    /// One a module, task and merged adapter.
    pub residuals: Vec<Residual>,
    /// Seconds in all.
    pub seconds: f64,
    /// Things the reader should know.
    pub notes: Vec<String>,
}

/// The variants on one task.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct TaskComparison {
    /// The adapter's name.
    pub task: String,
    /// How many samples.
    pub samples: usize,
    /// How many of them have a label that the adapter knows.
    pub labelled: usize,
    /// `base`, `adapter`, then the merged models.
    pub variants: Vec<VariantScore>,
    /// Of models that read pictures: what the variants say of the first ones.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub said: Vec<Said>,
}

/// One variant on one task.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct VariantScore {
    /// `base`, `adapter` or a merged model's name.
    pub variant: String,
    /// Share of samples on which it predicts (or writes, token for token) what the task's own adapter
    /// does; none without a head.
    pub agreement: Option<f64>,
    /// Share of labelled samples predicted right, or answered with exactly the label.
    pub accuracy: Option<f64>,
    /// Mean cosine of its features with those under the task's own adapter: pooled ones, or those from
    /// which the tokens of the adapter's answers are chosen.
    pub cosine: f64,
}

/// How far one layer of a merged adapter is from one task's adapter.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Residual {
    /// The module in the model's naming.
    pub module: String,
    /// The adapter's name.
    pub task: String,
    /// The merged adapter's name.
    pub variant: String,
    /// ||X D_i^T - Xt D*^T||^2 / ||X D_i^T||^2, each on the features of its own run.
    pub residual: f64,
}

/// One task of a comparison.
pub struct ContestTask<'a> {
    /// Its own adapter.
    pub read: &'a ReadAdapter,
    /// What that adds, by module.
    pub deltas: &'a BTreeMap<String, Delta>,
    /// Its samples, held-out or those of the calibration.
    pub samples: Option<&'a TaskSamples>,
}

/// What is held against each other.
pub struct Contest<'a> {
    /// The base model.
    pub model: &'a Model,
    /// The tasks.
    pub tasks: Vec<ContestTask<'a>>,
    /// Merged adapters by name, with what each adds by module.
    pub adapters: &'a [(String, BTreeMap<String, Delta>)],
    /// Merged base models by name.
    pub models: &'a [(String, Model)],
    /// Classes that a model of pictures and texts chooses from, which has no head for them: each by its name, and by the
    /// text that the model reads for it.
    pub classes: &'a [Class],
    /// The most tokens of an answer, for models that write.
    pub max_new_tokens: usize,
}

/// A class that is told by a text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Class {
    /// What the report calls it.
    pub name: String,
    /// Its text's token ids.
    pub ids: Vec<u32>,
}

impl<'c> Contest<'c> {
    /// A model by its place: the base, then the whole ones.
    fn model_at(&self, place: usize) -> Option<&'c Model> {
        match place.checked_sub(1) {
            None => Some(self.model),
            Some(whole) => self.models.get(whole).map(|(_, model)| model),
        }
    }

    /// What runs side by side at a place: the task's own adapter, nothing, and the merged adapters; a whole model alone.
    fn lanes<'a>(
        &'a self,
        place: Place,
        none: &'a BTreeMap<String, Delta>,
    ) -> Vec<&'a BTreeMap<String, Delta>> {
        if place.model > 0 {
            return vec![none];
        }
        let own = self.tasks[place.task].deltas;
        let merged = self.adapters.iter().map(|(_, deltas)| deltas);
        [own, none].into_iter().chain(merged).collect()
    }
}

/// Rows of a micro-batch, all copies together: many methods compared at once need no more memory than few.
const MICRO_BATCH_ROWS: usize = 16384;

/// Compares; see the module.
///
/// # Errors
/// Whatever reading weights, the device or the mathematics reports, and cancellation.
pub async fn compare(
    contest: &Contest<'_>,
    compute: &Compute,
    observer: &dyn Observer,
) -> Result<CompareReport> {
    let model = contest.model;
    // A model that writes is read twice: along its own adapter's answers, and along labels that differ.
    let passes = 1 + usize::from(model.family.facts().generates);
    let runs = contest.tasks.len() * (1 + contest.models.len()) * passes;
    let steps = Steps::new("compare", runs * model.family.blocks());
    let run = Run {
        compute,
        observer,
        steps: &steps,
    };
    let mut report = CompareReport {
        tasks: Vec::new(),
        residuals: Vec::new(),
        seconds: 0.0,
        notes: Vec::new(),
    };
    for (at, task) in contest.tasks.iter().enumerate() {
        let read = task.read;
        let samples = task.samples.map_or(&[][..], |s| s.samples.as_slice());
        let names = ["adapter", "base"].into_iter().map(str::to_owned);
        let names: Vec<String> = names
            .chain(contest.adapters.iter().map(|(name, _)| name.clone()))
            .chain(contest.models.iter().map(|(name, _)| name.clone()))
            .collect();
        for (name, _) in contest.models {
            report
                .notes
                .push(format!("{name} is a whole model: no residuals of its layers"));
        }
        // An adapter with a classifier of its own predicts, whatever its base model could write.
        let writes = model.family.facts().generates && !has_classifier(model, &read.adapter.heads);
        let (mut variants, labelled, residuals, mut said) = if writes {
            let written = written::task(&run, contest, at, names).await?;
            (
                written.variants,
                written.labelled,
                written.residuals,
                written.said,
            )
        } else {
            let samples = alike(samples);
            let (features, residuals) = run.of_all(contest, at, &samples).await?;
            let classes = match find_head(model, &read.adapter.heads).await? {
                Some(head) => Some(Classes::by_head(&head, model, read, &features)),
                None => match zero_shot::texts(contest)? {
                    Some(texts) => {
                        let (texts, _) = run.of_all(contest, at, &texts).await?;
                        Some(zero_shot::classes(contest, &features, &texts).await?)
                    }
                    None => None,
                },
            };
            let scores = Scores::of(model, read, task.samples, (&features, classes), &mut report.notes);
            let said = match model.family.facts().picture {
                Some(_) => scores.said(&names),
                None => Vec::new(),
            };
            let variants = names
                .into_iter()
                .enumerate()
                .map(|(v, name)| scores.variant(name, v));
            (
                variants.collect::<Vec<_>>(),
                scores.labels.iter().flatten().count(),
                residuals,
                said,
            )
        };
        // The base is the first that a reader looks for.
        variants.swap(0, 1);
        for picture in &mut said {
            picture.variants.swap(0, 1);
        }
        report.tasks.push(TaskComparison {
            task: read.adapter.name.clone(),
            samples: samples.len(),
            labelled,
            variants,
            said,
        });
        for (module, sums) in residuals {
            for ((variant, _), distance) in contest.adapters.iter().zip(&sums.distances) {
                report.residuals.push(Residual {
                    module: module.clone(),
                    task: read.adapter.name.clone(),
                    variant: variant.clone(),
                    residual: distance / sums.norm,
                });
            }
        }
    }
    report.notes.dedup();
    report.seconds = compute.meter.elapsed();
    Ok(report)
}

/// Answers a question for what variants make of a share of the samples.
///
/// # Errors
/// As [`compare`].
pub async fn compare_share(
    contest: &Contest<'_>,
    compute: &Compute,
    question: &mut MessageReader<'_>,
) -> Result<Vec<u8>> {
    let Question {
        place,
        samples,
        answers,
    } = Question::read(question)?;
    let steps = Steps::new("compare", 0);
    let run = Run {
        compute,
        observer: &Silent,
        steps: &steps,
    };
    let task = contest.tasks.get(place.task).ok_or_else(mangled)?;
    let model = contest.model_at(place.model).ok_or_else(mangled)?;
    let none = BTreeMap::new();
    let lanes = contest.lanes(place, &none);
    let message = match answers {
        None => {
            let heads = &task.read.adapter.heads;
            let (features, residuals) = run.features_of(model, &samples, heads, &lanes).await?;
            let message = Message::default().each(features.iter(), |message, lane| message.list(lane));
            say_residuals(message, &residuals)
        }
        Some(answers) => {
            let (reading, residuals) =
                written::read_of(&run, contest, (place, model, &lanes), &samples, &answers).await?;
            say_residuals(reading.say(Message::default()), &residuals)
        }
    };
    Ok(message.into_bytes())
}

/// The passes of a comparison.
pub struct Run<'a> {
    /// The device.
    pub compute: &'a Compute,
    /// Told of every block.
    pub observer: &'a dyn Observer,
    /// Counted a block at a time.
    pub steps: &'a Steps,
}

/// Pooled features, (samples x hidden) row-major, of one variant.
pub type Pooled = Vec<f32>;

/// What a pass leaves: the micro-batches, the state of each with its copies, and the residuals of lanes 2
/// and on against lane 0.
type Passed = (Vec<Batch>, Vec<(State, usize)>, BTreeMap<String, ResidualSums>);

impl Run<'_> {
    /// All lanes over the samples, to behind the last block.
    async fn pass(
        &self,
        model: &Model,
        samples: &[Sample],
        heads: Option<&Heads>,
        lanes: &[&BTreeMap<String, Delta>],
    ) -> Result<Passed> {
        let most_rows = MICRO_BATCH_ROWS / lanes.len().max(1);
        let batches = model.micro_batches(&[samples], Padding::Exclude, most_rows)?;
        let targeted: BTreeSet<String> = lanes.iter().flat_map(|lane| lane.keys().cloned()).collect();
        let hook = Fixed {
            lanes: lanes.iter().map(|lane| on_device(lane, self.compute)).collect(),
            residuals: RefCell::default(),
        };
        let pass = Pass {
            compute: self.compute,
            targeted: &targeted,
            keep_host: false,
            until: model.family.blocks(),
            heads,
            observer: self.observer,
            steps: self.steps,
        };
        let states = model.run(&pass, &batches, &hook).await?;
        Ok((batches, states, hook.residuals.into_inner()))
    }

    /// Logits of hidden states behind the last block.
    async fn logits(&self, model: &Model, hidden: Tensor<2>) -> Result<Vec<f32>> {
        let targeted = BTreeSet::new();
        let pass = Pass {
            compute: self.compute,
            targeted: &targeted,
            keep_host: false,
            until: 0,
            heads: None,
            observer: self.observer,
            steps: self.steps,
        };
        model.logits(&pass, hidden).await
    }

    /// Pooled features of a task's variants in the order of their scores, the own adapter first; and the residuals of merged
    /// adapters.
    ///
    /// # Errors
    /// As [`features`](Self::features).
    async fn of_all(
        &self,
        contest: &Contest<'_>,
        task: usize,
        samples: &[Sample],
    ) -> Result<(Vec<Pooled>, BTreeMap<String, ResidualSums>)> {
        let heads = &contest.tasks[task].read.adapter.heads;
        let none = BTreeMap::new();
        let place = |model: usize| Place { task, model };
        let lanes = contest.lanes(place(0), &none);
        let (mut features, residuals) = self
            .features(place(0), contest.model, samples, heads, &lanes)
            .await?;
        for (whole, (_, merged)) in contest.models.iter().enumerate() {
            let place = place(1 + whole);
            features.extend(self.features(place, merged, samples, heads, &[&none]).await?.0);
        }
        Ok((features, residuals))
    }

    /// Pooled features of every lane, and the residuals of lanes 2 and on against lane 0; where workers are started, they
    /// have some of the samples.
    ///
    /// # Errors
    /// Whatever reading weights or the device reports, and cancellation.
    async fn features(
        &self,
        place: Place,
        model: &Model,
        samples: &[Sample],
        heads: &Heads,
        lanes: &[&BTreeMap<String, Delta>],
    ) -> Result<(Vec<Pooled>, BTreeMap<String, ResidualSums>)> {
        let sizes = samples.iter().map(Sample::size).collect();
        let split = Split::hand_out(self.compute, sizes, |places| {
            question(place, &picked(samples, places), None)
        });
        let own = self.features_of(model, &split.own(samples), heads, lanes).await?;
        let mut features: Vec<Pooled> = vec![Vec::new(); lanes.len()];
        let mut residuals = BTreeMap::new();
        for (places, (found, sums)) in split.gather(own, read_features).await? {
            for (to, from) in features.iter_mut().zip(&found) {
                let width = from.len() / places.len();
                to.resize(samples.len() * width, 0.0);
                for (&at, row) in places.iter().zip(from.chunks_exact(width)) {
                    to[at * width..(at + 1) * width].copy_from_slice(row);
                }
            }
            add_residuals(&mut residuals, sums);
        }
        Ok((features, residuals))
    }

    /// Pooled features of every lane, and the residuals of lanes 2 and on against lane 0, of samples that this worker alone
    /// has. Of texts without pictures the features are the texts'.
    ///
    /// # Errors
    /// As [`compare`].
    pub async fn features_of(
        &self,
        model: &Model,
        samples: &[Sample],
        heads: &Heads,
        lanes: &[&BTreeMap<String, Delta>],
    ) -> Result<(Vec<Pooled>, BTreeMap<String, ResidualSums>)> {
        let (batches, states, residuals) = self.pass(model, samples, Some(heads), lanes).await?;
        let mut features: Vec<Pooled> = vec![Vec::new(); lanes.len()];
        let texts = samples.iter().all(|sample| !sample.is_picture());
        let of_texts = model.family.text_output().filter(|_| texts);
        let output = of_texts.unwrap_or_else(|| model.family.output());
        for (batch, (state, variants)) in batches.iter().zip(states) {
            let mut rows = state.rows(output)?;
            let sequences = Stack::new(batch, variants).sequences(output);
            if rows.dims()[0] != sequences.len() {
                // A decoder has no pooler: its classifiers read the last token.
                let last: Vec<usize> = sequences
                    .iter()
                    .map(|sequence| sequence.start + sequence.attended - 1)
                    .collect();
                rows = rows.select(0, self.compute.indices(&last));
            }
            let width = rows.dims()[1];
            let data = self.compute.read(rows).await?;
            for (variant, target) in features.iter_mut().enumerate() {
                target.resize(samples.len() * width, 0.0);
                // Lanes that never split are one and the same.
                let copy = if variants == 1 { 0 } else { variant };
                scatter(batch, &data[copy * batch.places.len() * width..], width, target);
            }
        }
        Ok((features, residuals))
    }
}

/// Samples that all have the same: pictures alone, unless each has a text beside it.
fn alike(samples: &[Sample]) -> Vec<Sample> {
    let most = samples.iter().map(|sample| sample.inputs.len()).max();
    if samples.iter().all(|sample| Some(sample.inputs.len()) == most) {
        return samples.to_vec();
    }
    samples.iter().map(Sample::alone).collect()
}

fn scatter(batch: &Batch, from: &[f32], width: usize, to: &mut [f32]) {
    for (place, row) in batch.places.iter().zip(from.chunks_exact(width)) {
        to[place.sample * width..(place.sample + 1) * width].copy_from_slice(row);
    }
}

/// Lanes whose deltas are known beforehand.
struct Fixed {
    lanes: Vec<BTreeMap<String, Rc<DeviceDelta>>>,
    residuals: RefCell<BTreeMap<String, ResidualSums>>,
}

/// Sums over samples at one module.
#[derive(Default)]
pub struct ResidualSums {
    norm: f64,
    distances: Vec<f64>,
}

impl ResidualSums {
    fn add(&mut self, norm: f64, distances: &[f64]) {
        self.norm += norm;
        self.distances.resize(distances.len(), 0.0);
        let sums = self.distances.iter_mut().zip(distances);
        sums.for_each(|(sum, distance)| *sum += distance);
    }
}

#[async_trait(?Send)]
impl Hook for Fixed {
    fn variants(&self) -> usize {
        self.lanes.len()
    }

    fn tasks(&self) -> usize {
        1
    }

    fn delta(&self, layer: &str, _task: usize, variant: usize) -> Option<Rc<DeviceDelta>> {
        self.lanes[variant].get(layer).cloned()
    }

    async fn measure(&self, group: &Group<'_>) -> Result<()> {
        for layer in group.layers {
            let Some(own) = self.lanes[0].get(&layer.name) else {
                continue;
            };
            let wanted = || own.apply(group.input, group.lane(0, 0));
            let norm = wanted().sum_of_squares(0..group.lane(0, 0).len()).await?;
            let mut distances = Vec::new();
            for (variant, lane) in self.lanes.iter().enumerate().skip(2) {
                distances.push(match lane.get(&layer.name) {
                    Some(merged) => {
                        wanted()
                            .squared_distance(merged.apply(group.input, group.lane(0, variant)))
                            .await?
                    }
                    None => norm,
                });
            }
            let mut residuals = self.residuals.borrow_mut();
            let sums = residuals.entry(layer.name.clone()).or_default();
            sums.add(norm, &distances);
        }
        Ok(())
    }
}
