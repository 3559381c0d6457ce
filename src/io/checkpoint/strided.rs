//! Tensors whose elements do not follow each other in the file, read into row order.
//!
//! torch saves a view as its whole storage and says where in it the view's elements lie. Read in the storage's order, a
//! transposed factor would be taken for another matrix of the same shape.

use std::ops::Range;

use crate::{
    error::{Code, Error, Result},
    io::{ByteSource, tensor::TensorInfo},
};

/// A tensor of at least one element and one dimension, with a stride for each dimension.
pub(super) struct Strided<'a> {
    info: &'a TensorInfo,
    strides: &'a [usize],
    /// The number of bytes of an element.
    width: usize,
}

impl<'a> Strided<'a> {
    /// The tensor, if its elements do not follow each other anyway.
    pub(super) fn of(info: &'a TensorInfo) -> Option<Self> {
        info.strides
            .as_deref()
            .filter(|_| info.elements() > 0)
            .map(|strides| Self {
                info,
                strides,
                width: info.dtype.bitsize() / 8,
            })
    }

    /// The bytes of the elements `wanted`, counted row by row.
    ///
    /// Read are the rows that hold them, with whatever lies between their first element and their last.
    pub(super) async fn read(&self, source: &dyn ByteSource, wanted: Range<usize>) -> Result<Vec<u8>> {
        let outside = || {
            Error::new(
                Code::Internal,
                format!("A tensor's strides lead out of its bytes: {}", self.info.name),
            )
        };
        if wanted.is_empty() {
            return Ok(Vec::new());
        }
        let (Some((_, inner_shape)), Some((outer, inner))) =
            (self.info.shape.split_first(), self.strides.split_first())
        else {
            return Err(outside());
        };
        let row = inner_shape.iter().product::<usize>();
        let (first, last) = (wanted.start / row, (wanted.end - 1) / row);
        // In 64 bits, as a file may be larger than the address space. No sum overflows them: the whole
        // tensor lies inside a file.
        let inner_span: u64 = inner_shape
            .iter()
            .zip(inner)
            .map(|(&dim, &stride)| (dim as u64 - 1) * stride as u64)
            .sum();
        let (outer, width) = (*outer as u64, self.width as u64);
        let start = self.info.range.start + first as u64 * outer * width;
        let end = self.info.range.start + (last as u64 * outer + inner_span + 1) * width;
        let span = source.read(start..end).await?;

        let mut bytes = Vec::new();
        bytes.try_reserve_exact(wanted.len() * self.width).map_err(|_| {
            Error::new(
                Code::OutOfMemory,
                format!(
                    "There is no memory for a tensor of {} elements: {}",
                    wanted.len(),
                    self.info.name
                ),
            )
        })?;
        let mut index = self.index_of(wanted.start - first * row);
        for _ in wanted {
            let at = self.offset_of(&index) * self.width;
            bytes.extend_from_slice(span.get(at..at + self.width).ok_or_else(outside)?);
            self.advance(&mut index);
        }
        Ok(bytes)
    }

    /// The index along each dimension of the element that is `flat`th row by row.
    fn index_of(&self, mut flat: usize) -> Vec<usize> {
        let mut index = vec![0; self.strides.len()];
        for (at, dim) in index.iter_mut().zip(&self.info.shape).rev() {
            *at = flat % dim;
            flat /= dim;
        }
        index
    }

    /// How many elements of the file lie before the one at `index`.
    fn offset_of(&self, index: &[usize]) -> usize {
        index
            .iter()
            .zip(self.strides)
            .map(|(at, stride)| at * stride)
            .sum()
    }

    /// Moves `index` to the next element row by row.
    fn advance(&self, index: &mut [usize]) {
        for (at, &dim) in index.iter_mut().zip(&self.info.shape).rev() {
            *at += 1;
            if *at < dim {
                return;
            }
            *at = 0;
        }
    }
}
