//! Products of matrices to f64 accuracy on a device that has only f32.
//!
//! A Gram matrix rounded to f32 is not good enough: features behind a layer normalisation lie in a
//! plane, so in one direction only the ridge (1e-5 of the norm) holds the matrix, and a rounding of 6e-8
//! is magnified there a hundred thousand times. So each factor is cut into slices of few bits whose
//! products and sums f32 holds exactly, whatever the order of summation (K. Ozaki, T. Ogita, S. Oishi,
//! S. M. Rump, Numerical Algorithms 59, 2012); those sums are added up on the device in two halves of
//! twelve bits, and assembled in f64 here.

use std::ops::Range;

use burn::tensor::Tensor;

use crate::{
    compute::{gemm::Part, read, slice},
    error::{Code, Error, Result},
};

/// Bits of a slice. Two slices' products have at most 2 * 8 bits, and `CHUNK` of them add up within the
/// 24 bits of an f32.
const BITS: i32 = 8;
/// Rows summed by one product of slices.
const CHUNK: usize = 256;
/// Such sums are kept as `HALF * high + low`; each half of `CHUNKS` of them adds up within 24 bits.
const HALF: f32 = 4096.0;
const CHUNKS: usize = 2048;
/// Slices of a factor: 3 * 8 bits are an f32's 24.
const SLICES: usize = 3;

/// Pairs of slices whose product counts; what is left out is below 2^-34 of the largest product.
const PAIRS: [(usize, usize); 8] = [(0, 0), (0, 1), (1, 0), (0, 2), (2, 0), (1, 1), (1, 2), (2, 1)];

/// `out += left[left_rows]^T right[right_rows]`; [`Part::Lower`] is for a factor with itself.
pub(super) async fn accumulate(
    (left, left_rows): (&Tensor<2>, Range<usize>),
    (right, right_rows): (&Tensor<2>, Range<usize>),
    part: Part,
    out: &mut [f64],
) -> Result<()> {
    let symmetric = part == Part::Lower;
    for start in (0..left_rows.len()).step_by(CHUNK * CHUNKS) {
        let end = left_rows.len().min(start + CHUNK * CHUNKS);
        let a = Sliced::new(slice(left, left_rows.start + start..left_rows.start + end)).await?;
        let b = if symmetric {
            None
        } else {
            Some(Sliced::new(slice(right, right_rows.start + start..right_rows.start + end)).await?)
        };
        let b = b.as_ref().unwrap_or(&a);
        // With itself, a pair and its mirror image give each other's transpose.
        for &(i, j) in PAIRS.iter().filter(|(i, j)| !symmetric || i <= j) {
            let sums = a.product(b, i, j).await?;
            let unit = a.unit(i) * b.unit(j);
            add(&sums, unit, symmetric && i != j, b.columns(), out);
        }
    }
    Ok(())
}

fn add(sums: &[f64], unit: f64, mirrored: bool, columns: usize, out: &mut [f64]) {
    for (out, &sum) in out.iter_mut().zip(sums) {
        *out += unit * sum;
    }
    if mirrored {
        for (row, out) in out.chunks_exact_mut(columns).enumerate() {
            for (column, out) in out.iter_mut().enumerate() {
                *out += unit * sums[column * columns + row];
            }
        }
    }
}

/// A matrix as scale * (q0 + q1 2^-8 + q2 2^-16), every q an integer of at most 8 bits and a sign.
struct Sliced {
    slices: Vec<Tensor<2>>,
    /// The exponent of the scale.
    exponent: i32,
}

impl Sliced {
    async fn new(x: Tensor<2>) -> Result<Self> {
        let largest = read(x.clone().abs().max()).await?[0];
        if !largest.is_finite() {
            return Err(Error::new(
                Code::NotFinite,
                "the features of a layer overflow f32 on this device; check the adapters, or choose the CPU",
            ));
        }
        // The power of two at or above the largest magnitude, so that scaling rounds nothing. Below the
        // normal range there is nothing to gain.
        let above = (largest.max(f32::MIN_POSITIVE).to_bits() >> 23).cast_signed() - 126;
        let exponent = above - BITS;
        let mut rest = x * 2f32.powi(-exponent.max(-100)) * 2f32.powi(-exponent.min(-100) - 100);
        let mut slices = Vec::with_capacity(SLICES);
        for _ in 0..SLICES {
            let slice = rest.clone().round();
            rest = (rest - slice.clone()) * 2f32.powi(BITS);
            slices.push(slice);
        }
        Ok(Self { slices, exponent })
    }

    fn columns(&self) -> usize {
        self.slices[0].dims()[1]
    }

    /// What one unit of slice `i` stands for.
    fn unit(&self, i: usize) -> f64 {
        2f64.powi(self.exponent) / 2f64.powi(BITS).powf(i as f64)
    }

    /// The exact sum over rows of slice `i` times `other`'s slice `j`, row-major.
    async fn product(&self, other: &Self, i: usize, j: usize) -> Result<Vec<f64>> {
        let rows = self.slices[i].dims()[0];
        let mut sum: Option<[Tensor<2>; 2]> = None;
        for start in (0..rows).step_by(CHUNK) {
            let range = start..rows.min(start + CHUNK);
            let (a, b) = (
                slice(&self.slices[i], range.clone()),
                slice(&other.slices[j], range),
            );
            let product = a.transpose().matmul(b);
            let high = (product.clone() * (1.0 / HALF)).round();
            let low = product - high.clone() * HALF;
            sum = Some(match sum {
                Some([highs, lows]) => [highs + high, lows + low],
                None => [high, low],
            });
        }
        let Some([high, low]) = sum else {
            return Ok(Vec::new());
        };
        let (high, low) = (read(high).await?, read(low).await?);
        let join = |(high, low): (f32, f32)| f64::from(HALF) * f64::from(high) + f64::from(low);
        Ok(high.into_iter().zip(low).map(join).collect())
    }
}
