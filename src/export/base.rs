//! The base model with the merged changes added, in the files that it came in, a tensor at a time.
//!
//! A tensor that nothing changes is copied byte for byte, whatever its type. Each delta is held against the tensor that
//! it is added to, and one that finds none is an error.

use std::collections::BTreeMap;

use crate::{
    binding::{MergeSite, Place},
    delta::Delta,
    error::{Code, Error, Result},
    export::{Writing, copied, json, layout::Layout},
    io::{Checkpoint, Dtype, DtypeChoice, OutDtype, Sink, StreamHeader, StreamWriter, TensorInfo, encode},
    merge::{
        layer::{LayerReport, SolvedLayer},
        truncate::Truncated,
    },
};

/// How much of a tensor that is merely copied is in memory at a time.
const PIECE_BYTES: u64 = 16 << 20;

/// Writes the base model with every change added.
pub(super) async fn write<'a>(
    out: &Writing<'a>,
    solved: &mut Truncated<'a>,
    reports: &mut BTreeMap<String, LayerReport>,
    sink: &mut dyn Sink,
) -> Result<()> {
    let (binding, options) = (out.binding, out.options);
    let Some(folder) = binding.base.folder() else {
        // Without a base this is the error that says so.
        return binding.base.model("writing a merged base model").map(|_| ());
    };
    let mut sites: BTreeMap<(usize, &str), Vec<&MergeSite>> = BTreeMap::new();
    for site in &binding.sites {
        let tensor = site.tensor_alone()?;
        sites
            .entry((tensor.part, tensor.key.as_str()))
            .or_default()
            .push(site);
    }
    let chosen = options.dtype;
    copied::copy(folder, chosen, sink).await?;
    for (part, (_, checkpoint)) in binding.base.parts().into_iter().enumerate() {
        let layout = Layout::of(
            folder,
            checkpoint,
            |info| written_type(chosen, info),
            options.max_shard_bytes,
        )?;
        let metadata = out.metadata_beside(checkpoint.metadata());
        for (file, entries) in &layout.files {
            out.tell(file, reports.len()).await?;
            let entries = entries
                .iter()
                .map(|entry| (entry.name.clone(), entry.dtype, entry.shape.clone()));
            let header = StreamHeader::new(entries, &metadata)?;
            let order: Vec<(String, Dtype)> = header
                .tensors()
                .map(|(name, info)| (name.to_owned(), info.dtype))
                .collect();
            let mut writer = StreamWriter::begin(sink, file, header);
            for (name, dtype) in order {
                let info = checkpoint.require(&name)?;
                let Some(here) = sites.remove(&(part, info.name.as_str())) else {
                    unchanged(checkpoint, info, dtype, &mut writer).await?;
                    continue;
                };
                let mut sum = Sum::read(checkpoint, info).await?;
                for site in here {
                    out.tell(&site.name, reports.len()).await?;
                    let SolvedLayer { delta, report } = solved.take(site).await?;
                    reports.insert(site.name.clone(), report);
                    sum.add(site, delta)?;
                }
                writer.write(&name, &sum.encoded(&name, dtype)?).await?;
            }
            writer.finish().await?;
        }
        if let Some((name, index)) = layout.index() {
            sink.write(name, &json(&index)?).await?;
        }
    }
    match sites.first_key_value() {
        None => Ok(()),
        Some(((_, key), _)) => Err(Error::new(
            Code::Internal,
            format!("A change was not written: {key}"),
        )),
    }
}

/// Copies a tensor that no change is for.
async fn unchanged(
    checkpoint: &Checkpoint,
    info: &TensorInfo,
    dtype: Dtype,
    writer: &mut StreamWriter<'_>,
) -> Result<()> {
    if let Some(out) = other_type(info.dtype, dtype) {
        let data = checkpoint.f32(&info.name).await?;
        return writer.write(&info.name, &encode(&info.name, &data, out)?).await;
    }
    let mut at = 0;
    loop {
        let end = info.bytes().min(at + PIECE_BYTES);
        let piece = checkpoint.bytes_range(&info.name, at..end).await?;
        writer.piece(&info.name, &piece).await?;
        at = end;
        if at == info.bytes() {
            return Ok(());
        }
    }
}

/// The type that a tensor of the base is written in.
fn written_type(chosen: DtypeChoice, info: &TensorInfo) -> Dtype {
    if !info.is_float() || chosen == DtypeChoice::Auto {
        return info.dtype;
    }
    chosen.or(OutDtype::F32).into()
}

/// The type to convert to, if it is another.
fn other_type(own: Dtype, written: Dtype) -> Option<OutDtype> {
    (own != written).then(|| out(written)).flatten()
}

fn out(dtype: Dtype) -> Option<OutDtype> {
    match dtype {
        Dtype::F32 => Some(OutDtype::F32),
        Dtype::F16 => Some(OutDtype::F16),
        Dtype::BF16 => Some(OutDtype::Bf16),
        _ => None,
    }
}

/// A tensor of the base while changes are added to it.
enum Sum {
    Single(Vec<f32>),
    /// Of a checkpoint in f64, which stays exact where nothing is added.
    Double(Vec<f64>),
}

impl Sum {
    async fn read(checkpoint: &Checkpoint, info: &TensorInfo) -> Result<Self> {
        match info.dtype {
            Dtype::F64 => {
                let bytes = checkpoint.bytes(&info.name).await?;
                let numbers = bytes.as_chunks::<8>().0.iter();
                Ok(Self::Double(numbers.map(|&b| f64::from_le_bytes(b)).collect()))
            }
            _ if info.is_float() => Ok(Self::Single(checkpoint.f32(&info.name).await?)),
            other => Err(Error::new(
                Code::DtypeUnsupported,
                format!(
                    "nothing can be added to weights of type {other}; take the base model unquantised, as float32, float16 or bfloat16, or write an adapter; tensor: {}",
                    info.name
                ),
            )),
        }
    }

    /// Adds a change in its place.
    fn add(&mut self, site: &MergeSite, delta: Delta) -> Result<()> {
        let delta = site.stored(delta.into_dense());
        let misfit = || {
            Error::new(
                Code::ShapeMismatch,
                format!("a change does not fit the base's tensor: {}", site.name),
            )
        };
        let length = match self {
            Self::Single(data) => data.len(),
            Self::Double(data) => data.len(),
        };
        let mut put = |at: usize, delta: &[f32]| -> Result<()> {
            let place = at..at + delta.len();
            match self {
                Self::Single(data) => {
                    let place = data.get_mut(place).ok_or_else(misfit)?;
                    place.iter_mut().zip(delta).for_each(|(w, d)| *w += d);
                }
                Self::Double(data) => {
                    let place = data.get_mut(place).ok_or_else(misfit)?;
                    place.iter_mut().zip(delta).for_each(|(w, &d)| *w += f64::from(d));
                }
            }
            Ok(())
        };
        if let Place::Rows(rows) = &site.place {
            if delta.len() != rows.len() * site.d_in {
                return Err(misfit());
            }
            for (row, delta) in rows.iter().zip(delta.chunks_exact(site.d_in.max(1))) {
                put(row * site.d_in, delta)?;
            }
            return Ok(());
        }
        if delta.len() != site.range().len() || length < delta.len() {
            return Err(misfit());
        }
        put(site.range().start, &delta)
    }

    #[allow(
        clippy::cast_possible_truncation,
        reason = "the caller asked for a narrower type; what it cannot hold is refused"
    )]
    fn encoded(self, name: &str, dtype: Dtype) -> Result<Vec<u8>> {
        let data = match self {
            Self::Single(data) => data,
            Self::Double(data) if dtype == Dtype::F64 => {
                if let Some(at) = data.iter().position(|x| !x.is_finite()) {
                    return Err(Error::new(
                        Code::NotFinite,
                        format!(
                            "A result holds {} at element {at} and is not written: {name}",
                            data[at]
                        ),
                    ));
                }
                return Ok(data.iter().flat_map(|x| x.to_le_bytes()).collect());
            }
            Self::Double(data) => data.into_iter().map(|x| x as f32).collect(),
        };
        encode(name, &data, out(dtype).unwrap_or(OutDtype::F32))
    }
}
