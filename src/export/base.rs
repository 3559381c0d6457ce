//! The base model with the merged changes added, in the files that it came in, some rows of a tensor at a time.
//!
//! A tensor that nothing changes is copied byte for byte, whatever its type. Each delta is held against the tensor that
//! it is added to, and one that finds none is an error. A factored delta is never dense: its rows are formed as those
//! of the tensor are written.

use std::{collections::BTreeMap, ops::Range};

use crate::{
    binding::{MergeSite, Place},
    delta::{Delta, LowRank},
    error::{Code, Error, Result},
    export::{Writing, copied, json, layout::Layout, whole::WholeChange},
    io::{
        Checkpoint, Dtype, DtypeChoice, OutDtype, Sink, StreamHeader, StreamWriter, TensorInfo, encode_piece,
    },
    merge::{
        layer::{LayerReport, SolvedLayer},
        truncate::Truncated,
    },
};

/// How much of a tensor that is merely copied is in memory at a time.
const PIECE_BYTES: u64 = 16 << 20;

/// How many numbers of a tensor that is changed are in memory at a time.
const PIECE_NUMBERS: usize = 4 << 20;

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
            let bytes = header.file_bytes();
            let order: Vec<(String, Dtype)> = header
                .tensors()
                .map(|(name, info)| (name.to_owned(), info.dtype))
                .collect();
            let in_file = |(name, _): &(String, Dtype)| {
                let info = checkpoint.require(name).ok()?;
                sites.get(&(part, info.name.as_str()))
            };
            let in_file = order.iter().filter_map(in_file).flatten();
            solved.expect(in_file.map(|&site| (vec![Some(site)], [].as_slice())));
            let mut writer = StreamWriter::begin(sink, file, header);
            for (name, dtype) in order {
                let info = checkpoint.require(&name)?;
                let Some(here) = sites.remove(&(part, info.name.as_str())) else {
                    unchanged(checkpoint, info, dtype, &mut writer).await?;
                    continue;
                };
                let mut changes = Vec::with_capacity(here.len());
                for site in here {
                    out.written(writer.bytes(), bytes);
                    out.tell(&site.name, reports.len()).await?;
                    let (change, report) = Change::of(solved, site, info).await?;
                    reports.insert(site.name.clone(), report);
                    changes.push(change);
                }
                changed(checkpoint, info, dtype, (&mut *solved, &changes), &mut writer).await?;
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
        for range in pieces(info.elements(), 1) {
            let data = checkpoint.f32_range(&info.name, range.clone()).await?;
            let bytes = encode_piece(&info.name, range.start, &data, out)?;
            writer.piece(&info.name, &bytes).await?;
        }
        return Ok(());
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

/// Numbers of a tensor, some at a time and in whole rows of `width`; one empty piece of an empty tensor.
fn pieces(elements: usize, width: usize) -> impl Iterator<Item = Range<usize>> {
    let step = (PIECE_NUMBERS / width.max(1)).max(1) * width.max(1);
    (0..elements.max(1))
        .step_by(step)
        .map(move |start| start..elements.min(start + step))
}

/// Writes a tensor with its changes.
async fn changed<'a>(
    checkpoint: &Checkpoint,
    info: &TensorInfo,
    dtype: Dtype,
    (solved, changes): (&mut Truncated<'a>, &[Change<'a>]),
    writer: &mut StreamWriter<'_>,
) -> Result<()> {
    // Changes of several experts or parts have one width, which then divides their places, too.
    let width = changes.iter().map(|change| change.width).max().unwrap_or(1);
    let fits = |change: &Change<'_>| change.width == width && change.start.is_multiple_of(width);
    let width = if changes.iter().all(fits) {
        width
    } else {
        info.elements().max(1)
    };
    for range in pieces(info.elements(), width) {
        let mut sum = Sum::read(checkpoint, info, range.clone()).await?;
        for change in changes {
            change
                .add(range.clone(), solved, &mut |at, delta| sum.add(at, delta))
                .await?;
        }
        let bytes = sum.encoded(&info.name, range.start, dtype)?;
        writer.piece(&info.name, &bytes).await?;
    }
    Ok(())
}

/// A change as the base's tensor has its place: row by row from `start` on, each row `width` numbers.
struct Change<'a> {
    numbers: Numbers<'a>,
    width: usize,
    start: usize,
}

enum Numbers<'a> {
    /// The rows of B A.
    Factors(LowRank),
    Dense(Vec<f32>),
    /// Those of a tensor that was saved whole, made row by row.
    Whole(WholeChange<'a>),
    /// Rows of a table that lie apart: which, and their numbers.
    Rows(Vec<usize>, Vec<f32>),
}

impl<'a> Change<'a> {
    async fn of(
        solved: &mut Truncated<'a>,
        site: &'a MergeSite,
        info: &TensorInfo,
    ) -> Result<(Self, LayerReport)> {
        if solved.solution().has_rows(site) {
            let (change, report) = WholeChange::of(solved, site).await?;
            let change = Self {
                numbers: Numbers::Whole(change),
                width: site.d_in.max(1),
                start: site.range().start,
            };
            return Ok((change, report));
        }
        let SolvedLayer { delta, report } = solved.take(site).await?;
        Ok((Self::solved(site, delta, info)?, report))
    }

    fn solved(site: &MergeSite, delta: Delta, info: &TensorInfo) -> Result<Self> {
        let misfit = || {
            Error::new(
                Code::ShapeMismatch,
                format!("a change does not fit the base's tensor: {}", site.name),
            )
        };
        let elements = info.elements();
        let (d_out, d_in) = delta.shape();
        if let Place::Rows(rows) = &site.place {
            let inside = rows.last().is_none_or(|row| (row + 1) * site.d_in <= elements);
            if (d_out, d_in) != (rows.len(), site.d_in) || !inside {
                return Err(misfit());
            }
            return Ok(Self {
                numbers: Numbers::Rows(rows.clone(), delta.into_dense()),
                width: site.d_in.max(1),
                start: 0,
            });
        }
        let range = site.range();
        if d_out * d_in != range.len() || range.end > elements {
            return Err(misfit());
        }
        let numbers = match delta {
            Delta::LowRank(factors) => Numbers::Factors(site.stored_factors(factors)),
            Delta::Dense(dense) => Numbers::Dense(site.stored(dense.data)),
        };
        let width = if site.stored_transposed() { d_out } else { d_in };
        Ok(Self {
            numbers,
            width: width.max(1),
            start: range.start,
        })
    }

    /// Hands over what the change adds to the numbers `range` of the tensor, with the place of each stretch in it.
    async fn add(
        &self,
        range: Range<usize>,
        solved: &mut Truncated<'a>,
        put: &mut dyn FnMut(usize, &[f32]),
    ) -> Result<()> {
        let width = self.width;
        // Rows of the change that have a number in the range.
        let rows = |rows: usize| {
            let end = self.start + rows * width;
            let (from, to) = (range.start.max(self.start), range.end.min(end));
            (from < to).then(|| ((from - self.start) / width, (to - self.start).div_ceil(width)))
        };
        let place = |row: usize| self.start + row * width - range.start;
        match &self.numbers {
            Numbers::Factors(factors) => {
                if let Some((first, last)) = rows(factors.d_out) {
                    put(place(first), &factors.rows(first..last));
                }
            }
            Numbers::Dense(data) => {
                if let Some((first, last)) = rows(data.len() / width) {
                    put(place(first), &data[first * width..last * width]);
                }
            }
            Numbers::Whole(change) => {
                if let Some((first, last)) = rows(change.d_out()) {
                    put(place(first), &change.rows(solved, first..last).await?);
                }
            }
            Numbers::Rows(ids, data) => {
                for (id, row) in ids.iter().zip(data.chunks_exact(width)) {
                    if (range.start..range.end).contains(&(id * width)) {
                        put(id * width - range.start, row);
                    }
                }
            }
        }
        Ok(())
    }
}

/// Some numbers of a tensor of the base while changes are added to them.
enum Sum {
    Single(Vec<f32>),
    /// Of a checkpoint in f64, which stays exact where nothing is added.
    Double(Vec<f64>),
}

impl Sum {
    async fn read(checkpoint: &Checkpoint, info: &TensorInfo, range: Range<usize>) -> Result<Self> {
        match info.dtype {
            Dtype::F64 => {
                let bytes = if info.strides.is_some() {
                    let all = checkpoint.bytes(&info.name).await?;
                    all[range.start * 8..range.end * 8].to_vec()
                } else {
                    let bytes = range.start as u64 * 8..range.end as u64 * 8;
                    checkpoint.bytes_range(&info.name, bytes).await?
                };
                let numbers = bytes.as_chunks::<8>().0.iter();
                Ok(Self::Double(numbers.map(|&b| f64::from_le_bytes(b)).collect()))
            }
            _ if info.is_float() => Ok(Self::Single(checkpoint.f32_range(&info.name, range).await?)),
            other => Err(Error::new(
                Code::DtypeUnsupported,
                format!(
                    "nothing can be added to weights of type {other}; take the base model unquantised, as float32, float16 or bfloat16, or write an adapter; tensor: {}",
                    info.name
                ),
            )),
        }
    }

    /// Adds a change from the number `at` on.
    fn add(&mut self, at: usize, delta: &[f32]) {
        match self {
            Self::Single(data) => data[at..].iter_mut().zip(delta).for_each(|(w, d)| *w += d),
            Self::Double(data) => {
                let pairs = data[at..].iter_mut().zip(delta);
                pairs.for_each(|(w, &d)| *w += f64::from(d));
            }
        }
    }

    #[allow(
        clippy::cast_possible_truncation,
        reason = "the caller asked for a narrower type; what it cannot hold is refused"
    )]
    fn encoded(self, name: &str, start: usize, dtype: Dtype) -> Result<Vec<u8>> {
        let data = match self {
            Self::Single(data) => data,
            Self::Double(data) if dtype == Dtype::F64 => {
                if let Some(at) = data.iter().position(|x| !x.is_finite()) {
                    return Err(Error::new(
                        Code::NotFinite,
                        format!(
                            "A result holds {} at element {} and is not written: {name}",
                            data[at],
                            start + at
                        ),
                    ));
                }
                return Ok(data.iter().flat_map(|x| x.to_le_bytes()).collect());
            }
            Self::Double(data) => data.into_iter().map(|x| x as f32).collect(),
        };
        encode_piece(name, start, &data, out(dtype).unwrap_or(OutDtype::F32))
    }
}
