//! Where the numbers of an adapter's file come from: the sites of a merge, solved when their layer is wanted, or the
//! modules of a lone adapter.

use std::collections::BTreeMap;

use crate::{
    adapter::{FileLayer, FilePlan, Lora, Module, Scale, Shape},
    binding::MergeSite,
    delta::{Delta, LowRank},
    error::Result,
    merge::{layer::LayerReport, truncate::Truncated},
    naming::ModulePath,
};

/// Where the numbers of a file's layers come from.
pub(super) struct Source<'a, 'w> {
    pub(super) solved: &'w mut Truncated<'a>,
    pub(super) reports: &'w mut BTreeMap<String, LayerReport>,
    pub(super) sites: BTreeMap<ModulePath, Vec<&'a MergeSite>>,
    /// The modules of a lone adapter whose numbers stay as they are.
    pub(super) lone: Option<BTreeMap<ModulePath, Module>>,
    /// Biases of the upper factors.
    pub(super) added: &'w BTreeMap<String, Vec<f32>>,
    /// Tensors that are saved whole, by their names in the file.
    pub(super) whole: BTreeMap<String, &'a MergeSite>,
}

impl<'a> Source<'a, '_> {
    /// Rank and scale of every layer, where none of them depends on the numbers.
    pub(super) fn scales(&self, plan: &FilePlan) -> Option<Vec<Scale>> {
        let known = |layer| Some(self.asked_for(layer, self.known(layer)?));
        plan.layers.iter().map(known).collect()
    }

    fn known(&self, layer: &FileLayer) -> Option<Scale> {
        if let Some(modules) = &self.lone {
            let parts: Option<Vec<&Module>> = layer
                .parts
                .iter()
                .map(|path| modules.get(path.as_ref()?.as_str()))
                .collect();
            let parts = parts?;
            let first = parts.first()?;
            let alike = |part: &&Module| {
                part.shares_lower(first) && part.scaling.to_bits() == first.scaling.to_bits()
            };
            return (parts.len() == 1 || parts.iter().all(alike)).then_some(Scale {
                rank: first.rank,
                scaling: first.scaling,
            });
        }
        let rank = if layer.shape.layer.products() > 1 {
            let experts = self.sites_of(layer.parts.first()?.as_ref()?);
            let ranks = experts
                .iter()
                .map(|&site| self.solved.rank_of(&[Some(site)], &layer.heights));
            ranks.collect::<Option<Vec<usize>>>()?.into_iter().max()?
        } else {
            self.solved.rank_of(&self.parts(layer), &layer.heights)?
        };
        Some(Scale { rank, scaling: 1.0 })
    }

    /// The scale with the rank that the caller asked for, where the layer has room for it.
    pub(super) fn asked_for(&self, layer: &FileLayer, own: Scale) -> Scale {
        let room = layer.shape.d_out.min(layer.shape.d_in);
        let asked = self.solved.asked_rank().map_or(0, |rank| rank.min(room));
        Scale {
            rank: own.rank.max(asked),
            ..own
        }
    }

    pub(super) fn sites_of(&self, path: &ModulePath) -> &[&'a MergeSite] {
        self.sites.get(path.as_str()).map_or(&[], Vec::as_slice)
    }

    /// Says which layers will be taken, in their order.
    pub(super) fn expect<'l>(&mut self, order: impl IntoIterator<Item = &'l FileLayer>) {
        if self.lone.is_some() {
            return;
        }
        let mut layers = Vec::new();
        for layer in order {
            let heights = layer.heights.as_slice();
            if layer.shape.layer.products() > 1 {
                let experts = layer.parts.first().and_then(Option::as_ref);
                let experts = experts.map_or(&[][..], |path| self.sites_of(path));
                layers.extend(experts.iter().map(|&site| (vec![Some(site)], heights)));
            } else {
                layers.push((self.parts(layer), heights));
            }
        }
        self.solved.expect(layers);
    }

    fn parts(&self, layer: &FileLayer) -> Vec<Option<&'a MergeSite>> {
        let site = |path: &Option<ModulePath>| self.sites_of(path.as_ref()?).first().copied();
        layer.parts.iter().map(site).collect()
    }

    /// The update of a layer.
    pub(super) async fn take(&mut self, layer: &FileLayer) -> Result<Lora> {
        if self.lone.is_some() {
            return self.untouched(layer).await;
        }
        if layer.shape.layer.products() > 1 {
            return self.experts(layer).await;
        }
        let parts = self.parts(layer);
        let solved = self.solved.take_factors(&parts, &layer.heights).await?;
        self.report(solved.reports);
        let mut factors = solved
            .parts
            .into_iter()
            .map(|part| part.and_then(Delta::into_low_rank));
        let update = |factors: LowRank| Lora {
            a: factors.a,
            b: factors.b,
            rank: factors.rank,
            d_in: factors.d_in,
            d_out: factors.d_out,
            scaling: 1.0,
            layer: layer.shape.layer.clone(),
            ..Lora::default()
        };
        let mut lora = if solved.whole {
            factors.next().flatten().map_or_else(Lora::default, update)
        } else {
            layer.fused(factors.map(|part| part.map(update)).collect())
        };
        if let [Some(path)] = layer.parts.as_slice() {
            lora.bias = bias(self.added, path, lora.d_out);
        }
        Ok(lora)
    }

    async fn untouched(&mut self, layer: &FileLayer) -> Result<Lora> {
        let mut parts = Vec::with_capacity(layer.parts.len());
        for path in &layer.parts {
            let module = path.as_ref().and_then(|path| {
                let modules = self.lone.as_ref()?;
                modules.get(path.as_str())
            });
            let Some(module) = module else {
                parts.push(None);
                continue;
            };
            parts.push(Some(module.load().await?));
            let sites = path.iter().flat_map(|path| self.sites_of(path));
            let told = sites.map(|site| LayerReport {
                rank: module.rank,
                energy_kept: Some(1.0),
                error: Some(0.0),
                ..LayerReport::plain(&site.name)
            });
            let told = told.collect();
            self.report(told);
        }
        Ok(layer.fused(parts))
    }

    /// The update of a parameter that has a matrix for each expert.
    async fn experts(&mut self, layer: &FileLayer) -> Result<Lora> {
        let path = layer.parts.first().and_then(Option::as_ref);
        let sites: Vec<&MergeSite> = path.map_or_else(Vec::new, |path| self.sites_of(path).to_vec());
        let mut experts = Vec::with_capacity(sites.len());
        for site in sites {
            let solved = self.solved.take_factors(&[Some(site)], &layer.heights).await?;
            self.report(solved.reports);
            experts.extend(
                solved
                    .parts
                    .into_iter()
                    .flatten()
                    .filter_map(Delta::into_low_rank),
            );
        }
        let rank = experts.iter().map(|factors| factors.rank).max().unwrap_or(1);
        let experts: Vec<LowRank> = experts.into_iter().map(|factors| factors.padded(rank)).collect();
        let Shape { d_out, d_in, .. } = layer.shape;
        let mut b = Vec::with_capacity(d_out * rank * experts.len());
        for at in 0..d_out * rank {
            b.extend(experts.iter().map(|factors| factors.b[at]));
        }
        Ok(Lora {
            a: experts.into_iter().flat_map(|factors| factors.a).collect(),
            b,
            rank,
            d_in,
            d_out,
            scaling: 1.0,
            layer: layer.shape.layer.clone(),
            ..Lora::default()
        })
    }

    fn report(&mut self, reports: Vec<LayerReport>) {
        for report in reports {
            self.reports.insert(report.module.clone(), report);
        }
    }
}

/// The bias of a module's upper factor, which all modules have or none.
fn bias(added: &BTreeMap<String, Vec<f32>>, path: &ModulePath, d_out: usize) -> Option<Vec<f32>> {
    let own = || added.get(path.as_str()).cloned();
    (!added.is_empty()).then(|| own().unwrap_or_else(|| vec![0.0; d_out]))
}
