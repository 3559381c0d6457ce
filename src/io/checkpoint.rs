//! The tensors of a model's or an adapter's files: by name, by range, whatever format holds them.
//!
//! safetensors is the format; torch's pickles, which older models and adapters came in, give the same list of tensors
//! by way of [`pickle`](super::pickle). The readers let no number through that lies (a length beyond the file, ranges
//! that overlap, a shape that overflows), so that a [`TensorInfo`] needs no further check.

mod safetensors;
mod shards;
mod strided;

use std::{cell::RefCell, collections::BTreeMap, ops::Range, rc::Rc};

use ::half::bf16;
use ::safetensors::Dtype;
use futures_util::stream::{self, StreamExt, TryStreamExt};

use crate::{
    error::{Code, Error, Result},
    io::{
        checkpoint::strided::Strided,
        half::widened,
        pickle,
        source::{ByteSource, Folder},
        tensor::{Contents, TensorInfo},
    },
};

/// How many bytes of a tensor are in memory at once beside the floats they become.
const READ_CHUNK_BYTES: usize = 16 << 20;

/// Pieces of a tensor that are asked for before the first of them is there.
const PIECES_ASKED: usize = 4;

/// Numbers that are checked at once: widened, they stay in the first-level cache.
const CHECKED_AT_ONCE: usize = 4096;

/// How much is read at once of a file whose tensors are small and wanted in the order of their bytes.
const WINDOW_BYTES: u64 = 4 << 20;

/// The tensors of one file, or of all the shards of one model.
#[derive(Clone)]
pub struct Checkpoint {
    sources: Vec<Rc<dyn ByteSource>>,
    tensors: BTreeMap<String, TensorInfo>,
    metadata: BTreeMap<String, String>,
    window: Rc<RefCell<Window>>,
}

/// Numbers in the type that their file has them in.
pub struct OwnNumbers {
    /// Element after element, little-endian.
    pub bytes: Vec<u8>,
    /// Bytes of an element.
    pub element_bytes: usize,
    /// Appends the numbers of elements as f32. Both are what [`Checkpoint::f32`] reads.
    pub widen: fn(&[u8], &mut Vec<f32>),
}

/// A stretch of a file that was read for one small tensor and is likely to hold the next one.
#[derive(Default)]
struct Window {
    source: usize,
    start: u64,
    bytes: Vec<u8>,
}

impl Window {
    /// The bytes of `range`, if they are here.
    fn get(&self, source: usize, range: &Range<u64>) -> Option<&[u8]> {
        let place = |at: u64| usize::try_from(at.checked_sub(self.start)?).ok();
        let bytes = self.bytes.get(place(range.start)?..place(range.end)?);
        bytes.filter(|_| self.source == source)
    }
}

impl std::fmt::Debug for Checkpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Checkpoint")
            .field(
                "sources",
                &self
                    .sources
                    .iter()
                    .map(|source| source.name())
                    .collect::<Vec<_>>(),
            )
            .field("tensors", &self.tensors)
            .field("metadata", &self.metadata)
            .finish()
    }
}

impl Checkpoint {
    /// The checkpoint called `stem` in a folder: `stem.safetensors`, or the shards that
    /// `stem.safetensors.index.json` lists, or else torch's pickle of it (`stem.bin`, for a model
    /// `pytorch_model.bin`, or its shards). Only headers and pickles are read, not the numbers.
    ///
    /// # Errors
    /// `missing` if there is none of them, or a shard or a listed tensor is absent; `pickle_refused` if
    /// there are only pickles of other names; otherwise as [`Checkpoint::open_source`] and
    /// [`Checkpoint::open_pickle`].
    pub async fn open(folder: &Folder, stem: &str) -> Result<Self> {
        let single = format!("{stem}.safetensors");
        if let Some(source) = folder.find(&single) {
            return Self::open_source(source).await;
        }
        if let Some(source) = folder.find(&format!("{single}.index.json")) {
            return shards::open(folder, source.as_ref()).await;
        }
        let pickled = if stem == "model" {
            String::from("pytorch_model.bin")
        } else {
            format!("{stem}.bin")
        };
        if let Some(source) = folder.find(&pickled) {
            return Self::open_pickle(source).await;
        }
        if let Some(source) = folder.find(&format!("{pickled}.index.json")) {
            return shards::open(folder, source.as_ref()).await;
        }
        if let Some(pickle) = folder.names().find(|name| is_pickle_of_weights(name)) {
            return Err(pickle::refused(
                &format!("A pickle is read under the name {pickled} alone"),
                pickle,
            ));
        }
        let others: Vec<&str> = folder
            .names()
            .filter(|name| name.ends_with(".safetensors"))
            .collect();
        let hint = if others.is_empty() {
            String::from("choose the folder that holds the weights")
        } else {
            format!(
                "rename the one that is meant, or choose its folder ({})",
                others.join(", ")
            )
        };
        Err(Error::new(
            Code::Missing,
            format!(
                "{} has neither this file nor its index; {hint}: {single}",
                folder.label()
            ),
        ))
    }

    /// The tensors of one safetensors file. Only its header is read.
    ///
    /// # Errors
    /// `file_truncated`, `header_invalid`, `offsets_overlap`, `duplicate`, `dtype_unsupported` or
    /// `pickle_refused`, each naming the file and, where there is one, the tensor.
    pub async fn open_source(source: Rc<dyn ByteSource>) -> Result<Self> {
        let contents = safetensors::read(source.as_ref(), 0).await?;
        Ok(Self::of(source, contents))
    }

    /// The tensors of one file that torch saved as a pickle. Nothing in it is executed: it is read by a
    /// parser that knows tensors and refuses whatever else it meets.
    ///
    /// # Errors
    /// `pickle_refused` for anything but a dictionary of tensors, or a damaged one; `file_truncated` or
    /// `duplicate`, each naming the file and, where there is one, the tensor.
    pub async fn open_pickle(source: Rc<dyn ByteSource>) -> Result<Self> {
        let contents = pickle::read(source.as_ref(), 0).await?;
        Ok(Self::of(source, contents))
    }

    fn of(source: Rc<dyn ByteSource>, contents: Contents) -> Self {
        let tensors = contents
            .tensors
            .into_iter()
            .map(|info| (info.name.clone(), info))
            .collect();
        Self {
            sources: vec![source],
            tensors,
            metadata: contents.metadata,
            window: Rc::default(),
        }
    }

    /// The tensors' names, sorted.
    pub fn names(&self) -> impl ExactSizeIterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    /// What the header says of a tensor.
    pub fn info(&self, name: &str) -> Option<&TensorInfo> {
        self.tensors.get(name)
    }

    /// What the headers say of every tensor, sorted by name.
    pub fn infos(&self) -> impl ExactSizeIterator<Item = &TensorInfo> {
        self.tensors.values()
    }

    /// The files' own metadata, such as `format: pt`; of shards, the first that gives a key counts.
    pub fn metadata(&self) -> &BTreeMap<String, String> {
        &self.metadata
    }

    /// The files the tensors come from.
    pub fn sources(&self) -> &[Rc<dyn ByteSource>] {
        &self.sources
    }

    /// The length of all files together, in bytes.
    pub fn file_bytes(&self) -> u64 {
        self.sources.iter().map(|source| source.len()).sum()
    }

    /// What the header says of a tensor that has to be there.
    ///
    /// # Errors
    /// `missing`, naming the tensor.
    pub fn require(&self, name: &str) -> Result<&TensorInfo> {
        self.info(name).ok_or_else(|| {
            let file = self.sources.first().map_or("no file", |source| source.name());
            Error::new(
                Code::Missing,
                format!("A tensor that is needed is not in {file}; is this the right model?: {name}"),
            )
        })
    }

    /// The name of the file that holds a tensor of this checkpoint.
    pub fn file_of(&self, info: &TensorInfo) -> &str {
        self.sources
            .get(info.source)
            .map_or("no file", |source| source.name())
    }

    /// The file that holds a tensor of this checkpoint.
    fn source_of(&self, info: &TensorInfo) -> Result<&dyn ByteSource> {
        self.sources.get(info.source).map(AsRef::as_ref).ok_or_else(|| {
            Error::new(
                Code::Internal,
                format!("A tensor names a file that was not opened: {}", info.name),
            )
        })
    }

    /// A tensor's bytes in the file's type, element after element, row by row.
    ///
    /// # Errors
    /// `missing` if there is no such tensor; whatever reading gives.
    pub async fn bytes(&self, name: &str) -> Result<Vec<u8>> {
        let info = self.require(name)?;
        let source = self.source_of(info)?;
        match Strided::of(info) {
            Some(strided) => strided.read(source, 0..info.elements()).await,
            None => source.read(info.range.clone()).await,
        }
    }

    /// Some of a tensor's bytes as they are in the file, counted from its first.
    ///
    /// # Errors
    /// As [`Checkpoint::bytes`]; `internal` if the range reaches beyond the tensor.
    pub async fn bytes_range(&self, name: &str, range: Range<u64>) -> Result<Vec<u8>> {
        let info = self.require(name)?;
        if range.start > range.end || range.end > info.bytes() {
            return Err(Error::new(
                Code::Internal,
                format!(
                    "Bytes {} to {} lie outside a tensor: {name}",
                    range.start, range.end
                ),
            ));
        }
        let start = info.range.start;
        self.source_of(info)?
            .read(start + range.start..start + range.end)
            .await
    }

    /// A tensor as 32-bit floats, row by row, whatever numeric type it has in the file.
    ///
    /// # Errors
    /// `missing` if there is no such tensor, `dtype_unsupported` if its type has no numbers this
    /// program reads, `not_finite` if it holds NaN or infinity or a number beyond f32, naming the
    /// tensor and the first such element; whatever reading gives.
    pub async fn f32(&self, name: &str) -> Result<Vec<f32>> {
        let elements = self.require(name)?.elements();
        self.f32_range(name, 0..elements).await
    }

    /// As [`Checkpoint::f32_range`], for tensors that are wanted one after another in about the order of their bytes:
    /// small ones that lie near each other are read at once.
    ///
    /// # Errors
    /// As [`Checkpoint::f32_range`].
    pub async fn f32_near(&self, name: &str, range: Range<usize>) -> Result<Vec<f32>> {
        let info = self.require(name)?;
        let widen = Widen::of(info)?;
        if info.strides.is_some() || info.bytes() >= WINDOW_BYTES || range.end > info.elements() {
            return self.f32_range(name, range).await;
        }
        let source = self.source_of(info)?;
        if self.window.borrow().get(info.source, &info.range).is_none() {
            let end = source.len().min(info.range.start + WINDOW_BYTES);
            // The old stretch goes before the new one comes.
            self.window.take();
            let bytes = source.read(info.range.start..end).await?;
            self.window.replace(Window {
                source: info.source,
                start: info.range.start,
                bytes,
            });
        }
        let mut values = room(range.len(), name)?;
        let window = self.window.borrow();
        let bytes = window.get(info.source, &info.range).unwrap_or_default();
        let bytes = bytes.get(range.start * widen.bytes..range.end * widen.bytes);
        (widen.widen)(bytes.unwrap_or_default(), &mut values);
        finite(&values, range.start, name, source)?;
        Ok(values)
    }

    /// The elements `range` of a tensor, counted row by row: some rows of an embedding table that is
    /// not wanted whole.
    ///
    /// # Errors
    /// As [`Checkpoint::f32`]; `internal` if the range reaches beyond the tensor.
    pub async fn f32_range(&self, name: &str, range: Range<usize>) -> Result<Vec<f32>> {
        let info = self.require(name)?;
        let widen = Widen::of(info)?;
        inside(name, &range, info)?;
        let mut values = room(range.len(), name)?;
        let source = self.source_of(info)?;
        if let Some(strided) = Strided::of(info) {
            let bytes = strided.read(source, range.clone()).await?;
            (widen.widen)(&bytes, &mut values);
        } else {
            let width = widen.bytes as u64;
            let end = info.range.start + range.end as u64 * width;
            let mut at = info.range.start + range.start as u64 * width;
            while at < end {
                let next = end.min(at + READ_CHUNK_BYTES as u64);
                let bytes = source.read(at..next).await?;
                (widen.widen)(&bytes, &mut values);
                at = next;
            }
        }
        finite(&values, range.start, name, source)?;
        Ok(values)
    }

    /// The elements `range` of a tensor as they are in the file, row by row: the same numbers as
    /// [`Checkpoint::f32_range`]'s, in fewer bytes where they are halves. Several reads are under way at once.
    ///
    /// # Errors
    /// As [`Checkpoint::f32_range`].
    pub async fn own_range(&self, name: &str, range: Range<usize>) -> Result<OwnNumbers> {
        let info = self.require(name)?;
        let Widen {
            bytes: element_bytes,
            widen,
        } = Widen::of(info)?;
        inside(name, &range, info)?;
        let source = self.source_of(info)?;
        let mut checked = Vec::with_capacity(CHECKED_AT_ONCE);
        let mut check = |bytes: &[u8], first: usize| -> Result<()> {
            for (at, some) in bytes.chunks(CHECKED_AT_ONCE * element_bytes).enumerate() {
                checked.clear();
                widen(some, &mut checked);
                finite(&checked, first + at * CHECKED_AT_ONCE, name, source)?;
            }
            Ok(())
        };
        let bytes = if let Some(strided) = Strided::of(info) {
            let bytes = strided.read(source, range.clone()).await?;
            check(&bytes, range.start)?;
            bytes
        } else {
            let mut bytes = room(range.len() * element_bytes, name)?;
            let place = |element: usize| info.range.start + element as u64 * element_bytes as u64;
            let elements = READ_CHUNK_BYTES / element_bytes;
            let reads = range.clone().step_by(elements).map(|first| {
                let last = range.end.min(first + elements);
                source.read(place(first)..place(last))
            });
            let mut pieces = stream::iter(reads).buffered(PIECES_ASKED);
            while let Some(piece) = pieces.try_next().await? {
                check(&piece, range.start + bytes.len() / element_bytes)?;
                bytes.extend_from_slice(&piece);
            }
            bytes
        };
        Ok(OwnNumbers {
            bytes,
            element_bytes,
            widen,
        })
    }
}

/// Refuses elements that a tensor does not have.
fn inside(name: &str, range: &Range<usize>, info: &TensorInfo) -> Result<()> {
    if range.start <= range.end && range.end <= info.elements() {
        return Ok(());
    }
    Err(Error::new(
        Code::Internal,
        format!(
            "Elements {} to {} lie outside a tensor: {name}",
            range.start, range.end
        ),
    ))
}

/// Room for so many numbers or bytes of a tensor.
fn room<T>(count: usize, name: &str) -> Result<Vec<T>> {
    let mut values = Vec::new();
    values.try_reserve_exact(count).map_err(|_| {
        Error::new(
            Code::OutOfMemory,
            format!(
                "There is no memory for {} MiB of a tensor; close other tabs or programs: {name}",
                count.saturating_mul(size_of::<T>()) >> 20
            ),
        )
    })?;
    Ok(values)
}

/// Refuses what is no number; `start` is the place of the first value in its tensor.
fn finite(values: &[f32], start: usize, name: &str, source: &dyn ByteSource) -> Result<()> {
    // Whether there is one is a question to several numbers at a time, which of them it is is not.
    let any = |some: &[f32]| some.iter().fold(false, |any, value| any | !value.is_finite());
    if !values.chunks(CHECKED_AT_ONCE).any(any) {
        return Ok(());
    }
    match values.iter().position(|value| !value.is_finite()) {
        None => Ok(()),
        Some(first) => Err(Error::new(
            Code::NotFinite,
            format!(
                "Element {} is {} as f32; the file is damaged or its training diverged, so use another ({}): {name}",
                start + first,
                values[first],
                source.name()
            ),
        )),
    }
}

/// How elements of one type become floats. `bytes` divides [`READ_CHUNK_BYTES`].
struct Widen {
    bytes: usize,
    widen: fn(&[u8], &mut Vec<f32>),
}

/// Reads each `[u8; N]` of a buffer as one element.
macro_rules! widen {
    ($bytes:literal, $element:ident => $value:expr) => {
        Widen {
            bytes: $bytes,
            widen: |bytes, values| {
                values.extend(bytes.as_chunks::<$bytes>().0.iter().map(|&$element| $value));
            },
        }
    };
}

impl Widen {
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_precision_loss,
        reason = "f32 is what the program computes in; a value beyond it becomes infinite and is refused"
    )]
    fn of(info: &TensorInfo) -> Result<Self> {
        Ok(match info.dtype {
            Dtype::F32 => widen!(4, b => f32::from_le_bytes(b)),
            Dtype::F16 => widen!(2, b => widened(u16::from_le_bytes(b))),
            Dtype::BF16 => widen!(2, b => bf16::from_le_bytes(b).to_f32()),
            Dtype::F64 => widen!(8, b => f64::from_le_bytes(b) as f32),
            Dtype::I64 => widen!(8, b => i64::from_le_bytes(b) as f32),
            Dtype::U64 => widen!(8, b => u64::from_le_bytes(b) as f32),
            Dtype::I32 => widen!(4, b => i32::from_le_bytes(b) as f32),
            Dtype::U32 => widen!(4, b => u32::from_le_bytes(b) as f32),
            Dtype::I16 => widen!(2, b => f32::from(i16::from_le_bytes(b))),
            Dtype::U16 => widen!(2, b => f32::from(u16::from_le_bytes(b))),
            Dtype::I8 => widen!(1, b => f32::from(i8::from_le_bytes(b))),
            Dtype::U8 => widen!(1, b => f32::from(b[0])),
            Dtype::BOOL => widen!(1, b => f32::from(u8::from(b[0] != 0))),
            other => {
                return Err(Error::new(
                    Code::DtypeUnsupported,
                    format!(
                        "Weights of type {other} are not read here; save the model unquantised, as float32, float16 or bfloat16: {}",
                        info.name
                    ),
                ));
            }
        })
    }
}

/// Whether a file directly in a folder is of pickled weights by its name, as opposed to what a trainer
/// leaves beside them.
fn is_pickle_of_weights(name: &str) -> bool {
    let of_the_trainer = [
        "training_args.",
        "optimizer.",
        "scheduler.",
        "scaler.",
        "rng_state",
    ];
    [".bin", ".pt", ".pth", ".ckpt", ".pkl"]
        .iter()
        .any(|end| name.ends_with(end))
        && !name.contains('/')
        && !of_the_trainer.iter().any(|start| name.starts_with(start))
}
