//! Changes of a table.
//!
//! The kernel does not rebase a commit that lost a race, so [`Tables::commit`] looks at the new version and judges each
//! shard again by [`manifests::commit::verdict`]. That comparison is what makes a repeated commit change nothing, too.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow::array::{ArrayRef, AsArray, Int64Array, StructArray};
use arrow::datatypes::{DataType as ArrowType, Field as ArrowField};
use delta_kernel::committer::FileSystemCommitter;
use delta_kernel::engine::arrow_data::{ArrowEngineData, EngineDataArrowExt};
use delta_kernel::expressions::Scalar;
use delta_kernel::schema::{DataType, StructField, StructType};
use delta_kernel::transaction::create_table::create_table;
use delta_kernel::transaction::data_layout::DataLayout;
use delta_kernel::transaction::{CommitResult, UpdateTableOperation};
use delta_kernel::{FileMeta, FilteredEngineData, KernelError, SnapshotRef};
use delta_kernel_default_engine::build_add_file_metadata;
use delta_kernel_default_engine::parquet::DataFileMetadata;
use manifests::commit::{Replacement, Verdict, verdict};
use manifests::{Artifact, PartFile};

use super::clock::{behind, check_clock, now_millis};
use super::columns::{delta_field, missing_fields};
use super::{ENGINE_INFO, PARTITION, Tables, blocking, kernel_error};
use crate::backoff::Backoff;
use crate::error::WorkerError;
use crate::parts::is_before;

/// How long a commit competes with those of other countries before it gives up. With 64 committers and 30 ms a request
/// the last of them waits for about half a minute (docs/benchmarks-log.md).
const COMMIT_DEADLINE: Duration = Duration::from_secs(300);
/// A checkpoint of the log every so many versions keeps opening a table quick.
const CHECKPOINT_EVERY: u64 = 10;

/// A change of one country's parts in one table.
pub struct Change {
    /// The table.
    pub artifact: Artifact,
    /// The country whose parts these are.
    pub country: String,
    /// At most one for each shard.
    pub replacements: Vec<Replacement>,
}

/// A number that goes into the log with a change, under a name: both count, or neither.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mark {
    /// What the number is of.
    pub name: String,
    /// What it was when the change was planned.
    pub before: Option<i64>,
    /// What it is from now on.
    pub after: i64,
}

/// What became of a change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Committed {
    /// Version at which the change is visible.
    pub version: u64,
    /// Shards whose parts were left out: their base was no longer live, or `gc` may be clearing them away.
    pub overtaken: Vec<u32>,
}

impl Tables {
    /// Commits a change where the bases of its shards are live; says which were not. A commit that loses to others is
    /// judged and tried again, with growing pauses, until a deadline.
    ///
    /// # Errors
    /// [`WorkerError::Transient`] at the deadline, and where this machine's clock is behind the table's horizon.
    pub async fn commit(&self, change: Change) -> Result<Committed, WorkerError> {
        let artifact = change.artifact;
        self.until_committed(artifact, move |tables, snapshot| tables.try_commit(snapshot, &change)).await
    }

    /// Commits a change whole, with a number beside it, or nothing: `false` where a base is no longer live, or the number is
    /// another than it was. A repeated commit changes nothing.
    ///
    /// # Errors
    /// As [`commit`](Self::commit).
    pub async fn commit_marked(&self, change: Change, mark: Mark) -> Result<bool, WorkerError> {
        let artifact = change.artifact;
        self.until_committed(artifact, move |tables, snapshot| {
            let now = tables.number(artifact, snapshot, &mark.name)?;
            if now == Some(mark.after) {
                return Ok(Some(true));
            }
            let live = tables.live(artifact, snapshot, &change.country)?;
            let horizon = tables.horizon(artifact, snapshot, &change.country)?;
            if change.replacements.iter().any(|replacement| is_before(&replacement.part, horizon)) {
                check_clock(artifact, &change.country, horizon)?;
            }
            let live_part =
                |shard: u32| live.parts.iter().find(|part| part.shard == shard).map(|part| part.path.as_str());
            let holds = |replacement: &Replacement| {
                let part = &replacement.part;
                let verdict = verdict(live_part(part.shard), replacement.base.as_deref(), &part.path);
                verdict == Verdict::Apply && !is_before(part, horizon)
            };
            if now != mark.before || !change.replacements.iter().all(holds) {
                return Ok(Some(false));
            }
            let removed: HashSet<&str> = change.replacements.iter().filter_map(|r| r.base.as_deref()).collect();
            let added: Vec<&PartFile> = change.replacements.iter().map(|r| &r.part).collect();
            let number = Some((mark.name.clone(), mark.after));
            let version = tables.write_version(snapshot, artifact, &change.country, &removed, &added, number);
            Ok(version.map_err(|e| kernel_error(artifact, e))?.map(|_| true))
        })
        .await
    }

    /// The number under a name in the log of a table, now; `None`: there is none.
    ///
    /// # Errors
    /// [`WorkerError::Broken`] for a log that cannot be read; a store that does not answer.
    pub async fn mark(&self, artifact: Artifact, name: &str) -> Result<Option<i64>, WorkerError> {
        let Some(snapshot) = self.snapshot(artifact, None).await? else { return Ok(None) };
        let (tables, name) = (self.clone(), name.to_owned());
        blocking(move || tables.number(artifact, &snapshot, &name)).await
    }

    fn number(&self, artifact: Artifact, snapshot: &SnapshotRef, name: &str) -> Result<Option<i64>, WorkerError> {
        let found = snapshot.get_app_id_version(name, self.engine.as_ref());
        found.map_err(|e| kernel_error(artifact, e))
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
        let (mut applied, mut overtaken, mut is_old) = (Vec::new(), Vec::new(), false);
        for replacement in &change.replacements {
            let live = of_shard.get(&replacement.part.shard).copied();
            match verdict(live, replacement.base.as_deref(), &replacement.part.path) {
                // it may be cleared away at this moment
                Verdict::Apply if is_before(&replacement.part, horizon) => {
                    is_old = true;
                    overtaken.push(replacement.part.shard);
                }
                Verdict::Apply => applied.push(replacement),
                Verdict::AlreadyLive => {}
                Verdict::Overtaken => overtaken.push(replacement.part.shard),
            }
        }
        overtaken.sort_unstable();
        if applied.is_empty() {
            // others' parts may have been made by a clock that is right
            if is_old {
                check_clock(change.artifact, &change.country, horizon)?;
            }
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
        number: Option<(String, i64)>,
    ) -> Result<Option<u64>, KernelError> {
        let engine = self.engine.as_ref();
        let mut builder = snapshot.clone().update_table(UpdateTableOperation::Write, ENGINE_INFO, true);
        for field in missing_fields(artifact, snapshot) {
            builder = builder.add_column(field);
        }
        let mut transaction = builder.build(engine, Box::new(FileSystemCommitter::new()))?;
        if let Some((name, number)) = number {
            transaction = transaction.with_transaction_id(name, number);
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

    /// Takes files out of a country's table, those of them that are live; other parts take the place of ours.
    ///
    /// # Errors
    /// As [`commit`](Self::commit); [`WorkerError::Transient`] too where `gc` may be clearing those parts away.
    pub async fn take_out(
        &self,
        artifact: Artifact,
        country: &str,
        files: &BTreeSet<String>,
        others: &[PartFile],
    ) -> Result<(), WorkerError> {
        let (files, others, country) = (files.clone(), others.to_vec(), country.to_owned());
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
            let added: Vec<&PartFile> = others.iter().filter(|part| !held(part.shard)).collect();
            let horizon = tables.horizon(artifact, snapshot, &country)?;
            if added.iter().any(|part| is_before(part, horizon)) {
                check_clock(artifact, &country, horizon)?;
                return Err(WorkerError::Transient(format!(
                    "table {} of {country}: `gc` has begun meanwhile, and may clear away what was to take the place of \
                     faulty files; nothing was taken out",
                    artifact.name()
                )));
            }
            let version = tables.write_version(snapshot, artifact, &country, &removed, &added, None);
            Ok(version.map_err(|e| kernel_error(artifact, e))?.map(|_| ()))
        })
        .await
    }

    /// Says that parts written before this moment may be cleared away where they are not live: from here on no commit
    /// brings one in. The moment never goes back.
    pub(crate) async fn raise_horizon(
        &self,
        artifact: Artifact,
        country: &str,
        millis: u64,
    ) -> Result<(), WorkerError> {
        let country = country.to_owned();
        self.until_committed(artifact, move |tables, snapshot| {
            if tables.horizon(artifact, snapshot, &country)? >= millis {
                return Ok(Some(()));
            }
            let none = HashSet::new();
            let number = Some((horizon_id(&country), millis as i64));
            let version = tables.write_version(snapshot, artifact, &country, &none, &[], number);
            Ok(version.map_err(|e| kernel_error(artifact, e))?.map(|_| ()))
        })
        .await
    }

    /// The horizon of a country in a table, now; 0: nothing was ever cleared away.
    ///
    /// # Errors
    /// [`WorkerError::Broken`] for a log that cannot be read; a store that does not answer.
    pub async fn horizon_millis(&self, artifact: Artifact, country: &str) -> Result<u64, WorkerError> {
        let Some(snapshot) = self.snapshot(artifact, None).await? else { return Ok(0) };
        let (tables, country) = (self.clone(), country.to_owned());
        blocking(move || tables.horizon(artifact, &snapshot, &country)).await
    }

    /// The same for whoever is about to write parts, which are named by this machine's clock: waits a little for that to come
    /// to the horizon.
    ///
    /// # Errors
    /// [`WorkerError::Transient`] for a clock that is far behind: no part that is written now would ever count; otherwise as
    /// [`horizon_millis`](Self::horizon_millis).
    pub async fn horizon_to_write(&self, artifact: Artifact, country: &str) -> Result<u64, WorkerError> {
        let horizon = self.horizon_millis(artifact, country).await?;
        check_clock(artifact, country, horizon)?;
        tokio::time::sleep(behind(horizon)).await;
        Ok(horizon)
    }

    /// Milliseconds since 1970 before which a part that is not live may be gone; 0: nothing was ever cleared away.
    fn horizon(&self, artifact: Artifact, snapshot: &SnapshotRef, country: &str) -> Result<u64, WorkerError> {
        Ok(self.number(artifact, snapshot, &horizon_id(country))?.unwrap_or(0).max(0) as u64)
    }
}

/// Name of the log's transaction that holds a country's horizon.
fn horizon_id(country: &str) -> String {
    format!("urbancross/gc/{country}")
}

/// The statistics that Delta wants of a file: its row count.
fn row_count(rows: u64) -> StructArray {
    let field = Arc::new(ArrowField::new("numRecords", ArrowType::Int64, true));
    StructArray::from(vec![(field, Arc::new(Int64Array::from(vec![rows as i64])) as ArrayRef)])
}
