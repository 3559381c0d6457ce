//! Predictions of a classifier on each variant's features, and how they agree.

use crate::{
    binding::ReadAdapter,
    calibrate::TaskSamples,
    compare::{
        Pooled,
        said::{Chances, Said, Saying, TOLD, by_picture, likeliest},
    },
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
    /// Whether it is the base model's own, and no adapter's.
    of_base: bool,
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

    /// What its classes are called: by the adapter that brought it, or by the base model's configuration.
    fn names(&self, model: &Model, read: &ReadAdapter) -> Vec<String> {
        let of_adapter = read.adapter.labels.clone().unwrap_or_default();
        let of_config = |at: usize| {
            let names = model.config.get("id2label").filter(|_| self.of_base)?;
            Some(names.get(at.to_string())?.as_str()?.to_owned())
        };
        let name = |at: usize| of_adapter.get(at).cloned().or_else(|| of_config(at));
        (0..self.labels())
            .map(|at| name(at).unwrap_or_else(|| format!("class {at}")))
            .collect()
    }
}

/// The index of the largest of a row.
fn largest(row: &[f32]) -> usize {
    (0..row.len())
        .max_by(|&i, &j| row[i].total_cmp(&row[j]))
        .unwrap_or(0)
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
        let of_base = !heads.contains_key(&weight);
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
            of_base,
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

/// What every variant makes of every sample.
pub(super) struct Classes {
    pub(super) names: Vec<String>,
    /// (samples x classes) of each variant.
    pub(super) logits: Vec<Vec<f32>>,
    pub(super) chances: Chances,
}

impl Classes {
    /// What variants say by a head.
    pub(super) fn by_head(head: &Head, model: &Model, read: &ReadAdapter, features: &[Pooled]) -> Self {
        Self {
            names: head.names(model, read),
            logits: features.iter().map(|features| head.logits(features)).collect(),
            chances: Chances::OneOf,
        }
    }

    /// The class of every sample that a variant finds likeliest.
    fn predictions(&self, variant: usize) -> Vec<usize> {
        let rows = self.logits[variant].chunks_exact(self.names.len());
        rows.map(largest).collect()
    }
}

/// Predictions of every variant on one task; variant 0 is the task's own adapter.
pub(super) struct Scores {
    classes: Option<Classes>,
    pub(super) labels: Vec<Option<usize>>,
    cosines: Vec<f64>,
}

impl Scores {
    pub(super) fn of(
        model: &Model,
        read: &ReadAdapter,
        samples: Option<&TaskSamples>,
        (features, classes): (&[Pooled], Option<Classes>),
        notes: &mut Vec<String>,
    ) -> Self {
        let name = &read.adapter.name;
        if classes.is_none() {
            let why = match model.family.similarity() {
                Some(_) => "there are no classes to choose from (labels or captions of the pictures, or labels that you name)".into(),
                None => no_classifier(model, &read.adapter.heads),
            };
            notes.push(format!(
                "{name}: {why}, so features are compared and not predictions"
            ));
        }
        let given = samples.map_or(&[][..], |s| s.labels.as_slice());
        let labels: Vec<Option<usize>> = given
            .iter()
            .map(|label| label_index(label.as_deref()?, &classes.as_ref()?.names))
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
        Self {
            classes,
            labels,
            cosines: features
                .iter()
                .map(|variant| mean_cosine(variant, &features[0], width))
                .collect(),
        }
    }

    /// What the variants say of the first samples.
    pub(super) fn said(&self, names: &[String]) -> Vec<Said> {
        let Some(classes) = &self.classes else {
            return Vec::new();
        };
        let said = names.iter().zip(&classes.logits).map(|(name, logits)| {
            let rows = logits.chunks_exact(classes.names.len()).take(TOLD);
            let say = |row| Saying {
                variant: name.clone(),
                ids: None,
                classes: Some(likeliest(row, &classes.names, classes.chances)),
            };
            rows.map(say).collect()
        });
        by_picture(names, said.collect())
    }

    pub(super) fn variant(&self, name: String, index: usize) -> super::VariantScore {
        let share = |hits: usize, of: usize| (of > 0).then(|| hits as f64 / of as f64);
        let scored = self.classes.as_ref().map(|classes| {
            let (own, mine) = (classes.predictions(0), classes.predictions(index));
            let agreement = share(own.iter().zip(&mine).filter(|(a, b)| a == b).count(), own.len());
            let labelled = self
                .labels
                .iter()
                .zip(&mine)
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

/// The class of a label: by its name, or by its number.
fn label_index(label: &str, names: &[String]) -> Option<usize> {
    let named = names.iter().position(|name| name == label);
    named.or_else(|| label.parse().ok().filter(|&index| index < names.len()))
}

/// The cosine of two rows; 0 if one is nothing but zeros.
pub(super) fn cosine(a: &[f32], b: &[f32]) -> f64 {
    let dot = |x: &[f32], y: &[f32]| {
        x.iter()
            .zip(y)
            .map(|(x, y)| f64::from(*x) * f64::from(*y))
            .sum::<f64>()
    };
    dot(a, b) / (dot(a, a) * dot(b, b)).sqrt().max(f64::MIN_POSITIVE)
}

pub(super) fn mean_cosine(a: &[f32], b: &[f32], width: usize) -> f64 {
    let rows = a.len() / width;
    a.chunks_exact(width)
        .zip(b.chunks_exact(width))
        .map(|(x, y)| cosine(x, y))
        .sum::<f64>()
        / rows as f64
}
