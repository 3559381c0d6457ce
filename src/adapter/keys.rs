//! What the names of an adapter file's tensors mean.
//!
//! PEFT has written `base_model.model.MODULE.lora_A.weight`, the same with the adapter's name after
//! `lora_A`, and both without the prefix. The thing that can go wrong is two spellings of one tensor
//! in one file; [`Key::of`] gives both the same meaning, so that the reader can see it.

/// Which of the two factors.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Side {
    A,
    B,
}

/// The meaning of a tensor's name.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Key {
    /// A factor of a module's update.
    Factor {
        module: String,
        side: Side,
        adapter: Option<String>,
    },
    /// Something of LoRA's family that is more than two factors, and what.
    Refused(&'static str),
    /// A module that was saved whole, spelled with its wrapper's name.
    Saved { name: String, adapter: Option<String> },
    /// Anything else, by its name in the base model.
    Other(String),
}

/// Modules whose weights are looked up by token or position.
const EMBEDDINGS: &[&str] = &[
    "embed_in",
    "embed_positions",
    "embed_tokens",
    "embedding",
    "embeddings",
    "position_embeddings",
    "shared",
    "tok_embeddings",
    "token_type_embeddings",
    "word_embeddings",
    "wpe",
    "wte",
];

impl Key {
    pub(super) fn of(name: &str) -> Self {
        let name = name.strip_prefix("base_model.model.").unwrap_or(name);
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
        let Some(at) = parts.iter().position(|part| part.starts_with("lora_")) else {
            return Self::Other(name.to_owned());
        };
        let (module, rest) = (&parts[..at], &parts[at + 1..]);
        let side = match parts[at] {
            "lora_A" => Side::A,
            "lora_B" => Side::B,
            "lora_embedding_A" | "lora_embedding_B" => return Self::Refused("an adapted embedding"),
            "lora_magnitude_vector" => return Self::Refused("a magnitude of DoRA"),
            _ => return Self::Refused("a part of a variant of LoRA"),
        };
        if module.is_empty() {
            return Self::Other(name.to_owned());
        }
        if module.contains(&"base_layer") {
            return Self::Refused("a parameter adapted by target_parameters");
        }
        let adapter = match rest {
            ["weight"] => None,
            [adapter, "weight"] => Some((*adapter).to_owned()),
            ["bias"] | [_, "bias"] => return Self::Refused("a bias of lora_B"),
            _ => return Self::Other(name.to_owned()),
        };
        Self::Factor {
            module: module.join("."),
            side,
            adapter,
        }
    }
}

fn join(module: &[&str], rest: &[&str]) -> String {
    module.iter().chain(rest).copied().collect::<Vec<_>>().join(".")
}

/// Whether a tensor belongs to a layer that is looked up and not multiplied.
pub(super) fn is_embedding(name: &str) -> bool {
    name.split('.').any(|part| EMBEDDINGS.contains(&part))
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
    use super::{Key, Side, is_embedding, is_saved};

    fn factor(module: &str, side: Side, adapter: Option<&str>) -> Key {
        Key::Factor {
            module: module.to_owned(),
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
    fn variants_of_lora_are_told_apart() {
        for (name, what) in [
            ("x.lora_embedding_A", "embedding"),
            ("x.lora_embedding_B.default", "embedding"),
            ("x.lora_magnitude_vector", "DoRA"),
            ("x.lora_magnitude_vector.default.weight", "DoRA"),
            ("x.lora_B.bias", "bias"),
            ("x.lora_B.default.bias", "bias"),
            ("x.lora_diag", "variant"),
            ("x.base_layer.lora_A.weight", "target_parameters"),
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

    #[test]
    fn embeddings_are_known_by_a_whole_part_of_their_name() {
        assert!(is_embedding("model.embed_tokens.weight"));
        assert!(is_embedding("bert.embeddings.LayerNorm.weight"));
        assert!(!is_embedding("embeddings_head.weight"));
    }
}
