//! Products in f32: rows of features by a weight, and the product of two factors over their rows.
//!
//! One kernel for all layouts, which reads both factors where they lie: burn's would copy the rows that are meant, and
//! be compiled anew for every layout and vector width.

use burn::backend::{Backend, Flex, backend_extension, tensor::FloatTensor};

use crate::compute::{
    gemm::{Part, View, multiply},
    kernels::{floats, matrix},
};

/// What [`Matmul::add_transposed`] does once: the left factor's first row, the right's, rows, the first row of `out`.
pub(in crate::compute) type TransposedJob = [usize; 4];

/// The operator.
#[backend_extension(Cube: cfg(any(target_arch = "wasm32", feature = "gpu")), Flex)]
pub(in crate::compute) trait Matmul: Backend {
    /// `x[first..][..rows] W^T` (rows x d_out) of `x` (rows x d_in) and W (d_out x d_in).
    fn project(
        x: FloatTensor<Self>,
        first: usize,
        rows: usize,
        weight: FloatTensor<Self>,
    ) -> FloatTensor<Self>;

    /// For every job, adds `left[left_first..][..rows]^T right[right_first..][..rows]` (left columns x right columns) to
    /// `out[at..]`.
    fn add_transposed(
        out: FloatTensor<Self>,
        left: FloatTensor<Self>,
        right: FloatTensor<Self>,
        jobs: Vec<TransposedJob>,
    ) -> FloatTensor<Self>;
}

impl Matmul for Flex {
    fn project(
        x: FloatTensor<Self>,
        first: usize,
        rows: usize,
        weight: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        let [d_out, d_in] = [weight.layout().shape()[0], weight.layout().shape()[1]];
        let (x, weight) = (floats(x), floats(weight));
        let x = View::new(&x[first * d_in..(first + rows) * d_in], rows, d_in);
        let mut out = vec![0.0_f32; rows * d_out];
        let weight = View::new(&weight, d_out, d_in).transposed();
        multiply(x, weight, 1.0, Part::Full, &mut out, d_out);
        matrix(out, rows, d_out)
    }

    fn add_transposed(
        out: FloatTensor<Self>,
        left: FloatTensor<Self>,
        right: FloatTensor<Self>,
        jobs: Vec<TransposedJob>,
    ) -> FloatTensor<Self> {
        let [m, n] = [left.layout().shape()[1], right.layout().shape()[1]];
        let all = out.layout().shape()[0];
        let (mut out, left, right) = (floats(out), floats(left), floats(right));
        for [left_first, right_first, rows, at] in jobs {
            let a = View::new(&left[left_first * m..(left_first + rows) * m], rows, m);
            let b = View::new(&right[right_first * n..(right_first + rows) * n], rows, n);
            let out = &mut out[at * n..(at + m) * n];
            multiply(a.transposed(), b, 1.0, Part::Full, out, n);
        }
        matrix(out, all, n)
    }
}

#[cfg(any(target_arch = "wasm32", feature = "gpu"))]
mod gpu {
    use burn::backend::tensor::FloatTensor;
    use burn_cubecl::kernel::into_contiguous;
    use burn_wgpu::CubeBackend;
    use cubecl::prelude::*;

    use super::{Matmul, TransposedJob};
    use crate::compute::kernels::gpu::{empty, own, scalar, table};

    /// Outputs a side of a workgroup's tile: 16 x 16 threads of 4 x 4 outputs.
    const TILE: usize = 64;
    /// Terms in shared memory at once.
    const DEPTH: usize = 16;
    /// Numbers from one term's row in shared memory to the next: one more than the tile, so that threads that write one
    /// column of it meet different banks.
    const PITCH: usize = TILE + 1;

    /// One number of a factor's tile, zero outside the factor.
    #[cube]
    #[expect(clippy::too_many_arguments, reason = "a place, and what it is compared with")]
    fn number(
        data: &[f32],
        first: u32,
        place: u32,
        places: u32,
        term: u32,
        terms: u32,
        place_stride: u32,
        term_stride: u32,
    ) -> f32 {
        let mut value = 0.0f32;
        if place < places && term < terms {
            value = data[(first + place * place_stride + term * term_stride) as usize];
        }
        value
    }

    /// `out[i, j] = sum over terms of a[i, term] b[j, term]`, of factors with any strides; if it `adds`, `out` is added
    /// to, and the table says of every layer of workgroups which terms.
    #[cube(launch_unchecked)]
    #[expect(clippy::too_many_arguments, reason = "a kernel's buffers and scalars")]
    fn matmul_kernel(
        a: &[f32],
        b: &[f32],
        table: &[u32],
        out: &mut [f32],
        first: u32,
        a_place: u32,
        a_term: u32,
        b_place: u32,
        b_term: u32,
        m: u32,
        n: u32,
        all_terms: u32,
        #[comptime] adds: bool,
    ) {
        let mut a_first = first;
        let mut b_first = 0u32;
        let mut terms = all_terms;
        let mut out_first = 0u32;
        if comptime!(adds) {
            let job = CUBE_POS_Z * 4u32;
            a_first = table[job as usize] * a_term;
            b_first = table[(job + 1u32) as usize] * b_term;
            terms = table[(job + 2u32) as usize];
            out_first = table[(job + 3u32) as usize] * n;
        }
        let mut a_tile = Shared::<[f32]>::new_slice(comptime!(DEPTH * PITCH));
        let mut b_tile = Shared::<[f32]>::new_slice(comptime!(DEPTH * PITCH));
        let tx = UNIT_POS_X;
        let ty = UNIT_POS_Y;
        let me = ty * 16u32 + tx;
        let top = CUBE_POS_Y * comptime!(TILE as u32);
        let side = CUBE_POS_X * comptime!(TILE as u32);
        let mut sums = Array::<f32>::new(16usize);
        #[unroll]
        for o in 0..16usize {
            sums[o] = 0.0f32;
        }
        let mut start = 0u32;
        while start < all_terms {
            #[unroll]
            for part in 0..4u32 {
                let at = me + part * 256u32;
                // Neighbouring threads read neighbouring numbers, along whichever way those lie.
                let a_along = a_term == 1u32;
                let k = select(a_along, at % comptime!(DEPTH as u32), at / comptime!(TILE as u32));
                let i = select(a_along, at / comptime!(DEPTH as u32), at % comptime!(TILE as u32));
                a_tile[(k * comptime!(PITCH as u32) + i) as usize] =
                    number(a, a_first, top + i, m, start + k, terms, a_place, a_term);
                let b_along = b_term == 1u32;
                let k = select(b_along, at % comptime!(DEPTH as u32), at / comptime!(TILE as u32));
                let j = select(b_along, at / comptime!(DEPTH as u32), at % comptime!(TILE as u32));
                b_tile[(k * comptime!(PITCH as u32) + j) as usize] =
                    number(b, b_first, side + j, n, start + k, terms, b_place, b_term);
            }
            sync_cube();
            for k in 0..comptime!(DEPTH as u32) {
                let row = k * comptime!(PITCH as u32);
                let mut x = Array::<f32>::new(4usize);
                let mut y = Array::<f32>::new(4usize);
                #[unroll]
                for i in 0..4usize {
                    x[i] = a_tile[(row + ty) as usize + comptime!(i * 16)];
                    y[i] = b_tile[(row + tx) as usize + comptime!(i * 16)];
                }
                #[unroll]
                for i in 0..4usize {
                    #[unroll]
                    for j in 0..4usize {
                        sums[comptime!(i * 4 + j)] += x[i] * y[j];
                    }
                }
            }
            sync_cube();
            start += comptime!(DEPTH as u32);
        }
        #[unroll]
        for i in 0..4u32 {
            #[unroll]
            for j in 0..4u32 {
                let r = top + ty + i * 16u32;
                let c = side + tx + j * 16u32;
                if r < m && c < n {
                    let to = (out_first + r * n + c) as usize;
                    let mut sum = sums[comptime!((i * 4 + j) as usize)];
                    if comptime!(adds) {
                        sum += out[to];
                    }
                    out[to] = sum;
                }
            }
        }
    }

    impl Matmul for CubeBackend {
        fn project(
            x: FloatTensor<Self>,
            first: usize,
            rows: usize,
            weight: FloatTensor<Self>,
        ) -> FloatTensor<Self> {
            let (x, weight) = (into_contiguous(x), into_contiguous(weight));
            let (d_out, d_in) = (weight.meta.shape()[0], weight.meta.shape()[1]);
            let out = empty(&x, rows, d_out);
            if rows == 0 {
                return out;
            }
            // SAFETY: the kernel compares its places with `rows`, `d_out` and `d_in`, and reads no table.
            unsafe {
                matmul_kernel::launch_unchecked(
                    &out.client,
                    CubeCount::Static(scalar(d_out.div_ceil(TILE)), scalar(rows.div_ceil(TILE)), 1),
                    CubeDim::new_2d(16, 16),
                    x.into_buffer_arg(),
                    weight.clone().into_buffer_arg(),
                    weight.into_buffer_arg(),
                    out.clone().into_buffer_arg(),
                    scalar(first * d_in),
                    scalar(d_in),
                    1,
                    scalar(d_in),
                    1,
                    scalar(rows),
                    scalar(d_out),
                    scalar(d_in),
                    false,
                );
            }
            out
        }

        fn add_transposed(
            out: FloatTensor<Self>,
            left: FloatTensor<Self>,
            right: FloatTensor<Self>,
            jobs: Vec<TransposedJob>,
        ) -> FloatTensor<Self> {
            let (out, left, right) = (own(out), into_contiguous(left), into_contiguous(right));
            let (m, n) = (left.meta.shape()[1], right.meta.shape()[1]);
            let rows = jobs.iter().map(|job| job[2]).max().unwrap_or(0);
            // SAFETY: the kernel compares its places with the columns and the rows of its table.
            unsafe {
                matmul_kernel::launch_unchecked(
                    &out.client,
                    CubeCount::Static(
                        scalar(n.div_ceil(TILE)),
                        scalar(m.div_ceil(TILE)),
                        scalar(jobs.len()),
                    ),
                    CubeDim::new_2d(16, 16),
                    left.into_buffer_arg(),
                    right.into_buffer_arg(),
                    table(&jobs, &out).into_buffer_arg(),
                    out.clone().into_buffer_arg(),
                    0,
                    1,
                    scalar(m),
                    1,
                    scalar(n),
                    scalar(m),
                    scalar(n),
                    scalar(rows),
                    true,
                );
            }
            out
        }
    }
}
