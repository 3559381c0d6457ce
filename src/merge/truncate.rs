//! Truncation to a rank: a step of its own between a solution and what is written.
//!
//! The rank is what the options ask for, within what the method itself cuts to, else what loses nothing where nothing
//! has to be lost. Where it does not depend on the numbers it is known before a layer is solved, so that a file's header
//! can be written first.

use std::{collections::BTreeMap, ops::Range};

use crate::{
    adapter::Module,
    binding::{MergeSite, Place},
    compute::{
        range_finder::{OVERSAMPLING, POWER_STEPS, TOLERANCE, cut_dense_fast},
        svd::{self, Cut, SEED},
    },
    delta::{Delta, Dense, LowRank},
    error::{Code, Error, Result},
    merge::{
        layer::SolvedLayer,
        methods::Form,
        share::{Ahead, Solved, Unit},
        solution::Solution,
    },
    progress::Pace,
};

/// A solution whose weights are cut to a rank, layer by layer.
pub struct Truncated<'a> {
    solution: Solution<'a>,
    /// The rank that options or method ask for.
    most: Option<usize>,
    /// The share of the squared norm that is kept, at the smallest rank that does.
    energy: Option<f64>,
    /// How many layers were cut by the randomised range finder.
    random: usize,
    /// The places of the binding's sites, by name.
    places: BTreeMap<&'a str, usize>,
    /// What workers have a share in.
    ahead: Option<Ahead>,
}

impl<'a> Truncated<'a> {
    /// Cuts the weights of `solution` to what options and method ask for.
    pub fn new(solution: Solution<'a>) -> Self {
        let options = solution.options;
        let modules = solution.binding.adapters.iter();
        let ranks = modules.flat_map(|read| read.adapter.modules.values().map(|module| module.rank));
        let largest = ranks.max().unwrap_or(1);
        // The method's own rank is a default, which a rank that is asked for overrides.
        let own = solution.method.rank(options, largest);
        let most = match (options.svd_rank, options.rank) {
            (None, Some(rank)) => Some(rank),
            _ => own.into_iter().chain(options.rank).min(),
        };
        let energy = options.energy;
        let sites = solution.binding.sites.iter().enumerate();
        Self {
            places: sites.map(|(at, site)| (site.name.as_str(), at)).collect(),
            solution,
            most,
            energy,
            random: 0,
            ahead: None,
        }
    }

    /// Says which layers will be taken, in which order, so that workers can be at those that follow: each by the sites of
    /// its parts, and their heights where it will be taken as factors.
    pub fn expect<'u>(
        &mut self,
        layers: impl IntoIterator<Item = (Vec<Option<&'a MergeSite>>, &'u [usize])>,
    ) {
        let Some((workers, count)) = self.solution.compute.started() else {
            return;
        };
        // What a pass has solved is here already, and all but weights is done as soon as it is read.
        let shared = |site: &&MergeSite| {
            self.solution.passed(site).is_none() && matches!(site.place, Place::Weight(_))
        };
        let layers = layers.into_iter();
        let units = layers
            .filter(|(parts, _)| parts.iter().flatten().all(shared))
            .map(|(parts, heights)| self.unit(&parts, heights));
        self.ahead = Some(Ahead::new(workers, count, units.collect::<Vec<Unit>>()));
    }

    fn unit(&self, parts: &[Option<&MergeSite>], heights: &[usize]) -> Unit {
        let place = |site: &MergeSite| self.places.get(site.name.as_str()).copied();
        Unit {
            sites: parts.iter().map(|part| part.and_then(place)).collect(),
            heights: heights.to_vec(),
        }
    }

    /// How the dense layers were cut, if any was by random columns.
    pub fn note(&self) -> Option<String> {
        let layers = self.random;
        (layers > 0).then(|| {
            format!(
                "{layers} dense layers were cut by a randomised range finder (seed {SEED}, {OVERSAMPLING} columns beyond half of the rank, at most {POWER_STEPS} power steps, until another one would add {TOLERANCE:e} of the squared norm)"
            )
        })
    }

    /// The solution behind it.
    pub const fn solution(&self) -> &Solution<'a> {
        &self.solution
    }

    /// Whether options or method ask for a rank.
    pub const fn asked(&self) -> bool {
        self.most.is_some() || self.energy.is_some()
    }

    /// The rank that the caller asks for in so many words.
    pub fn asked_rank(&self) -> Option<usize> {
        let options = self.solution.options;
        self.most
            .filter(|_| self.energy.is_none() && (options.rank.is_some() || options.svd_rank.is_some()))
    }

    /// The layer of one of the binding's sites, cut if it is a weight and a rank is asked for; its report says what the
    /// cut keeps.
    ///
    /// # Errors
    /// As [`Solution::take`], and what went wrong in a worker.
    pub async fn take(&mut self, site: &'a MergeSite) -> Result<SolvedLayer> {
        let unit = self.unit(&[Some(site)], &[]);
        let solved = self.solved(unit).await?;
        let (delta, report) = (
            solved.parts.into_iter().flatten().next(),
            solved.reports.into_iter().next(),
        );
        match (delta, report) {
            (Some(delta), Some(report)) => Ok(SolvedLayer { delta, report }),
            _ => Err(lost(&site.name)),
        }
    }

    /// As [`Solution::take_rows`], of which nothing is cut.
    ///
    /// # Errors
    /// As [`Solution::take`].
    pub async fn take_rows(&mut self, site: &'a MergeSite, rows: Range<usize>) -> Result<Vec<f32>> {
        self.solution.take_rows(site, rows).await
    }

    /// One layer of a file as factors, of the sites of its parts, each with as many outputs as `heights` says. Parts
    /// that have to be cut are cut as the one matrix that they are in the file, so that its rank does not grow.
    ///
    /// # Errors
    /// As [`Truncated::take`].
    pub async fn take_factors(
        &mut self,
        parts: &[Option<&'a MergeSite>],
        heights: &[usize],
    ) -> Result<Solved> {
        self.solved(self.unit(parts, heights)).await
    }

    /// A layer that is taken, by whomever it is solved.
    async fn solved(&mut self, unit: Unit) -> Result<Solved> {
        let mut solved = match self.ahead.take() {
            None => self.solve(&unit).await?,
            Some(mut ahead) => {
                let solved = self.solved_together(&mut ahead, &unit).await?;
                self.ahead = Some(ahead);
                solved
            }
        };
        self.random += usize::from(solved.random);
        for report in &mut solved.reports {
            report.rank = solved.rank;
            report.energy_kept = Some(solved.kept);
            report.error = Some(solved.error);
        }
        Ok(solved)
    }

    async fn solved_together(&mut self, ahead: &mut Ahead, unit: &Unit) -> Result<Solved> {
        ahead.claim(unit);
        loop {
            ahead.give_out();
            let sites = &self.solution.binding.sites;
            let names = |unit: &Unit| {
                let there = unit.sites.iter().flatten();
                there
                    .filter_map(|&at| Some(sites.get(at)?.name.as_str()))
                    .collect()
            };
            let mut arrived = ahead.collect(names)?;
            if arrived.is_empty() && ahead.is_given(unit) {
                if let Some(next) = ahead.next_here() {
                    let solved = self.solve(&next).await?;
                    ahead.keep(next, solved);
                } else {
                    arrived = ahead.wait(names).await?;
                }
            }
            self.solution.solved_elsewhere(&arrived).await?;
            if let Some(solved) = ahead.take(unit) {
                return Ok(solved);
            }
            if !ahead.is_given(unit) {
                return self.solve(unit).await;
            }
        }
    }

    /// Solves a layer, here and now.
    ///
    /// # Errors
    /// As [`Solution::take`]; [`Code::Internal`] for sites that there are none of.
    pub async fn solve(&mut self, unit: &Unit) -> Result<Solved> {
        let binding = self.solution.binding;
        let site = |at: Option<usize>| match at {
            None => Ok(None),
            Some(at) => binding
                .sites
                .get(at)
                .map(Some)
                .ok_or_else(|| lost(&at.to_string())),
        };
        let parts: Vec<Option<&MergeSite>> = unit.sites.iter().copied().map(site).collect::<Result<_>>()?;
        let mut deltas = Vec::with_capacity(parts.len());
        let mut reports = Vec::new();
        for part in &parts {
            let Some(site) = part else {
                deltas.push(None);
                continue;
            };
            let SolvedLayer { delta, report } = self.solution.take(site).await?;
            deltas.push(Some(delta));
            reports.push(report);
        }
        let solved = if unit.heights.is_empty() {
            self.cut_alone(&parts, deltas).await?
        } else {
            self.cut(&parts, deltas, &unit.heights).await?
        };
        Ok(Solved { reports, ..solved })
    }

    /// The change of one site, cut if it is a weight and a rank is asked for.
    async fn cut_alone(
        &self,
        parts: &[Option<&MergeSite>],
        mut deltas: Vec<Option<Delta>>,
    ) -> Result<Solved> {
        let (Some(Some(site)), Some(Some(delta))) = (parts.first(), deltas.pop()) else {
            return Err(lost("a site"));
        };
        if self.asked() && matches!(site.place, Place::Weight(_)) {
            return self.reduced(delta, self.asked_cut(), &site.name).await;
        }
        Ok(Solved::uncut(vec![Some(delta)]))
    }

    async fn cut(
        &self,
        parts: &[Option<&MergeSite>],
        deltas: Vec<Option<Delta>>,
        heights: &[usize],
    ) -> Result<Solved> {
        let alone = deltas.len() == 1;
        let fits = |delta: &Delta| {
            let (d_out, d_in) = delta.shape();
            delta.as_low_rank().is_some() && delta.rank() <= d_out.min(d_in)
        };
        let uncut = deltas.iter().flatten().all(fits) && {
            let rank = stacked_rank(&deltas);
            self.energy.is_none() && self.most.is_none_or(|most| rank <= most)
        };
        if uncut {
            return Ok(Solved::uncut(deltas));
        }
        let whole = stacked(deltas, heights);
        let cut = if self.asked() {
            self.asked_cut()
        } else {
            Cut::to(self.exact(parts))
        };
        let name = parts.iter().flatten().next().map_or("", |site| &site.name);
        Ok(Solved {
            whole: !alone,
            ..self.reduced(whole, cut, name).await?
        })
    }

    async fn reduced(&self, delta: Delta, cut: Cut, name: &str) -> Result<Solved> {
        let solution = &self.solution;
        let now = || solution.compute.meter.elapsed();
        let pace = Pace::new(solution.observer, &now, solution.progress(name));
        let reduced = reduced(delta, cut, &pace).await?;
        Ok(Solved {
            rank: reduced.factors.rank,
            parts: vec![Some(Delta::LowRank(reduced.factors))],
            whole: false,
            kept: reduced.energy_kept,
            error: reduced.error,
            random: reduced.random,
            reports: Vec::new(),
        })
    }

    /// The rank of [`Truncated::take_factors`], where it does not depend on the numbers.
    pub fn rank_of(&self, parts: &[Option<&MergeSite>], heights: &[usize]) -> Option<usize> {
        if self.energy.is_some() {
            return None;
        }
        let there: Vec<&MergeSite> = parts.iter().copied().flatten().collect();
        let first = there.first()?;
        let side = heights.iter().sum::<usize>().min(first.d_in);
        let forms: Vec<Form> = there.iter().map(|site| self.form(site)).collect();
        if forms.contains(&Form::Unknown) {
            return None;
        }
        let rank = if forms.contains(&Form::Dense) {
            self.most.unwrap_or_else(|| self.exact(parts))
        } else {
            let ranks: Vec<usize> = there.iter().map(|site| self.stacked_rank(site)).collect();
            let largest = ranks.iter().copied().max()?;
            let one = ranks.len() == 1 && parts.len() == 1;
            match self.most {
                Some(most) if most <= largest => most,
                _ if one || self.share(parts) => self.most.map_or(largest, |most| most.min(largest)),
                // Whether parts share directions shows when they are there.
                _ => return None,
            }
        };
        Some(rank.min(side).max(1))
    }

    fn form(&self, site: &MergeSite) -> Form {
        match self.solution.passed(site) {
            Some(Delta::LowRank(_)) => Form::Stacked,
            Some(Delta::Dense(_)) => Form::Dense,
            None => {
                let form = self.solution.method.form(self.solution.options);
                let dense = self
                    .solution
                    .binding
                    .modules(site)
                    .any(|module| module.has_magnitude);
                if form == Form::Stacked && dense {
                    Form::Dense
                } else {
                    form
                }
            }
        }
    }

    fn stacked_rank(&self, site: &MergeSite) -> usize {
        match self.solution.passed(site) {
            Some(delta) => delta.rank(),
            None => self.solution.binding.modules(site).map(Module::change_rank).sum(),
        }
    }

    /// Whether the parts of a fused layer have one lower factor, whatever is merged.
    fn share(&self, parts: &[Option<&MergeSite>]) -> bool {
        let binding = self.solution.binding;
        let Some(sites) = parts.iter().copied().collect::<Option<Vec<&MergeSite>>>() else {
            return false;
        };
        let of_adapter = |task: usize| {
            let found = sites.iter().map(|site| binding.module(site, task));
            found.collect::<Vec<Option<&Module>>>()
        };
        (0..binding.adapters.len()).all(|task| shared(&of_adapter(task)))
            && sites.iter().all(|site| self.solution.passed(site).is_none())
    }

    /// The exact rank of a sum of the adapters at one layer of a file.
    fn exact(&self, parts: &[Option<&MergeSite>]) -> usize {
        let binding = self.solution.binding;
        let of_adapter = |task: usize| {
            let found = parts.iter().flatten().map(|site| binding.module(site, task));
            let found: Vec<Option<&Module>> = found.collect();
            let ranks = || found.iter().flatten().map(|module| module.change_rank());
            if shared(&found) {
                ranks().max().unwrap_or(0)
            } else {
                ranks().sum()
            }
        };
        (0..binding.adapters.len()).map(of_adapter).sum()
    }

    fn asked_cut(&self) -> Cut {
        Cut {
            most: self.most.unwrap_or(usize::MAX),
            energy: self.energy,
        }
    }
}

fn lost(what: &str) -> Error {
    Error::new(
        Code::Internal,
        format!("a layer was lost between workers: {what}"),
    )
}

/// Whether one adapter's parts of a fused layer have one lower factor, or it has none of them.
fn shared(parts: &[Option<&Module>]) -> bool {
    match parts.iter().flatten().next() {
        None => true,
        Some(first) => parts
            .iter()
            .all(|part| part.is_some_and(|part| part.shares_lower(first))),
    }
}

/// The factors of all parts, if none is absent and they have one lower factor.
fn sharing(deltas: &[Option<Delta>]) -> Option<Vec<&LowRank>> {
    let all: Option<Vec<&LowRank>> = deltas.iter().map(|delta| delta.as_ref()?.as_low_rank()).collect();
    all.filter(|all| LowRank::share_lower(all))
}

/// The rank of factors that are put under each other.
fn stacked_rank(deltas: &[Option<Delta>]) -> usize {
    match sharing(deltas).as_deref() {
        Some([first, ..]) => first.rank,
        _ => deltas.iter().flatten().map(Delta::rank).sum(),
    }
}

/// Parts under each other as one matrix, which is nothing where a part is absent.
fn stacked(mut deltas: Vec<Option<Delta>>, heights: &[usize]) -> Delta {
    if deltas.len() == 1
        && let Some(Some(delta)) = deltas.pop()
    {
        return delta;
    }
    let d_out = heights.iter().sum();
    let widths = deltas.iter().flatten().map(|delta| delta.shape().1);
    let d_in = widths.max().unwrap_or(0);
    if deltas.iter().flatten().all(|delta| delta.as_low_rank().is_some()) {
        let parts: Vec<Option<&LowRank>> = deltas.iter().map(|delta| delta.as_ref()?.as_low_rank()).collect();
        return Delta::LowRank(match sharing(&deltas) {
            Some(all) => LowRank::with_one_lower(&all),
            None => LowRank::block_diagonal(&parts, heights, d_in),
        });
    }
    let mut data = Vec::with_capacity(d_out * d_in);
    for (delta, height) in deltas.into_iter().zip(heights) {
        match delta {
            Some(delta) => data.extend(delta.into_dense()),
            None => data.resize(data.len() + height * d_in, 0.0),
        }
    }
    Delta::Dense(Dense { data, d_out, d_in })
}

/// A delta cut to factors.
struct Reduced {
    /// The factors.
    factors: LowRank,
    /// The share of the squared Frobenius norm that is kept, 0 to 1.
    energy_kept: f64,
    /// ||D - written||_F / ||D||_F, from what is left out: it has digits where `energy_kept` is 1.
    error: f64,
    /// Whether it was cut by random columns.
    random: bool,
}

/// The best approximation; factors that have no more directions than are left stay as they are.
async fn reduced(delta: Delta, cut: Cut, pace: &Pace<'_>) -> Result<Reduced> {
    let (d_out, d_in) = delta.shape();
    let cut = Cut {
        most: cut.most.min(d_out).min(d_in).max(1),
        ..cut
    };
    let truncated = match delta {
        Delta::LowRank(factors) => match reduced_factors(&factors, cut) {
            Some(truncated) => truncated,
            None => {
                return Ok(Reduced {
                    factors,
                    energy_kept: 1.0,
                    error: 0.0,
                    random: false,
                });
            }
        },
        Delta::Dense(dense) => cut_dense_fast(&dense.data, d_out, d_in, cut, pace).await?,
    };
    Ok(Reduced {
        factors: LowRank {
            rank: truncated.b.len() / d_out,
            a: truncated.a,
            b: truncated.b,
            d_out,
            d_in,
        },
        energy_kept: truncated.energy_kept,
        error: truncated.error,
        random: truncated.random,
    })
}

/// The best approximation of factors; none if they have no more directions than are left. One factorisation tells the
/// rank and the approximation.
fn reduced_factors(factors: &LowRank, cut: Cut) -> Option<svd::Truncated> {
    if cut.energy.is_none() && factors.rank <= cut.most {
        return None;
    }
    let found = svd::Factored::new(
        &factors.a,
        &factors.b,
        (factors.d_out, factors.rank, factors.d_in),
    );
    let rank = cut.rank(|| found.values());
    (rank < factors.rank).then(|| found.truncated(rank))
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

    fn cut_to(delta: &Delta, rank: usize) -> Reduced {
        pollster::block_on(reduced(delta.clone(), Cut::to(rank), &Pace::unwatched())).unwrap()
    }

    fn keeping(delta: &Delta, energy: f64) -> Reduced {
        let cut = Cut {
            most: usize::MAX,
            energy: Some(energy),
        };
        pollster::block_on(reduced(delta.clone(), cut, &Pace::unwatched())).unwrap()
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
                let cut = cut_to(&delta, rank);
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
                let cut = keeping(&delta, energy);
                assert!(cut.energy_kept >= energy - 1e-12, "{energy}: {}", cut.energy_kept);
                if cut.factors.rank > 1 {
                    let smaller = cut_to(&delta, cut.factors.rank - 1);
                    assert!(
                        smaller.energy_kept < energy,
                        "{energy}: rank {}",
                        cut.factors.rank
                    );
                }
            }
            assert_eq!(keeping(&delta, 1.0).factors.rank, 9);
        }
    }
}
