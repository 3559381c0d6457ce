//! Cutting a change to a smaller rank, or to the smallest rank that keeps a share of it.
//!
//! A uniform rank for an energy is the largest [`rank_for`] of all layers; each is then cut [`to_rank`] once.

use super::{Change, Factors};
use crate::compute::svd;

/// A change cut to factors.
pub(super) struct Reduced {
    /// The factors.
    pub(super) factors: Factors,
    /// The share of the squared Frobenius norm that is kept, 0 to 1.
    pub(super) energy_kept: f64,
    /// ||D - written||_F / ||D||_F, from what is left out: it has digits where `energy_kept` is 1.
    pub(super) error: f64,
}

/// The best approximation of a rank; factors of at most that rank stay as they are.
pub(super) fn to_rank(change: &Change, rank: usize) -> Reduced {
    let (d_out, d_in) = change.shape();
    let rank = rank.min(d_out).min(d_in).max(1);
    let truncated = match change {
        Change::Factors(factors) if factors.rank <= rank => {
            return Reduced {
                factors: factors.clone(),
                energy_kept: 1.0,
                error: 0.0,
            };
        }
        Change::Factors(factors) => {
            let shape = (d_out, factors.rank, d_in);
            svd::truncate_factors(&factors.a, &factors.b, shape, rank)
        }
        Change::Dense(dense) => svd::truncate_dense(&dense.data, d_out, d_in, rank),
    };
    Reduced {
        factors: Factors {
            a: truncated.a,
            b: truncated.b,
            rank,
            d_out,
            d_in,
        },
        energy_kept: truncated.energy_kept,
        error: truncated.error,
    }
}

/// The smallest rank, at least 1, that keeps a share of the squared Frobenius norm. A share of 1 is everything above
/// the rounding of f32.
pub(super) fn rank_for(change: &Change, energy: f64) -> usize {
    let (d_out, d_in) = change.shape();
    let values = match change {
        Change::Factors(factors) => svd::factored_values(&factors.a, &factors.b, (d_out, factors.rank, d_in)),
        Change::Dense(dense) => svd::dense_values(&dense.data, d_out, d_in),
    };
    svd::rank_for(&values, energy)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::merge::Dense;

    /// Factors whose product has distinct singular values.
    fn factors(d_out: usize, rank: usize, d_in: usize) -> Factors {
        let numbers = |count: usize, seed: usize| -> Vec<f32> {
            (0..count)
                .map(|i| ((i * 7919 + seed * 104_729) % 1009) as f32 / 504.5 - 1.0)
                .collect()
        };
        Factors {
            a: numbers(rank * d_in, 1),
            b: numbers(d_out * rank, 2),
            rank,
            d_out,
            d_in,
        }
    }

    fn both(factors: &Factors) -> [Change; 2] {
        let (d_out, d_in) = (factors.d_out, factors.d_in);
        let data = factors.dense();
        [
            Change::Factors(factors.clone()),
            Change::Dense(Dense { data, d_out, d_in }),
        ]
    }

    fn error_of(whole: &Change, cut: &Factors) -> f64 {
        let mut left = vec![0.0; cut.d_out * cut.d_in];
        whole.add_to(1.0, &mut left);
        let norm = |values: &[f64]| values.iter().map(|x| x * x).sum::<f64>().sqrt();
        let all = norm(&left);
        cut.add_to(-1.0, &mut left);
        norm(&left) / all
    }

    #[test]
    fn the_error_reported_is_the_true_error_of_factors_and_of_dense_changes() {
        let own = factors(40, 9, 30);
        for rank in [1, 4, 8, 9, 20] {
            let [factored, dense] = both(&own).map(|change| {
                let cut = to_rank(&change, rank);
                let found = error_of(&change, &cut.factors);
                assert!(
                    (found - cut.error).abs() < 2e-7,
                    "rank {rank}: {found} {}",
                    cut.error
                );
                assert!((cut.energy_kept + cut.error * cut.error - 1.0).abs() < 1e-12);
                cut
            });
            // Factored and dense SVD agree: on the error, and on the matrix.
            assert!((factored.error - dense.error).abs() < 2e-7);
            let distance = error_of(&Change::Factors(factored.factors), &dense.factors);
            assert!(distance < 1e-6, "rank {rank}: {distance}");
        }
    }

    #[test]
    fn an_energy_is_met_by_the_smallest_rank() {
        let own = factors(40, 9, 30);
        for change in both(&own) {
            for energy in [0.1, 0.5, 0.9, 0.99, 0.999, 1.0] {
                let cut = to_rank(&change, rank_for(&change, energy));
                assert!(cut.energy_kept >= energy - 1e-12, "{energy}: {}", cut.energy_kept);
                if cut.factors.rank > 1 {
                    let smaller = to_rank(&change, cut.factors.rank - 1);
                    assert!(
                        smaller.energy_kept < energy,
                        "{energy}: rank {}",
                        cut.factors.rank
                    );
                }
            }
            assert_eq!(rank_for(&change, 1.0), 9);
        }
    }
}
