//! The last words of a process, in the work store: what its machine said before it was gone.

use std::time::Duration;

use tokio::task::JoinHandle;
use workers::stores::WorkStore;

/// How often they are written.
const EVERY: Duration = Duration::from_secs(30);

/// Writes the last words again and again, until it is told to end.
pub struct LastWords {
    work: WorkStore,
    path: String,
    writing: JoinHandle<()>,
}

impl LastWords {
    /// Begins to write them at a path of the work store, such as [`manifests::paths::last_words`].
    pub fn begin(work: WorkStore, path: String) -> Self {
        Self::begin_every(work, path, EVERY)
    }

    fn begin_every(work: WorkStore, path: String, every: Duration) -> Self {
        let (of_task, to) = (work.clone(), path.clone());
        let writing = tokio::spawn(async move {
            let mut before = String::new();
            loop {
                tokio::time::sleep(every).await;
                let words = super::last_words();
                if words != before && write(&of_task, &to, &words).await {
                    before = words;
                }
            }
        });
        Self { work, path, writing }
    }

    /// Writes them once more, and ends; `error` is why the process does, which is told only after this.
    pub async fn end(self, error: Option<&str>) {
        self.writing.abort();
        // a write that goes on would come after the last one
        _ = self.writing.await;
        if let Some(error) = error {
            super::keep(&format!("error: {error}\n"));
        }
        write(&self.work, &self.path, &super::last_words()).await;
    }
}

/// Nothing depends on them: a store that fails is told, not followed.
async fn write(work: &WorkStore, path: &str, words: &str) -> bool {
    match work.put(path, words.to_owned().into()).await {
        Ok(()) => true,
        Err(error) => {
            tracing::warn!(%error, "{path}: these words are not written down");
            false
        }
    }
}

#[cfg(test)]
mod tests {
    use manifests::spec::StoreOptions;

    use super::*;

    #[tokio::test(flavor = "multi_thread")]
    async fn words_are_written_while_a_process_lives_and_at_its_end() {
        let folder = tempfile::tempdir().unwrap();
        let work = WorkStore::open(folder.path().to_str().unwrap(), &StoreOptions::default()).unwrap();
        let path = manifests::paths::last_words("finland", "1a2b3c4d", "images", "3");
        let words = LastWords::begin_every(work.clone(), path.clone(), Duration::from_millis(20));
        super::super::note("a word of the beginning\n");
        let read = || async { work.get(&path).await.unwrap().map(|bytes| String::from_utf8(bytes.to_vec()).unwrap()) };
        let mut waited = 0;
        while !read().await.is_some_and(|text| text.contains("a word of the beginning")) {
            tokio::time::sleep(Duration::from_millis(20)).await;
            waited += 1;
            assert!(waited < 500, "never written");
        }
        super::super::note("the last word\n");
        words.end(Some("https://me:hunter22@host/x is gone")).await;
        let last = read().await.unwrap();
        assert!(
            last.contains("the last word\n") && last.ends_with("error: https://[hidden]@host/x is gone\n"),
            "{last}"
        );
        assert!(folder.path().join("runs/finland/1a2b3c4d/logs/images-3.log").is_file());
    }
}
