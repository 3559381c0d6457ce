//! What a merge changes: one entry for each parameter of the base model that at least one adapter changes, and how
//! each adapter's change of it is told.
//!
//! Changes are made one at a time, when they are wanted: a dense one (DoRA, a saved module) is as large as the
//! base's own tensor. What can go wrong is an adapter for another base, so shapes are held against the base's
//! before anything is computed.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    Change, Dense, Layer, MergeOptions, Part, absent,
    work::{ReadAdapter, name_of},
};
use crate::{
    adapter::{self, LayerKind, Lora},
    base::{Base, BaseTensor},
    error::{Code, Error, Result},
};

/// What of a parameter is changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// A layer's weight, by factors.
    Weight(LayerKind),
    /// A bias, (d_out x 1).
    Bias,
    /// Some rows of an embedding table, (rows x width).
    Rows(Vec<usize>),
    /// A tensor that was saved whole (`modules_to_save`), of this shape.
    Whole(Vec<usize>),
}

/// One parameter that a merge changes.
#[derive(Debug, Clone)]
pub struct Target {
    /// A module's path in the base's own naming, or a parameter's (`….bias`).
    pub name: String,
    /// What of it is changed.
    pub place: Place,
    /// Outputs.
    pub d_out: usize,
    /// Inputs.
    pub d_in: usize,
    /// Where the base has it, if there is a base.
    pub tensor: Option<BaseTensor>,
    /// By adapter: its own path of the module, if it changes it.
    pub sources: Vec<Option<String>>,
    /// By adapter: its weight here.
    pub weights: Vec<f64>,
}

impl Target {
    /// Whether the base has the matrix transposed, (d_in x d_out).
    fn stored_transposed(&self) -> bool {
        self.place == Place::Weight(LayerKind::Embedding)
            || self.tensor.as_ref().is_some_and(|tensor| tensor.transposed)
    }

    /// A (d_out x d_in) matrix as the base's tensor has it.
    pub fn stored(&self, matrix: Vec<f32>) -> Vec<f32> {
        if self.stored_transposed() {
            crate::model::transpose(&matrix, self.d_out, self.d_in)
        } else {
            matrix
        }
    }
}

/// Base, adapters and options of a merge, and what it changes.
pub struct Plan<'a> {
    /// The base.
    pub base: &'a Base,
    /// The adapters.
    pub adapters: &'a [ReadAdapter],
    /// The options.
    pub options: &'a MergeOptions,
    /// In the order of the forward pass where it is known, else by name.
    pub targets: Vec<Target>,
}

impl<'a> Plan<'a> {
    /// Holds the adapters against the base.
    ///
    /// # Errors
    /// [`Code::ShapeMismatch`] naming the module, if an adapter is for another base model or for another one than the
    /// adapters before it; [`Code::Missing`] if a change can only be told with the base and there is none;
    /// [`Code::OptionInvalid`] for per-layer weights that do not fit.
    pub fn new(base: &'a Base, adapters: &'a [ReadAdapter], options: &'a MergeOptions) -> Result<Self> {
        let mut targets: BTreeMap<(String, u8), Target> = BTreeMap::new();
        let weights = options.layer_weights.patterns(adapters.len())?;
        let own: Vec<f64> = adapters.iter().map(|read| read.weight).collect();
        for (index, read) in adapters.iter().enumerate() {
            for (path, lora) in &read.adapter.modules {
                let name = base.canonical(path);
                let tensor = locate(base, name, path, lora, &read.adapter.name)?;
                let target = targets.entry((name.to_owned(), 0)).or_insert_with(|| Target {
                    name: name.to_owned(),
                    place: Place::Weight(lora.layer.clone()),
                    d_out: lora.d_out,
                    d_in: lora.d_in,
                    tensor,
                    sources: vec![None; adapters.len()],
                    weights: weights
                        .get(name)
                        .or_else(|| weights.get(path))
                        .unwrap_or_else(|| own.clone()),
                });
                if (target.d_out, target.d_in) != (lora.d_out, lora.d_in)
                    || target.place != Place::Weight(lora.layer.clone())
                {
                    let first = target.sources.iter().position(Option::is_some).unwrap_or(0);
                    return Err(Error::new(
                        Code::ShapeMismatch,
                        format!(
                            "adapters \"{}\" and \"{}\" are not of one base model: {} x {} against {} x {}; module: {path}",
                            name_of(adapters, first),
                            read.adapter.name,
                            target.d_out,
                            target.d_in,
                            lora.d_out,
                            lora.d_in,
                        ),
                    ));
                }
                if target.sources[index].replace(path.clone()).is_some() {
                    return Err(Error::new(
                        Code::Duplicate,
                        format!(
                            "adapter \"{}\" targets one layer under two names; module: {path}",
                            read.adapter.name
                        ),
                    ));
                }
            }
        }
        let mut targets: Vec<Target> = targets.into_values().collect();
        if let Base::Model(model) = base {
            let order: BTreeMap<&str, usize> = model
                .family
                .modules()
                .iter()
                .enumerate()
                .map(|(at, module)| (module.name.as_str(), at))
                .collect();
            // What no pass reaches stands before what one does: embeddings come first.
            targets.sort_by_key(|target| order.get(target.name.as_str()).map_or(0, |at| at + 1));
        }
        Ok(Self {
            base,
            adapters,
            options,
            targets,
        })
    }

    /// The tasks' changes of one target.
    ///
    /// # Errors
    /// Whatever reading the base reports, and [`Code::NotFinite`] for a change that overflows.
    pub async fn layer(&self, target: &'a Target) -> Result<Layer<'a>> {
        let mut parts = Vec::new();
        let mut weight: Option<Vec<f32>> = None;
        for (task, (source, read)) in target.sources.iter().zip(self.adapters).enumerate() {
            let Some(path) = source else { continue };
            let change = match &target.place {
                Place::Weight(_) => {
                    let Some(lora) = read.adapter.modules.get(path) else {
                        continue;
                    };
                    if lora.needs_base() && weight.is_none() {
                        weight = Some(self.weight(target).await?);
                    }
                    adapter::change(lora, weight.as_deref(), path)?
                }
                Place::Bias | Place::Rows(_) | Place::Whole(_) => continue,
            };
            parts.push(Part {
                task,
                name: &read.adapter.name,
                weight: target.weights[task],
                change,
            });
        }
        Ok(Layer {
            name: &target.name,
            d_out: target.d_out,
            d_in: target.d_in,
            parts,
            weights: &target.weights,
            options: self.options,
        })
    }

    /// The base's weight of a target as a (d_out x d_in) matrix.
    ///
    /// # Errors
    /// [`Code::Missing`] if there is none, and whatever reading reports.
    pub async fn weight(&self, target: &Target) -> Result<Vec<f32>> {
        let Some(tensor) = &target.tensor else {
            return Err(Error::new(
                Code::Missing,
                format!(
                    "an adapter's change can only be told with the base's own weight; give the base model; module: {}",
                    target.name
                ),
            ));
        };
        let data = self.base.read(tensor).await?;
        Ok(if target.stored_transposed() {
            crate::model::transpose(&data, target.d_in, target.d_out)
        } else {
            data
        })
    }

    /// Names of all targets that the model pass of a guided method sees.
    pub fn names(&self) -> BTreeSet<&str> {
        self.targets.iter().map(|target| target.name.as_str()).collect()
    }
}

/// Where the base has the tensor that the factors are for, checked for its shape; none without a base.
fn locate(base: &Base, name: &str, path: &str, lora: &Lora, adapter: &str) -> Result<Option<BaseTensor>> {
    let mismatch = |what: String| {
        Error::new(
            Code::ShapeMismatch,
            format!("adapter \"{adapter}\" is not for this base model: {what}; module: {path}"),
        )
    };
    if let Base::Model(model) = base
        && lora.layer == LayerKind::Linear
    {
        let Some(module) = model.module(name) else {
            return Err(mismatch(absent::instead(model.family.modules(), name)));
        };
        if (module.d_out, module.d_in) != (lora.d_out, lora.d_in) {
            return Err(mismatch(format!(
                "the adapter's layer is {} x {}, the base's is {} x {}",
                lora.d_out, lora.d_in, module.d_out, module.d_in
            )));
        }
        return Ok(base.tensor(&module.key));
    }
    if matches!(base, Base::Absent) {
        if lora.needs_base() {
            return Err(Error::new(
                Code::Missing,
                format!(
                    "adapter \"{adapter}\" says how to change the base's own weight; give the base model; module: {path}"
                ),
            ));
        }
        return Ok(None);
    }
    let key = match &lora.layer {
        LayerKind::Parameter { name: parameter, .. } => format!("{name}.{parameter}"),
        LayerKind::Linear | LayerKind::Conv { .. } | LayerKind::Embedding => format!("{name}.weight"),
    };
    let tensor = base
        .tensor(&key)
        .ok_or_else(|| mismatch(format!("the base has no tensor {key}, or several")))?;
    let elements: usize = tensor.shape.iter().product();
    if elements != lora.d_out * lora.d_in {
        return Err(mismatch(format!(
            "the adapter's layer is {} x {}, the base's tensor has shape {:?}",
            lora.d_out, lora.d_in, tensor.shape
        )));
    }
    Ok(Some(tensor))
}

/// A change of a vector, as the (n x 1) matrix that methods see.
#[allow(dead_code, reason = "for biases and saved tensors, which join next")]
pub(super) fn column(data: Vec<f32>) -> Change {
    Change::Dense(Dense {
        d_out: data.len(),
        d_in: 1,
        data,
    })
}
