//! Part files: the rows of one shard of one table, sorted by image id, as Parquet.

mod read;
mod seal;
mod write;

use std::collections::{BTreeSet, HashMap};

use manifests::plan::PinnedTable;
use manifests::{Artifact, PartFile, paths};
use parquet::errors::ParquetError;
use stages::stage::is_disk_full;

use crate::cause::whole_chain;
use crate::error::WorkerError;
use crate::stores::WorkStore;

pub use read::{PartReader, batches};
pub use write::PartWriter;

const SCHEMA_VERSION_KEY: &str = "urbancross.schema_version";

/// When the attempt of a part began, in milliseconds since 1970; `None`: the name does not say.
pub fn written_millis(part: &str) -> Option<u64> {
    let name = part.rsplit('/').next()?.strip_suffix(".parquet")?;
    let id = uuid::Uuid::try_parse(name.rsplit('-').next()?).ok()?;
    let (seconds, nanos) = id.get_timestamp()?.to_unix();
    Some(seconds * 1000 + u64::from(nanos) / 1_000_000)
}

/// Was a part written before a table's horizon? What does not say when was written long ago.
pub fn is_before(part: &PartFile, horizon_millis: u64) -> bool {
    horizon_millis > 0 && written_millis(&part.path).is_none_or(|at| at < horizon_millis)
}

/// Shards of a country's table whose part is gone from the store or has another size than was committed.
///
/// # Errors
/// A store that does not answer or lets nobody in.
pub async fn lost(work: &WorkStore, table: &PinnedTable, country: &str) -> Result<BTreeSet<u32>, WorkerError> {
    if table.parts.is_empty() {
        return Ok(BTreeSet::new());
    }
    let folder = format!("{}/{}", paths::table(table.artifact), paths::partition(country));
    let there = work.list_metas(&folder).await?.into_iter().map(|(name, meta)| (name, meta.size));
    let there: HashMap<String, u64> = there.collect();
    let is_lost = |part: &&PartFile| {
        let name = part.path.rsplit('/').next().unwrap_or_default();
        there.get(name) != Some(&part.size_bytes)
    };
    Ok(table.parts.iter().filter(is_lost).map(|part| part.shard).collect())
}

fn parquet_error(path: &str, error: ParquetError) -> WorkerError {
    use ParquetError as P;
    if is_disk_full(&error) {
        return WorkerError::DiskFull(path.to_owned());
    }
    match error {
        P::External(inner) => match inner.downcast::<object_store::Error>() {
            Ok(store) if matches!(*store, object_store::Error::NotFound { .. }) => damaged(path, "the file is gone"),
            Ok(store) => WorkerError::of_store(path, *store),
            Err(other) => match other.downcast::<std::io::Error>() {
                // a store whose object is written in pieces says what it has to say through the interface of a file
                Ok(io) => match io.downcast::<object_store::Error>() {
                    Ok(store) => WorkerError::of_store(path, store),
                    Err(io) => WorkerError::of_io(path.as_ref(), &io),
                },
                Err(other) => WorkerError::Broken(format!("{path}: {}", whole_chain(other.as_ref()))),
            },
        },
        other => damaged(path, &other.to_string()),
    }
}

/// A slice is no loss: whoever plans writes it again; nor are vectors that a search has kept.
fn damaged(path: &str, why: &str) -> WorkerError {
    if paths::is_slice(path) {
        return WorkerError::Transient(format!("{path} is damaged: {why}; planning writes it again"));
    }
    if paths::is_kept_vectors(path) {
        return WorkerError::Broken(format!("{path} is damaged: {why}; delete it, and the next search makes it again"));
    }
    WorkerError::Broken(format!("{path} is damaged: {why}; {}", way_back(path)))
}

/// What helps where a part of a table is damaged.
fn way_back(path: &str) -> &'static str {
    if path.contains(&paths::table(Artifact::TagRefreshes)) {
        return "`urbancross verify --repair` removes it, and then `urbancross tags refresh SPEC --osm FILE` finds its \
                tags again";
    }
    if path.contains(&paths::table(Artifact::CaptionReviews)) {
        return "what people decided cannot be made again: bring the file back from a copy, or let `urbancross verify \
                --repair` go back to what they had decided before";
    }
    "`urbancross verify --repair` removes every damaged part, and the next run recomputes their rows"
}

/// What is wrong with the part at a path, without what helps: `verify` says that of all faults together.
pub(crate) fn fault(path: &str, error: &WorkerError) -> String {
    let words = error.to_string();
    words.strip_suffix(&format!("; {}", way_back(path))).unwrap_or(&words).to_owned()
}

#[cfg(test)]
mod tests {
    use arrow::array::RecordBatch;

    use super::read::{adapt, consecutive, projected_schema};
    use super::*;
    use manifests::spec::StoreOptions;
    use stages::table;

    fn splits(ids: &[&str]) -> RecordBatch {
        let texts = |value: &str| table::texts(ids.iter().map(|_| Some(value.to_owned())));
        let columns = vec![
            table::texts(ids.iter().map(|id| Some(id.to_string()))),
            texts("ok"),
            table::texts(ids.iter().map(|_| None::<String>)),
            texts("r"),
            table::int32s(ids.iter().map(|_| Some(1))),
            texts(""),
            texts("{}"),
            texts("{}"),
            texts("train"),
            table::texts(ids.iter().map(|_| None::<String>)),
            texts("d"),
        ];
        RecordBatch::try_new(table::schema(Artifact::Splits), columns).unwrap()
    }

    #[tokio::test]
    async fn parts_are_read_by_rows_and_columns() {
        let folder = tempfile::tempdir().unwrap();
        let work = WorkStore::open(folder.path().to_str().unwrap(), &StoreOptions::default()).unwrap();
        let mut writer = PartWriter::create(&work, Artifact::Splits, "finland", 3).unwrap();
        writer.write(&splits(&["a", "b", "c"])).await.unwrap();
        writer.write(&splits(&["d", "e"])).await.unwrap();
        let part = writer.finish().await.unwrap();
        assert_eq!((part.rows, paths::shard_of_part(&part.path)), (5, Some(3)));
        let reader = PartReader::open(&work, Artifact::Splits, &part).await.unwrap();
        let batch = reader.read_rows(&["split", "image_id"], &[1, 2, 4]).await.unwrap();
        assert_eq!(batch.num_rows(), 3);
        let ids = table::Columns::new(Artifact::Splits, &batch).text("image_id").unwrap().clone();
        assert_eq!(ids.iter().flatten().collect::<Vec<_>>(), ["b", "c", "e"]);
        // a part without rows is a part
        let empty = PartWriter::create(&work, Artifact::Splits, "finland", 4).unwrap().finish().await.unwrap();
        let reader = PartReader::open(&work, Artifact::Splits, &empty).await.unwrap();
        assert_eq!((empty.rows, reader.read(&["image_id", "split"]).await.unwrap().num_rows()), (0, 0));
    }

    /// Every bit of a part counts: with one of them flipped, anywhere, reading the part fails and never gives other rows.
    #[tokio::test]
    async fn a_flipped_bit_is_found_wherever_it_is() {
        let folder = tempfile::tempdir().unwrap();
        let work = WorkStore::open(folder.path().to_str().unwrap(), &StoreOptions::default()).unwrap();
        let mut writer = PartWriter::create(&work, Artifact::Splits, "finland", 3).unwrap();
        let ids: Vec<String> = (0..3000).map(|i| format!("image{i:05}")).collect();
        writer.write(&splits(&ids.iter().map(String::as_str).collect::<Vec<_>>())).await.unwrap();
        let part = writer.finish().await.unwrap();
        let path = folder.path().join("tables/splits").join(&part.path);
        let whole = std::fs::read(&path).unwrap();
        let read = || async {
            let reader = PartReader::open(&work, Artifact::Splits, &part).await?;
            reader.verify().await?;
            reader.read(&["image_id", "status", "split"]).await
        };
        let rows = read().await.unwrap();
        assert_eq!(rows.num_rows(), 3000);
        for at in (0..whole.len()).step_by(whole.len() / 200) {
            let mut flipped = whole.clone();
            flipped[at] ^= 1 << (at % 8);
            std::fs::write(&path, flipped).unwrap();
            let error = read().await.err().unwrap_or_else(|| panic!("byte {at} of {} goes unnoticed", whole.len()));
            assert_eq!(error.exit_code(), 65, "{error}");
        }
        for length in [0, 1, 7, 8, 100, whole.len() / 2, whole.len() - 1] {
            std::fs::write(&path, &whole[..length]).unwrap();
            assert!(read().await.is_err(), "{length} bytes of {}", whole.len());
        }
        std::fs::write(&path, &whole).unwrap();
        assert_eq!(read().await.unwrap(), rows);
    }

    #[test]
    fn what_a_store_says_of_a_part_is_heard_through_the_interface_of_a_file() {
        use object_store::Error as E;
        let code = |store: E| parquet_error("part", ParquetError::from(std::io::Error::from(store))).exit_code();
        assert_eq!(code(E::PermissionDenied { path: "part".into(), source: "403".into() }), 65);
        assert_eq!(code(E::Generic { store: "S3", source: "503".into() }), 75);
        let local = |kind: std::io::ErrorKind| {
            code(E::Generic { store: "LocalFileSystem", source: Box::new(std::io::Error::from(kind)) })
        };
        assert_eq!(local(std::io::ErrorKind::PermissionDenied), 65);
        assert_eq!(local(std::io::ErrorKind::ReadOnlyFilesystem), 65);
        assert_eq!(local(std::io::ErrorKind::TimedOut), 75);
    }

    #[test]
    fn a_fault_is_told_without_what_helps() {
        for artifact in [Artifact::Splits, Artifact::TagRefreshes, Artifact::CaptionReviews] {
            let path = format!("{}/x.parquet", paths::table(artifact));
            let error = damaged(&path, "its data is cut");
            assert!(error.to_string().contains("verify --repair"), "{error}");
            assert_eq!(fault(&path, &error), format!("{path} is damaged: its data is cut"));
        }
    }

    #[test]
    fn older_files_are_read_with_nulls() {
        let old = splits(&["a"]).project(&[0, 8]).unwrap();
        let wanted = projected_schema(Artifact::Splits, &["image_id", "split", "split_reason"]).unwrap();
        let batch = adapt(&old, wanted).unwrap();
        assert_eq!(batch.column(2).null_count(), 1);
        let wanted = projected_schema(Artifact::Splits, &["recipe"]).unwrap();
        assert!(adapt(&old, wanted).unwrap_err().contains("recipe"));
    }

    #[test]
    fn rows_become_ranges() {
        assert_eq!(consecutive(&[1, 2, 3, 7, 9, 10]), [1..4, 7..8, 9..11]);
    }
}
