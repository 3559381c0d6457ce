//! Models that read pictures, and the text towers beside them. A family is one file here and a line in [`FAMILIES`].

mod blip;
mod clip;
mod dinov2;
mod pictures;
mod siglip;
mod texts;
mod tower;
mod towers;
mod vit;

use crate::model::family::Open;

/// Every family, by `model_type` of `config.json`.
pub(super) const FAMILIES: &[(&str, Open)] = &[
    ("blip", blip::open),
    ("clip", clip::open),
    ("clip_text_model", clip::open_text),
    ("clip_vision_model", clip::open_vision),
    ("dinov2", dinov2::open),
    ("siglip", siglip::open),
    ("siglip_text_model", siglip::open_text),
    ("siglip_vision_model", siglip::open_vision),
    ("vit", vit::open),
];
