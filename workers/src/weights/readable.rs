//! Whether files of weights can be what their names say, by their beginnings and ends: a file that is cut off or another
//! thing altogether is known before the first stage, not behind hours of it.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Error, ErrorKind, Read, Result, Seek, SeekFrom};
use std::path::Path;

use stages::io_fault::IoFault;

use super::cache::{Cache, names};
use super::layout::{INDEX, MODULES, module_files, shards};
use crate::error::WorkerError;

/// What safetensors itself allows.
const MAX_HEADER_BYTES: u64 = 100_000_000;
/// A zip's last record, with the longest comment.
const ZIP_TAIL_BYTES: u64 = 22 + 65_535;
const MAX_JSON_BYTES: u64 = 64 << 20;

/// Looks at a file, or at all files of a folder. A vocabulary's folder must hold one, any other weights.
///
/// # Errors
/// What is wrong, with the file's name. Wrong content is [`ErrorKind::InvalidData`], which no other try mends.
pub(super) fn check(path: &Path, is_vocabulary: bool) -> Result<()> {
    if path.is_file() {
        return check_file(path).map_err(|e| at(path, &e));
    }
    let held = names(path).map_err(|e| at(path, &e))?;
    if is_vocabulary && !held.iter().any(|name| name == "tokenizer.json") {
        return wrong(format!("{} holds no tokenizer.json", path.display()));
    }
    if !is_vocabulary && !Cache::has_weights(path) {
        return wrong(format!("{} holds no weights (.safetensors, .pt, .pth, .bin or .gguf)", path.display()));
    }
    for name in &held {
        let file = path.join(name);
        check_file(&file).map_err(|e| at(&file, &e))?;
    }
    if held.iter().any(|name| name == INDEX) {
        let wanted = shards(&path.join(INDEX)).map_err(of_list)?;
        if let Some(missing) = wanted.iter().find(|name| !held.contains(name)) {
            return wrong(format!("{} names {missing}, which is not beside it", path.join(INDEX).display()));
        }
    }
    if held.iter().any(|name| name == MODULES) {
        let wanted = module_files(&path.join(MODULES)).map_err(of_list)?;
        if let Some(missing) = wanted.iter().find(|names| !names.iter().any(|name| held.contains(name))) {
            let missing = missing.join(" or ");
            return wrong(format!("{} leads to {missing}, which is not there", path.join(MODULES).display()));
        }
    }
    Ok(())
}

fn wrong<T>(why: impl Into<String>) -> Result<T> {
    let why: String = why.into();
    Err(Error::new(ErrorKind::InvalidData, why))
}

/// With the file's name in front; that takes the system's number away, by which some errors are told from others.
fn at(path: &Path, error: &Error) -> Error {
    let kind = if IoFault::of(error) == IoFault::ForGood { ErrorKind::InvalidData } else { error.kind() };
    Error::new(kind, format!("{}: {error}", path.display()))
}

fn of_list(error: WorkerError) -> Error {
    let kind = if error.exit_code() == 65 { ErrorKind::InvalidData } else { ErrorKind::Other };
    Error::new(kind, error.to_string())
}

fn check_file(path: &Path) -> Result<()> {
    let mut file = File::open(path)?;
    let length = file.metadata()?.len();
    let mut head = Vec::with_capacity(64);
    (&mut file).take(64).read_to_end(&mut head)?;
    if head.is_empty() {
        return wrong("is empty");
    }
    if head.starts_with(b"version https://git-lfs") {
        return wrong("is a pointer of Git LFS, not the file itself: fetch it with `git lfs pull`");
    }
    match path.extension().and_then(|e| e.to_str()).unwrap_or_default() {
        "safetensors" => check_safetensors(&mut file, &head, length),
        "pt" | "pth" | "bin" => check_torch(&mut file, &head, length),
        "gguf" if !head.starts_with(b"GGUF") => wrong("is no GGUF file"),
        "gz" if !head.starts_with(&[0x1f, 0x8b]) => wrong("is no gzip file"),
        "json" if length <= MAX_JSON_BYTES => {
            let bytes = std::fs::read(path)?;
            let read = serde_json::from_slice::<serde::de::IgnoredAny>(&bytes);
            read.map(|_| ()).or_else(|e| wrong(format!("is no JSON: {e}")))
        }
        _ => Ok(()),
    }
}

/// The header's length, the header, then as many bytes as it speaks of.
fn check_safetensors(file: &mut File, head: &[u8], length: u64) -> Result<()> {
    #[derive(serde::Deserialize)]
    struct Tensor {
        data_offsets: (u64, u64),
    }
    #[derive(serde::Deserialize)]
    #[serde(untagged)]
    enum Entry {
        Tensor(Tensor),
        Metadata(serde::de::IgnoredAny),
    }
    let header = head.first_chunk::<8>().map(|bytes| u64::from_le_bytes(*bytes));
    let header = header.filter(|bytes| *bytes <= MAX_HEADER_BYTES && bytes + 8 <= length);
    let Some(header) = header else { return wrong("is no safetensors file, or cut off in its header") };
    file.seek(SeekFrom::Start(8))?;
    let mut text = Vec::new();
    file.take(header).read_to_end(&mut text)?;
    let entries: BTreeMap<String, Entry> =
        serde_json::from_slice(&text).or_else(|e| wrong(format!("its header is no safetensors header: {e}")))?;
    let data = entries.values().map(|entry| match entry {
        Entry::Tensor(tensor) => tensor.data_offsets.1,
        Entry::Metadata(_) => 0,
    });
    let wanted = data.max().unwrap_or(0).saturating_add(header + 8);
    if wanted != length {
        return wrong(format!("its header promises {wanted} bytes, but it has {length}"));
    }
    Ok(())
}

/// A zip, whose last record closes it.
fn check_torch(file: &mut File, head: &[u8], length: u64) -> Result<()> {
    if head[0] == 0x80 {
        return wrong("was written before PyTorch 1.6: load it there and save it anew");
    }
    if !head.starts_with(b"PK\x03\x04") {
        return wrong("is no zip, as PyTorch writes it");
    }
    file.seek(SeekFrom::Start(length.saturating_sub(ZIP_TAIL_BYTES)))?;
    let mut tail = Vec::new();
    file.take(ZIP_TAIL_BYTES).read_to_end(&mut tail)?;
    if tail.windows(4).any(|window| window == b"PK\x05\x06") { Ok(()) } else { wrong("is cut off") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn safetensors(data: usize) -> Vec<u8> {
        let header = br#"{"__metadata__":{"a":"b"},"w":{"dtype":"F32","shape":[4],"data_offsets":[0,16]}}"#;
        [&(header.len() as u64).to_le_bytes()[..], header, &vec![0; data]].concat()
    }

    #[test]
    fn files_that_are_cut_off_or_something_else_are_named() {
        let folder = tempfile::tempdir().unwrap();
        let said = |name: &str, bytes: &[u8]| {
            let path = folder.path().join(name);
            std::fs::write(&path, bytes).unwrap();
            check(&path, false).err().map(|e| e.to_string()).unwrap_or_default()
        };
        for (name, bytes) in [
            ("a.safetensors", safetensors(16)),
            ("a.pth", b"PK\x03\x04 ... PK\x05\x06".to_vec()),
            ("a.gguf", b"GGUF\x03".to_vec()),
            ("a.json", b"{}".to_vec()),
            ("a.txt.gz", vec![0x1f, 0x8b]),
        ] {
            assert_eq!(said(name, &bytes), "", "{name}");
        }
        for (name, bytes, words) in [
            ("b.safetensors", safetensors(15), "promises"),
            ("b.safetensors", safetensors(16)[..30].to_vec(), "cut off in its header"),
            ("b.safetensors", b"<html>".to_vec(), "no safetensors"),
            ("b.safetensors", u64::MAX.to_le_bytes().to_vec(), "no safetensors"),
            ("b.pth", b"PK\x03\x04 ...".to_vec(), "is cut off"),
            ("b.pt", b"<html>".to_vec(), "is no zip"),
            ("old.bin", b"\x80\x02".to_vec(), "before PyTorch 1.6"),
            ("b.gguf", b"<html>".to_vec(), "no GGUF"),
            ("b.json", b"{".to_vec(), "no JSON"),
            ("b.bin", Vec::new(), "is empty"),
            ("b.safetensors", b"version https://git-lfs.github.com/spec/v1".to_vec(), "git lfs pull"),
        ] {
            let why = said(name, &bytes);
            assert!(why.contains(words) && why.contains(name), "{name}: {why}");
        }
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_file_that_is_not_read_now_is_not_wrong() {
        let of = |code: i32| IoFault::of(&at(Path::new("w.pt"), &Error::from_raw_os_error(code)));
        // EIO ESTALE, ENOENT EACCES ELOOP ENODEV
        assert_eq!([5, 116].map(of), [IoFault::Passing; 2]);
        assert_eq!([2, 13, 40, 19].map(of), [IoFault::ForGood; 4]);
        let of_list = |error| IoFault::of(&of_list(error));
        assert_eq!(of_list(WorkerError::Transient("timed out".into())), IoFault::Passing);
        assert_eq!(of_list(WorkerError::Broken("no list".into())), IoFault::ForGood);
    }

    #[test]
    fn folders_hold_what_they_are_named_for() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path();
        let refused = |is_vocabulary| check(path, is_vocabulary).unwrap_err().to_string();
        assert!(refused(true).contains("no tokenizer.json"));
        assert!(refused(false).contains("holds no weights"));
        std::fs::write(path.join("model.safetensors"), safetensors(16)).unwrap();
        check(path, false).unwrap();
        std::fs::write(path.join(INDEX), r#"{"weight_map": {"w": "model-1.safetensors"}}"#).unwrap();
        assert!(refused(false).contains("names model-1.safetensors"));
        std::fs::remove_file(path.join(INDEX)).unwrap();
        std::fs::write(path.join(MODULES), r#"[{"path": "1_Pooling", "type": "a.Pooling"}]"#).unwrap();
        assert!(refused(false).contains("leads to 1_Pooling/config.json"));
        std::fs::create_dir(path.join("1_Pooling")).unwrap();
        std::fs::write(path.join("1_Pooling/config.json"), "{}").unwrap();
        check(path, false).unwrap();
    }
}
