//! The base model of a merge: one that can be run, the weights of one that cannot, or none.
//!
//! Methods that need no samples need no model either, and often not even its weights: adding factors up is the same for
//! any base. An adapter's module path and the checkpoint's key differ by prefixes; a tensor is taken only if exactly
//! one fits.

use std::{borrow::Cow, ops::Range};

use serde_json::Value;

use crate::{
    error::{Code, Error, Result},
    io::{Checkpoint, Folder},
    model::{self, Kind, Model, ModelFacts},
    naming::{BaseNames, CheckpointKey, Rows, in_component, path::bare, roles::is_embedding},
};

/// The base model as a merge sees it.
pub enum Base {
    /// Not given.
    Absent,
    /// Tensors only: a checkpoint whose architecture has no family here.
    Weights(Weights),
    /// A model of a known family.
    Model(Box<Model>),
}

/// A checkpoint of any architecture, of one file or of several parts (`unet/`, `text_encoder/`).
pub struct Weights {
    /// Its files.
    pub folder: Folder,
    /// The parts, each with the prefix that its modules have in an adapter (empty for a lone checkpoint).
    pub parts: Vec<(String, Checkpoint)>,
    /// Its modules by every name that adapters have for them.
    pub names: BaseNames,
    /// What its configuration calls it, if there is one.
    architecture: String,
    /// Why it cannot be run, where `config.json` says what it is.
    why: Option<Error>,
}

/// A tensor of the base model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BaseTensor {
    /// Which part of the base has it.
    pub part: usize,
    /// Its key there.
    pub key: String,
    /// Its shape there; of several layers in one tensor, that of the one meant.
    pub shape: Vec<usize>,
    /// Whether it is a linear layer's weight stored (d_in x d_out).
    pub transposed: bool,
    /// The number of it that the weight begins with: a file of an image model's authors has several layers in one
    /// tensor.
    pub offset: usize,
    /// Whether it has the second half of the weight's rows first.
    pub halves_swapped: bool,
}

/// Names of checkpoint files that parts of a diffusion pipeline have.
pub(crate) const PART_STEMS: &[&str] = &["diffusion_pytorch_model", "model", "pytorch_model"];

impl Base {
    /// Opens what there is: no files, a known model, or tensors.
    ///
    /// # Errors
    /// Whatever is wrong with the files; [`Code::Missing`] if there are files but no weights among them. A model of
    /// an unknown architecture is no error here, see [`Base::model`].
    pub async fn open(folder: Option<Folder>) -> Result<Self> {
        let Some(folder) = folder.filter(|folder| folder.files().len() > 0) else {
            return Ok(Self::Absent);
        };
        if folder.find("config.json").is_none() {
            return Ok(Self::Weights(Weights::open(folder, None).await?));
        }
        match model::open(folder.clone()).await {
            Ok(model) => Ok(Self::Model(Box::new(model))),
            Err(error) if error.code() == Code::ModelUnsupported => {
                match Weights::open(folder, Some(error.clone())).await {
                    Ok(weights) => Ok(Self::Weights(weights)),
                    Err(_) => Err(error),
                }
            }
            Err(error) => Err(error),
        }
    }

    /// The model, for work that runs it.
    ///
    /// # Errors
    /// [`Code::Missing`] without a base, [`Code::ModelUnsupported`] for one that cannot be run.
    pub fn model(&self, wanted_by: &str) -> Result<&Model> {
        match self {
            Self::Model(model) => Ok(model),
            Self::Absent => Err(Error::new(
                Code::Missing,
                format!("{wanted_by} needs the base model; give its folder"),
            )),
            Self::Weights(weights) => Err(weights.why.clone().unwrap_or_else(|| {
                Error::new(
                    Code::Missing,
                    format!(
                        "{}: no config.json, and {wanted_by} runs the base model; drop its whole folder as it was downloaded, or choose a method that needs no samples, such as linear or ties",
                        weights.folder.label(),
                    ),
                )
            })),
        }
    }

    /// What a person wants to know of it before merging.
    ///
    /// # Errors
    /// [`Code::Missing`] without a base.
    pub fn facts(&self) -> Result<ModelFacts> {
        match self {
            Self::Model(model) => Ok(model.facts()),
            Self::Absent => self.model("this").map(Model::facts),
            Self::Weights(weights) => {
                let checkpoints: Vec<&Checkpoint> = weights.parts.iter().map(|(_, part)| part).collect();
                let (parameters, dtype) = model::tally(&checkpoints);
                Ok(ModelFacts {
                    kind: Kind::Weights,
                    architecture: weights.architecture.clone(),
                    parameters,
                    dtype,
                    bytes: checkpoints.iter().map(|part| part.file_bytes()).sum(),
                    has_tokenizer: weights.folder.find("tokenizer.json").is_some(),
                    ..ModelFacts::default()
                })
            }
        }
    }

    /// Its modules by every name that an image model's adapters have for them; none where they have one name each.
    pub const fn names(&self) -> Option<&BaseNames> {
        match self {
            Self::Weights(weights) => Some(&weights.names),
            Self::Absent | Self::Model(_) => None,
        }
    }

    /// Its files.
    pub const fn folder(&self) -> Option<&Folder> {
        match self {
            Self::Absent => None,
            Self::Weights(weights) => Some(&weights.folder),
            Self::Model(model) => Some(&model.folder),
        }
    }

    /// The base's own name for a module path of an adapter.
    pub fn canonical<'a>(&self, path: &'a str) -> Cow<'a, str> {
        match self {
            Self::Model(model) => {
                let known = |name: &str| {
                    let of = name.rsplit_once('.').map_or(name, |(of, _)| of);
                    model.module(name).or_else(|| model.module(of)).is_some()
                };
                let own = model.family.canonical(path);
                // A class around the model that its family does not know, such as one for text and images.
                let bare = bare(path);
                if bare == path || known(&own) {
                    return own;
                }
                let inner = model.family.canonical(bare);
                if known(&inner) { inner } else { own }
            }
            Self::Absent | Self::Weights(_) => Cow::Borrowed(path),
        }
    }

    /// The prefix that a module path of an adapter carries, of the class that it was trained with.
    pub fn prefix_of(&self, path: &str) -> &'static str {
        match self {
            Self::Model(model) => model.family.names().prefix_of(path),
            Self::Absent | Self::Weights(_) => "",
        }
    }

    /// The base's own name of a module, spelled as the path `like` of an adapter is, without its prefix.
    pub fn spelled_like(&self, name: &str, like: &str) -> String {
        match self {
            Self::Model(model) => model.family.names().spelled_like(name, like),
            Self::Absent | Self::Weights(_) => name.to_owned(),
        }
    }

    /// The checkpoints, each with the prefix of its modules.
    pub fn parts(&self) -> Vec<(&str, &Checkpoint)> {
        match self {
            Self::Absent => Vec::new(),
            Self::Weights(weights) => weights
                .parts
                .iter()
                .map(|(prefix, checkpoint)| (prefix.as_str(), checkpoint))
                .collect(),
            Self::Model(model) => vec![("", &model.checkpoint)],
        }
    }

    /// The tensor `name` (such as `encoder.layer.0.attention.self.query.weight`), under the base's own name for it or
    /// an adapter's; none if none or several fit.
    pub fn tensor(&self, name: &str) -> Option<BaseTensor> {
        self.named(name).or_else(|| {
            // TensorFlow's names of a layer normalisation's parameters.
            let (module, parameter) = name.rsplit_once('.')?;
            let legacy = match parameter {
                "bias" => "beta",
                "weight" => "gamma",
                _ => return None,
            };
            self.named(&format!("{module}.{legacy}"))
        })
    }

    fn named(&self, name: &str) -> Option<BaseTensor> {
        if let Self::Weights(weights) = self
            && let Some(tensor) = weights.known(name)
        {
            return Some(tensor);
        }
        let mut found = self
            .parts()
            .into_iter()
            .enumerate()
            .filter_map(|(part, (prefix, checkpoint))| {
                let name = in_component(name, prefix)?;
                let key = match self {
                    Self::Model(model) => {
                        let wanted = model.family.canonical(name);
                        checkpoint.names().find(|key| *key == name).or_else(|| {
                            checkpoint
                                .names()
                                .find(|key| model.family.canonical(key) == wanted)
                        })
                    }
                    Self::Absent | Self::Weights(_) => only_fit(checkpoint, name),
                }?;
                let transposed = match self {
                    Self::Model(model) => model
                        .family
                        .modules()
                        .iter()
                        .any(|module| module.key == key && module.transposed),
                    Self::Absent | Self::Weights(_) => false,
                };
                Some(BaseTensor {
                    part,
                    key: key.to_owned(),
                    shape: checkpoint.info(key)?.shape.clone(),
                    offset: 0,
                    halves_swapped: false,
                    transposed,
                })
            });
        let first = found.next();
        first.filter(|_| found.next().is_none())
    }

    /// The matrix of the language model's head and the table of its inputs, where one tensor is both: its key.
    pub fn tied(&self) -> Option<String> {
        match self {
            Self::Model(model) => {
                let head = model.family.head()?.weight;
                is_embedding(&head).then_some(head)
            }
            Self::Absent | Self::Weights(_) => None,
        }
    }

    /// Whether the experts' parameters of its architecture are stored (experts x d_in x d_out).
    pub fn experts_are_transposed(&self) -> bool {
        // `is_transposed` of the experts' classes in transformers.
        matches!(self, Self::Weights(weights) if ["gpt_oss", "openai_privacy_filter", "aria"]
            .contains(&weights.architecture.as_str()))
    }

    /// The numbers of a tensor as the checkpoint has them.
    ///
    /// # Errors
    /// Whatever reading reports.
    pub async fn read(&self, tensor: &BaseTensor) -> Result<Vec<f32>> {
        self.read_range(tensor, 0..tensor.shape.iter().product()).await
    }

    /// Some of the numbers of a tensor.
    ///
    /// # Errors
    /// Whatever reading reports.
    pub async fn read_range(&self, tensor: &BaseTensor, range: Range<usize>) -> Result<Vec<f32>> {
        match self.parts().get(tensor.part) {
            Some((_, checkpoint)) => checkpoint.f32_range(&tensor.key, range).await,
            None => Err(Error::new(
                Code::Internal,
                format!("the base has no such part; tensor: {}", tensor.key),
            )),
        }
    }
}

/// The one key that is `name`, or that differs from it by a class in front.
fn only_fit<'a>(checkpoint: &'a Checkpoint, name: &str) -> Option<&'a str> {
    if let Some(info) = checkpoint.info(name) {
        return Some(&info.name);
    }
    let mut fits = checkpoint.names().filter(|key| CheckpointKey::new(key).is(name));
    let first = fits.next();
    first.filter(|_| fits.next().is_none())
}

impl Weights {
    /// The weight of an image model's module, whichever names its file has.
    fn known(&self, name: &str) -> Option<BaseTensor> {
        let weight = self.names.weight(name.strip_suffix(".weight")?)?;
        let (part, key) = self
            .parts
            .iter()
            .enumerate()
            .find_map(|(part, (prefix, checkpoint))| {
                let key = in_component(&weight.key, prefix)?;
                checkpoint.info(key).map(|_| (part, key))
            })?;
        let (_, checkpoint) = self.parts.get(part)?;
        let mut shape = checkpoint.info(key)?.shape.clone();
        let (mut offset, mut halves_swapped) = (0, false);
        if weight.rows != Rows::Whole {
            let [rows, columns] = shape[..] else { return None };
            let range = weight.rows.ranges(rows, columns)?.get(weight.part)?.clone();
            (offset, halves_swapped) = (range.start * columns, weight.rows.swaps(rows, columns));
            shape = vec![range.len(), columns];
        }
        Some(BaseTensor {
            part,
            key: key.to_owned(),
            shape,
            transposed: false,
            offset,
            halves_swapped,
        })
    }

    async fn open(folder: Folder, why: Option<Error>) -> Result<Self> {
        let mut parts = Vec::new();
        for stem in PART_STEMS {
            let here = [
                format!("{stem}.safetensors"),
                format!("{stem}.safetensors.index.json"),
            ];
            if here.iter().any(|name| folder.find(name).is_some()) {
                parts.push((String::new(), Checkpoint::open(&folder, stem).await?));
                break;
            }
        }
        if parts.is_empty() {
            for (name, below) in folder.below() {
                let stem = PART_STEMS.iter().find(|stem| {
                    let single = below.find(&format!("{stem}.safetensors"));
                    single
                        .or_else(|| below.find(&format!("{stem}.safetensors.index.json")))
                        .is_some()
                });
                if let Some(stem) = stem {
                    parts.push((name, Checkpoint::open(&below, stem).await?));
                }
            }
        }
        let alone: Vec<_> = folder
            .files()
            .filter(|file| file.name().ends_with(".safetensors"))
            .collect();
        if parts.is_empty()
            && let [file] = alone[..]
        {
            parts.push((
                String::new(),
                Checkpoint::open_source(std::rc::Rc::clone(file)).await?,
            ));
        }
        if parts.is_empty() {
            return Err(Error::new(
                Code::Missing,
                format!(
                    "{}: no safetensors of a base model; give its folder, or one .safetensors file",
                    folder.label()
                ),
            ));
        }
        let mut architecture = String::new();
        for (file, field) in [
            ("config.json", "model_type"),
            ("config.json", "_class_name"),
            ("model_index.json", "_class_name"),
        ] {
            let config: Option<Value> = folder.read_json(file).await?;
            if let Some(name) = config.as_ref().and_then(|config| config.get(field)?.as_str()) {
                name.clone_into(&mut architecture);
                break;
            }
        }
        let keys: Vec<String> = parts
            .iter()
            .flat_map(|(prefix, checkpoint)| {
                checkpoint.names().map(move |key| match prefix.as_str() {
                    "" => key.to_owned(),
                    prefix => format!("{prefix}.{key}"),
                })
            })
            .collect();
        Ok(Self {
            folder,
            names: BaseNames::new(keys.iter().map(String::as_str)),
            parts,
            architecture,
            why,
        })
    }
}
