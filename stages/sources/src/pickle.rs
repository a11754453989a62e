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

use std::borrow::Cow;
use std::collections::HashMap;

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
        let mut machine = Machine {
            bytes,
            at: 0,
            opcode_at: 0,
            values: Vec::new(),
            stack: Vec::new(),
            marks: Vec::new(),
            memo: HashMap::new(),
        };
        let root = loop {
            if let Some(root) = machine.step()? {
                break root;
            }
        };
        Ok(Self {
            values: machine.values,
            root,
        })
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

struct Machine<'a> {
    bytes: &'a [u8],
    at: usize,
    opcode_at: usize,
    values: Vec<Value<'a>>,
    stack: Vec<ValueId>,
    /// Heights of the stack at its MARKs.
    marks: Vec<usize>,
    memo: HashMap<u32, ValueId>,
}

impl<'a> Machine<'a> {
    /// Runs one opcode; the root value at STOP.
    fn step(&mut self) -> Result<Option<ValueId>, SourceError> {
        self.opcode_at = self.at;
        let opcode = self.take(1)?[0];
        match opcode {
            // Structure of the stream
            0x80 => {
                let protocol = self.take(1)?[0];
                if protocol > 5 {
                    return Err(self.error(format!("protocol {protocol} is unknown, 5 is known")));
                }
            }
            0x95 => {
                let frame = u64::from_le_bytes(self.array()?);
                if frame > (self.bytes.len() - self.at) as u64 {
                    return Err(self.error(format!("a frame of {frame} bytes: truncated")));
                }
            }
            b'.' => return self.stop().map(Some),
            b'(' => self.marks.push(self.stack.len()),
            // Scalars
            b'N' => self.push(Value::None),
            0x88 => self.push(Value::Bool(true)),
            0x89 => self.push(Value::Bool(false)),
            b'K' => {
                let value = self.take(1)?[0];
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
            0x8a => {
                let length = self.take(1)?[0];
                self.long(length.into())?;
            }
            0x8b => {
                let length = u32::from_le_bytes(self.array()?);
                self.long(length.into())?;
            }
            b'G' => {
                let value = f64::from_be_bytes(self.array()?);
                self.push(Value::Float(value));
            }
            b'I' | b'L' => self.decimal_line(opcode)?,
            b'F' => {
                let line = self.text_line()?;
                let value = line
                    .parse()
                    .map_err(|_| self.error(format!("`{line}` is no float")))?;
                self.push(Value::Float(value));
            }
            // Texts and byte strings: UTF-8, prefixed by their length
            0x8c | b'U' | b'C' => {
                let length = self.take(1)?[0];
                self.text(length.into())?;
            }
            b'X' | b'T' | b'B' => {
                let length = u32::from_le_bytes(self.array()?);
                self.text(length.into())?;
            }
            0x8d | 0x8e | 0x96 => {
                let length = u64::from_le_bytes(self.array()?);
                self.text(length)?;
            }
            b'V' => self.raw_unicode_line()?,
            b'S' => self.quoted_line()?,
            // Containers
            b']' => self.push(Value::Sequence(Vec::new())),
            b')' => self.push(Value::Sequence(Vec::new())),
            b'}' => self.push(Value::Dict(Vec::new())),
            b'l' | b't' => {
                let items = self.pop_to_mark()?;
                self.push(Value::Sequence(items));
            }
            0x85..=0x87 => {
                let items = self.pop_many(usize::from(opcode - 0x84))?;
                self.push(Value::Sequence(items));
            }
            b'a' => {
                let items = self.pop_many(1)?;
                self.extend_list(items)?;
            }
            b'e' => {
                let items = self.pop_to_mark()?;
                self.extend_list(items)?;
            }
            b'd' => {
                let items = self.pop_to_mark()?;
                self.push(Value::Dict(Vec::new()));
                self.extend_dict(items)?;
            }
            b's' => {
                let items = self.pop_many(2)?;
                self.extend_dict(items)?;
            }
            b'u' => {
                let items = self.pop_to_mark()?;
                self.extend_dict(items)?;
            }
            // Memo
            b'p' => {
                let key = self.memo_key_line()?;
                self.memoize(key)?;
            }
            b'q' => {
                let key = self.take(1)?[0];
                self.memoize(key.into())?;
            }
            b'r' => {
                let key = u32::from_le_bytes(self.array()?);
                self.memoize(key)?;
            }
            0x94 => {
                // The input limit keeps the number of entries far below 2^32.
                self.memoize(self.memo.len() as u32)?;
            }
            b'g' => {
                let key = self.memo_key_line()?;
                self.recall(key)?;
            }
            b'h' => {
                let key = self.take(1)?[0];
                self.recall(key.into())?;
            }
            b'j' => {
                let key = u32::from_le_bytes(self.array()?);
                self.recall(key)?;
            }
            other => {
                return Err(SourceError::PickleOpcode {
                    offset: self.opcode_at as u64,
                    opcode: refused_opcode(other),
                });
            }
        }
        Ok(None)
    }

    fn stop(&mut self) -> Result<ValueId, SourceError> {
        let root = self.pop_many(1)?[0];
        let rest = self.bytes.len() - self.at;
        if !self.stack.is_empty() || !self.marks.is_empty() || rest != 0 {
            return Err(self.error(format!(
                "STOP with {} values and {} marks left, {rest} bytes behind it",
                self.stack.len(),
                self.marks.len()
            )));
        }
        Ok(root)
    }

    fn error(&self, problem: String) -> SourceError {
        SourceError::Pickle {
            offset: self.opcode_at as u64,
            problem,
        }
    }

    fn take(&mut self, length: u64) -> Result<&'a [u8], SourceError> {
        let rest = &self.bytes[self.at..];
        match usize::try_from(length).ok().and_then(|n| rest.get(..n)) {
            Some(taken) => {
                self.at += taken.len();
                Ok(taken)
            }
            None => Err(self.error(format!(
                "{length} bytes wanted, {} left: truncated or damaged",
                rest.len()
            ))),
        }
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], SourceError> {
        let mut array = [0; N];
        array.copy_from_slice(self.take(N as u64)?);
        Ok(array)
    }

    /// The bytes up to the next newline, which is consumed.
    fn line(&mut self) -> Result<&'a [u8], SourceError> {
        let length = self.bytes[self.at..]
            .iter()
            .position(|&byte| byte == b'\n')
            .ok_or_else(|| self.error("a line without end: truncated".into()))?;
        let line = self.take(length as u64)?;
        self.at += 1;
        Ok(line)
    }

    fn text_line(&mut self) -> Result<&'a str, SourceError> {
        let line = self.line()?;
        std::str::from_utf8(line).map_err(|_| self.error("a line that is not UTF-8".into()))
    }

    fn push(&mut self, value: Value<'a>) {
        // The input limit keeps the number of values far below 2^32.
        self.stack.push(ValueId(self.values.len() as u32));
        self.values.push(value);
    }

    /// Height of the stack down to which opcodes may pop.
    fn floor(&self) -> usize {
        self.marks.last().copied().unwrap_or(0)
    }

    fn pop_many(&mut self, count: usize) -> Result<Vec<ValueId>, SourceError> {
        if self.stack.len() < self.floor() + count {
            return Err(self.error(format!("{count} values wanted from a shorter stack")));
        }
        Ok(self.stack.split_off(self.stack.len() - count))
    }

    fn pop_to_mark(&mut self) -> Result<Vec<ValueId>, SourceError> {
        match self.marks.pop() {
            Some(mark) => Ok(self.stack.split_off(mark)),
            None => Err(self.error("no mark on the stack".into())),
        }
    }

    fn top(&mut self) -> Result<ValueId, SourceError> {
        match self.stack[self.floor()..].last() {
            Some(&top) => Ok(top),
            None => Err(self.error("the stack is empty".into())),
        }
    }

    fn extend_list(&mut self, items: Vec<ValueId>) -> Result<(), SourceError> {
        let top = self.top()?;
        match &mut self.values[top.0 as usize] {
            Value::Sequence(list) => list.extend(items),
            _ => return Err(self.error("items appended to what is no list".into())),
        }
        Ok(())
    }

    fn extend_dict(&mut self, items: Vec<ValueId>) -> Result<(), SourceError> {
        let top = self.top()?;
        let (pairs, rest) = items.as_chunks::<2>();
        match &mut self.values[top.0 as usize] {
            Value::Dict(dict) if rest.is_empty() => dict.extend(pairs.iter().map(|&[k, v]| (k, v))),
            Value::Dict(_) => return Err(self.error("a key without value".into())),
            _ => return Err(self.error("keys set in what is no dict".into())),
        }
        Ok(())
    }

    fn memoize(&mut self, key: u32) -> Result<(), SourceError> {
        let top = self.top()?;
        self.memo.insert(key, top);
        Ok(())
    }

    fn recall(&mut self, key: u32) -> Result<(), SourceError> {
        match self.memo.get(&key) {
            Some(&id) => {
                self.stack.push(id);
                Ok(())
            }
            None => Err(self.error(format!("memo entry {key} was never stored"))),
        }
    }

    fn memo_key_line(&mut self) -> Result<u32, SourceError> {
        let line = self.text_line()?;
        line.parse()
            .map_err(|_| self.error(format!("`{line}` is no memo key")))
    }

    /// Two's complement, little-endian, of `length` bytes.
    fn long(&mut self, length: u64) -> Result<(), SourceError> {
        let bytes = self.take(length)?;
        if bytes.len() > 8 {
            return Err(self.error(format!(
                "an integer of {} bytes: at most 8 are read",
                bytes.len()
            )));
        }
        let sign = match bytes.last() {
            Some(last) if last & 0x80 != 0 => 0xff,
            _ => 0,
        };
        let mut extended = [sign; 8];
        extended[..bytes.len()].copy_from_slice(bytes);
        self.push(Value::Int(i64::from_le_bytes(extended)));
        Ok(())
    }

    /// INT and LONG of protocol 0; INT also writes the bools `00` and `01`, LONG a final `L`.
    fn decimal_line(&mut self, opcode: u8) -> Result<(), SourceError> {
        let line = self.text_line()?;
        let value = match (opcode, line) {
            (b'I', "00") => Value::Bool(false),
            (b'I', "01") => Value::Bool(true),
            _ => match line.strip_suffix('L').unwrap_or(line).parse() {
                Ok(value) => Value::Int(value),
                Err(_) => {
                    return Err(self.error(format!("`{line}` is no integer of 64 bits")));
                }
            },
        };
        self.push(value);
        Ok(())
    }

    fn text(&mut self, length: u64) -> Result<(), SourceError> {
        let text = std::str::from_utf8(self.take(length)?)
            .map_err(|_| self.error("a text that is not UTF-8".into()))?;
        self.push(Value::Text(Cow::Borrowed(text)));
        Ok(())
    }

    /// UNICODE of protocol 0: Latin-1 with `\uXXXX` and `\UXXXXXXXX`.
    fn raw_unicode_line(&mut self) -> Result<(), SourceError> {
        let mut line = self.line()?;
        let mut text = String::with_capacity(line.len());
        while let Some((&byte, rest)) = line.split_first() {
            let digits = match (byte, rest.first()) {
                (b'\\', Some(b'u')) => 4,
                (b'\\', Some(b'U')) => 8,
                _ => {
                    text.push(byte.into());
                    line = rest;
                    continue;
                }
            };
            let escaped = rest.get(1..=digits).and_then(hex);
            text.push(
                escaped
                    .and_then(char::from_u32)
                    .ok_or_else(|| self.error("a broken \\u escape".into()))?,
            );
            line = &rest[1 + digits..];
        }
        self.push(Value::Text(text.into()));
        Ok(())
    }

    /// STRING of protocol 0 as Python 2 wrote it: a quoted literal with escapes.
    fn quoted_line(&mut self) -> Result<(), SourceError> {
        let broken = "a broken quoted string";
        let line = self.line()?.trim_ascii_end();
        let mut rest = match line {
            [quote @ (b'\'' | b'"'), inner @ .., end] if quote == end => inner,
            _ => return Err(self.error(broken.into())),
        };
        let mut bytes = Vec::with_capacity(rest.len());
        while let Some((&byte, tail)) = rest.split_first() {
            rest = tail;
            if byte != b'\\' {
                bytes.push(byte);
                continue;
            }
            let (&escape, tail) = rest
                .split_first()
                .ok_or_else(|| self.error(broken.into()))?;
            rest = tail;
            bytes.push(match escape {
                b'n' => b'\n',
                b'r' => b'\r',
                b't' => b'\t',
                b'\\' | b'\'' | b'"' => escape,
                b'x' => {
                    let code = rest.get(..2).and_then(hex);
                    rest = rest.get(2..).unwrap_or_default();
                    // Two hexadecimal digits fit into a byte.
                    code.ok_or_else(|| self.error(broken.into()))? as u8
                }
                _ => return Err(self.error(broken.into())),
            });
        }
        let text =
            String::from_utf8(bytes).map_err(|_| self.error("a text that is not UTF-8".into()))?;
        self.push(Value::Text(text.into()));
        Ok(())
    }
}

/// Value of hexadecimal digits, at most eight.
fn hex(digits: &[u8]) -> Option<u32> {
    digits.iter().try_fold(0u32, |value, &digit| {
        Some(value << 4 | char::from(digit).to_digit(16)?)
    })
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
