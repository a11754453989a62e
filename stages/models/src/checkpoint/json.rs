//! JSON of bounded size.

use crate::{ModelError, Result};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::fs::File;
use std::io::Read;
use std::path::Path;

/// More than any configuration or index of shards needs: the bound before reading one.
const MAX_JSON_BYTES: u64 = 16 << 20;

/// # Errors
/// [`ModelError::Io`], [`ModelError::Malformed`].
pub(crate) fn read_json<T: DeserializeOwned>(path: &Path) -> Result<T> {
    let file = File::open(path).map_err(ModelError::io(path))?;
    let mut text = Vec::new();
    file.take(MAX_JSON_BYTES + 1).read_to_end(&mut text).map_err(ModelError::io(path))?;
    if text.len() as u64 > MAX_JSON_BYTES {
        return Err(ModelError::malformed(path, format!("longer than {MAX_JSON_BYTES} bytes")));
    }
    serde_json::from_slice(&text).map_err(|error| ModelError::malformed(path, error))
}

/// # Errors
/// [`ModelError::Io`].
pub(crate) fn write_json(path: &Path, value: &impl Serialize) -> Result<()> {
    let mut text = serde_json::to_string_pretty(value).map_err(|error| ModelError::malformed(path, error))?;
    text.push('\n');
    std::fs::write(path, text).map_err(ModelError::io(path))
}
