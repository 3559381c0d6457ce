//! Layers that are the same part of different blocks, under one pattern: `unet.*.attn1.to_q` instead of 70 names.
//!
//! A number that is a whole part of a path (between dots; of a flattened name between underscores) counts blocks if it
//! differs among names that are otherwise equal. If it does not, it is part of the name, as in `ff.net.0.proj`. A
//! pattern is what stands before the first number that counts, a `*`, and what follows the last; of a component of a
//! pipeline (`unet`, `lora_te1`) only the component stands before the `*`, so that blocks going down and up share their
//! patterns. A name of which no number counts has the pattern of its component that it ends in, if there is one: SDXL's
//! middle block has a single `proj_in`. All others are patterns of their own.

use std::collections::{BTreeMap, BTreeSet};

use crate::naming::{FLAT, split_component, template::is_index};

/// Layers that are the same part of different blocks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LayerGroup {
    /// What their names have in common, with a `*` for the rest; of a layer by itself its name.
    pub pattern: String,
    /// What follows the `*`; of a layer by itself what follows its last number.
    pub ending: String,
    /// Which of the names they are, ascending.
    pub members: Vec<usize>,
}

/// The groups of these names in the order of their first members. Every name is in one group.
pub fn layer_groups(names: &[&str]) -> Vec<LayerGroup> {
    let paths: Vec<Path<'_>> = names.iter().map(|name| Path::new(name)).collect();
    let mut alike: BTreeMap<Vec<&str>, Vec<&Path<'_>>> = BTreeMap::new();
    for path in &paths {
        alike.entry(path.starred()).or_default().push(path);
    }
    let patterns: BTreeMap<&str, Pattern<'_>> = alike
        .values()
        .flat_map(|alike| {
            let counting = counting(alike);
            alike
                .iter()
                .filter_map(move |path| Some((path.name, path.pattern(counting?))))
        })
        .collect();
    let shared: BTreeSet<Pattern<'_>> = patterns.values().copied().collect();
    let mut groups: Vec<LayerGroup> = Vec::new();
    let mut places: BTreeMap<Pattern<'_>, usize> = BTreeMap::new();
    for (index, path) in paths.iter().enumerate() {
        let pattern = patterns
            .get(path.name)
            .copied()
            .or_else(|| path.longest_of(&shared))
            .unwrap_or_else(|| path.alone());
        let place = *places.entry(pattern).or_insert_with(|| {
            groups.push(LayerGroup {
                pattern: pattern.text(),
                ending: pattern.ending.to_owned(),
                members: Vec::new(),
            });
            groups.len() - 1
        });
        groups[place].members.push(index);
    }
    groups
}

/// The first and the last part that differ among paths with the same words.
fn counting(alike: &[&Path<'_>]) -> Option<(usize, usize)> {
    let (first, others) = alike.split_first()?;
    let differs = |part: &usize| {
        others
            .iter()
            .any(|other| other.parts[*part].1 != first.parts[*part].1)
    };
    let mut places = (0..first.parts.len()).filter(differs);
    let start = places.next()?;
    Some((start, places.next_back().unwrap_or(start)))
}

/// A pattern in pieces of the names that it is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Pattern<'a> {
    /// What stands before the `*`, with what parts it; none of a layer by itself.
    before: Option<&'a str>,
    /// Parts the `*` from the ending.
    separator: &'a str,
    ending: &'a str,
    /// The whole name of a layer by itself.
    name: &'a str,
}

impl Pattern<'_> {
    fn text(&self) -> String {
        match self.before {
            Some(before) => format!("{before}*{}{}", self.separator, self.ending),
            None => self.name.to_owned(),
        }
    }
}

/// A name in parts.
struct Path<'a> {
    name: &'a str,
    /// The component of a pipeline that it is in, with what parts it from the rest.
    component: Option<&'a str>,
    /// What parts parts: `.`, or `_` in a flattened name.
    separator: &'a str,
    /// The parts behind the component, and where they begin in the name.
    parts: Vec<(usize, &'a str)>,
}

impl<'a> Path<'a> {
    fn new(name: &'a str) -> Self {
        let flat = FLAT.iter().find(|(prefix, _)| name.starts_with(prefix));
        let length = match flat {
            Some((prefix, _)) => Some(prefix.len()),
            None => split_component(name).map(|(component, _)| component.len() + 1),
        };
        let (component, rest) = name.split_at(length.unwrap_or(0));
        let separator = if rest.contains('.') { "." } else { "_" };
        let mut at = component.len();
        let parts = rest
            .split(separator)
            .map(|part| {
                let start = at;
                at += part.len() + separator.len();
                (start, part)
            })
            .collect();
        Self {
            name,
            component: length.map(|_| component),
            separator,
            parts,
        }
    }

    /// Component, separator and parts, with a `*` for every number.
    fn starred(&self) -> Vec<&'a str> {
        let words = self
            .parts
            .iter()
            .map(|(_, part)| if is_index(part) { "*" } else { part });
        [self.component.unwrap_or(""), self.separator]
            .into_iter()
            .chain(words)
            .collect()
    }

    /// What follows a part, without what parts them; empty behind the last.
    fn behind(&self, part: usize) -> &'a str {
        self.parts
            .get(part + 1)
            .map_or("", |(start, _)| &self.name[*start..])
    }

    /// The pattern, if numbers count blocks from the first of these parts to the last.
    fn pattern(&self, (first, last): (usize, usize)) -> Pattern<'a> {
        let ending = self.behind(last);
        Pattern {
            before: Some(self.component.unwrap_or(&self.name[..self.parts[first].0])),
            separator: if ending.is_empty() { "" } else { self.separator },
            ending,
            name: "",
        }
    }

    /// The pattern of the same component whose ending is the longest that this name has.
    fn longest_of(&self, patterns: &BTreeSet<Pattern<'a>>) -> Option<Pattern<'a>> {
        let component = self.component?;
        let fits = |pattern: &&Pattern<'a>| {
            pattern.before == Some(component)
                && !pattern.ending.is_empty()
                && self
                    .parts
                    .iter()
                    .any(|(start, _)| &self.name[*start..] == pattern.ending)
        };
        patterns
            .iter()
            .filter(fits)
            .max_by_key(|pattern| pattern.ending.len())
            .copied()
    }

    /// The pattern of a name by itself: its ending is what follows its last number that something follows.
    fn alone(&self) -> Pattern<'a> {
        let says = |ending: &&str| {
            ending
                .split(self.separator)
                .any(|part| !part.is_empty() && !is_index(part))
        };
        let ending = (0..self.parts.len())
            .filter(|&part| is_index(self.parts[part].1))
            .map(|part| self.behind(part))
            .rfind(says);
        Pattern {
            before: None,
            separator: "",
            ending: ending.unwrap_or(self.name),
            name: self.name,
        }
    }
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::layer_groups;

    #[derive(Deserialize)]
    struct Shared {
        cases: Vec<Case>,
    }

    #[derive(Deserialize)]
    struct Case {
        what: String,
        names: Vec<String>,
        groups: Vec<(String, usize)>,
    }

    /// The library's tests (`tests/unit/patterns.test.ts`) hold its rule against the same file.
    #[test]
    fn names_are_grouped_as_the_library_groups_them() {
        let shared: Shared = serde_json::from_str(include_str!("../../tests/patterns.json")).unwrap();
        for Case { what, names, groups } in shared.cases {
            let names: Vec<&str> = names.iter().map(String::as_str).collect();
            let found = layer_groups(&names);
            let mut members: Vec<usize> = found.iter().flat_map(|group| group.members.clone()).collect();
            members.sort_unstable();
            assert!(
                members.into_iter().eq(0..names.len()),
                "{what}: each name in one group"
            );
            let counted: Vec<(String, usize)> = found
                .into_iter()
                .map(|group| (group.pattern, group.members.len()))
                .collect();
            assert_eq!(counted, groups, "{what}");
        }
    }

    #[test]
    fn an_ending_is_what_follows_the_blocks() {
        let endings = |names: &[&str]| -> Vec<String> {
            layer_groups(names)
                .into_iter()
                .map(|group| group.ending)
                .collect()
        };
        assert_eq!(
            endings(&["unet.a.0.b.0.ff.net.2", "unet.a.1.b.0.ff.net.2"]),
            ["b.0.ff.net.2"]
        );
        assert_eq!(
            endings(&["model.layers.0.self_attn.q_proj"]),
            ["self_attn.q_proj"]
        );
        assert_eq!(endings(&["unet.a.0.ff.net.2"]), ["ff.net.2"]);
        assert_eq!(endings(&["classifier"]), ["classifier"]);
        assert_eq!(
            endings(&["encoder.layers.0", "7", ""]),
            ["encoder.layers.0", "7", ""]
        );
    }
}
