//! Rotary position embeddings of packed rows.

use burn::backend::{Backend, Flex, backend_extension, tensor::FloatTensor};

use crate::compute::kernels::{floats, matrix};

/// The operator.
#[backend_extension(Cube: cfg(any(target_arch = "wasm32", feature = "gpu")), Flex)]
pub(in crate::compute) trait Rotate: Backend {
    /// Rotates the first half of the first `2 * pairs` numbers of every head of `x` (rows x heads * head_size) against
    /// their second half, by the row of `table` (positions x 2 * pairs; cosines, then sines) that `positions` names.
    fn rotate(
        x: FloatTensor<Self>,
        table: FloatTensor<Self>,
        positions: Vec<u32>,
        head_size: usize,
    ) -> FloatTensor<Self>;
}

/// Rotates rows in memory, as [`Rotate::rotate`] says.
pub(in crate::compute) fn on_host(
    x: &mut [f32],
    columns: usize,
    table: &[f32],
    pairs: usize,
    positions: &[u32],
    head_size: usize,
) {
    for (row, &position) in x.chunks_exact_mut(columns).zip(positions) {
        let angles = &table[position as usize * 2 * pairs..][..2 * pairs];
        let (cos, sin) = angles.split_at(pairs);
        for head in row.chunks_exact_mut(head_size) {
            let (first, second) = head[..2 * pairs].split_at_mut(pairs);
            for (((a, b), cos), sin) in first.iter_mut().zip(second).zip(cos).zip(sin) {
                (*a, *b) = (*a * cos - *b * sin, *b * cos + *a * sin);
            }
        }
    }
}

impl Rotate for Flex {
    fn rotate(
        x: FloatTensor<Self>,
        table: FloatTensor<Self>,
        positions: Vec<u32>,
        head_size: usize,
    ) -> FloatTensor<Self> {
        let [rows, columns] = [x.layout().shape()[0], x.layout().shape()[1]];
        let pairs = table.layout().shape()[1] / 2;
        let mut x = floats(x);
        on_host(&mut x, columns, &floats(table), pairs, &positions, head_size);
        matrix(x, rows, columns)
    }
}

#[cfg(any(target_arch = "wasm32", feature = "gpu"))]
mod gpu {
    use burn::backend::tensor::FloatTensor;
    use burn_cubecl::kernel::into_contiguous;
    use burn_wgpu::CubeBackend;
    use cubecl::prelude::*;

    use super::Rotate;
    use crate::compute::kernels::gpu::{own, scalar, table as upload, workgroups};

    /// A thread a pair of numbers, in place.
    #[cube(launch_unchecked)]
    fn rotary_kernel(
        x: &mut [f32],
        table: &[f32],
        positions: &[u32],
        count: u32,
        pairs: u32,
        heads: u32,
        head_size: u32,
    ) {
        let at = (CUBE_POS_Y * CUBE_COUNT_X + CUBE_POS_X) * 256u32 + UNIT_POS_X;
        if at >= count {
            terminate!();
        }
        let pair = at % pairs;
        let head = at / pairs;
        let angle = positions[(head / heads) as usize] * 2u32 * pairs + pair;
        let cos = table[angle as usize];
        let sin = table[(angle + pairs) as usize];
        let first = (head * head_size + pair) as usize;
        let second = (head * head_size + pair + pairs) as usize;
        let a = x[first];
        let b = x[second];
        x[first] = a * cos - b * sin;
        x[second] = b * cos + a * sin;
    }

    impl Rotate for CubeBackend {
        fn rotate(
            x: FloatTensor<Self>,
            table: FloatTensor<Self>,
            positions: Vec<u32>,
            head_size: usize,
        ) -> FloatTensor<Self> {
            let (x, table) = (own(x), into_contiguous(table));
            let pairs = table.meta.shape()[1] / 2;
            let heads = x.meta.shape()[1] / head_size;
            let count = positions.len() * heads * pairs;
            let jobs: Vec<[usize; 1]> = positions.iter().map(|&position| [position as usize]).collect();
            let positions = upload(&jobs, &x);
            // SAFETY: a thread beyond the pairs ends; positions are rows of the table, which covers them.
            unsafe {
                rotary_kernel::launch_unchecked(
                    &x.client,
                    workgroups(count.div_ceil(256)),
                    CubeDim::new_1d(256),
                    x.clone().into_buffer_arg(),
                    table.into_buffer_arg(),
                    positions.into_buffer_arg(),
                    scalar(count),
                    scalar(pairs),
                    scalar(heads),
                    scalar(head_size),
                );
            }
            x
        }
    }
}
