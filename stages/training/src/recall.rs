//! Recall at K of image–text retrieval, both ways, exact and block by block.
//!
//! With S\[i, c\] the cosine of image i and caption c:
//!
//! - text to image: r(c) = #{i : S\[i,c\] > S\[own,c\]} + t · #{i ≠ own : S\[i,c\] = S\[own,c\]}
//! - image to text: r(i) = min over own c of the same count along the row, own captions never counted
//!
//! and a query is a hit at K when r < K. t = 0 is the optimistic reading of ties, t = 1 the pessimistic one;
//! a constant model scores 100 under the first and chance under the second, so both are always reported.
//! The minimum over own captions is reached by the best-scored one (every count falls as the score rises),
//! so one threshold per query is enough and all counts of both directions come from one pass over S.

mod chance;
mod positives;
mod product;
mod report;
pub mod rerank;
mod scores;
mod tally;
mod tile;

use choices::Protocol;
use rayon::prelude::*;

use crate::error::{Error, Result};
use chance::Chance;
pub use positives::ranked;
use positives::{Layout, Positives};
pub use product::Cosines;
use product::Tiles;
pub use report::{
    BothWays, Figures, OTHER_TIES_BOUND_POINTS, Recall, RecallReport, TieShares, beside_chance, exceeds_chance,
};
pub use scores::{Combine, LOST, Queries, Room, Scores, Standardised, Variants, WeightedSum};
pub use tally::Rank;
use tally::{Best, Counts};
use tile::TILE;

/// Embeddings whose norm is further than this from 1 are refused: their scores would not be cosines.
const NORM_TOLERANCE: f32 = 1e-2;

/// Both galleries of one evaluation, and who belongs to whom.
#[derive(Clone, Copy, Debug)]
pub struct Gallery<'a> {
    /// Image embeddings, L2-normalised, row-major `[N, D]`.
    pub image_nd: &'a [f32],
    /// Caption embeddings, L2-normalised, row-major `[M, D]`.
    pub text_md: &'a [f32],
    /// D.
    pub dim: usize,
    /// For each caption the row of its own image `[M]`. Images without captions are distractors.
    pub own_image_m: &'a [u32],
    /// Equal for byte-equal images `[N]`.
    pub image_keys_n: &'a [u64],
    /// Equal for captions with equal normalised text `[M]`.
    pub caption_keys_m: &'a [u64],
}

impl<'a> Gallery<'a> {
    /// Who belongs to whom.
    pub fn pairs(&self) -> Pairs<'a> {
        let &Gallery { own_image_m, image_keys_n, caption_keys_m, .. } = self;
        Pairs { own_image_m, image_keys_n, caption_keys_m }
    }
}

/// Who belongs to whom, as in [`Gallery`].
#[derive(Clone, Copy, Debug)]
pub struct Pairs<'a> {
    /// For each caption the row of its own image `[M]`.
    pub own_image_m: &'a [u32],
    /// Equal for byte-equal images `[N]`.
    pub image_keys_n: &'a [u64],
    /// Equal for captions with equal normalised text `[M]`.
    pub caption_keys_m: &'a [u64],
}

/// What each direction is ranked by.
#[derive(Clone, Copy)]
pub struct Directions<'a> {
    /// Captions query images.
    pub text_to_image: &'a dyn Scores,
    /// Images query captions.
    pub image_to_text: &'a dyn Scores,
}

/// Ranks of every query of one evaluation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueryRanks {
    /// Image queries as (row of the image, rank of its best positive caption), rows ascending.
    pub images: Vec<(u32, Rank)>,
    /// Caption queries as (row of the caption, rank of its best positive image), rows ascending.
    pub captions: Vec<(u32, Rank)>,
}

/// A report and the ranks it was made from (for panels of the best and worst queries).
#[derive(Clone, Debug)]
pub struct Outcome {
    /// All figures.
    pub report: RecallReport,
    /// Ranks behind `report.exact`.
    pub ranks: QueryRanks,
}

/// Evaluates both directions.
///
/// `block_rows` images are one unit of parallel work; the result does not depend on it. Memory beyond the
/// embeddings is O(N + M) counters per thread plus one tile of scores; S itself is never held.
///
/// ```
/// use training::recall::{Gallery, evaluate};
/// // two images; the first caption is that of the first one, the second fits the wrong one better
/// let gallery = Gallery {
///     image_nd: &[1.0, 0.0, 0.0, 1.0],
///     text_md: &[1.0, 0.0, 0.8, 0.6],
///     dim: 2,
///     own_image_m: &[0, 1],
///     image_keys_n: &[10, 11],
///     caption_keys_m: &[20, 21],
/// };
/// let figures = evaluate(&gallery, choices::Protocol::Standard, 64)?.report.exact.pessimistic;
/// assert_eq!((figures.t2i.at_1, figures.t2i.at_5), (50.0, 100.0));
/// assert_eq!(figures.i2t.at_1, 100.0);
/// # Ok::<(), training::Error>(())
/// ```
///
/// # Errors
/// Inconsistent lengths, an empty gallery, rows that are not finite or not normalised (named).
pub fn evaluate(gallery: &Gallery, protocol: Protocol, block_rows: usize) -> Result<Outcome> {
    check(gallery)?;
    check_pairs(&gallery.pairs())?;
    let cosines = Cosines::new(gallery.image_nd, gallery.text_md, gallery.dim)?;
    let both = Directions { text_to_image: &cosines, image_to_text: &cosines };
    evaluate_scores(both, gallery.pairs(), protocol, block_rows)
}

/// The same for scores of any kind, which may differ by direction.
///
/// # Errors
/// Inconsistent lengths, an empty gallery.
pub fn evaluate_scores(
    directions: Directions<'_>,
    pairs: Pairs<'_>,
    protocol: Protocol,
    block_rows: usize,
) -> Result<Outcome> {
    check_pairs(&pairs)?;
    let (images, captions) = (pairs.image_keys_n.len(), pairs.own_image_m.len());
    for scores in [directions.text_to_image, directions.image_to_text] {
        if scores.shape() != (images, captions) {
            let (rows, columns) = scores.shape();
            let problem = format!("of {rows} images and {columns} captions, where there are {images} and {captions}");
            return Err(Error::argument("directions", problem));
        }
    }
    if block_rows == 0 {
        return Err(Error::argument("block_rows", "is 0, needs at least 1 image per block"));
    }
    let layout = Layout::new(&pairs, protocol);
    let grouped = layout.grouped();
    let relations = match protocol {
        Protocol::Standard if layout.has_twins() => vec![layout.own_pairs(), grouped],
        Protocol::Standard => vec![layout.own_pairs()],
        Protocol::Dedup => vec![grouped],
    };
    let Directions { text_to_image, image_to_text } = directions;
    let mut ranks = rank_all(text_to_image, &layout, &relations, block_rows);
    if !std::ptr::addr_eq(text_to_image, image_to_text) {
        let of_images = rank_all(image_to_text, &layout, &relations, block_rows);
        ranks.iter_mut().zip(of_images).for_each(|(ranks, other)| ranks.images = other.images);
    }
    let chances = relations.iter().map(|relation| Chance::of(&layout, relation));
    let mut judged: Vec<(QueryRanks, Chance)> = ranks.into_iter().zip(chances).collect();
    // Without twins a caption's group is the pair itself; under `dedup` there is only one relation.
    let group = (judged.len() == 2).then(|| judged.remove(1));
    let exact = judged.remove(0);
    let report = RecallReport::new(protocol, &layout, &exact, group.as_ref().unwrap_or(&exact));
    Ok(Outcome { report, ranks: exact.0 })
}

/// Ranks under each relation, from one pass for the best positive scores and one for the counts.
fn rank_all(scores: &dyn Scores, layout: &Layout, relations: &[Positives], block_rows: usize) -> Vec<QueryRanks> {
    let rows = layout.rows.len();
    let blocks: Vec<(usize, usize)> =
        (0..rows).step_by(block_rows).map(|start| (start, (start + block_rows).min(rows))).collect();
    let tiles = Tiles { scores, rows: &layout.rows, columns: &layout.columns };

    // The positive scores come from the very tiles that the second pass computes again: gemm's summation order
    // depends on the shape of the call, and a score that differs in its last bit would not tie with itself.
    let no_best = || relations.iter().map(|_| Best::new(layout)).collect::<Vec<_>>();
    let best: Vec<Best> = blocks
        .par_iter()
        .fold(no_best, |mut best, &block| {
            tiles.for_each(
                block,
                |rows, columns| relations.iter().any(|relation| relation.touches(rows, columns)),
                |tile| {
                    for (best, relation) in best.iter_mut().zip(relations) {
                        best.add(tile, relation);
                    }
                },
            );
            best
        })
        .reduce(no_best, |a, b| a.into_iter().zip(b).map(|(a, b)| a.merge(b)).collect());

    let no_counts = || relations.iter().map(|_| Counts::new(layout)).collect::<Vec<_>>();
    let counts: Vec<Counts> = blocks
        .par_iter()
        .fold(no_counts, |mut counts, &block| {
            tiles.for_each(
                block,
                |_, _| true,
                |tile| {
                    for ((counts, best), relation) in counts.iter_mut().zip(&best).zip(relations) {
                        counts.add(tile, best, relation, layout);
                    }
                },
            );
            counts
        })
        .reduce(no_counts, |a, b| a.into_iter().zip(b).map(|(a, b)| a.merge(b)).collect());

    counts.into_iter().zip(&best).map(|(counts, best)| counts.into_ranks(best, layout)).collect()
}

fn check(gallery: &Gallery) -> Result<()> {
    let &Gallery { image_nd, text_md, dim, own_image_m, image_keys_n, .. } = gallery;
    let (images, captions) = (image_keys_n.len(), own_image_m.len());
    if dim == 0 {
        return Err(Error::argument("gallery", "vectors of 0 dimensions: nothing to evaluate"));
    }
    for (what, found, expected) in
        [("image_nd", image_nd.len(), images * dim), ("text_md", text_md.len(), captions * dim)]
    {
        if found != expected {
            let problem = format!(
                "has {found} values, {images} images and {captions} captions of {dim} dimensions need {expected}"
            );
            return Err(Error::argument(what, problem));
        }
    }
    Ok(())
}

fn check_pairs(&Pairs { own_image_m, image_keys_n, caption_keys_m }: &Pairs) -> Result<()> {
    let (images, captions) = (image_keys_n.len(), own_image_m.len());
    if images == 0 || captions == 0 {
        let problem = format!("{images} images and {captions} captions: nothing to evaluate");
        return Err(Error::argument("gallery", problem));
    }
    if images > u32::MAX as usize || captions > u32::MAX as usize {
        return Err(Error::argument("gallery", format!("{images} images, {captions} captions: at most 2^32 - 1 each")));
    }
    if caption_keys_m.len() != captions {
        let problem = format!("has {} values, {captions} captions need {captions}", caption_keys_m.len());
        return Err(Error::argument("caption_keys_m", problem));
    }
    if let Some(c) = own_image_m.iter().position(|&own| own as usize >= images) {
        let problem = format!("caption {c} belongs to image {}, the gallery has {images} images", own_image_m[c]);
        return Err(Error::argument("own_image_m", problem));
    }
    Ok(())
}

fn check_rows(what: &str, rows: &[f32], dim: usize) -> Result<()> {
    let bad = rows.par_chunks_exact(dim).enumerate().find_map_first(|(row, values)| {
        let norm = values.iter().map(|v| v * v).sum::<f32>().sqrt();
        // Also true for a norm that is not a number.
        let good = (norm - 1.0).abs() <= NORM_TOLERANCE;
        (!good).then_some((row, norm))
    });
    match bad {
        None => Ok(()),
        Some((row, norm)) => Err(Error::Numbers {
            what: format!("embedding of {what} {row}"),
            problem: format!("has norm {norm}; embeddings must be finite and L2-normalised before recall is counted"),
        }),
    }
}

/// Images per unit of parallel work that suits the tiles.
pub const DEFAULT_BLOCK_ROWS: usize = TILE;

#[cfg(test)]
mod tests;
