//! From the names in an adapter's file to modules of the base model.
//!
//! One module has many names: kohya's `lora_unet_input_blocks_4_1_proj_in`, ComfyUI's
//! `diffusion_model.input_blocks.4.1.proj_in`, diffusers' `unet.down_blocks.1.attentions.0.proj_in`. Adapters only
//! merge if the same module has the same path, so every name leads to diffusers' where the model is one that diffusers
//! has, and to the original's behind `diffusion_model.` elsewhere. Nothing is guessed: a name that could mean two
//! modules is refused.

mod base;
pub mod family;
pub mod groups;
pub mod path;
pub mod pattern;
pub mod roles;
pub mod targets;
pub(crate) mod template;
pub(crate) mod transformer;
pub(crate) mod unet;

pub use self::base::{BaseNames, BaseWeight};
pub use self::path::{CheckpointKey, LayerKey, ModulePath};
use crate::naming::template::{Family, families, unflatten};

pub use self::transformer::Rows;
use crate::error::{Code, Error, Result};

/// The component of models that diffusers has no names for.
pub(crate) const NATIVE: &str = "diffusion_model";

/// The components of a diffusers pipeline that have adapters.
pub(crate) const COMPONENTS: [&str; 6] = [
    "unet",
    "transformer",
    "prior",
    "text_encoder",
    "text_encoder_2",
    "text_encoder_3",
];

/// What a name in an adapter's file means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// The module as the model that was trained has it.
    pub path: String,
    /// The modules it is in the merge: the same, or those of diffusers that its rows are of.
    pub parts: Vec<String>,
    /// Which rows are whose.
    pub rows: Rows,
    /// The model whose name it is, if it is known.
    pub(crate) family: Option<Family>,
}

impl Target {
    /// A module that is one and the same.
    fn plain(path: String, family: Option<Family>) -> Self {
        Self {
            parts: vec![path.clone()],
            path,
            rows: Rows::Whole,
            family,
        }
    }

    /// The module without diffusers' names, as the model that was trained has it.
    pub(crate) fn native(self) -> Self {
        Self::plain(self.path, None)
    }
}

/// Why a name has no one meaning.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unclear {
    /// Nothing is known of it.
    Unknown,
    /// It may mean several modules.
    Ambiguous,
}

/// The part of a model that a prefix names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Part {
    /// The UNet or the transformer.
    Image,
    /// A text encoder, from 1.
    Text(usize),
}

/// Prefixes of flattened names; no earlier one begins a later one.
const FLAT: [(&str, Part); 9] = [
    ("lora_prior_unet_", Part::Image),
    ("lora_prior_te_", Part::Text(1)),
    ("lora_transformer_", Part::Image),
    ("lora_unet_", Part::Image),
    ("lycoris_", Part::Image),
    ("lora_te1_", Part::Text(1)),
    ("lora_te2_", Part::Text(2)),
    ("lora_te3_", Part::Text(3)),
    ("lora_te_", Part::Text(1)),
];

/// Prefixes of dotted names that are not a component's own.
const DOTTED: [(&str, &str); 5] = [
    ("model.diffusion_model.", NATIVE),
    ("diffusion_model.", NATIVE),
    ("text_encoders.clip_l.transformer.", "text_encoder"),
    ("text_encoders.clip_g.transformer.", "text_encoder_2"),
    ("text_encoders.t5xxl.transformer.", "text_encoder_3"),
];

/// How the blocks of diffusers' transformers are called.
const DIFFUSERS_BLOCKS: [&str; 2] = ["transformer_blocks.", "single_transformer_blocks."];

/// Whether a name is a flattened one.
pub(crate) fn is_flat(name: &str) -> bool {
    FLAT.iter().any(|(prefix, _)| name.starts_with(prefix))
}

/// Whether a name is dotted as ComfyUI's files have them.
pub(crate) fn is_comfy(name: &str) -> bool {
    DOTTED.iter().any(|(prefix, _)| name.starts_with(prefix))
}

/// What is left of a name in a component of a pipeline behind the component; of a lone model, which has none, all.
pub(crate) fn in_component<'a>(name: &'a str, component: &str) -> Option<&'a str> {
    match component {
        "" => Some(name),
        component => name.strip_prefix(component)?.strip_prefix('.'),
    }
}

/// A text encoder's module as transformers has it in newer releases, without the model that older ones have around
/// CLIP's encoder.
pub(crate) fn without_text_model(module: &str) -> &str {
    module.strip_prefix("text_model.").unwrap_or(module)
}

/// Whether a module's name can only be an image model's or its text encoder's.
pub(crate) fn is_of_image_model(name: &str) -> bool {
    is_flat(name) || is_comfy(name) || split_component(name).is_some() || !families(name).is_empty()
}

/// The module of an image model that nothing is known of, by its flattened name alone.
pub(crate) fn as_it_stands(name: &str) -> Option<Target> {
    FLAT.iter().find_map(|(prefix, part)| {
        let flat = name.strip_prefix(prefix).filter(|flat| !flat.is_empty())?;
        (*part == Part::Image).then(|| Target::plain(format!("{NATIVE}.{flat}"), None))
    })
}

/// The component that a path begins with, and the rest.
pub(crate) fn split_component(path: &str) -> Option<(&str, &str)> {
    path.split_once('.')
        .filter(|(component, _)| *component == NATIVE || COMPONENTS.contains(component))
}

/// The modules that a module's name in an adapter's file means: the part of a tensor's name before
/// `.lora_down.weight` and the like, such as `lora_te_text_model_encoder_layers_0_mlp_fc1`.
///
/// With a base model the name is looked up among its modules, without one in what is known of the usual models.
///
/// # Errors
/// `adapter_unsupported` if the name is unknown or ambiguous.
pub fn module_path(name: &str, base: Option<&BaseNames>) -> Result<Target> {
    resolve(name, base).map_err(|unclear| unclear_names(&[(name, unclear)], base.is_some(), "an adapter"))
}

/// The refusal of names.
pub(crate) fn unclear_names(names: &[(&str, Unclear)], with_base: bool, file: &str) -> Error {
    let of_kind = |kind: Unclear| -> Vec<String> {
        let found = names.iter().filter(|(_, unclear)| *unclear == kind);
        found.map(|(name, _)| (*name).to_owned()).collect()
    };
    let (unknown, ambiguous) = (of_kind(Unclear::Unknown), of_kind(Unclear::Ambiguous));
    let mut says = Vec::new();
    if !unknown.is_empty() {
        says.push(format!("unknown: {}", list(&unknown)));
    }
    if !ambiguous.is_empty() {
        says.push(format!("of several modules: {}", list(&ambiguous)));
    }
    let advice = if with_base {
        "the base model has no such modules; is it the one the adapter was trained on?"
    } else {
        "no usual image model has modules of these names; give the base model too, so that they can be looked up in it"
    };
    Error::new(
        Code::AdapterUnsupported,
        format!(
            "Names of {file} cannot be traced to modules, {advice}: {}",
            says.join("; ")
        ),
    )
}

/// How many names an error lists.
const LISTED: usize = 20;

/// Names for a message, cut to a readable number.
pub fn list(names: &[String]) -> String {
    let listed = names
        .iter()
        .take(LISTED)
        .map(String::as_str)
        .collect::<Vec<_>>()
        .join(", ");
    match names.len().checked_sub(LISTED) {
        Some(more) if more > 0 => format!("{listed} and {more} more"),
        _ => listed,
    }
}

/// As [`module_path`].
pub(crate) fn resolve(name: &str, base: Option<&BaseNames>) -> std::result::Result<Target, Unclear> {
    match FLAT
        .iter()
        .find_map(|(prefix, part)| Some((*part, name.strip_prefix(prefix)?)))
    {
        Some((part, flat)) => match base.and_then(|base| base.look_up(part, flat)) {
            Some(found) => found,
            None => from_vocabulary(part, flat),
        },
        None => dotted(name).ok_or(Unclear::Unknown),
    }
}

/// A flattened name, by what is known of the usual models.
fn from_vocabulary(part: Part, flat: &str) -> std::result::Result<Target, Unclear> {
    let mut found: Vec<Target> = unflatten(flat)
        .into_iter()
        .filter_map(|(family, path)| match (part, family) {
            (Part::Text(number), Family::Clip | Family::T5) => Some(Target::plain(
                format!("{}.{path}", text_encoder(number)),
                Some(family),
            )),
            (Part::Text(_), _) | (Part::Image, Family::Clip | Family::T5) => None,
            (Part::Image, _) => Some(of_family(family, &path)),
        })
        .collect();
    // Two models may share a name that means the same in both.
    found.dedup_by(|left, right| (&left.parts, left.rows) == (&right.parts, right.rows));
    match found.len() {
        0 => Err(Unclear::Unknown),
        1 => found.pop().ok_or(Unclear::Unknown),
        _ => Err(Unclear::Ambiguous),
    }
}

/// The text encoder of a number, from 1.
fn text_encoder(number: usize) -> String {
    if number == 1 {
        String::from("text_encoder")
    } else {
        format!("text_encoder_{number}")
    }
}

/// What a name of a known model means.
fn of_family(family: Family, path: &str) -> Target {
    let own = |component: &str| Target::plain(format!("{component}.{path}"), Some(family));
    match family {
        Family::Unet => own("unet"),
        Family::Transformer => own("transformer"),
        Family::Clip | Family::T5 => own("text_encoder"),
        Family::Wan => own(NATIVE),
        Family::Ldm => match unet::to_diffusers(path) {
            Some(name) => Target {
                parts: vec![format!("unet.{name}")],
                ..own(NATIVE)
            },
            None => own(NATIVE),
        },
        Family::Flux | Family::Mmdit => match transformer::to_diffusers(family, path) {
            Some((names, rows)) => Target {
                parts: names.iter().map(|name| format!("transformer.{name}")).collect(),
                rows,
                ..own(NATIVE)
            },
            None => own(NATIVE),
        },
    }
}

/// What a dotted name means; none if it has no component and is of no known model.
pub(crate) fn dotted(name: &str) -> Option<Target> {
    let (component, path) = match DOTTED
        .iter()
        .find_map(|(prefix, component)| Some((*component, name.strip_prefix(prefix)?)))
    {
        Some(found) => found,
        None => match split_component(name) {
            Some(found) => found,
            None => return families(name).first().map(|family| of_family(*family, name)),
        },
    };
    if path.is_empty() || path.split('.').any(str::is_empty) {
        return None;
    }
    if component == NATIVE {
        let family = families(path)
            .into_iter()
            .find(|family| !matches!(family, Family::Clip | Family::T5));
        return Some(match family {
            Some(family) => of_family(family, path),
            // Blocks of any transformer of diffusers, which ComfyUI reads behind the original's component.
            None if DIFFUSERS_BLOCKS.iter().any(|blocks| path.starts_with(blocks)) => {
                Target::plain(format!("transformer.{path}"), None)
            }
            None => Target::plain(format!("{NATIVE}.{path}"), None),
        });
    }
    let family = families(path).into_iter().next();
    // Newer releases of transformers build CLIP's encoder without the model around it.
    let bare_clip = component.starts_with("text_encoder") && path.starts_with("encoder.layers.");
    let path = if bare_clip {
        format!("{component}.text_model.{path}")
    } else {
        format!("{component}.{path}")
    };
    Some(Target::plain(path, family))
}

#[cfg(test)]
mod tests {
    use super::{Rows, module_path};
    use crate::error::Code;

    #[track_caller]
    fn is(name: &str, parts: &[&str]) {
        let target = module_path(name, None).unwrap();
        assert_eq!(target.parts, parts, "{name}");
    }

    #[test]
    fn every_spelling_of_a_unets_module_leads_to_diffusers_path() {
        let path = ["unet.down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_out.0"];
        for name in [
            "lora_unet_down_blocks_1_attentions_0_transformer_blocks_0_attn1_to_out_0",
            "lora_unet_input_blocks_4_1_transformer_blocks_0_attn1_to_out_0",
            "lycoris_input_blocks_4_1_transformer_blocks_0_attn1_to_out_0",
            "diffusion_model.input_blocks.4.1.transformer_blocks.0.attn1.to_out.0",
            "unet.down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_out.0",
            "down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_out.0",
        ] {
            is(name, &path);
        }
    }

    #[test]
    fn text_encoders_are_told_apart_by_their_number() {
        let clip = "text_model.encoder.layers.11.self_attn.q_proj";
        is(
            "lora_te_text_model_encoder_layers_11_self_attn_q_proj",
            &[&format!("text_encoder.{clip}")],
        );
        is(
            "lora_te1_text_model_encoder_layers_11_self_attn_q_proj",
            &[&format!("text_encoder.{clip}")],
        );
        is(
            "lora_te2_text_model_encoder_layers_11_self_attn_q_proj",
            &[&format!("text_encoder_2.{clip}")],
        );
        is(
            "lora_prior_te_text_model_encoder_layers_11_self_attn_q_proj",
            &[&format!("text_encoder.{clip}")],
        );
        is(
            "text_encoders.clip_g.transformer.text_model.encoder.layers.11.self_attn.q_proj",
            &[&format!("text_encoder_2.{clip}")],
        );
        is(
            "text_encoder.encoder.layers.11.self_attn.q_proj",
            &[&format!("text_encoder.{clip}")],
        );
        is(
            "lora_te3_encoder_block_3_layer_1_DenseReluDense_wi_0",
            &["text_encoder_3.encoder.block.3.layer.1.DenseReluDense.wi_0"],
        );
    }

    #[test]
    fn fused_layers_are_all_the_modules_that_diffusers_makes_of_them() {
        let target = module_path("lora_unet_single_blocks_37_linear1", None).unwrap();
        assert_eq!(target.path, "diffusion_model.single_blocks.37.linear1");
        assert_eq!(target.rows, Rows::AndRest);
        assert_eq!(
            target.parts[3],
            "transformer.single_transformer_blocks.37.proj_mlp"
        );
        let target = module_path("diffusion_model.joint_blocks.3.x_block.attn.qkv", None).unwrap();
        assert_eq!((target.rows, target.parts.len()), (Rows::Thirds, 3));
        is(
            "lora_unet_final_layer_adaLN_modulation_1",
            &["transformer.norm_out.linear"],
        );
        is(
            "lora_transformer_transformer_blocks_0_attn_to_q",
            &["transformer.transformer_blocks.0.attn.to_q"],
        );
    }

    #[test]
    fn models_that_diffusers_names_are_not_known_for_keep_their_own() {
        is(
            "lora_unet_blocks_0_cross_attn_k_img",
            &["diffusion_model.blocks.0.cross_attn.k_img"],
        );
        is(
            "diffusion_model.layers.0.attention.qkv",
            &["diffusion_model.layers.0.attention.qkv"],
        );
    }

    #[test]
    fn names_without_one_meaning_are_refused() {
        for name in [
            "lora_unet_down_blocks_0_attentions_0_norm",
            "lora_unet_text_model_encoder_layers_0_mlp_fc1",
            "lora_te_down_blocks_0_resnets_0_conv1",
            "lora_unet_",
            "lora_unet_input_blocks_4_1_transformer_blocks_#_attn1_to_q",
            "model.layers.0.self_attn.q_proj",
            "diffusion_model.",
            "unet..conv_in",
            "",
            "…",
        ] {
            let error = module_path(name, None).expect_err(name);
            assert_eq!(error.code(), Code::AdapterUnsupported);
            assert!(error.to_string().contains(name), "{error}");
        }
    }

    #[test]
    fn any_string_is_a_module_or_an_error() {
        let pieces = [
            "lora_unet_",
            "lora_te3_",
            "diffusion_model.",
            "unet.",
            "input_blocks_",
            "double_blocks.",
            "4",
            "_1_",
            "00",
            ".",
            "_",
            "#",
            "ü",
            "img_attn_qkv",
            "transformer_blocks_0_",
            "attn1_to_q",
            "18446744073709551616",
            "weight",
        ];
        let mut seed = 1_usize;
        for _ in 0..20_000 {
            let mut name = String::new();
            for _ in 0..seed % 7 {
                seed = seed.wrapping_mul(1_103_515_245).wrapping_add(12_345);
                name.push_str(pieces[(seed >> 16) % pieces.len()]);
            }
            seed = seed.wrapping_add(1);
            if let Ok(target) = module_path(&name, None) {
                assert!(
                    !target.parts.is_empty() && target.parts.iter().all(|part| part.contains('.')),
                    "{name}"
                );
            }
        }
    }
}
