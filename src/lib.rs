//! Merging LoRA adapters with IterIS, in the browser.
//!
//! The rooms, from the ground up; each uses those above it in this list and none below, which
//! `tests/unit/architecture.test.ts` holds:
//!
//! | room | what lives there |
//! |---|---|
//! | [`error`], [`progress`] | the one error type; progress and cancellation |
//! | [`describe`] | what an option is told by, for every place that shows or checks it |
//! | [`io`] | byte sources, safetensors, pickles, sinks |
//! | [`compute`] | devices, kernels, attention, exact products, factorisations |
//! | [`delta`] | what is added to a weight, and its norms |
//! | [`naming`] | what adapters and bases call a layer: pure text |
//! | [`pictures`] | from a picture's bytes to the numbers that a model reads |
//! | [`adapter`] | adapters' file formats, reading and writing side by side |
//! | [`model`] | families, lanes, streams, batches |
//! | [`binding`] | adapters held against a base |
//! | [`generate`], [`calibrate`], [`compare`], [`merge`] | what is done with a model and adapters |
//! | [`export`] | what is written |
//! | [`jobs`] | what a caller can ask for |
//! | `wasm` | the binding to JavaScript, the only file that sees a `JsValue` |

pub mod adapter;
pub mod binding;
pub mod calibrate;
pub mod compare;
pub mod compute;
pub mod delta;
pub mod describe;
pub mod error;
pub mod export;
pub mod generate;
pub mod io;
pub mod jobs;
pub mod merge;
pub mod model;
pub mod naming;
pub mod pictures;
pub mod progress;
#[cfg(target_arch = "wasm32")]
pub mod wasm;
