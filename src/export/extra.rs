//! What of a merge is no low-rank change of a weight, as an adapter keeps it: biases, rows of tables, whole modules.
//!
//! Where PEFT has a place for one of two things only, such as factors and trained rows of one table, the merge is
//! refused by name: the file would be loaded without the other.

use std::{borrow::Cow, collections::BTreeMap};

use crate::{
    adapter::{Extra, LayerKind, Shape, TokenRows, WholeTensor},
    binding::{Binding, MergeSite, Place, ReadAdapter, paths::Paths},
    compute::narrow,
    error::{Code, Error, Result},
    export::{Writing, whole::WholeChange},
    io::{OutDtype, StreamWriter, encode_piece},
    merge::{
        layer::{LayerReport, SolvedLayer},
        truncate::Truncated,
    },
    naming::ModulePath,
};

/// What the merged adapter has beside the factors of `modules`; of what is saved whole the sites, by their names in the
/// file.
pub(super) async fn of<'a>(
    out: &Writing<'a>,
    solved: &mut Truncated<'a>,
    paths: &Paths,
    modules: &BTreeMap<ModulePath, Shape>,
    reports: &mut BTreeMap<String, LayerReport>,
) -> Result<(Extra, BTreeMap<String, &'a MergeSite>)> {
    let binding = out.binding;
    let mut whole = BTreeMap::new();
    let mut extra = Extra::default();
    let in_place = biases_in_place(binding, paths, modules);
    for site in &binding.sites {
        let path = paths.of_site(binding, site);
        match &site.place {
            Place::Weight(_) => continue,
            Place::Whole(shape) => {
                let tensor = saved_whole(binding, &path, site, shape);
                alone(&tensor.module, modules, site)?;
                whole.insert(tensor.name(), site);
                extra.whole.push(tensor);
                continue;
            }
            Place::Bias | Place::Rows(_) => {}
        }
        let SolvedLayer { delta, report } = solved.take(site).await?;
        reports.insert(site.name.clone(), report);
        if site.place == Place::Bias && !in_place {
            let module = path.strip_suffix(".bias").unwrap_or(&path);
            extra.added.insert(module.to_owned(), delta.dense());
            continue;
        }
        let data = sum(&binding.original(site).await?, &delta.dense());
        if let Place::Rows(ids) = &site.place {
            alone(&path, modules, site)?;
            let rows = TokenRows {
                ids: ids.clone(),
                width: site.d_in,
                data,
            };
            extra.tokens.insert(path, rows);
        } else {
            extra.biases.insert(path, data);
        }
    }
    if let Some(both) = extra
        .whole
        .iter()
        .find(|tensor| extra.tokens.contains_key(&tensor.module))
    {
        return Err(both_ways(&both.module));
    }
    Ok((extra, whole))
}

/// What PEFT's file calls a tensor that is saved whole.
fn saved_whole(binding: &Binding<'_>, path: &str, site: &MergeSite, shape: &[usize]) -> WholeTensor {
    let saved = binding.adapters.iter().zip(&site.sources);
    let config = saved
        .filter(|(_, source)| source.is_some())
        .map(|(read, _)| &read.adapter.config.modules_to_save);
    let module = module_of(path, config.flatten().map(String::as_str));
    WholeTensor {
        module: module.to_owned(),
        parameter: path.get(module.len() + 1..).unwrap_or(path).to_owned(),
        shape: shape.to_vec(),
    }
}

/// How many numbers of a tensor that is saved whole are in memory at a time.
const PIECE_NUMBERS: usize = 1 << 20;

/// Writes a tensor that is saved whole: the base's with the change added.
pub(super) async fn write_whole<'a>(
    out: &Writing<'a>,
    solved: &mut Truncated<'a>,
    site: &'a MergeSite,
    (name, dtype): (&str, OutDtype),
    writer: &mut StreamWriter<'_>,
) -> Result<LayerReport> {
    let (change, report) = WholeChange::of(solved, site).await?;
    let original = if site.has_rows() {
        None
    } else {
        Some(out.binding.original(site).await?)
    };
    let width = site.d_in;
    let step = (PIECE_NUMBERS / width.max(1)).max(1);
    // One empty piece of an empty tensor.
    for start in (0..site.d_out.max(1)).step_by(step) {
        let rows = start..site.d_out.min(start + step);
        let own = match &original {
            Some(all) => Cow::Borrowed(&all[rows.start * width..rows.end * width]),
            None => Cow::Owned(out.binding.original_rows(site, rows.clone()).await?),
        };
        let data = sum(&own, &change.rows(solved, rows).await?);
        writer
            .piece(name, &encode_piece(name, start * width, &data, dtype)?)
            .await?;
    }
    Ok(report)
}

/// Whether biases are written as the base's own with the changes added, in place of biases of `lora_B`: where an
/// adapter trained those, or has factors of what PEFT gives no such bias.
fn biases_in_place(binding: &Binding<'_>, paths: &Paths, modules: &BTreeMap<ModulePath, Shape>) -> bool {
    let without = |shape: &Shape| matches!(shape.layer, LayerKind::Embedding | LayerKind::Parameter { .. });
    modules.values().any(without)
        || binding
            .sites
            .iter()
            .filter(|site| site.place == Place::Bias)
            .any(|site| {
                let path = paths.of_site(binding, site);
                let module = path.strip_suffix(".bias").unwrap_or(&path);
                let trained = |(read, source): (&ReadAdapter, &Option<String>)| {
                    source
                        .as_ref()
                        .is_some_and(|path| read.adapter.biases.contains_key(path))
                };
                !modules.contains_key(module) || binding.adapters.iter().zip(&site.sources).any(trained)
            })
}

/// The module that a saved tensor is of: the one that `modules_to_save` names, or the tensor's own.
fn module_of<'a, 'b>(path: &'a str, mut saved: impl Iterator<Item = &'b str>) -> &'a str {
    let parent = path.rfind('.').unwrap_or(0);
    let end = saved.find_map(|name| {
        path.match_indices('.')
            .map(|(at, _)| at)
            .find(|&at| !name.is_empty() && path[..at].ends_with(name))
    });
    &path[..end.unwrap_or(parent)]
}

fn alone(module: &str, modules: &BTreeMap<ModulePath, Shape>, site: &MergeSite) -> Result<()> {
    if modules.contains_key(module) {
        return Err(both_ways(&site.name));
    }
    Ok(())
}

fn both_ways(parameter: &str) -> Error {
    Error::new(
        Code::AdapterUnsupported,
        format!(
            "one adapter changes a module by factors or single rows and another saved it whole or trained single rows, which PEFT has no place for in one adapter; write a merged base model; parameter: {parameter}"
        ),
    )
}

fn sum(original: &[f32], delta: &[f32]) -> Vec<f32> {
    let pairs = original.iter().zip(delta);
    pairs
        .map(|(&w, &d)| narrow(f64::from(w) + f64::from(d)))
        .collect()
}
