//! A run's folder on this machine, and its copy in a work store that lies elsewhere.
//!
//! A saved state is complete or not there: files go to places of their own, then one small object names them all.
//! Whoever continues the run reads that object.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use crate::durable;
use crate::error::WorkerError;
use crate::process::name_of_process;
use crate::stores::WorkStore;

/// Folder of the saved states' descriptions, numbered: the last one counts.
pub(crate) const SAVED: &str = "states";
/// Names the state that a folder on this machine goes on from.
const SEEN_FILE: &str = "seen-state.json";

/// The state of a run in the store: where each file of its folder lies.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Saved {
    /// Counts the states of the run. The next one is put if absent: of two that go on from one state, one loses.
    number: u64,
    /// Who saved it.
    by: String,
    /// Path in the run's folder to path below the run in the store.
    files: BTreeMap<String, String>,
}

pub(super) struct Mirror<'a> {
    work: &'a WorkStore,
    run: String,
    folder: PathBuf,
    saved: Saved,
    /// Size and time of each file as it was saved: what has not changed is not sent again.
    seen: BTreeMap<String, (u64, SystemTime)>,
}

impl<'a> Mirror<'a> {
    /// In a work store on this machine the run's folder is in the store itself, and nothing is copied.
    pub(super) fn new(work: &'a WorkStore, scratch: &Path, run: &str) -> Self {
        let folder = work.local_folder().unwrap_or_else(|| scratch.to_owned()).join(run);
        Self { work, run: run.to_owned(), folder, saved: Saved::default(), seen: BTreeMap::new() }
    }

    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    fn is_elsewhere(&self) -> bool {
        self.work.local_folder().is_none()
    }

    /// Brings the newest saved state of an unfinished run here, unless this machine's own folder goes on from it.
    pub(super) async fn restore(&mut self) -> Result<(), WorkerError> {
        if !self.is_elsewhere() {
            return Ok(());
        }
        let mut newest = self.newest().await?;
        while let Some(name) = newest {
            match self.restore_state(&name).await {
                // whoever saves the next state deletes what this one alone names
                Err(error @ WorkerError::Missing { .. }) => {
                    newest = self.newest().await?;
                    if newest.as_ref() <= Some(&name) {
                        return Err(error);
                    }
                }
                restored => return restored,
            }
        }
        Ok(())
    }

    /// Name of the newest saved state's description.
    async fn newest(&self) -> Result<Option<String>, WorkerError> {
        Ok(self.work.list(&format!("{}/{SAVED}", self.run)).await?.pop())
    }

    async fn restore_state(&mut self, name: &str) -> Result<(), WorkerError> {
        let path = format!("{}/{SAVED}/{name}", self.run);
        let saved: Saved = self.work.get_json(&path).await?.ok_or(WorkerError::Missing {
            what: "description of a training's saved state",
            path: format!("{}{path}", self.work.url()),
        })?;
        // it says what the next one is called
        if name != state_name(saved.number) {
            return Err(WorkerError::Broken(format!(
                "{}{path} says that it is number {}: bring it back from a copy, or delete it",
                self.work.url(),
                saved.number
            )));
        }
        if self.folder.exists() && self.here().is_some_and(|number| number >= saved.number) {
            self.saved = saved;
            return Ok(());
        }
        // into a folder beside it first: half a state must not be taken for one
        let draft = self.draft(&self.folder, &saved.files).await?;
        let cleared = if self.folder.exists() { std::fs::remove_dir_all(&self.folder) } else { Ok(()) };
        if let Err(error) = cleared.and_then(|()| std::fs::rename(&draft, &self.folder)) {
            _ = std::fs::remove_dir_all(&draft);
            return Err(WorkerError::of_io(&self.folder, &error));
        }
        self.saved = saved;
        self.remember()
    }

    /// The state that this machine's folder goes on from.
    fn here(&self) -> Option<u64> {
        serde_json::from_slice(&std::fs::read(self.folder.join(SEEN_FILE)).ok()?).ok()
    }

    fn remember(&self) -> Result<(), WorkerError> {
        durable::write(&self.folder.join(SEEN_FILE), self.saved.number.to_string().as_bytes())
    }

    /// Copies the folder as it is now.
    ///
    /// # Errors
    /// [`WorkerError::Conflict`] where another machine went on from the state that this one goes on from.
    pub(super) async fn save(&mut self) -> Result<(), WorkerError> {
        if !self.is_elsewhere() {
            return Ok(());
        }
        let attempt = crate::attempt::id();
        let (mut saved, mut seen) =
            (Saved { number: self.saved.number + 1, by: name_of_process(), ..Saved::default() }, BTreeMap::new());
        for (name, stamp) in files(&self.folder).map_err(|e| WorkerError::of_io(&self.folder, &e))? {
            // second names of checkpoints that were sent when they were the last
            if name.starts_with("earlier/") || name == SEEN_FILE {
                continue;
            }
            let known = self.saved.files.get(&name).filter(|_| self.seen.get(&name) == Some(&stamp));
            let place = match known {
                Some(place) => place.clone(),
                None => {
                    let place = format!("saved/{attempt}/{name}");
                    self.upload(&name, &place).await?;
                    place
                }
            };
            saved.files.insert(name.clone(), place);
            seen.insert(name, stamp);
        }
        let state = |number: u64| format!("{}/{SAVED}/{}", self.run, state_name(number));
        let is_new = self.work.put_json_if_absent(&state(saved.number), &saved).await?;
        // a number is free again where somebody else has gone on so far that its state was cleared away; a store that does
        // not say so now says it at the next save
        let newest = self.newest().await.ok().flatten().unwrap_or_else(|| state_name(saved.number));
        if !is_new || newest != state_name(saved.number) {
            if is_new {
                self.work.delete(&state(saved.number)).await?;
            }
            let theirs: Option<Saved> = self.work.get_hint(&format!("{}/{SAVED}/{newest}", self.run)).await?;
            return Err(WorkerError::Conflict(format!(
                "state {} of the training {} (by {}, which goes on with it)",
                saved.number,
                self.run,
                theirs.map_or("another machine".to_owned(), |t| t.by)
            )));
        }
        let before = std::mem::replace(&mut self.saved, saved);
        self.seen = seen;
        self.remember()?;
        for place in before.files.values().filter(|place| !self.saved.files.values().any(|p| p == *place)) {
            self.work.delete(&format!("{}/{place}", self.run)).await?;
        }
        // the newest two stay: whoever goes on from the last but one must find that it is not the last
        if before.number > 1 {
            self.work.delete(&state(before.number - 1)).await?;
        }
        Ok(())
    }

    /// Copies a subfolder of a finished run to its own place.
    pub(super) async fn publish(&self, subfolder: &str) -> Result<(), WorkerError> {
        if !self.is_elsewhere() {
            return Ok(());
        }
        let names = files(&self.folder.join(subfolder)).map_err(|e| WorkerError::of_io(&self.folder, &e))?;
        for name in names.into_keys() {
            let path = format!("{subfolder}/{name}");
            self.upload(&path, &path).await?;
        }
        Ok(())
    }

    /// A published subfolder, on this machine.
    pub(super) async fn fetch(&self, subfolder: &str) -> Result<PathBuf, WorkerError> {
        let target = self.folder.join(subfolder);
        if self.is_elsewhere() && !target.exists() {
            let names = self.work.list(&format!("{}/{subfolder}", self.run)).await?;
            let files: BTreeMap<String, String> =
                names.into_iter().map(|name| (name.clone(), format!("{subfolder}/{name}"))).collect();
            if files.is_empty() {
                return Ok(target);
            }
            let draft = self.draft(&target, &files).await?;
            if let Err(error) = std::fs::rename(&draft, &target) {
                _ = std::fs::remove_dir_all(&draft);
                // another process of this machine may have brought it meanwhile
                if !target.exists() {
                    return Err(WorkerError::of_io(&target, &error));
                }
            }
        }
        Ok(target)
    }

    /// Drops a subfolder's copy on this machine; `false`: it is the store's own.
    pub(super) fn forget(&self, subfolder: &str) -> Result<bool, WorkerError> {
        let target = self.folder.join(subfolder);
        if self.is_elsewhere() {
            std::fs::remove_dir_all(&target).map_err(|e| WorkerError::of_io(&target, &e))?;
        }
        Ok(self.is_elsewhere())
    }

    async fn upload(&self, name: &str, place: &str) -> Result<(), WorkerError> {
        self.work.put_file(&format!("{}/{place}", self.run), &self.folder.join(name)).await
    }

    /// Brings files, each with its place below the run in the store, to a folder beside the one that they are for.
    async fn draft(&self, target: &Path, files: &BTreeMap<String, String>) -> Result<PathBuf, WorkerError> {
        let draft = target.with_extension(crate::attempt::id());
        for (name, place) in files {
            if let Err(error) = self.download(place, &draft, name).await {
                _ = std::fs::remove_dir_all(&draft);
                return Err(error);
            }
        }
        Ok(draft)
    }

    async fn download(&self, place: &str, folder: &Path, name: &str) -> Result<(), WorkerError> {
        let stored = format!("{}/{place}", self.run);
        let bytes = self.work.get(&stored).await?.ok_or(WorkerError::Missing {
            what: "file of a training's saved state",
            path: format!("{}{stored}", self.work.url()),
        })?;
        if Path::new(name).components().any(|c| !matches!(c, std::path::Component::Normal(_))) {
            return Err(WorkerError::Broken(format!("{stored}: {name:?} leads out of the run's folder")));
        }
        let target = folder.join(name);
        durable::write(&target, &bytes)
    }
}

/// Name of the description of a state, below [`SAVED`].
fn state_name(number: u64) -> String {
    format!("{number:08}.json")
}

/// All files below a folder by relative path, with size and time.
fn files(folder: &Path) -> std::io::Result<BTreeMap<String, (u64, SystemTime)>> {
    let (mut found, mut pending) = (BTreeMap::new(), vec![folder.to_owned()]);
    while let Some(next) = pending.pop() {
        for entry in std::fs::read_dir(&next)? {
            let path = entry?.path();
            if path.is_dir() {
                pending.push(path);
            } else if let Ok(relative) = path.strip_prefix(folder) {
                let meta = std::fs::metadata(&path)?;
                found.insert(relative.to_string_lossy().into_owned(), (meta.len(), meta.modified()?));
            }
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests;
