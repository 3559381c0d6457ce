//! Which least-squares problem a pass solves at every layer: what stands in place of C_i, G_i and lambda_i, and whose
//! features they are of.

use crate::merge::options::{LeastSquares, MergeOptions, Schedule};

/// A least-squares problem of each layer.
pub(in crate::merge::methods) struct Objective {
    /// Whose features are X and Xt.
    pub(in crate::merge::methods) lanes: Lanes,
    /// What becomes of X^T Xt and Xt^T Xt.
    pub(in crate::merge::methods) regularized: Regularized,
    /// What is reproduced.
    pub(in crate::merge::methods) target: LeastSquares,
    /// Whether lambda_i is divided by the layer's output norm.
    pub(in crate::merge::methods) adaptive_weights: bool,
}

/// Whose features a layer is solved on.
#[derive(Clone, Copy)]
pub(in crate::merge::methods) enum Lanes {
    /// X of the task, Xt of the merged model so far, in one pass.
    Sweep,
    /// X of the task, Xt of the merged model of the pass before; so many passes.
    Iterate(usize),
    /// X = Xt of the task: RegMean.
    Tasks,
    /// X = Xt of the task's own block behind the merged blocks before it: RegMean++.
    Rejoining,
}

/// How the products of features are regularised, C_i and G_i alike.
#[derive(Clone, Copy)]
pub(in crate::merge::methods) enum Regularized {
    /// IterIS: plus alpha times their Frobenius norm on the diagonal.
    Ridge {
        /// Of C_i.
        alpha1: f64,
        /// Of G_i.
        alpha2: f64,
    },
    /// RegMean: what lies off the diagonal times this.
    NonDiagonal(f64),
}

impl Objective {
    /// IterIS's.
    pub(in crate::merge::methods) const fn iteris(options: &MergeOptions) -> Self {
        Self {
            lanes: match options.schedule {
                Schedule::Sweep => Lanes::Sweep,
                Schedule::Iterate => Lanes::Iterate(options.max_iter),
            },
            regularized: Regularized::Ridge {
                alpha1: options.alpha1,
                alpha2: options.alpha2,
            },
            target: options.target,
            adaptive_weights: options.adaptive_weights,
        }
    }

    /// RegMean's, or RegMean++'s.
    pub(in crate::merge::methods) const fn regmean(options: &MergeOptions, plus_plus: bool) -> Self {
        Self {
            lanes: if plus_plus { Lanes::Rejoining } else { Lanes::Tasks },
            regularized: Regularized::NonDiagonal(options.non_diagonal),
            target: LeastSquares::Delta,
            adaptive_weights: false,
        }
    }
}
