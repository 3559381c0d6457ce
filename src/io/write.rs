//! Where results go: safetensors in a fixed order, whole for an adapter, streamed for a model.
//!
//! The same tensors must give the same bytes, so that a merge can be repeated and compared by its hash. The crate keeps
//! file metadata in a hash map, whose order differs from run to run, so the header is written here from the crate's own
//! checked [`Metadata`] with the map sorted.

use std::{collections::BTreeMap, ops::Range};

use ::half::{bf16, f16};
use async_trait::async_trait;
use safetensors::Dtype;
use safetensors::tensor::{Metadata, TensorInfo};
use serde::ser::{Serialize, SerializeMap, Serializer};

use crate::{
    error::{Code, Error, Result},
    io::half::narrowed,
};

/// The element type of written weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OutDtype {
    /// 32-bit floats.
    F32,
    /// 16-bit IEEE floats, up to 65504.
    F16,
    /// The upper half of 32-bit floats.
    Bf16,
}

impl OutDtype {
    /// The narrowest type that holds what either does.
    #[must_use]
    pub fn or_wider(self, other: Self) -> Self {
        if self == other { self } else { Self::F32 }
    }

    /// Bytes of one element.
    pub const fn bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::Bf16 => 2,
        }
    }
}

/// The element type that a caller asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DtypeChoice {
    /// An adapter in the widest type of those it is made of, a base model's tensors each in their own type.
    Auto,
    /// 32-bit floats.
    F32,
    /// 16-bit IEEE floats.
    F16,
    /// The upper half of 32-bit floats.
    Bf16,
}

impl DtypeChoice {
    /// The type that is meant where `auto` means `own`.
    pub fn or(self, own: OutDtype) -> OutDtype {
        match self {
            Self::Auto => own,
            Self::F32 => OutDtype::F32,
            Self::F16 => OutDtype::F16,
            Self::Bf16 => OutDtype::Bf16,
        }
    }
}

impl From<OutDtype> for Dtype {
    fn from(dtype: OutDtype) -> Self {
        match dtype {
            OutDtype::F32 => Self::F32,
            OutDtype::F16 => Self::F16,
            OutDtype::Bf16 => Self::BF16,
        }
    }
}

/// A tensor to be written.
#[derive(Debug, Clone, PartialEq)]
pub struct OutTensor {
    /// Its name in the file.
    pub name: String,
    /// Its shape; the product is the length of `data`.
    pub shape: Vec<usize>,
    /// Its elements, row by row.
    pub data: Vec<f32>,
}

/// Where output files go. `write` is called with the pieces of one file in order, and files come
/// one after another.
#[async_trait(?Send)]
pub trait Sink {
    /// Appends `bytes` to the named file, which the first call for it begins.
    ///
    /// # Errors
    /// `write_failed` if the bytes cannot be kept.
    async fn write(&mut self, file: &str, bytes: &[u8]) -> Result<()>;

    /// Exactly these bytes of a file that was begun: what was set aside until it could be put in its place.
    ///
    /// # Errors
    /// `write_failed` if they cannot be read back.
    async fn read(&mut self, file: &str, range: Range<u64>) -> Result<Vec<u8>>;

    /// Takes a file away again that was only needed on the way.
    ///
    /// # Errors
    /// `write_failed` if it cannot be removed.
    async fn remove(&mut self, file: &str) -> Result<()>;

    /// Whether the sink hashes what it is given, as a place with a faster SHA-256 does.
    fn hashes(&self) -> bool {
        false
    }

    /// The SHA-256 of a file as it was written, in lower-case hexadecimal, where the sink [hashes](Sink::hashes).
    ///
    /// # Errors
    /// `write_failed` if there is none.
    async fn own_sha256(&mut self, file: &str) -> Result<String> {
        Err(Error::new(
            Code::WriteFailed,
            format!("nothing hashes what is written: {file}"),
        ))
    }
}

/// A sink that keeps files in memory, in the order they were begun.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MemorySink {
    files: Vec<(String, Vec<u8>)>,
}

impl MemorySink {
    /// The files written so far, in the order they were begun.
    pub fn files(&self) -> &[(String, Vec<u8>)] {
        &self.files
    }

    /// The content of one file.
    pub fn file(&self, name: &str) -> Option<&[u8]> {
        self.files
            .iter()
            .find(|(file, _)| file == name)
            .map(|(_, bytes)| bytes.as_slice())
    }
}

#[async_trait(?Send)]
impl Sink for MemorySink {
    async fn write(&mut self, file: &str, bytes: &[u8]) -> Result<()> {
        match self.files.iter_mut().find(|(name, _)| name == file) {
            Some((_, content)) => content.extend_from_slice(bytes),
            None => self.files.push((file.to_owned(), bytes.to_vec())),
        }
        Ok(())
    }

    async fn read(&mut self, file: &str, range: Range<u64>) -> Result<Vec<u8>> {
        let place = |end: u64| usize::try_from(end).unwrap_or(usize::MAX);
        let content = self.file(file).unwrap_or_default();
        let bytes = content.get(place(range.start)..place(range.end));
        bytes.map(<[u8]>::to_vec).ok_or_else(|| {
            Error::new(
                Code::WriteFailed,
                format!(
                    "bytes {} to {} were never written: {file}",
                    range.start, range.end
                ),
            )
        })
    }

    async fn remove(&mut self, file: &str) -> Result<()> {
        self.files.retain(|(name, _)| name != file);
        Ok(())
    }
}

/// The bytes of `data` in the given element type, little-endian.
///
/// # Errors
/// `not_finite` for NaN or infinity, `option_invalid` for a number that f16 cannot hold; both name
/// the tensor.
pub fn encode(name: &str, data: &[f32], dtype: OutDtype) -> Result<Vec<u8>> {
    encode_piece(name, 0, data, dtype)
}

/// As [`encode`], of a tensor's elements from `start` on.
///
/// # Errors
/// As [`encode`].
pub fn encode_piece(name: &str, start: usize, data: &[f32], dtype: OutDtype) -> Result<Vec<u8>> {
    let largest = largest_magnitude(data);
    let first = |wrong: &dyn Fn(f32) -> bool| {
        let at = data.iter().position(|&x| wrong(x)).unwrap_or(0);
        (data.get(at).copied().unwrap_or_default(), start + at)
    };
    if !largest.is_finite() {
        let (value, at) = first(&|x| !x.is_finite());
        return Err(Error::new(
            Code::NotFinite,
            format!("A result holds {value} at element {at} and is not written: {name}"),
        ));
    }
    let too_large = |x: f32| f16::from_f32(x).is_infinite();
    Ok(match dtype {
        OutDtype::F32 => elements(data, f32::to_le_bytes),
        OutDtype::Bf16 => elements(data, |x| bf16::from_f32(x).to_le_bytes()),
        OutDtype::F16 if too_large(largest) => {
            let (value, at) = first(&too_large);
            return Err(Error::new(
                Code::OptionInvalid,
                format!("{value} at element {at} does not fit f16, choose dtype f32: {name}"),
            ));
        }
        OutDtype::F16 => elements(data, |x| narrowed(x).to_le_bytes()),
    })
}

/// Infinity or NaN if one of the numbers is. Compared as bits, whose order among magnitudes is the numbers', so that
/// compilers do several at once.
fn largest_magnitude(data: &[f32]) -> f32 {
    let magnitudes = data.iter().map(|x| x.to_bits() & 0x7fff_ffff);
    f32::from_bits(magnitudes.fold(0, u32::max))
}

fn elements<const N: usize>(data: &[f32], of: impl Fn(f32) -> [u8; N]) -> Vec<u8> {
    let mut bytes = vec![0; N * data.len()];
    let places = bytes.as_chunks_mut::<N>().0.iter_mut();
    places.zip(data).for_each(|(place, &x)| *place = of(x));
    bytes
}

/// A whole safetensors file. The same tensors and metadata give the same bytes, whatever the order
/// they are given in.
///
/// # Errors
/// As [`encode`]; `internal` if a shape does not fit its data or a name occurs twice.
pub fn serialize(
    tensors: &[OutTensor],
    dtype: OutDtype,
    metadata: &BTreeMap<String, String>,
) -> Result<Vec<u8>> {
    let entries = tensors
        .iter()
        .map(|tensor| (tensor.name.clone(), dtype.into(), tensor.shape.clone()));
    let header = StreamHeader::new(entries, metadata)?;
    let by_name: BTreeMap<&str, &OutTensor> = tensors
        .iter()
        .map(|tensor| (tensor.name.as_str(), tensor))
        .collect();
    let mut file = header.bytes().to_vec();
    for (name, info) in header.tensors() {
        let data = by_name.get(name).map_or(&[][..], |tensor| tensor.data.as_slice());
        let bytes = encode(name, data, dtype)?;
        check_len(name, info, bytes.len())?;
        file.extend_from_slice(&bytes);
    }
    Ok(file)
}

fn check_len(name: &str, info: &TensorInfo, bytes: usize) -> Result<()> {
    let expected = info.data_offsets.1 - info.data_offsets.0;
    if bytes == expected {
        return Ok(());
    }
    Err(Error::new(
        Code::Internal,
        format!(
            "{bytes} bytes were given for a tensor of {expected} bytes, shape {:?}: {name}",
            info.shape
        ),
    ))
}

/// The first part of a safetensors file whose tensors are to be streamed after it, and their order.
#[derive(Debug, Clone)]
pub struct StreamHeader {
    bytes: Vec<u8>,
    tensors: Vec<(String, TensorInfo)>,
}

impl StreamHeader {
    /// Lays out tensors of the given names, types and shapes, the widest types first and then by
    /// name, as the safetensors crate does.
    ///
    /// # Errors
    /// `internal` if a name occurs twice or a size overflows.
    pub fn new(
        tensors: impl IntoIterator<Item = (String, Dtype, Vec<usize>)>,
        metadata: &BTreeMap<String, String>,
    ) -> Result<Self> {
        let mut tensors: Vec<_> = tensors.into_iter().collect();
        tensors.sort_by(|left, right| right.1.cmp(&left.1).then_with(|| left.0.cmp(&right.0)));
        let mut offset = 0_usize;
        let mut laid_out = Vec::with_capacity(tensors.len());
        for (name, dtype, shape) in tensors {
            let end = shape
                .iter()
                .try_fold(dtype.bitsize(), |bits, &dim| bits.checked_mul(dim))
                .and_then(|bits| offset.checked_add(bits / 8))
                .ok_or_else(|| {
                    Error::new(
                        Code::Internal,
                        format!("Shape {shape:?} overflows the file's size: {name}"),
                    )
                })?;
            laid_out.push((
                name,
                TensorInfo {
                    dtype,
                    shape,
                    data_offsets: (offset, end),
                },
            ));
            offset = end;
        }
        let checked = Metadata::new(None, laid_out.clone())
            .map_err(|error| Error::new(Code::Internal, format!("Cannot lay out the output: {error}")))?;
        if checked.tensors().len() != laid_out.len() {
            return Err(Error::new(
                Code::Internal,
                "Two tensors of the output have the same name",
            ));
        }
        let json = serde_json::to_vec(&Ordered {
            metadata,
            tensors: &laid_out,
        })
        .map_err(|error| Error::new(Code::Internal, format!("Cannot write a header: {error}")))?;
        let padded = json.len().next_multiple_of(8);
        let mut bytes = (padded as u64).to_le_bytes().to_vec();
        bytes.extend_from_slice(&json);
        bytes.resize(8 + padded, b' ');
        Ok(Self {
            bytes,
            tensors: laid_out,
        })
    }

    /// The header with its length, the first bytes of the file.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The tensors in the order their bytes follow.
    pub fn tensors(&self) -> impl ExactSizeIterator<Item = (&str, &TensorInfo)> {
        self.tensors.iter().map(|(name, info)| (name.as_str(), info))
    }

    /// The length of the whole file in bytes.
    pub fn file_bytes(&self) -> u64 {
        let data = self.tensors.last().map_or(0, |(_, info)| info.data_offsets.1);
        self.bytes.len() as u64 + data as u64
    }
}

/// The header's JSON: metadata sorted by key, then tensors by offset.
struct Ordered<'a> {
    metadata: &'a BTreeMap<String, String>,
    tensors: &'a [(String, TensorInfo)],
}

impl Serialize for Ordered<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        if !self.metadata.is_empty() {
            map.serialize_entry("__metadata__", self.metadata)?;
        }
        for (name, info) in self.tensors {
            map.serialize_entry(name, info)?;
        }
        map.end()
    }
}

/// Bytes that are gathered before they are handed to the sink: many tensors are small.
const GATHERED_BYTES: usize = 1 << 20;

/// Streams the tensors of one safetensors file into a sink, holding it to the header's order.
pub struct StreamWriter<'a> {
    sink: &'a mut dyn Sink,
    file: String,
    header: StreamHeader,
    written: usize,
    /// Bytes of the next tensor that are already written.
    begun: usize,
    /// What is to go to the sink.
    gathered: Vec<u8>,
    /// Bytes of the file that were given so far.
    bytes: u64,
}

impl<'a> StreamWriter<'a> {
    /// Begins the file with its header.
    pub fn begin(sink: &'a mut dyn Sink, file: &str, header: StreamHeader) -> Self {
        Self {
            sink,
            file: file.to_owned(),
            gathered: header.bytes().to_vec(),
            bytes: header.bytes().len() as u64,
            header,
            written: 0,
            begun: 0,
        }
    }

    /// Name, type and shape of the tensor to be written next; none when all are.
    pub fn next(&self) -> Option<(&str, &TensorInfo)> {
        self.header
            .tensors
            .get(self.written)
            .map(|(name, info)| (name.as_str(), info))
    }

    /// Bytes of the file that were given so far.
    pub const fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The sink, for other files on the way.
    pub fn sink(&mut self) -> &mut dyn Sink {
        self.sink
    }

    /// Writes the whole of the next tensor.
    ///
    /// # Errors
    /// `internal` if it is not that tensor's turn or its length is wrong; whatever the sink gives.
    pub async fn write(&mut self, name: &str, bytes: &[u8]) -> Result<()> {
        if let Some((expected, info)) = self.next()
            && expected == name
            && self.begun == 0
        {
            check_len(name, info, bytes.len())?;
        }
        self.piece(name, bytes).await
    }

    /// Writes a piece of the next tensor. Its pieces follow each other; one without bytes has one empty piece.
    ///
    /// # Errors
    /// As [`StreamWriter::write`].
    pub async fn piece(&mut self, name: &str, bytes: &[u8]) -> Result<()> {
        let turn = self.next().filter(|(expected, _)| *expected == name);
        let Some((_, info)) = turn else {
            return Err(Error::new(
                Code::Internal,
                format!("A tensor is written out of turn: {name}"),
            ));
        };
        let whole = info.data_offsets.1 - info.data_offsets.0;
        let begun = self.begun + bytes.len();
        if begun > whole {
            check_len(name, info, begun)?;
        }
        self.bytes += bytes.len() as u64;
        if self.gathered.is_empty() && bytes.len() >= GATHERED_BYTES {
            self.sink.write(&self.file, bytes).await?;
        } else {
            self.gathered.extend_from_slice(bytes);
            if self.gathered.len() >= GATHERED_BYTES {
                self.flush().await?;
            }
        }
        if begun == whole {
            self.written += 1;
            self.begun = 0;
        } else {
            self.begun = begun;
        }
        Ok(())
    }

    async fn flush(&mut self) -> Result<()> {
        if !self.gathered.is_empty() {
            self.sink.write(&self.file, &self.gathered).await?;
            self.gathered.clear();
        }
        Ok(())
    }

    /// Ends the file.
    ///
    /// # Errors
    /// `internal`, naming the first tensor that was not written; whatever the sink gives.
    pub async fn finish(mut self) -> Result<()> {
        self.flush().await?;
        match self.next() {
            None => Ok(()),
            Some((name, _)) => Err(Error::new(
                Code::Internal,
                format!("A tensor was never written to {}: {name}", self.file),
            )),
        }
    }
}
