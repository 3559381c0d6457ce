//! Where the base has what an adapter changes, and how each change is told against it.
//!
//! A name may mean another tensor than it seems to: a saved module is a task's own head or a part of the base, and a
//! tied head is one tensor with the table of the inputs. Each is decided here, once.

use std::ops::Range;

use crate::{
    adapter::{self, Adapter, LayerKind, Module},
    binding::{
        absent,
        base::{Base, BaseTensor},
        site::{MergeSite, Place},
    },
    compute::narrow,
    delta::{Delta, Dense},
    error::{Code, Error, Result},
    naming::{
        path::nearest,
        roles::{is_bases_own, is_embedding},
    },
};

/// Modules that are a task's head, in models whose family is not known.
const HEADS: &[&str] = &[
    "classifier",
    "cls",
    "pooler",
    "pre_classifier",
    "qa_outputs",
    "score",
];

/// One change that an adapter makes.
pub(super) struct Entry {
    /// The adapter's name of it.
    pub(super) path: String,
    /// The base's.
    pub(super) name: String,
    pub(super) place: Place,
    pub(super) expert: usize,
    pub(super) d_out: usize,
    pub(super) d_in: usize,
    pub(super) tensor: Option<BaseTensor>,
    pub(super) shared: bool,
}

/// Everything that an adapter changes, held against the base.
///
/// # Errors
/// As [`Binding::new`](super::Binding::new), for this adapter alone.
pub(super) fn entries(base: &Base, adapter: &Adapter) -> Result<Vec<Entry>> {
    let look = Look { base, adapter };
    let mut entries = Vec::new();
    for (path, module) in &adapter.modules {
        entries.extend(look.weights(path, module)?);
        if module.has_bias {
            entries.push(look.bias(&format!("{path}.bias"), module.d_out, false)?);
        }
    }
    for (path, bias) in &adapter.biases {
        entries.push(look.bias(path, bias.len(), true)?);
    }
    for (path, rows) in &adapter.tokens {
        let (tensor, _) = look.tensor(&format!("{path}.weight"), path, true)?;
        let ids = &rows.ids;
        if let Some(BaseTensor { shape, .. }) = &tensor
            && (shape.len() != 2 || shape[1] != rows.width || ids.last().is_some_and(|&id| id >= shape[0]))
        {
            return Err(look.mismatch(
                &format!(
                    "it trained rows of {} numbers up to token {}, the base's table has shape {shape:?}",
                    rows.width,
                    ids.last().unwrap_or(&0)
                ),
                path,
            ));
        }
        entries.push(Entry {
            path: path.clone(),
            name: format!("{}.trainable_tokens", base.canonical(path)),
            place: Place::Rows(ids.clone()),
            expert: 0,
            d_out: ids.len(),
            d_in: rows.width,
            tensor,
            // PEFT trains a tied head's rows with the table's.
            shared: false,
        });
    }
    for (path, saved) in &adapter.heads {
        entries.extend(look.whole(path, &saved.shape)?);
    }
    Ok(entries)
}

/// The change that `adapter` makes to `target`, which it calls `path`; `original` is what the base has of it,
/// where that is needed. `rows` are those of a site that [has rows](MergeSite::has_rows).
pub(super) async fn delta(
    target: &MergeSite,
    rows: Range<usize>,
    adapter: &Adapter,
    path: &str,
    original: Option<&[f32]>,
) -> Result<Delta> {
    let lost = || {
        Error::new(
            Code::Internal,
            format!(
                "adapter \"{}\" has no such change; parameter: {path}",
                adapter.name
            ),
        )
    };
    // Files of several adapters may have one name.
    let of_adapter = |error: Error| error.about(&format!("adapter \"{}\"", adapter.name));
    let against = |value: &[f32]| -> Vec<f32> {
        let original = original.unwrap_or(&[]);
        let pairs = value.iter().zip(original);
        pairs
            .map(|(&x, &w)| narrow(f64::from(x) - f64::from(w)))
            .collect()
    };
    match &target.place {
        Place::Weight(_) => {
            let module = adapter.modules.get(path).ok_or_else(lost)?;
            let lora = module.load_expert(target.expert).await.map_err(of_adapter)?;
            adapter::delta_of(lora, original, path)
        }
        Place::Bias => {
            // A trained bias, one of lora_B, or both.
            let mut sum = vec![0.0; target.d_out];
            if let Some(value) = adapter.biases.get(path) {
                sum = against(value);
            }
            let module = path.strip_suffix(".bias").unwrap_or(path);
            if let Some(module) = adapter.modules.get(module)
                && let Some(bias) = module.bias().await?
            {
                let add = |(to, &b): (&mut f32, &f32)| {
                    *to = narrow(f64::from(*to) + module.scaling * f64::from(b));
                };
                sum.iter_mut().zip(&bias).for_each(add);
            }
            Ok(column(sum))
        }
        Place::Rows(ids) => {
            let rows = adapter.tokens.get(path).ok_or_else(lost)?;
            let (width, original) = (rows.width, original.unwrap_or(&[]));
            let mut data = vec![0.0; ids.len() * width];
            for (id, row) in rows.ids.iter().zip(rows.data.chunks_exact(width)) {
                let at = ids.binary_search(id).map_err(|_| lost())? * width;
                for ((to, &x), &w) in data[at..at + width]
                    .iter_mut()
                    .zip(row)
                    .zip(&original[at..at + width])
                {
                    *to = narrow(f64::from(x) - f64::from(w));
                }
            }
            Ok(Delta::Dense(Dense {
                data,
                d_out: ids.len(),
                d_in: width,
            }))
        }
        Place::Whole(_) => {
            let saved = adapter.heads.get(path).ok_or_else(lost)?;
            let d_in = target.d_in;
            let saved = if target.has_rows() {
                saved.load_range(rows.start * d_in..rows.end * d_in).await
            } else {
                saved.load().await
            };
            Ok(Delta::Dense(Dense {
                data: against(&saved.map_err(of_adapter)?),
                d_out: rows.len(),
                d_in,
            }))
        }
    }
}

struct Look<'a> {
    base: &'a Base,
    adapter: &'a Adapter,
}

impl Look<'_> {
    fn mismatch(&self, what: &str, path: &str) -> Error {
        Error::new(
            Code::ShapeMismatch,
            format!(
                "adapter \"{}\" is not for this base model: {what}; module: {path}",
                self.adapter.name
            ),
        )
    }

    /// The base's tensor of that name and whether it is another module's too; none without a base, unless it is
    /// `needed`.
    fn tensor(&self, name: &str, path: &str, needed: bool) -> Result<(Option<BaseTensor>, bool)> {
        if matches!(self.base, Base::Absent) {
            if needed {
                return Err(Error::new(
                    Code::Missing,
                    format!(
                        "adapter \"{}\" says how to change the base's own weight; give the base model; module: {path}",
                        self.adapter.name
                    ),
                ));
            }
            return Ok((None, false));
        }
        let tied = self.base.tied();
        if let Some(tensor) = self.base.tensor(name) {
            let shared = tied.is_some_and(|key| key == tensor.key);
            return Ok((Some(tensor), shared));
        }
        // A tied head has no tensor of its own.
        let head = ["lm_head.weight", "embed_out.weight"].contains(&self.base.canonical(name).as_ref());
        if head && let Some(tensor) = tied.and_then(|key| self.base.tensor(&key)) {
            return Ok((Some(tensor), true));
        }
        let parts = self.base.parts();
        let keys = parts.iter().flat_map(|(_, checkpoint)| checkpoint.names());
        let like = nearest(name, keys).map_or(String::new(), |key| format!("; nearest: {key}"));
        Err(self.mismatch(&format!("the base has no tensor {name}, or several{like}"), path))
    }

    /// The weights that a module's factors are for: one, or one an expert.
    fn weights(&self, path: &str, module: &Module) -> Result<Vec<Entry>> {
        let name = self.base.canonical(path);
        let name = name.as_ref();
        let (tensor, shared) = self.weight(name, path, module)?;
        let layer = as_stored(&module.layer, module.d_in, tensor.as_ref());
        let entry = |expert: usize, name: String| Entry {
            path: path.to_owned(),
            name,
            place: Place::Weight(layer.clone()),
            expert,
            d_out: module.d_out,
            d_in: module.d_in,
            tensor: tensor.clone(),
            shared,
        };
        Ok(match module.layer.products() {
            1 => vec![entry(0, name.to_owned())],
            experts => (0..experts)
                .map(|expert| entry(expert, format!("{name}[{expert}]")))
                .collect(),
        })
    }

    /// Where the base has the tensor that the factors are for, checked for its shape.
    fn weight(&self, name: &str, path: &str, factors: &Module) -> Result<(Option<BaseTensor>, bool)> {
        let (d_out, d_in) = (factors.d_out, factors.d_in);
        if let (Base::Model(model), LayerKind::Linear) = (self.base, &factors.layer) {
            if let Some(module) = model.module(name) {
                if (module.d_out, module.d_in) != (d_out, d_in) {
                    return Err(self.mismatch(
                        &format!(
                            "the adapter's layer is {d_out} x {d_in}, the base's is {} x {}",
                            module.d_out, module.d_in
                        ),
                        path,
                    ));
                }
                let own = format!("{path}.weight");
                let targets = &self.adapter.config.target_parameters;
                if module.transposed && targets.iter().any(|target| own.ends_with(target.as_str())) {
                    return Err(Error::new(
                        Code::AdapterUnsupported,
                        format!(
                            "adapter \"{}\" has factors of a transposed weight (target_parameters of a Conv1D); train it with target_modules; module: {path}",
                            self.adapter.name
                        ),
                    ));
                }
                if module.transposed && factors.init == adapter::Init::Olora {
                    return Err(Error::new(
                        Code::AdapterUnsupported,
                        format!(
                            "adapter \"{}\": PEFT's OLoRA takes the factors of a Conv1D from its transposed weight, which do not fit the layer; module: {path}",
                            self.adapter.name
                        ),
                    ));
                }
                return Ok((self.base.tensor(&module.key), false));
            }
            // A layer that no pass of the model calls through its lanes, such as a language model's head.
            if self.tensor(&format!("{name}.weight"), path, false).is_err() {
                return Err(self.mismatch(&absent::instead(model.family.modules(), name), path));
            }
        }
        let key = match &factors.layer {
            LayerKind::Parameter { .. } => name.to_owned(),
            LayerKind::Linear | LayerKind::Conv { .. } | LayerKind::Embedding => format!("{name}.weight"),
        };
        let (tensor, shared) = self.tensor(&key, path, factors.needs_base())?;
        let Some(mut tensor) = tensor else {
            return Ok((None, false));
        };
        // As it is stored, and with its sides swapped.
        let layer = as_stored(&factors.layer, d_in, Some(&tensor));
        let (straight, swapped) = match &layer {
            LayerKind::Linear => (vec![d_out, d_in], Some(vec![d_in, d_out])),
            LayerKind::Conv { channels, kernel } => {
                let sides = [d_out, *channels].into_iter().chain(kernel.iter().copied());
                (sides.collect(), None)
            }
            LayerKind::Embedding => (vec![d_in, d_out], None),
            LayerKind::Parameter { experts: None, .. } if tensor.shape.len() == 2 => {
                (vec![d_out, d_in], None)
            }
            LayerKind::Parameter { experts, .. } => {
                let experts = experts.unwrap_or(1);
                (vec![experts, d_out, d_in], Some(vec![experts, d_in, d_out]))
            }
        };
        let prefers_swapped = match &layer {
            LayerKind::Linear => self.adapter.config.fan_in_fan_out,
            LayerKind::Parameter { .. } => self.base.experts_are_transposed(),
            LayerKind::Conv { .. } | LayerKind::Embedding => false,
        };
        let fits_swapped = swapped.is_some_and(|swapped| swapped == tensor.shape);
        tensor.transposed = fits_swapped && (prefers_swapped || tensor.shape != straight);
        if !tensor.transposed && tensor.shape != straight {
            return Err(self.mismatch(
                &format!(
                    "the adapter's layer has shape {straight:?}, the base's tensor {:?}",
                    tensor.shape
                ),
                path,
            ));
        }
        Ok((Some(tensor), shared))
    }

    /// A bias; `whole` says that the adapter has its value and not what is added to it.
    fn bias(&self, path: &str, length: usize, whole: bool) -> Result<Entry> {
        let tensor = match self.tensor(path, path, whole) {
            Ok((tensor, _)) => tensor,
            // lora_B may have a bias where the layer has none.
            Err(error) if whole => return Err(error),
            Err(_) => None,
        };
        if let Some(tensor) = &tensor
            && tensor.shape.iter().product::<usize>() != length
        {
            return Err(self.mismatch(
                &format!(
                    "its bias has {length} numbers, the base's has shape {:?}",
                    tensor.shape
                ),
                path,
            ));
        }
        Ok(Entry {
            path: path.to_owned(),
            name: self.base.canonical(path).into_owned(),
            place: Place::Bias,
            expert: 0,
            d_out: length,
            d_in: 1,
            tensor,
            shared: false,
        })
    }

    /// A tensor that was saved whole, if it is the base's own and no task's head.
    fn whole(&self, path: &str, shape: &[usize]) -> Result<Option<Entry>> {
        let name = self.base.canonical(path);
        let name = name.as_ref();
        let head = match self.base {
            Base::Model(model) => model.family.is_readout(name),
            Base::Weights(_) | Base::Absent => name.split('.').any(|part| HEADS.contains(&part)),
        };
        if head || !(is_bases_own(name) || self.base.tensor(path).is_some()) {
            return Ok(None);
        }
        let (tensor, shared) = self.tensor(path, path, true)?;
        if let Some(tensor) = &tensor
            && tensor.shape != shape
        {
            let why = if is_embedding(name) || name.contains("lm_head") {
                " (its vocabulary was made longer: give the base model with the same vocabulary)"
            } else {
                ""
            };
            return Err(self.mismatch(
                &format!(
                    "it brings its own copy of a tensor with shape {shape:?}, the base's has {:?}{why}",
                    tensor.shape
                ),
                path,
            ));
        }
        let d_out = shape.first().copied().unwrap_or(1);
        Ok(Some(Entry {
            path: path.to_owned(),
            name: name.to_owned(),
            place: Place::Whole(shape.to_vec()),
            expert: 0,
            d_out,
            d_in: shape.iter().skip(1).product(),
            tensor,
            shared,
        }))
    }
}

/// The kind of a layer as the base has it: a convolution that sees one place at a time is a linear layer, and an
/// adapter may have either.
fn as_stored(layer: &LayerKind, d_in: usize, tensor: Option<&BaseTensor>) -> LayerKind {
    let Some([_, _, kernel @ ..]) = tensor.map(|tensor| tensor.shape.as_slice()) else {
        return layer.clone();
    };
    match layer {
        LayerKind::Linear if !kernel.is_empty() && kernel.iter().all(|&side| side == 1) => LayerKind::Conv {
            channels: d_in,
            kernel: kernel.to_vec(),
        },
        layer if layer.is_pointwise() && kernel.is_empty() => LayerKind::Linear,
        layer => layer.clone(),
    }
}

/// A change of a vector, as the (n x 1) matrix that methods see.
pub(super) fn column(data: Vec<f32>) -> Delta {
    Delta::Dense(Dense {
        d_out: data.len(),
        d_in: 1,
        data,
    })
}
