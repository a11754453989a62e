//! The decoder on the CPU.
//!
//! Prompts share an image, and a prompt has few tokens. That saves more than half of the products that the formulas
//! ask for:
//!
//! - What the first layer needs of the image (queries, keys, values) is computed once per image.
//! - Later, with H heads and T tokens, the projections of the image fold into those of the tokens: the scores of head h
//!   are q W_k x^T = (W_k^T q^T)^T x^T, a product of width H T (56 for a point) instead of two of width D / 2, and
//!   values are projected after they were averaged. The same holds for what the image takes from the tokens.
//! - One pass over the image updates it and attends to it for the next layer, a few hundred positions at a time, so
//!   that everything but the image itself stays in the cache.
//! - Masks whose predicted quality is too low are never upscaled.

use super::image_pass::ImagePass;
use super::upscale::Upscaler;
use super::weights::{AttentionWeights, Dense, ImageSide, LayerWeights, Norm, Shape, all, sum};
use super::{LowResMask, MaskDecoder, Selection, check_quality};
use crate::Result;
use crate::ops::matrix::{Matrix, MatrixMut, Threads, Write, multiply};
use crate::ops::real::{add, softmax, vectorised};
use crate::sam::prompt_encoder::floats;
use rayon::prelude::*;

/// Prompts whose tokens share a matrix product. The last group is filled up, so that no result depends on the number
/// of prompts; each prompt's copy of the image is held meanwhile (4 MiB for published sizes).
const PROMPTS_PER_GROUP: usize = 16;

#[derive(Debug)]
pub(super) struct Kernel {
    pub(super) shape: Shape,
    output_tokens: Vec<f32>,
    layers: Vec<LayerWeights>,
    final_attention: AttentionWeights,
    final_norm: Norm,
    upscaler: Upscaler,
    hypernetworks: Vec<Vec<Dense>>,
    iou_head: Vec<Dense>,
    /// `[N, D]`
    places: Vec<f32>,
}

impl Kernel {
    pub(super) fn new(decoder: &MaskDecoder) -> Result<Self> {
        let (positions, width) = decoder.places.dims2()?;
        let final_attention = AttentionWeights::new(&decoder.final_attention)?;
        let inner = final_attention.q.bias.len();
        Ok(Self {
            shape: Shape { positions, width, inner, heads: decoder.final_attention.heads },
            output_tokens: floats(&decoder.output_tokens)?,
            layers: all(&decoder.layers, LayerWeights::new)?,
            final_attention,
            final_norm: Norm::new(&decoder.final_norm)?,
            upscaler: Upscaler::new(&decoder.upscaling, decoder.side)?,
            hypernetworks: all(&decoder.hypernetworks, |layers| all(layers, Dense::new))?,
            iou_head: all(&decoder.iou_head, Dense::new)?,
            places: floats(&decoder.places)?,
        })
    }

    /// `keys [N, D]`: the embedding of the image and of its mask prompt.
    pub(super) fn image_side(&self, keys: Vec<f32>) -> ImageSide {
        let first = &self.layers[0];
        let placed = sum(&keys, &self.places);
        ImageSide {
            projected_keys: first.token_to_image.k.apply(&placed),
            projected_values: first.token_to_image.v.apply(&keys),
            projected_queries: first.image_to_token.q.apply(&placed),
            keys,
        }
    }

    /// `sparse [P, length, D]`
    pub(super) fn predict(
        &self,
        image: &ImageSide,
        sparse: &[f32],
        length: usize,
        prompts: usize,
        selection: &Selection,
    ) -> Result<Vec<LowResMask>> {
        let width = self.shape.width;
        let tokens = self.output_tokens.len() / width + length;
        let mut images = vec![Vec::new(); PROMPTS_PER_GROUP.min(prompts)];
        let mut masks = Vec::new();
        for first in (0..prompts).step_by(PROMPTS_PER_GROUP) {
            let here = PROMPTS_PER_GROUP.min(prompts - first);
            let mut group = vec![0.0; PROMPTS_PER_GROUP * tokens * width];
            for (i, group) in group.chunks_exact_mut(tokens * width).take(here).enumerate() {
                let (outputs, prompt) = group.split_at_mut(self.output_tokens.len());
                outputs.copy_from_slice(&self.output_tokens);
                prompt.copy_from_slice(&sparse[(first + i) * length * width..][..length * width]);
            }
            let images = &mut images[..here];
            let queries = self.transform(image, &group, tokens, images);
            masks.extend(self.heads(&queries, tokens, images, selection, first)?);
        }
        Ok(masks)
    }

    /// The two-way Transformer: tokens `[G, T, D]` to the same, and for each prompt the image `[N, D]`.
    fn transform(&self, image: &ImageSide, tokens: &[f32], count: usize, images: &mut [Vec<f32>]) -> Vec<f32> {
        let per_prompt = count * self.shape.inner;
        let first = &self.layers[0];
        let mut queries = self.attend_self(&first.self_attention, tokens, None, count);
        first.norm_1.apply(&mut queries);
        let q = first.token_to_image.q.apply(&sum(&queries, tokens));
        let mut attended = vec![0.0; q.len()];
        attended
            .par_chunks_exact_mut(per_prompt)
            .zip(q.par_chunks_exact(per_prompt))
            .take(images.len())
            .for_each(|(out, q)| self.attend_shared(image, q, out));

        for (index, layer) in self.layers.iter().enumerate() {
            add(&mut queries, &layer.token_to_image.out.apply(&attended));
            layer.norm_2.apply(&mut queries);
            let mut hidden = layer.mlp[0].apply(&queries);
            hidden.iter_mut().for_each(|x| *x = x.max(0.0));
            add(&mut queries, &layer.mlp[1].apply(&hidden));
            layer.norm_3.apply(&mut queries);

            let k = layer.image_to_token.k.apply(&sum(&queries, tokens));
            let v = layer.image_to_token.v.apply(&queries);
            let next = match self.layers.get(index + 1) {
                Some(next) => {
                    queries = self.attend_self(&next.self_attention, &queries, Some(tokens), count);
                    next.norm_1.apply(&mut queries);
                    &next.token_to_image
                }
                None => &self.final_attention,
            };
            let q = next.q.apply(&sum(&queries, tokens));
            let shared = if index == 0 { Some(image) } else { None };
            let part = |x: &'_ [f32], prompt: usize| x[prompt * per_prompt..][..per_prompt].to_vec();
            attended.par_chunks_exact_mut(per_prompt).zip(images.par_iter_mut()).enumerate().for_each(
                |(prompt, (out, image))| {
                    let (k, v, q) = (part(&k, prompt), part(&v, prompt), part(&q, prompt));
                    let pass = ImagePass::new(self.shape, layer, next, &self.places, shared, &k, &v, &q);
                    pass.run(image, out);
                },
            );
        }
        add(&mut queries, &self.final_attention.out.apply(&attended));
        self.final_norm.apply(&mut queries);
        queries
    }

    /// Attention between the tokens of each prompt; with `tokens` they are added before, and the queries after.
    fn attend_self(&self, w: &AttentionWeights, queries: &[f32], tokens: Option<&[f32]>, count: usize) -> Vec<f32> {
        let placed = match tokens {
            Some(tokens) => sum(queries, tokens),
            None => queries.to_vec(),
        };
        let (q, k, v) = (w.q.apply(&placed), w.k.apply(&placed), w.v.apply(queries));
        let inner = w.q.bias.len();
        let head_width = inner / w.heads;
        let mut attended = vec![0.0; q.len()];
        attended.par_chunks_exact_mut(count * inner).enumerate().for_each(|(prompt, out)| {
            let at = prompt * count * inner;
            for head in 0..w.heads {
                let start = at + head * head_width;
                let part = |x| Part { data: x, start, rows: count, stride: inner };
                attend_head(part(&q), part(&k), part(&v), head_width, &mut out[head * head_width..], inner);
            }
        });
        let mut out = w.out.apply(&attended);
        if tokens.is_some() {
            add(&mut out, queries);
        }
        out
    }

    /// The first layer's attention of one prompt's tokens to the image, which is still the same for all prompts.
    fn attend_shared(&self, image: &ImageSide, q: &[f32], out: &mut [f32]) {
        let s = self.shape;
        let head_width = s.inner / s.heads;
        for head in 0..s.heads {
            let start = head * head_width;
            let q = Part { data: q, start, rows: q.len() / s.inner, stride: s.inner };
            let part = |data| Part { data, start, rows: s.positions, stride: s.inner };
            let (k, v) = (part(&image.projected_keys), part(&image.projected_values));
            attend_head(q, k, v, head_width, &mut out[start..], s.inner);
        }
    }

    /// Quality and masks of each prompt.
    fn heads(
        &self,
        queries: &[f32],
        count: usize,
        images: &[Vec<f32>],
        selection: &Selection,
        first: usize,
    ) -> Result<Vec<LowResMask>> {
        let width = self.shape.width;
        let token = |index: usize| -> Vec<f32> {
            queries.chunks_exact(count * width).flat_map(|x| &x[index * width..(index + 1) * width]).copied().collect()
        };
        let masks = self.hypernetworks.len();
        let quality = token(0);
        // of prompts, not of what fills the group up; and ReLU makes numbers of NaN
        check_quality(&quality[..images.len() * width])?;
        let iou = mlp(quality, &self.iou_head);
        check_quality(&iou[..images.len() * masks])?;
        let hyper: Vec<Vec<f32>> =
            selection.outputs.clone().map(|mask| mlp(token(1 + mask), &self.hypernetworks[mask])).collect();
        let found = images.par_iter().enumerate().map(|(prompt, image)| {
            let iou = &iou[prompt * masks..][selection.outputs.clone()];
            let kept: Vec<usize> = (0..iou.len()).filter(|&output| selection.keeps(iou[output])).collect();
            let channels = width / 8;
            let hyper: Vec<f32> =
                kept.iter().flat_map(|&output| &hyper[output][prompt * channels..][..channels]).copied().collect();
            let logits = self.upscaler.masks(image, &hyper, kept.len());
            let mask = |(output, logits): (usize, Vec<f32>)| LowResMask {
                prompt: first + prompt,
                output,
                predicted_iou: iou[output],
                logits,
            };
            kept.into_iter().zip(logits).map(mask).collect::<Vec<_>>()
        });
        Ok(found.collect::<Vec<_>>().into_iter().flatten().collect())
    }
}

/// One head's share of a row-major matrix.
#[derive(Clone, Copy)]
struct Part<'a> {
    data: &'a [f32],
    start: usize,
    rows: usize,
    stride: usize,
}

impl<'a> Part<'a> {
    fn matrix(self, cols: usize) -> Matrix<'a, f32> {
        Matrix::strided(&self.data[self.start..], self.rows, cols, self.stride)
    }
}

/// softmax(q k^T / sqrt(d)) v of one head, on this thread.
fn attend_head(q: Part<'_>, k: Part<'_>, v: Part<'_>, head_width: usize, out: &mut [f32], stride: usize) {
    let mut weights = vec![0.0; q.rows * k.rows];
    multiply(
        MatrixMut::new(&mut weights, q.rows, k.rows),
        Write::Overwrite,
        q.matrix(head_width),
        k.matrix(head_width).t(),
        (head_width as f64).powf(-0.5),
        Threads::One,
    );
    vectorised(
        #[inline(always)]
        || {
            for row in weights.chunks_exact_mut(k.rows) {
                softmax(row);
            }
        },
    );
    multiply(
        MatrixMut::strided(out, q.rows, head_width, stride),
        Write::Overwrite,
        Matrix::new(&weights, q.rows, k.rows),
        v.matrix(head_width),
        1.0,
        Threads::One,
    );
}

fn mlp(mut x: Vec<f32>, layers: &[Dense]) -> Vec<f32> {
    for (index, layer) in layers.iter().enumerate() {
        x = layer.apply(&x);
        if index + 1 < layers.len() {
            x.iter_mut().for_each(|x| *x = x.max(0.0));
        }
    }
    x
}
