//! The last block of an encoder: from the rows of a text to the one row a sample that a classifier reads.
//!
//! What stands between the two differs. BERT's pooler is a part of the model; the dense layers of RoBERTa, DistilBERT
//! and ModernBERT belong to the classifier and come with a checkpoint of one or with a task's own head
//! (`modules_to_save`). [`Settings::needed`] names the layer without which a classifier would read rows that it was not
//! trained for.

use async_trait::async_trait;
use burn::tensor::Tensor;

use crate::{
    compute::{Activation, LayerNorm, RawWeight},
    error::{Code, Error, Result},
    io::Checkpoint,
    model::{
        batch::Stack,
        family::{Block, Heads, Module},
        lanes::Lanes,
        load::Loader,
        projection::Projection,
        state::State,
        text::{POOLED, TEXT},
    },
    naming::family::FamilyNames,
};

/// Which rows of a sample become its one row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Pooled {
    /// That of its first token.
    First,
    /// The mean of them all.
    Mean,
}

/// A layer that may stand between a sample's row and its classifier: norm(activation(dense(x))).
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Between {
    /// The linear layer, in the family's naming.
    pub(super) dense: &'static str,
    /// Whether it has a bias.
    pub(super) bias: bool,
    /// What its output goes through.
    pub(super) activation: Activation,
    /// The layer normalisation behind that.
    pub(super) norm: Option<Norm>,
}

/// A layer normalisation of a [`Between`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Norm {
    /// Its name in the family's naming.
    pub(super) name: &'static str,
    /// Whether it has a shift.
    pub(super) bias: bool,
    /// Added to the variance.
    pub(super) epsilon: f32,
}

impl Between {
    /// A dense layer with a bias, and no norm.
    pub(super) const fn dense(dense: &'static str, activation: Activation) -> Self {
        Self {
            dense,
            bias: true,
            activation,
            norm: None,
        }
    }

    fn weight(&self) -> String {
        format!("{}.weight", self.dense)
    }
}

/// How the classifiers of a family read its encoder.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Settings {
    pub(super) rows: Pooled,
    /// The layers that may stand between, in the order they are looked for: among a task's own heads,
    /// then in the checkpoint.
    pub(super) between: Vec<Between>,
    /// The classifiers' linear layers, in the order they are looked for.
    pub(super) readouts: &'static [&'static str],
    /// The one of `between` that they cannot do without.
    pub(super) needed: Option<&'static str>,
}

/// The same over one checkpoint.
pub(super) struct Pooling {
    hidden: usize,
    prefix: &'static str,
    pub(super) settings: Settings,
    /// The one of `between` that the checkpoint has, and the key of its weight.
    of_base: Option<(Between, String)>,
}

impl Pooling {
    /// `hidden` is the model's width; tensors carry `prefix` or not.
    pub(super) fn new(
        checkpoint: &Checkpoint,
        prefix: &'static str,
        hidden: usize,
        settings: Settings,
    ) -> Self {
        let of_base = settings.between.iter().find_map(|between| {
            let key = key(checkpoint, prefix, &between.weight())?;
            Some((between.clone(), key))
        });
        Self {
            hidden,
            prefix,
            settings,
            of_base,
        }
    }

    /// Whether the checkpoint has what classifiers need before their linear layer.
    pub(super) const fn is_in_checkpoint(&self) -> bool {
        self.of_base.is_some()
    }

    /// Whether `tensor` (in the family's naming) is of this block or of a classifier.
    pub(super) fn has(&self, tensor: &str) -> bool {
        let of = |module: &str| {
            tensor
                .strip_prefix(module)
                .is_some_and(|rest| rest.starts_with('.'))
        };
        let Settings {
            between, readouts, ..
        } = &self.settings;
        readouts.iter().any(|readout| of(readout))
            || between
                .iter()
                .any(|between| of(between.dense) || between.norm.is_some_and(|norm| of(norm.name)))
    }

    /// The layer of the checkpoint that adapters may target.
    pub(super) fn module(&self, block: usize) -> Option<Module> {
        self.of_base.as_ref().map(|(between, key)| Module {
            name: between.dense.to_owned(),
            key: key.clone(),
            d_out: self.hidden,
            d_in: self.hidden,
            block,
            transposed: false,
            windows: None,
        })
    }

    /// Reads the block. `heads` are the task's own tensors, in one of the family's spellings.
    ///
    /// # Errors
    /// [`Code::ShapeMismatch`] for a head of another width, and whatever reading reports.
    pub(super) async fn load(
        &self,
        loader: &Loader<'_>,
        heads: Option<&Heads>,
        names: FamilyNames,
    ) -> Result<Pool> {
        let own = |name: &str| {
            let mut all = heads.into_iter().flatten();
            all.find_map(|(head, tensor)| (names.canonical(head) == name).then_some(tensor))
        };
        let Settings { rows, between, .. } = &self.settings;
        let with_own = between.iter().find(|between| own(&between.weight()).is_some());
        let Some(between) = with_own.or(self.of_base.as_ref().map(|(between, _)| between)) else {
            return Ok(Pool {
                rows: *rows,
                between: None,
            });
        };
        let of_task = async |name: &str, shape: &[usize]| match own(name) {
            Some(tensor) if tensor.shape == shape => Ok(Some(tensor.load().await?)),
            Some(tensor) => Err(Error::new(
                Code::ShapeMismatch,
                format!(
                    "the adapter's own head has shape {:?} where the base model's width asks for {shape:?}; tensor: {name}",
                    tensor.shape
                ),
            )),
            None => Ok(None),
        };
        let of_base = |name: String| key(loader.checkpoint, self.prefix, &name).unwrap_or(name);
        let parameter = async |name: String, shape: &[usize]| match of_task(&name, shape).await? {
            Some(numbers) => Ok(numbers),
            None => loader.parameter(&of_base(name), shape).await,
        };
        let hidden = self.hidden;
        let square = [hidden, hidden];
        let weight = match of_task(&between.weight(), &square).await? {
            Some(numbers) => RawWeight::of_f32(&numbers, hidden, hidden),
            None => loader.weight(&of_base(between.weight()), &square, square).await?,
        };
        let bias = if between.bias {
            Some(parameter(format!("{}.bias", between.dense), &[hidden]).await?)
        } else {
            None
        };
        let norm = match between.norm {
            Some(norm) => Some(LayerNorm {
                gamma: parameter(format!("{}.weight", norm.name), &[hidden]).await?,
                beta: if norm.bias {
                    parameter(format!("{}.bias", norm.name), &[hidden]).await?
                } else {
                    vec![0.0; hidden]
                },
                epsilon: norm.epsilon,
            }),
            None => None,
        };
        Ok(Pool {
            rows: *rows,
            between: Some(Loaded {
                dense: loader.linear_of(between.dense.to_owned(), weight, bias),
                activation: between.activation,
                norm,
            }),
        })
    }
}

/// The checkpoint's key of a tensor, which may carry the prefix.
fn key(checkpoint: &Checkpoint, prefix: &str, name: &str) -> Option<String> {
    [format!("{prefix}{name}"), name.to_owned()]
        .into_iter()
        .find(|key| checkpoint.info(key).is_some())
}

/// The block, as [`Pooling::load`] has read it.
pub(super) struct Pool {
    rows: Pooled,
    between: Option<Loaded>,
}

struct Loaded {
    dense: Projection,
    activation: Activation,
    norm: Option<LayerNorm>,
}

#[async_trait(?Send)]
impl Block for Pool {
    async fn forward(&self, lanes: &Lanes<'_>, stack: &Stack<'_>, mut state: State) -> Result<State> {
        let compute = lanes.compute();
        let sequences = stack.sequences(TEXT);
        let text = state.take(TEXT)?;
        let pooled = match self.rows {
            Pooled::First => {
                let first: Vec<usize> = sequences.iter().map(|sequence| sequence.start).collect();
                text.select(0, compute.indices(&first))
            }
            Pooled::Mean => {
                let means = sequences.iter().map(|sequence| {
                    let rows = sequence.start..sequence.start + sequence.attended;
                    text.clone().slice([rows]).mean_dim(0)
                });
                Tensor::cat(means.collect(), 0)
            }
        };
        let Some(Loaded {
            dense,
            activation,
            norm,
        }) = &self.between
        else {
            return Ok(state.with(POOLED, pooled));
        };
        let mut rows = lanes.linear(stack, POOLED, dense, pooled).await?;
        rows = compute.activation(*activation, rows);
        if let Some(norm) = norm {
            rows = compute.layer_norm(rows, norm);
        }
        Ok(state.with(POOLED, rows))
    }

    fn linears(&self) -> Vec<&Projection> {
        self.between.iter().map(|between| &between.dense).collect()
    }
}
