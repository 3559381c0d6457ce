//! The merge methods. A method is one file here, its name in [`MethodName`] and one entry of
//! [`METHODS`].
//!
//! Most merge one layer at a time from the tasks' changes alone ([`Method::layer`]). Those that look at samples run
//! the model ([`Method::pass`]), and `layer` serves what no pass sees.

mod average;
mod basis;
mod cat;
mod core_space;
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
    progress::Pace,
};

/// What [`Method::layer`] gives, before anything is cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// The adapters' factors side by side; dense where an adapter's change is.
    Stacked,
    /// A dense matrix.
    Dense,
    /// Factors of a rank that depends on the numbers.
    Unknown,
}

/// A way to merge.
#[async_trait(?Send)]
pub trait Method {
    /// Whether it runs the model on calibration samples.
    fn needs_samples(&self) -> bool {
        false
    }
    /// The options that it looks at and that others may not, by their names in [`MergeOptions`]. An option that no
    /// method names is one that all look at.
    fn reads(&self) -> &'static [&'static str] {
        &[]
    }
    /// The rank to which its result is cut where the caller asks for none; `largest` is that of the adapters.
    fn rank(&self, _options: &MergeOptions, _largest: usize) -> Option<usize> {
        None
    }
    /// What a layer's delta is.
    fn form(&self, _options: &MergeOptions) -> Form {
        Form::Stacked
    }
    /// How many times its change a lone adapter of that weight becomes, where the method does nothing else to it.
    fn alone(&self, _options: &MergeOptions, _weight: f64) -> Option<f64> {
        None
    }
    /// The merged delta of one parameter.
    ///
    /// # Errors
    /// Numbers that overflow, naming the layer.
    async fn layer(&self, layer: &Layer<'_>) -> Result<Delta>;
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
    /// Lets others run in the midst of a wide layer.
    pub pace: &'a Pace<'a>,
}

impl Layer<'_> {
    /// `sum_i factor w_i D_i`, exactly.
    pub fn weighted_sum(&self, factor: f64) -> Delta {
        Delta::sum(self.parts.iter().map(|part| (factor * part.weight, &part.delta)))
    }
}

/// A method with what people choose it by, and what is told beside its result.
pub struct MethodFacts {
    /// The name that options and the command line use.
    pub name: MethodName,
    /// What people call it.
    pub title: &'static str,
    /// One sentence that tells it from the others.
    pub hint: &'static str,
    /// The paper's number on arXiv, of a method that has one.
    pub paper: Option<&'static str>,
    /// What it does.
    pub method: &'static dyn Method,
}

/// Every method, those that look at samples first.
pub const METHODS: &[MethodFacts] = &[
    MethodFacts {
        name: MethodName::Iteris,
        title: "IterIS",
        hint: "Solves every layer so that each task keeps what its own adapter does there.",
        paper: Some("2411.15231"),
        method: &iteris::Iteris,
    },
    MethodFacts {
        name: MethodName::Regmean,
        title: "RegMean",
        hint: "Solves every layer on what it sees under each adapter alone.",
        paper: Some("2212.09849"),
        method: &regmean::Regmean { plus_plus: false },
    },
    MethodFacts {
        name: MethodName::RegmeanPlusPlus,
        title: "RegMean++",
        hint: "RegMean on what a layer sees behind the layers that are already merged.",
        paper: Some("2508.03121"),
        method: &regmean::Regmean { plus_plus: true },
    },
    MethodFacts {
        name: MethodName::Average,
        title: "Linear average",
        hint: "The weighted mean of the adapters.",
        paper: None,
        method: &average::Average,
    },
    MethodFacts {
        name: MethodName::Linear,
        title: "Linear sum",
        hint: "The weighted sum of the adapters, exactly: without the cross terms of PEFT’s linear.",
        paper: None,
        method: &linear::Linear,
    },
    MethodFacts {
        name: MethodName::TaskArithmetic,
        title: "Task arithmetic",
        hint: "The weighted sum of the adapters, scaled.",
        paper: Some("2212.04089"),
        method: &task_arithmetic::TaskArithmetic,
    },
    MethodFacts {
        name: MethodName::Cat,
        title: "Concatenation",
        hint: "The adapters’ factors side by side: the weighted sum, kept as it is.",
        paper: None,
        method: &cat::Cat,
    },
    MethodFacts {
        name: MethodName::Svd,
        title: "Sum, cut by SVD",
        hint: "The weighted sum, cut to the best approximation of a smaller rank.",
        paper: None,
        method: &svd::Svd,
    },
    MethodFacts {
        name: MethodName::Ties,
        title: "TIES",
        hint: "Drops small changes, lets each number’s sign be voted on, and averages those that agree.",
        paper: Some("2306.01708"),
        method: &ties::Ties { svd: false },
    },
    MethodFacts {
        name: MethodName::TiesSvd,
        title: "TIES, cut by SVD",
        hint: "TIES, then the best approximation of a smaller rank.",
        paper: Some("2306.01708"),
        method: &ties::Ties { svd: true },
    },
    MethodFacts {
        name: MethodName::DareLinear,
        title: "DARE",
        hint: "Drops changes at random, scales up the rest, and sums.",
        paper: Some("2311.03099"),
        method: &dare_linear::DareLinear { svd: false },
    },
    MethodFacts {
        name: MethodName::DareLinearSvd,
        title: "DARE, cut by SVD",
        hint: "DARE, then the best approximation of a smaller rank.",
        paper: Some("2311.03099"),
        method: &dare_linear::DareLinear { svd: true },
    },
    MethodFacts {
        name: MethodName::DareTies,
        title: "DARE with TIES",
        hint: "Drops changes at random, scales up the rest, and merges them by TIES’ vote.",
        paper: Some("2311.03099"),
        method: &dare_ties::DareTies { svd: false },
    },
    MethodFacts {
        name: MethodName::DareTiesSvd,
        title: "DARE with TIES, cut by SVD",
        hint: "DARE with TIES, then the best approximation of a smaller rank.",
        paper: Some("2311.03099"),
        method: &dare_ties::DareTies { svd: true },
    },
    MethodFacts {
        name: MethodName::MagnitudePrune,
        title: "Magnitude pruning",
        hint: "Drops small changes and sums the rest.",
        paper: None,
        method: &magnitude_prune::MagnitudePrune { svd: false },
    },
    MethodFacts {
        name: MethodName::MagnitudePruneSvd,
        title: "Magnitude pruning, cut by SVD",
        hint: "Magnitude pruning, then the best approximation of a smaller rank.",
        paper: None,
        method: &magnitude_prune::MagnitudePrune { svd: true },
    },
    MethodFacts {
        name: MethodName::Knots,
        title: "KnOTS",
        hint: "Brings the adapters into one common basis by an SVD and merges them there by TIES.",
        paper: Some("2410.19735"),
        method: &knots::Knots,
    },
];

impl MethodName {
    /// What there is to tell of the method of that name.
    pub fn facts(self) -> Option<&'static MethodFacts> {
        METHODS.iter().find(|facts| facts.name == self)
    }

    /// The method of that name.
    pub fn find(self) -> &'static dyn Method {
        self.facts().map_or(&linear::Linear, |facts| facts.method)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::{METHODS, MethodName};
    use crate::merge::options::MergeOptions;

    #[test]
    fn every_name_has_a_method_of_its_own() {
        let names: BTreeSet<MethodName> = METHODS.iter().map(|facts| facts.name).collect();
        assert_eq!(names.len(), METHODS.len());
        // serde's refusal lists every name that it reads; one of them is an old spelling.
        let refusal = serde_json::from_str::<MethodName>("\"none\"")
            .unwrap_err()
            .to_string();
        let (_, list) = refusal.split_once("expected ").unwrap();
        let known: BTreeSet<MethodName> = list
            .split('`')
            .skip(1)
            .step_by(2)
            .map(|name| serde_json::from_value(name.into()).unwrap())
            .collect();
        assert_eq!(names, known);
    }

    #[test]
    fn what_a_method_reads_are_options() {
        for facts in METHODS {
            for name in facts.method.reads() {
                let known = MergeOptions::OPTIONS.iter().any(|option| option.name == *name);
                assert!(known, "{} reads {name}", facts.title);
            }
        }
    }
}
