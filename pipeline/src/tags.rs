//! Tags from OpenStreetMap: what the command line asks of the workers.

pub mod foretold;
pub mod watch;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use manifests::BuildSpec;
use manifests::address::secret_in;
use manifests::spec::StoreOptions;
use workers::WorkerError;
use workers::stores::{SourceStore, WorkStore};
use workers::tables::Tables;
use workers::tag_refreshes::{Foretold, Origins, Refresher, Refreshment, Until};

/// Where the tags come from.
pub enum Wanted {
    /// An extract, and the number of the last diff in it, where it does not say that itself.
    Extract(PathBuf, Option<u64>),
    /// A replication folder or its address.
    Diffs(String, Until),
}

/// Seconds since 1970 of a moment, as people write it.
pub fn moment(text: &str) -> Option<i64> {
    workers::tag_refreshes::moment_of(text)
}

/// What the tags of a build show; `None`: nothing was refreshed yet.
///
/// # Errors
/// A store that is not there or does not answer.
pub async fn shown(spec: &BuildSpec) -> Result<Option<String>, WorkerError> {
    let (work, tables) = stores(spec).await?;
    workers::tag_refreshes::moment(&work, &tables, &spec.country).await
}

/// Refreshes the tags of a build, with nothing but its work store.
///
/// # Errors
/// [`WorkerError::Configuration`] for a store that is not there, or was built with another number of shards; otherwise as
/// [`Refresher::refresh`].
pub async fn refresh(
    spec: &BuildSpec,
    wanted: Wanted,
    accept_share: Option<f64>,
    stop: Arc<AtomicBool>,
    say: &(dyn Fn(&str) + Sync),
) -> Result<Refreshment, WorkerError> {
    let (work, tables) = stores(spec).await?;
    let refresher = Refresher::new((&work, &tables), spec, stop, say);
    match &wanted {
        Wanted::Extract(path, sequence) => refresher.refresh(Origins::Extract(path, *sequence), accept_share).await,
        Wanted::Diffs(folder, until) => {
            refresher.refresh(Origins::Diffs(&replication(spec, folder)?, *until), accept_share).await
        }
    }
}

/// What such a refresh would do. Nothing is written.
///
/// # Errors
/// As [`refresh`].
pub async fn foretell(
    spec: &BuildSpec,
    wanted: Wanted,
    stop: Arc<AtomicBool>,
    say: &(dyn Fn(&str) + Sync),
) -> Result<Foretold, WorkerError> {
    let (work, tables) = stores(spec).await?;
    let refresher = Refresher::new((&work, &tables), spec, stop, say);
    match &wanted {
        Wanted::Extract(path, sequence) => refresher.foretell(Origins::Extract(path, *sequence)).await,
        Wanted::Diffs(folder, until) => refresher.foretell(Origins::Diffs(&replication(spec, folder)?, *until)).await,
    }
}

async fn stores(spec: &BuildSpec) -> Result<(WorkStore, Tables), WorkerError> {
    let work = WorkStore::open(&spec.work.url, &spec.work.options)?;
    work.required().await?;
    workers::layout::check(&work, spec).await?;
    let tables = Tables::new(&work);
    Ok((work, tables))
}

/// A replication is asked as patiently as the build's source.
fn replication(spec: &BuildSpec, folder: &str) -> Result<SourceStore, WorkerError> {
    let StoreOptions { timeout_seconds, retries, .. } = spec.source.options;
    SourceStore::open(&address(folder)?, &StoreOptions { timeout_seconds, retries, ..StoreOptions::default() })
}

/// A path starts at the current folder.
fn address(folder: &str) -> Result<String, WorkerError> {
    if let Some(secret) = secret_in(folder) {
        return Err(WorkerError::Configuration(format!(
            "--diffs holds {secret}, which would appear in messages and logs: take it out; copy diffs that are not public \
             to a folder of this machine, and name that"
        )));
    }
    if folder.contains("://") {
        return Ok(folder.to_owned());
    }
    let path = std::path::absolute(folder).map_err(|e| WorkerError::of_io(folder.as_ref(), &e))?;
    if !path.is_dir() {
        return Err(WorkerError::Configuration(format!("--diffs: there is no folder {}", path.display())));
    }
    Ok(path.display().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_of_diffs_with_a_secret_is_refused_without_repeating_it() {
        for secret in ["https://me:hunter2@mirror/day/", "https://mirror/day/?token=hunter2"] {
            let why = address(secret).unwrap_err();
            assert!(why.exit_code() == 65 && why.to_string().contains("--diffs holds"), "{why}");
            assert!(!why.to_string().contains("hunter2") && !why.to_string().contains("mirror"), "{why}");
        }
        assert_eq!(address("https://mirror/day/").unwrap(), "https://mirror/day/");
    }
}
