//! Files in and files out: byte ranges, safetensors, torch's pickles and the folders they come in.
//!
//! A model may be larger than the memory there is, so nothing here reads a whole weight file: a header is read and
//! checked once, and after that every tensor is one byte range. A header is outside input: every number in it is
//! checked before it is used as a length or an offset.

mod checkpoint;
mod half;
mod pickle;
mod source;
mod stored;
mod tensor;
mod write;

pub use self::checkpoint::{Checkpoint, OwnNumbers};
#[cfg(not(target_arch = "wasm32"))]
pub use self::source::FileSource;
pub(crate) use self::source::parse_json;
pub use self::source::{ByteSource, FileDigest, Folder, MemorySource, sha256};
pub use self::stored::StoredTensor;
pub use self::tensor::TensorInfo;
pub use self::write::{
    DtypeChoice, MemorySink, OutDtype, OutTensor, Sink, StreamHeader, StreamWriter, encode, encode_piece,
    serialize,
};
/// A tensor's element type, as the safetensors crate names it.
pub use ::safetensors::Dtype;
