//! Checkpoints of a table's log: what its entries come to at a version, for readers to begin with. They are copies: a
//! damaged one, which readers fail on or believe, can go while the entries that it stands for are there.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use manifests::{Artifact, paths};
use object_store::path::Path;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use serde::Deserialize;
use url::Url;

use super::{Tables, blocking, kernel_error};
use crate::error::WorkerError;

/// Names the checkpoint that readers begin with.
const POINTER: &str = "_last_checkpoint";

/// Paths of files, each with its length and rows.
type Held = BTreeSet<(String, i64, Option<u64>)>;

/// A checkpoint that misleads readers, or the pointer to one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Damaged {
    /// Name of the file in the log's folder.
    pub(crate) name: String,
    /// What is wrong with it.
    pub(crate) why: String,
}

impl Tables {
    /// Checkpoints of a table's log that cannot be read, or say otherwise than its entries; and the pointer where it
    /// names none. Of older ones than readers begin with, only whether they can be read.
    ///
    /// # Errors
    /// [`WorkerError::Broken`] where the log cannot be read without them; a store that does not answer.
    pub(crate) async fn damaged_checkpoints(&self, artifact: Artifact) -> Result<Vec<Damaged>, WorkerError> {
        let log = log_of(artifact);
        // it is written after the checkpoint that it names
        let pointer = self.work.get(&format!("{log}/{POINTER}")).await?;
        let names = self.work.list(&log).await?;
        let entries: BTreeSet<u64> = names.iter().filter_map(|name| version_of(name.strip_suffix(".json")?)).collect();
        let checkpoints = || names.iter().filter_map(|name| Some((checkpoint_version(name)?, name)));
        let mut damaged = Vec::new();
        let mut sound: BTreeMap<u64, &String> = BTreeMap::new();
        for (version, name) in checkpoints().filter(|(_, name)| name.ends_with(".parquet")) {
            // cleared away meanwhile
            let Some(bytes) = self.work.get(&format!("{log}/{name}")).await? else { continue };
            let read = blocking(move || Ok(read_whole(bytes))).await;
            match read.unwrap_or_else(|panicked| Err(panicked.to_string())) {
                Err(why) => damaged.push(Damaged { name: name.clone(), why: format!("cannot be read: {why}") }),
                // those of several files are others', and none is whole by itself
                Ok(()) if *name == format!("{version:020}.checkpoint.parquet") => {
                    sound.insert(version, name);
                }
                Ok(()) => {}
            }
        }
        let newest = checkpoints().map(|(version, _)| version).max();
        if follow(&entries, 0, newest) {
            let all = checkpoints().map(|(_, name)| name.as_str()).chain([POINTER]);
            let by_entries = self.without(artifact, all);
            while let Some((&version, &name)) = sound.last_key_value() {
                let Some(why) = self.differs(&by_entries, artifact, version).await? else { break };
                damaged.push(Damaged { name: name.clone(), why });
                sound.pop_last();
            }
        }
        if let Some(why) = pointer.and_then(|bytes| misled(&bytes, newest)) {
            damaged.push(Damaged { name: POINTER.to_owned(), why });
        }
        let from = sound.last_key_value().map_or(0, |(version, _)| version + 1);
        match damaged.first() {
            Some(Damaged { name, why }) if !follow(&entries, from, newest) => Err(WorkerError::Broken(format!(
                "table {table}: {log}/{name} {why}, and the entries that it stands for are no longer there: bring it \
                 back from a copy, or move the folder {folder} away to compute the table again",
                table = artifact.name(),
                folder = paths::table(artifact),
            ))),
            _ => Ok(damaged),
        }
    }

    /// The tables as readers would see them if there were no such checkpoints.
    pub(crate) fn without_checkpoints(&self, artifact: Artifact, damaged: &[Damaged]) -> Tables {
        match damaged {
            [] => self.clone(),
            damaged => self.without(artifact, damaged.iter().map(|damaged| damaged.name.as_str()).chain([POINTER])),
        }
    }

    fn without<'n>(&self, artifact: Artifact, names: impl Iterator<Item = &'n str>) -> Tables {
        let log = log_of(artifact);
        Tables::hiding(&self.work, names.map(|name| Path::from(format!("{log}/{name}"))).collect())
    }

    /// Removes checkpoints, by their names in the log's folder, and the pointer: readers find the newest one that is
    /// left.
    ///
    /// # Errors
    /// A store that does not answer or lets nobody in.
    pub(crate) async fn remove_checkpoints(&self, artifact: Artifact, names: &[&str]) -> Result<(), WorkerError> {
        let named = names.iter().copied().filter(|name| checkpoint_version(name).is_some());
        // the pointer first: it would lead to what is no longer there
        for name in [POINTER].into_iter().chain(named) {
            self.work.delete(&format!("{}/{name}", log_of(artifact))).await?;
        }
        // it may rest on one of them
        if let Ok(mut seen) = self.seen.lock() {
            seen.remove(&artifact);
        }
        Ok(())
    }

    /// How a version with its checkpoint differs from the one that the log's entries make.
    async fn differs(
        &self,
        by_entries: &Tables,
        artifact: Artifact,
        version: u64,
    ) -> Result<Option<String>, WorkerError> {
        let (read, by_entries, url) = (self.clone(), by_entries.clone(), self.url(artifact)?);
        let held = blocking(move || Ok((by_entries.held(artifact, &url, version), read.held(artifact, &url, version))));
        match held.await? {
            // a torn entry is another fault, and tells nothing of the checkpoint
            (Err(WorkerError::Broken(_)), _) => Ok(None),
            (Ok(_), Err(WorkerError::Broken(why))) => Ok(Some(format!("cannot be used: {why}"))),
            (Err(error), _) | (_, Err(error)) => Err(error),
            (Ok(entries), Ok(checkpoint)) if entries == checkpoint => Ok(None),
            (Ok(_), Ok(_)) => Ok(Some("holds other files than the entries of the log".to_owned())),
        }
    }

    /// The files of a version.
    fn held(&self, artifact: Artifact, url: &Url, version: u64) -> Result<Held, WorkerError> {
        let files = self.build_snapshot(artifact, url, Some(version)).and_then(|snapshot| self.files(&snapshot));
        let files = files.map_err(|error| kernel_error(artifact, error))?;
        Ok(files.into_iter().map(|file| (file.path, file.size, file.stats.map(|stats| stats.num_records))).collect())
    }
}

fn log_of(artifact: Artifact) -> String {
    format!("{}/_delta_log", paths::table(artifact))
}

fn version_of(digits: &str) -> Option<u64> {
    (digits.len() == 20).then(|| digits.parse().ok()).flatten()
}

/// The version of a checkpoint, of which this may be one of several files.
fn checkpoint_version(name: &str) -> Option<u64> {
    version_of(name.split_once(".checkpoint.")?.0)
}

/// Are all entries there from one version on, up to the newest of all, which may have a checkpoint only?
fn follow(entries: &BTreeSet<u64>, from: u64, newest_checkpoint: Option<u64>) -> bool {
    let newest = entries.last().copied().max(newest_checkpoint).unwrap_or_default();
    (from..=newest).all(|version| entries.contains(&version))
}

/// Reads all rows of a checkpoint, in all of its columns.
fn read_whole(bytes: Bytes) -> Result<(), String> {
    let reader = ParquetRecordBatchReaderBuilder::try_new(bytes).and_then(|b| b.build());
    reader.map_err(|e| e.to_string())?.try_for_each(|batch| batch.map(|_| ()).map_err(|e| e.to_string()))
}

/// How the pointer misleads readers, who begin with the checkpoint that it names or with a later one.
fn misled(pointer: &[u8], newest: Option<u64>) -> Option<String> {
    #[derive(Deserialize)]
    struct Named {
        version: u64,
    }
    match serde_json::from_slice::<Named>(pointer) {
        Err(error) => Some(format!("cannot be read: {error}")),
        Ok(Named { version }) if newest < Some(version) => {
            Some(format!("names the checkpoint of version {version}, which is not there"))
        }
        Ok(_) => None,
    }
}
