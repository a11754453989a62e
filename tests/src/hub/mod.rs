//! A stand-in for the hub: the repositories that the shipped specs name, with the files and configurations that are
//! published there, but networks of a few thousand random weights.

mod repositories;
mod vocabularies;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::http::{self, Manner};

/// Sizes of the networks of a hub.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Widths {
    /// Configurations and weights of small networks, which run.
    Narrow,
    /// The configurations as they are published, with weights that nothing could be made of: for looking only.
    Published,
}

/// A hub on loopback.
pub struct Hub {
    /// For `HF_ENDPOINT`.
    pub address: String,
    requests: Arc<AtomicUsize>,
    folder: PathBuf,
}

impl Hub {
    /// Writes the repositories below a folder, and serves them.
    pub fn start(folder: &Path, widths: Widths) -> Hub {
        for (name, write) in repositories::ALL {
            let files = files_of(folder, name);
            std::fs::create_dir_all(&files).expect("a folder");
            write(&files, widths);
        }
        let (address, requests) = http::serve(folder.to_owned(), Manner::AfterFaults(0));
        Hub { address: address.trim_end_matches('/').to_owned(), requests, folder: folder.to_owned() }
    }

    /// Requests until now.
    pub fn requests(&self) -> usize {
        self.requests.load(Ordering::SeqCst)
    }

    /// Folder of the files of a repository.
    pub fn files(&self, repository: &str) -> PathBuf {
        files_of(&self.folder, repository)
    }
}

/// Where the hub has the files of a branch.
fn files_of(folder: &Path, repository: &str) -> PathBuf {
    folder.join(repository).join("resolve/main")
}
