//! Names and calls, which are written down where the rules have them, and refusals.

use std::borrow::Cow;

use super::machine::Machine;
use super::{Name, PickleError, Value};

/// Called without arguments it makes a dict, and that is data.
const ORDERED_DICT: Name = ("collections", "OrderedDict");

impl Machine<'_> {
    /// Whether the rules allow to name anything, and so to call it.
    pub(super) fn may_call(&self) -> bool {
        !self.rules.names.is_empty()
    }

    /// Something by its module and name, where the rules allow it.
    pub(super) fn name(&mut self, opcode: u8) -> Result<(), PickleError> {
        let named = match opcode {
            b'c' => [self.line(), self.line()].map(Result::ok),
            _ => match self.pop_many(2).as_deref() {
                Ok(&[module, name]) => [module, name].map(|id| match &self.values[id.0 as usize] {
                    Value::Text(Cow::Borrowed(text)) => Some(text.as_bytes()),
                    _ => None,
                }),
                _ => [None; 2],
            },
        };
        let known = |(module, name): &&Name| named == [module, name].map(|text| Some(text.as_bytes()));
        if let Some(known) = self.rules.names.iter().find(known) {
            self.push(Value::Name(known));
            return Ok(());
        }
        let object = match named {
            [Some(module), Some(name)] => {
                let shown = |text: &[u8]| text[..text.len().min(40)].escape_ascii().to_string();
                format!(" ({}.{})", shown(module), shown(name))
            }
            _ => String::new(),
        };
        Err(self.refusal(opcode, object))
    }

    /// Writes down a call.
    pub(super) fn call(&mut self) -> Result<(), PickleError> {
        let ids = self.pop_many(2)?;
        let [function, arguments] = [ids[0], ids[1]].map(|id| &self.values[id.0 as usize]);
        let value = match (function, arguments) {
            (Value::Name(name), Value::Sequence(items)) if **name == ORDERED_DICT && items.is_empty() => {
                Value::Dict(Vec::new())
            }
            (Value::Name(name), Value::Sequence(_)) => Value::Call(name, ids[1]),
            _ => return Err(self.error("a call of what has no name, or without a tuple of arguments".into())),
        };
        self.push(value);
        Ok(())
    }

    /// Attributes of a dict or an object (such as `_metadata`) are no part of its content.
    pub(super) fn ignore_attributes(&mut self) -> Result<(), PickleError> {
        self.pop_many(1)?;
        let top = self.top()?;
        match &self.values[top.0 as usize] {
            Value::Dict(_) | Value::Call(..) => Ok(()),
            _ => Err(self.error("attributes set on what is neither a dict nor an object".into())),
        }
    }

    pub(super) fn refusal(&self, opcode: u8, object: String) -> PickleError {
        let (offset, only) = (self.opcode_at as u64, self.rules.only);
        PickleError::Refused { offset, opcode: refused_opcode(opcode), object, only }
    }
}

fn refused_opcode(opcode: u8) -> &'static str {
    match opcode {
        b'c' => "GLOBAL",
        0x93 => "STACK_GLOBAL",
        b'R' => "REDUCE",
        b'b' => "BUILD",
        b'i' => "INST",
        b'o' => "OBJ",
        0x81 => "NEWOBJ",
        0x92 => "NEWOBJ_EX",
        b'P' => "PERSID",
        b'Q' => "BINPERSID",
        0x82 => "EXT1",
        0x83 => "EXT2",
        0x84 => "EXT4",
        0x97 => "NEXT_BUFFER",
        0x98 => "READONLY_BUFFER",
        0x8f => "EMPTY_SET",
        0x90 => "ADDITEMS",
        0x91 => "FROZENSET",
        b'0' => "POP",
        b'1' => "POP_MARK",
        b'2' => "DUP",
        _ => "(unknown)",
    }
}
