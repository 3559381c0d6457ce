//! Where the names that several adapters have for one layer meet, and what meets nothing.

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    binding::{base::Base, locate::Entry, read::ReadAdapter, site::MergeSite},
    error::{Code, Error, Result},
    naming::{LayerKey, ModulePath, path::nearest},
};

/// A module that no other adapter has and no base was there to look up in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeftOver {
    /// Whose it is, by the adapter's place.
    pub adapter: usize,
    /// The adapter's name of it.
    pub path: ModulePath,
    /// The name of another adapter that is most like it.
    pub nearest: Option<String>,
}

/// How names meet.
pub(super) enum Meeting {
    /// By the names of a model whose family is known.
    ByFamily,
    /// By what all names of a layer have in common, but for these, which one adapter has for two layers.
    ByKey(BTreeSet<LayerKey>),
}

impl Meeting {
    /// How the names of these adapters' changes meet.
    pub(super) fn of(base: &Base, adapters: &[Vec<Entry>]) -> Self {
        if matches!(base, Base::Model(_)) {
            return Self::ByFamily;
        }
        let mut of_two = BTreeSet::new();
        for entries in adapters {
            let mut names: BTreeMap<LayerKey, &str> = BTreeMap::new();
            for entry in entries {
                let key = ModulePath::new(&entry.name).key();
                if names.get(&key).is_some_and(|known| *known != entry.name) {
                    of_two.insert(key);
                } else {
                    names.insert(key, &entry.name);
                }
            }
        }
        Self::ByKey(of_two)
    }

    /// Under what a change meets those of other adapters.
    pub(super) fn key(&self, name: &str) -> String {
        match self {
            Self::ByFamily => name.to_owned(),
            Self::ByKey(of_two) => {
                let key = ModulePath::new(name).key();
                if of_two.contains(&key) {
                    name.to_owned()
                } else {
                    key.to_string()
                }
            }
        }
    }
}

/// Refuses adapters of two models: one for a UNet, another for a transformer, whatever else they share (a text
/// encoder is the same in many pipelines).
///
/// # Errors
/// [`Code::ShapeMismatch`] naming a module of each.
pub(super) fn check_one_model(adapters: &[ReadAdapter]) -> Result<()> {
    let kind = |read: &ReadAdapter| -> Option<(bool, ModulePath)> {
        let mut found = None;
        for path in read.adapter.modules.keys() {
            match path.image_component() {
                // The original code's names may be of either.
                Some("unet") => return Some((true, path.clone())),
                Some("transformer") => found = Some((false, path.clone())),
                _ => {}
            }
        }
        found
    };
    let kinds: Vec<_> = adapters.iter().map(kind).collect();
    let of = |unet: bool| {
        kinds.iter().zip(adapters).find_map(|(kind, read)| {
            kind.as_ref()
                .filter(|(is, _)| *is == unet)
                .map(|(_, path)| (read, path))
        })
    };
    let (Some((left, of_unet)), Some((right, of_transformer))) = (of(true), of(false)) else {
        return Ok(());
    };
    Err(Error::new(
        Code::ShapeMismatch,
        format!(
            "adapters \"{}\" and \"{}\" are not of one base model: the one changes a UNet, the other a transformer; modules: {of_unet}, {of_transformer}",
            left.adapter.name, right.adapter.name
        ),
    ))
}

/// The modules that meet nothing: of one adapter among several, and without a base that has them.
pub(super) fn left_over(base: &Base, adapters: &[ReadAdapter], sites: &[MergeSite]) -> Vec<LeftOver> {
    if !matches!(base, Base::Absent) || adapters.len() < 2 {
        return Vec::new();
    }
    let mut left = Vec::new();
    for site in sites {
        let mut sources = site
            .sources
            .iter()
            .enumerate()
            .filter_map(|(at, path)| Some((at, path.as_ref()?)));
        if let (Some((adapter, path)), None) = (sources.next(), sources.next()) {
            let others = adapters.iter().enumerate().filter(|(at, _)| *at != adapter);
            let names = others.flat_map(|(_, read)| read.adapter.modules.keys());
            left.push(LeftOver {
                adapter,
                path: ModulePath::new(path),
                nearest: nearest(path, names.map(ModulePath::as_str)).map(str::to_owned),
            });
        }
    }
    left
}

/// How many modules a note lists.
const LISTED: usize = 3;

/// What there is to say of modules that meet nothing, one note an adapter.
pub(super) fn notes(left: &[LeftOver], adapters: &[ReadAdapter]) -> Vec<String> {
    let mut notes = Vec::new();
    for (index, read) in adapters.iter().enumerate() {
        let own: Vec<&LeftOver> = left.iter().filter(|left| left.adapter == index).collect();
        if own.is_empty() {
            continue;
        }
        let listed: Vec<String> = own
            .iter()
            .take(LISTED)
            .map(|left| match &left.nearest {
                Some(nearest) => format!("{} (nearest: {nearest})", left.path),
                None => left.path.to_string(),
            })
            .collect();
        let more = match own.len() - listed.len() {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        notes.push(format!(
            "{}: {} of its {} modules are in no other adapter, and no base model was given to look them up in: {}{more}",
            read.adapter.name,
            own.len(),
            read.adapter.modules.len(),
            listed.join(", ")
        ));
    }
    notes
}
