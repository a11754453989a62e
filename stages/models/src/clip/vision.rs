use super::weights::{Convolution, Norm, StemWeights, VisionWeights, VitWeights};
use crate::ops::half::widen;
use crate::ops::{
    Activation, Dropout, LAYER_NORM_EPSILON, StemStage, add_positions, conv2d, layer_norm, linear, patches, project,
    stem_stage, transformer_block,
};
use candle_core::{Result, Tensor};

/// Every convolution of a stem halves both sides.
const STRIDE: usize = 2;
const PADDING: usize = 1;

impl VisionWeights {
    /// The embedding, and what comes behind it.
    pub(super) fn layers(&self) -> usize {
        match self {
            Self::Vit(vit) => vit.layers(),
            Self::ResNet(resnet) => resnet.layers(),
        }
    }

    /// `pixels_bchw [B, 3, S, S]` to what the first layer behind it takes.
    pub(super) fn embed(&self, pixels_bchw: &Tensor, kind: Activation, dropout: Option<&Dropout>) -> Result<Tensor> {
        match self {
            Self::Vit(vit) => vit.embed(pixels_bchw, kind, dropout),
            Self::ResNet(resnet) => resnet.embed(pixels_bchw),
        }
    }

    /// Layer `index`, counted from 1; the last one ends in embeddings `[B, E]`.
    pub(super) fn layer(&self, index: usize, x: &Tensor, dropout: Option<&Dropout>) -> Result<Tensor> {
        match self {
            Self::Vit(vit) => vit.layer(index, x, dropout),
            Self::ResNet(resnet) => resnet.layer(index, x),
        }
    }
}

impl VitWeights {
    /// The embedding, and each block.
    fn layers(&self) -> usize {
        1 + self.blocks.len()
    }

    /// `pixels_bchw [B, 3, S, S]` to tokens `[B, L, D]`.
    fn embed(&self, pixels_bchw: &Tensor, kind: Activation, dropout: Option<&Dropout>) -> Result<Tensor> {
        let tokens_bld = self.stem.tokens(pixels_bchw, kind)?;
        let x = add_positions(&tokens_bld, &self.positions_ld, self.class_d.as_ref())?;
        dropped(dropout, self.ln_pre.apply(&x)?)
    }

    /// Block `index`, counted from 1, on tokens `[B, L, D]`; the last one ends in embeddings `[B, E]`.
    fn layer(&self, index: usize, x: &Tensor, dropout: Option<&Dropout>) -> Result<Tensor> {
        let block = &self.blocks[index - 1];
        if index < self.blocks.len() {
            return Dropout::of_difference(dropout, index, x, transformer_block(x, block, None)?);
        }
        let pooled_bd = match self.class_d {
            // The class token stands first, and nothing else is read behind the last block.
            Some(_) => transformer_block(x, block, Some(&vec![0; x.dim(0)?]))?,
            None => mean_of_tokens(&Dropout::of_difference(dropout, index, x, transformer_block(x, block, None)?)?)?,
        };
        project(&self.ln_post.apply(&pooled_bd)?, &self.projection)
    }
}

/// `[B, L, D]` to `[B, D]`; a sum of many tokens may be more than f16 holds.
fn mean_of_tokens(x_bld: &Tensor) -> Result<Tensor> {
    widen(x_bld)?.mean(1)?.to_dtype(x_bld.dtype())
}

pub(super) fn dropped(dropout: Option<&Dropout>, x: Tensor) -> Result<Tensor> {
    dropout.map_or(Ok(x.clone()), |dropout| dropout.apply(0, &x))
}

impl StemWeights {
    fn tokens(&self, pixels_bchw: &Tensor, kind: Activation) -> Result<Tensor> {
        match self {
            StemWeights::Patch { weight_oi } => {
                let (_, _, patch, _) = weight_oi.dims4()?;
                linear(&patches(pixels_bchw, patch)?, &weight_oi.flatten_from(1)?, None)
            }
            StemWeights::Conv { stages, last } => {
                let mut x_bhwc = pixels_bchw.permute((0, 2, 3, 1))?.contiguous()?;
                for stage in stages {
                    x_bhwc = normed(&x_bhwc, &stage.halving, kind, STRIDE)?;
                    for residual in &stage.residual {
                        x_bhwc = (normed(&x_bhwc, residual, kind, 1)? + x_bhwc)?;
                    }
                }
                conv2d(&x_bhwc, &last.weight_ohwi, Some(&last.bias_o), STRIDE, PADDING)?.flatten(1, 2)
            }
        }
    }
}

/// Convolution, layer norm and activation.
fn normed(
    x_bhwc: &Tensor,
    (convolution, norm): &(Convolution, Norm),
    kind: Activation,
    stride: usize,
) -> Result<Tensor> {
    let stage = StemStage {
        weight_ohwi: &convolution.weight_ohwi,
        bias_o: &convolution.bias_o,
        norm_weight_o: &norm.weight_d,
        norm_bias_o: &norm.bias_d,
    };
    stem_stage(x_bhwc, stage, kind, stride, PADDING)
}

impl Norm {
    pub(super) fn apply(&self, x: &Tensor) -> Result<Tensor> {
        layer_norm(x, &self.weight_d, &self.bias_d, LAYER_NORM_EPSILON)
    }
}
