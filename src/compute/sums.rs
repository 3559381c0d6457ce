//! Sums over rows of features on a device, read back together.
//!
//! A readback is a round trip of milliseconds, whatever its size; so all that one linear group wants to know of its
//! features goes into one buffer, which is read once. What is summed is declared first; then rows are added, micro-batch
//! after micro-batch; [`DeviceSums::read`] multiplies and reads. Products wait for the last rows, because a column has one
//! scale in all of them.

use std::{collections::BTreeMap, ops::Range};

use burn::{
    backend::Dispatch,
    tensor::{Int, Tensor},
};

use crate::{
    compute::{
        Features,
        gemm::{Part, View, multiply},
        kernels::{
            exact::{ExactProduct, LargestJob, ProductJob, SHARES, join, largest_of, unit},
            matmul::{Matmul, TransposedJob},
            squares::{PARTS, Squares, SquaresJob, total},
            zeros,
        },
        lost,
        symmetric::Symmetric,
    },
    error::{Code, Error, Result},
};

/// A matrix whose rows are added one after another: a factor of products.
#[derive(Clone, Copy)]
pub struct Factor(usize);

/// `left^T right` of two factors.
#[derive(Clone, Copy)]
pub struct Product(usize);

/// `||left^T right||_F^2` of two factors, to f32 accuracy.
#[derive(Clone, Copy)]
pub struct ProductNorm(usize);

/// The sum of the squares of rows.
#[derive(Clone, Copy)]
pub struct SquareSum(usize);

struct FactorColumns {
    columns: usize,
    /// Where its columns' largest magnitudes are, if a product needs them.
    largest: Option<usize>,
    /// Its rows, as places in the sources.
    rows: Vec<(usize, Range<usize>)>,
}

struct ProductPlace {
    left: usize,
    right: usize,
    at: usize,
}

/// Sums that are being made. See the module.
#[derive(Default)]
pub struct DeviceSums {
    sources: Vec<Tensor<2>>,
    factors: Vec<FactorColumns>,
    products: Vec<ProductPlace>,
    norms: Vec<ProductPlace>,
    squares: Vec<usize>,
    words: usize,
    buffer: Option<Tensor<1, Int>>,
}

/// Features that have been given to the sums of one device.
#[derive(Clone, Copy)]
pub struct Source(usize);

impl DeviceSums {
    /// A factor of that many columns.
    pub fn factor(&mut self, columns: usize) -> Factor {
        self.factors.push(FactorColumns {
            columns,
            largest: None,
            rows: Vec::new(),
        });
        Factor(self.factors.len() - 1)
    }

    /// `left^T right` (left columns x right columns), exact to 2^-33 of the columns' norms; of a factor with itself, the
    /// lower triangle.
    pub fn product(&mut self, left: Factor, right: Factor) -> Product {
        let (left, right) = (left.0, right.0);
        let columns = [left, right].map(|factor| {
            let factor = &mut self.factors[factor];
            if factor.largest.is_none() {
                factor.largest = Some(self.words);
                self.words += SHARES * factor.columns;
            }
            factor.columns
        });
        let at = self.words;
        self.products.push(ProductPlace { left, right, at });
        self.words += 2 * elements(left == right, columns);
        Product(self.products.len() - 1)
    }

    /// `||left^T right||_F^2`, of factors that all have the same columns as those of every other norm.
    pub fn product_norm(&mut self, left: Factor, right: Factor) -> ProductNorm {
        let (left, right, at) = (left.0, right.0, self.words);
        self.norms.push(ProductPlace { left, right, at });
        self.words += PARTS;
        ProductNorm(self.norms.len() - 1)
    }

    /// A sum of squares, to f32 accuracy.
    pub fn square_sum(&mut self) -> SquareSum {
        self.squares.push(self.words);
        self.words += PARTS;
        SquareSum(self.squares.len() - 1)
    }

    /// Bytes of the buffer.
    pub const fn bytes(&self) -> usize {
        4 * self.words
    }

    /// Features whose rows are to be added.
    ///
    /// # Panics
    /// If they are in memory: those are summed there.
    pub fn source(&mut self, features: &Features) -> Source {
        let Features::Device(tensor) = features else {
            unreachable!("only features on a device are summed there")
        };
        self.sources.push(tensor.clone());
        Source(self.sources.len() - 1)
    }

    /// Adds rows to a factor: of one source at most one run. Factors of one product are given theirs in one order.
    pub fn add_rows(&mut self, factor: Factor, source: Source, rows: Range<usize>) {
        self.factors[factor.0].rows.push((source.0, rows));
    }

    /// Adds the squares of rows of `features`, once for every sum that they go into.
    pub fn add_squares(&mut self, features: &Features, rows: &[(SquareSum, Range<usize>)]) {
        let Features::Device(tensor) = features else {
            unreachable!("only features on a device are summed there")
        };
        let jobs: Vec<SquaresJob> = rows
            .iter()
            .filter(|(_, rows)| !rows.is_empty())
            .map(|(sum, rows)| [rows.start, rows.len(), self.squares[sum.0]])
            .collect();
        if jobs.is_empty() {
            return;
        }
        let (words, device) = (self.words, tensor.device());
        let buffer = self.buffer.take().unwrap_or_else(|| zeros(words, &device));
        let sums =
            <Dispatch as Squares>::squares(buffer.into_dispatch(), tensor.clone().into_dispatch(), jobs);
        self.buffer = Some(Tensor::from_dispatch(sums));
    }

    /// Computes what is left to compute, and nobody reads it.
    pub(super) fn launch(mut self) {
        if let Some(buffer) = self.buffer.take() {
            self.multiply(buffer);
        }
    }

    /// Computes what is left to compute, and reads all sums back.
    ///
    /// # Errors
    /// [`Code::DeviceLost`] if the device cannot be read.
    pub async fn read(mut self) -> Result<ReadSums> {
        let words = self.words;
        let device = self.sources.first().map(Tensor::device);
        let buffer = self.buffer.take().or_else(|| Some(zeros(words, &device?)));
        let Some(buffer) = buffer else {
            return Ok(ReadSums {
                sums: self,
                words: vec![0; words],
            });
        };
        let buffer = self.multiply(buffer);
        let data = buffer.into_data_async().await.map_err(lost)?;
        let words = data.try_into_vec::<i32>().map_err(|error| {
            let what = format!("the device returned something else than integers: {error:?}");
            Error::new(Code::Internal, what)
        })?;
        // What they hold is the device's memory.
        self.sources.clear();
        Ok(ReadSums { sums: self, words })
    }

    fn multiply(&self, buffer: Tensor<1, Int>) -> Tensor<1, Int> {
        let mut sums = buffer.into_dispatch();
        let mut largest: BTreeMap<usize, Vec<LargestJob>> = BTreeMap::new();
        for factor in &self.factors {
            for (source, rows) in factor.rows.iter().filter(|(_, rows)| !rows.is_empty()) {
                if let Some(at) = factor.largest {
                    largest
                        .entry(*source)
                        .or_default()
                        .push([rows.start, rows.len(), at]);
                }
            }
        }
        for (source, jobs) in largest {
            let x = self.sources[source].clone().into_dispatch();
            sums = <Dispatch as ExactProduct>::largest(sums, x, jobs);
        }
        // Products of the same two tensors are one dispatch.
        let mut products: BTreeMap<(usize, usize, bool), Vec<ProductJob>> = BTreeMap::new();
        for product in &self.products {
            let (left, right) = (&self.factors[product.left], &self.factors[product.right]);
            for ((a, left_rows), (b, right_rows)) in left.rows.iter().zip(&right.rows) {
                assert_eq!(left_rows.len(), right_rows.len(), "factors have rows in step");
                if let (Some(x), Some(y), false) = (left.largest, right.largest, left_rows.is_empty()) {
                    let jobs = products
                        .entry((*a, *b, product.left == product.right))
                        .or_default();
                    jobs.push([
                        left_rows.len(),
                        left_rows.start,
                        right_rows.start,
                        x,
                        y,
                        product.at,
                    ]);
                }
            }
        }
        for ((a, b, symmetric), jobs) in products {
            let [left, right] = [a, b].map(|source| self.sources[source].clone().into_dispatch());
            sums = <Dispatch as ExactProduct>::product(sums, left, right, jobs, symmetric);
        }
        self.add_norms(Tensor::from_dispatch(sums))
    }

    /// The products whose norms are asked for stand in one tensor below each other.
    fn add_norms(&self, sums: Tensor<1, Int>) -> Tensor<1, Int> {
        let Some(first) = self.norms.first() else {
            return sums;
        };
        let [m, n] = [first.left, first.right].map(|factor| self.factors[factor].columns);
        let mut jobs: BTreeMap<(usize, usize), Vec<TransposedJob>> = BTreeMap::new();
        for (index, norm) in self.norms.iter().enumerate() {
            let (left, right) = (&self.factors[norm.left], &self.factors[norm.right]);
            assert_eq!(
                [left.columns, right.columns],
                [m, n],
                "norms are of products of one shape"
            );
            for ((a, left_rows), (b, right_rows)) in left.rows.iter().zip(&right.rows) {
                let job = [left_rows.start, right_rows.start, left_rows.len(), index * m];
                jobs.entry((*a, *b)).or_default().push(job);
            }
        }
        let products = Tensor::<2>::zeros([self.norms.len() * m, n], &sums.device());
        let mut products = products.into_dispatch();
        for ((a, b), jobs) in jobs {
            let [left, right] = [a, b].map(|source| self.sources[source].clone().into_dispatch());
            products = <Dispatch as Matmul>::add_transposed(products, left, right, jobs);
        }
        let places = self.norms.iter().enumerate();
        let jobs: Vec<SquaresJob> = places.map(|(index, norm)| [index * m, m, norm.at]).collect();
        let sums = <Dispatch as Squares>::squares(sums.into_dispatch(), products, jobs);
        Tensor::from_dispatch(sums)
    }
}

/// Numbers of a product.
const fn elements(symmetric: bool, [m, n]: [usize; 2]) -> usize {
    if symmetric { m * (m + 1) / 2 } else { m * n }
}

/// Sums that have been read.
pub struct ReadSums {
    sums: DeviceSums,
    words: Vec<i32>,
}

impl ReadSums {
    /// A sum of squares.
    pub fn squares(&self, sum: SquareSum) -> f64 {
        let at = self.sums.squares[sum.0];
        total(&self.words[at..at + PARTS])
    }

    /// The square of a product's norm.
    ///
    /// # Errors
    /// [`Code::NotFinite`] if it overflows.
    pub fn product_norm(&self, norm: ProductNorm) -> Result<f64> {
        let at = self.sums.norms[norm.0].at;
        let squares = total(&self.words[at..at + PARTS]);
        if squares.is_finite() {
            Ok(squares)
        } else {
            Err(overflow())
        }
    }

    /// Adds a product of two factors to `out`, row-major.
    ///
    /// # Errors
    /// [`Code::NotFinite`] if the features overflow.
    pub fn add_product(&self, product: Product, out: &mut [f64]) -> Result<()> {
        let ProductPlace { left, right, at } = self.sums.products[product.0];
        debug_assert_ne!(
            left, right,
            "of a factor with itself, the lower triangle is there"
        );
        let [rows, columns] = [self.largest(left)?, self.largest(right)?];
        let mut sums = self.words[at..].chunks_exact(2);
        for (out, row) in out.chunks_exact_mut(columns.len()).zip(rows) {
            for ((out, &column), words) in out.iter_mut().zip(&columns).zip(&mut sums) {
                *out += unit(row, column) * join(words[0], words[1]) as f64;
            }
        }
        Ok(())
    }

    /// Adds the product of a factor with itself to `out`.
    ///
    /// # Errors
    /// As [`add_product`](Self::add_product).
    pub fn add_gram(&self, product: Product, out: &mut Symmetric) -> Result<()> {
        let ProductPlace { left, right, at } = self.sums.products[product.0];
        debug_assert_eq!(left, right, "a Gram matrix is of one factor");
        let columns = self.largest(left)?;
        let mut at = at;
        for (i, row) in columns.iter().enumerate() {
            out.add_to_row(i, |column| {
                let words = &self.words[at + 2 * column..];
                unit(*row, columns[column]) * join(words[0], words[1]) as f64
            });
            at += 2 * (i + 1);
        }
        Ok(())
    }

    fn largest(&self, factor: usize) -> Result<Vec<u32>> {
        let FactorColumns { columns, largest, .. } = &self.sums.factors[factor];
        let shares = largest.map_or(&[][..], |at| &self.words[at..at + SHARES * columns]);
        let bits: Vec<u32> = (0..*columns)
            .map(|column| largest_of(shares, *columns, column))
            .collect();
        if bits.iter().any(|&bits| !f32::from_bits(bits).is_finite()) {
            return Err(overflow());
        }
        Ok(bits)
    }
}

fn overflow() -> Error {
    Error::new(
        Code::NotFinite,
        "the features of a layer overflow f32 on this device; check the adapters, or choose the CPU",
    )
}

/// Rows of features in memory, as the kernels read them; none of features on a device.
fn rows_of(features: &Features, rows: Range<usize>) -> Option<View<'_, f32>> {
    let Features::Host { data, columns } = features else {
        return None;
    };
    let data = &data[rows.start * columns..rows.end * columns];
    Some(View::new(data, rows.len(), *columns))
}

/// `out += left[left_rows]^T right[right_rows]` of some columns of `right` (left columns x columns, row-major), summed in
/// f64.
///
/// # Panics
/// If they are on a device: there they are summed by [`DeviceSums`].
pub fn add_product(
    (left, left_rows): (&Features, Range<usize>),
    (right, right_rows): (&Features, Range<usize>),
    columns: Range<usize>,
    out: &mut [f64],
) {
    let (Some(left), Some(right)) = (rows_of(left, left_rows), rows_of(right, right_rows)) else {
        unreachable!("features on a device are summed there")
    };
    let width = columns.len();
    let right = right.columns(columns);
    multiply(left.transposed(), right, 1.0, Part::Full, out, width);
}

/// `out += features[rows]^T features[rows]`, summed in f64. On a device this is a readback of its own.
///
/// # Errors
/// If the device cannot be read.
pub async fn accumulate_gram(features: &Features, rows: Range<usize>, out: &mut Symmetric) -> Result<()> {
    if let Some(rows) = rows_of(features, rows.clone()) {
        out.add_gram(rows);
        return Ok(());
    }
    let mut sums = DeviceSums::default();
    let factor = sums.factor(features.columns());
    let product = sums.product(factor, factor);
    let source = sums.source(features);
    sums.add_rows(factor, source, rows);
    sums.read().await?.add_gram(product, out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compute::{Compute, kernels::test_devices};

    /// Numbers of [-1, 1) with a uniform distribution.
    fn uniform(seed: u64) -> impl FnMut() -> f32 {
        let mut state = seed;
        move || {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
        }
    }

    /// (rows x columns) by a name of what is hard in them.
    fn matrix(kind: &str, rows: usize, columns: usize, seed: u64) -> Vec<f32> {
        let mut next = uniform(seed);
        let number = |at: usize| {
            let x = next();
            match kind {
                "outlier column" if at % columns == 3 => 1000.0 * x,
                "outlier row" if at / columns == 1 => 1000.0 * x,
                "all alike" => 1.999_999_9,
                "heavy tails" => x.powi(9),
                "tiny" => x * 1e-30,
                "huge" => x * 1e15,
                "zero column" if at % columns == 2 => 0.0,
                _ => x,
            }
        };
        (0..rows * columns).map(number).collect()
    }

    const KINDS: [&str; 8] = [
        "uniform",
        "outlier column",
        "outlier row",
        "all alike",
        "heavy tails",
        "tiny",
        "huge",
        "zero column",
    ];

    /// The worst error over the norms of the columns, and where nothing is to be lost, none at all.
    fn worst((x, m): (&[f32], usize), (y, n): (&[f32], usize), found: &[f64]) -> f64 {
        let mut worst = 0.0_f64;
        for (i, j) in (0..m).flat_map(|i| (0..n).map(move |j| (i, j))) {
            let (mut sum, mut left, mut right) = (0.0, 0.0, 0.0);
            for (x, y) in x.chunks_exact(m).zip(y.chunks_exact(n)) {
                let (a, b) = (f64::from(x[i]), f64::from(y[j]));
                sum += a * b;
                left += a * a;
                right += b * b;
            }
            let norms = (left * right).sqrt();
            let error = (found[i * n + j] - sum).abs();
            assert!(norms > 0.0 || error == 0.0);
            worst = worst.max(error / norms.max(f64::MIN_POSITIVE));
        }
        worst
    }

    // 2^-33 is what a Gram matrix needs: the ridge is 1e-5 of its norm, and deltas are wanted to 1e-5.
    #[test]
    fn products_are_exact_to_2_to_the_minus_33_of_the_columns_norms() {
        for device in test_devices() {
            let compute = Compute::tensors(device, "tensors");
            for (case, kind) in KINDS.into_iter().enumerate() {
                // Fewer rows than a flush of the kernel, and more; tiles that are full and that are not.
                for (rows, m, n) in [([7, 1], 33, 5), ([130, 61], 37, 70), ([300, 4], 8, 64)] {
                    let all: usize = rows.iter().sum();
                    let x = matrix(kind, all, m, case as u64);
                    let y = matrix(kind, all, n, 99 + case as u64);
                    let mut sums = DeviceSums::default();
                    let [left, right] = [m, n].map(|columns| sums.factor(columns));
                    let squares = sums.square_sum();
                    let gram = sums.product(left, left);
                    let product = sums.product(left, right);
                    let product_norm = sums.product_norm(left, right);
                    let mut from = 0;
                    for count in rows {
                        // A row before and one behind, which do not belong to it.
                        let features = |data: &[f32], columns: usize| {
                            let mut around = vec![f32::NAN; columns];
                            around.extend(&data[from * columns..(from + count) * columns]);
                            around.extend(vec![f32::NAN; columns]);
                            compute.features(compute.tensor(around, count + 2, columns))
                        };
                        let (a, b) = (features(&x, m), features(&y, n));
                        let (at, bt) = (sums.source(&a), sums.source(&b));
                        sums.add_rows(left, at, 1..count + 1);
                        sums.add_rows(right, bt, 1..count + 1);
                        sums.add_squares(&a, &[(squares, 1..count + 1)]);
                        from += count;
                    }
                    let read = pollster::block_on(sums.read()).unwrap();
                    let (mut found, mut own) = (vec![0.0; m * n], Symmetric::zeros(m));
                    read.add_product(product, &mut found).unwrap();
                    read.add_gram(gram, &mut own).unwrap();
                    let errors = [
                        worst((&x, m), (&y, n), &found),
                        worst((&x, m), (&x, m), &own.entries()),
                    ];
                    for error in errors {
                        assert!(
                            error < 2f64.powi(-33),
                            "{kind}, {rows:?} rows, {m} x {n}: 2^{}",
                            error.log2()
                        );
                    }
                    let squares_of_product: f64 = found.iter().map(|x| x * x).sum();
                    let found = read.product_norm(product_norm);
                    // The squares of these products are beyond f32.
                    if !matches!(kind, "tiny" | "huge") {
                        let squares = found.unwrap();
                        assert!(
                            (squares - squares_of_product).abs() <= 1e-5 * squares_of_product,
                            "{kind}: {squares} is not {squares_of_product}"
                        );
                    }
                    let norm: f64 = x.iter().map(|&x| f64::from(x).powi(2)).sum();
                    // f32 adds up few terms in each part; squares of 1e-30 are nothing in it.
                    let share = if kind == "tiny" { 1.0 } else { 1e-6 };
                    assert!((read.squares(squares) - norm).abs() <= share * norm, "{kind}");
                }
            }
        }
    }

    #[test]
    fn features_that_overflow_are_refused() {
        for device in test_devices() {
            let compute = Compute::tensors(device, "tensors");
            for bad in [f32::INFINITY, f32::NAN] {
                let mut sums = DeviceSums::default();
                let factor = sums.factor(2);
                let product = sums.product(factor, factor);
                let features = compute.features(compute.tensor(vec![1.0, bad, 2.0, 3.0], 2, 2));
                let source = sums.source(&features);
                sums.add_rows(factor, source, 0..2);
                let read = pollster::block_on(sums.read()).unwrap();
                let error = read.add_gram(product, &mut Symmetric::zeros(2)).unwrap_err();
                assert_eq!(error.code(), Code::NotFinite);
            }
        }
    }

    #[test]
    fn a_factor_without_rows_gives_zeros() {
        let mut sums = DeviceSums::default();
        let factor = sums.factor(3);
        let (product, squares) = (sums.product(factor, factor), sums.square_sum());
        let read = pollster::block_on(sums.read()).unwrap();
        let mut out = Symmetric::zeros(3);
        read.add_gram(product, &mut out).unwrap();
        assert_eq!((out.entries(), read.squares(squares)), (vec![0.0; 9], 0.0));
    }
}
