//! An adapter's folder: its factors and heads found, and every tensor accounted for.
//!
//! Each tensor ends up in a factor, in a head, or in an error.

use std::{
    collections::{BTreeMap, BTreeSet},
    rc::Rc,
};

use serde_json::Value;

use crate::{
    adapter::{
        Adapter, AdapterConfig, CONFIG_FILE, Format, TokenRows, TrainedBiases, labels, most,
        peft::{
            keys::{Key, is_saved},
            module::{self, Sides},
        },
        widest,
    },
    error::{Code, Error, Result},
    io::{Checkpoint, Dtype, Folder, StoredTensor, parse_json},
    naming::{ModulePath, list, roles::is_bases_own},
};

/// Numbers of two tensors that are in memory at a time while they are compared.
const COMPARED_NUMBERS: usize = 1 << 20;

/// The tensors of a file by what they are, as names in the file.
#[derive(Default)]
struct Sorted {
    /// By module and by how many wrappers of other parameters lie around.
    factors: BTreeMap<String, BTreeMap<usize, Sides>>,
    /// Under every name that PEFT wrote them.
    heads: BTreeMap<String, Vec<String>>,
    biases: BTreeMap<String, String>,
    tokens: BTreeMap<String, String>,
    /// The base's own weights of adapted modules.
    frozen: BTreeMap<String, String>,
}

/// Reads a folder of PEFT's; see [`Adapter::read`].
pub(in crate::adapter) async fn read(name: &str, folder: &Folder) -> Result<Adapter> {
    let file = folder.require(CONFIG_FILE)?;
    let config = AdapterConfig::parse(&parse_json::<Value>(file.as_ref()).await?, file.name())?;
    let checkpoint = Rc::new(Checkpoint::open(folder, "adapter_model").await?);
    let sorted = sort(&checkpoint, &config)?;

    let mut modules = BTreeMap::new();
    for (module, levels) in &sorted.factors {
        for (&depth, sides) in levels {
            let parameter = module::parameter(&config, module, depth, levels.len())?;
            // A layer's weight is one, however it was named.
            let parameter = parameter.filter(|parameter| parameter != "weight");
            let path = match &parameter {
                Some(parameter) => format!("{module}.{parameter}"),
                None => module.clone(),
            };
            let module = module::read(&checkpoint, &config, &path, parameter.is_some(), sides)?;
            modules.insert(ModulePath::new(&path), module);
        }
    }
    for (name, tensor) in &sorted.frozen {
        let module = name.rsplit_once('.').map_or("", |(module, _)| module);
        let elements = checkpoint.require(tensor)?.elements();
        if modules
            .get(module)
            .is_none_or(|module| module.d_in * module.d_out != elements)
        {
            return Err(unaccounted(&checkpoint, std::slice::from_ref(tensor)));
        }
    }
    let mut heads = BTreeMap::new();
    for (head, tensors) in &sorted.heads {
        heads.insert(head.clone(), whole(&checkpoint, tensors).await?);
    }
    let mut biases = BTreeMap::new();
    for (bias, tensor) in &sorted.biases {
        biases.insert(bias.clone(), checkpoint.f32(tensor).await?);
    }
    let mut tokens = BTreeMap::new();
    for (module, tensor) in &sorted.tokens {
        tokens.insert(module.clone(), rows(&checkpoint, &config, module, tensor).await?);
    }
    let sides = sorted.factors.values().flat_map(BTreeMap::values);
    let types: Vec<Dtype> = sides
        .flat_map(BTreeMap::values)
        .filter_map(|tensor| checkpoint.info(tensor))
        .map(|info| info.dtype)
        .collect();
    Ok(Adapter {
        name: name.to_owned(),
        format: Format::Peft,
        labels: labels::read(folder, &heads).await?,
        config,
        modules,
        spelled: BTreeMap::new(),
        heads,
        biases,
        tokens,
        dtype: most(types.iter().copied()).unwrap_or(Dtype::F32),
        widest: widest(types),
        bytes: checkpoint.file_bytes(),
    })
}

/// Gives every tensor its place, or refuses the file.
fn sort(checkpoint: &Checkpoint, config: &AdapterConfig) -> Result<Sorted> {
    let file = file_name(checkpoint);
    let mut sorted = Sorted::default();
    let mut adapters = BTreeSet::new();
    let mut refused = Vec::new();
    let mut left = Vec::new();
    let saved = saved_modules(config);
    for tensor in checkpoint.names() {
        let own = tensor.to_owned();
        let twice = match Key::of(tensor) {
            Key::Factor {
                module,
                depth,
                side,
                adapter,
            } => {
                adapters.extend(adapter);
                let levels = sorted.factors.entry(module).or_default();
                levels.entry(depth).or_default().insert(side, own)
            }
            Key::Tokens { module, adapter } => {
                adapters.extend(adapter);
                sorted.tokens.insert(module, own)
            }
            Key::Refused(what) => {
                refused.push(format!("{tensor} ({what})"));
                None
            }
            Key::Saved { name, adapter } => {
                adapters.extend(adapter);
                sorted.heads.entry(name).or_default().push(own);
                None
            }
            // `bias: all` saves the biases that its own copy of a module stands for, too.
            Key::Original(name) if name.ends_with(".bias") => None,
            Key::Frozen(name) if name.ends_with(".bias") && config.bias != TrainedBiases::None => {
                sorted.biases.insert(name, own)
            }
            // PEFT saves the table of an adapted embedding, which was not trained.
            Key::Frozen(name) if name.ends_with(".weight") => sorted.frozen.insert(name, own),
            Key::Other(name) if is_saved(&name, &saved) => {
                sorted.heads.entry(name).or_default().push(own);
                None
            }
            Key::Other(name) if name.ends_with(".bias") && config.bias == TrainedBiases::All => {
                sorted.biases.insert(name, own)
            }
            // As PEFT saves the tables that a vocabulary was made longer in, and whoever asks for them.
            Key::Other(name) if is_bases_own(&name) && name.ends_with(".weight") => {
                sorted.heads.entry(name).or_default().push(own);
                None
            }
            Key::Original(_) | Key::Frozen(_) | Key::Other(_) => {
                left.push(own);
                None
            }
        };
        if let Some(other) = twice {
            return Err(Error::new(
                Code::Duplicate,
                format!("{file} holds the same tensor of a module under two names: {other}, {tensor}"),
            ));
        }
    }
    if adapters.len() > 1 {
        let names: Vec<String> = adapters.into_iter().collect();
        return Err(Error::new(
            Code::AdapterUnsupported,
            format!(
                "A file holds several adapters ({}); save each in its own folder: {file}",
                names.join(", ")
            ),
        ));
    }
    if !refused.is_empty() {
        return Err(Error::new(
            Code::AdapterUnsupported,
            format!(
                "{file} holds what cannot be merged; train without these: {}",
                list(&refused)
            ),
        ));
    }
    if !left.is_empty() {
        return Err(unaccounted(checkpoint, &left));
    }
    if sorted.factors.is_empty() {
        return Err(Error::new(
            Code::Missing,
            format!("There are no LoRA factors (lora_A, lora_B) in it; is this an adapter?: {file}"),
        ));
    }
    Ok(sorted)
}

fn file_name(checkpoint: &Checkpoint) -> &str {
    checkpoint.sources().first().map_or("", |source| source.name())
}

fn unaccounted(checkpoint: &Checkpoint, tensors: &[String]) -> Error {
    Error::new(
        Code::TensorsUnaccounted,
        format!(
            "{} holds tensors that are neither parts of updates nor of modules_to_save; save the adapter again with PEFT: {}",
            file_name(checkpoint),
            list(tensors)
        ),
    )
}

/// The modules that PEFT saves whole: those named, and the heads it adds for a task.
fn saved_modules(config: &AdapterConfig) -> Vec<&str> {
    let of_task: &[&str] = match config.task_type.as_deref() {
        Some("SEQ_CLS" | "TOKEN_CLS") => &["classifier", "score"],
        Some("QUESTION_ANS") => &["qa_outputs"],
        _ => &[],
    };
    config
        .modules_to_save
        .iter()
        .map(String::as_str)
        .chain(of_task.iter().copied())
        .collect()
}

/// A tensor that was saved whole, under all its names in the file. Of one name nothing is read; of several, which some
/// releases of PEFT wrote, the numbers are held against each other.
async fn whole(checkpoint: &Rc<Checkpoint>, tensors: &[String]) -> Result<StoredTensor> {
    let mut all = Vec::with_capacity(tensors.len());
    for tensor in tensors {
        all.push(StoredTensor::new(checkpoint, tensor)?);
    }
    let found = all
        .pop()
        .ok_or_else(|| Error::new(Code::Internal, "a saved tensor without a name"))?;
    for other in &all {
        if !same(&found, other).await? {
            return Err(Error::new(
                Code::Duplicate,
                format!(
                    "{} holds different tensors of one module under two names: {}",
                    file_name(checkpoint),
                    tensors.join(", ")
                ),
            ));
        }
    }
    Ok(found)
}

async fn same(one: &StoredTensor, other: &StoredTensor) -> Result<bool> {
    if one.shape != other.shape {
        return Ok(false);
    }
    let elements = one.elements();
    for start in (0..elements).step_by(COMPARED_NUMBERS) {
        let range = start..elements.min(start + COMPARED_NUMBERS);
        if one.load_range(range.clone()).await? != other.load_range(range).await? {
            return Ok(false);
        }
    }
    Ok(true)
}

/// The trained rows of the embedding table at `module`.
async fn rows(
    checkpoint: &Checkpoint,
    config: &AdapterConfig,
    module: &str,
    tensor: &str,
) -> Result<TokenRows> {
    let Some(ids) = config.tokens_of(module) else {
        return Err(Error::new(
            Code::AdapterUnsupported,
            format!(
                "the configuration's trainable_token_indices does not say which tokens these rows are of: {tensor}"
            ),
        ));
    };
    let shape = &checkpoint.require(tensor)?.shape;
    let (count, width) = match shape[..] {
        [count, width] => (count, width),
        _ => (0, 0),
    };
    let mut places: Vec<usize> = (0..ids.len()).collect();
    places.sort_by_key(|&at| ids[at]);
    let sorted: Vec<usize> = places.iter().map(|&at| ids[at]).collect();
    if count != ids.len() || width == 0 || sorted.windows(2).any(|pair| pair[0] == pair[1]) {
        return Err(Error::new(
            Code::ShapeMismatch,
            format!(
                "the rows have shape {shape:?} for the {} tokens of trainable_token_indices, or one of those is named twice: {tensor}",
                ids.len()
            ),
        ));
    }
    let data = checkpoint.f32(tensor).await?;
    let row = |at: &usize| data[at * width..(at + 1) * width].to_vec();
    Ok(TokenRows {
        ids: sorted,
        width,
        data: places.iter().flat_map(row).collect(),
    })
}
