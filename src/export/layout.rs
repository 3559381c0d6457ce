//! Into which files the tensors of a merged base model go.
//!
//! Libraries find a model by its files' names: `model.safetensors`, or shards that an index lists; ComfyUI by any name,
//! in one file. So a base keeps its names, and its shards as long as they do not grow. A lone file without a
//! configuration stays one file, since no library would find its parts.

use std::{collections::BTreeMap, rc::Rc};

use serde_json::{Map, Value, json};

use crate::{
    binding::base::PART_STEMS,
    error::{Code, Error, Result},
    io::{ByteSource, Checkpoint, Dtype, Folder, TensorInfo},
};

/// From how many bytes of tensors on a base model that came in one file is split.
const SHARD_BYTES: u64 = 4_000_000_000;

/// One tensor as it will be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) name: String,
    pub(super) dtype: Dtype,
    pub(super) shape: Vec<usize>,
    pub(super) bytes: u64,
    /// Which of the checkpoint's files has it.
    source: usize,
}

/// The files of one checkpoint.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Layout {
    /// Names, relative to the base's folder, with what is in them.
    pub(super) files: Vec<(String, Vec<Entry>)>,
    /// The index's name, where there are several.
    index: String,
}

impl Layout {
    /// Lays out a checkpoint of a folder. `dtype` tells the type in which a tensor is written; `most` is the caller's
    /// limit.
    pub(super) fn of(
        folder: &Folder,
        checkpoint: &Checkpoint,
        dtype: impl Fn(&TensorInfo) -> Dtype,
        most: Option<u64>,
    ) -> Result<Self> {
        let sources: Vec<String> = checkpoint
            .sources()
            .iter()
            .map(|source| path_of(folder, source))
            .collect();
        let entries = entries(checkpoint, dtype)?;
        let stem = stem(
            folder,
            sources.first().map_or("model.safetensors", String::as_str),
        );
        let index = format!("{stem}.safetensors.index.json");
        if most.is_none() && sources.len() > 1 {
            let mut files: Vec<(String, Vec<Entry>)> =
                sources.iter().map(|name| (name.clone(), Vec::new())).collect();
            for entry in &entries {
                if let Some((_, held)) = files.get_mut(entry.source) {
                    held.push(entry.clone());
                }
            }
            let limits = checkpoint
                .sources()
                .iter()
                .map(|source| source.len().max(SHARD_BYTES));
            let bytes = |held: &[Entry]| held.iter().map(|entry| entry.bytes).sum::<u64>();
            if files
                .iter()
                .zip(limits)
                .all(|((_, held), limit)| bytes(held) <= limit)
            {
                return Ok(Self { files, index });
            }
        }
        let beside = stem
            .rsplit_once('/')
            .map(|(above, _)| format!("{above}/config.json"));
        let configured = ["config.json", "model_index.json"]
            .into_iter()
            .chain(beside.as_deref());
        let limit = if configured.into_iter().any(|name| folder.find(name).is_some()) {
            SHARD_BYTES
        } else {
            u64::MAX
        };
        let mut shards = split(entries, most.unwrap_or(limit));
        let files = if shards.len() == 1 {
            vec![(format!("{stem}.safetensors"), shards.pop().unwrap_or_default())]
        } else {
            let all = shards.len();
            let name = |number: usize| format!("{stem}-{number:05}-of-{all:05}.safetensors");
            let numbered = shards.into_iter().enumerate();
            numbered.map(|(at, held)| (name(at + 1), held)).collect()
        };
        Ok(Self { files, index })
    }

    /// The index of several files, with its name; none for one file.
    pub(super) fn index(&self) -> Option<(&str, Value)> {
        if self.files.len() < 2 {
            return None;
        }
        let mut total = 0;
        let mut places = BTreeMap::new();
        for (file, entries) in &self.files {
            let file = file.rsplit_once('/').map_or(file.as_str(), |(_, file)| file);
            for entry in entries {
                total += entry.bytes;
                places.insert(entry.name.clone(), Value::from(file));
            }
        }
        let map: Map<String, Value> = places.into_iter().collect();
        Some((
            &self.index,
            json!({ "metadata": { "total_size": total }, "weight_map": map }),
        ))
    }
}

/// A checkpoint's tensors in the order of their bytes, so that files are read from front to back.
fn entries(checkpoint: &Checkpoint, dtype: impl Fn(&TensorInfo) -> Dtype) -> Result<Vec<Entry>> {
    let mut order: Vec<_> = checkpoint.infos().collect();
    order.sort_by_key(|info| (info.source, info.range.start));
    let entry = |info: &TensorInfo| {
        let dtype = dtype(info);
        let bits = (info.elements() as u64).checked_mul(dtype.bitsize() as u64);
        let bits = bits.ok_or_else(|| {
            Error::new(
                Code::Internal,
                format!("A tensor's size overflows: {}", info.name),
            )
        })?;
        Ok(Entry {
            name: info.name.clone(),
            dtype,
            shape: info.shape.clone(),
            bytes: bits / 8,
            source: info.source,
        })
    };
    order.into_iter().map(entry).collect()
}

/// The path of a checkpoint's files without what tells them apart: its index's, or that of its only file.
fn stem(folder: &Folder, first: &str) -> String {
    let (directory, file) = match first.rsplit_once('/') {
        Some((above, file)) => (format!("{above}/"), file),
        None => (String::new(), first),
    };
    let has = |end: &str| folder.find(&format!("{directory}{end}")).is_some();
    let indexed =
        |stem: &&&str| has(&format!("{stem}.safetensors.index.json")) && !has(&format!("{stem}.safetensors"));
    let own = file.strip_suffix(".safetensors").unwrap_or(file);
    let stem = PART_STEMS.iter().find(indexed).copied().unwrap_or(own);
    format!("{directory}{stem}")
}

/// Tensors in their order, as many to a file as it may hold; a larger one alone.
fn split(entries: Vec<Entry>, most: u64) -> Vec<Vec<Entry>> {
    let mut shards = vec![Vec::new()];
    let mut held = 0_u64;
    for entry in entries {
        let after = held.saturating_add(entry.bytes);
        if after > most && shards.last().is_some_and(|shard| !shard.is_empty()) {
            shards.push(Vec::new());
            held = entry.bytes;
        } else {
            held = after;
        }
        if let Some(shard) = shards.last_mut() {
            shard.push(entry);
        }
    }
    shards
}

/// A file's name relative to a folder.
fn path_of(folder: &Folder, source: &Rc<dyn ByteSource>) -> String {
    let mut files = folder.names().zip(folder.files());
    let found = files.find(|(_, file)| Rc::ptr_eq(file, source));
    found.map_or(source.name(), |(name, _)| name).to_owned()
}

#[cfg(test)]
mod tests {
    use super::{Entry, split};
    use crate::io::Dtype;

    fn sizes(sizes: &[u64], most: u64) -> Vec<Vec<u64>> {
        let entries = sizes.iter().map(|&bytes| Entry {
            name: String::new(),
            dtype: Dtype::U8,
            shape: Vec::new(),
            bytes,
            source: 0,
        });
        let shards = split(entries.collect(), most);
        let of = |shard: &Vec<Entry>| shard.iter().map(|entry| entry.bytes).collect();
        shards.iter().map(of).collect()
    }

    #[test]
    fn a_file_is_filled_up_to_its_limit_and_a_larger_tensor_is_alone() {
        assert_eq!(sizes(&[6, 6, 2, 6, 2, 2], 10), [&[6][..], &[6, 2], &[6, 2, 2]]);
        assert_eq!(sizes(&[11, 2, 8, 12], 10), [&[11][..], &[2, 8], &[12]]);
        assert_eq!(sizes(&[0, 10, 0, 1], 10), [&[0, 10, 0][..], &[1]]);
        assert_eq!(sizes(&[], 10), [Vec::<u64>::new()]);
    }
}
