//! What a merge adds to a tensor that adapters saved whole, a table of tokens for one, some rows at a time where the
//! method allows it.

use std::{borrow::Cow, ops::Range};

use crate::{
    binding::MergeSite,
    error::Result,
    merge::{
        layer::{LayerReport, SolvedLayer},
        truncate::Truncated,
    },
};

/// The change of one such tensor (d_out x d_in).
pub(super) struct WholeChange<'a> {
    site: &'a MergeSite,
    /// All of it, where it cannot be had in rows.
    all: Option<Vec<f32>>,
}

impl<'a> WholeChange<'a> {
    /// The change of a site, and what there is to tell of it.
    ///
    /// # Errors
    /// As [`Truncated::take`].
    pub(super) async fn of(solved: &mut Truncated<'a>, site: &'a MergeSite) -> Result<(Self, LayerReport)> {
        if solved.solution().has_rows(site) {
            let report = LayerReport {
                rank: site.d_out.min(site.d_in),
                energy_kept: Some(1.0),
                error: Some(0.0),
                ..LayerReport::plain(&site.name)
            };
            return Ok((Self { site, all: None }, report));
        }
        let SolvedLayer { delta, report } = solved.take(site).await?;
        let all = Some(delta.into_dense());
        Ok((Self { site, all }, report))
    }

    /// How many rows it has.
    pub(super) const fn d_out(&self) -> usize {
        self.site.d_out
    }

    /// Some of its rows. They are wanted once each, in their order.
    ///
    /// # Errors
    /// As [`Truncated::take_rows`].
    pub(super) async fn rows(
        &self,
        solved: &mut Truncated<'a>,
        rows: Range<usize>,
    ) -> Result<Cow<'_, [f32]>> {
        let width = self.site.d_in;
        Ok(match &self.all {
            Some(all) => Cow::Borrowed(&all[rows.start * width..rows.end * width]),
            None => Cow::Owned(solved.take_rows(self.site, rows).await?),
        })
    }
}
