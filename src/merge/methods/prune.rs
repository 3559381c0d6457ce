//! Dropping numbers of one change: the smallest of it (TIES, magnitude pruning) or some at random (DARE).
//!
//! A change is seen row by row, so that it never lies in memory dense; what is dropped depends on the whole of it. So
//! a [`Pruner`] is made first and then given the numbers in their order, once. Numbers of equal magnitude at the
//! threshold are kept in that order, where `torch.topk` keeps any.

use rand_pcg::{Pcg64, rand_core::Rng};
use sha2::{Digest, Sha256};

use crate::compute::narrow;

/// Decides number by number what is kept.
pub(super) enum Pruner {
    /// Everything.
    None,
    /// What is larger than the threshold, and so many of those that equal it.
    Magnitude { threshold: f32, equal: usize },
    /// A share by chance; what is kept is divided by the share, so that its expectation stays.
    Random { draws: Box<Pcg64>, density: f64 },
}

impl Pruner {
    /// Keeps the `int(density * count)` numbers of the largest magnitude, as PEFT's `magnitude_based_pruning`.
    pub(super) fn magnitude(values: impl Iterator<Item = f64>, density: f64) -> Self {
        if density >= 1.0 {
            return Self::None;
        }
        // Bits of non-negative floats are ordered as the floats are.
        let mut magnitudes: Vec<u32> = values.map(|x| narrow(x.abs()).to_bits()).collect();
        let count = share_of(magnitudes.len(), density);
        if count == 0 {
            return Self::Magnitude {
                threshold: f32::INFINITY,
                equal: 0,
            };
        }
        let (larger, smallest, _) = magnitudes.select_nth_unstable_by(count - 1, |a, b| b.cmp(a));
        let threshold = *smallest;
        let equal = count - larger.iter().filter(|&&bits| bits > threshold).count();
        Self::Magnitude {
            threshold: f32::from_bits(threshold),
            equal,
        }
    }

    /// Keeps each number with probability `density`, as DARE does; by layer and adapter, so that neither the order
    /// of the adapters nor what else is merged matters.
    pub(super) fn random(seed: u64, layer: &str, task: &str, density: f64) -> Self {
        if density >= 1.0 {
            return Self::None;
        }
        let digest = Sha256::digest(format!("{seed}\0{layer}\0{task}"));
        let number = |bytes: &[u8]| {
            bytes
                .iter()
                .rev()
                .fold(0u128, |sum, &byte| sum << 8 | u128::from(byte))
        };
        let (state, stream) = digest.split_at(16);
        Self::Random {
            draws: Box::new(Pcg64::new(number(state), number(stream))),
            density,
        }
    }

    /// The next numbers of the change, those that are dropped set to zero.
    pub(super) fn apply(&mut self, values: &mut [f64]) {
        match self {
            Self::None => {}
            Self::Magnitude { threshold, equal } => {
                for value in values {
                    let magnitude = narrow(value.abs());
                    if magnitude == *threshold && *equal > 0 {
                        *equal -= 1;
                    } else if magnitude <= *threshold {
                        *value = 0.0;
                    }
                }
            }
            Self::Random { draws, density } => {
                for value in values {
                    *value = if uniform(draws) < *density {
                        *value / *density
                    } else {
                        0.0
                    };
                }
            }
        }
    }
}

/// The next number, 0 <= x < 1, of 53 bits.
fn uniform(draws: &mut Pcg64) -> f64 {
    (draws.next_u64() >> 11) as f64 / (1u64 << 53) as f64
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a share between 0 and 1 of a count is a count, rounded down as PEFT's int() does"
)]
fn share_of(count: usize, density: f64) -> usize {
    ((density * count as f64) as usize).min(count)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pruned(values: &[f64], density: f64) -> Vec<f64> {
        let mut pruner = Pruner::magnitude(values.iter().copied(), density);
        let mut values = values.to_vec();
        // In pieces, as rows come.
        values.chunks_mut(2).for_each(|chunk| pruner.apply(chunk));
        values
    }

    #[test]
    fn the_largest_are_kept_and_of_equal_ones_the_first() {
        assert_eq!(pruned(&[1.0, -3.0, 2.0, 0.5], 0.5), [0.0, -3.0, 2.0, 0.0]);
        assert_eq!(
            pruned(&[2.0, -2.0, 2.0, 3.0, -2.0], 0.6),
            [2.0, -2.0, 0.0, 3.0, 0.0]
        );
        // int() rounds down, also to nothing.
        assert_eq!(pruned(&[1.0, 2.0, 3.0], 0.5), [0.0, 0.0, 3.0]);
        assert_eq!(pruned(&[1.0, 2.0, 3.0], 0.3), [0.0; 3]);
        assert_eq!(pruned(&[1.0, 2.0, 3.0], 1.0), [1.0, 2.0, 3.0]);
        assert_eq!(pruned(&[0.0, 0.0, 0.0, 0.0], 0.5), [0.0; 4]);
    }

    #[test]
    fn draws_are_those_of_the_seed_the_layer_and_the_adapter() {
        let draw = |seed, layer, task| {
            let mut values = vec![1.0; 20_000];
            Pruner::random(seed, layer, task, 0.25).apply(&mut values);
            values
        };
        let own = draw(1, "layer", "task");
        assert_eq!(own, draw(1, "layer", "task"));
        for other in [
            draw(2, "layer", "task"),
            draw(1, "other", "task"),
            draw(1, "layer", "other"),
        ] {
            assert_ne!(own, other);
        }
        let kept = own.iter().filter(|&&x| x == 4.0).count();
        assert_eq!(own.iter().filter(|&&x| x == 0.0).count(), own.len() - kept);
        // Six standard deviations around a quarter.
        assert!((4632..5368).contains(&kept), "{kept}");
    }
}
