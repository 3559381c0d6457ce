//! One module's tensors, put together to its update.
//!
//! What the product is added to follows from the tensors' names and dimensions together, and whatever fits none of them
//! is refused.

use std::{collections::BTreeMap, rc::Rc};

use crate::{
    adapter::{
        AdapterConfig, Init, LayerKind, Module, config::ends_with_path, module::Stored, peft::keys::Side,
    },
    error::{Code, Error, Result},
    io::{Checkpoint, TensorInfo},
};

/// The tensors of a module's update, by their names in the file.
pub(super) type Sides = BTreeMap<Side, String>;

/// The order in which the classes of transformers' experts have their parameters. PEFT wraps a module once for
/// each adapted parameter in that order, and the file says no more than how many wrappers lie around one.
const EXPERT_PARAMETERS: &[&str] = &["gate_up_proj", "gate_up_proj_bias", "down_proj", "down_proj_bias"];

/// Parameters of one module as PEFT wraps them, the innermost first.
pub(super) fn in_wrapping_order(names: &mut [&str]) -> bool {
    let place = |name: &&str| EXPERT_PARAMETERS.iter().position(|known| known == name);
    names.sort_by_key(|name| place(name));
    names.len() < 2 || names.iter().all(|name| place(name).is_some())
}

/// Which parameter of `module` the tensors inside of `depth` of all its `levels` wrappers are for; none for the
/// module's own weight.
///
/// # Errors
/// `adapter_unsupported` if the configuration does not tell.
pub(super) fn parameter(
    config: &AdapterConfig,
    module: &str,
    depth: usize,
    levels: usize,
) -> Result<Option<String>> {
    let mut names: Vec<&str> = config
        .target_parameters
        .iter()
        .filter_map(|target| target.rsplit_once('.'))
        .filter(|(of, _)| ends_with_path(module, of))
        .map(|(_, name)| name)
        .collect();
    names.sort_unstable();
    names.dedup();
    let unclear = |why: &str| {
        Err(Error::new(
            Code::AdapterUnsupported,
            format!("which parameters the factors are for cannot be told: {why}; module: {module}"),
        ))
    };
    if names.is_empty() {
        return if levels > 1 || depth > 0 {
            unclear("target_parameters names none of this module")
        } else {
            Ok(None)
        };
    }
    if names.len() != levels {
        return unclear("target_parameters names another number of them than the file has");
    }
    if !in_wrapping_order(&mut names) {
        return unclear(
            "the file tells several of one module apart by the order in which its class has them, which is not known here",
        );
    }
    // The last one is wrapped around the others.
    Ok(names.iter().rev().nth(depth).map(|name| (*name).to_owned()))
}

/// What there is of a module's update, whose tensors fit each other and the configuration. `path` is the
/// module's, or the adapted parameter's (then `is_parameter`).
pub(super) fn read(
    checkpoint: &Rc<Checkpoint>,
    config: &AdapterConfig,
    path: &str,
    is_parameter: bool,
    sides: &Sides,
) -> Result<Module> {
    let embedding = sides.contains_key(&Side::EmbeddingA) || sides.contains_key(&Side::EmbeddingB);
    let (side_a, side_b, name_a, name_b) = if embedding {
        (
            Side::EmbeddingA,
            Side::EmbeddingB,
            "lora_embedding_A",
            "lora_embedding_B",
        )
    } else {
        (Side::A, Side::B, "lora_A", "lora_B")
    };
    let (a, b) = match (sides.get(&side_a), sides.get(&side_b)) {
        (Some(a), Some(b)) => (a, b),
        (a, b) => {
            let (there, absent) = match (a, b) {
                (Some(_), _) => (name_a, name_b),
                (_, Some(_)) => (name_b, name_a),
                _ => ("part of an update", name_a),
            };
            return Err(Error::new(
                Code::Missing,
                format!("A module has a {there} but no {absent}; save the adapter again with PEFT: {path}"),
            ));
        }
    };
    if embedding && sides.contains_key(&Side::A) {
        return Err(Error::new(
            Code::Duplicate,
            format!("A module has factors of an embedding and of a layer: {path}"),
        ));
    }
    let shape = Shape::of(checkpoint, (a, b), embedding)?;
    let (rank, experts) = shape.rank_and_experts(config, path, is_parameter)?;
    let layer = match (shape.kernel, is_parameter, embedding) {
        (Some((channels, kernel)), ..) => LayerKind::Conv { channels, kernel },
        (None, true, _) => LayerKind::Parameter {
            name: path.rsplit_once('.').map_or(path, |(_, name)| name).to_owned(),
            experts,
        },
        (None, false, true) => LayerKind::Embedding,
        (None, false, false) => LayerKind::Linear,
    };
    let init = match layer {
        LayerKind::Linear => config.init,
        // PEFT leaves embeddings as they are under every initialisation.
        LayerKind::Embedding => Init::Plain,
        LayerKind::Conv { .. } | LayerKind::Parameter { .. } if config.init == Init::Plain => Init::Plain,
        LayerKind::Conv { .. } | LayerKind::Parameter { .. } => {
            return Err(Error::new(
                Code::AdapterUnsupported,
                format!("PEFT takes no first product out of the base for a layer of this kind: {path}"),
            ));
        }
    };
    let vector = |side: Side, length: usize, asked: bool, field: &str| match (sides.get(&side), asked) {
        (Some(tensor), true) => {
            let info = checkpoint.require(tensor)?;
            if info.elements() != length {
                return Err(Error::new(
                    Code::ShapeMismatch,
                    format!(
                        "a tensor has shape {:?} for {length} outputs; the file is damaged: {tensor}",
                        info.shape
                    ),
                ));
            }
            Ok(Some(tensor.clone()))
        }
        (Some(tensor), false) => Err(Error::new(
            Code::AdapterUnsupported,
            format!(
                "the configuration does not say {field}, so PEFT would leave out a tensor; config and weights are of different adapters: {tensor}"
            ),
        )),
        (None, _) => Ok(None),
    };
    let magnitude = vector(
        Side::Magnitude,
        shape.d_out,
        config.use_dora,
        "use_dora (DoRA's magnitudes)",
    )?;
    if config.use_dora && magnitude.is_none() {
        return Err(Error::new(
            Code::Missing,
            format!("The configuration says use_dora, and a module has no lora_magnitude_vector: {path}"),
        ));
    }
    let bias = vector(
        Side::Bias,
        shape.d_out,
        config.lora_bias,
        "lora_bias (a bias of lora_B)",
    )?;
    Ok(Module {
        layer,
        rank,
        d_in: shape.d_in,
        d_out: shape.d_out,
        scaling: config.scaling_of(path),
        init,
        has_magnitude: magnitude.is_some(),
        has_bias: bias.is_some(),
        stored: Stored {
            checkpoint: Rc::clone(checkpoint),
            lower: a.clone(),
            upper: b.clone(),
            core: None,
            magnitude,
            bias,
            rank,
            d_out: shape.d_out,
            swapped: false,
            cut: None,
            kept: Rc::default(),
        },
    })
}

/// What the shapes of the two factors say.
struct Shape {
    /// Rows of A.
    rows: usize,
    /// Columns of B.
    columns: usize,
    d_in: usize,
    d_out: usize,
    /// Channels and kernel of a convolution.
    kernel: Option<(usize, Vec<usize>)>,
}

impl Shape {
    fn of(checkpoint: &Checkpoint, (a, b): (&str, &str), embedding: bool) -> Result<Self> {
        let (a, b) = (checkpoint.require(a)?, checkpoint.require(b)?);
        let mismatch = |info: &TensorInfo, what: &str| {
            Error::new(
                Code::ShapeMismatch,
                format!(
                    "A factor has shape {:?}, which is {what} ({}): {}",
                    info.shape,
                    checkpoint.file_of(info),
                    info.name
                ),
            )
        };
        for info in [a, b] {
            if info.shape.len() < 2 {
                return Err(mismatch(
                    info,
                    "no matrix; if it was trained with ZeRO or FSDP, gather its weights before saving",
                ));
            }
            if info.shape.contains(&0) {
                return Err(mismatch(
                    info,
                    "empty: a change of rank 0; save the adapter without this module",
                ));
            }
        }
        let (rows, columns, d_out) = (a.shape[0], b.shape[1], b.shape[0]);
        if let ([_, d_in], [_, _]) = (&a.shape[..], &b.shape[..]) {
            return Ok(Self {
                rows,
                columns,
                d_in: *d_in,
                d_out,
                kernel: None,
            });
        }
        if a.shape.len() != b.shape.len() || b.shape[2..].iter().any(|&side| side != 1) || embedding {
            return Err(mismatch(b, "no factor of a convolution"));
        }
        if columns != rows && rows.is_multiple_of(columns) {
            return Err(Error::new(
                Code::AdapterUnsupported,
                format!(
                    "an update of a convolution in {} groups reaches all its channels and has no place in its weight, so that PEFT cannot merge it either; train the adapter without it: {}",
                    rows / columns,
                    b.name
                ),
            ));
        }
        let kernel = a.shape[2..].to_vec();
        Ok(Self {
            rows,
            columns,
            d_in: a.shape[1..].iter().product(),
            d_out,
            kernel: Some((a.shape[1], kernel)),
        })
    }

    /// The rank of one product, and how many there are where there are several.
    fn rank_and_experts(
        &self,
        config: &AdapterConfig,
        path: &str,
        is_parameter: bool,
    ) -> Result<(usize, Option<usize>)> {
        let Self { rows, columns, .. } = *self;
        let expected = config.rank_of(path);
        let experts = rows / expected.max(1);
        if rows != expected && !(is_parameter && rows == expected * experts) {
            return Err(Error::new(
                Code::ShapeMismatch,
                format!(
                    "lora_A has rank {rows}, but the configuration's r and rank_pattern say {expected}; config and weights are of different adapters: {path}"
                ),
            ));
        }
        if columns != rows {
            return Err(Error::new(
                Code::ShapeMismatch,
                format!("lora_A has rank {rows}, but lora_B has rank {columns}; the file is damaged: {path}"),
            ));
        }
        Ok((expected, (experts > 1).then_some(experts)))
    }
}
