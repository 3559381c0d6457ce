//! Whether a device can hold what a pass needs, found out before the work begins.
//!
//! The numbers are estimates from below: what must be there at once, without the allocator's losses. A
//! device that cannot hold them would fail half-way, after minutes; this fails at once and says why.

use std::collections::BTreeSet;

use crate::{
    compute::{CPU, Compute},
    error::{Code, Error, Result},
    io::Checkpoint,
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

/// The weights of a model, and where they are to go.
#[derive(Clone, Copy)]
pub(super) struct Weights<'a> {
    pub(super) family: &'a dyn Family,
    pub(super) checkpoint: &'a Checkpoint,
    pub(super) compute: &'a Compute,
}

impl Weights<'_> {
    /// Whether they stay in memory between passes.
    pub(super) fn stay(&self) -> bool {
        self.bytes(|_| true, |module| 4.0 * elements(module)) <= self.compute.kept_bytes as f64
    }

    /// Whether there is room for block `next`, as the file has it, beside the one before and all else of a pass.
    pub(super) fn reads_ahead(&self, next: usize, load: Option<&WorkloadEstimate<'_>>) -> bool {
        let rest = load.map_or(0.0, |load| {
            Needed::states(self.family, load) + Needed::sums(self.family, load)
        });
        let both = self.own_bytes(next) + next.checked_sub(1).map_or(0.0, |block| self.held(block, load));
        both + rest <= self.compute.kept_bytes as f64
    }

    fn bytes(&self, of: impl Fn(&Module) -> bool, bytes: impl Fn(&Module) -> f64) -> f64 {
        let modules = self.family.modules().iter();
        modules.filter(|module| of(module)).map(bytes).sum()
    }

    /// Bytes of a layer as the file has it.
    fn own(&self, module: &Module) -> f64 {
        let bits = self
            .checkpoint
            .info(&module.key)
            .map_or(32, |info| info.dtype.bitsize());
        bits as f64 / 8.0 * elements(module)
    }

    fn own_bytes(&self, block: usize) -> f64 {
        self.bytes(|module| module.block == block, |module| self.own(module))
    }

    /// Bytes that a block takes while it is computed on: on the CPU it is what the file has, unless the model stays.
    fn held(&self, block: usize, load: Option<&WorkloadEstimate<'_>>) -> f64 {
        if self.compute.name() == CPU.name && !self.stay() {
            return self.own_bytes(block);
        }
        let solved = |module: &Module| {
            let names = load.and_then(|load| load.solved);
            names.is_some_and(|(names, _)| names.contains(&module.name))
        };
        self.bytes(
            |module| module.block == block,
            // Of what is solved W0 is there beside its device form.
            |module| 4.0 * elements(module) + if solved(module) { self.own(module) } else { 0.0 },
        )
    }

    /// Bytes that are there at once.
    fn at_once(&self, load: &WorkloadEstimate<'_>) -> f64 {
        let blocks = 0..self.family.blocks();
        let held = |block| self.held(block, Some(load));
        if self.stay() {
            return blocks.map(held).sum();
        }
        let with_next = |block: usize| {
            let next = block + 1;
            let ahead = next < self.family.blocks() && self.reads_ahead(next, Some(load));
            held(block) + if ahead { self.own_bytes(next) } else { 0.0 }
        };
        blocks.map(with_next).fold(0.0, f64::max)
    }

    /// Bytes that must be there at once, from below.
    pub(super) fn needed(&self, load: &WorkloadEstimate<'_>) -> f64 {
        Needed::of(self, load).all()
    }
}

/// Numbers of a layer's weight; in f64, since such counts pass what wasm's usize holds.
fn elements(module: &Module) -> f64 {
    module.d_in as f64 * module.d_out as f64
}

/// Bytes that must be there at once.
struct Needed {
    weights: f64,
    states: f64,
    sums: f64,
}

impl Needed {
    fn of(weights: &Weights<'_>, load: &WorkloadEstimate<'_>) -> Self {
        Self {
            weights: weights.at_once(load),
            states: Self::states(weights.family, load),
            sums: Self::sums(weights.family, load),
        }
    }

    fn states(family: &dyn Family, load: &WorkloadEstimate<'_>) -> f64 {
        let copies = (load.rows * load.variants) as f64;
        let widest = family.modules().iter().map(|m| m.d_in + m.d_out).max();
        4.0 * copies * (widest.unwrap_or(0) as f64 + family.facts().hidden_size as f64)
    }

    fn sums(family: &dyn Family, load: &WorkloadEstimate<'_>) -> f64 {
        load.solved.map_or(0.0, |(names, tasks)| {
            let solved = family.modules().iter().filter(|m| names.contains(&m.name));
            let d_in = solved.map(|m| m.d_in).max().unwrap_or(0) as f64;
            // Half of a square a task in f64: the system and its factor take their place.
            8.0 * d_in * d_in / 2.0 * tasks as f64
        })
    }

    fn all(&self) -> f64 {
        self.weights + self.states + self.sums
    }
}

/// Whether the device can hold the family's largest block with this load.
///
/// # Errors
/// [`Code::DeviceLimit`] with the numbers.
pub(super) fn check(base: &Weights<'_>, load: &WorkloadEstimate<'_>) -> Result<()> {
    let (modules, compute) = (base.family.modules(), base.compute);
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
    let all = Needed::of(base, load);
    let needed = all.all();
    let Needed {
        weights,
        states,
        sums,
    } = all;
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
