//! What a GPU computes through kernels of this crate's own, and not through burn's operators: burn's would take a
//! dispatch for every elementary step, a copy for every slice, and a readback for every number.
//!
//! A file an operator: its trait says what it computes; `Flex`, burn's CPU backend, does it with this crate's CPU code;
//! and `gpu` is the kernel, which `tests` hold against the other (`cargo test --features gpu --lib compute`).
//! The hazard: a kernel is launched unchecked, so every one compares its own places with the shapes.

#![allow(
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    reason = "the numbers of a kernel are 32 bits wide: tile sizes, and places that `scalar` has checked"
)]

pub(super) mod attention;
pub(super) mod delta;
pub(super) mod exact;
pub(super) mod gate;
pub(super) mod matmul;
pub(super) mod norm;
pub(super) mod rotary;
pub(super) mod squares;
#[cfg(test)]
#[cfg(feature = "gpu")]
mod tests;

use burn::{
    backend::{Flex, tensor::FloatTensor},
    tensor::{DType, Device, Int, Tensor, TensorData},
};

/// `length` words of zeros, which several kernels add to.
pub(super) fn zeros(length: usize, device: &Device) -> Tensor<1, Int> {
    Tensor::zeros([length], (device, DType::I32))
}

/// The numbers of a tensor of the CPU backend, row-major.
fn floats(tensor: FloatTensor<Flex>) -> Vec<f32> {
    let data = tensor.into_data().try_into_vec::<f32>();
    // `Compute` makes nothing but f32 tensors.
    data.unwrap_or_else(|error| unreachable!("a tensor that is not f32: {error:?}"))
}

/// A (rows x columns) tensor of the CPU backend.
fn matrix(data: Vec<f32>, rows: usize, columns: usize) -> FloatTensor<Flex> {
    FloatTensor::<Flex>::from_data(TensorData::new(data, [rows, columns]))
}

/// What all kernels need to be launched.
#[cfg(any(target_arch = "wasm32", feature = "gpu"))]
mod gpu {
    use burn::{
        backend::ops::IntTensorOps,
        tensor::{DType, Shape, TensorData},
    };
    use burn_cubecl::{kernel::into_contiguous, ops::numeric::empty_device_contiguous_dtype};
    use burn_wgpu::{CubeBackend, CubeTensor};
    use cubecl::prelude::CubeCount;

    /// A number of the host as a kernel's scalar.
    pub(super) fn scalar(value: usize) -> u32 {
        // Offsets into a buffer: none has more than 2^32 numbers.
        u32::try_from(value).unwrap_or(u32::MAX)
    }

    /// Jobs as a buffer on the device of `like`: a row a layer of workgroups (z).
    pub(super) fn table<const N: usize>(jobs: &[[usize; N]], like: &CubeTensor) -> CubeTensor {
        let words: Vec<i32> = jobs.iter().flatten().map(|&x| scalar(x).cast_signed()).collect();
        let length = words.len();
        CubeBackend::int_from_data(TensorData::new(words, [length]), &like.device)
    }

    /// `x` for a kernel to write over: itself where nobody else holds it, else a copy.
    pub(super) fn own(x: CubeTensor) -> CubeTensor {
        let x = into_contiguous(x);
        if x.can_mut() { x } else { x.copy() }
    }

    /// Workgroups in as many rows as WebGPU's limit on one dimension demands; those beyond `count` do nothing.
    pub(super) fn workgroups(count: usize) -> CubeCount {
        let rows = count.div_ceil(65_535).max(1);
        CubeCount::Static(scalar(count.div_ceil(rows)), scalar(rows), 1)
    }

    /// A (rows x columns) tensor beside `like`, of any numbers.
    pub(super) fn empty(like: &CubeTensor, rows: usize, columns: usize) -> CubeTensor {
        let shape = Shape::new([rows, columns]);
        empty_device_contiguous_dtype(like.client.clone(), like.device.clone(), shape, DType::F32)
    }
}

/// The CPU backend and, with `--features gpu`, the GPU that the machine's Vulkan driver offers.
#[cfg(test)]
pub(super) fn test_devices() -> Vec<Device> {
    #[cfg(feature = "gpu")]
    {
        static STARTED: std::sync::OnceLock<Device> = std::sync::OnceLock::new();
        let start = || Device::wgpu_options().init().unwrap();
        vec![Device::flex(), STARTED.get_or_init(start).clone()]
    }
    #[cfg(not(feature = "gpu"))]
    vec![Device::flex()]
}
