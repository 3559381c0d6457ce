//! Adapters held against a base model: which layer each name means, how several adapters that spell one layer
//! differently meet, and what each adds there.

mod absent;
pub mod base;
mod bind;
pub mod lanes;
mod locate;
mod meet;
pub mod paths;
pub mod read;
pub mod site;

pub use self::{
    base::Base,
    bind::{Binding, Part},
    meet::LeftOver,
    read::ReadAdapter,
    site::{MergeSite, Place},
};
