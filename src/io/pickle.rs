//! Files that `torch.save` wrote, read as a list of tensors and nothing else.
//!
//! A Python pickle is a program, and unpickling one from elsewhere runs whatever its author liked. There is no
//! unpickler here: [`machine`] knows the few instructions that `torch.save` emits for a dictionary of tensors, makes of
//! them plain [`value`]s, and refuses at the first other instruction or name. What the values then say of storages is
//! held against the bytes there are.
//!
//! torch has two containers. [`archive`] is the zip file of torch 1.6 and later, [`legacy`] the row of
//! bare pickles before it.

mod archive;
mod calls;
mod legacy;
mod machine;
mod tensors;
mod value;

use crate::{
    error::{Code, Error, Result},
    io::{source::ByteSource, tensor::Contents},
};

/// Pickles larger than this describe more tensors than any model has. The numbers are not in them.
const PICKLE_LIMIT_BYTES: u64 = 16 << 20;

/// How many bytes tell a file's format.
const MAGIC_BYTES: u64 = 4;

/// Reads and checks what a file says of its tensors, which then call the file `source_index`.
pub(super) async fn read(source: &dyn ByteSource, source_index: usize) -> Result<Contents> {
    let start = source.read(0..source.len().min(MAGIC_BYTES)).await?;
    let tensors = match *start {
        [b'P', b'K', 3, 4] => archive::read(source).await?,
        [0x80, 2..=5, ..] => legacy::read(source).await?,
        _ => {
            return Err(refused(
                "This is neither of the two formats of torch.save",
                source.name(),
            ));
        }
    };
    let tensors = tensors
        .into_iter()
        .map(|mut info| {
            info.source = source_index;
            info
        })
        .collect();
    Ok(Contents {
        metadata: Default::default(),
        tensors,
    })
}

/// The refusal of a pickle, with the way out.
pub(super) fn refused(what: &str, file: &str) -> Error {
    Error::new(
        Code::PickleRefused,
        format!(
            "{what}; a Python pickle can run code, so tensors alone are taken from it: if you trust this one, load it in Python and save it again with save_pretrained(folder, safe_serialization=True): {file}"
        ),
    )
}

/// A refusal that does not know yet of which file.
#[derive(Debug)]
struct Refusal(String);

impl Refusal {
    fn of(self, file: &str) -> Error {
        refused(&self.0, file)
    }
}
