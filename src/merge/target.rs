//! What a merge changes: one entry for each parameter of the base model that at least one adapter changes, and how
//! each adapter's change of it is told.
//!
//! Changes are made one at a time, when they are wanted: a dense one (DoRA, a saved module) is as large as the
//! base's own tensor. What can go wrong is an adapter for another base, so shapes are held against the base's
//! before anything is computed.

use std::{collections::BTreeMap, ops::Range};

use super::{
    Change, Dense, Layer, MergeOptions, Part,
    locate::{self, Entry},
    work::{ReadAdapter, name_of},
};
use crate::{
    adapter::{self, LayerKind},
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
    /// A module's path in the base's own naming, a parameter's (`….bias`), an expert's (`….down_proj[3]`) or that of
    /// trained rows (`….trainable_tokens`).
    pub name: String,
    /// What of it is changed.
    pub place: Place,
    /// Which of several matrices in one tensor.
    pub expert: usize,
    /// Outputs.
    pub d_out: usize,
    /// Inputs.
    pub d_in: usize,
    /// Where the base has it, if there is a base.
    pub tensor: Option<BaseTensor>,
    /// Whether the base's tensor serves as another module's weight, too (a tied head), which the change is not of.
    pub shared: bool,
    /// By adapter: its own path of it, if it changes it.
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

    /// The base's tensor that the change is added to.
    ///
    /// # Errors
    /// [`Code::AdapterUnsupported`] if the base has none of its own for it.
    pub fn tensor_alone(&self) -> Result<&BaseTensor> {
        let refuse = |why: &str| {
            Error::new(
                Code::AdapterUnsupported,
                format!(
                    "the change cannot be added to the base's weights: {why}; write an adapter; parameter: {}",
                    self.name
                ),
            )
        };
        match &self.tensor {
            None => Err(refuse("the base has no such tensor")),
            Some(_) if self.shared => Err(refuse(
                "the base has one tensor for the table of its inputs and for its head, and the change is of one of them",
            )),
            Some(tensor) => Ok(tensor),
        }
    }

    /// Where the base's tensor has the matrix, in numbers; rows of a table are found one by one.
    pub fn range(&self) -> Range<usize> {
        let size = self.d_out * self.d_in;
        let offset = self.tensor.as_ref().map_or(0, |tensor| tensor.offset);
        offset + self.expert * size..offset + (self.expert + 1) * size
    }

    /// Lets the two halves of a (d_out x d_in) matrix's rows change places, if the base has them so.
    fn swap_halves(&self, matrix: &mut [f32]) {
        if self.tensor.as_ref().is_some_and(|tensor| tensor.halves_swapped) {
            matrix.rotate_left(self.d_out / 2 * self.d_in);
        }
    }

    /// A (d_out x d_in) matrix as the base's tensor has it.
    pub fn stored(&self, mut matrix: Vec<f32>) -> Vec<f32> {
        self.swap_halves(&mut matrix);
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
        let mut targets: BTreeMap<String, Target> = BTreeMap::new();
        let weights = options.layer_weights.patterns(adapters.len())?;
        let own: Vec<f64> = adapters.iter().map(|read| read.weight).collect();
        for (index, read) in adapters.iter().enumerate() {
            for entry in locate::entries(base, &read.adapter)? {
                let Entry { path, name, .. } = &entry;
                let target = targets.entry(name.clone()).or_insert_with(|| Target {
                    name: name.clone(),
                    place: entry.place.clone(),
                    expert: entry.expert,
                    d_out: entry.d_out,
                    d_in: entry.d_in,
                    tensor: entry.tensor.clone(),
                    shared: entry.shared,
                    sources: vec![None; adapters.len()],
                    weights: weights
                        .get(name)
                        .or_else(|| weights.get(path))
                        .unwrap_or_else(|| own.clone()),
                });
                fit(target, &entry).map_err(|what| {
                    let first = target.sources.iter().position(Option::is_some).unwrap_or(0);
                    Error::new(
                        Code::ShapeMismatch,
                        format!(
                            "adapters \"{}\" and \"{}\" are not of one base model: {what}; module: {path}",
                            name_of(adapters, first),
                            read.adapter.name,
                        ),
                    )
                })?;
                let before = target.sources[index].replace(path.clone());
                if before.is_some_and(|before| before != *path) {
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
            let place = |target: &Target| {
                let module = target.name.strip_suffix(".bias").unwrap_or(&target.name);
                order.get(module).map_or(0, |at| at + 1)
            };
            // What no pass reaches stands before what one does: embeddings come first.
            targets.sort_by_key(place);
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
        let mut original: Option<Vec<f32>> = None;
        for (task, (source, read)) in target.sources.iter().zip(self.adapters).enumerate() {
            let Some(path) = source else { continue };
            let adapter = &read.adapter;
            let needs_base = match &target.place {
                Place::Weight(_) => adapter.modules.get(path).is_some_and(adapter::Lora::needs_base),
                Place::Bias => adapter.biases.contains_key(path),
                Place::Rows(_) | Place::Whole(_) => true,
            };
            if needs_base && original.is_none() {
                original = Some(self.original(target).await?);
            }
            parts.push(Part {
                task,
                name: &read.adapter.name,
                weight: target.weights[task],
                change: locate::change(target, adapter, path, original.as_deref())?,
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

    /// What the base has of a target, as a (d_out x d_in) matrix.
    ///
    /// # Errors
    /// [`Code::Missing`] if there is none, and whatever reading reports.
    pub async fn original(&self, target: &Target) -> Result<Vec<f32>> {
        let Some(tensor) = &target.tensor else {
            return Err(Error::new(
                Code::Missing,
                format!(
                    "an adapter's change can only be told with the base's own weight; give the base model; parameter: {}",
                    target.name
                ),
            ));
        };
        if let Place::Rows(ids) = &target.place {
            let mut rows = Vec::with_capacity(target.d_out * target.d_in);
            for id in ids {
                let range = id * target.d_in..(id + 1) * target.d_in;
                rows.extend(self.base.read_range(tensor, range).await?);
            }
            return Ok(rows);
        }
        let mut data = self.base.read_range(tensor, target.range()).await?;
        target.swap_halves(&mut data);
        Ok(if target.stored_transposed() {
            crate::model::transpose(&data, target.d_in, target.d_out)
        } else {
            data
        })
    }

    /// Whose adapter files are written.
    pub fn format(&self) -> adapter::Format {
        let formats = self.adapters.iter().map(|read| read.adapter.format);
        self.options.format.of(formats)
    }
}

/// Makes room in `target` for another adapter's change of it, or says how they differ.
fn fit(target: &mut Target, entry: &Entry) -> std::result::Result<(), String> {
    if let (Place::Rows(ids), Place::Rows(more)) = (&mut target.place, &entry.place)
        && target.d_in == entry.d_in
    {
        // The rows that any adapter trained.
        ids.extend(more);
        ids.sort_unstable();
        ids.dedup();
        target.d_out = ids.len();
        return Ok(());
    }
    if target.place == entry.place && (target.d_out, target.d_in) == (entry.d_out, entry.d_in) {
        return Ok(());
    }
    Err(format!(
        "{} x {} against {} x {}",
        target.d_out, target.d_in, entry.d_out, entry.d_in
    ))
}

/// A change of a vector, as the (n x 1) matrix that methods see.
pub(super) fn column(data: Vec<f32>) -> Change {
    Change::Dense(Dense {
        d_out: data.len(),
        d_in: 1,
        data,
    })
}
