//! Sums over calibration samples at one linear group: all that solving needs to know of the features.
//!
//! They are values that add up, so that samples may be cut into micro-batches in any way, or collected by several workers
//! ([`GroupStatistics::say`]), and the sums of all be solved at once. All that is solved is summed in f64.

use std::{collections::BTreeMap, rc::Rc};

use crate::{
    compute::{Message, MessageReader, Stage, accumulate_product, gemm::Part},
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
}

/// The sums of one task.
pub(super) struct TaskStatistics {
    /// Xt^T Xt (d_in x d_in), lower triangle.
    pub(super) gram: Vec<f64>,
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
    /// The square of its norm, which a device sums.
    Squares(f64),
}

/// What solving needs to know of Xt^T X.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wanted {
    /// Nothing: X = Xt.
    Nothing,
    /// Itself.
    Whole,
    /// Its norm, and its products with factors: what a device tells of it.
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
                gram: vec![0.0; d_in * d_in],
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
            let (x, xt) = ((group.input, own.clone()), (group.input, merged));
            let rows = own.len();
            // A multiplication and an addition a term; in f64, since such counts pass what wasm's usize holds.
            let count = |terms: f64| work.compute.meter.add_operations(Stage::Gram, 2.0 * terms);
            let square = rows as f64 * (d_in * d_in) as f64;
            accumulate_product(xt.clone(), xt.clone(), Part::Lower, &mut sums.gram).await?;
            count(square / 2.0);
            if let Cross::Whole(cross) = &mut sums.cross {
                accumulate_product(xt.clone(), x, Part::Full, cross).await?;
                count(square);
            }
            for ((layer, output), member) in group.layers.iter().zip(group.outputs()).zip(&mut sums.members) {
                member.output_norm += output.sum_of_squares(own.clone()).await?;
                if let Some(DeviceDelta::LowRank { a, .. }) = deltas[task].get(&layer.name).map(Rc::as_ref)
                    && !member.projected.is_empty()
                {
                    let low = group.input.project(own.clone(), a);
                    accumulate_product((&low, low.all()), xt.clone(), Part::Full, &mut member.projected)
                        .await?;
                    count(2.0 * rows as f64 * (d_in * a.d_out()) as f64);
                }
            }
        }
        Ok(())
    }

    /// The sums as another worker tells them.
    pub(super) fn say(&self) -> Message {
        let d_in = self.d_in;
        self.tasks.iter().fold(Message::default(), |message, task| {
            let rows = task.gram.chunks_exact(d_in).enumerate();
            let message = rows.fold(message, |message, (i, row)| message.list(&row[..=i]));
            let message = match &task.cross {
                Cross::Whole(cross) => message.list(cross),
                Cross::Same | Cross::Squares(_) => message,
            };
            task.members.iter().fold(message, |message, member| {
                message.list(&member.projected).float(member.output_norm)
            })
        })
    }

    /// Adds what [`GroupStatistics::say`] tells of other samples at the same layers.
    ///
    /// # Errors
    /// [`Code::Internal`](crate::error::Code::Internal) for the sums of other layers.
    pub(super) fn add_said(&mut self, said: &[u8]) -> Result<()> {
        let d_in = self.d_in;
        let mut said = MessageReader::new(said);
        for task in &mut self.tasks {
            for (i, row) in task.gram.chunks_exact_mut(d_in).enumerate() {
                said.add_list(&mut row[..=i])?;
            }
            if let Cross::Whole(cross) = &mut task.cross {
                said.add_list(cross)?;
            }
            for member in &mut task.members {
                said.add_list(&mut member.projected)?;
                member.output_norm += said.float()?;
            }
        }
        Ok(())
    }
}

impl TaskStatistics {
    /// Xt^T X (d_in x d_in), whole, where that was wanted.
    pub(super) fn whole_cross(&self, d_in: usize) -> Vec<f64> {
        if let Cross::Whole(cross) = &self.cross {
            return cross.clone();
        }
        let mut full = self.gram.clone();
        for i in 0..d_in {
            for j in 0..i {
                full[j * d_in + i] = full[i * d_in + j];
            }
        }
        full
    }

    /// ||Xt^T Xt||_F from the lower triangle.
    pub(super) fn gram_norm(&self, d_in: usize) -> f64 {
        let mut sum = 0.0;
        for (i, row) in self.gram.chunks_exact(d_in).enumerate() {
            sum += 2.0 * row[..i].iter().map(|x| x * x).sum::<f64>() + row[i] * row[i];
        }
        sum.sqrt()
    }

    /// ||Xt^T X||_F
    pub(super) fn cross_norm(&self, d_in: usize) -> f64 {
        let squares: f64 = match &self.cross {
            Cross::Same => return self.gram_norm(d_in),
            Cross::Whole(cross) => cross.iter().map(|x| x * x).sum(),
            Cross::Squares(squares) => *squares,
        };
        squares.sqrt()
    }
}
