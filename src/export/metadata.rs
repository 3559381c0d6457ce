//! What every written weight file says of its making, in its own header: safetensors keeps strings by name.
//!
//! Files part from their folder, so a file alone tells method, options and the hashes of what went in. The same merge
//! must give the same bytes: no time, no path, and names in one order.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::{Map, Value};

use crate::{
    adapter::WEIGHTS_FILE,
    binding::Binding,
    error::{Code, Error, Result},
    export::{method, report::InputReport},
    io::FileDigest,
    merge::options::MergeOptions,
};

/// The program and its version.
pub(super) fn created_by() -> String {
    format!("iteris-web {}", env!("CARGO_PKG_VERSION"))
}

/// One adapter of the merge.
#[derive(Serialize)]
struct Ingredient<'a> {
    name: &'a str,
    weight: f64,
    sha256: Option<&'a str>,
}

/// The base model; `sha256` by weight file.
#[derive(Serialize)]
struct Onto<'a> {
    name: &'a str,
    sha256: Map<String, Value>,
}

/// The header's strings: `format`, and `iteris_web.*`, those of several values as JSON.
pub(super) fn metadata(
    binding: &Binding<'_>,
    options: &MergeOptions,
    base: Option<&InputReport>,
) -> Result<BTreeMap<String, String>> {
    let adapters: Vec<Ingredient<'_>> = binding
        .adapters
        .iter()
        .map(|read| Ingredient {
            name: &read.adapter.name,
            weight: read.weight,
            sha256: weight_file(&read.files).map(|file| file.sha256.as_str()),
        })
        .collect();
    let mut metadata = BTreeMap::from([
        ("format".to_owned(), "pt".to_owned()),
        ("iteris_web.created_by".to_owned(), created_by()),
        ("iteris_web.method".to_owned(), method::name(options.method)),
        (
            "iteris_web.options".to_owned(),
            text(&method::settings(options)?)?,
        ),
        ("iteris_web.adapters".to_owned(), text(&adapters)?),
    ]);
    if let Some(base) = base {
        let onto = Onto {
            name: &base.name,
            sha256: weight_files(&base.files)
                .map(|file| (file.name.clone(), file.sha256.as_str().into()))
                .collect(),
        };
        metadata.insert("iteris_web.base".to_owned(), text(&onto)?);
    }
    Ok(metadata)
}

/// The same beside what a base's own file says of itself, but for hashes, which are those of other bytes.
pub(super) fn beside(
    metadata: &BTreeMap<String, String>,
    own: &BTreeMap<String, String>,
) -> BTreeMap<String, String> {
    let mut all: BTreeMap<String, String> = own
        .iter()
        .filter(|(name, _)| !name.contains("hash") && !name.starts_with("iteris_web."))
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect();
    for (name, value) in metadata {
        if name != "format" || !all.contains_key(name) {
            all.insert(name.clone(), value.clone());
        }
    }
    all
}

/// Safetensors files, but for those of heads.
pub(super) fn weight_files(files: &[FileDigest]) -> impl Iterator<Item = &FileDigest> {
    files
        .iter()
        .filter(|file| file.name.ends_with(".safetensors") && !file.name.starts_with("heads/"))
}

/// The file with an adapter's factors.
pub(super) fn weight_file(files: &[FileDigest]) -> Option<&FileDigest> {
    let named = |name: &str| files.iter().find(|file| file.name == name);
    named(WEIGHTS_FILE)
        .or_else(|| weight_files(files).next())
        .or_else(|| named("adapter_model.bin"))
        .or_else(|| files.first().filter(|_| files.len() == 1))
}

fn text(value: &impl Serialize) -> Result<String> {
    serde_json::to_string(value).map_err(|error| {
        Error::new(
            Code::Internal,
            format!("a header cannot be written as JSON: {error}"),
        )
    })
}
