//! Numbers on a device: what families and merge methods may ask of the CPU or the GPU.
//!
//! Hidden states are burn tensors on one device chosen at run time. Heavy CPU work goes through this
//! crate's own code over the tensor's memory ([`Path::Kernels`]); everything else, and all of the GPU,
//! through burn's operators and the kernels of [`kernels`] ([`Path::Tensors`]). Both paths compute the
//! same thing and are tested against each other. The one hazard: in a browser a GPU tensor can only be read back asynchronously,
//! so whatever returns numbers is `async`.

mod attention;
mod cache;
mod features;
pub mod gemm;
#[cfg(any(target_arch = "wasm32", feature = "gpu"))]
mod gpu;
mod kernels;
mod memory;
mod message;
mod meter;
mod pointwise;
pub mod qr;
pub mod range_finder;
mod rates;
mod raw;
mod rotary;
pub mod solve;
mod split;
mod sums;
pub mod svd;
pub mod symmetric;
mod unfold;
mod workers;

use std::{cell::Cell, ops::Range, rc::Rc};

use burn::{
    backend::Dispatch,
    tensor::{Device, Tensor, TensorData},
};
use kernels::{attention::PackedAttention, gate::Gate, norm::Norm};

#[cfg(any(target_arch = "wasm32", feature = "gpu"))]
pub use self::gpu::start_gpu;
pub use self::{
    attention::{Attention, DistanceBias, Sequence, Sight},
    cache::Cache,
    features::{Bias, Features, Weight, squares},
    memory::{Noting, refused_bytes},
    message::{Message, MessageReader, mangled},
    meter::{Meter, Stage, peak_bytes},
    pointwise::{Activation, soft_cap},
    rates::{GpuRates, KernelRates, number, product_rate, rate},
    raw::RawWeight,
    rotary::Rotary,
    sums::{DeviceSums, Factor, Product, ProductNorm, ReadSums, SquareSum, accumulate_gram, add_product},
    symmetric::Symmetric,
    unfold::{Grid, Windows},
    workers::{Answer, Available, Errand, Questions, Workers},
};
use crate::{
    describe::Word,
    error::{Code, Error, Result},
};

/// The CPU, through this crate's kernels.
pub const CPU: Word = Word::new("cpu", "CPU");
/// A GPU, through burn.
pub const WEBGPU: Word = Word::new("webgpu", "GPU (WebGPU)");
/// What callers ask for: a device, or to have one chosen.
pub const DEVICES: &[Word] = &[Word::new("auto", "Automatic: the quicker"), CPU, WEBGPU];

/// Weights of a model stay in memory between its passes if they take at most this many bytes as f32.
const KEPT_BYTES: usize = 1536 << 20;

/// How operators are carried out. See the module.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Path {
    /// This crate's CPU kernels over the memory of burn's CPU tensors.
    Kernels,
    /// burn's operators, on any device.
    Tensors,
}

/// A device and the way it is used.
pub struct Compute {
    device: Device,
    path: Path,
    name: &'static str,
    /// What it can hold.
    pub limits: Limits,
    /// Weights of a model stay in memory between its passes if they take at most this many bytes as f32; those of a
    /// larger one are read a block at a time.
    pub kept_bytes: usize,
    workers: Option<Rc<dyn Workers>>,
    /// How many of them are started.
    started: Cell<usize>,
    /// Seconds and floating-point operations so far, by stage.
    pub meter: Meter,
}

/// What a device can hold, in bytes; `None` where nobody knows.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Limits {
    /// In all.
    pub memory_bytes: Option<f64>,
    /// In one buffer, and so in one tensor.
    pub buffer_bytes: Option<f64>,
}

impl Compute {
    /// The same device with other limits.
    #[must_use]
    pub fn with_limits(self, limits: Limits) -> Self {
        Self { limits, ..self }
    }

    /// The same device with another bound of the weights that are kept.
    #[must_use]
    pub fn keeping(self, kept_bytes: usize) -> Self {
        Self { kept_bytes, ..self }
    }

    /// The CPU, through this crate's kernels.
    pub fn cpu() -> Self {
        Self {
            device: Device::flex(),
            path: Path::Kernels,
            name: CPU.name,
            limits: Limits {
                // The address space of a 32-bit module, but for what the program itself takes.
                memory_bytes: cfg!(target_arch = "wasm32").then_some(3.9 * f64::from(1 << 30)),
                buffer_bytes: None,
            },
            kept_bytes: KEPT_BYTES,
            workers: None,
            started: Cell::new(0),
            meter: Meter::default(),
        }
    }

    /// The same device with workers beside it, none of which is started yet.
    #[must_use]
    pub fn with_workers(self, workers: Rc<dyn Workers>) -> Self {
        Self {
            workers: Some(workers),
            ..self
        }
    }

    /// How many workers can be started.
    pub fn available(&self) -> Available {
        self.workers
            .as_ref()
            .map_or(Available::Exactly(0), |workers| workers.available())
    }

    /// Starts `count` of the workers.
    pub fn start_workers(&self, count: usize) {
        if let Some(workers) = self.workers.as_ref().filter(|_| count > 0) {
            workers.start(count);
            self.started.set(count);
        }
    }

    /// The workers that are started, and how many.
    pub fn started(&self) -> Option<(Rc<dyn Workers>, usize)> {
        let count = self.started.get();
        self.workers
            .clone()
            .filter(|_| count > 0)
            .map(|workers| (workers, count))
    }

    /// burn's operators on `device`; `name` is how reports call it.
    pub fn tensors(device: Device, name: &'static str) -> Self {
        Self {
            device,
            path: Path::Tensors,
            name,
            limits: Limits::default(),
            kept_bytes: KEPT_BYTES,
            workers: None,
            started: Cell::new(0),
            meter: Meter::default(),
        }
    }

    /// What reports call this device: `cpu` or `webgpu`.
    pub const fn name(&self) -> &'static str {
        self.name
    }

    /// A (rows x columns) tensor on the device.
    pub fn tensor(&self, data: Vec<f32>, rows: usize, columns: usize) -> Tensor<2> {
        Tensor::from_data(TensorData::new(data, [rows, columns]), &self.device)
    }

    /// A vector on the device.
    pub fn vector(&self, data: Vec<f32>) -> Tensor<1> {
        let length = data.len();
        Tensor::from_data(TensorData::new(data, [length]), &self.device)
    }

    /// Features of zeros.
    pub(crate) fn zeros(&self, rows: usize, columns: usize) -> Features {
        self.features(Tensor::zeros([rows, columns], &self.device))
    }

    /// Rows of a tensor as features of a linear group.
    pub(crate) fn features(&self, tensor: Tensor<2>) -> Features {
        match self.path {
            Path::Kernels => Features::host(host_now(tensor)),
            Path::Tensors => Features::device(tensor),
        }
    }

    /// The tensor that features are.
    pub(crate) fn tensor_of(&self, features: Features) -> Tensor<2> {
        match features {
            Features::Host { data, columns } => {
                let rows = data.len() / columns;
                self.tensor(data, rows, columns)
            }
            Features::Device(tensor) => tensor,
        }
    }

    /// A weight (d_out x d_in, row-major as PyTorch stores it) in the layout this device multiplies by.
    pub fn weight(&self, data: &[f32], d_out: usize, d_in: usize) -> Weight {
        match self.path {
            Path::Kernels => Weight::packed(data, d_out, d_in),
            Path::Tensors => Weight::Device(self.tensor(data.to_vec(), d_out, d_in)),
        }
    }

    /// The same of a weight as its file has it: laid out anew where it stays in memory, where it is read anew for every
    /// pass as it is.
    pub fn weight_of(&self, raw: &Rc<RawWeight>, stays: bool) -> Weight {
        match self.path {
            Path::Kernels if stays => Weight::Host(gemm::Packed::of(raw.as_ref())),
            Path::Kernels => Weight::Raw(Rc::clone(raw)),
            Path::Tensors => Weight::Device(self.tensor(raw.widened(), raw.d_out(), raw.d_in())),
        }
    }

    /// A layer's bias on the device.
    pub fn bias(&self, data: Vec<f32>) -> Bias {
        match self.path {
            Path::Kernels => Bias::Host(data),
            Path::Tensors => {
                let columns = data.len();
                Bias::Device(self.tensor(data, 1, columns))
            }
        }
    }

    /// The activation, element by element.
    pub fn activation(&self, kind: Activation, x: Tensor<2>) -> Tensor<2> {
        if self.path == Path::Kernels {
            return self.on_host(x, |values, _| kind.apply(values));
        }
        Tensor::from_dispatch(<Dispatch as Gate>::activate(x.into_dispatch(), kind))
    }

    /// `activation(gate) * up`, element by element: the middle of a gated feed-forward layer.
    pub fn gated(&self, kind: Activation, gate: Tensor<2>, up: Tensor<2>) -> Tensor<2> {
        if self.path == Path::Kernels {
            let (up, _) = host_now(up);
            return self.on_host(gate, |gate, _| pointwise::gate(kind, gate, &up));
        }
        let product = <Dispatch as Gate>::gate(gate.into_dispatch(), up.into_dispatch(), kind);
        Tensor::from_dispatch(product)
    }

    /// Layer normalisation over the columns.
    pub fn layer_norm(&self, x: Tensor<2>, norm: &LayerNorm) -> Tensor<2> {
        if self.path == Path::Kernels {
            return self.on_host(x, |values, _| {
                pointwise::layer_norm(values, &norm.gamma, &norm.beta, norm.epsilon);
            });
        }
        let parameters = [norm.gamma.as_slice(), &norm.beta].concat();
        let parameters = self.tensor(parameters, 2, norm.gamma.len());
        let normal =
            <Dispatch as Norm>::layer_norm(x.into_dispatch(), parameters.into_dispatch(), norm.epsilon);
        Tensor::from_dispatch(normal)
    }

    /// Root-mean-square normalisation of every run of `norm.weight.len()` columns: of whole rows, or of
    /// each head.
    pub fn rms_norm(&self, x: Tensor<2>, norm: &RmsNorm) -> Tensor<2> {
        if self.path == Path::Kernels {
            return self.on_host(x, |values, _| {
                pointwise::rms_norm(values, &norm.weight, norm.epsilon);
            });
        }
        let weight = self.tensor(norm.weight.clone(), 1, norm.weight.len());
        let normal = <Dispatch as Norm>::rms_norm(x.into_dispatch(), weight.into_dispatch(), norm.epsilon);
        Tensor::from_dispatch(normal)
    }

    /// Attention over packed rows; see [`attention`].
    ///
    /// `query` is (rows x heads * head_size), `key` and `value` (rows x key_heads * head_size); `queries`
    /// and `keys` say which rows of each belong to a sample, in the same order.
    pub fn attention(
        &self,
        query: Tensor<2>,
        (key, value): (Tensor<2>, Tensor<2>),
        queries: &[Sequence],
        keys: &[Sequence],
        how: &Attention,
    ) -> Tensor<2> {
        match self.path {
            Path::Kernels => {
                let [_, columns] = query.dims();
                let (query, (key, key_columns), (value, _)) =
                    (host_now(query), host_now(key), host_now(value));
                let spans = attention::spans(queries, keys, (&key, &value), key_columns);
                let out = attention::on_host(&query.0, &spans, how);
                self.tensor(out, query.0.len() / columns, columns)
            }
            Path::Tensors => {
                let rows = attention::KeyRows::of(keys);
                self.attend_on_device(query, (key, value), queries, rows, how)
            }
        }
    }

    fn attend_on_device(
        &self,
        query: Tensor<2>,
        (key, value): (Tensor<2>, Tensor<2>),
        queries: &[Sequence],
        keys: Vec<attention::KeyRows>,
        how: &Attention,
    ) -> Tensor<2> {
        let [query, key, value] = [query, key, value].map(Tensor::into_dispatch);
        let (queries, how) = (queries.to_vec(), how.clone());
        Tensor::from_dispatch(<Dispatch as PackedAttention>::attend(
            query, key, value, queries, keys, how,
        ))
    }

    /// Attention of one more step of a generation to the keys in `cache` and to their own `own` keys and
    /// values, which are added to it under `name`. Without `own`, to what the cache has alone.
    pub fn attend(
        &self,
        cache: &Cache,
        name: &str,
        query: Tensor<2>,
        queries: &[Sequence],
        own: Option<(Tensor<2>, Tensor<2>)>,
        how: &Attention,
    ) -> Tensor<2> {
        let has_own = own.is_some();
        if let Some(own) = own {
            cache.append(self.path, name, own, queries);
        }
        cache.attend(self, name, query, queries, has_own, how)
    }

    /// Keeps an encoder's keys and values for the steps of a generation.
    pub fn remember(&self, cache: &Cache, name: &str, own: (Tensor<2>, Tensor<2>), keys: &[Sequence]) {
        cache.append(self.path, name, own, keys);
    }

    /// Row indices as a tensor of the device, for selecting rows.
    pub fn indices(&self, indices: &[usize]) -> Tensor<1, burn::tensor::Int> {
        attention::indices(indices, &self.device)
    }

    /// The numbers of a tensor, row-major.
    ///
    /// # Errors
    /// [`Code::DeviceLost`] if the device cannot be read.
    pub async fn read(&self, tensor: Tensor<2>) -> Result<Vec<f32>> {
        read(tensor).await
    }

    /// Has a GPU compile the kernels of every model, without waiting for it: it does so while weights are read. `sums`:
    /// those of sums over samples too.
    ///
    /// Of an activation or a norm there are several, and which a model has is known when it runs.
    pub fn compile(&self, head_size: usize, sums: bool) {
        if self.path == Path::Kernels {
            return;
        }
        let rows = Sequence {
            start: 0,
            length: 1,
            attended: 1,
        };
        let of_heads = || self.tensor(vec![0.0; head_size], 1, head_size);
        let how = Attention::full(1, head_size);
        self.attention(of_heads(), (of_heads(), of_heads()), &[rows], &[rows], &how);
        let weight = self.weight(&[0.0], 1, 1);
        let x = self.features(self.tensor(vec![0.0; 2], 2, 1));
        let mut y = x.project(x.all(), &weight);
        y.add_low_rank(y.all(), (&x, x.all()), [&weight, &weight], 1.0);
        if sums {
            let mut all = DeviceSums::default();
            let (left, right) = (all.factor(1), all.factor(1));
            all.product(left, left);
            all.product(right, left);
            all.product_norm(left, right);
            let squares = all.square_sum();
            let source = all.source(&x);
            all.add_rows(left, source, 0..1);
            all.add_rows(right, source, 1..2);
            all.add_squares(&y, &[(squares, y.all())]);
            all.launch();
        }
    }

    /// Lets the device free what is no longer used; called between blocks.
    pub fn cleanup(&self) {
        if self.path == Path::Tensors {
            self.device.memory_cleanup();
        }
    }

    fn on_host(&self, x: Tensor<2>, f: impl FnOnce(&mut [f32], usize)) -> Tensor<2> {
        let (mut data, columns) = host_now(x);
        f(&mut data, columns);
        let rows = data.len() / columns;
        self.tensor(data, rows, columns)
    }
}

/// The parameters of a layer normalisation.
pub struct LayerNorm {
    /// Scale, one a column.
    pub gamma: Vec<f32>,
    /// Shift, one a column.
    pub beta: Vec<f32>,
    /// Added to the variance.
    pub epsilon: f32,
}

/// The parameters of a root-mean-square normalisation.
pub struct RmsNorm {
    /// Scale, one a column.
    pub weight: Vec<f32>,
    /// Added to the mean square.
    pub epsilon: f32,
}

/// A sum of f64 as the f32 in which weights are kept and written: rounded once, at the end.
#[expect(
    clippy::cast_possible_truncation,
    reason = "rounding to the type of the weights is what is meant"
)]
pub(crate) const fn narrow(value: f64) -> f32 {
    value as f32
}

/// The memory of a CPU tensor and its columns; without a copy when nobody else holds the tensor.
fn host_now(tensor: Tensor<2>) -> (Vec<f32>, usize) {
    let [rows, columns] = tensor.dims();
    let data = tensor.into_data().try_into_vec::<f32>();
    // The CPU device holds nothing but f32 tensors made by `Compute::tensor`: anything else is a fault here.
    let data = data.unwrap_or_else(|error| unreachable!("a CPU tensor that is not f32: {error:?}"));
    debug_assert_eq!(data.len(), rows * columns);
    (data, columns)
}

pub(crate) async fn read<const D: usize>(tensor: Tensor<D>) -> Result<Vec<f32>> {
    let data = tensor.into_data_async().await.map_err(lost)?;
    data.try_into_vec::<f32>().map_err(|error| {
        Error::new(
            Code::Internal,
            format!("the device returned something else than f32: {error:?}"),
        )
    })
}

fn lost(error: impl std::fmt::Display) -> Error {
    Error::new(
        Code::DeviceLost,
        format!(
            "the device stopped answering while results were read back; choose the CPU or try again ({error})"
        ),
    )
}

/// The (columns x rows) transpose of a (rows x columns) matrix.
pub fn transpose(data: &[f32], rows: usize, columns: usize) -> Vec<f32> {
    let mut out = vec![0.0; data.len()];
    for (i, row) in data.chunks_exact(columns).enumerate() {
        for (j, x) in row.iter().enumerate() {
            out[j * rows + i] = *x;
        }
    }
    out
}

/// `factor` times every number, rounded once.
pub fn scaled(values: &[f32], factor: f64) -> Vec<f32> {
    values.iter().map(|&x| narrow(f64::from(x) * factor)).collect()
}

/// Some rows of a tensor.
fn slice(tensor: &Tensor<2>, rows: Range<usize>) -> Tensor<2> {
    let [count, columns] = tensor.dims();
    if rows.len() == count {
        return tensor.clone();
    }
    tensor.clone().slice([rows, 0..columns])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gate_is_the_activation_times_the_other_half() {
        let numbers = |seed: usize| -> Vec<f32> {
            (0..5000)
                .map(|i| ((i * 37 + seed) % 1009) as f32 / 200.0 - 2.5)
                .collect()
        };
        let (gate, up) = (numbers(1), numbers(500));
        for kind in [Activation::Silu, Activation::GeluTanh] {
            let mut expected = gate.clone();
            kind.apply(&mut expected);
            expected.iter_mut().zip(&up).for_each(|(x, up)| *x *= up);
            for compute in [Compute::cpu(), Compute::tensors(Device::flex(), "tensors")] {
                let tensor = |data: &Vec<f32>| compute.tensor(data.clone(), 50, 100);
                let found = compute.gated(kind, tensor(&gate), tensor(&up));
                let found = pollster::block_on(compute.read(found)).unwrap();
                for (found, expected) in found.iter().zip(&expected) {
                    // Exponentials of two libraries, each within a few ulp.
                    assert!((found - expected).abs() < 2e-6 * (1.0 + expected.abs()));
                }
            }
        }
    }
}
