//! Reading a block's parameters onto the device, with every shape checked.

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
    ops::Range,
    rc::Rc,
};

use burn::tensor::Tensor;

use crate::{
    compute::{Compute, LayerNorm, RawWeight, RmsNorm, Windows},
    error::{Code, Error, Result},
    io::{Checkpoint, OwnNumbers},
    model::projection::Projection,
};

/// Weights that were read before their block is loaded, by their keys.
pub(super) type Fetched = BTreeMap<String, OwnNumbers>;

/// Reads the weights of these keys, in the type of the file.
///
/// # Errors
/// Whatever reading reports. What the checkpoint does not have is left to who needs it.
pub(super) async fn fetch(checkpoint: &Checkpoint, keys: impl Iterator<Item = &str>) -> Result<Fetched> {
    let mut fetched = Fetched::new();
    for key in keys {
        if let Some(info) = checkpoint.info(key) {
            let numbers = checkpoint.own_range(key, 0..info.elements()).await?;
            fetched.insert(key.to_owned(), numbers);
        }
    }
    Ok(fetched)
}

/// Reads parameters of a checkpoint onto a device.
pub struct Loader<'a> {
    /// Where from.
    pub checkpoint: &'a Checkpoint,
    /// Where to.
    pub compute: &'a Compute,
    /// Projection layers (in the family's naming) whose weights stay in memory too.
    pub keep_host: Option<&'a BTreeSet<String>>,
    /// Whether the model's weights stay in memory between passes.
    pub(super) stays: bool,
    /// What need not be read any more.
    pub(super) fetched: RefCell<Fetched>,
}

/// What a linear layer in a checkpoint looks like.
#[derive(Debug, Clone, Copy)]
pub struct LinearShape {
    /// Outputs.
    pub d_out: usize,
    /// Inputs.
    pub d_in: usize,
    /// Whether it has a bias.
    pub bias: bool,
    /// Whether its weight is stored (d_in x d_out).
    pub transposed: bool,
}

impl LinearShape {
    /// A layer without a bias, stored (d_out x d_in).
    pub const fn new(d_out: usize, d_in: usize) -> Self {
        Self {
            d_out,
            d_in,
            bias: false,
            transposed: false,
        }
    }

    /// The same with a bias, if `bias`.
    #[must_use]
    pub const fn biased(self, bias: bool) -> Self {
        Self { bias, ..self }
    }

    /// The same stored (d_in x d_out).
    #[must_use]
    pub const fn transposed(self) -> Self {
        Self {
            transposed: true,
            ..self
        }
    }
}

/// Rows of a table that are read though nobody needs them, to save a read of its own for the next.
const ROWS_APART: usize = 16;
/// Rows of a table read at a time.
const ROWS_AT_ONCE: usize = 4096;

fn shape_mismatch(key: &str, wanted: &[usize], found: &[usize]) -> Error {
    Error::new(
        Code::ShapeMismatch,
        format!(
            "base model: config.json asks for shape {wanted:?} where the file has {found:?}; config and weights are of different models; tensor: {key}"
        ),
    )
}

/// Numbers of that many as a weight.
pub(super) fn raw_weight(numbers: OwnNumbers, d_out: usize, d_in: usize) -> RawWeight {
    let OwnNumbers {
        bytes,
        element_bytes,
        widen,
    } = numbers;
    RawWeight::new((bytes, element_bytes, widen), d_out, d_in)
}

impl Loader<'_> {
    /// A parameter of the given shape.
    ///
    /// # Errors
    /// [`Code::Missing`] or [`Code::ShapeMismatch`] naming the tensor, or what reading reports.
    pub async fn parameter(&self, key: &str, shape: &[usize]) -> Result<Vec<f32>> {
        let found = &self.checkpoint.require(key)?.shape;
        if found != shape {
            return Err(shape_mismatch(key, shape, found));
        }
        self.checkpoint.f32(key).await
    }

    /// A weight (d_out x d_in, row by row) whose tensor has the given shape.
    ///
    /// # Errors
    /// As [`parameter`](Self::parameter).
    pub(super) async fn weight(
        &self,
        key: &str,
        shape: &[usize],
        [d_out, d_in]: [usize; 2],
    ) -> Result<RawWeight> {
        let info = self.checkpoint.require(key)?;
        if info.shape != shape {
            return Err(shape_mismatch(key, shape, &info.shape));
        }
        let fetched = self.fetched.borrow_mut().remove(key);
        let numbers = match fetched {
            Some(numbers) => numbers,
            None => self.checkpoint.own_range(key, 0..info.elements()).await?,
        };
        Ok(raw_weight(numbers, d_out, d_in))
    }

    /// A linear layer; `key` is its path in the checkpoint, `name` in the family's naming.
    ///
    /// # Errors
    /// As [`parameter`](Self::parameter).
    pub async fn linear(&self, name: String, key: &str, shape: LinearShape) -> Result<Projection> {
        let LinearShape {
            d_out,
            d_in,
            bias,
            transposed,
        } = shape;
        let stored = if transposed { [d_in, d_out] } else { [d_out, d_in] };
        let mut weight = self.weight(&format!("{key}.weight"), &stored, stored).await?;
        if transposed {
            weight = weight.transposed();
        }
        let bias = if bias {
            Some(self.parameter(&format!("{key}.bias"), &[d_out]).await?)
        } else {
            None
        };
        Ok(self.linear_of(name, weight, bias))
    }

    /// A table of the given shape, before which the file may have sides of one: some releases keep a batch's.
    ///
    /// # Errors
    /// As [`parameter`](Self::parameter).
    pub(super) async fn table(&self, key: &str, shape: &[usize]) -> Result<Vec<f32>> {
        let found = &self.checkpoint.require(key)?.shape;
        let ones = found.len().saturating_sub(shape.len());
        if found[..ones].iter().any(|&side| side != 1) || found[ones..] != *shape {
            return Err(shape_mismatch(key, shape, found));
        }
        self.checkpoint.f32(key).await
    }

    /// Some outputs of a packed linear layer, whose weight (d_out x d_in) and bias (d_out) have keys of their own.
    ///
    /// # Errors
    /// As [`parameter`](Self::parameter).
    pub(super) async fn outputs(
        &self,
        name: String,
        [weight, bias]: [&str; 2],
        [d_out, d_in]: [usize; 2],
        outputs: Range<usize>,
    ) -> Result<Projection> {
        let found = &self.checkpoint.require(weight)?.shape;
        if *found != [d_out, d_in] {
            return Err(shape_mismatch(weight, &[d_out, d_in], found));
        }
        let numbers = outputs.start * d_in..outputs.end * d_in;
        let numbers = self.checkpoint.own_range(weight, numbers).await?;
        let bias = self.parameter(bias, &[d_out]).await?[outputs.clone()].to_vec();
        Ok(self.linear_of(name, raw_weight(numbers, outputs.len(), d_in), Some(bias)))
    }

    /// A convolution; `key` is its path in the checkpoint, `name` in the family's naming. Its weight is stored
    /// (d_out x channels x kernel height x kernel width), which row by row is that of a linear layer over windows.
    ///
    /// # Errors
    /// As [`parameter`](Self::parameter).
    pub async fn convolution(
        &self,
        name: String,
        key: &str,
        [d_out, channels]: [usize; 2],
        windows: Windows,
        bias: bool,
    ) -> Result<Projection> {
        let [height, width] = windows.kernel;
        let weight = self
            .weight(
                &format!("{key}.weight"),
                &[d_out, channels, height, width],
                [d_out, channels * windows.places()],
            )
            .await?;
        let bias = if bias {
            Some(self.parameter(&format!("{key}.bias"), &[d_out]).await?)
        } else {
            None
        };
        Ok(Projection {
            windows: Some(windows),
            ..self.linear_of(name, weight, bias)
        })
    }

    /// A linear layer from parameters already read.
    pub fn linear_of(&self, name: String, weight: RawWeight, bias: Option<Vec<f32>>) -> Projection {
        let keep = self.keep_host.is_some_and(|names| names.contains(&name));
        let weight = Rc::new(weight);
        Projection {
            name,
            weight: self.compute.weight_of(&weight, self.stays),
            bias: bias.map(|bias| self.compute.bias(bias)),
            host: keep.then_some(weight),
            windows: None,
        }
    }

    /// Rows `ids` of an embedding table (size x width), one after another, without holding the table.
    ///
    /// # Errors
    /// [`Code::SamplesInvalid`] for an id outside the table, and as [`parameter`](Self::parameter).
    pub async fn rows(&self, key: &str, size: usize, width: usize, ids: &[u32]) -> Result<Vec<f32>> {
        let found = &self.checkpoint.require(key)?.shape;
        if *found != [size, width] {
            return Err(shape_mismatch(key, &[size, width], found));
        }
        if let Some(id) = ids.iter().find(|&&id| id as usize >= size) {
            return Err(Error::new(
                Code::SamplesInvalid,
                format!(
                    "a sample needs row {id} of a table that has {size}; the tokenizer is of another model, or the sample is too long; tensor: {key}"
                ),
            ));
        }
        let mut order: Vec<(usize, usize)> = ids
            .iter()
            .enumerate()
            .map(|(at, &id)| (id as usize, at))
            .collect();
        order.sort_unstable();
        let mut out = vec![0.0; ids.len() * width];
        let mut rest = order.as_slice();
        while let Some(&(first, _)) = rest.first() {
            // Ids that lie close together are read at once.
            let mut end = first + 1;
            let count = rest
                .iter()
                .take_while(|(id, _)| {
                    let near = *id <= end + ROWS_APART && *id < first + ROWS_AT_ONCE;
                    if near {
                        end = id + 1;
                    }
                    near
                })
                .count();
            let part = self.checkpoint.f32_range(key, first * width..end * width).await?;
            for (id, at) in &rest[..count] {
                let from = (id - first) * width;
                out[at * width..(at + 1) * width].copy_from_slice(&part[from..from + width]);
            }
            rest = &rest[count..];
        }
        Ok(out)
    }

    /// For every token the sum of its rows in several tables (size x width), which it has by ids of its own in each: of
    /// words, of positions. (tokens x width)
    ///
    /// # Errors
    /// As [`rows`](Self::rows).
    pub async fn embedded(&self, tables: &[(String, usize, &[u32])], width: usize) -> Result<Tensor<2>> {
        let mut sum: Vec<f32> = Vec::new();
        for (key, size, ids) in tables {
            let rows = self.rows(key, *size, width, ids).await?;
            if sum.is_empty() {
                sum = rows;
            } else {
                sum.iter_mut().zip(rows).for_each(|(sum, x)| *sum += x);
            }
        }
        let tokens = sum.len() / width;
        Ok(self.compute.tensor(sum, tokens, width))
    }

    /// A root-mean-square normalisation; `offset` is added to its weight (1 for Gemma, whose checkpoints
    /// have the difference from one).
    ///
    /// # Errors
    /// As [`parameter`](Self::parameter).
    pub async fn rms_norm(&self, key: &str, width: usize, epsilon: f32, offset: f32) -> Result<RmsNorm> {
        let mut weight = self.parameter(&format!("{key}.weight"), &[width]).await?;
        weight.iter_mut().for_each(|x| *x += offset);
        Ok(RmsNorm { weight, epsilon })
    }

    /// A layer normalisation without a bias.
    ///
    /// # Errors
    /// As [`parameter`](Self::parameter).
    pub async fn scale_norm(&self, key: &str, width: usize, epsilon: f32) -> Result<LayerNorm> {
        Ok(LayerNorm {
            gamma: self.parameter(&format!("{key}.weight"), &[width]).await?,
            beta: vec![0.0; width],
            epsilon,
        })
    }

    /// A layer normalisation, under PyTorch's parameter names or TensorFlow's (`gamma`, `beta`).
    ///
    /// # Errors
    /// As [`parameter`](Self::parameter).
    pub async fn layer_norm(&self, key: &str, width: usize, epsilon: f32) -> Result<LayerNorm> {
        let legacy = format!("{key}.gamma");
        let (gamma, beta) = if self.checkpoint.info(&legacy).is_some() {
            (legacy, format!("{key}.beta"))
        } else {
            (format!("{key}.weight"), format!("{key}.bias"))
        };
        Ok(LayerNorm {
            gamma: self.parameter(&gamma, &[width]).await?,
            beta: self.parameter(&beta, &[width]).await?,
            epsilon,
        })
    }
}
