//! Where the ranks of a training leave their addresses: in the work store.

use bytes::Bytes;
use ranks::{BoardError, RendezvousStore};
use tokio::runtime::Handle;

use crate::stores::WorkStore;

/// The work store as a board. Its calls block: use it from a thread of its own, never from a task.
pub struct RendezvousInStore {
    store: WorkStore,
    runtime: Handle,
}

impl RendezvousInStore {
    /// A board in this store, whose requests run on this runtime.
    pub fn new(store: WorkStore, runtime: Handle) -> Self {
        Self { store, runtime }
    }
}

impl RendezvousStore for RendezvousInStore {
    fn put_if_absent(&self, key: &str, bytes: &[u8]) -> Result<bool, BoardError> {
        Ok(self.runtime.block_on(self.store.put_if_absent(key, Bytes::copy_from_slice(bytes)))?)
    }

    fn get(&self, key: &str) -> Result<Option<Vec<u8>>, BoardError> {
        Ok(self.runtime.block_on(self.store.get(key))?.map(|bytes| bytes.to_vec()))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use manifests::spec::StoreOptions;
    use ranks::{Tcp, meet_in_store};
    use training::communicator::Communicator;

    use super::*;

    #[tokio::test(flavor = "multi_thread", worker_threads = 1)]
    async fn ranks_meet_in_the_work_store() {
        const MINUTE: Duration = Duration::from_secs(60);
        let folder = tempfile::tempdir().unwrap();
        let store = WorkStore::open(folder.path().to_str().unwrap(), &StoreOptions::default()).unwrap();
        let ranks: Vec<_> = (0..2)
            .map(|rank| {
                let board = RendezvousInStore::new(store.clone(), Handle::current());
                std::thread::spawn(move || {
                    let loopback = std::net::Ipv4Addr::LOCALHOST.into();
                    let mesh = meet_in_store(&board, "ranks/run/0", (rank, 2), loopback, MINUTE, MINUTE).unwrap();
                    Tcp::new(mesh).barrier().unwrap();
                })
            })
            .collect();
        tokio::task::spawn_blocking(|| ranks.into_iter().for_each(|rank| rank.join().unwrap())).await.unwrap();
        assert_eq!(store.list("ranks/run/0").await.unwrap(), ["rank-0", "rank-1"]);
    }
}
