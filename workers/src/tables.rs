//! Delta Lake, behind one door: pin a table's files, commit a change of them.
//!
//! The kernel does not rebase a commit that lost a race, so [`Tables::commit`] starts again from
//! the new version. A transaction id per plan makes a repeated commit change nothing.

use std::collections::BTreeSet;
use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, Int64Array, StructArray};
use arrow::datatypes::{DataType as ArrowType, Field as ArrowField};
use delta_kernel::committer::FileSystemCommitter;
use delta_kernel::engine::arrow_data::{ArrowEngineData, EngineDataArrowExt};
use delta_kernel::expressions::Scalar;
use delta_kernel::scan::state::ScanFile;
use delta_kernel::schema::{ArrayType, DataType, StructField, StructType};
use delta_kernel::transaction::CommitResult;
use delta_kernel::transaction::UpdateTableOperation;
use delta_kernel::transaction::create_table::create_table;
use delta_kernel::transaction::data_layout::DataLayout;
use delta_kernel::{FileMeta, FilteredEngineData, KernelError, Snapshot, SnapshotRef};
use delta_kernel_default_engine::executor::tokio::TokioBackgroundExecutor;
use delta_kernel_default_engine::parquet::DataFileMetadata;
use delta_kernel_default_engine::{DefaultEngine, DefaultEngineBuilder, build_add_file_metadata};
use manifests::plan::PinnedTable;
use manifests::{Artifact, Field, FieldType, PartFile, paths};
use stages::stage::is_disk_full;
use url::Url;

use crate::error::{WorkerError, whole_chain};
use crate::stores::WorkStore;

const PARTITION: &str = "country";
const ENGINE_INFO: &str = concat!("urbancross/", env!("CARGO_PKG_VERSION"));
/// Commits that may overtake ours before we give up: other countries of the same tables.
const COMMIT_ATTEMPTS: usize = 20;
/// A checkpoint of the log every so many versions keeps opening a table quick.
const CHECKPOINT_EVERY: u64 = 20;

/// The Delta tables of a work store.
#[derive(Clone)]
pub struct Tables {
    root: Url,
    engine: Arc<DefaultEngine<TokioBackgroundExecutor>>,
}

/// A change of one country's files in one table.
pub struct Change {
    pub artifact: Artifact,
    pub country: String,
    /// Identity of the change: committing it twice does nothing the second time.
    pub transaction: String,
    /// Shards whose files are replaced, whichever files the newest version has for them.
    pub shards: BTreeSet<u32>,
    /// At most one per shard of `shards`.
    pub add: Vec<PartFile>,
}

impl Tables {
    pub fn new(work: &WorkStore) -> Self {
        let (store, root) = work.rooted();
        Self { root, engine: Arc::new(DefaultEngineBuilder::new(store).build()) }
    }

    fn url(&self, artifact: Artifact) -> Result<Url, WorkerError> {
        self.root
            .join(&format!("{}/", paths::table(artifact)))
            .map_err(|e| WorkerError::Configuration(format!("table {}: {e}", artifact.name())))
    }

    /// The files of one country at a version (`None`: the newest).
    pub async fn pin(
        &self,
        artifact: Artifact,
        country: &str,
        version: Option<u64>,
    ) -> Result<PinnedTable, WorkerError> {
        let (tables, country) = (self.clone(), country.to_owned());
        blocking(move || tables.pin_now(artifact, &country, version)).await
    }

    fn pin_now(&self, artifact: Artifact, country: &str, version: Option<u64>) -> Result<PinnedTable, WorkerError> {
        let Some(snapshot) = self.snapshot(artifact, version)? else {
            return Ok(PinnedTable { artifact, version: None, parts: Vec::new() });
        };
        let mut parts: Vec<PartFile> = self
            .files(&snapshot)
            .map_err(|e| kernel_error(artifact, e))?
            .into_iter()
            .filter(|file| file.partition_values.get(PARTITION).is_some_and(|c| c == country))
            .map(|file| part_of(artifact, file))
            .collect::<Result<_, _>>()?;
        parts.sort();
        if let Some(pair) = parts.windows(2).find(|pair| pair[0].shard == pair[1].shard) {
            return Err(WorkerError::Broken(format!(
                "table {}: shard {} of {country} has two files ({} and {}); it was changed by another program",
                artifact.name(),
                pair[0].shard,
                pair[0].path,
                pair[1].path
            )));
        }
        Ok(PinnedTable { artifact, version: Some(snapshot.version()), parts })
    }

    /// The countries that a table holds, with their rows.
    pub async fn countries(&self, artifact: Artifact) -> Result<Vec<(String, u64)>, WorkerError> {
        let tables = self.clone();
        blocking(move || {
            let Some(snapshot) = tables.snapshot(artifact, None)? else { return Ok(Vec::new()) };
            let mut rows = std::collections::BTreeMap::<String, u64>::new();
            for file in tables.files(&snapshot).map_err(|e| kernel_error(artifact, e))? {
                let country = file.partition_values.get(PARTITION).cloned().unwrap_or_default();
                *rows.entry(country).or_default() += file.stats.map_or(0, |s| s.num_records);
            }
            Ok(rows.into_iter().collect())
        })
        .await
    }

    /// Commits a change; returns the version at which it is visible.
    pub async fn commit(&self, change: Change) -> Result<u64, WorkerError> {
        let tables = self.clone();
        blocking(move || tables.commit_now(&change)).await
    }

    fn commit_now(&self, change: &Change) -> Result<u64, WorkerError> {
        for _ in 0..COMMIT_ATTEMPTS {
            let snapshot = match self.snapshot(change.artifact, None)? {
                Some(snapshot) => snapshot,
                None => {
                    self.create(change.artifact)?;
                    continue;
                }
            };
            if let Some(version) = self.try_commit(&snapshot, change).map_err(|e| kernel_error(change.artifact, e))? {
                return Ok(version);
            }
        }
        Err(WorkerError::Transient(format!(
            "table {}: {COMMIT_ATTEMPTS} commits were overtaken by other writers",
            change.artifact.name()
        )))
    }

    /// One attempt; `None`: another commit came first.
    fn try_commit(&self, snapshot: &SnapshotRef, change: &Change) -> Result<Option<u64>, KernelError> {
        let engine = self.engine.as_ref();
        if snapshot.get_app_id_version(&change.transaction, engine)?.is_some() {
            return Ok(Some(snapshot.version()));
        }
        let mut builder = snapshot
            .clone()
            .update_table(UpdateTableOperation::Write, ENGINE_INFO, true)
            .with_transaction_id(&change.transaction, 1);
        for field in missing_fields(change.artifact, snapshot) {
            builder = builder.add_column(field);
        }
        let mut transaction = builder.build(engine, Box::new(FileSystemCommitter::new()))?;
        if !change.shards.is_empty() {
            let prefix = format!("{PARTITION}={}/", change.country);
            let replaced = |path: &str| {
                path.starts_with(&prefix) && paths::shard_of_part(path).is_some_and(|s| change.shards.contains(&s))
            };
            for metadata in snapshot.clone().scan_builder().build()?.scan_metadata(engine)? {
                let (data, live) = metadata?.scan_files.into_parts();
                let batch = data.try_into_record_batch()?;
                let file_paths = batch.column_by_name("path").and_then(|c| c.as_string_opt::<i32>().cloned());
                let Some(file_paths) = file_paths else {
                    return Err(KernelError::generic("the scan's metadata has no column path"));
                };
                let removed: Vec<bool> = (0..batch.num_rows())
                    .map(|row| live.get(row).copied().unwrap_or(true) && replaced(file_paths.value(row)))
                    .collect();
                if removed.contains(&true) {
                    transaction
                        .remove_files(FilteredEngineData::try_new(Box::new(ArrowEngineData::new(batch)), removed)?);
                }
            }
        }
        let context = transaction
            .write_state()?
            .write_context_builder()
            .with_partition_values(HashMap::from([(PARTITION.to_owned(), Scalar::from(change.country.as_str()))]))
            .build()?;
        for part in &change.add {
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
                    tracing::warn!(table = change.artifact.name(), %error, "no log checkpoint was written");
                }
                Ok(Some(version))
            }
            _ => Ok(None),
        }
    }

    fn create(&self, artifact: Artifact) -> Result<(), WorkerError> {
        let make = || -> Result<(), KernelError> {
            let mut fields = artifact.fields().iter().map(delta_field).collect::<Result<Vec<_>, _>>()?;
            fields.push(StructField::nullable(PARTITION, DataType::STRING));
            let schema = Arc::new(StructType::try_new(fields)?);
            let url = self.url(artifact).map_err(|e| KernelError::generic(e.to_string()))?;
            // the kernel wants the folder of a local table to exist
            if let Some(folder) = (url.scheme() == "file").then(|| url.to_file_path().ok()).flatten() {
                std::fs::create_dir_all(folder).map_err(KernelError::generic_err)?;
            }
            // a lost race is as good as a won one: the table is there either way
            let _created = create_table(url.as_str(), schema, ENGINE_INFO, true)
                .with_data_layout(DataLayout::partitioned([PARTITION]))
                .build(self.engine.as_ref(), Box::new(FileSystemCommitter::new()))?
                .commit(self.engine.as_ref())?;
            Ok(())
        };
        match make() {
            Ok(()) => Ok(()),
            // somebody else created it meanwhile: that is as good
            Err(_) if self.snapshot(artifact, None)?.is_some() => Ok(()),
            Err(error) => Err(kernel_error(artifact, error)),
        }
    }

    /// `None`: the table does not exist yet.
    fn snapshot(&self, artifact: Artifact, version: Option<u64>) -> Result<Option<SnapshotRef>, WorkerError> {
        let mut builder = Snapshot::builder_for(self.url(artifact)?);
        if let Some(version) = version {
            builder = builder.at_version(version);
        }
        let snapshot = match builder.build(self.engine.as_ref()) {
            Ok(snapshot) => snapshot,
            Err(error) if is_absent(&error) => return Ok(None),
            Err(error) => return Err(kernel_error(artifact, error)),
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

    fn files(&self, snapshot: &SnapshotRef) -> Result<Vec<ScanFile>, KernelError> {
        let mut files = Vec::new();
        for metadata in snapshot.clone().scan_builder().build()?.scan_metadata(self.engine.as_ref())? {
            files = metadata?.visit_scan_files(files, |files: &mut Vec<ScanFile>, file| files.push(file))?;
        }
        Ok(files)
    }
}

fn part_of(artifact: Artifact, file: ScanFile) -> Result<PartFile, WorkerError> {
    let shard = paths::shard_of_part(&file.path).ok_or_else(|| {
        WorkerError::Broken(format!("table {}: {} is no part file of ours", artifact.name(), file.path))
    })?;
    Ok(PartFile {
        shard,
        path: file.path,
        size_bytes: file.size.max(0) as u64,
        rows: file.stats.map_or(0, |s| s.num_records),
    })
}

/// Columns that the table lacks because it was made by an older version.
fn missing_fields(artifact: Artifact, snapshot: &SnapshotRef) -> Vec<StructField> {
    let schema = snapshot.schema();
    artifact
        .fields()
        .iter()
        .filter(|field| schema.field(field.name).is_none())
        .filter_map(|field| delta_field(field).ok())
        .collect()
}

/// Top-level columns are nullable in Delta: a column of a later version must be addable to files
/// that do not have it.
fn delta_field(field: &Field) -> Result<StructField, KernelError> {
    Ok(StructField::nullable(field.name, delta_type(&field.kind)?))
}

fn delta_type(kind: &FieldType) -> Result<DataType, KernelError> {
    Ok(match kind {
        FieldType::Text => DataType::STRING,
        FieldType::Int32 => DataType::INTEGER,
        FieldType::Int64 => DataType::LONG,
        FieldType::Float32 => DataType::FLOAT,
        FieldType::Float64 => DataType::DOUBLE,
        FieldType::Bool => DataType::BOOLEAN,
        FieldType::Binary => DataType::BINARY,
        FieldType::List(item) => DataType::from(ArrayType::new(delta_type(item)?, false)),
        FieldType::Struct(fields) => {
            let fields = fields
                .iter()
                .map(|f| Ok(StructField::new(f.name, delta_type(&f.kind)?, f.nullable)))
                .collect::<Result<Vec<_>, KernelError>>()?;
            DataType::from(StructType::try_new(fields)?)
        }
    })
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
mod tests {
    use super::*;
    use manifests::build::StoreOptions;

    fn change(transaction: &str, add: &[(u32, &str)]) -> Change {
        Change {
            artifact: Artifact::Splits,
            country: "finland".into(),
            transaction: transaction.into(),
            shards: add.iter().map(|(shard, _)| *shard).collect(),
            add: add
                .iter()
                .map(|&(shard, attempt)| PartFile {
                    shard,
                    path: paths::part("finland", shard, attempt),
                    size_bytes: 10,
                    rows: 5,
                })
                .collect(),
        }
    }

    #[tokio::test]
    async fn commits_are_idempotent_and_versions_stay_readable() {
        let folder = tempfile::tempdir().unwrap();
        let work = WorkStore::open(folder.path().to_str().unwrap(), &StoreOptions::default()).unwrap();
        let tables = Tables::new(&work);
        assert_eq!(tables.pin(Artifact::Splits, "finland", None).await.unwrap().version, None);
        let first = tables.commit(change("plan-1", &[(0, "a"), (1, "b")])).await.unwrap();
        let again = tables.commit(change("plan-1", &[(0, "a"), (1, "b")])).await.unwrap();
        assert_eq!(first, again);
        let old = tables.pin(Artifact::Splits, "finland", None).await.unwrap();
        assert_eq!((old.parts.len(), old.rows()), (2, 10));
        tables.commit(change("plan-2", &[(1, "c")])).await.unwrap();
        let new = tables.pin(Artifact::Splits, "finland", None).await.unwrap();
        assert_eq!(new.parts.len(), 2);
        assert!(new.part(1).unwrap().path.contains("-c."));
        assert_eq!(tables.pin(Artifact::Splits, "finland", old.version).await.unwrap(), old);
        assert!(tables.pin(Artifact::Splits, "spain", None).await.unwrap().parts.is_empty());
        assert_eq!(tables.countries(Artifact::Splits).await.unwrap(), [("finland".to_owned(), 10)]);
    }

    #[tokio::test]
    async fn two_countries_commit_at_once() {
        let folder = tempfile::tempdir().unwrap();
        let work = WorkStore::open(folder.path().to_str().unwrap(), &StoreOptions::default()).unwrap();
        let tables = Tables::new(&work);
        let commits = (0..6).map(|i| {
            let mut change = change(&format!("plan-{i}"), &[(0, "x")]);
            change.country = format!("country{i}");
            change.add[0].path = paths::part(&change.country, 0, "x");
            tables.commit(change)
        });
        futures::future::try_join_all(commits).await.unwrap();
        assert_eq!(tables.countries(Artifact::Splits).await.unwrap().len(), 6);
    }
}
