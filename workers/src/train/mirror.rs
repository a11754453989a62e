//! A run's folder on this machine, and its copy in a work store that lies elsewhere.
//!
//! A saved state is complete or not there: files go to places of their own, then one small object names them all.
//! Whoever continues the run reads that object.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use crate::error::WorkerError;
use crate::stores::WorkStore;

const SAVED: &str = "saved.json";

/// The state of a run in the store: where each file of its folder lies.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Saved {
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

    /// Whether there is a state to go on from, here or in the store.
    pub(super) async fn is_begun(&self) -> Result<bool, WorkerError> {
        Ok(self.folder.join("last").is_dir()
            || self.is_elsewhere() && self.work.head(&format!("{}/{SAVED}", self.run)).await?.is_some())
    }

    /// Brings the saved state of an unfinished run of another machine here.
    pub(super) async fn restore(&mut self) -> Result<(), WorkerError> {
        if !self.is_elsewhere() || self.folder.exists() {
            return Ok(());
        }
        let Some(saved) = self.work.get_json::<Saved>(&format!("{}/{SAVED}", self.run)).await? else { return Ok(()) };
        // into a folder beside it first: half a state must not be taken for one
        let draft = self.folder.with_extension(crate::parts::attempt_id());
        for (name, place) in &saved.files {
            self.download(place, &draft, name).await?;
        }
        std::fs::rename(&draft, &self.folder).map_err(|e| WorkerError::of_io(&self.folder, &e))?;
        self.saved = saved;
        Ok(())
    }

    /// Copies the folder as it is now.
    pub(super) async fn save(&mut self) -> Result<(), WorkerError> {
        if !self.is_elsewhere() {
            return Ok(());
        }
        let attempt = crate::parts::attempt_id();
        let (mut saved, mut seen) = (Saved::default(), BTreeMap::new());
        for (name, stamp) in files(&self.folder).map_err(|e| WorkerError::of_io(&self.folder, &e))? {
            // second names of checkpoints that were sent when they were the last
            if name.starts_with("earlier/") {
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
        self.work.put_json(&format!("{}/{SAVED}", self.run), &saved).await?;
        let before = std::mem::replace(&mut self.saved, saved);
        self.seen = seen;
        for place in before.files.values().filter(|place| !self.saved.files.values().any(|p| p == *place)) {
            self.work.delete(&format!("{}/{place}", self.run)).await?;
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
            let draft = target.with_extension(crate::parts::attempt_id());
            let names = self.work.list(&format!("{}/{subfolder}", self.run)).await?;
            for name in &names {
                self.download(&format!("{subfolder}/{name}"), &draft, name).await?;
            }
            if !names.is_empty() {
                std::fs::rename(&draft, &target).map_err(|e| WorkerError::of_io(&target, &e))?;
            }
        }
        Ok(target)
    }

    async fn upload(&self, name: &str, place: &str) -> Result<(), WorkerError> {
        let path = self.folder.join(name);
        let bytes = std::fs::read(&path).map_err(|e| WorkerError::of_io(&path, &e))?;
        self.work.put(&format!("{}/{place}", self.run), bytes.into()).await
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
        let written = target.parent().map_or(Ok(()), std::fs::create_dir_all);
        written.and_then(|()| std::fs::write(&target, &bytes)).map_err(|e| WorkerError::of_io(&target, &e))
    }
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
