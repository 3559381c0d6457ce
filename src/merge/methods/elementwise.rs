//! Methods that look at each number of the changes.
//!
//! Where the option `space` says `weights`, the numbers are those of the dense changes: runs of rows are formed from
//! the factors, in f32, and only the result is dense. Changes that are small enough together are formed once, larger
//! ones again for every look at them, with the same bits. Where it says `core`, see [`super::core_space`].

use std::ops::Range;

use crate::{
    compute::gemm::{Packed, View, multiply_packed},
    delta::{Delta, Dense},
    error::Result,
    merge::{
        methods::{
            Form, Layer, core_space,
            prune::{Dropped, Pruner, Threshold},
            signs::Combine,
        },
        options::{MergeOptions, Space},
    },
    progress::Pace,
};

/// Numbers of one task that are worked on at a time: they stay in the cache.
const RUN_NUMBERS: usize = 1 << 16;
/// Numbers of all tasks that are kept instead of being formed again: 256 MiB.
const KEPT_NUMBERS: usize = 1 << 26;

/// What comes of it in the space that the options choose.
pub(super) fn form(options: &MergeOptions) -> Form {
    match options.space {
        Space::Weights => Form::Dense,
        Space::Core => Form::Unknown,
    }
}

/// Prunes every task's change and combines what is left, in the space that the options choose.
pub(super) async fn merge(layer: &Layer<'_>, dropped: Dropped, combine: Combine) -> Result<Delta> {
    if layer.options.space == Space::Core
        && let Some(merged) = core_space::merge(layer, dropped, combine).await?
    {
        return Ok(merged);
    }
    let (d_out, d_in) = (layer.d_out, layer.d_in);
    let keep = layer.parts.len() * d_out * d_in <= KEPT_NUMBERS;
    let mut changes = Vec::new();
    let mut pruners = Vec::new();
    for part in &layer.parts {
        let change = Rows::new(&part.delta, keep, layer.pace).await?;
        pruners.push(match dropped {
            Dropped::Random => Pruner::of_task(layer, part),
            Dropped::Smallest => largest(&change, layer.options.density, layer.pace).await?,
        });
        changes.push(change);
    }
    let weights: Vec<f64> = layer.parts.iter().map(|part| part.weight).collect();
    let mut data = Vec::with_capacity(d_out * d_in);
    for run in runs(d_out, d_in) {
        let numbers: Vec<Vec<f32>> = changes
            .iter()
            .zip(&mut pruners)
            .map(|(change, pruner)| {
                let mut rows = Vec::new();
                change.form(run.clone(), &mut rows);
                pruner.apply(&mut rows);
                rows
            })
            .collect();
        let numbers: Vec<&[f32]> = numbers.iter().map(Vec::as_slice).collect();
        data.extend(combine.apply(&numbers, &weights));
        layer.pace.breathe().await?;
    }
    Ok(Delta::Dense(Dense { data, d_out, d_in }))
}

/// Keeps the largest numbers of a change.
async fn largest(change: &Rows<'_>, density: f64, pace: &Pace<'_>) -> Result<Pruner> {
    if density >= 1.0 {
        return Ok(Pruner::None);
    }
    let (d_out, d_in) = change.shape;
    let mut threshold = Threshold::new();
    let mut rows = Vec::new();
    for run in runs(d_out, d_in) {
        change.form(run, &mut rows);
        threshold.count(&rows);
        pace.breathe().await?;
    }
    if threshold.keep(density) {
        for run in runs(d_out, d_in) {
            change.form(run, &mut rows);
            threshold.refine(&rows);
            pace.breathe().await?;
        }
    }
    Ok(threshold.pruner())
}

fn runs(d_out: usize, d_in: usize) -> impl Iterator<Item = Range<usize>> {
    let step = (RUN_NUMBERS / d_in.max(1)).max(1);
    (0..d_out)
        .step_by(step)
        .map(move |start| start..d_out.min(start + step))
}

/// The rows of a change. The same rows have the same bits whenever they are formed, which a threshold needs.
struct Rows<'a> {
    shape: (usize, usize),
    source: Source<'a>,
}

enum Source<'a> {
    /// Products of rows of B (d_out x rank) and A.
    Factors { b: &'a [f32], a: Packed<f32> },
    /// All of them.
    Given(&'a [f32]),
    /// All of them, formed once.
    Kept(Vec<f32>),
}

impl<'a> Rows<'a> {
    async fn new(delta: &'a Delta, keep: bool, pace: &Pace<'_>) -> Result<Self> {
        let shape = delta.shape();
        let (d_out, d_in) = shape;
        let source = match delta {
            Delta::Dense(dense) => Source::Given(&dense.data),
            Delta::LowRank(factors) => Source::Factors {
                b: &factors.b,
                a: Packed::new(View::new(&factors.a, factors.rank, d_in)),
            },
        };
        let own = Self { shape, source };
        if !keep || matches!(own.source, Source::Given(_)) {
            return Ok(own);
        }
        let mut all = Vec::with_capacity(d_out * d_in);
        let mut rows = Vec::new();
        for run in runs(d_out, d_in) {
            own.form(run, &mut rows);
            all.extend_from_slice(&rows);
            pace.breathe().await?;
        }
        let source = Source::Kept(all);
        Ok(Self { shape, source })
    }

    /// Writes rows of the dense change in place of what is in `rows`.
    fn form(&self, run: Range<usize>, rows: &mut Vec<f32>) {
        let (_, d_in) = self.shape;
        let numbers = run.start * d_in..run.end * d_in;
        rows.clear();
        match &self.source {
            Source::Given(all) => rows.extend_from_slice(&all[numbers]),
            Source::Kept(all) => rows.extend_from_slice(&all[numbers]),
            Source::Factors { b, a } => {
                rows.resize(numbers.len(), 0.0);
                let rank = a.depth();
                let b = View::new(&b[run.start * rank..run.end * rank], run.len(), rank);
                multiply_packed(b, a, 1.0, rows);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        delta::LowRank,
        progress::{Progress, Silent},
    };

    #[test]
    fn rows_formed_again_have_the_bits_of_those_that_are_kept() {
        let numbers = |count: usize, seed: usize| -> Vec<f32> {
            (0..count)
                .map(|i| ((i * 7919 + seed * 104_729) % 1009) as f32 / 504.5 - 1.0)
                .collect()
        };
        let (d_out, d_in, rank) = (301, 517, 6);
        let delta = Delta::LowRank(LowRank {
            a: numbers(rank * d_in, 1),
            b: numbers(d_out * rank, 2),
            rank,
            d_out,
            d_in,
        });
        let progress = Progress::single("merge", "", 0.0);
        let now = || 0.0;
        let pace = Pace::new(&Silent, &now, progress);
        let [kept, formed] =
            [true, false].map(|keep| pollster::block_on(Rows::new(&delta, keep, &pace)).unwrap());
        assert!(matches!(kept.source, Source::Kept(_)) && matches!(formed.source, Source::Factors { .. }));
        // Runs and single rows.
        let ranges = runs(d_out, d_in).chain((0..d_out).map(|row| row..row + 1));
        let (mut one, mut other) = (Vec::new(), Vec::new());
        for range in ranges {
            kept.form(range.clone(), &mut one);
            formed.form(range, &mut other);
            assert_eq!(one, other);
        }
    }
}
