//! A merged adapter: changes of weights cut to factors, others as the values that result, under the names that the
//! adapters have.
//!
//! A file is written layer by layer, behind a header that has all names, shapes and ranks. Where a rank depends on the
//! numbers, solved layers are set aside in the sink until all ranks are known.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use crate::{
    adapter::{
        Adapter, CONFIG_FILE, DIFFUSERS_FILE, Extra, FilePlan, Format, KOHYA_FILE, LayerKind, Module, Scale,
        Shape, WEIGHTS_FILE, diffusers_plan, kohya_plan, lone, merged_config, peft_plan, wrapping_order,
    },
    binding::{Base, MergeSite, Place, paths::Paths},
    error::{Code, Error, Result},
    export::{Writing, dtype_of, extra, file::File, has_one_rank, json, source::Source, spool::Spool},
    io::{Sink, encode},
    merge::{layer::LayerReport, truncate::Truncated},
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
            d_out: site.d_out,
            d_in: site.d_in,
        });
    }
    let (extra, whole) = extra::of(out, solved, &paths, &shapes, reports).await?;
    let lone = untouched(out, &shapes);
    let plan = plan(out, &shapes, &extra)?;
    let asked = solved.asked();
    let mut source = Source {
        solved,
        reports,
        sites,
        lone,
        added: &extra.added,
        whole,
    };
    let mut spool = None;
    let own = match source.scales(&plan) {
        Some(scales) => scales,
        None => {
            let aside = spool.insert(Spool::default());
            source.expect(&plan.layers);
            let mut scales = Vec::with_capacity(plan.layers.len());
            for layer in &plan.layers {
                let lora = source.take(layer).await?;
                scales.push(source.asked_for(layer, Scale::of(&lora)));
                let module = layer.parts.iter().flatten().next().map_or("", ModulePath::as_str);
                aside.put(module, lora, sink).await?;
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
    let whole = extra.whole.iter();
    file.entries
        .extend(whole.map(|tensor| (tensor.name(), tensor.shape.clone())));
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
fn untouched(
    out: &Writing<'_>,
    shapes: &BTreeMap<ModulePath, Shape>,
) -> Option<BTreeMap<ModulePath, Module>> {
    let [read] = out.binding.adapters else { return None };
    if out.format() == Format::Peft {
        return None;
    }
    let options = out.options;
    let cut = options.rank.is_some() || options.energy.is_some() || !options.layer_weights.0.is_empty();
    let factor = out.method.alone(options, read.weight).filter(|_| !cut)?;
    let named = |path: &ModulePath| read.adapter.modules.contains_key(path.as_str());
    lone(&read.adapter, factor).filter(|_| shapes.keys().all(named))
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
