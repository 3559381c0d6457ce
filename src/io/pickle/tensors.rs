//! From a pickle's values to checked [`TensorInfo`]s.
//!
//! A tensor says which storage it views, from where, in which shape and with which strides. A view that reaches beyond
//! its storage, or that repeats a few bytes into a tensor of any size, is refused here, so that a tensor is never
//! larger than what the file holds of it.

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    error::{Code, Error, Result},
    io::{
        Dtype, TensorInfo,
        pickle::{
            Refusal, refused,
            value::{Pickle, Storage, Tensor, Value},
        },
    },
};

/// No model has more tensors than this in one file.
const TENSOR_LIMIT: usize = 100_000;

/// The number of bytes of an element.
pub(super) fn width(dtype: Dtype) -> u64 {
    (dtype.bitsize() / 8) as u64
}

/// The storages that a pickle refers to, by their keys.
pub(super) fn storages<'a>(
    pickle: &'a Pickle<'_>,
) -> std::result::Result<BTreeMap<&'a str, &'a Storage>, Refusal> {
    let mut storages: BTreeMap<&str, &Storage> = BTreeMap::new();
    for value in &pickle.values {
        let Value::Storage(storage) = value else { continue };
        let key = pickle.text_at(&storage.key);
        let first = storages.entry(key).or_insert(storage);
        if (first.dtype, first.elements) != (storage.dtype, storage.elements) {
            return Err(Refusal(format!(
                "The storage {} is referred to as {} elements of {} and as {} of {}",
                key.escape_debug(),
                first.elements,
                first.dtype,
                storage.elements,
                storage.dtype
            )));
        }
    }
    Ok(storages)
}

/// The tensors of a pickle, each of which lies in one of the storages, whose first bytes `starts` gives.
///
/// A storage's length has been checked against the file's before.
pub(super) fn tensors(
    pickle: &Pickle<'_>,
    starts: &BTreeMap<&str, u64>,
    file: &str,
) -> Result<Vec<TensorInfo>> {
    let Some(Value::Dict { items, .. }) = pickle.root() else {
        return Err(refused("The pickle is not of a dictionary", file));
    };
    if items.len() > TENSOR_LIMIT {
        return Err(refused(
            &format!("The pickle lists more than {TENSOR_LIMIT} tensors"),
            file,
        ));
    }
    let mut seen = BTreeSet::new();
    let mut infos = Vec::with_capacity(items.len());
    for &(key, value) in items {
        let Some(name) = pickle.text(key) else {
            return Err(refused("A tensor is named by something other than text", file));
        };
        let Some(Value::Tensor(tensor)) = pickle.value(value) else {
            return Err(refused(
                &format!(
                    "The pickle holds something that is no tensor ({})",
                    name.escape_debug()
                ),
                file,
            ));
        };
        if !seen.insert(name) {
            return Err(Error::new(
                Code::Duplicate,
                format!("{file} names a tensor twice; save the model again: {name}"),
            ));
        }
        let info = place(pickle, *tensor, name, starts)
            .map_err(|Refusal(what)| refused(&format!("{what} ({})", name.escape_debug()), file))?;
        infos.push(info);
    }
    Ok(infos)
}

/// Holds one tensor against its storage.
fn place(
    pickle: &Pickle<'_>,
    tensor: Tensor,
    name: &str,
    starts: &BTreeMap<&str, u64>,
) -> std::result::Result<TensorInfo, Refusal> {
    let refusal = |what: &str| Refusal(what.to_owned());
    let (Some(Value::Storage(storage)), Some(shape), Some(strides)) = (
        pickle.value(tensor.storage),
        pickle.numbers(tensor.shape),
        pickle.numbers(tensor.strides),
    ) else {
        return Err(refusal("A tensor is made of something else than numbers"));
    };
    let start = starts
        .get(pickle.text_at(&storage.key))
        .ok_or_else(|| refusal("A tensor's storage is not in the file"))?;

    // From the first element to the last, and how many there are: all of it inside the storage.
    let is_empty = shape.contains(&0);
    let elements = shape.iter().try_fold(1_u64, |count, &dim| count.checked_mul(dim));
    let span = shape
        .iter()
        .zip(&strides)
        .try_fold(1_u64, |span, (&dim, &stride)| {
            span.checked_add(dim.saturating_sub(1).checked_mul(stride)?)
        });
    let (elements, span) = if is_empty {
        (0, 0)
    } else {
        elements
            .zip(span)
            .ok_or_else(|| refusal("The size of a tensor overflows"))?
    };
    let end = tensor
        .offset
        .checked_add(span)
        .filter(|&end| end <= storage.elements);
    let Some(end) = end else {
        return Err(refusal("A tensor reaches beyond its storage"));
    };
    if elements > span {
        return Err(refusal(
            "A tensor repeats its elements (expand), and is only read after contiguous()",
        ));
    }
    if usize::try_from(elements).is_err() {
        return Err(refusal("The size of a tensor overflows"));
    }
    // Neither product overflows: the storage's bytes are in the file.
    let width = width(storage.dtype);
    let range = start + tensor.offset * width..start + end * width;
    let follow_each_other = is_empty || are_row_by_row(&shape, &strides);
    let sized = |numbers: Vec<u64>| -> Option<Vec<usize>> {
        numbers
            .into_iter()
            .map(|number| usize::try_from(number).ok())
            .collect()
    };
    // A stride along a dimension of one element, or of an empty tensor, may be any number: it is not used.
    let strides = if follow_each_other {
        None
    } else {
        let used = strides
            .iter()
            .zip(&shape)
            .map(|(&stride, &dim)| if dim > 1 { stride } else { 0 });
        Some(sized(used.collect()).ok_or_else(|| refusal("The strides of a tensor overflow"))?)
    };
    Ok(TensorInfo {
        name: name.to_owned(),
        dtype: storage.dtype,
        shape: sized(shape).ok_or_else(|| refusal("The size of a tensor overflows"))?,
        source: 0,
        range,
        strides,
    })
}

/// Whether the strides are those of elements that follow each other row by row. The tensor is not empty,
/// and its number of elements does not overflow.
fn are_row_by_row(shape: &[u64], strides: &[u64]) -> bool {
    let mut expected = 1;
    shape.iter().zip(strides).rev().all(|(&dim, &stride)| {
        let fits = dim == 1 || stride == expected;
        expected *= dim;
        fits
    })
}
