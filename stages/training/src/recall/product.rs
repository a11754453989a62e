//! Scores, one tile at a time.

use gemm::Parallelism;

use super::Gallery;

/// Rows and columns of a tile: its scores (1.3 MiB) fit a second-level cache, and it is a multiple of every
/// register block of gemm's kernels.
///
/// Every product has exactly this shape, the last ones padded with zero rows. gemm chooses kernel and summation order
/// by shape, so a pair of embeddings has the same score to the last bit in whatever tile and position it lies:
/// equal captions tie, and results do not depend on how the work was cut.
pub(super) const TILE: usize = 576;

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

pub(super) struct TileProduct<'a> {
    image_nd: &'a [f32],
    text_md: &'a [f32],
    dim: usize,
    rows: &'a [u32],
    columns: &'a [u32],
}

impl<'a> TileProduct<'a> {
    pub(super) fn new(gallery: &Gallery<'a>, rows: &'a [u32], columns: &'a [u32]) -> Self {
        Self { image_nd: gallery.image_nd, text_md: gallery.text_md, dim: gallery.dim, rows, columns }
    }

    /// Computes the wanted tiles of a block of rows, on the calling thread.
    pub(super) fn for_tiles(
        &self,
        (start, end): (usize, usize),
        wanted: impl Fn((usize, usize), (usize, usize)) -> bool,
        mut visit: impl FnMut(&Tile),
    ) {
        let mut image_buffer = vec![0.0; TILE * self.dim];
        let mut text_buffer = vec![0.0; TILE * self.dim];
        let mut scores = vec![0.0; TILE * TILE];
        for row in (start..end).step_by(TILE) {
            let rows = (row, (row + TILE).min(end));
            let images = &self.rows[rows.0..rows.1];
            let image_panel = panel(&mut image_buffer, self.image_nd, self.dim, images);
            for column in (0..self.columns.len()).step_by(TILE) {
                let columns = (column, (column + TILE).min(self.columns.len()));
                if wanted(rows, columns) {
                    let texts = &self.columns[columns.0..columns.1];
                    let text_panel = panel(&mut text_buffer, self.text_md, self.dim, texts);
                    multiply(&mut scores, image_panel, text_panel, self.dim);
                    visit(&Tile { rows, columns, scores: &scores });
                }
            }
        }
    }
}

/// Embeddings of some rows as a panel `[TILE, dim]`: where they lie if they follow one another, or else copied and
/// filled up with zeros.
fn panel<'a>(buffer: &'a mut [f32], embeddings: &'a [f32], dim: usize, rows: &[u32]) -> &'a [f32] {
    let in_sequence = rows.windows(2).all(|pair| pair[0] + 1 == pair[1]);
    if rows.len() == TILE && in_sequence {
        return &embeddings[rows[0] as usize * dim..][..TILE * dim];
    }
    let (taken, rest) = buffer.split_at_mut(rows.len() * dim);
    for (slot, &row) in taken.chunks_exact_mut(dim).zip(rows) {
        slot.copy_from_slice(&embeddings[row as usize * dim..][..dim]);
    }
    rest.fill(0.0);
    buffer
}

/// scores `[TILE, TILE]` = images · textsᵀ, row-major.
fn multiply(scores: &mut [f32], image_panel: &[f32], text_panel: &[f32], dim: usize) {
    assert!(scores.len() == TILE * TILE && image_panel.len() == TILE * dim && text_panel.len() == TILE * dim);
    let (tile, depth) = (TILE as isize, dim as isize);
    // SAFETY: all three buffers hold exactly the elements that shape and strides reach (asserted above), and
    // `scores` is borrowed mutably, so it overlaps neither panel.
    unsafe {
        gemm::gemm(
            TILE,
            TILE,
            dim,
            scores.as_mut_ptr(),
            1,
            tile,
            false,
            image_panel.as_ptr(),
            1,
            depth,
            text_panel.as_ptr(),
            depth,
            1,
            0.0f32,
            1.0f32,
            false,
            false,
            false,
            Parallelism::None,
        );
    }
}
