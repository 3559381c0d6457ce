//! Rotary position embeddings (Su et al., 2021), as transformers applies them: the first half of the
//! rotated part of a head against its second half.

use std::cell::RefCell;

use burn::tensor::{Tensor, TensorData};

use crate::compute::{Compute, Path, attention::indices};

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
    /// (positions x pairs)
    cos: Vec<f32>,
    sin: Vec<f32>,
    device: Option<(Tensor<2>, Tensor<2>)>,
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
        let known = table.cos.len() / pairs.max(1);
        if positions <= known {
            return;
        }
        for position in known..positions.next_power_of_two() {
            for frequency in &self.frequencies {
                // The angle is rounded to f32 as transformers rounds it.
                let angle = f64::from(position as f32 * frequency);
                table.cos.push(super::narrow(angle.cos()) * self.factor);
                table.sin.push(super::narrow(angle.sin()) * self.factor);
            }
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
                for (row, &position) in values.chunks_exact_mut(columns).zip(positions) {
                    let at = position as usize * pairs..(position as usize + 1) * pairs;
                    let (cos, sin) = (&table.cos[at.clone()], &table.sin[at]);
                    for head in row.chunks_exact_mut(head_size) {
                        let (first, second) = head[..2 * pairs].split_at_mut(pairs);
                        for (((a, b), cos), sin) in first.iter_mut().zip(second).zip(cos).zip(sin) {
                            (*a, *b) = (*a * cos - *b * sin, *b * cos + *a * sin);
                        }
                    }
                }
            });
        }
        let [rows, columns] = x.dims();
        let mut table = rotary.table.borrow_mut();
        let Table { cos, sin, device } = &mut *table;
        let (cos, sin) = device.get_or_insert_with(|| {
            let upload = |data: &Vec<f32>| {
                let shape = [data.len() / pairs, pairs];
                Tensor::from_data(TensorData::new(data.clone(), shape), &self.device)
            };
            (upload(cos), upload(sin))
        });
        let at: Vec<usize> = positions.iter().map(|&p| p as usize).collect();
        let at = indices(&at, &self.device);
        let rotation = |table: &Tensor<2>| table.clone().select(0, at.clone()).reshape([rows, 1, pairs]);
        let (cos, sin) = (rotation(cos), rotation(sin));
        let heads = columns / head_size;
        let x = x.reshape([rows, heads, head_size]);
        let part = |from: usize, to: usize| x.clone().slice([0..rows, 0..heads, from..to]);
        let (a, b) = (part(0, pairs), part(pairs, 2 * pairs));
        let mut parts = vec![
            a.clone() * cos.clone() - b.clone() * sin.clone(),
            b * cos + a * sin,
        ];
        if 2 * pairs < head_size {
            parts.push(part(2 * pairs, head_size));
        }
        Tensor::cat(parts, 2).reshape([rows, columns])
    }
}
