//! Names of the files that make up a network's weights.

use std::collections::BTreeSet;
use std::path::Path;

use manifests::weights::is_plain;

use crate::error::WorkerError;

/// Files that a folder of a network may have, where a store cannot list: all are tried.
pub(super) const DESCRIPTIONS: [&str; 13] = [
    "config.json",
    "open_clip_config.json",
    "preprocessor_config.json",
    PROCESSOR,
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.json",
    "merges.txt",
    "qformer_tokenizer/tokenizer.json",
    "vocab.txt",
    "sentence_bert_config.json",
    MODULES,
];
/// Settings of a whole processor, among them perhaps those of its image processor.
pub(super) const PROCESSOR: &str = "processor_config.json";
/// The modules of a sentence encoder.
pub(super) const MODULES: &str = "modules.json";
/// More modules than any published encoder has.
const MAX_MODULES: usize = 16;
/// Names of the file with the weights; the first that is there counts.
pub(super) const WEIGHTS: [&str; 4] =
    ["model.safetensors.index.json", "model.safetensors", "open_clip_model.safetensors", "mobile_sam.pt"];
pub(super) const INDEX: &str = "model.safetensors.index.json";
/// Files of one network at most.
pub(super) const MAX_FILES: usize = 1000;
/// Tables of names and settings are small: larger ones are none.
const MAX_JSON_BYTES: u64 = 64 << 20;

/// Names of the files that an index spreads the tensors over.
pub(super) fn shards(index: &Path) -> Result<BTreeSet<String>, WorkerError> {
    #[derive(serde::Deserialize)]
    struct Index {
        weight_map: std::collections::BTreeMap<String, String>,
    }
    let parsed: Index = read(index)?;
    let names: BTreeSet<String> = parsed.weight_map.into_values().collect();
    match names.iter().find(|name| !is_plain(name)) {
        Some(name) => Err(broken(index, format!("names a file {name:?} that is not beside it"))),
        None if names.len() > MAX_FILES => Err(broken(index, format!("names {} files", names.len()))),
        None => Ok(names),
    }
}

/// Files that a list of modules leads to, each by the names that it may have: the first that is there counts.
pub(super) fn module_files(list: &Path) -> Result<Vec<Vec<String>>, WorkerError> {
    #[derive(serde::Deserialize)]
    struct Module {
        #[serde(default)]
        path: String,
        r#type: String,
    }
    let modules: Vec<Module> = read(list)?;
    if modules.len() > MAX_MODULES {
        return Err(broken(list, format!("names {} modules, more than {MAX_MODULES}", modules.len())));
    }
    let mut files = Vec::new();
    for Module { path, r#type } in modules.iter().filter(|module| !module.path.is_empty()) {
        if !is_plain(path) {
            return Err(broken(list, format!("names a folder {path:?} that is not beside it")));
        }
        // other modules have nothing that is read, or are refused by name
        let kind = r#type.rsplit('.').next().unwrap_or_default();
        if matches!(kind, "Pooling" | "Dense") {
            files.push(vec![format!("{path}/config.json")]);
        }
        if kind == "Dense" {
            files.push(["model.safetensors", "pytorch_model.bin"].map(|name| format!("{path}/{name}")).into());
        }
    }
    Ok(files)
}

/// Whether a folder has a list of modules, and all that it leads to.
pub(super) fn has_modules(folder: &Path) -> bool {
    let is_there = |names: &Vec<String>| names.iter().any(|name| folder.join(name).is_file());
    module_files(&folder.join(MODULES)).is_ok_and(|files| files.iter().all(is_there))
}

/// Whether a whole processor's settings are those of its image processor, too: transformers 5 writes both into one
/// file, older versions only name the parts there.
pub(super) fn describes_images(processor: &Path) -> bool {
    match read::<serde_json::Map<String, serde_json::Value>>(processor) {
        Ok(settings) => settings.get("image_processor").is_some_and(serde_json::Value::is_object),
        // for whoever reads it to refuse
        Err(_) => true,
    }
}

fn read<T: serde::de::DeserializeOwned>(path: &Path) -> Result<T, WorkerError> {
    let bytes = std::fs::metadata(path).map_err(|e| WorkerError::of_io(path, &e))?.len();
    if bytes > MAX_JSON_BYTES {
        return Err(broken(path, format!("has {bytes} bytes, at most {MAX_JSON_BYTES} are read")));
    }
    let text = std::fs::read(path).map_err(|e| WorkerError::of_io(path, &e))?;
    serde_json::from_slice(&text).map_err(|e| broken(path, e.to_string()))
}

fn broken(path: &Path, why: String) -> WorkerError {
    WorkerError::Broken(format!("{}: {why}", path.display()))
}
