//! One tile of scores: a matrix product of always the same shape.

use gemm::Parallelism;

/// Rows and columns of a tile: its scores (1.3 MiB) fit a second-level cache, and it is a multiple of every
/// register block of gemm's kernels.
///
/// Every product has exactly this shape, the last ones padded with zero rows. gemm chooses kernel and summation order
/// by shape, so a pair of embeddings has the same score to the last bit in whatever tile and position it lies:
/// equal captions tie, and results do not depend on how the work was cut.
pub(crate) const TILE: usize = 576;

/// Embeddings of some rows as a panel `[TILE, dim]`: where they lie if they follow one another, or else copied and
/// filled up with zeros.
pub(super) fn panel<'a>(buffer: &'a mut [f32], embeddings: &'a [f32], dim: usize, rows: &[u32]) -> &'a [f32] {
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
pub(super) fn multiply(scores: &mut [f32], image_panel: &[f32], text_panel: &[f32], dim: usize) {
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
