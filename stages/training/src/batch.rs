//! Batches of pairs in host memory, and where they come from.

use std::ops::Range;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::{Duration, Instant};

use crate::error::{Error, Result};

/// Error of a caller's own code.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// B pairs of image and caption.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PairBatch {
    /// Interleaved pixels `[B, S, S, 3]`, or one image for several rows where `image_of_row` says so.
    pub pixels_bhwc: Vec<u8>,
    /// For each row the image among `pixels_bhwc` `[B]`, counting up: several captions of an image then cost one
    /// pass of the image tower. None: row r has image r.
    pub image_of_row: Option<Vec<u32>>,
    /// Token ids `[B, L]`.
    pub input_ids_bl: Vec<u32>,
    /// Equal for byte-equal images `[B]`.
    pub image_keys: Vec<u64>,
    /// Equal for captions with equal normalised text `[B]`.
    pub caption_keys: Vec<u64>,
    /// Whether the row takes part `[B]`: a row that could not be read stays in its batch, so that all ranks take the
    /// same steps, with any pixels.
    pub valid: Vec<bool>,
    /// Segments of the images, where they are learnt from: then in every batch, also in one that happens to have none.
    pub segments: Option<SegmentBatch>,
    /// Which rows are of which domain, where there are two.
    pub domains: Option<Domains>,
}

/// Rows of a source and a target domain.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Domains {
    /// Whether the row is of the target domain `[B]`.
    pub target_b: Vec<bool>,
    /// How much the row counts `[B]`.
    pub weights_b: Vec<f64>,
}

/// S segments of the images of a batch.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SegmentBatch {
    /// Interleaved pixels of each segment's view `[S, H, W, 3]`.
    pub pixels_shwc: Vec<u8>,
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

    /// The first row of each image.
    pub(crate) fn image_rows(&self) -> Vec<usize> {
        match &self.image_of_row {
            None => (0..self.rows()).collect(),
            Some(images) => (0..images.len()).filter(|&row| row == 0 || images[row] != images[row - 1]).collect(),
        }
    }

    /// Everything but the pixels.
    pub(crate) fn without_pixels(&self) -> PairBatch {
        let PairBatch {
            pixels_bhwc: _,
            image_of_row,
            input_ids_bl,
            image_keys,
            caption_keys,
            valid,
            segments,
            domains,
        } = self;
        let segments = segments.as_ref().map(|segments| SegmentBatch {
            pixels_shwc: Vec::new(),
            row_of_segment: segments.row_of_segment.clone(),
            weights: segments.weights.clone(),
        });
        PairBatch {
            pixels_bhwc: Vec::new(),
            image_of_row: image_of_row.clone(),
            input_ids_bl: input_ids_bl.clone(),
            image_keys: image_keys.clone(),
            caption_keys: caption_keys.clone(),
            valid: valid.clone(),
            segments,
            domains: domains.clone(),
        }
    }

    /// The batch in at most `count` parts of whole images.
    pub fn parts(&self, count: usize) -> Vec<PairBatch> {
        let mut firsts = self.image_rows();
        let images = firsts.len();
        firsts.push(self.rows());
        let count = count.clamp(1, images.max(1));
        let cut = |part: usize| part * images / count;
        (0..count).map(|part| self.images(&firsts, cut(part)..cut(part + 1))).collect()
    }

    /// Some of the images, with their rows and segments.
    fn images(&self, firsts: &[usize], images: Range<usize>) -> PairBatch {
        let rows = firsts[images.start]..firsts[images.end];
        let per = |values: usize, count: usize| values / count.max(1);
        let pixels = per(self.pixels_bhwc.len(), firsts.len() - 1);
        let length = per(self.input_ids_bl.len(), self.rows());
        let segments = self.segments.as_ref().map(|all| {
            let pixels = per(all.pixels_shwc.len(), all.row_of_segment.len());
            let mut chosen = SegmentBatch::default();
            for (s, &row) in all.row_of_segment.iter().enumerate().filter(|(_, row)| rows.contains(&(**row as usize))) {
                chosen.pixels_shwc.extend_from_slice(&all.pixels_shwc[s * pixels..(s + 1) * pixels]);
                chosen.row_of_segment.push(row - rows.start as u32);
                chosen.weights.push(all.weights[s]);
            }
            chosen
        });
        PairBatch {
            pixels_bhwc: self.pixels_bhwc[images.start * pixels..images.end * pixels].to_vec(),
            image_of_row: self
                .image_of_row
                .as_ref()
                .map(|of_row| of_row[rows.clone()].iter().map(|&image| image - images.start as u32).collect()),
            input_ids_bl: self.input_ids_bl[rows.start * length..rows.end * length].to_vec(),
            image_keys: self.image_keys[rows.clone()].to_vec(),
            caption_keys: self.caption_keys[rows.clone()].to_vec(),
            valid: self.valid[rows.clone()].to_vec(),
            segments,
            domains: self.domains.as_ref().map(|all| Domains {
                target_b: all.target_b[rows.clone()].to_vec(),
                weights_b: all.weights_b[rows].to_vec(),
            }),
        }
    }
}

/// Where one rank's batches come from: its slice of the global batch, which is a pure function of (epoch, step). A
/// resumed run asks for the steps it lacks.
pub trait BatchSource: Send {
    /// Steps of every epoch, the same on all ranks.
    fn steps_per_epoch(&self) -> usize;

    /// Reads, decodes and augments one batch.
    ///
    /// # Errors
    /// The source's own, naming row or shard.
    fn batch(&mut self, epoch: usize, step: usize) -> Result<PairBatch, BoxError>;

    /// Gets a batch back that is on its way to the step: its memory may serve for the next one. Fresh pages cost a loader
    /// of large images a fifth of its time.
    fn take_back(&mut self, _used: PairBatch) {}
}

/// Batches made and loaded ahead of their step.
pub(crate) struct Prefetched<T> {
    receiver: Receiver<Made<T>>,
    waited: Duration,
}

struct Made<T> {
    epoch: usize,
    step: usize,
    batch: Result<T, BoxError>,
}

impl<T> Prefetched<T> {
    /// The next batch in order, and the seconds that the caller had to wait for it.
    pub(crate) fn next(&mut self, epoch: usize, step: usize) -> Result<(T, f64)> {
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

/// Runs `learn` while a thread of its own makes the batches of `positions` and loads them, at most `ahead` of them unused.
pub(crate) fn with_prefetch<T: Send, R>(
    source: &mut dyn BatchSource,
    positions: impl Iterator<Item = (usize, usize)> + Send,
    ahead: usize,
    load: impl FnMut(&PairBatch) -> Result<T> + Send,
    learn: impl FnOnce(&mut Prefetched<T>) -> R,
) -> R {
    let (sender, receiver) = sync_channel(ahead);
    std::thread::scope(|scope| {
        let thread = scope.spawn(move || make_all(source, positions, load, &sender));
        let mut prefetched = Prefetched { receiver, waited: Duration::ZERO };
        let result = learn(&mut prefetched);
        // Without a receiver the thread stops at its next batch. A panic in it has been reported by `next`.
        drop(prefetched);
        let _ = thread.join();
        result
    })
}

fn make_all<T>(
    source: &mut dyn BatchSource,
    positions: impl Iterator<Item = (usize, usize)>,
    mut load: impl FnMut(&PairBatch) -> Result<T>,
    sender: &SyncSender<Made<T>>,
) {
    for (epoch, step) in positions {
        let loaded = source.batch(epoch, step).and_then(|batch| {
            let loaded = load(&batch)?;
            source.take_back(batch);
            Ok(loaded)
        });
        let failed = loaded.is_err();
        if sender.send(Made { epoch, step, batch: loaded }).is_err() || failed {
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
        taken_back: Vec<u64>,
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

        fn take_back(&mut self, used: PairBatch) {
            self.taken_back.extend(used.image_keys);
        }
    }

    fn scripted() -> Scripted {
        Scripted { made: 0, fails_at: None, panics_at: None, taken_back: Vec::new() }
    }

    #[test]
    fn parts_put_together_are_the_batch() {
        let batch = PairBatch {
            pixels_bhwc: (0..9).collect(),
            image_of_row: Some(vec![0, 0, 1, 2, 2, 2]),
            input_ids_bl: (0..12).collect(),
            image_keys: vec![7, 7, 8, 9, 9, 9],
            caption_keys: (0..6).collect(),
            valid: vec![true, false, true, true, true, false],
            segments: Some(SegmentBatch {
                pixels_shwc: vec![1, 2, 3, 4],
                row_of_segment: vec![3, 0, 3, 2],
                weights: vec![0.1, 0.2, 0.3, 0.4],
            }),
            domains: Some(Domains { target_b: vec![false; 6], weights_b: vec![1.0; 6] }),
        };
        assert_eq!(batch.parts(1), std::slice::from_ref(&batch));
        let parts = batch.parts(5);
        assert_eq!(parts.iter().map(PairBatch::rows).collect::<Vec<_>>(), [2, 1, 3]);
        assert_eq!(parts[2].pixels_bhwc, [6, 7, 8]);
        assert_eq!(parts[2].image_of_row, Some(vec![0, 0, 0]));
        let segments: Vec<_> = parts.iter().map(|p| p.segments.clone().unwrap()).collect();
        assert_eq!(
            segments.iter().map(|s| s.row_of_segment.clone()).collect::<Vec<_>>(),
            [vec![0], vec![0], vec![0, 0]]
        );
        assert_eq!((&segments[2].weights, &segments[0].pixels_shwc), (&vec![0.1, 0.3], &vec![2]));
        let ids: Vec<u32> = parts.iter().flat_map(|p| p.input_ids_bl.clone()).collect();
        assert_eq!(ids, batch.input_ids_bl);
    }

    fn number(batch: &PairBatch) -> Result<u64> {
        Ok(batch.image_keys[0])
    }

    #[test]
    fn batches_come_in_order_and_at_most_so_many_ahead() {
        let mut source = scripted();
        let seen = with_prefetch(&mut source, (0..10).map(|step| (0, step)), 2, number, |batches| {
            (0..3).map(|step| batches.next(0, step).unwrap().0).collect::<Vec<_>>()
        });
        assert_eq!(seen, [0, 1, 2]);
        // Three taken, two in the channel, one in the hands of the thread.
        assert!(source.made <= 6, "{} batches were made", source.made);
    }

    #[test]
    fn loaded_batches_go_back_to_their_source() {
        let mut source = scripted();
        with_prefetch(&mut source, (0..10).map(|step| (0, step)), 1, number, |batches| {
            (0..10).for_each(|step| assert_eq!(batches.next(0, step).unwrap().0, step as u64));
        });
        assert!(source.taken_back.into_iter().eq(0..10));
    }

    #[test]
    fn a_batch_that_cannot_be_loaded_names_its_step_and_cause() {
        let refuse = |batch: &PairBatch| -> Result<()> {
            if batch.image_keys[0] == 1 { Err(Error::argument("pixels", "are too few")) } else { Ok(()) }
        };
        let error = with_prefetch(&mut scripted(), (0..10).map(|step| (4, step)), 2, refuse, |batches| {
            batches.next(4, 0).unwrap();
            batches.next(4, 1).unwrap_err().to_string()
        });
        assert_eq!(error, "batch of epoch 4, step 1: pixels: are too few");
    }

    #[test]
    fn a_failed_batch_names_its_step_and_cause() {
        let mut source = Scripted { fails_at: Some(1), ..scripted() };
        let error = with_prefetch(&mut source, (0..10).map(|step| (4, step)), 2, number, |batches| {
            batches.next(4, 0).unwrap();
            batches.next(4, 1).unwrap_err().to_string()
        });
        assert_eq!(error, "batch of epoch 4, step 1: shard 3 is gone");
    }

    #[test]
    fn a_panic_of_the_source_is_an_error() {
        let mut source = Scripted { panics_at: Some(0), ..scripted() };
        let error = with_prefetch(&mut source, (0..10).map(|step| (0, step)), 2, number, |batches| {
            batches.next(0, 0).unwrap_err().to_string()
        });
        assert!(error.contains("panicked"), "{error}");
    }
}
