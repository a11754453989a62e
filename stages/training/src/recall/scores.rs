//! What is ranked: the score of every image with every caption, one tile at a time.

use rayon::prelude::*;

use super::check_rows;
use super::tile::{TILE, multiply, panel};
use crate::error::{Error, Result};

/// Below every score: there is nothing that the image could be found by, or searched with. Whoever asks for it has lost
/// in both readings of ties.
pub const LOST: f32 = f32::MIN;

/// Scores of images and captions.
pub trait Scores: Sync {
    /// Numbers of images and of captions.
    fn shape(&self) -> (usize, usize);

    /// Fills `scores` (row-major, `TILE` wide) with those of some images (rows) and captions (columns), finite all; what
    /// lies beyond them is not read. A pair has the same score to the last bit in every tile.
    fn fill(&self, images: &[u32], captions: &[u32], room: &mut Room, scores: &mut [f32]);
}

/// Room that a thread works in.
#[derive(Default)]
pub struct Room {
    images: Vec<f32>,
    captions: Vec<f32>,
}

impl Room {
    /// Panels `[TILE, D]` of images and of captions.
    pub(super) fn panels(&mut self, dim: usize) -> (&mut [f32], &mut [f32]) {
        let length = TILE * dim;
        for panel in [&mut self.images, &mut self.captions] {
            if panel.len() < length {
                panel.resize(length, 0.0);
            }
        }
        (&mut self.images[..length], &mut self.captions[..length])
    }
}

/// Which side asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Queries {
    /// Images query captions.
    Images,
    /// Captions query images.
    Captions,
}

/// What several vectors of an image come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Combine {
    /// Their largest cosine with the caption.
    Max,
    /// The mean of their cosines.
    Mean,
}

/// Cosines of captions with the vectors of an image, however many it has.
pub struct Variants<'a> {
    combine: Combine,
    vector_vd: &'a [f32],
    /// Where each image's vectors begin, and one past the last.
    starts: Vec<u32>,
    text_md: &'a [f32],
    dim: usize,
}

impl<'a> Variants<'a> {
    /// `vector_vd [V, D]` are the vectors of the first image, then of the second, and so on, as many as `counts_n [N]`
    /// says; an image without any is [`LOST`]. `text_md [M, D]` are those of the captions.
    ///
    /// # Errors
    /// Lengths that do not add up, vectors that are not finite or not normalised.
    pub fn new(
        combine: Combine,
        (vector_vd, counts_n): (&'a [f32], &[usize]),
        text_md: &'a [f32],
        dim: usize,
    ) -> Result<Self> {
        let mut starts = vec![0u32];
        let mut sum = 0;
        for count in counts_n {
            sum += count;
            starts.push(u32::try_from(sum).map_err(|_| Error::argument("counts_n", "more than 2^32 vectors"))?);
        }
        if dim == 0 || vector_vd.len() != sum * dim || !text_md.len().is_multiple_of(dim) {
            let (vectors, texts) = (vector_vd.len(), text_md.len());
            let problem = format!("{vectors} and {texts} values for {sum} vectors and captions of {dim} dimensions");
            return Err(Error::argument("vector_vd", problem));
        }
        check_rows("variant", vector_vd, dim)?;
        check_rows("caption", text_md, dim)?;
        Ok(Self { combine, vector_vd, starts, text_md, dim })
    }

    fn vectors(&self, image: u32) -> std::ops::Range<u32> {
        self.starts[image as usize]..self.starts[image as usize + 1]
    }
}

impl Scores for Variants<'_> {
    fn shape(&self) -> (usize, usize) {
        (self.starts.len() - 1, self.text_md.len() / self.dim)
    }

    fn fill(&self, images: &[u32], captions: &[u32], room: &mut Room, scores: &mut [f32]) {
        let dim = self.dim;
        let (of_images, of_captions) = room.panels(dim);
        let text_panel = panel(of_captions, self.text_md, dim, captions);
        scores.fill(LOST);
        let most = images.iter().map(|&image| self.vectors(image).len()).max().unwrap_or(0);
        let mut products = vec![0.0; TILE * TILE];
        for variant in 0..most {
            of_images.fill(0.0);
            let vectors = images.iter().map(|&image| self.vectors(image).nth(variant));
            let vectors: Vec<Option<u32>> = vectors.collect();
            for (slot, vector) in of_images.chunks_exact_mut(dim).zip(&vectors) {
                if let Some(vector) = vector {
                    slot.copy_from_slice(&self.vector_vd[*vector as usize * dim..][..dim]);
                }
            }
            multiply(&mut products, of_images, text_panel, dim);
            let rows = scores.chunks_exact_mut(TILE).zip(products.chunks_exact(TILE)).zip(&vectors);
            for ((scores, products), _) in rows.filter(|(_, vector)| vector.is_some()) {
                let pairs = scores.iter_mut().zip(products);
                match self.combine {
                    _ if variant == 0 => pairs.for_each(|(score, product)| *score = *product),
                    Combine::Max => pairs.for_each(|(best, product)| *best = best.max(*product)),
                    Combine::Mean => pairs.for_each(|(sum, product)| *sum += product),
                }
            }
        }
        if self.combine == Combine::Mean {
            for (scores, &image) in scores.chunks_exact_mut(TILE).zip(images) {
                let count = self.vectors(image).len();
                if count > 1 {
                    scores.iter_mut().for_each(|score| *score /= count as f32);
                }
            }
        }
    }
}

/// Scores of each query with mean 0 and deviation 1 over what it searches: those of different models can be added.
pub struct Standardised<'a> {
    scores: &'a dyn Scores,
    by: Queries,
    /// Mean and inverse deviation of each query.
    moments: Vec<(f64, f64)>,
}

impl<'a> Standardised<'a> {
    /// Over all images and captions; what is [`LOST`] stays so and does not count.
    pub fn new(scores: &'a dyn Scores, by: Queries) -> Self {
        let (images, captions) = scores.shape();
        let (queries, answers) = match by {
            Queries::Images => (images, captions),
            Queries::Captions => (captions, images),
        };
        let numbers = |start: usize, end: usize| (start as u32..end as u32).collect::<Vec<u32>>();
        // one task sees all answers of its queries, in their order: no sum depends on threads
        let moments = (0..queries.div_ceil(TILE)).into_par_iter().flat_map_iter(|tile| {
            let asked = numbers(tile * TILE, ((tile + 1) * TILE).min(queries));
            let (mut room, mut scored) = (Room::default(), vec![0.0; TILE * TILE]);
            let mut sums = vec![Sums::default(); asked.len()];
            for start in (0..answers).step_by(TILE) {
                let answered = numbers(start, (start + TILE).min(answers));
                match by {
                    Queries::Images => scores.fill(&asked, &answered, &mut room, &mut scored),
                    Queries::Captions => scores.fill(&answered, &asked, &mut room, &mut scored),
                }
                for (query, sums) in sums.iter_mut().enumerate() {
                    (0..answered.len()).for_each(|answer| {
                        sums.add(match by {
                            Queries::Images => scored[query * TILE + answer],
                            Queries::Captions => scored[answer * TILE + query],
                        });
                    });
                }
            }
            sums.into_iter().map(Sums::moments).collect::<Vec<_>>()
        });
        Self { scores, by, moments: moments.collect() }
    }
}

#[derive(Clone, Copy, Default)]
struct Sums {
    count: f64,
    sum: f64,
    squares: f64,
}

impl Sums {
    fn add(&mut self, score: f32) {
        if score > LOST {
            self.count += 1.0;
            self.sum += f64::from(score);
            self.squares += f64::from(score).powi(2);
        }
    }

    /// Mean and inverse deviation; equal scores have none, and say nothing.
    fn moments(self) -> (f64, f64) {
        let mean = self.sum / self.count.max(1.0);
        let variance = self.squares / self.count.max(1.0) - mean * mean;
        (mean, if variance > 1e-12 { 1.0 / variance.sqrt() } else { 0.0 })
    }
}

impl Scores for Standardised<'_> {
    fn shape(&self) -> (usize, usize) {
        self.scores.shape()
    }

    fn fill(&self, images: &[u32], captions: &[u32], room: &mut Room, scores: &mut [f32]) {
        self.scores.fill(images, captions, room, scores);
        for (scores, &image) in scores.chunks_exact_mut(TILE).zip(images) {
            for (score, &caption) in scores.iter_mut().zip(captions) {
                if *score > LOST {
                    let query = if self.by == Queries::Images { image } else { caption };
                    let (mean, inverse) = self.moments[query as usize];
                    *score = ((f64::from(*score) - mean) * inverse) as f32;
                }
            }
        }
    }
}

/// share · one + (1 − share) · other. What is [`LOST`] in either that has a share is lost.
pub struct WeightedSum<'a> {
    /// Scores that count for `share`.
    pub one: &'a dyn Scores,
    /// Scores that count for the rest.
    pub other: &'a dyn Scores,
    /// Between 0 and 1.
    pub share: f32,
}

impl Scores for WeightedSum<'_> {
    fn shape(&self) -> (usize, usize) {
        let ((images, captions), (others, texts)) = (self.one.shape(), self.other.shape());
        (images.min(others), captions.min(texts))
    }

    fn fill(&self, images: &[u32], captions: &[u32], room: &mut Room, scores: &mut [f32]) {
        if self.share >= 1.0 {
            return self.one.fill(images, captions, room, scores);
        }
        self.other.fill(images, captions, room, scores);
        if self.share <= 0.0 {
            return;
        }
        let mut of_one = vec![0.0; TILE * TILE];
        self.one.fill(images, captions, room, &mut of_one);
        for (score, &one) in scores.iter_mut().zip(&of_one) {
            let is_lost = *score <= LOST || one <= LOST;
            *score = if is_lost { LOST } else { self.share * one + (1.0 - self.share) * *score };
        }
    }
}

#[cfg(test)]
#[path = "scores_tests.rs"]
mod tests;
