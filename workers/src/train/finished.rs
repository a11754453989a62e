//! Records of finished runs, each read once by a process: they never change, name every part that a run has read, and are asked for
//! at every turn.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock, Mutex, PoisonError};

use futures::TryStreamExt;
use object_store::ObjectMeta;

use super::TrainingRecord;
use crate::concurrently::in_order;
use crate::error::WorkerError;
use crate::stores::{WorkStore, identity};

/// Records that are read at once.
const AT_ONCE: usize = 8;
/// Bytes of objects whose records are kept in memory. What came first stays: all of them are asked for together.
const MOST_BYTES: u64 = 512 << 20;

/// Records that were read, by address and identity of their objects.
#[derive(Default)]
struct Kept {
    records: HashMap<(String, String), Arc<TrainingRecord>>,
    bytes: u64,
}

static KEPT: LazyLock<Mutex<Kept>> = LazyLock::new(Mutex::default);

/// The records at these paths, as they were listed; `None`: it cannot be read.
///
/// # Errors
/// A store that does not answer or lets nobody in.
pub(super) async fn records(
    work: &WorkStore,
    listed: Vec<(String, ObjectMeta)>,
) -> Result<Vec<(String, Option<Arc<TrainingRecord>>)>, WorkerError> {
    let read = listed.into_iter().map(|(path, meta)| record(work.clone(), path, meta));
    in_order(read, AT_ONCE, "records of trainings").try_collect().await
}

async fn record(
    work: WorkStore,
    path: String,
    meta: ObjectMeta,
) -> Result<(String, Option<Arc<TrainingRecord>>), WorkerError> {
    let key = (format!("{}{path}", work.url()), identity(&meta));
    let kept = KEPT.lock().unwrap_or_else(PoisonError::into_inner).records.get(&key).cloned();
    if kept.is_some() {
        return Ok((path, kept));
    }
    let read = work.get_record::<TrainingRecord>(&path).await?.map(Arc::new);
    if let Some(record) = &read {
        let mut kept = KEPT.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.bytes.saturating_add(meta.size) <= MOST_BYTES && kept.records.insert(key, record.clone()).is_none() {
            kept.bytes += meta.size;
        }
    }
    Ok((path, read))
}

#[cfg(test)]
mod tests {
    use manifests::paths;
    use stages::Training;
    use stages::fit::Trained;

    use super::super::{RECORD_FILE, runs};
    use super::*;

    fn finished(sequence: u64) -> TrainingRecord {
        let trained = Trained {
            model_digest: String::new(),
            parameters: 1,
            train_rows: 4,
            validation_rows: 1,
            epochs: 1,
            best_epoch: 0,
            best_validation_mean_recall: 50.0,
            validation_chance: None,
            samples: 4,
            seconds: 1.0,
            wait_seconds: 0.5,
        };
        TrainingRecord {
            key: format!("run{sequence}"),
            training: "pretrain".into(),
            country: "x".into(),
            stage_version: 1,
            parameters: "{}".into(),
            inputs: Vec::new(),
            warm_start: None,
            trained,
            sequence,
            source: String::new(),
            begins: String::new(),
        }
    }

    #[tokio::test]
    async fn a_record_is_read_once() {
        let folder = tempfile::tempdir().unwrap();
        let work = WorkStore::open(&folder.path().display().to_string(), &Default::default()).unwrap();
        let put = async |record: &TrainingRecord, key: &str| {
            let run = paths::training_run("x", "pretrain", key);
            work.put_sealed(&format!("{run}/{RECORD_FILE}"), record).await.unwrap();
        };
        for sequence in 0..20 {
            put(&finished(sequence), &format!("run{sequence}")).await;
        }
        let ask = async || runs(&work, "x", Training::Pretrain).await.unwrap().finished;
        let (first, second) = (ask().await, ask().await);
        assert!(first.iter().map(|record| record.sequence).eq(0..20), "oldest first");
        assert!(first.iter().zip(&second).all(|(one, two)| Arc::ptr_eq(one, two)), "kept");
        // one that was written anew is another one
        put(&TrainingRecord { begins: "again".into(), ..finished(3) }, "run3").await;
        let third = ask().await;
        let is_kept = |at: usize| Arc::ptr_eq(&first[at], &third[at]);
        assert!((0..20).all(|at| is_kept(at) != (at == 3)) && third[3].begins == "again");
    }
}
