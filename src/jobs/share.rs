//! A worker's share of a merge: it opens the same inputs, and does whatever it is asked for.

use crate::{
    binding::{Base, Binding},
    compute::{Compute, Errand, MessageReader, Questions, mangled},
    error::Result,
    generate::{Speakers, write_share},
    jobs::{
        inputs::{Reading, read_adapters},
        merge::{MergeRequest, solve_context},
    },
    merge::{
        context::{SolveContext, tasks},
        crew::Crew,
        options::MergeOptions,
        share::Unit,
        solution::Solution,
        truncate::Truncated,
    },
    model::SampleShare,
    progress::Silent,
};

/// Answers questions about a merge until no more come. Cancelling is whoever asks's to do, by ending the worker.
///
/// # Errors
/// As [`merge`](crate::jobs::merge::merge), of inputs and layers.
pub async fn solve_share(request: MergeRequest, compute: &Compute, questions: &dyn Questions) -> Result<()> {
    let MergeRequest {
        base,
        adapters,
        options,
        ..
    } = request;
    let base = Base::open(base).await?;
    let (adapters, _) = read_adapters(adapters, &base, Reading::default()).await?;
    let patterns = options.layer_weights.patterns(adapters.len())?;
    let binding = Binding::new(&base, &adapters, &patterns)?;
    let share = Share {
        base: &base,
        binding: &binding,
        options: &options,
        compute,
    };
    let solution = Solution::new(&binding, &options, Vec::new(), compute, &Silent);
    let mut layers = Truncated::new(solution);
    let mut context = None;
    while let Some(question) = questions.next().await? {
        let mut question = MessageReader::new(&question);
        match Errand::of(&mut question)? {
            Errand::Layer => {
                let solved = layers.solve(&Unit::read(&mut question)?).await?;
                questions.answer(solved.answer()).await?;
            }
            Errand::Passes => {
                let own = SampleShare::read(&mut question)?;
                let context = share.context(&mut context).await?;
                context.crew = Crew::other(questions, own);
                options.method.find().pass(context).await?;
            }
            Errand::Compare => return Err(mangled()),
            Errand::Write => {
                let context = share.context(&mut context).await?;
                let speakers = Speakers {
                    models: vec![context.model],
                    adapters: context.tasks.iter().map(|task| task.to_device(compute)).collect(),
                };
                let answers = write_share(&speakers, compute, &mut question).await?;
                questions.answer(answers).await?;
            }
        }
    }
    Ok(())
}

/// What a worker has opened.
struct Share<'a> {
    base: &'a Base,
    binding: &'a Binding<'a>,
    options: &'a MergeOptions,
    compute: &'a Compute,
}

impl<'a> Share<'a> {
    /// What a method works on that runs the model, made when it is wanted for the first time.
    async fn context<'c>(&self, made: &'c mut Option<SolveContext<'a>>) -> Result<&'c mut SolveContext<'a>> {
        let context = match made.take() {
            Some(context) => context,
            None => {
                let model = self.base.model("this method")?;
                let tasks = tasks(self.binding).await?;
                let made =
                    solve_context(model, self.binding, tasks, self.options, self.compute, &Silent).await?;
                made.0
            }
        };
        Ok(made.insert(context))
    }
}
