//! Best positive scores and the counts above and level with them.

use pulp::{Arch, Simd, WithSimd};

use super::QueryRanks;
use super::positives::{Layout, Positives};
use super::product::Tile;
use super::scores::LOST;

/// Place of a query's best positive, counted from 0, with its ties kept apart.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Rank {
    /// Wrong answers with a higher score.
    pub greater: u32,
    /// Wrong answers with the same score that are equal captions or byte-equal images: no model can part them.
    pub twin_ties: u32,
    /// All other wrong answers with the same score.
    pub other_ties: u32,
}

impl Rank {
    /// r at t = 0.
    pub fn optimistic(self) -> u32 {
        self.greater
    }

    /// r at t = 1.
    pub fn pessimistic(self) -> u32 {
        self.greater + self.twin_ties + self.other_ties
    }
}

/// Score of the best positive of every row and column; -inf where there is none (yet).
pub(super) struct Best {
    row: Vec<f32>,
    column: Vec<f32>,
}

impl Best {
    pub(super) fn new(layout: &Layout) -> Self {
        Self { row: vec![f32::NEG_INFINITY; layout.rows.len()], column: vec![f32::NEG_INFINITY; layout.columns.len()] }
    }

    pub(super) fn add(&mut self, tile: &Tile, positives: &Positives) {
        for row in tile.rows.0..tile.rows.1 {
            let scores = tile.row(row);
            for column in positives.columns(row, tile.columns) {
                let score = scores[column - tile.columns.0];
                self.row[row] = self.row[row].max(score);
                self.column[column] = self.column[column].max(score);
            }
        }
    }

    pub(super) fn merge(mut self, other: Self) -> Self {
        let pairs = self.row.iter_mut().zip(other.row).chain(self.column.iter_mut().zip(other.column));
        pairs.for_each(|(a, b)| *a = a.max(b));
        self
    }
}

pub(super) struct Counts {
    row: Vec<Rank>,
    column: Vec<Rank>,
    /// `greater` of the columns, apart so that whole vectors of it are read and written.
    column_greater: Vec<u32>,
    arch: Arch,
}

impl Counts {
    pub(super) fn new(layout: &Layout) -> Self {
        Self {
            row: vec![Rank::default(); layout.rows.len()],
            column: vec![Rank::default(); layout.columns.len()],
            column_greater: vec![0; layout.columns.len()],
            arch: Arch::new(),
        }
    }

    /// Counts one tile in both directions. Equal scores are rare but for each positive itself, so the vector loop
    /// only notices them, and the row is read again when it did.
    pub(super) fn add(&mut self, tile: &Tile, best: &Best, positives: &Positives, layout: &Layout) {
        let (start, end) = tile.columns;
        for row in tile.rows.0..tile.rows.1 {
            let scores = tile.row(row);
            let (greater, ties) = self.arch.dispatch(CountRow {
                scores,
                row_best: best.row[row],
                column_best: &best.column[start..end],
                column_greater: &mut self.column_greater[start..end],
            });
            self.row[row].greater += greater;
            if ties {
                self.add_ties(row, start, scores, best, positives, layout);
            }
        }
    }

    fn add_ties(
        &mut self,
        row: usize,
        start: usize,
        scores: &[f32],
        best: &Best,
        positives: &Positives,
        layout: &Layout,
    ) {
        for (column, &score) in (start..).zip(scores) {
            let (in_row, in_column) = (score == best.row[row], score == best.column[column]);
            if !(in_row || in_column) || positives.contains(row, column) {
                continue;
            }
            if in_row {
                self.row[row].add_tie(layout.twin_of_own_caption(row, column));
            }
            if in_column {
                self.column[column].add_tie(layout.twin_of_own_image(row, column));
            }
        }
    }

    pub(super) fn merge(mut self, other: Self) -> Self {
        let pairs = self.row.iter_mut().zip(other.row).chain(self.column.iter_mut().zip(other.column));
        pairs.for_each(|(a, b)| a.add(b));
        self.column_greater.iter_mut().zip(other.column_greater).for_each(|(a, b)| *a += b);
        self
    }

    /// Ranks by gallery row; images without positives are no queries.
    pub(super) fn into_ranks(self, best: &Best, layout: &Layout) -> QueryRanks {
        // what cannot be found stands last, however ties are read
        let or_last = |rank: Rank, best: f32, answers: usize| match best <= LOST {
            true => Rank { greater: answers.saturating_sub(1) as u32, ..Rank::default() },
            false => rank,
        };
        let images = layout.rows.iter().zip(self.row).zip(&best.row).filter(|&(_, &best)| best > f32::NEG_INFINITY);
        let columns = layout.columns.iter().zip(self.column).zip(self.column_greater).zip(&best.column);
        let mut captions: Vec<(u32, Rank)> = columns
            .map(|(((&caption, rank), greater), &best)| {
                (caption, or_last(Rank { greater, ..rank }, best, layout.rows.len()))
            })
            .collect();
        captions.sort_unstable_by_key(|&(caption, _)| caption);
        let mut images: Vec<(u32, Rank)> =
            images.map(|((&image, rank), &best)| (image, or_last(rank, best, layout.columns.len()))).collect();
        images.sort_unstable_by_key(|&(image, _)| image);
        QueryRanks { images, captions }
    }
}

impl Rank {
    fn add(&mut self, other: Self) {
        self.greater += other.greater;
        self.twin_ties += other.twin_ties;
        self.other_ties += other.other_ties;
    }

    fn add_tie(&mut self, twin: bool) {
        if twin {
            self.twin_ties += 1;
        } else {
            self.other_ties += 1;
        }
    }
}

/// One row of a tile: counts scores above the row's threshold, adds to every column whose threshold is exceeded, and
/// says whether any score equals either. Plain loops; `pulp` compiles them once per instruction set.
struct CountRow<'a> {
    scores: &'a [f32],
    row_best: f32,
    column_best: &'a [f32],
    column_greater: &'a mut [u32],
}

impl WithSimd for CountRow<'_> {
    type Output = (u32, bool);

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) -> Self::Output {
        let (mut greater, mut ties) = (0u32, 0u32);
        let columns = self.column_best.iter().zip(self.column_greater);
        for (&score, (&column_best, column_greater)) in self.scores.iter().zip(columns) {
            // Counts stay below the gallery's 2^32 rows; a check for overflow would keep the loop from vector code.
            greater = u32::wrapping_add(greater, u32::from(score > self.row_best));
            *column_greater = column_greater.wrapping_add(u32::from(score > column_best));
            ties |= u32::from(score == self.row_best) | u32::from(score == column_best);
        }
        (greater, ties != 0)
    }
}
