//! What several variants of one model write after the same prompts, for reading side by side.

use std::{collections::BTreeMap, rc::Rc};

use crate::{
    adapter::{Adapter, is_adapter},
    binding::{Base, ReadAdapter, lanes::lane_deltas},
    compute::Compute,
    delta::DeviceDelta,
    error::{Code, Error, Result},
    generate::{Answer, GenerateContext, PromptedTask, Sampling, generate},
    io::Folder,
    model::{self, Model},
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
    /// Token ids of each prompt.
    pub prompts: Vec<Vec<u32>>,
    /// How.
    pub sampling: Sampling,
}

/// An adapter of a variant, on the device.
struct LoadedAdapter {
    at: usize,
    name: String,
    deltas: BTreeMap<String, Rc<DeviceDelta>>,
}

/// The answers of every variant, in the order given, to every prompt. Adapters of one base answer
/// together, so that its weights are read once.
///
/// # Errors
/// As [`generate`], and whatever is wrong with the files.
pub async fn write_variants(
    request: GenerateRequest,
    compute: &Compute,
    observer: &dyn Observer,
) -> Result<Vec<(String, Vec<Answer>)>> {
    if request.variants.is_empty() || request.prompts.is_empty() {
        return Err(Error::new(
            Code::OptionInvalid,
            "nothing to write: give at least one prompt and one variant of the model",
        ));
    }
    let base = Base::open(Some(request.base)).await?;
    let model = base.model("writing")?;
    let mut loaded: Vec<LoadedAdapter> = Vec::new();
    let mut whole: Vec<(usize, Model)> = Vec::new();
    let mut found: Vec<(String, Vec<Answer>)> = Vec::new();
    for (at, Variant { name, folder }) in request.variants.into_iter().enumerate() {
        found.push((name.clone(), Vec::new()));
        let deltas = match folder {
            None => BTreeMap::new(),
            Some(folder) if is_adapter(&folder) => {
                let adapter = ReadAdapter::alone(Adapter::read(&name, &folder).await?);
                lane_deltas(&base, &adapter)
                    .await?
                    .into_iter()
                    .map(|(module, delta)| (module, Rc::new(delta.to_device(compute))))
                    .collect()
            }
            Some(folder) => {
                whole.push((at, model::open(folder).await?));
                continue;
            }
        };
        loaded.push(LoadedAdapter { at, name, deltas });
    }
    let none = BTreeMap::new();
    let write = async |model: &Model, prompted_tasks: &[PromptedTask<'_>]| {
        let generation = GenerateContext {
            model,
            compute,
            keep_host: None,
            observer,
        };
        generate(&generation, prompted_tasks, &request.sampling).await
    };
    if !loaded.is_empty() {
        let prompted_tasks: Vec<PromptedTask<'_>> = loaded
            .iter()
            .map(|one| PromptedTask {
                name: &one.name,
                deltas: &one.deltas,
                prompts: request.prompts.clone(),
            })
            .collect();
        let answers = write(model, &prompted_tasks).await?;
        for (one, answers) in loaded.iter().zip(answers) {
            found[one.at].1 = answers;
        }
    }
    for (at, model) in whole {
        let prompted_tasks = [PromptedTask {
            name: "the model",
            deltas: &none,
            prompts: request.prompts.clone(),
        }];
        let mut answers = write(&model, &prompted_tasks).await?;
        found[at].1 = answers.pop().unwrap_or_default();
    }
    Ok(found)
}
