//! Samples that are shared out, each worker having some of every task's, and how samples pass between workers.

use crate::{
    compute::{Message, MessageReader, mangled},
    error::Result,
    model::{
        batch::Lengths,
        sample::{Input, Sample, StreamInput},
    },
    pictures::Pixels,
};

/// A worker's share of all tasks' samples.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct SampleShare {
    /// By task; a task may have none here.
    pub samples: Vec<Vec<Sample>>,
    /// What the samples of each task are padded to, stream by stream, where they are; those of other workers among them.
    pub lengths: Option<Lengths>,
}

impl SampleShare {
    /// Shares samples out to so many workers, by the rows that they have in all streams.
    pub fn of_each(tasks: &[&[Sample]], lengths: Option<&Lengths>, workers: usize) -> Vec<Self> {
        let sizes: Vec<Vec<usize>> = tasks
            .iter()
            .map(|samples| samples.iter().map(Sample::size).collect())
            .collect();
        let places = shared_out(&sizes, workers);
        let share = |places: Vec<Vec<usize>>| Self {
            samples: places
                .iter()
                .zip(tasks)
                .map(|(places, samples)| picked(samples, places))
                .collect(),
            lengths: lengths.cloned(),
        };
        places.into_iter().map(share).collect()
    }

    /// Adds the share to a message.
    pub fn say(&self, message: Message) -> Message {
        let message = message.each(self.samples.iter(), |message, samples| {
            message.each(samples.iter(), |message, sample| sample.say(message))
        });
        let message = message.number(usize::from(self.lengths.is_some()));
        self.lengths.iter().fold(message, |message, lengths| {
            message.each(lengths.iter(), |message, lengths| {
                message.each(lengths.iter(), |message, &length| message.number(length))
            })
        })
    }

    /// Reads what [`SampleShare::say`] added.
    ///
    /// # Errors
    /// As [`MessageReader::number`].
    pub fn read(message: &mut MessageReader<'_>) -> Result<Self> {
        let samples = message.each(|message| message.each(Sample::read))?;
        let padded = message.number()? != 0;
        let lengths = padded.then(|| message.each(|message| message.each(MessageReader::number)));
        Ok(Self {
            samples,
            lengths: lengths.transpose()?,
        })
    }
}

/// Items by their places.
pub fn picked<T: Clone>(all: &[T], places: &[usize]) -> Vec<T> {
    places.iter().map(|&at| all[at].clone()).collect()
}

/// Which items of each list every worker has: the largest first, each to whoever has least. All have some, if there are
/// as many.
pub fn shared_out(sizes: &[Vec<usize>], workers: usize) -> Vec<Vec<Vec<usize>>> {
    let lists = sizes.iter().enumerate();
    let mut items: Vec<(usize, usize, usize)> = lists
        .flat_map(|(list, sizes)| sizes.iter().enumerate().map(move |(at, &size)| (size, list, at)))
        .collect();
    items.sort_by_key(|&(size, list, at)| (std::cmp::Reverse(size), list, at));
    let mut shares = vec![vec![Vec::new(); sizes.len()]; workers];
    let mut loads = vec![0; workers];
    for (size, list, at) in items {
        let least = (0..workers).min_by_key(|&worker| loads[worker]).unwrap_or(0);
        // Something without a size is still something to do.
        loads[least] += size.max(1);
        shares[least][list].push(at);
    }
    for list in shares.iter_mut().flatten() {
        list.sort_unstable();
    }
    shares
}

impl Sample {
    /// Adds the sample to a message.
    pub fn say(&self, message: Message) -> Message {
        message.each(self.inputs.iter(), |message, given| {
            let message = message.number(given.counted_from);
            match &given.input {
                Input::Tokens { ids, type_ids } => message.number(0).list(ids).list(type_ids),
                Input::Grid(pixels) => message
                    .number(1)
                    .number(pixels.channels)
                    .number(pixels.height)
                    .number(pixels.width)
                    .list(&pixels.data),
                Input::Rows { width, data } => message.number(2).number(*width).list(data),
            }
        })
    }

    /// Reads what [`Sample::say`] added.
    ///
    /// # Errors
    /// As [`MessageReader::number`].
    pub fn read(message: &mut MessageReader<'_>) -> Result<Self> {
        let inputs = message.each(|message| {
            let counted_from = message.number()?;
            let input = match message.number()? {
                0 => Input::Tokens {
                    ids: message.list()?,
                    type_ids: message.list()?,
                },
                1 => Input::Grid(Pixels {
                    channels: message.number()?,
                    height: message.number()?,
                    width: message.number()?,
                    data: message.list()?,
                }),
                2 => Input::Rows {
                    width: message.number()?,
                    data: message.list()?,
                },
                _ => return Err(mangled()),
            };
            Ok(StreamInput { input, counted_from })
        })?;
        Ok(Self { inputs })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(length: usize) -> Sample {
        Sample::text((0..).take(length).collect())
    }

    #[test]
    fn every_sample_is_in_one_share_and_shares_are_about_alike() {
        let tasks = [vec![text(30), text(2), text(9), text(9)], vec![text(11), text(1)]];
        let tasks: Vec<&[Sample]> = tasks.iter().map(Vec::as_slice).collect();
        let lengths = vec![vec![30], vec![11]];
        let shares = SampleShare::of_each(&tasks, Some(&lengths), 2);
        let rows = |share: &SampleShare| -> usize {
            let samples = share.samples.iter().flatten();
            samples.map(|sample| sample.rows(0).length).sum()
        };
        assert_eq!(shares.iter().map(rows).collect::<Vec<_>>(), [31, 31]);
        for (task, samples) in tasks.iter().enumerate() {
            let mut found: Vec<_> = shares.iter().flat_map(|share| &share.samples[task]).collect();
            found.sort_by_key(|sample| sample.rows(0).length);
            let mut all: Vec<_> = samples.iter().collect();
            all.sort_by_key(|sample| sample.rows(0).length);
            assert_eq!(found, all);
        }
        // The first has the longest, and nothing of the other task: that is a share too.
        assert_eq!(shares[0].samples[0][0], text(30));
        assert!(
            shares
                .iter()
                .all(|share| share.lengths.as_ref() == Some(&lengths))
        );
    }

    #[test]
    fn nobody_goes_without_where_there_is_enough() {
        let shares = shared_out(&[vec![5, 0, 0], vec![0]], 4);
        let counts: Vec<usize> = shares.iter().map(|share| share.concat().len()).collect();
        assert_eq!(counts, [1, 1, 1, 1]);
        assert_eq!(shared_out(&[vec![1]], 2), [vec![vec![0]], vec![vec![]]]);
    }

    #[test]
    fn a_share_is_the_same_behind_a_message() {
        let picture = Input::Grid(Pixels {
            channels: 1,
            height: 1,
            width: 2,
            data: vec![0.5, -1.0],
        });
        let rows = Input::Rows {
            width: 1,
            data: vec![3.0],
        };
        let samples = vec![
            vec![
                text(3).and_tokens(vec![7]).counted_from(2),
                Sample::of(picture).and(rows),
            ],
            Vec::new(),
        ];
        for lengths in [None, Some(vec![vec![3, 1], vec![]])] {
            let samples = samples.clone();
            let share = SampleShare { samples, lengths };
            let bytes = share.say(Message::default()).into_bytes();
            assert_eq!(SampleShare::read(&mut MessageReader::new(&bytes)).unwrap(), share);
        }
    }
}
