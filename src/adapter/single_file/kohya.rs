//! A merged adapter as kohya's scripts and ComfyUI read it: flattened names and an alpha a module, or dotted names as
//! the adapters have them.
//!
//! Factors are written as they are and the scale goes into alpha, so a lone adapter keeps its numbers to the bit. In a
//! narrow type an alpha of 301 would become 300: what the type cannot hold goes into the upper factor.

use std::collections::BTreeMap;

use half::{bf16, f16};
use serde_json::json;

use crate::{
    adapter::{
        Adapter, Format, LayerKind, Lora, most,
        single_file::{
            factors::swap_halves,
            image::{ImageFile, check, shapes},
            spelling::{Spelled, Spelling},
        },
    },
    compute::{narrow, scaled},
    error::{Code, Error, Result},
    io::{OutDtype, OutTensor},
    naming::{ModulePath, Rows},
};

/// The name of the file.
pub const KOHYA_FILE: &str = "merged_lora.safetensors";

/// How many times as wide as the stream Flux.1's feed-forward layers are.
const FLUX_MLP_RATIO: usize = 4;

/// The layers of one name in a file: by part.
struct Fused<'a> {
    spelled: Spelled,
    parts: BTreeMap<usize, (&'a str, &'a Lora)>,
}

/// The file of a merged adapter, in the names that the first of `adapters` which has such names uses.
///
/// # Errors
/// `option_invalid`, with the formats that fit, for modules of which this one has no names;
/// `shape_mismatch` for modules that are one layer of the original and do not fit each other.
pub fn kohya_file(
    modules: &BTreeMap<ModulePath, Lora>,
    adapters: &[&Adapter],
    dtype: OutDtype,
) -> Result<ImageFile> {
    check(modules, Format::Kohya, "kohya")?;
    let none = BTreeMap::new();
    let spelled = adapters
        .iter()
        .map(|adapter| &adapter.spelled)
        .find(|spelled| !spelled.is_empty());
    let spelling = Spelling::of(modules, spelled.unwrap_or(&none));
    let mut layers: BTreeMap<String, Fused<'_>> = BTreeMap::new();
    for (path, lora) in modules {
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
        if let Some((other, _)) = layer.parts.insert(part, (path, lora)) {
            return Err(Error::new(
                Code::AdapterUnsupported,
                format!(
                    "Two modules have one name in kohya's files; choose format diffusers: {other}, {path}"
                ),
            ));
        }
    }
    let mut tensors = Vec::with_capacity(3 * layers.len());
    let (mut ranks, mut alphas, mut conv) = (Vec::new(), Vec::new(), None);
    for (name, layer) in &layers {
        let lora = layer.lora()?;
        let (down, up) = shapes(&lora);
        #[allow(clippy::cast_precision_loss, reason = "ranks are far below 2^53")]
        let exact = lora.scaling * lora.rank as f64;
        let alpha = held(narrow(exact), dtype);
        let b = if dtype == OutDtype::F32 || f64::from(alpha) == exact || alpha == 0.0 {
            lora.b
        } else {
            scaled(&lora.b, exact / f64::from(alpha))
        };
        if matches!(&lora.layer, LayerKind::Conv { kernel, .. } if kernel.iter().any(|&side| side > 1)) {
            conv.get_or_insert((lora.rank, alpha));
        }
        ranks.push(lora.rank);
        alphas.push(alpha);
        let tensor = |end: &str, shape: Vec<usize>, data: Vec<f32>| OutTensor {
            name: format!("{name}.{end}"),
            shape,
            data,
        };
        let [lower, upper] = if spelling.is_dotted() {
            ["lora_A.weight", "lora_B.weight"]
        } else {
            ["lora_down.weight", "lora_up.weight"]
        };
        tensors.push(tensor(lower, down, lora.a));
        tensors.push(tensor(upper, up, b));
        #[allow(clippy::cast_precision_loss, reason = "ranks are far below 2^53")]
        let is_rank = f64::from(alpha) == lora.rank as f64;
        // Dotted files have no alpha where it is the rank.
        if !(spelling.is_dotted() && is_rank) {
            tensors.push(tensor("alpha", Vec::new(), vec![alpha]));
        }
    }
    let metadata = if spelling.is_dotted() {
        BTreeMap::from([(String::from("format"), String::from("pt"))])
    } else {
        metadata(&ranks, &alphas, conv)
    };
    Ok(ImageFile { tensors, metadata })
}

/// What kohya's scripts write of a network.
fn metadata(ranks: &[usize], alphas: &[f32], conv: Option<(usize, f32)>) -> BTreeMap<String, String> {
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
    if let Some((rank, alpha)) = conv {
        let args = json!({ "conv_dim": rank.to_string(), "conv_alpha": alpha.to_string() });
        entries.push(("ss_network_args", args.to_string()));
    }
    entries
        .into_iter()
        .map(|(key, value)| (key.to_owned(), value))
        .collect()
}

/// A number as a type holds it.
fn held(value: f32, dtype: OutDtype) -> f32 {
    match dtype {
        OutDtype::F32 => value,
        OutDtype::F16 => f16::from_f32(value).to_f32(),
        OutDtype::Bf16 => bf16::from_f32(value).to_f32(),
    }
}

impl Fused<'_> {
    /// The layer's update: its only part's, or the parts' put together.
    fn lora(&self) -> Result<Lora> {
        let Some((_, first)) = self.parts.values().next() else {
            return Err(Error::new(Code::Internal, "a layer without parts is written"));
        };
        if self.spelled.parts == 1 {
            let mut lora = (*first).clone();
            if self.spelled.rows.swaps(lora.d_out, lora.d_in) {
                swap_halves(&mut lora);
            }
            return Ok(lora);
        }
        let heights = self.heights(first)?;
        let d_out = heights.iter().sum();
        let like = |lora: &Lora| {
            let bits = |values: &[f32]| values.iter().map(|value| value.to_bits()).collect::<Vec<u32>>();
            lora.rank == first.rank
                && lora.scaling.to_bits() == first.scaling.to_bits()
                && bits(&lora.a) == bits(&first.a)
        };
        if self.parts.len() == self.spelled.parts && self.parts.values().all(|(_, lora)| like(lora)) {
            let b = self
                .parts
                .values()
                .flat_map(|(_, lora)| &lora.b)
                .copied()
                .collect();
            return Ok(Lora {
                b,
                d_out,
                ..(*first).clone()
            });
        }
        // Each part in directions of its own: the lower factors stacked, the upper one block-diagonal.
        let same = self
            .parts
            .values()
            .all(|(_, lora)| lora.scaling.to_bits() == first.scaling.to_bits());
        let rank = self.parts.values().map(|(_, lora)| lora.rank).sum();
        let mut a = Vec::with_capacity(rank * first.d_in);
        let mut b = vec![0.0; d_out * rank];
        let (mut row, mut column) = (0, 0);
        for (part, height) in heights.iter().enumerate() {
            if let Some((_, lora)) = self.parts.get(&part) {
                a.extend_from_slice(&lora.a);
                let block = if same {
                    lora.b.clone()
                } else {
                    scaled(&lora.b, lora.scaling)
                };
                for (at, values) in block.chunks_exact(lora.rank).enumerate() {
                    let start = (row + at) * rank + column;
                    b[start..start + lora.rank].copy_from_slice(values);
                }
                column += lora.rank;
            }
            row += height;
        }
        Ok(Lora {
            a,
            b,
            rank,
            d_in: first.d_in,
            d_out,
            scaling: if same { first.scaling } else { 1.0 },
            layer: first.layer.clone(),
            ..Lora::default()
        })
    }

    /// The outputs of each part, those of absent ones by what the model is.
    fn heights(&self, first: &Lora) -> Result<Vec<usize>> {
        let known = |part: usize| self.parts.get(&part).map(|(_, lora)| lora.d_out);
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
                .all(|(_, lora)| lora.d_in == first.d_in && lora.layer == first.layer)
        {
            return Ok(heights);
        }
        let paths: Vec<&str> = self.parts.values().map(|(path, _)| *path).collect();
        Err(Error::new(
            Code::ShapeMismatch,
            format!(
                "Modules of one layer do not fit each other, outputs {heights:?}; choose format diffusers: {}",
                paths.join(", ")
            ),
        ))
    }
}
