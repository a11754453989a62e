//! Delta Lake tables: pin the parts of one, commit a change of them.

mod checkpoints;
mod clock;
mod columns;
mod commit;
mod entries;
mod snapshot;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::{Arc, Mutex, OnceLock};

use delta_kernel::scan::state::ScanFile;
use delta_kernel::{KernelError, SnapshotRef};
use delta_kernel_default_engine::executor::tokio::TokioMultiThreadExecutor;
use delta_kernel_default_engine::{DefaultEngine, DefaultEngineBuilder};
use manifests::plan::PinnedTable;
use manifests::{Artifact, PartFile, paths};
use object_store::path::Path;
use stages::stage::is_disk_full;
use url::Url;

pub use commit::{Change, Committed, Mark};

use crate::cause::{is_passing, whole_chain};
use crate::error::WorkerError;
use crate::stores::WorkStore;
use entries::LogEntries;

const PARTITION: &str = "country";
const ENGINE_INFO: &str = concat!("urbancross/", env!("CARGO_PKG_VERSION"));
/// The Delta tables of a work store.
#[derive(Clone)]
pub struct Tables {
    work: WorkStore,
    /// Address of the work store's folder, as the kernel is told it.
    root: Url,
    engine: Arc<DefaultEngine<TokioMultiThreadExecutor>>,
    /// The store that the engine reads logs from.
    entries: Arc<LogEntries>,
    /// The newest snapshot that was seen of each table, a later one reads only what came after it; with how often the table
    /// had been made anew by then.
    seen: Arc<Mutex<HashMap<Artifact, (u64, SnapshotRef)>>>,
}

/// The live files of one country, whoever wrote them.
#[derive(Debug, Clone, Default)]
pub struct LiveFiles {
    /// Parts of ours that can be used.
    pub parts: Vec<PartFile>,
    /// Paths of files that cannot, each with the reason.
    pub foreign: Vec<(String, String)>,
}

impl Tables {
    /// The tables of a work store; nothing is asked of it yet.
    pub fn new(work: &WorkStore) -> Self {
        Self::hiding(work, HashSet::new())
    }

    /// The same, as if some files of their logs were not there.
    fn hiding(work: &WorkStore, hidden: HashSet<Path>) -> Self {
        let (store, root) = work.rooted();
        let entries = Arc::new(LogEntries::new(store, hidden));
        let engine = DefaultEngineBuilder::new(entries.clone()).with_task_executor(executor()).build();
        Self { work: work.clone(), root, engine: Arc::new(engine), entries, seen: Arc::default() }
    }

    fn url(&self, artifact: Artifact) -> Result<Url, WorkerError> {
        self.root
            .join(&format!("{}/", paths::table(artifact)))
            .map_err(|e| WorkerError::Configuration(format!("table {}: {e}", artifact.name())))
    }

    /// The parts of one country at a version (`None`: the newest).
    ///
    /// # Errors
    /// [`WorkerError::Broken`] where another program changed the table so that its files are not parts of ours.
    pub async fn pin(
        &self,
        artifact: Artifact,
        country: &str,
        version: Option<u64>,
    ) -> Result<PinnedTable, WorkerError> {
        let Some(snapshot) = self.snapshot(artifact, version).await? else {
            return Ok(PinnedTable::empty(artifact));
        };
        let (tables, country) = (self.clone(), country.to_owned());
        blocking(move || {
            let live = tables.live(artifact, &snapshot, &country)?;
            match live.foreign.first() {
                None => Ok(PinnedTable {
                    version: Some(snapshot.version()),
                    parts: live.parts,
                    ..PinnedTable::empty(artifact)
                }),
                Some((path, why)) => {
                    let remove = match artifact {
                        // no run makes these again
                        Artifact::CaptionReviews | Artifact::TagRefreshes => "",
                        _ => {
                            ", or remove the files with `urbancross verify --repair`, and the next run recomputes their rows"
                        }
                    };
                    Err(WorkerError::Broken(format!(
                        "table {} of {country}: {path} {why}; another program changed it: restore it to an older version \
                         (RESTORE){remove}",
                        artifact.name()
                    )))
                }
            }
        })
        .await
    }

    /// When each version that the log still has was written, in milliseconds since 1970; in their order.
    ///
    /// # Errors
    /// A store that does not answer or lets nobody in.
    pub async fn written(&self, artifact: Artifact) -> Result<Vec<(u64, i64)>, WorkerError> {
        let listed = self.work.list_metas(&format!("{}/_delta_log", paths::table(artifact))).await?;
        let version = |name: &str| name.rsplit('/').next()?.strip_suffix(".json")?.parse::<u64>().ok();
        let mut versions: Vec<(u64, i64)> = listed
            .into_iter()
            .filter_map(|(name, meta)| Some((version(&name)?, meta.last_modified.timestamp_millis())))
            .collect();
        versions.sort_unstable();
        Ok(versions)
    }

    /// The countries that a table holds, with their rows.
    ///
    /// # Errors
    /// [`WorkerError::Broken`] for a log that cannot be read; a store that does not answer.
    pub async fn countries(&self, artifact: Artifact) -> Result<Vec<(String, u64)>, WorkerError> {
        let Some(snapshot) = self.snapshot(artifact, None).await? else { return Ok(Vec::new()) };
        let tables = self.clone();
        blocking(move || {
            let mut rows = BTreeMap::<String, u64>::new();
            for file in tables.files(&snapshot).map_err(|e| kernel_error(artifact, e))? {
                let country = file.partition_values.get(PARTITION).cloned().unwrap_or_default();
                let of_country = rows.entry(country).or_default();
                *of_country = of_country.saturating_add(file.stats.map_or(0, |s| s.num_records));
            }
            Ok(rows.into_iter().collect())
        })
        .await
    }

    fn files(&self, snapshot: &SnapshotRef) -> Result<Vec<ScanFile>, KernelError> {
        let mut files = Vec::new();
        for metadata in snapshot.clone().scan_builder().build()?.scan_metadata(self.engine.as_ref())? {
            files = metadata?.visit_scan_files(files, |files: &mut Vec<ScanFile>, file| files.push(file))?;
        }
        Ok(files)
    }

    /// The live files of a country, and which of them are not what our commits leave.
    fn live(&self, artifact: Artifact, snapshot: &SnapshotRef, country: &str) -> Result<LiveFiles, WorkerError> {
        let mut live = LiveFiles::default();
        let mut foreign = |path: &str, why: &str| live.foreign.push((path.to_owned(), why.to_owned()));
        for file in self.files(snapshot).map_err(|e| kernel_error(artifact, e))? {
            if file.partition_values.get(PARTITION).is_none_or(|c| c != country) {
                continue;
            }
            let Some(shard) = paths::shard_of_part_of(country, &file.path) else {
                foreign(&file.path, "is not a file of ours");
                continue;
            };
            let rows = file.stats.map_or(0, |s| s.num_records);
            let part = PartFile { shard, path: file.path, size_bytes: file.size.max(0) as u64, rows };
            if file.dv_info.has_vector() {
                foreign(&part.path, "has rows that a deletion vector deletes");
            } else if !part.is_of(country, shard) {
                foreign(&part.path, "has a shard or a number of rows that no part has");
            } else {
                live.parts.push(part);
            }
        }
        live.parts.sort();
        let double: BTreeSet<u32> = live
            .parts
            .array_windows()
            .filter(|[one, other]| one.shard == other.shard)
            .map(|[one, _]| one.shard)
            .collect();
        for part in live.parts.extract_if(.., |part| double.contains(&part.shard)) {
            live.foreign.push((part.path, format!("is one of several files of shard {}", part.shard)));
        }
        Ok(live)
    }

    /// The live files of a country, usable or not; `None`: there is no such table.
    pub(crate) async fn live_files(&self, artifact: Artifact, country: &str) -> Result<Option<LiveFiles>, WorkerError> {
        let Some(snapshot) = self.snapshot(artifact, None).await? else { return Ok(None) };
        let (tables, country) = (self.clone(), country.to_owned());
        blocking(move || tables.live(artifact, &snapshot, &country).map(Some)).await
    }
}

/// One executor for all tables of the process: writing a checkpoint of a log needs threads beside the one that waits.
fn executor() -> Arc<TokioMultiThreadExecutor> {
    static EXECUTOR: OnceLock<Arc<TokioMultiThreadExecutor>> = OnceLock::new();
    EXECUTOR
        .get_or_init(|| {
            let made = TokioMultiThreadExecutor::new_owned_runtime(Some(2), None);
            Arc::new(made.expect("the system gives a process two threads"))
        })
        .clone()
}

fn kernel_error(artifact: Artifact, error: KernelError) -> WorkerError {
    let text = format!("table {}: {}", artifact.name(), whole_chain(&error));
    match error {
        KernelError::ObjectStore(e) => WorkerError::of_store(&format!("table {}", artifact.name()), e),
        e if is_disk_full(&e) => WorkerError::DiskFull(text),
        e if is_passing(&e) => WorkerError::Transient(text),
        // the kernel reads no Parquet but checkpoints
        KernelError::Parquet(_) | KernelError::InvalidCheckpoint(_) => WorkerError::Broken(format!(
            "{text}; a checkpoint of its log is damaged or gone: `urbancross verify` tells which, and `verify --repair` \
             takes it out"
        )),
        _ => WorkerError::Broken(text),
    }
}

/// The kernel blocks: it stays off the threads that drive the network.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, WorkerError> + Send + 'static,
) -> Result<T, WorkerError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(panic) => Err(WorkerError::Broken(format!("the Delta kernel failed: {panic}"))),
    }
}

#[cfg(test)]
mod tests;
