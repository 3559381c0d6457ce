//! Attention over packed rows.
//!
//! Hidden states hold only real tokens (padding rows are not computed), so a sample is a run of rows
//! and attention is the one operator that must know where samples begin. The CPU goes sample by sample,
//! the GPU tile by tile ([`super::kernels`]). Keys may come from another place than queries: an encoder's
//! output, or the cache of a generation ([`super::cache`]).

use std::{ops::Range, rc::Rc};

use burn::tensor::{Device, Int, Tensor, TensorData};

use crate::compute::{
    gemm::{Part, View, multiply},
    pointwise::{soft_cap, softmax},
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

/// How far a token sees, in tokens of its own sample.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sight {
    /// The furthest token before it.
    pub back: usize,
    /// The furthest token after it.
    pub ahead: usize,
}

impl Sight {
    /// Every token sees every other.
    pub const FULL: Self = Self {
        back: usize::MAX,
        ahead: usize::MAX,
    };
    /// A token sees itself and all before it.
    pub const CAUSAL: Self = Self {
        back: usize::MAX,
        ahead: 0,
    };

    /// Those of `keys` keys that a query sees.
    fn keys(self, query: usize, keys: usize) -> Range<usize> {
        let end = query.saturating_add(self.ahead).saturating_add(1).min(keys);
        query.saturating_sub(self.back).min(end)..end
    }
}

/// A number a head and a distance that is added to scores (T5's relative position bias).
pub struct DistanceBias {
    /// (buckets x heads), row-major.
    pub table: Vec<f32>,
    /// The bucket of `key position - query position`.
    pub bucket: Box<dyn Fn(isize) -> usize>,
}

/// The mathematics of an attention: softmax(cap(Q K^T scale) + bias + mask) V, a head at a time.
#[derive(Clone)]
pub struct Attention {
    /// Query heads; a query row is `heads * head_size` wide.
    pub heads: usize,
    /// Key and value heads, a divisor of `heads`: each serves `heads / key_heads` consecutive query heads.
    pub key_heads: usize,
    /// Width of a head.
    pub head_size: usize,
    /// Factor of the scores, usually 1 / sqrt(head_size).
    pub scale: f32,
    /// Which keys a query sees.
    pub sight: Sight,
    /// `cap * tanh(score / cap)` (Gemma 2), before the mask.
    pub soft_cap: Option<f32>,
    /// Added to the scores, before the mask.
    pub bias: Option<Rc<DistanceBias>>,
}

impl Attention {
    /// Plain multi-head attention in which every token sees every other.
    pub fn full(heads: usize, head_size: usize) -> Self {
        Self {
            heads,
            key_heads: heads,
            head_size,
            scale: 1.0 / (head_size as f32).sqrt(),
            sight: Sight::FULL,
            soft_cap: None,
            bias: None,
        }
    }

    /// Width of a key or value row.
    pub const fn key_columns(&self) -> usize {
        self.key_heads * self.head_size
    }

    /// Bias of one head by `key - query + queries_end - 1`, for queries below `queries_end` and keys below
    /// `keys_end`.
    pub(super) fn biases(&self, queries_end: usize, keys_end: usize) -> Vec<Vec<f32>> {
        let Some(bias) = &self.bias else {
            return Vec::new();
        };
        let reach = queries_end.max(1) - 1;
        let buckets: Vec<usize> = (0..reach + keys_end)
            .map(|at| (bias.bucket)(at.cast_signed() - reach.cast_signed()))
            .collect();
        (0..self.heads)
            .map(|head| {
                buckets
                    .iter()
                    .map(|bucket| bias.table[bucket * self.heads + head])
                    .collect()
            })
            .collect()
    }
}

/// One sample's queries and the keys and values that they attend to, in memory.
pub(super) struct Span<'a> {
    /// Its query rows, among all of them.
    pub(super) queries: Range<usize>,
    /// Position of its first query among the keys.
    pub(super) first: usize,
    /// (n x key columns), row-major.
    pub(super) keys: &'a [f32],
    /// As `keys`.
    pub(super) values: &'a [f32],
}

/// The spans of samples whose keys are rows of one matrix.
pub(super) fn spans<'a>(
    queries: &[Sequence],
    keys: &[Sequence],
    (key, value): (&'a [f32], &'a [f32]),
    columns: usize,
) -> Vec<Span<'a>> {
    queries
        .iter()
        .zip(keys)
        .map(|(from, to)| {
            let rows = to.start * columns..(to.start + to.attended) * columns;
            Span {
                queries: from.start..from.start + from.length,
                first: 0,
                keys: &key[rows.clone()],
                values: &value[rows],
            }
        })
        .collect()
}

/// Attention on the CPU; `query` is (rows x heads * head_size), and so is the result.
pub(super) fn on_host(query: &[f32], spans: &[Span<'_>], how: &Attention) -> Vec<f32> {
    let (size, columns, key_columns) = (how.head_size, how.heads * how.head_size, how.key_columns());
    let group = how.heads / how.key_heads;
    let longest = |length: fn(&Span<'_>) -> usize| spans.iter().map(length).max().unwrap_or(0);
    let queries_end = longest(|span| span.first + span.queries.len());
    let biases = how.biases(queries_end, longest(|span| span.keys.len()) / key_columns);
    let mut out = vec![0.0; query.len()];
    let mut scores = Vec::new();
    for span in spans {
        let rows = span.queries.len();
        let attended = span.keys.len() / key_columns;
        if rows == 0 || attended == 0 {
            continue;
        }
        for head in 0..how.heads {
            let first = span.queries.start * columns + head * size;
            let last = span.queries.end * columns;
            let shared = head / group * size;
            let keys = |data| View::strided(data, attended, size, key_columns);
            scores.clear();
            scores.resize(rows * attended, 0.0);
            multiply(
                View::strided(&query[first..last], rows, size, columns),
                keys(&span.keys[shared..]).transposed(),
                how.scale,
                Part::Full,
                &mut scores,
                attended,
            );
            for (row, scores) in scores.chunks_exact_mut(attended).enumerate() {
                let at = span.first + row;
                if let Some(cap) = how.soft_cap {
                    soft_cap(scores, cap);
                }
                if let Some(bias) = biases.get(head) {
                    let bias = &bias[queries_end - 1 - at..];
                    scores.iter_mut().zip(bias).for_each(|(x, b)| *x += b);
                }
                let seen = how.sight.keys(at, attended);
                if seen.is_empty() {
                    // A padding row out of every token's sight: as in transformers, all alike.
                    scores.fill(1.0 / attended as f32);
                    continue;
                }
                scores[..seen.start].fill(0.0);
                scores[seen.end..].fill(0.0);
                softmax(&mut scores[seen]);
            }
            multiply(
                View::new(&scores, rows, attended),
                keys(&span.values[shared..]),
                1.0,
                Part::Full,
                &mut out[first..last],
                columns,
            );
        }
    }
    out
}

/// The rows of keys that one sample's queries attend to, on the device.
pub(super) struct KeyRows {
    /// Position of the sample's first query among them.
    pub(super) first: usize,
    /// Row indices, in the order of positions.
    pub(super) rows: Vec<usize>,
}

impl KeyRows {
    pub(super) fn of(keys: &[Sequence]) -> Vec<Self> {
        keys.iter()
            .map(|to| Self {
                first: 0,
                rows: (to.start..to.start + to.attended).collect(),
            })
            .collect()
    }
}

pub(super) fn indices(indices: &[usize], device: &Device) -> Tensor<1, Int> {
    let data: Vec<i32> = indices
        .iter()
        .map(|&i| i32::try_from(i).unwrap_or(i32::MAX))
        .collect();
    let length = data.len();
    Tensor::from_data(TensorData::new(data, [length]), device)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_keys_in_sight_are_those_that_are_seen() {
        let window = |back, ahead| Sight { back, ahead };
        for sight in [
            Sight::FULL,
            Sight::CAUSAL,
            window(2, 0),
            window(3, 3),
            window(0, 0),
        ] {
            for (query, keys) in [(0, 1), (0, 9), (4, 9), (8, 9), (11, 9), (20, 9)] {
                let sees = |key: usize| {
                    if key <= query {
                        query - key <= sight.back
                    } else {
                        key - query <= sight.ahead
                    }
                };
                let seen: Vec<usize> = (0..keys).filter(|&key| sees(key)).collect();
                assert_eq!(
                    sight.keys(query, keys).collect::<Vec<_>>(),
                    seen,
                    "{sight:?} {query}"
                );
            }
        }
    }
}
