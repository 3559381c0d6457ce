//! Models that read pictures. A family is one file here and one line in [`FAMILIES`].

mod pictures;
mod tower;
mod vit;

use crate::model::family::Open;

/// Every family, by `model_type` of `config.json`.
pub(super) const FAMILIES: &[(&str, Open)] = &[("vit", vit::open)];
