//! What a merge without samples costs, of adapters that are held against their base, and whether there is room for it.

use crate::{
    adapter::Module,
    binding::{Binding, Place},
    compute::{Available, CPU, Compute, number},
    error::{Code, Error, Result},
    export::dtype_of,
    merge::{
        context::SolveContext,
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

/// Workers to start beside this one for a merge that runs the model on so many samples: `load` is what it reads, `tokens`
/// what adapters write at most. Only the CPU has others beside it.
pub(super) fn workers_for_samples(
    context: &SolveContext<'_>,
    load: &WorkloadEstimate<'_>,
    tokens: usize,
    samples: usize,
) -> usize {
    if context.compute.name() != CPU.name {
        return 0;
    }
    let passes = match context.options.schedule {
        Schedule::Iterate => context.options.max_iter,
        Schedule::Sweep => 1,
    };
    let [rows, tokens, copies, tasks, passes] = [
        load.rows + tokens,
        tokens,
        load.variants,
        context.tasks.len(),
        passes,
    ]
    .map(number);
    let modules = context.model.family.modules().iter();
    let weights: f64 = modules.map(|module| number(module.d_in * module.d_out)).sum();
    let solved = context.modules.iter();
    let squares: f64 = solved.map(|module| number(module.d_in).powi(2)).sum();
    let forward = 2.0 * weights * (copies * passes * rows + tokens);
    // Layers that share an input share its sums; without that this is what they take at most.
    let sums = 3.0 * squares * rows * passes;
    let seconds = forward / ONE_CORE.f32_products + sums / ONE_CORE.f64_products;
    // What is sent is there a second time.
    let bytes = context.model.bytes_needed(context.compute, load) + 8.0 * tasks * widest(context);
    context.compute.available().for_work(seconds, samples, bytes)
}

/// Workers to start beside this one for so many rows, tokens of prompts and of answers, through one of the models each, in
/// so many pieces.
pub(super) fn workers_for_rows(models: &[&Model], rows: usize, pieces: usize, compute: &Compute) -> usize {
    if compute.name() != CPU.name {
        return 0;
    }
    let weights = |model: &&Model| -> f64 {
        let modules = model.family.modules().iter();
        modules.map(|module| number(module.d_in * module.d_out)).sum()
    };
    let largest = models.iter().map(weights).fold(0.0, f64::max);
    let seconds = 2.0 * largest * number(rows) / ONE_CORE.f32_products;
    // Each reads the weights, and has the keys and values of its own rows.
    let none = WorkloadEstimate::of(&[], 1, None);
    let bytes = models.iter().map(|model| model.bytes_needed(compute, &none));
    compute
        .available()
        .for_work(seconds, pieces, bytes.fold(0.0, f64::max))
}

/// The square of the widest input that is solved.
fn widest(context: &SolveContext<'_>) -> f64 {
    let widths = context.modules.iter().map(|module| module.d_in);
    number(widths.max().unwrap_or(0)).powi(2)
}

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
    use super::refusal;

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
