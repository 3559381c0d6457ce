//! The sums of [`statistics`](super::statistics) where features are on a device: one buffer a linear group, and one for
//! the residuals of a whole pass, each read once.

use std::{collections::BTreeMap, rc::Rc};

use crate::{
    compute::{Compute, DeviceSums, Factor, Product, ProductNorm, SquareSum, Stage},
    delta::DeviceDelta,
    error::Result,
    merge::methods::iteris::statistics::GroupStatistics,
    model::{lanes::Group, projection::Projection},
};

/// The sums of one group, still on the device.
pub(super) struct GroupSums {
    /// Where they go: zeros so far.
    statistics: GroupStatistics,
    sums: DeviceSums,
    tasks: Vec<TaskSums>,
}

struct TaskSums {
    xt: Factor,
    x: Option<Factor>,
    gram: Product,
    /// Xt^T X, whole or its norm alone.
    cross: Option<Product>,
    cross_norm: Option<ProductNorm>,
    members: Vec<MemberSums>,
}

struct MemberSums {
    output_norm: SquareSum,
    /// X A^T, and its product with Xt.
    projected: Option<(Factor, Product)>,
}

impl GroupSums {
    /// What `statistics` has places for; of Xt^T X the norm alone, unless `whole_cross`.
    pub(super) fn new(mut statistics: GroupStatistics, whole_cross: bool) -> Self {
        let d_in = statistics.d_in;
        let mut sums = DeviceSums::default();
        let tasks = statistics.tasks.iter_mut().map(|task| {
            let xt = sums.factor(d_in);
            let gram = sums.product(xt, xt);
            let x = (!task.cross.is_empty()).then(|| sums.factor(d_in));
            let cross = x.filter(|_| whole_cross).map(|x| sums.product(xt, x));
            let cross_norm = x.filter(|_| !whole_cross).map(|x| sums.product_norm(xt, x));
            if !whole_cross {
                task.cross = Vec::new();
            }
            let members = task.members.iter().map(|member| MemberSums {
                output_norm: sums.square_sum(),
                projected: (!member.projected.is_empty()).then(|| {
                    let low = sums.factor(member.projected.len() / d_in);
                    (low, sums.product(low, xt))
                }),
            });
            TaskSums {
                members: members.collect(),
                xt,
                x,
                gram,
                cross,
                cross_norm,
            }
        });
        let tasks = tasks.collect();
        Self {
            tasks,
            sums,
            statistics,
        }
    }

    /// Adds one micro-batch's features, as [`GroupStatistics::collect`] does.
    pub(super) fn collect(
        &mut self,
        compute: &Compute,
        deltas: &[BTreeMap<String, Rc<DeviceDelta>>],
        group: &Group<'_>,
        merged_variant: usize,
    ) {
        let d_in = self.statistics.d_in as f64;
        let input = self.sums.source(group.input);
        for (index, task) in self.tasks.iter().enumerate() {
            let (own, merged) = (group.lane(index, 0), group.lane(index, merged_variant));
            if own.is_empty() {
                continue;
            }
            // A multiplication and an addition a term.
            let rows = own.len() as f64;
            let count = |terms: f64| compute.meter.add_operations(Stage::Gram, 2.0 * terms);
            count(rows * d_in * d_in / 2.0);
            self.sums.add_rows(task.xt, input, merged);
            if let Some(x) = task.x {
                count(rows * d_in * d_in);
                self.sums.add_rows(x, input, own.clone());
            }
            for (layer, member) in group.layers.iter().zip(&task.members) {
                if let Some(DeviceDelta::LowRank { a, .. }) = deltas[index].get(&layer.name).map(Rc::as_ref)
                    && let Some((factor, _)) = member.projected
                {
                    count(2.0 * rows * d_in * a.d_out() as f64);
                    let low = group.input.project(own.clone(), a);
                    let source = self.sums.source(&low);
                    self.sums.add_rows(factor, source, low.all());
                }
            }
        }
        for (at, output) in group.outputs().iter().enumerate() {
            let lanes = self.tasks.iter().enumerate();
            let rows: Vec<_> = lanes
                .map(|(index, task)| (task.members[at].output_norm, group.lane(index, 0)))
                .collect();
            self.sums.add_squares(output, &rows);
        }
    }

    /// The sums, read back.
    ///
    /// # Errors
    /// As [`DeviceSums::read`], and features that overflow.
    pub(super) async fn read(mut self) -> Result<GroupStatistics> {
        let read = self.sums.read().await?;
        for (task, to) in self.tasks.iter().zip(&mut self.statistics.tasks) {
            read.add_product(task.gram, &mut to.gram)?;
            if let Some(product) = task.cross {
                read.add_product(product, &mut to.cross)?;
            }
            if let Some(norm) = task.cross_norm {
                to.cross_squares = Some(read.product_norm(norm)?);
            }
            for (member, to) in task.members.iter().zip(&mut to.members) {
                to.output_norm += read.squares(member.output_norm);
                if let Some((_, product)) = member.projected {
                    read.add_product(product, &mut to.projected)?;
                }
            }
        }
        Ok(self.statistics)
    }
}

/// ||X_i D_i^T - Xt_i D*^T||^2 and ||X_i D_i^T||^2 of every layer and task, still on the device.
pub(super) struct Residuals {
    sums: DeviceSums,
    places: BTreeMap<String, Vec<[SquareSum; 2]>>,
}

impl Residuals {
    /// Zeros for these layers.
    pub(super) fn new<'a>(layers: impl Iterator<Item = &'a str>, tasks: usize) -> Self {
        let mut sums = DeviceSums::default();
        let places = layers
            .map(|layer| {
                let pairs = (0..tasks).map(|_| [sums.square_sum(), sums.square_sum()]);
                (layer.to_owned(), pairs.collect())
            })
            .collect();
        Self { sums, places }
    }

    /// Adds one micro-batch's rows of a layer under its solution `merged`.
    pub(super) fn measure(
        &mut self,
        compute: &Compute,
        (layer, merged): (&Projection, &DeviceDelta),
        deltas: &[BTreeMap<String, Rc<DeviceDelta>>],
        group: &Group<'_>,
        merged_variant: usize,
    ) {
        let Some(places) = self.places.get(&layer.name) else {
            return;
        };
        // The tasks that change the layer and have samples here, and their rows.
        let changed: Vec<_> = (0..places.len())
            .filter_map(|task| Some((task, deltas[task].get(&layer.name)?, group.lane(task, 0))))
            .filter(|(_, _, own)| !own.is_empty())
            .collect();
        let rows = changed.iter().map(|(_, _, own)| own.end).max().unwrap_or(0);
        let mut apart = compute.zeros(rows, layer.weight.d_out());
        for (_, delta, own) in &changed {
            delta.add_to(&mut apart, own.clone(), (group.input, own.clone()), 1.0);
        }
        let sums = |which: usize| {
            let sums = changed
                .iter()
                .map(|(task, _, own)| (places[*task][which], own.clone()));
            sums.collect::<Vec<_>>()
        };
        self.sums.add_squares(&apart, &sums(1));
        for (task, _, own) in &changed {
            let lane = group.lane(*task, merged_variant);
            merged.add_to(&mut apart, own.clone(), (group.input, lane), -1.0);
        }
        self.sums.add_squares(&apart, &sums(0));
    }

    /// Reads them back: the distance and the norm of every task, by layer.
    ///
    /// # Errors
    /// As [`DeviceSums::read`].
    pub(super) async fn read(self) -> Result<BTreeMap<String, Vec<(f64, f64)>>> {
        let read = self.sums.read().await?;
        let pair = |[distance, norm]: [SquareSum; 2]| (read.squares(distance), read.squares(norm));
        let layers = self.places.into_iter();
        Ok(layers
            .map(|(layer, tasks)| (layer, tasks.into_iter().map(pair).collect()))
            .collect())
    }
}
