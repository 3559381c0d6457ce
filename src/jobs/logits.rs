//! The logits of one model, which tests and tools hold against other programs'.

use std::collections::BTreeMap;

use crate::{
    adapter::Adapter,
    binding::{Base, ReadAdapter, lanes::lane_deltas},
    calibrate::{self, Completing, DecoderInputs, Incomplete, Positions, TaskSamples},
    compare::{Run, find_head, has_classifier, no_classifier},
    compute::Compute,
    delta::on_device,
    error::{Code, Error, Result},
    generate::{self, GenerateContext},
    io::Folder,
    jobs::pictures,
    model::Steps,
    progress::Silent,
};

/// [`logits`] of pictures that are still files: they are read as the base's files say, and joined with what `given` has
/// for each (captions, answers).
///
/// # Errors
/// As [`logits`]; [`Code::SamplesInvalid`] for a base that reads no pictures, and whatever is wrong with a picture.
pub async fn logits_of_pictures(
    base: Folder,
    adapter: Option<Folder>,
    head: Option<Folder>,
    mut given: TaskSamples,
    files: &Folder,
    compute: &Compute,
) -> Result<(usize, Vec<f32>)> {
    let base = Base::open(Some(base)).await?;
    pictures::read_into(&mut given, &base, files, &Silent).await?;
    of_base(&base, adapter, head, &given, compute).await
}

/// The logits of one model, the base or the base with an adapter: (samples x labels) under a classifier,
/// or (rows x vocabulary) of a model that writes, a row a token that its head reads.
///
/// # Errors
/// [`Code::Missing`] without a head, and whatever is wrong with the files.
pub async fn logits(
    base: Folder,
    adapter: Option<Folder>,
    head: Option<Folder>,
    given: &TaskSamples,
    compute: &Compute,
) -> Result<(usize, Vec<f32>)> {
    let base = Base::open(Some(base)).await?;
    of_base(&base, adapter, head, given, compute).await
}

async fn of_base(
    base: &Base,
    adapter: Option<Folder>,
    head: Option<Folder>,
    given: &TaskSamples,
    compute: &Compute,
) -> Result<(usize, Vec<f32>)> {
    let model = base.model("computing logits")?;
    let read = match &adapter {
        Some(folder) => Some(ReadAdapter::alone(Adapter::read("adapter", folder).await?)),
        None => None,
    };
    let own = match &read {
        Some(read) => lane_deltas(base, read).await?,
        None => BTreeMap::new(),
    };
    let observer = &Silent;
    let classifies = read.iter().any(|read| has_classifier(model, &read.adapter.heads)) || head.is_some();
    if model.family.facts().generates && !classifies {
        let generation = GenerateContext {
            model,
            known_as: 0,
            compute,
            keep_host: None,
            observer,
        };
        let task = Incomplete {
            name: "adapter",
            deltas: on_device(&own, compute),
            samples: given,
        };
        let how = Completing {
            decoder_inputs: DecoderInputs::Own,
            positions: Positions::All,
            max_new_tokens: model.family.facts().kind.answer_length(None),
        };
        let tasks = [task];
        let complete = calibrate::complete(&generation, &tasks, &how).await?;
        let samples = complete.first().map_or(&[][..], |task| &task.samples);
        return generate::logits(&generation, &tasks[0].deltas, samples).await;
    }
    let mut heads = read
        .as_ref()
        .map(|read| read.adapter.heads.clone())
        .unwrap_or_default();
    if let Some(folder) = head {
        heads = Adapter::read("head", &folder).await?.heads;
    }
    let steps = Steps::new("forward", model.family.blocks());
    let run = Run {
        compute,
        observer,
        steps: &steps,
    };
    let (features, _) = run.features_of(model, &given.samples, &heads, &[&own]).await?;
    let head = find_head(model, &heads).await?.ok_or_else(|| {
        Error::new(
            Code::Missing,
            format!("{}; there are no logits", no_classifier(model, &heads)),
        )
    })?;
    Ok((
        head.labels(),
        features
            .iter()
            .flat_map(|features| head.logits(features))
            .collect(),
    ))
}
