//! Activations, alone or as a gate.

use burn::backend::{Backend, Flex, backend_extension, tensor::FloatTensor};

use crate::compute::{
    kernels::{floats, matrix},
    pointwise::{self, Activation},
};

/// The operator.
#[backend_extension(Cube: cfg(any(target_arch = "wasm32", feature = "gpu")), Flex)]
pub(in crate::compute) trait Gate: Backend {
    /// The activation of every number of `x`.
    fn activate(x: FloatTensor<Self>, kind: Activation) -> FloatTensor<Self>;

    /// The activation of every number of `x` times that of `up`.
    fn gate(x: FloatTensor<Self>, up: FloatTensor<Self>, kind: Activation) -> FloatTensor<Self>;
}

impl Gate for Flex {
    fn activate(x: FloatTensor<Self>, kind: Activation) -> FloatTensor<Self> {
        let [rows, columns] = [x.layout().shape()[0], x.layout().shape()[1]];
        let mut x = floats(x);
        kind.apply(&mut x);
        matrix(x, rows, columns)
    }

    fn gate(x: FloatTensor<Self>, up: FloatTensor<Self>, kind: Activation) -> FloatTensor<Self> {
        let [rows, columns] = [x.layout().shape()[0], x.layout().shape()[1]];
        let mut x = floats(x);
        pointwise::gate(kind, &mut x, &floats(up));
        matrix(x, rows, columns)
    }
}

#[cfg(any(target_arch = "wasm32", feature = "gpu"))]
mod gpu {
    use burn::backend::tensor::FloatTensor;
    use burn_cubecl::kernel::into_contiguous;
    use burn_wgpu::{CubeBackend, CubeTensor};
    use cubecl::prelude::*;

    use super::Gate;
    use crate::compute::{
        kernels::gpu::{own, scalar, workgroups},
        pointwise::{Activation, GELU_TANH, QUICK_GELU},
    };

    /// The constants of Abramowitz and Stegun's formula 7.1.26 for the error function.
    const ERF_P: f32 = 0.327_591_1;
    const ERF_A: [f32; 5] = [1.061_405_4, -1.453_152, 1.421_413_7, -0.284_496_74, 0.254_829_6];

    #[cube]
    fn sigmoid(x: f32) -> f32 {
        // Clamped where exp overflows: WGSL has no infinity.
        1.0f32 / (1.0f32 + min(-x, 80.0f32).exp())
    }

    /// The error function within 3e-7, as the CPU's is ([`pointwise`](crate::compute::pointwise)) by another formula.
    #[cube]
    fn erf(x: f32) -> f32 {
        let magnitude = x.abs();
        let t = 1.0f32 / (1.0f32 + comptime!(ERF_P) * magnitude);
        let mut sum = 0.0f32;
        #[unroll]
        for i in 0..5usize {
            sum = sum * t + comptime!(ERF_A[i]);
        }
        let tail = sum * t * max(-(magnitude * magnitude), f32::new(-80.0)).exp();
        let value = 1.0f32 - tail;
        select(x < 0.0f32, -value, value)
    }

    #[cube]
    fn activated(x: f32, #[comptime] kind: Activation) -> f32 {
        match comptime!(kind) {
            Activation::Gelu => x * 0.5f32 * (1.0f32 + erf(x * comptime!(std::f32::consts::FRAC_1_SQRT_2))),
            Activation::GeluTanh => {
                let cubic = x + comptime!(GELU_TANH.1) * x * x * x;
                x * sigmoid(comptime!(2.0 * GELU_TANH.0) * cubic)
            }
            Activation::QuickGelu => x * sigmoid(comptime!(QUICK_GELU) * x),
            Activation::Relu => max(x, 0.0f32),
            Activation::Silu => x * sigmoid(x),
            // Beyond it is one to the last bit, and some drivers' tanh overflows.
            Activation::Tanh => min(max(x, f32::new(-20.0)), 20.0f32).tanh(),
        }
    }

    #[cube(launch_unchecked)]
    fn activate_kernel(x: &mut [f32], count: u32, #[comptime] kind: Activation) {
        let at = (CUBE_POS_Y * CUBE_COUNT_X + CUBE_POS_X) * 256u32 + UNIT_POS_X;
        if at < count {
            x[at as usize] = activated(x[at as usize], kind);
        }
    }

    #[cube(launch_unchecked)]
    fn gate_kernel(x: &mut [f32], up: &[f32], count: u32, #[comptime] kind: Activation) {
        let at = (CUBE_POS_Y * CUBE_COUNT_X + CUBE_POS_X) * 256u32 + UNIT_POS_X;
        if at < count {
            x[at as usize] = activated(x[at as usize], kind) * up[at as usize];
        }
    }

    impl Gate for CubeBackend {
        fn activate(x: FloatTensor<Self>, kind: Activation) -> FloatTensor<Self> {
            let x = own(x);
            let count = x.meta.num_elements();
            // SAFETY: a thread beyond the numbers does nothing.
            unsafe {
                activate_kernel::launch_unchecked(
                    &x.client,
                    workgroups(count.div_ceil(256)),
                    CubeDim::new_1d(256),
                    x.clone().into_buffer_arg(),
                    scalar(count),
                    kind,
                );
            }
            x
        }

        fn gate(x: FloatTensor<Self>, up: FloatTensor<Self>, kind: Activation) -> FloatTensor<Self> {
            let (x, up): (CubeTensor, _) = (own(x), into_contiguous(up));
            let count = x.meta.num_elements();
            // SAFETY: a thread beyond the numbers does nothing; both tensors are of one shape.
            unsafe {
                gate_kernel::launch_unchecked(
                    &x.client,
                    workgroups(count.div_ceil(256)),
                    CubeDim::new_1d(256),
                    x.clone().into_buffer_arg(),
                    up.into_buffer_arg(),
                    scalar(count),
                    kind,
                );
            }
            x
        }
    }
}
