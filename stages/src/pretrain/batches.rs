//! Rows of the tables made into batches: decoded, augmented, tokenised.

use manifests::digest;
use manifests::spec::{PretrainSpec, ScoreSpec};
use models::tokenizer::Tokenizer;
use pixels::DecodeLimits;
use pixels::augment::augment;
use pixels::mask::Rle;
use pixels::view::segment_view;
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;
use training::batch::{BatchSource, BoxError, PairBatch, SegmentBatch};

use super::reader::{HeldRow, Reader};
use crate::segment_features::{is_seen, view_of};
use crate::stage::StageError;
use crate::train_rows::{TrainRow, TrainRows, caption_key, key_of_digest, rows_of};

/// Batches of augmented images with some of their captions: one rank's slice of each.
pub(super) struct Batches<'a> {
    preparer: Preparer<'a>,
    reader: Reader<'a>,
    /// Rank and number of ranks.
    place: (usize, usize),
}

impl<'a> Batches<'a> {
    pub(super) fn new(
        stage: &'static str,
        preparer: Preparer<'a>,
        rows: &'a mut dyn TrainRows,
        place: (usize, usize),
    ) -> Result<Self, StageError> {
        let spec = &preparer.spec;
        let batch = ("pretrain.batch", spec.batch);
        check_batch(stage, batch, ("the train split", rows_of(rows)), place.1)?;
        let reader = Reader::new(stage, rows, spec.shuffle_window_row_groups, batch, spec.seed)?;
        Ok(Self { preparer, reader, place })
    }
}

/// Refuses a batch that the rows do not fill (the last partial one is dropped, and there would be no other), or that
/// ranks cannot take equal slices of. Whoever trains asks before anything is computed.
///
/// # Errors
/// [`StageError::Configuration`] with the field, and what would do.
pub fn check_batch(
    stage: &'static str,
    (field, batch): (&str, usize),
    (split, rows): (&str, u64),
    ranks: usize,
) -> Result<(), StageError> {
    let why = if rows == 0 {
        format!(
            "no row of {split} is left: `urbancross status` counts those in quarantine, excluded or in other splits"
        )
    } else if rows < batch as u64 {
        format!(
            "{field} = {batch} is more than the {rows} rows of {split}: use at most {rows}, or add data; `urbancross status SPEC` \
             tells how many rows failed or were left out"
        )
    } else if !batch.is_multiple_of(ranks) {
        format!("{field} = {batch} cannot be shared by {ranks} ranks: use a multiple of {ranks}")
    } else {
        return Ok(());
    };
    Err(StageError::Configuration { stage, why })
}

/// A row made ready for the network.
struct Prepared {
    /// Token ids and key of each chosen caption.
    captions: Vec<(Vec<u32>, u64)>,
    image_key: u64,
    segments: Vec<(Vec<u8>, f32)>,
}

impl BatchSource for Batches<'_> {
    fn steps_per_epoch(&self) -> usize {
        self.reader.steps_per_epoch()
    }

    fn batch(&mut self, epoch: usize, step: usize) -> Result<PairBatch, BoxError> {
        let rows = self.reader.batch(epoch, step, self.place)?;
        Ok(self.preparer.batch(&rows, epoch)?)
    }

    fn take_back(&mut self, used: PairBatch) {
        self.preparer.take_back(used);
    }
}

/// Makes one row ready: a pure function of row and epoch, called from many threads.
pub(crate) struct Preparer<'a> {
    pub(crate) spec: PretrainSpec,
    pub(crate) score: ScoreSpec,
    pub(crate) limits: DecodeLimits,
    /// Side of the network's images, and tokens of its texts at most.
    pub(crate) side_px: usize,
    pub(crate) context_length: usize,
    pub(crate) tokenizer: &'a Tokenizer,
    /// Memory of an earlier batch's pixels.
    pub(crate) used_pixels: Vec<u8>,
}

impl Preparer<'_> {
    /// Keeps the memory of an earlier batch for the next one.
    pub(crate) fn take_back(&mut self, used: PairBatch) {
        self.used_pixels = used.pixels_bhwc;
    }

    /// A batch of rows, prepared on all threads.
    pub(crate) fn batch(&mut self, rows: &[HeldRow], epoch: usize) -> Result<PairBatch, String> {
        // each row writes its pixels where they belong: a batch is too large to be put together afterwards
        let side = self.side_px;
        let mut pixels_bhwc = std::mem::take(&mut self.used_pixels);
        pixels_bhwc.resize(rows.len() * 3 * side * side, 0);
        let mut batch = PairBatch { pixels_bhwc, ..Default::default() };
        let this = &*self;
        let prepared = batch
            .pixels_bhwc
            .par_chunks_exact_mut(3 * side * side)
            .zip(rows)
            .map(|(pixels_hwc, (group, row))| this.prepare(&group[*row], epoch, pixels_hwc))
            .collect::<Result<Vec<_>, _>>()?;
        let mut image_of_row = Vec::new();
        let mut segments = SegmentBatch::default();
        for (image, made) in prepared.into_iter().enumerate() {
            // segments belong to the image's first row: each counts once, however many captions there are
            let row = batch.image_keys.len();
            // Every image has the same number of rows, so that all ranks have: those without a caption of their own
            // say what the first one says, and do not take part.
            for caption in 0..self.spec.captions_per_image {
                let (input_ids_l, caption_key) = made.captions.get(caption).unwrap_or(&made.captions[0]);
                batch.input_ids_bl.extend(input_ids_l);
                batch.image_keys.push(made.image_key);
                batch.caption_keys.push(*caption_key);
                batch.valid.push(caption < made.captions.len());
                image_of_row.push(image as u32);
            }
            for (pixels_hwc, weight) in made.segments {
                segments.pixels_shwc.extend(pixels_hwc);
                segments.row_of_segment.push(row as u32);
                segments.weights.push(weight);
            }
        }
        batch.image_of_row = (self.spec.captions_per_image > 1).then_some(image_of_row);
        batch.segments = (self.spec.segments_per_image > 0).then_some(segments);
        Ok(batch)
    }

    /// Makes one row ready; its pixels go to `pixels_hwc [S, S, 3]`.
    fn prepare(&self, row: &TrainRow, epoch: usize, pixels_hwc: &mut [u8]) -> Result<Prepared, String> {
        let mut rng = row_rng(self.spec.seed, epoch, &row.image_id);
        let named = |e: String| format!("image {}: {e}", row.image_id);
        let rgb = pixels::decode(&row.bytes, &self.limits).map_err(|e| named(e.to_string()))?;
        let side = self.side_px as u32;
        pixels_hwc.copy_from_slice(&augment(&rgb, side, &self.spec.augment, &mut rng).data);
        let captions = self.captions(row, &mut rng).map_err(named)?;
        let seen = |(rle, _): &&(Rle, f32)| is_seen(rle, &self.score, side);
        let mut segments: Vec<&(Rle, f32)> = row.segments.iter().filter(seen).collect();
        segments.shuffle(&mut rng);
        segments.truncate(self.spec.segments_per_image);
        let shown = view_of(&self.score);
        let segments = segments
            .into_iter()
            .map(|(rle, weight)| {
                let view = segment_view(&rgb, rle, shown).map_err(|e| named(e.to_string()))?;
                Ok((pixels::clip_view(&view, side).data, *weight))
            })
            .collect::<Result<Vec<_>, String>>()?;
        Ok(Prepared { captions, image_key: key_of_digest(&row.bytes_digest), segments })
    }

    /// Some of the row's captions. One that was given several times counts several times, as it does when recall is
    /// measured; its words are left out differently each time.
    fn captions(&self, row: &TrainRow, rng: &mut ChaCha8Rng) -> Result<Vec<(Vec<u32>, u64)>, String> {
        let mut chosen: Vec<(&String, u64)> = row.captions.iter().map(|c| (c, caption_key(c))).collect();
        chosen.shuffle(rng);
        chosen.truncate(self.spec.captions_per_image);
        if chosen.is_empty() {
            return Err("it has no caption".into());
        }
        chosen
            .into_iter()
            .map(|(caption, key)| {
                let spoken = without_some_words(caption, self.spec.word_dropout, rng);
                let input_ids_l = self.tokenizer.encode(&spoken, self.context_length);
                Ok((input_ids_l.map_err(|e| e.to_string())?, key))
            })
            .collect()
    }
}

/// The generator of everything random about one row in one epoch.
fn row_rng(seed: u64, epoch: usize, image_id: &str) -> ChaCha8Rng {
    let digest = digest::of_parts([&seed.to_le_bytes()[..], &(epoch as u64).to_le_bytes(), image_id.as_bytes()]);
    ChaCha8Rng::seed_from_u64(key_of_digest(&digest))
}

/// Leaves out each word with probability `share`; never all of them.
fn without_some_words(caption: &str, share: f64, rng: &mut ChaCha8Rng) -> String {
    if share <= 0.0 {
        return caption.to_owned();
    }
    let words: Vec<&str> = caption.split_whitespace().filter(|_| !rng.random_bool(share)).collect();
    if words.is_empty() { caption.to_owned() } else { words.join(" ") }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[test]
    fn random_choices_depend_on_the_row_alone() {
        let draw = |seed, epoch, id: &str| row_rng(seed, epoch, id).random::<u64>();
        assert_eq!(draw(1, 2, "a"), draw(1, 2, "a"));
        assert_ne!(draw(1, 2, "a"), draw(1, 3, "a"));
        assert_ne!(draw(1, 2, "a"), draw(1, 2, "b"));
    }

    #[test]
    fn a_segment_beside_the_middle_square_is_absent() {
        let rgb = pixels::Rgb::new(40, 20, (0..2400).map(|at| (at % 199) as u8).collect()).unwrap();
        let of_columns = |columns: std::ops::Range<usize>| {
            let bits: Vec<bool> = (0..800).map(|at| columns.contains(&(at % 40))).collect();
            Rle::from_row_major(&bits, 20, 40).unwrap()
        };
        let (unseen, seen) = (of_columns(0..6), of_columns(0..14));
        let row = |segments: Vec<(Rle, f32)>| TrainRow {
            image_id: "a".into(),
            bytes: pixels::encode_png(&rgb),
            bytes_digest: "0a".into(),
            captions: vec!["a road".into()],
            segments,
            embedded: None,
        };
        let tokenizer = Tokenizer::train(["a road"; 2], 80).unwrap();
        let mut preparer = Preparer {
            spec: PretrainSpec::default(),
            score: ScoreSpec::default(),
            limits: DecodeLimits::default(),
            side_px: 20,
            context_length: 16,
            tokenizer: &tokenizer,
            used_pixels: Vec::new(),
        };
        let mut of = |segments: Vec<(Rle, f32)>| {
            let made = preparer.batch(&[(Arc::new(vec![row(segments)]), 0)], 0).unwrap().segments.unwrap();
            (made.pixels_shwc, made.row_of_segment, made.weights)
        };
        let view = segment_view(&rgb, &seen, view_of(&ScoreSpec::default())).unwrap();
        let wanted = (pixels::clip_view(&view, 20).data, vec![0], vec![0.5]);
        assert_eq!(of(vec![(unseen.clone(), 1.0), (seen.clone(), 0.5)]), wanted);
        assert_eq!(of(vec![(unseen, 1.0)]).2, [0.0; 0]);
        assert_eq!(of(vec![(seen, 0.5)]), wanted, "bit for bit as it was");
    }

    #[test]
    fn word_dropout_never_silences_a_caption() {
        let mut rng = row_rng(0, 0, "a");
        assert_eq!(without_some_words("two planes", 0.0, &mut rng), "two planes");
        for _ in 0..50 {
            assert!(!without_some_words("two planes", 0.9, &mut rng).is_empty());
        }
    }

    #[test]
    fn a_batch_that_cannot_be_filled_or_shared_is_refused_in_words() {
        let of =
            |batch, rows, ranks| check_batch("pretrain", ("pretrain.batch", batch), ("the train split", rows), ranks);
        assert!(of(32, 32, 2).is_ok());
        for (refused, words) in [
            (of(32, 0, 1), "no row of the train split is left"),
            (of(32, 31, 1), "pretrain.batch = 32 is more than the 31 rows of the train split: use at most 31"),
            (of(32, 40, 3), "multiple of 3"),
        ] {
            let error = refused.unwrap_err();
            assert!(matches!(error, StageError::Configuration { .. }) && error.to_string().contains(words), "{error}");
        }
    }
}
