//! What a person wants to know of files before merging them.

use crate::{
    adapter::{Adapter, AdapterFacts},
    binding::Base,
    error::Result,
    io::Folder,
    model::ModelFacts,
};

/// The facts of a base model.
///
/// # Errors
/// Whatever is wrong with the files.
pub async fn base(folder: Folder) -> Result<ModelFacts> {
    Base::open(Some(folder)).await?.facts()
}

/// The facts of an adapter.
///
/// # Errors
/// As [`Adapter::read`].
pub async fn adapter(folder: &Folder) -> Result<AdapterFacts> {
    Adapter::read("adapter", folder)
        .await
        .map(|adapter| adapter.facts())
}
