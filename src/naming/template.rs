//! The vocabulary of module names, for taking kohya's flattened names apart.
//!
//! kohya writes `down_blocks.0.attentions.1` as `down_blocks_0_attentions_1`, and names have underscores of their own,
//! so the way back needs to know the names there are. They are written here as templates, `#` being any number. The
//! templates of one family never clash (a test holds them to it), and a name that fits two families is told apart by
//! the rest of its file or refused.

use std::collections::HashMap;
use std::sync::LazyLock;

/// The models whose names are known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Family {
    /// A UNet under diffusers' names: Stable Diffusion 1, 2, XL.
    Unet,
    /// The same UNets under the names of the original code (LDM, SGM).
    Ldm,
    /// Flux.1 under Black Forest Labs' names.
    Flux,
    /// Stable Diffusion 3 under Stability's names.
    Mmdit,
    /// Flux.1 and Stable Diffusion 3 under diffusers' names.
    Transformer,
    /// Wan's video transformer under its own names.
    Wan,
    /// CLIP's text encoder.
    Clip,
    /// T5's encoder.
    T5,
}

/// Every family's names: `{a|b}` is either, `#` a number.
const FAMILIES: [(Family, &[&str]); 8] = [
    (
        Family::Unet,
        &[
            "{conv_in|conv_out|{time|add}_embedding.linear_{1|2}}",
            "{down_blocks.#|mid_block|up_blocks.#}.attentions.#.{proj_in|proj_out}",
            "{down_blocks.#|mid_block|up_blocks.#}.attentions.#.transformer_blocks.#.{attn1|attn2}.{to_q|to_k|to_v|to_out.0}",
            "{down_blocks.#|mid_block|up_blocks.#}.attentions.#.transformer_blocks.#.ff.net.{0.proj|2}",
            "{down_blocks.#|mid_block|up_blocks.#}.resnets.#.{conv1|conv2|conv_shortcut|time_emb_proj}",
            "{down_blocks.#.downsamplers|up_blocks.#.upsamplers}.0.conv",
        ],
    ),
    (
        Family::Ldm,
        &[
            "{time_embed|label_emb.0}.{0|2}",
            "{input_blocks.0.0|out.2}",
            "{input_blocks.#.1|middle_block.1|output_blocks.#.1}.{proj_in|proj_out}",
            "{input_blocks.#.1|middle_block.1|output_blocks.#.1}.transformer_blocks.#.{attn1|attn2}.{to_q|to_k|to_v|to_out.0}",
            "{input_blocks.#.1|middle_block.1|output_blocks.#.1}.transformer_blocks.#.ff.net.{0.proj|2}",
            "{input_blocks.#.0|middle_block.0|middle_block.2|output_blocks.#.0}.{in_layers.2|out_layers.3|emb_layers.1|skip_connection}",
            "{input_blocks.#.0.op|output_blocks.#.{1|2}.conv}",
        ],
    ),
    (
        Family::Flux,
        &[
            "double_blocks.#.{img|txt}_{attn.{qkv|proj}|mlp.{0|2}|mod.lin}",
            "single_blocks.#.{linear1|linear2|modulation.lin}",
            "{img_in|txt_in|{time|vector|guidance}_in.{in|out}_layer}",
            "final_layer.{linear|adaLN_modulation.1}",
        ],
    ),
    (
        Family::Mmdit,
        &[
            "joint_blocks.#.{x_block|context_block}.{attn.{qkv|proj}|mlp.{fc1|fc2}|adaLN_modulation.1}",
            "joint_blocks.#.x_block.attn2.{qkv|proj}",
            "{x_embedder.proj|context_embedder|{t|y}_embedder.mlp.{0|2}}",
            "final_layer.{linear|adaLN_modulation.1}",
        ],
    ),
    (
        Family::Transformer,
        &[
            "transformer_blocks.#.attn.{to_q|to_k|to_v|to_out.0|add_q_proj|add_k_proj|add_v_proj|to_add_out}",
            "transformer_blocks.#.attn2.{to_q|to_k|to_v|to_out.0}",
            "transformer_blocks.#.{ff|ff_context}.net.{0.proj|2}",
            "transformer_blocks.#.{norm1|norm1_context}.linear",
            "single_transformer_blocks.#.{attn.{to_q|to_k|to_v}|proj_mlp|proj_out|norm.linear}",
            "{x_embedder|context_embedder|proj_out|norm_out.linear|pos_embed.proj}",
            "time_text_embed.{timestep|text|guidance}_embedder.linear_{1|2}",
        ],
    ),
    (
        Family::Wan,
        &[
            "blocks.#.{self_attn|cross_attn}.{q|k|v|o}",
            "blocks.#.cross_attn.{k_img|v_img}",
            "blocks.#.ffn.{0|2}",
            "{text_embedding.{0|2}|time_embedding.{0|2}|time_projection.1|head.head|patch_embedding}",
        ],
    ),
    (
        Family::Clip,
        &[
            "text_model.encoder.layers.#.{self_attn.{q_proj|k_proj|v_proj|out_proj}|mlp.{fc1|fc2}}",
            "text_projection",
        ],
    ),
    (
        Family::T5,
        &[
            "encoder.block.#.layer.0.SelfAttention.{q|k|v|o}",
            "encoder.block.#.layer.1.DenseReluDense.{wi|wi_0|wi_1|wo}",
        ],
    ),
];

/// A template, by its parts between underscores.
struct Template {
    family: Family,
    /// The dotted name with `#` for its numbers.
    path: String,
    /// What stands at each number of the flattened name: a fixed one, or any.
    numbers: Vec<Option<String>>,
}

/// Templates by their flattened names with every number replaced by `#`.
static TEMPLATES: LazyLock<HashMap<String, Vec<Template>>> = LazyLock::new(|| {
    let mut templates: HashMap<String, Vec<Template>> = HashMap::new();
    for (family, patterns) in FAMILIES {
        for path in patterns.iter().flat_map(|pattern| expand(pattern)) {
            let flat = path.replace('.', "_");
            let (shape, numbers) = shape(&flat);
            let numbers = numbers
                .into_iter()
                .map(|number| (number != "#").then(|| number.to_owned()))
                .collect();
            templates.entry(shape).or_default().push(Template {
                family,
                path,
                numbers,
            });
        }
    }
    templates
});

/// The dotted names that a flattened one can stand for, with their families; of a known model there is one.
pub(crate) fn unflatten(flat: &str) -> Vec<(Family, String)> {
    if flat.contains('#') {
        return Vec::new();
    }
    let (shape, numbers) = shape(flat);
    let Some(templates) = TEMPLATES.get(&shape) else {
        return Vec::new();
    };
    templates
        .iter()
        .filter_map(|template| Some((template.family, template.fill(&numbers)?)))
        .collect()
}

/// The families that have a module of this dotted name.
pub(crate) fn families(path: &str) -> Vec<Family> {
    unflatten(&path.replace('.', "_"))
        .into_iter()
        .filter(|(_, known)| known == path)
        .map(|(family, _)| family)
        .collect()
}

impl Template {
    /// The name with these numbers, if they are not others than the template's own.
    fn fill(&self, numbers: &[&str]) -> Option<String> {
        let mut path = self.path.clone();
        for (fixed, number) in self.numbers.iter().zip(numbers) {
            match fixed {
                Some(fixed) if fixed == number => {}
                Some(_) => return None,
                None => path = path.replacen('#', number, 1),
            }
        }
        Some(path)
    }
}

/// A flattened name with its numbers taken out, and the numbers. A `#` counts as one, a number with a
/// leading zero does not: no module is named so.
fn shape(flat: &str) -> (String, Vec<&str>) {
    let mut numbers = Vec::new();
    let words: Vec<&str> = flat
        .split('_')
        .map(|word| {
            if word == "#" || is_index(word) {
                numbers.push(word);
                "#"
            } else {
                word
            }
        })
        .collect();
    (words.join("_"), numbers)
}

/// Whether a part of a name is the index of a block.
pub(super) fn is_index(word: &str) -> bool {
    word == "0"
        || (word.bytes().all(|byte| byte.is_ascii_digit()) && !word.is_empty() && !word.starts_with('0'))
}

/// The strings that a pattern stands for.
fn expand(pattern: &str) -> Vec<String> {
    let Some(open) = pattern.find('{') else {
        return vec![pattern.to_owned()];
    };
    let mut depth = 0_usize;
    let mut cuts = vec![open];
    for (at, byte) in pattern.bytes().enumerate().skip(open) {
        match byte {
            b'{' => depth += 1,
            b'}' => depth -= 1,
            b'|' if depth == 1 => cuts.push(at),
            _ => {}
        }
        if depth == 0 {
            cuts.push(at);
            break;
        }
    }
    let close = cuts.last().copied().unwrap_or(open);
    cuts.windows(2)
        .map(|ends| {
            format!(
                "{}{}{}",
                &pattern[..open],
                &pattern[ends[0] + 1..ends[1]],
                &pattern[close + 1..]
            )
        })
        .flat_map(|longer| expand(&longer))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::{FAMILIES, expand, families, unflatten};

    #[test]
    fn a_pattern_stands_for_each_of_its_alternatives() {
        assert_eq!(expand("a.{b|c_{d|e}}.#"), ["a.b.#", "a.c_d.#", "a.c_e.#"]);
        assert_eq!(expand("plain"), ["plain"]);
    }

    #[test]
    fn within_a_family_every_name_comes_back_from_its_flattened_form_alone() {
        for (family, patterns) in FAMILIES {
            for path in patterns.iter().flat_map(|pattern| expand(pattern)) {
                for number in ["0", "7", "31"] {
                    let path = path.replace('#', number);
                    let found = unflatten(&path.replace('.', "_"));
                    let of_family: Vec<&String> = found
                        .iter()
                        .filter(|(known, _)| *known == family)
                        .map(|(_, path)| path)
                        .collect();
                    assert_eq!(of_family, [&path], "{family:?}");
                }
            }
        }
    }

    #[test]
    fn numbers_that_a_name_fixes_are_held_to() {
        assert!(unflatten("down_blocks_0_downsamplers_1_conv").is_empty());
        assert!(unflatten("time_embed_1").is_empty());
        assert!(unflatten("down_blocks_00_resnets_0_conv1").is_empty());
        assert!(unflatten("").is_empty());
        assert!(unflatten("#").is_empty());
    }

    #[test]
    fn families_share_no_name_but_those_of_the_diffusion_transformers() {
        for (family, patterns) in FAMILIES {
            for path in patterns.iter().flat_map(|pattern| expand(pattern)) {
                let found = families(&path.replace('#', "3"));
                let shared = path.starts_with("final_layer") || path == "context_embedder";
                assert_eq!(found.len(), if shared { 2 } else { 1 }, "{path}");
                assert!(found.contains(&family), "{path}");
            }
        }
    }
}
