//! Truncation to a rank: a step of its own between a solution and what is written.
//!
//! The rank is what the options ask for, within what the method itself cuts to, else what loses nothing where nothing
//! has to be lost. A uniform rank for an energy is the largest that any layer needs, so there all layers are solved
//! before the first is cut.

use std::collections::BTreeMap;

use crate::{
    adapter::Lora,
    binding::{Binding, MergeSite, Place},
    compute::svd,
    delta::{Delta, LowRank},
    error::Result,
    merge::{layer::SolvedLayer, options::Ranks, solution::Solution},
};

/// What is not cut because nobody asked for a rank.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Uncut {
    /// Stays as it is, dense or not.
    Whole,
    /// Dense weights are cut to the exact rank of a sum of the adapters; what is written has to be factors.
    Factors,
}

/// At which rank a delta is cut.
struct Limit {
    /// At this one at the latest.
    most: usize,
    /// Before it, at the smallest that keeps this share.
    energy: Option<f64>,
}

/// A solution whose weights are cut to a rank, layer by layer.
pub struct Truncated<'a> {
    solution: Solution<'a>,
    limit: Option<Limit>,
    /// Whether options or method ask for a rank.
    asked: bool,
    /// Layers that had to be solved before the rank was known.
    held: BTreeMap<String, SolvedLayer>,
}

impl<'a> Truncated<'a> {
    /// Cuts the weights of `solution` to what options and method ask for; `otherwise` says what happens where they
    /// leave it open.
    ///
    /// # Errors
    /// As [`Solution::take`], where the rank depends on the numbers.
    pub async fn new(mut solution: Solution<'a>, otherwise: Uncut) -> Result<Self> {
        let (binding, options) = (solution.binding, solution.options);
        let ranks = binding
            .adapters
            .iter()
            .flat_map(|read| read.adapter.modules.values());
        let largest = ranks.map(|lora| lora.rank).max().unwrap_or(1);
        let own = solution.method.rank(options, largest);
        let uniform = options.ranks == Ranks::Uniform;
        let mut held = BTreeMap::new();
        let mut wanted = options.rank;
        if let Some(energy) = options.energy.filter(|_| uniform) {
            let mut rank = 1;
            let weights = |site: &&MergeSite| matches!(site.place, Place::Weight(_));
            for site in binding.sites.iter().filter(weights) {
                let layer = solution.take(site).await?;
                rank = rank.max(rank_for(&layer.delta, energy));
                held.insert(site.name.clone(), layer);
            }
            wanted = Some(rank);
        }
        let energy = options.energy.filter(|_| !uniform);
        let most = own.into_iter().chain(wanted).min();
        let asked = most.is_some() || energy.is_some();
        let limit = match otherwise {
            _ if asked => Some(Limit {
                most: most.unwrap_or(usize::MAX),
                energy,
            }),
            Uncut::Factors => Some(Limit {
                most: exact(binding),
                energy: None,
            }),
            Uncut::Whole => None,
        };
        Ok(Self {
            solution,
            limit,
            asked,
            held,
        })
    }

    /// The solution behind it.
    pub const fn solution(&self) -> &Solution<'a> {
        &self.solution
    }

    /// Whether options or method ask for a rank.
    pub const fn asked(&self) -> bool {
        self.asked
    }

    /// The layer of one of the binding's sites, cut if it is a weight; its report says what the cut keeps.
    ///
    /// # Errors
    /// As [`Solution::take`].
    pub async fn take(&mut self, site: &'a MergeSite) -> Result<SolvedLayer> {
        let mut layer = match self.held.remove(&site.name) {
            Some(layer) => layer,
            None => self.solution.take(site).await?,
        };
        let (mut kept, mut error) = (1.0, 0.0);
        if let Some(limit) = self
            .limit
            .as_ref()
            .filter(|_| matches!(site.place, Place::Weight(_)))
        {
            let reduced = limit.apply(&layer.delta);
            (kept, error) = (reduced.energy_kept, reduced.error);
            layer.delta = Delta::LowRank(reduced.factors);
        }
        layer.report.rank = layer.delta.rank();
        layer.report.energy_kept = Some(kept);
        layer.report.error = Some(error);
        Ok(layer)
    }
}

impl Limit {
    fn apply(&self, delta: &Delta) -> Reduced {
        let rank = match self.energy {
            Some(energy) => self.most.min(rank_for(delta, energy)),
            None => self.most,
        };
        to_rank(delta, rank)
    }
}

/// The exact rank of a sum of the adapters.
fn exact(binding: &Binding<'_>) -> usize {
    let ranks = binding.sites.iter().map(|site| {
        let sources = site.sources.iter().zip(binding.adapters);
        sources
            .filter_map(|(path, read)| read.adapter.modules.get(path.as_deref()?))
            .map(Lora::change_rank)
            .sum()
    });
    ranks.max().unwrap_or(1)
}

/// A delta cut to factors.
struct Reduced {
    /// The factors.
    factors: LowRank,
    /// The share of the squared Frobenius norm that is kept, 0 to 1.
    energy_kept: f64,
    /// ||D - written||_F / ||D||_F, from what is left out: it has digits where `energy_kept` is 1.
    error: f64,
}

/// The best approximation of a rank; factors of at most that rank stay as they are.
fn to_rank(delta: &Delta, rank: usize) -> Reduced {
    let (d_out, d_in) = delta.shape();
    let rank = rank.min(d_out).min(d_in).max(1);
    let truncated = match delta {
        Delta::LowRank(factors) if factors.rank <= rank => {
            return Reduced {
                factors: factors.clone(),
                energy_kept: 1.0,
                error: 0.0,
            };
        }
        Delta::LowRank(factors) => {
            let shape = (d_out, factors.rank, d_in);
            svd::truncate_factors(&factors.a, &factors.b, shape, rank)
        }
        Delta::Dense(dense) => svd::truncate_dense(&dense.data, d_out, d_in, rank),
    };
    Reduced {
        factors: LowRank {
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
fn rank_for(delta: &Delta, energy: f64) -> usize {
    let (d_out, d_in) = delta.shape();
    let values = match delta {
        Delta::LowRank(factors) => svd::factored_values(&factors.a, &factors.b, (d_out, factors.rank, d_in)),
        Delta::Dense(dense) => svd::dense_values(&dense.data, d_out, d_in),
    };
    svd::rank_for(&values, energy)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::delta::Dense;

    /// Factors whose product has distinct singular values.
    fn factors(d_out: usize, rank: usize, d_in: usize) -> LowRank {
        let numbers = |count: usize, seed: usize| -> Vec<f32> {
            (0..count)
                .map(|i| ((i * 7919 + seed * 104_729) % 1009) as f32 / 504.5 - 1.0)
                .collect()
        };
        LowRank {
            a: numbers(rank * d_in, 1),
            b: numbers(d_out * rank, 2),
            rank,
            d_out,
            d_in,
        }
    }

    fn both(factors: &LowRank) -> [Delta; 2] {
        let (d_out, d_in) = (factors.d_out, factors.d_in);
        let data = factors.dense();
        [
            Delta::LowRank(factors.clone()),
            Delta::Dense(Dense { data, d_out, d_in }),
        ]
    }

    fn error_of(whole: &Delta, cut: &LowRank) -> f64 {
        let mut left = vec![0.0; cut.d_out * cut.d_in];
        whole.add_to(1.0, &mut left);
        let norm = |values: &[f64]| values.iter().map(|x| x * x).sum::<f64>().sqrt();
        let all = norm(&left);
        cut.add_to(-1.0, &mut left);
        norm(&left) / all
    }

    #[test]
    fn the_error_reported_is_the_true_error_of_factors_and_of_dense_deltas() {
        let own = factors(40, 9, 30);
        for rank in [1, 4, 8, 9, 20] {
            let [factored, dense] = both(&own).map(|delta| {
                let cut = to_rank(&delta, rank);
                let found = error_of(&delta, &cut.factors);
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
            let distance = error_of(&Delta::LowRank(factored.factors), &dense.factors);
            assert!(distance < 1e-6, "rank {rank}: {distance}");
        }
    }

    #[test]
    fn an_energy_is_met_by_the_smallest_rank() {
        let own = factors(40, 9, 30);
        for delta in both(&own) {
            for energy in [0.1, 0.5, 0.9, 0.99, 0.999, 1.0] {
                let cut = to_rank(&delta, rank_for(&delta, energy));
                assert!(cut.energy_kept >= energy - 1e-12, "{energy}: {}", cut.energy_kept);
                if cut.factors.rank > 1 {
                    let smaller = to_rank(&delta, cut.factors.rank - 1);
                    assert!(
                        smaller.energy_kept < energy,
                        "{energy}: rank {}",
                        cut.factors.rank
                    );
                }
            }
            assert_eq!(rank_for(&delta, 1.0), 9);
        }
    }
}
