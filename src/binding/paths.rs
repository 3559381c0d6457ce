//! Names of merged modules, as the adapters have them.

use std::{borrow::Cow, collections::BTreeSet};

use crate::{
    binding::{Binding, base::Base, site::MergeSite},
    naming::ModulePath,
};

/// Names of modules as the adapters have them: behind the prefix of the class that they were trained with.
pub struct Paths {
    /// The leading adapter's prefix of the model's own modules, e.g. `bert.`.
    prefix: String,
    /// A path of the leading adapter that spells its modules otherwise than the family.
    like: Option<String>,
    /// By adapter: the prefix of its modules, where there is no family to tell.
    prefixes: Vec<String>,
    /// Modules that lie outside the class that the prefix names: layers of a head.
    outside: BTreeSet<String>,
}

impl Paths {
    /// The prefix and the exceptions of a binding's adapters.
    pub fn of(binding: &Binding<'_>) -> Self {
        let base = binding.base;
        let mut paths = Self {
            prefix: String::new(),
            like: None,
            prefixes: Vec::new(),
            outside: BTreeSet::new(),
        };
        if !matches!(base, Base::Model(_)) {
            let prefix = |index: usize| {
                let own = binding
                    .sites
                    .iter()
                    .filter_map(|site| site.sources.get(index)?.as_ref());
                let prefixes = own.map(|path| ModulePath::new(path).prefix().to_owned());
                let of_model = prefixes.filter(|prefix| !prefix.starts_with("text_encoder"));
                of_model.max_by_key(String::len).unwrap_or_default()
            };
            paths.prefixes = (0..binding.adapters.len()).map(prefix).collect();
            return paths;
        }
        for index in 0..binding.adapters.len() {
            let prefix_of = |path: &String| base.prefix_of(path).to_owned();
            let own = || {
                binding
                    .sites
                    .iter()
                    .filter_map(move |site| site.sources.get(index)?.as_ref())
            };
            let prefix = own().map(prefix_of).max_by_key(String::len).unwrap_or_default();
            if !prefix.is_empty() {
                let bare = own().filter(|path| prefix_of(path).is_empty());
                paths.outside.extend(bare.cloned());
            }
            if index == binding.leading {
                paths.prefix = prefix;
                let own_spelling = |path: &&String| {
                    let name = base.canonical(path);
                    base.spelled_like(&name, path) != name
                };
                paths.like = own().find(own_spelling).cloned();
            }
        }
        paths
    }

    /// The path of a module of the model.
    pub fn path(&self, base: &Base, name: &str) -> String {
        if self.outside.contains(name) {
            return name.to_owned();
        }
        match &self.like {
            Some(like) => format!("{}{}", self.prefix, base.spelled_like(name, like)),
            None => format!("{}{name}", self.prefix),
        }
    }

    /// The path of what a site changes, as adapters have it.
    pub fn of_site(&self, binding: &Binding<'_>, site: &MergeSite) -> String {
        if !matches!(binding.base, Base::Model(_)) {
            return self.as_leading(binding, site);
        }
        let source = site.sources.iter().flatten().next();
        let name = source.map(|path| binding.base.canonical(path));
        self.path(binding.base, name.as_deref().unwrap_or(&site.name))
    }

    /// The leading adapter's path of a site, or that of another adapter spelled as the leading one would.
    fn as_leading(&self, binding: &Binding<'_>, site: &MergeSite) -> String {
        let leading = self.prefixes.get(binding.leading).map_or("", String::as_str);
        let own = site.sources.get(binding.leading).and_then(Option::as_ref);
        let alike = || {
            let sources = site.sources.iter().zip(&self.prefixes);
            let mut alike = sources.filter(|(_, prefix)| *prefix == leading);
            alike.find_map(|(path, _)| path.as_ref())
        };
        if let Some(path) = own.or_else(alike) {
            return path.clone();
        }
        let other = site.sources.iter().flatten().next().unwrap_or(&site.name);
        ModulePath::new(other).behind(leading).to_string()
    }

    /// The paths of every linear layer that PEFT may find in the model: those an adapter may site, and
    /// whatever else the checkpoint or a task's head has a matrix for.
    pub fn all(&self, binding: &Binding<'_>) -> Vec<String> {
        let Base::Model(model) = binding.base else {
            let weights = binding.base.parts();
            return weights
                .iter()
                .flat_map(|(prefix, checkpoint)| {
                    let modules = checkpoint.names().filter_map(|name| name.strip_suffix(".weight"));
                    modules.map(move |module| match *prefix {
                        "" => module.to_owned(),
                        prefix => format!("{prefix}.{module}"),
                    })
                })
                .chain(binding.sites.iter().map(|site| site.name.clone()))
                .collect();
        };
        let family = &model.family;
        let known: BTreeSet<&str> = family
            .modules()
            .iter()
            .map(|module| module.name.as_str())
            .collect();
        let stored = model
            .checkpoint
            .names()
            .filter_map(|name| Some(family.canonical(name.strip_suffix(".weight")?)));
        let heads = family.readouts().iter().copied().chain(family.readouts_need());
        let heads = heads.map(Cow::Borrowed);
        // A merged module is no other, under whatever name.
        let sources = binding
            .sites
            .iter()
            .flat_map(|site| site.sources.iter().flatten());
        let merged: BTreeSet<Cow<'_, str>> = sources.map(|path| family.canonical(path)).collect();
        let others = stored
            .chain(heads)
            .filter(|name| !known.contains(name.as_ref()) && !merged.contains(name));
        let others: Vec<String> = others.map(Cow::into_owned).collect();
        known
            .iter()
            .map(|name| self.path(binding.base, name))
            .chain(others)
            .collect()
    }
}
