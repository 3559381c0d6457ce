//! Sums over calibration samples at one linear group: all that solving needs to know of the features.
//!
//! They are values that add up, so that samples may be cut into micro-batches in any way (or collected
//! by several workers) and the sums of all be solved at once. All sums are in f64.

use std::{collections::BTreeMap, rc::Rc};

use crate::{
    compute::{Stage, accumulate_product, gemm::Part},
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
    /// Xt^T X (d_in x d_in); empty where no member needs it, or where X = Xt and it is the Gram matrix.
    pub(super) cross: Vec<f64>,
    /// ||Xt^T X||_F^2, where a device summed that alone.
    pub(super) cross_squares: Option<f64>,
    /// One a member of the group.
    pub(super) members: Vec<MemberStatistics>,
}

/// The sums of one task at one layer of the group.
pub(super) struct MemberStatistics {
    /// A (X^T Xt) (rank x d_in); empty without factors, or where `cross` or the Gram matrix is used whole.
    pub(super) projected: Vec<f64>,
    /// ||X (W0 + D)^T||_F^2
    pub(super) output_norm: f64,
}

impl GroupStatistics {
    /// Zero sums for the layers of a group; `same_features` says that X = Xt.
    pub(super) fn new(
        work: &SolveContext<'_>,
        objective: &Objective,
        layers: &[&Projection],
        d_in: usize,
        same_features: bool,
    ) -> Self {
        let full = objective.target == LeastSquares::Full;
        let tasks = work.tasks.iter().map(|task| {
            let delta = |layer: &Projection| task.deltas.get(&layer.name);
            let cross = !same_features && (full || layers.iter().any(|layer| delta(layer).is_some()));
            TaskStatistics {
                gram: vec![0.0; d_in * d_in],
                cross_squares: None,
                cross: if cross { vec![0.0; d_in * d_in] } else { Vec::new() },
                members: layers
                    .iter()
                    .map(|layer| MemberStatistics {
                        projected: match delta(layer) {
                            Some(Delta::LowRank(factors)) if !full && !same_features => {
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
            if !sums.cross.is_empty() {
                accumulate_product(xt.clone(), x, Part::Full, &mut sums.cross).await?;
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

    /// Adds the sums of other samples.
    pub(super) fn add(&mut self, other: &Self) {
        let add = |to: &mut [f64], from: &[f64]| to.iter_mut().zip(from).for_each(|(to, from)| *to += from);
        for (task, other) in self.tasks.iter_mut().zip(&other.tasks) {
            add(&mut task.gram, &other.gram);
            add(&mut task.cross, &other.cross);
            for (member, other) in task.members.iter_mut().zip(&other.members) {
                add(&mut member.projected, &other.projected);
                member.output_norm += other.output_norm;
            }
        }
    }
}

impl TaskStatistics {
    /// Xt^T X (d_in x d_in), whole.
    pub(super) fn whole_cross(&self, d_in: usize) -> Vec<f64> {
        if !self.cross.is_empty() {
            return self.cross.clone();
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
        if let Some(squares) = self.cross_squares {
            return squares.sqrt();
        }
        if self.cross.is_empty() {
            return self.gram_norm(d_in);
        }
        self.cross.iter().map(|x| x * x).sum::<f64>().sqrt()
    }
}
