//! The decoder in candle's operations, for devices and types without a kernel; also what the kernel is tested against.

use super::{Attention, Layer, LowResMask, MaskDecoder, Selection, Upscaling, check_quality};
use crate::Result;
use crate::ops::{Activation, activation, half};
use crate::sam::prompt_encoder::floats;
use crate::sam::source::Dense;
use candle_core::Tensor;

type Candle<T> = candle_core::Result<T>;

/// `embedding_hwd [H, W, D]`, `sparse [P, S, D]`, `dense [P, H, W, D]` or `[D]`.
pub(super) fn predict(
    decoder: &MaskDecoder,
    embedding_hwd: &Tensor,
    sparse: &Tensor,
    dense: &Tensor,
    selection: &Selection,
) -> Result<Vec<LowResMask>> {
    let (prompts, _, width) = sparse.dims3()?;
    let (side, outputs) = (decoder.side, selection.outputs.clone());
    let dims = (prompts, side, side, width);
    let keys = embedding_hwd.unsqueeze(0)?.broadcast_as(dims)?.broadcast_add(dense)?;
    let keys = keys.reshape((prompts, side * side, width))?;
    let count = decoder.output_tokens.dim(0)?;
    let tokens = decoder.output_tokens.unsqueeze(0)?.broadcast_as((prompts, count, width))?;
    let tokens = Tensor::cat(&[&tokens.contiguous()?, sparse], 1)?;

    let (queries, keys) = transform(decoder, &tokens, &keys)?;
    let iou = quality(decoder, &queries)?;
    let hyper = outputs
        .clone()
        .map(|mask| mlp(&queries.narrow(1, 1 + mask, 1)?.squeeze(1)?.contiguous()?, &decoder.hypernetworks[mask]));
    let hyper = Tensor::stack(&hyper.collect::<Candle<Vec<_>>>()?, 1)?;
    let logits = masks(&decoder.upscaling, &keys, &hyper, side)?;

    // one copy of all that is kept: a GPU waits for each
    let (count, predicted) = (outputs.len(), decoder.hypernetworks.len());
    let kept: Vec<u32> = (0..prompts * count)
        .filter(|place| selection.keeps(iou[place / count * predicted + outputs.start + place % count]))
        .map(|place| place as u32)
        .collect();
    if kept.is_empty() {
        return Ok(Vec::new());
    }
    let pixels = 16 * side * side;
    let places = Tensor::new(kept.as_slice(), logits.device())?;
    let logits = floats(&logits.reshape((prompts * count, pixels))?.index_select(&places, 0)?)?;
    let found = kept.iter().zip(logits.chunks_exact(pixels)).map(|(&place, logits)| {
        let (prompt, output) = (place as usize / count, place as usize % count);
        let predicted_iou = iou[prompt * predicted + outputs.start + output];
        LowResMask { prompt, output, predicted_iou, logits: logits.to_vec() }
    });
    Ok(found.collect())
}

/// The quality of all masks that the decoder knows, `[P, masks]`, from tokens `[P, T, D]` after the Transformer.
pub(super) fn quality(decoder: &MaskDecoder, queries: &Tensor) -> Result<Vec<f32>> {
    let token = queries.narrow(1, 0, 1)?.squeeze(1)?.contiguous()?;
    let iou = mlp(&token, &decoder.iou_head)?;
    let (width, masks) = (token.dim(1)?, iou.dim(1)?);
    // ReLU makes numbers of NaN, so the token is looked at too; in one copy, since a GPU waits for each
    let both = floats(&Tensor::cat(&[&token, &iou], 1)?)?;
    check_quality(&both)?;
    Ok(both.chunks_exact(width + masks).flat_map(|row| &row[width..]).copied().collect())
}

/// Tokens `[P, T, D]` and image `[P, H * W, D]` after the two-way Transformer.
fn transform(decoder: &MaskDecoder, tokens: &Tensor, image: &Tensor) -> Candle<(Tensor, Tensor)> {
    let (mut queries, mut keys) = (tokens.clone(), image.clone());
    for (index, layer) in decoder.layers.iter().enumerate() {
        (queries, keys) = two_way(layer, index == 0, &queries, &keys, tokens, &decoder.places)?;
    }
    let placed = keys.broadcast_add(&decoder.places)?;
    let attended = attend(&decoder.final_attention, &(&queries + tokens)?, &placed, &keys)?;
    Ok((decoder.final_norm.apply(&(queries + attended)?)?, keys))
}

fn two_way(
    layer: &Layer,
    is_first: bool,
    queries: &Tensor,
    keys: &Tensor,
    tokens: &Tensor,
    places: &Tensor,
) -> Candle<(Tensor, Tensor)> {
    let queries = if is_first {
        attend(&layer.self_attention, queries, queries, queries)?
    } else {
        let q = (queries + tokens)?;
        (queries + attend(&layer.self_attention, &q, &q, queries)?)?
    };
    let queries = layer.norm_1.apply(&queries)?;
    let placed = keys.broadcast_add(places)?;
    let attended = attend(&layer.token_to_image, &(&queries + tokens)?, &placed, keys)?;
    let queries = layer.norm_2.apply(&(queries + attended)?)?;
    let hidden = layer.mlp[0].apply(&queries)?.relu()?;
    let queries = layer.norm_3.apply(&(&queries + layer.mlp[1].apply(&hidden)?)?)?;
    let attended = attend(&layer.image_to_token, &placed, &(&queries + tokens)?, &queries)?;
    Ok((queries, layer.norm_4.apply(&(keys + attended)?)?))
}

pub(super) fn attend(attention: &Attention, q: &Tensor, k: &Tensor, v: &Tensor) -> Candle<Tensor> {
    let split = |x: Tensor| {
        let (batch, length, width) = x.dims3()?;
        x.reshape((batch, length, attention.heads, width / attention.heads))?.transpose(1, 2)?.contiguous()
    };
    let (q, k, v) = (split(attention.q.apply(q)?)?, split(attention.k.apply(k)?)?, split(attention.v.apply(v)?)?);
    let (batch, heads, length, head_width) = q.dims4()?;
    let scores = half::scores(&q, &k, (head_width as f64).powf(-0.5))?;
    let weights = half::softmax(&scores)?.to_dtype(v.dtype())?;
    let attended = weights.matmul(&v)?.transpose(1, 2)?.reshape((batch, length, heads * head_width))?;
    attention.out.apply(&attended)
}

pub(super) fn mlp(x: &Tensor, layers: &[Dense]) -> Candle<Tensor> {
    let mut x = x.clone();
    for (index, layer) in layers.iter().enumerate() {
        x = layer.apply(&x)?;
        if index + 1 < layers.len() {
            x = x.relu()?;
        }
    }
    Ok(x)
}

/// Image `[P, H * W, D]` and `hyper [P, M, D / 8]` to logits `[P, M, 4 H, 4 W]`.
fn masks(upscaling: &Upscaling, image: &Tensor, hyper: &Tensor, side: usize) -> Candle<Tensor> {
    let (prompts, count, channels) = hyper.dims3()?;
    let x = upscaling.first.apply(image)?.reshape((prompts, side * side * 4, 2 * channels))?;
    let x = activation(&upscaling.norm.apply(&x)?, Activation::Gelu)?;
    let x = activation(&upscaling.second.apply(&x)?, Activation::Gelu)?;
    let x = x.reshape((prompts, side * side * 16, channels))?;
    // Row, column, then row and column within each of the two squares.
    hyper
        .matmul(&x.t()?)?
        .reshape(vec![prompts, count, side, side, 2, 2, 2, 2])?
        .permute([0, 1, 2, 4, 6, 3, 5, 7])?
        .reshape((prompts, count, 4 * side, 4 * side))
}
