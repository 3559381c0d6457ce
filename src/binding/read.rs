//! An adapter of a merge, with what reports tell of its files.

use crate::{adapter::Adapter, io::FileDigest};

/// An adapter, with its weight in the merge.
pub struct ReadAdapter {
    /// The adapter.
    pub adapter: Adapter,
    /// The user's weight.
    pub weight: f64,
    /// Name, size and SHA-256 of its files.
    pub files: Vec<FileDigest>,
    /// Where its files are, as a recipe finds them again.
    pub path: Option<String>,
}

impl ReadAdapter {
    /// An adapter by itself, for work that knows no samples and no weights.
    pub fn alone(adapter: Adapter) -> Self {
        Self {
            adapter,
            weight: 1.0,
            files: Vec::new(),
            path: None,
        }
    }
}

/// The name of an adapter by its place.
pub fn name_of(adapters: &[ReadAdapter], index: usize) -> &str {
    adapters.get(index).map_or("", |read| &read.adapter.name)
}
