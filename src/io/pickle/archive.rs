//! The zip container of torch 1.6 and later: the pickle and each storage as files of their own.
//!
//! torch stores them without compression, so that a tensor is a byte range of the archive. Two programs may read one
//! archive differently where its directory contradicts its entries, and an archive may grow when it is unpacked. So the
//! directory has to fill the space up to the archive's end, entries have to be stored, to agree with their own headers
//! and to lie apart, and nothing else is read.

use std::collections::BTreeMap;
use std::ops::Range;

use crate::{
    error::{Code, Error, Result},
    io::{
        ByteSource, TensorInfo,
        pickle::{PICKLE_LIMIT_BYTES, Refusal, machine, refused, tensors},
    },
};

/// The record at the end of every archive, without the comment that torch does not write.
const END: &[u8] = b"PK\x05\x06";
const END_BYTES: u64 = 22;

/// The records of archives beyond 4 GiB, which torch writes for smaller ones too: the end record again,
/// with wide numbers, and where it lies.
const WIDE_END: &[u8] = b"PK\x06\x06";
const WIDE_END_BYTES: u64 = 56;
const LOCATOR: &[u8] = b"PK\x06\x07";
const LOCATOR_BYTES: u64 = 20;

const DIRECTORY_ENTRY: &[u8] = b"PK\x01\x02";
const DIRECTORY_ENTRY_BYTES: usize = 46;
const DIRECTORY_LIMIT_BYTES: u64 = 32 << 20;

const LOCAL_HEADER: &[u8] = b"PK\x03\x04";
const LOCAL_HEADER_BYTES: u64 = 30;

/// A number of 32 bits that stands for a wider one in the extra field.
const IS_WIDE: u64 = 0xffff_ffff;

/// Reads the tensors that an archive's pickle lists.
pub(super) async fn read(source: &dyn ByteSource) -> Result<Vec<TensorInfo>> {
    let file = source.name();
    let (mut entries, directory) = directory(source).await?;
    lay_apart(&mut entries, &directory, file)?;
    let mut pickles = entries.keys().filter_map(|name| name.strip_suffix("/data.pkl"));
    let (Some(root), None) = (pickles.next(), pickles.next()) else {
        return Err(refused("The archive does not hold one data.pkl", file));
    };
    if let Some(order) = entries.get(&format!("{root}/byteorder")) {
        let range = data(source, &format!("{root}/byteorder"), order, 16).await?;
        if source.read(range).await? != b"little" {
            return Err(refused(
                "The numbers are not of the byte order that is read, which is little",
                file,
            ));
        }
    }

    let name = format!("{root}/data.pkl");
    let entry = entries.get(&name).ok_or_else(|| missing(&name, file))?;
    let range = data(source, &name, entry, PICKLE_LIMIT_BYTES).await?;
    let bytes = source.read(range).await?;
    let mut left = machine::INSTRUCTION_LIMIT;
    let pickle = machine::run(&bytes, 0, &mut left).map_err(|refusal| refusal.of(file))?;
    if pickle.end != bytes.len() {
        return Err(refused("Something follows the pickle's end", file));
    }

    let mut starts = BTreeMap::new();
    for (key, storage) in tensors::storages(&pickle).map_err(|refusal| refusal.of(file))? {
        let name = format!("{root}/data/{key}");
        let entry = entries.get(&name).ok_or_else(|| missing(&name, file))?;
        let bytes = storage.elements.checked_mul(tensors::width(storage.dtype));
        if bytes != Some(entry.bytes) {
            return Err(refused(
                &format!(
                    "A storage of {} elements of {} has {} bytes",
                    storage.elements, storage.dtype, entry.bytes
                ),
                file,
            ));
        }
        starts.insert(key, data(source, &name, entry, u64::MAX).await?.start);
    }
    tensors::tensors(&pickle, &starts, file)
}

fn missing(name: &str, file: &str) -> Error {
    refused(
        &format!("The archive does not hold {}", name.escape_debug()),
        file,
    )
}

/// An entry as the directory has it.
struct Entry {
    bytes: u64,
    header_start: u64,
    /// Where whatever comes after it in the archive begins.
    next: u64,
}

/// All entries by name, and where the directory that lists them lies.
async fn directory(source: &dyn ByteSource) -> Result<(BTreeMap<String, Entry>, Range<u64>)> {
    let file = source.name();
    let cut_short = || {
        Error::new(
            Code::FileTruncated,
            format!("An archive of torch.save has no end; it is cut short, so fetch it again: {file}"),
        )
    };
    let tail_bytes = source.len().min(END_BYTES + LOCATOR_BYTES + WIDE_END_BYTES);
    let tail_start = source.len() - tail_bytes;
    let tail = source.read(tail_start..source.len()).await?;
    let end_at = tail.len().checked_sub(22).ok_or_else(cut_short)?;
    let end = Record::of(&tail[end_at..], END).ok_or_else(cut_short)?;
    let (count, bytes, start) = (end.u16(10), end.u32(12), end.u32(16));
    let narrow = (end.u32(4) == Some(0) && end.u16(20) == Some(0))
        .then_some(())
        .and(count.zip(bytes).zip(start));
    let Some(((mut count, mut bytes), mut start)) = narrow else {
        return Err(refused("The archive is of several parts or has a comment", file));
    };
    let mut directory_end = tail_start + end_at as u64;
    let locator = end_at
        .checked_sub(20)
        .and_then(|at| Record::of(&tail[at..], LOCATOR));
    if let Some(locator) = locator {
        let wide_at = end_at.checked_sub(76);
        let wide = wide_at.and_then(|at| Record::of(&tail[at..], WIDE_END));
        let wide_start = directory_end.checked_sub(LOCATOR_BYTES + WIDE_END_BYTES);
        let numbers = wide.and_then(|wide| {
            let here = locator.u64(8) == wide_start && locator.u32(4) == Some(0) && wide.u64(16) == Some(0);
            let wide = here.then_some((wide.u64(32)?, wide.u64(40)?, wide.u64(48)?))?;
            let agree = (count == 0xffff || count == wide.0)
                && (bytes == IS_WIDE || bytes == wide.1)
                && (start == IS_WIDE || start == wide.2);
            agree.then_some(wide)
        });
        let (Some(numbers), Some(wide_start)) = (numbers, wide_start) else {
            return Err(refused("The archive's two ends contradict each other", file));
        };
        (count, bytes, start) = numbers;
        directory_end = wide_start;
    }
    if start.checked_add(bytes) != Some(directory_end) {
        return Err(refused(
            "The archive's directory does not lie where its end says",
            file,
        ));
    }
    if bytes > DIRECTORY_LIMIT_BYTES {
        return Err(refused(
            &format!("The archive's directory has {bytes} bytes"),
            file,
        ));
    }
    let listing = source.read(start..directory_end).await?;
    let entries = entries(&listing).map_err(|refusal| refusal.of(file))?;
    if entries.len() as u64 != count {
        return Err(refused(
            &format!(
                "The archive's directory lists {} entries in place of {count}",
                entries.len()
            ),
            file,
        ));
    }
    Ok((entries, start..directory_end))
}

/// The entries that a directory's bytes list.
fn entries(mut rest: &[u8]) -> std::result::Result<BTreeMap<String, Entry>, Refusal> {
    let damaged = || Refusal(String::from("The archive's directory is damaged"));
    let mut entries = BTreeMap::new();
    while !rest.is_empty() {
        let record = Record::of(rest, DIRECTORY_ENTRY).ok_or_else(damaged)?;
        let lengths = [28, 30, 32].map(|at| record.u16(at));
        let &[Some(name), Some(extra), Some(comment)] = &lengths else {
            return Err(damaged());
        };
        let [name, extra, comment] =
            [name, extra, comment].map(|length| usize::try_from(length).unwrap_or(usize::MAX));
        let variable = rest.get(DIRECTORY_ENTRY_BYTES..).ok_or_else(damaged)?;
        let (Some(name_bytes), Some(extra_bytes), Some(after)) = (
            variable.get(..name),
            variable.get(name..name + extra),
            variable.get(name + extra + comment..),
        ) else {
            return Err(damaged());
        };
        let name = std::str::from_utf8(name_bytes).map_err(|_| damaged())?.to_owned();
        let encrypted = record.u16(8).ok_or_else(damaged)? & 1 != 0;
        let method = record.u16(10).ok_or_else(damaged)?;
        if encrypted || method != 0 {
            return Err(Refusal(format!(
                "The archive's entry {} is compressed or encrypted",
                name.escape_debug()
            )));
        }
        let [packed, bytes, header_start] = wide_numbers(
            [20, 24, 42].map(|at| record.u32(at).unwrap_or_default()),
            extra_bytes,
        )
        .ok_or_else(damaged)?;
        if packed != bytes {
            return Err(damaged());
        }
        let shown = name.escape_debug().to_string();
        let entry = Entry {
            bytes,
            header_start,
            next: header_start,
        };
        if entries.insert(name, entry).is_some() {
            return Err(Refusal(format!("The archive has two entries {shown}")));
        }
        rest = after;
    }
    Ok(entries)
}

/// Packed size, size and offset; those that do not fit 32 bits are in the extra field, in another order.
fn wide_numbers([packed, bytes, start]: [u64; 3], extra: &[u8]) -> Option<[u64; 3]> {
    let mut wide: &[u8] = &[];
    let mut rest = extra;
    while let Some((head, fields)) = rest.split_first_chunk::<4>() {
        let length = usize::from(u16::from_le_bytes([head[2], head[3]]));
        let (field, after) = fields.split_at_checked(length)?;
        if head[..2] == [1, 0] {
            wide = field;
        }
        rest = after;
    }
    let mut next = |narrow: u64| {
        if narrow != IS_WIDE {
            return Some(narrow);
        }
        let (number, after) = wide.split_first_chunk::<8>()?;
        wide = after;
        Some(u64::from_le_bytes(*number))
    };
    let bytes = next(bytes)?;
    let packed = next(packed)?;
    Some([packed, bytes, next(start)?])
}

/// Finds where each entry has to end, and that there is room for it until then.
fn lay_apart(entries: &mut BTreeMap<String, Entry>, directory: &Range<u64>, file: &str) -> Result<()> {
    let mut in_order: Vec<(&String, &mut Entry)> = entries.iter_mut().collect();
    in_order.sort_by_key(|(_, entry)| entry.header_start);
    let mut next = directory.start;
    for (name, entry) in in_order.into_iter().rev() {
        let header = LOCAL_HEADER_BYTES + name.len() as u64;
        let end = entry
            .header_start
            .checked_add(header)
            .and_then(|data| data.checked_add(entry.bytes));
        if end.is_none_or(|end| end > next) {
            return Err(refused("Two parts of the archive share bytes", file));
        }
        entry.next = next;
        next = entry.header_start;
    }
    Ok(())
}

/// Where an entry's bytes are, by its own header, which has to agree with the directory.
async fn data(source: &dyn ByteSource, name: &str, entry: &Entry, limit: u64) -> Result<Range<u64>> {
    let file = source.name();
    let contradicts = || {
        refused(
            &format!(
                "The archive's entry {} contradicts the directory",
                name.escape_debug()
            ),
            file,
        )
    };
    if entry.bytes > limit {
        return Err(refused(
            &format!(
                "The archive's entry {} has {} bytes",
                name.escape_debug(),
                entry.bytes
            ),
            file,
        ));
    }
    // Header and name lie before the directory, as `lay_apart` has seen.
    let name_at = entry.header_start + LOCAL_HEADER_BYTES;
    let bytes = source
        .read(entry.header_start..name_at + name.len() as u64)
        .await?;
    let header = Record::of(&bytes, LOCAL_HEADER).ok_or_else(contradicts)?;
    let (Some(method), Some(name_bytes), Some(extra)) = (header.u16(8), header.u16(26), header.u16(28))
    else {
        return Err(contradicts());
    };
    if method != 0 || name_bytes != name.len() as u64 || !bytes.ends_with(name.as_bytes()) {
        return Err(contradicts());
    }
    let start = name_at + name_bytes + extra;
    let end = start + entry.bytes;
    if end > entry.next {
        return Err(contradicts());
    }
    Ok(start..end)
}

/// A record of the archive that begins with its own four letters.
struct Record<'a>(&'a [u8]);

impl<'a> Record<'a> {
    fn of(bytes: &'a [u8], letters: &[u8]) -> Option<Self> {
        bytes.starts_with(letters).then_some(Self(bytes))
    }

    fn array<const N: usize>(&self, at: usize) -> Option<[u8; N]> {
        self.0.get(at..)?.first_chunk().copied()
    }

    fn u16(&self, at: usize) -> Option<u64> {
        self.array(at).map(u16::from_le_bytes).map(u64::from)
    }

    fn u32(&self, at: usize) -> Option<u64> {
        self.array(at).map(u32::from_le_bytes).map(u64::from)
    }

    fn u64(&self, at: usize) -> Option<u64> {
        self.array(at).map(u64::from_le_bytes)
    }
}
