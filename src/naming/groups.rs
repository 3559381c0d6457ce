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
    use super::layer_groups;

    /// Patterns with how many layers each has.
    fn patterns(names: &[String]) -> Vec<(String, usize)> {
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let groups = layer_groups(&names);
        let mut members: Vec<usize> = groups.iter().flat_map(|group| group.members.clone()).collect();
        members.sort_unstable();
        assert!(members.into_iter().eq(0..names.len()), "each name in one group");
        groups
            .into_iter()
            .map(|group| (group.pattern, group.members.len()))
            .collect()
    }

    #[track_caller]
    fn are(names: &[String], wanted: &[(&str, usize)]) {
        let wanted: Vec<(String, usize)> = wanted
            .iter()
            .map(|(pattern, count)| ((*pattern).to_owned(), *count))
            .collect();
        assert_eq!(patterns(names), wanted);
    }

    /// SDXL's transformers with their depth: two levels going down, the middle, two going up.
    fn sdxl(modules: &[&str]) -> Vec<String> {
        let mut names = Vec::new();
        for (level, depth) in [("down_blocks.1", 2), ("down_blocks.2", 10)] {
            for attention in 0..2 {
                names.extend(transformer(
                    &format!("{level}.attentions.{attention}"),
                    depth,
                    modules,
                ));
            }
        }
        names.extend(transformer("mid_block.attentions.0", 10, modules));
        for (level, depth) in [("up_blocks.0", 10), ("up_blocks.1", 2)] {
            for attention in 0..3 {
                names.extend(transformer(
                    &format!("{level}.attentions.{attention}"),
                    depth,
                    modules,
                ));
            }
        }
        names
    }

    fn transformer(at: &str, depth: usize, modules: &[&str]) -> Vec<String> {
        let mut names = vec![format!("unet.{at}.proj_in")];
        for block in 0..depth {
            names.extend(
                modules
                    .iter()
                    .map(|module| format!("unet.{at}.transformer_blocks.{block}.{module}")),
            );
        }
        names
    }

    const MODULES: [&str; 4] = ["attn1.to_q", "attn1.to_out.0", "ff.net.0.proj", "ff.net.2"];

    #[test]
    fn a_unets_layers_are_grouped_across_its_levels() {
        let wanted = [
            ("unet.*.proj_in", 11),
            ("unet.*.attn1.to_q", 70),
            ("unet.*.attn1.to_out.0", 70),
            ("unet.*.ff.net.0.proj", 70),
            ("unet.*.ff.net.2", 70),
        ];
        are(&sdxl(&MODULES), &wanted);
    }

    #[test]
    fn flattened_names_are_parted_at_their_underscores() {
        let flat: Vec<String> = sdxl(&MODULES)
            .iter()
            .map(|name| format!("lora_{}", name.replace('.', "_")))
            .chain((0..12).map(|layer| format!("lora_te1_text_model_encoder_layers_{layer}_mlp_fc1")))
            .collect();
        let wanted = [
            ("lora_unet_*_proj_in", 11),
            ("lora_unet_*_attn1_to_q", 70),
            ("lora_unet_*_attn1_to_out_0", 70),
            ("lora_unet_*_ff_net_0_proj", 70),
            ("lora_unet_*_ff_net_2", 70),
            ("lora_te1_*_mlp_fc1", 12),
        ];
        are(&flat, &wanted);
    }

    #[test]
    fn of_a_language_model_what_stands_before_the_number_stays() {
        let names: Vec<String> = (0..32)
            .flat_map(|layer| {
                ["self_attn.q_proj", "mlp.up_proj"].map(|end| format!("model.layers.{layer}.{end}"))
            })
            .chain(["lm_head".to_owned()])
            .collect();
        let wanted = [
            ("model.layers.*.self_attn.q_proj", 32),
            ("model.layers.*.mlp.up_proj", 32),
            ("lm_head", 1),
        ];
        are(&names, &wanted);
        let t5: Vec<String> = (0..3)
            .flat_map(|block| {
                [
                    "encoder.block.#.layer.0.SelfAttention.q",
                    "decoder.block.#.layer.0.SelfAttention.q",
                ]
                .map(|name| name.replace('#', &block.to_string()))
            })
            .collect();
        let wanted = [
            ("encoder.block.*.layer.0.SelfAttention.q", 3),
            ("decoder.block.*.layer.0.SelfAttention.q", 3),
        ];
        are(&t5, &wanted);
    }

    #[test]
    fn numbers_that_differ_last_are_the_pattern_of_their_list() {
        let names: Vec<String> = (0..4).map(|index| format!("encoder.layers.{index}")).collect();
        are(&names, &[("encoder.layers.*", 4)]);
    }

    #[test]
    fn components_are_kept_apart() {
        let names: Vec<String> = (0..2)
            .flat_map(|layer| {
                ["text_encoder", "text_encoder_2"]
                    .map(|component| format!("{component}.text_model.encoder.layers.{layer}.mlp.fc1"))
            })
            .collect();
        are(
            &names,
            &[("text_encoder.*.mlp.fc1", 2), ("text_encoder_2.*.mlp.fc1", 2)],
        );
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
