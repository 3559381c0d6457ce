//! Packed matrix multiplication on the CPU, for wasm SIMD and for native SIMD from the same source.
//!
//! burn's CPU device multiplies at about a quarter of what one core can do in wasm; this kernel is
//! the reason the CPU path is usable. The register tile is 4 rows by two SIMD vectors: eight
//! accumulators are what a wasm engine keeps in registers, a larger tile spills and halves the speed.
//! What is left then is the count of instructions: 16 of a step's compute, 6 load, and every further one (an
//! address, a counter, the engine's check of its stack in each turn of a loop) costs 4 % of the speed. So steps are
//! unrolled, addresses are constants ([`add_tile`]), and the module is compiled without the pass that would make
//! them additions again (`-disable-lsr` in `xtask/steps/rust.mjs`).

use std::ops::{Add, AddAssign, Mul, Range};

use wide::{f32x4, f64x2};

/// Rows of a register tile.
const TILE_ROWS: usize = 4;
/// Steps of a tile in one turn of its loop.
const STEPS: usize = 8;
/// Elements of the widest register tile, that of f32.
const WIDEST_TILE: usize = TILE_ROWS * 8;
/// Depth of a packed block: two f32 panels of it stay in the first-level cache.
const BLOCK_DEPTH: usize = 256;
/// Rows of a packed block of the left factor, which stays in the second-level cache.
const BLOCK_ROWS: usize = 128;
/// Columns of a [`Source`] that are made at once: they are still in a cache when they are packed.
const SOURCE_COLUMNS: usize = 64;
/// Columns of a [`Source`] that are packed at once for few rows, and are still in a cache when they are multiplied.
const BAND_COLUMNS: usize = 256;

/// An element type the kernel computes in: `f32` for forward passes, `f64` for Gram matrices and solves.
pub trait Scalar: Copy + Default + AddAssign + Mul<Output = Self> + 'static {
    /// The SIMD vector of this element.
    type Vector: Copy + Add<Output = Self::Vector> + Mul<Output = Self::Vector>;
    /// Elements of a vector.
    const LANES: usize;
    /// A vector with every lane equal to `self`.
    fn splat(self) -> Self::Vector;
    /// The first [`LANES`](Self::LANES) elements of `from`.
    fn load(from: &[Self]) -> Self::Vector;
    /// Writes the lanes of `vector` over the first elements of `to`.
    fn store(vector: Self::Vector, to: &mut [Self]);
}

impl Scalar for f32 {
    type Vector = f32x4;
    const LANES: usize = 4;
    #[inline(always)]
    fn splat(self) -> f32x4 {
        f32x4::splat(self)
    }
    #[inline(always)]
    fn load(from: &[Self]) -> f32x4 {
        f32x4::new([from[0], from[1], from[2], from[3]])
    }
    #[inline(always)]
    fn store(vector: f32x4, to: &mut [Self]) {
        to[..4].copy_from_slice(&vector.to_array());
    }
}

impl Scalar for f64 {
    type Vector = f64x2;
    const LANES: usize = 2;
    #[inline(always)]
    fn splat(self) -> f64x2 {
        f64x2::splat(self)
    }
    #[inline(always)]
    fn load(from: &[Self]) -> f64x2 {
        f64x2::new([from[0], from[1]])
    }
    #[inline(always)]
    fn store(vector: f64x2, to: &mut [Self]) {
        to[..2].copy_from_slice(&vector.to_array());
    }
}

/// A strided, read-only matrix.
#[derive(Clone, Copy)]
pub struct View<'a, T> {
    data: &'a [T],
    rows: usize,
    columns: usize,
    row_stride: usize,
    column_stride: usize,
}

impl<'a, T: Copy> View<'a, T> {
    /// A contiguous row-major matrix of `rows` x `columns`.
    ///
    /// # Panics
    /// If `data` holds fewer elements.
    pub fn new(data: &'a [T], rows: usize, columns: usize) -> Self {
        Self::strided(data, rows, columns, columns)
    }

    /// A row-major matrix whose rows begin `row_stride` elements apart.
    ///
    /// # Panics
    /// If the last row ends outside `data`.
    pub fn strided(data: &'a [T], rows: usize, columns: usize, row_stride: usize) -> Self {
        assert!(
            rows == 0 || columns == 0 || (rows - 1) * row_stride + columns <= data.len(),
            "view outside its data"
        );
        Self {
            data,
            rows,
            columns,
            row_stride,
            column_stride: 1,
        }
    }

    /// The same elements with rows and columns exchanged.
    pub fn transposed(self) -> Self {
        Self {
            rows: self.columns,
            columns: self.rows,
            row_stride: self.column_stride,
            column_stride: self.row_stride,
            ..self
        }
    }

    /// Some of the columns.
    ///
    /// # Panics
    /// If there are fewer.
    pub fn columns(self, range: Range<usize>) -> Self {
        assert!(range.end <= self.columns, "columns outside their view");
        Self {
            data: self
                .data
                .get(range.start * self.column_stride..)
                .unwrap_or_default(),
            columns: range.len(),
            ..self
        }
    }

    /// (rows, columns)
    pub const fn dimensions(&self) -> (usize, usize) {
        (self.rows, self.columns)
    }

    /// The elements, row by row.
    pub fn elements(self) -> impl Iterator<Item = T> + 'a
    where
        T: 'a,
    {
        (0..self.rows).flat_map(move |row| (0..self.columns).map(move |column| self.at(row, column)))
    }

    fn at(&self, row: usize, column: usize) -> T {
        self.data[row * self.row_stride + column * self.column_stride]
    }
}

/// The part of a square result that is computed.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// Every element.
    Full,
    /// Only tiles that touch the diagonal or lie below it (elements above it in such a tile too).
    Lower,
}

/// A right factor (depth x columns) laid out for the kernel, so that a weight is packed once and used often.
pub struct Packed<E> {
    depth: usize,
    columns: usize,
    blocks: Vec<Vec<E>>,
}

impl<E: Scalar> Packed<E> {
    /// Packs `right` (depth x columns).
    pub fn new<T: Copy + Into<E>>(right: View<'_, T>) -> Self {
        let blocks = (0..right.rows)
            .step_by(BLOCK_DEPTH)
            .map(|start| {
                let mut block = Vec::new();
                let depth = depth_of(right.rows, start);
                pack(&right, 2 * E::LANES, 0..right.columns, (start, depth), &mut block);
                block
            })
            .collect();
        Self {
            depth: right.rows,
            columns: right.columns,
            blocks,
        }
    }

    /// Elements summed over: the rows of the right factor.
    pub const fn depth(&self) -> usize {
        self.depth
    }

    /// Columns of the product.
    pub const fn columns(&self) -> usize {
        self.columns
    }
}

/// A right factor (depth x columns) whose numbers are made as they are packed.
pub trait Source {
    /// Elements summed over.
    fn depth(&self) -> usize;
    /// Columns of the product.
    fn columns(&self) -> usize;
    /// The elements of some rows and columns, made in `room`, whatever that held.
    fn part<'a>(&self, rows: Range<usize>, columns: Range<usize>, room: &'a mut Vec<f32>) -> View<'a, f32>;
}

impl Packed<f32> {
    /// Packs `right`.
    pub fn of(right: &impl Source) -> Self {
        let mut room = Vec::new();
        let blocks = (0..right.depth())
            .step_by(BLOCK_DEPTH)
            .map(|start| {
                let mut block = Vec::new();
                pack_source(right, start, 0..right.columns(), &mut room, &mut block);
                block
            })
            .collect();
        Self {
            depth: right.depth(),
            columns: right.columns(),
            blocks,
        }
    }
}

/// `out += left * right`, packing `right` on the way; `out` is contiguous (m x n). Bit for bit what
/// [`multiply_packed`] gives.
///
/// # Panics
/// If the shapes disagree.
pub fn multiply_source<L: Copy + Into<f32>>(left: View<'_, L>, right: &impl Source, out: &mut [f32]) {
    let (depth, columns) = (right.depth(), right.columns());
    assert_eq!(left.columns, depth, "inner dimensions differ");
    // The left factor is packed once for every band: little where its rows are few, and else there is one band.
    let band = if left.rows <= BLOCK_ROWS {
        BAND_COLUMNS
    } else {
        columns.max(1)
    };
    let (mut room, mut block, mut rows) = (Vec::new(), Vec::new(), Vec::new());
    for start in (0..depth).step_by(BLOCK_DEPTH) {
        for first in (0..columns).step_by(band) {
            let some = first..columns.min(first + band);
            pack_source(right, start, some.clone(), &mut room, &mut block);
            multiply_block(
                &left,
                start,
                depth_of(depth, start),
                &block,
                some.len(),
                1.0,
                Part::Full,
                &mut out[first..],
                columns,
                &mut rows,
            );
        }
    }
}

/// Lays columns `range` of the block of rows that begins at `start` out as [`pack`] does.
fn pack_source(
    right: &impl Source,
    start: usize,
    range: Range<usize>,
    room: &mut Vec<f32>,
    packed: &mut Vec<f32>,
) {
    let depth = depth_of(right.depth(), start);
    packed.clear();
    for first in range.clone().step_by(SOURCE_COLUMNS) {
        let columns = first..range.end.min(first + SOURCE_COLUMNS);
        let part = right.part(start..start + depth, columns, room);
        pack_behind(&part, 2 * f32::LANES, 0..part.columns, (0, depth), packed);
    }
}

/// `out += scale * left * right`, with `left` (m x k), `right` (k x n) and `out` row-major with rows
/// `stride` apart.
///
/// # Panics
/// If the shapes disagree.
pub fn multiply<E: Scalar, L: Copy + Into<E>, R: Copy + Into<E>>(
    left: View<'_, L>,
    right: View<'_, R>,
    scale: E,
    part: Part,
    out: &mut [E],
    stride: usize,
) {
    assert_eq!(left.columns, right.rows, "inner dimensions differ");
    let mut block = Vec::new();
    let mut rows = Vec::new();
    for start in (0..right.rows).step_by(BLOCK_DEPTH) {
        let depth = depth_of(right.rows, start);
        pack(&right, 2 * E::LANES, 0..right.columns, (start, depth), &mut block);
        multiply_block(
            &left,
            start,
            depth,
            &block,
            right.columns,
            scale,
            part,
            out,
            stride,
            &mut rows,
        );
    }
}

/// Some columns of a lower triangle.
pub struct LowerPanel<'a, E> {
    /// Which; the first is a multiple of [`PANEL_COLUMNS`].
    pub columns: Range<usize>,
    /// They from the row of their first entry on the diagonal down, row-major and as wide as they are many.
    pub rows: &'a mut [E],
}

/// What the first column of a [`LowerPanel`] is a multiple of.
pub const PANEL_COLUMNS: usize = BLOCK_ROWS;

/// `out += scale * left * right` of a square result (n x n), of which only some columns are wanted, each from about the
/// diagonal down: elements above it in tiles that touch it are computed too. An element is summed in one order, whichever
/// panels are given.
///
/// # Panics
/// If the shapes disagree.
pub fn multiply_lower<E: Scalar, L: Copy + Into<E>, R: Copy + Into<E>>(
    left: View<'_, L>,
    right: View<'_, R>,
    scale: E,
    panels: &mut [LowerPanel<'_, E>],
) {
    assert_eq!(left.columns, right.rows, "inner dimensions differ");
    assert_eq!(left.rows, right.columns, "the result is square");
    let Some(top) = panels.iter().map(|panel| panel.columns.start).min() else {
        return;
    };
    assert!(
        panels
            .iter()
            .all(|panel| panel.columns.start.is_multiple_of(PANEL_COLUMNS)),
        "panels begin where a block of rows does"
    );
    let mut blocks = vec![Vec::new(); panels.len()];
    let mut packed = Vec::new();
    for start in (0..right.rows).step_by(BLOCK_DEPTH) {
        let depth = depth_of(right.rows, start);
        for (panel, block) in panels.iter().zip(&mut blocks) {
            pack(&right, 2 * E::LANES, panel.columns.clone(), (start, depth), block);
        }
        for first in (top..left.rows).step_by(BLOCK_ROWS) {
            let rows = first..left.rows.min(first + BLOCK_ROWS);
            pack(
                &left.transposed(),
                TILE_ROWS,
                rows.clone(),
                (start, depth),
                &mut packed,
            );
            for (panel, block) in panels.iter_mut().zip(&blocks) {
                let (top, columns) = (panel.columns.start, panel.columns.len());
                if top > first {
                    continue;
                }
                let tiles = Tiles {
                    rows: first - top..rows.end - top,
                    columns,
                    depth,
                };
                let out = &mut panel.rows[(first - top) * columns..];
                add_tiles(&packed, block, scale, Part::Lower, &tiles, out, columns);
            }
        }
    }
}

/// The product of two matrices, row-major.
pub fn product<E: Scalar + From<f32>, L: Copy + Into<E>, R: Copy + Into<E>>(
    left: View<'_, L>,
    right: View<'_, R>,
) -> Vec<E> {
    let (rows, columns) = (left.rows, right.columns);
    let mut out = vec![E::default(); rows * columns];
    multiply(left, right, E::from(1.0), Part::Full, &mut out, columns);
    out
}

/// `out += left * right` with a right factor packed beforehand; `out` is contiguous (m x n).
///
/// # Panics
/// If the shapes disagree.
pub fn multiply_packed<E: Scalar, L: Copy + Into<E>>(
    left: View<'_, L>,
    right: &Packed<E>,
    scale: E,
    out: &mut [E],
) {
    assert_eq!(left.columns, right.depth, "inner dimensions differ");
    let mut rows = Vec::new();
    for (index, block) in right.blocks.iter().enumerate() {
        let start = index * BLOCK_DEPTH;
        let depth = depth_of(right.depth, start);
        multiply_block(
            &left,
            start,
            depth,
            block,
            right.columns,
            scale,
            Part::Full,
            out,
            right.columns,
            &mut rows,
        );
    }
}

fn depth_of(total: usize, start: usize) -> usize {
    BLOCK_DEPTH.min(total - start)
}

/// Lays columns `range` of rows `start..start + depth` out in zero-padded panels `width` wide, row by row.
#[inline(always)]
fn pack<E: Scalar, T: Copy + Into<E>>(
    matrix: &View<'_, T>,
    width: usize,
    range: Range<usize>,
    rows: (usize, usize),
    packed: &mut Vec<E>,
) {
    packed.clear();
    pack_behind(matrix, width, range, rows, packed);
}

/// The same behind what `packed` holds.
///
/// Its loops run over slices: with a bounds check an element the packing costs more than the product. Inlined,
/// so that they know the width.
#[inline(always)]
fn pack_behind<E: Scalar, T: Copy + Into<E>>(
    matrix: &View<'_, T>,
    width: usize,
    range: Range<usize>,
    (start, depth): (usize, usize),
    packed: &mut Vec<E>,
) {
    let before = packed.len();
    packed.resize(before + range.len().div_ceil(width) * width * depth, E::default());
    for (panel, target) in packed[before..].chunks_exact_mut(width * depth).enumerate() {
        let first = range.start + panel * width;
        let columns = width.min(range.end - first);
        if matrix.column_stride == 1 {
            for (row, target) in target.chunks_exact_mut(width).enumerate() {
                let from = (start + row) * matrix.row_stride + first;
                for (to, &value) in target.iter_mut().zip(&matrix.data[from..from + columns]) {
                    *to = value.into();
                }
            }
        } else {
            // A view is contiguous one way or the other.
            debug_assert_eq!(matrix.row_stride, 1);
            let source = |column: usize| {
                let from = (first + column) * matrix.column_stride + start;
                &matrix.data[from..from + depth]
            };
            // Four columns at a time, so that what is written lies together.
            let quads = columns / 4 * 4;
            for column in (0..quads).step_by(4) {
                let [a, b, c, d] = [0, 1, 2, 3].map(|next| source(column + next).iter());
                let rows = target.chunks_exact_mut(width);
                for ((((to, &a), &b), &c), &d) in rows.zip(a).zip(b).zip(c).zip(d) {
                    to[column..column + 4].copy_from_slice(&[a.into(), b.into(), c.into(), d.into()]);
                }
            }
            for column in quads..columns {
                for (to, &value) in target[column..].iter_mut().step_by(width).zip(source(column)) {
                    *to = value.into();
                }
            }
        }
    }
}

#[expect(
    clippy::too_many_arguments,
    reason = "one inner step of two drivers; a struct would only rename these"
)]
fn multiply_block<E: Scalar, L: Copy + Into<E>>(
    left: &View<'_, L>,
    start: usize,
    depth: usize,
    block: &[E],
    columns: usize,
    scale: E,
    part: Part,
    out: &mut [E],
    stride: usize,
    packed: &mut Vec<E>,
) {
    for first in (0..left.rows).step_by(BLOCK_ROWS) {
        let count = BLOCK_ROWS.min(left.rows - first);
        pack(
            &left.transposed(),
            TILE_ROWS,
            first..first + count,
            (start, depth),
            packed,
        );
        let tiles = Tiles {
            rows: first..first + count,
            columns,
            depth,
        };
        add_tiles(
            packed,
            block,
            scale,
            part,
            &tiles,
            &mut out[first * stride..],
            stride,
        );
    }
}

/// Where a packed block of rows meets packed columns.
struct Tiles {
    /// The rows' places, of which [`Part::Lower`] asks.
    rows: Range<usize>,
    /// How many columns there are.
    columns: usize,
    /// Elements summed over.
    depth: usize,
}

/// `out += scale * rows * columns` of packed factors; `out` begins with the first of the rows.
fn add_tiles<E: Scalar>(
    rows: &[E],
    columns: &[E],
    scale: E,
    part: Part,
    tiles: &Tiles,
    out: &mut [E],
    stride: usize,
) {
    let width = 2 * E::LANES;
    for (panel, right) in columns.chunks_exact(width * tiles.depth).enumerate() {
        let column = panel * width;
        let valid = width.min(tiles.columns - column);
        for (tile, left) in rows.chunks_exact(TILE_ROWS * tiles.depth).enumerate() {
            let row = tile * TILE_ROWS;
            if part == Part::Lower && column > tiles.rows.start + row + TILE_ROWS - 1 {
                continue;
            }
            let rows = TILE_ROWS.min(tiles.rows.len() - row);
            let at = row * stride + column;
            if rows == TILE_ROWS && valid == width {
                add_tile(left, right, scale, &mut out[at..], stride);
                continue;
            }
            let mut whole = [E::default(); WIDEST_TILE];
            add_tile(left, right, scale, &mut whole, width);
            for (r, sums) in whole.chunks_exact(width).enumerate().take(rows) {
                let to = &mut out[at + r * stride..][..valid];
                to.iter_mut().zip(sums).for_each(|(to, &sum)| *to += sum);
            }
        }
    }
}

/// `out += scale * left * right` for one register tile: 4 rows, `stride` apart, by two vectors.
///
/// A function of its own: amid the driver's loops the accumulators and addresses would share the registers with what
/// those loops hold. Every step has its exit, and that keeps the steps apart, for compilers as for engines: mixed,
/// they need more registers than there are and run at half the speed.
#[inline(never)]
fn add_tile<E: Scalar>(left: &[E], right: &[E], scale: E, out: &mut [E], stride: usize) {
    let width = 2 * E::LANES;
    let mut sums = [[E::default().splat(); 2]; TILE_ROWS];
    let (mut left_steps, mut right_steps) = (left.as_ptr(), right.as_ptr());
    let mut remaining = (left.len() / TILE_ROWS).min(right.len() / width);
    /// Steps of one turn, the numbers given: a loop over them would stay a loop.
    macro_rules! turn {
        ($($step:literal)+) => {$(
            // SAFETY: from here both panels hold `remaining` more steps, of TILE_ROWS and `width` elements, and this
            // loop is left behind the last one. Bounds checks, or iterators with their counters instead of these
            // pointers, cost a tenth of the speed.
            let (left, right) = unsafe {
                (
                    &*left_steps.add($step * TILE_ROWS).cast::<[E; TILE_ROWS]>(),
                    std::slice::from_raw_parts(right_steps.add($step * width), width),
                )
            };
            add_step(&mut sums, left, right);
            if remaining == $step + 1 {
                break;
            }
        )+};
    }
    while remaining > 0 {
        turn!(0 1 2 3 4 5 6 7);
        remaining -= STEPS;
        left_steps = left_steps.wrapping_add(STEPS * TILE_ROWS);
        right_steps = right_steps.wrapping_add(STEPS * width);
    }
    let scale = scale.splat();
    for (row, sums) in sums.into_iter().enumerate() {
        let (low, high) = out[row * stride..][..width].split_at_mut(E::LANES);
        E::store(E::load(low) + scale * sums[0], low);
        E::store(E::load(high) + scale * sums[1], high);
    }
}

/// One step of a tile: the outer product of 4 and two vectors of elements.
#[inline(always)]
fn add_step<E: Scalar>(sums: &mut [[E::Vector; 2]; TILE_ROWS], left: &[E; TILE_ROWS], right: &[E]) {
    let (low, high) = (E::load(right), E::load(&right[E::LANES..]));
    for (sum, &value) in sums.iter_mut().zip(left) {
        let value = value.splat();
        sum[0] = sum[0] + value * low;
        sum[1] = sum[1] + value * high;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(count: usize, seed: u32) -> Vec<f32> {
        let mut state = seed;
        (0..count)
            .map(|_| {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                (state >> 8) as f32 / (1 << 23) as f32 - 1.0
            })
            .collect()
    }

    fn naive(a: View<'_, f32>, b: View<'_, f32>) -> Vec<f64> {
        let mut out = vec![0.0; a.rows * b.columns];
        for i in 0..a.rows {
            for j in 0..b.columns {
                out[i * b.columns + j] = (0..a.columns)
                    .map(|k| f64::from(a.at(i, k)) * f64::from(b.at(k, j)))
                    .sum();
            }
        }
        out
    }

    #[test]
    fn products_of_every_layout_equal_the_definition() {
        for (m, k, n) in [
            (1, 1, 1),
            (3, 5, 2),
            (4, 8, 8),
            (17, 300, 9),
            (130, 257, 33),
            (5, 600, 64),
        ] {
            let a = sample(m * k, 1);
            let b = sample(k * n, 2);
            let plain = (View::new(&a, m, k), View::new(&b, k, n));
            let transposed = (View::new(&a, k, m).transposed(), View::new(&b, n, k).transposed());
            for (left, right) in [
                plain,
                transposed,
                (plain.0, transposed.1),
                (transposed.0, plain.1),
            ] {
                let expected = naive(left, right);
                let mut single = vec![0.0f32; m * n];
                multiply(left, right, 1.0, Part::Full, &mut single, n);
                let mut double = vec![0.0f64; m * n];
                multiply(left, right, 1.0, Part::Full, &mut double, n);
                let mut packed = vec![0.0f32; m * n];
                multiply_packed(left, &Packed::new(right), 1.0, &mut packed);
                assert_eq!(single, packed);
                for ((s, d), e) in single.iter().zip(&double).zip(&expected) {
                    // f32 sums of k products of magnitude below one: k/2 roundings of relative size 6e-8.
                    assert!((f64::from(*s) - e).abs() < 1e-7 * k as f64 + 1e-6, "{s} {e}");
                    assert!((d - e).abs() < 1e-12 * k as f64, "{d} {e}");
                }
            }
        }
    }

    #[test]
    fn tiles_end_at_every_edge() {
        // One row, column and step more than each tile, turn and block, and one fewer; rows of the result lie apart, and
        // what is between them stays as it was.
        let (a, b) = (sample(9 * 257, 4), sample(257 * 17, 5));
        for (m, n) in (1..=9).flat_map(|m| (1..=17).map(move |n| (m, n))) {
            for k in (1..=17).chain([255, 256, 257]) {
                let (left, right) = (View::new(&a, m, k), View::new(&b, k, n));
                let expected = naive(left, right);
                let stride = n + 3;
                let mut single = vec![1.0f32; m * stride];
                multiply(left, right, -2.0, Part::Full, &mut single, stride);
                let mut double = vec![1.0f64; m * stride];
                multiply(left, right, -2.0, Part::Full, &mut double, stride);
                for (at, (s, d)) in single.iter().zip(&double).enumerate() {
                    let (i, j) = (at / stride, at % stride);
                    let wanted = if j < n {
                        1.0 - 2.0 * expected[i * n + j]
                    } else {
                        1.0
                    };
                    // As above, twice the sum.
                    assert!(
                        (f64::from(*s) - wanted).abs() < 2e-7 * k as f64 + 2e-6,
                        "{m} {k} {n}: {s} {wanted}"
                    );
                    assert!((d - wanted).abs() < 2e-12 * k as f64, "{m} {k} {n}: {d} {wanted}");
                }
            }
        }
    }

    #[test]
    fn the_lower_part_of_a_gram_matrix_is_complete() {
        let (rows, d) = (300, 37);
        let x = sample(rows * d, 3);
        let x = View::new(&x, rows, d);
        let mut lower = vec![0.0f64; d * d];
        multiply(x.transposed(), x, 1.0, Part::Lower, &mut lower, d);
        let expected = naive(x.transposed(), x);
        for i in 0..d {
            for j in 0..=i {
                assert!((lower[i * d + j] - expected[i * d + j]).abs() < 1e-10);
            }
        }
    }

    #[test]
    fn panels_of_a_lower_triangle_are_those_of_the_whole_product_to_the_bit() {
        let (rows, d) = (300, 400);
        let x = sample(rows * d, 6);
        let x = View::new(&x, rows, d);
        let mut whole = vec![0.5f64; d * d];
        multiply(x.transposed(), x, -2.0, Part::Full, &mut whole, d);
        // All columns, and the last alone: what others are computed changes nothing.
        for starts in [vec![0, 128, 256, 384], vec![384]] {
            let ends = |start: usize| d.min(start + 128);
            let mut data: Vec<Vec<f64>> = starts
                .iter()
                .map(|&start| vec![0.5; (d - start) * (ends(start) - start)])
                .collect();
            let mut panels: Vec<_> = starts
                .iter()
                .zip(&mut data)
                .map(|(&start, rows)| LowerPanel {
                    columns: start..ends(start),
                    rows,
                })
                .collect();
            multiply_lower(x.transposed(), x, -2.0, &mut panels);
            for (start, rows) in starts.into_iter().zip(data) {
                let width = ends(start) - start;
                for (i, row) in rows.chunks_exact(width).enumerate() {
                    let i = start + i;
                    for j in start..=i.min(start + width - 1) {
                        assert_eq!(row[j - start], whole[i * d + j], "{i} {j}");
                    }
                }
            }
        }
    }
}
