//! Samples that are pictures: decoded and preprocessed as the base model's files say.

use serde_json::Value;
use web_time::Instant;

use crate::{
    binding::Base,
    calibrate::TaskSamples,
    error::{Code, Error, Result},
    io::Folder,
    model::{
        Model,
        batch::{Input, Sample},
    },
    pictures::{Processor, decode},
    progress::{Observer, Progress},
};

/// Files that say how a model's pictures are preprocessed, in the order they are looked for.
const PROCESSOR_FILES: [&str; 2] = ["preprocessor_config.json", "processor_config.json"];

/// Reads a task's pictures into its samples, each with the caption that was given with it.
///
/// # Errors
/// As [`samples`], and [`Code::SamplesInvalid`] for another number of captions.
pub(super) async fn read_into(
    given: &mut TaskSamples,
    base: &Base,
    pictures: &Folder,
    observer: &dyn Observer,
) -> Result<()> {
    let samples = samples(base, pictures, observer).await?;
    given.names = pictures.names().map(str::to_owned).collect();
    given.samples = joined(samples, std::mem::take(&mut given.captions), "captions")?;
    Ok(())
}

/// Pictures of which variants of a model are to say something, each with the tokens that it begins with.
///
/// # Errors
/// As [`samples`], and [`Code::SamplesInvalid`] for another number of beginnings.
pub(super) async fn prompts(
    base: &Base,
    pictures: &Folder,
    begun: Vec<Vec<u32>>,
    observer: &dyn Observer,
) -> Result<Vec<Sample>> {
    joined(samples(base, pictures, observer).await?, begun, "prompts")
}

/// Pictures with the tokens that go with each; some may have none, and all if there are none.
fn joined(pictures: Vec<Sample>, tokens: Vec<Vec<u32>>, what: &str) -> Result<Vec<Sample>> {
    if tokens.is_empty() {
        return Ok(pictures);
    }
    if tokens.len() != pictures.len() {
        return Err(Error::new(
            Code::SamplesInvalid,
            format!(
                "{} pictures came with {} {what}; give one each, or none",
                pictures.len(),
                tokens.len()
            ),
        ));
    }
    let pairs = pictures.into_iter().zip(tokens);
    let join = |(picture, ids): (Sample, Vec<u32>)| match ids.is_empty() {
        true => picture,
        false => picture.and_tokens(ids),
    };
    Ok(pairs.map(join).collect())
}

/// The pictures of a folder, in its order, as the base model reads them.
///
/// # Errors
/// [`Code::SamplesInvalid`] for a model that reads none, [`Code::Missing`] without a file that says how they are
/// preprocessed, whatever is wrong with a picture, by its name, and cancellation.
async fn samples(base: &Base, pictures: &Folder, observer: &dyn Observer) -> Result<Vec<Sample>> {
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
    let (total, started) = (pictures.files().len(), Instant::now());
    let mut samples = Vec::with_capacity(total);
    for (done, (name, file)) in pictures.names().zip(pictures.files()).enumerate() {
        let progress = Progress {
            done,
            total,
            ..Progress::single("load", name, started.elapsed().as_secs_f64())
        };
        observer.progress(progress).await?;
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
