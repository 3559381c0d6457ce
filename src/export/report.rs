//! What a merge says of itself: `merge_report.json`, enough to repeat it and to judge it.

use serde::Serialize;

use crate::{
    calibrate::AnswersFrom,
    compute::{Meter, Stage},
    io::FileDigest,
    merge::{layer::LayerReport, options::MergeOptions},
};

/// The report of one merge.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct MergeReport {
    /// The report's own format.
    pub version: u32,
    /// The program and its version.
    pub created_by: String,
    /// The options, with defaults filled in.
    pub options: MergeOptions,
    /// The device: `cpu` or `webgpu`.
    pub device: String,
    /// Why that one, where the caller left it open.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub device_why: Option<String>,
    /// How many workers shared the work, this one among them.
    pub workers: usize,
    /// The base model; none where the merge needed none.
    pub base: Option<InputReport>,
    /// The adapters, in the order given.
    pub adapters: Vec<AdapterReport>,
    /// The merged layers, in the order of the forward pass.
    pub layers: Vec<LayerReport>,
    /// Where the time went.
    pub seconds: Seconds,
    /// Floating-point operations of the forward passes and of the sums over samples.
    pub operations: Operations,
    /// The most memory held at once, where it is known.
    pub peak_bytes: Option<u64>,
    /// Things the reader should know.
    pub notes: Vec<String>,
    /// What was written, but for this report.
    pub output: Vec<FileDigest>,
}

/// Files of one input.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct InputReport {
    /// The folder's name.
    pub name: String,
    /// Where it is, from the report's own folder, if that is known.
    pub path: Option<String>,
    /// Its files with size and SHA-256.
    pub files: Vec<FileDigest>,
}

/// One adapter of a merge.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct AdapterReport {
    /// Its name.
    pub name: String,
    /// Where it is, from the report's own folder, if that is known.
    pub path: Option<String>,
    /// The user's weight.
    pub weight: f64,
    /// Its largest rank.
    pub rank: usize,
    /// Its files with size and SHA-256.
    pub files: Vec<FileDigest>,
    /// Its calibration samples, if any were given.
    pub samples: Option<SamplesReport>,
}

/// The calibration samples of one adapter.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct SamplesReport {
    /// The file they came from.
    pub source: Option<String>,
    /// Where that is, from the report's own folder, if that is known.
    pub path: Option<String>,
    /// How many.
    pub count: usize,
    /// How many were cut to the maximum length.
    pub truncated: usize,
    /// Tokens in all, answers included.
    pub tokens: usize,
    /// Where their answers are from.
    pub answers: AnswersFrom,
    /// Tokens of the answers.
    pub answer_tokens: usize,
    /// How the adapter wrote the samples, if it did.
    #[serde(rename = "self")]
    pub own: Option<SelfReport>,
    /// SHA-256 of the token ids (little-endian u32, each sample preceded by its length as u64; of an
    /// encoder-decoder, its decoder's inputs likewise after each text). Of pictures, their preprocessed numbers
    /// (little-endian f32, each picture preceded by channels, height and width as u64).
    pub sha256: String,
}

/// How an adapter wrote its own calibration samples.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct SelfReport {
    /// How many.
    pub count: usize,
    /// The most tokens of each.
    pub max_new_tokens: usize,
    /// Of the draws.
    pub temperature: f64,
    /// Share of the probability that was drawn from.
    pub top_p: f64,
    /// Of the draws.
    pub seed: u64,
    /// Tokens of the prompt; 0 for the beginning-of-sequence token.
    pub prompt_tokens: usize,
    /// The prompt itself; none for the beginning-of-sequence token.
    pub prompt: Option<String>,
}

/// Seconds by stage.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Seconds {
    /// Reading and laying out weights.
    pub load: f64,
    /// Answers and texts that adapters wrote for their own samples.
    pub generate: f64,
    /// Forward passes.
    pub forward: f64,
    /// Sums over samples.
    pub gram: f64,
    /// Waiting for what other workers have summed.
    pub wait: f64,
    /// Solving.
    pub solve: f64,
    /// Truncating, encoding, hashing and writing.
    pub write: f64,
    /// Everything.
    pub total: f64,
}

impl From<&Meter> for Seconds {
    fn from(meter: &Meter) -> Self {
        Self {
            load: meter.seconds(Stage::Load),
            generate: meter.seconds(Stage::Generate),
            forward: meter.seconds(Stage::Forward),
            gram: meter.seconds(Stage::Gram),
            wait: meter.seconds(Stage::Wait),
            solve: meter.seconds(Stage::Solve),
            write: meter.seconds(Stage::Write),
            total: meter.elapsed(),
        }
    }
}

/// Floating-point operations by stage.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Operations {
    /// Linear layers of the forward passes.
    pub forward: f64,
    /// Sums over samples.
    pub gram: f64,
}
