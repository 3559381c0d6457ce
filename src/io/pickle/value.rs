//! What a pickle of tensors can consist of.
//!
//! Values lie in one row and name each other by their place in it. So a pickle that nests a million
//! lists, or a list that holds itself, is only a long row: nothing here walks it by recursion.

use std::ops::Range;

use crate::io::Dtype;

/// The place of a value in its pickle's row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Id(pub(super) usize);

/// A value of a pickle.
#[derive(Debug)]
pub(super) enum Value {
    None,
    Bool(bool),
    /// Wide enough for torch's magic number, of 80 bits.
    Int(i128),
    /// UTF-8, by its place in the pickle.
    Text(Range<usize>),
    Tuple(Vec<Id>),
    List(Vec<Id>),
    Dict {
        items: Vec<(Id, Id)>,
        /// Whether it is a `collections.OrderedDict`, which may have attributes.
        ordered: bool,
    },
    Global(Global),
    Storage(Storage),
    Tensor(Tensor),
}

/// The names of Python that may occur.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Global {
    OrderedDict,
    RebuildTensor,
    RebuildParameter,
    Storage(Dtype),
}

impl Global {
    /// The meaning of `module.name`, if it is one of those that may occur.
    pub(super) fn of(module: &str, name: &str) -> Option<Self> {
        Some(match (module, name) {
            ("collections", "OrderedDict") => Self::OrderedDict,
            ("torch._utils", "_rebuild_tensor_v2") => Self::RebuildTensor,
            ("torch._utils", "_rebuild_parameter") => Self::RebuildParameter,
            ("torch", storage) => Self::Storage(match storage {
                "DoubleStorage" => Dtype::F64,
                "FloatStorage" => Dtype::F32,
                "HalfStorage" => Dtype::F16,
                "BFloat16Storage" => Dtype::BF16,
                "LongStorage" => Dtype::I64,
                "IntStorage" => Dtype::I32,
                "ShortStorage" => Dtype::I16,
                "CharStorage" => Dtype::I8,
                "ByteStorage" => Dtype::U8,
                "BoolStorage" => Dtype::BOOL,
                _ => return None,
            }),
            _ => return None,
        })
    }
}

/// A run of elements of one type, which lies outside the pickle.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Storage {
    pub(super) dtype: Dtype,
    /// Its name, by its place in the pickle.
    pub(super) key: Range<usize>,
    pub(super) elements: u64,
}

/// A view of a storage, as the pickle has it: not yet checked against the storage.
#[derive(Debug, Clone, Copy)]
pub(super) struct Tensor {
    pub(super) storage: Id,
    /// In elements.
    pub(super) offset: u64,
    /// A tuple of numbers.
    pub(super) shape: Id,
    /// Another, as long as the first.
    pub(super) strides: Id,
}

/// One pickle, read to its end.
pub(super) struct Pickle<'a> {
    pub(super) bytes: &'a [u8],
    pub(super) values: Vec<Value>,
    pub(super) root: Id,
    /// Where in `bytes` the next pickle would begin.
    pub(super) end: usize,
}

impl Pickle<'_> {
    pub(super) fn value(&self, id: Id) -> Option<&Value> {
        self.values.get(id.0)
    }

    pub(super) fn root(&self) -> Option<&Value> {
        self.value(self.root)
    }

    /// The text at `range`; the machine has seen that it is UTF-8.
    pub(super) fn text_at(&self, range: &Range<usize>) -> &str {
        self.bytes
            .get(range.clone())
            .and_then(|bytes| std::str::from_utf8(bytes).ok())
            .unwrap_or_default()
    }

    /// The numbers of a tuple, if it is one of numbers that are not negative.
    pub(super) fn numbers(&self, id: Id) -> Option<Vec<u64>> {
        match self.value(id)? {
            Value::Tuple(items) => items
                .iter()
                .map(|&item| match self.value(item)? {
                    &Value::Int(number) => u64::try_from(number).ok(),
                    _ => None,
                })
                .collect(),
            _ => None,
        }
    }

    pub(super) fn text(&self, id: Id) -> Option<&str> {
        match self.value(id)? {
            Value::Text(range) => Some(self.text_at(range)),
            _ => None,
        }
    }
}
