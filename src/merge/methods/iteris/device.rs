//! The sums of [`statistics`](super::statistics) where features are on a device: one buffer a linear group, and one for
//! the residuals of a whole pass, each read once.

use std::{collections::BTreeMap, rc::Rc};

use crate::{
    compute::{Compute, DeviceSums, Factor, Product, ProductNorm, SquareSum, Stage},
    delta::DeviceDelta,
    error::Result,
    merge::methods::iteris::statistics::{Cross, GroupStatistics, TaskStatistics},
    model::{lanes::Group, projection::Projection},
};

/// The sums of one group, still on the device.
pub(super) struct GroupSums {
    /// Where they go: zeros so far.
    statistics: GroupStatistics,
    /// Those of all tasks, or one a task where a buffer cannot hold all.
    sums: Vec<DeviceSums>,
    tasks: Vec<TaskSums>,
}

struct TaskSums {
    /// Which of the sums are this task's.
    buffer: usize,
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

impl TaskSums {
    fn new(task: &TaskStatistics, d_in: usize, sums: &mut DeviceSums) -> Self {
        let xt = sums.factor(d_in);
        let whole = matches!(task.cross, Cross::Whole(_));
        let x = (task.cross != Cross::Same).then(|| sums.factor(d_in));
        Self {
            buffer: 0,
            gram: sums.product(xt, xt),
            cross: x.filter(|_| whole).map(|x| sums.product(xt, x)),
            cross_norm: x.filter(|_| !whole).map(|x| sums.product_norm(xt, x)),
            members: task
                .members
                .iter()
                .map(|member| MemberSums {
                    output_norm: sums.square_sum(),
                    projected: (!member.projected.is_empty()).then(|| {
                        let low = sums.factor(member.projected.len() / d_in);
                        (low, sums.product(low, xt))
                    }),
                })
                .collect(),
            xt,
            x,
        }
    }
}

impl GroupSums {
    /// What `statistics` has places for.
    pub(super) fn new(statistics: GroupStatistics, compute: &Compute) -> Self {
        let d_in = statistics.d_in;
        let mut together = DeviceSums::default();
        let tasks = statistics.tasks.iter();
        let mut tasks: Vec<TaskSums> = tasks
            .map(|task| TaskSums::new(task, d_in, &mut together))
            .collect();
        let mut sums = vec![together];
        let most = compute.limits.buffer_bytes.unwrap_or(f64::INFINITY);
        if sums[0].bytes() as f64 > most {
            sums.clear();
            for (buffer, (task, own)) in statistics.tasks.iter().zip(&mut tasks).enumerate() {
                let mut alone = DeviceSums::default();
                *own = TaskSums {
                    buffer,
                    ..TaskSums::new(task, d_in, &mut alone)
                };
                sums.push(alone);
            }
        }
        Self {
            statistics,
            sums,
            tasks,
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
        let inputs: Vec<_> = self
            .sums
            .iter_mut()
            .map(|sums| sums.source(group.input))
            .collect();
        for (index, task) in self.tasks.iter().enumerate() {
            let (own, merged) = (group.lane(index, 0), group.lane(index, merged_variant));
            if own.is_empty() {
                continue;
            }
            let (sums, input) = (&mut self.sums[task.buffer], inputs[task.buffer]);
            // A multiplication and an addition a term.
            let rows = own.len() as f64;
            let count = |terms: f64| compute.meter.add_operations(Stage::Gram, 2.0 * terms);
            count(rows * d_in * d_in / 2.0);
            sums.add_rows(task.xt, input, merged);
            if let Some(x) = task.x {
                count(rows * d_in * d_in);
                sums.add_rows(x, input, own.clone());
            }
            for (layer, member) in group.layers.iter().zip(&task.members) {
                if let Some(DeviceDelta::LowRank { a, .. }) = deltas[index].get(&layer.name).map(Rc::as_ref)
                    && let Some((factor, _)) = member.projected
                {
                    count(2.0 * rows * d_in * a.d_out() as f64);
                    let low = group.input.project(own.clone(), a);
                    let source = sums.source(&low);
                    sums.add_rows(factor, source, low.all());
                }
            }
        }
        for (buffer, sums) in self.sums.iter_mut().enumerate() {
            for (at, output) in group.outputs().iter().enumerate() {
                let tasks = self.tasks.iter().enumerate();
                let rows: Vec<_> = tasks
                    .filter(|(_, task)| task.buffer == buffer)
                    .map(|(index, task)| (task.members[at].output_norm, group.lane(index, 0)))
                    .collect();
                sums.add_squares(output, &rows);
            }
        }
    }

    /// The sums, read back.
    ///
    /// # Errors
    /// As [`DeviceSums::read`], and features that overflow.
    pub(super) async fn read(mut self) -> Result<GroupStatistics> {
        let mut read = Vec::with_capacity(self.sums.len());
        for sums in self.sums {
            read.push(sums.read().await?);
        }
        for (task, to) in self.tasks.iter().zip(&mut self.statistics.tasks) {
            let read = &read[task.buffer];
            read.add_gram(task.gram, &mut to.gram)?;
            if let (Some(product), Cross::Whole(cross)) = (task.cross, &mut to.cross) {
                read.add_product(product, cross)?;
            }
            if let Some(norm) = task.cross_norm {
                to.cross = Cross::Squares(read.product_norm(norm)?);
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
