//! Every kernel against the CPU's code, on the GPU that the machine's Vulkan driver offers, a software one in most places.

use std::rc::Rc;

use burn::tensor::{Device, Tensor};

use super::test_devices;
use crate::compute::{
    Activation, Attention, Compute, DistanceBias, Features, LayerNorm, RmsNorm, Rotary, Sequence, Sight,
    Weight,
};

fn computes() -> [Compute; 2] {
    let gpu = test_devices().remove(1);
    assert_ne!(gpu, Device::flex());
    [Compute::cpu(), Compute::tensors(gpu, "webgpu")]
}

/// Numbers of [-1, 1) that repeat after 1009.
fn numbers(count: usize, seed: usize) -> Vec<f32> {
    (0..count)
        .map(|i| ((i * 613 + seed * 97) % 1009) as f32 / 504.5 - 1.0)
        .collect()
}

/// Holds what the GPU makes of something against what the CPU does, relative to the largest number.
fn same(what: &str, tolerance: f32, make: impl Fn(&Compute) -> Tensor<2>) {
    let [expected, found] = computes().map(|compute| {
        let made = make(&compute);
        let dims = made.dims();
        (dims, pollster::block_on(compute.read(made)).unwrap())
    });
    assert_eq!(expected.0, found.0, "{what}");
    let largest = expected.1.iter().fold(0.0_f32, |most, x| most.max(x.abs()));
    for (at, (expected, found)) in expected.1.iter().zip(&found.1).enumerate() {
        assert!(
            (expected - found).abs() <= tolerance * largest,
            "{what}: {found} at {at} is not {expected}"
        );
    }
}

// f32 rounds to 6e-8; sums of some hundred terms in another order, a square root and a division lose a few bits.
const ROUNDING: f32 = 1e-6;

#[test]
fn what_is_compiled_beforehand_leaves_results_as_they_are() {
    same("behind a compilation", ROUNDING, |compute| {
        compute.compile(24, true);
        let x = compute.features(compute.tensor(numbers(40 * 24, 1), 40, 24));
        let weight = compute.weight(&numbers(30 * 24, 2), 30, 24);
        compute.tensor_of(x.project(x.all(), &weight))
    });
}

#[test]
fn norms_are_the_cpus() {
    for (rows, columns) in [(1, 3), (5, 64), (70, 300)] {
        same("layer norm", ROUNDING, |compute| {
            let norm = LayerNorm {
                gamma: numbers(columns, 1),
                beta: numbers(columns, 2),
                epsilon: 1e-5,
            };
            compute.layer_norm(compute.tensor(numbers(rows * columns, 3), rows, columns), &norm)
        });
    }
    // Of whole rows, and of each of three heads.
    for (columns, width) in [(96, 96), (96, 32), (5, 5)] {
        same("rms norm", ROUNDING, |compute| {
            let weight = numbers(width, 1);
            let norm = RmsNorm {
                weight,
                epsilon: 1e-6,
            };
            compute.rms_norm(compute.tensor(numbers(40 * columns, 3), 40, columns), &norm)
        });
    }
}

#[test]
fn what_is_normalised_is_left_as_it_was() {
    for compute in computes() {
        let x = compute.tensor(numbers(60, 1), 6, 10);
        let norm = RmsNorm {
            weight: vec![1.0; 10],
            epsilon: 1e-6,
        };
        let rotary = Rotary::new(vec![1.0, 0.1], 1.0);
        compute.rms_norm(x.clone(), &norm);
        compute.rotary(x.clone(), 10, &[1, 2, 3, 4, 5, 6], &rotary);
        compute.activation(Activation::Silu, x.clone());
        assert_eq!(pollster::block_on(compute.read(x)).unwrap(), numbers(60, 1));
    }
}

#[test]
fn activations_are_the_cpus() {
    let kinds = [
        Activation::Gelu,
        Activation::GeluTanh,
        Activation::QuickGelu,
        Activation::Relu,
        Activation::Silu,
        Activation::Tanh,
    ];
    let wide = |seed| -> Vec<f32> { numbers(3 * 700, seed).iter().map(|x| 30.0 * x).collect() };
    for kind in kinds {
        same("activation", ROUNDING, |compute| {
            compute.activation(kind, compute.tensor(wide(1), 3, 700))
        });
        same("gate", ROUNDING, |compute| {
            let up = compute.tensor(numbers(2100, 2), 3, 700);
            compute.gated(kind, compute.tensor(wide(1), 3, 700), up)
        });
    }
}

#[test]
fn rotation_is_the_cpus() {
    // The whole of a head, and a part of it.
    for (pairs, head_size) in [(8, 16), (3, 16), (1, 2)] {
        same("rotary", ROUNDING, |compute| {
            let frequencies = (0..pairs).map(|i| 0.9_f32.powi(i)).collect();
            let rotary = Rotary::new(frequencies, 1.25);
            let positions: Vec<u32> = (0..50).map(|row| row * 7 % 40).collect();
            let x = compute.tensor(numbers(50 * 3 * head_size, 1), 50, 3 * head_size);
            compute.rotary(x, head_size, &positions, &rotary)
        });
    }
}

#[test]
fn products_are_the_cpus() {
    for (rows, d_in, d_out) in [(1, 1, 1), (70, 33, 130), (200, 300, 8)] {
        same("product", ROUNDING, |compute| {
            let x = compute.features(compute.tensor(numbers((rows + 9) * d_in, 1), rows + 9, d_in));
            let weight = compute.weight(&numbers(d_out * d_in, 2), d_out, d_in);
            compute.tensor_of(x.project(4..rows + 4, &weight))
        });
    }
}

#[test]
fn low_rank_deltas_are_the_cpus() {
    for (rows, d_in, rank, d_out) in [(3, 40, 1, 5), (40, 70, 8, 300), (17, 33, 40, 257)] {
        same("delta", ROUNDING, |compute| {
            let features = |count: usize, columns: usize, seed: usize| {
                compute.features(compute.tensor(numbers(count * columns, seed), count, columns))
            };
            let weight = |d_out: usize, d_in: usize, seed: usize| -> Weight {
                compute.weight(&numbers(d_out * d_in, seed), d_out, d_in)
            };
            let x = features(rows + 6, d_in, 1);
            let mut out: Features = features(rows + 9, d_out, 2);
            let (a, b) = (weight(rank, d_in, 3), weight(d_out, rank, 4));
            out.add_low_rank(9..rows + 9, (&x, 2..rows + 2), [&a, &b], -0.5);
            compute.tensor_of(out)
        });
    }
}

#[test]
fn attention_is_the_cpus() {
    let window = |back, ahead| Sight { back, ahead };
    let sequence = |start, length, attended| Sequence {
        start,
        length,
        attended,
    };
    // One of a single token, one over a tile of queries and a chunk of keys, one with padding at its end.
    let samples = [sequence(0, 1, 1), sequence(1, 45, 45), sequence(46, 20, 13)];
    let rows = 66;
    let bias = || {
        Some(Rc::new(DistanceBias {
            table: numbers(3 * 4, 5),
            bucket: Box::new(|distance: isize| {
                if distance > 3 {
                    2
                } else {
                    usize::from(distance < 0)
                }
            }),
        }))
    };
    for sight in [Sight::FULL, Sight::CAUSAL, window(5, 0), window(2, 3)] {
        for (heads, key_heads, head_size) in [(4, 4, 8), (4, 2, 40), (4, 1, 64)] {
            for (soft_cap, bias) in [(None, None), (Some(0.7), bias())] {
                same("attention", ROUNDING, |compute| {
                    let how = Attention {
                        key_heads,
                        sight,
                        soft_cap,
                        bias: bias.clone(),
                        ..Attention::full(heads, head_size)
                    };
                    let tensor = |columns: usize, seed: usize| {
                        compute.tensor(numbers(rows * columns, seed), rows, columns)
                    };
                    let query = tensor(heads * head_size, 1);
                    let (key, value) = (tensor(how.key_columns(), 2), tensor(how.key_columns(), 3));
                    compute.attention(query, (key, value), &samples, &samples, &how)
                });
            }
        }
    }
}

#[test]
fn attention_to_others_keys_is_the_cpus() {
    let sequence = |start, length| Sequence {
        start,
        length,
        attended: length,
    };
    same("cross-attention", ROUNDING, |compute| {
        let how = Attention::full(2, 16);
        let tensor = |rows: usize, seed: usize| compute.tensor(numbers(rows * 32, seed), rows, 32);
        let (queries, keys) = (
            [sequence(0, 4), sequence(4, 9)],
            [sequence(3, 70), sequence(73, 2)],
        );
        compute.attention(
            tensor(13, 1),
            (tensor(75, 2), tensor(75, 3)),
            &queries,
            &keys,
            &how,
        )
    });
}
