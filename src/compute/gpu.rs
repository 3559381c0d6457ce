//! The GPU, through burn on wgpu.

use burn::tensor::Device;

use crate::{
    compute::Limits,
    error::{Code, Error, Result},
};

/// Starts the machine's GPU; burn registers one runtime, so a second start is refused.
///
/// The caller has made sure that there is an adapter with what burn needs: without, burn panics.
///
/// # Errors
/// [`Code::WebgpuUnavailable`] if it cannot be started.
pub async fn start_gpu() -> Result<(Device, Limits)> {
    let started = Device::wgpu_options().init_with_setup_async().await;
    let (device, setup) = started.map_err(|error| {
        Error::new(
            Code::WebgpuUnavailable,
            format!("WebGPU cannot be started; choose the CPU ({error})"),
        )
    })?;
    Ok((device, Limits::from(&setup.device.limits())))
}

impl From<&wgpu::Limits> for Limits {
    /// A kernel binds a buffer whole. How much memory there is in all, WebGPU does not tell.
    fn from(limits: &wgpu::Limits) -> Self {
        let most = limits.max_buffer_size.min(limits.max_storage_buffer_binding_size);
        #[allow(clippy::cast_precision_loss, reason = "sizes of buffers are far below 2^53")]
        let buffer_bytes = Some(most as f64);
        Self {
            memory_bytes: None,
            buffer_bytes,
        }
    }
}
