//! One solved layer, and what there is to tell of it.

use serde::Serialize;

use crate::delta::Delta;

/// One solved layer.
pub struct SolvedLayer {
    /// What the merge adds there.
    pub delta: Delta,
    /// What there is to tell of it.
    pub report: LayerReport,
}

/// One merged layer.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct LayerReport {
    /// The module in the model's naming.
    pub module: String,
    /// The rank that was written (or found, for a merged base model).
    pub rank: usize,
    /// Share of the squared Frobenius norm of the delta that the written rank keeps.
    pub energy_kept: Option<f64>,
    /// ||D* - written||_F / ||D*||_F.
    pub error: Option<f64>,
    /// Estimated condition number of the matrix that was solved.
    pub condition: Option<f64>,
    /// Seconds of the solve.
    pub seconds: f64,
    /// One a task.
    pub tasks: Vec<TaskReport>,
}

impl LayerReport {
    /// A layer of which nothing is to be told yet.
    pub fn plain(module: &str) -> Self {
        Self {
            module: module.to_owned(),
            rank: 0,
            energy_kept: None,
            error: None,
            condition: None,
            seconds: 0.0,
            tasks: Vec::new(),
        }
    }
}

/// One task at one layer.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct TaskReport {
    /// The adapter's name.
    pub task: String,
    /// Its weight in the least-squares problem.
    pub lambda: Option<f64>,
    /// ||X_i D_i^T - Xt_i D*^T||^2 / ||X_i D_i^T||^2; none where the adapter does not target the layer.
    pub residual: Option<f64>,
}
