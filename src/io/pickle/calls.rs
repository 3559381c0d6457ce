//! The instructions that in Python call a function or fetch an object: BINPERSID, REDUCE and BUILD.
//!
//! None of them does what it says. Each knows what it may be applied to, makes the storage, the tensor or the
//! dictionary itself, and refuses all else; nothing is looked up, imported or called.

use crate::io::pickle::{
    machine::{Machine, Result, refusal},
    value::{Global, Id, Storage, Tensor, Value},
};

/// Weights have no more dimensions; those of a convolution over volumes are five.
const DIMENSION_LIMIT: usize = 8;

impl Machine<'_> {
    /// BINPERSID: what lies outside the pickle, `("storage", type, key, location, elements)` and, in the
    /// old format, None for a view that nothing writes any more.
    pub(super) fn storage(&mut self) -> Result<()> {
        let id = self.pop()?;
        let found = self.tuple(id).and_then(|items| {
            let (&[kind, class, key, location, elements], rest) = items.split_first_chunk()? ;
            let is_whole = match rest {
                [] => true,
                [view] => matches!(self.values[view.0], Value::None),
                _ => false,
            };
            let storage = match (&self.values[class.0], &self.values[key.0]) {
                (&Value::Global(Global::Storage(dtype)), Value::Text(key)) => Storage {
                    dtype,
                    key: key.clone(),
                    elements: self.number(elements)?,
                },
                _ => return None,
            };
            let is_storage = matches!(&self.values[kind.0], Value::Text(kind) if &self.bytes[kind.clone()] == b"storage")
                && matches!(self.values[location.0], Value::Text(_));
            (is_storage && is_whole).then_some(storage)
        });
        match found {
            Some(storage) => {
                self.push(Value::Storage(storage));
                Ok(())
            }
            None => refusal(format!(
                "The pickle refers to something that is no storage before byte {}",
                self.at
            )),
        }
    }

    /// REDUCE: a call, of one of three functions whose results are known.
    pub(super) fn reduce(&mut self) -> Result<()> {
        let (arguments, function) = (self.pop()?, self.pop()?);
        let global = match self.values[function.0] {
            Value::Global(global) => Some(global),
            _ => None,
        };
        let arguments = self.tuple(arguments);
        match (global, arguments) {
            (Some(Global::OrderedDict), Some([])) => {
                self.push(Value::Dict {
                    items: Vec::new(),
                    ordered: true,
                });
                Ok(())
            }
            (Some(Global::RebuildTensor), Some(arguments)) => {
                match self.tensor(arguments) {
                    Some(tensor) => self.push(Value::Tensor(tensor)),
                    None => {
                        return refusal(format!(
                            "The pickle builds a tensor of a kind that is not read before byte {}",
                            self.at
                        ));
                    }
                }
                Ok(())
            }
            (Some(Global::RebuildParameter), Some(&[data, requires_grad, hooks]))
                if matches!(self.values[data.0], Value::Tensor(_))
                    && matches!(self.values[requires_grad.0], Value::Bool(_))
                    && self.is_empty_dict(hooks) =>
            {
                self.stack.push(data);
                Ok(())
            }
            _ => refusal(format!(
                "The pickle calls something that makes no tensor before byte {}",
                self.at
            )),
        }
    }

    /// The arguments of `_rebuild_tensor_v2`: storage, offset, size, stride, requires_grad, hooks and, in
    /// newer files, attributes such as being the conjugate. Hooks and attributes have to be empty.
    fn tensor(&self, arguments: &[Id]) -> Option<Tensor> {
        let (&[storage, offset, size, stride, requires_grad, hooks], rest) = arguments.split_first_chunk()?;
        let is_plain = match rest {
            [] => true,
            &[attributes] => {
                matches!(self.values[attributes.0], Value::None) || self.is_empty_dict(attributes)
            }
            _ => false,
        };
        let is_tensor = matches!(self.values[storage.0], Value::Storage(_))
            && matches!(self.values[requires_grad.0], Value::Bool(_))
            && self.is_empty_dict(hooks);
        let dimensions = |id: Id| {
            let items = self.tuple(id)?;
            let are_numbers =
                items.len() <= DIMENSION_LIMIT && items.iter().all(|&item| self.number(item).is_some());
            are_numbers.then_some(items.len())
        };
        let fits = dimensions(size)? == dimensions(stride)?;
        (is_plain && is_tensor && fits).then_some(Tensor {
            storage,
            offset: self.number(offset)?,
            shape: size,
            strides: stride,
        })
    }

    /// BUILD: attributes of an object, of which an OrderedDict's `_metadata` (module versions, which
    /// `state_dict()` adds) is the only one there may be. It is of no use here.
    pub(super) fn build(&mut self) -> Result<()> {
        let state = self.pop()?;
        let object = self.top()?;
        let takes_attributes = matches!(self.values[object.0], Value::Dict { ordered: true, .. });
        let is_metadata = match &self.values[state.0] {
            Value::Dict { items, .. } => match **items {
                [(key, _)] => {
                    matches!(&self.values[key.0], Value::Text(key) if &self.bytes[key.clone()] == b"_metadata")
                }
                _ => false,
            },
            _ => false,
        };
        if takes_attributes && is_metadata {
            return Ok(());
        }
        refusal(format!(
            "The pickle sets attributes that no tensor has before byte {}",
            self.at
        ))
    }
}
