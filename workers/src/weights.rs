//! Weights that a spec names: found on this machine, or fetched once into a cache, pinned and verified.
//!
//! The first fetch of a source writes its files' SHA-256 to a lock in the work store, by put-if-absent; whoever
//! fetches it later, on whichever machine, must find the same bytes.

mod cache;
mod hub;
mod layout;
mod readable;
mod remote;
mod snapshot;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use manifests::weights::{FilePin, LocalWeights, Weights, WeightsLock, WeightsUse};
use manifests::{BuildSpec, digest, paths};
use serde::Serialize;
use stages::io_fault::IoFault;

use crate::error::WorkerError;
use crate::stores::WorkStore;

use cache::Cache;
use hub::Hub;
use layout::{PROCESSOR, describes_images};
use remote::Remote;

/// Where the weights of a field are to be had.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Origin {
    Local(PathBuf),
    Remote(Box<Remote>),
}

impl Origin {
    fn of(used: &WeightsUse) -> Result<Origin, WorkerError> {
        if let Some(remote) = Remote::parse(used, Hub::from_env()?) {
            return Ok(Origin::Remote(Box::new(remote)));
        }
        let local = Path::new(&used.source);
        if local.exists() {
            return Ok(Origin::Local(local.to_owned()));
        }
        Err(WorkerError::Configuration(format!(
            "{} = {:?}: no such file or folder here, and neither an address (s3://, gs://, az://, https://) nor \
             owner/name of the hub",
            used.field, used.source
        )))
    }
}

/// One line of `urbancross weights`.
#[derive(Debug, Serialize)]
pub struct WeightsLine {
    /// Field of the spec that names them.
    pub field: &'static str,
    /// Address, path or hub name, as the spec has it.
    pub source: String,
    /// `local`, `cached`, `hub cache`, `to fetch`, `missing`.
    pub state: &'static str,
    /// Where the files are, or where they would be looked for.
    pub folder: PathBuf,
    /// Files by name, as far as they are known.
    pub files: BTreeMap<String, FilePin>,
    /// Whether the digests are held by the lock of the work store.
    pub locked: bool,
}

/// What is known of the spec's weights without fetching anything. A file that is not there is for [`fetch`] to refuse:
/// who looks at a plan or a report needs none.
///
/// # Errors
/// [`WorkerError::Broken`] for a lock that cannot be read; a store that does not answer.
pub async fn known(work: &WorkStore, spec: &BuildSpec) -> Result<Weights, WorkerError> {
    let mut weights = Weights::default();
    for used in spec.weights() {
        let found = match Origin::of(&used) {
            Ok(Origin::Local(path)) => local(&used, &path)?,
            Ok(Origin::Remote(_)) | Err(_) => LocalWeights {
                path: None,
                digest: read_lock(work, &used.source).await?.map(|l| l.digest()).unwrap_or_default(),
            },
        };
        weights.insert(used.field, found);
    }
    Ok(weights)
}

/// Brings all weights of the spec to this machine. What is cached is verified against the lock.
///
/// # Errors
/// [`WorkerError::Configuration`] when the content is another than the lock says, or when there is no network: the
/// message says which files to put where. [`WorkerError::Stopped`]; files that are whole stay.
pub async fn fetch(work: &WorkStore, spec: &BuildSpec, stop: &AtomicBool) -> Result<Weights, WorkerError> {
    let mut weights = Weights::default();
    for used in spec.weights() {
        weights.insert(used.field, fetch_named(work, spec, &used, stop).await?);
    }
    Ok(weights)
}

/// Brings weights to this machine that no spec names but a command does. They are pinned as those of a spec are, so that a
/// second look at the same name finds the same bytes.
///
/// # Errors
/// As [`fetch`].
pub async fn fetch_named(
    work: &WorkStore,
    spec: &BuildSpec,
    used: &WeightsUse,
    stop: &AtomicBool,
) -> Result<LocalWeights, WorkerError> {
    let found = match Origin::of(used)? {
        Origin::Local(path) => local(used, &path)?,
        Origin::Remote(remote) => unless_stopped(stop, fetch_one(work, spec, used, &remote)).await?,
    };
    if let Some(path) = &found.path {
        readable(used, path)?;
    }
    Ok(found)
}

/// Gives work up once a stop is asked for, wherever it waits.
async fn unless_stopped<T>(
    stop: &AtomicBool,
    work: impl Future<Output = Result<T, WorkerError>>,
) -> Result<T, WorkerError> {
    const LOOK_EVERY: Duration = Duration::from_millis(50);
    let stopped = async {
        while !stop.load(Ordering::Relaxed) {
            tokio::time::sleep(LOOK_EVERY).await;
        }
    };
    tokio::select! {
        done = work => done,
        () = stopped => Err(WorkerError::Stopped),
    }
}

/// What [`examine`] finds of one field.
pub struct Examined {
    /// In words.
    pub found: String,
    /// Where it lies on this machine; `None`: it is yet to be fetched.
    pub path: Option<PathBuf>,
}

impl Examined {
    fn here(path: PathBuf) -> Examined {
        Examined { found: path.display().to_string(), path: Some(path) }
    }
}

/// Whether the files of each field can be read, as far as they are on this machine. Nothing is fetched.
pub fn examine(spec: &BuildSpec) -> Vec<(&'static str, Result<Examined, WorkerError>)> {
    let one = |used: &WeightsUse| match Origin::of(used)? {
        Origin::Local(path) => readable(used, &path).map(|()| Examined::here(path)),
        Origin::Remote(remote) => {
            // without a look into the work store: what a build would find that begins now
            let folder = remote.kept_in(None);
            if !Cache::is_complete(&folder) {
                return to_fetch(used, &remote, &folder, spec).map(|found| Examined { found, path: None });
            }
            let path = remote.file().map_or_else(|| folder.clone(), |name| folder.join(name));
            readable(used, &path).map(|()| Examined::here(path))
        }
    };
    spec.weights().iter().map(|used| (used.field, one(used))).collect()
}

/// What becomes of weights that are not in the cache.
fn to_fetch(used: &WeightsUse, remote: &Remote, folder: &Path, spec: &BuildSpec) -> Result<String, WorkerError> {
    if let Some(kept) = remote.kept_by_hub(None) {
        return Ok(format!("{}: found in {}; the first run takes it from there", used.source, kept.display()));
    }
    if let Some(why) = remote.offline() {
        if Cache::is_enough(folder, None) {
            return Ok(format!("{}: found in {}; the first run takes it as it is", used.source, folder.display()));
        }
        let earlier = Cache::from_env().folder(&remote.name());
        if Cache::is_complete(&earlier) {
            return Ok(format!(
                "{}: found in {} without its modules; a build that is locked to these files goes on with them, another \
                 needs the hub",
                used.source,
                earlier.display()
            ));
        }
        return Err(unfetched(used, remote, folder, None, WorkerError::Configuration(why)));
    }
    let warning = remote.in_the_open(&spec.weights.options).map_or(String::new(), |warning| format!("; {warning}"));
    Ok(format!("{}: not here yet; the first run fetches it{warning}", used.source))
}

fn readable(used: &WeightsUse, path: &Path) -> Result<(), WorkerError> {
    readable::check(path, used.field == "model.tokenizer").map_err(|e| unread(used, " cannot be read", &e))
}

/// Sorts an error of reading what a field names: a file system that does not answer now is no wrong name.
fn unread(used: &WeightsUse, how: &str, error: &std::io::Error) -> WorkerError {
    let said = format!("{} = {:?}{how}: {error}", used.field, used.source);
    match IoFault::of(error) {
        IoFault::Passing => WorkerError::Transient(said),
        IoFault::DiskFull | IoFault::ForGood => WorkerError::Configuration(said),
    }
}

/// The weights that a spec needs and where they are; reads digests of what is here, fetches nothing.
///
/// # Errors
/// As [`known`].
pub async fn lines(work: &WorkStore, spec: &BuildSpec) -> Result<Vec<WeightsLine>, WorkerError> {
    let mut lines = Vec::new();
    for used in spec.weights() {
        let lock = read_lock(work, &used.source).await?;
        let locked = lock.is_some();
        let (state, folder, files) = match Origin::of(&used) {
            Err(_) => ("missing", PathBuf::from(&used.source), BTreeMap::new()),
            Ok(Origin::Local(path)) => ("local", path.clone(), pins_of(&used, &path)?),
            Ok(Origin::Remote(remote)) => {
                let folder = remote.kept_in(lock.as_ref());
                if Cache::is_complete(&folder) {
                    ("cached", folder.clone(), pins_of(&used, &folder)?)
                } else {
                    let kept = remote.kept_by_hub(lock.as_ref());
                    let state = if kept.is_some() { "hub cache" } else { "to fetch" };
                    (state, kept.unwrap_or(folder), lock.map(|lock| lock.files).unwrap_or_default())
                }
            }
        };
        lines.push(WeightsLine { field: used.field, source: used.source, state, folder, files, locked });
    }
    Ok(lines)
}

fn local(used: &WeightsUse, path: &Path) -> Result<LocalWeights, WorkerError> {
    let files = pins_of(used, path)?;
    let lock = WeightsLock { source: used.source.clone(), files };
    Ok(LocalWeights { path: Some(path.to_owned()), digest: lock.digest() })
}

/// Weights that a command names.
pub const MODEL_OPTION: &str = "--model";
/// The vocabulary of such weights.
pub const TOKENIZER_OPTION: &str = "--tokenizer";

/// A CLIP that judges is read with configuration and vocabulary, which lie beside its file if that is named alone.
const BESIDE: [&str; 8] = [
    "open_clip_config.json",
    "config.json",
    "preprocessor_config.json",
    PROCESSOR,
    "tokenizer.json",
    "vocab.json",
    "merges.txt",
    "bpe_simple_vocab_16e6.txt.gz",
];

/// What is read where a field names `path`.
fn read_for(used: &WeightsUse, path: &Path) -> Vec<PathBuf> {
    let mut read = vec![path.to_owned()];
    if path.is_file() && matches!(used.field, "score.clip" | "caption.score.clip" | MODEL_OPTION) {
        let counts = |beside: &PathBuf| beside.is_file() && (!beside.ends_with(PROCESSOR) || describes_images(beside));
        read.extend(BESIDE.iter().map(|name| path.with_file_name(name)).filter(counts));
    }
    // a vocabulary of OpenAI's is two files
    if matches!(used.field, "model.tokenizer" | TOKENIZER_OPTION) && path.ends_with("vocab.json") {
        read.extend(Some(path.with_file_name("merges.txt")).filter(|merges| merges.is_file()));
    }
    read
}

fn pins_of(used: &WeightsUse, path: &Path) -> Result<BTreeMap<String, FilePin>, WorkerError> {
    let cache = Cache::from_env();
    let pins: std::io::Result<Vec<_>> = read_for(used, path).iter().map(|path| cache.pins(path)).collect();
    pins.map(|pins| pins.into_iter().flatten().collect()).map_err(|e| unread(used, "", &e))
}

async fn fetch_one(
    work: &WorkStore,
    spec: &BuildSpec,
    used: &WeightsUse,
    remote: &Remote,
) -> Result<LocalWeights, WorkerError> {
    let lock = read_lock(work, &used.source).await?;
    let folder = remote.kept_in(lock.as_ref());
    if !Cache::is_complete(&folder)
        && let Err(error) = remote.fetch(&spec.weights.options, &folder, lock.as_ref()).await
        && !Cache::is_enough(&folder, lock.as_ref())
    {
        return Err(unfetched(used, remote, &folder, lock.as_ref(), error));
    }
    let path = remote.file().map_or_else(|| folder.clone(), |name| folder.join(name));
    readable(used, &path)?;
    let found = WeightsLock { source: used.source.clone(), files: pins_of(used, &folder)? };
    let lock_path = paths::weights_lock(&digest::of_bytes(used.source.as_bytes()));
    let lock = match lock {
        Some(lock) => lock,
        None if work.put_json_if_absent(&lock_path, &found).await? => found.clone(),
        None => read_lock(work, &used.source).await?.unwrap_or_else(|| found.clone()),
    };
    if let Some(difference) = lock.difference(&found) {
        return Err(WorkerError::Configuration(format!(
            "{} = {:?} is not what this build was started with: {difference}; if the new files are wanted, delete \
             {}{lock_path}, else delete {} and run again",
            used.field,
            used.source,
            work.url(),
            folder.display()
        )));
    }
    Cache::complete(&folder).map_err(|e| WorkerError::of_io(&folder, &e))?;
    Ok(LocalWeights { path: Some(path), digest: found.digest() })
}

/// Why weights could not be fetched, and what helps; whether another try may is for the error to say.
fn unfetched(
    used: &WeightsUse,
    remote: &Remote,
    folder: &Path,
    lock: Option<&WeightsLock>,
    error: WorkerError,
) -> WorkerError {
    let (why, may_pass) = match error {
        WorkerError::Transient(why) | WorkerError::Outdated(why) => (why, true),
        full @ WorkerError::DiskFull(..) => return full,
        other => (other.to_string(), false),
    };
    let names = match (lock, remote.file()) {
        (Some(lock), _) => lock.files.keys().cloned().collect::<Vec<_>>().join(", "),
        (None, Some(file)) => file.to_owned(),
        (None, None) if remote.is_encoder => {
            "config.json, the .safetensors files, tokenizer.json and modules.json with the folders that it names".into()
        }
        (None, None) => "config.json, the .safetensors files (with their index) and tokenizer.json".into(),
    };
    let words = format!(
        "{} = {:?} cannot be fetched: {why}. Without a network put {names} into {}, or set {} to a folder that has \
         them; where the hub's own tools have fetched all of it, HF_HUB_OFFLINE=1 says so",
        used.field,
        used.source,
        folder.display(),
        used.field
    );
    if may_pass { WorkerError::Transient(words) } else { WorkerError::Configuration(words) }
}

async fn read_lock(work: &WorkStore, source: &str) -> Result<Option<WeightsLock>, WorkerError> {
    work.get_json(&paths::weights_lock(&digest::of_bytes(source.as_bytes()))).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_fetch_that_waits_hears_a_stop() {
        let waits = std::future::pending::<Result<(), WorkerError>>();
        let ended = unless_stopped(&AtomicBool::new(true), waits).await;
        assert!(matches!(ended, Err(WorkerError::Stopped)), "{ended:?}");
        unless_stopped(&AtomicBool::new(false), async { Ok(()) }).await.unwrap();
    }

    #[test]
    fn a_file_that_is_not_read_now_is_no_wrong_name() {
        let used = WeightsUse { field: "model.init", source: "w.safetensors".into() };
        let of = |error: std::io::Error| unread(&used, "", &error);
        // EIO ETIMEDOUT ESTALE
        for code in [5, 110, 116] {
            let error = of(std::io::Error::from_raw_os_error(code));
            assert!(error.exit_code() == 75 && error.to_string().starts_with("model.init = "), "{error}");
        }
        for kind in [std::io::ErrorKind::NotFound, std::io::ErrorKind::PermissionDenied] {
            assert_eq!(of(kind.into()).exit_code(), 65);
        }
    }

    #[test]
    fn a_judge_named_by_its_file_is_also_what_lies_beside_it() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["w.safetensors", "config.json", "processor_config.json", "tokenizer.json", "notes.txt"] {
            std::fs::write(folder.path().join(name), name).unwrap();
        }
        let file = folder.path().join("w.safetensors");
        let read = |field, path: &Path| -> Vec<PathBuf> {
            let used = WeightsUse { field, source: String::new() };
            let read = read_for(&used, path);
            read.iter().map(|read| read.strip_prefix(folder.path()).unwrap().to_owned()).collect()
        };
        for field in ["score.clip", "caption.score.clip", MODEL_OPTION] {
            let beside = ["w.safetensors", "config.json", "processor_config.json", "tokenizer.json"];
            assert_eq!(read(field, &file), beside.map(PathBuf::from));
            assert_eq!(read(field, folder.path()), [PathBuf::new()]);
        }
        let processor = |text: &str| std::fs::write(file.with_file_name(PROCESSOR), text).unwrap();
        processor(r#"{"processor_class": "LlavaProcessor"}"#);
        assert_eq!(read("score.clip", &file), ["w.safetensors", "config.json", "tokenizer.json"].map(PathBuf::from));
        processor(r#"{"image_processor": {"resample": 3}}"#);
        assert_eq!(read("score.clip", &file).len(), 4);
        assert_eq!(read("model.init", &file), [PathBuf::from("w.safetensors")]);
    }

    #[test]
    fn a_vocabulary_is_its_merges_too() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["vocab.json", "tokenizer.json", "merges.txt"] {
            std::fs::write(folder.path().join(name), name).unwrap();
        }
        for field in ["model.tokenizer", TOKENIZER_OPTION] {
            let read = |name: &str| {
                let path = folder.path().join(name);
                read_for(&WeightsUse { field, source: String::new() }, &path)
            };
            let of = |names: &[&str]| names.iter().map(|name| folder.path().join(name)).collect::<Vec<_>>();
            assert_eq!(read("vocab.json"), of(&["vocab.json", "merges.txt"]));
            assert_eq!(read("tokenizer.json"), of(&["tokenizer.json"]), "it has its merges itself");
        }
    }
}
