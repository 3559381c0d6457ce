//! PEFT's form: `adapter_config.json` and `adapter_model.safetensors`, read and written.

mod extra;
mod keys;
mod module;
mod read;
mod write;

pub(super) use self::read::read;
pub use self::{
    extra::{Extra, WholeTensor},
    write::{merged_config, peft_plan, wrapping_order},
};
