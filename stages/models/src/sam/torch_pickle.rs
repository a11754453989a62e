//! The part of Python's pickle format that PyTorch writes for a dictionary of tensors.
//!
//! Nothing is ever called: a pickle that names anything but PyTorch's tensors and Python's dictionaries is refused. All
//! values lie in flat tables, so that no nesting can exhaust the stack. Texts are shared, operations are counted, and what
//! is copied is short, so that no repetition can exhaust the memory.

use candle_core::DType;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

/// Far more than any network needs: ViT-H's 594 tensors take some twenty each.
const MAX_OPERATIONS: usize = 1 << 20;

/// Of a call: PyTorch's have six at most. Of a tensor's shape: weights have four at most.
const MAX_ARGUMENTS: usize = 8;

/// A tensor as the pickle describes it; its values are in another member of the archive.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct TensorEntry {
    /// Name of the storage.
    pub(super) storage: Arc<str>,
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
    let mut tensors = BTreeMap::new();
    for (key, value) in &machine.dicts[nested.unwrap_or(root)] {
        if let (Some(name), Value::Tensor(tensor)) = (machine.text(*key), value) {
            tensors.insert(name.to_owned(), machine.tensors[*tensor].clone());
        }
    }
    Ok(tensors)
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
    name: Arc<str>,
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
    texts: Vec<Arc<str>>,
    tuples: Vec<Vec<Value>>,
    lists: Vec<Vec<Value>>,
    dicts: Vec<Vec<(Value, Value)>>,
    storages: Vec<StorageEntry>,
    tensors: Vec<TensorEntry>,
}

type Step<T> = Result<T, String>;

impl Machine<'_> {
    fn run(&mut self) -> Step<Value> {
        for _ in 0..MAX_OPERATIONS {
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
        Err(format!("the pickle has more than {MAX_OPERATIONS} operations"))
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
        let text = std::str::from_utf8(self.take(length)?).map_err(|error| error.to_string())?.into();
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

    fn arguments(&mut self) -> Step<Vec<Value>> {
        match self.pop()? {
            Value::Tuple(tuple) if self.tuples[tuple].len() <= MAX_ARGUMENTS => Ok(self.tuples[tuple].clone()),
            other => Err(format!("the pickle has {other:?} where at most {MAX_ARGUMENTS} arguments are wanted")),
        }
    }

    /// `("storage", type, name, device, elements)`
    fn persistent(&mut self) -> Step<()> {
        let parts = self.arguments()?;
        let [kind, Value::Global(Global::Storage(dtype)), name, _, elements] = parts[..] else {
            return Err("the pickle refers to something that is no storage".to_owned());
        };
        match (self.text(kind), name, size(elements)) {
            (Some("storage"), Value::Text(name), Some(elements)) => {
                let name = self.texts[name].clone();
                self.storages.push(StorageEntry { name, dtype, elements });
                self.push(Value::Storage(self.storages.len() - 1));
                Ok(())
            }
            _ => Err("the pickle refers to a storage without name or size".to_owned()),
        }
    }

    fn reduce(&mut self) -> Step<()> {
        let args = self.arguments()?;
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
            Value::Tuple(tuple) if self.tuples[tuple].len() <= MAX_ARGUMENTS => {
                self.tuples[tuple].iter().map(|&value| size(value)).collect::<Option<Vec<_>>>()
            }
            _ => None,
        };
        let (Some(offset), Some(shape), Some(strides)) = (size(offset), sizes(shape), sizes(strides)) else {
            return Err(format!("the pickle has a tensor without offset, shape or strides of at most {MAX_ARGUMENTS}"));
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
        // strides of 0 would make much of little
        let count = shape.iter().try_fold(1usize, |count, &size| count.checked_mul(size));
        let fits = count.is_some_and(|count| count <= *elements) && last.is_some_and(|last| last < *elements);
        if shape.len() != strides.len() || is_empty || !fits {
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
mod tests;
