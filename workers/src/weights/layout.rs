//! Names of the files that make up a network's weights.

use std::collections::BTreeSet;
use std::path::Path;

use manifests::weights::is_plain;

use crate::error::WorkerError;

/// Files that a folder of a network may have, where a store cannot list: all are tried.
pub(super) const DESCRIPTIONS: [&str; 10] = [
    "config.json",
    "open_clip_config.json",
    "preprocessor_config.json",
    "processor_config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.json",
    "merges.txt",
    "qformer_tokenizer/tokenizer.json",
];
/// Names of the file with the weights; the first that is there counts.
pub(super) const WEIGHTS: [&str; 4] =
    ["model.safetensors.index.json", "model.safetensors", "open_clip_model.safetensors", "mobile_sam.pt"];
pub(super) const INDEX: &str = "model.safetensors.index.json";
/// Files of one network at most.
pub(super) const MAX_FILES: usize = 1000;
/// An index is a table of names: larger ones are none.
const MAX_INDEX_BYTES: u64 = 64 << 20;

/// Names of the files that an index spreads the tensors over.
pub(super) fn shards(index: &Path) -> Result<BTreeSet<String>, WorkerError> {
    #[derive(serde::Deserialize)]
    struct Index {
        weight_map: std::collections::BTreeMap<String, String>,
    }
    let broken = |why: String| WorkerError::Broken(format!("{}: {why}", index.display()));
    let bytes = std::fs::metadata(index).map_err(|e| WorkerError::of_io(index, &e))?.len();
    if bytes > MAX_INDEX_BYTES {
        return Err(broken(format!("has {bytes} bytes, at most {MAX_INDEX_BYTES} are read")));
    }
    let text = std::fs::read(index).map_err(|e| WorkerError::of_io(index, &e))?;
    let parsed: Index = serde_json::from_slice(&text).map_err(|e| broken(e.to_string()))?;
    let names: BTreeSet<String> = parsed.weight_map.into_values().collect();
    match names.iter().find(|name| !is_plain(name)) {
        Some(name) => Err(broken(format!("names a file {name:?} that is not beside it"))),
        None if names.len() > MAX_FILES => Err(broken(format!("names {} files", names.len()))),
        None => Ok(names),
    }
}
