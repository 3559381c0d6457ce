//! A merged adapter: changes of weights cut to factors, others as the values that result, under the names that the
//! adapters have.

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    adapter::{
        Adapter, CONFIG_FILE, DIFFUSERS_FILE, Format, KOHYA_FILE, LayerKind, Lora, WEIGHTS_FILE,
        adapter_tensors, diffusers_file, kohya_file, lone, merged_config, wrapping_order,
    },
    binding::{Base, Place, paths::Paths},
    delta::{Delta, LowRank},
    error::{Code, Error, Result},
    export::{Writing, extra, json},
    io::{OutDtype, Sink, serialize},
    merge::{
        layer::{LayerReport, SolvedLayer},
        options::Ranks,
        truncate::Truncated,
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
    let (binding, options) = (out.binding, out.options);
    let paths = Paths::of(binding);
    // By module; several factors of experts.
    let mut found: BTreeMap<ModulePath, (Vec<LowRank>, &LayerKind)> = BTreeMap::new();
    for site in &binding.sites {
        let Place::Weight(layer) = &site.place else {
            continue;
        };
        let SolvedLayer { delta, report } = solved.take(site).await?;
        reports.insert(site.name.clone(), report);
        let Delta::LowRank(factors) = delta else {
            return Err(Error::new(
                Code::Internal,
                format!("a weight's delta was not cut to factors; layer: {}", site.name),
            ));
        };
        let (parts, _) = found
            .entry(ModulePath::new(&paths.of_site(binding, site)))
            .or_insert_with(|| (Vec::new(), layer));
        parts.push(factors);
    }
    out.tell("the adapter", reports.len()).await?;
    let all_factors = || found.values().flat_map(|(parts, _)| parts);
    let largest = all_factors().map(|factors| factors.rank).max().unwrap_or(1);
    let uniform = options.ranks == Ranks::Uniform;
    // One rank for all modules, so that programs which know no `rank_pattern` load the adapter too.
    if uniform && all_factors().any(|factors| factors.rank < largest) {
        notes.push(format!(
            "modules of a smaller rank are filled with zeros up to rank {largest}, so that all have one rank"
        ));
    }
    notes.extend(lost(reports.values(), largest).filter(|_| !solved.asked()));
    let mut modules: BTreeMap<ModulePath, Lora> = found
        .into_iter()
        .map(|(path, (parts, layer))| {
            let own = parts.iter().map(|factors| factors.rank).max().unwrap_or(1);
            let rank = if uniform { largest } else { own };
            (path, assembled(parts, rank, layer))
        })
        .collect();
    let extra = extra::of(out, solved, &paths, &mut modules, reports).await?;
    if out.format() != Format::Peft {
        if let Some(what) = extra.first() {
            return Err(Error::new(
                Code::OptionInvalid,
                format!(
                    "format {} holds factors alone, and the merge has more; choose format peft: {what}",
                    out.format().as_str()
                ),
            ));
        }
        return write_image(out, modules, sink).await;
    }
    check_wrapping(&modules)?;

    let names: Vec<&str> = modules
        .iter()
        .filter(|(_, lora)| !matches!(lora.layer, LayerKind::Parameter { .. }))
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
    let ranks = modules
        .iter()
        .map(|(name, lora)| (name.to_string(), lora.rank))
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
    extra.configure(&mut config, &modules);
    let dtype = options.dtype.or(OutDtype::F32);
    let mut tensors = adapter_tensors(&modules);
    tensors.extend(extra.tensors(&modules));
    let weights = serialize(&tensors, dtype, &out.metadata)?;
    sink.write(CONFIG_FILE, &json(&config)?).await?;
    sink.write(WEIGHTS_FILE, &weights).await
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

/// One file of kohya's or diffusers' form.
async fn write_image(
    out: &Writing<'_>,
    modules: BTreeMap<ModulePath, Lora>,
    sink: &mut dyn Sink,
) -> Result<()> {
    let dtype = out.options.dtype.or(OutDtype::F32);
    let modules = untouched(out).unwrap_or(modules);
    let (name, mut file) = match out.format() {
        Format::Kohya => {
            let read: Vec<&Adapter> = out.binding.adapters.iter().map(|read| &read.adapter).collect();
            (KOHYA_FILE, kohya_file(&modules, &read, dtype)?)
        }
        Format::Diffusers | Format::Peft => (DIFFUSERS_FILE, diffusers_file(&modules)?),
    };
    file.metadata.extend(out.metadata.clone());
    let weights = serialize(&file.tensors, dtype, &file.metadata)?;
    sink.write(name, &weights).await
}

/// The factors of a lone adapter whose numbers nothing changes but a factor, so that they come out as they went in.
fn untouched(out: &Writing<'_>) -> Option<BTreeMap<ModulePath, Lora>> {
    let [read] = out.binding.adapters else { return None };
    let options = out.options;
    let cut = options.rank.is_some() || options.energy.is_some() || !options.layer_weights.0.is_empty();
    let factor = out.method.alone(options, read.weight).filter(|_| !cut)?;
    lone(&read.adapter, factor)
}

/// One module's update of the given rank, of one product or of one for each expert.
fn assembled(parts: Vec<LowRank>, rank: usize, layer: &LayerKind) -> Lora {
    let parts: Vec<LowRank> = parts.into_iter().map(|part| part.padded(rank)).collect();
    let (d_out, d_in) = parts.first().map_or((0, 0), |part| (part.d_out, part.d_in));
    let mut b = Vec::with_capacity(d_out * rank * parts.len());
    for at in 0..d_out * rank {
        b.extend(parts.iter().map(|part| part.b[at]));
    }
    Lora {
        a: parts.into_iter().flat_map(|part| part.a).collect(),
        b,
        rank,
        d_in,
        d_out,
        scaling: 1.0,
        layer: layer.clone(),
        ..Lora::default()
    }
}

/// Whether PEFT will find every adapted parameter where it looks for it.
fn check_wrapping(modules: &BTreeMap<ModulePath, Lora>) -> Result<()> {
    let parameters = || {
        let parameters = modules
            .iter()
            .filter(|(_, lora)| matches!(lora.layer, LayerKind::Parameter { .. }));
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
