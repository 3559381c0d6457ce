//! Merging LoRA adapters with IterIS, in the browser.
//!
//! Reading order: [`linear`] is the one interface between models and merging; [`model`] are the families
//! that call it; [`merge`] are the methods behind it, and [`base`] is what they see of the base model. [`generate`] lets a model write, [`samples`] makes
//! calibration samples complete with it, [`batch`] lays them out as rows, [`compute`] does the arithmetic on
//! a device, [`io`] and [`adapter`] read and write files, [`compare`] holds merged
//! models against each other, [`report`] is what a merge says of itself. The only file that knows of
//! JavaScript is `wasm.rs`.

pub mod adapter;
pub mod base;
pub mod batch;
pub mod compare;
pub mod compute;
pub mod error;
pub mod generate;
pub mod io;
pub mod linear;
pub mod merge;
pub mod model;
pub mod pictures;
pub mod progress;
pub mod report;
pub mod samples;
#[cfg(target_arch = "wasm32")]
pub mod wasm;
