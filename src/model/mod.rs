//! Base models: opening one, and running its blocks over stacks of lanes.
//!
//! A family is one file in [`text`] or [`vision`] and one line in its table. It reads its checkpoint block by block, so
//! that a pass holds one block's weights and the lanes' states and nothing else, and it calls every layer that an
//! adapter may target through [`lanes`].

pub mod batch;
mod config;
pub mod family;
mod generation;
pub mod lanes;
mod limits;
mod lm_head;
mod load;
mod multi_head;
mod open;
mod parts;
mod pass;
pub mod projection;
mod sample;
mod share;
mod state;
pub mod streams;
mod text;
mod vision;

pub use self::{
    family::{Block, Family, Heads, Kind, ModelFacts, Module, PictureFacts, Similarity},
    generation::GenerationConfig,
    limits::WorkloadEstimate,
    lm_head::LmHead,
    load::Loader,
    open::{open, supported},
    pass::{Model, Pass, Steps, tally},
    share::{SampleShare, picked, shared_out},
    state::State,
    text::{DECODER, TEXT},
};
