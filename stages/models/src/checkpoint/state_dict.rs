//! What the pickle of a state dictionary says: names, and for each where its elements lie.

use candle_core::DType;
use pickle::{Name, Pickle, Rules, Value, ValueId};
use std::collections::BTreeMap;

/// What PyTorch's state dictionaries are made of.
pub(super) const RULES: Rules = Rules {
    // far more than the names of any network take up
    max_bytes: 64 << 20,
    // SAM's ViT-H has 594 tensors of some twenty each
    max_opcodes: 1 << 20,
    names: &[
        ("collections", "OrderedDict"),
        ("torch", "BFloat16Storage"),
        ("torch", "BoolStorage"),
        ("torch", "ByteStorage"),
        ("torch", "CharStorage"),
        ("torch", "DoubleStorage"),
        ("torch", "FloatStorage"),
        ("torch", "HalfStorage"),
        ("torch", "IntStorage"),
        ("torch", "LongStorage"),
        ("torch", "ShortStorage"),
        ("torch", "Size"),
        ("torch._utils", "_rebuild_parameter"),
        ("torch._utils", "_rebuild_tensor_v2"),
    ],
    only: "tensors and plain data are read; nothing of the file was run",
};

/// Keys under which a state dictionary may lie in a larger one.
const NESTED: [&str; 2] = ["state_dict", "model"];

/// Of a tensor's shape: weights have four at most.
const MAX_DIMENSIONS: usize = 8;

/// Of a tensor's name.
const MAX_NAME_BYTES: usize = 1 << 10;

/// A tensor as the pickle describes it; its values are in another member of the archive.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Described<'p> {
    /// Name of the storage.
    pub(super) storage: &'p str,
    pub(super) dtype: DType,
    /// Elements of the whole storage.
    pub(super) storage_elements: usize,
    /// In elements.
    pub(super) offset: usize,
    pub(super) shape: Vec<usize>,
    /// In elements.
    pub(super) strides: Vec<usize>,
}

/// Names and tensors of a state dictionary, also of one that lies under `state_dict` or `model`. Whatever is no tensor is
/// left out, and so are tensors without elements, or of types that no weight has.
///
/// # Errors
/// What is wrong with the pickle, in words.
pub(super) fn tensors<'p>(pickle: &'p Pickle<'_>) -> Result<BTreeMap<&'p str, Described<'p>>, String> {
    let Value::Dict(root) = pickle.root() else { return Err("the pickle holds no dictionary".to_owned()) };
    let reader = Reader(pickle);
    let nested = root.iter().find_map(|(key, value)| match (pickle.value(*key), pickle.value(*value)) {
        (Value::Text(key), Value::Dict(nested)) if NESTED.contains(&key.as_ref()) => Some(nested),
        _ => None,
    });
    let mut tensors = BTreeMap::new();
    for (key, value) in nested.unwrap_or(root) {
        let Value::Text(name) = pickle.value(*key) else { continue };
        if name.len() > MAX_NAME_BYTES {
            return Err(format!("a name of {} bytes", name.len()));
        }
        if let Some(tensor) = reader.tensor(*value).map_err(|reason| format!("tensor {name}: {reason}"))? {
            tensors.insert(name.as_ref(), tensor);
        }
    }
    Ok(tensors)
}

struct Reader<'p, 'a>(&'p Pickle<'a>);

impl<'p, 'a> Reader<'p, 'a> {
    fn value(&self, id: ValueId) -> &'p Value<'a> {
        self.0.value(id)
    }

    fn items(&self, id: ValueId) -> Option<&'p [ValueId]> {
        match self.value(id) {
            Value::Sequence(items) => Some(items),
            _ => None,
        }
    }

    /// `None`: no tensor, or one of a type or shape that no weight has.
    fn tensor(&self, id: ValueId) -> Result<Option<Described<'p>>, String> {
        let inner = match self.value(id) {
            Value::Call(("torch._utils", "_rebuild_parameter"), arguments) => match self.items(*arguments) {
                Some(&[tensor, ..]) => tensor,
                _ => return Err("a parameter without a tensor".to_owned()),
            },
            _ => id,
        };
        match self.value(inner) {
            Value::Call(("torch._utils", "_rebuild_tensor_v2"), arguments) => self.rebuilt(*arguments),
            _ => Ok(None),
        }
    }

    /// `(storage, offset, shape, strides, …)`
    fn rebuilt(&self, arguments: ValueId) -> Result<Option<Described<'p>>, String> {
        let Some(&[storage, offset, shape, strides, ..]) = self.items(arguments) else {
            return Err("no storage, offset, shape and strides".to_owned());
        };
        let (kind, storage, storage_elements) = self.storage(storage)?;
        let Some(dtype) = dtype(kind) else { return Ok(None) };
        let (Some(offset), Some(shape), Some(strides)) = (self.size(offset), self.sizes(shape), self.sizes(strides))
        else {
            return Err(format!("no offset, or no shape or strides of at most {MAX_DIMENSIONS} numbers"));
        };
        // no weight, and no part of its storage: of a network that wants it, it is missing
        if shape.contains(&0) {
            return Ok(None);
        }
        let last = shape
            .iter()
            .zip(&strides)
            .try_fold(offset, |last, (&size, &stride)| last.checked_add(size.checked_sub(1)?.checked_mul(stride)?));
        // strides of 0 would make much of little
        let count = shape.iter().try_fold(1usize, |count, &size| count.checked_mul(size));
        let fits =
            count.is_some_and(|count| count <= storage_elements) && last.is_some_and(|last| last < storage_elements);
        if shape.len() != strides.len() || !fits {
            return Err(format!(
                "shape {shape:?}, strides {strides:?} and offset {offset} do not fit its storage of {storage_elements} \
                 elements"
            ));
        }
        Ok(Some(Described { storage, dtype, storage_elements, offset, shape, strides }))
    }

    /// `("storage", type, name, device, elements)`
    fn storage(&self, id: ValueId) -> Result<(&'static Name, &'p str, usize), String> {
        let parts = match self.value(id) {
            Value::Reference(parts) => self.items(*parts),
            _ => None,
        };
        let Some(&[word, kind, name, _, elements]) = parts else { return Err("it has no storage".to_owned()) };
        match (self.value(word), self.value(kind), self.value(name), self.size(elements)) {
            (Value::Text(word), Value::Name(kind), Value::Text(name), Some(elements)) if word == "storage" => {
                Ok((kind, name, elements))
            }
            _ => Err("its storage has no type, name or size".to_owned()),
        }
    }

    fn size(&self, id: ValueId) -> Option<usize> {
        match self.value(id) {
            Value::Int(value) => usize::try_from(*value).ok(),
            _ => None,
        }
    }

    fn sizes(&self, id: ValueId) -> Option<Vec<usize>> {
        let items = match self.value(id) {
            Value::Call(("torch", "Size"), arguments) => match self.items(*arguments)? {
                [sizes] => self.items(*sizes)?,
                _ => return None,
            },
            _ => self.items(id)?,
        };
        (items.len() <= MAX_DIMENSIONS).then(|| items.iter().map(|&item| self.size(item)).collect())?
    }
}

/// Type of the elements; `None`: no network here computes with it.
fn dtype(storage: &Name) -> Option<DType> {
    Some(match storage.1 {
        "FloatStorage" => DType::F32,
        "HalfStorage" => DType::F16,
        "BFloat16Storage" => DType::BF16,
        "DoubleStorage" => DType::F64,
        "LongStorage" => DType::I64,
        "IntStorage" => DType::I32,
        "ShortStorage" => DType::I16,
        "ByteStorage" => DType::U8,
        _ => return None,
    })
}

#[cfg(test)]
mod tests;
