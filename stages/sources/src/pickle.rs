//! A reader for Python pickles that knows only plain data (protocols 0 to 5).
//!
//! A pickle is a program. This reader runs none of it: its opcodes build dicts, lists, tuples,
//! strings, numbers, bools and None, and any other opcode is refused by name. `serde-pickle` was
//! left out on purpose: it accepts REDUCE, BUILD and INST, recurses into nested values and copies
//! memoised ones, so that a few hundred bytes exhaust stack or memory.
//!
//! Values live in one flat list and refer to each other by index. Depth therefore costs no stack,
//! a memo reference costs four bytes, and a cycle is harmless. Memory is linear in the input,
//! which is limited to [`MAX_PICKLE_BYTES`]. Opcodes and their arguments: CPython's
//! `Lib/pickletools.py`.

mod literal;
mod machine;

use std::borrow::Cow;

use crate::SourceError;

/// Longest pickle that is read; meta records have some kilobytes.
pub const MAX_PICKLE_BYTES: usize = 4 << 20;

/// A value of a [`Pickle`]; containers hold ids of their items.
#[derive(Clone, Debug, PartialEq)]
pub enum Value<'a> {
    None,
    Bool(bool),
    Int(i64),
    Float(f64),
    /// Text, or a byte string that is UTF-8.
    Text(Cow<'a, str>),
    /// List or tuple.
    Sequence(Vec<ValueId>),
    /// Keys and values in the order of insertion; a later key replaces an equal earlier one.
    Dict(Vec<(ValueId, ValueId)>),
}

/// Index of a value within its pickle.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ValueId(u32);

/// A pickle that was read.
#[derive(Clone, Debug)]
pub struct Pickle<'a> {
    values: Vec<Value<'a>>,
    root: ValueId,
}

impl<'a> Pickle<'a> {
    /// Reads one pickle, which must end with the bytes.
    ///
    /// # Errors
    /// [`SourceError::Limit`] over [`MAX_PICKLE_BYTES`]; [`SourceError::PickleOpcode`] for an
    /// opcode that is not plain data; [`SourceError::Pickle`] for a damaged one.
    pub fn read(bytes: &'a [u8]) -> Result<Self, SourceError> {
        if bytes.len() > MAX_PICKLE_BYTES {
            return Err(SourceError::Limit {
                what: "bytes of a pickle".into(),
                value: bytes.len() as u64,
                setting: "MAX_PICKLE_BYTES",
                limit: MAX_PICKLE_BYTES as u64,
            });
        }
        let (values, root) = machine::run(bytes)?;
        Ok(Self { values, root })
    }

    /// The outermost value.
    pub fn root(&self) -> &Value<'a> {
        self.value(self.root)
    }

    /// The value of an id of this pickle.
    pub fn value(&self, id: ValueId) -> &Value<'a> {
        &self.values[id.0 as usize]
    }
}
