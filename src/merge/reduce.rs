//! Cutting a change to a smaller rank, or to the smallest rank that keeps a share of it.

use super::{Change, Factors};
use crate::compute::svd;

/// A change cut to factors.
pub(super) struct Reduced {
    /// The factors.
    pub factors: Factors,
    /// The share of the squared Frobenius norm that is kept, 0 to 1.
    pub energy_kept: f64,
    /// ||D - written||_F / ||D||_F.
    pub error: f64,
}

/// The best approximation of a rank; factors of at most that rank stay as they are.
pub(super) fn to_rank(change: &Change, rank: usize) -> Reduced {
    let (d_out, d_in) = change.shape();
    let rank = rank.min(d_out).min(d_in);
    let truncated = match change {
        Change::Factors(factors) if factors.rank <= rank => {
            return Reduced {
                factors: factors.clone(),
                energy_kept: 1.0,
                error: 0.0,
            };
        }
        Change::Factors(factors) => {
            let shape = (factors.d_out, factors.rank, factors.d_in);
            svd::truncate_factors(&factors.a, &factors.b, shape, rank)
        }
        Change::Dense(dense) => svd::truncate_dense(&dense.data, d_out, d_in, rank),
    };
    let energy_kept = truncated.energy_kept;
    Reduced {
        factors: Factors {
            a: truncated.a,
            b: truncated.b,
            rank,
            d_out,
            d_in,
        },
        energy_kept,
        error: (1.0 - energy_kept).max(0.0).sqrt(),
    }
}

/// The smallest rank that keeps a share of the squared Frobenius norm.
pub(super) fn to_energy(change: &Change, energy: f64) -> Reduced {
    let most = change.rank();
    let mut rank = 1;
    loop {
        let reduced = to_rank(change, rank);
        if rank >= most || reduced.energy_kept >= energy {
            return reduced;
        }
        rank += 1;
    }
}
