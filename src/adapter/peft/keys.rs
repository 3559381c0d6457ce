//! What the names of an adapter file's tensors mean.
//!
//! PEFT has written `base_model.model.MODULE.lora_A.weight`, the same with the adapter's name after
//! `lora_A`, and both without the prefix. Two spellings of one tensor in one file get the same meaning from
//! [`Key::of`], so that the reader sees that there are two.

use crate::naming::path::unwrapped;

/// Which tensor of a module's update.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Side {
    /// `lora_A`
    A,
    /// `lora_B`
    B,
    /// `lora_embedding_A`
    EmbeddingA,
    /// `lora_embedding_B`
    EmbeddingB,
    /// `lora_magnitude_vector`
    Magnitude,
    /// The bias of `lora_B`.
    Bias,
}

/// The meaning of a tensor's name.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Key {
    /// A tensor of a module's update.
    Factor {
        module: String,
        /// How many wrappers of adapted parameters lie around the one that this is for.
        depth: usize,
        side: Side,
        adapter: Option<String>,
    },
    /// Rows of the embedding table `module` that were trained one by one.
    Tokens { module: String, adapter: Option<String> },
    /// Something of LoRA's family that is more than is read here, and what.
    Refused(&'static str),
    /// A module that was saved whole, spelled with its wrapper's name.
    Saved { name: String, adapter: Option<String> },
    /// The base's own tensor of an adapted module, by its name in the base model.
    Frozen(String),
    /// The base's own tensor of a module that was saved whole, by its name in the base model.
    Original(String),
    /// Anything else, by its name in the base model.
    Other(String),
}

impl Key {
    pub(super) fn of(name: &str) -> Self {
        let name = unwrapped(name);
        let name = name.as_ref();
        let parts: Vec<&str> = name.split('.').collect();
        if let Some(at) = parts.iter().position(|part| *part == "modules_to_save") {
            let (module, rest) = (&parts[..at], &parts[at + 1..]);
            return match rest {
                [] => Self::Other(name.to_owned()),
                [parameter] => Self::Saved {
                    name: join(module, &[parameter]),
                    adapter: None,
                },
                [adapter, rest @ ..] => Self::Saved {
                    name: join(module, rest),
                    adapter: Some((*adapter).to_owned()),
                },
            };
        }
        if let Some(at) = parts.iter().position(|part| *part == "token_adapter") {
            let module = parts[..at].join(".");
            return match &parts[at + 1..] {
                ["trainable_tokens_delta"] => Self::Tokens {
                    module,
                    adapter: None,
                },
                ["trainable_tokens_delta", adapter] => Self::Tokens {
                    module,
                    adapter: Some((*adapter).to_owned()),
                },
                _ => Self::Other(name.to_owned()),
            };
        }
        match parts.iter().position(|part| part.starts_with("lora_")) {
            Some(at) => Self::factor(name, &parts, at),
            None => Self::without_factor(name, &parts),
        }
    }

    fn factor(name: &str, parts: &[&str], at: usize) -> Self {
        let (module, rest) = (&parts[..at], &parts[at + 1..]);
        let depth = module
            .iter()
            .rev()
            .take_while(|part| **part == "base_layer")
            .count();
        let module = &module[..at - depth];
        if module.is_empty() {
            return Self::Other(name.to_owned());
        }
        if module.contains(&"base_layer") {
            return Self::Refused(
                "a projection of PyTorch's MultiheadAttention, whose weights are in one tensor",
            );
        }
        let (rest, weight) = match rest {
            [rest @ .., "weight"] => (rest, true),
            rest => (rest, false),
        };
        let (rest, bias) = match rest {
            [rest @ .., "bias"] => (rest, true),
            rest => (rest, false),
        };
        let side = match (parts[at], weight, bias) {
            ("lora_A", true, false) => Side::A,
            ("lora_B", true, false) => Side::B,
            ("lora_B", false, true) => Side::Bias,
            ("lora_embedding_A", false, false) => Side::EmbeddingA,
            ("lora_embedding_B", false, false) => Side::EmbeddingB,
            ("lora_magnitude_vector", _, false) => Side::Magnitude,
            ("lora_A" | "lora_B" | "lora_embedding_A" | "lora_embedding_B" | "lora_magnitude_vector", ..) => {
                return Self::Other(name.to_owned());
            }
            _ => return Self::Refused("a part of a variant of LoRA"),
        };
        let adapter = match rest {
            [] => None,
            [adapter] => Some((*adapter).to_owned()),
            _ => return Self::Other(name.to_owned()),
        };
        Self::Factor {
            module: module.join("."),
            depth,
            side,
            adapter,
        }
    }

    fn without_factor(name: &str, parts: &[&str]) -> Self {
        for (wrapper, of) in [
            ("base_layer", Self::Frozen as fn(String) -> Self),
            ("original_module", Self::Original),
        ] {
            if let Some(at) = parts.iter().position(|part| *part == wrapper) {
                let rest: Vec<&str> = parts[at + 1..]
                    .iter()
                    .copied()
                    .filter(|part| *part != wrapper)
                    .collect();
                return of(join(&parts[..at], &rest));
            }
        }
        Self::Other(name.to_owned())
    }
}

fn join(module: &[&str], rest: &[&str]) -> String {
    module.iter().chain(rest).copied().collect::<Vec<_>>().join(".")
}

/// Whether a tensor is of a module that PEFT saves whole: one whose path ends in a saved name.
pub(super) fn is_saved(name: &str, saved: &[&str]) -> bool {
    name.match_indices('.').any(|(at, _)| {
        saved
            .iter()
            .any(|module| !module.is_empty() && name[..at].ends_with(module))
    })
}

#[cfg(test)]
mod tests {
    use super::{Key, Side, is_saved};

    fn factor(module: &str, side: Side, adapter: Option<&str>) -> Key {
        Key::Factor {
            module: module.to_owned(),
            depth: 0,
            side,
            adapter: adapter.map(str::to_owned),
        }
    }

    #[test]
    fn every_spelling_of_a_factor_means_the_same_module() {
        assert_eq!(
            Key::of("base_model.model.bert.query.lora_A.weight"),
            factor("bert.query", Side::A, None)
        );
        assert_eq!(
            Key::of("base_model.model.bert.query.lora_B.default.weight"),
            factor("bert.query", Side::B, Some("default"))
        );
        assert_eq!(
            Key::of("bert.query.lora_A.weight"),
            factor("bert.query", Side::A, None)
        );
        assert_eq!(
            Key::of("base_model.model.model.layers.0.q_proj.lora_A.weight"),
            factor("model.layers.0.q_proj", Side::A, None)
        );
    }

    #[test]
    fn every_part_of_an_update_is_told_apart() {
        for (name, module, depth, side, adapter) in [
            ("e.lora_embedding_A", "e", 0, Side::EmbeddingA, None),
            (
                "e.lora_embedding_B.default",
                "e",
                0,
                Side::EmbeddingB,
                Some("default"),
            ),
            ("x.lora_magnitude_vector", "x", 0, Side::Magnitude, None),
            (
                "x.lora_magnitude_vector.default",
                "x",
                0,
                Side::Magnitude,
                Some("default"),
            ),
            (
                "x.lora_magnitude_vector.default.weight",
                "x",
                0,
                Side::Magnitude,
                Some("default"),
            ),
            ("x.lora_B.bias", "x", 0, Side::Bias, None),
            ("x.lora_B.default.bias", "x", 0, Side::Bias, Some("default")),
            ("x.base_layer.lora_A.weight", "x", 1, Side::A, None),
            (
                "x.base_layer.base_layer.lora_B.mine.weight",
                "x",
                2,
                Side::B,
                Some("mine"),
            ),
        ] {
            let wanted = Key::Factor {
                module: module.to_owned(),
                depth,
                side,
                adapter: adapter.map(str::to_owned),
            };
            assert_eq!(Key::of(name), wanted, "{name}");
        }
        let tokens = |adapter: Option<&str>| Key::Tokens {
            module: String::from("model.embed_tokens"),
            adapter: adapter.map(str::to_owned),
        };
        let name = "base_model.model.model.embed_tokens.token_adapter.trainable_tokens_delta";
        assert_eq!(Key::of(name), tokens(None));
        assert_eq!(Key::of(&format!("{name}.default")), tokens(Some("default")));
        assert_eq!(Key::of("x.base_layer.bias"), Key::Frozen(String::from("x.bias")));
        assert_eq!(
            Key::of("classifier.original_module.bias"),
            Key::Original(String::from("classifier.bias"))
        );
    }

    #[test]
    fn variants_of_lora_are_refused() {
        for (name, what) in [
            ("x.lora_diag", "variant"),
            ("x.base_layer.out_proj.lora_A.weight", "MultiheadAttention"),
        ] {
            assert!(
                matches!(Key::of(name), Key::Refused(reason) if reason.contains(what)),
                "{name}"
            );
        }
    }

    #[test]
    fn what_only_resembles_a_factor_is_not_one() {
        for name in [
            "lora_A.weight",
            "x.lora_A",
            "x.lora_A.a.b.weight",
            "x.lora_A.bias",
            "x.lora_embedding_A.weight",
            "base_layer.lora_A.weight",
            "x.token_adapter.base_layer.weight",
            "x.weight",
            "modules_to_save",
            "",
        ] {
            assert!(matches!(Key::of(name), Key::Other(_)), "{name}");
        }
    }

    #[test]
    fn wrappers_of_saved_modules_are_taken_off() {
        let saved = |name: &str, adapter: Option<&str>| Key::Saved {
            name: name.to_owned(),
            adapter: adapter.map(str::to_owned),
        };
        assert_eq!(
            Key::of("base_model.model.classifier.modules_to_save.default.dense.weight"),
            saved("classifier.dense.weight", Some("default"))
        );
        assert_eq!(
            Key::of("classifier.modules_to_save.bias"),
            saved("classifier.bias", None)
        );
    }

    #[test]
    fn a_saved_module_is_found_by_the_end_of_its_path() {
        assert!(is_saved("classifier.weight", &["classifier"]));
        assert!(is_saved("classifier.out_proj.weight", &["classifier"]));
        assert!(is_saved("bert.pooler.dense.weight", &["score", "pooler.dense"]));
        assert!(!is_saved(
            "bert.pooler.dense.weight",
            &["classifier", "weight", ""]
        ));
    }
}
