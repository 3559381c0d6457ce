//! Products of matrices to f64 accuracy on a device that has only f32.
//!
//! A Gram matrix rounded to f32 is not good enough: features behind a layer normalisation lie in a plane, so in one
//! direction only the ridge (1e-5 of the norm) holds the matrix, and a rounding of 6e-8 is magnified there a hundred
//! thousand times. So every column is scaled by a power of two and cut into slices of eight bits whose products and sums
//! f32 holds exactly, whatever the order of summation (K. Ozaki, T. Ogita, S. Oishi, S. M. Rump, Numerical Algorithms
//! 59, 2012). The sums go into 64-bit integers, two words each, so that any number of rows can be added up.
//!
//! What is left out is below 2^-33 of ||x_i|| ||x_j||: a scale a column keeps that true beside a column a thousand times
//! the others, and five slices, with all products of slices i + j <= 4, beside a row a thousand times the others, whose
//! number takes the first slices of a column that another factor multiplies by large ones everywhere.

use burn::backend::{
    Backend, Flex, backend_extension,
    tensor::{FloatTensor, IntTensor},
};

use crate::compute::{
    gemm::{Part, View, multiply},
    kernels::floats,
};

/// Shares of the rows whose columns' largest magnitudes are kept side by side: as many workgroups look for them.
pub(in crate::compute) const SHARES: usize = 8;

/// What [`ExactProduct::largest`] does once: first row, rows, where in `sums`.
pub(in crate::compute) type LargestJob = [usize; 3];
/// What [`ExactProduct::product`] does once: rows, the left factor's first row, the right's, where in `sums`
/// their largest magnitudes are, and where their product.
pub(in crate::compute) type ProductJob = [usize; 6];

/// The operator.
#[backend_extension(Cube: cfg(any(target_arch = "wasm32", feature = "gpu")), Flex)]
pub(in crate::compute) trait ExactProduct: Backend {
    /// For every job, raises `sums[at + share * columns + column]` to the bits of the largest magnitude of a column of
    /// `x[first..][..rows]`, a share of the rows each. As integers magnitudes are in order, infinities and NaN above all.
    fn largest(sums: IntTensor<Self>, x: FloatTensor<Self>, jobs: Vec<LargestJob>) -> IntTensor<Self>;

    /// For every job, adds `left[left_first..][..rows]^T right[right_first..][..rows]` to the 64-bit integers at
    /// `sums[at..]`, low words first, row-major; if `symmetric`, the lower triangle alone, packed row after row. One of
    /// an integer is [`unit`] of the columns.
    fn product(
        sums: IntTensor<Self>,
        left: FloatTensor<Self>,
        right: FloatTensor<Self>,
        jobs: Vec<ProductJob>,
        symmetric: bool,
    ) -> IntTensor<Self>;
}

/// What one of the integers of a product stands for, by the bits of the largest magnitudes of its columns, which are
/// finite.
pub(in crate::compute) fn unit(left: u32, right: u32) -> f64 {
    // Both factors were multiplied by a scale, and the sum by 2^24.
    2f64.powi(-24) / (f64::from(scale(left)) * f64::from(scale(right)))
}

/// The power of two that brings a column's largest magnitude to at most 2^8. Below 2^-120 there is nothing to gain, and
/// the scale would overflow.
fn scale(bits: u32) -> f32 {
    let exponent = (bits >> 23).max(7);
    f32::from_bits((261 - exponent) << 23)
}

/// The largest of a column's shares.
pub(in crate::compute) fn largest_of(shares: &[i32], columns: usize, column: usize) -> u32 {
    let shares = shares[column..].iter().step_by(columns);
    shares.map(|bits| bits.cast_unsigned()).max().unwrap_or(0)
}

impl ExactProduct for Flex {
    fn largest(mut sums: IntTensor<Self>, x: FloatTensor<Self>, jobs: Vec<LargestJob>) -> IntTensor<Self> {
        let columns = x.layout().shape()[1];
        let x = floats(x);
        let words = sums.storage_mut::<i32>();
        for [first, rows, at] in jobs {
            let rows = &x[first * columns..(first + rows) * columns];
            for (index, row) in rows.chunks_exact(columns).enumerate() {
                let at = at + index % SHARES * columns;
                for (word, x) in words[at..].iter_mut().zip(row) {
                    *word = (*word).max(x.abs().to_bits().cast_signed());
                }
            }
        }
        sums
    }

    fn product(
        mut sums: IntTensor<Self>,
        left: FloatTensor<Self>,
        right: FloatTensor<Self>,
        jobs: Vec<ProductJob>,
        symmetric: bool,
    ) -> IntTensor<Self> {
        let (m, n) = (left.layout().shape()[1], right.layout().shape()[1]);
        let (left, right) = (floats(left), floats(right));
        let words = sums.storage_mut::<i32>();
        let part = if symmetric { Part::Lower } else { Part::Full };
        for [rows, left_first, right_first, left_largest, right_largest, at] in jobs {
            let a = View::new(&left[left_first * m..(left_first + rows) * m], rows, m);
            let b = View::new(&right[right_first * n..(right_first + rows) * n], rows, n);
            let mut product = vec![0.0; m * n];
            multiply(a.transposed(), b, 1.0, part, &mut product, n);
            let largest = |at: usize, columns: usize| -> Vec<u32> {
                let shares = &words[at..at + SHARES * columns];
                (0..columns)
                    .map(|column| largest_of(shares, columns, column))
                    .collect()
            };
            let (tallest, widest) = (largest(left_largest, m), largest(right_largest, n));
            let mut at = at;
            for (i, row) in product.chunks_exact(n).enumerate() {
                let columns = if symmetric { i + 1 } else { n };
                for (x, bits) in row[..columns].iter().zip(&widest) {
                    let sum = join(words[at], words[at + 1]);
                    [words[at], words[at + 1]] = cut(sum.wrapping_add(rounded(x / unit(tallest[i], *bits))));
                    at += 2;
                }
            }
        }
        sums
    }
}

/// The integer of two words.
pub(in crate::compute) fn join(low: i32, high: i32) -> i64 {
    i64::from(low.cast_unsigned()) | i64::from(high) << 32
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "the words of an integer, and the nearest integer of a float"
)]
mod narrowing {
    pub(super) fn cut(sum: i64) -> [i32; 2] {
        [sum as i32, (sum >> 32) as i32]
    }

    pub(super) fn rounded(x: f64) -> i64 {
        x.round() as i64
    }
}
use narrowing::{cut, rounded};

#[cfg(any(target_arch = "wasm32", feature = "gpu"))]
mod gpu {
    use burn::backend::tensor::{FloatTensor, IntTensor};
    use burn_cubecl::kernel::into_contiguous;
    use burn_wgpu::CubeBackend;
    use cubecl::prelude::*;

    use super::{ExactProduct, LargestJob, ProductJob, SHARES};
    use crate::compute::kernels::gpu::{scalar, table};

    /// Outputs a side of a workgroup's tile: 16 x 16 threads of 2 x 2 outputs.
    const TILE: usize = 32;
    /// Rows in shared memory at once. Ten slices of them are 10 KiB of the 16 that WebGPU promises.
    const DEPTH: usize = 8;
    /// Slices of a factor, and classes of their products by the sum of the slices' places.
    const SLICES: usize = 5;
    /// Loads between two additions to the integers: in 128 rows the class of slice products that is largest, two of up to
    /// 2^15 and three of up to 2^14, adds up to less than the 2^24 that f32 holds exactly.
    const LOADS: u32 = 16;
    /// Multiplications of slices in one dispatch, so that no dispatch lasts seconds on a small GPU.
    const MOST_PRODUCTS: u64 = 1 << 37;

    #[cube(launch_unchecked)]
    fn largest_kernel(x: &[f32], table: &[u32], sums: &mut [u32], columns: u32) {
        let mut shared = Shared::<[u32]>::new_slice(256usize);
        let job = CUBE_POS_Z * 3u32;
        let first = table[job as usize];
        let rows = table[(job + 1u32) as usize];
        let at = table[(job + 2u32) as usize];
        let column = CUBE_POS_X * 32u32 + UNIT_POS_X;
        let mut best = 0u32;
        if column < columns {
            let mut row = CUBE_POS_Y * 8u32 + UNIT_POS_Y;
            while row < rows {
                let bits = u32::reinterpret(x[((first + row) * columns + column) as usize]) & 0x7fff_ffffu32;
                best = select(bits > best, bits, best);
                row += CUBE_COUNT_Y * 8u32;
            }
        }
        let me = (UNIT_POS_Y * 32u32 + UNIT_POS_X) as usize;
        shared[me] = best;
        sync_cube();
        if UNIT_POS_Y == 0u32 && column < columns {
            #[unroll]
            for other in 1..8usize {
                let bits = shared[me + other * 32usize];
                best = select(bits > best, bits, best);
            }
            let to = (at + CUBE_POS_Y * columns + column) as usize;
            let bits = sums[to];
            sums[to] = select(bits > best, bits, best);
        }
    }

    /// The scale of a column, as [`super::scale`] defines it.
    #[cube]
    fn scale_of(sums: &mut [u32], at: u32, column: u32, columns: u32) -> f32 {
        let mut best = 0u32;
        if column < columns {
            for share in 0..comptime!(SHARES as u32) {
                let bits = sums[(at + share * columns + column) as usize];
                best = select(bits > best, bits, best);
            }
        }
        let exponent = best >> 23u32;
        let exponent = select(exponent < 7u32, 7u32, exponent);
        f32::reinterpret((261u32 - exponent) << 23u32)
    }

    /// Adds `sum * 2^shift` to a 64-bit integer.
    #[cube]
    fn add(low: &mut u32, high: &mut u32, sum: i32, #[comptime] shift: u32) {
        let more_low = u32::reinterpret(sum) << shift;
        let more_high = u32::reinterpret(sum >> comptime!(if shift == 0 { 31 } else { 32 - shift as i32 }));
        let total = *low + more_low;
        *high = *high + more_high + select(total < more_low, 1u32, 0u32);
        *low = total;
    }

    /// One tile of one job. Bounds of loops with barriers in them are scalars of the launch: WGSL demands that they are
    /// the same for a whole workgroup, and does not believe it of a table.
    #[cube(launch_unchecked)]
    #[expect(clippy::too_many_arguments, reason = "a kernel's buffers and scalars")]
    fn product_kernel(
        left: &[f32],
        right: &[f32],
        table: &[u32],
        sums: &mut [u32],
        m: u32,
        n: u32,
        from: u32,
        to: u32,
        symmetric: u32,
    ) {
        let top = CUBE_POS_Y * 32u32;
        let side = CUBE_POS_X * 32u32;
        if symmetric == 1u32 && side > top {
            terminate!();
        }
        let job = CUBE_POS_Z * 6u32;
        let rows = table[job as usize];
        let left_first = table[(job + 1u32) as usize];
        let right_first = table[(job + 2u32) as usize];
        let left_largest = table[(job + 3u32) as usize];
        let right_largest = table[(job + 4u32) as usize];
        let at = table[(job + 5u32) as usize];

        // Slice after slice of a factor's 8 x 32 numbers.
        let mut a = Shared::<[f32]>::new_slice(comptime!(SLICES * DEPTH * TILE));
        let mut b = Shared::<[f32]>::new_slice(comptime!(SLICES * DEPTH * TILE));
        let mut a_scales = Shared::<[f32]>::new_slice(comptime!(TILE));
        let mut b_scales = Shared::<[f32]>::new_slice(comptime!(TILE));
        let tx = UNIT_POS_X;
        let ty = UNIT_POS_Y;
        let me = ty * 16u32 + tx;
        if me < 32u32 {
            a_scales[me as usize] = scale_of(sums, left_largest, top + me, m);
            b_scales[me as usize] = scale_of(sums, right_largest, side + me, n);
        }
        sync_cube();

        let mut low = Array::<u32>::new(4usize);
        let mut high = Array::<u32>::new(4usize);
        #[unroll]
        for o in 0..4usize {
            low[o] = 0u32;
            high[o] = 0u32;
        }
        let loaded_row = me / 32u32;
        let loaded_column = me % 32u32;
        let mut row = from;
        while row < to {
            let mut classes = Array::<f32>::new(comptime!(4 * SLICES));
            #[unroll]
            for o in 0..comptime!(4 * SLICES) {
                classes[o] = 0.0f32;
            }
            for load in 0..LOADS {
                let start = row + load * comptime!(DEPTH as u32);
                if start < to {
                    let r = start + loaded_row;
                    let mut x = 0.0f32;
                    let mut y = 0.0f32;
                    if r < rows && r < to {
                        if top + loaded_column < m {
                            x = left[((left_first + r) * m + top + loaded_column) as usize]
                                * a_scales[loaded_column as usize];
                        }
                        if side + loaded_column < n {
                            y = right[((right_first + r) * n + side + loaded_column) as usize]
                                * b_scales[loaded_column as usize];
                        }
                    }
                    #[unroll]
                    for slice in 0..SLICES {
                        let to = me as usize + comptime!(slice * DEPTH * TILE);
                        let (p, q) = (x.round(), y.round());
                        a[to] = p;
                        b[to] = q;
                        x = (x - p) * 256.0f32;
                        y = (y - q) * 256.0f32;
                    }
                    sync_cube();
                    for k in 0..comptime!(DEPTH as u32) {
                        let ra = (k * 32u32 + ty) as usize;
                        let rb = (k * 32u32 + tx) as usize;
                        #[unroll]
                        for i in 0..2usize {
                            let from = ra + comptime!(i * 16);
                            let x0 = a[from];
                            let x1 = a[from + comptime!(DEPTH * TILE)];
                            let x2 = a[from + comptime!(2 * DEPTH * TILE)];
                            let x3 = a[from + comptime!(3 * DEPTH * TILE)];
                            let x4 = a[from + comptime!(4 * DEPTH * TILE)];
                            #[unroll]
                            for j in 0..2usize {
                                let from = rb + comptime!(j * 16);
                                let y0 = b[from];
                                let y1 = b[from + comptime!(DEPTH * TILE)];
                                let y2 = b[from + comptime!(2 * DEPTH * TILE)];
                                let y3 = b[from + comptime!(3 * DEPTH * TILE)];
                                let y4 = b[from + comptime!(4 * DEPTH * TILE)];
                                let o = comptime!((i * 2 + j) * SLICES);
                                classes[o] += x0 * y0;
                                classes[comptime!(o + 1)] += x0 * y1 + x1 * y0;
                                classes[comptime!(o + 2)] += x0 * y2 + x1 * y1 + x2 * y0;
                                classes[comptime!(o + 3)] += x0 * y3 + x1 * y2 + x2 * y1 + x3 * y0;
                                classes[comptime!(o + 4)] += x0 * y4 + x1 * y3 + x2 * y2 + x3 * y1 + x4 * y0;
                            }
                        }
                    }
                    sync_cube();
                }
            }
            #[unroll]
            for o in 0..4usize {
                #[unroll]
                for class in 0..4usize {
                    let shift = comptime!(24 - 8 * class as u32);
                    add(
                        &mut low[o],
                        &mut high[o],
                        i32::cast_from(classes[comptime!(o * SLICES + class)]),
                        shift,
                    );
                }
                // The last class lies below one of the integers: it is rounded.
                let last = (classes[comptime!(o * SLICES + 4)] * 0.003_906_25f32).round();
                add(&mut low[o], &mut high[o], i32::cast_from(last), 0u32);
            }
            row += comptime!(LOADS * DEPTH as u32);
        }

        #[unroll]
        for i in 0..2u32 {
            #[unroll]
            for j in 0..2u32 {
                let r = top + ty + i * 16u32;
                let c = side + tx + j * 16u32;
                if r < m && c < n && (symmetric == 0u32 || c <= r) {
                    let o = comptime!((i * 2 + j) as usize);
                    let index = select(symmetric == 1u32, r * (r + 1u32) / 2u32 + c, r * n + c);
                    let to = (at + index * 2u32) as usize;
                    let total = sums[to] + low[o];
                    sums[to + 1usize] += high[o] + select(total < low[o], 1u32, 0u32);
                    sums[to] = total;
                }
            }
        }
    }

    impl ExactProduct for CubeBackend {
        fn largest(sums: IntTensor<Self>, x: FloatTensor<Self>, jobs: Vec<LargestJob>) -> IntTensor<Self> {
            let x = into_contiguous(x);
            let columns = x.meta.shape()[1];
            // SAFETY: the kernel reads rows and columns below those of its table and of `x`.
            unsafe {
                largest_kernel::launch_unchecked(
                    &sums.client,
                    CubeCount::Static(scalar(columns.div_ceil(32)), scalar(SHARES), scalar(jobs.len())),
                    CubeDim::new_2d(32, 8),
                    x.into_buffer_arg(),
                    table(&jobs, &sums).into_buffer_arg(),
                    sums.clone().into_buffer_arg(),
                    scalar(columns),
                );
            }
            sums
        }

        fn product(
            sums: IntTensor<Self>,
            left: FloatTensor<Self>,
            right: FloatTensor<Self>,
            jobs: Vec<ProductJob>,
            symmetric: bool,
        ) -> IntTensor<Self> {
            let (left, right) = (into_contiguous(left), into_contiguous(right));
            let (m, n) = (left.meta.shape()[1], right.meta.shape()[1]);
            let table = table(&jobs, &sums);
            let rows = jobs.iter().map(|job| job[0]).max().unwrap_or(0);
            let flush = LOADS as usize * DEPTH;
            // In u64: the product of three sizes passes what wasm's usize holds.
            let a_row = [15, m, n, jobs.len()]
                .map(|count| count as u64)
                .iter()
                .product::<u64>();
            let most = MOST_PRODUCTS / a_row.max(1);
            let band = usize::try_from(most)
                .map_or(rows, |most| most / flush * flush)
                .max(flush);
            for from in (0..rows).step_by(band) {
                let (tall, wide) = (m.div_ceil(TILE), n.div_ceil(TILE));
                // SAFETY: the kernel compares its places with the rows of its table, `m` and `n`.
                unsafe {
                    product_kernel::launch_unchecked(
                        &sums.client,
                        CubeCount::Static(scalar(wide), scalar(tall), scalar(jobs.len())),
                        CubeDim::new_2d(16, 16),
                        left.clone().into_buffer_arg(),
                        right.clone().into_buffer_arg(),
                        table.clone().into_buffer_arg(),
                        sums.clone().into_buffer_arg(),
                        scalar(m),
                        scalar(n),
                        scalar(from),
                        scalar(rows.min(from + band)),
                        u32::from(symmetric),
                    );
                }
            }
            sums
        }
    }
}
