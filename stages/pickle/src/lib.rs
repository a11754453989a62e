//! A reader for Python pickles that builds data and runs nothing (protocols 0 to 5).
//!
//! A pickle is a program. This reader runs none of it: its opcodes build dicts, lists, tuples, strings, numbers, bools and
//! None. What [`Rules`] allow a pickle to name may also be called by it; such a call is written down as a value and never
//! made. Any other opcode or name is refused. `serde-pickle` was left out on purpose: it accepts REDUCE, BUILD and INST,
//! recurses into nested values and copies memoised ones, so that a few hundred bytes exhaust stack or memory.
//!
//! Values live in one flat list and refer to each other by index. Depth therefore costs no stack, a memo reference costs
//! four bytes, and a cycle is harmless. Memory is linear in the input, which is limited. Opcodes and their arguments:
//! CPython's `Lib/pickletools.py`.

mod calls;
mod error;
mod literal;
mod machine;

use std::borrow::Cow;

pub use error::PickleError;

/// A module and a name in it.
pub type Name = (&'static str, &'static str);

/// What a pickle may have.
#[derive(Clone, Copy, Debug)]
pub struct Rules {
    /// Longest pickle, in bytes.
    pub max_bytes: usize,
    /// Most opcodes, those that only move the stack included.
    pub max_opcodes: usize,
    /// What it may name and call. Empty: plain data only.
    pub names: &'static [Name],
    /// The same in words, for refusals: "only … is read".
    pub only: &'static str,
}

impl Rules {
    /// Rules for plain data of at most so many bytes.
    pub const fn plain(max_bytes: usize) -> Self {
        let only = "plain data is read (dict, list, tuple, string, number, bool, None)";
        Self { max_bytes, max_opcodes: max_bytes, names: &[], only }
    }
}

/// A value of a [`Pickle`]; containers hold ids of their items.
#[derive(Clone, Debug, PartialEq)]
pub enum Value<'a> {
    /// Python's `None`.
    None,
    /// `True` or `False`; also the `I01` and `I00` of protocol 0.
    Bool(bool),
    /// An integer that fits 64 bits.
    Int(i64),
    /// A float.
    Float(f64),
    /// Text, or a byte string that is UTF-8.
    Text(Cow<'a, str>),
    /// List or tuple.
    Sequence(Vec<ValueId>),
    /// Keys and values in the order of insertion; a later key replaces an equal earlier one.
    Dict(Vec<(ValueId, ValueId)>),
    /// Something that the rules allow to name.
    Name(&'static Name),
    /// What Python would have called, and the sequence of its arguments. `OrderedDict()` is a [`Value::Dict`].
    Call(&'static Name, ValueId),
    /// Something outside of the pickle, by what the pickle calls it.
    Reference(ValueId),
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
    /// ```
    /// use pickle::{Pickle, PickleError, Rules, Value};
    /// let rules = Rules::plain(1 << 10);
    /// let list = Pickle::read(b"\x80\x02]q\x00(K\x01K\x02e.", &rules)?;
    /// let Value::Sequence(items) = list.root() else { panic!("no list: {list:?}") };
    /// assert_eq!(items.iter().map(|id| list.value(*id)).collect::<Vec<_>>(), [&Value::Int(1), &Value::Int(2)]);
    /// // os.system("ls")
    /// let attack = Pickle::read(b"cos\nsystem\n(S'ls'\ntR.", &rules);
    /// assert!(matches!(attack, Err(PickleError::Refused { .. })));
    /// # Ok::<(), PickleError>(())
    /// ```
    ///
    /// # Errors
    /// [`PickleError::Limit`] over a limit of the rules; [`PickleError::Refused`] for an opcode or a name that they do not
    /// allow; [`PickleError::Damaged`] for opcodes that do not add up.
    pub fn read(bytes: &'a [u8], rules: &Rules) -> Result<Self, PickleError> {
        if bytes.len() > rules.max_bytes {
            return Err(PickleError::Limit { what: "bytes", value: bytes.len() as u64, limit: rules.max_bytes as u64 });
        }
        let (values, root) = machine::run(bytes, rules)?;
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
