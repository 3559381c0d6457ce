//! SigLIP (Zhai et al., ICCV 2023): CLIP's two towers without a class token, a causal mask or projections of equal kind.
//!
//! One learned query attends to the rows of a picture. A text is filled up with padding to the length that the model was
//! trained with, no row is masked, and its last one is read, behind a linear layer. `SiglipForImageClassification` has the
//! pictures' tower alone, with a classifier of the mean of its rows. Release 5 of transformers took `vision_model.` and
//! `text_model.` from the names of single towers.
//! Reference: transformers, `models/siglip/modeling_siglip.py`.

use std::rc::Rc;

use serde::Deserialize;
use serde_json::{Value, json};

use crate::{
    error::Result,
    io::Checkpoint,
    model::{
        config::{architecture, only, parse, unquantised, with_defaults},
        family::Family,
        parts::Spelling,
        vision::{
            clip::TowerConfig,
            pictures::{self, Pictures, Sides},
            texts::{Pooled, Texts},
            towers::{self, Language, PictureEnd, Places, Projected, Settings, Vision},
        },
    },
    naming::family::FamilyNames,
};

const PICTURES: pictures::Names = pictures::Names {
    patches: "embeddings.patch_embedding",
    patch_bias: true,
    class_token: None,
    positions: "embeddings.position_embedding.weight",
    norm: None,
};

#[derive(Deserialize)]
struct VisionConfig {
    #[serde(flatten)]
    tower: TowerConfig,
    image_size: Sides,
    patch_size: Sides,
    num_channels: usize,
    vision_use_head: bool,
}

#[derive(Deserialize)]
struct TextConfig {
    #[serde(flatten)]
    tower: TowerConfig,
    vocab_size: usize,
    max_position_embeddings: usize,
    pad_token_id: Option<u32>,
    projection_size: Option<usize>,
}

fn inner(config: &Value, name: &str) -> Value {
    let given = config.get(name).filter(|value| value.is_object());
    given.cloned().unwrap_or_else(|| json!({}))
}

fn vision(config: &Value, path: &'static str, places: &Places, spelling: Spelling) -> Result<Vision> {
    only(config, "model_type", &["siglip_vision_model".into()])?;
    let defaults = json!({
        "hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12,
        "num_channels": 3, "image_size": 224, "patch_size": 16, "hidden_act": "gelu_pytorch_tanh",
        "layer_norm_eps": 1e-6, "vision_use_head": true,
    });
    let config: VisionConfig = parse(&with_defaults(config, defaults))?;
    let pictures = Pictures::new(
        &PICTURES,
        config.num_channels,
        [config.image_size, config.patch_size],
        [places.pixels, places.patches],
    )?;
    Ok(Vision {
        tower: config.tower.tower(path, places.image, spelling)?,
        pictures: Rc::new(pictures),
        end: PictureEnd::Attention {
            head: config.vision_use_head,
        },
        projection: None,
    })
}

fn language(config: &Value, path: &'static str, places: &Places, spelling: Spelling) -> Result<Language> {
    only(config, "model_type", &["siglip_text_model".into()])?;
    let defaults = json!({
        "vocab_size": 32000, "hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12,
        "num_attention_heads": 12, "max_position_embeddings": 64, "hidden_act": "gelu_pytorch_tanh",
        "layer_norm_eps": 1e-6, "pad_token_id": 1,
    });
    let config: TextConfig = parse(&with_defaults(config, defaults))?;
    let tower = config.tower.tower(path, places.text, spelling)?;
    let texts = Texts {
        vocabulary: config.vocab_size,
        positions: config.max_position_embeddings,
        pad_id: config.pad_token_id.unwrap_or(1),
        pooled: Pooled::Last,
        filled: true,
    };
    texts.check()?;
    Ok(Language {
        projection: Some(Projected {
            name: "head",
            inside: true,
            width: config.projection_size.unwrap_or(tower.sizes.hidden),
            bias: true,
        }),
        tower,
        texts,
    })
}

/// See [`super::FAMILIES`].
pub(super) fn open(config: &Value, checkpoint: &Checkpoint) -> Result<Box<dyn Family>> {
    unquantised(config)?;
    let names = FamilyNames::prefixed(&["siglip.", ""]);
    let class = "SiglipModel";
    let probe = "vision_model.embeddings.patch_embedding.weight";
    let spelling = Spelling::of(checkpoint, names, probe, None);
    let both = architecture(config, class) != "SiglipForImageClassification";
    let places = if both { Places::BOTH } else { Places::PICTURES };
    let language = if both {
        let config = inner(config, "text_config");
        Some(language(&config, "text_model.", &places, spelling)?)
    } else {
        None
    };
    let settings = Settings {
        family: "siglip",
        names,
        vision: Some(vision(
            &inner(config, "vision_config"),
            "vision_model.",
            &places,
            spelling,
        )?),
        language,
        places,
        similarity_bias: true,
    };
    Ok(towers::open(config, checkpoint, class, settings))
}

/// The tower of pictures by itself. See [`super::FAMILIES`].
pub(super) fn open_vision(config: &Value, checkpoint: &Checkpoint) -> Result<Box<dyn Family>> {
    unquantised(config)?;
    let names = FamilyNames::prefixed(&["vision_model.", ""]);
    let spelling = Spelling::of(checkpoint, names, "embeddings.patch_embedding.weight", None);
    let settings = Settings {
        family: "siglip_vision_model",
        names,
        vision: Some(vision(config, "", &Places::PICTURES, spelling)?),
        language: None,
        places: Places::PICTURES,
        similarity_bias: true,
    };
    Ok(towers::open(config, checkpoint, "SiglipVisionModel", settings))
}

/// The tower of texts by itself. See [`super::FAMILIES`].
pub(super) fn open_text(config: &Value, checkpoint: &Checkpoint) -> Result<Box<dyn Family>> {
    unquantised(config)?;
    let names = FamilyNames::prefixed(&["text_model.", ""]);
    let spelling = Spelling::of(checkpoint, names, "embeddings.token_embedding.weight", None);
    let settings = Settings {
        family: "siglip_text_model",
        names,
        vision: None,
        language: Some(language(config, "", &Places::TEXTS, spelling)?),
        places: Places::TEXTS,
        similarity_bias: true,
    };
    Ok(towers::open(config, checkpoint, "SiglipTextModel", settings))
}
