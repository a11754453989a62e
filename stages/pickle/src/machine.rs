//! The stack machine that builds the values.

use std::collections::HashMap;

use super::{PickleError, Rules, Value, ValueId, literal};

/// Runs a pickle: its values and the root.
pub(super) fn run<'a>(bytes: &'a [u8], rules: &Rules) -> Result<(Vec<Value<'a>>, ValueId), PickleError> {
    let mut machine = Machine {
        bytes,
        rules: *rules,
        at: 0,
        opcode_at: 0,
        values: Vec::new(),
        stack: Vec::new(),
        marks: Vec::new(),
        memo: HashMap::new(),
    };
    for _ in 0..rules.max_opcodes {
        if let Some(root) = machine.step()? {
            return Ok((machine.values, root));
        }
    }
    let limit = rules.max_opcodes as u64;
    Err(PickleError::Limit { what: "opcodes", value: limit.saturating_add(1), limit })
}

pub(super) struct Machine<'a> {
    bytes: &'a [u8],
    pub(super) rules: Rules,
    at: usize,
    pub(super) opcode_at: usize,
    pub(super) values: Vec<Value<'a>>,
    stack: Vec<ValueId>,
    /// Heights of the stack at its MARKs.
    marks: Vec<usize>,
    memo: HashMap<u32, ValueId>,
}

impl<'a> Machine<'a> {
    /// Runs one opcode; the root value at STOP.
    fn step(&mut self) -> Result<Option<ValueId>, PickleError> {
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
            b'I' => self.literal_line(literal::int)?,
            b'L' => self.literal_line(literal::long_decimal)?,
            b'F' => self.literal_line(literal::float)?,
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
            b'V' => self.literal_line(literal::raw_unicode)?,
            b'S' => self.literal_line(literal::quoted)?,
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
            // Names and calls
            b'c' | 0x93 => self.name(opcode)?,
            b'R' | 0x81 if self.may_call() => self.call()?,
            b'b' if self.may_call() => self.ignore_attributes()?,
            b'Q' if self.may_call() => {
                let what = self.pop_many(1)?[0];
                self.push(Value::Reference(what));
            }
            b'0' if self.may_call() => drop(self.pop_many(1)?),
            other => return Err(self.refusal(other, String::new())),
        }
        Ok(None)
    }

    fn stop(&mut self) -> Result<ValueId, PickleError> {
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

    pub(super) fn error(&self, problem: String) -> PickleError {
        PickleError::Damaged { offset: self.opcode_at as u64, problem }
    }

    fn take(&mut self, length: u64) -> Result<&'a [u8], PickleError> {
        let rest = &self.bytes[self.at..];
        match usize::try_from(length).ok().and_then(|n| rest.get(..n)) {
            Some(taken) => {
                self.at += taken.len();
                Ok(taken)
            }
            None => Err(self.error(format!("{length} bytes wanted, {} left: truncated or damaged", rest.len()))),
        }
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], PickleError> {
        let mut array = [0; N];
        array.copy_from_slice(self.take(N as u64)?);
        Ok(array)
    }

    /// The bytes up to the next newline, which is consumed.
    pub(super) fn line(&mut self) -> Result<&'a [u8], PickleError> {
        let length = self.bytes[self.at..]
            .iter()
            .position(|&byte| byte == b'\n')
            .ok_or_else(|| self.error("a line without end: truncated".into()))?;
        let line = self.take(length as u64)?;
        self.at += 1;
        Ok(line)
    }

    pub(super) fn push(&mut self, value: Value<'a>) {
        // The input limit keeps the number of values far below 2^32.
        self.stack.push(ValueId(self.values.len() as u32));
        self.values.push(value);
    }

    /// Height of the stack down to which opcodes may pop.
    fn floor(&self) -> usize {
        self.marks.last().copied().unwrap_or(0)
    }

    pub(super) fn pop_many(&mut self, count: usize) -> Result<Vec<ValueId>, PickleError> {
        if self.stack.len() < self.floor() + count {
            return Err(self.error(format!("{count} values wanted from a shorter stack")));
        }
        Ok(self.stack.split_off(self.stack.len() - count))
    }

    fn pop_to_mark(&mut self) -> Result<Vec<ValueId>, PickleError> {
        match self.marks.pop() {
            Some(mark) => Ok(self.stack.split_off(mark)),
            None => Err(self.error("no mark on the stack".into())),
        }
    }

    pub(super) fn top(&mut self) -> Result<ValueId, PickleError> {
        match self.stack[self.floor()..].last() {
            Some(&top) => Ok(top),
            None => Err(self.error("the stack is empty".into())),
        }
    }

    fn extend_list(&mut self, items: Vec<ValueId>) -> Result<(), PickleError> {
        let top = self.top()?;
        match &mut self.values[top.0 as usize] {
            Value::Sequence(list) => list.extend(items),
            _ => return Err(self.error("items appended to what is no list".into())),
        }
        Ok(())
    }

    fn extend_dict(&mut self, items: Vec<ValueId>) -> Result<(), PickleError> {
        let top = self.top()?;
        let (pairs, rest) = items.as_chunks::<2>();
        match &mut self.values[top.0 as usize] {
            Value::Dict(dict) if rest.is_empty() => dict.extend(pairs.iter().map(|&[k, v]| (k, v))),
            Value::Dict(_) => return Err(self.error("a key without value".into())),
            _ => return Err(self.error("keys set in what is no dict".into())),
        }
        Ok(())
    }

    fn memoize(&mut self, key: u32) -> Result<(), PickleError> {
        let top = self.top()?;
        self.memo.insert(key, top);
        Ok(())
    }

    fn recall(&mut self, key: u32) -> Result<(), PickleError> {
        match self.memo.get(&key) {
            Some(&id) => {
                self.stack.push(id);
                Ok(())
            }
            None => Err(self.error(format!("memo entry {key} was never stored"))),
        }
    }

    fn memo_key_line(&mut self) -> Result<u32, PickleError> {
        let key = std::str::from_utf8(self.line()?).ok();
        key.and_then(|key| key.parse().ok()).ok_or_else(|| self.error("no memo key".into()))
    }

    fn long(&mut self, length: u64) -> Result<(), PickleError> {
        let bytes = self.take(length)?;
        let value = literal::long(bytes)
            .ok_or_else(|| self.error(format!("an integer of {} bytes: at most 8 are read", bytes.len())))?;
        self.push(Value::Int(value));
        Ok(())
    }

    /// A value written as one line of text.
    fn literal_line(&mut self, parse: fn(&'a [u8]) -> Option<Value<'a>>) -> Result<(), PickleError> {
        let line = self.line()?;
        let value = parse(line).ok_or_else(|| {
            let shown = &line[..line.len().min(40)];
            self.error(format!("`{}` is no such literal", shown.escape_ascii()))
        })?;
        self.push(value);
        Ok(())
    }

    fn text(&mut self, length: u64) -> Result<(), PickleError> {
        let text =
            std::str::from_utf8(self.take(length)?).map_err(|_| self.error("a text that is not UTF-8".into()))?;
        self.push(Value::Text(text.into()));
        Ok(())
    }
}
