//! The inputs and outputs of linear layers, as lanes and merge methods work on them.

use std::{ops::Range, rc::Rc};

use burn::{backend::Dispatch, tensor::Tensor};

use crate::{
    compute::{
        gemm::{self, Packed, View},
        kernels::{
            delta::{DeltaJob, LowRankDelta},
            matmul::Matmul,
        },
        raw::RawWeight,
        read, slice,
    },
    error::Result,
};

/// A linear layer's weight, laid out for its device.
pub enum Weight {
    /// For the CPU kernels: W^T in panels.
    Host(Packed<f32>),
    /// For the CPU kernels: W as the file has it, packed at every use.
    Raw(Rc<RawWeight>),
    /// For the kernels of a GPU: W (d_out x d_in).
    Device(Tensor<2>),
}

impl Weight {
    pub(super) fn packed(data: &[f32], d_out: usize, d_in: usize) -> Self {
        Self::Host(Packed::new(View::new(data, d_out, d_in).transposed()))
    }

    /// Columns of the product: the layer's outputs.
    pub fn d_out(&self) -> usize {
        match self {
            Self::Host(packed) => packed.columns(),
            Self::Raw(raw) => raw.d_out(),
            Self::Device(tensor) => tensor.dims()[0],
        }
    }

    /// Multiplications and additions of `rows` products; in f64, since such counts pass what wasm's usize
    /// holds.
    pub fn operations(&self, rows: usize) -> f64 {
        2.0 * rows as f64 * self.d_in() as f64 * self.d_out() as f64
    }

    /// The layer's inputs.
    pub fn d_in(&self) -> usize {
        match self {
            Self::Host(packed) => packed.depth(),
            Self::Raw(raw) => raw.d_in(),
            Self::Device(tensor) => tensor.dims()[1],
        }
    }
}

/// Rows of features (rows x columns): one row a token of a lane.
pub enum Features {
    /// In memory, row-major.
    Host {
        /// rows x columns numbers.
        data: Vec<f32>,
        /// Numbers a row.
        columns: usize,
    },
    /// On the device.
    Device(Tensor<2>),
}

impl Features {
    pub(super) fn host((data, columns): (Vec<f32>, usize)) -> Self {
        Self::Host { data, columns }
    }

    pub(super) const fn device(tensor: Tensor<2>) -> Self {
        Self::Device(tensor)
    }

    /// Numbers a row.
    pub fn columns(&self) -> usize {
        match self {
            Self::Host { columns, .. } => *columns,
            Self::Device(tensor) => tensor.dims()[1],
        }
    }

    /// How many rows.
    pub fn rows(&self) -> usize {
        match self {
            Self::Host { data, columns } => data.len() / columns,
            Self::Device(tensor) => tensor.dims()[0],
        }
    }

    /// All rows.
    pub fn all(&self) -> Range<usize> {
        0..self.rows()
    }

    /// `self[rows] W^T` (rows x d_out).
    pub fn project(&self, rows: Range<usize>, weight: &Weight) -> Self {
        match (self, weight) {
            (Self::Host { data, columns }, Weight::Host(packed)) => {
                multiply_host(data, *columns, rows, weight, |left, out| {
                    gemm::multiply_packed(left, packed, 1.0, out);
                })
            }
            (Self::Host { data, columns }, Weight::Raw(raw)) => {
                multiply_host(data, *columns, rows, weight, |left, out| {
                    gemm::multiply_source(left, raw.as_ref(), out);
                })
            }
            (Self::Device(tensor), Weight::Device(weight)) => {
                let (x, weight) = (tensor.clone().into_dispatch(), weight.clone().into_dispatch());
                let product = <Dispatch as Matmul>::project(x, rows.start, rows.len(), weight);
                Self::Device(Tensor::from_dispatch(product))
            }
            _ => unreachable!("features and weights of one Compute are of one kind"),
        }
    }

    /// The given rows, one after another.
    pub fn gather(&self, rows: &[usize]) -> Self {
        match self {
            Self::Host { data, columns } => Self::Host {
                data: rows
                    .iter()
                    .flat_map(|row| &data[row * columns..(row + 1) * columns])
                    .copied()
                    .collect(),
                columns: *columns,
            },
            Self::Device(tensor) => {
                let rows = super::attention::indices(rows, &tensor.device());
                Self::Device(tensor.clone().select(0, rows))
            }
        }
    }

    /// `self[rows] += factor x[from] A^T B^T`, of as many rows of `x`, A (r x d_in) and B (d_out x r).
    pub fn add_low_rank(
        &mut self,
        rows: Range<usize>,
        (x, from): (&Self, Range<usize>),
        [a, b]: [&Weight; 2],
        factor: f32,
    ) {
        let (Self::Device(out), Self::Device(x), Weight::Device(a), Weight::Device(b)) =
            (&mut *self, x, a, b)
        else {
            let low = x.project(from, a);
            return self.add_to_rows(rows, low.project(low.all(), b), factor);
        };
        let job = DeltaJob {
            from: from.start,
            to: rows.start,
            rows: rows.len(),
            factor,
        };
        let [x, a, b] = [x, a, b].map(|tensor| tensor.clone().into_dispatch());
        out.inplace(|out| {
            let sum = <Dispatch as LowRankDelta>::add_low_rank(out.into_dispatch(), x, a, b, job);
            Tensor::from_dispatch(sum)
        });
    }

    /// `self[rows] += factor * other`.
    pub fn add_to_rows(&mut self, rows: Range<usize>, other: Self, factor: f32) {
        match (self, other) {
            (Self::Host { data, columns }, Self::Host { data: other, .. }) => {
                let target = &mut data[rows.start * *columns..rows.end * *columns];
                target
                    .iter_mut()
                    .zip(other)
                    .for_each(|(to, value)| *to += factor * value);
            }
            (Self::Device(tensor), Self::Device(other)) => {
                let other = other * factor;
                let [count, columns] = tensor.dims();
                tensor.inplace(|tensor| {
                    if rows.len() == count {
                        return tensor + other;
                    }
                    let sum = slice(&tensor, rows.clone()) + other;
                    tensor.slice_assign([rows, 0..columns], sum)
                });
            }
            _ => unreachable!("features of one Compute are of one kind"),
        }
    }

    /// Adds the same vector to every row.
    pub fn add_bias(&mut self, bias: &Bias) {
        match (self, bias) {
            (Self::Host { data, columns }, Bias::Host(bias)) => {
                for row in data.chunks_exact_mut(*columns) {
                    row.iter_mut().zip(bias).for_each(|(to, value)| *to += value);
                }
            }
            (Self::Device(tensor), Bias::Device(bias)) => tensor.inplace(|tensor| tensor + bias.clone()),
            _ => unreachable!("features and biases of one Compute are of one kind"),
        }
    }

    /// The sum of squares of `self[rows]`.
    ///
    /// # Errors
    /// If the device cannot be read.
    pub async fn sum_of_squares(&self, rows: Range<usize>) -> Result<f64> {
        match self {
            Self::Host { data, columns } => Ok(squares(&data[rows.start * columns..rows.end * columns])),
            Self::Device(tensor) => {
                // A sum a row, so that f32 adds few terms; the rows are added in f64.
                let sums = read(slice(tensor, rows).square().sum_dim(1)).await?;
                Ok(sums.into_iter().map(f64::from).sum())
            }
        }
    }

    /// The sum of squares of `self - other`, for features of one shape.
    ///
    /// # Errors
    /// If the device cannot be read.
    pub async fn squared_distance(self, other: Self) -> Result<f64> {
        match (self, other) {
            (Self::Host { data, .. }, Self::Host { data: other, .. }) => Ok(data
                .iter()
                .zip(other)
                .map(|(a, b)| (f64::from(*a) - f64::from(b)).powi(2))
                .sum()),
            (Self::Device(a), Self::Device(b)) => {
                let rows = a.dims()[0];
                Box::pin(Self::Device(a - b).sum_of_squares(0..rows)).await
            }
            _ => unreachable!("features of one Compute are of one kind"),
        }
    }
}

/// The product that `multiply` adds to zeros, for some rows in memory.
fn multiply_host(
    data: &[f32],
    columns: usize,
    rows: Range<usize>,
    weight: &Weight,
    multiply: impl FnOnce(View<'_, f32>, &mut [f32]),
) -> Features {
    let left = &data[rows.start * columns..rows.end * columns];
    let mut out = vec![0.0; rows.len() * weight.d_out()];
    multiply(View::new(left, rows.len(), columns), &mut out);
    Features::host((out, weight.d_out()))
}

/// A layer's bias, where its features are.
pub enum Bias {
    /// In memory.
    Host(Vec<f32>),
    /// On the device, (1 x d_out).
    Device(Tensor<2>),
}

/// The sum of squares, in f64.
pub fn squares(values: &[f32]) -> f64 {
    values
        .chunks(4096)
        .map(|chunk| chunk.iter().map(|&x| f64::from(x) * f64::from(x)).sum::<f64>())
        .sum()
}
