//! What a merge will take, told before it begins: from headers alone, and a short look at how fast this machine is.

use serde::Serialize;

use crate::{
    binding::{Base, Binding},
    compute::Available,
    error::Result,
    jobs::{
        estimate::{LIMIT_BYTES, cost, refusal, times_quicker, workers},
        inputs::{Reading, read_adapters},
        merge::MergeRequest,
    },
    merge::{cost::Rates, options::OutputKind},
};

/// Seconds that the kernels are measured for.
const MEASURED_SECONDS: f64 = 0.05;

/// What a merge will take. What depends on samples, where the method runs the model on them, is not told.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct MergePlan {
    /// How many parameters are changed.
    pub layers: usize,
    /// The size of the inputs.
    pub bytes_read: f64,
    /// About the size of the result.
    pub bytes_written: f64,
    /// How many workers will share the layers, this one among them.
    pub workers: Option<usize>,
    /// The most memory that one of them holds at once.
    pub peak_bytes: Option<f64>,
    /// Multiplications and additions.
    pub operations: Option<f64>,
    /// About how long it takes on this machine, on the CPU.
    pub seconds: Option<f64>,
    /// The most memory that there can be.
    pub limit_bytes: f64,
    /// Whether it fits.
    pub fits: bool,
    /// Why it does not fit and what to do, as the merge's own error says it; none where it fits.
    pub refusal: Option<String>,
}

/// Tells what a merge will take. Nothing but headers is read.
///
/// # Errors
/// Whatever is wrong with the files or the options.
pub async fn plan(request: MergeRequest, available: Available) -> Result<MergePlan> {
    let MergeRequest {
        base,
        adapters,
        options,
        ..
    } = request;
    options.check()?;
    let base = Base::open(base).await?;
    let files = || adapters.iter().flat_map(|input| input.folder.files());
    let bytes_of_adapters: u64 = files().map(|file| file.len()).sum();
    let hashed_outside = files().all(|file| file.hashes());
    let bytes_of_base: u64 = base
        .parts()
        .iter()
        .map(|(_, checkpoint)| checkpoint.file_bytes())
        .sum();
    let (adapters, _) = read_adapters(adapters, &base, Reading::default()).await?;
    let patterns = options.layer_weights.patterns(adapters.len())?;
    let binding = Binding::new(&base, &adapters, &patterns)?;
    let cost = cost(&binding, &options);
    let to_base = options.output == OutputKind::Base;
    #[allow(clippy::cast_precision_loss, reason = "sizes of files are far below 2^53")]
    let (read, whole) = ((bytes_of_adapters + bytes_of_base) as f64, bytes_of_base as f64);
    let written = if to_base { whole } else { cost.bytes_written };
    let mut plan = MergePlan {
        layers: binding.sites.len(),
        bytes_read: read,
        bytes_written: written,
        workers: None,
        peak_bytes: None,
        operations: None,
        seconds: None,
        limit_bytes: LIMIT_BYTES,
        fits: true,
        refusal: None,
    };
    if !options.method.find().needs_samples() {
        let rates = Rates::measure(MEASURED_SECONDS);
        // Inputs are read twice, to be hashed and to be worked on, and the result is written and hashed.
        let moved = 2.0 * read + 2.0 * written;
        plan.peak_bytes = Some(cost.peak_bytes);
        plan.operations = Some(cost.f32_products + cost.f64_products);
        let workers = 1 + workers(&cost, plan.layers, available);
        plan.workers = Some(workers);
        plan.seconds =
            Some(cost.seconds(&rates) / times_quicker(workers) + moved / rates.bytes(hashed_outside));
        plan.refusal = refusal(cost.peak_bytes, LIMIT_BYTES);
        plan.fits = plan.refusal.is_none();
    }
    Ok(plan)
}
