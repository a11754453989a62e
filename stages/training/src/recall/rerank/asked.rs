//! Scores seen from the side of the queries, whichever it is.

use rayon::prelude::*;

use crate::recall::tile::TILE;
use crate::recall::{Queries, Room, Scores};

/// Scores of queries (rows) with answers (columns).
#[derive(Clone, Copy)]
pub(super) struct Asked<'a> {
    pub(super) scores: &'a dyn Scores,
    pub(super) by: Queries,
}

/// Changes the score of each pair in a tile of images (rows) and captions, by query and answer.
pub(super) fn change(
    by: Queries,
    (images, captions): (&[u32], &[u32]),
    scores: &mut [f32],
    changed: impl Fn(u32, u32, f32) -> f32,
) {
    for (row, &image) in scores.chunks_exact_mut(TILE).zip(images) {
        for (score, &caption) in row.iter_mut().zip(captions) {
            *score = match by {
                Queries::Images => changed(image, caption, *score),
                Queries::Captions => changed(caption, image, *score),
            };
        }
    }
}

/// What a thread computes in.
pub(super) struct Bench {
    room: Room,
    scores: Vec<f32>,
    transposed: Vec<f32>,
}

impl Bench {
    fn new() -> Self {
        Self { room: Room::default(), scores: vec![0.0; TILE * TILE], transposed: Vec::new() }
    }
}

impl Asked<'_> {
    /// Numbers of queries and of answers.
    pub(super) fn shape(&self) -> (usize, usize) {
        let (images, captions) = self.scores.shape();
        match self.by {
            Queries::Images => (images, captions),
            Queries::Captions => (captions, images),
        }
    }

    /// The same scores with the sides changed.
    pub(super) fn turned(&self) -> Self {
        let by = match self.by {
            Queries::Images => Queries::Captions,
            Queries::Captions => Queries::Images,
        };
        Self { by, ..*self }
    }

    /// What `see` makes of each tile of queries, in order. It is shown all answers of its queries, in their order: first
    /// answer, then rows of scores, `TILE` wide, of which as many count as there are answers.
    pub(super) fn by_tile<T: Send>(
        &self,
        start: impl Fn(std::ops::Range<usize>) -> T + Sync,
        see: impl Fn(&mut T, std::ops::Range<usize>, &[f32]) + Sync,
    ) -> Vec<T> {
        let (queries, answers) = self.shape();
        (0..queries.div_ceil(TILE))
            .into_par_iter()
            .map_init(Bench::new, |bench, tile| {
                let asked = tile * TILE..((tile + 1) * TILE).min(queries);
                let mut made = start(asked.clone());
                for first in (0..answers).step_by(TILE) {
                    let answered = first..(first + TILE).min(answers);
                    see(&mut made, answered.clone(), self.tile(bench, asked.clone(), answered));
                }
                made
            })
            .collect()
    }

    fn tile<'b>(
        &self,
        bench: &'b mut Bench,
        asked: std::ops::Range<usize>,
        answered: std::ops::Range<usize>,
    ) -> &'b [f32] {
        let numbers = |range: std::ops::Range<usize>| (range.start as u32..range.end as u32).collect::<Vec<u32>>();
        let (rows, columns) = (asked.len(), answered.len());
        match self.by {
            Queries::Images => {
                self.scores.fill(&numbers(asked), &numbers(answered), &mut bench.room, &mut bench.scores);
                &bench.scores
            }
            Queries::Captions => {
                self.scores.fill(&numbers(answered), &numbers(asked), &mut bench.room, &mut bench.scores);
                bench.transposed.resize(TILE * TILE, 0.0);
                for row in 0..rows {
                    for column in 0..columns {
                        bench.transposed[row * TILE + column] = bench.scores[column * TILE + row];
                    }
                }
                &bench.transposed
            }
        }
    }
}
