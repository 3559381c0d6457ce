//! Comparing: merged models held against each task's own adapter and the base.

use crate::{
    adapter::{Adapter, is_adapter},
    binding::{Base, ReadAdapter, lanes::lane_deltas},
    calibrate::check_samples,
    compare::{self, CompareReport, Contest, ContestTask},
    compute::Compute,
    error::Result,
    io::Folder,
    jobs::inputs::{AdapterInput, Hashing, read_adapters},
    model,
    progress::Observer,
};

/// A merged model to be compared.
pub struct MergedInput {
    /// What the report calls it.
    pub name: String,
    /// A merged adapter's files, or a merged base model's.
    pub folder: Folder,
}

/// What is to be compared.
pub struct CompareRequest {
    /// The base model's files.
    pub base: Folder,
    /// The adapters, each with samples of its task (held-out or calibration).
    pub adapters: Vec<AdapterInput>,
    /// The merged models.
    pub merged: Vec<MergedInput>,
    /// The most tokens of an answer, for models that write.
    pub max_new_tokens: usize,
}

/// Compares; see [`compare`].
///
/// # Errors
/// Every kind that bad input can cause; see [`crate::error::Code`].
pub async fn compare(
    request: CompareRequest,
    compute: &Compute,
    observer: &dyn Observer,
) -> Result<CompareReport> {
    let base = Base::open(Some(request.base)).await?;
    let model = base.model("a comparison")?;
    let (adapters, samples) = read_adapters(request.adapters, &base, Hashing::Left).await?;
    check_samples(model, &adapters, &samples)?;
    let mut merged_adapters = Vec::new();
    let mut merged_models = Vec::new();
    for merged in request.merged {
        if is_adapter(&merged.folder) {
            let adapter = ReadAdapter::alone(Adapter::read(&merged.name, &merged.folder).await?);
            merged_adapters.push((merged.name, lane_deltas(&base, &adapter).await?));
        } else {
            merged_models.push((merged.name, model::open(merged.folder).await?));
        }
    }
    let mut tasks = Vec::with_capacity(adapters.len());
    for (read, samples) in adapters.iter().zip(&samples) {
        tasks.push(ContestTask {
            read,
            deltas: lane_deltas(&base, read).await?,
            samples: samples.as_ref(),
        });
    }
    let contest = Contest {
        model,
        tasks,
        adapters: &merged_adapters,
        models: &merged_models,
        max_new_tokens: request.max_new_tokens,
    };
    compare::compare(&contest, compute, observer).await
}
