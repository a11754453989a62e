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
const SAVED: &str = "states";
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
        if !self.work.put_json_if_absent(&state(saved.number), &saved).await? {
            let theirs: Option<Saved> = self.work.get_hint(&state(saved.number)).await?;
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
        let path = self.folder.join(name);
        let bytes = std::fs::read(&path).map_err(|e| WorkerError::of_io(&path, &e))?;
        self.work.put(&format!("{}/{place}", self.run), bytes.into()).await
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
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use object_store::throttle::{ThrottleConfig, ThrottledStore};

    use super::*;

    const RUN: &str = "checkpoints/x/pretrain/key";

    fn machine(work: &WorkStore) -> (tempfile::TempDir, PathBuf) {
        let scratch = tempfile::tempdir().unwrap();
        let folder = Mirror::new(work, scratch.path(), RUN).folder().to_owned();
        (scratch, folder)
    }

    fn step(folder: &Path, step: &str) {
        durable::write(&folder.join("last/position.json"), step.as_bytes()).unwrap();
    }

    fn at(folder: &Path) -> String {
        std::fs::read_to_string(folder.join("last/position.json")).unwrap()
    }

    /// The same store, where every answer to a request for an object takes so long.
    fn slow(work: &WorkStore, answer: Duration) -> WorkStore {
        let config = ThrottleConfig { wait_get_per_call: answer, ..ThrottleConfig::default() };
        work.clone().over(|store| Arc::new(ThrottledStore::new(store, config)))
    }

    /// What is in a folder, in order.
    fn names_in(folder: &Path) -> Vec<String> {
        let entries = std::fs::read_dir(folder).unwrap();
        let mut names: Vec<String> =
            entries.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned()).collect();
        names.sort_unstable();
        names
    }

    /// Two machines on one run: whoever goes on from an older state loses, and a machine that comes back goes on from
    /// the newest state and not from its own.
    #[tokio::test]
    async fn the_newest_state_of_a_run_counts() {
        let work = WorkStore::in_memory();
        let ((one, here), (other, there)) = (machine(&work), machine(&work));
        let mut first = Mirror::new(&work, one.path(), RUN);
        first.restore().await.unwrap();
        step(&here, "1");
        first.save().await.unwrap();

        let mut second = Mirror::new(&work, other.path(), RUN);
        second.restore().await.unwrap();
        assert_eq!(at(&there), "1");
        step(&there, "2");
        second.save().await.unwrap();

        // the first one was only paused
        step(&here, "old");
        let lost = first.save().await.unwrap_err();
        assert!(lost.exit_code() == 75 && lost.to_string().contains("goes on with it"), "{lost}");
        // it dies and comes back
        let mut again = Mirror::new(&work, one.path(), RUN);
        again.restore().await.unwrap();
        assert_eq!(at(&here), "2");
        step(&here, "3");
        again.save().await.unwrap();
        // what this machine has beyond its last saved state is not thrown away
        step(&here, "4");
        let mut again = Mirror::new(&work, one.path(), RUN);
        again.restore().await.unwrap();
        assert_eq!(at(&here), "4");
        assert!(work.list(&format!("{RUN}/{SAVED}")).await.unwrap().len() <= 2);
    }

    /// Whoever starts a training again asks whether it has saved more, wherever its store lies.
    #[tokio::test]
    async fn what_a_run_has_saved_is_another_text_when_it_is_more() {
        let folder = tempfile::tempdir().unwrap();
        let here = WorkStore::open(&folder.path().display().to_string(), &Default::default()).unwrap();
        for work in [here, WorkStore::in_memory()] {
            let (scratch, run) = machine(&work);
            let saved = async || crate::train::saved(&work, RUN).await.unwrap();
            let mut mirror = Mirror::new(&work, scratch.path(), RUN);
            let mut seen = vec![saved().await];
            for at in ["1", "2"] {
                step(&run, at);
                mirror.save().await.unwrap();
                seen.push(saved().await);
            }
            assert!(seen[0] != seen[1] && seen[1] != seen[2], "{seen:?}");
            // figures of steps that are not saved, the same state once more, and what other runs save are no more
            work.put_json(&format!("{RUN}2/last/position.json"), &7).await.unwrap();
            durable::write(&run.join("curve.csv"), b"7").unwrap();
            step(&run, "2");
            mirror.save().await.unwrap();
            assert_eq!(saved().await, seen[2]);
        }
    }

    /// The number of a state says what the next one is called: it must be the one that its name has.
    #[tokio::test]
    async fn a_state_that_contradicts_its_name_is_refused() {
        let work = WorkStore::in_memory();
        let (scratch, _) = machine(&work);
        let hostile = Saved { number: u64::MAX, ..Saved::default() };
        work.put_json(&format!("{RUN}/{SAVED}/00000001.json"), &hostile).await.unwrap();
        let error = Mirror::new(&work, scratch.path(), RUN).restore().await.unwrap_err();
        assert!(error.exit_code() == 65 && error.to_string().contains("00000001.json"), "{error}");
    }

    /// The files of the state that is being read are gone: another machine has saved the next one, or they are lost.
    #[tokio::test]
    async fn a_state_that_is_overtaken_while_it_is_read_gives_way_to_the_next() {
        let work = WorkStore::in_memory();
        let ((one, here), (other, there)) = (machine(&work), machine(&work));
        let mut first = Mirror::new(&work, one.path(), RUN);
        durable::write(&here.join("best/model"), b"weights").unwrap();
        step(&here, "1");
        first.save().await.unwrap();
        step(&here, "a later 2");
        let distant = slow(&work, Duration::from_millis(40));
        let mut second = Mirror::new(&distant, other.path(), RUN);
        // after the description of the first state and before its last file
        let save = async {
            tokio::time::sleep(Duration::from_millis(60)).await;
            first.save().await
        };
        let (restored, saved) = futures::join!(second.restore(), save);
        saved.unwrap();
        restored.unwrap();
        assert_eq!(at(&there), "a later 2");
        assert_eq!(names_in(there.parent().unwrap()), ["key"], "no draft stays");

        work.delete(&format!("{RUN}/{}", first.saved.files["last/position.json"])).await.unwrap();
        let (third, elsewhere) = machine(&work);
        let error = Mirror::new(&work, third.path(), RUN).restore().await.unwrap_err();
        assert!(matches!(error, WorkerError::Missing { .. }), "{error}");
        assert!(names_in(elsewhere.parent().unwrap()).is_empty(), "no draft stays");
    }

    /// Processes of one machine may need the same result at once.
    #[tokio::test]
    async fn a_result_that_two_processes_bring_is_there_once() {
        let work = WorkStore::in_memory();
        let ((one, here), (other, there)) = (machine(&work), machine(&work));
        durable::write(&here.join("result/model"), b"weights").unwrap();
        Mirror::new(&work, one.path(), RUN).publish("result").await.unwrap();
        let distant = slow(&work, Duration::from_millis(10));
        let (first, second) = (Mirror::new(&distant, other.path(), RUN), Mirror::new(&distant, other.path(), RUN));
        let (first, second) = futures::join!(first.fetch("result"), second.fetch("result"));
        for brought in [first, second] {
            assert_eq!(std::fs::read(brought.unwrap().join("model")).unwrap(), b"weights");
        }
        assert_eq!(names_in(&there), ["result"], "no draft stays");
    }

    /// A copy that was cut off is made again.
    #[tokio::test]
    async fn half_a_copy_is_forgotten() {
        let work = WorkStore::in_memory();
        let ((one, here), (other, there)) = (machine(&work), machine(&work));
        durable::write(&here.join("result/model"), b"weights").unwrap();
        Mirror::new(&work, one.path(), RUN).publish("result").await.unwrap();
        durable::write(&there.join("result/model"), b"wei").unwrap();
        let mirror = Mirror::new(&work, other.path(), RUN);
        assert!(mirror.forget("result").unwrap());
        assert_eq!(std::fs::read(mirror.fetch("result").await.unwrap().join("model")).unwrap(), b"weights");
    }
}
