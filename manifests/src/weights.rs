//! External weights and vocabularies that a build spec names, and the identity of their files.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::digest;

/// A field of a spec that names external weights or a vocabulary.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct WeightsUse {
    /// Path of the field, such as `model.init`.
    pub field: &'static str,
    /// Its value: a file or folder, the address of one in a store, or `owner/name[@revision]` on the hub.
    pub source: String,
}

/// One file as it was when it was first fetched.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FilePin {
    /// Length of the file.
    pub bytes: u64,
    /// SHA-256 in hexadecimal, as hubs publish it.
    pub sha256: String,
}

/// Files of one source by name. Kept in the work store, so that every machine of a build reads the same weights.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WeightsLock {
    /// Address or hub name, as a spec has it.
    pub source: String,
    /// Pins by the file's name within the source.
    pub files: BTreeMap<String, FilePin>,
}

impl WeightsLock {
    /// Identity of the content, wherever it lies.
    pub fn digest(&self) -> String {
        let files: Vec<_> = self.files.iter().map(|(name, pin)| (name, &pin.sha256)).collect();
        digest::of_value(&files)
    }

    /// The first difference to another look at the same source.
    pub fn difference(&self, other: &WeightsLock) -> Option<String> {
        let names = self.files.keys().chain(other.files.keys());
        names.into_iter().find_map(|name| match (self.files.get(name), other.files.get(name)) {
            (Some(a), Some(b)) if a == b => None,
            (Some(a), Some(b)) => Some(format!(
                "{name} had sha256 {} ({} bytes) and has {} ({} bytes)",
                a.sha256, a.bytes, b.sha256, b.bytes
            )),
            (Some(_), None) => Some(format!("{name} is missing")),
            (None, _) => Some(format!("{name} is new")),
        })
    }
}

/// What a field names, as far as it is known here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LocalWeights {
    /// File or folder on this machine; `None` until it is fetched.
    pub path: Option<PathBuf>,
    /// Identity of the content; empty until it was fetched once.
    pub digest: String,
}

/// All weights that a spec names, by field.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Weights(BTreeMap<&'static str, LocalWeights>);

impl Weights {
    /// Takes note of the weights of a field.
    pub fn insert(&mut self, field: &'static str, weights: LocalWeights) {
        self.0.insert(field, weights);
    }

    /// Identity of what the field names; empty where it names nothing or was never fetched.
    pub fn digest(&self, field: &str) -> &str {
        self.0.get(field).map_or("", |w| &w.digest)
    }

    /// Where it lies on this machine; `None` where the field names nothing or it was not fetched.
    pub fn path(&self, field: &str) -> Option<&Path> {
        self.0.get(field)?.path.as_deref()
    }
}

/// Endings of the files that belong to a network.
pub const ENDINGS: [&str; 9] = [".json", ".safetensors", ".txt", ".model", ".gz", ".pt", ".pth", ".bin", ".gguf"];

/// Ending of a file of texts that a spec names: of no network, and so not looked for in folders.
pub const TEXTS: &str = ".jsonl";

/// `owner/name[@revision]` of the hub: the repository and its revision. What ends like a file is a path.
pub fn hub_name(source: &str) -> Option<(&str, &str)> {
    let (repository, revision) = source.split_once('@').unwrap_or((source, "main"));
    let (owner, name) = repository.split_once('/')?;
    let is_name =
        [owner, name, revision].into_iter().all(is_plain) && !ENDINGS.iter().chain([&TEXTS]).any(|e| name.ends_with(e));
    is_name.then_some((repository, revision))
}

/// Nothing in the name leads to another folder.
pub fn is_plain(name: &str) -> bool {
    !name.is_empty() && !name.starts_with('.') && name.chars().all(|c| c.is_ascii_alphanumeric() || "-._".contains(c))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lock(files: &[(&str, &str)]) -> WeightsLock {
        let pin = |sha256: &str| FilePin { bytes: 1, sha256: sha256.into() };
        WeightsLock { source: "x".into(), files: files.iter().map(|(n, s)| ((*n).into(), pin(s))).collect() }
    }

    #[test]
    fn identity_is_of_the_content() {
        let (a, b) = (lock(&[("a", "1"), ("b", "2")]), lock(&[("a", "1"), ("b", "3")]));
        assert_eq!(a.digest(), WeightsLock { source: "elsewhere".into(), ..a.clone() }.digest());
        assert_ne!(a.digest(), b.digest());
        assert_eq!(a.difference(&a), None);
        assert!(a.difference(&b).unwrap().contains("b had sha256 2"));
        assert_eq!(a.difference(&lock(&[("a", "1")])).unwrap(), "b is missing");
    }
}
