//! The factors of one module: from the tensors of a file to `scaling * b a`, and from an original's fused layer to
//! diffusers' modules.
//!
//! Every shape is held against the others, since one may fit by accident: a convolution's kernel belongs to the lower
//! factor, or to the core of a Tucker decomposition, and nowhere else.

use std::collections::BTreeMap;
use std::ops::Range;

use crate::{
    adapter::{
        AdapterConfig, LayerKind, Lora,
        single_file::{Piece, key::Role},
    },
    compute::narrow,
    error::{Code, Error, Result},
    io::Checkpoint,
    naming::{Rows, Target},
};

/// The tensors of one module.
pub(super) struct Part<'a> {
    pub(super) checkpoint: &'a Checkpoint,
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
    /// Reads the module; `config` is what a header says of it, with the module's name there.
    pub(super) async fn read(&self, config: Option<(&AdapterConfig, &str)>) -> Result<Lora> {
        let down = self.sides(self.require(Role::Down, Role::Up)?)?;
        let up = self.sides(self.require(Role::Up, Role::Down)?)?;
        let rank = down.rows;
        if up.columns != rank || !up.is_flat() {
            return Err(self.misfit(&format!(
                "the lower factor has rank {rank}, the upper is {} x {} with a kernel of {:?}",
                up.rows, up.columns, up.kernel
            )));
        }
        let mut lora = Lora {
            b: self.numbers(Role::Up).await?,
            rank,
            d_out: up.rows,
            scaling: self.scaling(rank, config).await?,
            ..Lora::default()
        };
        let channels = down.columns;
        let kernel;
        (lora.a, kernel) = if let Some(mid) = self.roles.get(&Role::Mid) {
            let mid = self.sides(mid)?;
            if (mid.rows, mid.columns) != (rank, rank) || !down.is_flat() || mid.kernel.is_empty() {
                return Err(self.misfit(&format!(
                    "the core is {} x {} with a kernel of {:?}, the rank {rank}",
                    mid.rows, mid.columns, mid.kernel
                )));
            }
            let core = self.numbers(Role::Mid).await?;
            let composed = compose(&core, &self.numbers(Role::Down).await?, rank, channels);
            (composed, mid.kernel)
        } else {
            (self.numbers(Role::Down).await?, down.kernel)
        };
        lora.d_in = lora.a.len() / rank;
        if !kernel.is_empty() {
            lora.layer = LayerKind::Conv { channels, kernel };
        }
        lora.magnitude = self.magnitude(lora.d_out, channels).await?;
        if self.roles.contains_key(&Role::Bias) {
            lora.bias = Some(self.one_an_output(Role::Bias, lora.d_out).await?);
        }
        Ok(lora)
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

    /// DoRA's magnitudes, one an output.
    async fn magnitude(&self, d_out: usize, channels: usize) -> Result<Option<Vec<f32>>> {
        if self.roles.contains_key(&Role::Magnitude) {
            return self.one_an_output(Role::Magnitude, d_out).await.map(Some);
        }
        let Some(name) = self.roles.get(&Role::DoraScale) else {
            return Ok(None);
        };
        let shape = &self.checkpoint.require(name)?.shape;
        let elements = self.checkpoint.require(name)?.elements();
        if elements == d_out && shape.first() == Some(&d_out) {
            return self.one_an_output(Role::DoraScale, d_out).await.map(Some);
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

    async fn one_an_output(&self, role: Role, d_out: usize) -> Result<Vec<f32>> {
        let numbers = self.numbers(role).await?;
        if numbers.len() == d_out {
            return Ok(numbers);
        }
        Err(self.misfit(&format!(
            "the layer has {d_out} outputs, its magnitude or bias {} numbers",
            numbers.len()
        )))
    }

    async fn numbers(&self, role: Role) -> Result<Vec<f32>> {
        match self.roles.get(&role) {
            Some(name) => self.checkpoint.f32(name).await,
            None => Ok(Vec::new()),
        }
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
        let shape = &self.checkpoint.require(name)?.shape;
        match shape[..] {
            [rows, columns, ref kernel @ ..] if !shape.contains(&0) && kernel.len() <= 3 => Ok(Sides {
                rows,
                columns,
                kernel: kernel.to_vec(),
            }),
            _ => Err(Error::new(
                Code::ShapeMismatch,
                format!("A factor has shape {shape:?}, which is no layer's: {name}"),
            )),
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

/// The lower factor of a Tucker decomposition with its core put into it: `a[m, j, k] = sum_n core[m, n, k] down[n, j]`.
fn compose(core: &[f32], down: &[f32], rank: usize, channels: usize) -> Vec<f32> {
    let places = core.len() / (rank * rank);
    let mut a = Vec::with_capacity(rank * channels * places);
    for m in 0..rank {
        for j in 0..channels {
            for k in 0..places {
                let sum: f64 = (0..rank)
                    .map(|n| f64::from(core[(m * rank + n) * places + k]) * f64::from(down[n * channels + j]))
                    .sum();
                a.push(narrow(sum));
            }
        }
    }
    a
}

/// The modules that a layer's update is of, with their paths; `module` is named in errors.
///
/// A fused layer's factors are divided by the rows of the upper one. If that is block-diagonal, as kohya's scripts
/// write it where the parts were trained apart, each part has only its own rank; else all share the lower factor.
pub(super) fn divide(mut lora: Lora, target: &Target, module: &str) -> Result<Vec<Piece>> {
    if target.rows.swaps(lora.d_out, lora.d_in) {
        swap_halves(&mut lora);
    }
    let ranges = target.rows.ranges(lora.d_out, lora.d_in);
    let ranges = ranges
        .filter(|ranges| ranges.len() == target.parts.len())
        .ok_or_else(|| {
            Error::new(
                Code::ShapeMismatch,
                format!(
                    "A layer of {} x {} cannot be the fused one of its name, of {} parts: {module}",
                    lora.d_out,
                    lora.d_in,
                    target.parts.len()
                ),
            )
        })?;
    if target.rows == Rows::Whole || ranges.len() == 1 {
        return Ok(target.parts.iter().cloned().zip([lora]).collect());
    }
    let apart = own_ranks(&lora, &ranges);
    Ok(target
        .parts
        .iter()
        .zip(ranges)
        .enumerate()
        .map(|(part, (path, rows))| {
            let columns = match apart {
                Some(rank) => part * rank..(part + 1) * rank,
                None => 0..lora.rank,
            };
            (path.clone(), cut(&lora, &rows, &columns))
        })
        .collect())
}

/// The rank of each part if the upper factor is block-diagonal.
fn own_ranks(lora: &Lora, ranges: &[Range<usize>]) -> Option<usize> {
    let rank = lora.rank / ranges.len();
    if rank * ranges.len() != lora.rank {
        return None;
    }
    let diagonal = ranges.iter().enumerate().all(|(part, rows)| {
        rows.clone().all(|row| {
            let outside = |column: &usize| column / rank != part;
            // A negative zero would not come back when the parts are fused again.
            (0..lora.rank)
                .filter(outside)
                .all(|column| lora.b[row * lora.rank + column].to_bits() == 0)
        })
    });
    diagonal.then_some(rank)
}

/// Some rows of an update, by some of its directions.
fn cut(lora: &Lora, rows: &Range<usize>, columns: &Range<usize>) -> Lora {
    let b = rows
        .clone()
        .flat_map(|row| &lora.b[row * lora.rank + columns.start..row * lora.rank + columns.end])
        .copied()
        .collect();
    let outputs = |values: &Option<Vec<f32>>| values.as_ref().map(|values| values[rows.clone()].to_vec());
    Lora {
        a: lora.a[columns.start * lora.d_in..columns.end * lora.d_in].to_vec(),
        b,
        rank: columns.len(),
        d_in: lora.d_in,
        d_out: rows.len(),
        scaling: lora.scaling,
        layer: lora.layer.clone(),
        magnitude: outputs(&lora.magnitude),
        bias: outputs(&lora.bias),
        init: lora.init,
    }
}

/// Puts the second half of an update's rows first.
pub(in crate::adapter) fn swap_halves(lora: &mut Lora) {
    let half = lora.d_out / 2;
    lora.b.rotate_left(half * lora.rank);
    for values in [&mut lora.magnitude, &mut lora.bias].into_iter().flatten() {
        values.rotate_left(half);
    }
}
