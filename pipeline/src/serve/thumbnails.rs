//! Small pictures, which pages ask for by the dozen: the last ones are kept.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};

use atlas::{ImageName, Trouble};

use super::details;
use super::snapshot::Snapshot;
use crate::build::Build;
use crate::page::thumbnail_of;

/// Most bytes that are kept.
const KEPT_BYTES: usize = 32 << 20;

/// Thumbnails of one snapshot.
#[derive(Default)]
pub(super) struct Thumbnails {
    kept: Mutex<Kept>,
}

#[derive(Default)]
struct Kept {
    /// Versions of the tables that they are of.
    state: Vec<Option<u64>>,
    pictures: HashMap<ImageName, Arc<Vec<u8>>>,
    /// Oldest first.
    order: VecDeque<ImageName>,
    bytes: usize,
}

impl Thumbnails {
    pub(super) async fn of(&self, now: &Snapshot, build: &Build, image: &ImageName) -> Result<Vec<u8>, Trouble> {
        if let Some(kept) = self.lock().get(&now.state.versions, image) {
            return Ok(kept.to_vec());
        }
        let bytes = details::bytes(build, image).await?;
        let limits = stages::images::limits(&build.spec);
        let made = tokio::task::block_in_place(|| thumbnail_of(&bytes, &limits)).ok_or_else(details::unreadable)?;
        self.lock().put(&now.state.versions, image, &made);
        Ok(made)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Kept {
    fn get(&self, state: &[Option<u64>], image: &ImageName) -> Option<Arc<Vec<u8>>> {
        self.pictures.get(image).filter(|_| self.state == state).cloned()
    }

    fn put(&mut self, state: &[Option<u64>], image: &ImageName, picture: &[u8]) {
        if self.state != state {
            *self = Kept { state: state.to_vec(), ..Kept::default() };
        }
        if self.pictures.insert(image.clone(), Arc::new(picture.to_vec())).is_some() {
            return;
        }
        self.order.push_back(image.clone());
        self.bytes += picture.len();
        while self.bytes > KEPT_BYTES
            && let Some(oldest) = self.order.pop_front()
        {
            self.bytes -= self.pictures.remove(&oldest).map_or(0, |picture| picture.len());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(number: usize) -> ImageName {
        ImageName { country: "finland".into(), id: number.to_string() }
    }

    #[test]
    fn the_oldest_go_and_a_new_version_forgets_all() {
        let mut kept = Kept::default();
        let picture = vec![0; KEPT_BYTES / 4];
        for number in 0..6 {
            kept.put(&[Some(1)], &name(number), &picture);
        }
        assert!(kept.bytes <= KEPT_BYTES && kept.pictures.len() == 4);
        assert!(kept.get(&[Some(1)], &name(1)).is_none() && kept.get(&[Some(1)], &name(5)).is_some());
        assert!(kept.get(&[Some(2)], &name(5)).is_none());
        kept.put(&[Some(2)], &name(9), &picture);
        assert_eq!((kept.pictures.len(), kept.bytes), (1, picture.len()));
    }
}
