//! The base model with the merged changes added, tensor by tensor.

use std::collections::BTreeMap;

use serde_json::Value;

use super::{Results, cut::Cut, json, metadata};
use crate::{
    error::Result,
    io::{Dtype, DtypeChoice, OutDtype, Sink, StreamHeader, StreamWriter, encode},
    merge::{Change, Place, Target},
    report::LayerReport,
};

/// Writes the base model with every change added.
pub(super) async fn write(
    results: &Results<'_>,
    layers: &mut [LayerReport],
    sink: &mut dyn Sink,
) -> Result<()> {
    let plan = results.plan;
    let model = plan.base.model("writing a merged base model")?;
    let checkpoint = &model.checkpoint;
    let mut config = model.config.clone();
    let chosen = plan.options.dtype;
    if let Some(fields) = config.as_object_mut()
        && chosen != DtypeChoice::Auto
    {
        let dtype = match chosen.or(OutDtype::F32) {
            OutDtype::F32 => "float32",
            OutDtype::F16 => "float16",
            OutDtype::Bf16 => "bfloat16",
        };
        for name in ["torch_dtype", "dtype"] {
            if fields.contains_key(name) {
                fields.insert(name.to_owned(), dtype.into());
            }
        }
    }
    sink.write("config.json", &json(&config)?).await?;
    // Without it a model begins or ends what it writes in another way (BART's first token).
    let generation: Option<Value> = model.folder.read_json("generation_config.json").await?;
    if let Some(generation) = generation {
        sink.write("generation_config.json", &json(&generation)?).await?;
    }
    let entries = checkpoint.infos().map(|info| {
        let dtype = if info.is_float() {
            of(chosen, info.dtype).into()
        } else {
            info.dtype
        };
        (info.name.clone(), dtype, info.shape.clone())
    });
    let header = StreamHeader::new(entries, &metadata())?;
    let order: Vec<String> = header.tensors().map(|(name, _)| name.to_owned()).collect();
    let mut targets: BTreeMap<&str, Vec<&Target>> = BTreeMap::new();
    for target in &plan.targets {
        let key = target.key_alone()?;
        targets.entry(key).or_default().push(target);
    }
    // A base takes any change whole, unless less is asked for.
    let cut = Cut::asked(results).await?;
    let mut writer = StreamWriter::begin(sink, "model.safetensors", header).await?;
    for name in order {
        let info = checkpoint.require(&name)?;
        if !info.is_float() {
            writer.write(&name, &checkpoint.bytes(&name).await?).await?;
            continue;
        }
        let mut data = checkpoint.f32(&name).await?;
        for target in targets.remove(name.as_str()).unwrap_or_default() {
            let mut change = results.change(target).await?;
            let (mut energy_kept, mut error) = (1.0, 0.0);
            if let (Some(cut), Place::Weight(_)) = (&cut, &target.place) {
                let reduced = cut.apply(&change);
                (energy_kept, error) = (reduced.energy_kept, reduced.error);
                change = Change::Factors(reduced.factors);
            }
            if let Some(layer) = layers.iter_mut().find(|layer| layer.module == target.name) {
                layer.rank = change.rank();
                layer.energy_kept = Some(energy_kept);
                layer.error = Some(error);
            }
            let delta = target.stored(change.dense());
            match &target.place {
                Place::Rows(ids) => {
                    for (id, row) in ids.iter().zip(delta.chunks_exact(target.d_in)) {
                        let own = &mut data[id * target.d_in..(id + 1) * target.d_in];
                        own.iter_mut().zip(row).for_each(|(w, d)| *w += d);
                    }
                }
                Place::Weight(_) | Place::Bias | Place::Whole(_) => {
                    let own = &mut data[target.range()];
                    own.iter_mut().zip(delta).for_each(|(w, d)| *w += d);
                }
            }
        }
        let dtype = of(chosen, info.dtype);
        writer.write(&name, &encode(&name, &data, dtype)?).await?;
    }
    writer.finish()
}

/// The type that a tensor of the base is written in.
fn of(chosen: DtypeChoice, own: Dtype) -> OutDtype {
    chosen.or(match own {
        Dtype::F16 => OutDtype::F16,
        Dtype::BF16 => OutDtype::Bf16,
        _ => OutDtype::F32,
    })
}
