//! Delta Lake, behind one door: pin a table's parts, commit a change of them.
//!
//! The kernel does not rebase a commit that lost a race, so [`Tables::commit`] looks at the new version and judges each
//! shard again by [`manifests::commit::verdict`]. That comparison is what makes a repeated commit change nothing, too.

mod columns;
mod entries;

pub(crate) use entries::TornEntry;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

use arrow::array::{ArrayRef, AsArray, Int64Array, StructArray};
use arrow::datatypes::{DataType as ArrowType, Field as ArrowField};
use delta_kernel::committer::FileSystemCommitter;
use delta_kernel::engine::arrow_data::{ArrowEngineData, EngineDataArrowExt};
use delta_kernel::expressions::Scalar;
use delta_kernel::scan::state::ScanFile;
use delta_kernel::schema::{DataType, StructField, StructType};
use delta_kernel::transaction::CommitResult;
use delta_kernel::transaction::UpdateTableOperation;
use delta_kernel::transaction::create_table::create_table;
use delta_kernel::transaction::data_layout::DataLayout;
use delta_kernel::{FileMeta, FilteredEngineData, KernelError, Snapshot, SnapshotRef};
use delta_kernel_default_engine::executor::tokio::TokioMultiThreadExecutor;
use delta_kernel_default_engine::parquet::DataFileMetadata;
use delta_kernel_default_engine::{DefaultEngine, DefaultEngineBuilder, build_add_file_metadata};
use manifests::commit::{Replacement, Verdict, verdict};
use manifests::plan::PinnedTable;
use manifests::{Artifact, PartFile, paths};
use stages::stage::is_disk_full;
use url::Url;

use crate::backoff::Backoff;
use crate::error::{WorkerError, is_passing, whole_chain};
use crate::parts::is_before;
use crate::stores::WorkStore;
use columns::{delta_field, missing_fields};
use entries::LogEntries;

const PARTITION: &str = "country";
const ENGINE_INFO: &str = concat!("urbancross/", env!("CARGO_PKG_VERSION"));
/// How long a commit competes with those of other countries before it gives up. With 64 committers and 30 ms a request
/// the last of them waits for about half a minute (BENCHMARKS.md).
const COMMIT_DEADLINE: Duration = Duration::from_secs(300);
/// A checkpoint of the log every so many versions keeps opening a table quick.
const CHECKPOINT_EVERY: u64 = 10;

/// The Delta tables of a work store.
#[derive(Clone)]
pub struct Tables {
    work: WorkStore,
    /// Address of the work store's folder, as the kernel is told it.
    root: Url,
    engine: Arc<DefaultEngine<TokioMultiThreadExecutor>>,
    /// The newest snapshot that was seen of each table: a later one reads only what came after it.
    seen: Arc<Mutex<HashMap<Artifact, SnapshotRef>>>,
}

/// A change of one country's parts in one table.
pub struct Change {
    pub artifact: Artifact,
    pub country: String,
    /// At most one for each shard.
    pub replacements: Vec<Replacement>,
}

/// What became of a change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Committed {
    /// Version at which the change is visible.
    pub version: u64,
    /// Shards whose base was no longer live: their parts were left out.
    pub overtaken: Vec<u32>,
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
    pub fn new(work: &WorkStore) -> Self {
        let (store, root) = work.rooted();
        let engine = DefaultEngineBuilder::new(Arc::new(LogEntries::new(store)));
        let engine = engine.with_task_executor(executor()).build();
        Self { work: work.clone(), root, engine: Arc::new(engine), seen: Arc::default() }
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
                Some((path, why)) => Err(WorkerError::Broken(format!(
                    "table {} of {country}: {path} {why}; another program changed it: restore it to an older version \
                     (RESTORE), or let `urbancross verify --repair` take the files out, and the next run makes their \
                     rows again",
                    artifact.name()
                ))),
            }
        })
        .await
    }

    /// The countries that a table holds, with their rows.
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

    /// Commits a change where the bases of its shards are live; says which were not. A commit that loses to others is
    /// judged and tried again, with growing pauses, until a deadline.
    ///
    /// # Errors
    /// [`WorkerError::Transient`] at the deadline.
    pub async fn commit(&self, change: Change) -> Result<Committed, WorkerError> {
        let artifact = change.artifact;
        self.until_committed(artifact, move |tables, snapshot| tables.try_commit(snapshot, &change)).await
    }

    /// Calls `attempt` with the newest snapshot until it does not lose to another writer (`Some`), or the deadline.
    async fn until_committed<T: Send + 'static>(
        &self,
        artifact: Artifact,
        attempt: impl Fn(&Tables, &SnapshotRef) -> Result<Option<T>, WorkerError> + Send + Sync + 'static,
    ) -> Result<T, WorkerError> {
        let attempt = Arc::new(attempt);
        let (began, mut backoff) = (Instant::now(), Backoff::new(Duration::from_millis(50), Duration::from_secs(1)));
        loop {
            let Some(snapshot) = self.snapshot(artifact, None).await? else {
                self.create(artifact).await?;
                continue;
            };
            let (tables, attempt) = (self.clone(), attempt.clone());
            if let Some(done) = blocking(move || attempt(&tables, &snapshot)).await? {
                return Ok(done);
            }
            if began.elapsed() > COMMIT_DEADLINE {
                return Err(WorkerError::Transient(format!(
                    "table {}: for {} s every commit was overtaken by other writers",
                    artifact.name(),
                    COMMIT_DEADLINE.as_secs()
                )));
            }
            tokio::time::sleep(backoff.next()).await;
        }
    }

    /// One attempt; `None`: another commit came first.
    fn try_commit(&self, snapshot: &SnapshotRef, change: &Change) -> Result<Option<Committed>, WorkerError> {
        let live = self.live(change.artifact, snapshot, &change.country)?;
        let of_shard: HashMap<u32, &str> = live.parts.iter().map(|p| (p.shard, p.path.as_str())).collect();
        let horizon = self.horizon(change.artifact, snapshot, &change.country)?;
        let (mut applied, mut overtaken) = (Vec::new(), Vec::new());
        for replacement in &change.replacements {
            let live = of_shard.get(&replacement.part.shard).copied();
            match verdict(live, replacement.base.as_deref(), &replacement.part.path) {
                // it may be cleared away at this moment
                Verdict::Apply if is_before(&replacement.part, horizon) => overtaken.push(replacement.part.shard),
                Verdict::Apply => applied.push(replacement),
                Verdict::AlreadyLive => {}
                Verdict::Overtaken => overtaken.push(replacement.part.shard),
            }
        }
        overtaken.sort_unstable();
        if applied.is_empty() {
            return Ok(Some(Committed { version: snapshot.version(), overtaken }));
        }
        let removed: HashSet<&str> = applied.iter().filter_map(|r| r.base.as_deref()).collect();
        let added: Vec<&PartFile> = applied.iter().map(|r| &r.part).collect();
        let version = self.write_version(snapshot, change.artifact, &change.country, &removed, &added, None);
        let version = version.map_err(|e| kernel_error(change.artifact, e))?;
        Ok(version.map(|version| Committed { version, overtaken }))
    }

    /// Writes the next version of the log; `None`: it is there already.
    fn write_version(
        &self,
        snapshot: &SnapshotRef,
        artifact: Artifact,
        country: &str,
        removed: &HashSet<&str>,
        added: &[&PartFile],
        horizon_millis: Option<u64>,
    ) -> Result<Option<u64>, KernelError> {
        let engine = self.engine.as_ref();
        let mut builder = snapshot.clone().update_table(UpdateTableOperation::Write, ENGINE_INFO, true);
        for field in missing_fields(artifact, snapshot) {
            builder = builder.add_column(field);
        }
        let mut transaction = builder.build(engine, Box::new(FileSystemCommitter::new()))?;
        if let Some(millis) = horizon_millis {
            transaction = transaction.with_transaction_id(horizon_id(country), millis as i64);
        }
        if !removed.is_empty() {
            for metadata in snapshot.clone().scan_builder().build()?.scan_metadata(engine)? {
                let (data, live) = metadata?.scan_files.into_parts();
                let batch = data.try_into_record_batch()?;
                let paths = batch.column_by_name("path").and_then(|c| c.as_string_opt::<i32>().cloned());
                let Some(paths) = paths else {
                    return Err(KernelError::generic("the scan's metadata has no column path"));
                };
                let selected: Vec<bool> = (0..batch.num_rows())
                    .map(|row| live.get(row).copied().unwrap_or(true) && removed.contains(paths.value(row)))
                    .collect();
                if selected.contains(&true) {
                    transaction
                        .remove_files(FilteredEngineData::try_new(Box::new(ArrowEngineData::new(batch)), selected)?);
                }
            }
        }
        let context = transaction
            .write_state()?
            .write_context_builder()
            .with_partition_values(HashMap::from([(PARTITION.to_owned(), Scalar::from(country))]))
            .build()?;
        for part in added {
            let location = snapshot.table_root().join(&part.path).map_err(KernelError::generic_err)?;
            let meta = FileMeta { location, last_modified: now_millis(), size: part.size_bytes };
            transaction
                .add_files(build_add_file_metadata(DataFileMetadata::new(meta, row_count(part.rows)), &context)?);
        }
        match transaction.commit(engine)? {
            CommitResult::Committed(committed) => {
                let version = committed.commit_version();
                if version > 0
                    && version.is_multiple_of(CHECKPOINT_EVERY)
                    && let Some(after) = committed.post_commit_snapshot()
                    && let Err(error) = after.checkpoint(engine, None)
                {
                    // a convenience of later readers: the commit itself stands
                    tracing::warn!(table = artifact.name(), %error, "no log checkpoint was written");
                }
                Ok(Some(version))
            }
            _ => Ok(None),
        }
    }

    async fn create(&self, artifact: Artifact) -> Result<(), WorkerError> {
        let (tables, url) = (self.clone(), self.url(artifact)?);
        let made = blocking(move || {
            let make = || -> Result<(), KernelError> {
                let mut fields = artifact.fields().iter().map(delta_field).collect::<Result<Vec<_>, _>>()?;
                fields.push(StructField::nullable(PARTITION, DataType::STRING));
                let schema = Arc::new(StructType::try_new(fields)?);
                create_table(url.as_str(), schema, ENGINE_INFO, true)
                    .with_data_layout(DataLayout::partitioned([PARTITION]))
                    .build(tables.engine.as_ref(), Box::new(FileSystemCommitter::new()))?
                    .commit(tables.engine.as_ref())
                    .map(|_won_or_lost| ())
            };
            make().map_err(|e| kernel_error(artifact, e))
        })
        .await;
        match made {
            Ok(()) => Ok(()),
            // somebody else created it meanwhile: that is as good
            Err(_) if self.snapshot(artifact, None).await?.is_some() => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// `None`: the table does not exist yet.
    async fn snapshot(&self, artifact: Artifact, version: Option<u64>) -> Result<Option<SnapshotRef>, WorkerError> {
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
                foreign(&file.path, "is no part of ours");
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
    pub async fn live_files(&self, artifact: Artifact, country: &str) -> Result<Option<LiveFiles>, WorkerError> {
        let Some(snapshot) = self.snapshot(artifact, None).await? else { return Ok(None) };
        let (tables, country) = (self.clone(), country.to_owned());
        blocking(move || tables.live(artifact, &snapshot, &country).map(Some)).await
    }

    /// Takes files out of a country's table, those of them that are live; parts without rows take the place of ours.
    pub async fn take_out(
        &self,
        artifact: Artifact,
        country: &str,
        files: &BTreeSet<String>,
        empty: &[PartFile],
    ) -> Result<(), WorkerError> {
        let (files, empty, country) = (Arc::new(files.clone()), Arc::new(empty.to_vec()), Arc::new(country.to_owned()));
        self.until_committed(artifact, move |tables, snapshot| {
            let live = tables.live(artifact, snapshot, &country)?;
            let ours = live.parts.iter().map(|p| p.path.as_str());
            let all: HashSet<&str> = ours.chain(live.foreign.iter().map(|(path, _)| path.as_str())).collect();
            let removed: HashSet<&str> = files.iter().map(String::as_str).filter(|f| all.contains(f)).collect();
            if removed.is_empty() {
                return Ok(Some(()));
            }
            // a shard that somebody else made again meanwhile has its part
            let held = |shard| live.parts.iter().any(|p| p.shard == shard && !removed.contains(p.path.as_str()));
            let added: Vec<&PartFile> = empty.iter().filter(|part| !held(part.shard)).collect();
            let version = tables.write_version(snapshot, artifact, &country, &removed, &added, None);
            Ok(version.map_err(|e| kernel_error(artifact, e))?.map(|_| ()))
        })
        .await
    }

    /// Says that parts written before this moment may be cleared away where they are not live: from here on no commit
    /// brings one in. The moment never goes back.
    pub async fn raise_horizon(&self, artifact: Artifact, country: &str, millis: u64) -> Result<(), WorkerError> {
        let country = country.to_owned();
        self.until_committed(artifact, move |tables, snapshot| {
            if tables.horizon(artifact, snapshot, &country)? >= millis {
                return Ok(Some(()));
            }
            let none = HashSet::new();
            let version = tables.write_version(snapshot, artifact, &country, &none, &[], Some(millis));
            Ok(version.map_err(|e| kernel_error(artifact, e))?.map(|_| ()))
        })
        .await
    }

    /// The horizon of a country in a table, now; 0: nothing was ever cleared away.
    pub async fn horizon_millis(&self, artifact: Artifact, country: &str) -> Result<u64, WorkerError> {
        let Some(snapshot) = self.snapshot(artifact, None).await? else { return Ok(0) };
        let (tables, country) = (self.clone(), country.to_owned());
        blocking(move || tables.horizon(artifact, &snapshot, &country)).await
    }

    /// Milliseconds since 1970 before which a part that is not live may be gone; 0: nothing was ever cleared away.
    fn horizon(&self, artifact: Artifact, snapshot: &SnapshotRef, country: &str) -> Result<u64, WorkerError> {
        let found = snapshot.get_app_id_version(&horizon_id(country), self.engine.as_ref());
        Ok(found.map_err(|e| kernel_error(artifact, e))?.unwrap_or(0).max(0) as u64)
    }
}

/// Name of the log's transaction that holds a country's horizon.
fn horizon_id(country: &str) -> String {
    format!("urbancross/gc/{country}")
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

/// The statistics that Delta wants of a file: its row count.
fn row_count(rows: u64) -> StructArray {
    let field = Arc::new(ArrowField::new("numRecords", ArrowType::Int64, true));
    StructArray::from(vec![(field, Arc::new(Int64Array::from(vec![rows as i64])) as ArrayRef)])
}

fn now_millis() -> i64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.map_or(0, |d| d.as_millis() as i64)
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

fn kernel_error(artifact: Artifact, error: KernelError) -> WorkerError {
    let text = format!("table {}: {}", artifact.name(), whole_chain(&error));
    match error {
        KernelError::ObjectStore(e) => WorkerError::of_store(&format!("table {}", artifact.name()), e),
        e if is_disk_full(&e) => WorkerError::DiskFull(text),
        e if is_passing(&e) => WorkerError::Transient(text),
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
