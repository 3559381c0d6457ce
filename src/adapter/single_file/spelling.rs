//! From a module's path to the name that kohya's scripts and ComfyUI give it.
//!
//! They give several: SDXL's UNet in the original code's names and every other in diffusers', text encoders numbered or
//! not. A file that mixes them loses modules in some readers, so one [`Spelling`] is chosen for the whole: that of the
//! adapters merged, or the usual one. Spelling is a function of the path alone, so that no module is spelled in two
//! ways.

use std::collections::BTreeMap;

use crate::{
    adapter::Shape,
    naming::{
        ModulePath, NATIVE, Rows,
        path::PEFT,
        split_component,
        template::{Family, families},
        transformer::{Place, to_original},
        unet,
    },
};

/// Widths of the streams of Flux.1 and of Stable Diffusion 3 (medium, large).
const FLUX_WIDTH: usize = 3072;
const MMDIT_WIDTHS: [usize; 2] = [1536, 2432];

/// Whose names a UNet's modules have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum UnetNames {
    /// diffusers'.
    Diffusers,
    /// The original code's; whether the top level has attention going up, as SDXL's has.
    Original { attends_first: bool },
}

/// How the parts of a name are put together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Style {
    /// kohya's: underscores, behind a prefix of their own.
    Flat,
    /// ComfyUI's: the model's own names, the image model's behind this.
    Dotted(&'static str),
}

/// What dotted names of an image model's modules are found behind.
const DOTTED: [&str; 4] = ["diffusion_model.", "model.diffusion_model.", "", PEFT];

/// How a file spells its modules.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Spelling {
    style: Style,
    unet: UnetNames,
    /// Whose names a transformer's modules have; none are diffusers'.
    transformer: Option<Family>,
    first_text: &'static str,
    second_text: &'static str,
}

/// What ComfyUI calls text encoders.
const COMFY_TEXT: [(&str, &str); 3] = [
    ("text_encoder", "text_encoders.clip_l.transformer."),
    ("text_encoder_2", "text_encoders.clip_g.transformer."),
    ("text_encoder_3", "text_encoders.t5xxl.transformer."),
];

/// A module's name, and where in the named layer it lies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Spelled {
    pub(crate) name: String,
    pub(crate) part: usize,
    pub(crate) parts: usize,
    pub(crate) rows: Rows,
}

impl Spelling {
    /// The spelling of a file with these modules: of those there are, the one that gives most of the names in
    /// `spelled`, and the usual one for such modules if none gives more.
    pub(crate) fn of(modules: &BTreeMap<ModulePath, Shape>, spelled: &BTreeMap<String, String>) -> Self {
        let usual = Self::usual(modules);
        let mut best = (usual, usual.score(spelled));
        if spelled.is_empty() {
            return usual;
        }
        let unets = [
            usual.unet,
            UnetNames::Diffusers,
            UnetNames::Original { attends_first: true },
            UnetNames::Original { attends_first: false },
        ];
        let transformers = [usual.transformer, Some(Family::Flux), Some(Family::Mmdit), None];
        let styles = std::iter::once(Style::Flat).chain(DOTTED.map(Style::Dotted));
        for style in styles {
            for unet in unets {
                for transformer in transformers {
                    for first_text in [usual.first_text, "lora_te_", "lora_te1_"] {
                        for second_text in [usual.second_text, "lora_te2_", "lora_te3_"] {
                            let spelling = Self {
                                style,
                                unet,
                                transformer,
                                first_text,
                                second_text,
                            };
                            let score = spelling.score(spelled);
                            if score > best.1 {
                                best = (spelling, score);
                            }
                        }
                    }
                }
            }
        }
        best.0
    }

    /// Whether its names are dotted ones.
    pub(crate) fn is_dotted(&self) -> bool {
        self.style != Style::Flat
    }

    /// How many of these names it gives.
    fn score(&self, spelled: &BTreeMap<String, String>) -> usize {
        spelled
            .iter()
            .filter(|(path, name)| self.spell(path).is_some_and(|found| found.name == **name))
            .count()
    }

    /// What kohya's scripts do for a model with these modules.
    fn usual(modules: &BTreeMap<ModulePath, Shape>) -> Self {
        let any = |test: &dyn Fn(&str) -> bool| modules.keys().any(|path| test(path));
        let transformer = any(&|path| component(path) == Some("transformer"));
        let several = any(&|path| path.starts_with("text_encoder_"));
        let deep = any(&|path| {
            path.contains(".attentions.")
                && !path.contains("transformer_blocks.0")
                && path.contains("transformer_blocks.")
        });
        let sdxl = deep || several && !transformer || any(&|path| path.contains("add_embedding."));
        let four_levels = any(&|path| path.contains("down_blocks.3.") || path.contains("up_blocks.3."));
        let second_is_t5 = any(&|path| {
            path.strip_prefix("text_encoder_2.")
                .is_some_and(|path| families(path).contains(&Family::T5))
        });
        Self {
            style: Style::Flat,
            unet: if sdxl {
                UnetNames::Original {
                    attends_first: !four_levels,
                }
            } else {
                UnetNames::Diffusers
            },
            transformer: transformer_family(modules),
            first_text: if several || transformer {
                "lora_te1_"
            } else {
                "lora_te_"
            },
            second_text: if second_is_t5 { "lora_te3_" } else { "lora_te2_" },
        }
    }

    /// The name of a module; none if it is of no image model.
    pub(crate) fn spell(&self, path: &str) -> Option<Spelled> {
        let component = component(path)?;
        let module = split_component(path).map_or(path, |(_, module)| module);
        let whole = |prefix: &str, module: &str| Spelled {
            name: match self.style {
                Style::Flat => format!("{prefix}{}", module.replace('.', "_")),
                Style::Dotted(image) => {
                    let text = COMFY_TEXT.iter().find(|(of, _)| *of == component);
                    format!("{}{module}", text.map_or(image, |(_, prefix)| prefix))
                }
            },
            part: 0,
            parts: 1,
            rows: Rows::Whole,
        };
        Some(match component {
            "unet" => match self.unet {
                UnetNames::Diffusers => whole("lora_unet_", module),
                UnetNames::Original { attends_first } => {
                    let original = unet::to_ldm(module, |level| attends_first || level > 0);
                    whole("lora_unet_", original.as_deref().unwrap_or(module))
                }
            },
            "transformer" => match self.transformer.and_then(|family| to_original(family, module)) {
                Some(Place {
                    original,
                    part,
                    parts,
                    rows,
                }) => Spelled {
                    part,
                    parts,
                    rows,
                    ..whole("lora_unet_", &original)
                },
                None => whole("lora_transformer_", module),
            },
            "prior" => whole("lora_prior_unet_", module),
            "text_encoder" => whole(self.first_text, module),
            "text_encoder_2" => whole(self.second_text, module),
            "text_encoder_3" => whole("lora_te3_", module),
            _ => whole("lora_unet_", module),
        })
    }
}

/// The component that a path is of: its own, or for a path without one that of the known model it is of.
pub(crate) fn component(path: &str) -> Option<&str> {
    if let Some((component, _)) = split_component(path) {
        return Some(component);
    }
    Some(match families(path).first()? {
        Family::Unet => "unet",
        Family::Transformer => "transformer",
        Family::Clip | Family::T5 => "text_encoder",
        Family::Ldm | Family::Flux | Family::Mmdit | Family::Wan => NATIVE,
    })
}

/// Which transformer the modules are of, by modules that only one has or by the width of the stream.
fn transformer_family(modules: &BTreeMap<ModulePath, Shape>) -> Option<Family> {
    let of_transformer = modules
        .iter()
        .filter(|(path, _)| component(path) == Some("transformer"));
    let mut family = None;
    for (path, shape) in of_transformer {
        if path.contains("single_transformer_blocks.") || path.contains("guidance_embedder.") {
            return Some(Family::Flux);
        }
        if path.contains(".attn2.") || path.contains("pos_embed.proj") {
            return Some(Family::Mmdit);
        }
        if path.contains("transformer_blocks.") && !path.ends_with(".net.2") {
            if shape.d_in == FLUX_WIDTH {
                family = Some(Family::Flux);
            } else if MMDIT_WIDTHS.contains(&shape.d_in) {
                family = Some(Family::Mmdit);
            }
        }
    }
    family
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::Spelling;
    use crate::adapter::Shape;
    use crate::naming::{ModulePath, module_path};

    fn modules(names: &[&str]) -> (BTreeMap<ModulePath, Shape>, BTreeMap<String, String>) {
        let mut modules = BTreeMap::new();
        let mut spelled = BTreeMap::new();
        for name in names {
            for path in module_path(name, None).unwrap().parts {
                modules.insert(ModulePath::new(&path), Shape::default());
                spelled.insert(path, (*name).to_owned());
            }
        }
        (modules, spelled)
    }

    #[track_caller]
    fn comes_back(names: &[&str], usual: bool) {
        let (modules, spelled) = modules(names);
        let given = if usual { BTreeMap::new() } else { spelled.clone() };
        let spelling = Spelling::of(&modules, &given);
        for (path, name) in spelled {
            assert_eq!(spelling.spell(&path).unwrap().name, name);
        }
    }

    #[test]
    fn the_usual_names_of_each_model_are_kohyas() {
        comes_back(
            &[
                "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q",
                "lora_unet_up_blocks_3_resnets_2_conv1",
                "lora_te_text_model_encoder_layers_0_mlp_fc1",
            ],
            true,
        );
        comes_back(
            &[
                "lora_unet_input_blocks_4_1_transformer_blocks_1_attn1_to_q",
                "lora_unet_output_blocks_2_2_conv",
                "lora_te1_text_model_encoder_layers_0_mlp_fc1",
                "lora_te2_text_model_encoder_layers_31_mlp_fc1",
            ],
            true,
        );
        comes_back(
            &[
                "lora_unet_double_blocks_0_img_attn_qkv",
                "lora_unet_single_blocks_0_linear1",
                "lora_te1_text_model_encoder_layers_0_mlp_fc1",
            ],
            true,
        );
        comes_back(
            &[
                "lora_unet_joint_blocks_0_x_block_attn2_qkv",
                "lora_unet_joint_blocks_0_x_block_mlp_fc1",
            ],
            true,
        );
        comes_back(&["lora_unet_blocks_0_self_attn_q"], true);
    }

    #[test]
    fn the_names_of_the_adapters_that_are_merged_are_kept() {
        comes_back(
            &["lora_unet_down_blocks_1_attentions_0_transformer_blocks_1_attn1_to_q"],
            false,
        );
        comes_back(
            &["lora_unet_input_blocks_4_1_transformer_blocks_0_attn1_to_q"],
            false,
        );
        comes_back(&["lora_te1_text_model_encoder_layers_0_mlp_fc1"], false);
        comes_back(&["lora_transformer_single_transformer_blocks_0_attn_to_q"], false);
        comes_back(&["lora_unet_double_blocks_0_img_attn_proj"], false);
        comes_back(
            &[
                "lora_unet_output_blocks_2_1_conv",
                "lora_unet_down_blocks_0_resnets_0_conv1",
            ][..1],
            false,
        );
    }

    #[test]
    fn paths_of_other_models_have_no_name() {
        let spelling = Spelling::of(&BTreeMap::new(), &BTreeMap::new());
        assert_eq!(spelling.spell("bert.encoder.layer.0.attention.self.query"), None);
        let clip = spelling.spell("text_model.encoder.layers.0.mlp.fc1").unwrap();
        assert_eq!(clip.name, "lora_te_text_model_encoder_layers_0_mlp_fc1");
    }
}
