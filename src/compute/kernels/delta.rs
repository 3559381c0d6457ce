//! What a low-rank delta adds to rows of a layer's output.

use burn::backend::{Backend, Flex, backend_extension, tensor::FloatTensor};

use crate::compute::{
    gemm::{Part, View, multiply},
    kernels::{floats, matrix},
};

/// Which rows of the input are added to which of the output, and with what factor.
#[derive(Clone, Copy)]
pub(in crate::compute) struct DeltaJob {
    /// The first row of the input.
    pub(in crate::compute) from: usize,
    /// The first row of the output.
    pub(in crate::compute) to: usize,
    /// How many rows.
    pub(in crate::compute) rows: usize,
    /// What the product is multiplied with.
    pub(in crate::compute) factor: f32,
}

/// The operator.
#[backend_extension(Cube: cfg(any(target_arch = "wasm32", feature = "gpu")), Flex)]
pub(in crate::compute) trait LowRankDelta: Backend {
    /// `out[to..][..rows] += factor x[from..][..rows] A^T B^T`, of A (r x d_in) and B (d_out x r).
    fn add_low_rank(
        out: FloatTensor<Self>,
        x: FloatTensor<Self>,
        a: FloatTensor<Self>,
        b: FloatTensor<Self>,
        job: DeltaJob,
    ) -> FloatTensor<Self>;
}

impl LowRankDelta for Flex {
    fn add_low_rank(
        out: FloatTensor<Self>,
        x: FloatTensor<Self>,
        a: FloatTensor<Self>,
        b: FloatTensor<Self>,
        job: DeltaJob,
    ) -> FloatTensor<Self> {
        let DeltaJob {
            from,
            to,
            rows,
            factor,
        } = job;
        let [all, d_out] = [out.layout().shape()[0], out.layout().shape()[1]];
        let [rank, d_in] = [a.layout().shape()[0], a.layout().shape()[1]];
        let (mut out, x, a, b) = (floats(out), floats(x), floats(a), floats(b));
        let x = View::new(&x[from * d_in..(from + rows) * d_in], rows, d_in);
        let mut low = vec![0.0_f32; rows * rank];
        multiply(
            x,
            View::new(&a, rank, d_in).transposed(),
            1.0,
            Part::Full,
            &mut low,
            rank,
        );
        let b = View::new(&b, d_out, rank).transposed();
        let target = &mut out[to * d_out..(to + rows) * d_out];
        multiply(View::new(&low, rows, rank), b, factor, Part::Full, target, d_out);
        matrix(out, all, d_out)
    }
}

#[cfg(any(target_arch = "wasm32", feature = "gpu"))]
mod gpu {
    use burn::backend::tensor::FloatTensor;
    use burn_cubecl::kernel::into_contiguous;
    use burn_wgpu::CubeBackend;
    use cubecl::prelude::*;

    use super::{DeltaJob, LowRankDelta};
    use crate::compute::kernels::gpu::{own, scalar};

    /// Rows of a workgroup, and ranks that it takes at once: a thread a number of x A^T.
    const SIDE: usize = 16;
    /// Numbers of a row of x and of A in shared memory at once.
    const DEPTH: usize = 32;

    #[cube(launch_unchecked)]
    #[expect(clippy::too_many_arguments, reason = "a kernel's buffers and scalars")]
    fn delta_kernel(
        x: &[f32],
        a: &[f32],
        b: &[f32],
        out: &mut [f32],
        from: u32,
        to: u32,
        rows: u32,
        d_in: u32,
        d_out: u32,
        rank: u32,
        factor: f32,
    ) {
        let mut x_tile = Shared::<[f32]>::new_slice(comptime!(SIDE * (DEPTH + 1)));
        let mut a_tile = Shared::<[f32]>::new_slice(comptime!(SIDE * (DEPTH + 1)));
        let mut low = Shared::<[f32]>::new_slice(comptime!(SIDE * SIDE));
        let me = UNIT_POS_X;
        let top = CUBE_POS_X * 16u32;
        let my_row = me / 16u32;
        let my_rank = me % 16u32;
        let mut first = 0u32;
        while first < rank {
            let mut sum = 0.0f32;
            let mut start = 0u32;
            while start < d_in {
                #[unroll]
                for part in 0..2u32 {
                    let at = me + part * 256u32;
                    let r = at / 32u32;
                    let k = at % 32u32;
                    let mut value = 0.0f32;
                    let mut weight = 0.0f32;
                    if start + k < d_in {
                        if top + r < rows {
                            value = x[((from + top + r) * d_in + start + k) as usize];
                        }
                        if first + r < rank {
                            weight = a[((first + r) * d_in + start + k) as usize];
                        }
                    }
                    let place = (r * 33u32 + k) as usize;
                    x_tile[place] = value;
                    a_tile[place] = weight;
                }
                sync_cube();
                for k in 0..32u32 {
                    sum += x_tile[(my_row * 33u32 + k) as usize] * a_tile[(my_rank * 33u32 + k) as usize];
                }
                sync_cube();
                start += 32u32;
            }
            low[me as usize] = sum * factor;
            sync_cube();
            let mut column = me;
            while column < d_out {
                let mut weights = Array::<f32>::new(16usize);
                #[unroll]
                for q in 0..16u32 {
                    let mut weight = 0.0f32;
                    if first + q < rank {
                        weight = b[(column * rank + first + q) as usize];
                    }
                    weights[q as usize] = weight;
                }
                for row in 0..16u32 {
                    if top + row < rows {
                        let mut sum = 0.0f32;
                        #[unroll]
                        for q in 0..16u32 {
                            sum += low[(row * 16u32 + q) as usize] * weights[q as usize];
                        }
                        out[((to + top + row) * d_out + column) as usize] += sum;
                    }
                }
                column += 256u32;
            }
            sync_cube();
            first += 16u32;
        }
    }

    impl LowRankDelta for CubeBackend {
        fn add_low_rank(
            out: FloatTensor<Self>,
            x: FloatTensor<Self>,
            a: FloatTensor<Self>,
            b: FloatTensor<Self>,
            job: DeltaJob,
        ) -> FloatTensor<Self> {
            let [x, a, b] = [x, a, b].map(into_contiguous);
            let out = own(out);
            let (d_out, rank, d_in) = (out.meta.shape()[1], a.meta.shape()[0], a.meta.shape()[1]);
            // SAFETY: the kernel compares its places with the job's rows, which both tensors have, and their columns.
            unsafe {
                delta_kernel::launch_unchecked(
                    &out.client,
                    CubeCount::Static(scalar(job.rows.div_ceil(SIDE)), 1, 1),
                    CubeDim::new_1d(256),
                    x.into_buffer_arg(),
                    a.into_buffer_arg(),
                    b.into_buffer_arg(),
                    out.clone().into_buffer_arg(),
                    scalar(job.from),
                    scalar(job.to),
                    scalar(job.rows),
                    scalar(d_in),
                    scalar(d_out),
                    scalar(rank),
                    job.factor,
                );
            }
            out
        }
    }
}
