//! The part of Python's pickle format that PyTorch writes for a dictionary of tensors.
//!
//! Nothing is ever called: a pickle that names anything but PyTorch's tensors and Python's dictionaries is refused. All
//! values lie in flat tables, so that no nesting can exhaust the stack and no repetition the memory.

use candle_core::DType;
use std::collections::{BTreeMap, HashMap};

/// A tensor as the pickle describes it; its values are in another member of the archive.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct TensorEntry {
    /// Name of the storage.
    pub(super) storage: String,
    pub(super) dtype: DType,
    /// Elements of the whole storage.
    pub(super) storage_elements: usize,
    /// In elements.
    pub(super) offset: usize,
    pub(super) shape: Vec<usize>,
    /// In elements.
    pub(super) strides: Vec<usize>,
}

/// Names and tensors of a state dictionary, also of one that lies under `model` or `state_dict`.
///
/// # Errors
/// What is wrong with the pickle, in words.
pub(super) fn read(pickle: &[u8]) -> Result<BTreeMap<String, TensorEntry>, String> {
    let mut machine = Machine { rest: pickle, ..Machine::default() };
    let root = machine.run()?;
    let Value::Dict(root) = root else { return Err(format!("the pickle holds {root:?}, not a dictionary")) };
    let nested = machine.dicts[root].iter().find_map(|(key, value)| match (machine.text(*key), value) {
        (Some("model" | "state_dict"), Value::Dict(nested)) => Some(*nested),
        _ => None,
    });
    let entries = &machine.dicts[nested.unwrap_or(root)];
    let tensor = |(key, value): &(Value, Value)| match (machine.text(*key), value) {
        (Some(name), Value::Tensor(tensor)) => Some((name.to_owned(), machine.tensors[*tensor].clone())),
        _ => None,
    };
    Ok(entries.iter().filter_map(tensor).collect())
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Value {
    Nothing,
    Bool,
    Float,
    Int(i64),
    Text(usize),
    Global(Global),
    Tuple(usize),
    List(usize),
    Dict(usize),
    Storage(usize),
    Tensor(usize),
}

/// The names that a pickle may mention.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Global {
    OrderedDict,
    RebuildTensor,
    RebuildParameter,
    Size,
    /// `torch.FloatStorage` and its like; `None` for types that no weight has.
    Storage(Option<DType>),
}

impl Global {
    fn find(module: &str, name: &str) -> Result<Self, String> {
        Ok(match (module, name) {
            ("collections", "OrderedDict") => Self::OrderedDict,
            ("torch._utils", "_rebuild_tensor_v2") => Self::RebuildTensor,
            ("torch._utils", "_rebuild_parameter") => Self::RebuildParameter,
            ("torch", "Size") => Self::Size,
            ("torch", "FloatStorage") => Self::Storage(Some(DType::F32)),
            ("torch", "DoubleStorage") => Self::Storage(Some(DType::F64)),
            ("torch", "HalfStorage") => Self::Storage(Some(DType::F16)),
            ("torch", "BFloat16Storage") => Self::Storage(Some(DType::BF16)),
            (
                "torch",
                "LongStorage" | "IntStorage" | "ShortStorage" | "CharStorage" | "ByteStorage" | "BoolStorage",
            ) => Self::Storage(None),
            _ => {
                return Err(format!(
                    "the pickle asks for {module}.{name}, which is no part of a tensor; the file is refused, nothing was run"
                ));
            }
        })
    }
}

struct StorageEntry {
    name: String,
    dtype: Option<DType>,
    elements: usize,
}

#[derive(Default)]
struct Machine<'a> {
    rest: &'a [u8],
    stack: Vec<Value>,
    /// Heights of the stack at open marks.
    marks: Vec<usize>,
    memo: HashMap<u32, Value>,
    texts: Vec<String>,
    tuples: Vec<Vec<Value>>,
    lists: Vec<Vec<Value>>,
    dicts: Vec<Vec<(Value, Value)>>,
    storages: Vec<StorageEntry>,
    tensors: Vec<TensorEntry>,
}

type Step<T> = Result<T, String>;

impl Machine<'_> {
    fn run(&mut self) -> Step<Value> {
        loop {
            let op = self.byte()?;
            match op {
                0x80 => drop(self.byte()?),                // PROTO
                0x95 => drop(self.take(8)?),               // FRAME
                b'.' => return self.pop(),                 // STOP
                b'(' => self.marks.push(self.stack.len()), // MARK
                b'0' => drop(self.pop()?),                 // POP
                b'N' => self.push(Value::Nothing),
                0x88 | 0x89 => self.push(Value::Bool),
                b'K' | b'M' | b'J' | 0x8a => self.integer(op)?,
                b'G' => {
                    self.take(8)?;
                    self.push(Value::Float);
                }
                b'X' | 0x8c => self.push_text(op)?,
                b'c' | 0x93 => self.global(op)?,
                b'q' | b'r' | 0x94 => self.remember(op)?,
                b'h' | b'j' => self.recall(op)?,
                b')' | b't' | 0x85..=0x87 => self.tuple(op)?,
                b']' => {
                    self.lists.push(Vec::new());
                    self.push(Value::List(self.lists.len() - 1));
                }
                b'}' => self.push_dict(),
                b'a' | b'e' => self.append(op)?,
                b's' | b'u' => self.set_items(op)?,
                b'Q' => self.persistent()?,
                b'R' | 0x81 => self.reduce()?, // REDUCE, NEWOBJ
                b'b' => self.build()?,
                other => return Err(format!("the pickle has an operation 0x{other:02x} that no tensor needs")),
            }
        }
    }

    fn take(&mut self, count: usize) -> Step<&[u8]> {
        let (taken, rest) = self.rest.split_at_checked(count).ok_or("the pickle ends too early")?;
        self.rest = rest;
        Ok(taken)
    }

    fn byte(&mut self) -> Step<u8> {
        Ok(self.take(1)?[0])
    }

    fn u32(&mut self) -> Step<u32> {
        let bytes = self.take(4)?;
        Ok(u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
    }

    fn push(&mut self, value: Value) {
        self.stack.push(value);
    }

    fn pop(&mut self) -> Step<Value> {
        if self.marks.last().is_some_and(|&mark| mark >= self.stack.len()) {
            return Err("the pickle takes values from below a mark".to_owned());
        }
        self.stack.pop().ok_or_else(|| "the pickle takes a value from an empty stack".to_owned())
    }

    fn pop_mark(&mut self) -> Step<Vec<Value>> {
        let mark = self.marks.pop().ok_or("the pickle closes a mark that it never set")?;
        Ok(self.stack.split_off(mark))
    }

    fn text(&self, value: Value) -> Option<&str> {
        match value {
            Value::Text(index) => Some(&self.texts[index]),
            _ => None,
        }
    }

    fn integer(&mut self, op: u8) -> Step<()> {
        let value = match op {
            b'K' => i64::from(self.byte()?),
            b'M' => {
                let bytes = self.take(2)?;
                i64::from(u16::from_le_bytes([bytes[0], bytes[1]]))
            }
            b'J' => i64::from(self.u32()? as i32),
            _ => {
                let count = usize::from(self.byte()?);
                if count > 8 {
                    return Err(format!("the pickle has an integer of {count} bytes"));
                }
                let bytes = self.take(count)?;
                let sign = if bytes.last().is_some_and(|byte| byte & 0x80 != 0) { 0xff } else { 0 };
                let mut extended = [sign; 8];
                extended[..count].copy_from_slice(bytes);
                i64::from_le_bytes(extended)
            }
        };
        self.push(Value::Int(value));
        Ok(())
    }

    fn push_text(&mut self, op: u8) -> Step<()> {
        let length = if op == b'X' { self.u32()? as usize } else { usize::from(self.byte()?) };
        let text = std::str::from_utf8(self.take(length)?).map_err(|error| error.to_string())?.to_owned();
        self.texts.push(text);
        self.push(Value::Text(self.texts.len() - 1));
        Ok(())
    }

    fn line(&mut self) -> Step<String> {
        let end = self.rest.iter().position(|&byte| byte == b'\n').ok_or("the pickle ends within a name")?;
        let line = String::from_utf8_lossy(&self.take(end + 1)?[..end]).into_owned();
        Ok(line)
    }

    fn global(&mut self, op: u8) -> Step<()> {
        let global = if op == b'c' {
            let (module, name) = (self.line()?, self.line()?);
            Global::find(&module, &name)?
        } else {
            let (name, module) = (self.pop()?, self.pop()?);
            match (self.text(module), self.text(name)) {
                (Some(module), Some(name)) => Global::find(module, name)?,
                _ => return Err("the pickle asks for something without a name".to_owned()),
            }
        };
        self.push(Value::Global(global));
        Ok(())
    }

    fn remember(&mut self, op: u8) -> Step<()> {
        let key = match op {
            b'q' => u32::from(self.byte()?),
            b'r' => self.u32()?,
            _ => self.memo.len() as u32,
        };
        let value = *self.stack.last().ok_or("the pickle remembers the top of an empty stack")?;
        self.memo.insert(key, value);
        Ok(())
    }

    fn recall(&mut self, op: u8) -> Step<()> {
        let key = if op == b'h' { u32::from(self.byte()?) } else { self.u32()? };
        let value = *self.memo.get(&key).ok_or_else(|| format!("the pickle recalls {key}, which it never stored"))?;
        self.push(value);
        Ok(())
    }

    fn tuple(&mut self, op: u8) -> Step<()> {
        let values = match op {
            b')' => Vec::new(),
            b't' => self.pop_mark()?,
            _ => {
                let mut values = (0..op - 0x84).map(|_| self.pop()).collect::<Step<Vec<_>>>()?;
                values.reverse();
                values
            }
        };
        self.tuples.push(values);
        self.push(Value::Tuple(self.tuples.len() - 1));
        Ok(())
    }

    fn push_dict(&mut self) {
        self.dicts.push(Vec::new());
        self.push(Value::Dict(self.dicts.len() - 1));
    }

    fn append(&mut self, op: u8) -> Step<()> {
        let values = if op == b'a' { vec![self.pop()?] } else { self.pop_mark()? };
        match self.stack.last() {
            Some(&Value::List(list)) => self.lists[list].extend(values),
            other => return Err(format!("the pickle appends to {other:?}")),
        }
        Ok(())
    }

    fn set_items(&mut self, op: u8) -> Step<()> {
        let values = if op == b's' {
            let (value, key) = (self.pop()?, self.pop()?);
            vec![key, value]
        } else {
            self.pop_mark()?
        };
        match self.stack.last() {
            Some(&Value::Dict(dict)) => self.dicts[dict].extend(values.as_chunks().0.iter().map(|&[k, v]| (k, v))),
            other => return Err(format!("the pickle sets an item of {other:?}")),
        }
        Ok(())
    }

    fn pop_tuple(&mut self) -> Step<Vec<Value>> {
        match self.pop()? {
            Value::Tuple(tuple) => Ok(self.tuples[tuple].clone()),
            other => Err(format!("the pickle has {other:?} where arguments are wanted")),
        }
    }

    /// `("storage", type, name, device, elements)`
    fn persistent(&mut self) -> Step<()> {
        let parts = self.pop_tuple()?;
        let [kind, Value::Global(Global::Storage(dtype)), name, _, elements] = parts[..] else {
            return Err("the pickle refers to something that is no storage".to_owned());
        };
        match (self.text(kind), self.text(name), size(elements)) {
            (Some("storage"), Some(name), Some(elements)) => {
                let name = name.to_owned();
                self.storages.push(StorageEntry { name, dtype, elements });
                self.push(Value::Storage(self.storages.len() - 1));
                Ok(())
            }
            _ => Err("the pickle refers to a storage without name or size".to_owned()),
        }
    }

    fn reduce(&mut self) -> Step<()> {
        let args = self.pop_tuple()?;
        match (self.pop()?, &args[..]) {
            (Value::Global(Global::OrderedDict), []) => self.push_dict(),
            (Value::Global(Global::Size), &[sizes]) => self.push(sizes),
            (Value::Global(Global::RebuildParameter), &[tensor @ Value::Tensor(_), ..]) => self.push(tensor),
            (Value::Global(Global::RebuildTensor), &[Value::Storage(storage), offset, shape, strides, ..]) => {
                self.rebuild(storage, offset, shape, strides)?;
            }
            (other, args) => return Err(format!("the pickle calls {other:?} with {} arguments", args.len())),
        }
        Ok(())
    }

    fn rebuild(&mut self, storage: usize, offset: Value, shape: Value, strides: Value) -> Step<()> {
        let sizes = |value: Value| match value {
            Value::Tuple(tuple) => self.tuples[tuple].iter().map(|&value| size(value)).collect::<Option<Vec<_>>>(),
            _ => None,
        };
        let (Some(offset), Some(shape), Some(strides)) = (size(offset), sizes(shape), sizes(strides)) else {
            return Err("the pickle has a tensor without offset, shape or strides".to_owned());
        };
        let StorageEntry { name, dtype, elements } = &self.storages[storage];
        let Some(dtype) = *dtype else {
            // Counters and indices are no weights.
            self.push(Value::Nothing);
            return Ok(());
        };
        let last = shape
            .iter()
            .zip(&strides)
            .try_fold(offset, |last, (&size, &stride)| last.checked_add(size.checked_sub(1)?.checked_mul(stride)?));
        let is_empty = shape.contains(&0);
        if shape.len() != strides.len() || is_empty || last.is_none_or(|last| last >= *elements) {
            return Err(format!(
                "a tensor of shape {shape:?}, strides {strides:?} and offset {offset} does not fit its storage of \
                 {elements} elements"
            ));
        }
        let entry = TensorEntry { storage: name.clone(), dtype, storage_elements: *elements, offset, shape, strides };
        self.tensors.push(entry);
        self.push(Value::Tensor(self.tensors.len() - 1));
        Ok(())
    }

    /// Attributes of a dictionary (`_metadata`) are no weights.
    fn build(&mut self) -> Step<()> {
        self.pop()?;
        match self.stack.last() {
            Some(Value::Dict(_)) => Ok(()),
            other => Err(format!("the pickle gives attributes to {other:?}")),
        }
    }
}

fn size(value: Value) -> Option<usize> {
    match value {
        Value::Int(value) => usize::try_from(value).ok(),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `{"w": tensor of [2, 3] at 1 in a storage of 8 floats}` as torch.save writes it, protocol 2.
    fn state_dict() -> Vec<u8> {
        let mut pickle = b"\x80\x02ccollections\nOrderedDict\nq\x00)Rq\x01(X\x01\x00\x00\x00w".to_vec();
        pickle.extend(b"ctorch._utils\n_rebuild_tensor_v2\n((X\x07\x00\x00\x00storagectorch\nFloatStorage\n");
        pickle.extend(b"X\x01\x00\x00\x000X\x03\x00\x00\x00cpuK\x08tQK\x01K\x02K\x03\x86K\x03K\x01\x86\x89h\x00)RtR");
        pickle.extend(b"u}X\x09\x00\x00\x00_metadataNsb.");
        pickle
    }

    #[test]
    fn a_state_dictionary_is_read() {
        let tensors = read(&state_dict()).unwrap();
        let expected = TensorEntry {
            storage: "0".to_owned(),
            dtype: DType::F32,
            storage_elements: 8,
            offset: 1,
            shape: vec![2, 3],
            strides: vec![3, 1],
        };
        assert_eq!(tensors, BTreeMap::from([("w".to_owned(), expected)]));
    }

    #[test]
    fn code_is_refused_by_name() {
        let message = read(b"\x80\x02cos\nsystem\nX\x04\x00\x00\x00true\x85R.").unwrap_err();
        assert!(message.contains("os.system") && message.contains("refused"), "{message}");
        let message = read(b"\x80\x04\x8c\x08builtins\x8c\x04eval\x93.").unwrap_err();
        assert!(message.contains("builtins.eval"), "{message}");
    }

    #[test]
    fn every_truncation_and_every_flipped_byte_is_survived() {
        let pickle = state_dict();
        for length in 0..pickle.len() {
            assert!(read(&pickle[..length]).is_err(), "{length}");
        }
        for place in 0..pickle.len() {
            for value in [0, 1, b'.', b'(', b'R', b'h', b't', 0x7f, 0xff] {
                let mut broken = pickle.clone();
                broken[place] = value;
                let _ = read(&broken);
            }
        }
    }

    #[test]
    fn a_tensor_beyond_its_storage_is_refused() {
        let mut pickle = state_dict();
        let elements = pickle.windows(3).position(|window| window == b"K\x08t").unwrap() + 1;
        pickle[elements] = 6;
        let message = read(&pickle).unwrap_err();
        assert!(message.contains("[2, 3]") && message.contains("6 elements"), "{message}");
    }

    #[test]
    fn deep_nesting_and_repetition_cost_nothing() {
        // A million tuples around each other, and thirty that hold the one before twice.
        let deep = [b"\x80\x02)".to_vec(), vec![0x85; 1_000_000], b".".to_vec()].concat();
        assert!(read(&deep).unwrap_err().contains("not a dictionary"));
        let wide = [b"\x80\x02)".to_vec(), b"q\x00h\x00\x86".repeat(30), b".".to_vec()].concat();
        assert!(read(&wide).is_err());
    }
}
