//! Opening a table, and refusing one that another program has changed beyond what we support.

use delta_kernel::committer::FileSystemCommitter;
use delta_kernel::table_features::ColumnMappingMode;
use delta_kernel::transaction::UpdateTableOperation;
use delta_kernel::{KernelError, Snapshot, SnapshotRef};
use manifests::words::count;
use manifests::{Artifact, paths};
use object_store::path::Path;
use url::Url;

use super::columns::delta_field;
use super::{ENGINE_INFO, PARTITION, Tables, blocking, kernel_error};
use crate::cause::{is_passing, whole_chain};
use crate::error::WorkerError;

/// Versions that are looked at for one to return to.
const MOST_LOOKS_BACK: usize = 200;

impl Tables {
    /// `None`: the table does not exist yet.
    pub(super) async fn snapshot(
        &self,
        artifact: Artifact,
        version: Option<u64>,
    ) -> Result<Option<SnapshotRef>, WorkerError> {
        let (tables, url) = (self.clone(), self.url(artifact)?);
        if let Some(why) = self.work.obstacle(&format!("{}/_delta_log/", paths::table(artifact))) {
            return Err(WorkerError::Configuration(why));
        }
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
                Err(error) if is_foreign(&error) => {
                    return Err(self.changed_by_other_runs(artifact, &error.to_string()).await);
                }
                Err(error) => return Err(kernel_error(artifact, error)),
            }
        };
        let (tables, looked_at) = (self.clone(), snapshot.clone());
        match blocking(move || Ok(tables.foreign_trait(artifact, &looked_at))).await? {
            None => Ok(Some(snapshot)),
            Some(what) => Err(self.changed_by_other_runs(artifact, &what).await),
        }
    }

    pub(super) fn build_snapshot(
        &self,
        artifact: Artifact,
        url: &Url,
        version: Option<u64>,
    ) -> Result<SnapshotRef, KernelError> {
        let engine = self.engine.as_ref();
        if let Some(version) = version {
            return Snapshot::builder_for(url).at_version(version).build(engine);
        }
        let log = Path::from(format!("{}/_delta_log", paths::table(artifact)));
        let before = self.seen.lock().ok().and_then(|seen| seen.get(&artifact).cloned());
        let newer = before.and_then(|(anew, before)| {
            let newer = Snapshot::builder_from(before).build(engine).ok()?;
            // for this the log was listed
            (self.entries.times_anew(&log) == anew).then_some((anew, newer))
        });
        // a table that was made anew, or whose log was cut, is read from its beginning
        let (anew, snapshot) = match newer {
            Some(newer) => newer,
            None => (self.entries.times_anew(&log), Snapshot::builder_for(url).build(engine)?),
        };
        if let Ok(mut seen) = self.seen.lock() {
            seen.insert(artifact, (anew, snapshot.clone()));
        }
        Ok(snapshot)
    }

    /// What a table has that our commits do not give it, so that the next of them would fail or be wrong: other columns,
    /// properties, features.
    fn foreign_trait(&self, artifact: Artifact, snapshot: &SnapshotRef) -> Option<String> {
        let ours = artifact.fields();
        for field in snapshot.schema().fields().filter(|field| field.name() != PARTITION) {
            let ours = ours.iter().find(|ours| ours.name == field.name());
            match ours.and_then(|ours| delta_field(ours).ok()) {
                None => return Some(format!("a column {} that this version does not know", field.name())),
                Some(ours) if ours.data_type() != field.data_type() => {
                    return Some(format!(
                        "a column {} of type {}, not {}",
                        field.name(),
                        field.data_type(),
                        ours.data_type()
                    ));
                }
                Some(_) => {}
            }
        }
        let properties = snapshot.table_properties();
        let is_mapped = properties.column_mapping_mode.is_some_and(|mode| mode != ColumnMappingMode::None);
        let set = [
            (properties.append_only == Some(true), "delta.appendOnly = true, so that no part can be replaced"),
            (properties.enable_change_data_feed == Some(true), "delta.enableChangeDataFeed = true"),
            (is_mapped, "columns that have other names in its files (delta.columnMapping.mode)"),
        ];
        if let Some((_, what)) = set.into_iter().find(|(is_set, _)| *is_set) {
            return Some(what.to_owned());
        }
        // what the kernel cannot write to
        let probe = snapshot.clone().update_table(UpdateTableOperation::Write, ENGINE_INFO, true);
        let refused = probe.build(self.engine.as_ref(), Box::new(FileSystemCommitter::new())).err()?;
        (!is_passing(&refused)).then(|| whole_chain(&refused))
    }

    async fn changed_by_other_runs(&self, artifact: Artifact, what: &str) -> WorkerError {
        let (name, table) = (artifact.name(), paths::table(artifact));
        let back = match self.last_of_ours(artifact).await {
            Some(version) => format!(
                "RESTORE it to version {version} (in deltalake: `DeltaTable(…).restore({version}, \
                 protocol_downgrade_allowed=True)`), or "
            ),
            None => String::new(),
        };
        WorkerError::Configuration(format!(
            "table {name} has {what}: another program changed it, or a newer urbancross did, which then is the one to \
             use. Otherwise {back}move the folder {}{table} away to compute the table again",
            self.work.url()
        ))
    }

    /// The newest version that has nothing foreign, as far as the log still tells.
    async fn last_of_ours(&self, artifact: Artifact) -> Option<u64> {
        let names = self.work.list(&format!("{}/_delta_log", paths::table(artifact))).await.ok()?;
        let versions = names.into_iter().rev().filter_map(|name| name.strip_suffix(".json")?.parse::<u64>().ok());
        let (tables, url, versions) = (self.clone(), self.url(artifact).ok()?, versions.take(MOST_LOOKS_BACK));
        let versions: Vec<u64> = versions.collect();
        let is_ours = move |version: &u64| {
            let snapshot = tables.build_snapshot(artifact, &url, Some(*version));
            snapshot.is_ok_and(|snapshot| tables.foreign_trait(artifact, &snapshot).is_none())
        };
        blocking(move || Ok(versions.into_iter().find(is_ours))).await.ok().flatten()
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
            "table {name}: its log cannot be read ({}), though it has {}; a version is \
             missing or damaged: bring {}{table}/_delta_log back from a copy, or move the folder {table} away to \
             compute the table again",
            whole_chain(error),
            count(files, "file"),
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

/// Does the kernel refuse what the log says the table is, rather than the log?
fn is_foreign(error: &KernelError) -> bool {
    use KernelError as K;
    matches!(error, K::Unsupported(_) | K::InvalidProtocol(_) | K::InvalidColumnMappingMode(_) | K::Schema(_))
}
