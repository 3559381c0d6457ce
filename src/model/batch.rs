//! Calibration samples as rows of a stack of lanes.
//!
//! Padding is not computed: a micro-batch is the real rows of its samples, stream by stream, ordered by
//! task, so that a lane (one task's samples under one variant of the model) is one run of rows. With
//! [`Padding::Include`] the padding tokens are rows like any other, attended by nobody, which is what
//! the published code does.

use std::ops::Range;

use serde::{Deserialize, Serialize};

pub use crate::model::sample::{Input, Sample, StreamInput};
use crate::{
    compute::{Grid, Sequence},
    error::{Code, Error, Result},
    model::streams::{SampleRows, Stream, StreamId, StreamRows},
};

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
}

/// The rows of one stream of a micro-batch, one copy.
#[derive(Debug, Clone, Default)]
pub struct StreamBatch {
    /// Token ids, one a row, where it is a text.
    pub ids: Vec<u32>,
    /// Token types, one a row, where it is a text.
    pub type_ids: Vec<u32>,
    /// Numbers, row by row, where it is given numbers.
    pub numbers: Vec<f32>,
    /// Position of each row within its sample.
    pub positions: Vec<u32>,
    /// The rows of every sample, in the order of the batch's places.
    pub sequences: Vec<Sequence>,
    /// Height and width of every sample's rows, where they are the places of a grid.
    pub grids: Vec<Option<Grid>>,
    /// How many rows.
    pub rows: usize,
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
    streams: Vec<StreamBatch>,
    tasks: usize,
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
    pub fn lane(&self, stream: StreamId, task: usize, variant: usize) -> Range<usize> {
        let rows = self.batch.stream(stream);
        shifted(&rows.lanes[task], variant * rows.rows)
    }

    /// The rows, in every copy, that count in Gram matrices; none if all do.
    pub(crate) fn counted_rows(&self, stream: StreamId) -> Option<Vec<usize>> {
        let rows = self.batch.stream(stream);
        let counted = rows.counted.as_ref()?;
        let copies = (0..self.variants).flat_map(|variant| {
            let offset = variant * rows.rows;
            counted.rows.iter().map(move |row| row + offset)
        });
        Some(copies.collect())
    }

    /// The rows of one lane among [`counted_rows`](Self::counted_rows).
    pub(crate) fn counted_lane(&self, stream: StreamId, task: usize, variant: usize) -> Range<usize> {
        match &self.batch.stream(stream).counted {
            Some(counted) => shifted(&counted.lanes[task], variant * counted.rows.len()),
            None => self.lane(stream, task, variant),
        }
    }

    /// The rows of every sample, in every copy.
    pub fn sequences(&self, stream: StreamId) -> Vec<Sequence> {
        let rows = self.batch.stream(stream);
        (0..self.variants)
            .flat_map(|variant| {
                rows.sequences.iter().map(move |sequence| Sequence {
                    start: sequence.start + variant * rows.rows,
                    ..*sequence
                })
            })
            .collect()
    }

    /// The rows of every sample whose rows are the places of a grid, with the grid, in every copy.
    pub fn grids(&self, stream: StreamId) -> Vec<(Sequence, Grid)> {
        let grids = self.batch.stream(stream).grids.iter().cycle();
        let pairs = self.sequences(stream).into_iter().zip(grids);
        pairs
            .filter_map(|(sequence, grid)| Some((sequence, (*grid)?)))
            .collect()
    }

    /// The token id of every row, in every copy.
    pub fn ids(&self, stream: StreamId) -> Vec<u32> {
        self.batch.stream(stream).ids.repeat(self.variants)
    }

    /// The position of every row within its sample, in every copy.
    pub fn positions(&self, stream: StreamId) -> Vec<u32> {
        self.batch.stream(stream).positions.repeat(self.variants)
    }
}

fn shifted(range: &Range<usize>, by: usize) -> Range<usize> {
    range.start + by..range.end + by
}

/// The longest that samples of each task are, stream by stream.
pub type Lengths = Vec<Vec<usize>>;

/// How long the samples of each task are.
///
/// # Errors
/// [`Code::SamplesInvalid`] if a task has no samples.
pub fn longest(streams: &[Stream], tasks: &[&[Sample]]) -> Result<Lengths> {
    let of_task = |(task, samples): (usize, &&[Sample])| {
        let longest = |stream: usize| {
            let lengths = samples.iter().map(|sample| sample.rows(stream).length);
            lengths.max().unwrap_or(0)
        };
        let lengths: Vec<usize> = (0..streams.len()).map(longest).collect();
        if lengths.iter().all(|&length| length == 0) {
            return Err(Error::new(
                Code::SamplesInvalid,
                format!(
                    "adapter {}: no calibration samples with any token or picture; give at least one",
                    task + 1
                ),
            ));
        }
        Ok(lengths)
    };
    tasks.iter().enumerate().map(of_task).collect()
}

/// Cuts every task's samples into micro-batches of at most about `most_rows` rows of their longest stream; a grid that
/// is read through windows counts by its windows.
///
/// Samples of like length go together, so that the GPU's padded attention wastes little. `padded` says what the samples
/// of each task are filled up to, where they are.
///
/// # Errors
/// [`Code::SamplesInvalid`] if a sample has no rows, in its first stream or, where the model reads pictures and texts, in
/// any, or if a picture is smaller than a window.
pub fn micro_batches(
    streams: &[Stream],
    tasks: &[&[Sample]],
    padded: Option<&Lengths>,
    pad_id: u32,
    most_rows: usize,
) -> Result<Vec<Batch>> {
    let mut all = Vec::new();
    for (task, samples) in tasks.iter().enumerate() {
        for (index, sample) in samples.iter().enumerate() {
            let refuse = |what: &str| {
                let what = format!("adapter {}, sample {}: {what}", task + 1, index + 1);
                Error::new(Code::SamplesInvalid, what)
            };
            if !is_whole(streams, sample) {
                return Err(refuse("no tokens, or token types of another length"));
            }
            let longest = padded.and_then(|lengths| lengths.get(task));
            let rows = stream_rows(streams, sample, longest.map(Vec::as_slice))
                .ok_or_else(|| refuse("the picture is smaller than one patch of the model"))?;
            all.push(Entry { task, index, rows });
        }
    }
    let unfolded: Vec<usize> = streams
        .iter()
        .filter_map(|stream| match stream.rows {
            StreamRows::Windows(of, _) => Some(of.index()),
            StreamRows::Input | StreamRows::Filled(_) | StreamRows::One | StreamRows::Behind(..) => None,
        })
        .collect();
    let lengths = |entry: &Entry| -> Vec<usize> { entry.rows.iter().map(|rows| rows.length).collect() };
    all.sort_by_key(|entry| (lengths(entry), entry.task, entry.index));

    let mut batches = Vec::new();
    let mut current: Vec<Entry> = Vec::new();
    let mut count = 0;
    for entry in all {
        let counted = lengths(&entry).into_iter().enumerate();
        let counted = counted.filter(|(at, _)| !unfolded.contains(at));
        let rows = counted.map(|(_, length)| length).max().unwrap_or(0);
        if count > 0 && count + rows > most_rows {
            batches.push(Batch::new(streams, tasks, std::mem::take(&mut current), pad_id));
            count = 0;
        }
        count += rows;
        current.push(entry);
    }
    batches.push(Batch::new(streams, tasks, current, pad_id));
    Ok(batches)
}

/// The rows of a sample in every stream; a text is as long as `longest` says of its stream, if that is longer. None for a
/// picture that is smaller than a window.
fn stream_rows(streams: &[Stream], sample: &Sample, longest: Option<&[usize]>) -> Option<Vec<SampleRows>> {
    let mut rows: Vec<SampleRows> = Vec::with_capacity(streams.len());
    for (at, stream) in streams.iter().enumerate() {
        rows.push(match stream.rows {
            StreamRows::Input => {
                let own = sample.rows(at);
                let padded = longest.and_then(|lengths| lengths.get(at));
                let padded = padded.filter(|_| own.grid.is_none());
                SampleRows {
                    length: padded.map_or(own.length, |&longest| longest.max(own.length)),
                    ..own
                }
            }
            StreamRows::Filled(least) => {
                let length = sample.rows(at).length;
                SampleRows::all(if length == 0 { 0 } else { length.max(least) })
            }
            StreamRows::One => SampleRows::all(1),
            StreamRows::Windows(of, _) | StreamRows::Behind(_, of) if rows[of.index()].length == 0 => {
                SampleRows::all(0)
            }
            StreamRows::Windows(of, windows) => {
                let grid = rows[of.index()].grid.and_then(|grid| windows.over(grid))?;
                SampleRows {
                    grid: Some(grid),
                    ..SampleRows::all(grid.places())
                }
            }
            StreamRows::Behind(more, of) => SampleRows::all(more + rows[of.index()].length),
        });
    }
    Some(rows)
}

/// The rows that a model's blocks work on for a sample: those of all streams, where the places of a picture are none
/// but what is made of them.
pub(super) fn working_rows(streams: &[Stream], sample: &Sample) -> usize {
    let rows = stream_rows(streams, sample, None).unwrap_or_default();
    let wide = rows.iter().filter(|rows| rows.grid.is_none());
    wide.map(|rows| rows.length).sum()
}

/// Whether a sample has rows where it must, and every token a type.
fn is_whole(streams: &[Stream], sample: &Sample) -> bool {
    let typed = |given: &StreamInput| match &given.input {
        Input::Tokens { ids, type_ids } => ids.len() == type_ids.len(),
        Input::Grid(pixels) => pixels.data.len() == pixels.channels * pixels.height * pixels.width,
        Input::Rows { width, data } => *width > 0 && data.len() % width == 0,
    };
    let reads_pictures = streams
        .iter()
        .any(|stream| matches!(stream.rows, StreamRows::Windows(..)));
    let inputs = streams.iter().take_while(|stream| stream.rows.is_input()).count();
    let required = if reads_pictures { inputs } else { 1 };
    let has_rows = (0..required).any(|at| sample.rows(at).length > 0);
    has_rows && sample.inputs.iter().all(typed)
}

/// A sample that is to be placed in a batch, with the rows it takes in each stream.
struct Entry {
    task: usize,
    index: usize,
    rows: Vec<SampleRows>,
}

impl StreamBatch {
    fn new(tasks: usize) -> Self {
        Self {
            lanes: vec![0..0; tasks],
            ..Self::default()
        }
    }

    /// Adds one sample's rows.
    fn push(&mut self, task: usize, rows: SampleRows) {
        let SampleRows {
            length,
            attended,
            counted_from,
            grid,
        } = rows;
        let start = self.rows;
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
        self.positions.extend((0u32..).take(length));
        self.sequences.push(Sequence {
            start,
            length,
            attended,
        });
        self.grids.push(grid);
        self.rows += length;
        self.lanes[task].end = self.rows;
    }

    /// Fills the rows that were pushed last with what a sample is given.
    fn fill(&mut self, given: &Input, pad_id: u32) {
        match given {
            Input::Tokens { ids, type_ids } => {
                self.ids.extend(ids);
                self.ids.resize(self.rows, pad_id);
                self.type_ids.extend(type_ids);
                self.type_ids.resize(self.rows, 0);
            }
            Input::Grid(pixels) => {
                let places = pixels.height * pixels.width;
                let row = |place: usize| (0..pixels.channels).map(move |channel| channel * places + place);
                let numbers = (0..places).flat_map(row).map(|at| pixels.data[at]);
                self.numbers.extend(numbers);
            }
            Input::Rows { data, .. } => self.numbers.extend(data),
        }
    }
}

impl Batch {
    fn new(streams: &[Stream], tasks: &[&[Sample]], mut entries: Vec<Entry>, pad_id: u32) -> Self {
        entries.sort_unstable_by_key(|entry| (entry.task, entry.index));
        let mut batch = Self {
            places: Vec::with_capacity(entries.len()),
            streams: vec![StreamBatch::new(tasks.len()); streams.len()],
            tasks: tasks.len(),
        };
        for Entry { task, index, rows } in entries {
            let sample = &tasks[task][index];
            for (at, (stream, rows)) in batch.streams.iter_mut().zip(rows).enumerate() {
                stream.push(task, rows);
                if streams[at].rows.is_input()
                    && let Some(given) = sample.inputs.get(at)
                {
                    stream.fill(&given.input, pad_id);
                }
            }
            batch.places.push(Place { task, sample: index });
        }
        batch
    }

    /// The rows of a stream.
    ///
    /// # Panics
    /// If the family has no such stream.
    pub fn stream(&self, stream: StreamId) -> &StreamBatch {
        &self.streams[stream.index()]
    }

    /// The rows of all streams.
    pub fn streams(&self) -> &[StreamBatch] {
        &self.streams
    }

    /// The batch of one more token a sample: `ids` at `positions`, in the given stream, in the order of the places. The
    /// other streams stay as they are.
    pub(crate) fn step(&self, stream: StreamId, ids: &[u32], positions: &[u32]) -> Self {
        let mut rows = StreamBatch::new(self.tasks);
        for ((place, id), &position) in self.places.iter().zip(ids).zip(positions) {
            rows.push(place.task, SampleRows::all(1));
            rows.ids.push(*id);
            rows.type_ids.push(0);
            if let Some(last) = rows.positions.last_mut() {
                *last = position;
            }
        }
        let mut streams = self.streams.clone();
        streams[stream.index()] = rows;
        Self {
            places: self.places.clone(),
            streams,
            tasks: self.tasks,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::slice;

    use super::*;
    use crate::{compute::Windows, pictures::Pixels};

    const TEXT: StreamId = StreamId::new(0);
    const ANSWER: StreamId = StreamId::new(1);
    const TEXTS: [Stream; 2] = [Stream::input("text"), Stream::input("answer")];

    fn sample(length: usize) -> Sample {
        Sample::text(vec![7; length])
    }

    fn batches(tasks: &[Vec<Sample>], padding: Padding, pad_id: u32, most: usize) -> Vec<Batch> {
        let tasks: Vec<&[Sample]> = tasks.iter().map(Vec::as_slice).collect();
        let lengths = longest(&TEXTS, &tasks).unwrap();
        let padded = (padding == Padding::Include).then_some(&lengths);
        micro_batches(&TEXTS, &tasks, padded, pad_id, most).unwrap()
    }

    #[test]
    fn lanes_cover_every_token_once_in_every_variant() {
        let tasks = [vec![sample(3), sample(9), sample(5)], vec![sample(4), sample(4)]];
        let batches = batches(&tasks, Padding::Exclude, 0, 10);
        assert!(batches.len() > 1);
        let mut tokens = [0, 0];
        for batch in &batches {
            let stack = Stack::new(batch, 2);
            let mut seen = vec![false; 2 * batch.stream(TEXT).rows];
            for (task, variant) in [(0, 0), (1, 0), (0, 1), (1, 1)] {
                let lane = stack.lane(TEXT, task, variant);
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
        let batches = batches(&tasks, Padding::Include, 1, 1000);
        let stack = Stack::new(&batches[0], 1);
        assert_eq!(stack.lane(TEXT, 0, 0).len(), 18);
        assert_eq!(stack.lane(TEXT, 1, 0).len(), 4);
        let ids = &batches[0].stream(TEXT).ids;
        assert_eq!(ids.iter().filter(|&&id| id == 1).count(), 6);
        assert_eq!(stack.sequences(TEXT)[0].attended, 3);
    }

    #[test]
    fn rows_before_the_completion_do_not_count() {
        let prompted = |length, from| sample(length).counted_from(from);
        let tasks = [vec![sample(2), prompted(5, 3)], vec![prompted(4, 1)]];
        let batches = batches(&tasks, Padding::Exclude, 0, 100);
        let stack = Stack::new(&batches[0], 2);
        let rows = stack.counted_rows(TEXT).unwrap();
        assert_eq!(rows, [0, 1, 5, 6, 8, 9, 10, 11, 12, 16, 17, 19, 20, 21]);
        assert_eq!(stack.counted_lane(TEXT, 0, 0), 0..4);
        assert_eq!(stack.counted_lane(TEXT, 1, 1), 11..14);
        assert!(stack.counted_rows(ANSWER).is_none());
    }

    #[test]
    fn a_task_without_samples_is_refused() {
        let error = longest(&TEXTS, &[&[]]).unwrap_err();
        assert_eq!(error.code(), Code::SamplesInvalid);
    }

    #[test]
    fn a_picture_has_rows_of_its_places_its_patches_and_a_class_token() {
        let patches = Windows {
            kernel: [2, 2],
            stride: [2, 2],
            padding: [0, 0],
        };
        let [pixels, windows, image, pooled] = [0, 1, 2, 3].map(StreamId::new);
        let streams = [
            Stream::input("pixels"),
            Stream {
                name: "patches",
                rows: StreamRows::Windows(pixels, patches),
            },
            Stream {
                name: "image",
                rows: StreamRows::Behind(1, windows),
            },
            Stream::pooled(),
        ];
        let picture = |height: usize, width: usize| {
            Sample::of(Input::Grid(Pixels {
                channels: 1,
                height,
                width,
                data: (0..height * width).map(|x| x as f32).collect(),
            }))
        };
        let tasks = [vec![picture(4, 6)], vec![picture(2, 2)]];
        let tasks: Vec<&[Sample]> = tasks.iter().map(Vec::as_slice).collect();
        let batches = micro_batches(&streams, &tasks, None, 0, 100).unwrap();
        let stack = Stack::new(&batches[0], 2);
        for (stream, first, second) in [
            (pixels, 24..48, 28 + 24..56),
            (windows, 0..6, 7 + 6..14),
            (image, 0..7, 9 + 7..18),
            (pooled, 0..1, 3..4),
        ] {
            let first = first.len();
            assert_eq!(stack.lane(stream, 0, 0).len(), first);
            assert_eq!(stack.lane(stream, 1, 1), second);
        }
        assert_eq!(stack.grids(windows)[1].1, Grid { height: 1, width: 1 });
        let small = [picture(1, 6)];
        let error = micro_batches(&streams, &[&small], None, 0, 100);
        assert_eq!(error.err().unwrap().code(), Code::SamplesInvalid);
    }

    #[test]
    fn a_model_of_pictures_and_texts_may_be_given_either_alone() {
        let patches = Windows {
            kernel: [2, 2],
            stride: [2, 2],
            padding: [0, 0],
        };
        let [pixels, text, windows, image] = [0, 1, 2, 3].map(StreamId::new);
        let streams = [
            Stream::input("pixels"),
            Stream {
                name: "text",
                rows: StreamRows::Filled(5),
            },
            Stream {
                name: "patches",
                rows: StreamRows::Windows(pixels, patches),
            },
            Stream {
                name: "image",
                rows: StreamRows::Behind(1, windows),
            },
        ];
        let picture = || {
            Input::Grid(Pixels {
                channels: 1,
                height: 2,
                width: 4,
                data: vec![0.0; 8],
            })
        };
        let rows = |sample: Sample| -> Option<Vec<usize>> {
            let batches = micro_batches(&streams, &[&[sample]], None, 9, 100).ok()?;
            Some(batches[0].streams().iter().map(|stream| stream.rows).collect())
        };
        let of_both = Sample::of(picture()).and_tokens(vec![1, 2, 3]);
        let batch = &micro_batches(&streams, &[slice::from_ref(&of_both)], None, 9, 100).unwrap()[0];
        assert_eq!(batch.stream(text).ids, [1, 2, 3, 9, 9]);
        assert_eq!(batch.stream(text).sequences[0].attended, 5);
        assert_eq!(rows(of_both), Some(vec![8, 5, 2, 3]));
        assert_eq!(rows(Sample::of(picture())), Some(vec![8, 0, 2, 3]));
        let text_alone = Sample::of(Input::absent()).and_tokens(vec![1; 7]);
        assert_eq!(
            longest(&streams, &[slice::from_ref(&text_alone)]).unwrap(),
            [[0, 7, 0, 0]]
        );
        assert_eq!(rows(text_alone), Some(vec![0, 7, 0, 0]));
        assert_eq!(rows(Sample::of(Input::absent())), None);
        let batch = &micro_batches(&streams, &[&[Sample::of(picture())]], None, 9, 100).unwrap()[0];
        assert_eq!(Stack::new(batch, 1).lane(image, 0, 0), 0..3);
        // A text is what a model of texts alone cannot do without.
        let sample = Sample::text(Vec::new()).and_tokens(vec![1]);
        assert!(micro_batches(&TEXTS, &[&[sample]], None, 0, 100).is_err());
    }
}
