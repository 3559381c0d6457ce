//! Weights in the type that their file has them in.
//!
//! A block of a large model takes half the memory as bf16 or f16 that it takes as f32. Its numbers are widened where
//! they are used, a part at a time, and widening is exact: products are those of the f32 matrix bit for bit.

use std::ops::Range;

use crate::compute::gemm::{Source, View};

/// Appends the numbers of little-endian elements of one type.
type Widen = fn(&[u8], &mut Vec<f32>);

/// A weight W (d_out x d_in) in the type of its file; as a [`Source`] it is W^T, a layer's right factor.
pub struct RawWeight {
    bytes: Vec<u8>,
    element_bytes: usize,
    widen: Widen,
    d_out: usize,
    d_in: usize,
    transposed: bool,
}

impl RawWeight {
    /// A weight of elements that each take `element_bytes`, row by row; `widen` makes numbers of such elements.
    ///
    /// # Panics
    /// If there are not `d_out x d_in` of them.
    pub fn new((bytes, element_bytes, widen): (Vec<u8>, usize, Widen), d_out: usize, d_in: usize) -> Self {
        assert_eq!(
            bytes.len(),
            d_out * d_in * element_bytes,
            "a weight of another shape"
        );
        Self {
            bytes,
            element_bytes,
            widen,
            d_out,
            d_in,
            transposed: false,
        }
    }

    /// A weight that is computed and not read.
    ///
    /// # Panics
    /// As [`new`](Self::new).
    pub fn of_f32(data: &[f32], d_out: usize, d_in: usize) -> Self {
        let bytes = data.iter().flat_map(|number| number.to_le_bytes()).collect();
        let widen = |bytes: &[u8], numbers: &mut Vec<f32>| {
            numbers.extend(
                bytes
                    .as_chunks()
                    .0
                    .iter()
                    .map(|&number| f32::from_le_bytes(number)),
            );
        };
        Self::new((bytes, size_of::<f32>(), widen), d_out, d_in)
    }

    /// The transposed weight (d_in x d_out): what lies row by row is read column by column.
    #[must_use]
    pub fn transposed(self) -> Self {
        Self {
            d_out: self.d_in,
            d_in: self.d_out,
            transposed: !self.transposed,
            ..self
        }
    }

    /// The layer's outputs.
    pub const fn d_out(&self) -> usize {
        self.d_out
    }

    /// The layer's inputs.
    pub const fn d_in(&self) -> usize {
        self.d_in
    }

    /// Some rows of W, made in `room`, whatever that held.
    pub fn rows<'a>(&self, rows: Range<usize>, room: &'a mut Vec<f32>) -> View<'a, f32> {
        self.part(0..self.d_in, rows, room).transposed()
    }

    /// All of W as f32, row-major.
    pub fn widened(&self) -> Vec<f32> {
        let mut all = Vec::new();
        let rows = self.rows(0..self.d_out, &mut all);
        if self.transposed {
            return rows.elements().collect();
        }
        all
    }
}

impl Source for RawWeight {
    fn depth(&self) -> usize {
        self.d_in
    }

    fn columns(&self) -> usize {
        self.d_out
    }

    fn part<'a>(&self, rows: Range<usize>, columns: Range<usize>, room: &'a mut Vec<f32>) -> View<'a, f32> {
        // As they lie in memory: rows of W, or of W^T where that is what the file has.
        let (lines, across, width) = if self.transposed {
            (rows, columns, self.d_out)
        } else {
            (columns, rows, self.d_in)
        };
        room.clear();
        room.reserve(lines.len() * across.len());
        for line in lines.clone() {
            let place = |at: usize| (line * width + at) * self.element_bytes;
            (self.widen)(&self.bytes[place(across.start)..place(across.end)], room);
        }
        let made = View::new(room, lines.len(), across.len());
        if self.transposed { made } else { made.transposed() }
    }
}

#[cfg(test)]
mod tests {
    use half::{bf16, f16};

    use super::*;
    use crate::compute::gemm::{Packed, multiply_packed, multiply_source};

    type Type = (&'static str, fn(f32) -> Vec<u8>, Widen);

    /// What files have, and how it is widened.
    const TYPES: [Type; 3] = [
        (
            "bf16",
            |x| bf16::from_f32(x).to_le_bytes().to_vec(),
            |bytes, out| {
                let elements = bytes.as_chunks().0.iter();
                out.extend(elements.map(|&element| bf16::from_le_bytes(element).to_f32()));
            },
        ),
        (
            "f16",
            |x| f16::from_f32(x).to_le_bytes().to_vec(),
            |bytes, out| {
                let elements = bytes.as_chunks().0.iter();
                out.extend(elements.map(|&element| f16::from_le_bytes(element).to_f32()));
            },
        ),
        (
            "f32",
            |x| x.to_le_bytes().to_vec(),
            |bytes, out| {
                let elements = bytes.as_chunks().0.iter();
                out.extend(elements.map(|&element| f32::from_le_bytes(element)));
            },
        ),
    ];

    fn numbers(count: usize, seed: u32) -> Vec<f32> {
        let mut state = seed;
        let mut next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) as f32 / (1 << 23) as f32 - 1.0
        };
        (0..count).map(|_| next()).collect()
    }

    #[test]
    fn products_are_those_of_the_packed_f32_matrix_bit_for_bit() {
        // Two depths of blocks, with an end that is no whole tile; parts, and two bands of them.
        let (d_out, d_in) = (331, 300);
        for (name, narrow, widen) in TYPES {
            let stored = numbers(d_out * d_in, 1);
            let bytes: Vec<u8> = stored.iter().flat_map(|&x| narrow(x)).collect();
            let mut widened = Vec::new();
            widen(&bytes, &mut widened);
            let element = bytes.len() / stored.len();
            let raw = || (bytes.clone(), element, widen);
            for (raw, w) in [
                (
                    RawWeight::new(raw(), d_out, d_in),
                    View::new(&widened, d_out, d_in),
                ),
                (
                    RawWeight::new(raw(), d_in, d_out).transposed(),
                    View::new(&widened, d_in, d_out).transposed(),
                ),
            ] {
                let expected: Vec<f32> = w.elements().collect();
                assert_eq!(raw.widened(), expected);
                let (packed, of_raw) = (Packed::new(w.transposed()), Packed::of(&raw));
                for rows in [1, 7, 64, 129, 300] {
                    let x = numbers(rows * d_in, 2);
                    let x = View::new(&x, rows, d_in);
                    let [mut wanted, mut found, mut again] = [0, 1, 2].map(|_| vec![0.0; rows * d_out]);
                    multiply_packed(x, &packed, 1.0, &mut wanted);
                    multiply_source(x, &raw, &mut found);
                    multiply_packed(x, &of_raw, 1.0, &mut again);
                    let bits = |values: &[f32]| values.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
                    assert!(wanted.iter().any(|x| x.abs() > 1.0));
                    assert!(
                        bits(&wanted) == bits(&found) && bits(&wanted) == bits(&again),
                        "{name}, {rows} rows, transposed: {}",
                        raw.transposed
                    );
                }
            }
        }
    }

    #[test]
    fn some_rows_are_those_of_the_whole() {
        let data = numbers(35, 3);
        let of_rows = |raw: &RawWeight| -> Vec<f32> { raw.rows(2..4, &mut vec![9.0]).elements().collect() };
        assert_eq!(of_rows(&RawWeight::of_f32(&data, 7, 5)), data[10..20]);
        let transposed: Vec<f32> = (0..10).map(|at| data[at % 5 * 7 + 2 + at / 5]).collect();
        assert_eq!(of_rows(&RawWeight::of_f32(&data, 5, 7).transposed()), transposed);
    }
}
