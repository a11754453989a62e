//! Scores, one tile at a time.

use super::check_rows;
use super::scores::{Room, Scores};
use super::tile::{TILE, multiply, panel};
use crate::error::{Error, Result};

/// Scores of rows × columns of S.
pub(super) struct Tile<'a> {
    /// First and one past the last row of S.
    pub(super) rows: (usize, usize),
    /// First and one past the last column of S.
    pub(super) columns: (usize, usize),
    scores: &'a [f32],
}

impl Tile<'_> {
    /// Scores of one row of S, of all the tile's columns.
    pub(super) fn row(&self, row: usize) -> &[f32] {
        let start = (row - self.rows.0) * TILE;
        &self.scores[start..start + self.columns.1 - self.columns.0]
    }
}

/// The tiles of S.
pub(super) struct Tiles<'a> {
    pub(super) scores: &'a dyn Scores,
    pub(super) rows: &'a [u32],
    pub(super) columns: &'a [u32],
}

impl Tiles<'_> {
    /// Computes the wanted tiles of a block of rows, on the calling thread.
    pub(super) fn for_each(
        &self,
        (start, end): (usize, usize),
        wanted: impl Fn((usize, usize), (usize, usize)) -> bool,
        mut visit: impl FnMut(&Tile),
    ) {
        let (mut room, mut scores) = (Room::default(), vec![0.0; TILE * TILE]);
        for row in (start..end).step_by(TILE) {
            let rows = (row, (row + TILE).min(end));
            for column in (0..self.columns.len()).step_by(TILE) {
                let columns = (column, (column + TILE).min(self.columns.len()));
                if wanted(rows, columns) {
                    let (images, captions) = (&self.rows[rows.0..rows.1], &self.columns[columns.0..columns.1]);
                    self.scores.fill(images, captions, &mut room, &mut scores);
                    visit(&Tile { rows, columns, scores: &scores });
                }
            }
        }
    }
}

/// Cosines of one vector for each image and one for each caption.
pub struct Cosines<'a> {
    image_nd: &'a [f32],
    text_md: &'a [f32],
    dim: usize,
}

impl<'a> Cosines<'a> {
    /// `image_nd [N, D]` and `text_md [M, D]`, L2-normalised.
    ///
    /// # Errors
    /// Lengths that are no multiple of D, vectors that are not finite or not normalised.
    pub fn new(image_nd: &'a [f32], text_md: &'a [f32], dim: usize) -> Result<Self> {
        if dim == 0 || !image_nd.len().is_multiple_of(dim) || !text_md.len().is_multiple_of(dim) {
            let problem = format!("{} and {} values of {dim} dimensions", image_nd.len(), text_md.len());
            return Err(Error::argument("image_nd", problem));
        }
        check_rows("image", image_nd, dim)?;
        check_rows("caption", text_md, dim)?;
        Ok(Self { image_nd, text_md, dim })
    }
}

impl Scores for Cosines<'_> {
    fn shape(&self) -> (usize, usize) {
        (self.image_nd.len() / self.dim, self.text_md.len() / self.dim)
    }

    fn fill(&self, images: &[u32], captions: &[u32], room: &mut Room, scores: &mut [f32]) {
        let (of_images, of_captions) = room.panels(self.dim);
        let image_panel = panel(of_images, self.image_nd, self.dim, images);
        let text_panel = panel(of_captions, self.text_md, self.dim, captions);
        multiply(scores, image_panel, text_panel, self.dim);
    }
}
