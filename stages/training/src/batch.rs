//! Batches of pairs in host memory, and where they come from.

use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::{Duration, Instant};

use crate::error::{Error, Result};

/// Error of a caller's own code.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// B pairs of image and caption.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PairBatch {
    /// Normalised pixels `[B, 3, S, S]`, or one image for several rows where `image_of_row` says so.
    pub pixel_values_bchw: Vec<f32>,
    /// For each row the image among `pixel_values_bchw` `[B]`: several captions of an image then cost one pass of the
    /// image tower. None: row r has image r.
    pub image_of_row: Option<Vec<u32>>,
    /// Token ids `[B, L]`.
    pub input_ids_bl: Vec<u32>,
    /// Equal for byte-equal images `[B]`.
    pub image_keys: Vec<u64>,
    /// Equal for captions with equal normalised text `[B]`.
    pub caption_keys: Vec<u64>,
    /// Whether the row takes part `[B]`: a row that could not be read stays in its batch, so that all ranks take the
    /// same steps, with any finite pixels.
    pub valid: Vec<bool>,
    /// Segments of the images, where they are learnt from.
    pub segments: Option<SegmentBatch>,
}

/// S segments of the images of a batch.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SegmentBatch {
    /// Normalised pixels of each segment's view `[S, 3, H, W]`.
    pub pixel_values_schw: Vec<f32>,
    /// Row of the batch that each segment belongs to `[S]`.
    pub row_of_segment: Vec<u32>,
    /// Score of each segment against its caption `[S]`.
    pub weights: Vec<f32>,
}

impl PairBatch {
    /// B.
    pub fn rows(&self) -> usize {
        self.image_keys.len()
    }
}

/// Where batches come from. A batch is a pure function of (epoch, step): a resumed run asks for the steps it lacks.
pub trait BatchSource: Send {
    /// Steps of every epoch.
    fn steps_per_epoch(&self) -> usize;

    /// Reads, decodes and augments one batch.
    ///
    /// # Errors
    /// The source's own, naming row or shard.
    fn batch(&mut self, epoch: usize, step: usize) -> Result<PairBatch, BoxError>;
}

/// Batches made ahead of their step.
pub(crate) struct Prefetched {
    receiver: Receiver<Made>,
    waited: Duration,
}

struct Made {
    epoch: usize,
    step: usize,
    batch: Result<PairBatch, BoxError>,
}

impl Prefetched {
    /// The next batch in order, and the seconds that the caller had to wait for it.
    pub(crate) fn next(&mut self, epoch: usize, step: usize) -> Result<(PairBatch, f64)> {
        let start = Instant::now();
        let source_error = |cause| Error::Source { epoch, step, cause };
        let made = self.receiver.recv().map_err(|_| source_error("the thread of the source panicked".into()))?;
        let waited = start.elapsed();
        self.waited += waited;
        debug_assert_eq!((made.epoch, made.step), (epoch, step), "batches come in the order they were asked for");
        Ok((made.batch.map_err(source_error)?, waited.as_secs_f64()))
    }

    /// Seconds waited for batches so far.
    pub(crate) fn waited_seconds(&self) -> f64 {
        self.waited.as_secs_f64()
    }
}

/// Runs `learn` while a thread of its own makes the batches of `positions`, at most `ahead` of them unused.
pub(crate) fn with_prefetch<R>(
    source: &mut dyn BatchSource,
    positions: impl Iterator<Item = (usize, usize)> + Send,
    ahead: usize,
    learn: impl FnOnce(&mut Prefetched) -> R,
) -> R {
    let (sender, receiver) = sync_channel(ahead);
    std::thread::scope(|scope| {
        let thread = scope.spawn(move || make_all(source, positions, &sender));
        let mut prefetched = Prefetched { receiver, waited: Duration::ZERO };
        let result = learn(&mut prefetched);
        // Without a receiver the thread stops at its next batch. A panic in it has been reported by `next`.
        drop(prefetched);
        let _ = thread.join();
        result
    })
}

fn make_all(source: &mut dyn BatchSource, positions: impl Iterator<Item = (usize, usize)>, sender: &SyncSender<Made>) {
    for (epoch, step) in positions {
        let batch = source.batch(epoch, step);
        let failed = batch.is_err();
        if sender.send(Made { epoch, step, batch }).is_err() || failed {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Fails or panics at a step; its batches tell which they are.
    struct Scripted {
        made: usize,
        fails_at: Option<usize>,
        panics_at: Option<usize>,
    }

    impl BatchSource for Scripted {
        fn steps_per_epoch(&self) -> usize {
            10
        }

        fn batch(&mut self, _: usize, step: usize) -> Result<PairBatch, BoxError> {
            self.made += 1;
            assert!(self.panics_at != Some(step), "scripted");
            if self.fails_at == Some(step) {
                return Err("shard 3 is gone".into());
            }
            Ok(PairBatch { image_keys: vec![step as u64], ..PairBatch::default() })
        }
    }

    fn scripted() -> Scripted {
        Scripted { made: 0, fails_at: None, panics_at: None }
    }

    #[test]
    fn batches_come_in_order_and_at_most_so_many_ahead() {
        let mut source = scripted();
        let seen = with_prefetch(&mut source, (0..10).map(|step| (0, step)), 2, |batches| {
            (0..3).map(|step| batches.next(0, step).unwrap().0.image_keys[0]).collect::<Vec<_>>()
        });
        assert_eq!(seen, [0, 1, 2]);
        // Three taken, two in the channel, one in the hands of the thread.
        assert!(source.made <= 6, "{} batches were made", source.made);
    }

    #[test]
    fn a_failed_batch_names_its_step_and_cause() {
        let mut source = Scripted { fails_at: Some(1), ..scripted() };
        let error = with_prefetch(&mut source, (0..10).map(|step| (4, step)), 2, |batches| {
            batches.next(4, 0).unwrap();
            batches.next(4, 1).unwrap_err().to_string()
        });
        assert_eq!(error, "batch of epoch 4, step 1: shard 3 is gone");
    }

    #[test]
    fn a_panic_of_the_source_is_an_error() {
        let mut source = Scripted { panics_at: Some(0), ..scripted() };
        let error = with_prefetch(&mut source, (0..10).map(|step| (0, step)), 2, |batches| {
            batches.next(0, 0).unwrap_err().to_string()
        });
        assert!(error.contains("panicked"), "{error}");
    }
}
