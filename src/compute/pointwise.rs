//! The parts of a forward pass between matrix products, on CPU slices, four lanes at a time.

use wide::f32x4;

/// An activation function, by the name that transformers' `ACT2FN` gives it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Activation {
    /// `gelu`: x Φ(x) with the exact error function.
    Gelu,
    /// `gelu_new`, `gelu_fast`, `gelu_pytorch_tanh`: the tanh approximation of gelu.
    GeluTanh,
    /// `quick_gelu`: x sigmoid(1.702 x).
    QuickGelu,
    /// `relu`.
    Relu,
    /// `silu`, also called `swish`.
    Silu,
    /// `tanh`.
    Tanh,
}

/// sqrt(2 / pi), and the cubic coefficient of the tanh approximation (Hendrycks and Gimpel, 2016).
pub(super) const GELU_TANH: (f32, f32) = (0.797_884_6, 0.044_715);
/// The slope of `quick_gelu`.
pub(super) const QUICK_GELU: f32 = 1.702;

impl Activation {
    /// The activation that a transformers configuration names, or `None` if it is not one of these.
    pub fn from_name(name: &str) -> Option<Self> {
        Some(match name {
            "gelu" | "gelu_python" => Self::Gelu,
            "gelu_new" | "gelu_fast" | "gelu_pytorch_tanh" | "gelu_python_tanh" => Self::GeluTanh,
            "quick_gelu" => Self::QuickGelu,
            "relu" => Self::Relu,
            "silu" | "swish" => Self::Silu,
            "tanh" => Self::Tanh,
            _ => return None,
        })
    }

    /// Applies the activation to every element.
    pub fn apply(self, values: &mut [f32]) {
        match self {
            Self::Gelu => map(values, |x| {
                x * f32x4::splat(0.5) * (f32x4::ONE + erf(x * f32x4::splat(std::f32::consts::FRAC_1_SQRT_2)))
            }),
            Self::GeluTanh => map(values, |x| {
                let cubic = x + f32x4::splat(GELU_TANH.1) * x * x * x;
                // 0.5 (1 + tanh u) = sigmoid(2 u).
                x * sigmoid(f32x4::splat(2.0 * GELU_TANH.0) * cubic)
            }),
            Self::QuickGelu => map(values, |x| x * sigmoid(f32x4::splat(QUICK_GELU) * x)),
            Self::Relu => map(values, |x| x.max(f32x4::ZERO)),
            Self::Silu => map(values, |x| x * sigmoid(x)),
            Self::Tanh => map(values, tanh),
        }
    }
}

/// Numbers that are worked on twice while the first-level cache has them.
const CACHED: usize = 2048;

/// `values = activation(values) * factors`, element by element.
pub(super) fn gate(activation: Activation, values: &mut [f32], factors: &[f32]) {
    for (values, factors) in values.chunks_mut(CACHED).zip(factors.chunks(CACHED)) {
        activation.apply(values);
        values
            .iter_mut()
            .zip(factors)
            .for_each(|(x, factor)| *x *= factor);
    }
}

fn map(values: &mut [f32], f: impl Fn(f32x4) -> f32x4) {
    let (chunks, rest) = values.as_chunks_mut::<4>();
    for chunk in chunks {
        *chunk = f(f32x4::new(*chunk)).to_array();
    }
    for value in rest {
        *value = f(f32x4::splat(*value)).to_array()[0];
    }
}

fn sigmoid(x: f32x4) -> f32x4 {
    // Clamped where exp overflows; the result there is 0 or 1 to the last bit.
    f32x4::ONE / (f32x4::ONE + (-x).min(f32x4::splat(80.0)).exp())
}

/// Coefficients of [`tanh`] near zero, the highest power first.
const TANH: [f32; 5] = [
    -5.704_988_7e-3,
    2.063_909e-2,
    -5.373_971_6e-2,
    1.333_144_2e-1,
    -3.333_328e-1,
];

/// tanh within 3e-7 of itself, as Cephes' `tanhf` has it: near zero a polynomial, for 1 - 2 / (e^2x + 1) cancels there.
fn tanh(x: f32x4) -> f32x4 {
    let square = x * x;
    let near = x + x * square * polynomial(&TANH, square);
    // Beyond 10 it is 1 to the last bit, and further on exp overflows.
    let magnitude = x.abs();
    let twice = (magnitude + magnitude).min(f32x4::splat(20.0));
    let far = f32x4::ONE - f32x4::splat(2.0) / (twice.exp() + f32x4::ONE);
    let far = x.simd_lt(f32x4::ZERO).select(-far, far);
    magnitude.simd_lt(f32x4::splat(0.625)).select(near, far)
}

/// `cap * tanh(x / cap)` of every element.
pub fn soft_cap(values: &mut [f32], cap: f32) {
    map(values, |x| f32x4::splat(cap) * tanh(x / f32x4::splat(cap)));
}

/// Coefficients of [`erf`], the highest power first: those of Eigen's `generic_fast_erf_float`.
const ERF_ABOVE: [f32; 7] = [
    -2.726_142_3e-10,
    2.770_681_4e-8,
    -2.101_024e-6,
    -5.692_506_4e-5,
    -7.349_906_3e-4,
    -2.954_6e-3,
    -1.609_603_3e-2,
];
const ERF_BELOW: [f32; 5] = [
    -1.456_607_2e-5,
    -2.133_740_6e-4,
    -1.682_827e-3,
    -7.373_329e-3,
    -1.426_473_9e-2,
];

/// The error function within 3e-7: a rational function, without an exponential.
fn erf(x: f32x4) -> f32x4 {
    // Beyond 4 it is 1 within 2e-8.
    let x = x.max(f32x4::splat(-4.0)).min(f32x4::splat(4.0));
    let square = x * x;
    x * polynomial(&ERF_ABOVE, square) / polynomial(&ERF_BELOW, square)
}

/// Of coefficients, the highest power first.
fn polynomial(coefficients: &[f32], x: f32x4) -> f32x4 {
    let terms = coefficients.iter();
    terms.fold(f32x4::ZERO, |sum, &a| sum * x + f32x4::splat(a))
}

/// Layer normalisation of each row of `values` (rows x gamma.len()) in place.
pub(super) fn layer_norm(values: &mut [f32], gamma: &[f32], beta: &[f32], epsilon: f32) {
    let n = gamma.len();
    for row in values.chunks_exact_mut(n) {
        let mean = sum(row) / n as f32;
        row.iter_mut().for_each(|x| *x -= mean);
        let variance = sum_of_squares(row) / n as f32;
        let scale = 1.0 / (variance + epsilon).sqrt();
        for ((x, g), b) in row.iter_mut().zip(gamma).zip(beta) {
            *x = *x * scale * g + b;
        }
    }
}

/// Root-mean-square normalisation of each run of `weight.len()` numbers in place.
pub(super) fn rms_norm(values: &mut [f32], weight: &[f32], epsilon: f32) {
    let n = weight.len();
    for row in values.chunks_exact_mut(n) {
        let scale = 1.0 / (sum_of_squares(row) / n as f32 + epsilon).sqrt();
        row.iter_mut().zip(weight).for_each(|(x, w)| *x *= scale * w);
    }
}

/// Softmax of one row in place; `f32::NEG_INFINITY` entries become zero.
///
/// So do those of e^-64 of the largest: no sum in f32 notices them, and the subnormal numbers that they
/// would become make the product with the values a hundred times slower.
pub(super) fn softmax(row: &mut [f32]) {
    let (largest, least) = (f32x4::splat(largest(row)), f32x4::splat(-64.0));
    map(row, |x| {
        let below = x - largest;
        below.simd_lt(least).select(f32x4::ZERO, below.max(least).exp())
    });
    let scale = 1.0 / sum(row);
    row.iter_mut().for_each(|x| *x *= scale);
}

fn largest(values: &[f32]) -> f32 {
    let (chunks, rest) = values.as_chunks::<4>();
    let lanes = chunks
        .iter()
        .fold(f32x4::splat(f32::NEG_INFINITY), |largest, &chunk| {
            largest.max(f32x4::new(chunk))
        });
    let all = lanes.to_array().into_iter().chain(rest.iter().copied());
    all.fold(f32::NEG_INFINITY, f32::max)
}

fn sum(values: &[f32]) -> f32 {
    let (chunks, rest) = values.as_chunks::<4>();
    let lanes = chunks
        .iter()
        .fold(f32x4::ZERO, |sum, &chunk| sum + f32x4::new(chunk));
    lanes.reduce_add() + rest.iter().sum::<f32>()
}

fn sum_of_squares(values: &[f32]) -> f32 {
    let (chunks, rest) = values.as_chunks::<4>();
    let lanes = chunks.iter().fold(f32x4::ZERO, |sum, &chunk| {
        let x = f32x4::new(chunk);
        sum + x * x
    });
    lanes.reduce_add() + rest.iter().map(|x| x * x).sum::<f32>()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grid() -> Vec<f32> {
        (-1205..1206).map(|i| i as f32 / 100.0).collect()
    }

    /// erf in f64: its Taylor series near zero, the continued fraction of erfc beyond.
    fn erf_reference(x: f64) -> f64 {
        if x.abs() > 3.0 {
            let z = x.abs();
            let fraction = (1..80).rev().fold(z, |below, n| z + f64::from(n) / 2.0 / below);
            return x.signum() * (1.0 - (-z * z).exp() / fraction / std::f64::consts::PI.sqrt());
        }
        let (mut term, mut sum) = (x, x);
        for n in 1..100 {
            term *= -x * x / f64::from(n);
            sum += term / f64::from(2 * n + 1);
        }
        sum * 2.0 / std::f64::consts::PI.sqrt()
    }

    #[test]
    fn activations_equal_their_definitions() {
        type Reference = fn(f64) -> f64;
        let cases: [(&str, Reference); 6] = [
            ("gelu", |x| 0.5 * x * (1.0 + erf_reference(x / 2f64.sqrt()))),
            ("gelu_new", |x| {
                0.5 * x * (1.0 + ((2.0 / std::f64::consts::PI).sqrt() * (x + 0.044_715 * x.powi(3))).tanh())
            }),
            ("quick_gelu", |x| x / (1.0 + (-1.702 * x).exp())),
            ("relu", |x| x.max(0.0)),
            ("silu", |x| x / (1.0 + (-x).exp())),
            ("tanh", f64::tanh),
        ];
        for (name, reference) in cases {
            let mut values = grid();
            Activation::from_name(name).unwrap().apply(&mut values);
            for (x, y) in grid().into_iter().zip(values) {
                let expected = reference(f64::from(x));
                // The erf formula is within 3e-7 and multiplies |x| / 2; exp rounds to a few ulp.
                assert!(
                    (f64::from(y) - expected).abs() < 1e-6 + 4e-7 * f64::from(x.abs()),
                    "{name}({x}) = {y}, not {expected}"
                );
            }
        }
    }

    #[test]
    fn tanh_is_as_good_near_zero_as_far_from_it() {
        let powers = (-60..20).map(|power| 1.25_f32.powi(power));
        for x in powers
            .flat_map(|x| [x, -x])
            .chain([0.0, 0.624_999, 0.625, 9.99, 88.0, 1e30])
        {
            let mut values = [x];
            Activation::Tanh.apply(&mut values);
            let expected = f64::from(x).tanh();
            assert!(
                (f64::from(values[0]) - expected).abs() <= 3e-7 * expected.abs(),
                "tanh({x})"
            );
        }
        let mut scores = [-200.0, -1.0, 0.0, 1e-3, 30.0];
        let expected = scores.map(|x: f32| 50.0 * (f64::from(x) / 50.0).tanh());
        soft_cap(&mut scores, 50.0);
        for (score, expected) in scores.into_iter().zip(expected) {
            assert!((f64::from(score) - expected).abs() <= 4e-7 * expected.abs());
        }
    }

    #[test]
    fn softmax_sums_to_one_and_ignores_masked_entries() {
        let mut row: Vec<f32> = (0..11).map(|i| i as f32 * 3.0 - 20.0).collect();
        row[4] = f32::NEG_INFINITY;
        let exact: Vec<f64> = row.iter().map(|&x| f64::from(x).exp()).collect();
        let total: f64 = exact.iter().sum();
        softmax(&mut row);
        for (got, expected) in row.iter().zip(exact) {
            assert!((f64::from(*got) - expected / total).abs() < 1e-6);
        }
        assert!(row[4] == 0.0);
    }

    #[test]
    fn layer_norm_has_the_mean_and_variance_it_promises() {
        let mut rows: Vec<f32> = (0..30).map(|i| ((i * 37) % 23) as f32).collect();
        layer_norm(&mut rows, &[2.0; 10], &[1.0; 10], 0.0);
        for row in rows.chunks_exact(10) {
            let mean = row.iter().sum::<f32>() / 10.0;
            let variance = row.iter().map(|x| (x - mean).powi(2)).sum::<f32>() / 10.0;
            assert!((mean - 1.0).abs() < 1e-5 && (variance - 4.0).abs() < 1e-4);
        }
    }
}
