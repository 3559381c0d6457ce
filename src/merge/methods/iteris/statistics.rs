//! Sums over calibration samples at one linear group: all that solving needs to know of the features.
//!
//! They are values that add up, so that samples may be cut into micro-batches in any way, or collected by several workers
//! ([`GroupStatistics::say`]), and the sums of all be solved at once. All that is solved is summed in f64.
//!
//! A layer may be so wide that there is no room for anything of its size squared but the Gram matrices. Xt^T X, of which
//! mostly nothing is wanted but the norm, is then never there whole: when the last rows have come, it is formed some
//! columns at a time, of the features that wait to go on. What workers tell each other goes in [`Parcel`]s.

use std::{collections::BTreeMap, mem, ops::Range, rc::Rc};

use crate::{
    compute::{
        Compute, Features, Message, MessageReader, Stage, Symmetric, accumulate_gram, add_product,
        symmetric::PANEL,
    },
    delta::{Delta, DeviceDelta},
    error::Result,
    merge::{context::SolveContext, methods::iteris::objective::Objective, options::LeastSquares},
    model::{lanes::Group, projection::Projection},
};

/// The sums of one group.
pub(super) struct GroupStatistics {
    /// Columns of the common input.
    pub(super) d_in: usize,
    /// One a task.
    pub(super) tasks: Vec<TaskStatistics>,
    /// Where features are in memory and a norm is wanted of Xt^T X: the features of every micro-batch.
    collected: Vec<Collected>,
}

/// The features of a micro-batch.
struct Collected {
    input: Rc<Features>,
    /// The rows of X and those of Xt, one pair a task.
    rows: Vec<[Range<usize>; 2]>,
}

/// A piece of what is told of a group's sums.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Piece {
    /// One of the lists of numbers that the sums are.
    List(usize),
    /// Some columns of a task's Xt^T X, of which a norm is wanted: a sum over all workers before it is squared.
    Cross {
        /// The task's place.
        task: usize,
        /// The columns.
        columns: Range<usize>,
    },
}

/// Pieces that are told at once.
pub(super) type Parcel = Vec<Piece>;

/// Numbers of a parcel, unless a single piece has more: 32 MiB, which is there on either side and on the way.
const PARCEL: usize = 4 << 20;

/// The sums of one task.
pub(super) struct TaskStatistics {
    /// Xt^T Xt (d_in x d_in).
    pub(super) gram: Symmetric,
    /// Xt^T X, as far as it is needed.
    pub(super) cross: Cross,
    /// One a member of the group.
    pub(super) members: Vec<MemberStatistics>,
}

/// What is kept of Xt^T X (d_in x d_in).
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Cross {
    /// Nothing: X = Xt and it is the Gram matrix, or no member needs it.
    Same,
    /// Itself.
    Whole(Vec<f64>),
    /// The square of its norm.
    Squares(f64),
}

/// What solving needs to know of Xt^T X.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wanted {
    /// Nothing: X = Xt.
    Nothing,
    /// Itself.
    Whole,
    /// Its norm, and its products with factors.
    Norm,
}

/// The sums of one task at one layer of the group.
pub(super) struct MemberStatistics {
    /// A (X^T Xt) (rank x d_in); empty without factors, or where `cross` or the Gram matrix is used whole.
    pub(super) projected: Vec<f64>,
    /// ||X (W0 + D)^T||_F^2
    pub(super) output_norm: f64,
}

impl GroupStatistics {
    /// Zero sums for the layers of a group.
    pub(super) fn new(
        work: &SolveContext<'_>,
        objective: &Objective,
        layers: &[&Projection],
        d_in: usize,
        wanted: Wanted,
    ) -> Self {
        let full = objective.target == LeastSquares::Full;
        let tasks = work.tasks.iter().map(|task| {
            let delta = |layer: &Projection| task.deltas.get(&layer.name);
            let needs_cross = full || layers.iter().any(|layer| delta(layer).is_some());
            TaskStatistics {
                gram: Symmetric::zeros(d_in),
                cross: match wanted {
                    Wanted::Whole if needs_cross => Cross::Whole(vec![0.0; d_in * d_in]),
                    Wanted::Norm if needs_cross => Cross::Squares(0.0),
                    Wanted::Nothing | Wanted::Whole | Wanted::Norm => Cross::Same,
                },
                members: layers
                    .iter()
                    .map(|layer| MemberStatistics {
                        projected: match delta(layer) {
                            Some(Delta::LowRank(factors)) if !full && wanted != Wanted::Nothing => {
                                vec![0.0; factors.rank * d_in]
                            }
                            _ => Vec::new(),
                        },
                        output_norm: 0.0,
                    })
                    .collect(),
            }
        });
        Self {
            d_in,
            tasks: tasks.collect(),
            collected: Vec::new(),
        }
    }

    /// Adds one micro-batch's features; `merged_variant` is the variant whose features are Xt.
    ///
    /// # Errors
    /// If the device cannot be read.
    pub(super) async fn collect(
        &mut self,
        work: &SolveContext<'_>,
        deltas: &[BTreeMap<String, Rc<DeviceDelta>>],
        group: &Group<'_>,
        merged_variant: usize,
    ) -> Result<()> {
        let d_in = self.d_in;
        for (task, sums) in self.tasks.iter_mut().enumerate() {
            let (own, merged) = (group.lane(task, 0), group.lane(task, merged_variant));
            if own.is_empty() {
                continue;
            }
            let rows = own.len();
            // A multiplication and an addition a term; in f64, since such counts pass what wasm's usize holds.
            let count = |terms: f64| work.compute.meter.add_operations(Stage::Gram, 2.0 * terms);
            let square = rows as f64 * (d_in * d_in) as f64;
            let xt = (&**group.input, merged);
            accumulate_gram(xt.0, xt.1.clone(), &mut sums.gram).await?;
            count(square / 2.0);
            if let Cross::Whole(cross) = &mut sums.cross {
                add_product(xt.clone(), (group.input, own.clone()), 0..d_in, cross);
                count(square);
            }
            for ((layer, output), member) in group.layers.iter().zip(group.outputs()).zip(&mut sums.members) {
                member.output_norm += output.sum_of_squares(own.clone()).await?;
                if let Some(DeviceDelta::LowRank { a, .. }) = deltas[task].get(&layer.name).map(Rc::as_ref)
                    && !member.projected.is_empty()
                {
                    let low = group.input.project(own.clone(), a);
                    add_product((&low, low.all()), xt.clone(), 0..d_in, &mut member.projected);
                    count(2.0 * rows as f64 * (d_in * a.d_out()) as f64);
                }
            }
        }
        let squares = |task: &TaskStatistics| matches!(task.cross, Cross::Squares(_));
        if self.tasks.iter().any(squares) {
            let lanes = |task| [0, merged_variant].map(|variant| group.lane(task, variant));
            self.collected.push(Collected {
                input: Rc::clone(group.input),
                rows: (0..self.tasks.len()).map(lanes).collect(),
            });
        }
        Ok(())
    }

    /// All that is to be told of the sums, or to be looked at once they are complete: the same at every worker that has
    /// collected features of these layers.
    pub(super) fn parcels(&mut self) -> Vec<Parcel> {
        let d_in = self.d_in;
        let lists = self.lists().into_iter().enumerate();
        let mut pieces: Vec<(Piece, usize)> = lists.map(|(at, list)| (Piece::List(at), list.len())).collect();
        if !self.collected.is_empty() {
            let width = (PARCEL / d_in / PANEL * PANEL).max(PANEL);
            let tasks = self.tasks.iter().enumerate();
            for (task, _) in tasks.filter(|(_, sums)| matches!(sums.cross, Cross::Squares(_))) {
                pieces.extend((0..d_in).step_by(width).map(|start| {
                    let columns = start..d_in.min(start + width);
                    let numbers = d_in * columns.len();
                    (Piece::Cross { task, columns }, numbers)
                }));
            }
        }
        let (mut parcels, mut parcel, mut numbers) = (Vec::new(), Parcel::new(), 0);
        for (piece, size) in pieces {
            if numbers > 0 && numbers + size > PARCEL {
                parcels.push(mem::take(&mut parcel));
                numbers = 0;
            }
            numbers += size;
            parcel.push(piece);
        }
        parcels.push(parcel);
        parcels
    }

    /// The sums as lists of numbers.
    fn lists(&mut self) -> Vec<&mut [f64]> {
        let mut lists: Vec<&mut [f64]> = Vec::new();
        for task in &mut self.tasks {
            lists.extend(task.gram.panels_mut().iter_mut().map(Vec::as_mut_slice));
            if let Cross::Whole(cross) = &mut task.cross {
                lists.extend(cross.chunks_mut(PARCEL));
            }
            for member in &mut task.members {
                lists.push(&mut member.projected);
                lists.push(std::slice::from_mut(&mut member.output_norm));
            }
        }
        lists
    }

    /// A parcel as another worker tells it; `crosses` are its own.
    pub(super) fn say(&mut self, parcel: &[Piece], crosses: &[Vec<f64>]) -> Message {
        let (lists, mut crosses) = (self.lists(), crosses.iter());
        parcel
            .iter()
            .fold(Message::default(), |message, piece| match piece {
                Piece::List(at) => message.list(lists[*at]),
                Piece::Cross { .. } => message.list(crosses.next().map_or(&[][..], Vec::as_slice)),
            })
    }

    /// Adds what [`GroupStatistics::say`] tells of other samples at the same layers.
    ///
    /// # Errors
    /// [`Code::Internal`](crate::error::Code::Internal) for the sums of other layers.
    pub(super) fn add_said(&mut self, parcel: &[Piece], crosses: &mut [Vec<f64>], said: &[u8]) -> Result<()> {
        let mut said = MessageReader::new(said);
        let (mut lists, mut crosses) = (self.lists(), crosses.iter_mut());
        parcel.iter().try_for_each(|piece| match piece {
            Piece::List(at) => said.add_list(lists[*at]),
            Piece::Cross { .. } => said.add_list(crosses.next().map_or(&mut [][..], Vec::as_mut_slice)),
        })
    }

    /// What a parcel has of every Xt^T X, summed over the samples here.
    pub(super) fn crosses(&self, parcel: &[Piece], compute: &Compute) -> Vec<Vec<f64>> {
        parcel
            .iter()
            .filter_map(|piece| match piece {
                Piece::List(_) => None,
                Piece::Cross { task, columns } => Some(self.cross_columns(*task, columns.clone(), compute)),
            })
            .collect()
    }

    /// Adds the squares of those, which are now sums over all samples, to the squares of norms.
    pub(super) fn add_squares(&mut self, parcel: &[Piece], crosses: &[Vec<f64>]) {
        let tasks = parcel.iter().filter_map(|piece| match piece {
            Piece::List(_) => None,
            Piece::Cross { task, .. } => Some(*task),
        });
        for (task, cross) in tasks.zip(crosses) {
            if let Cross::Squares(squares) = &mut self.tasks[task].cross {
                *squares += cross.iter().map(|x| x * x).sum::<f64>();
            }
        }
    }

    /// Some columns of a task's Xt^T X (d_in x columns, row-major), over what was collected here.
    fn cross_columns(&self, task: usize, columns: Range<usize>, compute: &Compute) -> Vec<f64> {
        let mut cross = vec![0.0; self.d_in * columns.len()];
        for Collected { input, rows } in &self.collected {
            let [x, xt] = rows[task].clone();
            // A multiplication and an addition a term.
            let terms = x.len() as f64 * cross.len() as f64;
            compute.meter.add_operations(Stage::Gram, 2.0 * terms);
            add_product((input, xt), (input, x), columns.clone(), &mut cross);
        }
        cross
    }
}

impl TaskStatistics {
    /// ||Xt^T X||_F
    pub(super) fn cross_norm(&self) -> f64 {
        let squares: f64 = match &self.cross {
            Cross::Same => return self.gram.norm(),
            Cross::Whole(cross) => cross.iter().map(|x| x * x).sum(),
            Cross::Squares(squares) => *squares,
        };
        squares.sqrt()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compute::gemm::{View, product};

    /// Rows of X and as many of Xt (rows x columns each), one below the other.
    fn features(seed: usize, rows: usize, columns: usize) -> Vec<f32> {
        let number = |at: usize| ((at * 7919 + seed * 104_729) % 10_007) as f32 / 10_007.0 - 0.5;
        (0..2 * rows * columns).map(number).collect()
    }

    /// The sums of one task and one layer over micro-batches of so many rows.
    fn collected(d_in: usize, batches: &[(Vec<f32>, usize)]) -> GroupStatistics {
        let mut gram = Symmetric::zeros(d_in);
        let mut all = Vec::new();
        for (data, rows) in batches {
            let [x, xt] = [0..*rows, *rows..2 * rows];
            let input = Rc::new(Features::Host {
                data: data.clone(),
                columns: d_in,
            });
            pollster::block_on(accumulate_gram(&input, xt.clone(), &mut gram)).unwrap();
            all.push(Collected {
                input,
                rows: vec![[x, xt]],
            });
        }
        GroupStatistics {
            d_in,
            tasks: vec![TaskStatistics {
                gram,
                cross: Cross::Squares(0.0),
                members: vec![MemberStatistics {
                    projected: vec![1.0; 2 * d_in],
                    output_norm: batches.len() as f64,
                }],
            }],
            collected: all,
        }
    }

    // One parcel, and several with more columns than one piece has.
    #[test]
    fn sums_of_workers_are_those_of_one_and_norms_those_of_the_whole_product() {
        for d_in in [40, 300, 2100] {
            let batches = [(features(1, 5, d_in), 5), (features(2, 3, d_in), 3)];
            let mut alone = collected(d_in, &batches);
            let [mut first, mut other] = [&batches[..1], &batches[1..]].map(|own| collected(d_in, own));
            let compute = Compute::cpu();
            let parcels = first.parcels();
            assert_eq!(parcels, other.parcels());
            assert_eq!(parcels.len() > 1, d_in > 2000, "{parcels:?}");
            for parcel in parcels {
                let crosses = alone.crosses(&parcel, &compute);
                alone.add_squares(&parcel, &crosses);
                let crosses = other.crosses(&parcel, &compute);
                let said = other.say(&parcel, &crosses).into_bytes();
                let mut crosses = first.crosses(&parcel, &compute);
                first.add_said(&parcel, &mut crosses, &said).unwrap();
                first.add_squares(&parcel, &crosses);
            }
            let mut whole = vec![0.0; d_in * d_in];
            for (data, rows) in &batches {
                let (x, xt) = data.split_at(rows * d_in);
                let [x, xt] = [x, xt].map(|x| View::new(x, *rows, d_in));
                let part: Vec<f64> = product(xt.transposed(), x);
                whole.iter_mut().zip(part).for_each(|(x, part)| *x += part);
            }
            let norm = whole.iter().map(|x| x * x).sum::<f64>().sqrt();
            // Sums of positive numbers: nothing cancels.
            for sums in [&alone, &first] {
                let found = sums.tasks[0].cross_norm();
                assert!((found / norm - 1.0).abs() < 1e-12, "{d_in}: {found} {norm}");
            }
            let (a, b) = (alone.tasks[0].gram.diagonal(), first.tasks[0].gram.diagonal());
            for (a, b) in a
                .iter()
                .zip(&b)
                .chain([(&alone.tasks[0].gram.norm(), &first.tasks[0].gram.norm())])
            {
                assert!((a - b).abs() <= 1e-12 * a, "{d_in}: {a} {b}");
            }
            let member = &first.tasks[0].members[0];
            assert_eq!((member.projected[7], member.output_norm), (2.0, 2.0));
        }
    }
}
