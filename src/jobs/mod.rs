//! What a caller can ask for, one file each: they open the inputs, run the steps and hand results to
//! [`export`](crate::export).

pub mod choice;
pub mod compare;
mod estimate;
pub mod generate;
mod inputs;
pub mod inspect;
pub mod logits;
pub mod merge;
mod pictures;
pub mod plan;
pub mod share;

pub use self::inputs::{AdapterInput, Reading, read_adapters};
