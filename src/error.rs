//! The one error type of the crate.
//!
//! Every failure that outside input can cause has a variant here, with a stable [`code`](Error::code)
//! that JavaScript callers and scripts may match on, and a message that says what is wrong, where,
//! and what to do about it. Names of files and tensors come last in a message, so that a report can
//! be shortened before it is shared.

/// What every fallible function of the crate returns.
pub type Result<T> = std::result::Result<T, Error>;

/// A failure a caller can act on. See [`Error::code`] for the stable names.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Error {
    code: Code,
    message: String,
}

/// The kind of a failure; its text form is part of the public interface and never changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Code {
    /// The caller cancelled the work.
    Cancelled,
    /// A file ends before the bytes that its own header promises.
    FileTruncated,
    /// A file cannot be read (I/O failure of the source itself).
    ReadFailed,
    /// A result cannot be written.
    WriteFailed,
    /// A safetensors header or shard index is malformed.
    HeaderInvalid,
    /// Two tensors of a safetensors file share bytes.
    OffsetsOverlap,
    /// A tensor's element type is not one the program reads.
    DtypeUnsupported,
    /// A tensor or file that is needed is absent.
    Missing,
    /// The same file, tensor or adapter was given twice.
    Duplicate,
    /// A tensor has another shape than the base model needs.
    ShapeMismatch,
    /// A tensor holds NaN or infinity.
    NotFinite,
    /// A Python pickle (`.bin`, `.pt`) holds more than tensors, is damaged, or was given where safetensors
    /// is needed.
    PickleRefused,
    /// A JSON file cannot be parsed or holds a value outside its range.
    ConfigInvalid,
    /// The adapter uses a feature that would change the mathematics and is not handled.
    AdapterUnsupported,
    /// The adapter's file holds tensors that nothing accounts for.
    TensorsUnaccounted,
    /// The base model's architecture has no family here.
    ModelUnsupported,
    /// No adapter was given.
    NoAdapters,
    /// Calibration samples are absent, empty or do not fit the model.
    SamplesInvalid,
    /// An option is outside its range or contradicts another.
    OptionInvalid,
    /// A Gram matrix is not positive definite even after the ridge.
    NotPositiveDefinite,
    /// WebGPU was asked for and cannot be used.
    WebgpuUnavailable,
    /// The model or the samples are larger than the device can hold.
    DeviceLimit,
    /// The GPU went away while it was working.
    DeviceLost,
    /// A fault of the program itself.
    Internal,
}

impl Code {
    /// The stable text form.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Cancelled => "cancelled",
            Self::FileTruncated => "file_truncated",
            Self::ReadFailed => "read_failed",
            Self::WriteFailed => "write_failed",
            Self::HeaderInvalid => "header_invalid",
            Self::OffsetsOverlap => "offsets_overlap",
            Self::DtypeUnsupported => "dtype_unsupported",
            Self::Missing => "missing",
            Self::Duplicate => "duplicate",
            Self::ShapeMismatch => "shape_mismatch",
            Self::NotFinite => "not_finite",
            Self::PickleRefused => "pickle_refused",
            Self::ConfigInvalid => "config_invalid",
            Self::AdapterUnsupported => "adapter_unsupported",
            Self::TensorsUnaccounted => "tensors_unaccounted",
            Self::ModelUnsupported => "model_unsupported",
            Self::NoAdapters => "no_adapters",
            Self::SamplesInvalid => "samples_invalid",
            Self::OptionInvalid => "option_invalid",
            Self::NotPositiveDefinite => "not_positive_definite",
            Self::WebgpuUnavailable => "webgpu_unavailable",
            Self::DeviceLimit => "device_limit",
            Self::DeviceLost => "device_lost",
            Self::Internal => "internal",
        }
    }
}

impl Error {
    /// A failure of the given kind; `message` says what, where and what to do.
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
        }
    }

    /// The kind of the failure.
    pub const fn code(&self) -> Code {
        self.code
    }
}
