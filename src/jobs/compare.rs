//! Comparing: merged models held against each task's own adapter and the base.

use std::collections::BTreeMap;

use crate::{
    adapter::{Adapter, is_adapter},
    binding::{Base, ReadAdapter, lanes::lane_deltas},
    calibrate::{TaskSamples, check_samples},
    compare::{self, Class, CompareReport, Contest, ContestTask},
    compute::{Compute, Errand, MessageReader, Questions, mangled},
    delta::Delta,
    error::Result,
    generate::write_share,
    io::Folder,
    jobs::{
        choice::{Chosen, Devices},
        estimate::ModelWork,
        inputs::{AdapterInput, Reading, read_adapters},
    },
    model::{self, Model},
    progress::Observer,
};

/// A merged model to be compared.
pub struct MergedInput {
    /// What the report calls it.
    pub name: String,
    /// A merged adapter's files, or a merged base model's.
    pub folder: Folder,
}

/// What is to be compared.
pub struct CompareRequest {
    /// The base model's files.
    pub base: Folder,
    /// The adapters, each with samples of its task (held-out or calibration).
    pub adapters: Vec<AdapterInput>,
    /// The merged models.
    pub merged: Vec<MergedInput>,
    /// The most tokens of an answer, for models that write; as many as models of its kind write if it is none.
    pub max_new_tokens: Option<usize>,
    /// See [`Contest::classes`].
    pub classes: Vec<Class>,
}

/// The inputs of a comparison, opened.
struct Opened {
    base: Base,
    adapters: Vec<ReadAdapter>,
    samples: Vec<Option<TaskSamples>>,
    /// What each adapter adds, by module.
    deltas: Vec<BTreeMap<String, Delta>>,
    merged_adapters: Vec<(String, BTreeMap<String, Delta>)>,
    merged_models: Vec<(String, Model)>,
    max_new_tokens: usize,
    classes: Vec<Class>,
}

impl Opened {
    /// `check` looks at the samples before weights are read; pictures among them are read if there is somebody to tell.
    async fn open(
        request: CompareRequest,
        pictures: Option<&dyn Observer>,
        check: impl FnOnce(&Model, &[ReadAdapter], &[Option<TaskSamples>]) -> Result<()>,
    ) -> Result<Self> {
        let base = Base::open(Some(request.base)).await?;
        let model = base.model("a comparison")?;
        let reading = Reading {
            hashing: None,
            pictures,
        };
        let (adapters, samples) = read_adapters(request.adapters, &base, reading).await?;
        check(model, &adapters, &samples)?;
        let max_new_tokens = model.family.facts().kind.answer_length(request.max_new_tokens);
        let mut merged_adapters = Vec::new();
        let mut merged_models = Vec::new();
        for merged in request.merged {
            if is_adapter(&merged.folder) {
                let adapter = ReadAdapter::alone(Adapter::read(&merged.name, &merged.folder).await?);
                merged_adapters.push((merged.name, lane_deltas(&base, &adapter).await?));
            } else {
                merged_models.push((merged.name, model::open(merged.folder).await?));
            }
        }
        let mut deltas = Vec::with_capacity(adapters.len());
        for read in &adapters {
            deltas.push(lane_deltas(&base, read).await?);
        }
        Ok(Self {
            base,
            adapters,
            samples,
            deltas,
            merged_adapters,
            merged_models,
            max_new_tokens,
            classes: request.classes,
        })
    }

    fn contest(&self) -> Result<Contest<'_>> {
        let tasks = self.adapters.iter().zip(&self.deltas).zip(&self.samples);
        Ok(Contest {
            model: self.base.model("a comparison")?,
            tasks: tasks
                .map(|((read, deltas), samples)| ContestTask {
                    read,
                    deltas,
                    samples: samples.as_ref(),
                })
                .collect(),
            adapters: &self.merged_adapters,
            models: &self.merged_models,
            classes: &self.classes,
            max_new_tokens: self.max_new_tokens,
        })
    }
}

/// Compares; see [`compare`].
///
/// # Errors
/// Every kind that bad input can cause; see [`crate::error::Code`].
pub async fn compare<'a>(
    request: CompareRequest,
    devices: impl Into<Devices<'a>>,
    observer: &dyn Observer,
) -> Result<(CompareReport, Chosen)> {
    let opened = Opened::open(request, Some(observer), check_samples).await?;
    let contest = opened.contest()?;
    let work = work(&contest);
    // What it holds is checked where the rows are known.
    let choice = devices.into().choose(&work, |_| Ok(()), observer).await?;
    choice.compile(contest.model, false, observer).await?;
    let compute = choice.compute;
    compute.start_workers(work.workers(compute));
    let report = compare::compare(&contest, compute, observer).await?;
    Ok((report, choice.told()))
}

/// What the models are run on.
fn work(contest: &Contest<'_>) -> ModelWork {
    let written = match contest.model.family.facts().generates {
        true => contest.max_new_tokens,
        false => 0,
    };
    let samples: Vec<usize> = contest
        .tasks
        .iter()
        .flat_map(|task| task.samples.map_or(&[][..], |given| &given.samples))
        .map(|sample| contest.model.rows(sample) + written)
        .collect();
    let lanes = 2 + contest.adapters.len() + contest.models.len();
    let rows = lanes * samples.iter().sum::<usize>();
    ModelWork::of_rows(&[contest.model], rows, written, samples.len())
}

/// Runs a share of a comparison, until nothing more is asked for.
///
/// # Errors
/// As [`compare`].
pub async fn compare_share(
    request: CompareRequest,
    compute: &Compute,
    questions: &dyn Questions,
) -> Result<()> {
    // Samples come with the questions.
    let opened = Opened::open(request, None, |_, _, _| Ok(())).await?;
    let contest = opened.contest()?;
    let mut speakers = None;
    while let Some(question) = questions.next().await? {
        let mut question = MessageReader::new(&question);
        let answer = match Errand::of(&mut question)? {
            Errand::Compare => compare::compare_share(&contest, compute, &mut question).await?,
            Errand::Write => {
                let speakers = speakers.get_or_insert_with(|| compare::speakers(&contest, compute));
                write_share(speakers, compute, &mut question).await?
            }
            Errand::Layer | Errand::Passes => return Err(mangled()),
        };
        questions.answer(answer).await?;
    }
    Ok(())
}
