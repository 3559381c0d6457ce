//! What several families share: finding a checkpoint's prefix, lists of modules.

use crate::{io::Checkpoint, model::family::Module, naming::family::FamilyNames};

/// How a checkpoint spells a family's names.
#[derive(Debug, Clone, Copy)]
pub(super) struct Spelling {
    names: FamilyNames,
    prefix: &'static str,
    /// Whether it has the family's other spelling.
    other: bool,
}

impl Spelling {
    /// The prefix is the first under which the checkpoint has the tensor `probe`, which is spelled in one way only;
    /// `respelled` is one that is spelled in two.
    pub(super) fn of(
        checkpoint: &Checkpoint,
        names: FamilyNames,
        probe: &str,
        respelled: Option<&str>,
    ) -> Self {
        let prefix = prefix(checkpoint, probe, names.prefixes);
        let other = respelled.map(|tensor| format!("{prefix}{}", names.other_spelling(tensor)));
        Self {
            names,
            prefix,
            other: other.is_some_and(|key| checkpoint.info(&key).is_some()),
        }
    }

    /// The checkpoint's key of a tensor or module.
    pub(super) fn key(&self, name: &str) -> String {
        if self.other {
            format!("{}{}", self.prefix, self.names.other_spelling(name))
        } else {
            format!("{}{name}", self.prefix)
        }
    }

    /// A targetable layer.
    pub(super) fn module(&self, name: &str, [d_out, d_in]: [usize; 2], block: usize) -> Module {
        Module {
            name: name.to_owned(),
            key: format!("{}.weight", self.key(name)),
            d_out,
            d_in,
            block,
            transposed: false,
            windows: None,
        }
    }
}

/// The first of `prefixes` under which the checkpoint has the tensor `probe`; none is as good as the last.
pub(super) fn prefix(checkpoint: &Checkpoint, probe: &str, prefixes: &[&'static str]) -> &'static str {
    let found = prefixes
        .iter()
        .find(|prefix| checkpoint.info(&format!("{prefix}{probe}")).is_some());
    found.or(prefixes.last()).copied().unwrap_or("")
}

/// The targetable layers of one block: `(name, d_out, d_in)`, names in the family's naming and, behind
/// `prefix`, the checkpoint's.
pub(super) fn modules<'a>(
    prefix: &'a str,
    block: usize,
    layers: impl IntoIterator<Item = (String, usize, usize)> + 'a,
) -> impl Iterator<Item = Module> + 'a {
    layers.into_iter().map(move |(name, d_out, d_in)| Module {
        key: format!("{prefix}{name}.weight"),
        name,
        d_out,
        d_in,
        block,
        transposed: false,
        windows: None,
    })
}

/// Whether a checkpoint of that class is, or becomes with its embedding table as the head, a language
/// model: not a classifier's, and not an encoder alone.
pub(super) fn is_language_model(architecture: &str) -> bool {
    ["ForCausalLM", "ForConditionalGeneration", "LMHeadModel", "Model"]
        .iter()
        .any(|kind| architecture.ends_with(kind))
        && !architecture.ends_with("EncoderModel")
}
