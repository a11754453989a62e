//! MobileSAM's image encoder.

use super::config::{SamConfig, TinyVitConfig};
use super::neck::Neck;
use super::source::{Dense, Norm, Tensors};
use crate::Result;
use crate::ops::{
    Activation, InvertedBottleneck, RelativePositions, activation, depthwise_conv, image_conv2d, inverted_bottleneck,
    window_attention,
};
use candle_core::{D, Tensor};

const NORM_EPSILON: f64 = 1e-5;
const BATCH_NORM_EPSILON: f64 = 1e-5;

/// `TinyViT` of MobileSAM (Zhang et al., "Faster Segment Anything"), without its classifier.
#[derive(Clone, Debug)]
pub(super) struct TinyVit {
    stem: [Convolution; 2],
    convolutions: Vec<InvertedBottleneck>,
    /// For each later stage the step to it and its blocks.
    stages: Vec<(InvertedBottleneck, Vec<Block>)>,
    neck: Neck,
}

/// A convolution without bias and the batch norm behind it, folded into one.
#[derive(Clone, Debug)]
struct Convolution {
    /// `[O, K, K, I]`
    weight_ohwi: Tensor,
    bias_o: Tensor,
}

impl Convolution {
    fn load(source: &mut dyn Tensors, name: &str, shape: [usize; 4]) -> Result<Self> {
        let outputs = shape[0];
        let weight = source.tensor(&format!("{name}.c.weight"), &shape)?;
        let mut norm = |part: &str| source.tensor(&format!("{name}.bn.{part}"), &[outputs]);
        let (scale, shift) = (norm("weight")?, norm("bias")?);
        let (mean, variance) = (norm("running_mean")?, norm("running_var")?);
        let factor = (scale / (variance + BATCH_NORM_EPSILON)?.sqrt()?)?;
        let weight = weight.broadcast_mul(&factor.reshape((outputs, 1, 1, 1))?)?;
        Ok(Self { weight_ohwi: weight.permute((0, 2, 3, 1))?.contiguous()?, bias_o: (shift - (mean * factor)?)? })
    }

    /// The weight of a depthwise convolution as `[3, 3, C]`.
    fn depthwise(&self) -> Result<Tensor> {
        Ok(self.weight_ohwi.squeeze(D::Minus1)?.permute((1, 2, 0))?.contiguous()?)
    }

    /// The weight of a 1 x 1 convolution as `[O, I]`.
    fn pointwise(&self) -> Result<Tensor> {
        Ok(self.weight_ohwi.flatten(1, 3)?)
    }
}

/// `MBConv` and `PatchMerging`, which are the same but for stride and residual.
fn bottleneck(
    source: &mut dyn Tensors,
    name: &str,
    [inputs, expanded, outputs]: [usize; 3],
    stride: usize,
    residual: bool,
) -> Result<InvertedBottleneck> {
    let expand = Convolution::load(source, &format!("{name}.conv1"), [expanded, inputs, 1, 1])?;
    let depthwise = Convolution::load(source, &format!("{name}.conv2"), [expanded, 1, 3, 3])?;
    let project = Convolution::load(source, &format!("{name}.conv3"), [outputs, expanded, 1, 1])?;
    Ok(InvertedBottleneck {
        expand_weight: expand.pointwise()?,
        expand_bias_m: expand.bias_o,
        depthwise_weight_hwm: depthwise.depthwise()?,
        depthwise_bias_m: depthwise.bias_o,
        project_weight: project.pointwise()?,
        project_bias_o: project.bias_o,
        stride,
        residual,
    })
}

impl TinyVit {
    pub(super) fn load(source: &mut dyn Tensors, config: &SamConfig, t: &TinyVitConfig) -> Result<Self> {
        let [first, ..] = t.widths;
        let stem = [
            Convolution::load(source, "image_encoder.patch_embed.seq.0", [first / 2, 3, 3, 3])?,
            Convolution::load(source, "image_encoder.patch_embed.seq.2", [first, first / 2, 3, 3])?,
        ];
        let convolutions = (0..t.depths[0]).map(|index| {
            let name = format!("image_encoder.layers.0.blocks.{index}");
            bottleneck(source, &name, [first, t.expansion * first, first], 1, true)
        });
        let convolutions = convolutions.collect::<Result<_>>()?;
        let mut stages = Vec::new();
        for stage in 0..3 {
            let (here, next) = (t.widths[stage], t.widths[stage + 1]);
            let name = format!("image_encoder.layers.{stage}.downsample");
            let step = bottleneck(source, &name, [here, next, next], t.merge_stride(stage), false)?;
            let blocks = (0..t.depths[stage + 1]).map(|index| {
                let name = format!("image_encoder.layers.{}.blocks.{index}", stage + 1);
                Block::load(source, &name, next, t.heads[stage], t.windows[stage], t.expansion * next)
            });
            stages.push((step, blocks.collect::<Result<_>>()?));
        }
        Ok(Self { stem, convolutions, stages, neck: Neck::load(source, t.widths[3], config.decoder.width)? })
    }

    /// `pixel_values_bchw [B, 3, S, S]` to `[B, H, W, D]`, with published widths a sixteenth of S.
    pub(super) fn forward(&self, pixel_values_bchw: &Tensor) -> candle_core::Result<Tensor> {
        let [first, second] = &self.stem;
        let x = pixel_values_bchw.permute((0, 2, 3, 1))?.contiguous()?;
        let x = activation(&image_conv2d(&x, &first.weight_ohwi, Some(&first.bias_o), 2, 1)?, Activation::Gelu)?;
        let mut x = image_conv2d(&x, &second.weight_ohwi, Some(&second.bias_o), 2, 1)?;
        for convolution in &self.convolutions {
            x = inverted_bottleneck(&x, convolution)?;
        }
        for (step, blocks) in &self.stages {
            x = inverted_bottleneck(&x, step)?;
            for block in blocks {
                x = block.forward(&x)?;
            }
        }
        self.neck.forward(&x)
    }
}

#[derive(Clone, Debug)]
struct Block {
    norm: Norm,
    /// Queries of all heads, then keys, then values.
    qkv: Dense,
    /// What attention sees at positions that fill up a window: the norm turns zeros into its bias.
    padding_e: Tensor,
    positions: RelativePositions,
    heads: usize,
    window: usize,
    out: Dense,
    local_weight_hwc: Tensor,
    local_bias_c: Tensor,
    mlp_norm: Norm,
    fc_1: Dense,
    fc_2: Dense,
}

impl Block {
    fn load(
        source: &mut dyn Tensors,
        name: &str,
        width: usize,
        heads: usize,
        window: usize,
        mlp_width: usize,
    ) -> Result<Self> {
        let part = |part: &str| format!("{name}.{part}");
        let norm = Norm::load(source, &part("attn.norm"), width, NORM_EPSILON)?;
        let stored = Dense::load(source, &part("attn.qkv"), width, 3 * width)?;
        let qkv = Dense {
            weight_oi: parts_before_heads(&stored.weight_oi, heads)?,
            bias_o: parts_before_heads(&stored.bias_o, heads)?,
        };
        let padding_e = qkv.apply(&norm.bias_d.reshape((1, width))?)?.flatten_all()?;
        let biases = source.tensor(&part("attn.attention_biases"), &[heads, window * window])?;
        let local = Convolution::load(source, &part("local_conv"), [width, 1, 3, 3])?;
        Ok(Self {
            norm,
            qkv,
            padding_e,
            positions: RelativePositions::Bias(look_up(&biases, window)?),
            heads,
            window,
            out: Dense::load(source, &part("attn.proj"), width, width)?,
            local_weight_hwc: local.depthwise()?,
            local_bias_c: local.bias_o,
            mlp_norm: Norm::load(source, &part("mlp.norm"), width, NORM_EPSILON)?,
            fc_1: Dense::load(source, &part("mlp.fc1"), width, mlp_width)?,
            fc_2: Dense::load(source, &part("mlp.fc2"), mlp_width, width)?,
        })
    }

    fn forward(&self, x: &Tensor) -> candle_core::Result<Tensor> {
        let qkv = self.qkv.apply(&self.norm.apply(x)?)?;
        let attended = window_attention(&qkv, &self.padding_e, self.heads, self.window, &self.positions)?;
        let x = (x + self.out.apply(&attended)?)?;
        let x = depthwise_conv(&x, &self.local_weight_hwc, &self.local_bias_c, 1)?;
        let hidden = activation(&self.fc_1.apply(&self.mlp_norm.apply(&x)?)?, Activation::Gelu)?;
        &x + self.fc_2.apply(&hidden)?
    }
}

/// Rows in the order (head, part, feature) to (part, head, feature).
fn parts_before_heads(x: &Tensor, heads: usize) -> Result<Tensor> {
    let mut dims = x.dims().to_vec();
    let rows = std::mem::replace(&mut dims[0], 3);
    dims.splice(0..1, [heads, 3, rows / 3 / heads]);
    Ok(x.reshape(dims)?.transpose(0, 1)?.contiguous()?.reshape(x.dims())?)
}

/// Attention biases by distance, `[heads, K * K]` for |dy| and |dx|, for every query and key: `[heads, K * K, K * K]`.
fn look_up(biases: &Tensor, window: usize) -> Result<Tensor> {
    let length = window * window;
    let distance = |a: usize, b: usize| (a / window).abs_diff(b / window) * window + (a % window).abs_diff(b % window);
    let indices: Vec<u32> = (0..length * length).map(|i| distance(i / length, i % length) as u32).collect();
    let indices = Tensor::from_vec(indices, length * length, biases.device())?;
    Ok(biases.index_select(&indices, 1)?.reshape(((), length, length))?)
}
