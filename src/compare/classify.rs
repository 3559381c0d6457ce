//! Predictions of a classifier on each variant's features, and how they agree.

use crate::{
    binding::ReadAdapter,
    calibrate::TaskSamples,
    compare::Pooled,
    compute::{
        gemm::{Part, View, multiply},
        narrow,
    },
    error::{Code, Error, Result},
    model::{Heads, Model},
};

/// A linear classifier on pooled features.
pub struct Head {
    weight: Vec<f32>,
    bias: Vec<f32>,
}

impl Head {
    pub fn labels(&self) -> usize {
        self.bias.len()
    }

    /// (samples x labels)
    pub fn logits(&self, features: &[f32]) -> Vec<f32> {
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
pub async fn find_head(model: &Model, heads: &Heads) -> Result<Option<Head>> {
    let width = model.family.features_width(heads);
    if lacking(model, heads).is_some() {
        return Ok(None);
    }
    for name in model.family.readouts() {
        let (weight, bias) = (format!("{name}.weight"), format!("{name}.bias"));
        let checkpoint = &model.checkpoint;
        let (weights, biases) = if let Some(own) = heads.get(&weight) {
            let biases = match heads.get(&bias) {
                Some(bias) => Some(bias.load().await?),
                None => None,
            };
            (own.load().await?, biases)
        } else if checkpoint.info(&weight).is_some() {
            let biases = match checkpoint.info(&bias) {
                Some(_) => Some(checkpoint.f32(&bias).await?),
                None => None,
            };
            (checkpoint.f32(&weight).await?, biases)
        } else {
            continue;
        };
        // Decoders' classifiers (`score`) have no bias.
        let labels = weights.len() / width;
        let head = Head {
            weight: weights,
            bias: biases.unwrap_or_else(|| vec![0.0; labels]),
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

/// Whether a task brings a classifier.
pub fn has_classifier(model: &Model, heads: &Heads) -> bool {
    let own = |name: &&str| heads.contains_key(&format!("{name}.weight"));
    model.family.readouts().iter().any(own)
}

/// The layer that a classifier of this family needs before its own, if neither the task nor the base model
/// has it.
fn lacking(model: &Model, heads: &Heads) -> Option<&'static str> {
    let layer = model.family.readouts_need()?;
    let weight = format!("{layer}.weight");
    let found = heads.contains_key(&weight) || model.checkpoint.info(&weight).is_some();
    (!found).then_some(layer)
}

/// Why there is no classifier.
pub fn no_classifier(model: &Model, heads: &Heads) -> String {
    match lacking(model, heads) {
        Some(layer) => format!(
            "neither the adapter nor the base model has a classifier with its {layer} (modules_to_save)"
        ),
        None => "neither the adapter nor the base model has a classifier".into(),
    }
}

/// Predictions of every variant on one task; variant 0 is the task's own adapter.
pub(super) struct Scores {
    predictions: Option<Vec<Vec<usize>>>,
    pub(super) labels: Vec<Option<usize>>,
    cosines: Vec<f64>,
}

impl Scores {
    pub(super) async fn of(
        model: &Model,
        read: &ReadAdapter,
        samples: Option<&TaskSamples>,
        features: &[Pooled],
        notes: &mut Vec<String>,
    ) -> Result<Self> {
        let name = &read.adapter.name;
        let head = find_head(model, &read.adapter.heads).await?;
        if head.is_none() {
            notes.push(format!(
                "{name}: {}, so features are compared and not predictions",
                no_classifier(model, &read.adapter.heads)
            ));
        }
        let given = samples.map_or(&[][..], |s| s.labels.as_slice());
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
        let width = model.family.features_width(&read.adapter.heads);
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

    pub(super) fn variant(&self, name: String, index: usize) -> super::VariantScore {
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
        super::VariantScore {
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

pub(super) fn mean_cosine(a: &[f32], b: &[f32], width: usize) -> f64 {
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
