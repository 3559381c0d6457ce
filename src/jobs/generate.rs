//! What several variants of one model write after the same prompts, for reading side by side.

use std::{collections::BTreeMap, rc::Rc};

use crate::{
    adapter::{Adapter, is_adapter},
    binding::{Base, ReadAdapter, lanes::lane_deltas},
    compute::{Compute, Errand, MessageReader, Questions, mangled},
    delta::{Delta, DeviceDelta, on_device},
    error::{Code, Error, Result},
    generate::{Answer, GenerateContext, PromptedTask, Sampling, Speakers, generate, write_share},
    io::Folder,
    jobs::{
        choice::{Chosen, Devices},
        estimate::ModelWork,
        pictures,
    },
    model::{self, Model, batch::Sample},
    progress::Observer,
};

/// One variant of the model.
pub struct Variant {
    /// What the result calls it.
    pub name: String,
    /// A PEFT adapter's files, or a whole model's; the base itself if `None`.
    pub folder: Option<Folder>,
}

/// What is to be written.
pub struct GenerateRequest {
    /// The base model's files.
    pub base: Folder,
    /// The variants.
    pub variants: Vec<Variant>,
    /// Token ids of each prompt; of each picture's, if there are pictures, which may be none.
    pub prompts: Vec<Vec<u32>>,
    /// Pictures to be described, one a prompt, for models that read them.
    pub pictures: Option<Folder>,
    /// How.
    pub sampling: Sampling,
}

/// What was written.
pub struct Written {
    /// By variant: its name, and its answers to the prompts.
    pub variants: Vec<(String, Vec<Answer>)>,
    /// How long it took.
    pub seconds: f64,
    /// Where.
    pub chosen: Chosen,
}

/// The variants, opened.
struct Opened {
    base: Base,
    /// By variant: its name, and which model it is of, the base or one of `whole`.
    variants: Vec<(String, usize)>,
    /// By variant: what its adapter adds.
    adapters: Vec<BTreeMap<String, Delta>>,
    /// Models that are variants themselves.
    whole: Vec<Model>,
}

/// The base model's place among the models.
const BASE: usize = 0;

impl Opened {
    async fn open(base: Folder, variants: Vec<Variant>) -> Result<Self> {
        let base = Base::open(Some(base)).await?;
        base.model("writing")?;
        let mut opened = Self {
            base,
            variants: Vec::new(),
            adapters: Vec::new(),
            whole: Vec::new(),
        };
        for Variant { name, folder } in variants {
            let (mut deltas, mut model) = (BTreeMap::new(), BASE);
            match folder {
                None => {}
                Some(folder) if is_adapter(&folder) => {
                    let adapter = ReadAdapter::alone(Adapter::read(&name, &folder).await?);
                    deltas = lane_deltas(&opened.base, &adapter).await?;
                }
                Some(folder) => {
                    opened.whole.push(model::open(folder).await?);
                    model = opened.whole.len();
                }
            }
            opened.adapters.push(deltas);
            opened.variants.push((name, model));
        }
        Ok(opened)
    }

    /// What each variant's adapter adds, where it is computed with.
    fn on_device(&self, compute: &Compute) -> Vec<BTreeMap<String, Rc<DeviceDelta>>> {
        let adapters = self.adapters.iter();
        adapters.map(|deltas| on_device(deltas, compute)).collect()
    }

    fn models(&self) -> Result<Vec<&Model>> {
        let base = self.base.model("writing")?;
        Ok([base].into_iter().chain(&self.whole).collect())
    }
}

/// The answers of every variant, in the order given, to every prompt. Adapters of one base answer
/// together, so that its weights are read once.
///
/// # Errors
/// As [`generate`], and whatever is wrong with the files.
pub async fn write_variants<'a>(
    request: GenerateRequest,
    devices: impl Into<Devices<'a>>,
    observer: &dyn Observer,
) -> Result<Written> {
    let GenerateRequest {
        base,
        variants,
        prompts,
        pictures,
        sampling,
    } = request;
    if variants.is_empty() || prompts.is_empty() && pictures.is_none() {
        return Err(Error::new(
            Code::OptionInvalid,
            "nothing to write: give at least one prompt and one variant of the model",
        ));
    }
    let opened = Opened::open(base, variants).await?;
    let models = opened.models()?;
    let prompts = match &pictures {
        None => prompts.into_iter().map(Sample::text).collect(),
        Some(pictures) => pictures::prompts(&opened.base, pictures, prompts, observer).await?,
    };
    let rows: usize = prompts
        .iter()
        .map(|prompt| models[BASE].rows(prompt) + sampling.max_new_tokens)
        .sum();
    let pieces = prompts.len() * opened.variants.len();
    let rows = rows * opened.variants.len();
    let work = ModelWork::of_rows(&models, rows, sampling.max_new_tokens, pieces);
    // What it holds is checked where the micro-batches are known.
    let choice = devices.into().choose(&work, |_| Ok(()), observer).await?;
    choice.compile(models[BASE], false, observer).await?;
    let compute = choice.compute;
    compute.start_workers(work.workers(compute));
    let adapters = opened.on_device(compute);
    let mut found: Vec<(String, Vec<Answer>)> = opened
        .variants
        .iter()
        .map(|(name, _)| (name.clone(), Vec::new()))
        .collect();
    for (known_as, model) in models.into_iter().enumerate() {
        let variants = opened.variants.iter().enumerate();
        let own: Vec<(usize, &str)> = variants
            .filter(|(_, (_, of))| *of == known_as)
            .map(|(at, (name, _))| (at, name.as_str()))
            .collect();
        if own.is_empty() {
            continue;
        }
        let prompted_tasks: Vec<PromptedTask<'_>> = own
            .iter()
            .map(|&(at, name)| PromptedTask {
                name,
                deltas: &adapters[at],
                speaker: at,
                prompts: prompts.clone(),
            })
            .collect();
        let generation = GenerateContext {
            model,
            known_as,
            compute,
            keep_host: None,
            observer,
        };
        let answers = generate(&generation, &prompted_tasks, &sampling).await?;
        for ((at, _), answers) in own.into_iter().zip(answers) {
            found[at].1 = answers;
        }
    }
    Ok(Written {
        variants: found,
        seconds: compute.meter.elapsed(),
        chosen: choice.told(),
    })
}

/// Writes the answers to a share of the prompts, until nothing more is asked for.
///
/// # Errors
/// As [`write_variants`].
pub async fn write_variants_share(
    request: GenerateRequest,
    compute: &Compute,
    questions: &dyn Questions,
) -> Result<()> {
    let opened = Opened::open(request.base, request.variants).await?;
    let speakers = Speakers {
        models: opened.models()?,
        adapters: opened.on_device(compute),
    };
    while let Some(question) = questions.next().await? {
        let mut question = MessageReader::new(&question);
        let Errand::Write = Errand::of(&mut question)? else {
            return Err(mangled());
        };
        questions
            .answer(write_share(&speakers, compute, &mut question).await?)
            .await?;
    }
    Ok(())
}
