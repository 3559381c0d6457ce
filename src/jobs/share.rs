//! A worker's share of a merge: it opens the same inputs, and solves whichever layers it is asked for.

use async_trait::async_trait;

use crate::{
    binding::{Base, Binding},
    compute::Compute,
    error::Result,
    jobs::{
        inputs::{Hashing, read_adapters},
        merge::MergeRequest,
    },
    merge::{share::Unit, solution::Solution, truncate::Truncated},
    progress::Silent,
};

/// Who asks.
#[async_trait(?Send)]
pub trait Questions {
    /// The next question; none where no more come. The first call says that the inputs are open.
    ///
    /// # Errors
    /// Where there is nobody left to ask.
    async fn next(&self) -> Result<Option<Vec<u32>>>;

    /// Answers it.
    ///
    /// # Errors
    /// As [`Questions::next`].
    async fn answer(&self, answer: &[u8]) -> Result<()>;
}

/// Answers questions about a merge without samples until no more come. Cancelling is whoever asks's to do, by ending the
/// worker.
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
    let (adapters, _) = read_adapters(adapters, &base, Hashing::Left).await?;
    let patterns = options.layer_weights.patterns(adapters.len())?;
    let binding = Binding::new(&base, &adapters, &patterns)?;
    let solution = Solution::new(&binding, &options, Vec::new(), compute, &Silent);
    let mut layers = Truncated::new(solution);
    while let Some(words) = questions.next().await? {
        let solved = layers.solve(&Unit::from_words(&words)?).await?;
        questions.answer(&solved.to_bytes()).await?;
    }
    Ok(())
}
