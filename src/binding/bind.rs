//! An adapter's modules held against a base's: which parameter each name means, and what each adapter adds to it.
//!
//! Deltas are made one at a time, when they are wanted: a dense one (DoRA, a saved module) is as large as the base's own
//! tensor. Shapes are held against the base's before anything is computed.

use std::{collections::BTreeMap, ops::Range};

use crate::{
    adapter::{LayerKind, Module},
    binding::{
        base::Base,
        locate::{self, Entry},
        meet::{self, LeftOver, Meeting},
        read::{ReadAdapter, name_of},
        site::{MergeSite, Place},
    },
    compute::transpose,
    delta::Delta,
    error::{Code, Error, Result},
    naming::pattern::Patterns,
};

/// What one task adds at one site.
pub struct Part<'a> {
    /// Which task.
    pub task: usize,
    /// The adapter's name.
    pub name: &'a str,
    /// Its weight here.
    pub weight: f64,
    /// What its adapter adds.
    pub delta: Delta,
}

/// A base and adapters that were held against it: what a merge changes.
pub struct Binding<'a> {
    /// The base.
    pub base: &'a Base,
    /// The adapters.
    pub adapters: &'a [ReadAdapter],
    /// In the order of the forward pass where it is known, else by name.
    pub sites: Vec<MergeSite>,
    /// The adapter whose names and class the result has: the first that was trained in a class around the bare model,
    /// such as one with a head, else the first.
    pub leading: usize,
    /// What meets nothing.
    pub left_over: Vec<LeftOver>,
}

impl<'a> Binding<'a> {
    /// Holds the adapters against the base; `weights` are those of single layers, one an adapter.
    ///
    /// # Errors
    /// [`Code::ShapeMismatch`] naming the module, if an adapter is for another base model or for another one than the
    /// adapters before it; [`Code::Missing`] if a change can only be told with the base and there is none.
    pub fn new(base: &'a Base, adapters: &'a [ReadAdapter], weights: &Patterns<Vec<f64>>) -> Result<Self> {
        meet::check_one_model(adapters)?;
        let entries: Vec<Vec<Entry>> = adapters
            .iter()
            .map(|read| locate::entries(base, &read.adapter))
            .collect::<Result<_>>()?;
        let meeting = Meeting::of(base, &entries);
        let mut sites: BTreeMap<String, MergeSite> = BTreeMap::new();
        let own: Vec<f64> = adapters.iter().map(|read| read.weight).collect();
        for (index, (read, entries)) in adapters.iter().zip(&entries).enumerate() {
            for entry in entries {
                let Entry { path, name, .. } = entry;
                let site = sites.entry(meeting.key(name)).or_insert_with(|| MergeSite {
                    name: name.clone(),
                    place: entry.place.clone(),
                    expert: entry.expert,
                    d_out: entry.d_out,
                    d_in: entry.d_in,
                    tensor: entry.tensor.clone(),
                    shared: entry.shared,
                    sources: vec![None; adapters.len()],
                    weights: weights
                        .get(name)
                        .or_else(|| weights.get(path))
                        .unwrap_or_else(|| own.clone()),
                });
                fit(site, entry).map_err(|what| {
                    let first = site.sources.iter().position(Option::is_some).unwrap_or(0);
                    Error::new(
                        Code::ShapeMismatch,
                        format!(
                            "adapters \"{}\" and \"{}\" are not of one base model: {what}; module: {path}",
                            name_of(adapters, first),
                            read.adapter.name,
                        ),
                    )
                })?;
                let before = site.sources[index].replace(path.clone());
                if before.is_some_and(|before| before != *path) {
                    return Err(Error::new(
                        Code::Duplicate,
                        format!(
                            "adapter \"{}\" sites one layer under two names; module: {path}",
                            read.adapter.name
                        ),
                    ));
                }
            }
        }
        let mut sites: Vec<MergeSite> = sites.into_values().collect();
        if let Base::Model(model) = base {
            let order: BTreeMap<&str, usize> = model
                .family
                .modules()
                .iter()
                .enumerate()
                .map(|(at, module)| (module.name.as_str(), at))
                .collect();
            let place = |site: &MergeSite| {
                let module = site.name.strip_suffix(".bias").unwrap_or(&site.name);
                order.get(module).map_or(0, |at| at + 1)
            };
            // What no pass reaches stands before what one does: embeddings come first.
            sites.sort_by_key(place);
        } else {
            sites.sort_by(|left, right| left.name.cmp(&right.name));
        }
        let in_class = |read: &ReadAdapter| {
            let mut paths = read.adapter.modules.keys();
            match base {
                Base::Model(_) => paths.any(|path| !base.prefix_of(path).is_empty()),
                Base::Absent | Base::Weights(_) => paths.any(|path| !path.prefix().is_empty()),
            }
        };
        Ok(Self {
            base,
            adapters,
            leading: adapters.iter().position(in_class).unwrap_or(0),
            left_over: meet::left_over(base, adapters, &sites),
            sites,
        })
    }

    /// Whether the adapters were trained in a class around the bare model, where its family has one.
    pub fn in_class(&self) -> bool {
        let Base::Model(model) = self.base else {
            return true;
        };
        let has_class = model
            .family
            .names()
            .prefixes
            .iter()
            .any(|prefix| !prefix.is_empty());
        let mut paths = self.adapters.iter().flat_map(|read| read.adapter.modules.keys());
        !has_class || paths.any(|path| !self.base.prefix_of(path).is_empty())
    }

    /// What a reader should know of how names met.
    pub fn notes(&self) -> Vec<String> {
        meet::notes(&self.left_over, self.adapters)
    }

    /// What an adapter's file has of a site that is changed by factors.
    pub fn module(&self, site: &MergeSite, task: usize) -> Option<&Module> {
        let path = site.sources.get(task)?.as_deref()?;
        self.adapters.get(task)?.adapter.modules.get(path)
    }

    /// What the adapters' files have of it.
    pub fn modules<'s>(&'s self, site: &'s MergeSite) -> impl Iterator<Item = &'s Module> {
        (0..self.adapters.len()).filter_map(move |task| self.module(site, task))
    }

    /// The tasks' deltas at one site.
    ///
    /// # Errors
    /// Whatever reading the base reports, and [`Code::NotFinite`] for a change that overflows.
    pub async fn parts(&self, site: &'a MergeSite) -> Result<Vec<Part<'a>>> {
        self.parts_of_rows(site, 0..site.d_out).await
    }

    /// As [`Binding::parts`], of some rows where the site [has rows](MergeSite::has_rows), of all elsewhere.
    ///
    /// # Errors
    /// As [`Binding::parts`].
    pub async fn parts_of_rows(&self, site: &'a MergeSite, rows: Range<usize>) -> Result<Vec<Part<'a>>> {
        let mut parts = Vec::new();
        let mut original: Option<Vec<f32>> = None;
        for (task, (source, read)) in site.sources.iter().zip(self.adapters).enumerate() {
            let Some(path) = source else { continue };
            let adapter = &read.adapter;
            let needs_base = match &site.place {
                Place::Weight(_) => self.module(site, task).is_some_and(Module::needs_base),
                Place::Bias => adapter.biases.contains_key(path),
                Place::Rows(_) | Place::Whole(_) => true,
            };
            if needs_base && original.is_none() {
                original = Some(self.original_rows(site, rows.clone()).await?);
            }
            parts.push(Part {
                task,
                name: &read.adapter.name,
                weight: site.weights[task],
                delta: locate::delta(site, rows.clone(), adapter, path, original.as_deref()).await?,
            });
        }
        Ok(parts)
    }

    /// Some rows of [`Binding::original`] where the site [has rows](MergeSite::has_rows), all of it elsewhere.
    ///
    /// # Errors
    /// As [`Binding::original`].
    pub async fn original_rows(&self, site: &MergeSite, rows: Range<usize>) -> Result<Vec<f32>> {
        match &site.tensor {
            Some(tensor) if site.has_rows() => {
                let start = site.range().start;
                let range = start + rows.start * site.d_in..start + rows.end * site.d_in;
                self.base.read_range(tensor, range).await
            }
            _ => self.original(site).await,
        }
    }

    /// What the base has of a site, as a (d_out x d_in) matrix.
    ///
    /// # Errors
    /// [`Code::Missing`] if there is none, and whatever reading reports.
    pub async fn original(&self, site: &MergeSite) -> Result<Vec<f32>> {
        let Some(tensor) = &site.tensor else {
            return Err(Error::new(
                Code::Missing,
                format!(
                    "an adapter's change can only be told with the base's own weight; give the base model; parameter: {}",
                    site.name
                ),
            ));
        };
        if let Place::Rows(ids) = &site.place {
            let mut rows = Vec::with_capacity(site.d_out * site.d_in);
            for id in ids {
                let range = id * site.d_in..(id + 1) * site.d_in;
                rows.extend(self.base.read_range(tensor, range).await?);
            }
            return Ok(rows);
        }
        let mut data = self.base.read_range(tensor, site.range()).await?;
        site.swap_halves(&mut data);
        Ok(if site.stored_transposed() {
            transpose(&data, site.d_in, site.d_out)
        } else {
            data
        })
    }
}

/// Makes room in `site` for another adapter's change of it, or says how they differ.
fn fit(site: &mut MergeSite, entry: &Entry) -> std::result::Result<(), String> {
    if let (Place::Rows(ids), Place::Rows(more)) = (&mut site.place, &entry.place)
        && site.d_in == entry.d_in
    {
        // The rows that any adapter trained.
        ids.extend(more);
        ids.sort_unstable();
        ids.dedup();
        site.d_out = ids.len();
        return Ok(());
    }
    if (site.d_out, site.d_in) == (entry.d_out, entry.d_in) {
        match (&site.place, &entry.place) {
            (place, other) if place == other => return Ok(()),
            // A convolution over one place is a linear layer, and the model has it as the convolution.
            (Place::Weight(LayerKind::Linear), Place::Weight(other)) if other.is_pointwise() => {
                site.place = entry.place.clone();
                return Ok(());
            }
            (Place::Weight(layer), Place::Weight(LayerKind::Linear)) if layer.is_pointwise() => return Ok(()),
            _ => {}
        }
    }
    Err(format!(
        "{} x {} against {} x {}",
        site.d_out, site.d_in, entry.d_out, entry.d_in
    ))
}
