//! What a merge without samples costs, told from shapes alone before anything is read: bytes, operations, memory, and by
//! the [`Rates`] of this machine the seconds.
//!
//! Of one layer, with d = d_out + d_in, m = d_out d_in, n adapters of ranks r_i, R = sum r_i, the written rank k, and
//! l = k + 10 columns of the range finder (at most min(d_out, d_in)). A multiplication and an addition are two
//! operations; small decompositions are counted as in Golub and Van Loan (*Matrix Computations*, 8.3 and 8.6: about 9 R^3
//! for a symmetric eigenproblem with vectors, 22 R^3 for an SVD).
//!
//! | work | f32 products | f64 products | numbers passed over |
//! |---|---|---|---|
//! | [`Stacked`](Work::Stacked) | | | 2 d R |
//! | [`Factored`](Work::Factored) | 2 d R k | 2 d R^2 + 40 R^3 | 2 d R |
//! | [`Elementwise`](Work::Elementwise) | 2 sum (2 m r_i) + 12 m l + 2 m k | 10 d l^2 + 22 l^3 | 4 n m |
//! | [`Knots`](Work::Knots) | 2 R^2 d_in + 2 d R k | 2 d R^2 + 80 R^3 | 4 n R d_in |
//! | [`CoreSpace`](Work::CoreSpace) | 2 d R k | 2 d R^2 + 40 R^3 + sum (4 R^2 r_i) | 4 n R^2 |
//!
//! The factored cut takes a Gram matrix and a product of k columns on each side. An elementwise method forms each part
//! twice, to find what is kept and to combine. The range finder goes on until more would add little, with blocks of half the
//! rank; six products of l columns and five orthonormalisations are about what its usual three or four steps come to. The
//! residual is one product of rank k.
//!
//! In memory are the factors as they are in the files and as f32, what is written of them, and what is formed: of an
//! elementwise method the layer dense once, its parts in runs of rows.

use std::{cell::Cell, hint::black_box, iter::Sum, ops::Add};

use half::{f16, slice::HalfFloatSliceExt};

use crate::compute::{number, product_rate, rate};

/// What is done with the parts of a layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Work {
    /// Their factors stand side by side (`linear`, `cat`, `average`, `task_arithmetic`): the written rank is their sum.
    Stacked,
    /// Their sum is cut to a rank by its factors (`svd`).
    Factored,
    /// They are formed (d_out x d_in), combined number by number (TIES, DARE) and cut to a rank.
    Elementwise,
    /// They are combined in a basis of their outputs (R x d_in each), as KnOTS does.
    Knots,
    /// They are combined in bases of both sides (R x R each), as Core Space does.
    CoreSpace,
}

/// One layer as a merge sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LayerShape {
    /// The width of its output.
    pub d_out: usize,
    /// The width of its input; of a convolution with its kernel.
    pub d_in: usize,
    /// The rank of each adapter that has the layer.
    pub ranks: Vec<usize>,
    /// What is done with them.
    pub work: Work,
    /// The rank that is written.
    pub rank: usize,
    /// Bytes of a number in the adapters' files.
    pub read_size: usize,
    /// Bytes of a number in the file that is written.
    pub written_size: usize,
}

/// What work takes, whatever the machine.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Cost {
    /// Bytes of factors to read.
    pub bytes_read: f64,
    /// Bytes of factors to write.
    pub bytes_written: f64,
    /// Operations of products in f32.
    pub f32_products: f64,
    /// Operations of products and decompositions in f64.
    pub f64_products: f64,
    /// Numbers that are read and written once, each as an f32: conversions, scalings, choices.
    pub numbers_passed: f64,
    /// The most bytes that are held at once, the program and its inputs' headers apart.
    pub peak_bytes: f64,
}

/// Columns beyond the written rank that the range finder is counted with.
const OVERSAMPLING: usize = 10;

/// Products of the range finder with the layer, as if each had all columns.
const RANGE_PRODUCTS: f64 = 6.0;

/// How often an elementwise method forms each part: to find what is kept, and to combine.
const FORMED: f64 = 2.0;

/// Passes over the numbers of each part: its magnitudes, its threshold, its sign, its share.
const PASSES: f64 = 4.0;

/// Bytes of the rows of one part that are formed at once.
const RUN_BYTES: f64 = 16.0 * 1024.0 * 1024.0;

/// Bytes of an f32 and an f64.
const F32: f64 = 4.0;
const F64: f64 = 8.0;

/// Operations of an eigendecomposition with vectors of a symmetric matrix and of an SVD, in the cube of their side.
const EIGEN: f64 = 9.0;
const SVD: f64 = 22.0;

impl LayerShape {
    /// What the layer takes; see the head of this file.
    pub fn cost(&self) -> Cost {
        let [d_out, d_in] = [self.d_out, self.d_in].map(number);
        let ranks: Vec<f64> = self.ranks.iter().copied().map(number).collect();
        let (parts, sum, rank) = (number(ranks.len()), ranks.iter().sum::<f64>(), number(self.rank));
        let both = d_out + d_in;
        let dense = d_out * d_in;
        let (read, written) = (both * sum, both * rank);
        let common = Cost {
            bytes_read: read * number(self.read_size),
            bytes_written: written * number(self.written_size),
            numbers_passed: read + written,
            ..Cost::default()
        };
        // A Gram matrix of each side and its eigenvectors, and the SVD of the small product between them.
        let bases = 2.0 * both * sum * sum + (2.0 * EIGEN + SVD) * sum.powi(3);
        let cut = 2.0 * both * sum * rank;
        let square = F64 * sum * sum;
        let (work, formed) = match self.work {
            Work::Stacked => (Cost::default(), 0.0),
            Work::Factored => (
                Cost {
                    f32_products: cut,
                    f64_products: bases,
                    ..Cost::default()
                },
                4.0 * square,
            ),
            Work::Elementwise => {
                let columns = number((self.rank + OVERSAMPLING).min(self.d_out).min(self.d_in));
                let forming = FORMED * 2.0 * dense * sum;
                let range = RANGE_PRODUCTS * 2.0 * dense * columns;
                let residual = 2.0 * dense * rank;
                let orthonormal = (RANGE_PRODUCTS - 1.0) * 2.0 * both * columns * columns;
                let work = Cost {
                    f32_products: forming + range + residual,
                    f64_products: orthonormal + SVD * columns.powi(3),
                    numbers_passed: PASSES * parts * dense,
                    ..Cost::default()
                };
                let runs = parts * RUN_BYTES.min(F32 * dense);
                (work, F32 * dense + runs + (F32 + F64) * both * columns)
            }
            Work::Knots => {
                let coordinates = sum * d_in;
                let work = Cost {
                    f32_products: 2.0 * sum * coordinates + cut,
                    // The basis that the parts share, then the cut of what was made of them.
                    f64_products: bases + (2.0 * EIGEN + SVD) * sum.powi(3),
                    numbers_passed: PASSES * parts * coordinates,
                    ..Cost::default()
                };
                (work, F32 * (parts + 1.0) * coordinates + 4.0 * square)
            }
            Work::CoreSpace => {
                let cores: f64 = ranks.iter().map(|own| 4.0 * sum * sum * own).sum();
                let work = Cost {
                    f32_products: cut,
                    f64_products: bases + cores,
                    numbers_passed: PASSES * parts * sum * sum,
                    ..Cost::default()
                };
                (work, (parts + 4.0) * square)
            }
        };
        let factors = common.bytes_read + F32 * read + F32 * written + common.bytes_written;
        Cost {
            peak_bytes: factors + formed,
            ..common + work
        }
    }
}

/// One after the other: what is done adds up, what is held at once does not.
impl Add for Cost {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            bytes_read: self.bytes_read + other.bytes_read,
            bytes_written: self.bytes_written + other.bytes_written,
            f32_products: self.f32_products + other.f32_products,
            f64_products: self.f64_products + other.f64_products,
            numbers_passed: self.numbers_passed + other.numbers_passed,
            peak_bytes: self.peak_bytes.max(other.peak_bytes),
        }
    }
}

impl Sum for Cost {
    fn sum<I: Iterator<Item = Self>>(costs: I) -> Self {
        costs.fold(Self::default(), Add::add)
    }
}

impl Cost {
    /// Seconds on a machine of these rates.
    pub fn seconds(&self, rates: &Rates) -> f64 {
        self.f32_products / rates.f32_products
            + self.f64_products / rates.f64_products
            + self.numbers_passed / rates.numbers
    }
}

/// How fast this machine is, on one core.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rates {
    /// Operations of products in f32, a second.
    pub f32_products: f64,
    /// Operations of products in f64, a second.
    pub f64_products: f64,
    /// Numbers converted from f16 to f32, a second.
    pub numbers: f64,
}

/// Seconds that the kernels run before they are measured for the first time: a browser compiles a function for speed
/// only when it has run for a while.
const WARMING_SECONDS: f64 = 0.4;

thread_local! {
    static WARM: Cell<bool> = const { Cell::new(cfg!(not(target_arch = "wasm32"))) };
}

/// Rows and columns of the matrices that are multiplied: beyond the first-level cache, as those of a merge are.
const SIDE: usize = 192;

/// Numbers that are converted at once.
const CONVERTED: usize = 1 << 16;

impl Rates {
    /// Bytes a second that are read, hashed or written, beside the work on the numbers in them. Like converting numbers it
    /// is a core's work on memory, and was measured beside it, in Node: 0.8e9 bytes a second on a core that converts 0.6e9
    /// numbers, and 1.6e9 on one that converts 0.3e9 and has instructions for SHA-256. Between the two, each is within a
    /// factor of 1.5.
    ///
    /// `hashed_outside`: whether the place that the files are in hashes them ([`ByteSource::hashes`](crate::io::ByteSource)).
    pub fn bytes(&self, hashed_outside: bool) -> f64 {
        self.numbers * if hashed_outside { 2.4 } else { 1.0 }
    }

    /// Measures the kernels that a merge runs, for about `seconds` in all; 0.05 tells them within some ten percent on a
    /// machine that does nothing else.
    pub fn measure(seconds: f64) -> Self {
        if !WARM.replace(true) {
            Self::measured(WARMING_SECONDS);
        }
        Self::measured(seconds)
    }

    fn measured(seconds: f64) -> Self {
        let share = seconds / 3.0;
        let halves = vec![f16::from_f32(0.5); CONVERTED];
        let mut floats = vec![0.0; CONVERTED];
        Self {
            f32_products: product_rate::<f32>(0.5, SIDE, share),
            f64_products: product_rate::<f64>(0.5, SIDE, share),
            numbers: rate(share, number(CONVERTED), || {
                black_box(halves.as_slice()).convert_to_f32_slice(&mut floats);
                black_box(&floats);
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Cost, LayerShape, Rates, Work};

    const WORKS: [Work; 5] = [
        Work::Stacked,
        Work::Factored,
        Work::Elementwise,
        Work::Knots,
        Work::CoreSpace,
    ];

    fn layer(work: Work, (d_out, d_in): (usize, usize), ranks: &[usize], rank: usize) -> LayerShape {
        LayerShape {
            d_out,
            d_in,
            ranks: ranks.to_vec(),
            work,
            rank,
            read_size: 2,
            written_size: 2,
        }
    }

    const RATES: Rates = Rates {
        f32_products: 40e9,
        f64_products: 10e9,
        numbers: 1e9,
    };

    #[test]
    fn a_small_layer_costs_what_is_counted_by_hand() {
        // 6 x 4, two parts of rank 1: 20 numbers to read, as many to write at rank 2.
        let stacked = layer(Work::Stacked, (6, 4), &[1, 1], 2).cost();
        let wanted = Cost {
            bytes_read: 40.0,
            bytes_written: 40.0,
            numbers_passed: 40.0,
            peak_bytes: 40.0 + 80.0 + 80.0 + 40.0,
            ..Cost::default()
        };
        assert_eq!(stacked, wanted);

        // Gram matrices 2 * 6 * 4 and 2 * 4 * 4, decompositions 40 * 8; products 2 * 6 * 2 and 2 * 4 * 2.
        let factored = layer(Work::Factored, (6, 4), &[1, 1], 1).cost();
        assert_eq!((factored.f64_products, factored.f32_products), (400.0, 40.0));
        assert_eq!(factored.bytes_written, 20.0);

        // Each part formed twice, 2 * (48 + 48); the range finder has all 4 columns, 6 * 192; the residual 48.
        let ties = layer(Work::Elementwise, (6, 4), &[1, 1], 1).cost();
        assert_eq!(ties.f32_products, 192.0 + 1152.0 + 48.0);
        // Five times 2 * 10 * 16, and 22 * 64.
        assert_eq!(ties.f64_products, 1600.0 + 1408.0);
        // Four passes over two parts of 24 numbers, beside reading and writing.
        assert_eq!(ties.numbers_passed, 192.0 + 30.0);

        // Coordinates (2 x 4) by 2 rows, 2 * 2 * 8; the cut 40.
        let knots = layer(Work::Knots, (6, 4), &[1, 1], 1).cost();
        assert_eq!((knots.f32_products, knots.f64_products), (72.0, 720.0));
        // Cores (2 x 2): 4 * 4 for each part of rank 1.
        let core = layer(Work::CoreSpace, (6, 4), &[1, 1], 1).cost();
        assert_eq!((core.f32_products, core.f64_products), (40.0, 432.0));
    }

    #[test]
    fn more_of_anything_never_costs_less() {
        for work in WORKS {
            let least = layer(work, (640, 320), &[8, 8], 8);
            let more = [
                layer(work, (1280, 320), &[8, 8], 8),
                layer(work, (640, 640), &[8, 8], 8),
                layer(work, (640, 320), &[8, 16], 8),
                layer(work, (640, 320), &[8, 8, 8], 8),
                layer(work, (640, 320), &[8, 8], 16),
            ];
            let costs = |cost: Cost| {
                let Cost {
                    bytes_read,
                    bytes_written,
                    f32_products,
                    f64_products,
                    numbers_passed,
                    peak_bytes,
                } = cost;
                [
                    bytes_read,
                    bytes_written,
                    f32_products,
                    f64_products,
                    numbers_passed,
                    peak_bytes,
                ]
            };
            for other in more {
                let pairs = costs(least.cost()).into_iter().zip(costs(other.cost()));
                assert!(
                    pairs.clone().all(|(less, more)| less <= more),
                    "{work:?} {other:?}"
                );
                assert!(
                    least.cost().seconds(&RATES) < other.cost().seconds(&RATES),
                    "{work:?} {other:?}"
                );
            }
        }
    }

    #[test]
    fn layers_add_up_and_the_peak_is_the_largest_ones() {
        let (small, large) = (
            layer(Work::Elementwise, (320, 320), &[8], 8).cost(),
            layer(Work::Elementwise, (640, 640), &[8], 8).cost(),
        );
        let both: Cost = [small, large].into_iter().sum();
        assert_eq!(both.bytes_read, small.bytes_read + large.bytes_read);
        assert_eq!(both.peak_bytes, large.peak_bytes);
        assert_eq!([large, small].into_iter().sum::<Cost>(), both);
    }

    #[test]
    fn fluxs_widest_layer_is_held_dense_once() {
        let ties = layer(Work::Elementwise, (21504, 3072), &[16; 3], 16).cost();
        let dense = 4.0 * 21504.0 * 3072.0;
        assert!(
            (dense..1.5 * dense).contains(&ties.peak_bytes),
            "{}",
            ties.peak_bytes
        );
        // Its factors: no number of them is as large as a column of it.
        let svd = layer(Work::Factored, (21504, 3072), &[16; 3], 16).cost();
        assert!(svd.peak_bytes < 0.1 * dense, "{}", svd.peak_bytes);
    }

    #[test]
    fn seconds_are_those_of_each_kind_of_work() {
        let cost = Cost {
            f32_products: 80e9,
            f64_products: 5e9,
            numbers_passed: 3e9,
            ..Cost::default()
        };
        assert!((cost.seconds(&RATES) - 5.5).abs() < 1e-12);
    }

    #[test]
    fn rates_are_measured() {
        let rates = Rates::measure(0.003);
        // Slower than any machine that runs a browser, faster than any core; builds without optimisation apart.
        for rate in [rates.f32_products, rates.f64_products, rates.numbers] {
            assert!((1e6..1e13).contains(&rate), "{rates:?}");
        }
    }
}
