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

/// One tokenised sample, ready for the model.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Sample {
    /// Token ids, special tokens included: what an encoder or a decoder-only model reads.
    pub ids: Vec<u32>,
    /// Token type (segment) of each token.
    pub type_ids: Vec<u32>,
    /// Inputs of an encoder-decoder's decoder, the start token first; empty for other families.
    pub targets: Vec<u32>,
    /// Tokens before this one take part in the forward pass, but not in Gram matrices.
    pub counted_from: usize,
}

impl Sample {
    /// A text of one segment.
    pub fn text(ids: Vec<u32>) -> Self {
        let type_ids = vec![0; ids.len()];
        Self {
            ids,
            type_ids,
            ..Self::default()
        }
    }
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
    /// Its rows among the tokens.
    pub rows: Sequence,
    /// Its rows among the targets.
    pub targets: Sequence,
}

/// One kind of rows of a micro-batch, one copy: token ids with all that goes with them.
#[derive(Debug, Clone, Default)]
pub struct Side {
    /// Token ids, one a row.
    pub ids: Vec<u32>,
    /// Position of each row within its sample.
    pub positions: Vec<u32>,
    /// The rows of each task.
    lanes: Vec<Range<usize>>,
    /// The rows that count in Gram matrices, and each task's among them; none if all do.
    counted: Option<Counted>,
}

/// The rows that count in Gram matrices.
#[derive(Debug, Clone, Default)]
struct Counted {
    rows: Vec<usize>,
    lanes: Vec<Range<usize>>,
}

/// Samples that go through the model together.
pub struct Batch {
    /// The samples, ordered by task.
    pub places: Vec<Place>,
    /// What an encoder or a decoder-only model reads.
    pub tokens: Side,
    /// What an encoder-decoder's decoder reads; without rows for other families.
    pub targets: Side,
    /// Token types, one a row of the tokens.
    pub type_ids: Vec<u32>,
    sample_lanes: Vec<Range<usize>>,
}

/// Which rows a layer works on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rows {
    /// One a token of the text.
    Tokens,
    /// One a token that an encoder-decoder's decoder reads.
    Targets,
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
        let batch = self.batch;
        let (lanes, total) = match batch.side(rows) {
            Some(side) => (&side.lanes, side.ids.len()),
            None => (&batch.sample_lanes, batch.places.len()),
        };
        shifted(&lanes[task], variant * total)
    }

    /// The rows, in every copy, that count in Gram matrices; none if all do.
    pub(crate) fn counted_rows(&self, rows: Rows) -> Option<Vec<usize>> {
        let side = self.batch.side(rows)?;
        let counted = side.counted.as_ref()?;
        let copies = (0..self.variants).flat_map(|variant| {
            let offset = variant * side.ids.len();
            counted.rows.iter().map(move |row| row + offset)
        });
        Some(copies.collect())
    }

    /// The rows of one lane among [`counted_rows`](Self::counted_rows).
    pub(crate) fn counted_lane(&self, rows: Rows, task: usize, variant: usize) -> Range<usize> {
        match self.batch.side(rows).and_then(|side| side.counted.as_ref()) {
            Some(counted) => shifted(&counted.lanes[task], variant * counted.rows.len()),
            None => self.lane(rows, task, variant),
        }
    }

    /// The rows of every sample, in every copy.
    pub fn sequences(&self, rows: Rows) -> Vec<Sequence> {
        let total = self.batch.side(rows).map_or(0, |side| side.ids.len());
        (0..self.variants)
            .flat_map(|variant| {
                self.batch.places.iter().map(move |place| {
                    let sequence = if rows == Rows::Targets {
                        place.targets
                    } else {
                        place.rows
                    };
                    Sequence {
                        start: sequence.start + variant * total,
                        ..sequence
                    }
                })
            })
            .collect()
    }

    /// The position of every row within its sample, in every copy.
    pub fn positions(&self, rows: Rows) -> Vec<u32> {
        self.batch
            .side(rows)
            .map_or_else(Vec::new, |side| side.positions.repeat(self.variants))
    }
}

fn shifted(range: &Range<usize>, by: usize) -> Range<usize> {
    range.start + by..range.end + by
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
        let longest = |length: fn(&Sample) -> usize| samples.iter().map(length).max().unwrap_or(0);
        let (longest, longest_targets) = (longest(|s| s.ids.len()), longest(|s| s.targets.len()));
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
            let (rows, targets) = if padding == Padding::Include {
                (longest, longest_targets)
            } else {
                (sample.ids.len(), sample.targets.len())
            };
            all.push(Entry {
                task,
                index,
                rows,
                targets,
            });
        }
    }
    all.sort_by_key(|entry| (entry.rows, entry.targets, entry.task, entry.index));

    let mut batches = Vec::new();
    let mut current: Vec<Entry> = Vec::new();
    let mut count = 0;
    for entry in all {
        let rows = entry.rows.max(entry.targets);
        if count > 0 && count + rows > most_rows {
            batches.push(Batch::new(tasks, std::mem::take(&mut current), pad_id));
            count = 0;
        }
        count += rows;
        current.push(entry);
    }
    batches.push(Batch::new(tasks, current, pad_id));
    Ok(batches)
}

/// A sample that is to be placed in a batch, with the rows it takes.
struct Entry {
    task: usize,
    index: usize,
    rows: usize,
    targets: usize,
}

impl Side {
    fn new(tasks: usize) -> Self {
        Self {
            lanes: vec![0..0; tasks],
            ..Self::default()
        }
    }

    /// Adds one sample's rows, padded to `length`; those before `counted_from` do not count.
    fn push(
        &mut self,
        task: usize,
        ids: &[u32],
        length: usize,
        pad_id: u32,
        counted_from: usize,
    ) -> Sequence {
        let start = self.ids.len();
        if self.lanes[task].is_empty() {
            self.lanes[task] = start..start;
        }
        if counted_from > 0 || self.counted.is_some() {
            // Rows before this sample all counted, if nothing was said of them.
            let counted = self.counted.get_or_insert_with(|| Counted {
                rows: (0..start).collect(),
                lanes: self.lanes.clone(),
            });
            if counted.lanes[task].is_empty() {
                counted.lanes[task] = counted.rows.len()..counted.rows.len();
            }
            counted
                .rows
                .extend(start + counted_from.min(length)..start + length);
            counted.lanes[task].end = counted.rows.len();
        }
        self.ids.extend(ids);
        self.ids.resize(start + length, pad_id);
        self.positions.extend((0u32..).take(length));
        self.lanes[task].end = self.ids.len();
        Sequence {
            start,
            length,
            attended: ids.len(),
        }
    }
}

impl Batch {
    fn new(tasks: &[&[Sample]], mut entries: Vec<Entry>, pad_id: u32) -> Self {
        entries.sort_unstable_by_key(|entry| (entry.task, entry.index));
        let mut batch = Self {
            places: Vec::with_capacity(entries.len()),
            tokens: Side::new(tasks.len()),
            targets: Side::new(tasks.len()),
            type_ids: Vec::new(),
            sample_lanes: vec![0..0; tasks.len()],
        };
        for Entry {
            task,
            index,
            rows,
            targets,
        } in entries
        {
            let sample = &tasks[task][index];
            let at = batch.places.len();
            if batch.sample_lanes[task].is_empty() {
                batch.sample_lanes[task] = at..at;
            }
            batch.sample_lanes[task].end = at + 1;
            let rows = batch
                .tokens
                .push(task, &sample.ids, rows, pad_id, sample.counted_from);
            let targets = batch.targets.push(task, &sample.targets, targets, pad_id, 0);
            batch.type_ids.extend(&sample.type_ids);
            batch.type_ids.resize(batch.tokens.ids.len(), 0);
            batch.places.push(Place {
                task,
                sample: index,
                rows,
                targets,
            });
        }
        batch
    }

    /// The rows of that kind; none for [`Rows::Samples`], which are no tokens.
    pub const fn side(&self, rows: Rows) -> Option<&Side> {
        match rows {
            Rows::Tokens => Some(&self.tokens),
            Rows::Targets => Some(&self.targets),
            Rows::Samples => None,
        }
    }

    /// The batch of one more token a sample: `ids` at `positions`, on the given side, in the order of the
    /// places. The other side stays as it is.
    pub(crate) fn step(&self, side: Rows, ids: &[u32], positions: &[u32]) -> Self {
        let tasks = self.sample_lanes.len();
        let mut next = Self {
            places: self.places.clone(),
            tokens: self.tokens.clone(),
            targets: Side::new(tasks),
            type_ids: self.type_ids.clone(),
            sample_lanes: self.sample_lanes.clone(),
        };
        let mut rows = Side::new(tasks);
        for ((place, id), &position) in next.places.iter_mut().zip(ids).zip(positions) {
            let sequence = rows.push(place.task, &[*id], 1, 0, 0);
            if let Some(last) = rows.positions.last_mut() {
                *last = position;
            }
            if side == Rows::Targets {
                place.targets = sequence;
            } else {
                place.rows = sequence;
            }
        }
        if side == Rows::Targets {
            next.targets = rows;
        } else {
            next.type_ids = vec![0; rows.ids.len()];
            next.tokens = rows;
        }
        next
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(length: usize) -> Sample {
        Sample::text(vec![7; length])
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
            let mut seen = vec![false; 2 * batch.tokens.ids.len()];
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
        assert_eq!(batches[0].tokens.ids.iter().filter(|&&id| id == 1).count(), 6);
        assert_eq!(stack.sequences(Rows::Tokens)[0].attended, 3);
    }

    #[test]
    fn rows_before_the_completion_do_not_count() {
        let prompted = |length, counted_from| Sample {
            counted_from,
            ..sample(length)
        };
        let tasks = [vec![sample(2), prompted(5, 3)], vec![prompted(4, 1)]];
        let tasks: Vec<&[Sample]> = tasks.iter().map(Vec::as_slice).collect();
        let batches = micro_batches(&tasks, Padding::Exclude, 0, 100).unwrap();
        let stack = Stack::new(&batches[0], 2);
        let rows = stack.counted_rows(Rows::Tokens).unwrap();
        assert_eq!(rows, [0, 1, 5, 6, 8, 9, 10, 11, 12, 16, 17, 19, 20, 21]);
        assert_eq!(stack.counted_lane(Rows::Tokens, 0, 0), 0..4);
        assert_eq!(stack.counted_lane(Rows::Tokens, 1, 1), 11..14);
        assert!(stack.counted_rows(Rows::Targets).is_none());
    }

    #[test]
    fn a_task_without_samples_is_refused() {
        let error = micro_batches(&[&[]], Padding::Exclude, 0, 100).err().unwrap();
        assert_eq!(error.code(), Code::SamplesInvalid);
    }
}
