//! A delta on the device, as lanes add it to a layer's output.

use std::{collections::BTreeMap, ops::Range, rc::Rc};

use crate::{
    compute::{Compute, Features, Weight},
    delta::Delta,
};

/// What an adapter adds to a layer's weight, on the device.
pub enum DeviceDelta {
    /// B A with the scaling inside B.
    LowRank {
        /// A (r x d_in)
        a: Weight,
        /// B (d_out x r)
        b: Weight,
    },
    /// A dense (d_out x d_in) matrix.
    Dense(Weight),
}

/// Deltas by module, on the device.
pub fn on_device(deltas: &BTreeMap<String, Delta>, compute: &Compute) -> BTreeMap<String, Rc<DeviceDelta>> {
    deltas
        .iter()
        .map(|(name, delta)| (name.clone(), Rc::new(delta.to_device(compute))))
        .collect()
}

impl DeviceDelta {
    /// `x[rows] D^T`.
    pub fn apply(&self, x: &Features, rows: Range<usize>) -> Features {
        match self {
            Self::LowRank { a, b } => {
                let low = x.project(rows, a);
                low.project(low.all(), b)
            }
            Self::Dense(weight) => x.project(rows, weight),
        }
    }

    /// `out[rows] += factor x[from] D^T`, of as many rows of `x`.
    pub fn add_to(
        &self,
        out: &mut Features,
        rows: Range<usize>,
        (x, from): (&Features, Range<usize>),
        factor: f32,
    ) {
        match self {
            Self::LowRank { a, b } => out.add_low_rank(rows, (x, from), [a, b], factor),
            Self::Dense(_) => out.add_to_rows(rows, self.apply(x, from), factor),
        }
    }

    /// Multiplications and additions for one row.
    pub fn operations(&self) -> f64 {
        let product = |w: &Weight| w.operations(1);
        match self {
            Self::LowRank { a, b } => product(a) + product(b),
            Self::Dense(weight) => product(weight),
        }
    }
}
