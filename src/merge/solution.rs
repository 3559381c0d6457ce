//! What a merge finds: solved layers, handed over one at a time, and what there is to tell of each.
//!
//! A method that runs the model solves its layers in its pass; everything else is merged when the layer is asked for,
//! so that no more than one dense delta is in memory. Each layer is computed once and belongs to whoever took it.

use std::{collections::BTreeMap, ops::Range};

use crate::{
    binding::{Binding, MergeSite},
    compute::Compute,
    delta::Delta,
    error::Result,
    merge::{
        layer::{LayerReport, SolvedLayer},
        methods::{Form, Layer, Method},
        options::MergeOptions,
    },
    progress::{Observer, Pace, Progress},
};

/// The layers of a merge. See the module.
pub struct Solution<'a> {
    /// What was held against what.
    pub binding: &'a Binding<'a>,
    /// How it is merged.
    pub method: &'static dyn Method,
    /// With which options.
    pub options: &'a MergeOptions,
    /// The device, whose clock progress tells.
    pub compute: &'a Compute,
    /// Told of every layer; may cancel.
    pub observer: &'a dyn Observer,
    /// By module: what the method's pass solved and nobody has taken yet.
    passed: BTreeMap<String, SolvedLayer>,
    /// The modules of the pass, in its order.
    order: Vec<String>,
    taken: usize,
}

impl<'a> Solution<'a> {
    /// The solution of `method`, whose pass has solved `passed`.
    pub fn new(
        binding: &'a Binding<'a>,
        options: &'a MergeOptions,
        passed: Vec<SolvedLayer>,
        compute: &'a Compute,
        observer: &'a dyn Observer,
    ) -> Self {
        let order = passed.iter().map(|layer| layer.report.module.clone()).collect();
        let passed = passed
            .into_iter()
            .map(|layer| (layer.report.module.clone(), layer))
            .collect();
        Self {
            binding,
            method: options.method.find(),
            options,
            compute,
            observer,
            passed,
            order,
            taken: 0,
        }
    }

    /// Takes a layer that was solved before, such as a bias that the pass ran with.
    pub fn hold(&mut self, layer: SolvedLayer) {
        self.passed.insert(layer.report.module.clone(), layer);
    }

    /// The delta of a site that is solved and was not taken yet.
    pub fn passed(&self, site: &MergeSite) -> Option<&Delta> {
        self.passed.get(&site.name).map(|layer| &layer.delta)
    }

    /// Where the merge is, at the layer that was asked for last.
    pub fn progress(&self, layer: &str) -> Progress {
        Progress {
            stage: "merge",
            layer: layer.to_owned(),
            done: self.taken.saturating_sub(1),
            total: self.binding.sites.len(),
            seconds: self.compute.meter.elapsed(),
            written: self.compute.meter.written(),
        }
    }

    /// The layer of one of the binding's sites, in whatever order the caller wants them.
    ///
    /// # Errors
    /// As [`merged`] and [`Binding::parts`], and cancellation.
    pub async fn take(&mut self, site: &'a MergeSite) -> Result<SolvedLayer> {
        self.taken += 1;
        if let Some(layer) = self.passed.remove(&site.name) {
            return Ok(layer);
        }
        let progress = self.progress(&site.name);
        self.observer.progress(progress.clone()).await?;
        let now = || self.compute.meter.elapsed();
        let pace = Pace::new(self.observer, &now, progress);
        let delta = merged(self.binding, self.method, self.options, site, &pace).await?;
        let report = LayerReport {
            rank: delta.rank(),
            ..LayerReport::plain(&site.name)
        };
        Ok(SolvedLayer { delta, report })
    }

    /// Counts layers that other workers have solved.
    ///
    /// # Errors
    /// Cancellation.
    pub(super) async fn solved_elsewhere(&mut self, names: &[&str]) -> Result<()> {
        self.taken += names.len();
        match names.last() {
            Some(name) => self.observer.progress(self.progress(name)).await,
            None => Ok(()),
        }
    }

    /// Whether a site can be had [in rows](Solution::take_rows): a tensor that was saved whole, by a method that makes
    /// each number of the tasks' numbers in its place alone.
    pub fn has_rows(&self, site: &MergeSite) -> bool {
        site.has_rows() && self.method.form(self.options) == Form::Stacked && self.passed(site).is_none()
    }

    /// Some rows of what [`Solution::take`] gives, so that a table of hundreds of megabytes is never in memory for every
    /// adapter at once.
    ///
    /// # Errors
    /// As [`Solution::take`].
    pub async fn take_rows(&mut self, site: &'a MergeSite, rows: Range<usize>) -> Result<Vec<f32>> {
        if rows.start == 0 {
            self.taken += 1;
        }
        let progress = self.progress(&site.name);
        self.observer.progress(progress.clone()).await?;
        let now = || self.compute.meter.elapsed();
        let pace = Pace::new(self.observer, &now, progress);
        let delta = merged_rows(self.binding, self.method, self.options, site, rows, &pace).await?;
        Ok(delta.into_dense())
    }

    /// Reports in the order of the forward pass, what no pass reached after it.
    pub fn in_order(&self, reports: impl IntoIterator<Item = LayerReport>) -> Vec<LayerReport> {
        let place = |report: &LayerReport| self.order.iter().position(|name| *name == report.module);
        let mut reports: Vec<LayerReport> = reports.into_iter().collect();
        reports.sort_by_key(|report| place(report).unwrap_or(usize::MAX));
        reports
    }
}

/// What `method` makes of the tasks' deltas at one site.
///
/// # Errors
/// As [`Method::layer`] and [`Binding::parts`].
pub async fn merged(
    binding: &Binding<'_>,
    method: &dyn Method,
    options: &MergeOptions,
    site: &MergeSite,
    pace: &Pace<'_>,
) -> Result<Delta> {
    merged_rows(binding, method, options, site, 0..site.d_out, pace).await
}

async fn merged_rows(
    binding: &Binding<'_>,
    method: &dyn Method,
    options: &MergeOptions,
    site: &MergeSite,
    rows: Range<usize>,
    pace: &Pace<'_>,
) -> Result<Delta> {
    let layer = Layer {
        name: &site.name,
        d_out: rows.len(),
        d_in: site.d_in,
        parts: binding.parts_of_rows(site, rows).await?,
        weights: &site.weights,
        options,
        pace,
    };
    method.layer(&layer).await
}
