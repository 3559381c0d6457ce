//! Whether a device can hold what a pass needs, found out before the work begins.
//!
//! The numbers are estimates from below: what must be there at once, without the allocator's losses. A
//! device that cannot hold them would fail half-way, after minutes; this fails at once and says why.

use std::collections::BTreeSet;

use crate::{
    compute::{CPU, Compute},
    error::{Code, Error, Result},
    model::{
        batch::{Batch, StreamBatch},
        family::{Family, Module},
    },
};

/// What a pass brings beside the model itself.
pub struct WorkloadEstimate<'a> {
    /// Rows of all micro-batches, one copy.
    pub rows: usize,
    /// Rows of the largest micro-batch, one copy.
    pub rows_at_once: usize,
    /// The longest sample.
    pub longest: usize,
    /// Copies of the rows.
    pub variants: usize,
    /// Modules that are solved, each for this many tasks; none for a pass that only computes.
    pub solved: Option<(&'a BTreeSet<String>, usize)>,
}

impl<'a> WorkloadEstimate<'a> {
    /// The load of micro-batches.
    pub fn of(batches: &[Batch], variants: usize, solved: Option<(&'a BTreeSet<String>, usize)>) -> Self {
        let rows = |batch: &Batch| wide(batch).map(|stream| stream.rows).max().unwrap_or(0);
        let longest = batches
            .iter()
            .flat_map(wide)
            .flat_map(|stream| &stream.sequences)
            .map(|sequence| sequence.length);
        Self {
            rows: batches.iter().map(rows).sum(),
            rows_at_once: batches.iter().map(rows).max().unwrap_or(0),
            longest: longest.max().unwrap_or(0),
            variants,
            solved,
        }
    }
}

/// The streams of wide rows: places of a picture are narrow ones, and what is made of them is counted.
fn wide(batch: &Batch) -> impl Iterator<Item = &StreamBatch> {
    let streams = batch.streams().iter();
    streams.filter(|stream| stream.grids.iter().all(Option::is_none))
}

/// Weights of a model are kept in memory between passes if they take at most this many bytes as f32.
pub(super) const KEEP_BYTES: usize = 1536 << 20;

/// Bytes that must be there at once.
struct Needed {
    weights: f64,
    states: f64,
    sums: f64,
}

impl Needed {
    fn of(family: &dyn Family, load: &WorkloadEstimate<'_>) -> Self {
        let modules = family.modules();
        let copies = (load.rows * load.variants) as f64;
        let bytes_of = |block: Option<usize>| -> f64 {
            modules
                .iter()
                .filter(|m| block.is_none_or(|block| m.block == block))
                .map(|m| {
                    // What is solved keeps W0 beside its device form.
                    let kept = load.solved.is_some_and(|(names, _)| names.contains(&m.name));
                    4.0 * m.d_in as f64 * m.d_out as f64 * if kept { 2.0 } else { 1.0 }
                })
                .sum()
        };
        let all = bytes_of(None);
        let weights = if all <= KEEP_BYTES as f64 {
            all
        } else {
            (0..family.blocks())
                .map(|block| bytes_of(Some(block)))
                .fold(0.0, f64::max)
        };
        let widest = modules.iter().map(|m| m.d_in + m.d_out).max().unwrap_or(0) as f64;
        let states = 4.0 * copies * (widest + family.facts().hidden_size as f64);
        let sums = load.solved.map_or(0.0, |(names, tasks)| {
            let solved = modules.iter().filter(|m| names.contains(&m.name));
            let d_in = solved.map(|m| m.d_in).max().unwrap_or(0) as f64;
            // Half of a square a task in f64: the system and its factor take their place.
            8.0 * d_in * d_in / 2.0 * tasks as f64
        });
        Self {
            weights,
            states,
            sums,
        }
    }
}

/// Bytes that must be there at once, from below.
pub(super) fn needed(family: &dyn Family, load: &WorkloadEstimate<'_>) -> f64 {
    let Needed {
        weights,
        states,
        sums,
    } = Needed::of(family, load);
    weights + states + sums
}

/// Whether the device can hold the family's largest block with this load.
///
/// # Errors
/// [`Code::DeviceLimit`] with the numbers.
pub(super) fn check(family: &dyn Family, compute: &Compute, load: &WorkloadEstimate<'_>) -> Result<()> {
    let modules = family.modules();
    let mib = |bytes: f64| format!("{:.0} MiB", (bytes / f64::from(1 << 20)).max(1.0));
    let refuse = |what: String| Err(Error::new(Code::DeviceLimit, what));
    if let Some(most) = compute.limits.buffer_bytes {
        let weight = |m: &&Module| m.d_in * m.d_out;
        if let Some(largest) = modules.iter().max_by_key(weight) {
            let bytes = 4.0 * largest.d_in as f64 * largest.d_out as f64;
            if bytes > most {
                return refuse(format!(
                    "the model is too large for this GPU: a layer of {} x {} needs a buffer of {}, the GPU allows {}; choose the CPU or a smaller model; module: {}",
                    largest.d_out,
                    largest.d_in,
                    mib(bytes),
                    mib(most),
                    largest.name
                ));
            }
        }
        let widest = modules.iter().map(|m| m.d_out.max(m.d_in)).max().unwrap_or(0) as f64;
        let bytes = 4.0 * (load.rows_at_once * load.variants) as f64 * widest;
        if bytes > most {
            return refuse(format!(
                "the samples are too large for this GPU: {} tokens at once, {widest} wide in {} copies, need a buffer of {}, the GPU allows {}; set maxLength, or choose the CPU",
                load.rows_at_once,
                load.variants,
                mib(bytes),
                mib(most)
            ));
        }
        let solved = modules
            .iter()
            .filter(|m| load.solved.is_some_and(|(names, _)| names.contains(&m.name)));
        if let Some(widest) = solved.max_by_key(|m| m.d_in) {
            // Two words a number of the lower triangle.
            let d_in = widest.d_in as f64;
            let bytes = 4.0 * d_in * (d_in + 1.0);
            if bytes > most {
                return refuse(format!(
                    "the model is too wide for this GPU: a Gram matrix of {d_in} x {d_in} needs a buffer of {}, the GPU allows {}; choose the CPU or a smaller model; module: {}",
                    mib(bytes),
                    mib(most),
                    widest.name
                ));
            }
        }
    }
    let Some(most) = compute.limits.memory_bytes else {
        return Ok(());
    };
    let Needed {
        weights,
        states,
        sums,
    } = Needed::of(family, load);
    let needed = weights + states + sums;
    if needed > most {
        return refuse(format!(
            "this needs about {} at once, and {} has {}: {} of weights, {} of hidden states ({} tokens in {} copies), {} of Gram matrices; give fewer or shorter samples, or a smaller model",
            mib(needed),
            if compute.name() == CPU.name {
                "a WebAssembly module"
            } else {
                "the device"
            },
            mib(most),
            mib(weights),
            mib(states),
            load.rows,
            load.variants,
            mib(sums)
        ));
    }
    Ok(())
}
