//! From sums over samples to one layer's merged delta.
//!
//! What is as large as a Gram matrix is made of the Gram matrices: where no other layer needs them, S takes their place, and
//! its factor that of S.

use std::{borrow::Cow, mem};

use crate::{
    compute::{
        Symmetric,
        gemm::{Part, View, multiply},
        narrow,
    },
    delta::{Delta, Dense, LowRank},
    error::{Code, Error, Result},
    merge::{
        context::{SolveContext, Task},
        methods::iteris::{
            factor::factor,
            objective::{Objective, Regularized},
            statistics::{Cross, GroupStatistics, TaskStatistics},
        },
        options::LeastSquares,
    },
    model::projection::Projection,
};

/// A layer's solution.
pub(super) struct Solution {
    /// D*.
    pub(super) delta: Delta,
    /// lambda, one a task.
    pub(super) lambdas: Vec<f64>,
    /// An estimate of the condition number of S.
    pub(super) condition: f64,
}

/// The linear system of one member of a group.
pub(super) struct System<'a> {
    pub(super) work: &'a SolveContext<'a>,
    pub(super) objective: &'a Objective,
    pub(super) statistics: &'a mut GroupStatistics,
    pub(super) member: usize,
    pub(super) layer: &'a Projection,
    /// Whether no other layer is solved from these Gram matrices, so that they are used up.
    pub(super) last: bool,
}

/// A regularised product of features: `factor` times it, plus a diagonal.
struct Form {
    factor: f64,
    diagonal: Vec<f64>,
}

impl System<'_> {
    /// D*.
    ///
    /// # Errors
    /// [`Code::NotPositiveDefinite`] naming the layer; [`Code::NotFinite`] if the features overflow; what goes wrong in a
    /// worker that helps.
    pub(super) async fn solve(mut self, weight_norms: &[f64]) -> Result<Solution> {
        let lambdas = self.lambdas(weight_norms)?;
        let unseen = self.unseen();
        let crosses = self.crosses(&unseen)?;
        let factored = self.objective.target == LeastSquares::Delta
            && self.deltas().all(|(_, delta)| delta.as_low_rank().is_some());
        let mut right = if factored {
            self.right_factors(&lambdas, &crosses)
        } else {
            self.right_dense(&lambdas, &crosses)?
        };
        let s = self.s(&lambdas, &unseen);
        let largest = s.largest_eigenvalue();
        let cholesky = factor(s, &self.work.crew)
            .await?
            .map_err(|at| self.singular(at.row))?;
        let condition = largest / cholesky.smallest_eigenvalue();
        cholesky.solve_rows(&mut right);
        Ok(Solution {
            delta: if factored {
                Delta::LowRank(self.stacked(right))
            } else {
                self.dense(right)?
            },
            lambdas,
            condition,
        })
    }

    /// S = sum_i lambda_i G_i.
    fn s(&mut self, lambdas: &[f64], unseen: &[bool]) -> Symmetric {
        let grams: Vec<Form> = self
            .statistics
            .tasks
            .iter()
            .map(|sums| self.gram(sums, unseen))
            .collect();
        let mut s = None;
        for ((sums, form), lambda) in self.statistics.tasks.iter_mut().zip(grams).zip(lambdas) {
            let scale = lambda * form.factor;
            let gram = if self.last {
                Cow::Owned(mem::take(&mut sums.gram))
            } else {
                Cow::Borrowed(&sums.gram)
            };
            let s = match &mut s {
                None => {
                    let mut first = gram.into_owned();
                    first.scale(scale);
                    s.insert(first)
                }
                Some(s) => {
                    match gram {
                        Cow::Owned(gram) => s.add_scaled(scale, gram),
                        Cow::Borrowed(gram) => s.add_scaled(scale, gram),
                    }
                    s
                }
            };
            s.add_to_diagonal(form.diagonal.iter().map(|x| lambda * x));
        }
        s.unwrap_or_default()
    }

    fn lambdas(&self, weight_norms: &[f64]) -> Result<Vec<f64>> {
        let mut lambdas = Vec::with_capacity(self.work.tasks.len());
        for ((task, sums), norm) in self
            .work
            .tasks
            .iter()
            .zip(&self.statistics.tasks)
            .zip(weight_norms)
        {
            let output_norm = sums.members[self.member].output_norm;
            let weight = task.weight_at(&self.layer.name);
            let lambda = if self.objective.adaptive_weights {
                weight * norm / output_norm
            } else {
                weight
            };
            if !(lambda.is_finite() && lambda > 0.0) {
                return Err(Error::new(
                    Code::NotFinite,
                    format!(
                        "task \"{}\": the layer's output has squared norm {output_norm}, so its weight lambda is {lambda}; the samples or the adapter overflow, or the layer is dead; layer: {}",
                        task.name, self.layer.name
                    ),
                ));
            }
            lambdas.push(lambda);
        }
        Ok(lambdas)
    }

    /// lambda_i A_i C_i^T below each other (sum of ranks x d_in).
    fn right_factors(&self, lambdas: &[f64], crosses: &[Form]) -> Vec<f64> {
        let mut right = Vec::new();
        for (index, delta) in self.deltas() {
            let Some(factors) = delta.as_low_rank() else {
                continue;
            };
            let (sums, lambda) = (&self.statistics.tasks[index], lambdas[index]);
            let Form { factor, diagonal } = &crosses[index];
            let projected = self.projected(sums, factors);
            let places = projected
                .iter()
                .zip(&factors.a)
                .zip(diagonal.iter().cycle().take(projected.len()));
            right.extend(places.map(|((sum, &a), ridge)| lambda * (factor * sum + ridge * f64::from(a))));
        }
        right
    }

    /// The A*_i = lambda_i A_i C_i^T S^-1 with the B_i.
    fn stacked(&self, solved: Vec<f64>) -> LowRank {
        let parts = self.deltas().filter_map(|(_, delta)| delta.as_low_rank());
        let parts: Vec<(f64, &LowRank)> = parts.map(|part| (1.0, part)).collect();
        let mut stacked = LowRank::sum(&parts);
        stacked.a = solved.into_iter().map(narrow).collect();
        stacked
    }

    /// A_i (X_i^T Xt_i), as it was summed, or from the Gram matrix where the features are the same.
    fn projected<'a>(&self, sums: &'a TaskStatistics, factors: &LowRank) -> Cow<'a, [f64]> {
        let summed = &sums.members[self.member].projected;
        if !summed.is_empty() {
            return Cow::Borrowed(summed);
        }
        let (d_in, rank) = (self.statistics.d_in, factors.rank);
        let mut product = vec![0.0; rank * d_in];
        sums.gram
            .add_product(1.0, View::new(&factors.a, rank, d_in), &mut product);
        Cow::Owned(product)
    }

    /// sum_i lambda_i D_i C_i^T (d_out x d_in); with the whole layer as target W0 + D_i stands for D_i.
    fn right_dense(&self, lambdas: &[f64], crosses: &[Form]) -> Result<Vec<f64>> {
        let d_in = self.statistics.d_in;
        let d_out = self.layer.weight.d_out();
        let full = self.objective.target == LeastSquares::Full;
        let w0 = if full {
            self.layer.host()?.widened()
        } else {
            Vec::new()
        };
        let mut right = vec![0.0; d_out * d_in];
        let tasks = self.work.tasks.iter().zip(&self.statistics.tasks);
        for ((task, sums), (lambda, form)) in tasks.zip(lambdas.iter().zip(crosses)) {
            let own = task.deltas.get(&self.layer.name);
            if own.is_none() && !full {
                continue;
            }
            let mut wanted: Vec<f64> = if full {
                w0.iter().map(|&x| f64::from(x)).collect()
            } else {
                vec![0.0; d_out * d_in]
            };
            if let Some(delta) = own {
                delta.add_to(1.0, &mut wanted);
            }
            let Form { factor, diagonal } = form;
            let (left, scale) = (View::new(&wanted, d_out, d_in), lambda * factor);
            match &sums.cross {
                Cross::Whole(cross) => {
                    let cross = View::new(cross, d_in, d_in).transposed();
                    multiply(left, cross, scale, Part::Full, &mut right, d_in);
                }
                Cross::Same | Cross::Squares(_) => sums.gram.add_product(scale, left, &mut right),
            }
            let ridges = diagonal.iter().cycle();
            for ((to, x), ridge) in right.iter_mut().zip(&wanted).zip(ridges) {
                *to += lambda * ridge * x;
            }
        }
        Ok(right)
    }

    /// D* = (sum_i lambda_i D_i C_i^T) S^-1; with the whole layer as target W0 is subtracted.
    fn dense(&self, solved: Vec<f64>) -> Result<Delta> {
        let d_in = self.statistics.d_in;
        let d_out = solved.len() / d_in;
        let data = match self.objective.target {
            LeastSquares::Full => {
                let moved = solved.into_iter().zip(self.layer.host()?.widened());
                moved.map(|(x, w)| narrow(x - f64::from(w))).collect()
            }
            LeastSquares::Delta => solved.into_iter().map(narrow).collect(),
        };
        Ok(Delta::Dense(Dense { data, d_out, d_in }))
    }

    /// The tasks' changes of the layer, with the places of the tasks.
    fn deltas(&self) -> impl Iterator<Item = (usize, &Delta)> {
        let tasks = self.work.tasks.iter().enumerate();
        tasks.filter_map(|(index, task)| Some((index, task.deltas.get(&self.layer.name)?)))
    }

    /// G_i.
    fn gram(&self, sums: &TaskStatistics, unseen: &[bool]) -> Form {
        let d_in = self.statistics.d_in;
        match self.objective.regularized {
            Regularized::Ridge { alpha2, .. } => Form::ridge(alpha2 * sums.gram.norm(), d_in),
            Regularized::NonDiagonal(factor) => Form::non_diagonal(factor, sums, unseen),
        }
    }

    /// C_i, one a task.
    fn crosses(&self, unseen: &[bool]) -> Result<Vec<Form>> {
        let d_in = self.statistics.d_in;
        let tasks = self.work.tasks.iter().zip(&self.statistics.tasks);
        let form = |(task, sums): (&Task, &TaskStatistics)| match self.objective.regularized {
            Regularized::Ridge { alpha1, .. } => {
                let norm = sums.cross_norm();
                if !norm.is_finite() {
                    return Err(Error::new(
                        Code::NotFinite,
                        format!(
                            "task \"{}\": the products of the layer's features overflow; the samples or the adapter are out of range; layer: {}",
                            task.name, self.layer.name
                        ),
                    ));
                }
                Ok(Form::ridge(alpha1 * norm, d_in))
            }
            Regularized::NonDiagonal(factor) => Ok(Form::non_diagonal(factor, sums, unseen)),
        };
        tasks.map(form).collect()
    }

    /// The inputs that are zero in every sample.
    fn unseen(&self) -> Vec<bool> {
        let mut unseen = vec![true; self.statistics.d_in];
        for sums in &self.statistics.tasks {
            let diagonal = sums.gram.diagonal();
            unseen
                .iter_mut()
                .zip(diagonal)
                .for_each(|(unseen, x)| *unseen &= x == 0.0);
        }
        unseen
    }

    fn singular(&self, row: usize) -> Error {
        let remedy = match self.objective.regularized {
            Regularized::Ridge { alpha2, .. } => format!("raise alpha2 (now {alpha2:e})"),
            Regularized::NonDiagonal(factor) => format!("lower nonDiagonal (now {factor})"),
        };
        Error::new(
            Code::NotPositiveDefinite,
            format!(
                "the Gram matrix has no positive pivot in row {row} of {}; {remedy} or give more calibration samples; layer: {}",
                self.statistics.d_in, self.layer.name
            ),
        )
    }
}

impl Form {
    fn ridge(ridge: f64, d_in: usize) -> Self {
        Self {
            factor: 1.0,
            diagonal: vec![ridge; d_in],
        }
    }

    /// a G + (1 - a) diag(G), and one where nothing is seen of any task: the limit of a common ridge there.
    fn non_diagonal(factor: f64, sums: &TaskStatistics, unseen: &[bool]) -> Self {
        let entry = |(x, &unseen): (f64, &bool)| if unseen { 1.0 } else { (1.0 - factor) * x };
        Self {
            factor,
            diagonal: sums.gram.diagonal().into_iter().zip(unseen).map(entry).collect(),
        }
    }
}
