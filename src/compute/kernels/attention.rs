//! Attention over packed rows: softmax(cap(Q K^T scale) + bias) V of every sample and head, over the keys in sight.
//!
//! Scores are never all there at once: keys come in chunks, and the sums so far are scaled whenever a larger score
//! appears (M. Milakov, N. Gimelshein, arXiv 1805.02867).

use burn::backend::{Backend, Flex, backend_extension, tensor::FloatTensor};

use crate::compute::{
    attention::{Attention, KeyRows, Sequence, Span, on_host},
    kernels::{floats, matrix},
};

/// The operator.
#[backend_extension(Cube: cfg(any(target_arch = "wasm32", feature = "gpu")), Flex)]
pub(in crate::compute) trait PackedAttention: Backend {
    /// The attended rows of `value`, a row of every query: `queries` says which rows of `query` belong to a sample, and
    /// `keys`, in the same order, which rows of `key` and `value` they see. Rows of no sample are not written.
    fn attend(
        query: FloatTensor<Self>,
        key: FloatTensor<Self>,
        value: FloatTensor<Self>,
        queries: Vec<Sequence>,
        keys: Vec<KeyRows>,
        how: Attention,
    ) -> FloatTensor<Self>;
}

impl PackedAttention for Flex {
    fn attend(
        query: FloatTensor<Self>,
        key: FloatTensor<Self>,
        value: FloatTensor<Self>,
        queries: Vec<Sequence>,
        keys: Vec<KeyRows>,
        how: Attention,
    ) -> FloatTensor<Self> {
        let [rows, columns] = [query.layout().shape()[0], query.layout().shape()[1]];
        let (query, key, value) = (floats(query), floats(key), floats(value));
        let width = how.key_columns();
        let gather = |data: &[f32], rows: &[usize]| -> Vec<f32> {
            let rows = rows.iter().flat_map(|row| &data[row * width..(row + 1) * width]);
            rows.copied().collect()
        };
        let gathered: Vec<_> = keys
            .iter()
            .map(|keys| (gather(&key, &keys.rows), gather(&value, &keys.rows)))
            .collect();
        let spans: Vec<Span<'_>> = queries
            .iter()
            .zip(keys.iter().zip(&gathered))
            .map(|(from, (keys, (key, value)))| Span {
                queries: from.start..from.start + from.length,
                first: keys.first,
                keys: key,
                values: value,
            })
            .collect();
        matrix(on_host(&query, &spans, &how), rows, columns)
    }
}

#[cfg(any(target_arch = "wasm32", feature = "gpu"))]
mod gpu {
    use burn::{
        backend::{ops::FloatTensorOps, tensor::FloatTensor},
        tensor::TensorData,
    };
    use burn_cubecl::kernel::into_contiguous;
    use burn_wgpu::CubeBackend;
    use cubecl::prelude::*;

    use super::{Attention, KeyRows, PackedAttention, Sequence};
    use crate::compute::kernels::gpu::{empty, scalar, table};

    /// Queries of a workgroup; each has a row of threads.
    const QUERIES: usize = 8;
    /// Threads of a query, keys at once, and numbers of a head at once.
    const WIDTH: usize = 32;
    /// Numbers of a row of the table of tiles: the first query's row, how many queries, the first's position among the
    /// keys, where the keys' rows are in the list of them, how many keys.
    const FIELDS: usize = 5;

    /// One tile of queries of one head a workgroup. `seen_back` and `seen_ahead` are how far a query sees; `list` has the
    /// tiles, then the keys' rows; `biases` a row a head of `bias_width` numbers, by key - query + `bias_reach`.
    #[cube(launch_unchecked)]
    #[expect(clippy::too_many_arguments, reason = "a kernel's buffers and scalars")]
    fn attention_kernel(
        query: &[f32],
        key: &[f32],
        value: &[f32],
        list: &[u32],
        biases: &[f32],
        out: &mut [f32],
        heads: u32,
        group: u32,
        size: u32,
        scale: f32,
        cap: f32,
        seen_back: u32,
        seen_ahead: u32,
        bias_width: u32,
        bias_reach: u32,
        longest: u32,
        #[comptime] parts: usize,
    ) {
        let tx = UNIT_POS_X;
        let ty = UNIT_POS_Y;
        let head = CUBE_POS_Y;
        let tile = CUBE_POS_X * comptime!(FIELDS as u32);
        let first_row = list[tile as usize];
        let count = list[(tile + 1u32) as usize];
        let position = list[(tile + 2u32) as usize] + ty;
        let keys_at = list[(tile + 3u32) as usize];
        let attended = list[(tile + 4u32) as usize];
        let columns = heads * size;
        let key_columns = heads / group * size;
        let key_head = head / group * size;

        let mut q_tile = Shared::<[f32]>::new_slice(comptime!(QUERIES * WIDTH));
        let mut k_tile = Shared::<[f32]>::new_slice(comptime!(WIDTH * (WIDTH + 1)));
        let mut weights = Shared::<[f32]>::new_slice(comptime!(QUERIES * WIDTH));

        // The keys in sight; where there are none, as at padding, all weigh alike.
        let end = select(
            seen_ahead >= attended,
            attended,
            min(position + seen_ahead + 1u32, attended),
        );
        let begin = min(select(position > seen_back, position - seen_back, 0u32), end);
        let blind = begin == end;
        let begin = select(blind, 0u32, begin);
        let end = select(blind, attended, end);

        let mut sums = Array::<f32>::new(comptime!(parts));
        #[unroll]
        for part in 0..parts {
            sums[part] = 0.0f32;
        }
        let mut largest = f32::new(-1e30);
        let mut total = 0.0f32;
        let me = ty * 32u32 + tx;
        let mut start = 0u32;
        while start < longest {
            let mut score = 0.0f32;
            #[unroll]
            for part in 0..parts {
                let offset = comptime!((part * WIDTH) as u32);
                let column = offset + tx;
                let mut x = 0.0f32;
                if ty < count && column < size {
                    x = query[((first_row + ty) * columns + head * size + column) as usize];
                }
                q_tile[me as usize] = x;
                #[unroll]
                for step in 0..4u32 {
                    let slot = ty + step * 8u32;
                    let mut y = 0.0f32;
                    if start + slot < attended && column < size {
                        let row = list[(keys_at + start + slot) as usize];
                        y = key[(row * key_columns + key_head + column) as usize];
                    }
                    k_tile[(slot * 33u32 + tx) as usize] = y;
                }
                sync_cube();
                for k in 0..32u32 {
                    score += q_tile[(ty * 32u32 + k) as usize] * k_tile[(tx * 33u32 + k) as usize];
                }
                sync_cube();
            }
            score *= scale;
            if cap > 0.0f32 {
                // tanh is one to the last bit beyond, and some drivers' overflows.
                score = cap * min(max(score / cap, f32::new(-20.0)), 20.0f32).tanh();
            }
            let at = start + tx;
            if bias_width > 0u32 && at < attended && ty < count {
                score += biases[(head * bias_width + at + bias_reach - position) as usize];
            }
            let sees = at >= begin && at < end;
            score = select(blind, 0.0f32, score);
            weights[me as usize] = select(sees, score, f32::new(-1e30));
            sync_cube();
            let before = largest;
            for k in 0..32u32 {
                largest = max(largest, weights[(ty * 32u32 + k) as usize]);
            }
            sync_cube();
            // What is e^-80 of the largest is nothing to any sum in f32.
            let weight = max(score - largest, f32::new(-80.0)).exp();
            weights[me as usize] = select(sees, weight, 0.0f32);
            sync_cube();
            let shrink = max(before - largest, f32::new(-80.0)).exp();
            total *= shrink;
            #[unroll]
            for part in 0..parts {
                sums[part] *= shrink;
            }
            if ty < count {
                for k in 0..32u32 {
                    let weight = weights[(ty * 32u32 + k) as usize];
                    total += weight;
                    if start + k < attended {
                        let row = list[(keys_at + start + k) as usize];
                        #[unroll]
                        for part in 0..parts {
                            let column = comptime!((part * WIDTH) as u32) + tx;
                            if column < size {
                                sums[part] +=
                                    weight * value[(row * key_columns + key_head + column) as usize];
                            }
                        }
                    }
                }
            }
            sync_cube();
            start += 32u32;
        }
        if ty < count {
            #[unroll]
            for part in 0..parts {
                let column = comptime!((part * WIDTH) as u32) + tx;
                if column < size {
                    let mut result = 0.0f32;
                    if attended > 0u32 {
                        result = sums[part] / total;
                    }
                    out[((first_row + ty) * columns + head * size + column) as usize] = result;
                }
            }
        }
    }

    impl PackedAttention for CubeBackend {
        fn attend(
            query: FloatTensor<Self>,
            key: FloatTensor<Self>,
            value: FloatTensor<Self>,
            queries: Vec<Sequence>,
            keys: Vec<KeyRows>,
            how: Attention,
        ) -> FloatTensor<Self> {
            let [query, key, value] = [query, key, value].map(into_contiguous);
            let (rows, columns) = (query.meta.shape()[0], query.meta.shape()[1]);
            let out = empty(&query, rows, columns);
            let tiles: usize = queries.iter().map(|s| s.length.div_ceil(QUERIES)).sum();
            let mut keys_at = tiles * FIELDS;
            let mut list: Vec<[usize; 1]> = Vec::new();
            for (from, keys) in queries.iter().zip(&keys) {
                for offset in (0..from.length).step_by(QUERIES) {
                    let count = QUERIES.min(from.length - offset);
                    let fields = [
                        from.start + offset,
                        count,
                        keys.first + offset,
                        keys_at,
                        keys.rows.len(),
                    ];
                    list.extend(fields.map(|field| [field]));
                }
                keys_at += keys.rows.len();
            }
            list.extend(keys.iter().flat_map(|keys| &keys.rows).map(|&row| [row]));
            let most = |count: fn(&KeyRows) -> usize| keys.iter().map(count).max().unwrap_or(0);
            let longest = most(|keys| keys.rows.len());
            let ends = queries
                .iter()
                .zip(&keys)
                .map(|(from, keys)| keys.first + from.length);
            let queries_end = ends.max().unwrap_or(0);
            let biases = how.biases(queries_end, longest);
            let bias_width = biases.first().map_or(0, Vec::len);
            let biases = if biases.is_empty() {
                // A buffer must be bound, if only to be left alone.
                query.clone()
            } else {
                let length = bias_width * biases.len();
                Self::float_from_data(TensorData::new(biases.concat(), [length]), &out.device)
            };
            let list = table(&list, &out);
            let size = how.head_size;
            // No two positions are further apart than all keys and queries.
            let far = |tokens: usize| scalar(tokens.min(queries_end + longest));
            // SAFETY: tiles and keys' rows are those of the tensors, and columns are compared with the size of a head.
            unsafe {
                attention_kernel::launch_unchecked(
                    &out.client,
                    CubeCount::Static(scalar(tiles), scalar(how.heads), 1),
                    CubeDim::new_2d(scalar(WIDTH), scalar(QUERIES)),
                    query.into_buffer_arg(),
                    key.into_buffer_arg(),
                    value.into_buffer_arg(),
                    list.into_buffer_arg(),
                    biases.into_buffer_arg(),
                    out.clone().into_buffer_arg(),
                    scalar(how.heads),
                    scalar(how.heads / how.key_heads),
                    scalar(size),
                    how.scale,
                    how.soft_cap.unwrap_or(0.0),
                    far(how.sight.back),
                    far(how.sight.ahead),
                    scalar(bias_width),
                    scalar(queries_end.max(1) - 1),
                    scalar(longest),
                    size.div_ceil(WIDTH),
                );
            }
            out
        }
    }
}
