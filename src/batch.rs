//! Calibration samples as rows of a stack of lanes.
//!
//! Padding is not computed: a micro-batch is the real tokens of its samples, one row each, ordered by
//! task, so that a lane (one task's samples under one variant of the model) is one run of rows. With
//! [`Padding::Include`] the padding tokens are rows like any other, attended by nobody, which is what
//! the published code does.

use std::ops::Range;

use serde::{Deserialize, Serialize};

use crate::{
    compute::Sequence,
    error::{Code, Error, Result},
};

/// One tokenised sample.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sample {
    /// Token ids, special tokens included.
    pub ids: Vec<u32>,
    /// Token type (segment) of each token.
    pub type_ids: Vec<u32>,
}

/// What becomes of padding tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Padding {
    /// They are left out everywhere.
    Exclude,
    /// Every sample is padded to the longest of its task, and the padding rows count.
    Include,
}

/// A sample's place in a micro-batch.
#[derive(Debug, Clone, Copy)]
pub struct Place {
    /// Index of its task.
    pub task: usize,
    /// Index of the sample within the task.
    pub sample: usize,
    /// Its rows.
    pub rows: Sequence,
}

/// Samples that go through the model together.
pub struct Batch {
    /// The samples, ordered by task.
    pub places: Vec<Place>,
    /// Token ids, one a row.
    pub ids: Vec<u32>,
    /// Token types, one a row.
    pub type_ids: Vec<u32>,
    /// Position of each row within its sample.
    pub positions: Vec<u32>,
    token_lanes: Vec<Range<usize>>,
    sample_lanes: Vec<Range<usize>>,
}

/// Which rows a layer works on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rows {
    /// One a token.
    Tokens,
    /// One a sample (a pooled representation).
    Samples,
}

/// A micro-batch as it is at some point of the forward pass: one copy, or one a variant of the model.
pub struct Stack<'a> {
    batch: &'a Batch,
    variants: usize,
}

impl<'a> Stack<'a> {
    /// The batch with `variants` copies of its rows, one after another.
    pub const fn new(batch: &'a Batch, variants: usize) -> Self {
        Self { batch, variants }
    }

    /// Copies of the batch's rows.
    pub const fn variants(&self) -> usize {
        self.variants
    }

    /// The rows of one lane.
    pub fn lane(&self, rows: Rows, task: usize, variant: usize) -> Range<usize> {
        let (lanes, total) = match rows {
            Rows::Tokens => (&self.batch.token_lanes, self.batch.ids.len()),
            Rows::Samples => (&self.batch.sample_lanes, self.batch.places.len()),
        };
        let lane = &lanes[task];
        variant * total + lane.start..variant * total + lane.end
    }

    /// The rows of every sample, in every copy.
    pub fn sequences(&self) -> Vec<Sequence> {
        (0..self.variants)
            .flat_map(|variant| {
                let offset = variant * self.batch.ids.len();
                self.batch.places.iter().map(move |p| Sequence {
                    start: p.rows.start + offset,
                    ..p.rows
                })
            })
            .collect()
    }
}

/// Cuts every task's samples into micro-batches of at most about `most_rows` rows.
///
/// Samples of like length go together, so that the GPU's padded attention wastes little.
///
/// # Errors
/// [`Code::SamplesInvalid`] if a task has no samples or a sample no tokens.
pub fn micro_batches(
    tasks: &[&[Sample]],
    padding: Padding,
    pad_id: u32,
    most_rows: usize,
) -> Result<Vec<Batch>> {
    let mut all = Vec::new();
    for (task, samples) in tasks.iter().enumerate() {
        let longest = samples.iter().map(|s| s.ids.len()).max().unwrap_or(0);
        if longest == 0 {
            return Err(Error::new(
                Code::SamplesInvalid,
                format!(
                    "adapter {}: no calibration samples with any token; give at least one text",
                    task + 1
                ),
            ));
        }
        for (index, sample) in samples.iter().enumerate() {
            if sample.ids.is_empty() || sample.type_ids.len() != sample.ids.len() {
                return Err(Error::new(
                    Code::SamplesInvalid,
                    format!(
                        "adapter {}, sample {}: no tokens, or token types of another length",
                        task + 1,
                        index + 1
                    ),
                ));
            }
            let rows = if padding == Padding::Include {
                longest
            } else {
                sample.ids.len()
            };
            all.push((task, index, rows));
        }
    }
    all.sort_by_key(|&(task, index, rows)| (rows, task, index));

    let mut batches = Vec::new();
    let mut current: Vec<(usize, usize, usize)> = Vec::new();
    let mut count = 0;
    for entry in all {
        if count > 0 && count + entry.2 > most_rows {
            batches.push(Batch::new(tasks, std::mem::take(&mut current), pad_id));
            count = 0;
        }
        count += entry.2;
        current.push(entry);
    }
    batches.push(Batch::new(tasks, current, pad_id));
    Ok(batches)
}

impl Batch {
    fn new(tasks: &[&[Sample]], mut entries: Vec<(usize, usize, usize)>, pad_id: u32) -> Self {
        entries.sort_unstable();
        let mut batch = Self {
            places: Vec::with_capacity(entries.len()),
            ids: Vec::new(),
            type_ids: Vec::new(),
            positions: Vec::new(),
            token_lanes: vec![0..0; tasks.len()],
            sample_lanes: vec![0..0; tasks.len()],
        };
        for (task, index, length) in entries {
            let sample = &tasks[task][index];
            let (start, attended) = (batch.ids.len(), sample.ids.len());
            for (lanes, at) in [
                (&mut batch.token_lanes, start),
                (&mut batch.sample_lanes, batch.places.len()),
            ] {
                if lanes[task].is_empty() {
                    lanes[task] = at..at;
                }
            }
            batch.ids.extend(&sample.ids);
            batch.ids.resize(start + length, pad_id);
            batch.type_ids.extend(&sample.type_ids);
            batch.type_ids.resize(start + length, 0);
            batch.positions.extend((0u32..).take(length));
            batch.places.push(Place {
                task,
                sample: index,
                rows: Sequence {
                    start,
                    length,
                    attended,
                },
            });
            batch.token_lanes[task].end = batch.ids.len();
            batch.sample_lanes[task].end = batch.places.len();
        }
        batch
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(length: usize) -> Sample {
        Sample {
            ids: vec![7; length],
            type_ids: vec![0; length],
        }
    }

    #[test]
    fn lanes_cover_every_token_once_in_every_variant() {
        let tasks = [vec![sample(3), sample(9), sample(5)], vec![sample(4), sample(4)]];
        let tasks: Vec<&[Sample]> = tasks.iter().map(Vec::as_slice).collect();
        let batches = micro_batches(&tasks, Padding::Exclude, 0, 10).unwrap();
        assert!(batches.len() > 1);
        let mut tokens = [0, 0];
        for batch in &batches {
            let stack = Stack::new(batch, 2);
            let mut seen = vec![false; 2 * batch.ids.len()];
            for (task, variant) in [(0, 0), (1, 0), (0, 1), (1, 1)] {
                let lane = stack.lane(Rows::Tokens, task, variant);
                tokens[task] += lane.len();
                lane.for_each(|row| assert!(!std::mem::replace(&mut seen[row], true)));
            }
            assert!(seen.into_iter().all(|s| s));
        }
        assert_eq!(tokens, [2 * 17, 2 * 8]);
    }

    #[test]
    fn included_padding_fills_up_to_the_longest_of_the_task() {
        let tasks = [vec![sample(3), sample(9)], vec![sample(4)]];
        let tasks: Vec<&[Sample]> = tasks.iter().map(Vec::as_slice).collect();
        let batches = micro_batches(&tasks, Padding::Include, 1, 1000).unwrap();
        let stack = Stack::new(&batches[0], 1);
        assert_eq!(stack.lane(Rows::Tokens, 0, 0).len(), 18);
        assert_eq!(stack.lane(Rows::Tokens, 1, 0).len(), 4);
        assert_eq!(batches[0].ids.iter().filter(|&&id| id == 1).count(), 6);
        assert_eq!(stack.sequences()[0].attended, 3);
    }

    #[test]
    fn a_task_without_samples_is_refused() {
        let error = micro_batches(&[&[]], Padding::Exclude, 0, 100).err().unwrap();
        assert_eq!(error.code(), Code::SamplesInvalid);
    }
}
