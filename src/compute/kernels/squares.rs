//! Sums of squares of rows, as parts that the host adds up in f64.

use burn::backend::{
    Backend, Flex, backend_extension,
    tensor::{FloatTensor, IntTensor},
};

use crate::compute::kernels::floats;

/// Partial sums: each f32 adds few terms, and as many workgroups are at it.
pub(in crate::compute) const PARTS: usize = 32;

/// First row, rows, where in `sums`.
pub(in crate::compute) type SquaresJob = [usize; 3];

/// The operator.
#[backend_extension(Cube: cfg(any(target_arch = "wasm32", feature = "gpu")), Flex)]
pub(in crate::compute) trait Squares: Backend {
    /// For every job, adds the squares of `x[first..][..rows]` to [`PARTS`] f32 numbers, kept as bits at `sums[at..]`.
    fn squares(sums: IntTensor<Self>, x: FloatTensor<Self>, jobs: Vec<SquaresJob>) -> IntTensor<Self>;
}

/// The sum of the parts.
pub(in crate::compute) fn total(parts: &[i32]) -> f64 {
    parts
        .iter()
        .map(|bits| f64::from(f32::from_bits(bits.cast_unsigned())))
        .sum()
}

impl Squares for Flex {
    fn squares(mut sums: IntTensor<Self>, x: FloatTensor<Self>, jobs: Vec<SquaresJob>) -> IntTensor<Self> {
        let columns = x.layout().shape()[1];
        let x = floats(x);
        let words = sums.storage_mut::<i32>();
        for [first, rows, at] in jobs {
            let numbers = &x[first * columns..(first + rows) * columns];
            for (part, numbers) in numbers.chunks(numbers.len().div_ceil(PARTS).max(1)).enumerate() {
                let before = f32::from_bits(words[at + part].cast_unsigned());
                let squares = numbers.iter().map(|&x| f64::from(x).powi(2));
                let sum = f64::from(before) + squares.sum::<f64>();
                words[at + part] = crate::compute::narrow(sum).to_bits().cast_signed();
            }
        }
        sums
    }
}

#[cfg(any(target_arch = "wasm32", feature = "gpu"))]
mod gpu {
    use burn::backend::tensor::{FloatTensor, IntTensor};
    use burn_cubecl::kernel::into_contiguous;
    use burn_wgpu::CubeBackend;
    use cubecl::prelude::*;

    use super::{PARTS, Squares, SquaresJob};
    use crate::compute::kernels::gpu::{scalar, table};

    #[cube(launch_unchecked)]
    fn squares_kernel(x: &[f32], table: &[u32], sums: &mut [u32], columns: u32) {
        let mut shared = Shared::<[f32]>::new_slice(256usize);
        let job = CUBE_POS_Z * 3u32;
        let first = table[job as usize] * columns;
        let count = table[(job + 1u32) as usize] * columns;
        let to = (table[(job + 2u32) as usize] + CUBE_POS_X) as usize;
        let mut sum = 0.0f32;
        let mut at = CUBE_POS_X * 256u32 + UNIT_POS_X;
        while at < count {
            let value = x[(first + at) as usize];
            sum += value * value;
            at += CUBE_COUNT_X * 256u32;
        }
        let me = UNIT_POS_X as usize;
        shared[me] = sum;
        sync_cube();
        #[unroll]
        for step in 0..8usize {
            let half = comptime!(128usize >> step);
            if me < half {
                let other = shared[me + half];
                shared[me] += other;
            }
            sync_cube();
        }
        if UNIT_POS_X == 0u32 {
            sums[to] = u32::reinterpret(f32::reinterpret(sums[to]) + shared[0]);
        }
    }

    impl Squares for CubeBackend {
        fn squares(sums: IntTensor<Self>, x: FloatTensor<Self>, jobs: Vec<SquaresJob>) -> IntTensor<Self> {
            let x = into_contiguous(x);
            let columns = x.meta.shape()[1];
            // SAFETY: the kernel reads the rows that its table names, which are rows of `x`.
            unsafe {
                squares_kernel::launch_unchecked(
                    &sums.client,
                    CubeCount::Static(scalar(PARTS), 1, scalar(jobs.len())),
                    CubeDim::new_1d(256),
                    x.into_buffer_arg(),
                    table(&jobs, &sums).into_buffer_arg(),
                    sums.clone().into_buffer_arg(),
                    scalar(columns),
                );
            }
            sums
        }
    }
}
