//! The modules of a base model, found by any of their names.
//!
//! Known from nothing but the names of its tensors: a diffusers folder's with their component in front, a
//! single file's with the original code's prefixes, or a plain transformers model's. The thing that can go
//! wrong is two modules that flatten to the same name; such a name is remembered as ambiguous.

use std::collections::{BTreeMap, HashMap};

use crate::naming::{
    COMPONENTS, NATIVE, Part, Rows, Target, Unclear, dotted, split_component,
    template::{Family, families},
    transformer, unet,
};

/// Prefixes of a single file, and the component that lies behind each; `open` is OpenCLIP, with its own names.
const PREFIXES: [(&str, &str, bool); 9] = [
    ("model.diffusion_model.", NATIVE, false),
    ("diffusion_model.", NATIVE, false),
    ("cond_stage_model.transformer.", "text_encoder", false),
    ("cond_stage_model.model.", "text_encoder", true),
    ("conditioner.embedders.0.transformer.", "text_encoder", false),
    ("conditioner.embedders.1.model.", "text_encoder_2", true),
    ("text_encoders.clip_l.transformer.", "text_encoder", false),
    ("text_encoders.clip_g.transformer.", "text_encoder_2", false),
    ("text_encoders.t5xxl.transformer.", "text_encoder_3", false),
];

/// Where a module's weight is in the base model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BaseWeight {
    /// The tensor's name.
    pub key: String,
    /// Which of the layer's parts the module is.
    pub part: usize,
    /// Which rows are whose.
    pub rows: Rows,
}

/// The modules of a base model that an adapter may be for.
#[derive(Debug, Clone, Default)]
pub struct BaseNames {
    /// By the part of the model and the flattened name.
    modules: HashMap<(&'static str, String), std::result::Result<Target, Unclear>>,
    /// The kinds of parts it has modules of.
    kinds: Vec<&'static str>,
    weights: BTreeMap<String, BaseWeight>,
}

impl BaseNames {
    /// The modules of the model whose tensors have these names; those of a folder's component have the
    /// component in front: `unet.conv_in.weight`.
    pub fn new<'a>(keys: impl Iterator<Item = &'a str> + Clone) -> Self {
        let mut base = Self::default();
        let transformer = transformer_family(keys.clone());
        // Flux.2 and HunyuanVideo have Flux.1's names for other layers.
        let other = keys.clone().any(|key| {
            [
                "stream_modulation",
                "img_attn_qkv",
                "img_mlp.fc1",
                "modulation.linear",
            ]
            .iter()
            .any(|mark| key.contains(mark))
        });
        for key in keys {
            let Some((component, module, rows)) = module_of(key) else {
                continue;
            };
            let path = if component.is_empty() {
                module
            } else {
                format!("{component}.{module}")
            };
            let mut target = match dotted(&path) {
                Some(target) if !component.is_empty() => target,
                _ => Target::plain(path, None),
            };
            if other && matches!(target.family, Some(Family::Flux)) {
                target = target.native();
            }
            if rows == Rows::Thirds {
                let stem = target
                    .path
                    .strip_suffix(".in_proj")
                    .unwrap_or(&target.path)
                    .to_owned();
                target.parts = ["q_proj", "k_proj", "v_proj"]
                    .map(|part| format!("{stem}.{part}"))
                    .to_vec();
                target.rows = rows;
            }
            base.insert(key, &target, transformer);
        }
        base
    }

    /// Where the weight of the module of this path is.
    pub fn weight(&self, path: &str) -> Option<&BaseWeight> {
        self.weights.get(path)
    }

    /// The module of a flattened name; none if the model has not the part the name is for.
    pub(super) fn look_up(&self, part: Part, flat: &str) -> Option<std::result::Result<Target, Unclear>> {
        let kinds: &[&'static str] = match part {
            Part::Image => &["image", ""],
            Part::Text(1) => &["text_encoder", ""],
            Part::Text(2) => &["text_encoder_2"],
            // Flux.1's second encoder is what Stable Diffusion 3 has for its third.
            Part::Text(_) => &["text_encoder_3", "text_encoder_2"],
        };
        let mut kinds = kinds.iter().filter(|kind| self.kinds.contains(kind)).peekable();
        kinds.peek()?;
        let found = kinds.find_map(|kind| self.modules.get(&(*kind, flat.to_owned())));
        Some(found.cloned().unwrap_or(Err(Unclear::Unknown)))
    }

    fn insert(&mut self, key: &str, target: &Target, transformer: Option<Family>) {
        for (part, path) in target.parts.iter().enumerate() {
            let rows = target.rows;
            let key = key.to_owned();
            self.weights
                .entry(path.clone())
                .or_insert(BaseWeight { key, part, rows });
        }
        let paths: Vec<String> = std::iter::once(&target.path)
            .chain(&target.parts)
            .cloned()
            .collect();
        for path in paths {
            let own = if path == target.path {
                target.clone()
            } else {
                Target::plain(path.clone(), None)
            };
            let (component, module) = split_component(&path).unwrap_or(("", &path));
            self.name(component, module, own.clone());
            // The same module under the names of the original code.
            if component == "unet" {
                for attends in [true, false] {
                    if let Some(original) = unet::to_ldm(module, |_| attends) {
                        self.name(component, &original, own.clone());
                    }
                }
            } else if let Some(family) = transformer.filter(|_| component == "transformer")
                && let Some(place) = transformer::to_original(family, module)
                && let Some((names, rows)) = transformer::to_diffusers(family, &place.original)
            {
                let fused = Target {
                    path: format!("{NATIVE}.{}", place.original),
                    parts: names.iter().map(|name| format!("transformer.{name}")).collect(),
                    rows,
                    family: Some(family),
                };
                self.name(component, &place.original, fused);
            }
        }
    }

    fn name(&mut self, component: &str, module: &str, target: Target) {
        let kind = match component {
            NATIVE | "unet" | "transformer" | "prior" => "image",
            _ => COMPONENTS
                .iter()
                .find(|known| **known == component)
                .copied()
                .unwrap_or(""),
        };
        if !self.kinds.contains(&kind) {
            self.kinds.push(kind);
        }
        let entry = self.modules.entry((kind, module.replace('.', "_")));
        entry
            .and_modify(|known| {
                if known.as_ref().is_ok_and(|known| known.parts != target.parts) {
                    *known = Err(Unclear::Ambiguous);
                }
            })
            .or_insert(Ok(target));
    }
}

/// The original names of a transformer under diffusers' names.
fn transformer_family<'a>(mut keys: impl Iterator<Item = &'a str> + Clone) -> Option<Family> {
    if keys.clone().any(|key| key.contains("single_transformer_blocks.")) {
        Some(Family::Flux)
    } else {
        keys.any(|key| key.contains("pos_embed.proj."))
            .then_some(Family::Mmdit)
    }
}

/// The component, module and division of a tensor that is a layer's weight; the component is empty for a plain
/// model's.
fn module_of(key: &str) -> Option<(&'static str, String, Rows)> {
    let (module, fused) = match key.strip_suffix(".weight") {
        Some(module) => (module, false),
        None => (
            key.strip_suffix("_weight")
                .filter(|module| module.ends_with(".in_proj"))?,
            true,
        ),
    };
    if module.split('.').any(str::is_empty) {
        return None;
    }
    let rows = if fused { Rows::Thirds } else { Rows::Whole };
    let behind = PREFIXES
        .iter()
        .find_map(|(prefix, component, open)| Some((module.strip_prefix(prefix)?, *component, *open)));
    if let Some((module, component, open)) = behind {
        let module = if open {
            open_clip(module)?
        } else {
            module.to_owned()
        };
        return Some((component, module, rows));
    }
    if let Some((component, module)) = split_component(module)
        && let Some(component) = COMPONENTS.iter().find(|known| **known == component)
        // GPT-2's own modules are called so too.
        && !(*component == "transformer" && (module.starts_with("h.") || module.starts_with("wte") || module.starts_with("ln_f")))
    {
        return Some((component, module.to_owned(), rows));
    }
    let component = match families(module).first() {
        Some(Family::Ldm | Family::Flux | Family::Mmdit | Family::Wan) => NATIVE,
        Some(Family::Unet) => "unet",
        Some(Family::Transformer) => "transformer",
        _ => "",
    };
    Some((component, module.to_owned(), rows))
}

/// transformers' name of a module of OpenCLIP's text encoder, its fused projection as `self_attn.in_proj`.
fn open_clip(module: &str) -> Option<String> {
    let block = module.strip_prefix("transformer.resblocks.")?;
    let (number, inner) = block.split_once('.')?;
    let inner = match inner {
        "attn.in_proj" => "self_attn.in_proj",
        "attn.out_proj" => "self_attn.out_proj",
        "mlp.c_fc" => "mlp.fc1",
        "mlp.c_proj" => "mlp.fc2",
        _ => return None,
    };
    Some(format!("text_model.encoder.layers.{number}.{inner}"))
}

#[cfg(test)]
mod tests {
    use super::super::{Rows, module_path};
    use super::BaseNames;

    fn base(keys: &[&str]) -> BaseNames {
        BaseNames::new(keys.iter().copied())
    }

    #[track_caller]
    fn is(base: &BaseNames, name: &str, path: &str, key: &str) {
        let target = module_path(name, Some(base)).unwrap();
        assert!(target.parts.iter().any(|part| part == path), "{target:?}");
        assert_eq!(base.weight(path).unwrap().key, key);
    }

    #[test]
    fn a_diffusers_folder_is_found_under_both_sets_of_names() {
        let base = base(&[
            "unet.conv_in.weight",
            "unet.down_blocks.1.attentions.0.proj_in.weight",
            "unet.up_blocks.0.upsamplers.0.conv.weight",
            "text_encoder.text_model.encoder.layers.0.mlp.fc1.weight",
            "unet.a_module.no_vocabulary_has.weight",
        ]);
        for name in [
            "lora_unet_input_blocks_4_1_proj_in",
            "lora_unet_down_blocks_1_attentions_0_proj_in",
        ] {
            is(
                &base,
                name,
                "unet.down_blocks.1.attentions.0.proj_in",
                "unet.down_blocks.1.attentions.0.proj_in.weight",
            );
        }
        for name in [
            "lora_unet_output_blocks_2_1_conv",
            "lora_unet_output_blocks_2_2_conv",
        ] {
            is(
                &base,
                name,
                "unet.up_blocks.0.upsamplers.0.conv",
                "unet.up_blocks.0.upsamplers.0.conv.weight",
            );
        }
        is(
            &base,
            "lora_unet_a_module_no_vocabulary_has",
            "unet.a_module.no_vocabulary_has",
            "unet.a_module.no_vocabulary_has.weight",
        );
        assert!(
            module_path("lora_unet_conv_out", Some(&base)).is_err(),
            "it is not in this base"
        );
        // The base has no second encoder at hand, so what is usual counts.
        assert!(module_path("lora_te2_text_model_encoder_layers_0_mlp_fc1", Some(&base)).is_ok());
    }

    #[test]
    fn a_single_file_is_found_under_diffusers_paths() {
        let base = base(&[
            "model.diffusion_model.input_blocks.4.1.proj_in.weight",
            "model.diffusion_model.output_blocks.2.1.conv.weight",
            "conditioner.embedders.0.transformer.text_model.encoder.layers.0.mlp.fc1.weight",
            "conditioner.embedders.1.model.transformer.resblocks.3.attn.in_proj_weight",
            "conditioner.embedders.1.model.transformer.resblocks.3.mlp.c_proj.weight",
        ]);
        is(
            &base,
            "lora_unet_down_blocks_1_attentions_0_proj_in",
            "unet.down_blocks.1.attentions.0.proj_in",
            "model.diffusion_model.input_blocks.4.1.proj_in.weight",
        );
        is(
            &base,
            "lora_te2_text_model_encoder_layers_3_mlp_fc2",
            "text_encoder_2.text_model.encoder.layers.3.mlp.fc2",
            "conditioner.embedders.1.model.transformer.resblocks.3.mlp.c_proj.weight",
        );
        let value = base
            .weight("text_encoder_2.text_model.encoder.layers.3.self_attn.v_proj")
            .unwrap();
        assert_eq!((value.part, value.rows), (2, Rows::Thirds));
        assert_eq!(
            value.key,
            "conditioner.embedders.1.model.transformer.resblocks.3.attn.in_proj_weight"
        );
        is(
            &base,
            "lora_te2_text_model_encoder_layers_3_self_attn_k_proj",
            "text_encoder_2.text_model.encoder.layers.3.self_attn.k_proj",
            "conditioner.embedders.1.model.transformer.resblocks.3.attn.in_proj_weight",
        );
    }

    #[test]
    fn a_transformer_of_diffusers_is_found_under_its_authors_names() {
        let base = base(&[
            "transformer.transformer_blocks.0.attn.to_q.weight",
            "transformer.transformer_blocks.0.attn.to_k.weight",
            "transformer.transformer_blocks.0.attn.to_v.weight",
            "transformer.single_transformer_blocks.0.proj_out.weight",
        ]);
        let target = module_path("lora_unet_double_blocks_0_img_attn_qkv", Some(&base)).unwrap();
        assert_eq!((target.parts.len(), target.rows), (3, Rows::Thirds));
    }

    #[test]
    fn a_model_that_borrowed_flux_names_keeps_them() {
        let base = base(&[
            "double_blocks.0.img_attn.qkv.weight",
            "double_stream_modulation_img.lin.weight",
        ]);
        let target = module_path("lora_unet_double_blocks_0_img_attn_qkv", Some(&base)).unwrap();
        assert_eq!(target.parts, ["diffusion_model.double_blocks.0.img_attn.qkv"]);
    }

    #[test]
    fn two_modules_of_one_flattened_name_are_ambiguous() {
        let base = base(&["unet.a.b_c.weight", "unet.a_b.c.weight"]);
        let error = module_path("lora_unet_a_b_c", Some(&base)).unwrap_err();
        assert!(
            error.to_string().contains("several modules: lora_unet_a_b_c"),
            "{error}"
        );
    }

    #[test]
    fn keys_that_are_only_a_prefix_are_no_modules() {
        let odd = [
            "diffusion_model.weight",
            ".weight",
            "unet.weight",
            "_weight",
            ".in_proj_weight",
            "cond_stage_model.model.weight",
        ];
        let base = base(&odd);
        for name in ["lora_unet_", "lora_te_", "lora_te2_x"] {
            assert!(module_path(name, Some(&base)).is_err(), "{name}");
        }
    }

    #[test]
    fn a_plain_model_is_found_by_its_own_paths() {
        let base = base(&["text_model.encoder.layers.0.mlp.fc1.weight"]);
        is(
            &base,
            "lora_te_text_model_encoder_layers_0_mlp_fc1",
            "text_model.encoder.layers.0.mlp.fc1",
            "text_model.encoder.layers.0.mlp.fc1.weight",
        );
    }
}
