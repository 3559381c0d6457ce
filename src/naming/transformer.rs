//! One diffusion transformer, two sets of names: its authors' and diffusers', for Flux.1 and Stable Diffusion 3.
//!
//! The authors fuse layers that diffusers keeps apart: one `qkv` for three projections. The thing that can go
//! wrong is the order of rows: some layers' two halves (scale and shift) are swapped, and Flux.1's single
//! blocks fuse layers of different widths. [`Rows`] says which rows of the original go where.

use std::ops::Range;

use crate::naming::template::{Family, is_index};

/// Which rows of an original layer's weight are which diffusers layer's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rows {
    /// All of them, in order.
    Whole,
    /// All of them, the second half first.
    Swapped,
    /// As [`Rows::Swapped`] if there are twice as many rows as columns, else as [`Rows::Whole`]: the last block
    /// of Stable Diffusion 3 has no gate.
    SwappedIfTwo,
    /// Three equal parts.
    Thirds,
    /// Flux.1's `linear1`: query, key and value of as many rows as there are columns, and the rest.
    AndRest,
}

impl Rows {
    /// The row ranges of the parts of a layer with `d_out` rows and `d_in` columns, in order; none if the
    /// layer cannot be taken apart so.
    pub fn ranges(self, d_out: usize, d_in: usize) -> Option<Vec<Range<usize>>> {
        match self {
            Self::Whole | Self::Swapped | Self::SwappedIfTwo => Some(std::iter::once(0..d_out).collect()),
            Self::Thirds if d_out.is_multiple_of(3) => {
                let third = d_out / 3;
                Some((0..3).map(|part| part * third..(part + 1) * third).collect())
            }
            Self::AndRest => {
                let three = d_in.checked_mul(3).filter(|&three| three < d_out)?;
                let mut ranges: Vec<Range<usize>> =
                    (0..3).map(|part| part * d_in..(part + 1) * d_in).collect();
                ranges.push(three..d_out);
                Some(ranges)
            }
            Self::Thirds => None,
        }
    }

    /// Whether the two halves of such a layer change places between the two sets of names.
    pub fn swaps(self, d_out: usize, d_in: usize) -> bool {
        match self {
            Self::Swapped => d_out.is_multiple_of(2),
            Self::SwappedIfTwo => d_out == 2 * d_in,
            _ => false,
        }
    }
}

/// An original layer and the diffusers layers its rows are of, `#` being any number.
struct Layer {
    original: &'static str,
    names: &'static [&'static str],
    rows: Rows,
}

const fn layer(original: &'static str, names: &'static [&'static str], rows: Rows) -> Layer {
    Layer {
        original,
        names,
        rows,
    }
}

const FLUX: &[Layer] = &[
    layer(
        "double_blocks.#.img_attn.qkv",
        &[
            "transformer_blocks.#.attn.to_q",
            "transformer_blocks.#.attn.to_k",
            "transformer_blocks.#.attn.to_v",
        ],
        Rows::Thirds,
    ),
    layer(
        "double_blocks.#.txt_attn.qkv",
        &[
            "transformer_blocks.#.attn.add_q_proj",
            "transformer_blocks.#.attn.add_k_proj",
            "transformer_blocks.#.attn.add_v_proj",
        ],
        Rows::Thirds,
    ),
    layer(
        "double_blocks.#.img_attn.proj",
        &["transformer_blocks.#.attn.to_out.0"],
        Rows::Whole,
    ),
    layer(
        "double_blocks.#.txt_attn.proj",
        &["transformer_blocks.#.attn.to_add_out"],
        Rows::Whole,
    ),
    layer(
        "double_blocks.#.img_mlp.0",
        &["transformer_blocks.#.ff.net.0.proj"],
        Rows::Whole,
    ),
    layer(
        "double_blocks.#.img_mlp.2",
        &["transformer_blocks.#.ff.net.2"],
        Rows::Whole,
    ),
    layer(
        "double_blocks.#.txt_mlp.0",
        &["transformer_blocks.#.ff_context.net.0.proj"],
        Rows::Whole,
    ),
    layer(
        "double_blocks.#.txt_mlp.2",
        &["transformer_blocks.#.ff_context.net.2"],
        Rows::Whole,
    ),
    layer(
        "double_blocks.#.img_mod.lin",
        &["transformer_blocks.#.norm1.linear"],
        Rows::Whole,
    ),
    layer(
        "double_blocks.#.txt_mod.lin",
        &["transformer_blocks.#.norm1_context.linear"],
        Rows::Whole,
    ),
    layer(
        "single_blocks.#.linear1",
        &[
            "single_transformer_blocks.#.attn.to_q",
            "single_transformer_blocks.#.attn.to_k",
            "single_transformer_blocks.#.attn.to_v",
            "single_transformer_blocks.#.proj_mlp",
        ],
        Rows::AndRest,
    ),
    layer(
        "single_blocks.#.linear2",
        &["single_transformer_blocks.#.proj_out"],
        Rows::Whole,
    ),
    layer(
        "single_blocks.#.modulation.lin",
        &["single_transformer_blocks.#.norm.linear"],
        Rows::Whole,
    ),
    layer("img_in", &["x_embedder"], Rows::Whole),
    layer("txt_in", &["context_embedder"], Rows::Whole),
    layer(
        "time_in.in_layer",
        &["time_text_embed.timestep_embedder.linear_1"],
        Rows::Whole,
    ),
    layer(
        "time_in.out_layer",
        &["time_text_embed.timestep_embedder.linear_2"],
        Rows::Whole,
    ),
    layer(
        "vector_in.in_layer",
        &["time_text_embed.text_embedder.linear_1"],
        Rows::Whole,
    ),
    layer(
        "vector_in.out_layer",
        &["time_text_embed.text_embedder.linear_2"],
        Rows::Whole,
    ),
    layer(
        "guidance_in.in_layer",
        &["time_text_embed.guidance_embedder.linear_1"],
        Rows::Whole,
    ),
    layer(
        "guidance_in.out_layer",
        &["time_text_embed.guidance_embedder.linear_2"],
        Rows::Whole,
    ),
    layer("final_layer.linear", &["proj_out"], Rows::Whole),
    layer(
        "final_layer.adaLN_modulation.1",
        &["norm_out.linear"],
        Rows::Swapped,
    ),
];

const MMDIT: &[Layer] = &[
    layer(
        "joint_blocks.#.x_block.attn.qkv",
        &[
            "transformer_blocks.#.attn.to_q",
            "transformer_blocks.#.attn.to_k",
            "transformer_blocks.#.attn.to_v",
        ],
        Rows::Thirds,
    ),
    layer(
        "joint_blocks.#.context_block.attn.qkv",
        &[
            "transformer_blocks.#.attn.add_q_proj",
            "transformer_blocks.#.attn.add_k_proj",
            "transformer_blocks.#.attn.add_v_proj",
        ],
        Rows::Thirds,
    ),
    layer(
        "joint_blocks.#.x_block.attn2.qkv",
        &[
            "transformer_blocks.#.attn2.to_q",
            "transformer_blocks.#.attn2.to_k",
            "transformer_blocks.#.attn2.to_v",
        ],
        Rows::Thirds,
    ),
    layer(
        "joint_blocks.#.x_block.attn.proj",
        &["transformer_blocks.#.attn.to_out.0"],
        Rows::Whole,
    ),
    layer(
        "joint_blocks.#.x_block.attn2.proj",
        &["transformer_blocks.#.attn2.to_out.0"],
        Rows::Whole,
    ),
    layer(
        "joint_blocks.#.context_block.attn.proj",
        &["transformer_blocks.#.attn.to_add_out"],
        Rows::Whole,
    ),
    layer(
        "joint_blocks.#.x_block.mlp.fc1",
        &["transformer_blocks.#.ff.net.0.proj"],
        Rows::Whole,
    ),
    layer(
        "joint_blocks.#.x_block.mlp.fc2",
        &["transformer_blocks.#.ff.net.2"],
        Rows::Whole,
    ),
    layer(
        "joint_blocks.#.context_block.mlp.fc1",
        &["transformer_blocks.#.ff_context.net.0.proj"],
        Rows::Whole,
    ),
    layer(
        "joint_blocks.#.context_block.mlp.fc2",
        &["transformer_blocks.#.ff_context.net.2"],
        Rows::Whole,
    ),
    layer(
        "joint_blocks.#.x_block.adaLN_modulation.1",
        &["transformer_blocks.#.norm1.linear"],
        Rows::Whole,
    ),
    layer(
        "joint_blocks.#.context_block.adaLN_modulation.1",
        &["transformer_blocks.#.norm1_context.linear"],
        Rows::SwappedIfTwo,
    ),
    layer("x_embedder.proj", &["pos_embed.proj"], Rows::Whole),
    layer("context_embedder", &["context_embedder"], Rows::Whole),
    layer(
        "t_embedder.mlp.0",
        &["time_text_embed.timestep_embedder.linear_1"],
        Rows::Whole,
    ),
    layer(
        "t_embedder.mlp.2",
        &["time_text_embed.timestep_embedder.linear_2"],
        Rows::Whole,
    ),
    layer(
        "y_embedder.mlp.0",
        &["time_text_embed.text_embedder.linear_1"],
        Rows::Whole,
    ),
    layer(
        "y_embedder.mlp.2",
        &["time_text_embed.text_embedder.linear_2"],
        Rows::Whole,
    ),
    layer("final_layer.linear", &["proj_out"], Rows::Whole),
    layer(
        "final_layer.adaLN_modulation.1",
        &["norm_out.linear"],
        Rows::Swapped,
    ),
];

/// Whether a layer of these widths cannot be Flux.1's, whose names later models took over: its feed-forward
/// layers are four times as wide as the stream, without a gate.
pub(crate) fn contradicts_flux(original: &str, d_out: usize, d_in: usize) -> bool {
    let times = |narrow: usize, factor: usize| narrow.checked_mul(factor);
    match original.rsplit_once('.') {
        Some((_, "linear1")) => times(d_in, 7) != Some(d_out),
        Some((_, "linear2")) => times(d_out, 5) != Some(d_in),
        Some((block, "0")) if block.ends_with("_mlp") => times(d_in, 4) != Some(d_out),
        Some((block, "2")) if block.ends_with("_mlp") => times(d_out, 4) != Some(d_in),
        _ => false,
    }
}

fn table(family: Family) -> &'static [Layer] {
    match family {
        Family::Flux => FLUX,
        Family::Mmdit => MMDIT,
        _ => &[],
    }
}

/// diffusers' names of the modules that a layer of the original is made of, and which rows are whose.
pub(super) fn to_diffusers(family: Family, path: &str) -> Option<(Vec<String>, Rows)> {
    table(family).iter().find_map(|layer| {
        let number = fits(layer.original, path)?;
        let names = layer.names.iter().map(|name| name.replace('#', number)).collect();
        Some((names, layer.rows))
    })
}

/// Where a module of diffusers' lies in the original.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Place {
    /// The original layer.
    pub(crate) original: String,
    /// Which of its parts.
    pub(crate) part: usize,
    /// How many parts it has.
    pub(crate) parts: usize,
    /// Which rows are whose.
    pub(crate) rows: Rows,
}

/// Where the module that diffusers calls `path` lies in the original.
pub(crate) fn to_original(family: Family, path: &str) -> Option<Place> {
    table(family).iter().find_map(|layer| {
        let (part, number) = layer
            .names
            .iter()
            .enumerate()
            .find_map(|(part, name)| Some((part, fits(name, path)?)))?;
        Some(Place {
            original: layer.original.replace('#', number),
            part,
            parts: layer.names.len(),
            rows: layer.rows,
        })
    })
}

/// The number in `path`, empty if there is none, if it is of the form of `pattern`.
fn fits<'a>(pattern: &str, path: &'a str) -> Option<&'a str> {
    let Some((before, after)) = pattern.split_once('#') else {
        return (pattern == path).then_some("");
    };
    let number = path.strip_prefix(before)?.strip_suffix(after)?;
    is_index(number).then_some(number)
}

#[cfg(test)]
mod tests {
    use super::{FLUX, Family, MMDIT, Rows, to_diffusers, to_original};
    use crate::naming::template::families;

    #[test]
    fn both_sets_of_names_are_in_the_vocabulary_and_lead_to_each_other() {
        for (family, layers) in [(Family::Flux, FLUX), (Family::Mmdit, MMDIT)] {
            for layer in layers {
                let original = layer.original.replace('#', "12");
                assert!(families(&original).contains(&family), "{original}");
                let (names, rows) = to_diffusers(family, &original).unwrap();
                for (part, name) in names.iter().enumerate() {
                    assert!(families(name).contains(&Family::Transformer), "{name}");
                    let place = to_original(family, name).unwrap();
                    assert_eq!(
                        (place.original.as_str(), place.part, place.rows),
                        (original.as_str(), part, rows)
                    );
                }
            }
        }
    }

    #[test]
    fn rows_are_divided_without_remainder_or_not_at_all() {
        assert_eq!(Rows::Thirds.ranges(6, 2).unwrap(), [0..2, 2..4, 4..6]);
        assert_eq!(Rows::Thirds.ranges(7, 2), None);
        assert_eq!(Rows::AndRest.ranges(14, 2).unwrap(), [0..2, 2..4, 4..6, 6..14]);
        assert_eq!(Rows::AndRest.ranges(6, 2), None);
        assert_eq!(Rows::AndRest.ranges(6, usize::MAX), None);
        assert!(Rows::SwappedIfTwo.swaps(4, 2) && !Rows::SwappedIfTwo.swaps(12, 2));
    }
}
