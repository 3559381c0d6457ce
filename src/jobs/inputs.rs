//! What every job is given: adapters with their samples.

use std::collections::BTreeSet;

use crate::{
    adapter::Adapter,
    binding::{Base, ReadAdapter},
    calibrate::TaskSamples,
    error::{Code, Error, Result},
    io::Folder,
    jobs::pictures,
    progress::{Observer, Pace},
};

/// One adapter as the caller gives it.
pub struct AdapterInput {
    /// What reports call it; names are distinct.
    pub name: String,
    /// Its files.
    pub folder: Folder,
    /// Its calibration (or held-out) samples.
    pub samples: Option<TaskSamples>,
    /// Pictures that are its samples, in their order; `samples` then has their labels and where they are from.
    pub pictures: Option<Folder>,
    /// The user's weight: any but zero, and positive for a method that reads samples.
    pub weight: f64,
    /// Where its files are, as a recipe finds them again.
    pub path: Option<String>,
}

/// What is read of inputs beside what tells of their layers.
#[derive(Clone, Copy, Default)]
pub struct Reading<'a> {
    /// All of every file, for its digest; the pace lets others run meanwhile.
    pub hashing: Option<&'a Pace<'a>>,
    /// Pictures that are samples; who is told of each, and may cancel. A worker is given samples with what it is asked for.
    pub pictures: Option<&'a dyn Observer>,
}

/// Reads every adapter, for a base model; beside them, in the same order, the samples that were given.
///
/// # Errors
/// [`Code::NoAdapters`], [`Code::Duplicate`] for two of one name, [`Code::OptionInvalid`] for a weight
/// of zero, and whatever is wrong with the files.
pub async fn read_adapters(
    inputs: Vec<AdapterInput>,
    base: &Base,
    reading: Reading<'_>,
) -> Result<(Vec<ReadAdapter>, Vec<Option<TaskSamples>>)> {
    if inputs.is_empty() {
        return Err(Error::new(
            Code::NoAdapters,
            "no adapter was given; give at least one, and two to merge",
        ));
    }
    let mut names = BTreeSet::new();
    let mut adapters = Vec::with_capacity(inputs.len());
    let mut all_samples = Vec::with_capacity(inputs.len());
    for AdapterInput {
        name,
        folder,
        mut samples,
        pictures,
        weight,
        path,
    } in inputs
    {
        if !names.insert(name.clone()) {
            return Err(Error::new(
                Code::Duplicate,
                format!("two adapters are called \"{name}\"; give each a name of its own"),
            ));
        }
        if !weight.is_finite() || weight == 0.0 {
            return Err(Error::new(
                Code::OptionInvalid,
                format!("adapter \"{name}\": weight {weight} gives nothing; choose a number other than 0"),
            ));
        }
        let adapter = Adapter::read_for(&name, &folder, base.names())
            .await
            .map_err(|error| error.about(&format!("adapter \"{name}\"")))?;
        if let (Some(pictures), Some(observer)) = (pictures, reading.pictures) {
            let given = samples.get_or_insert_default();
            pictures::read_into(given, base, &pictures, observer)
                .await
                .map_err(|error| error.about(&format!("adapter \"{name}\"")))?;
        }
        all_samples.push(samples);
        adapters.push(ReadAdapter {
            adapter,
            weight,
            files: match reading.hashing {
                Some(pace) => folder.sha256(pace).await?,
                None => Vec::new(),
            },
            path,
        });
    }
    Ok((adapters, all_samples))
}
