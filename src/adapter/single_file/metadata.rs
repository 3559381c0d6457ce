//! `lora_adapter_metadata`: what diffusers writes into a file's header about the factors' scales.
//!
//! It is PEFT's configuration of each component, flattened: `{"unet.r": 4, "text_encoder.lora_alpha": 8}`. It is parsed
//! as PEFT's own file is, since it may ask for more than factors.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use crate::{
    adapter::AdapterConfig,
    error::{Code, Error, Result},
    naming::{COMPONENTS, split_component},
};

/// The name of diffusers' entry in a file's header.
pub(in crate::adapter) const ENTRY: &str = "lora_adapter_metadata";

/// The configurations of a file's components; none for most files.
pub(super) struct Configs {
    configs: BTreeMap<&'static str, AdapterConfig>,
}

impl Configs {
    pub(super) fn of(metadata: &BTreeMap<String, String>, file: &str) -> Result<Self> {
        let mut configs = BTreeMap::new();
        if let Some(text) = metadata.get(ENTRY).filter(|text| !text.is_empty()) {
            let said: Map<String, Value> = serde_json::from_str(text).map_err(|error| {
                Error::new(
                    Code::ConfigInvalid,
                    format!("{ENTRY} in its header is not an object of JSON ({error}): {file}"),
                )
            })?;
            for component in COMPONENTS {
                let prefix = format!("{component}.");
                let mut config: Map<String, Value> = said
                    .iter()
                    .filter_map(|(key, value)| Some((key.strip_prefix(&prefix)?.to_owned(), value.clone())))
                    .collect();
                if config.is_empty() {
                    continue;
                }
                config.entry("peft_type").or_insert_with(|| "LORA".into());
                let name = format!("{component} in the header of {file}");
                configs.insert(component, AdapterConfig::parse(&Value::Object(config), &name)?);
            }
        }
        Ok(Self { configs })
    }

    /// The configuration of a module's component, and the module's name in it.
    pub(super) fn of_module<'a>(&'a self, module: &'a str) -> Option<(&'a AdapterConfig, &'a str)> {
        let (component, path) = split_component(module)?;
        Some((self.configs.get(component)?, path))
    }
}
