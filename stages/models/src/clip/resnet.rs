//! CLIP's ResNet: a stem of three convolutions, bottlenecks that halve by means and not by strides, and an attention of the
//! mean of all places over them (Radford et al. 2021, section 2.4; `ModifiedResNet` in OpenAI's and open_clip's code).
//!
//! It is read, not trained: batch norms are folded into the convolutions before them, as they stand at inference.

use super::config::{ClipConfig, VisionConfig};
use super::resnet_shape::EXPANSION;
use super::source::{Declarations, Source};
use crate::ops::half::widen;
use crate::ops::{add_positions, attention, conv2d, linear, mean_pool};
use candle_core::{DType, Result, Tensor};

/// PyTorch's own.
const BATCH_NORM_EPSILON: f64 = 1e-5;
/// Convolutions of the stem.
const STEM: usize = 3;

/// Tensors of the image tower.
#[derive(Clone, Debug)]
pub(super) struct ResNetWeights {
    stem: Vec<Folded>,
    stages: Vec<Vec<Bottleneck>>,
    positions_ld: Tensor,
    /// Queries, keys and values behind each other.
    qkv: (Tensor, Tensor),
    out: (Tensor, Tensor),
    heads: usize,
}

/// A convolution with the batch norm behind it.
#[derive(Clone, Debug)]
struct Folded {
    weight_ohwi: Tensor,
    bias_o: Tensor,
}

#[derive(Clone, Debug)]
struct Bottleneck {
    narrow: Folded,
    middle: Folded,
    wide: Folded,
    /// Where the way around has another number of channels or places.
    around: Option<Folded>,
    /// Squares of this side become one place.
    shrink: usize,
}

/// Where a bottleneck stands and what it is like.
struct Place {
    name: String,
    inputs: usize,
    planes: usize,
    shrink: usize,
}

impl Place {
    fn has_way_around(&self) -> bool {
        self.shrink > 1 || self.inputs != EXPANSION * self.planes
    }
}

/// All bottlenecks, stage by stage.
fn places(width: usize, blocks: &[usize]) -> Vec<Vec<Place>> {
    let mut inputs = width;
    let mut stage = |(stage, &blocks): (usize, &usize)| {
        let planes = width << stage;
        (0..blocks)
            .map(|block| Place {
                name: format!("visual.layer{}.{block}", stage + 1),
                inputs: std::mem::replace(&mut inputs, EXPANSION * planes),
                planes,
                shrink: if stage > 0 && block == 0 { 2 } else { 1 },
            })
            .collect()
    };
    blocks.iter().enumerate().map(&mut stage).collect()
}

/// Inputs and outputs of the stem's convolutions.
fn stem(width: usize) -> [(usize, usize); STEM] {
    [(3, width / 2), (width / 2, width / 2), (width / 2, width)]
}

/// Names and shapes of all that a checkpoint holds of the tower, running statistics among it.
pub(super) fn declare(list: &mut Declarations, config: &ClipConfig, width: usize, blocks: &[usize]) {
    for (at, (inputs, outputs)) in (1..).zip(stem(width)) {
        list.batch_normed("visual", &format!("conv{at}"), &format!("bn{at}"), &[outputs, inputs, 3, 3]);
    }
    for place in places(width, blocks).iter().flatten() {
        let (name, planes, wide) = (&place.name, place.planes, EXPANSION * place.planes);
        list.batch_normed(name, "conv1", "bn1", &[planes, place.inputs, 1, 1]);
        list.batch_normed(name, "conv2", "bn2", &[planes, planes, 3, 3]);
        list.batch_normed(name, "conv3", "bn3", &[wide, planes, 1, 1]);
        if place.has_way_around() {
            list.batch_normed(name, "downsample.0", "downsample.1", &[wide, place.inputs, 1, 1]);
        }
    }
    let v = &config.vision;
    list.normal("visual.attnpool.positional_embedding", &[v.tokens(), v.width], (v.width as f64).powf(-0.5));
    for (name, outputs) in [("k_proj", v.width), ("q_proj", v.width), ("v_proj", v.width), ("c_proj", config.embed_dim)]
    {
        list.normal(&format!("visual.attnpool.{name}.weight"), &[outputs, v.width], (v.width as f64).powf(-0.5));
        list.zeros(&format!("visual.attnpool.{name}.bias"), outputs);
    }
}

impl ResNetWeights {
    pub(super) fn new(source: &Source<'_>, v: &VisionConfig, width: usize, blocks: &[usize]) -> Result<Self> {
        let stem = (1..=STEM).map(|at| Folded::new(source, "visual", &format!("conv{at}"), &format!("bn{at}")));
        let bottleneck = |place: &Place| {
            let folded = |conv: &str, norm: &str| Folded::new(source, &place.name, conv, norm);
            Ok(Bottleneck {
                narrow: folded("conv1", "bn1")?,
                middle: folded("conv2", "bn2")?,
                wide: folded("conv3", "bn3")?,
                around: place.has_way_around().then(|| folded("downsample.0", "downsample.1")).transpose()?,
                shrink: place.shrink,
            })
        };
        let linear = |name: &str| {
            let part = |kind: &str| source.detached(&format!("visual.attnpool.{name}.{kind}"));
            Ok::<_, candle_core::Error>((part("weight")?, part("bias")?))
        };
        let [q, k, v_of] = [linear("q_proj")?, linear("k_proj")?, linear("v_proj")?];
        Ok(Self {
            stem: stem.collect::<Result<_>>()?,
            stages: places(width, blocks)
                .iter()
                .map(|stage| stage.iter().map(bottleneck).collect::<Result<_>>())
                .collect::<Result<_>>()?,
            positions_ld: source.detached("visual.attnpool.positional_embedding")?,
            qkv: (Tensor::cat(&[q.0, k.0, v_of.0], 0)?, Tensor::cat(&[q.1, k.1, v_of.1], 0)?),
            out: linear("c_proj")?,
            heads: v.heads,
        })
    }

    /// The stem, each group of bottlenecks, and the attention.
    pub(super) fn layers(&self) -> usize {
        1 + self.stages.len() + 1
    }

    /// `pixels_bchw [B, 3, S, S]` to `[B, S / 4, S / 4, W]`.
    pub(super) fn embed(&self, pixels_bchw: &Tensor) -> Result<Tensor> {
        let mut x_bhwc = pixels_bchw.permute((0, 2, 3, 1))?.contiguous()?;
        for (at, convolution) in self.stem.iter().enumerate() {
            let stride = if at == 0 { 2 } else { 1 };
            x_bhwc = convolution.apply(&x_bhwc, stride)?.relu()?;
        }
        mean_pool(&x_bhwc, 2)
    }

    /// Group `index`, counted from 1; behind the last one the embeddings `[B, E]`.
    pub(super) fn layer(&self, index: usize, x_bhwc: &Tensor) -> Result<Tensor> {
        match self.stages.get(index - 1) {
            Some(stage) => stage.iter().try_fold(x_bhwc.clone(), |x, bottleneck| bottleneck.apply(&x)),
            None => self.pooled(x_bhwc),
        }
    }

    fn pooled(&self, x_bhwc: &Tensor) -> Result<Tensor> {
        let places_bld = x_bhwc.flatten(1, 2)?;
        // a sum over many places may be more than f16 holds
        let mean_b1d = widen(&places_bld)?.mean_keepdim(1)?.to_dtype(x_bhwc.dtype())?;
        let tokens_bld = add_positions(&Tensor::cat(&[&mean_b1d, &places_bld], 1)?, &self.positions_ld, None)?;
        let qkv = linear(&tokens_bld, &self.qkv.0, Some(&self.qkv.1))?;
        let attended_bld = attention(&qkv, self.heads, false, None)?;
        // the mean stands first, and nothing else is read
        let first_bd = attended_bld.narrow(1, 0, 1)?.squeeze(1)?.contiguous()?;
        linear(&first_bd, &self.out.0, Some(&self.out.1))
    }
}

impl Folded {
    /// A convolution without bias, and the batch norm behind it by its running statistics.
    fn new(source: &Source<'_>, of: &str, convolution: &str, norm: &str) -> Result<Self> {
        let weight_oihw = source.detached(&format!("{of}.{convolution}.weight"))?;
        let as_type = weight_oihw.dtype();
        let wide = |part: &str| source.detached(&format!("{of}.{norm}.{part}"))?.to_dtype(DType::F64);
        let factor_o = (wide("weight")? / (wide("running_var")? + BATCH_NORM_EPSILON)?.sqrt()?)?;
        let bias_o = (wide("bias")? - (wide("running_mean")? * &factor_o)?)?;
        let weight_oihw = weight_oihw.to_dtype(DType::F64)?.broadcast_mul(&factor_o.reshape(((), 1, 1, 1))?)?;
        Ok(Self {
            weight_ohwi: weight_oihw.permute((0, 2, 3, 1))?.contiguous()?.to_dtype(as_type)?,
            bias_o: bias_o.to_dtype(as_type)?,
        })
    }

    fn apply(&self, x_bhwc: &Tensor, stride: usize) -> Result<Tensor> {
        let (_, side, _, _) = self.weight_ohwi.dims4()?;
        match side {
            // each place by itself: one product of matrices
            1 => linear(x_bhwc, &self.weight_ohwi.flatten_from(1)?, Some(&self.bias_o)),
            _ => conv2d(x_bhwc, &self.weight_ohwi, Some(&self.bias_o), stride, side / 2),
        }
    }
}

impl Bottleneck {
    fn apply(&self, x_bhwc: &Tensor) -> Result<Tensor> {
        let narrow = self.narrow.apply(x_bhwc, 1)?.relu()?;
        let middle = self.middle.apply(&narrow, 1)?.relu()?;
        let wide = self.wide.apply(&mean_pool(&middle, self.shrink)?, 1)?;
        let around = match &self.around {
            Some(around) => around.apply(&mean_pool(x_bhwc, self.shrink)?, 1)?,
            None => x_bhwc.clone(),
        };
        (wide + around)?.relu()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bottlenecks_of_a_resnet_50_stand_where_openai_has_them() {
        let all = places(64, &[3, 4, 6, 3]);
        let of = |stage: usize, block: usize| {
            let place: &Place = &all[stage][block];
            (place.name.as_str(), place.inputs, place.planes, place.shrink, place.has_way_around())
        };
        assert_eq!(of(0, 0), ("visual.layer1.0", 64, 64, 1, true));
        assert_eq!(of(0, 1), ("visual.layer1.1", 256, 64, 1, false));
        assert_eq!(of(1, 0), ("visual.layer2.0", 256, 128, 2, true));
        assert_eq!(of(3, 2), ("visual.layer4.2", 2048, 512, 1, false));
        assert_eq!(super::super::resnet_shape::last_width(64), 2048);
    }
}
