//! CLIP (Radford et al., ICML 2021): a tower of pictures and one of texts, projected into one space.
//!
//! The text's tower is causal and pooled at the end-of-text token. `CLIPForImageClassification` has the pictures' tower
//! alone, with a classifier of the mean of its patches. Each tower by itself is a family too; release 5 of transformers
//! took `vision_model.` and `text_model.` from the names of their modules, but checkpoints keep them.
//! Reference: transformers, `models/clip/modeling_clip.py`.

use std::rc::Rc;

use serde::Deserialize;
use serde_json::{Value, json};

use crate::{
    compute::Sight,
    error::Result,
    io::Checkpoint,
    model::{
        config::{activation, architecture, only, parse, unquantised, with_defaults},
        family::Family,
        parts::Spelling,
        streams::StreamId,
        vision::{
            pictures::{self, Pictures, Sides},
            texts::{Pooled, Texts},
            tower::{self, FeedForward, QueryKeyValue, Sizes, Tower},
            towers::{self, Language, PictureEnd, Places, Projected, Settings, Vision},
        },
    },
    naming::family::FamilyNames,
};

const PICTURES: pictures::Names = pictures::Names {
    patches: "embeddings.patch_embedding",
    patch_bias: false,
    class_token: Some("embeddings.class_embedding"),
    positions: "embeddings.position_embedding.weight",
    norm: Some("pre_layrnorm"),
};

/// Of both towers, and of SigLIP's.
pub(super) const LAYERS: tower::Names = tower::Names {
    layers: "encoder.layers",
    attention_norm: "layer_norm1",
    query_key_value: QueryKeyValue::Split(["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"]),
    attention_output: "self_attn.out_proj",
    feed_forward_norm: "layer_norm2",
    feed_forward: FeedForward::Plain(["mlp.fc1", "mlp.fc2"]),
    scales: None,
};

const VISUAL_PROJECTION: &str = "visual_projection";
const TEXT_PROJECTION: &str = "text_projection";

/// What the configurations of both towers have, and of SigLIP's.
#[derive(Deserialize)]
pub(super) struct TowerConfig {
    hidden_size: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    intermediate_size: usize,
    hidden_act: String,
    layer_norm_eps: f32,
}

impl TowerConfig {
    /// The tower over `stream`.
    ///
    /// # Errors
    /// `config_invalid` for sizes that make no model, `model_unsupported` for an unknown activation.
    pub(super) fn tower(&self, path: &'static str, stream: StreamId, spelling: Spelling) -> Result<Tower> {
        let sizes = Sizes {
            layers: self.num_hidden_layers,
            heads: self.num_attention_heads,
            hidden: self.hidden_size,
            wide: self.intermediate_size,
        };
        sizes.check()?;
        Ok(Tower {
            path,
            names: &LAYERS,
            sizes,
            activation: activation("hidden_act", &self.hidden_act)?,
            epsilon: self.layer_norm_eps,
            qkv_bias: true,
            sight: Sight::FULL,
            stream,
            spelling,
        })
    }
}

#[derive(Deserialize)]
struct VisionConfig {
    #[serde(flatten)]
    tower: TowerConfig,
    image_size: Sides,
    patch_size: Sides,
    num_channels: usize,
    projection_dim: usize,
}

#[derive(Deserialize)]
struct TextConfig {
    #[serde(flatten)]
    tower: TowerConfig,
    vocab_size: usize,
    max_position_embeddings: usize,
    pad_token_id: Option<u32>,
    eos_token_id: u32,
    projection_dim: Option<usize>,
}

/// The configuration of one tower inside that of the model: `<name>_dict` outranks `name`, as in transformers.
fn inner(config: &Value, name: &str) -> Value {
    let given = [format!("{name}_dict"), name.to_owned()];
    let mut found = given.iter().filter_map(|name| config.get(name));
    found
        .find(|value| value.is_object())
        .cloned()
        .unwrap_or_else(|| json!({}))
}

fn vision_config(config: &Value) -> Result<VisionConfig> {
    only(config, "model_type", &["clip_vision_model".into()])?;
    let defaults = json!({
        "hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12,
        "num_channels": 3, "image_size": 224, "patch_size": 32, "hidden_act": "quick_gelu", "layer_norm_eps": 1e-5,
        "projection_dim": 512,
    });
    parse(&with_defaults(config, defaults))
}

fn text_config(config: &Value) -> Result<TextConfig> {
    only(config, "model_type", &["clip_text_model".into()])?;
    let defaults = json!({
        "vocab_size": 49408, "hidden_size": 512, "intermediate_size": 2048, "num_hidden_layers": 12,
        "num_attention_heads": 8, "max_position_embeddings": 77, "hidden_act": "quick_gelu", "layer_norm_eps": 1e-5,
        "pad_token_id": 1, "eos_token_id": 49407, "projection_dim": 512,
    });
    parse(&with_defaults(config, defaults))
}

impl VisionConfig {
    fn vision(
        &self,
        path: &'static str,
        places: &Places,
        spelling: Spelling,
        projection: Option<usize>,
    ) -> Result<Vision> {
        let pictures = Pictures::new(
            &PICTURES,
            self.num_channels,
            [self.image_size, self.patch_size],
            [places.pixels, places.patches],
        )?;
        Ok(Vision {
            tower: self.tower.tower(path, places.image, spelling)?,
            pictures: Rc::new(pictures),
            end: PictureEnd::ClassToken,
            projection: projection.map(|width| projected(VISUAL_PROJECTION, width)),
        })
    }
}

impl TextConfig {
    fn language(
        &self,
        path: &'static str,
        places: &Places,
        spelling: Spelling,
        projection: Option<usize>,
    ) -> Result<Language> {
        let texts = Texts {
            vocabulary: self.vocab_size,
            positions: self.max_position_embeddings,
            pad_id: self.pad_token_id.unwrap_or(1),
            // Configurations of before transformers 4.31 say 2, whatever the tokenizer's is.
            pooled: match self.eos_token_id {
                2 => Pooled::Largest,
                id => Pooled::FirstOf(id),
            },
            filled: false,
        };
        texts.check()?;
        Ok(Language {
            tower: Tower {
                sight: Sight::CAUSAL,
                ..self.tower.tower(path, places.text, spelling)?
            },
            texts,
            projection: projection.map(|width| projected(TEXT_PROJECTION, width)),
        })
    }
}

const fn projected(name: &'static str, width: usize) -> Projected {
    Projected {
        name,
        inside: false,
        width,
        bias: false,
    }
}

/// See [`super::FAMILIES`].
pub(super) fn open(config: &Value, checkpoint: &Checkpoint) -> Result<Box<dyn Family>> {
    unquantised(config)?;
    let names = FamilyNames::prefixed(&["clip.", ""]);
    let class = "CLIPModel";
    let probe = "vision_model.embeddings.class_embedding";
    let spelling = Spelling::of(checkpoint, names, probe, None);
    let width =
        parse::<ProjectionConfig>(&with_defaults(config, json!({"projection_dim": 512})))?.projection_dim;
    let both = architecture(config, class) != "CLIPForImageClassification";
    let places = if both { Places::BOTH } else { Places::PICTURES };
    let vision = vision_config(&inner(config, "vision_config"))?;
    let language = if both {
        let text = text_config(&inner(config, "text_config"))?;
        Some(text.language("text_model.", &places, spelling, Some(width))?)
    } else {
        None
    };
    let settings = Settings {
        family: "clip",
        names,
        vision: Some(vision.vision("vision_model.", &places, spelling, both.then_some(width))?),
        language,
        places,
        similarity_bias: false,
    };
    Ok(towers::open(config, checkpoint, class, settings))
}

#[derive(Deserialize)]
struct ProjectionConfig {
    projection_dim: usize,
}

/// The tower of pictures by itself. See [`super::FAMILIES`].
pub(super) fn open_vision(config: &Value, checkpoint: &Checkpoint) -> Result<Box<dyn Family>> {
    unquantised(config)?;
    let names = FamilyNames::prefixed(&["vision_model.", ""]);
    let spelling = Spelling::of(checkpoint, names, "embeddings.class_embedding", None);
    let own = vision_config(config)?;
    let has_projection = checkpoint.info(&format!("{VISUAL_PROJECTION}.weight")).is_some();
    let projection = has_projection.then_some(own.projection_dim);
    let settings = Settings {
        family: "clip_vision_model",
        names,
        vision: Some(own.vision("", &Places::PICTURES, spelling, projection)?),
        language: None,
        places: Places::PICTURES,
        similarity_bias: false,
    };
    Ok(towers::open(config, checkpoint, "CLIPVisionModel", settings))
}

/// The tower of texts by itself. See [`super::FAMILIES`].
pub(super) fn open_text(config: &Value, checkpoint: &Checkpoint) -> Result<Box<dyn Family>> {
    unquantised(config)?;
    let names = FamilyNames::prefixed(&["text_model.", ""]);
    let spelling = Spelling::of(checkpoint, names, "embeddings.token_embedding.weight", None);
    let own = text_config(config)?;
    let has_projection = checkpoint.info(&format!("{TEXT_PROJECTION}.weight")).is_some();
    let projection = own.projection_dim.filter(|_| has_projection);
    let settings = Settings {
        family: "clip_text_model",
        names,
        vision: None,
        language: Some(own.language("", &Places::TEXTS, spelling, projection)?),
        places: Places::TEXTS,
        similarity_bias: false,
    };
    Ok(towers::open(config, checkpoint, "CLIPTextModel", settings))
}
