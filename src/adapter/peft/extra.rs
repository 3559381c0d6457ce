//! What a merged adapter has beside factors: biases, trained rows of tables, and modules saved whole.
//!
//! The hazard is PEFT's silence: a tensor under a name that it does not expect is left out when the adapter is
//! loaded, so each kind's fields of the configuration are set together with its tensors here.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value, json};

use crate::{
    adapter::{LayerKind, Shape, TokenRows},
    io::OutTensor,
    naming::ModulePath,
};

/// A tensor of a module that is saved whole. Its numbers are made when they are written.
#[derive(Debug, Clone, PartialEq)]
pub struct WholeTensor {
    /// The module, a path in the base model.
    pub module: String,
    /// The tensor's name within it.
    pub parameter: String,
    /// Its shape.
    pub shape: Vec<usize>,
}

impl WholeTensor {
    /// Its name in PEFT's file.
    pub fn name(&self) -> String {
        format!("base_model.model.{}.{}", self.module, self.parameter)
    }
}

/// What a merged adapter has beside factors.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Extra {
    /// Values of the base's biases, by name.
    pub biases: BTreeMap<String, Vec<f32>>,
    /// Biases of `lora_B`, which are added, by module: of every module, or of none.
    pub added: BTreeMap<String, Vec<f32>>,
    /// Values of rows of embedding tables, by module.
    pub tokens: BTreeMap<String, TokenRows>,
    /// Modules saved whole.
    pub whole: Vec<WholeTensor>,
}

impl Extra {
    /// The name of something that there is beside factors.
    pub fn first(&self) -> Option<&str> {
        let names = self
            .biases
            .keys()
            .chain(self.added.keys())
            .chain(self.tokens.keys());
        let names = names.map(String::as_str);
        names
            .chain(self.whole.iter().map(|tensor| tensor.module.as_str()))
            .next()
    }

    /// Its tensors under PEFT's names, beside the factors of `modules` and those that are saved whole.
    pub fn tensors(&self, modules: &BTreeMap<ModulePath, Shape>) -> Vec<OutTensor> {
        let biases = self.biases.iter().map(|(name, data)| {
            let module = name.strip_suffix(".bias").unwrap_or(name);
            let place = if modules.contains_key(module) {
                format!("{module}.base_layer.bias")
            } else {
                name.clone()
            };
            OutTensor {
                name: format!("base_model.model.{place}"),
                shape: vec![data.len()],
                data: data.clone(),
            }
        });
        let tokens = self.tokens.iter().map(|(module, rows)| OutTensor {
            name: format!("base_model.model.{module}.token_adapter.trainable_tokens_delta"),
            shape: vec![rows.ids.len(), rows.width],
            data: rows.data.clone(),
        });
        biases.chain(tokens).collect()
    }

    /// Sets the fields of a configuration by which PEFT finds the tensors again, and those of `modules` that are
    /// no layer's weight.
    pub fn configure(&self, config: &mut Value, modules: &BTreeMap<ModulePath, Shape>) {
        let of_module = |name: &String| {
            let module = name.strip_suffix(".bias").unwrap_or(name);
            modules.contains_key(module)
        };
        if !self.biases.is_empty() {
            let only = self.biases.keys().all(of_module);
            config["bias"] = if only { "lora_only" } else { "all" }.into();
        }
        config["lora_bias"] = (!self.added.is_empty()).into();
        if !self.tokens.is_empty() {
            let ids: Map<String, Value> = self
                .tokens
                .iter()
                .map(|(module, rows)| (module.clone(), json!(rows.ids)))
                .collect();
            config["trainable_token_indices"] = ids.into();
        }
        let whole: BTreeSet<&str> = self.whole.iter().map(|tensor| tensor.module.as_str()).collect();
        if !whole.is_empty() {
            config["modules_to_save"] = json!(whole);
        }
        let parameters: Vec<&str> = modules
            .iter()
            .filter(|(_, shape)| matches!(shape.layer, LayerKind::Parameter { .. }))
            .map(|(path, _)| path.as_str())
            .collect();
        if !parameters.is_empty() {
            config["target_parameters"] = json!(parameters);
        }
    }
}
