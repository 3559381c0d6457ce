//! What a model family calls its modules, in each of the ways that its checkpoints and adapters spell them.
//!
//! A family has one name of its own for every module. In files the name may carry the prefix of the class around the
//! model (`bert.`, `model.`), and releases of transformers may spell parts of it differently.

use std::borrow::Cow;

/// The names of one family.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FamilyNames {
    /// What may stand before a name, in the order in which it is taken off; the first that fits is.
    pub prefixes: &'static [&'static str],
    /// Other spellings: the family's own name of a module (or of the modules under it) and the other one. A `*` is a
    /// layer's number.
    pub spellings: &'static [(&'static str, &'static str)],
}

impl FamilyNames {
    /// Names that differ by a prefix alone.
    pub const fn prefixed(prefixes: &'static [&'static str]) -> Self {
        Self {
            prefixes,
            spellings: &[],
        }
    }

    /// The family's own name of a module or tensor.
    pub fn canonical<'a>(&self, path: &'a str) -> Cow<'a, str> {
        let bare = &path[self.prefix_of(path).len()..];
        let own = self
            .spellings
            .iter()
            .find_map(|(own, other)| respelled(bare, other, own));
        own.map_or(Cow::Borrowed(bare), Cow::Owned)
    }

    /// The prefix that a path carries.
    pub fn prefix_of(&self, path: &str) -> &'static str {
        let mut prefixes = self.prefixes.iter().copied();
        prefixes.find(|prefix| path.starts_with(prefix)).unwrap_or("")
    }

    /// The module `canonical` without a prefix, spelled as the path `like` is.
    pub fn spelled_like(&self, canonical: &str, like: &str) -> String {
        let bare = &like[self.prefix_of(like).len()..];
        if !self
            .spellings
            .iter()
            .any(|(own, other)| respelled(bare, other, own).is_some())
        {
            return canonical.to_owned();
        }
        self.other_spelling(canonical)
    }

    /// The module `canonical` in the family's other spelling.
    pub fn other_spelling(&self, canonical: &str) -> String {
        self.spellings
            .iter()
            .find_map(|(own, other)| respelled(canonical, own, other))
            .unwrap_or_else(|| canonical.to_owned())
    }
}

/// `path` with its beginning, which `from` fits, spelled as `to`; none if it does not fit.
fn respelled(path: &str, from: &str, to: &str) -> Option<String> {
    let mut numbers = Vec::new();
    let mut parts = path.split('.');
    for wanted in from.split('.') {
        let part = parts.next()?;
        if wanted == "*" {
            if part.is_empty() || !part.bytes().all(|byte| byte.is_ascii_digit()) {
                return None;
            }
            numbers.push(part);
        } else if part != wanted {
            return None;
        }
    }
    let mut numbers = numbers.into_iter();
    let spelled = to.split('.').map(|part| match part {
        "*" => numbers.next().unwrap_or(part),
        part => part,
    });
    Some(spelled.chain(parts).collect::<Vec<_>>().join("."))
}

#[cfg(test)]
mod tests {
    use super::FamilyNames;

    const NAMES: FamilyNames = FamilyNames {
        prefixes: &["vit.", ""],
        spellings: &[
            (
                "layers.*.attention.q_proj",
                "encoder.layer.*.attention.attention.query",
            ),
            ("layers.*.layernorm_before", "encoder.layer.*.layernorm_before"),
        ],
    };

    #[test]
    fn every_spelling_leads_to_the_familys_own() {
        for path in [
            "vit.encoder.layer.11.attention.attention.query.weight",
            "encoder.layer.11.attention.attention.query.weight",
            "vit.layers.11.attention.q_proj.weight",
        ] {
            assert_eq!(NAMES.canonical(path), "layers.11.attention.q_proj.weight");
        }
        for path in [
            "encoder.layer.x.attention.attention.query",
            "layers.1",
            "classifier.weight",
        ] {
            assert_eq!(NAMES.canonical(path), path);
        }
    }

    #[test]
    fn a_module_is_spelled_as_another_path_is() {
        let own = "layers.2.layernorm_before";
        let like = "vit.encoder.layer.0.attention.attention.query";
        assert_eq!(NAMES.spelled_like(own, like), "encoder.layer.2.layernorm_before");
        assert_eq!(NAMES.spelled_like(own, "vit.layers.0.attention.q_proj"), own);
        assert_eq!(NAMES.spelled_like("classifier", like), "classifier");
    }
}
