//! Files that are too large for one request, sent in pieces.

use std::fs::File;
use std::io::Read;
use std::sync::Arc;

use futures::{StreamExt, TryStreamExt};
use object_store::multipart::{MultipartStore, PartId};
use object_store::path::Path;
use object_store::{Error, MultipartId, PutPayload, Result};

use super::steady::Persistence;

/// Bytes of a piece, and of a file that goes whole: a request may take no longer than its time-out, however large the file. Stores
/// take no pieces below 5 MiB but the last.
const PIECE_BYTES: u64 = if cfg!(test) { 1 << 20 } else { 8 << 20 };
/// Stores take no more of them.
const MOST_PIECES: u64 = 10_000;
/// Pieces that are on their way, and in memory, at once.
const AT_ONCE: usize = 4;

/// A store that takes an object in pieces, each of which may be sent again.
#[derive(Clone)]
pub(super) struct Pieces {
    pub(super) store: Arc<dyn MultipartStore>,
    pub(super) persistence: Persistence,
}

/// How a file of so many bytes is cut; `None`: it goes whole.
pub(super) fn piece_bytes(bytes: u64) -> Option<u64> {
    (bytes > PIECE_BYTES).then(|| PIECE_BYTES.max(bytes.div_ceil(MOST_PIECES)))
}

impl Pieces {
    /// Writes a file as one object, which is there when all of it is.
    pub(super) async fn put(self, at: Path, file: File, piece_bytes: u64) -> Result<()> {
        let Pieces { store, persistence } = &self;
        let id = persistence.again("multipart", || store.create_multipart(&at)).await?;
        let done = match self.send(&at, &id, file, piece_bytes).await {
            Ok(parts) => {
                let done = persistence.again("multipart", || store.complete_multipart(&at, &id, parts.clone())).await;
                done.map_err(unheard)
            }
            Err(error) => Err(error),
        };
        if done.is_err() {
            // nobody sees what a store has of an object that is not whole, and it is paid for
            _ = store.abort_multipart(&at, &id).await;
        }
        done.map(|_| ())
    }

    async fn send(&self, at: &Path, id: &MultipartId, mut file: File, piece_bytes: u64) -> Result<Vec<PartId>> {
        let pieces = std::iter::from_fn(move || {
            let mut piece = Vec::new();
            match file.by_ref().take(piece_bytes).read_to_end(&mut piece) {
                Ok(0) => None,
                Ok(_) => Some(Ok(PutPayload::from(piece))),
                Err(error) => Some(Err(Error::Generic { store: "LocalFileSystem", source: error.into() })),
            }
        });
        let sent = futures::stream::iter(pieces.enumerate()).map(|(index, piece)| {
            let (Pieces { store, persistence }, at, id) = (self.clone(), at.clone(), id.clone());
            async move {
                let piece = piece?;
                persistence.again("multipart", || store.put_part(&at, &id, index, piece.clone())).await
            }
        });
        sent.buffered(AT_ONCE).try_collect().await
    }
}

/// An upload that is not known any more may have been completed by a try whose answer was lost, or is being: the file can
/// be sent again.
fn unheard(error: Error) -> Error {
    match error {
        Error::NotFound { source, .. } | Error::AlreadyExists { source, .. } => {
            Error::Generic { store: "multipart", source }
        }
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::sync::Mutex;
    use std::time::Duration;

    use async_trait::async_trait;
    use object_store::memory::InMemory;
    use object_store::{ObjectStoreExt, PutResult};

    use super::*;

    /// A store that fails once for each piece, or again and again for one of them.
    #[derive(Default)]
    struct Faulty {
        inner: InMemory,
        seen: Mutex<BTreeSet<usize>>,
        never: Option<usize>,
        /// Each upload is completed, and nobody hears of it.
        is_unheard: bool,
        aborted: Mutex<usize>,
    }

    #[async_trait]
    impl MultipartStore for Faulty {
        async fn create_multipart(&self, path: &Path) -> Result<MultipartId> {
            self.inner.create_multipart(path).await
        }

        async fn put_part(&self, path: &Path, id: &MultipartId, index: usize, data: PutPayload) -> Result<PartId> {
            if self.seen.lock().unwrap().insert(index) || self.never == Some(index) {
                return Err(Error::Generic { store: "faulty", source: "timed out".into() });
            }
            self.inner.put_part(path, id, index, data).await
        }

        async fn complete_multipart(&self, path: &Path, id: &MultipartId, parts: Vec<PartId>) -> Result<PutResult> {
            let done = self.inner.complete_multipart(path, id, parts).await;
            if !self.is_unheard {
                return done;
            }
            Err(match self.seen.lock().unwrap().insert(usize::MAX) {
                true => Error::Generic { store: "faulty", source: "timed out".into() },
                false => Error::NotFound { path: id.clone(), source: "NoSuchUpload".into() },
            })
        }

        async fn abort_multipart(&self, path: &Path, id: &MultipartId) -> Result<()> {
            *self.aborted.lock().unwrap() += 1;
            self.inner.abort_multipart(path, id).await
        }
    }

    #[tokio::test]
    async fn a_piece_is_sent_again_and_an_upload_that_fails_leaves_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let (path, at) = (folder.path().join("model"), Path::from("model"));
        let bytes: Vec<u8> = (0..=255).cycle().take(1000).collect();
        std::fs::write(&path, &bytes).unwrap();
        let persistence = Persistence { tries: 2, first_pause: Duration::ZERO, longest_pause: Duration::ZERO };
        let unheard = Arc::new(Faulty { is_unheard: true, ..Faulty::default() });
        let put = Pieces { store: unheard, persistence }.put(at.clone(), File::open(&path).unwrap(), 99).await;
        assert!(matches!(put, Err(Error::Generic { .. })), "it may be sent again: {put:?}");
        for never in [None, Some(7)] {
            let faulty = Arc::new(Faulty { never, ..Faulty::default() });
            let pieces = Pieces { store: faulty.clone(), persistence };
            let put = pieces.put(at.clone(), File::open(&path).unwrap(), 99).await;
            assert_eq!((put.is_ok(), *faulty.aborted.lock().unwrap()), (never.is_none(), usize::from(never.is_some())));
            match never {
                None => assert_eq!(faulty.inner.get(&at).await.unwrap().bytes().await.unwrap(), bytes),
                Some(_) => assert!(faulty.inner.head(&at).await.is_err()),
            }
        }
    }
}
