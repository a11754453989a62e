//! Files of a repository that the hub's own tools keep on this machine: used where they lie.

use std::path::{Path, PathBuf};

use manifests::weights::{WeightsLock, is_plain};

use super::cache::Cache;
use super::layout::{
    DESCRIPTIONS, INDEX, MODULES, PROCESSOR, WEIGHTS, describes_images, has_modules, module_files, shards,
};
use crate::error::WorkerError;

/// One revision of a repository in the hub's cache.
pub(super) struct Snapshot {
    pub(super) folder: PathBuf,
    /// What the revision was when it was fetched.
    pub(super) commit: String,
}

impl Snapshot {
    pub(super) fn has(&self, name: &str) -> bool {
        self.folder.join(name).is_file()
    }

    /// The files with the weights, if all of them are there.
    pub(super) fn weights(&self) -> Option<Vec<String>> {
        let first = *WEIGHTS.iter().find(|name| self.has(name))?;
        let parts = if first == INDEX { shards(&self.folder.join(INDEX)).ok()? } else { Default::default() };
        let all: Vec<String> = [first.to_owned()].into_iter().chain(parts).collect();
        all.iter().all(|name| self.has(name)).then_some(all)
    }

    /// The files of its modules that are there, if it lists any.
    fn modules(&self) -> impl Iterator<Item = String> {
        let files = module_files(&self.folder.join(MODULES)).unwrap_or_default();
        files.into_iter().filter_map(move |names| names.into_iter().find(|name| self.has(name)))
    }

    /// The files to use: of a lock's those that are there, or what a fetch would bring.
    fn names(&self, lock: Option<&WeightsLock>) -> Vec<String> {
        match lock {
            Some(lock) => {
                let names = lock.files.keys().filter(|name| name.split('/').all(is_plain) && self.has(name));
                names.cloned().collect()
            }
            None => {
                let counts = |name: &str| name != PROCESSOR || describes_images(&self.folder.join(name));
                let described = DESCRIPTIONS.iter().filter(|name| self.has(name) && counts(name));
                let described = described.map(|name| (*name).to_owned());
                described.chain(self.modules()).chain(self.weights().into_iter().flatten()).collect()
            }
        }
    }

    /// Whether nothing needs to be asked of the hub: a lock's files, or weights with what describes them, a vocabulary
    /// and the modules that it lists. Tools fetch files one by one, so that any may be missing.
    pub(super) fn suffices(&self, lock: Option<&WeightsLock>) -> bool {
        let any = |names: &[&str]| names.iter().any(|name| self.has(name));
        match lock {
            Some(lock) => self.names(Some(lock)).len() == lock.files.len(),
            None => {
                any(&["config.json", "open_clip_config.json"])
                    && any(&["tokenizer.json", "vocab.json", "vocab.txt"])
                    && self.weights().is_some()
                    && (!self.has(MODULES) || has_modules(&self.folder))
            }
        }
    }

    /// Whether the files are those of the lock, as far as they are there: a branch may have moved since.
    pub(super) fn is_of(&self, lock: &WeightsLock, cache: &Cache) -> Result<bool, WorkerError> {
        for name in self.names(Some(lock)) {
            let path = self.folder.join(&name);
            let found = cache.pin(&path).map_err(|e| WorkerError::of_io(&path, &e))?;
            if lock.files.get(&name) != Some(&found) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Puts the files into a folder, as links: weights are large.
    pub(super) fn link_into(&self, folder: &Path, lock: Option<&WeightsLock>) -> Result<(), WorkerError> {
        for name in self.names(lock) {
            let target = folder.join(&name);
            if target.exists() {
                continue;
            }
            let parent = target.parent().unwrap_or(folder);
            let linked = std::fs::create_dir_all(parent).and_then(|()| {
                let draft = parent.join(format!(".{}", crate::attempt::id()));
                link(&std::fs::canonicalize(self.folder.join(&name))?, &draft)?;
                std::fs::rename(&draft, &target)
            });
            linked.map_err(|e| WorkerError::of_io(&target, &e))?;
        }
        Ok(())
    }
}

#[cfg(unix)]
fn link(file: &Path, at: &Path) -> std::io::Result<()> {
    std::os::unix::fs::symlink(file, at)
}

#[cfg(not(unix))]
fn link(file: &Path, at: &Path) -> std::io::Result<()> {
    std::fs::copy(file, at).map(|_| ())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_snapshot_suffices_when_nothing_of_it_is_missing() {
        let folder = tempfile::tempdir().unwrap();
        let snapshot = Snapshot { folder: folder.path().to_owned(), commit: "abc".into() };
        let put = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
        put("config.json", "{}");
        put(INDEX, r#"{"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}"#);
        put("model-1.safetensors", "1");
        put("vocab.json", "{}");
        put("pytorch_model.bin", "not ours");
        assert!(!snapshot.suffices(None), "a part of the weights is missing");
        assert_eq!(snapshot.names(None), ["config.json", "vocab.json"]);
        put("model-2.safetensors", "2");
        assert!(snapshot.suffices(None));
        std::fs::remove_file(folder.path().join("vocab.json")).unwrap();
        assert!(!snapshot.suffices(None), "a vocabulary is missing");
        put("vocab.txt", "[PAD]");
        put(PROCESSOR, r#"{"processor_class": "LlavaProcessor"}"#);
        assert!(snapshot.suffices(None) && !snapshot.names(None).contains(&PROCESSOR.to_owned()));
        put(PROCESSOR, r#"{"image_processor": {"resample": 3}}"#);
        assert!(snapshot.names(None).contains(&PROCESSOR.to_owned()));
        put(MODULES, r#"[{"path": "", "type": "st.Transformer"}, {"path": "2_Dense", "type": "st.models.Dense"}]"#);
        std::fs::create_dir(folder.path().join("2_Dense")).unwrap();
        put("2_Dense/config.json", "{}");
        assert!(!snapshot.suffices(None), "the weights of a module are missing");
        put("2_Dense/pytorch_model.bin", "m");
        assert!(snapshot.suffices(None));
        let names = snapshot.names(None);
        assert!(["2_Dense/config.json", "2_Dense/pytorch_model.bin"].iter().all(|of| names.contains(&(*of).into())));

        let cache = Cache::at(folder.path().join("cache"));
        let files = ["config.json", "model-1.safetensors"];
        let files = files.map(|name| (name.to_owned(), cache.pin(&folder.path().join(name)).unwrap()));
        let lock = WeightsLock { source: "o/n".into(), files: files.into() };
        assert!(snapshot.suffices(Some(&lock)) && snapshot.is_of(&lock, &cache).unwrap());
        put("config.json", "{ }");
        assert!(!snapshot.is_of(&lock, &cache).unwrap(), "the branch has moved");
    }
}
