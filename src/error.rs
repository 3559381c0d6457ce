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

macro_rules! codes {
    (
        $(#[$outer:meta])*
        pub enum Code {
            $(
                $(#[doc = $doc:literal])+
                $variant:ident = $name:literal,
            )+
        }
    ) => {
        $(#[$outer])*
        pub enum Code {
            $(
                $(#[doc = $doc])+
                $variant,
            )+
        }

        impl Code {
            /// Every code's text form, and what it means.
            pub const ALL: &[(&str, &str)] = &[$(($name, concat!($($doc),+)),)+];

            /// The code of that text form.
            pub fn named(name: &str) -> Option<Self> {
                match name {
                    $($name => Some(Self::$variant),)+
                    _ => None,
                }
            }

            /// The stable text form.
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)+
                }
            }
        }
    };
}

codes! {
    /// The kind of a failure; its text form is part of the public interface and never changes.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub enum Code {
        /// The caller cancelled the work.
        Cancelled = "cancelled",
        /// A file ends before the bytes that its own header promises.
        FileTruncated = "file_truncated",
        /// A file cannot be read.
        ReadFailed = "read_failed",
        /// A result cannot be written.
        WriteFailed = "write_failed",
        /// A safetensors header or shard index is malformed.
        HeaderInvalid = "header_invalid",
        /// Two tensors of a safetensors file share bytes.
        OffsetsOverlap = "offsets_overlap",
        /// A tensor's element type is not one the program reads.
        DtypeUnsupported = "dtype_unsupported",
        /// A tensor or file that is needed is absent.
        Missing = "missing",
        /// The same file, tensor or adapter was given twice.
        Duplicate = "duplicate",
        /// A tensor has another shape than the base model needs.
        ShapeMismatch = "shape_mismatch",
        /// A tensor holds NaN or infinity.
        NotFinite = "not_finite",
        /// A Python pickle (`.bin`, `.pt`) holds more than tensors, is damaged, or stands where none is
        /// read.
        PickleRefused = "pickle_refused",
        /// A JSON file cannot be parsed or holds a value outside its range.
        ConfigInvalid = "config_invalid",
        /// The adapter uses a feature that would change the mathematics and is not handled.
        AdapterUnsupported = "adapter_unsupported",
        /// The adapter's file holds tensors that nothing accounts for.
        TensorsUnaccounted = "tensors_unaccounted",
        /// The base model's architecture has no family here.
        ModelUnsupported = "model_unsupported",
        /// No adapter was given.
        NoAdapters = "no_adapters",
        /// Samples are absent, empty, malformed or do not fit the model.
        SamplesInvalid = "samples_invalid",
        /// An option is outside its range or contradicts another.
        OptionInvalid = "option_invalid",
        /// A Gram matrix is not positive definite even after the ridge.
        NotPositiveDefinite = "not_positive_definite",
        /// WebGPU was asked for and cannot be used.
        WebgpuUnavailable = "webgpu_unavailable",
        /// The model or the samples are larger than the device can hold.
        DeviceLimit = "device_limit",
        /// Memory that the work needs is not to be had.
        OutOfMemory = "out_of_memory",
        /// The GPU went away while it was working.
        DeviceLost = "device_lost",
        /// A fault of the program itself.
        Internal = "internal",
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

    /// The same failure, with the input that it is about before its message, unless that names it already.
    #[must_use]
    pub fn about(self, input: &str) -> Self {
        if self.message.contains(input) {
            return self;
        }
        Self {
            message: format!("{input}: {}", self.message),
            ..self
        }
    }

    /// The kind of the failure.
    pub const fn code(&self) -> Code {
        self.code
    }
}
