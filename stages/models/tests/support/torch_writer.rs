//! Writes files as `torch.save` does: a state dictionary, protocol 2, in an archive of uncompressed members.

/// A tensor of a state dictionary.
pub struct Saved<'a> {
    pub name: String,
    /// `FloatStorage`, `HalfStorage`, …
    pub storage: &'a str,
    /// Key of the storage, which several tensors may share.
    pub key: usize,
    /// Elements of the whole storage.
    pub elements: usize,
    /// In elements.
    pub offset: usize,
    pub shape: Vec<usize>,
    /// In elements.
    pub strides: Vec<usize>,
}

/// Strides of a tensor whose elements lie row by row.
pub fn contiguous(shape: &[usize]) -> Vec<usize> {
    (0..shape.len()).map(|dim| shape[dim + 1..].iter().product()).collect()
}

fn text(out: &mut Vec<u8>, text: &str) {
    out.push(b'X');
    out.extend((text.len() as u32).to_le_bytes());
    out.extend(text.as_bytes());
}

fn number(out: &mut Vec<u8>, number: usize) {
    out.push(b'J');
    out.extend((number as i32).to_le_bytes());
}

fn numbers(out: &mut Vec<u8>, all: &[usize]) {
    out.push(b'(');
    all.iter().for_each(|one| number(out, *one));
    out.push(b't');
}

fn ordered_dict(out: &mut Vec<u8>) {
    out.extend(b"ccollections\nOrderedDict\n)R");
}

/// The pickle of a state dictionary, `nested` under a key of a larger dictionary or the outermost value.
pub fn pickle(tensors: &[Saved<'_>], nested: Option<&str>) -> Vec<u8> {
    let mut out = b"\x80\x02".to_vec();
    if let Some(key) = nested {
        out.extend(b"}(");
        text(&mut out, "epoch");
        number(&mut out, 3);
        text(&mut out, key);
    }
    ordered_dict(&mut out);
    out.push(b'(');
    for tensor in tensors {
        text(&mut out, &tensor.name);
        out.extend(b"ctorch._utils\n_rebuild_tensor_v2\n((");
        text(&mut out, "storage");
        out.extend(format!("ctorch\n{}\n", tensor.storage).as_bytes());
        text(&mut out, &tensor.key.to_string());
        text(&mut out, "cpu");
        number(&mut out, tensor.elements);
        out.extend(b"tQ");
        number(&mut out, tensor.offset);
        numbers(&mut out, &tensor.shape);
        numbers(&mut out, &tensor.strides);
        out.push(0x89); // requires_grad = False
        ordered_dict(&mut out);
        out.extend(b"tR");
    }
    out.push(b'u');
    // the attribute `_metadata` of a module's state dictionary
    out.push(b'}');
    text(&mut out, "_metadata");
    ordered_dict(&mut out);
    out.extend(b"sb");
    if nested.is_some() {
        out.push(b'u');
    }
    out.push(b'.');
    out
}

/// The file around a pickle and its storages.
pub fn archive(pickle: &[u8], storages: &[(usize, Vec<u8>)]) -> Vec<u8> {
    let mut members = vec![("archive/data.pkl".to_owned(), pickle), ("archive/byteorder".to_owned(), &b"little"[..])];
    members.extend(storages.iter().map(|(key, bytes)| (format!("archive/data/{key}"), bytes.as_slice())));
    members.push(("archive/version".to_owned(), b"3\n"));
    stored_zip(&members)
}

/// An archive of uncompressed members, whose contents begin at multiples of 64 bytes as PyTorch's do.
pub fn stored_zip(members: &[(String, &[u8])]) -> Vec<u8> {
    let (mut out, mut directory) = (Vec::new(), Vec::new());
    for (name, bytes) in members {
        let (start, padding) = (out.len(), (64 - (out.len() + 34 + name.len()) % 64) % 64);
        let mut common = Vec::new();
        common.extend([0; 8]); // no flags, not compressed, no time
        common.extend(crc32(bytes).to_le_bytes());
        common.extend((bytes.len() as u32).to_le_bytes());
        common.extend((bytes.len() as u32).to_le_bytes());
        common.extend((name.len() as u16).to_le_bytes());
        out.extend(b"PK\x03\x04\x14\x00");
        out.extend(&common);
        out.extend((padding as u16 + 4).to_le_bytes());
        out.extend(name.as_bytes());
        out.extend(b"FB");
        out.extend((padding as u16).to_le_bytes());
        out.resize(out.len() + padding, b'Z');
        out.extend(*bytes);
        directory.extend(b"PK\x01\x02\x14\x00\x14\x00");
        directory.extend(&common);
        directory.extend([0; 12]); // no extra field, no comment, first disk, no attributes
        directory.extend((start as u32).to_le_bytes());
        directory.extend(name.as_bytes());
    }
    let start = out.len();
    out.extend(&directory);
    out.extend(b"PK\x05\x06\x00\x00\x00\x00");
    out.extend((members.len() as u16).to_le_bytes());
    out.extend((members.len() as u16).to_le_bytes());
    out.extend((directory.len() as u32).to_le_bytes());
    out.extend((start as u32).to_le_bytes());
    out.extend([0; 2]);
    out
}

fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0u32, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| (crc >> 1) ^ (0xedb8_8320 & (crc & 1).wrapping_neg()))
    })
}
