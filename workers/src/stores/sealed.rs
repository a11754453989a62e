//! Hints that say themselves what they are: one that was damaged, or that lies where another belongs, is none.

use manifests::{Digest, digest};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::WorkStore;
use crate::error::WorkerError;

#[derive(Serialize, Deserialize)]
struct Sealed<T> {
    /// Of the path and the value.
    digest: Digest,
    value: T,
}

/// A value as it was read or is to be written, at its path.
fn digest_of(path: &str, value: &impl Serialize) -> Digest {
    let text = serde_json::to_vec(value).expect("plain data serialises");
    digest::of_parts([path.as_bytes(), &text])
}

impl WorkStore {
    /// Writes a hint, over whatever was there.
    ///
    /// # Errors
    /// The store's.
    pub async fn put_sealed(&self, path: &str, value: &impl Serialize) -> Result<(), WorkerError> {
        self.put_json(path, &Sealed { digest: digest_of(path, value), value }).await
    }

    /// Writes a hint if there is none; `false`: somebody else was faster.
    ///
    /// # Errors
    /// The store's.
    pub async fn put_sealed_if_absent(&self, path: &str, value: &impl Serialize) -> Result<bool, WorkerError> {
        self.put_json_if_absent(path, &Sealed { digest: digest_of(path, value), value }).await
    }

    /// A hint as it was written to this path; another one, or one of a version that sealed none, is as good as none.
    ///
    /// # Errors
    /// Only where the store does not answer.
    pub async fn get_sealed<T: DeserializeOwned + Serialize>(&self, path: &str) -> Result<Option<T>, WorkerError> {
        let Some(bytes) = self.get(path).await? else { return Ok(None) };
        let sealed = serde_json::from_slice::<Sealed<T>>(&bytes).ok();
        let value = sealed.filter(|sealed| sealed.digest == digest_of(path, &sealed.value)).map(|sealed| sealed.value);
        if value.is_none() {
            tracing::debug!("{}{path} is no hint of this version, or is damaged; it counts as absent", self.url());
        }
        Ok(value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_hint_that_was_damaged_or_moved_is_none() {
        let work = WorkStore::in_memory();
        let hint = vec![("part".to_owned(), 1.343_155_180_000_000_1_f64)];
        work.put_sealed("a", &hint).await.unwrap();
        assert_eq!(work.get_sealed("a").await.unwrap(), Some(hint.clone()));
        assert!(!work.put_sealed_if_absent("a", &hint).await.unwrap());
        let whole = work.get("a").await.unwrap().unwrap();
        work.put("b", whole.clone()).await.unwrap();
        work.put("plain", serde_json::to_vec(&hint).unwrap().into()).await.unwrap();
        for other in ["b", "plain", "absent"] {
            assert_eq!(work.get_sealed::<Vec<(String, f64)>>(other).await.unwrap(), None, "{other}");
        }
        for at in 0..whole.len() {
            let mut flipped = whole.to_vec();
            flipped[at] ^= 1;
            work.put("a", flipped.into()).await.unwrap();
            let read = work.get_sealed("a").await.unwrap();
            assert!(read.is_none() || read == Some(hint.clone()), "byte {at}: {read:?}");
        }
    }
}
