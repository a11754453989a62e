//! From image and prompt embeddings to masks and their quality.

mod composed;
mod image_pass;
mod kernel;
#[cfg(feature = "cuda")]
mod on_gpu;
#[cfg(test)]
mod tests;
mod upscale;
mod weights;

use super::config::SamConfig;
use super::neck::CHANNEL_NORM_EPSILON;
use super::source::{Dense, Norm, Tensors};
use crate::ops::cpu_kernels;
use crate::{ModelError, Result};
use candle_core::{DType, Device, Tensor};
use kernel::Kernel;
use std::ops::Range;
use std::sync::Arc;
use weights::ImageSide;

const NORM_EPSILON: f64 = 1e-5;

/// `MaskDecoder` of the original code: a two-way Transformer, hypernetworks for the masks, a head for their quality.
#[derive(Clone, Debug)]
pub(super) struct MaskDecoder {
    side: usize,
    /// Quality token, then one token for each mask, `[1 + M, D]`.
    output_tokens: Tensor,
    layers: Vec<Layer>,
    final_attention: Attention,
    final_norm: Norm,
    upscaling: Upscaling,
    /// One for each mask.
    hypernetworks: Vec<Vec<Dense>>,
    iou_head: Vec<Dense>,
    /// `[H * W, D]`
    places: Tensor,
    kernel: Option<Arc<Kernel>>,
    #[cfg(feature = "cuda")]
    placed: Option<Arc<on_gpu::Placed>>,
}

#[derive(Clone, Debug)]
struct Attention {
    heads: usize,
    q: Dense,
    k: Dense,
    v: Dense,
    out: Dense,
}

/// `TwoWayAttentionBlock`.
#[derive(Clone, Debug)]
struct Layer {
    self_attention: Attention,
    norm_1: Norm,
    token_to_image: Attention,
    norm_2: Norm,
    mlp: [Dense; 2],
    norm_3: Norm,
    image_to_token: Attention,
    norm_4: Norm,
}

/// Two transposed convolutions 2 x 2 of stride 2, each a product whose outputs are (row, column, channel) of a square
/// of four.
#[derive(Clone, Debug)]
struct Upscaling {
    /// `[4 * D / 4, D]`
    first: Dense,
    norm: Norm,
    /// `[4 * D / 8, D / 4]`
    second: Dense,
}

/// Which of the predicted masks are wanted.
#[derive(Clone, Debug)]
pub(super) struct Selection {
    /// The first mask is for prompts without doubt, the others are for those that mean several things.
    pub(super) outputs: Range<usize>,
    /// Masks whose predicted quality is not above this are left out, before they are computed where possible.
    pub(super) above_iou: Option<f32>,
}

impl Selection {
    fn keeps(&self, predicted_iou: f32) -> bool {
        self.above_iou.is_none_or(|bound| predicted_iou > bound)
    }
}

/// One mask at a quarter of the input's resolution.
#[derive(Clone, Debug, PartialEq)]
pub struct LowResMask {
    /// Which prompt of the batch.
    pub prompt: usize,
    /// Which of the masks asked for, from 0.
    pub output: usize,
    /// Intersection over union with the true mask as the network guesses it.
    pub predicted_iou: f32,
    /// `[mask_side, mask_side]` row by row; above 0 is mask.
    pub logits: Vec<f32>,
}

/// Checks the quality of masks, or what it is predicted from: where that is no number, every mask would be left out
/// without a word.
fn check_quality(values: &[f32]) -> Result<()> {
    match values.iter().all(|value| value.is_finite()) {
        true => Ok(()),
        false => {
            let what = "the predicted quality of a mask is not finite; check the weights, or set a wider precision";
            Err(ModelError::Input(what.to_owned()))
        }
    }
}

/// What the decoder computes of an image before it sees a prompt.
#[derive(Clone, Debug)]
pub(super) struct PreparedImage {
    /// `[H, W, D]` of the encoder
    pub(super) embedding_hwd: Tensor,
    side: Option<ImageSide>,
}

impl Attention {
    fn load(source: &mut dyn Tensors, name: &str, width: usize, inner: usize, heads: usize) -> Result<Self> {
        let mut dense = |part: &str, inputs: usize, outputs: usize| {
            Dense::load(source, &format!("mask_decoder.transformer.{name}.{part}_proj"), inputs, outputs)
        };
        Ok(Self {
            heads,
            q: dense("q", width, inner)?,
            k: dense("k", width, inner)?,
            v: dense("v", width, inner)?,
            out: dense("out", inner, width)?,
        })
    }
}

impl Layer {
    fn load(source: &mut dyn Tensors, index: usize, config: &SamConfig) -> Result<Self> {
        let d = &config.decoder;
        let inner = d.width / d.attention_downsample;
        let part = |part: &str| format!("layers.{index}.{part}");
        let norm = |source: &mut dyn Tensors, number: usize| {
            let name = format!("mask_decoder.transformer.layers.{index}.norm{number}");
            Norm::load(source, &name, d.width, d.layer_norm_epsilon)
        };
        let mlp = |part: &str| format!("mask_decoder.transformer.layers.{index}.mlp.{part}");
        Ok(Self {
            self_attention: Attention::load(source, &part("self_attn"), d.width, d.width, d.heads)?,
            norm_1: norm(source, 1)?,
            token_to_image: Attention::load(source, &part("cross_attn_token_to_image"), d.width, inner, d.heads)?,
            norm_2: norm(source, 2)?,
            mlp: [
                Dense::load(source, &mlp("lin1"), d.width, d.mlp_width)?,
                Dense::load(source, &mlp("lin2"), d.mlp_width, d.width)?,
            ],
            norm_3: norm(source, 3)?,
            image_to_token: Attention::load(source, &part("cross_attn_image_to_token"), d.width, inner, d.heads)?,
            norm_4: norm(source, 4)?,
        })
    }
}

impl Upscaling {
    fn load(source: &mut dyn Tensors, width: usize) -> Result<Self> {
        let mut convolution = |index: usize, inputs: usize, outputs: usize| {
            let name = format!("mask_decoder.output_upscaling.{index}");
            let weight = source.tensor(&format!("{name}.weight"), &[inputs, outputs, 2, 2])?;
            let bias = source.tensor(&format!("{name}.bias"), &[outputs])?;
            Ok::<_, ModelError>(Dense {
                weight_oi: weight.permute((2, 3, 1, 0))?.reshape((4 * outputs, inputs))?,
                bias_o: bias.repeat(4)?,
            })
        };
        let (first, second) = (convolution(0, width, width / 4)?, convolution(3, width / 4, width / 8)?);
        let norm = Norm::load(source, "mask_decoder.output_upscaling.1", width / 4, CHANNEL_NORM_EPSILON)?;
        Ok(Self { first, norm, second })
    }
}

/// `MLP` of the original code: ReLU between linear layers.
fn load_mlp(source: &mut dyn Tensors, name: &str, widths: &[usize]) -> Result<Vec<Dense>> {
    let layer = |(index, pair): (usize, &[usize])| {
        Dense::load(source, &format!("mask_decoder.{name}.layers.{index}"), pair[0], pair[1])
    };
    widths.windows(2).enumerate().map(layer).collect()
}

impl MaskDecoder {
    /// `places [H * W, D]` are the position encodings of the image embedding.
    pub(super) fn load(source: &mut dyn Tensors, config: &SamConfig, places: Vec<f32>) -> Result<Self> {
        let d = &config.decoder;
        let masks = d.multimask_outputs + 1;
        let iou_token = source.tensor("mask_decoder.iou_token.weight", &[1, d.width])?;
        let mask_tokens = source.tensor("mask_decoder.mask_tokens.weight", &[masks, d.width])?;
        let (device, dtype) = (iou_token.device().clone(), iou_token.dtype());
        let inner = d.width / d.attention_downsample;
        let hypernetwork = |mask: usize| {
            let name = format!("output_hypernetworks_mlps.{mask}");
            load_mlp(source, &name, &[d.width, d.width, d.width, d.width / 8])
        };
        let hypernetworks = (0..masks).map(hypernetwork).collect::<Result<_>>()?;
        let iou_widths = [vec![d.width], vec![d.iou_head_width; d.iou_head_depth - 1], vec![masks]].concat();
        let layers = (0..d.depth).map(|index| Layer::load(source, index, config)).collect::<Result<_>>()?;
        let side = config.embedding_side();
        let places = Tensor::from_vec(places, (side * side, d.width), &Device::Cpu)?;
        let mut decoder = Self {
            side,
            output_tokens: Tensor::cat(&[iou_token, mask_tokens], 0)?,
            layers,
            final_attention: Attention::load(source, "final_attn_token_to_image", d.width, inner, d.heads)?,
            final_norm: Norm::load(source, "mask_decoder.transformer.norm_final_attn", d.width, NORM_EPSILON)?,
            upscaling: Upscaling::load(source, d.width)?,
            hypernetworks,
            iou_head: load_mlp(source, "iou_prediction_head", &iou_widths)?,
            places: places.to_dtype(dtype)?.to_device(&device)?,
            kernel: None,
            #[cfg(feature = "cuda")]
            placed: None,
        };
        if device.is_cpu() && dtype == DType::F32 && cpu_kernels() {
            decoder.kernel = Some(Arc::new(Kernel::new(&decoder)?));
        }
        #[cfg(feature = "cuda")]
        {
            decoder.placed = on_gpu::Placed::of(&decoder)?.map(Arc::new);
        }
        Ok(decoder)
    }

    /// `embedding_hwd [H, W, D]` of the encoder, `no_mask_d [D]` of the prompt encoder.
    pub(super) fn prepare(&self, embedding_hwd: Tensor, no_mask_d: &Tensor) -> Result<PreparedImage> {
        let side = match &self.kernel {
            Some(kernel) => {
                let keys = embedding_hwd.broadcast_add(no_mask_d)?.flatten_all()?.to_vec1()?;
                Some(kernel.image_side(keys))
            }
            None => None,
        };
        Ok(PreparedImage { embedding_hwd, side })
    }

    /// Predicts the masks of P prompts on one image, in the order of prompts and outputs.
    ///
    /// `sparse` are `[P, length, D]` points and boxes, `dense [P, H, W, D]` mask prompts or `no_mask_d [D]`.
    pub(super) fn predict(
        &self,
        image: &PreparedImage,
        (sparse, length): (Vec<f32>, usize),
        prompts: usize,
        dense: Option<&Tensor>,
        no_mask_d: &Tensor,
        selection: &Selection,
    ) -> Result<Vec<LowResMask>> {
        match (&self.kernel, &image.side, dense) {
            (Some(kernel), Some(side), None) => kernel.predict(side, &sparse, length, prompts, selection),
            (Some(kernel), _, Some(dense)) => {
                let mut masks = Vec::new();
                let values = sparse.len() / prompts.max(1);
                for prompt in 0..prompts {
                    let keys = (&image.embedding_hwd + dense.get(prompt)?)?.flatten_all()?.to_vec1()?;
                    let sparse = &sparse[prompt * values..][..values];
                    let found = kernel.predict(&kernel.image_side(keys), sparse, length, 1, selection)?;
                    masks.extend(found.into_iter().map(|mask| LowResMask { prompt, ..mask }));
                }
                Ok(masks)
            }
            _ => {
                let (device, dtype) = (self.places.device(), self.places.dtype());
                let width = self.places.dim(1)?;
                let sparse = Tensor::from_vec(sparse, (prompts, length, width), &Device::Cpu)?;
                let sparse = sparse.to_dtype(dtype)?.to_device(device)?;
                // a GPU's kernels count in 32 bits, and each prompt has its own copy of the image
                let most = if device.is_cpu() { prompts } else { i32::MAX as usize / self.places.elem_count() };
                self.predict_in_pieces(most, image, &sparse, dense, no_mask_d, selection)
            }
        }
    }

    /// As [`predict`](Self::predict), for `most` prompts at a time, without the CPU's kernel.
    fn predict_in_pieces(
        &self,
        most: usize,
        image: &PreparedImage,
        sparse: &Tensor,
        dense: Option<&Tensor>,
        no_mask_d: &Tensor,
        selection: &Selection,
    ) -> Result<Vec<LowResMask>> {
        let (prompts, most) = (sparse.dim(0)?, most.max(1));
        let mut masks = Vec::new();
        for first in (0..prompts).step_by(most) {
            let here = most.min(prompts - first);
            let sparse = sparse.narrow(0, first, here)?;
            let dense = match dense {
                Some(dense) => dense.narrow(0, first, here)?,
                None => no_mask_d.clone(),
            };
            let found = self.predict_piece(&image.embedding_hwd, &sparse, &dense, selection)?;
            masks.extend(found.into_iter().map(|mask| LowResMask { prompt: first + mask.prompt, ..mask }));
        }
        Ok(masks)
    }

    fn predict_piece(
        &self,
        embedding_hwd: &Tensor,
        sparse: &Tensor,
        dense: &Tensor,
        selection: &Selection,
    ) -> Result<Vec<LowResMask>> {
        #[cfg(feature = "cuda")]
        if let Some(placed) = &self.placed {
            return on_gpu::predict(self, placed, embedding_hwd, sparse, dense, selection);
        }
        composed::predict(self, embedding_hwd, sparse, dense, selection)
    }
}
