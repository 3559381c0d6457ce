//! How fast the kernels are on this machine, measured.

use std::hint::black_box;

use serde::Serialize;
use web_time::Instant;

use crate::{
    compute::{
        Compute,
        gemm::{Packed, Part, Scalar, View, multiply, multiply_packed},
        solve::Cholesky,
        symmetric::Symmetric,
    },
    error::{Code, Error, Result},
};

/// Rows of the features that are measured on: a micro-batch of a calibration.
const ROWS: usize = 512;

/// Operations a second of the kernels that a merge with samples spends its time in.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct KernelRates {
    /// The width of the layer.
    pub width: usize,
    /// A forward pass in f32: 512 rows through a packed weight (width x width).
    pub forward: f64,
    /// The lower triangle of the Gram matrix of 512 rows, summed in f64.
    pub gram: f64,
    /// The Cholesky factor of that matrix, with a ridge.
    pub factor: f64,
    /// 512 right-hand sides of its system.
    pub solve: f64,
}

impl KernelRates {
    /// Measures each for about `seconds`, at least once and not counting a first time.
    ///
    /// # Errors
    /// [`Code::OptionInvalid`] for a width of zero; [`Code::Internal`] where the factor is none.
    pub fn measure(width: usize, seconds: f64) -> Result<Self> {
        if width == 0 {
            return Err(Error::new(
                Code::OptionInvalid,
                "a layer has a width of at least 1",
            ));
        }
        let (rows, columns) = (number(ROWS), number(width));
        let features: Vec<f32> = (0..ROWS * width)
            .map(|at| ((at * 2_654_435_761) % 1021) as f32 / 1021.0 - 0.5)
            .collect();
        let x = View::new(&features, ROWS, width);
        let forward = {
            let mut out = vec![0.0_f32; ROWS * width];
            // All its rows are one: unpacked, the weight takes no memory of its own.
            let row = vec![0.01_f32; width];
            let weight: Packed<f32> = Packed::new(View::strided(&row, width, width, 0));
            rate(seconds, 2.0 * rows * columns.powi(2), || {
                multiply_packed(black_box(x), &weight, 1.0, &mut out);
                black_box(&out);
            })
        };
        let mut gram = Symmetric::zeros(width);
        let sums = rate(seconds, rows * columns * (columns + 1.0), || {
            gram.scale(0.0);
            gram.add_gram(black_box(x));
            black_box(&gram);
        });
        gram.add_to_diagonal((0..width).map(|_| rows));
        let positive = || Cholesky::new(gram.clone());
        let factor = rate(seconds, columns.powi(3) / 3.0, || {
            black_box(positive().is_ok());
        });
        let factored =
            positive().map_err(|_| Error::new(Code::Internal, "the measured matrix has no factor"))?;
        let mut sides = vec![1.0_f64; ROWS * width];
        let solve = rate(seconds, 2.0 * rows * columns.powi(2), || {
            sides.fill(1.0);
            factored.solve_rows(black_box(&mut sides));
        });
        Ok(Self {
            width,
            forward,
            gram: sums,
            factor,
            solve,
        })
    }
}

/// What a GPU takes to compute, and to tell.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct GpuRates {
    /// Operations a second of products in f32.
    pub products: f64,
    /// Seconds from asking for a few numbers until they are here.
    pub readback: f64,
    /// Seconds that a kernel is compiled before it runs for the first time.
    pub pipeline: f64,
}

/// Rows and columns of the matrices that a GPU multiplies: fewer leave most of a large one idle.
const GPU_SIDE: usize = 1024;
/// Products are measured for at least so long: many readbacks.
const GPU_SECONDS: f64 = 0.1;
/// More products than this are over sooner than clocks tell.
const GPU_PRODUCTS: u32 = 1 << 12;

impl GpuRates {
    /// Measures for less than half a second, unless the device is slower than a core.
    ///
    /// # Errors
    /// [`Code::DeviceLost`] if the device cannot be read.
    pub async fn measure(compute: &Compute) -> Result<Self> {
        let numbers = vec![0.5_f32; GPU_SIDE * GPU_SIDE];
        let weight = compute.weight(&numbers, GPU_SIDE, GPU_SIDE);
        let x = compute.features(compute.tensor(numbers, GPU_SIDE, GPU_SIDE));
        let round = async |products: u32| -> Result<f64> {
            let start = Instant::now();
            for _ in 0..products {
                black_box(x.project(x.all(), &weight));
            }
            let few = compute.tensor_of(x.project(0..1, &weight));
            compute.read(few).await?;
            Ok(start.elapsed().as_secs_f64())
        };
        let first = round(0).await?;
        let readback = round(0).await?.min(round(0).await?);
        let mut products = 1;
        let seconds = loop {
            // A clock may stand still.
            let seconds = (round(products).await? - readback).max(1e-6);
            if seconds >= GPU_SECONDS || products >= GPU_PRODUCTS {
                break seconds;
            }
            products *= 4;
        };
        Ok(Self {
            products: f64::from(products) * 2.0 * number(GPU_SIDE).powi(3) / seconds,
            readback,
            pipeline: (first - readback).max(0.0),
        })
    }
}

/// Operations a second of the product of two square matrices of that side.
pub fn product_rate<E: Scalar>(value: E, side: usize, seconds: f64) -> f64 {
    let matrix = vec![value; side * side];
    let mut out = vec![E::default(); side * side];
    rate(seconds, 2.0 * number(side).powi(3), || {
        let view = View::new(black_box(&matrix), side, side);
        multiply(view, view.transposed(), value, Part::Full, &mut out, side);
        black_box(&out);
    })
}

/// How much of `amount` a run is done a second. The first run, which finds cold caches and code that is not yet
/// compiled for speed, does not count.
pub fn rate(seconds: f64, amount: f64, mut run: impl FnMut()) -> f64 {
    run();
    let start = Instant::now();
    let mut runs = 0_u32;
    loop {
        run();
        runs += 1;
        let passed = start.elapsed().as_secs_f64();
        // A browser's clock may stand still for a tenth of a millisecond.
        if passed >= seconds && passed > 0.0 {
            return f64::from(runs) * amount / passed;
        }
    }
}

/// A width, a rank or a count, to be reckoned with.
#[allow(clippy::cast_precision_loss, reason = "they are far below 2^53")]
pub const fn number(size: usize) -> f64 {
    size as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_is_measured_by_its_products_and_readbacks() {
        let device = burn::tensor::Device::flex();
        let compute = Compute::tensors(device, crate::compute::WEBGPU.name);
        let rates = pollster::block_on(GpuRates::measure(&compute)).unwrap();
        assert!((1e6..1e14).contains(&rates.products), "{rates:?}");
        assert!(
            (0.0..1.0).contains(&rates.readback) && rates.pipeline >= 0.0,
            "{rates:?}"
        );
    }

    #[test]
    fn kernels_are_measured_on_numbers_that_they_can_work_on() {
        let rates = KernelRates::measure(24, 0.001).unwrap();
        assert_eq!(rates.width, 24);
        for rate in [rates.forward, rates.gram, rates.factor, rates.solve] {
            assert!(rate.is_finite() && rate > 1e6, "{rates:?}");
        }
        let refused = KernelRates::measure(0, 0.001).unwrap_err();
        assert_eq!(refused.code(), Code::OptionInvalid);
    }
}
