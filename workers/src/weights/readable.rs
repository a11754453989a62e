//! Whether files of weights can be what their names say, by their beginnings and ends: a file that is cut off or another
//! thing altogether is known before the first stage, not behind hours of it.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;

use super::cache::{Cache, names};
use super::layout::{INDEX, MODULES, module_files, shards};

/// What safetensors itself allows.
const MAX_HEADER_BYTES: u64 = 100_000_000;
/// A zip's last record, with the longest comment.
const ZIP_TAIL_BYTES: u64 = 22 + 65_535;
const MAX_JSON_BYTES: u64 = 64 << 20;

/// Looks at a file, or at all files of a folder. A vocabulary's folder must hold one, any other weights.
///
/// # Errors
/// What is wrong, with the file's name.
pub(super) fn check(path: &Path, is_vocabulary: bool) -> Result<(), String> {
    if path.is_file() {
        return check_file(path).map_err(|why| format!("{}: {why}", path.display()));
    }
    let failed = |e: std::io::Error| format!("{}: {e}", path.display());
    let held = names(path).map_err(failed)?;
    if is_vocabulary && !held.iter().any(|name| name == "tokenizer.json") {
        return Err(format!("{} holds no tokenizer.json", path.display()));
    }
    if !is_vocabulary && !Cache::has_weights(path) {
        return Err(format!("{} holds no weights (.safetensors, .pt, .pth, .bin or .gguf)", path.display()));
    }
    for name in &held {
        let file = path.join(name);
        check_file(&file).map_err(|why| format!("{}: {why}", file.display()))?;
    }
    if held.iter().any(|name| name == INDEX) {
        let wanted = shards(&path.join(INDEX)).map_err(|e| e.to_string())?;
        if let Some(missing) = wanted.iter().find(|name| !held.contains(name)) {
            return Err(format!("{} names {missing}, which is not beside it", path.join(INDEX).display()));
        }
    }
    if held.iter().any(|name| name == MODULES) {
        let wanted = module_files(&path.join(MODULES)).map_err(|e| e.to_string())?;
        if let Some(missing) = wanted.iter().find(|names| !names.iter().any(|name| held.contains(name))) {
            let missing = missing.join(" or ");
            return Err(format!("{} leads to {missing}, which is not there", path.join(MODULES).display()));
        }
    }
    Ok(())
}

fn check_file(path: &Path) -> Result<(), String> {
    let io = |e: std::io::Error| e.to_string();
    let mut file = File::open(path).map_err(io)?;
    let length = file.metadata().map_err(io)?.len();
    let mut head = Vec::with_capacity(64);
    (&mut file).take(64).read_to_end(&mut head).map_err(io)?;
    if head.is_empty() {
        return Err("is empty".into());
    }
    if head.starts_with(b"version https://git-lfs") {
        return Err("is a pointer of Git LFS, not the file itself: fetch it with `git lfs pull`".into());
    }
    match path.extension().and_then(|e| e.to_str()).unwrap_or_default() {
        "safetensors" => check_safetensors(&mut file, &head, length),
        "pt" | "pth" | "bin" => check_torch(&mut file, &head, length),
        "gguf" if !head.starts_with(b"GGUF") => Err("is no GGUF file".into()),
        "gz" if !head.starts_with(&[0x1f, 0x8b]) => Err("is no gzip file".into()),
        "json" if length <= MAX_JSON_BYTES => {
            let bytes = std::fs::read(path).map_err(io)?;
            serde_json::from_slice::<serde::de::IgnoredAny>(&bytes).map(|_| ()).map_err(|e| format!("is no JSON: {e}"))
        }
        _ => Ok(()),
    }
}

/// The header's length, the header, then as many bytes as it speaks of.
fn check_safetensors(file: &mut File, head: &[u8], length: u64) -> Result<(), String> {
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
    let header = header.ok_or("is no safetensors file, or cut off in its header")?;
    file.seek(SeekFrom::Start(8)).map_err(|e| e.to_string())?;
    let mut text = Vec::new();
    file.take(header).read_to_end(&mut text).map_err(|e| e.to_string())?;
    let entries: BTreeMap<String, Entry> =
        serde_json::from_slice(&text).map_err(|e| format!("its header is no safetensors header: {e}"))?;
    let data = entries.values().map(|entry| match entry {
        Entry::Tensor(tensor) => tensor.data_offsets.1,
        Entry::Metadata(_) => 0,
    });
    let wanted = data.max().unwrap_or(0).saturating_add(header + 8);
    if wanted != length {
        return Err(format!("its header promises {wanted} bytes, but it has {length}"));
    }
    Ok(())
}

/// A zip, whose last record closes it.
fn check_torch(file: &mut File, head: &[u8], length: u64) -> Result<(), String> {
    if head[0] == 0x80 {
        return Err("was written before PyTorch 1.6: load it there and save it anew".into());
    }
    if !head.starts_with(b"PK\x03\x04") {
        return Err("is no zip, as PyTorch writes it".into());
    }
    file.seek(SeekFrom::Start(length.saturating_sub(ZIP_TAIL_BYTES))).map_err(|e| e.to_string())?;
    let mut tail = Vec::new();
    file.take(ZIP_TAIL_BYTES).read_to_end(&mut tail).map_err(|e| e.to_string())?;
    if tail.windows(4).any(|window| window == b"PK\x05\x06") { Ok(()) } else { Err("is cut off".into()) }
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
            check(&path, false).err().unwrap_or_default()
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

    #[test]
    fn folders_hold_what_they_are_named_for() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path();
        assert!(check(path, true).unwrap_err().contains("no tokenizer.json"));
        assert!(check(path, false).unwrap_err().contains("holds no weights"));
        std::fs::write(path.join("model.safetensors"), safetensors(16)).unwrap();
        check(path, false).unwrap();
        std::fs::write(path.join(INDEX), r#"{"weight_map": {"w": "model-1.safetensors"}}"#).unwrap();
        assert!(check(path, false).unwrap_err().contains("names model-1.safetensors"));
        std::fs::remove_file(path.join(INDEX)).unwrap();
        std::fs::write(path.join(MODULES), r#"[{"path": "1_Pooling", "type": "a.Pooling"}]"#).unwrap();
        assert!(check(path, false).unwrap_err().contains("leads to 1_Pooling/config.json"));
        std::fs::create_dir(path.join("1_Pooling")).unwrap();
        std::fs::write(path.join("1_Pooling/config.json"), "{}").unwrap();
        check(path, false).unwrap();
    }
}
