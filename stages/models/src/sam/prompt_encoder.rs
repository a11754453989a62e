//! Points, boxes and masks as embeddings.

use super::config::SamConfig;
use super::neck::CHANNEL_NORM_EPSILON;
use super::source::{Norm, Tensors};
use crate::ops::{Activation, activation, image_conv2d};
use crate::{ModelError, Result};
use candle_core::{DType, Device, Tensor};

/// What a point says about the object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PointLabel {
    /// The point lies on the object.
    Foreground,
    /// The point lies beside the object.
    Background,
}

/// What is asked of the network: one object. Coordinates are pixels of the network's input (longest side
/// [`SamConfig::image_size`]).
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Prompt {
    /// Points x and y, each on the object or on the background.
    pub points_xy: Vec<([f32; 2], PointLabel)>,
    /// Left, top, right and bottom of the object.
    pub box_xyxy: Option<[f32; 4]>,
    /// Low-resolution logits of an earlier prediction, `[mask_side, mask_side]` row by row.
    pub mask_logits: Option<Vec<f32>>,
}

impl Prompt {
    /// One point on the object.
    pub fn point(xy: [f32; 2]) -> Self {
        Self { points_xy: vec![(xy, PointLabel::Foreground)], ..Self::default() }
    }
}

/// `PromptEncoder` of the original code. The embeddings of points are computed on the CPU, where they are asked for.
#[derive(Clone, Debug)]
pub(super) struct PromptEncoder {
    image_size: usize,
    embedding_side: usize,
    width: usize,
    /// `[2, D / 2]`: random spatial frequencies of x and y.
    frequencies: Vec<f32>,
    /// Background point, foreground point, first and second corner of a box.
    kinds: [Vec<f32>; 4],
    not_a_point: Vec<f32>,
    no_mask_d: Tensor,
    mask: MaskNetwork,
}

/// Two convolutions that halve the side, with norm and GELU, and one to the width of the embedding.
#[derive(Clone, Debug)]
struct MaskNetwork {
    halve: [(Tensor, Tensor, Norm); 2],
    widen: (Tensor, Tensor),
}

impl MaskNetwork {
    fn load(source: &mut dyn Tensors, channels: usize, width: usize) -> Result<Self> {
        let mut convolution = |index: usize, outputs: usize, inputs: usize, kernel: usize| {
            let name = format!("prompt_encoder.mask_downscaling.{index}");
            let weight = source.tensor(&format!("{name}.weight"), &[outputs, inputs, kernel, kernel])?;
            let bias = source.tensor(&format!("{name}.bias"), &[outputs])?;
            Ok::<_, ModelError>((weight.permute((0, 2, 3, 1))?.contiguous()?, bias))
        };
        let first = convolution(0, channels / 4, 1, 2)?;
        let second = convolution(3, channels, channels / 4, 2)?;
        let widen = convolution(6, width, channels, 1)?;
        let mut norm = |index: usize, width: usize| {
            Norm::load(source, &format!("prompt_encoder.mask_downscaling.{index}"), width, CHANNEL_NORM_EPSILON)
        };
        let norms = (norm(1, channels / 4)?, norm(4, channels)?);
        Ok(Self { halve: [(first.0, first.1, norms.0), (second.0, second.1, norms.1)], widen })
    }

    /// `[P, S, S, 1]` to `[P, S / 4, S / 4, D]`.
    fn forward(&self, mask: &Tensor) -> candle_core::Result<Tensor> {
        let mut x = mask.clone();
        for (weight, bias, norm) in &self.halve {
            x = activation(&norm.apply(&image_conv2d(&x, weight, Some(bias), 2, 0)?)?, Activation::Gelu)?;
        }
        image_conv2d(&x, &self.widen.0, Some(&self.widen.1), 1, 0)
    }
}

impl PromptEncoder {
    pub(super) fn load(source: &mut dyn Tensors, config: &SamConfig) -> Result<Self> {
        let width = config.decoder.width;
        let matrix = "prompt_encoder.pe_layer.positional_encoding_gaussian_matrix";
        let mut embedding = |name: &str| floats(&source.tensor(&format!("prompt_encoder.{name}.weight"), &[1, width])?);
        let kinds = [0, 1, 2, 3].map(|kind| embedding(&format!("point_embeddings.{kind}")));
        let [background, foreground, first, second] = kinds;
        let not_a_point = embedding("not_a_point_embed")?;
        Ok(Self {
            image_size: config.image_size,
            embedding_side: config.embedding_side(),
            width,
            kinds: [background?, foreground?, first?, second?],
            not_a_point,
            frequencies: floats(&source.tensor(matrix, &[2, width / 2])?)?,
            no_mask_d: source.tensor("prompt_encoder.no_mask_embed.weight", &[1, width])?.flatten_all()?,
            mask: MaskNetwork::load(source, config.decoder.mask_channels, width)?,
        })
    }

    /// What stands for "no mask" at every position of the image, `[D]`.
    pub(super) fn no_mask(&self) -> &Tensor {
        &self.no_mask_d
    }

    /// Points and boxes as `[P, S, D]`, one after the other; S is the same for all prompts. A prompt without a box is
    /// closed with a point that is none.
    pub(super) fn sparse(&self, prompts: &[Prompt]) -> Result<(Vec<f32>, usize)> {
        let shape = |prompt: &Prompt| (prompt.points_xy.len(), prompt.box_xyxy.is_some());
        let Some(first) = prompts.first().map(shape) else { return Ok((Vec::new(), 0)) };
        if let Some(other) = prompts.iter().map(shape).find(|other| *other != first) {
            return Err(ModelError::Input(format!(
                "prompts of one batch have {} and {} points, boxes {} and {}; give each kind a batch of its own",
                first.0, other.0, first.1, other.1
            )));
        }
        let mut out = Vec::new();
        for prompt in prompts {
            for (xy, label) in &prompt.points_xy {
                let kind = match label {
                    PointLabel::Background => 0,
                    PointLabel::Foreground => 1,
                };
                self.push(*xy, &self.kinds[kind], &mut out);
            }
            match prompt.box_xyxy {
                Some([left, top, right, bottom]) => {
                    self.push([left, top], &self.kinds[2], &mut out);
                    self.push([right, bottom], &self.kinds[3], &mut out);
                }
                None if prompt.points_xy.is_empty() => {}
                None => out.extend_from_slice(&self.not_a_point),
            }
        }
        let length = out.len() / self.width / prompts.len();
        Ok((out, length))
    }

    fn push(&self, xy: [f32; 2], kind: &[f32], out: &mut Vec<f32>) {
        let start = out.len();
        // Half a pixel leads to its centre.
        self.encode(xy.map(|x| (f64::from(x) + 0.5) / self.image_size as f64), out);
        out[start..].iter_mut().zip(kind).for_each(|(out, kind)| *out += kind);
    }

    /// Appends sines and cosines of a place in [0, 1]² (Tancik et al., "Fourier Features").
    fn encode(&self, xy: [f64; 2], out: &mut Vec<f32>) {
        let (of_x, of_y) = self.frequencies.split_at(self.width / 2);
        let [x, y] = xy.map(|x| 2.0 * x - 1.0);
        let angle = |(fx, fy): (&f32, &f32)| std::f64::consts::TAU * (x * f64::from(*fx) + y * f64::from(*fy));
        out.extend(of_x.iter().zip(of_y).map(angle).map(|angle| angle.sin() as f32));
        out.extend(of_x.iter().zip(of_y).map(angle).map(|angle| angle.cos() as f32));
    }

    /// The places of the image embedding, `[H * W, D]`.
    pub(super) fn places(&self) -> Vec<f32> {
        let side = self.embedding_side;
        let mut out = Vec::with_capacity(side * side * self.width);
        for (y, x) in (0..side * side).map(|i| (i / side, i % side)) {
            self.encode([x, y].map(|x| (x as f64 + 0.5) / side as f64), &mut out);
        }
        out
    }

    /// Mask prompts as `[P, H, W, D]`; `None` if no prompt has one.
    pub(super) fn dense(&self, prompts: &[Prompt], device: &Device, dtype: DType) -> Result<Option<Tensor>> {
        let side = 4 * self.embedding_side;
        let mut logits = Vec::new();
        for prompt in prompts.iter() {
            match &prompt.mask_logits {
                Some(mask) if mask.len() == side * side => logits.extend_from_slice(mask),
                Some(mask) => {
                    return Err(ModelError::Input(format!(
                        "a mask prompt has {} logits, the network wants {side} x {side}",
                        mask.len()
                    )));
                }
                None => {}
            }
        }
        if logits.is_empty() {
            return Ok(None);
        }
        if logits.len() != prompts.len() * side * side {
            return Err(ModelError::Input("some prompts of one batch have a mask and some have none".to_owned()));
        }
        let masks = Tensor::from_vec(logits, (prompts.len(), side, side, 1), &Device::Cpu)?;
        Ok(Some(self.mask.forward(&masks.to_dtype(dtype)?.to_device(device)?)?))
    }
}

/// The values of a tensor of any type on any device.
pub(super) fn floats(tensor: &Tensor) -> Result<Vec<f32>> {
    Ok(tensor.to_dtype(DType::F32)?.to_device(&Device::Cpu)?.flatten_all()?.to_vec1()?)
}
