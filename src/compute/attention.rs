//! Multi-head self-attention over packed rows.
//!
//! Hidden states hold only real tokens (padding rows are not computed), so a sample is a run of rows
//! and attention is the one operator that must know where samples begin. The CPU goes sample by sample;
//! the GPU gathers a padded batch, attends with a mask, and gathers back.

use burn::tensor::{Device, Int, Tensor, TensorData, activation};

use super::{
    gemm::{Part, View, multiply},
    pointwise::softmax,
};

/// The rows of one sample in a stack of features.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sequence {
    /// Its first row.
    pub start: usize,
    /// Its rows.
    pub length: usize,
    /// How many of them, from the first, are tokens that others attend to; the rest is padding.
    pub attended: usize,
}

/// softmax(Q K^T / sqrt(d)) V for every sequence and head, on the CPU.
pub(super) fn on_host(
    query: &[f32],
    key: &[f32],
    value: &[f32],
    columns: usize,
    sequences: &[Sequence],
    heads: usize,
) -> Vec<f32> {
    let size = columns / heads;
    let scale = 1.0 / (size as f32).sqrt();
    let mut out = vec![0.0; query.len()];
    let mut scores = Vec::new();
    for sequence in sequences {
        let (rows, attended) = (sequence.length, sequence.attended);
        for head in 0..heads {
            let first = sequence.start * columns + head * size;
            let last = (sequence.start + rows) * columns;
            let part = |data| View::strided(data, rows, size, columns);
            let keys = |data| View::strided(data, attended, size, columns);
            scores.clear();
            scores.resize(rows * attended, 0.0);
            multiply(
                part(&query[first..last]),
                keys(&key[first..last]).transposed(),
                scale,
                Part::Full,
                &mut scores,
                attended,
            );
            scores.chunks_exact_mut(attended).for_each(softmax);
            let weights = View::new(&scores, rows, attended);
            multiply(
                weights,
                keys(&value[first..last]),
                1.0,
                Part::Full,
                &mut out[first..last],
                columns,
            );
        }
    }
    out
}

/// The same through burn's operators.
pub(super) fn on_device(
    query: Tensor<2>,
    key: Tensor<2>,
    value: Tensor<2>,
    sequences: &[Sequence],
    heads: usize,
    device: &Device,
) -> Tensor<2> {
    let [rows, columns] = query.dims();
    let batch = sequences.len();
    let longest = sequences.iter().map(|s| s.length).max().unwrap_or(0);
    let size = columns / heads;

    // Row of the packed features at each place of the padded batch (any row where there is none).
    let gather: Vec<usize> = sequences
        .iter()
        .flat_map(|s| (0..longest).map(|i| s.start + i.min(s.length - 1)))
        .collect();
    let mask: Vec<f32> = sequences
        .iter()
        .flat_map(|s| (0..longest).map(|i| if i < s.attended { 0.0 } else { MASKED }))
        .collect();
    let mut scatter = vec![0; rows];
    for (b, s) in sequences.iter().enumerate() {
        (0..s.length).for_each(|i| scatter[s.start + i] = b * longest + i);
    }

    let gather = indices(&gather, device);
    let padded = |x: Tensor<2>| {
        x.select(0, gather.clone())
            .reshape([batch, longest, heads, size])
            .swap_dims(1, 2)
    };
    let mask = Tensor::<1>::from_data(TensorData::new(mask, [batch * longest]), device)
        .reshape([batch, 1, 1, longest]);
    let scores = padded(query).matmul(padded(key).swap_dims(2, 3)) * (1.0 / (size as f32).sqrt()) + mask;
    let out = activation::softmax(scores, 3).matmul(padded(value));
    out.swap_dims(1, 2)
        .reshape([batch * longest, columns])
        .select(0, indices(&scatter, device))
}

/// Small enough that its exponential is zero after any real score; finite, since WGSL has no infinity.
const MASKED: f32 = -1e30;

pub(super) fn indices(indices: &[usize], device: &Device) -> Tensor<1, Int> {
    let data: Vec<i32> = indices
        .iter()
        .map(|&i| i32::try_from(i).unwrap_or(i32::MAX))
        .collect();
    let length = data.len();
    Tensor::from_data(TensorData::new(data, [length]), device)
}
