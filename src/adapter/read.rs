//! Reading an adapter, whichever form its files have.

use crate::{
    adapter::{Adapter, peft, single_file},
    error::Result,
    io::Folder,
    naming::BaseNames,
};

impl Adapter {
    /// Reads the adapter in a folder as PEFT saved it, or in a single file of kohya's, ComfyUI's or diffusers'
    /// making; messages and reports call it `name`.
    ///
    /// # Errors
    /// `missing` for an absent file or factor, `config_invalid` and `adapter_unsupported` as
    /// [`AdapterConfig::parse`], `shape_mismatch` for factors that do not fit each other or the
    /// configuration's rank, `tensors_unaccounted` listing tensors that are no part of an adapter;
    /// whatever reading safetensors gives.
    pub async fn read(name: &str, folder: &Folder) -> Result<Self> {
        Self::read_for(name, folder, None).await
    }

    /// As [`Adapter::read`], with names of image models' modules looked up in the base model.
    ///
    /// # Errors
    /// As [`Adapter::read`].
    pub async fn read_for(name: &str, folder: &Folder, base: Option<&BaseNames>) -> Result<Self> {
        match single_file::read(name, folder, base).await? {
            Some(adapter) => Ok(adapter),
            None => peft::read(name, folder).await,
        }
    }
}
