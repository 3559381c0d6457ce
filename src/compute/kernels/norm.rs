//! Normalisation of rows.

use burn::backend::{Backend, Flex, backend_extension, tensor::FloatTensor};

use crate::compute::{
    kernels::{floats, matrix},
    pointwise,
};

/// The operator.
#[backend_extension(Cube: cfg(any(target_arch = "wasm32", feature = "gpu")), Flex)]
pub(in crate::compute) trait Norm: Backend {
    /// Layer normalisation of every row of `x`; `parameters` (2 x columns) are gamma and beta.
    fn layer_norm(x: FloatTensor<Self>, parameters: FloatTensor<Self>, epsilon: f32) -> FloatTensor<Self>;

    /// Root-mean-square normalisation of every run of `width` numbers of `x`; `weight` is (1 x width).
    fn rms_norm(x: FloatTensor<Self>, weight: FloatTensor<Self>, epsilon: f32) -> FloatTensor<Self>;
}

impl Norm for Flex {
    fn layer_norm(x: FloatTensor<Self>, parameters: FloatTensor<Self>, epsilon: f32) -> FloatTensor<Self> {
        let [rows, columns] = [x.layout().shape()[0], x.layout().shape()[1]];
        let (mut x, parameters) = (floats(x), floats(parameters));
        let (gamma, beta) = parameters.split_at(columns);
        pointwise::layer_norm(&mut x, gamma, beta, epsilon);
        matrix(x, rows, columns)
    }

    fn rms_norm(x: FloatTensor<Self>, weight: FloatTensor<Self>, epsilon: f32) -> FloatTensor<Self> {
        let [rows, columns] = [x.layout().shape()[0], x.layout().shape()[1]];
        let mut x = floats(x);
        pointwise::rms_norm(&mut x, &floats(weight), epsilon);
        matrix(x, rows, columns)
    }
}

#[cfg(any(target_arch = "wasm32", feature = "gpu"))]
mod gpu {
    use burn::backend::tensor::FloatTensor;
    use burn_cubecl::kernel::into_contiguous;
    use burn_wgpu::{CubeBackend, CubeTensor};
    use cubecl::prelude::*;

    use super::Norm;
    use crate::compute::kernels::gpu::{empty, scalar, workgroups};

    /// Threads that share a row.
    const THREADS: usize = 128;

    /// The sum of every thread's number.
    #[cube]
    fn sum_of_all(shared: &mut Shared<[f32]>, own: f32) -> f32 {
        let me = UNIT_POS_X as usize;
        shared[me] = own;
        sync_cube();
        #[unroll]
        for step in 0..7usize {
            let half = comptime!(64usize >> step);
            if me < half {
                let other = shared[me + half];
                shared[me] += other;
            }
            sync_cube();
        }
        let sum = shared[0];
        sync_cube();
        sum
    }

    /// One run of numbers a workgroup.
    #[cube(launch_unchecked)]
    fn norm_kernel(
        x: &[f32],
        parameters: &[f32],
        out: &mut [f32],
        runs: u32,
        width: u32,
        epsilon: f32,
        #[comptime] centred: bool,
    ) {
        let run = CUBE_POS_Y * CUBE_COUNT_X + CUBE_POS_X;
        if run >= runs {
            terminate!();
        }
        let mut shared = Shared::<[f32]>::new_slice(comptime!(THREADS));
        let first = run * width;
        let mut mean = 0.0f32;
        if comptime!(centred) {
            let mut sum = 0.0f32;
            let mut at = UNIT_POS_X;
            while at < width {
                sum += x[(first + at) as usize];
                at += comptime!(THREADS as u32);
            }
            mean = sum_of_all(&mut shared, sum) / f32::cast_from(width);
        }
        let mut sum = 0.0f32;
        let mut at = UNIT_POS_X;
        while at < width {
            let value = x[(first + at) as usize] - mean;
            sum += value * value;
            at += comptime!(THREADS as u32);
        }
        let variance = sum_of_all(&mut shared, sum) / f32::cast_from(width);
        let scale = 1.0f32 / (variance + epsilon).sqrt();
        let mut at = UNIT_POS_X;
        while at < width {
            let place = (first + at) as usize;
            let mut value = (x[place] - mean) * scale * parameters[at as usize];
            if comptime!(centred) {
                value += parameters[(width + at) as usize];
            }
            out[place] = value;
            at += comptime!(THREADS as u32);
        }
    }

    fn launch(
        x: CubeTensor,
        parameters: CubeTensor,
        width: usize,
        epsilon: f32,
        centred: bool,
    ) -> CubeTensor {
        // Not in place: a block keeps what it normalises.
        let (x, parameters) = (into_contiguous(x), into_contiguous(parameters));
        let out = empty(&x, x.meta.shape()[0], x.meta.shape()[1]);
        let runs = x.meta.num_elements() / width;
        // SAFETY: the kernel ends beyond `runs`, and every run has `width` numbers, as the parameters have.
        unsafe {
            norm_kernel::launch_unchecked(
                &out.client,
                workgroups(runs),
                CubeDim::new_1d(scalar(THREADS)),
                x.into_buffer_arg(),
                parameters.into_buffer_arg(),
                out.clone().into_buffer_arg(),
                scalar(runs),
                scalar(width),
                epsilon,
                centred,
            );
        }
        out
    }

    impl Norm for CubeBackend {
        fn layer_norm(
            x: FloatTensor<Self>,
            parameters: FloatTensor<Self>,
            epsilon: f32,
        ) -> FloatTensor<Self> {
            let width = x.meta.shape()[1];
            launch(x, parameters, width, epsilon, true)
        }

        fn rms_norm(x: FloatTensor<Self>, weight: FloatTensor<Self>, epsilon: f32) -> FloatTensor<Self> {
            let width = weight.meta.shape()[1];
            launch(x, weight, width, epsilon, false)
        }
    }
}
