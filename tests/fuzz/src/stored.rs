//! Readers of what lies in a work store: records, logs of tables, parts.

use std::sync::{Arc, LazyLock};

use manifests::plan::PinnedTable;
use manifests::spec::StoreOptions;
use manifests::{Artifact, Marker, PartFile, Plan, PlanCounts, RowStatuses, paths};
use object_store::memory::InMemory;
use stages::table;
use tokio::runtime::{Builder, Runtime};
use workers::parts::{PartReader, PartWriter};
use workers::publish::Summary;
use workers::stores::WorkStore;
use workers::tables::Tables;
use workers::train::{PendingRun, TrainingRecord};

static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| {
    Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("the system gives a process a thread")
});

fn store() -> WorkStore {
    let work = WorkStore::open("/work", &StoreOptions::default()).expect("a plain path");
    work.over(|_| Arc::new(InMemory::new()))
}

/// Markers, partial results, plans and what is written down of runs.
pub(crate) fn record(bytes: &[u8]) {
    const SHARDS: u32 = 16;
    if let Ok(marker) = serde_json::from_slice::<Marker>(bytes)
        && marker.is_of("x", marker.part.shard)
    {
        assert!(marker.part.path.starts_with("country=x/part-") && !marker.part.path.contains(".."));
        assert!((marker.computed + marker.kept + marker.deleted + marker.errors).checked_mul(100_000).is_some());
    }
    if let Ok(counts) = serde_json::from_slice::<PlanCounts>(bytes)
        && counts.is_of(SHARDS)
    {
        // adds up, or panics
        _ = counts.stale.iter().fold(counts.kept_rows, |sum, shard| sum + shard.kept + shard.computed());
    }
    if let Ok(plan) = serde_json::from_slice::<Plan>(bytes)
        && plan.is_of("x")
    {
        _ = (plan.key(), plan.computed(), plan.kept(), plan.reasons());
    }
    if let Ok(pinned) = serde_json::from_slice::<PinnedTable>(bytes) {
        _ = (pinned.rows(), pinned.digest(), pinned.part(0).is_some());
    }
    _ = serde_json::from_slice::<PartFile>(bytes).map(|part| part.is_of("x", 0));
    _ = serde_json::from_slice::<RowStatuses>(bytes);
    _ = serde_json::from_slice::<Summary>(bytes);
    _ = serde_json::from_slice::<TrainingRecord>(bytes);
    _ = serde_json::from_slice::<PendingRun>(bytes);
}

/// The bytes as the first entry of a log, and as the second after a sound one.
pub(crate) fn log(bytes: &[u8]) {
    RUNTIME.block_on(async {
        for sound in [None, Some(include_str!("../corpus/delta_log/table.jsonl"))] {
            let work = store();
            for (number, entry) in sound.map(str::as_bytes).into_iter().chain([bytes]).enumerate() {
                let path = format!("{}/_delta_log/{number:020}.json", paths::table(Artifact::Splits));
                work.put(&path, entry.to_vec().into()).await.expect("memory takes it");
            }
            let tables = Tables::new(&work);
            _ = tables.countries(Artifact::Splits).await;
            _ = tables.horizon_millis(Artifact::Splits, "finland").await;
            let Ok(pinned) = tables.pin(Artifact::Splits, "finland", None).await else { continue };
            pinned.parts.iter().for_each(|part| assert!(part.is_of("finland", part.shard), "{part:?}"));
        }
    });
}

fn part_file(path: String, bytes: &[u8]) -> PartFile {
    PartFile { shard: 3, path, size_bytes: bytes.len() as u64, rows: 3 }
}

/// The bytes as a part of a name that wants checksums, and of one that does not; whole, and shorter than was committed.
pub(crate) fn part(bytes: &[u8]) {
    RUNTIME.block_on(async {
        for attempt in ["0190000000007000800000000000000a", "old"] {
            let work = store();
            let part = part_file(paths::part("x", 3, attempt), bytes);
            let object = format!("{}/{}", paths::table(Artifact::Splits), part.path);
            work.put(&object, bytes.to_vec().into()).await.expect("memory takes it");
            let longer = PartFile { size_bytes: part.size_bytes.saturating_add(100), ..part.clone() };
            for part in [&part, &longer] {
                let Ok(reader) = PartReader::open(&work, Artifact::Splits, part).await else { continue };
                _ = reader.verify().await;
                _ = reader.read(&["image_id", "status", "error", "split"]).await;
                _ = reader.read_rows(&["image_id"], &[0, 2]).await;
            }
        }
    });
}

/// A sound part, and the same without checksums, so that damage gets past them.
pub(crate) fn parts() -> Vec<Vec<u8>> {
    RUNTIME.block_on(async {
        let work = store();
        let text = |value: &str| table::texts((0..3).map(|i| Some(format!("{value}{i}"))));
        let columns = table::schema(Artifact::Splits)
            .fields()
            .iter()
            .map(|field| match field.data_type() {
                arrow::datatypes::DataType::Int32 => table::int32s((0..3).map(Some)),
                _ => text(field.name()),
            })
            .collect();
        let batch = arrow::array::RecordBatch::try_new(table::schema(Artifact::Splits), columns).expect("three rows");
        let mut writer = PartWriter::create(&work, Artifact::Splits, "x", 3).expect("memory takes it");
        writer.write(&batch).await.expect("memory takes it");
        let part = writer.finish().await.expect("memory takes it");
        let object = format!("{}/{}", paths::table(Artifact::Splits), part.path);
        let sealed = work.get(&object).await.expect("memory gives it").expect("it was written").to_vec();
        let mut open = sealed.clone();
        let key = b"urbancross.data_crc32";
        let places: Vec<usize> = (0..open.len() - key.len()).filter(|at| open[*at..].starts_with(key)).collect();
        places.iter().for_each(|at| open[*at] = b'U');
        vec![sealed, open]
    })
}
