//! Weights in a store or on the hub.

use std::io::Write;
use std::path::{Path, PathBuf};

use futures::TryStreamExt;
use manifests::spec::StoreOptions;
use manifests::weights::{ENDINGS, TEXTS, WeightsLock, WeightsUse, hub_name, is_plain};
use url::Url;

use super::cache::{Cache, names};
use super::hub::{Hub, is_open};
use super::layout::{
    DESCRIPTIONS, INDEX, MAX_FILES, MODULES, PROCESSOR, WEIGHTS, describes_images, module_files, shards,
};
use super::snapshot::Snapshot;
use crate::error::WorkerError;
use crate::stores::SourceStore;

/// A folder or a single file elsewhere.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Remote {
    /// Address of the folder.
    folder: String,
    /// The one file that is wanted; all of the folder's without it.
    file: Option<String>,
    /// Name and revision, if the hub was asked for by name.
    repository: Option<(String, String)>,
    /// Whether a sentence encoder is wanted, which may list modules.
    pub(super) is_encoder: bool,
    hub: Hub,
}

impl Remote {
    /// An address with a scheme, or `owner/name[@revision]` on the hub; `None`: neither.
    pub(super) fn parse(used: &WeightsUse, hub: Hub) -> Option<Remote> {
        let (source, is_encoder) = (used.source.as_str(), used.field == "text_retrieval.encoder");
        if source.contains("://") {
            let trimmed = source.trim_end_matches('/');
            let (folder, file) = match trimmed.rsplit_once('/') {
                Some((folder, name)) if ENDINGS.iter().chain([&TEXTS]).any(|e| name.ends_with(e)) && is_plain(name) => {
                    (folder, Some(name.to_owned()))
                }
                _ => (trimmed, None),
            };
            return Some(Remote { folder: folder.to_owned(), file, repository: None, is_encoder, hub });
        }
        let (repository, revision) = hub_name(source)?;
        let folder = format!("{}/resolve/{revision}", hub.page(repository));
        let repository = Some((repository.to_owned(), revision.to_owned()));
        Some(Remote { folder, file: None, repository, is_encoder, hub })
    }

    /// What tells this source from others.
    pub(super) fn name(&self) -> String {
        match &self.file {
            Some(file) => format!("{}/{file}", self.folder),
            None => self.folder.clone(),
        }
    }

    pub(super) fn file(&self) -> Option<&str> {
        self.file.as_deref()
    }

    /// Its folder in the cache. Earlier versions fetched encoders without their modules: a build that is locked to such
    /// files goes on with them where they lie, and no other finds them there.
    pub(super) fn kept_in(&self, lock: Option<&WeightsLock>) -> PathBuf {
        let cache = Cache::from_env();
        let without = cache.folder(&self.name());
        if !self.is_encoder || self.file.is_some() {
            return without;
        }
        let with = cache.folder(&format!("{} with modules", self.name()));
        let has_list = |folder: &Path| folder.join(MODULES).is_file();
        let is_with = match lock {
            // a plain BERT has none: its lock may be of what was fetched where they would be
            Some(lock) => lock.files.contains_key(MODULES) || cache.pins(&with).is_ok_and(|pins| pins == lock.files),
            // who may not ask the hub takes a Transformer alone, which is not all of it for those who may
            None => has_list(&with) || self.kept_by_hub(None).is_none_or(|kept| has_list(&kept)),
        };
        if is_with { with } else { without }
    }

    /// What the hub's own tools have of it on this machine; nothing if it is another than the lock says.
    fn snapshot(&self, lock: Option<&WeightsLock>) -> Result<Option<Snapshot>, WorkerError> {
        let snapshot = self.repository.as_ref().and_then(|(name, revision)| self.hub.snapshot(name, revision));
        match (&snapshot, lock) {
            (Some(found), Some(lock)) if !found.is_of(lock, &Cache::from_env())? => Ok(None),
            _ => Ok(snapshot),
        }
    }

    /// The folder of the hub's own tools that has all of it.
    pub(super) fn kept_by_hub(&self, lock: Option<&WeightsLock>) -> Option<PathBuf> {
        let (name, revision) = self.repository.as_ref()?;
        self.hub.snapshot(name, revision).filter(|kept| self.is_all(kept, lock)).map(|kept| kept.folder)
    }

    /// Whether a snapshot is all of it. Where the hub may not be asked, any weights are, whatever lies beside them, unless
    /// a lock names more.
    fn is_all(&self, snapshot: &Snapshot, lock: Option<&WeightsLock>) -> bool {
        // who loads an encoder's Transformer alone fetches no list of modules
        let is_listed = lock.is_some() || !self.is_encoder || snapshot.has(MODULES);
        (is_listed && snapshot.suffices(lock))
            || (lock.is_none() && self.offline().is_some() && snapshot.weights().is_some())
    }

    /// Why the network may not be asked for it; `None`: it may.
    pub(super) fn offline(&self) -> Option<String> {
        if !self.hub.offline || !self.hub.is_at(&self.folder) {
            return None;
        }
        let kept = self.repository.as_ref().and_then(|(name, _)| self.hub.cached(name));
        let kept =
            kept.map_or(String::new(), |kept| format!(", and {} does not hold what this build needs", kept.display()));
        Some(format!("HF_HUB_OFFLINE is set{kept}"))
    }

    /// A word of warning where others could put their own bytes in the place of these.
    pub(super) fn in_the_open(&self, options: &StoreOptions) -> Option<String> {
        let is_web = self.folder.starts_with("http://") || self.folder.starts_with("https://");
        let address = if is_web { &self.folder } else { &options.endpoint };
        let open = Url::parse(address).ok().filter(is_open)?;
        Some(format!(
            "{open} is plain http: anyone on the network path can send other weights, and the first that arrive are \
             kept; use https, or compare their digests (`urbancross weights`)"
        ))
    }

    /// Brings the files into `folder`, those that a lock names, if there is one: from the hub's cache on this machine, or
    /// over the network.
    pub(super) async fn fetch(
        &self,
        options: &StoreOptions,
        folder: &Path,
        lock: Option<&WeightsLock>,
    ) -> Result<(), WorkerError> {
        std::fs::create_dir_all(folder).map_err(|e| WorkerError::of_io(folder, &e))?;
        let mut address = self.folder.clone();
        if let Some(snapshot) = self.snapshot(lock)? {
            snapshot.link_into(folder, lock)?;
            if self.is_all(&snapshot, lock) {
                return Ok(());
            }
            if let Some((repository, _)) = &self.repository {
                // the rest of the same commit, whatever the branch is by now
                address = format!("{}/resolve/{}", self.hub.page(repository), snapshot.commit);
            }
        }
        if let Some(why) = self.offline() {
            return Err(WorkerError::Configuration(why));
        }
        if let Some(warning) = self.in_the_open(options) {
            tracing::warn!("{warning}");
        }
        // what lies here by the hub's own tools is not all of it
        for name in names(folder).map_err(|e| WorkerError::of_io(folder, &e))? {
            let file = folder.join(&name);
            if std::fs::symlink_metadata(&file).is_ok_and(|meta| meta.is_symlink()) {
                Cache::note_fetched(folder, &name, &file).map_err(|e| WorkerError::of_io(folder, &e))?;
            }
        }
        let token = self.hub.token_for(&address)?;
        let store = SourceStore::open_as(&address, options, token.as_ref().map(|token| token.header.clone()))?;
        match self.copy_all(&store, folder, lock).await {
            Err(WorkerError::Refused(_)) if self.hub.is_at(&address) => {
                let name = self.repository.as_ref().map_or(self.folder.as_str(), |(name, _)| name);
                let page = self.repository.as_ref().map_or(self.folder.clone(), |(name, _)| self.hub.page(name));
                Err(WorkerError::Refused(self.hub.lesson(name, &page, token.as_ref())))
            }
            Ok(()) => Cache::end_fetching(folder).map_err(|e| WorkerError::of_io(folder, &e)),
            failed => failed,
        }
    }

    async fn copy_all(
        &self,
        store: &SourceStore,
        folder: &Path,
        lock: Option<&WeightsLock>,
    ) -> Result<(), WorkerError> {
        if let Some(file) = &self.file {
            return copied(store, file, folder).await.and_then(|found| required(found, file, &self.folder));
        }
        if let Some(lock) = lock {
            for name in lock.files.keys().filter(|name| name.split('/').all(is_plain)) {
                required(copied(store, name, folder).await?, name, &self.folder)?;
            }
            return Ok(());
        }
        if !matches!(store.url().scheme(), "http" | "https") {
            let names = store.list("").await?.into_iter().filter(|n| n.split('/').count() <= 2);
            let wanted: Vec<_> = names.filter(|n| ENDINGS.iter().any(|e| n.ends_with(e))).collect();
            if wanted.len() > MAX_FILES {
                return Err(WorkerError::Configuration(format!(
                    "{} has {} files: name the folder of one network",
                    self.folder,
                    wanted.len()
                )));
            }
            for name in &wanted {
                required(copied(store, name, folder).await?, name, &self.folder)?;
            }
            return required(!wanted.is_empty(), "config.json", &self.folder);
        }
        for name in DESCRIPTIONS {
            copied(store, name, folder).await?;
        }
        let processor = folder.join(PROCESSOR);
        if processor.is_file() && !describes_images(&processor) {
            // nothing of it is read, and with it these would be other weights than without
            std::fs::remove_file(&processor).map_err(|e| WorkerError::of_io(&processor, &e))?;
        }
        if folder.join(MODULES).is_file() {
            for names in module_files(&folder.join(MODULES))? {
                let mut is_there = false;
                for name in &names {
                    is_there = is_there || copied(store, name, folder).await?;
                }
                required(is_there, &names.join(" or "), &self.folder)?;
            }
        }
        for name in WEIGHTS {
            if !copied(store, name, folder).await? {
                continue;
            }
            if name == INDEX {
                for shard in shards(&folder.join(INDEX))? {
                    required(copied(store, &shard, folder).await?, &shard, &self.folder)?;
                }
            }
            return Ok(());
        }
        required(false, WEIGHTS[1], &self.folder)
    }
}

fn required(found: bool, name: &str, folder: &str) -> Result<(), WorkerError> {
    match found {
        true => Ok(()),
        false => Err(WorkerError::Configuration(format!("{folder} has no {name}"))),
    }
}

/// Streams one file; `false`: the store does not have it. What is here already is not fetched again.
async fn copied(store: &SourceStore, name: &str, folder: &Path) -> Result<bool, WorkerError> {
    let target = folder.join(name);
    if target.exists() {
        return Ok(true);
    }
    let Some(mut stream) = store.stream(name).await? else { return Ok(false) };
    let parent = target.parent().unwrap_or(folder);
    std::fs::create_dir_all(parent).map_err(|e| WorkerError::of_io(parent, &e))?;
    let draft = Draft(parent.join(format!(".{}", crate::attempt::id())));
    let failed = |e: std::io::Error| WorkerError::of_io(&draft.0, &e);
    // blocking writes of one chunk each go to the page cache, and nothing else runs during a fetch
    let mut file = std::fs::File::create(&draft.0).map_err(failed)?;
    while let Some(chunk) = stream.try_next().await? {
        file.write_all(&chunk).map_err(failed)?;
    }
    file.sync_all().map_err(failed)?;
    // what came only in part is not there, and a person may put it there
    Cache::note_fetched(folder, name, &draft.0).map_err(|e| WorkerError::of_io(folder, &e))?;
    std::fs::rename(&draft.0, &target).map_err(|e| WorkerError::of_io(&target, &e))?;
    Ok(true)
}

/// A file in the making, which goes when it is given up.
struct Draft(PathBuf);

impl Drop for Draft {
    fn drop(&mut self) {
        // it has another name once it is whole
        _ = std::fs::remove_file(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_and_hub_names_are_told_apart() {
        let parse = |source: &str| {
            let used = WeightsUse { field: "model.init", source: source.into() };
            Remote::parse(&used, Hub::of(&|_| None).unwrap())
        };
        let file = parse("s3://bucket/clip/model.safetensors").unwrap();
        assert_eq!((file.folder.as_str(), file.file()), ("s3://bucket/clip", Some("model.safetensors")));
        let folder = parse("gs://bucket/clip/").unwrap();
        assert_eq!((folder.folder.as_str(), folder.file()), ("gs://bucket/clip", None));
        let hub = parse("openai/clip-vit-base-patch32@v1").unwrap();
        assert_eq!(hub.folder, "https://huggingface.co/openai/clip-vit-base-patch32/resolve/v1");
        for neither in ["weights", "../up/x", "a/b/c", "/absent/file", "a/..", "a/b@../x"] {
            assert_eq!(parse(neither), None, "{neither}");
        }
    }

    #[tokio::test]
    async fn what_is_given_up_in_its_middle_leaves_nothing() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("http://{}/", listener.local_addr().unwrap());
        std::thread::spawn(move || {
            // the rest never comes, and the connection stays
            let begun = listener.incoming().flatten().map(|mut stream| {
                _ = std::io::Read::read(&mut stream, &mut [0; 4096]);
                stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nbegun").unwrap();
                stream
            });
            begun.collect::<Vec<_>>()
        });
        let store = SourceStore::open(&address, &StoreOptions::default()).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let held = || std::fs::read_dir(folder.path()).unwrap().count();
        let begun = async {
            while held() == 0 {
                tokio::time::sleep(std::time::Duration::from_millis(5)).await;
            }
        };
        tokio::select! {
            copied = copied(&store, "w.bin", folder.path()) => panic!("{copied:?}"),
            () = begun => {}
        }
        assert_eq!(held(), 0);
    }

    #[test]
    fn weights_in_the_open_are_warned_of() {
        let warned = |source: &str, endpoint: &str| {
            let options = StoreOptions { endpoint: endpoint.into(), ..StoreOptions::default() };
            let used = WeightsUse { field: "model.init", source: source.into() };
            let remote = Remote::parse(&used, Hub::of(&|_| None).unwrap()).unwrap();
            remote.in_the_open(&options).is_some_and(|warning| warning.contains("plain http"))
        };
        assert!(warned("http://models.example/clip", "") && warned("http://10.0.0.1/w.pt", ""));
        assert!(warned("s3://bucket/clip", "http://minio.example:9000"));
        assert!(
            !warned("https://models.example/clip", "http://minio.example")
                && !warned("s3://bucket/clip", "https://minio.example")
        );
        for here in ["http://127.0.0.1:8080/clip", "http://localhost/clip", "http://[::1]/clip"] {
            assert!(!warned(here, ""), "{here}");
        }
    }

    #[test]
    fn an_index_cannot_lead_elsewhere() {
        let folder = tempfile::tempdir().unwrap();
        let index = folder.path().join(INDEX);
        std::fs::write(&index, r#"{"weight_map": {"a": "model-1.safetensors", "b": "model-1.safetensors"}}"#).unwrap();
        assert_eq!(shards(&index).unwrap().len(), 1);
        std::fs::write(&index, r#"{"weight_map": {"a": "../../etc/passwd"}}"#).unwrap();
        assert!(shards(&index).unwrap_err().to_string().contains("not beside it"));
    }

    #[test]
    fn modules_cannot_lead_elsewhere() {
        let folder = tempfile::tempdir().unwrap();
        let list = folder.path().join(MODULES);
        let files = |text: &str| {
            std::fs::write(&list, text).unwrap();
            module_files(&list).map_err(|e| e.to_string())
        };
        let plain = r#"[{"path": "", "type": "a.Transformer"}, {"path": "1_Pooling", "type": "a.b.Pooling"},
                        {"path": "2_Dense", "type": "Dense"}, {"path": "3_Normalize", "type": "a.Normalize"}]"#;
        let weights = vec!["2_Dense/model.safetensors".to_owned(), "2_Dense/pytorch_model.bin".to_owned()];
        let configs = ["1_Pooling/config.json", "2_Dense/config.json"].map(|name| vec![name.to_owned()]);
        assert_eq!(files(plain).unwrap(), [&configs[..], &[weights]].concat());
        for path in ["..", "../a", "/etc", "a/b", ".hidden"] {
            let why = files(&format!(r#"[{{"path": {path:?}, "type": "Dense"}}]"#)).unwrap_err();
            assert!(why.contains("not beside it"), "{path}: {why}");
        }
        let many = vec![r#"{"path": "a", "type": "Dense"}"#; 17].join(",");
        assert!(files(&format!("[{many}]")).unwrap_err().contains("17 modules"));
        assert!(files("{").unwrap_err().contains(MODULES));
    }
}
