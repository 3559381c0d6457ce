//! Adapters of image models in one file: kohya's and ComfyUI's, and diffusers'.
//!
//! Which it is, is told by the tensors' names; there is no configuration but what a header may say. Scales differ:
//! kohya's alpha is a tensor, diffusers' lies in the header or is the rank, and a missing one means 1 in every tool.
//! Names are traced to modules by [`naming`], numbers are read by [`factors`], and every tensor is accounted for.

mod diffusers;
mod factors;
mod image;
mod key;
mod kohya;
mod metadata;
mod spelling;

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use serde_json::json;

use crate::adapter::single_file::{
    factors::Part,
    key::{Key, Role},
    metadata::Configs,
};

pub use self::{
    diffusers::diffusers_plan,
    image::fitting,
    kohya::{KOHYA_FILE, kohya_plan},
};
use crate::{
    adapter::{Adapter, AdapterConfig, CONFIG_FILE, Format, Module, most, widest},
    error::{Code, Error, Result},
    io::{ByteSource, Checkpoint, Dtype, Folder},
    naming::{
        self, BaseNames, ModulePath, NATIVE, Target, Unclear, list,
        path::{PEFT, unwrapped},
        resolve,
        template::Family,
        transformer::contradicts_flux,
        unclear_names,
    },
};

/// The name that diffusers gives its file.
pub const DIFFUSERS_FILE: &str = "pytorch_lora_weights.safetensors";

/// Tensors of a file by module, as the file names it, and role.
type Sorted = BTreeMap<String, BTreeMap<Role, String>>;

/// The adapter file of a folder that has no PEFT configuration; none if there is no such file.
///
/// # Errors
/// `adapter_unsupported` if there are several files and none is diffusers'.
fn file_of(folder: &Folder) -> Result<Option<Rc<dyn ByteSource>>> {
    if folder.find(CONFIG_FILE).is_some() {
        return Ok(None);
    }
    if let Some(file) = folder.find(DIFFUSERS_FILE) {
        return Ok(Some(file));
    }
    let files: Vec<&str> = folder
        .names()
        .filter(|name| name.ends_with(".safetensors") && !name.contains('/'))
        .collect();
    match files[..] {
        [] => Ok(None),
        [file] => Ok(folder.find(file)),
        _ => Err(Error::new(
            Code::AdapterUnsupported,
            format!(
                "{} holds several files that may be the adapter; choose one of them: {}",
                folder.label(),
                files.join(", ")
            ),
        )),
    }
}

/// Reads the adapter of a folder if it is one of these formats; none if it is PEFT's to read.
///
/// # Errors
/// `adapter_unsupported` for other kinds of adapters, unknown names and what the factors cannot say,
/// `tensors_unaccounted` for tensors that belong to nothing, `missing` and `shape_mismatch` for factors that do not
/// fit each other, `duplicate` for a module under two names; whatever reading safetensors gives.
pub(in crate::adapter) async fn read(
    name: &str,
    folder: &Folder,
    base: Option<&BaseNames>,
) -> Result<Option<Adapter>> {
    let Some(source) = file_of(folder)? else {
        return Ok(None);
    };
    let checkpoint = Rc::new(Checkpoint::open_source(source).await?);
    // Trainers that put PEFT on an image model may save what PEFT calls it, with no configuration beside.
    let peft = checkpoint.names().any(|tensor| tensor.starts_with(PEFT));
    let of_image = |tensor: &str| match Key::of(&unwrapped(tensor)) {
        Key::Part { module, .. } => naming::is_of_image_model(&module),
        Key::Refused(_) | Key::Other => false,
    };
    if peft && !checkpoint.names().all(of_image)
        || checkpoint
            .names()
            .all(|tensor| Key::of(&unwrapped(tensor)) == Key::Other)
    {
        return Ok(None);
    }
    let around = if peft { PEFT } else { "" };
    let file = checkpoint.sources().first().map_or("", |source| source.name());
    let sorted = sort(&checkpoint, file)?;
    let targets = targets(&checkpoint, &sorted, base, file)?;
    let originals = targets.iter().any(|(module, target)| {
        naming::is_flat(module)
            || naming::is_comfy(module)
            || naming::in_component(&target.path, NATIVE).is_some()
    });
    let format = if originals {
        Format::Kohya
    } else {
        Format::Diffusers
    };
    let xlabs = checkpoint.names().any(key::is_xlabs);
    let configs = Configs::of(checkpoint.metadata(), file)?;
    let types = types(&checkpoint, &sorted);
    let mut adapter = Adapter {
        name: name.to_owned(),
        format,
        config: plain_config(1, 1.0, None, file)?,
        modules: BTreeMap::new(),
        spelled: BTreeMap::new(),
        heads: BTreeMap::new(),
        biases: BTreeMap::new(),
        tokens: BTreeMap::new(),
        labels: None,
        dtype: most(types.iter().copied()).unwrap_or(Dtype::F32),
        widest: widest(types),
        bytes: checkpoint.file_bytes(),
    };
    for (module, target) in targets {
        let Some(roles) = sorted.get(module) else { continue };
        let part = Part {
            checkpoint: &checkpoint,
            module,
            roles,
        };
        let layer = part.read(configs.of_module(module)).await?;
        for (path, piece) in factors::divide(layer, &target, module).await? {
            if format == Format::Kohya && !xlabs {
                adapter.spelled.insert(path.clone(), format!("{around}{module}"));
            }
            if adapter.modules.insert(ModulePath::new(&path), piece).is_some() {
                return Err(Error::new(
                    Code::Duplicate,
                    format!("{file} holds the same module under two names, one of which is {module}: {path}"),
                ));
            }
        }
    }
    let rank = most(adapter.modules.values().map(|module| module.rank)).unwrap_or(1);
    let scaling = most(adapter.modules.values().map(|module| module.scaling)).unwrap_or(1.0);
    let base_name = checkpoint.metadata().get("ss_sd_model_name");
    adapter.config = plain_config(rank, scaling, base_name.map(String::as_str), file)?;
    Ok(Some(adapter))
}

/// A module of the merge with its path.
type Piece = (String, Module);

/// Gives every tensor its place, or refuses the file.
fn sort(checkpoint: &Checkpoint, file: &str) -> Result<Sorted> {
    let mut sorted = Sorted::new();
    let mut refused: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    let mut unaccounted = Vec::new();
    for tensor in checkpoint.names() {
        match Key::of(&unwrapped(tensor)) {
            Key::Part { module, role } => {
                let other = sorted.entry(module).or_default().insert(role, tensor.to_owned());
                if let Some(other) = other {
                    return Err(Error::new(
                        Code::Duplicate,
                        format!(
                            "{file} holds the same tensor of a module under two names: {other}, {tensor}"
                        ),
                    ));
                }
            }
            Key::Refused(what) => refused.entry(what).or_default().push(tensor.to_owned()),
            Key::Other => unaccounted.push(tensor.to_owned()),
        }
    }
    if !refused.is_empty() {
        let kinds: Vec<&str> = refused.keys().copied().collect();
        let tensors: Vec<String> = refused.values().flatten().cloned().collect();
        return Err(Error::new(
            Code::AdapterUnsupported,
            format!(
                "{file} is not, or not only, LoRA but {}; only LoRA is merged: {}",
                kinds.join(" and "),
                list(&tensors)
            ),
        ));
    }
    if !unaccounted.is_empty() {
        return Err(Error::new(
            Code::TensorsUnaccounted,
            format!(
                "{file} holds tensors that are no factors of LoRA; save the adapter again without them: {}",
                list(&unaccounted)
            ),
        ));
    }
    Ok(sorted)
}

/// What the modules' names mean.
fn targets<'a>(
    checkpoint: &Checkpoint,
    sorted: &'a Sorted,
    base: Option<&BaseNames>,
    file: &str,
) -> Result<Vec<(&'a str, Target)>> {
    let mut targets = Vec::with_capacity(sorted.len());
    let mut unclear: Vec<(&str, Unclear)> = Vec::new();
    for module in sorted.keys() {
        match resolve(module, base) {
            Ok(target) => targets.push((module.as_str(), target)),
            Err(why) => unclear.push((module, why)),
        }
    }
    // A model that nothing here knows: its flattened names are names enough to merge by, and to write again.
    let known = targets
        .iter()
        .filter(|(_, target)| target.family.is_some() && !target.path.starts_with("text_encoder"));
    if base.is_none() && known.count() < unclear.len() {
        let as_they_stand: Option<Vec<(&str, Target)>> = unclear
            .iter()
            .map(|(module, _)| Some((*module, naming::as_it_stands(module)?)))
            .collect();
        if let Some(as_they_stand) = as_they_stand {
            targets.extend(as_they_stand);
            unclear.clear();
        }
    }
    if !unclear.is_empty() {
        return Err(unclear_names(&unclear, base.is_some(), file));
    }
    let of_flux = |target: &Target| target.family == Some(Family::Flux);
    let other = targets.iter().any(|(module, target)| {
        let width = |role: Role, axis: usize| {
            let tensor = sorted.get(*module)?.get(&role)?;
            checkpoint.info(tensor)?.shape.get(axis).copied()
        };
        of_flux(target)
            && match (width(Role::Up, 0), width(Role::Down, 1)) {
                (Some(d_out), Some(d_in)) => contradicts_flux(&target.path, d_out, d_in),
                _ => false,
            }
    });
    let flux = !other
        && targets.iter().any(|(_, target)| {
            of_flux(target) || target.path.starts_with("transformer.single_transformer_blocks.")
        });
    let second: BTreeSet<String> = targets
        .iter()
        .flat_map(|(_, target)| target.parts.iter().cloned())
        .filter(|path| path.starts_with("text_encoder_2."))
        .collect();
    for (_, target) in &mut targets {
        if other && of_flux(target) {
            *target = target.clone().native();
        }
        // kohya counts T5 as the third encoder; in Flux.1 it is the second of two.
        if flux && second.is_empty() {
            for path in target.parts.iter_mut().chain([&mut target.path]) {
                if let Some(rest) = naming::in_component(path, "text_encoder_3") {
                    *path = format!("text_encoder_2.{rest}");
                }
            }
        }
    }
    Ok(targets)
}

/// A configuration that says what such a file does.
fn plain_config(rank: usize, scaling: f64, base: Option<&str>, file: &str) -> Result<AdapterConfig> {
    #[allow(clippy::cast_precision_loss, reason = "ranks are far below 2^53")]
    let alpha = scaling * rank as f64;
    AdapterConfig::parse(
        &json!({ "peft_type": "LORA", "r": rank, "lora_alpha": alpha, "base_model_name_or_path": base }),
        file,
    )
}

/// The element types of the factors.
fn types(checkpoint: &Checkpoint, sorted: &Sorted) -> Vec<Dtype> {
    let factors = sorted
        .values()
        .flatten()
        .filter(|(role, _)| matches!(role, Role::Down | Role::Up))
        .filter_map(|(_, tensor)| checkpoint.info(tensor));
    factors.map(|info| info.dtype).collect()
}
