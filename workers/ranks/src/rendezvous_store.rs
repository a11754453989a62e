//! A place that all ranks can write to and read from, such as an object store.

use std::collections::HashMap;
use std::io::ErrorKind;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use crate::error::{RanksError, Result};

/// A store's own error.
pub type BoardError = Box<dyn std::error::Error + Send + Sync>;

/// Where ranks meet: small objects by key, each written once.
pub trait RendezvousStore {
    /// Puts an object if there is none of this key; `false`: there is one, and it stays.
    ///
    /// # Errors
    /// The store's own.
    fn put_if_absent(&self, key: &str, bytes: &[u8]) -> Result<bool, BoardError>;

    /// The object of a key; `None`: nobody has put one.
    ///
    /// # Errors
    /// The store's own.
    fn get(&self, key: &str) -> Result<Option<Vec<u8>>, BoardError>;
}

pub(crate) fn on_board<T>(key: &str, result: Result<T, BoardError>) -> Result<T> {
    result.map_err(|cause| RanksError::RendezvousStore { key: key.to_owned(), cause })
}

/// Within one process.
#[derive(Debug, Default)]
pub struct MemoryBoard(Mutex<HashMap<String, Vec<u8>>>);

impl RendezvousStore for MemoryBoard {
    fn put_if_absent(&self, key: &str, bytes: &[u8]) -> Result<bool, BoardError> {
        let mut objects = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if objects.contains_key(key) {
            return Ok(false);
        }
        objects.insert(key.to_owned(), bytes.to_vec());
        Ok(true)
    }

    fn get(&self, key: &str) -> Result<Option<Vec<u8>>, BoardError> {
        Ok(self.0.lock().unwrap_or_else(PoisonError::into_inner).get(key).cloned())
    }
}

/// In a folder that all ranks see.
#[derive(Clone, Debug)]
pub struct FolderBoard(pub PathBuf);

impl RendezvousStore for FolderBoard {
    fn put_if_absent(&self, key: &str, bytes: &[u8]) -> Result<bool, BoardError> {
        let path = self.0.join(key);
        let folder = path.parent().unwrap_or(&self.0);
        std::fs::create_dir_all(folder)?;
        // a link appears with its whole content, and only if there is none
        let draft = folder.join(format!(".{:032x}", u128::from_le_bytes(crate::secret::random()?)));
        std::fs::write(&draft, bytes)?;
        let linked = std::fs::hard_link(&draft, &path);
        std::fs::remove_file(&draft)?;
        match linked {
            Ok(()) => Ok(true),
            Err(e) if e.kind() == ErrorKind::AlreadyExists => Ok(false),
            Err(e) => Err(e.into()),
        }
    }

    fn get(&self, key: &str) -> Result<Option<Vec<u8>>, BoardError> {
        match std::fs::read(self.0.join(key)) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
            Err(e) => Err(e.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn boards_keep_what_came_first() {
        let folder = tempfile::tempdir().unwrap();
        let stores: [&dyn RendezvousStore; 2] = [&MemoryBoard::default(), &FolderBoard(folder.path().to_owned())];
        for store in stores {
            assert_eq!(store.get("run/1/rank-0").unwrap(), None);
            assert!(store.put_if_absent("run/1/rank-0", b"first").unwrap());
            assert!(!store.put_if_absent("run/1/rank-0", b"second").unwrap());
            assert_eq!(store.get("run/1/rank-0").unwrap().unwrap(), b"first");
        }
    }
}
