//! What a module's name says of its part in a model: a table that is looked up, a norm, a head.

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

/// Other modules that are a base model's and no task's.
const BASES_OWN: &[&str] = &[
    "embed_out",
    "final_layer_norm",
    "final_layernorm",
    "final_norm",
    "layer_norm",
    "LayerNorm",
    "ln_f",
    "lm_head",
    "norm",
];

/// Whether a tensor belongs to a layer that is looked up and not multiplied.
pub fn is_embedding(name: &str) -> bool {
    name.split('.').any(|part| EMBEDDINGS.contains(&part))
}

/// Whether a tensor's name says that it is a base model's own and no task's head.
pub fn is_bases_own(name: &str) -> bool {
    is_embedding(name) || name.split('.').any(|part| BASES_OWN.contains(&part))
}

#[cfg(test)]
mod tests {
    use super::{is_bases_own, is_embedding};

    #[test]
    fn embeddings_are_known_by_a_whole_part_of_their_name() {
        assert!(is_embedding("model.embed_tokens.weight"));
        assert!(is_embedding("bert.embeddings.LayerNorm.weight"));
        assert!(!is_embedding("embeddings_head.weight"));
        assert!(is_bases_own("model.norm.weight") && is_bases_own("lm_head.weight"));
        assert!(!is_bases_own("classifier.dense.weight"));
    }
}
