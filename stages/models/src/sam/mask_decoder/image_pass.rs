//! One prompt's pass over the image: the image takes from the tokens, and the next layer's tokens take from the image.

use super::weights::{AttentionWeights, ImageSide, LayerWeights, Shape};
use crate::ops::matrix::{Matrix, MatrixMut, Threads, Write, multiply};
use crate::ops::real::{Real, add, vectorised};
use crate::ops::window_attention::SoftmaxRow;

/// Positions of the image that are worked on at a time: their 256 KiB stay in the cache.
const POSITIONS_PER_TILE: usize = 256;

/// The rows of all matrices are heads and, within each head, tokens.
pub(super) struct ImagePass<'a> {
    shape: Shape,
    layer: &'a LayerWeights,
    next: &'a AttentionWeights,
    places: &'a [f32],
    /// In the first layer the image before the pass.
    shared: Option<&'a ImageSide>,
    tokens: usize,
    /// `[T, inner]` keys of the tokens, for the first layer.
    k: &'a [f32],
    /// `[heads * T, D]`: a position times this is its score for each token, without `score_bias`.
    scoring: Vec<f32>,
    score_bias: Vec<f32>,
    /// `[heads * T, D]`: what a position takes from each token.
    taking: Vec<f32>,
    /// `[heads * T, D]`: a position times this is the next score of each token for it.
    next_scoring: Vec<f32>,
}

impl<'a> ImagePass<'a> {
    /// Tokens' keys `k`, values `v` and next queries `q`, `[T, inner]` each.
    #[allow(clippy::too_many_arguments)] // one call, and each has a meaning of its own
    pub(super) fn new(
        shape: Shape,
        layer: &'a LayerWeights,
        next: &'a AttentionWeights,
        places: &'a [f32],
        shared: Option<&'a ImageSide>,
        k: &'a [f32],
        v: &[f32],
        q: &[f32],
    ) -> Self {
        let pass = &layer.image_to_token;
        let (tokens, head_width) = (k.len() / shape.inner, shape.inner / shape.heads);
        let (mut scoring, mut score_bias) = (Vec::new(), Vec::new());
        if shared.is_none() {
            scoring = fold(shape, k, &pass.q.weight);
            for row in 0..shape.heads * tokens {
                let start = row / tokens * head_width;
                let k = &k[row % tokens * shape.inner + start..][..head_width];
                let dot: f32 = k.iter().zip(&pass.q.bias[start..]).map(|(k, b)| k * b).sum();
                score_bias.push(dot * shape.scale());
            }
        }
        let mut taking = vec![0.0; shape.heads * tokens * shape.width];
        for (head, taking) in taking.chunks_exact_mut(tokens * shape.width).enumerate() {
            let start = head * head_width;
            multiply(
                MatrixMut::new(taking, tokens, shape.width),
                Write::Overwrite,
                Matrix::strided(&v[start..], tokens, head_width, shape.inner),
                Matrix::strided(&pass.out.weight[start..], shape.width, head_width, shape.inner).t(),
                1.0,
                Threads::One,
            );
        }
        let next_scoring = fold(shape, q, &next.k.weight);
        Self { shape, layer, next, places, shared, tokens, k, scoring, score_bias, taking, next_scoring }
    }

    /// Brings `image [N, D]` up to date, and writes what the next layer's tokens take from it to `attended [T, inner]`.
    pub(super) fn run(&self, image: &mut Vec<f32>, attended: &mut [f32]) {
        let Shape { width, positions, .. } = self.shape;
        if let Some(shared) = self.shared {
            image.clear();
            image.extend_from_slice(&shared.keys);
        }
        let rows = self.shape.heads * self.tokens;
        let mut scores = vec![0.0; rows * POSITIONS_PER_TILE];
        let mut placed = vec![0.0; POSITIONS_PER_TILE * width];
        let mut sums = vec![0.0; rows * width];
        let mut softmax = vec![SoftmaxRow::<f32>::new(); rows];
        for first in (0..positions).step_by(POSITIONS_PER_TILE) {
            let here = POSITIONS_PER_TILE.min(positions - first);
            let tile = &mut image[first * width..][..here * width];
            let places = &self.places[first * width..][..here * width];
            let (scores, placed) = (&mut scores[..rows * here], &mut placed[..here * width]);
            self.score(first, tile, places, placed, scores);
            self.take(tile, scores);
            self.layer.norm_4.apply(tile);

            add_places(tile, places, placed);
            scores_of(&self.next_scoring, placed, scores, rows, width);
            vectorised(
                #[inline(always)]
                || {
                    let rows = scores.chunks_exact_mut(here).zip(sums.chunks_exact_mut(width)).zip(&mut softmax);
                    for ((scores, sums), softmax) in rows {
                        softmax.exponentiate(scores, sums);
                    }
                },
            );
            multiply(
                MatrixMut::new(&mut sums, rows, width),
                Write::Add,
                Matrix::new(scores, rows, here),
                Matrix::new(tile, here, width),
                1.0,
                Threads::One,
            );
        }
        for (sums, softmax) in sums.chunks_exact_mut(width).zip(&softmax) {
            sums.iter_mut().for_each(|sum| *sum /= softmax.total);
        }
        self.project(&sums, attended);
    }

    /// Scores `[heads * T, here]` of the positions of a tile for the tokens.
    fn score(&self, first: usize, tile: &[f32], places: &[f32], placed: &mut [f32], scores: &mut [f32]) {
        let Shape { width, inner, heads, .. } = self.shape;
        let here = tile.len() / width;
        let rows = heads * self.tokens;
        let Some(shared) = self.shared else {
            add_places(tile, places, placed);
            scores_of(&self.scoring, placed, scores, rows, width);
            for (scores, bias) in scores.chunks_exact_mut(here).zip(&self.score_bias) {
                scores.iter_mut().for_each(|score| *score += bias);
            }
            return;
        };
        let head_width = inner / heads;
        for (head, scores) in scores.chunks_exact_mut(self.tokens * here).enumerate() {
            let start = head * head_width;
            multiply(
                MatrixMut::new(scores, self.tokens, here),
                Write::Overwrite,
                Matrix::strided(&self.k[start..], self.tokens, head_width, inner),
                Matrix::strided(&shared.projected_queries[first * inner + start..], here, head_width, inner).t(),
                f64::from(self.shape.scale()),
                Threads::One,
            );
        }
    }

    /// Adds to every position of a tile what it takes from the tokens.
    fn take(&self, tile: &mut [f32], scores: &mut [f32]) {
        let width = self.shape.width;
        let (here, rows) = (tile.len() / width, self.shape.heads * self.tokens);
        softmax_over_rows(scores, self.tokens, here);
        vectorised(
            #[inline(always)]
            || tile.chunks_exact_mut(width).for_each(|row| add(row, &self.layer.image_to_token.out.bias)),
        );
        multiply(
            MatrixMut::new(tile, here, width),
            Write::Add,
            Matrix::new(scores, rows, here).t(),
            Matrix::new(&self.taking, rows, width),
            1.0,
            Threads::One,
        );
    }

    /// Averages of the image `[heads * T, D]` to values `[T, inner]`.
    fn project(&self, sums: &[f32], attended: &mut [f32]) {
        let Shape { width, inner, heads, .. } = self.shape;
        let head_width = inner / heads;
        attended.chunks_exact_mut(inner).for_each(|row| row.copy_from_slice(&self.next.v.bias));
        for (head, sums) in sums.chunks_exact(self.tokens * width).enumerate() {
            let start = head * head_width;
            multiply(
                MatrixMut::strided(&mut attended[start..], self.tokens, head_width, inner),
                Write::Add,
                Matrix::new(sums, self.tokens, width),
                Matrix::new(&self.next.v.weight[start * width..], head_width, width).t(),
                1.0,
                Threads::One,
            );
        }
    }
}

/// Folds a projection of the image, `weight [inner, D]`, into the tokens `[T, inner]` that it is multiplied with:
/// `[heads * T, D]`, scaled.
fn fold(s: Shape, tokens: &[f32], weight: &[f32]) -> Vec<f32> {
    let (count, head_width) = (tokens.len() / s.inner, s.inner / s.heads);
    let mut out = vec![0.0; s.heads * count * s.width];
    for (head, out) in out.chunks_exact_mut(count * s.width).enumerate() {
        let start = head * head_width;
        multiply(
            MatrixMut::new(out, count, s.width),
            Write::Overwrite,
            Matrix::strided(&tokens[start..], count, head_width, s.inner),
            Matrix::new(&weight[start * s.width..], head_width, s.width),
            f64::from(s.scale()),
            Threads::One,
        );
    }
    out
}

/// `scoring [rows, D]` times the transposed `placed [here, D]`.
fn scores_of(scoring: &[f32], placed: &[f32], scores: &mut [f32], rows: usize, width: usize) {
    let here = placed.len() / width;
    multiply(
        MatrixMut::new(scores, rows, here),
        Write::Overwrite,
        Matrix::new(scoring, rows, width),
        Matrix::new(placed, here, width).t(),
        1.0,
        Threads::One,
    );
}

fn add_places(tile: &[f32], places: &[f32], placed: &mut [f32]) {
    vectorised(
        #[inline(always)]
        || {
            for ((placed, tile), place) in placed.iter_mut().zip(tile).zip(places) {
                *placed = tile + place;
            }
        },
    );
}

/// Softmax over each `tokens` consecutive rows of `here` columns.
fn softmax_over_rows(scores: &mut [f32], tokens: usize, here: usize) {
    vectorised(
        #[inline(always)]
        || {
            let mut largest = [0.0f32; POSITIONS_PER_TILE];
            let mut total = [0.0f32; POSITIONS_PER_TILE];
            let (largest, total) = (&mut largest[..here], &mut total[..here]);
            for head in scores.chunks_exact_mut(tokens * here) {
                largest.fill(f32::MIN);
                total.fill(0.0);
                for row in head.chunks_exact(here) {
                    for (largest, &x) in largest.iter_mut().zip(row) {
                        *largest = largest.larger(x);
                    }
                }
                for row in head.chunks_exact_mut(here) {
                    for ((x, &largest), total) in row.iter_mut().zip(largest.iter()).zip(total.iter_mut()) {
                        *x = Real::exp(*x - largest);
                        *total += *x;
                    }
                }
                total.iter_mut().for_each(|total| *total = 1.0 / *total);
                for row in head.chunks_exact_mut(here) {
                    for (x, &factor) in row.iter_mut().zip(total.iter()) {
                        *x *= factor;
                    }
                }
            }
        },
    );
}
