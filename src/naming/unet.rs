//! One UNet, two sets of names: the original code's (LDM, SGM) and diffusers'.
//!
//! kohya's SDXL adapters have the former and everybody else's the latter, so without this an SDXL adapter of kohya's
//! would share no module with one of diffusers'. The original counts a level's resnets and its resampler in one list.
//! Every Stable Diffusion has two resnets a level going down and three going up, which is what makes the numbers mean
//! something without the model.

use crate::naming::template::is_index;

/// Blocks of one list that a level takes: two resnets and the downsampler, or three resnets.
const PER_LEVEL: usize = 3;

/// The most levels a Stable Diffusion has.
const LEVELS: usize = 4;

/// What is inside a resnet: the original's name and diffusers'.
const RESNET: [(&str, &str); 4] = [
    ("in_layers.2", "conv1"),
    ("out_layers.3", "conv2"),
    ("emb_layers.1", "time_emb_proj"),
    ("skip_connection", "conv_shortcut"),
];

/// Modules outside the blocks.
const OUTSIDE: [(&str, &str); 6] = [
    ("input_blocks.0.0", "conv_in"),
    ("out.2", "conv_out"),
    ("time_embed.0", "time_embedding.linear_1"),
    ("time_embed.2", "time_embedding.linear_2"),
    ("label_emb.0.0", "add_embedding.linear_1"),
    ("label_emb.0.2", "add_embedding.linear_2"),
];

/// diffusers' name of a module that the original code calls `path`.
pub(super) fn to_diffusers(path: &str) -> Option<String> {
    if let Some((_, name)) = OUTSIDE.iter().find(|(original, _)| *original == path) {
        return Some((*name).to_owned());
    }
    let (list, rest) = path.split_once('.')?;
    if list == "middle_block" {
        let (at, inner) = rest.split_once('.')?;
        return Some(match at {
            "0" | "2" => format!(
                "mid_block.resnets.{}.{}",
                if at == "0" { 0 } else { 1 },
                resnet(inner)?
            ),
            "1" => format!("mid_block.attentions.0.{inner}"),
            _ => return None,
        });
    }
    let (block, rest) = rest.split_once('.')?;
    let (at, inner) = rest.split_once('.')?;
    let block = index(block)?;
    let (up, block) = match list {
        "input_blocks" => (false, block.checked_sub(1)?),
        "output_blocks" => (true, block),
        _ => return None,
    };
    let (level, layer) = (block / PER_LEVEL, block % PER_LEVEL);
    if level >= LEVELS {
        return None;
    }
    let blocks = if up { "up_blocks" } else { "down_blocks" };
    let last = layer == PER_LEVEL - 1;
    Some(match (at, inner) {
        ("0", "op") if !up && last => format!("{blocks}.{level}.downsamplers.0.conv"),
        ("1" | "2", "conv") if up && last => format!("{blocks}.{level}.upsamplers.0.conv"),
        // Going down, the third place of a level is the downsampler's.
        _ if !up && last => return None,
        ("0", _) => format!("{blocks}.{level}.resnets.{layer}.{}", resnet(inner)?),
        ("1", _) if inner != "conv" => format!("{blocks}.{level}.attentions.{layer}.{inner}"),
        _ => return None,
    })
}

/// The original code's name of a module that diffusers calls `path`. `attends` tells whether a level going up
/// has attention, behind which its upsampler stands.
pub(crate) fn to_ldm(path: &str, attends: impl Fn(usize) -> bool) -> Option<String> {
    if let Some((original, _)) = OUTSIDE.iter().find(|(_, name)| *name == path) {
        return Some((*original).to_owned());
    }
    let original_resnet = |inner: &str| {
        let pair = RESNET.iter().find(|(_, name)| *name == inner);
        pair.map(|(original, _)| *original)
    };
    let (blocks, rest) = path.split_once('.')?;
    if blocks == "mid_block" {
        let (kind, rest) = rest.split_once('.')?;
        let (at, inner) = rest.split_once('.')?;
        return Some(match (kind, at) {
            ("resnets", "0") => format!("middle_block.0.{}", original_resnet(inner)?),
            ("resnets", "1") => format!("middle_block.2.{}", original_resnet(inner)?),
            ("attentions", "0") => format!("middle_block.1.{inner}"),
            _ => return None,
        });
    }
    let (level, rest) = rest.split_once('.')?;
    let (kind, rest) = rest.split_once('.')?;
    let (layer, inner) = rest.split_once('.')?;
    let (level, layer) = (index(level)?, index(layer)?);
    let (list, first, resnets) = match blocks {
        "down_blocks" => ("input_blocks", 1, PER_LEVEL - 1),
        "up_blocks" => ("output_blocks", 0, PER_LEVEL),
        _ => return None,
    };
    if level >= LEVELS || layer >= resnets {
        return None;
    }
    let start = first + PER_LEVEL * level;
    Some(match (kind, inner) {
        ("resnets", _) => format!("{list}.{}.0.{}", start + layer, original_resnet(inner)?),
        ("attentions", _) => format!("{list}.{}.1.{inner}", start + layer),
        ("downsamplers", "conv") if first == 1 && layer == 0 => {
            format!("{list}.{}.0.op", start + PER_LEVEL - 1)
        }
        ("upsamplers", "conv") if first == 0 && layer == 0 => {
            let at = if attends(level) { 2 } else { 1 };
            format!("{list}.{}.{at}.conv", start + PER_LEVEL - 1)
        }
        _ => return None,
    })
}

fn resnet(inner: &str) -> Option<&'static str> {
    let pair = RESNET.iter().find(|(original, _)| *original == inner);
    pair.map(|(_, name)| *name)
}

fn index(word: &str) -> Option<usize> {
    is_index(word).then(|| word.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::{to_diffusers, to_ldm};

    #[test]
    fn names_are_those_of_diffusers_own_conversion_and_come_back() {
        // (the original code's, diffusers', whether the level going up has attention)
        for (original, name, attends) in [
            ("input_blocks.0.0", "conv_in", true),
            (
                "input_blocks.1.0.in_layers.2",
                "down_blocks.0.resnets.0.conv1",
                true,
            ),
            ("input_blocks.3.0.op", "down_blocks.0.downsamplers.0.conv", true),
            (
                "input_blocks.4.1.proj_in",
                "down_blocks.1.attentions.0.proj_in",
                true,
            ),
            (
                "input_blocks.8.1.transformer_blocks.9.attn2.to_out.0",
                "down_blocks.2.attentions.1.transformer_blocks.9.attn2.to_out.0",
                true,
            ),
            (
                "input_blocks.11.0.out_layers.3",
                "down_blocks.3.resnets.1.conv2",
                true,
            ),
            (
                "middle_block.0.emb_layers.1",
                "mid_block.resnets.0.time_emb_proj",
                true,
            ),
            ("middle_block.1.proj_out", "mid_block.attentions.0.proj_out", true),
            (
                "middle_block.2.skip_connection",
                "mid_block.resnets.1.conv_shortcut",
                true,
            ),
            ("output_blocks.2.1.conv", "up_blocks.0.upsamplers.0.conv", false),
            ("output_blocks.2.2.conv", "up_blocks.0.upsamplers.0.conv", true),
            (
                "output_blocks.5.1.proj_in",
                "up_blocks.1.attentions.2.proj_in",
                true,
            ),
            (
                "output_blocks.11.0.in_layers.2",
                "up_blocks.3.resnets.2.conv1",
                true,
            ),
            ("label_emb.0.2", "add_embedding.linear_2", true),
            ("out.2", "conv_out", true),
        ] {
            assert_eq!(to_diffusers(original).as_deref(), Some(name));
            assert_eq!(to_ldm(name, |_| attends).as_deref(), Some(original));
        }
    }

    #[test]
    fn places_that_no_stable_diffusion_has_have_no_name() {
        for path in [
            "input_blocks.3.0.in_layers.2",
            "input_blocks.3.1.proj_in",
            "input_blocks.2.0.op",
            "input_blocks.13.0.in_layers.2",
            "output_blocks.1.1.conv",
            "output_blocks.99999999999999999999.0.in_layers.2",
            "middle_block.3.proj_in",
            "middle_block.0.in_layers.0",
            "out.3",
            "input_blocks",
            "",
        ] {
            assert_eq!(to_diffusers(path), None, "{path}");
        }
        for path in [
            "down_blocks.0.resnets.2.conv1",
            "up_blocks.4.resnets.0.conv1",
            "mid_block.resnets.2.conv1",
        ] {
            assert_eq!(to_ldm(path, |_| true), None, "{path}");
        }
    }
}
