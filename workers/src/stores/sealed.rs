//! Hints that carry a digest of themselves and their path: one that is damaged or misplaced counts as absent.

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

impl<T: Serialize> Sealed<T> {
    /// The value, if it was sealed for this path.
    fn opened(self, path: &str) -> Option<T> {
        (self.digest == digest_of(path, &self.value)).then_some(self.value)
    }
}

/// A value as it was read or is to be written, at its path.
fn digest_of(path: &str, value: &impl Serialize) -> Digest {
    let text = serde_json::to_vec(value).expect("plain data serialises");
    digest::of_parts([path.as_bytes(), &text])
}

/// What lies where a hint belongs.
#[derive(Debug, PartialEq)]
pub enum Hint<T> {
    /// Whole, and written for this path.
    Sealed(T),
    /// By a program of a version that sealed none.
    Unsealed(T),
    /// Cut, changed, or another's.
    Damaged,
    /// Nothing.
    Absent,
}

impl<T> Hint<T> {
    /// What counts: something whole that was written for its path.
    pub fn sealed(self) -> Option<T> {
        if let Hint::Sealed(value) = self { Some(value) } else { None }
    }

    /// What is wrong with something that counts as absent.
    pub fn why_absent(&self) -> Option<&'static str> {
        match self {
            Hint::Sealed(_) | Hint::Absent => None,
            Hint::Unsealed(_) => Some("written by an older program, without a checksum"),
            Hint::Damaged => Some("damaged, or written by an older program"),
        }
    }
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
        let hint = self.look_at(path).await?;
        if let Some(why) = hint.why_absent() {
            tracing::debug!("{}{path} counts as absent: {why}", self.url());
        }
        Ok(hint.sealed())
    }

    /// As [`get_sealed`](Self::get_sealed), for whoever says why there is none.
    ///
    /// # Errors
    /// Only where the store does not answer.
    pub async fn look_at<T: DeserializeOwned + Serialize>(&self, path: &str) -> Result<Hint<T>, WorkerError> {
        let Some(bytes) = self.hint_bytes(path).await? else { return Ok(Hint::Absent) };
        Ok(match serde_json::from_slice::<Sealed<T>>(&bytes) {
            Ok(sealed) => sealed.opened(path).map_or(Hint::Damaged, Hint::Sealed),
            Err(_) => serde_json::from_slice(&bytes).map_or(Hint::Damaged, Hint::Unsealed),
        })
    }

    /// A record that is dear to make again: one of a version that sealed none is read as well.
    ///
    /// # Errors
    /// Only where the store does not answer.
    pub async fn get_record<T: DeserializeOwned + Serialize>(&self, path: &str) -> Result<Option<T>, WorkerError> {
        Ok(match self.look_at(path).await? {
            Hint::Sealed(value) | Hint::Unsealed(value) => Some(value),
            Hint::Absent => None,
            Hint::Damaged => {
                self.pass_over(path, "it is damaged, or lies where another belongs");
                None
            }
        })
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
            let read = work.get_record("a").await.unwrap();
            assert!(read.is_none() || read == Some(hint.clone()), "byte {at} of a record: {read:?}");
        }
        assert_eq!(work.look_at("plain").await.unwrap(), Hint::Unsealed(hint.clone()));
        assert_eq!(work.look_at::<Vec<(String, f64)>>("b").await.unwrap(), Hint::Damaged);
        assert_eq!(work.look_at::<Vec<(String, f64)>>("absent").await.unwrap(), Hint::Absent);
        assert_eq!(work.get_record("plain").await.unwrap(), Some(hint));
        assert_eq!(work.get_record::<Vec<(String, f64)>>("b").await.unwrap(), None, "another's");
    }

    #[tokio::test]
    async fn what_lies_in_a_hints_place_is_no_hint_and_named_when_one_is_written() {
        let folder = tempfile::tempdir().unwrap();
        let work = WorkStore::open(&folder.path().display().to_string(), &Default::default()).unwrap();
        std::fs::create_dir_all(folder.path().join("hints/a.json")).unwrap();
        std::fs::write(folder.path().join("file"), b"").unwrap();
        for path in ["hints/a.json", "file/a.json"] {
            assert_eq!(work.get_sealed::<u64>(path).await.unwrap(), None, "{path}");
            assert_eq!(work.get_record::<u64>(path).await.unwrap(), None, "{path}");
            assert_eq!(work.get_hint::<u64>(path).await.unwrap(), None, "{path}");
            let puts = [work.put_sealed(path, &1).await, work.put_sealed_if_absent(path, &1).await.map(|_| ())];
            for error in puts.map(Result::unwrap_err) {
                assert!(error.exit_code() == 65 && error.to_string().contains("remove it"), "{path}: {error}");
            }
        }
    }
}
