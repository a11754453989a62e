//! A batch on its way to the towers: checked, cut into parts, its pixels on the device.

use std::sync::Arc;

use candle_core::{Device, Tensor};
use models::preprocessing::Preprocessing;
use models::upload::Upload;

use crate::batch::{PairBatch, SegmentBatch};
use crate::error::{Error, Result};

/// A batch that is ready for a step.
pub(super) struct Loaded {
    /// All of it, without its pixels.
    pub(super) batch: PairBatch,
    /// Its parts in order, each of which goes through the towers at once.
    pub(super) parts: Vec<Arc<Part>>,
}

/// Some rows of a batch.
pub(super) struct Part {
    /// The rows, without their pixels.
    pub(super) batch: PairBatch,
    /// Their images, as [`Preprocessing::load`] gives them.
    pub(super) images: Tensor,
    /// Their segments, if they have any; a blank one if they have none and the loader was asked for it.
    pub(super) segments: Option<Tensor>,
}

/// Loads batches ahead of their steps.
pub(super) struct Loader {
    preprocessing: Preprocessing,
    micro_batches: usize,
    /// Whether rows without a segment get a blank one, which nothing is learnt from.
    blank_segments: bool,
    upload: Upload,
}

impl Loader {
    /// For a network on `device`, which takes a batch in so many parts.
    pub(super) fn new(preprocessing: Preprocessing, micro_batches: usize, device: &Device) -> Self {
        Self { preprocessing, micro_batches, blank_segments: false, upload: Upload::new(device) }
    }

    /// For a network whose ranks meet in the tower of segments: all must go through it.
    pub(super) fn with_blank_segments(self, blank_segments: bool) -> Self {
        Self { blank_segments, ..self }
    }

    /// # Errors
    /// A batch that contradicts itself.
    pub(super) fn load(&mut self, batch: &PairBatch) -> Result<Loaded> {
        check(batch, self.preprocessing.side_px)?;
        // a whole batch is not copied: its pixels are many
        let parts = match self.micro_batches {
            0 | 1 => vec![self.part(batch)?],
            count => batch.parts(count).iter().map(|part| self.part(part)).collect::<Result<_>>()?,
        };
        Ok(Loaded { batch: batch.without_pixels(), parts })
    }

    fn part(&mut self, batch: &PairBatch) -> Result<Arc<Part>> {
        let images = self.preprocessing.load(&batch.pixels_bhwc, &mut self.upload)?;
        let segments = match &batch.segments {
            // a GPU holds no tensor without elements
            Some(segments) if !segments.row_of_segment.is_empty() => {
                Some(self.preprocessing.load(&segments.pixels_shwc, &mut self.upload)?)
            }
            Some(_) if self.blank_segments => {
                let side = self.preprocessing.side_px;
                Some(self.preprocessing.load(&vec![0; 3 * side * side], &mut self.upload)?)
            }
            _ => None,
        };
        Ok(Arc::new(Part { batch: batch.without_pixels(), images, segments }))
    }
}

fn check(batch: &PairBatch, side: usize) -> Result<()> {
    let rows = batch.rows();
    let image = 3 * side * side;
    let images = match &batch.image_of_row {
        None => rows,
        Some(image_of_row) => image_of_row.last().map_or(0, |&i| i as usize + 1),
    };
    let indices = batch.image_of_row.as_ref().map_or(rows, Vec::len);
    let no_segments = SegmentBatch::default();
    let segments = batch.segments.as_ref().unwrap_or(&no_segments);
    let count = segments.row_of_segment.len();
    let domains = batch.domains.as_ref().map_or((rows, rows), |d| (d.target_b.len(), d.weights_b.len()));
    for (what, found, expected) in [
        ("pixels_bhwc", batch.pixels_bhwc.len(), images * image),
        ("image_of_row", indices, rows),
        ("caption_keys", batch.caption_keys.len(), rows),
        ("valid", batch.valid.len(), rows),
        ("pixels_shwc", segments.pixels_shwc.len(), count * image),
        ("segment weights", segments.weights.len(), count),
        ("domains", domains.0, rows),
        ("weights of rows", domains.1, rows),
    ] {
        if found != expected {
            let problem = format!(
                "has {found} values; {rows} rows, {images} images and {count} segments \
                 of {side} x {side} pixels need {expected}"
            );
            return Err(Error::argument(what, problem));
        }
    }
    if let Some(image_of_row) = &batch.image_of_row
        && !(image_of_row.first() == Some(&0)
            && image_of_row.windows(2).all(|pair| pair[1] - pair[0].min(pair[1]) <= 1 && pair[0] <= pair[1]))
    {
        return Err(Error::argument("image_of_row", "must count up from 0: the rows of an image stand together"));
    }
    if let Some(&row) = segments.row_of_segment.iter().find(|&&row| row as usize >= rows) {
        return Err(Error::argument("segments", format!("one has row {row} of {rows}")));
    }
    let ids = batch.input_ids_bl.len();
    if rows == 0 || ids == 0 || !ids.is_multiple_of(rows) {
        let problem = format!("has {ids} values for {rows} rows: needs as many ids in every row");
        return Err(Error::argument("input_ids_bl", problem));
    }
    Ok(())
}
