//! Rotary position embeddings (Su et al., 2021), as transformers applies them: the first half of the
//! rotated part of a head against its second half.

use std::cell::RefCell;

use burn::{
    backend::Dispatch,
    tensor::{Tensor, TensorData},
};

use crate::compute::{
    Compute, Path,
    kernels::rotary::{Rotate, on_host as rotate_rows},
};

/// cos and sin of every position's angles, made as positions are needed.
pub struct Rotary {
    /// Angle a position, one a pair of rotated numbers.
    frequencies: Vec<f32>,
    /// Factor of cos and sin (`attention_scaling` in transformers; 1 but for YaRN-like scalings).
    factor: f32,
    table: RefCell<Table>,
}

#[derive(Default)]
struct Table {
    /// (positions x 2 * pairs): cosines, then sines.
    angles: Vec<f32>,
    device: Option<Tensor<2>>,
}

impl Rotary {
    /// Rotates the first `2 * frequencies.len()` numbers of a head.
    pub fn new(frequencies: Vec<f32>, factor: f32) -> Self {
        Self {
            frequencies,
            factor,
            table: RefCell::default(),
        }
    }

    fn cover(&self, positions: usize) {
        let pairs = self.frequencies.len();
        let mut table = self.table.borrow_mut();
        let known = table.angles.len() / (2 * pairs).max(1);
        if positions <= known {
            return;
        }
        for position in known..positions.next_power_of_two() {
            // The angle is rounded to f32 as transformers rounds it.
            let angle = |frequency: &f32| f64::from(position as f32 * frequency);
            let angles = self.frequencies.iter().map(angle);
            let parts = angles.clone().map(f64::cos).chain(angles.map(f64::sin));
            table
                .angles
                .extend(parts.map(|part| super::narrow(part) * self.factor));
        }
        table.device = None;
    }
}

impl Compute {
    /// Rotates every head of `x` (rows x heads * head_size) by its row's position.
    pub fn rotary(&self, x: Tensor<2>, head_size: usize, positions: &[u32], rotary: &Rotary) -> Tensor<2> {
        let pairs = rotary.frequencies.len();
        rotary.cover(positions.iter().max().map_or(0, |&p| p as usize + 1));
        if self.path == Path::Kernels {
            let table = rotary.table.borrow();
            return self.on_host(x, |values, columns| {
                rotate_rows(values, columns, &table.angles, pairs, positions, head_size);
            });
        }
        let mut table = rotary.table.borrow_mut();
        let Table { angles, device } = &mut *table;
        let angles = device.get_or_insert_with(|| {
            let shape = [angles.len() / (2 * pairs).max(1), 2 * pairs];
            Tensor::from_data(TensorData::new(angles.clone(), shape), &self.device)
        });
        let (x, angles) = (x.into_dispatch(), angles.clone().into_dispatch());
        let rotated = <Dispatch as Rotate>::rotate(x, angles, positions.to_vec(), head_size);
        Tensor::from_dispatch(rotated)
    }
}
