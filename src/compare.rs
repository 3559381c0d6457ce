//! Comparison: how well merged models do each task's work.
//!
//! On a task's samples the base model, the task's own adapter and every merged model run side by side,
//! as lanes of one pass. What is counted needs no labels (agreement with the task's own adapter, the
//! residual of each layer); accuracy is added where there are labels.

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
    rc::Rc,
};

use async_trait::async_trait;
use serde::Serialize;

use crate::{
    adapter::{Adapter, CONFIG_FILE},
    batch::{Batch, Padding, Sample, micro_batches},
    compute::{
        Compute,
        gemm::{Part, View, multiply},
        narrow,
    },
    error::{Code, Error, Result},
    io::Folder,
    linear::{Delta, Group, Hook},
    merge::{AdapterInput, Factors, ReadAdapter, check_samples, deltas, read_adapters},
    model::{self, Heads, Model, Pass, Steps},
    progress::Observer,
};

/// A merged model to be compared.
pub struct MergedInput {
    /// What the report calls it.
    pub name: String,
    /// A merged adapter's files, or a merged base model's.
    pub folder: Folder,
}

/// What is to be compared.
pub struct CompareRequest {
    /// The base model's files.
    pub base: Folder,
    /// The adapters, each with samples of its task (held-out or calibration).
    pub adapters: Vec<AdapterInput>,
    /// The merged models.
    pub merged: Vec<MergedInput>,
}

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
}

/// One variant on one task.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct VariantScore {
    /// `base`, `adapter` or a merged model's name.
    pub variant: String,
    /// Share of samples on which it predicts what the task's own adapter predicts; none without a head.
    pub agreement: Option<f64>,
    /// Share of labelled samples predicted right.
    pub accuracy: Option<f64>,
    /// Mean cosine of its pooled features with those under the task's own adapter.
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

/// Rows of a micro-batch, one copy.
const MICRO_BATCH_ROWS: usize = 4096;

/// Compares; see the module.
///
/// # Errors
/// Every kind that bad input can cause; see [`crate::error::Code`].
pub async fn compare(
    request: CompareRequest,
    compute: &Compute,
    observer: &dyn Observer,
) -> Result<CompareReport> {
    let model = model::open(request.base).await?;
    let adapters = read_adapters(request.adapters).await?;
    check_samples(&model, &adapters)?;
    let mut merged_adapters = Vec::new();
    let mut merged_models = Vec::new();
    for merged in request.merged {
        if merged.folder.find(CONFIG_FILE).is_some() {
            let adapter = Adapter::read(&merged.name, &merged.folder).await?;
            merged_adapters.push((merged.name, deltas(&model, &adapter)?));
        } else {
            merged_models.push((merged.name, model::open(merged.folder).await?));
        }
    }
    let own: Vec<BTreeMap<String, Factors>> = adapters
        .iter()
        .map(|read| deltas(&model, &read.adapter))
        .collect::<Result<_>>()?;

    let runs = adapters.len() * (1 + merged_models.len());
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
    for (read, own) in adapters.iter().zip(&own) {
        let heads = &read.adapter.heads;
        let samples = read.samples.as_ref().map_or(&[][..], |s| s.samples.as_slice());
        let none = BTreeMap::new();
        let mut lanes: Vec<&BTreeMap<String, Factors>> = vec![own, &none];
        lanes.extend(merged_adapters.iter().map(|(_, deltas)| deltas));
        let (mut features, residuals) = run.features(&model, samples, heads, &lanes).await?;
        for (name, merged) in &merged_models {
            let (found, _) = run.features(merged, samples, heads, &[&none]).await?;
            features.extend(found);
            report
                .notes
                .push(format!("{name} is a whole model: no residuals of its layers"));
        }
        let names = ["adapter", "base"].into_iter().map(str::to_owned);
        let names = names
            .chain(merged_adapters.iter().map(|(name, _)| name.clone()))
            .chain(merged_models.iter().map(|(name, _)| name.clone()));
        let scores = Scores::of(&model, read, &features, &mut report.notes).await?;
        let mut variants: Vec<VariantScore> = names
            .enumerate()
            .map(|(v, name)| scores.variant(name, v))
            .collect();
        variants.swap(0, 1);
        report.tasks.push(TaskComparison {
            task: read.adapter.name.clone(),
            samples: samples.len(),
            labelled: scores.labels.iter().flatten().count(),
            variants,
        });
        for (module, sums) in residuals {
            for ((variant, _), distance) in merged_adapters.iter().zip(&sums.distances) {
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

/// The logits (samples x labels) of one model: the base, or the base with an adapter, under a head.
///
/// # Errors
/// [`Code::Missing`] without a head, and whatever is wrong with the files.
pub async fn logits(
    base: Folder,
    adapter: Option<Folder>,
    head: Option<Folder>,
    samples: &[Sample],
    compute: &Compute,
) -> Result<(usize, Vec<f32>)> {
    let model = model::open(base).await?;
    let read = match &adapter {
        Some(folder) => Some(Adapter::read("adapter", folder).await?),
        None => None,
    };
    let mut heads = read
        .as_ref()
        .map(|adapter| adapter.heads.clone())
        .unwrap_or_default();
    if let Some(folder) = head {
        heads = Adapter::read("head", &folder).await?.heads;
    }
    let own = match &read {
        Some(adapter) => deltas(&model, adapter)?,
        None => BTreeMap::new(),
    };
    let steps = Steps::new("forward", model.family.blocks());
    let run = Run {
        compute,
        observer: &crate::progress::Silent,
        steps: &steps,
    };
    let (features, _) = run.features(&model, samples, &heads, &[&own]).await?;
    let head = find_head(&model, &heads).await?.ok_or_else(|| {
        Error::new(
            Code::Missing,
            "neither the adapter nor the base model has a classifier; there are no logits",
        )
    })?;
    Ok((
        head.labels(),
        features
            .iter()
            .flat_map(|features| head.logits(features))
            .collect(),
    ))
}

struct Run<'a> {
    compute: &'a Compute,
    observer: &'a dyn Observer,
    steps: &'a Steps,
}

/// Pooled features, (samples x hidden) row-major, of one variant.
type Pooled = Vec<f32>;

impl Run<'_> {
    /// Pooled features of every lane, and the residuals of lanes 2 and on against lane 0.
    async fn features(
        &self,
        model: &Model,
        samples: &[Sample],
        heads: &Heads,
        lanes: &[&BTreeMap<String, Factors>],
    ) -> Result<(Vec<Pooled>, BTreeMap<String, ResidualSums>)> {
        let batches = micro_batches(
            &[samples],
            Padding::Exclude,
            model.family.pad_id(),
            MICRO_BATCH_ROWS,
        )?;
        let targeted: BTreeSet<String> = lanes.iter().flat_map(|lane| lane.keys().cloned()).collect();
        let on_device = |lane: &&BTreeMap<String, Factors>| {
            lane.iter()
                .map(|(name, factors)| (name.clone(), Rc::new(factors.on(self.compute))))
                .collect()
        };
        let hook = Fixed {
            lanes: lanes.iter().map(on_device).collect(),
            residuals: RefCell::default(),
        };
        let pass = Pass {
            compute: self.compute,
            targeted: &targeted,
            keep_host: false,
            until: model.family.blocks(),
            heads: Some(heads),
            observer: self.observer,
            steps: self.steps,
        };
        let states = model.run(&pass, &batches, &hook).await?;
        let mut features: Vec<Pooled> = vec![Vec::new(); lanes.len()];
        for (batch, (state, variants)) in batches.iter().zip(states) {
            let state = state.tokens;
            let width = state.dims()[1];
            let data = self.compute.read(state).await?;
            for (variant, target) in features.iter_mut().enumerate() {
                target.resize(samples.len() * width, 0.0);
                // Lanes that never split are one and the same.
                let copy = if variants == 1 { 0 } else { variant };
                scatter(batch, &data[copy * batch.places.len() * width..], width, target);
            }
        }
        Ok((features, hook.residuals.into_inner()))
    }
}

fn scatter(batch: &Batch, from: &[f32], width: usize, to: &mut [f32]) {
    for (place, row) in batch.places.iter().zip(from.chunks_exact(width)) {
        to[place.sample * width..(place.sample + 1) * width].copy_from_slice(row);
    }
}

/// Lanes whose deltas are known beforehand.
struct Fixed {
    lanes: Vec<BTreeMap<String, Rc<Delta>>>,
    residuals: RefCell<BTreeMap<String, ResidualSums>>,
}

/// Sums over samples at one module.
#[derive(Default)]
struct ResidualSums {
    norm: f64,
    distances: Vec<f64>,
}

#[async_trait(?Send)]
impl Hook for Fixed {
    fn variants(&self) -> usize {
        self.lanes.len()
    }

    fn tasks(&self) -> usize {
        1
    }

    fn delta(&self, layer: &str, _task: usize, variant: usize) -> Option<Rc<Delta>> {
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
            sums.norm += norm;
            sums.distances.resize(distances.len(), 0.0);
            sums.distances
                .iter_mut()
                .zip(distances)
                .for_each(|(sum, distance)| *sum += distance);
        }
        Ok(())
    }
}

/// A linear classifier on pooled features.
struct Head {
    weight: Vec<f32>,
    bias: Vec<f32>,
}

impl Head {
    fn labels(&self) -> usize {
        self.bias.len()
    }

    /// (samples x labels)
    fn logits(&self, features: &[f32]) -> Vec<f32> {
        let labels = self.labels();
        let width = self.weight.len() / labels;
        let samples = features.len() / width;
        let mut out = vec![0.0f64; samples * labels];
        let weight = View::new(&self.weight, labels, width).transposed();
        multiply(
            View::new(features, samples, width),
            weight,
            1.0,
            Part::Full,
            &mut out,
            labels,
        );
        out.chunks_exact(labels)
            .flat_map(|row| {
                row.iter()
                    .zip(&self.bias)
                    .map(|(x, &b)| narrow(x + f64::from(b)))
                    .collect::<Vec<_>>()
            })
            .collect()
    }

    /// The index of the largest logit of every sample.
    fn predictions(&self, features: &[f32]) -> Vec<usize> {
        let largest = |row: &[f32]| {
            (0..row.len())
                .max_by(|&i, &j| row[i].total_cmp(&row[j]))
                .unwrap_or(0)
        };
        self.logits(features)
            .chunks_exact(self.labels())
            .map(largest)
            .collect()
    }
}

/// The task's own classifier, or the base model's.
async fn find_head(model: &Model, heads: &Heads) -> Result<Option<Head>> {
    let width = model.family.facts().hidden_size;
    for name in model.family.readouts() {
        let (weight, bias) = (format!("{name}.weight"), format!("{name}.bias"));
        let head = if let (Some(weight), Some(bias)) = (heads.get(&weight), heads.get(&bias)) {
            Head {
                weight: weight.data.clone(),
                bias: bias.data.clone(),
            }
        } else if model.checkpoint.info(&weight).is_some() && model.checkpoint.info(&bias).is_some() {
            Head {
                weight: model.checkpoint.f32(&weight).await?,
                bias: model.checkpoint.f32(&bias).await?,
            }
        } else {
            continue;
        };
        if head.bias.is_empty() || head.weight.len() != head.labels() * width {
            return Err(Error::new(
                Code::ShapeMismatch,
                format!(
                    "a classifier of {} numbers for {} labels does not fit features {width} wide; tensor: {weight}",
                    head.weight.len(),
                    head.bias.len()
                ),
            ));
        }
        return Ok(Some(head));
    }
    Ok(None)
}

/// Predictions of every variant on one task; variant 0 is the task's own adapter.
struct Scores {
    predictions: Option<Vec<Vec<usize>>>,
    labels: Vec<Option<usize>>,
    cosines: Vec<f64>,
}

impl Scores {
    async fn of(
        model: &Model,
        read: &ReadAdapter,
        features: &[Pooled],
        notes: &mut Vec<String>,
    ) -> Result<Self> {
        let name = &read.adapter.name;
        let head = find_head(model, &read.adapter.heads).await?;
        if head.is_none() {
            notes.push(format!("{name}: no classifier in the adapter or the base model, so features are compared and not predictions"));
        }
        let given = read.samples.as_ref().map_or(&[][..], |s| s.labels.as_slice());
        let labels: Vec<Option<usize>> = given
            .iter()
            .map(|label| label_index(label.as_deref()?, read, head.as_ref()))
            .collect();
        let unknown = given
            .iter()
            .zip(&labels)
            .filter(|(given, index)| given.is_some() && index.is_none())
            .count();
        if unknown > 0 {
            notes.push(format!(
                "{name}: {unknown} labels are not among the adapter's; put its class names in order into labels.json in the adapter's folder"
            ));
        }
        let width = model.family.facts().hidden_size;
        Ok(Self {
            predictions: head.map(|head| {
                features
                    .iter()
                    .map(|features| head.predictions(features))
                    .collect()
            }),
            labels,
            cosines: features
                .iter()
                .map(|variant| mean_cosine(variant, &features[0], width))
                .collect(),
        })
    }

    fn variant(&self, name: String, index: usize) -> VariantScore {
        let share = |hits: usize, of: usize| (of > 0).then(|| hits as f64 / of as f64);
        let scored = self.predictions.as_ref().map(|all| {
            let (own, mine) = (&all[0], &all[index]);
            let agreement = share(own.iter().zip(mine).filter(|(a, b)| a == b).count(), own.len());
            let labelled = self
                .labels
                .iter()
                .zip(mine)
                .filter_map(|(label, prediction)| Some(((*label)?, *prediction)));
            let (hits, count) = labelled.fold((0, 0), |(hits, count), (a, b)| {
                (hits + usize::from(a == b), count + 1)
            });
            (agreement, share(hits, count))
        });
        let (agreement, accuracy) = scored.unwrap_or_default();
        VariantScore {
            variant: name,
            agreement,
            accuracy,
            cosine: self.cosines[index],
        }
    }
}

/// The class of a label: by the adapter's label names, or a number.
fn label_index(label: &str, read: &ReadAdapter, head: Option<&Head>) -> Option<usize> {
    if let Some(index) = read
        .adapter
        .labels
        .as_ref()
        .and_then(|names| names.iter().position(|name| name == label))
    {
        return Some(index);
    }
    label
        .parse()
        .ok()
        .filter(|&index| head.is_some_and(|head| index < head.labels()))
}

fn mean_cosine(a: &[f32], b: &[f32], width: usize) -> f64 {
    let dot = |x: &[f32], y: &[f32]| {
        x.iter()
            .zip(y)
            .map(|(x, y)| f64::from(*x) * f64::from(*y))
            .sum::<f64>()
    };
    let rows = a.len() / width;
    let cosine = |(x, y): (&[f32], &[f32])| dot(x, y) / (dot(x, x) * dot(y, y)).sqrt().max(f64::MIN_POSITIVE);
    a.chunks_exact(width)
        .zip(b.chunks_exact(width))
        .map(cosine)
        .sum::<f64>()
        / rows as f64
}
