//! What several families share: finding a checkpoint's prefix, lists of modules.

use crate::{io::Checkpoint, model::family::Module};

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
