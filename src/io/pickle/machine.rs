//! The pickle instructions that `torch.save` emits for a dictionary of tensors.
//!
//! It is a stack machine that makes [`Value`]s. Instructions that could call anything are in [`calls`](super::calls),
//! and call nothing. A small pickle may claim or build something large, so each instruction makes at most one value, of
//! a size that does not grow with what it refers to; the number of instructions is limited; and no length is believed
//! before its bytes are there.

use std::collections::BTreeMap;
use std::ops::Range;

use crate::io::pickle::{
    Refusal,
    value::{Global, Id, Pickle, Value},
};

/// How many instructions a file's pickles may take together; a tensor takes about 40.
pub(super) const INSTRUCTION_LIMIT: usize = 2_000_000;

/// The longest line of a GLOBAL instruction that is looked at.
const NAME_LIMIT_BYTES: usize = 256;

pub(super) type Result<T> = std::result::Result<T, Refusal>;

pub(super) fn refusal<T>(what: impl Into<String>) -> Result<T> {
    Err(Refusal(what.into()))
}

/// Reads the pickle that begins at `at`. `left` is how many instructions are left for the whole file.
pub(super) fn run<'a>(bytes: &'a [u8], at: usize, left: &mut usize) -> Result<Pickle<'a>> {
    let mut machine = Machine {
        bytes,
        at,
        values: Vec::new(),
        stack: Vec::new(),
        marks: Vec::new(),
        memo: BTreeMap::new(),
    };
    let root = loop {
        *left = match left.checked_sub(1) {
            Some(left) => left,
            None => {
                return refusal(format!(
                    "The pickle has more than {INSTRUCTION_LIMIT} instructions"
                ));
            }
        };
        if let Some(root) = machine.step()? {
            break root;
        }
    };
    Ok(Pickle {
        bytes,
        root,
        values: machine.values,
        end: machine.at,
    })
}

pub(super) struct Machine<'a> {
    pub(super) bytes: &'a [u8],
    pub(super) at: usize,
    pub(super) values: Vec<Value>,
    pub(super) stack: Vec<Id>,
    /// How high the stack was at each MARK that is still open.
    marks: Vec<usize>,
    memo: BTreeMap<u32, Id>,
}

impl Machine<'_> {
    /// Executes one instruction; STOP gives the value of the whole pickle.
    fn step(&mut self) -> Result<Option<Id>> {
        let begin = self.at;
        match self.u8()? {
            // PROTO and FRAME: versions of the same instructions, and a hint of lengths to come.
            0x80 => match self.u8()? {
                2..=5 => {}
                version => return refusal(format!("The pickle is of protocol {version}")),
            },
            0x95 => {
                self.take(8)?;
            }
            b'N' => self.push(Value::None),
            0x88 => self.push(Value::Bool(true)),
            0x89 => self.push(Value::Bool(false)),
            b'K' => {
                let value = self.u8()?;
                self.push(Value::Int(value.into()));
            }
            b'M' => {
                let value = u16::from_le_bytes(self.array()?);
                self.push(Value::Int(value.into()));
            }
            b'J' => {
                let value = i32::from_le_bytes(self.array()?);
                self.push(Value::Int(value.into()));
            }
            0x8a => self.long()?,
            0x8c => {
                let length = self.u8()?;
                self.text(length.into())?;
            }
            b'X' => {
                let length = u32::from_le_bytes(self.array()?);
                self.text(length.into())?;
            }
            b')' => self.push(Value::Tuple(Vec::new())),
            b']' => self.push(Value::List(Vec::new())),
            b'}' => self.push(Value::Dict {
                items: Vec::new(),
                ordered: false,
            }),
            b'(' => self.marks.push(self.stack.len()),
            b't' => {
                let items = self.pop_to_mark()?;
                self.push(Value::Tuple(items));
            }
            number @ 0x85..=0x87 => {
                let mut items = Vec::with_capacity(3);
                for _ in 0x84..number {
                    items.insert(0, self.pop()?);
                }
                self.push(Value::Tuple(items));
            }
            b'a' => {
                let item = self.pop()?;
                self.append(&[item])?;
            }
            b'e' => {
                let items = self.pop_to_mark()?;
                self.append(&items)?;
            }
            b's' => {
                let value = self.pop()?;
                let key = self.pop()?;
                self.set(&[key, value])?;
            }
            b'u' => {
                let items = self.pop_to_mark()?;
                self.set(&items)?;
            }
            b'q' => {
                let key = self.u8()?;
                self.remember(key.into())?;
            }
            b'r' => {
                let key = u32::from_le_bytes(self.array()?);
                self.remember(key)?;
            }
            0x94 => match u32::try_from(self.memo.len()) {
                Ok(key) => self.remember(key)?,
                Err(_) => return refusal("The pickle remembers too many values"),
            },
            b'h' => {
                let key = self.u8()?;
                self.recall(key.into())?;
            }
            b'j' => {
                let key = u32::from_le_bytes(self.array()?);
                self.recall(key)?;
            }
            b'c' => {
                let module = self.line()?;
                let name = self.line()?;
                self.global(&module, &name)?;
            }
            0x93 => self.stack_global()?,
            b'Q' => self.storage()?,
            b'R' => self.reduce()?,
            b'b' => self.build()?,
            b'.' => return self.pop().map(Some),
            other => {
                return refusal(format!(
                    "The pickle has the instruction {other:#04x} at byte {begin}, which no tensor needs"
                ));
            }
        }
        Ok(None)
    }

    fn take(&mut self, length: usize) -> Result<Range<usize>> {
        let end = self.at.checked_add(length).filter(|&end| end <= self.bytes.len());
        let Some(end) = end else {
            return refusal(format!(
                "The pickle ends in the middle, at byte {}",
                self.bytes.len()
            ));
        };
        let range = self.at..end;
        self.at = end;
        Ok(range)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        let range = self.take(N)?;
        let mut array = [0; N];
        array.copy_from_slice(&self.bytes[range]);
        Ok(array)
    }

    fn u8(&mut self) -> Result<u8> {
        self.array().map(|[byte]| byte)
    }

    /// LONG1: a number of any length, the least byte first.
    fn long(&mut self) -> Result<()> {
        let length = self.u8()?;
        let range = self.take(length.into())?;
        let bytes = &self.bytes[range];
        if bytes.len() > 16 {
            return refusal(format!("The pickle has a number of {length} bytes"));
        }
        let negative = bytes.last().is_some_and(|&last| last >= 0x80);
        let mut wide = if negative { [0xff; 16] } else { [0; 16] };
        wide[..bytes.len()].copy_from_slice(bytes);
        self.push(Value::Int(i128::from_le_bytes(wide)));
        Ok(())
    }

    fn text(&mut self, length: u64) -> Result<()> {
        let begin = self.at;
        let range = self.take(usize::try_from(length).unwrap_or(usize::MAX))?;
        if std::str::from_utf8(&self.bytes[range.clone()]).is_err() {
            return refusal(format!("The pickle has a text at byte {begin} that is not UTF-8"));
        }
        self.push(Value::Text(range));
        Ok(())
    }

    /// A line of text, without its end.
    fn line(&mut self) -> Result<String> {
        let rest = &self.bytes[self.at..];
        let rest = &rest[..rest.len().min(NAME_LIMIT_BYTES)];
        let Some(length) = rest.iter().position(|&byte| byte == b'\n') else {
            return refusal(format!(
                "The pickle has a name without an end at byte {}",
                self.at
            ));
        };
        self.at += length + 1;
        Ok(String::from_utf8_lossy(&rest[..length]).into_owned())
    }

    pub(super) fn push(&mut self, value: Value) {
        self.stack.push(Id(self.values.len()));
        self.values.push(value);
    }

    /// Takes the top of the stack, but nothing from below an open MARK.
    pub(super) fn pop(&mut self) -> Result<Id> {
        let floor = self.marks.last().copied().unwrap_or(0);
        if self.stack.len() <= floor {
            return refusal(format!(
                "The pickle takes a value that is not there before byte {}",
                self.at
            ));
        }
        match self.stack.pop() {
            Some(id) => Ok(id),
            None => refusal("The pickle takes a value from nothing"),
        }
    }

    fn pop_to_mark(&mut self) -> Result<Vec<Id>> {
        match self.marks.pop() {
            Some(mark) => Ok(self.stack.split_off(mark)),
            None => refusal(format!(
                "The pickle closes what was not opened before byte {}",
                self.at
            )),
        }
    }

    /// The top of the stack, which stays there.
    pub(super) fn top(&mut self) -> Result<Id> {
        let id = self.pop()?;
        self.stack.push(id);
        Ok(id)
    }

    fn append(&mut self, new: &[Id]) -> Result<()> {
        let list = self.top()?;
        match self.values.get_mut(list.0) {
            Some(Value::List(items)) => {
                items.extend_from_slice(new);
                Ok(())
            }
            _ => refusal(format!(
                "The pickle appends to what is no list before byte {}",
                self.at
            )),
        }
    }

    fn set(&mut self, new: &[Id]) -> Result<()> {
        let dict = self.top()?;
        let (pairs, rest) = new.as_chunks::<2>();
        match self.values.get_mut(dict.0) {
            Some(Value::Dict { items, .. }) if rest.is_empty() => {
                items.extend(pairs.iter().map(|&[key, value]| (key, value)));
                Ok(())
            }
            _ => refusal(format!(
                "The pickle sets an item of what is no dictionary, or half an item, before byte {}",
                self.at
            )),
        }
    }

    fn remember(&mut self, key: u32) -> Result<()> {
        let top = self.top()?;
        self.memo.insert(key, top);
        Ok(())
    }

    fn recall(&mut self, key: u32) -> Result<()> {
        match self.memo.get(&key) {
            Some(&id) => {
                self.stack.push(id);
                Ok(())
            }
            None => refusal(format!(
                "The pickle recalls value {key}, which it never remembered"
            )),
        }
    }

    fn global(&mut self, module: &str, name: &str) -> Result<()> {
        match Global::of(module, name) {
            Some(global) => {
                self.push(Value::Global(global));
                Ok(())
            }
            None => refusal(format!(
                "The pickle names {}.{}, which is none of a tensor's parts",
                module.escape_debug(),
                name.escape_debug()
            )),
        }
    }

    fn stack_global(&mut self) -> Result<()> {
        let (name, module) = (self.pop()?, self.pop()?);
        let text = |id: Id| match &self.values[id.0] {
            Value::Text(range) if range.len() <= NAME_LIMIT_BYTES => {
                Some(String::from_utf8_lossy(&self.bytes[range.clone()]).into_owned())
            }
            _ => None,
        };
        match (text(module), text(name)) {
            (Some(module), Some(name)) => self.global(&module, &name),
            _ => refusal(format!(
                "The pickle has a name that is no text before byte {}",
                self.at
            )),
        }
    }

    pub(super) fn tuple(&self, id: Id) -> Option<&[Id]> {
        match &self.values[id.0] {
            Value::Tuple(items) => Some(items),
            _ => None,
        }
    }

    pub(super) fn number(&self, id: Id) -> Option<u64> {
        match self.values[id.0] {
            Value::Int(value) => u64::try_from(value).ok(),
            _ => None,
        }
    }

    pub(super) fn is_empty_dict(&self, id: Id) -> bool {
        matches!(&self.values[id.0], Value::Dict { items, .. } if items.is_empty())
    }
}
