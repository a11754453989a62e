//! The folder of this machine for what can be had again: fetched weights, vectors for searches.

use std::path::PathBuf;

/// `URBANCROSS_CACHE`, or `urbancross` in the user's cache folder.
pub(crate) fn root() -> PathBuf {
    let named = |name: &str| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
    named("URBANCROSS_CACHE")
        .or_else(|| named("XDG_CACHE_HOME").map(|p| p.join("urbancross")))
        .or_else(|| named("HOME").map(|p| p.join(".cache/urbancross")))
        .unwrap_or_else(|| std::env::temp_dir().join("urbancross-cache"))
}
