//! Methods that look at each number of the dense changes: rows are formed a few at a time, from the factors and in
//! f64, and only the result is dense.

use crate::{
    binding::Part,
    compute::{gemm, narrow},
    delta::{Delta, Dense},
    merge::methods::{
        Layer,
        prune::Pruner,
        signs::{self, Vote},
    },
};

/// Numbers of one task that are formed at a time: they stay in the cache.
const BLOCK_NUMBERS: usize = 1 << 16;

/// How the pruned changes become one.
#[derive(Clone, Copy)]
pub(super) enum Combine {
    /// `sum_i w_i D_i`
    Sum,
    /// TIES: the weighted mean of those that have the elected sign.
    Elect(Vote),
}

/// Prunes every task's change by what `pruner` makes of it and combines what is left.
pub(super) fn merge(layer: &Layer<'_>, pruner: impl Fn(&Part<'_>) -> Pruner, combine: Combine) -> Delta {
    let (d_out, d_in) = (layer.d_out, layer.d_in);
    let mut pruners: Vec<Pruner> = layer.parts.iter().map(pruner).collect();
    let weights: Vec<f64> = layer.parts.iter().map(|part| part.weight).collect();
    let mut data = Vec::with_capacity(d_out * d_in);
    for range in blocks(d_out, d_in) {
        let numbers: Vec<Vec<f64>> = layer
            .parts
            .iter()
            .zip(&mut pruners)
            .map(|(part, pruner)| {
                let mut rows = rows(&part.delta, range.clone());
                pruner.apply(&mut rows);
                rows
            })
            .collect();
        let merged = match combine {
            Combine::Sum => signs::sum(&numbers, &weights),
            Combine::Elect(vote) => signs::elect(&numbers, &weights, vote),
        };
        data.extend(merged.into_iter().map(narrow));
    }
    Delta::Dense(Dense { data, d_out, d_in })
}

/// Keeps the largest numbers of a change.
pub(super) fn largest(delta: &Delta, density: f64) -> Pruner {
    let (d_out, d_in) = delta.shape();
    let numbers = blocks(d_out, d_in).flat_map(|range| rows(delta, range));
    Pruner::magnitude(numbers, density)
}

fn blocks(d_out: usize, d_in: usize) -> impl Iterator<Item = std::ops::Range<usize>> {
    let step = (BLOCK_NUMBERS / d_in.max(1)).max(1);
    (0..d_out)
        .step_by(step)
        .map(move |start| start..d_out.min(start + step))
}

/// Rows of the dense change. The same rows have the same bits whenever they are formed, which a threshold needs.
fn rows(delta: &Delta, range: std::ops::Range<usize>) -> Vec<f64> {
    let (_, d_in) = delta.shape();
    match delta {
        Delta::LowRank(factors) => {
            let mut out = vec![0.0; range.len() * d_in];
            let b = &factors.b[range.start * factors.rank..range.end * factors.rank];
            let b = gemm::View::new(b, range.len(), factors.rank);
            let a = gemm::View::new(&factors.a, factors.rank, d_in);
            gemm::multiply(b, a, 1.0, gemm::Part::Full, &mut out, d_in);
            out
        }
        Delta::Dense(dense) => dense.data[range.start * d_in..range.end * d_in]
            .iter()
            .map(|&x| f64::from(x))
            .collect(),
    }
}
