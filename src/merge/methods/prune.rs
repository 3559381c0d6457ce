//! Dropping numbers of one change: the smallest of it (TIES, magnitude pruning) or some at random (DARE).
//!
//! A change is seen in runs of rows, so that it need not lie in memory dense; what is dropped depends on the whole of
//! it. So a [`Pruner`] is made first and then given the numbers in their order, once. Numbers of equal magnitude at the
//! threshold are kept in that order, where `torch.topk` keeps any.

use rand_pcg::{Pcg64, rand_core::Rng};
use sha2::{Digest, Sha256};

use crate::{binding::Part, compute::narrow, merge::methods::Layer};

/// What is dropped of every change.
#[derive(Clone, Copy)]
pub(super) enum Dropped {
    /// All but the share `density` of the largest numbers.
    Smallest,
    /// All but a share by chance, by `density` and `seed`.
    Random,
}

/// Decides number by number what is kept.
pub(super) enum Pruner {
    /// Everything.
    None,
    /// What is larger than the threshold, and so many of those that equal it.
    Magnitude { threshold: f32, equal: usize },
    /// A share by chance; what is kept is divided by the share, so that its expectation stays.
    Random { draws: Box<Pcg64>, density: f64 },
}

/// Finds the magnitude at which the largest numbers of a change begin, from two looks at all of them.
///
/// Bits of non-negative floats are ordered as the floats are. The first look counts numbers by the upper half of their
/// bits, the second by the lower half those whose upper half is that of the threshold.
pub(super) struct Threshold {
    upper: Vec<usize>,
    lower: Vec<usize>,
    /// The upper half, once it is known, and how many numbers of it are kept.
    at: Option<(u32, usize)>,
}

/// Bits of the lower half; the upper one has a bit more, less the sign.
const LOWER_BITS: u32 = 15;

impl Threshold {
    pub(super) fn new() -> Self {
        Self {
            upper: vec![0; 1 << (31 - LOWER_BITS)],
            lower: vec![0; 1 << LOWER_BITS],
            at: None,
        }
    }

    /// The first look at some numbers.
    pub(super) fn count(&mut self, values: &[f32]) {
        for value in values {
            self.upper[(value.abs().to_bits() >> LOWER_BITS) as usize] += 1;
        }
    }

    /// After the first look: the `int(density * count)` largest are to be kept, as in PEFT's
    /// `magnitude_based_pruning`. Says whether there has to be a second look.
    pub(super) fn keep(&mut self, density: f64) -> bool {
        self.at = bin_of_smallest(&self.upper, share_of(self.upper.iter().sum(), density));
        self.at.is_some()
    }

    /// The second look at the same numbers.
    pub(super) fn refine(&mut self, values: &[f32]) {
        let Some((upper, _)) = self.at else { return };
        for value in values {
            let bits = value.abs().to_bits();
            if bits >> LOWER_BITS == upper {
                self.lower[(bits & ((1 << LOWER_BITS) - 1)) as usize] += 1;
            }
        }
    }

    /// What keeps them.
    pub(super) fn pruner(self) -> Pruner {
        let found = self.at.and_then(|(upper, count)| {
            let (lower, equal) = bin_of_smallest(&self.lower, count)?;
            Some((f32::from_bits(upper << LOWER_BITS | lower), equal))
        });
        let (threshold, equal) = found.unwrap_or((f32::INFINITY, 0));
        Pruner::Magnitude { threshold, equal }
    }
}

/// The bin of the smallest of the `count` largest numbers, and how many of that bin are among them; nothing for none.
fn bin_of_smallest(bins: &[usize], count: usize) -> Option<(u32, usize)> {
    let mut left = count;
    for (bin, &numbers) in (0..u32::MAX).zip(bins).rev().filter(|_| count > 0) {
        if left <= numbers {
            return Some((bin, left));
        }
        left -= numbers;
    }
    None
}

impl Pruner {
    /// Keeps the largest of numbers that are at hand.
    pub(super) fn magnitude(values: &[f32], density: f64) -> Self {
        if density >= 1.0 {
            return Self::None;
        }
        let mut threshold = Threshold::new();
        threshold.count(values);
        if threshold.keep(density) {
            threshold.refine(values);
        }
        threshold.pruner()
    }

    /// DARE's draws for one task.
    pub(super) fn of_task(layer: &Layer<'_>, part: &Part<'_>) -> Self {
        Self::random(layer.options.seed, layer.name, part.name, layer.options.density)
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
    pub(super) fn apply(&mut self, values: &mut [f32]) {
        match self {
            Self::None => {}
            Self::Magnitude { threshold, equal } => {
                for value in values {
                    let magnitude = value.abs();
                    // Without a jump that half of the numbers would take.
                    let ties = (magnitude == *threshold) & (*equal > 0);
                    *equal -= usize::from(ties);
                    *value = if (magnitude > *threshold) | ties {
                        *value
                    } else {
                        0.0
                    };
                }
            }
            Self::Random { draws, density } => {
                for value in values {
                    *value = if uniform(draws) < *density {
                        narrow(f64::from(*value) / *density)
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

    fn pruned(values: &[f32], density: f64) -> Vec<f32> {
        let mut pruner = Pruner::magnitude(values, density);
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
    fn the_threshold_is_found_to_the_last_bit() {
        let mut state = 1u32;
        let mut values: Vec<f32> = (0..10_000)
            .map(|_| {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                // Neighbours in their last bits, of both signs, and some of other magnitudes.
                let near = f32::from_bits(1.5f32.to_bits() + (state >> 16) % 300);
                let near = if state >> 8 & 7 == 0 { near * 1e-3 } else { near };
                if state >> 31 == 0 { near } else { -near }
            })
            .collect();
        for density in [0.001, 0.3, 0.5, 0.9, 0.9999] {
            let kept = pruned(&values, density);
            let count = kept.iter().filter(|&&x| x != 0.0).count();
            assert_eq!(count, share_of(values.len(), density));
            let smallest = kept
                .iter()
                .filter(|&&x| x != 0.0)
                .fold(f32::MAX, |m, x| m.min(x.abs()));
            let dropped = values.iter().zip(&kept).filter(|(_, kept)| **kept == 0.0);
            assert!(dropped.map(|(x, _)| x.abs()).fold(0.0, f32::max) <= smallest);
        }
        values.fill(f32::MIN_POSITIVE / 2.0);
        assert_eq!(pruned(&values, 0.5).iter().filter(|&&x| x != 0.0).count(), 5000);
    }

    #[test]
    fn draws_are_those_of_the_seed_the_layer_and_the_adapter() {
        let draw = |seed, layer, task| -> Vec<f32> {
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
