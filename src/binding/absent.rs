//! What to say of a layer that an adapter has and the base model does not.

use crate::model::Module;

/// Layers that some checkpoints of a model have in one, and others apart.
const FUSED: &[(&str, &[&str])] = &[
    ("qkv_proj", &["q_proj", "k_proj", "v_proj"]),
    ("gate_up_proj", &["gate_proj", "up_proj"]),
];

/// What a base with `modules` has instead of the layer `name` (in the family's naming), which is not one of
/// them.
pub(super) fn instead(modules: &[Module], name: &str) -> String {
    let (parent, leaf) = name.rsplit_once('.').unwrap_or(("", name));
    if leaf == "lm_head" || leaf == "embed_out" {
        return "this is the head, which a merge leaves as it is; train the adapter without it".into();
    }
    let siblings: Vec<&str> = modules
        .iter()
        .filter_map(|module| match module.name.rsplit_once('.') {
            Some((other, leaf)) => (other == parent).then_some(leaf),
            None => parent.is_empty().then_some(module.name.as_str()),
        })
        .collect();
    for (fused, parts) in FUSED {
        if parts.contains(&leaf) && siblings.contains(fused) {
            return format!(
                "the base has this in one layer with others, {fused} ({}); the adapter was trained on the form of the model that has them apart, so merge it on that, or train it on this one",
                parts.join(", ")
            );
        }
        if leaf == *fused && parts.iter().all(|part| siblings.contains(part)) {
            return format!(
                "the base has this as layers of their own ({}); the adapter was trained on the form of the model that has them in one, so merge it on that, or train it on this one",
                parts.join(", ")
            );
        }
    }
    if !siblings.is_empty() {
        return format!(
            "the base has no such linear layer, but beside it {}",
            siblings.join(", ")
        );
    }
    match alike(modules, name) {
        0 => "the base has no such linear layer".into(),
        count => format!("the base has only {count} layers of that kind, counted from 0"),
    }
}

/// How many modules have that name but for its first number.
fn alike(modules: &[Module], name: &str) -> usize {
    let around = |name: &str| -> Option<(String, String)> {
        let mut parts = name.split('.');
        let before: Vec<&str> = parts
            .by_ref()
            .take_while(|part| part.parse::<usize>().is_err())
            .collect();
        let after: Vec<&str> = parts.collect();
        (!after.is_empty()).then(|| (before.join("."), after.join(".")))
    };
    let Some(wanted) = around(name) else { return 0 };
    modules
        .iter()
        .filter(|module| around(&module.name).as_ref() == Some(&wanted))
        .count()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn base(layers: &[&str]) -> Vec<Module> {
        let module = |block: usize, layer: &str| Module {
            name: format!("layers.{block}.{layer}"),
            key: format!("model.layers.{block}.{layer}.weight"),
            d_out: 1,
            d_in: 1,
            block,
            transposed: false,
        };
        (0..2)
            .flat_map(|block| layers.iter().map(move |layer| module(block, layer)))
            .collect()
    }

    #[test]
    fn the_other_form_of_a_layer_is_named() {
        let fused = base(&["self_attn.qkv_proj", "self_attn.o_proj", "mlp.gate_up_proj"]);
        let apart = base(&[
            "self_attn.q_proj",
            "self_attn.k_proj",
            "self_attn.v_proj",
            "self_attn.o_proj",
            "mlp.gate_proj",
            "mlp.up_proj",
        ]);
        for (modules, name, said) in [
            (
                &fused,
                "layers.1.self_attn.q_proj",
                "in one layer with others, qkv_proj",
            ),
            (
                &fused,
                "layers.0.mlp.up_proj",
                "gate_up_proj (gate_proj, up_proj)",
            ),
            (
                &apart,
                "layers.0.self_attn.qkv_proj",
                "of their own (q_proj, k_proj, v_proj)",
            ),
            (
                &apart,
                "layers.0.mlp.gate_up_proj",
                "of their own (gate_proj, up_proj)",
            ),
            (&apart, "layers.0.mlp.fc1", "beside it gate_proj, up_proj"),
            (&apart, "layers.2.mlp.up_proj", "only 2 layers of that kind"),
            (&apart, "h.0.attn.c_attn", "no such linear layer"),
            (&apart, "lm_head", "this is the head"),
        ] {
            let found = instead(modules, name);
            assert!(found.contains(said), "{name}: {found}");
        }
    }
}
