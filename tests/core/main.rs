//! The core, from the outside: one program, since what runs a model is compiled again in every program that does.
//!
//! What counts memory (`fuzzing`, `pickle`) has an allocator of its own and is a program of its own; so is `emotion`,
//! which needs a model that has to be downloaded.

#[path = "../support/mod.rs"]
mod support;

mod adapter;
mod bert;
mod blip;
mod claims;
mod families;
mod gpt2;
mod io;
mod language;
mod merge_goldens;
mod methods;
mod names;
mod output;
mod peft_features;
mod pictures;
mod read_ahead;
mod refusals;
mod towers;
mod vit;
mod zero_shot;
