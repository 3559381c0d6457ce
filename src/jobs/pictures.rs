//! Samples that are pictures: decoded and preprocessed as the base model's files say.

use serde_json::Value;

use crate::{
    binding::Base,
    error::{Code, Error, Result},
    io::Folder,
    model::{
        Model,
        batch::{Input, Sample},
    },
    pictures::{Processor, decode},
};

/// Files that say how a model's pictures are preprocessed, in the order they are looked for.
const PROCESSOR_FILES: [&str; 2] = ["preprocessor_config.json", "processor_config.json"];

/// The pictures of a folder, in its order, as the base model reads them.
///
/// # Errors
/// [`Code::SamplesInvalid`] for a model that reads none, [`Code::Missing`] without a file that says how they are
/// preprocessed, and whatever is wrong with a picture, by its name.
pub(super) async fn samples(base: &Base, pictures: &Folder) -> Result<Vec<Sample>> {
    let model = base.model("reading pictures")?;
    if model.family.facts().picture.is_none() {
        return Err(Error::new(
            Code::SamplesInvalid,
            format!(
                "{} reads texts, and the samples are pictures; give a file of texts: {}",
                model.folder.label(),
                pictures.label()
            ),
        ));
    }
    let processor = processor(model).await?;
    let mut samples = Vec::with_capacity(pictures.files().len());
    for (name, file) in pictures.names().zip(pictures.files()) {
        let bytes = file.read(0..file.len()).await?;
        let picture = decode(&bytes, name)?;
        samples.push(Sample::of(Input::Grid(processor.pixels(&picture, name)?)));
    }
    Ok(samples)
}

async fn processor(model: &Model) -> Result<Processor> {
    for file in PROCESSOR_FILES {
        if let Some(config) = model.folder.read_json::<Value>(file).await? {
            return Processor::parse(&config, file);
        }
    }
    Err(Error::new(
        Code::Missing,
        format!(
            "{}: no {}, which says how pictures are preprocessed; give the whole folder of the base model",
            model.folder.label(),
            PROCESSOR_FILES[0]
        ),
    ))
}
