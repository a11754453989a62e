//! Answers that are the same for everybody until the tables change: put into bytes once, and shared by all who read them.

use std::sync::{Arc, Mutex, PoisonError};

use axum::body::Bytes;

/// Answers that are kept: of one snapshot's models, say.
const KEPT: usize = 8;

/// The bytes of some answers, newest last.
pub(super) struct Packed<T> {
    kept: Mutex<Vec<(Arc<T>, Bytes)>>,
}

impl<T> Default for Packed<T> {
    fn default() -> Self {
        Self { kept: Mutex::default() }
    }
}

impl<T> Packed<T> {
    /// The bytes of an answer, made where they are not there.
    pub(super) fn of(&self, answer: Arc<T>, pack: impl FnOnce(&T) -> Vec<u8>) -> Bytes {
        let find = |kept: &Vec<(Arc<T>, Bytes)>| {
            kept.iter().find(|(known, _)| Arc::ptr_eq(known, &answer)).map(|(_, bytes)| bytes.clone())
        };
        if let Some(bytes) = find(&self.lock()) {
            return bytes;
        }
        // others may pack the same meanwhile
        let bytes = Bytes::from(pack(&answer));
        let mut kept = self.lock();
        if let Some(bytes) = find(&kept) {
            return bytes;
        }
        if kept.len() == KEPT {
            kept.remove(0);
        }
        kept.push((answer, bytes.clone()));
        bytes
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<(Arc<T>, Bytes)>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_answer_is_packed_once_and_another_anew() {
        let packed = Packed::default();
        let one = Arc::new(1);
        assert_eq!(packed.of(one.clone(), |_| vec![1]), vec![1]);
        assert_eq!(packed.of(one.clone(), |_| panic!("packed twice")), vec![1]);
        // an equal answer of a newer snapshot is another
        assert_eq!(packed.of(Arc::new(1), |_| vec![2]), vec![2]);
        (0..KEPT as u8).for_each(|at| assert_eq!(packed.of(Arc::new(0), |_| vec![at]), vec![at]));
        assert_eq!(packed.of(one, |_| vec![3]), vec![3], "the oldest went");
        assert_eq!(packed.lock().len(), KEPT);
    }
}
