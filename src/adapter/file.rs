//! What of an adapter's file is known before there are any numbers: its layers, their names and their shapes.
//!
//! A format makes a [`FilePlan`] of the modules' shapes. A layer of the file holds one product of factors; it may be of
//! several modules, where the format has in one layer what others have apart (query, key and value). Once a layer's
//! numbers are there, [`FileLayer::fused`] puts them together and [`FileLayer::tensors`] gives them their names.

use std::collections::BTreeMap;

use half::{bf16, f16};

use crate::{
    adapter::{LayerKind, Lora},
    compute::{narrow, scaled},
    delta::LowRank,
    error::Result,
    io::{OutDtype, OutTensor},
    naming::ModulePath,
};

/// Kind and size of a module's update.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Shape {
    /// What the product is added to.
    pub layer: LayerKind,
    /// Outputs.
    pub d_out: usize,
    /// Inputs.
    pub d_in: usize,
}

/// How the names of a layer's tensors end, and where its scale goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Alpha {
    /// Into the upper factor.
    Folded,
    /// Into a tensor of its own.
    Written,
    /// The same, left out where it is the rank.
    WrittenUnlessRank,
}

/// One layer of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileLayer {
    /// The modules that it is of, by their place in it; a fused layer may lack some.
    pub parts: Vec<Option<ModulePath>>,
    /// The outputs of each part.
    pub heights: Vec<usize>,
    /// Kind and size of the whole.
    pub shape: Shape,
    pub(super) lower: String,
    pub(super) upper: String,
    /// The name of the scale's tensor.
    pub(super) alpha_name: String,
    pub(super) alpha: Alpha,
    /// The name of a bias of the upper factor.
    pub(super) bias_name: String,
    /// Whether the two halves of the outputs change places.
    pub(super) swapped: bool,
}

/// The layers of a file, and what its header says of them.
#[derive(Debug, Clone)]
pub struct FilePlan {
    /// The layers.
    pub layers: Vec<FileLayer>,
    pub(super) header: Header,
}

/// The strings of a format's header, of the layers with their scales.
pub(super) type Header = fn(&[(&FileLayer, Scale)], OutDtype) -> Result<BTreeMap<String, String>>;

/// A layer's rank and scale (`alpha / rank`), as they are written.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Scale {
    /// The rank.
    pub rank: usize,
    /// The scale.
    pub scaling: f64,
}

impl FileLayer {
    /// Names and shapes of its tensors at a rank, in the order in which [`FileLayer::tensors`] gives them.
    pub fn shapes(&self, scale: Scale, bias: bool, dtype: OutDtype) -> Vec<(String, Vec<usize>)> {
        let Shape {
            layer, d_out, d_in, ..
        } = &self.shape;
        let rank = scale.rank * layer.products();
        let (lower, upper) = match layer {
            LayerKind::Conv { channels, kernel } => (
                [rank, *channels]
                    .into_iter()
                    .chain(kernel.iter().copied())
                    .collect(),
                [*d_out, rank]
                    .into_iter()
                    .chain(kernel.iter().map(|_| 1))
                    .collect(),
            ),
            LayerKind::Linear | LayerKind::Embedding | LayerKind::Parameter { .. } => {
                (vec![rank, *d_in], vec![*d_out, rank])
            }
        };
        let mut shapes = vec![(self.lower.clone(), lower), (self.upper.clone(), upper)];
        if self.writes_alpha(scale, dtype) {
            shapes.push((self.alpha_name.clone(), Vec::new()));
        }
        if bias {
            shapes.push((self.bias_name.clone(), vec![*d_out]));
        }
        shapes
    }

    /// The tensors of the layer's update, filled with zeros up to `rank`.
    pub fn tensors(&self, lora: Lora, rank: usize, dtype: OutDtype) -> Vec<OutTensor> {
        let lora = lora.padded(rank);
        let scale = Scale {
            rank,
            scaling: lora.scaling,
        };
        let shapes = self.shapes(scale, lora.bias.is_some(), dtype);
        let (upper, bias) = match self.alpha {
            Alpha::Folded => (lora.scaling, lora.scaling),
            Alpha::Written | Alpha::WrittenUnlessRank => {
                let alpha = f64::from(scale.alpha(dtype));
                // What the type cannot hold of alpha goes into the upper factor.
                let rest = if alpha == 0.0 || alpha == scale.exact_alpha() {
                    1.0
                } else {
                    scale.exact_alpha() / alpha
                };
                (rest, rest)
            }
        };
        let times = |data: Vec<f32>, factor: f64| {
            if factor == 1.0 {
                data
            } else {
                scaled(&data, factor)
            }
        };
        let mut data = vec![lora.a, times(lora.b, upper)];
        if self.writes_alpha(scale, dtype) {
            data.push(vec![scale.alpha(dtype)]);
        }
        data.extend(lora.bias.map(|values| times(values, bias)));
        let named = shapes.into_iter().zip(data);
        named
            .map(|((name, shape), data)| OutTensor { name, shape, data })
            .collect()
    }

    /// One update of the parts': they share their lower factor, or each has directions of its own, the lower factors
    /// stacked and the upper one block-diagonal.
    pub fn fused(&self, mut parts: Vec<Option<Lora>>) -> Lora {
        let alone = if parts.len() == 1 {
            parts.pop().flatten()
        } else {
            None
        };
        let mut lora = match alone.or_else(|| self.put_together(parts)) {
            None => Lora {
                d_out: self.shape.d_out,
                d_in: self.shape.d_in,
                layer: self.shape.layer.clone(),
                scaling: 1.0,
                ..Lora::default()
            },
            Some(lora) => lora,
        };
        if self.swapped {
            lora.b.rotate_left(lora.d_out / 2 * lora.rank);
        }
        lora
    }

    fn put_together(&self, parts: Vec<Option<Lora>>) -> Option<Lora> {
        let first = parts.iter().flatten().next()?.scaling;
        let same = parts
            .iter()
            .flatten()
            .all(|part| part.scaling.to_bits() == first.to_bits());
        // Scales that differ go into the upper factors.
        let factors = |part: Lora| {
            let factors = LowRank {
                a: part.a,
                b: part.b,
                rank: part.rank,
                d_out: part.d_out,
                d_in: part.d_in,
            };
            if same {
                factors
            } else {
                factors.scaled(part.scaling)
            }
        };
        let parts: Vec<Option<LowRank>> = parts.into_iter().map(|part| part.map(factors)).collect();
        let parts: Vec<Option<&LowRank>> = parts.iter().map(Option::as_ref).collect();
        let all: Option<Vec<&LowRank>> = parts.iter().copied().collect();
        let whole = match all.filter(|all| same && LowRank::share_lower(all)) {
            Some(all) => LowRank::with_one_lower(&all),
            None => LowRank::block_diagonal(&parts, &self.heights, self.shape.d_in),
        };
        Some(Lora {
            a: whole.a,
            b: whole.b,
            rank: whole.rank,
            d_in: whole.d_in,
            d_out: whole.d_out,
            scaling: if same { first } else { 1.0 },
            layer: self.shape.layer.clone(),
            ..Lora::default()
        })
    }

    fn writes_alpha(&self, scale: Scale, dtype: OutDtype) -> bool {
        match self.alpha {
            Alpha::Folded => false,
            Alpha::Written => true,
            #[allow(clippy::cast_precision_loss, reason = "ranks are far below 2^53")]
            Alpha::WrittenUnlessRank => f64::from(scale.alpha(dtype)) != scale.rank as f64,
        }
    }
}

impl Scale {
    /// That of an update as it is.
    pub const fn of(lora: &Lora) -> Self {
        Self {
            rank: lora.rank,
            scaling: lora.scaling,
        }
    }

    #[allow(clippy::cast_precision_loss, reason = "ranks are far below 2^53")]
    fn exact_alpha(self) -> f64 {
        self.scaling * self.rank as f64
    }

    /// Alpha as a type holds it: in a narrow one 301 becomes 300.
    pub(super) fn alpha(self, dtype: OutDtype) -> f32 {
        let alpha = narrow(self.exact_alpha());
        match dtype {
            OutDtype::F32 => alpha,
            OutDtype::F16 => f16::from_f32(alpha).to_f32(),
            OutDtype::Bf16 => bf16::from_f32(alpha).to_f32(),
        }
    }
}

impl FilePlan {
    /// The strings of the file's header, once the scales of its layers are known, in their order.
    ///
    /// # Errors
    /// [`Code::Internal`](crate::error::Code::Internal) for what cannot be written as JSON.
    pub fn metadata(&self, scales: &[Scale], dtype: OutDtype) -> Result<BTreeMap<String, String>> {
        let layers: Vec<(&FileLayer, Scale)> = self.layers.iter().zip(scales.iter().copied()).collect();
        (self.header)(&layers, dtype)
    }
}
