//! Opening a table, and refusing what is none of ours any more.

use std::collections::BTreeSet;

use delta_kernel::{KernelError, Snapshot, SnapshotRef};
use manifests::{Artifact, paths};
use url::Url;

use super::{PARTITION, Tables, blocking, kernel_error};
use crate::error::{WorkerError, whole_chain};

impl Tables {
    /// `None`: the table does not exist yet.
    pub(super) async fn snapshot(
        &self,
        artifact: Artifact,
        version: Option<u64>,
    ) -> Result<Option<SnapshotRef>, WorkerError> {
        let (tables, url) = (self.clone(), self.url(artifact)?);
        let mut looks = 0;
        let snapshot = loop {
            let (tables, url) = (tables.clone(), url.clone());
            match blocking(move || Ok(tables.build_snapshot(artifact, &url, version))).await? {
                Ok(snapshot) => break snapshot,
                Err(error) if is_absent(&error) => {
                    let log = format!("{}/_delta_log", paths::table(artifact));
                    let files = self.work.list(&log).await?.len();
                    if files == 0 {
                        return Ok(None);
                    }
                    // perhaps it was created between the two looks
                    looks += 1;
                    if looks > 1 {
                        return Err(self.lost_log(artifact, version, &error, files));
                    }
                }
                Err(error) => return Err(kernel_error(artifact, error)),
            }
        };
        let known: BTreeSet<&str> = artifact.fields().iter().map(|f| f.name).chain([PARTITION]).collect();
        if let Some(field) = snapshot.schema().fields().find(|f| !known.contains(f.name().as_str())) {
            return Err(WorkerError::Configuration(format!(
                "table {} has a column {} that this version does not know: it was written by a newer urbancross; use that one",
                artifact.name(),
                field.name()
            )));
        }
        Ok(Some(snapshot))
    }

    fn build_snapshot(&self, artifact: Artifact, url: &Url, version: Option<u64>) -> Result<SnapshotRef, KernelError> {
        let engine = self.engine.as_ref();
        if let Some(version) = version {
            return Snapshot::builder_for(url).at_version(version).build(engine);
        }
        let before = self.seen.lock().ok().and_then(|seen| seen.get(&artifact).cloned());
        let newer = before.and_then(|before| Snapshot::builder_from(before).build(engine).ok());
        // a table that was made anew, or whose log was cut, is read from its beginning
        let snapshot = newer.map_or_else(|| Snapshot::builder_for(url).build(engine), Ok)?;
        if let Ok(mut seen) = self.seen.lock() {
            seen.insert(artifact, snapshot.clone());
        }
        Ok(snapshot)
    }

    /// The kernel finds no table, but there are log files: that is a loss, not a new table.
    fn lost_log(&self, artifact: Artifact, version: Option<u64>, error: &KernelError, files: usize) -> WorkerError {
        if let Some(version) = version {
            return WorkerError::Missing {
                what: "version of a table (never written, or cleared away by `gc`)",
                path: format!("{} at version {version}", artifact.name()),
            };
        }
        WorkerError::Broken(format!(
            "table {name}: its log cannot be read ({}), though {files} files of it are there; a version is \
             missing or damaged: bring {}{table}/_delta_log back from a copy, or move the folder {table} away to \
             compute the table again",
            whole_chain(error),
            self.work.url(),
            name = artifact.name(),
            table = paths::table(artifact),
        ))
    }
}

fn is_absent(error: &KernelError) -> bool {
    matches!(
        error,
        KernelError::FileNotFound(_)
            | KernelError::MissingVersion(_)
            | KernelError::InvalidTableLocation(_)
            | KernelError::EmptyLog
    )
}
