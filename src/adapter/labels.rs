//! The names of an adapter's classes, where its folder has them.
//!
//! PEFT itself keeps no labels, so people put a `labels.json` or the model's `config.json` beside the adapter. A
//! `config.json` may be of another head: its labels are taken only if their number fits the adapter's own head.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::{
    error::{Code, Error, Result},
    io::{Folder, StoredTensor},
};

/// A list of the labels' names, made by hand.
const LABELS_FILE: &str = "labels.json";

/// The labels of a folder, by class.
pub(super) async fn read(
    folder: &Folder,
    heads: &BTreeMap<String, StoredTensor>,
) -> Result<Option<Vec<String>>> {
    let fits = |labels: &[String]| {
        heads.is_empty()
            || heads
                .values()
                .any(|head| head.shape.first() == Some(&labels.len()))
    };
    if let Some(labels) = folder.read_json::<Vec<String>>(LABELS_FILE).await? {
        if labels.is_empty() || !fits(&labels) {
            return Err(Error::new(
                Code::ConfigInvalid,
                format!(
                    "{} labels do not fit the adapter's own head; list one name a class in {}: {LABELS_FILE}",
                    labels.len(),
                    folder.label()
                ),
            ));
        }
        return Ok(Some(labels));
    }
    let config = folder.read_json::<Value>("config.json").await?;
    Ok(config
        .as_ref()
        .and_then(|config| id2label(config.get("id2label")?))
        .filter(|labels| fits(labels)))
}

/// The names in `{"0": "anger", "1": "joy"}` in order, if the classes count up from 0.
fn id2label(map: &Value) -> Option<Vec<String>> {
    let mut labels = BTreeMap::new();
    for (id, label) in map.as_object()? {
        labels.insert(id.parse::<usize>().ok()?, label.as_str()?.to_owned());
    }
    let counts_up = labels.keys().copied().eq(0..labels.len());
    (counts_up && !labels.is_empty()).then(|| labels.into_values().collect())
}
