//! The files of a folder that hold its weights.

use super::json::read_json;
use crate::{ModelError, Result};
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// The first of `names` that the folder has, or else the shards that its index (`NAME.index.json`) speaks of.
pub(super) fn of_folder(folder: &Path, names: &[&str]) -> Result<Vec<PathBuf>> {
    #[derive(Deserialize)]
    struct Index {
        weight_map: BTreeMap<String, String>,
    }
    for name in names {
        let whole = folder.join(name);
        if whole.is_file() {
            return Ok(vec![whole]);
        }
        let path = folder.join(format!("{name}.index.json"));
        if path.is_file() {
            let index: Index = read_json(&path)?;
            let shards: BTreeSet<String> = index.weight_map.into_values().collect();
            if let Some(shard) = shards.iter().find(|shard| Path::new(shard).file_name() != Some(shard.as_ref())) {
                let reason = format!("{shard:?} is not the name of a file beside the index");
                return Err(ModelError::malformed(&path, reason));
            }
            return Ok(shards.iter().map(|shard| folder.join(shard)).collect());
        }
    }
    let reason = format!("holds no weights: neither {}, nor an index of their shards", names.join(", "));
    Err(ModelError::malformed(folder, reason))
}
