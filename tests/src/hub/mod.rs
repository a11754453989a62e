//! A stand-in for the hub: the repositories that the shipped specs name, with the files and configurations that are
//! published there, but networks of a few thousand random weights.

mod repositories;
mod vocabularies;

pub use repositories::{PUBLISHED_CLIP, instructblip_of};

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::http::{self, Manner};

/// A hub on loopback.
pub struct Hub {
    /// For `HF_ENDPOINT`.
    pub address: String,
    requests: Arc<AtomicUsize>,
}

impl Hub {
    /// Writes the repositories below a folder, and serves them.
    pub fn start(folder: &Path) -> Hub {
        for (name, write) in repositories::ALL {
            // where the hub has the files of a branch
            let files = folder.join(name).join("resolve/main");
            std::fs::create_dir_all(&files).expect("a folder");
            write(&files);
        }
        let (address, requests) = http::serve(folder.to_owned(), Manner::AfterFaults(0));
        Hub { address: address.trim_end_matches('/').to_owned(), requests }
    }

    /// Writes the files of one of the repositories into a folder, without a hub.
    pub fn write(repository: &str, folder: &Path) {
        std::fs::create_dir_all(folder).expect("a folder");
        let (_, write) = repositories::ALL.iter().find(|(name, _)| *name == repository).expect("a repository");
        write(folder);
    }

    /// Requests until now.
    pub fn requests(&self) -> usize {
        self.requests.load(Ordering::SeqCst)
    }
}
