//! The factors of one module: which tensors of a file they are and how they are scaled, and from an original's fused
//! layer to diffusers' modules.
//!
//! Every shape is held against the others, since one may fit by accident: a convolution's kernel belongs to the lower
//! factor, or to the core of a Tucker decomposition, and nowhere else.

use std::{collections::BTreeMap, ops::Range, rc::Rc};

use crate::{
    adapter::{
        AdapterConfig, Init, LayerKind, Module,
        module::Stored,
        single_file::{Piece, key::Role},
    },
    error::{Code, Error, Result},
    io::Checkpoint,
    naming::{Rows, Target},
};

/// The tensors of one module.
pub(super) struct Part<'a> {
    pub(super) checkpoint: &'a Rc<Checkpoint>,
    /// As the file names it.
    pub(super) module: &'a str,
    pub(super) roles: &'a BTreeMap<Role, String>,
}

/// A factor's shape: rows, columns, and the sides of a kernel.
struct Sides {
    rows: usize,
    columns: usize,
    kernel: Vec<usize>,
}

impl Part<'_> {
    /// What there is of the module; `config` is what a header says of it, with the module's name there.
    pub(super) async fn read(&self, config: Option<(&AdapterConfig, &str)>) -> Result<Module> {
        let (lower, upper) = (
            self.require(Role::Down, Role::Up)?,
            self.require(Role::Up, Role::Down)?,
        );
        let down = self.sides(lower)?;
        let up = self.sides(upper)?;
        let rank = down.rows;
        if up.columns != rank || !up.is_flat() {
            return Err(self.misfit(&format!(
                "the lower factor has rank {rank}, the upper is {} x {} with a kernel of {:?}",
                up.rows, up.columns, up.kernel
            )));
        }
        let channels = down.columns;
        let mut kernel = down.kernel.clone();
        let core = self.roles.get(&Role::Mid);
        if let Some(core) = core {
            let mid = self.sides(core)?;
            if (mid.rows, mid.columns) != (rank, rank) || !down.is_flat() || mid.kernel.is_empty() {
                return Err(self.misfit(&format!(
                    "the core is {} x {} with a kernel of {:?}, the rank {rank}",
                    mid.rows, mid.columns, mid.kernel
                )));
            }
            kernel = mid.kernel;
        }
        let d_in = channels * kernel.iter().product::<usize>();
        let magnitude = self.magnitude(up.rows, channels)?;
        let bias = self.roles.get(&Role::Bias);
        if let Some(bias) = bias {
            self.one_an_output(bias, up.rows)?;
        }
        Ok(Module {
            layer: if kernel.is_empty() {
                LayerKind::Linear
            } else {
                LayerKind::Conv { channels, kernel }
            },
            rank,
            d_in,
            d_out: up.rows,
            scaling: self.scaling(rank, config).await?,
            init: Init::Plain,
            has_magnitude: magnitude.is_some(),
            has_bias: bias.is_some(),
            stored: Stored {
                checkpoint: Rc::clone(self.checkpoint),
                lower: lower.to_owned(),
                upper: upper.to_owned(),
                core: core.cloned(),
                magnitude: magnitude.map(str::to_owned),
                bias: bias.cloned(),
                rank,
                d_out: up.rows,
                swapped: false,
                cut: None,
                kept: Rc::default(),
            },
        })
    }

    /// The factor s: alpha / rank, what the header says, or 1.
    #[allow(clippy::cast_precision_loss, reason = "ranks are far below 2^53")]
    async fn scaling(&self, rank: usize, config: Option<(&AdapterConfig, &str)>) -> Result<f64> {
        let said = match config {
            Some((config, name)) if config.rank_of(name) != rank => {
                return Err(self.misfit(&format!(
                    "the factors have rank {rank}, the header says {}",
                    config.rank_of(name)
                )));
            }
            Some((config, name)) => Some(config.scaling_of(name)),
            None => None,
        };
        let Some(alpha) = self.roles.get(&Role::Alpha) else {
            return Ok(said.unwrap_or(1.0));
        };
        let alpha = match self.checkpoint.f32(alpha).await?[..] {
            [alpha] => f64::from(alpha),
            _ => return Err(self.misfit("its alpha is not one number")),
        };
        if alpha == 0.0 {
            return Err(self.refused(
                "its alpha is 0, which kohya's scripts read as the rank and others as no effect; set it",
            ));
        }
        let scaling = alpha / rank as f64;
        match said {
            // Alpha may have been rounded to the file's type.
            Some(said) if (said - scaling).abs() > 4e-3 * said.abs() => Err(self.refused(&format!(
                "its alpha tensor means a scale of {scaling}, the header one of {said}; remove one of them"
            ))),
            _ => Ok(scaling),
        }
    }

    /// The tensor of DoRA's magnitudes, one an output.
    fn magnitude(&self, d_out: usize, channels: usize) -> Result<Option<&str>> {
        if let Some(name) = self.roles.get(&Role::Magnitude) {
            self.one_an_output(name, d_out)?;
            return Ok(Some(name));
        }
        let Some(name) = self.roles.get(&Role::DoraScale) else {
            return Ok(None);
        };
        let info = self.checkpoint.require(name)?;
        let (shape, elements) = (&info.shape, info.elements());
        if elements == d_out && shape.first() == Some(&d_out) {
            return Ok(Some(name));
        }
        if elements == channels && shape.first() == Some(&1) {
            return Err(self.refused(
                "its DoRA scales inputs and not outputs (LyCORIS' wd_on_out=False), which no other tool computes alike",
            ));
        }
        Err(self.misfit(&format!(
            "its dora_scale has shape {shape:?} and the layer {d_out} outputs"
        )))
    }

    fn one_an_output(&self, name: &str, d_out: usize) -> Result<()> {
        let elements = self.checkpoint.require(name)?.elements();
        if elements == d_out {
            return Ok(());
        }
        Err(self.misfit(&format!(
            "the layer has {d_out} outputs, its magnitude or bias {elements} numbers"
        )))
    }

    fn require(&self, role: Role, other: Role) -> Result<&str> {
        if let Some(name) = self.roles.get(&role) {
            return Ok(name);
        }
        let there = self.roles.get(&other).or_else(|| self.roles.values().next());
        let factor = if role == Role::Down { "lower" } else { "upper" };
        Err(Error::new(
            Code::Missing,
            format!(
                "A module has no {factor} factor (lora_down and lora_up, or lora_A and lora_B, come in pairs) beside {}: {}",
                there.map_or("nothing", String::as_str),
                self.module
            ),
        ))
    }

    fn sides(&self, name: &str) -> Result<Sides> {
        let info = self.checkpoint.require(name)?;
        let shape = &info.shape;
        let refused = |what: &str| {
            let file = self.checkpoint.file_of(info);
            let message = format!("A factor has shape {shape:?}, which is {what} ({file}): {name}");
            Err(Error::new(Code::ShapeMismatch, message))
        };
        if shape.contains(&0) {
            return refused("empty: a change of rank 0; save the adapter without this module");
        }
        match shape[..] {
            [rows, columns, ref kernel @ ..] if kernel.len() <= 3 => Ok(Sides {
                rows,
                columns,
                kernel: kernel.to_vec(),
            }),
            _ => refused("no layer's"),
        }
    }

    fn misfit(&self, why: &str) -> Error {
        Error::new(
            Code::ShapeMismatch,
            format!("A module's tensors do not fit each other, {why}: {}", self.module),
        )
    }

    fn refused(&self, why: &str) -> Error {
        Error::new(
            Code::AdapterUnsupported,
            format!("A module is not merged, {why}: {}", self.module),
        )
    }
}

impl Sides {
    /// Whether a kernel has but one place.
    fn is_flat(&self) -> bool {
        self.kernel.iter().all(|&side| side == 1)
    }
}

/// The modules that a layer's update is of, with their paths; `module` is named in errors.
///
/// A fused layer's factors are divided by the rows of the upper one. If that is block-diagonal, as kohya's scripts
/// write it where the parts were trained apart, each part has only its own rank; else all share the lower factor.
pub(super) async fn divide(mut layer: Module, target: &Target, module: &str) -> Result<Vec<Piece>> {
    layer.stored.swapped = target.rows.swaps(layer.d_out, layer.d_in);
    let ranges = target.rows.ranges(layer.d_out, layer.d_in);
    let ranges = ranges
        .filter(|ranges| ranges.len() == target.parts.len())
        .ok_or_else(|| {
            Error::new(
                Code::ShapeMismatch,
                format!(
                    "A layer of {} x {} cannot be the fused one of its name, of {} parts: {module}",
                    layer.d_out,
                    layer.d_in,
                    target.parts.len()
                ),
            )
        })?;
    if target.rows == Rows::Whole || ranges.len() == 1 {
        return Ok(target.parts.iter().cloned().zip([layer]).collect());
    }
    let apart = own_ranks(&layer, &ranges).await?;
    Ok(target
        .parts
        .iter()
        .zip(ranges)
        .enumerate()
        .map(|(part, (path, rows))| {
            let columns = match apart {
                Some(rank) => part * rank..(part + 1) * rank,
                None => 0..layer.rank,
            };
            (path.clone(), cut(&layer, rows, columns))
        })
        .collect())
}

/// The rank of each part if the upper factor is block-diagonal.
async fn own_ranks(layer: &Module, ranges: &[Range<usize>]) -> Result<Option<usize>> {
    let rank = layer.rank / ranges.len();
    if rank * ranges.len() != layer.rank {
        return Ok(None);
    }
    let upper = layer.stored.upper().await?;
    let diagonal = ranges.iter().enumerate().all(|(part, rows)| {
        rows.clone().all(|row| {
            let outside = |column: &usize| column / rank != part;
            // A negative zero would not come back when the parts are fused again.
            (0..layer.rank)
                .filter(outside)
                .all(|column| upper[row * layer.rank + column].to_bits() == 0)
        })
    });
    Ok(diagonal.then_some(rank))
}

/// Some rows of an update, by some of its directions.
fn cut(layer: &Module, rows: Range<usize>, columns: Range<usize>) -> Module {
    Module {
        rank: columns.len(),
        d_out: rows.len(),
        stored: Stored {
            cut: Some((rows, columns)),
            ..layer.stored.clone()
        },
        ..layer.clone()
    }
}
