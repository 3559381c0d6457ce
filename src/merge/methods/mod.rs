//! The merge methods. A method is one file here and one line in [`METHODS`].
//!
//! Most merge one layer at a time from the tasks' changes alone ([`Method::layer`]). Those that look at samples run
//! the model ([`Method::pass`]), and `layer` serves what no pass sees.

mod average;
mod cat;
mod dare_linear;
mod dare_ties;
mod elementwise;
pub mod iteris;
mod knots;
mod linear;
mod magnitude_prune;
mod prune;
mod regmean;
mod signs;
mod svd;
mod task_arithmetic;
mod ties;

use async_trait::async_trait;

use crate::{
    binding::Part,
    delta::Delta,
    error::Result,
    merge::{
        context::SolveContext,
        layer::SolvedLayer,
        options::{MergeOptions, MethodName},
    },
};

/// A way to merge.
#[async_trait(?Send)]
pub trait Method {
    /// Whether it runs the model on calibration samples.
    fn needs_samples(&self) -> bool {
        false
    }
    /// The rank to which its result is cut where the caller asks for none; `largest` is that of the adapters.
    fn rank(&self, _options: &MergeOptions, _largest: usize) -> Option<usize> {
        None
    }
    /// How many times its change a lone adapter of that weight becomes, where the method does nothing else to it.
    fn alone(&self, _options: &MergeOptions, _weight: f64) -> Option<f64> {
        None
    }
    /// The merged delta of one parameter.
    ///
    /// # Errors
    /// Numbers that overflow, naming the layer.
    fn layer(&self, layer: &Layer<'_>) -> Result<Delta>;
    /// The linear layers that a pass of the model sees, solved, in the order of the forward pass.
    ///
    /// # Errors
    /// Whatever reading weights, the device or the mathematics reports, and cancellation.
    async fn pass(&self, _context: &SolveContext<'_>) -> Result<Vec<SolvedLayer>> {
        Ok(Vec::new())
    }
}

/// One parameter, with the deltas of the tasks.
pub struct Layer<'a> {
    /// The module's path in the base's own naming.
    pub name: &'a str,
    /// Outputs.
    pub d_out: usize,
    /// Inputs.
    pub d_in: usize,
    /// The deltas, in the order of the adapters; not empty.
    pub parts: Vec<Part<'a>>,
    /// The weights of all adapters here, also of those that change nothing.
    pub weights: &'a [f64],
    /// The options.
    pub options: &'a MergeOptions,
}

impl Layer<'_> {
    /// `sum_i factor w_i D_i`, exactly.
    pub fn weighted_sum(&self, factor: f64) -> Delta {
        Delta::sum(self.parts.iter().map(|part| (factor * part.weight, &part.delta)))
    }
}

/// Every method, by the name that options and the command line use.
pub const METHODS: &[(MethodName, &dyn Method)] = &[
    (MethodName::Iteris, &iteris::Iteris),
    (MethodName::Regmean, &regmean::Regmean { plus_plus: false }),
    (MethodName::RegmeanPlusPlus, &regmean::Regmean { plus_plus: true }),
    (MethodName::Average, &average::Average),
    (MethodName::Linear, &linear::Linear),
    (MethodName::TaskArithmetic, &task_arithmetic::TaskArithmetic),
    (MethodName::Cat, &cat::Cat),
    (MethodName::Svd, &svd::Svd),
    (MethodName::Ties, &ties::Ties { svd: false }),
    (MethodName::TiesSvd, &ties::Ties { svd: true }),
    (MethodName::DareLinear, &dare_linear::DareLinear { svd: false }),
    (MethodName::DareLinearSvd, &dare_linear::DareLinear { svd: true }),
    (MethodName::DareTies, &dare_ties::DareTies { svd: false }),
    (MethodName::DareTiesSvd, &dare_ties::DareTies { svd: true }),
    (
        MethodName::MagnitudePrune,
        &magnitude_prune::MagnitudePrune { svd: false },
    ),
    (
        MethodName::MagnitudePruneSvd,
        &magnitude_prune::MagnitudePrune { svd: true },
    ),
    (MethodName::Knots, &knots::Knots),
];

impl MethodName {
    /// The method of that name.
    pub fn find(self) -> &'static dyn Method {
        METHODS
            .iter()
            .find(|(name, _)| *name == self)
            .map_or(&linear::Linear as &dyn Method, |(_, method)| *method)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_has_a_method_of_its_own() {
        let names: std::collections::BTreeSet<MethodName> = METHODS.iter().map(|(name, _)| *name).collect();
        assert_eq!(names.len(), METHODS.len());
        // The match fails to compile when a name is added without thinking of this list.
        let count = |name: MethodName| match name {
            MethodName::Iteris
            | MethodName::Regmean
            | MethodName::RegmeanPlusPlus
            | MethodName::Average
            | MethodName::Linear
            | MethodName::TaskArithmetic
            | MethodName::Cat
            | MethodName::Svd
            | MethodName::Ties
            | MethodName::TiesSvd
            | MethodName::DareLinear
            | MethodName::DareLinearSvd
            | MethodName::DareTies
            | MethodName::DareTiesSvd
            | MethodName::MagnitudePrune
            | MethodName::MagnitudePruneSvd
            | MethodName::Knots => 1,
        };
        assert_eq!(names.into_iter().map(count).sum::<usize>(), 17);
    }
}
