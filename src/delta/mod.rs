//! What an adapter, or a merge, adds to one parameter of the base model: low-rank factors where they are exact, a
//! dense matrix elsewhere.

mod device;
mod message;
mod norm;

pub use self::{
    device::{DeviceDelta, on_device},
    norm::adapted_weight_norm,
};
use std::ops::Range;

use crate::compute::{Compute, gemm, narrow, transpose};

/// What is added to one parameter, seen as a (d_out x d_in) matrix.
#[derive(Debug, Clone, PartialEq)]
pub enum Delta {
    /// B A, the scaling inside B.
    LowRank(LowRank),
    /// A dense matrix.
    Dense(Dense),
}

/// A dense matrix.
#[derive(Debug, Clone, PartialEq)]
pub struct Dense {
    /// The numbers (d_out x d_in), row-major.
    pub data: Vec<f32>,
    /// Rows.
    pub d_out: usize,
    /// Columns.
    pub d_in: usize,
}

/// Low-rank factors of a delta: B A, with the scaling inside B.
#[derive(Debug, Clone, PartialEq)]
pub struct LowRank {
    /// A (rank x d_in), row-major.
    pub a: Vec<f32>,
    /// B (d_out x rank), row-major.
    pub b: Vec<f32>,
    /// The rank.
    pub rank: usize,
    /// Outputs.
    pub d_out: usize,
    /// Inputs.
    pub d_in: usize,
}

impl Delta {
    /// The delta on a device.
    pub fn to_device(&self, compute: &Compute) -> DeviceDelta {
        match self {
            Self::LowRank(factors) => factors.to_device(compute),
            Self::Dense(dense) => DeviceDelta::Dense(compute.weight(&dense.data, dense.d_out, dense.d_in)),
        }
    }

    /// Rows and columns.
    pub const fn shape(&self) -> (usize, usize) {
        match self {
            Self::LowRank(factors) => (factors.d_out, factors.d_in),
            Self::Dense(dense) => (dense.d_out, dense.d_in),
        }
    }

    /// The largest rank it can have.
    pub fn rank(&self) -> usize {
        match self {
            Self::LowRank(factors) => factors.rank,
            Self::Dense(dense) => dense.d_out.min(dense.d_in),
        }
    }

    /// The factors, if it is kept as such.
    pub const fn as_low_rank(&self) -> Option<&LowRank> {
        match self {
            Self::LowRank(factors) => Some(factors),
            Self::Dense(_) => None,
        }
    }

    /// The factors, if it is kept as such, in place of itself.
    pub fn into_low_rank(self) -> Option<LowRank> {
        match self {
            Self::LowRank(factors) => Some(factors),
            Self::Dense(_) => None,
        }
    }

    /// All its numbers (d_out x d_in), row-major.
    pub fn dense(&self) -> Vec<f32> {
        match self {
            Self::LowRank(factors) => factors.dense(),
            Self::Dense(dense) => dense.data.clone(),
        }
    }

    /// All its numbers (d_out x d_in), row-major, in place of itself.
    pub fn into_dense(self) -> Vec<f32> {
        match self {
            Self::LowRank(factors) => factors.dense(),
            Self::Dense(dense) => dense.data,
        }
    }

    /// `factor` times the delta.
    #[must_use]
    pub fn scaled(&self, factor: f64) -> Self {
        match self {
            Self::LowRank(factors) => Self::LowRank(factors.scaled(factor)),
            Self::Dense(dense) => Self::Dense(Dense {
                data: dense
                    .data
                    .iter()
                    .map(|&x| narrow(f64::from(x) * factor))
                    .collect(),
                ..*dense
            }),
        }
    }

    /// `sum_i factor_i delta_i` of deltas of one shape: stacked factors if all are factors, else dense.
    ///
    /// # Panics
    /// If there are none.
    pub fn sum<'a>(parts: impl IntoIterator<Item = (f64, &'a Self)>) -> Self {
        let parts: Vec<_> = parts.into_iter().collect();
        let factors: Option<Vec<(f64, &LowRank)>> = parts
            .iter()
            .map(|(factor, delta)| Some((*factor, delta.as_low_rank()?)))
            .collect();
        if let Some(factors) = factors {
            return Self::LowRank(LowRank::sum(&factors));
        }
        let (d_out, d_in) = parts[0].1.shape();
        let mut sum = vec![0.0f64; d_out * d_in];
        for (factor, delta) in parts {
            delta.add_to(factor, &mut sum);
        }
        Self::Dense(Dense {
            data: sum.into_iter().map(narrow).collect(),
            d_out,
            d_in,
        })
    }

    /// Adds `factor` times the delta to a (d_out x d_in) sum.
    pub fn add_to(&self, factor: f64, sum: &mut [f64]) {
        match self {
            Self::LowRank(factors) => factors.add_to(factor, sum),
            Self::Dense(dense) => sum
                .iter_mut()
                .zip(&dense.data)
                .for_each(|(sum, &x)| *sum += factor * f64::from(x)),
        }
    }
}

impl LowRank {
    /// The factors on a device.
    pub fn to_device(&self, compute: &Compute) -> DeviceDelta {
        DeviceDelta::LowRank {
            a: compute.weight(&self.a, self.rank, self.d_in),
            b: compute.weight(&self.b, self.d_out, self.rank),
        }
    }

    /// `factor` times the delta.
    #[must_use]
    pub fn scaled(&self, factor: f64) -> Self {
        Self::sum(&[(factor, self)])
    }

    /// [f_1 B_1 … f_N B_N] [A_1; …; A_N]: the sum of deltas of one shape, exactly.
    ///
    /// # Panics
    /// If there are none.
    pub fn sum(parts: &[(f64, &Self)]) -> Self {
        let (d_out, d_in) = (parts[0].1.d_out, parts[0].1.d_in);
        let rank = parts.iter().map(|(_, part)| part.rank).sum();
        let mut a = Vec::with_capacity(rank * d_in);
        parts.iter().for_each(|(_, part)| a.extend_from_slice(&part.a));
        Self {
            a,
            b: Self::upper_sum(parts),
            rank,
            d_out,
            d_in,
        }
    }

    /// [f_1 B_1 … f_N B_N], the upper factor of a sum.
    ///
    /// # Panics
    /// If there are none.
    pub fn upper_sum(parts: &[(f64, &Self)]) -> Vec<f32> {
        let rank: usize = parts.iter().map(|(_, part)| part.rank).sum();
        let mut b = vec![0.0; parts[0].1.d_out * rank];
        let mut column = 0;
        for &(factor, part) in parts {
            let rows = b
                .chunks_exact_mut(rank.max(1))
                .zip(part.b.chunks_exact(part.rank.max(1)));
            for (to, from) in rows {
                let to = &mut to[column..column + from.len()];
                if factor == 1.0 {
                    to.copy_from_slice(from);
                } else {
                    to.iter_mut()
                        .zip(from)
                        .for_each(|(to, &x)| *to = narrow(f64::from(x) * factor));
                }
            }
            column += part.rank;
        }
        b
    }

    /// Whether all have one lower factor, bit for bit.
    pub fn share_lower(parts: &[&Self]) -> bool {
        let Some((first, others)) = parts.split_first() else {
            return false;
        };
        let same_bits = |(x, y): (&f32, &f32)| x.to_bits() == y.to_bits();
        let same = |other: &&Self| other.rank == first.rank && other.a.iter().zip(&first.a).all(same_bits);
        others.iter().all(same)
    }

    /// Deltas of outputs that lie under each other as one delta, with the lower factor that they share.
    ///
    /// # Panics
    /// If there are none.
    pub fn with_one_lower(parts: &[&Self]) -> Self {
        Self {
            a: parts[0].a.clone(),
            b: parts.iter().flat_map(|part| &part.b).copied().collect(),
            rank: parts[0].rank,
            d_out: parts.iter().map(|part| part.d_out).sum(),
            d_in: parts[0].d_in,
        }
    }

    /// The same of deltas that each have directions of their own: lower factors stacked, the upper one block-diagonal.
    /// Where a part is absent its outputs, of which `heights` tells the number, change by nothing.
    pub fn block_diagonal(parts: &[Option<&Self>], heights: &[usize], d_in: usize) -> Self {
        let d_out = heights.iter().sum();
        let rank = parts.iter().flatten().map(|part| part.rank).sum();
        let mut whole = Self {
            a: Vec::with_capacity(rank * d_in),
            b: vec![0.0; d_out * rank],
            rank,
            d_out,
            d_in,
        };
        let (mut row, mut column) = (0, 0);
        for (part, height) in parts.iter().zip(heights) {
            if let Some(part) = part {
                whole.a.extend_from_slice(&part.a);
                for (at, values) in part.b.chunks_exact(part.rank).enumerate() {
                    let start = (row + at) * rank + column;
                    whole.b[start..start + part.rank].copy_from_slice(values);
                }
                column += part.rank;
            }
            row += height;
        }
        whole
    }

    /// The same delta with rows and columns of zeros up to `rank`.
    #[must_use]
    pub fn padded(mut self, rank: usize) -> Self {
        if rank > self.rank {
            let mut b = vec![0.0; self.d_out * rank];
            for (to, from) in b.chunks_exact_mut(rank).zip(self.b.chunks_exact(self.rank)) {
                to[..self.rank].copy_from_slice(from);
            }
            self.a.resize(rank * self.d_in, 0.0);
            self.b = b;
            self.rank = rank;
        }
        self
    }

    /// The transposed delta, (d_in x d_out).
    #[must_use]
    pub fn transposed(self) -> Self {
        Self {
            a: transpose(&self.b, self.d_out, self.rank),
            b: transpose(&self.a, self.rank, self.d_in),
            rank: self.rank,
            d_out: self.d_in,
            d_in: self.d_out,
        }
    }

    /// Some rows of the dense delta (rows x d_in), in f32. The same rows have the same bits whenever they are formed.
    pub fn rows(&self, rows: Range<usize>) -> Vec<f32> {
        let b = &self.b[rows.start * self.rank..rows.end * self.rank];
        let b = gemm::View::new(b, rows.len(), self.rank);
        gemm::product(b, gemm::View::new(&self.a, self.rank, self.d_in))
    }

    /// The dense (d_out x d_in) delta.
    pub fn dense(&self) -> Vec<f32> {
        let mut sum = vec![0.0f64; self.d_out * self.d_in];
        self.add_to(1.0, &mut sum);
        sum.into_iter().map(narrow).collect()
    }

    /// Adds `factor` times the product to a (d_out x d_in) sum.
    pub fn add_to(&self, factor: f64, sum: &mut [f64]) {
        let b = gemm::View::new(&self.b, self.d_out, self.rank);
        let a = gemm::View::new(&self.a, self.rank, self.d_in);
        gemm::multiply(b, a, factor, gemm::Part::Full, sum, self.d_in);
    }
}
