//! The one file with an adapter's factors, written in the order of its header.

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    adapter::{FilePlan, Scale},
    error::{Code, Error, Result},
    export::{Writing, extra::write_whole, source::Source, spool::Spool},
    io::{OutDtype, Sink, StreamHeader, StreamWriter, encode},
};

/// The one file with the factors.
pub(super) struct File<'p> {
    plan: &'p FilePlan,
    scales: &'p [Scale],
    dtype: OutDtype,
    /// Names and shapes of all tensors.
    pub(super) entries: Vec<(String, Vec<usize>)>,
    /// Which layer a tensor is of.
    owners: BTreeMap<String, usize>,
    /// Tensors that are there before their turn.
    pub(super) held: BTreeMap<String, Vec<u8>>,
}

impl<'p> File<'p> {
    pub(super) fn of(
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
    pub(super) async fn write<'a>(
        mut self,
        name: &str,
        metadata: &BTreeMap<String, String>,
        source: &mut Source<'a, '_>,
        spool: Option<&Spool>,
        out: &Writing<'a>,
        sink: &mut dyn Sink,
    ) -> Result<()> {
        let dtype = self.dtype;
        let entries = self.entries.drain(..);
        let header = StreamHeader::new(entries.map(|(name, shape)| (name, dtype.into(), shape)), metadata)?;
        let bytes = header.file_bytes();
        let order: Vec<String> = header.tensors().map(|(name, _)| name.to_owned()).collect();
        if spool.is_none() {
            let mut seen = BTreeSet::new();
            let layers = order.iter().filter_map(|name| self.owners.get(name));
            let layers = layers.filter(|&&at| seen.insert(at));
            source.expect(layers.filter_map(|&at| self.plan.layers.get(at)));
        }
        let mut writer = StreamWriter::begin(sink, name, header);
        for name in order {
            if let Some(bytes) = self.held.remove(&name) {
                writer.write(&name, &bytes).await?;
                continue;
            }
            if let Some(site) = source.whole.remove(&name) {
                out.written(writer.bytes(), bytes);
                let report = write_whole(out, source.solved, site, (&name, dtype), &mut writer).await?;
                source.reports.insert(site.name.clone(), report);
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
