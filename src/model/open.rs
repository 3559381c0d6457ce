//! Opening a base model: which family its `config.json` names.

use serde_json::Value;

use crate::{
    error::{Code, Error, Result},
    io::{Checkpoint, Folder},
    model::{family::Open, generation::GenerationConfig, pass::Model, text, vision},
};

/// Names of the families.
pub fn supported() -> String {
    let supported: Vec<&str> = families().map(|(name, _)| *name).collect();
    supported.join(", ")
}

/// Every family, by `model_type` of `config.json`.
pub(super) fn families() -> impl Iterator<Item = &'static (&'static str, Open)> {
    text::FAMILIES.iter().chain(vision::FAMILIES)
}

/// Opens the base model in a folder: `config.json`, its safetensors, and `generation_config.json`.
///
/// # Errors
/// [`Code::Missing`] without a configuration or weights, [`Code::ModelUnsupported`] for a family that is
/// not here, and whatever is wrong with the files.
pub async fn open(folder: Folder) -> Result<Model> {
    let config: Value = folder.read_json("config.json").await?.ok_or_else(|| {
        Error::new(
            Code::Missing,
            format!(
                "{}: no config.json; drop the whole folder of the base model as it was downloaded",
                folder.label()
            ),
        )
    })?;
    let checkpoint = Checkpoint::open(&folder, "model").await?;
    let kind = config.get("model_type").and_then(Value::as_str).unwrap_or("");
    let Some((_, family)) = families().find(|(name, _)| *name == kind) else {
        return Err(Error::new(
            Code::ModelUnsupported,
            format!(
                "{}: config.json says model_type \"{kind}\"; supported: {}",
                folder.label(),
                supported()
            ),
        ));
    };
    let family = family(&config, &checkpoint)?;
    let generation = match family.generation() {
        Some(own) => own,
        None => GenerationConfig::read(&folder, &config).await?,
    };
    Ok(Model::new(family, checkpoint, folder, config, generation))
}
