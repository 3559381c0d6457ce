//! A model in several files: `*.safetensors.index.json` (or `*.bin.index.json`, for pickles) says which
//! tensor is in which.
//!
//! An index and its shards may be of different downloads: every entry is held against the header of the shard it names.

use std::{collections::BTreeMap, fmt, rc::Rc};

use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, Visitor};

use crate::{
    error::{Code, Error, Result},
    io::{
        checkpoint::{Checkpoint, safetensors},
        pickle,
        source::{ByteSource, Folder, parse_json},
        tensor::TensorInfo,
    },
};

#[derive(Deserialize)]
struct Index {
    weight_map: WeightMap,
}

/// Which file holds which tensor, with equal names of tensors still visible.
struct WeightMap(Vec<(String, String)>);

impl<'de> Deserialize<'de> for WeightMap {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        struct MapVisitor;

        impl<'de> Visitor<'de> for MapVisitor {
            type Value = WeightMap;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of tensor names and file names")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<WeightMap, A::Error> {
                let mut pairs = Vec::new();
                while let Some(pair) = map.next_entry()? {
                    pairs.push(pair);
                }
                Ok(WeightMap(pairs))
            }
        }

        deserializer.deserialize_map(MapVisitor)
    }
}

/// Opens every shard that the index names, and checks each of its entries.
pub(super) async fn open(folder: &Folder, index: &dyn ByteSource) -> Result<Checkpoint> {
    let Index {
        weight_map: WeightMap(entries),
    } = parse_json(index).await.map_err(|error| match error.code() {
        Code::ConfigInvalid => Error::new(Code::HeaderInvalid, error.to_string()),
        _ => error,
    })?;
    let mut file_of = BTreeMap::new();
    for (tensor, file) in entries {
        if let Some(other) = file_of.insert(tensor.clone(), file) {
            return Err(Error::new(
                Code::Duplicate,
                format!(
                    "{} lists a tensor twice, first in {other}: {tensor}",
                    index.name()
                ),
            ));
        }
    }
    if file_of.is_empty() {
        return Err(Error::new(
            Code::HeaderInvalid,
            format!("An index lists no tensors: {}", index.name()),
        ));
    }
    let mut files: Vec<&String> = file_of.values().collect();
    files.sort();
    files.dedup();

    let mut checkpoint = Checkpoint {
        sources: Vec::new(),
        tensors: BTreeMap::new(),
        metadata: BTreeMap::new(),
        window: Rc::default(),
    };
    for file in files {
        let source = folder.find(file).ok_or_else(|| {
            Error::new(
                Code::Missing,
                format!(
                    "{} names a shard that {} does not hold; add that file: {file}",
                    index.name(),
                    folder.label()
                ),
            )
        })?;
        let at = checkpoint.sources.len();
        let shard = if file.ends_with(".bin") {
            pickle::read(source.as_ref(), at).await?
        } else {
            safetensors::read(source.as_ref(), at).await?
        };
        checkpoint.sources.push(source);
        for (key, value) in shard.metadata {
            checkpoint.metadata.entry(key).or_insert(value);
        }
        for info in shard.tensors {
            add(&mut checkpoint, info)?;
        }
    }
    for (tensor, file) in &file_of {
        let found = checkpoint
            .info(tensor)
            .and_then(|info| checkpoint.sources.get(info.source))
            .is_some_and(|source| {
                folder
                    .find(file)
                    .is_some_and(|named| named.name() == source.name())
            });
        if !found {
            return Err(Error::new(
                Code::Missing,
                format!(
                    "{} says a tensor is in {file}, which does not hold it; fetch index and shards from one place: {tensor}",
                    index.name()
                ),
            ));
        }
    }
    Ok(checkpoint)
}

fn add(checkpoint: &mut Checkpoint, info: TensorInfo) -> Result<()> {
    let file = checkpoint
        .sources
        .get(info.source)
        .map_or("", |source| source.name())
        .to_owned();
    match checkpoint.tensors.insert(info.name.clone(), info) {
        None => Ok(()),
        Some(other) => {
            let first = checkpoint
                .sources
                .get(other.source)
                .map_or("", |source| source.name());
            Err(Error::new(
                Code::Duplicate,
                format!(
                    "Two shards, {first} and {file}, hold a tensor of the same name: {}",
                    other.name
                ),
            ))
        }
    }
}
