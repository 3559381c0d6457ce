//! The container before torch 1.6 (`_use_new_zipfile_serialization=False`): five pickles in a row, then each
//! storage's length and bytes.
//!
//! Nothing marks where a storage begins, so each length has to be the one that the tensors' pickle gives, and the last
//! storage has to end the file.

use std::collections::BTreeMap;

use crate::{
    error::{Code, Error, Result},
    io::{
        ByteSource, TensorInfo,
        pickle::{
            PICKLE_LIMIT_BYTES, machine, refused, tensors,
            value::{Pickle, Value},
        },
    },
};

/// What the first pickle holds, and the version in the second.
const MAGIC: i128 = 0x1950_a86a_20f9_469c_fc6c;
const VERSION: i128 = 1001;

/// The bytes of a storage's length.
const LENGTH_BYTES: u64 = 8;

/// Reads the tensors that the fourth pickle lists.
pub(super) async fn read(source: &dyn ByteSource) -> Result<Vec<TensorInfo>> {
    let file = source.name();
    let bytes = source.read(0..source.len().min(PICKLE_LIMIT_BYTES)).await?;
    let mut left = machine::INSTRUCTION_LIMIT;
    let mut at = 0;
    let mut next = || -> Result<Pickle<'_>> {
        let pickle = machine::run(&bytes, at, &mut left).map_err(|refusal| refusal.of(file))?;
        at = pickle.end;
        Ok(pickle)
    };
    let (magic, version) = (next()?, next()?);
    if !matches!(magic.root(), Some(Value::Int(MAGIC)))
        || !matches!(version.root(), Some(Value::Int(VERSION)))
    {
        return Err(refused(
            "This pickle is not one of torch.save, or of a version before 1.0",
            file,
        ));
    }
    if !is_little_endian(&next()?) {
        return Err(refused(
            "The numbers are not of the byte order that is read, which is little",
            file,
        ));
    }
    let pickle = next()?;
    let keys = next()?;
    let Some(Value::List(ids)) = keys.root() else {
        return Err(refused("The storages are not listed", file));
    };

    let storages = tensors::storages(&pickle).map_err(|refusal| refusal.of(file))?;
    let mut starts = BTreeMap::new();
    let mut at = keys.end as u64;
    for &id in ids {
        let storage = keys.text(id).and_then(|key| storages.get_key_value(key));
        let Some((&key, storage)) = storage else {
            return Err(refused("A storage is listed that no tensor views", file));
        };
        let start = at + LENGTH_BYTES;
        let end = storage
            .elements
            .checked_mul(tensors::width(storage.dtype))
            .and_then(|bytes| start.checked_add(bytes))
            .filter(|&end| end <= source.len());
        let Some(end) = end else {
            return Err(Error::new(
                Code::FileTruncated,
                format!(
                    "A storage of {} elements of {} reaches beyond the file's end; it is cut short, so fetch it again: {file}",
                    storage.elements, storage.dtype
                ),
            ));
        };
        if source.read(at..start).await? != storage.elements.to_le_bytes() {
            return Err(refused(
                &format!(
                    "A storage has not the {} elements that its tensors say",
                    storage.elements
                ),
                file,
            ));
        }
        if starts.insert(key, start).is_some() {
            return Err(refused("A storage is listed twice", file));
        }
        at = end;
    }
    if at != source.len() {
        return Err(refused("Something follows the last storage", file));
    }
    tensors::tensors(&pickle, &starts, file)
}

/// Whether the third pickle, of the machine that wrote the file, says that it is little-endian.
fn is_little_endian(system: &Pickle<'_>) -> bool {
    let Some(Value::Dict { items, .. }) = system.root() else {
        return false;
    };
    items.iter().any(|&(key, value)| {
        system.text(key) == Some("little_endian") && matches!(system.value(value), Some(Value::Bool(true)))
    })
}
