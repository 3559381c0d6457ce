//! The header of a safetensors file, from bytes to checked [`TensorInfo`]s.
//!
//! A file is 8 bytes of header length, a JSON header with each tensor's type, shape and byte range,
//! and the bytes; all of it may lie.
//! The format allows no byte of the file to be unaccounted for and neither does this: a hole may
//! hide anything, and other readers would refuse the file later. JSON maps silently keep the last of
//! two equal names, so the header is not parsed into a map but into a list.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use ::safetensors::Dtype;
use serde::Deserialize;
use serde::de::value::StrDeserializer;
use serde::de::{Deserializer, Error as _, IntoDeserializer, MapAccess, Visitor};

use crate::{
    error::{Code, Error, Result},
    io::{
        ByteSource, pickle,
        tensor::{Contents, TensorInfo},
    },
};

/// The bytes that hold the header's length.
const LENGTH_BYTES: u64 = 8;

/// The largest header the safetensors crate accepts.
const HEADER_LIMIT_BYTES: u64 = 100_000_000;

/// Reads and checks the header of a file, which the tensors then call `source_index`. They come in the
/// order of their bytes.
pub(super) async fn read(source: &dyn ByteSource, source_index: usize) -> Result<Contents> {
    let file = source.name();
    let invalid = |what: String| Error::new(Code::HeaderInvalid, format!("{what}: {file}"));
    let file_bytes = source.len();
    if file_bytes < LENGTH_BYTES {
        return Err(Error::new(
            Code::FileTruncated,
            format!("{file_bytes} bytes is too short for a safetensors file; fetch it again: {file}"),
        ));
    }
    let start = source.read(0..LENGTH_BYTES).await?;
    let header_bytes = <[u8; 8]>::try_from(start.as_slice())
        .map(u64::from_le_bytes)
        .map_err(|_| Error::new(Code::ReadFailed, format!("A read came back short: {file}")))?;
    let not_a_header = |what: String| recognise(&start, file).unwrap_or_else(|| invalid(what));
    if header_bytes > HEADER_LIMIT_BYTES {
        return Err(not_a_header(format!(
            "The header claims {header_bytes} bytes, beyond the format's {HEADER_LIMIT_BYTES}; this is not a safetensors file"
        )));
    }
    let data_start = LENGTH_BYTES + header_bytes;
    if data_start > file_bytes {
        return Err(not_a_header(format!(
            "The header claims {header_bytes} bytes but the whole file has {file_bytes}; it is cut short or not a safetensors file, so fetch it again"
        )));
    }
    let json = source.read(LENGTH_BYTES..data_start).await?;
    if json.first() != Some(&b'{') {
        return Err(not_a_header(String::from(
            "The header is not a JSON object; this is not a safetensors file",
        )));
    }
    let Json { metadata, entries } = serde_json::from_slice(&json)
        .map_err(|error| invalid(format!("The header is malformed ({error})")))?;

    let mut tensors = Vec::with_capacity(entries.len());
    let mut seen = BTreeSet::new();
    let data_bytes = file_bytes - data_start;
    for (name, entry) in entries {
        if !seen.insert(name.clone()) {
            return Err(Error::new(
                Code::Duplicate,
                format!("{file} names a tensor twice; save the model again: {name}"),
            ));
        }
        tensors.push(check_entry(
            name,
            entry,
            file,
            source_index,
            data_start,
            data_bytes,
        )?);
    }
    check_cover(&mut tensors, file, data_start, file_bytes)?;
    Ok(Contents { metadata, tensors })
}

/// What a file is, if its first bytes, which are no header's length, tell.
fn recognise(start: &[u8], file: &str) -> Option<Error> {
    // A zip archive or a bare pickle of protocol 2 to 5: what torch.save writes.
    if start.starts_with(b"PK\x03\x04") || matches!(start, [0x80, 2..=5, ..]) {
        return Some(pickle::refused(
            "This is a Python pickle under the name of a safetensors file",
            file,
        ));
    }
    start.starts_with(b"version ").then(|| {
        Error::new(
            Code::HeaderInvalid,
            format!(
                "This is a Git LFS pointer and not the weights; run `git lfs pull` in its folder: {file}"
            ),
        )
    })
}

/// A tensor as the header's JSON gives it.
#[derive(Deserialize)]
struct Entry {
    dtype: String,
    shape: Vec<u64>,
    data_offsets: (u64, u64),
}

/// Checks one tensor for itself: type, shape, length, and that it ends inside the file.
fn check_entry(
    name: String,
    entry: Entry,
    file: &str,
    source: usize,
    data_start: u64,
    data_bytes: u64,
) -> Result<TensorInfo> {
    let invalid = |what: String| Error::new(Code::HeaderInvalid, format!("{what} ({file}): {name}"));
    let Entry {
        dtype: type_name,
        shape,
        data_offsets: (begin, end),
    } = entry;
    let dtype: StrDeserializer<'_, serde::de::value::Error> = type_name.as_str().into_deserializer();
    let dtype = Dtype::deserialize(dtype).map_err(|_| {
        Error::new(
            Code::DtypeUnsupported,
            format!("The element type {type_name} is unknown ({file}): {name}"),
        )
    })?;
    let elements = shape
        .iter()
        .try_fold(1_u64, |elements, &dim| elements.checked_mul(dim));
    let bits = elements.and_then(|elements| elements.checked_mul(dtype.bitsize() as u64));
    let shape_fits: Option<Vec<usize>> = shape.iter().map(|&dim| usize::try_from(dim).ok()).collect();
    let elements_fit = elements.and_then(|elements| usize::try_from(elements).ok());
    let (Some(bits), Some(shape), Some(_)) = (bits, shape_fits, elements_fit) else {
        return Err(invalid(format!("The size of shape {shape:?} overflows")));
    };
    if begin > end {
        return Err(invalid(format!(
            "A tensor ends before it begins, at bytes {begin} and {end}"
        )));
    }
    if bits % 8 != 0 || bits / 8 != end - begin {
        return Err(invalid(format!(
            "Shape {shape:?} of {type_name} takes {} bytes, but {} are set aside",
            bits.div_ceil(8),
            end - begin
        )));
    }
    if end > data_bytes {
        return Err(Error::new(
            Code::FileTruncated,
            format!(
                "A tensor ends at data byte {end}, but the file has {data_bytes}; it is cut short, so fetch it again ({file}): {name}"
            ),
        ));
    }
    Ok(TensorInfo {
        name,
        dtype,
        shape,
        source,
        range: data_start + begin..data_start + end,
        strides: None,
    })
}

/// Checks the tensors together: they follow each other without overlap or hole up to the file's end.
fn check_cover(tensors: &mut [TensorInfo], file: &str, data_start: u64, file_bytes: u64) -> Result<()> {
    tensors.sort_by(|left, right| {
        (left.range.start, left.range.end, &left.name).cmp(&(right.range.start, right.range.end, &right.name))
    });
    let mut covered = data_start;
    let mut previous = "";
    for info in tensors.iter() {
        if info.range.start < covered {
            return Err(Error::new(
                Code::OffsetsOverlap,
                format!(
                    "Two tensors share bytes; the file is damaged ({file}): {previous}, {}",
                    info.name
                ),
            ));
        }
        if info.range.start > covered {
            break;
        }
        covered = info.range.end;
        previous = &info.name;
    }
    if covered == file_bytes {
        return Ok(());
    }
    let next = tensors
        .iter()
        .map(|info| info.range.start)
        .find(|&start| start > covered);
    Err(Error::new(
        Code::HeaderInvalid,
        format!(
            "Bytes {covered} to {} belong to no tensor, which the format forbids; save the model again: {file}",
            next.unwrap_or(file_bytes)
        ),
    ))
}

/// The header's JSON, with equal names of tensors still visible.
struct Json {
    metadata: BTreeMap<String, String>,
    entries: Vec<(String, Entry)>,
}

impl<'de> Deserialize<'de> for Json {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        struct JsonVisitor;

        impl<'de> Visitor<'de> for JsonVisitor {
            type Value = Json;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a JSON object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<Json, A::Error> {
                let mut metadata = None;
                let mut entries = Vec::new();
                while let Some(name) = map.next_key::<String>()? {
                    if name != "__metadata__" {
                        let entry = map.next_value().map_err(|error| {
                            A::Error::custom(format_args!("{error}, in the entry of {name}"))
                        })?;
                        entries.push((name, entry));
                    } else if metadata.is_some() {
                        return Err(A::Error::duplicate_field("__metadata__"));
                    } else {
                        metadata = Some(map.next_value::<Option<BTreeMap<_, _>>>()?.unwrap_or_default());
                    }
                }
                Ok(Json {
                    metadata: metadata.unwrap_or_default(),
                    entries,
                })
            }
        }

        deserializer.deserialize_map(JsonVisitor)
    }
}
