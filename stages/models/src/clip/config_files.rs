//! Files that describe a CLIP: our own, open_clip's and Hugging Face's.

use super::config::ClipConfig;
use super::{hugging_face, open_clip};
use crate::checkpoint::{read_json, write_json};
use crate::parameters::Parameters;
use crate::{ModelError, Result};
use serde::{Deserialize, Serialize};
use std::path::Path;

/// open_clip's configuration, and that of all others.
pub(super) const OPEN_CLIP: &str = "open_clip_config.json";
pub(super) const OTHERS: &str = "config.json";

/// `config.json` of our own format.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct OwnConfig {
    clip: ClipConfig,
}

impl ClipConfig {
    /// The configuration that lies beside a file of weights: `open_clip_config.json` or `config.json` in its folder.
    ///
    /// # Errors
    /// A configuration that cannot be read or describes another model.
    pub fn beside(file: &Path) -> Result<Option<Self>> {
        let beside = [OPEN_CLIP, OTHERS].map(|name| file.with_file_name(name));
        beside.iter().find(|path| path.is_file()).map(|path| read(path)).transpose()
    }
}

/// Recognises who wrote a configuration.
pub(super) fn read(path: &Path) -> Result<ClipConfig> {
    if path.ends_with(OPEN_CLIP) {
        return open_clip::read_config(path);
    }
    let json: serde_json::Value = read_json(path)?;
    if json.get("clip").is_none() {
        return hugging_face::read_config(path, json);
    }
    let config = serde_json::from_value::<OwnConfig>(json).map_err(|error| ModelError::malformed(path, error))?.clip;
    config.validate()?;
    Ok(config)
}

/// Writes our own format, which has room for every configuration.
pub(super) fn save_own(config: &ClipConfig, parameters: &Parameters, folder: &Path) -> Result<()> {
    std::fs::create_dir_all(folder).map_err(ModelError::io(folder))?;
    write_json(&folder.join(OTHERS), &OwnConfig { clip: config.clone() })?;
    parameters.save_safetensors(&folder.join("model.safetensors"))
}
