//! A merged adapter: changes of weights cut to factors, others as the values that result, under the names that the
//! adapters have.
//!
//! A file is written layer by layer, behind a header that has all names, shapes and ranks. Where a rank depends on the
//! numbers, solved layers are set aside in the sink until all ranks are known.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use crate::{
    adapter::{
        Adapter, CONFIG_FILE, DIFFUSERS_FILE, Extra, FileLayer, FilePlan, Format, KOHYA_FILE, LayerKind,
        Lora, Module, Scale, Shape, WEIGHTS_FILE, diffusers_plan, kohya_plan, lone, merged_config, peft_plan,
        wrapping_order,
    },
    binding::{Base, MergeSite, Place, paths::Paths},
    delta::LowRank,
    error::{Code, Error, Result},
    export::{Writing, dtype_of, extra, has_one_rank, json, spool::Spool},
    io::{OutDtype, Sink, StreamHeader, StreamWriter, encode},
    merge::{
        layer::LayerReport,
        truncate::{Factored, Truncated},
    },
    naming::{ModulePath, targets::suffix_targets},
};

/// Writes the adapter; `reports` gets what there is to tell of each layer.
pub(super) async fn write<'a>(
    out: &Writing<'a>,
    solved: &mut Truncated<'a>,
    reports: &mut BTreeMap<String, LayerReport>,
    notes: &mut Vec<String>,
    sink: &mut dyn Sink,
) -> Result<()> {
    let binding = out.binding;
    let paths = Paths::of(binding);
    // By module; several sites of experts.
    let mut sites: BTreeMap<ModulePath, Vec<&MergeSite>> = BTreeMap::new();
    let mut shapes: BTreeMap<ModulePath, Shape> = BTreeMap::new();
    for site in &binding.sites {
        let Place::Weight(layer) = &site.place else {
            continue;
        };
        let path = ModulePath::new(&paths.of_site(binding, site));
        sites.entry(path.clone()).or_default().push(site);
        shapes.entry(path).or_insert_with(|| Shape {
            layer: layer.clone(),
            rank: 0,
            d_out: site.d_out,
            d_in: site.d_in,
        });
    }
    let extra = extra::of(out, solved, &paths, &shapes, reports).await?;
    let lone = untouched(out);
    let plan = plan(out, &shapes, &extra)?;
    let asked = solved.asked();
    let mut source = Source {
        solved,
        reports,
        sites,
        lone,
        added: &extra.added,
    };
    let mut spool = None;
    let own = match source.scales(&plan) {
        Some(scales) => scales,
        None => {
            let aside = spool.insert(Spool::default());
            let mut scales = Vec::with_capacity(plan.layers.len());
            for layer in &plan.layers {
                let lora = source.take(layer).await?;
                scales.push(source.asked_for(layer, Scale::of(&lora)));
                aside.put(lora, sink).await?;
            }
            scales
        }
    };
    let largest = own.iter().map(|scale| scale.rank).max().unwrap_or(1);
    let uniform = has_one_rank(binding, out.options);
    // One rank for all modules, so that programs which know no `rank_pattern` load the adapter too.
    let scales: Vec<Scale> = own
        .iter()
        .map(|scale| Scale {
            rank: if uniform { largest } else { scale.rank },
            ..*scale
        })
        .collect();
    if scales != own {
        notes.push(format!(
            "modules of a smaller rank are filled with zeros up to rank {largest}, so that all have one rank"
        ));
    }

    let dtype = dtype_of(binding, out.options);
    let mut file = File::of(&plan, &scales, &extra.added, dtype);
    for tensor in extra.tensors(&shapes) {
        let bytes = encode(&tensor.name, &tensor.data, dtype)?;
        file.entries.push((tensor.name.clone(), tensor.shape));
        file.held.insert(tensor.name, bytes);
    }
    let name = match out.format() {
        Format::Peft => {
            let config = configuration(out, &paths, &scales, &shapes, &extra);
            sink.write(CONFIG_FILE, &json(&config)?).await?;
            WEIGHTS_FILE
        }
        Format::Kohya => KOHYA_FILE,
        Format::Diffusers => DIFFUSERS_FILE,
    };
    let mut metadata = plan.metadata(&scales, dtype)?;
    metadata.extend(out.metadata.clone());
    file.write(name, &metadata, &mut source, spool.as_ref(), out, sink)
        .await?;
    if spool.is_some() {
        Spool::remove(sink).await?;
    }
    notes.extend(short(&source, &plan, &scales));
    notes.extend(lost(reports.values(), largest).filter(|_| !asked));
    Ok(())
}

/// The layers of the file, in the format that is written.
fn plan(out: &Writing<'_>, shapes: &BTreeMap<ModulePath, Shape>, extra: &Extra) -> Result<FilePlan> {
    let format = out.format();
    if format == Format::Peft {
        check_wrapping(shapes)?;
        return Ok(peft_plan(shapes));
    }
    if let Some(what) = extra.first() {
        return Err(Error::new(
            Code::OptionInvalid,
            format!(
                "format {} holds factors alone, and the merge has more; choose format peft: {what}",
                format.as_str()
            ),
        ));
    }
    if format == Format::Diffusers {
        return diffusers_plan(shapes);
    }
    let read: Vec<&Adapter> = out.binding.adapters.iter().map(|read| &read.adapter).collect();
    kohya_plan(shapes, &read)
}

/// PEFT's configuration of the adapter.
fn configuration(
    out: &Writing<'_>,
    paths: &Paths,
    scales: &[Scale],
    shapes: &BTreeMap<ModulePath, Shape>,
    extra: &Extra,
) -> Value {
    let binding = out.binding;
    let names: Vec<&str> = shapes
        .iter()
        .filter(|(_, shape)| !matches!(shape.layer, LayerKind::Parameter { .. }))
        .map(|(path, _)| path.as_str())
        .collect();
    let targets = match binding.base {
        // An end of a name may be that of other layers too, and nothing says which there are.
        Base::Absent => names.iter().map(|&name| name.to_owned()).collect(),
        Base::Model(_) | Base::Weights(_) => {
            let all = paths.all(binding);
            let all: Vec<&str> = all.iter().map(String::as_str).collect();
            suffix_targets(&names, &all)
        }
    };
    // PEFT's file has a layer a module, in their order.
    let ranks = shapes
        .keys()
        .zip(scales)
        .map(|(name, scale)| (name.to_string(), scale.rank))
        .collect();
    let read: Vec<&Adapter> = binding.adapters.iter().map(|read| &read.adapter).collect();
    let mut config = merged_config(&read, &ranks, &targets);
    // What PEFT itself sets when it puts an adapter on such layers, or on others.
    config["fan_in_fan_out"] = binding
        .sites
        .iter()
        .filter(|site| site.place == Place::Weight(LayerKind::Linear))
        .any(|site| site.tensor.as_ref().is_some_and(|tensor| tensor.transposed))
        .into();
    extra.configure(&mut config, shapes);
    config
}

/// Where the numbers of a file's layers come from.
struct Source<'a, 'w> {
    solved: &'w mut Truncated<'a>,
    reports: &'w mut BTreeMap<String, LayerReport>,
    sites: BTreeMap<ModulePath, Vec<&'a MergeSite>>,
    /// The modules of a lone adapter whose numbers stay as they are.
    lone: Option<BTreeMap<ModulePath, Module>>,
    /// Biases of the upper factors.
    added: &'w BTreeMap<String, Vec<f32>>,
}

impl<'a> Source<'a, '_> {
    /// Rank and scale of every layer, where none of them depends on the numbers.
    fn scales(&self, plan: &FilePlan) -> Option<Vec<Scale>> {
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
    fn asked_for(&self, layer: &FileLayer, own: Scale) -> Scale {
        let room = layer.shape.d_out.min(layer.shape.d_in);
        let asked = self.solved.asked_rank().map_or(0, |rank| rank.min(room));
        Scale {
            rank: own.rank.max(asked),
            ..own
        }
    }

    fn sites_of(&self, path: &ModulePath) -> &[&'a MergeSite] {
        self.sites.get(path.as_str()).map_or(&[], Vec::as_slice)
    }

    fn parts(&self, layer: &FileLayer) -> Vec<Option<&'a MergeSite>> {
        let site = |path: &Option<ModulePath>| self.sites_of(path.as_ref()?).first().copied();
        layer.parts.iter().map(site).collect()
    }

    /// The update of a layer.
    async fn take(&mut self, layer: &FileLayer) -> Result<Lora> {
        if self.lone.is_some() {
            return self.untouched(layer).await;
        }
        if layer.shape.layer.products() > 1 {
            return self.experts(layer).await;
        }
        let parts = self.parts(layer);
        let (factored, reports) = self.solved.take_factors(&parts, &layer.heights).await?;
        self.report(reports);
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
        let mut lora = match factored {
            Factored::Whole(factors) => update(factors),
            Factored::Parts(parts) => layer.fused(parts.into_iter().map(|part| part.map(update)).collect()),
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
            let (factored, reports) = self.solved.take_factors(&[Some(site)], &layer.heights).await?;
            self.report(reports);
            match factored {
                Factored::Whole(factors) => experts.push(factors),
                Factored::Parts(parts) => experts.extend(parts.into_iter().flatten()),
            }
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

/// The one file with the factors.
struct File<'p> {
    plan: &'p FilePlan,
    scales: &'p [Scale],
    dtype: OutDtype,
    /// Names and shapes of all tensors.
    entries: Vec<(String, Vec<usize>)>,
    /// Which layer a tensor is of.
    owners: BTreeMap<String, usize>,
    /// Tensors that are there before their turn.
    held: BTreeMap<String, Vec<u8>>,
}

impl<'p> File<'p> {
    fn of(
        plan: &'p FilePlan,
        scales: &'p [Scale],
        added: &BTreeMap<String, Vec<f32>>,
        dtype: OutDtype,
    ) -> Self {
        let (mut entries, mut owners) = (Vec::new(), BTreeMap::new());
        for (at, (layer, scale)) in plan.layers.iter().zip(scales).enumerate() {
            for (name, shape) in layer.shapes(*scale, !added.is_empty(), dtype) {
                owners.insert(name.clone(), at);
                entries.push((name, shape));
            }
        }
        Self {
            plan,
            scales,
            dtype,
            entries,
            owners,
            held: BTreeMap::new(),
        }
    }

    /// Writes the file in the order of its header, each layer as it is solved or as it was set aside.
    async fn write(
        mut self,
        name: &str,
        metadata: &BTreeMap<String, String>,
        source: &mut Source<'_, '_>,
        spool: Option<&Spool>,
        out: &Writing<'_>,
        sink: &mut dyn Sink,
    ) -> Result<()> {
        let dtype = self.dtype;
        let entries = self.entries.drain(..);
        let header = StreamHeader::new(entries.map(|(name, shape)| (name, dtype.into(), shape)), metadata)?;
        let bytes = header.file_bytes();
        let order: Vec<String> = header.tensors().map(|(name, _)| name.to_owned()).collect();
        let mut writer = StreamWriter::begin(sink, name, header);
        for name in order {
            if let Some(bytes) = self.held.remove(&name) {
                writer.write(&name, &bytes).await?;
                continue;
            }
            let found = self.owners.get(&name).and_then(|&at| {
                let (layer, scale) = (self.plan.layers.get(at)?, self.scales.get(at)?);
                Some((at, layer, scale.rank))
            });
            let Some((at, layer, rank)) = found else {
                return Err(Error::new(
                    Code::Internal,
                    format!("a tensor of the output is of no layer: {name}"),
                ));
            };
            out.written(writer.bytes(), bytes);
            let lora = match spool {
                Some(spool) => {
                    out.tell(&name, at).await?;
                    spool.get(at, writer.sink()).await?
                }
                None => source.take(layer).await?,
            };
            for tensor in layer.tensors(lora, rank, dtype) {
                let bytes = encode(&tensor.name, &tensor.data, dtype)?;
                if tensor.name == name {
                    writer.write(&name, &bytes).await?;
                } else {
                    self.held.insert(tensor.name, bytes);
                }
            }
        }
        writer.finish().await
    }
}

/// What to say of layers that have fewer directions than the rank that was asked for.
fn short(source: &Source<'_, '_>, plan: &FilePlan, scales: &[Scale]) -> Option<String> {
    source.solved.asked_rank()?;
    let layers = plan.layers.iter().zip(scales);
    let short: Vec<usize> = layers
        .filter_map(|(layer, scale)| {
            let path = layer.parts.iter().flatten().next()?;
            let site = source.sites_of(path).first()?;
            let own = source.reports.get(&site.name)?.rank;
            (own < scale.rank).then_some(own)
        })
        .collect();
    let smallest = short.iter().min()?;
    Some(format!(
        "{} modules have a change of a smaller rank than was asked for (from {smallest} on) and are filled with zeros",
        short.len()
    ))
}

/// The factors of a lone adapter whose numbers nothing changes but a factor, so that they come out as they went in.
fn untouched(out: &Writing<'_>) -> Option<BTreeMap<ModulePath, Module>> {
    let [read] = out.binding.adapters else { return None };
    if out.format() == Format::Peft {
        return None;
    }
    let options = out.options;
    let cut = options.rank.is_some() || options.energy.is_some() || !options.layer_weights.0.is_empty();
    let factor = out.method.alone(options, read.weight).filter(|_| !cut)?;
    lone(&read.adapter, factor)
}

/// What to say of changes that have no rank to be written at (DoRA's, an elementwise method's) and lost some of their
/// norm.
fn lost<'a>(layers: impl Iterator<Item = &'a LayerReport>, rank: usize) -> Option<String> {
    let losses = layers.filter_map(|layer| layer.error);
    let losses: Vec<f64> = losses.filter(|&error| error > WORTH_A_NOTE).collect();
    let worst = losses.iter().copied().fold(0.0, f64::max);
    (!losses.is_empty()).then(|| {
        format!(
            "{} modules lost up to {:.0} % of their change at rank {rank}; ask for a higher rank, or write a merged base model, which loses nothing",
            losses.len(),
            100.0 * worst
        )
    })
}

/// A loss of a change's norm that a reader should know of.
const WORTH_A_NOTE: f64 = 0.005;

/// Whether PEFT will find every adapted parameter where it looks for it.
fn check_wrapping(modules: &BTreeMap<ModulePath, Shape>) -> Result<()> {
    let parameters = || {
        let parameters = modules
            .iter()
            .filter(|(_, shape)| matches!(shape.layer, LayerKind::Parameter { .. }));
        parameters.map(|(path, _)| path.as_str())
    };
    let of: BTreeSet<&str> = parameters()
        .filter_map(|path| Some(path.rsplit_once('.')?.0))
        .collect();
    match of
        .into_iter()
        .find(|module| wrapping_order(module, parameters()).is_none())
    {
        None => Ok(()),
        Some(module) => Err(Error::new(
            Code::AdapterUnsupported,
            format!(
                "PEFT tells several adapted parameters of one module apart by their order in its class, which is not known here; write a merged base model; module: {module}"
            ),
        )),
    }
}
