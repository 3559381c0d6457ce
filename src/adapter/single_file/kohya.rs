//! A merged adapter as kohya's scripts and ComfyUI read it: flattened names and an alpha a module, or dotted names as
//! the adapters have them.
//!
//! Factors are written as they are and the scale goes into alpha, so a lone adapter keeps its numbers to the bit. In a
//! narrow type an alpha of 301 would become 300: what the type cannot hold goes into the upper factor.

use std::collections::BTreeMap;

use serde_json::json;

use crate::{
    adapter::{
        Adapter, FileLayer, FilePlan, Format, LayerKind, Scale, Shape,
        file::Alpha,
        most,
        single_file::{
            image::check,
            spelling::{Spelled, Spelling},
        },
    },
    error::{Code, Error, Result},
    io::OutDtype,
    naming::{ModulePath, Rows},
};

/// The name of the file.
pub const KOHYA_FILE: &str = "merged_lora.safetensors";

/// How many times as wide as the stream Flux.1's feed-forward layers are.
const FLUX_MLP_RATIO: usize = 4;

/// The layers of one name in a file: by part.
struct Fused<'a> {
    spelled: Spelled,
    parts: BTreeMap<usize, (&'a ModulePath, &'a Shape)>,
}

/// The file of an adapter with these modules, in the names that the first of `adapters` which has such names uses.
///
/// # Errors
/// `option_invalid`, with the formats that fit, for modules of which this one has no names;
/// `shape_mismatch` for modules that are one layer of the original and do not fit each other.
pub fn kohya_plan(modules: &BTreeMap<ModulePath, Shape>, adapters: &[&Adapter]) -> Result<FilePlan> {
    check(modules, Format::Kohya, "kohya")?;
    let none = BTreeMap::new();
    let spelled = adapters
        .iter()
        .map(|adapter| &adapter.spelled)
        .find(|spelled| !spelled.is_empty());
    let spelling = Spelling::of(modules, spelled.unwrap_or(&none));
    let mut layers: BTreeMap<String, Fused<'_>> = BTreeMap::new();
    for (path, shape) in modules {
        let Some(spelled) = spelling.spell(path) else {
            return Err(Error::new(
                Code::Internal,
                format!("a checked module has no name: {path}"),
            ));
        };
        let part = spelled.part;
        let layer = layers.entry(spelled.name.clone()).or_insert_with(|| Fused {
            spelled,
            parts: BTreeMap::new(),
        });
        if let Some((other, _)) = layer.parts.insert(part, (path, shape)) {
            return Err(Error::new(
                Code::AdapterUnsupported,
                format!(
                    "Two modules have one name in kohya's files; choose format diffusers: {other}, {path}"
                ),
            ));
        }
    }
    let dotted = spelling.is_dotted();
    let layers = layers.iter().map(|(name, fused)| fused.layer(name, dotted));
    Ok(FilePlan {
        layers: layers.collect::<Result<_>>()?,
        header: if dotted { plain } else { metadata },
    })
}

#[expect(clippy::unnecessary_wraps, reason = "other formats' headers may fail")]
fn plain(_layers: &[(&FileLayer, Scale)], _dtype: OutDtype) -> Result<BTreeMap<String, String>> {
    Ok(BTreeMap::from([(String::from("format"), String::from("pt"))]))
}

/// What kohya's scripts write of a network.
#[expect(clippy::unnecessary_wraps, reason = "other formats' headers may fail")]
fn metadata(layers: &[(&FileLayer, Scale)], dtype: OutDtype) -> Result<BTreeMap<String, String>> {
    let (ranks, alphas): (Vec<usize>, Vec<f32>) = layers
        .iter()
        .map(|(_, scale)| (scale.rank, scale.alpha(dtype)))
        .unzip();
    let wide = |layer: &FileLayer| matches!(&layer.shape.layer, LayerKind::Conv { kernel, .. } if kernel.iter().any(|&side| side > 1));
    let conv = layers.iter().find(|(layer, _)| wide(layer));
    let one = |varies: bool, value: String| if varies { String::from("Dynamic") } else { value };
    let rank = most(ranks.iter().copied()).unwrap_or(0);
    let alpha = most(alphas.iter().copied()).unwrap_or(0.0);
    let mut entries = vec![
        ("format", String::from("pt")),
        ("ss_network_module", String::from("networks.lora")),
        (
            "ss_network_dim",
            one(ranks.iter().any(|other| *other != rank), rank.to_string()),
        ),
        (
            "ss_network_alpha",
            one(alphas.iter().any(|other| *other != alpha), alpha.to_string()),
        ),
    ];
    if let Some((_, scale)) = conv {
        let args = json!({
            "conv_dim": scale.rank.to_string(),
            "conv_alpha": scale.alpha(dtype).to_string(),
        });
        entries.push(("ss_network_args", args.to_string()));
    }
    Ok(entries
        .into_iter()
        .map(|(key, value)| (key.to_owned(), value))
        .collect())
}

impl Fused<'_> {
    /// The layer of that name.
    fn layer(&self, name: &str, dotted: bool) -> Result<FileLayer> {
        let Some((_, first)) = self.parts.values().next() else {
            return Err(Error::new(Code::Internal, "a layer without parts is written"));
        };
        let heights = if self.spelled.parts == 1 {
            vec![first.d_out]
        } else {
            self.heights(first)?
        };
        let [lower, upper] = if dotted {
            ["lora_A.weight", "lora_B.weight"]
        } else {
            ["lora_down.weight", "lora_up.weight"]
        };
        let d_out = heights.iter().sum();
        let part = |part| self.parts.get(&part).map(|(path, _)| (*path).clone());
        Ok(FileLayer {
            parts: (0..self.spelled.parts).map(part).collect(),
            heights,
            shape: Shape {
                d_out,
                ..(*first).clone()
            },
            lower: format!("{name}.{lower}"),
            upper: format!("{name}.{upper}"),
            alpha_name: format!("{name}.alpha"),
            // Dotted files have no alpha where it is the rank.
            alpha: if dotted {
                Alpha::WrittenUnlessRank
            } else {
                Alpha::Written
            },
            bias_name: String::new(),
            swapped: self.spelled.parts == 1 && self.spelled.rows.swaps(d_out, first.d_in),
        })
    }

    /// The outputs of each part, those of absent ones by what the model is.
    fn heights(&self, first: &Shape) -> Result<Vec<usize>> {
        let known = |part: usize| self.parts.get(&part).map(|(_, shape)| shape.d_out);
        let heights: Vec<usize> = (0..self.spelled.parts)
            .map(|part| {
                let usual = match self.spelled.rows {
                    Rows::AndRest if part == 3 => FLUX_MLP_RATIO * first.d_in,
                    Rows::AndRest => first.d_in,
                    _ => first.d_out,
                };
                known(part).unwrap_or(usual)
            })
            .collect();
        let d_out = heights.iter().sum();
        let ranges = self.spelled.rows.ranges(d_out, first.d_in);
        let fits = ranges.is_some_and(|ranges| {
            ranges
                .iter()
                .map(ExactSizeIterator::len)
                .eq(heights.iter().copied())
        });
        if fits
            && self
                .parts
                .values()
                .all(|(_, shape)| shape.d_in == first.d_in && shape.layer == first.layer)
        {
            return Ok(heights);
        }
        let paths: Vec<&str> = self.parts.values().map(|(path, _)| path.as_str()).collect();
        Err(Error::new(
            Code::ShapeMismatch,
            format!(
                "Modules of one layer do not fit each other, outputs {heights:?}; choose format diffusers: {}",
                paths.join(", ")
            ),
        ))
    }
}
