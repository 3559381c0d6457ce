//! What a job takes, told before it begins: a merge without samples by the layers of its adapters, one that runs a model by
//! the model's shapes and its samples.

use std::collections::BTreeSet;

use crate::{
    adapter::Module,
    binding::{Binding, Place},
    compute::{Available, CPU, Compute, GpuRates, number},
    error::{Code, Error, Result},
    export::dtype_of,
    merge::{
        cost::{Cost, LayerShape, Rates, Work},
        methods::Form,
        options::{MergeOptions, MethodName, Schedule},
        solution::Solution,
        truncate::Truncated,
    },
    model::{Model, WorkloadEstimate},
    progress::Silent,
};

/// What the program itself, the inputs' headers and what is read at once take.
const AROUND_BYTES: f64 = 24.0 * 1024.0 * 1024.0;

/// The most memory that a merge can have: WebAssembly's 4 GiB, less what is lost between pieces that do not fit.
#[cfg(target_arch = "wasm32")]
pub(super) const LIMIT_BYTES: f64 = 3.5 * 1024.0 * 1024.0 * 1024.0;
/// The most memory that a merge can have: a process's own business.
#[cfg(not(target_arch = "wasm32"))]
pub(super) const LIMIT_BYTES: f64 = f64::MAX;

/// Refuses what cannot fit, before the work begins.
///
/// # Errors
/// [`Code::OutOfMemory`] with sizes and a remedy.
pub(super) fn check_fits(cost: &Cost) -> Result<()> {
    match refusal(cost.peak_bytes, LIMIT_BYTES) {
        Some(why) => Err(Error::new(Code::OutOfMemory, why)),
        None => Ok(()),
    }
}

/// Why a merge that takes `peak` bytes is refused where there are `limit`, and what to do; none if it fits.
pub(super) fn refusal(peak: f64, limit: f64) -> Option<String> {
    let gib = |bytes: f64| bytes / (1024.0 * 1024.0 * 1024.0);
    (peak > limit).then(|| {
        format!(
            "This merge needs {:.1} GiB of memory at its widest layer, and there are {:.1} GiB; ask for a lower rank, choose a method that keeps factors (linear, svd) or space core, or merge fewer adapters at a time",
            gib(peak),
            gib(limit)
        )
    })
}

/// Workers to start beside this one for a merge that costs so much. Hashing and writing is not shared out, and what reading
/// is saved is spent on handing the layers over.
pub(super) fn workers(cost: &Cost, layers: usize, available: Available) -> usize {
    available.for_work(cost.seconds(&ONE_CORE), layers, cost.peak_bytes)
}

/// What a job that runs models asks of a device, told from shapes.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub(super) struct ModelWork {
    /// Operations of the models' passes, in f32.
    pub(super) forward: f64,
    /// Operations of sums over samples, to f64 accuracy.
    pub(super) sums: f64,
    /// Operations of solving layers, which the CPU does whatever the device.
    pub(super) solves: f64,
    /// How often a device is asked for numbers, and waited for.
    pub(super) readbacks: f64,
    /// Kernels that a device is given.
    pub(super) dispatches: f64,
    /// Pieces that it falls into: as many workers as these have something to do.
    pub(super) pieces: usize,
    /// Bytes that one worker holds on the CPU.
    pub(super) bytes: f64,
}

/// Samples of a merge that runs the model, as they are before adapters have written answers.
pub(super) struct Calibration<'a> {
    /// What the model reads.
    pub(super) load: WorkloadEstimate<'a>,
    /// Tokens that adapters write, at most.
    pub(super) written: usize,
    /// How many samples there are, and will be.
    pub(super) samples: usize,
    /// Micro-batches.
    pub(super) batches: usize,
}

/// Kernels of a block's pass over one micro-batch (`tests/browser/gpu-budget.test.ts` holds that), and of one token.
const BLOCK_DISPATCHES: f64 = 150.0;
const STEP_DISPATCHES: f64 = 30.0;

/// Products of slices in f32 that a product to f64 accuracy takes on a GPU (`compute::kernels::exact`).
const SLICE_PRODUCTS: f64 = 15.0;

/// Seconds that a browser takes to hand a kernel on.
const DISPATCH_SECONDS: f64 = 20e-6;

/// Kernels that are compiled for a merge.
const PIPELINES: f64 = 30.0;

impl ModelWork {
    /// Of a merge whose adapters change the modules of the names in `changed`.
    pub(super) fn of_merge(
        model: &Model,
        changed: &BTreeSet<String>,
        options: &MergeOptions,
        calibration: &Calibration<'_>,
    ) -> Self {
        let Calibration {
            load,
            written,
            samples,
            batches,
        } = calibration;
        let passes = number(match options.schedule {
            Schedule::Iterate => options.max_iter,
            Schedule::Sweep => 1,
        });
        let [rows, written, copies, batches] =
            [load.rows + written, *written, load.variants, *batches].map(number);
        let modules = model.family.modules().iter();
        let widths: Vec<f64> = modules
            .filter(|module| changed.contains(&module.name))
            .map(|module| number(module.d_in))
            .collect();
        let power = |exponent: i32| -> f64 { widths.iter().map(|width| width.powi(exponent)).sum() };
        let blocks = number(model.family.blocks());
        let steps = match written {
            0.0 => 0.0,
            _ => number(model.family.facts().kind.answer_length(options.max_new_tokens)),
        };
        Self {
            forward: operations_a_row(model) * (copies * passes * rows + written),
            // Layers that share an input share its sums; without that this is what they take at most.
            sums: 3.0 * power(2) * rows * passes,
            solves: power(3) / 3.0 * passes,
            readbacks: number(widths.len()) * passes + steps,
            dispatches: blocks * (BLOCK_DISPATCHES * batches * passes + STEP_DISPATCHES * steps),
            pieces: *samples,
            bytes: model.bytes_needed(&Compute::cpu(), load),
        }
    }

    /// Of so many rows, tokens of prompts and of answers, through one of the models each, answers of at most `steps`
    /// tokens among them.
    pub(super) fn of_rows(models: &[&Model], rows: usize, steps: usize, pieces: usize) -> Self {
        let largest = models
            .iter()
            .map(|model| operations_a_row(model))
            .fold(0.0, f64::max);
        let (cpu, none) = (Compute::cpu(), WorkloadEstimate::of(&[], 1, None));
        let bytes = models.iter().map(|model| model.bytes_needed(&cpu, &none));
        let blocks = models.iter().map(|model| model.family.blocks()).sum();
        let [rows, steps, blocks, models] = [rows, steps, blocks, models.len()].map(number);
        Self {
            forward: largest * rows,
            readbacks: models * (steps + 1.0),
            dispatches: blocks * (BLOCK_DISPATCHES + STEP_DISPATCHES * steps),
            pieces,
            // Each reads the weights, and has the keys and values of its own rows.
            bytes: bytes.fold(0.0, f64::max),
            ..Self::default()
        }
    }

    /// Workers to start beside this one. Only the CPU has others beside it.
    pub(super) fn workers(&self, compute: &Compute) -> usize {
        if compute.name() != CPU.name {
            return 0;
        }
        let seconds = self.on_cpu(&ONE_CORE, 1);
        compute.available().for_work(seconds, self.pieces, self.bytes)
    }

    /// Seconds on so many cores of these rates.
    pub(super) fn on_cpu(&self, rates: &Rates, workers: usize) -> f64 {
        let apart = self.forward / rates.f32_products + self.sums / rates.f64_products;
        apart / times_quicker(workers) + self.solves / rates.f64_products
    }

    /// Seconds on a GPU of these rates; `compiled`: whether its kernels are.
    pub(super) fn on_gpu(&self, gpu: &GpuRates, cpu: &Rates, compiled: bool) -> f64 {
        let products = (self.forward + SLICE_PRODUCTS * self.sums) / gpu.products;
        let compiling = if compiled { 0.0 } else { PIPELINES * gpu.pipeline };
        let asked = self.readbacks * gpu.readback + self.dispatches * DISPATCH_SECONDS;
        products + asked + compiling + self.solves / cpu.f64_products
    }
}

/// Operations that a row of hidden states takes through all layers of a model.
fn operations_a_row(model: &Model) -> f64 {
    let modules = model.family.modules().iter();
    modules
        .map(|module| 2.0 * number(module.d_in * module.d_out))
        .sum()
}

/// How many times quicker so many workers are with what is shared out: each is started, opens the inputs again, and
/// hands over what it has done.
pub(super) fn times_quicker(workers: usize) -> f64 {
    1.0 + EFFICIENCY * number(workers - 1)
}

/// What one more worker adds, of a worker.
const EFFICIENCY: f64 = 0.8;

/// What a core of these years does, to tell what work is worth a worker: the answer need not be exact.
const ONE_CORE: Rates = Rates {
    f32_products: 30e9,
    f64_products: 10e9,
    numbers: 1e9,
};

/// What the layers that are changed by factors cost, with all that is around them in memory.
pub(super) fn cost(binding: &Binding<'_>, options: &MergeOptions) -> Cost {
    let compute = Compute::cpu();
    let solution = Solution::new(binding, options, Vec::new(), &compute, &Silent);
    let truncated = Truncated::new(solution);
    let written_size = dtype_of(binding, options).bytes();
    let weights = binding
        .sites
        .iter()
        .filter(|site| matches!(site.place, Place::Weight(_)));
    let costs = weights.map(|site| {
        let modules: Vec<&Module> = binding.modules(site).collect();
        let ranks: Vec<usize> = modules.iter().map(|module| module.change_rank()).collect();
        let rank = truncated
            .rank_of(&[Some(site)], &[site.d_out])
            .unwrap_or_else(|| ranks.iter().sum::<usize>().min(site.d_out).min(site.d_in));
        let sizes = binding.adapters.iter().map(|read| read.adapter.widest.bytes());
        let cost = LayerShape {
            d_out: site.d_out,
            d_in: site.d_in,
            ranks,
            work: work(options, &truncated, &modules),
            rank,
            read_size: sizes.max().unwrap_or(4),
            written_size,
        };
        cost.cost()
    });
    let mut all: Cost = costs.sum();
    all.peak_bytes += AROUND_BYTES;
    all
}

/// What is done at a layer.
fn work(options: &MergeOptions, truncated: &Truncated<'_>, modules: &[&Module]) -> Work {
    let dense = modules.iter().any(|module| module.has_magnitude);
    match options.method.find().form(options) {
        Form::Stacked if dense => Work::Elementwise,
        Form::Stacked if truncated.asked() => Work::Factored,
        Form::Stacked => Work::Stacked,
        Form::Dense => Work::Elementwise,
        Form::Unknown if options.method == MethodName::Knots => Work::Knots,
        Form::Unknown => Work::CoreSpace,
    }
}

#[cfg(test)]
mod tests {
    use super::{ModelWork, refusal};
    use crate::{compute::GpuRates, merge::cost::Rates};

    #[test]
    fn seconds_on_a_gpu_are_those_of_products_round_trips_and_compiling() {
        let work = ModelWork {
            forward: 400e9,
            sums: 20e9,
            solves: 10e9,
            readbacks: 50.0,
            dispatches: 10_000.0,
            pieces: 100,
            bytes: 1e9,
        };
        let cpu = Rates {
            f32_products: 40e9,
            f64_products: 20e9,
            numbers: 1e9,
        };
        let gpu = GpuRates {
            products: 1e12,
            readback: 0.004,
            pipeline: 0.1,
        };
        // 10 s of products and 1 of sums, by 1.8; half a second of solving.
        assert!((work.on_cpu(&cpu, 1) - 11.5).abs() < 1e-9);
        assert!((work.on_cpu(&cpu, 2) - (11.0 / 1.8 + 0.5)).abs() < 1e-9);
        // 0.4 + 15 * 0.02 of products, 0.2 of readbacks, 0.2 of dispatches, 0.5 of solving, 3 of compiling.
        assert!((work.on_gpu(&gpu, &cpu, true) - 1.6).abs() < 1e-9);
        assert!((work.on_gpu(&gpu, &cpu, false) - 4.6).abs() < 1e-9);
    }

    #[test]
    fn what_does_not_fit_is_refused_with_sizes_and_a_remedy() {
        let gib = f64::from(1 << 30);
        assert_eq!(refusal(3.5 * gib, 3.5 * gib), None);
        let why = refusal(5.0 * gib, 3.5 * gib).unwrap();
        for part in ["5.0 GiB", "3.5 GiB", "lower rank", "linear", "fewer adapters"] {
            assert!(why.contains(part), "{part}: {why}");
        }
    }
}
