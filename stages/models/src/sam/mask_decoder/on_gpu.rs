//! The decoder on a GPU: the composition's arithmetic, with kernels of ours where it would pass over the places of an image
//! again and again. An image has thousands of places, and each is seen with every prompt of a batch.

use candle_core::{DType, Tensor};
use rayon::prelude::*;

use super::composed::{attend, mlp, quality};
use super::{Attention, LowResMask, MaskDecoder, Selection};
use crate::Result;
use crate::ops::cuda::{add_bias, attend_to_places, attend_to_tokens, biased_norm_gelu, knows_decoder, upscaled_masks};
use crate::ops::{gpu_kernels, linear};
use crate::upload::Download;

type Candle<T> = candle_core::Result<T>;

/// What the encoding of places adds to products with them, `[H * W, inner]`: (x + places) w^T + b = x w^T + (places w^T + b).
#[derive(Debug)]
pub(super) struct Placed {
    /// Keys of each layer's attention of tokens to places, and queries of that of places to tokens.
    layers: Vec<[Tensor; 2]>,
    /// Keys of the last attention.
    last: Tensor,
    download: Download,
}

impl Placed {
    /// `None` where the kernels do not know a decoder of this kind.
    pub(super) fn of(decoder: &MaskDecoder) -> Result<Option<Self>> {
        let places = &decoder.places;
        let upscaling = &decoder.upscaling;
        let channels = [&upscaling.first, &upscaling.second].map(|dense| dense.bias_o.elem_count() / 4);
        let attentions = decoder.layers.iter().flat_map(|layer| [&layer.token_to_image, &layer.image_to_token]);
        let knows = attentions.chain([&decoder.final_attention]).all(|attention| {
            let head_width = attention.q.bias_o.elem_count() / attention.heads;
            knows_decoder(places.dtype(), head_width, channels, decoder.hypernetworks.len())
        });
        if !gpu_kernels(places) || !knows {
            return Ok(None);
        }
        let placed = |dense: &super::Dense| dense.apply(places);
        let layers =
            decoder.layers.iter().map(|layer| Ok([placed(&layer.token_to_image.k)?, placed(&layer.image_to_token.q)?]));
        Ok(Some(Self {
            layers: layers.collect::<Candle<_>>()?,
            last: placed(&decoder.final_attention.k)?,
            download: Download::default(),
        }))
    }
}

/// As [`composed::predict`](super::composed::predict).
pub(super) fn predict(
    decoder: &MaskDecoder,
    placed: &Placed,
    embedding_hwd: &Tensor,
    sparse: &Tensor,
    dense: &Tensor,
    selection: &Selection,
) -> Result<Vec<LowResMask>> {
    let (prompts, _, width) = sparse.dims3()?;
    let side = decoder.side;
    // one image for all prompts, unless each has a mask of its own
    let keys = embedding_hwd.unsqueeze(0)?.broadcast_add(dense)?.reshape(((), side * side, width))?;
    let count = decoder.output_tokens.dim(0)?;
    let tokens = decoder.output_tokens.unsqueeze(0)?.broadcast_as((prompts, count, width))?;
    let tokens = Tensor::cat(&[&tokens.contiguous()?, sparse], 1)?;
    let (queries, keys) = transform(decoder, placed, &tokens, &keys)?;

    let iou = quality(decoder, &queries)?;
    let wanted = Wanted::of(selection, &iou, prompts, decoder.hypernetworks.len());
    if wanted.prompts.is_empty() {
        return Ok(Vec::new());
    }
    // masks are computed of prompts that have any
    let [queries, keys] = match wanted.prompts.len() == prompts {
        true => [queries, keys],
        false => {
            let some = Tensor::new(wanted.prompts.as_slice(), keys.device())?;
            [queries.index_select(&some, 0)?, keys.index_select(&some, 0)?]
        }
    };
    let hyper = selection
        .outputs
        .clone()
        .map(|mask| mlp(&queries.narrow(1, 1 + mask, 1)?.squeeze(1)?.contiguous()?, &decoder.hypernetworks[mask]));
    let hyper = Tensor::stack(&hyper.collect::<Candle<Vec<_>>>()?, 1)?;
    let logits = logits(decoder, &keys, &hyper, &wanted.slots)?;
    let pixels = 16 * side * side;
    let found = wanted.kept.iter().zip(wide_rows(&logits, pixels, &placed.download)?);
    Ok(found
        .map(|(&(prompt, output, predicted_iou), logits)| LowResMask { prompt, output, predicted_iou, logits })
        .collect())
}

/// Masks that are kept.
struct Wanted {
    /// Those that have any.
    prompts: Vec<u32>,
    /// Of these prompts' masks, which of the kept ones each is; -1: none.
    slots: Vec<i32>,
    /// Prompt, output and predicted quality of each.
    kept: Vec<(usize, usize, f32)>,
}

impl Wanted {
    /// `iou [P, masks]`, of all masks that the decoder knows.
    fn of(selection: &Selection, iou: &[f32], prompts: usize, masks: usize) -> Self {
        let mut wanted = Self { prompts: Vec::new(), slots: Vec::new(), kept: Vec::new() };
        for prompt in 0..prompts {
            let before = wanted.kept.len();
            let of_prompt = &iou[prompt * masks..][selection.outputs.clone()];
            let slots: Vec<i32> = of_prompt
                .iter()
                .enumerate()
                .map(|(output, &predicted_iou)| {
                    if !selection.keeps(predicted_iou) {
                        return -1;
                    }
                    wanted.kept.push((prompt, output, predicted_iou));
                    wanted.kept.len() as i32 - 1
                })
                .collect();
            if wanted.kept.len() > before {
                wanted.prompts.push(prompt as u32);
                wanted.slots.extend(slots);
            }
        }
        wanted
    }
}

/// Rows of `length` in f32. Half precision crosses over as it is, half as many bytes, and is widened by all cores.
fn wide_rows(x: &Tensor, length: usize, download: &Download) -> Candle<Vec<Vec<f32>>> {
    fn rows<const N: usize>(bytes: &[u8], length: usize, wide: impl Fn([u8; N]) -> f32 + Sync) -> Vec<Vec<f32>> {
        let wide_row = |row: &[u8]| row.as_chunks::<N>().0.iter().map(|&value| wide(value)).collect();
        bytes.par_chunks(N * length).map(wide_row).collect()
    }
    let x = x.contiguous()?;
    match x.dtype() {
        DType::BF16 => {
            download.read(&x, |bytes| rows(bytes, length, |value| half::bf16::from_le_bytes(value).to_f32()))
        }
        DType::F16 => download.read(&x, |bytes| rows(bytes, length, |value| half::f16::from_le_bytes(value).to_f32())),
        _ => download.read(&x.to_dtype(DType::F32)?, |bytes| rows(bytes, length, f32::from_le_bytes)),
    }
}

/// Tokens `[P, T, D]` and image `[P or 1, H * W, D]` after the two-way Transformer; the image is then `[P, H * W, D]`.
fn transform(decoder: &MaskDecoder, placed: &Placed, tokens: &Tensor, image: &Tensor) -> Candle<(Tensor, Tensor)> {
    let (mut queries, mut keys) = (tokens.clone(), image.clone());
    for (index, (layer, [of_keys, of_queries])) in decoder.layers.iter().zip(&placed.layers).enumerate() {
        let attended = if index == 0 {
            attend(&layer.self_attention, &queries, &queries, &queries)?
        } else {
            let q = (&queries + tokens)?;
            (&queries + attend(&layer.self_attention, &q, &q, &queries)?)?
        };
        queries = layer.norm_1.apply(&attended)?;
        let attended = to_places(&layer.token_to_image, &(&queries + tokens)?, &keys, of_keys)?;
        queries = layer.norm_2.apply(&(&queries + attended)?)?;
        let hidden = layer.mlp[0].apply(&queries)?.relu()?;
        queries = layer.norm_3.apply(&(&queries + layer.mlp[1].apply(&hidden)?)?)?;
        let attention = &layer.image_to_token;
        let q = add_bias(&product(&keys, &attention.q)?, of_queries)?;
        let (k, v) = (attention.k.apply(&(&queries + tokens)?)?, attention.v.apply(&queries)?);
        let attended = attention.out.apply(&attend_to_tokens(&q, &k, &v, attention.heads)?)?;
        let is_shared = keys.dim(0)? < attended.dim(0)?;
        keys = layer.norm_4.apply(&if is_shared { add_bias(&attended, &keys)? } else { (attended + keys)? })?;
    }
    let attended = to_places(&decoder.final_attention, &(&queries + tokens)?, &keys, &placed.last)?;
    let keys = keys.broadcast_as((queries.dim(0)?, keys.dim(1)?, keys.dim(2)?))?.contiguous()?;
    Ok((decoder.final_norm.apply(&(queries + attended)?)?, keys))
}

fn to_places(attention: &Attention, queries: &Tensor, keys: &Tensor, of_places: &Tensor) -> Candle<Tensor> {
    let k = add_bias(&product(keys, &attention.k)?, of_places)?;
    let (q, v) = (attention.q.apply(queries)?, attention.v.apply(keys)?);
    attention.out.apply(&attend_to_places(&q, &k, &v, attention.heads)?)
}

/// x w^T
fn product(x: &Tensor, dense: &super::Dense) -> Candle<Tensor> {
    linear(x, &dense.weight_oi, None)
}

/// Image `[P, H * W, D]` and `hyper [P, M, D / 8]` to the kept logits `[kept, 4 H, 4 W]`.
fn logits(decoder: &MaskDecoder, image: &Tensor, hyper: &Tensor, slots: &[i32]) -> Candle<Tensor> {
    let upscaling = &decoder.upscaling;
    let first_bias = of_one_square(&upscaling.first.bias_o)?;
    let norm = [&upscaling.norm.weight_d, &upscaling.norm.bias_d];
    let x = biased_norm_gelu(&product(image, &upscaling.first)?, &first_bias, norm, upscaling.norm.epsilon)?;
    let x = x.reshape(((), first_bias.elem_count()))?;
    let second_bias = of_one_square(&upscaling.second.bias_o)?;
    upscaled_masks(&product(&x, &upscaling.second)?, &second_bias, &hyper.contiguous()?, slots, decoder.side)
}

/// All four squares have the same bias.
fn of_one_square(bias: &Tensor) -> Candle<Tensor> {
    bias.narrow(0, 0, bias.elem_count() / 4)
}
