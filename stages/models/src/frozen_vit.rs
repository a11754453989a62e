//! A frozen Vision Transformer that normalises before each sum: EVA-CLIP's (Sun et al., 2023) and OpenAI's CLIP's.

use crate::Result;
use crate::language::config::{in_range, positive, refuse};
use crate::language::post_norm::Norm;
use crate::language::projection::Projection;
use crate::language::weights::Weights;
use crate::ops::inference::{Rows, has_inference_kernel};
use crate::ops::{Activation, activation, add_positions, attention, patches};
use candle_core::Tensor;

/// Bounds against hostile files: far beyond every published network.
pub(crate) const MAX_WIDTH: usize = 1 << 15;
pub(crate) const MAX_LAYERS: usize = 1 << 10;
pub(crate) const MAX_TOKENS: usize = 1 << 16;

/// Sizes of one.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct VitShape {
    pub(crate) width: usize,
    pub(crate) hidden: usize,
    /// Blocks that are run.
    pub(crate) layers: usize,
    pub(crate) heads: usize,
    pub(crate) image_size: usize,
    pub(crate) patch_size: usize,
    pub(crate) epsilon: f64,
    pub(crate) activation: Activation,
}

impl VitShape {
    /// Tokens of one image, with the class token.
    pub(crate) fn tokens(&self) -> usize {
        (self.image_size / self.patch_size).pow(2) + 1
    }

    /// Checks that the numbers of `section` describe a network.
    ///
    /// # Errors
    /// [`ModelError::Config`](crate::ModelError::Config) with the value that does not fit.
    pub(crate) fn validate(&self, section: &str) -> Result<()> {
        tower(section, self.width, self.hidden, self.layers, self.heads)?;
        in_range(&format!("{section}.image_size"), self.image_size, MAX_TOKENS)?;
        in_range(&format!("{section}.patch_size"), self.patch_size, self.image_size)?;
        in_range("number of image tokens", self.tokens(), MAX_TOKENS)?;
        if !self.image_size.is_multiple_of(self.patch_size) {
            return refuse(format!(
                "{section}.image_size = {} is no multiple of patch_size = {}",
                self.image_size, self.patch_size
            ));
        }
        positive(&format!("{section}.layer_norm_eps"), self.epsilon)
    }
}

/// Checks sizes that every Transformer has.
///
/// # Errors
/// [`ModelError::Config`](crate::ModelError::Config) with the value that does not fit.
pub(crate) fn tower(section: &str, width: usize, hidden: usize, layers: usize, heads: usize) -> Result<()> {
    in_range(&format!("{section}.hidden_size"), width, MAX_WIDTH)?;
    in_range(&format!("{section}.intermediate_size"), hidden, 8 * MAX_WIDTH)?;
    in_range(&format!("{section}.num_hidden_layers"), layers, MAX_LAYERS)?;
    in_range(&format!("{section}.num_attention_heads"), heads, width)?;
    match width.is_multiple_of(heads) {
        true => Ok(()),
        false => refuse(format!("{section}.hidden_size = {width} is no multiple of num_attention_heads = {heads}")),
    }
}

/// Pixels to one vector per patch.
#[derive(Clone, Debug)]
pub(crate) struct FrozenVit {
    patch: Projection,
    class_d: Tensor,
    positions_ld: Tensor,
    pre_norm: Option<Norm>,
    layers: Vec<Layer>,
    post_norm: Option<Norm>,
    heads: usize,
    patch_size: usize,
    activation: Activation,
}

#[derive(Clone, Debug)]
struct Layer {
    norm_1: Norm,
    /// Queries, keys and values behind each other.
    qkv: Projection,
    out: Projection,
    norm_2: Norm,
    fc1: Projection,
    fc2: Projection,
}

impl Layer {
    fn new(shape: VitShape, layer: &Weights<'_>, qkv: Projection, out: &str) -> Result<Self> {
        let VitShape { width, hidden, epsilon, .. } = shape;
        let mlp = layer.at("mlp");
        Ok(Self {
            norm_1: Norm::new(&layer.at("layer_norm1"), width, epsilon)?,
            qkv,
            out: layer.at("self_attn").linear(out, width, width, true)?,
            norm_2: Norm::new(&layer.at("layer_norm2"), width, epsilon)?,
            fc1: mlp.linear("fc1", width, hidden, true)?,
            fc2: mlp.linear("fc2", hidden, width, true)?,
        })
    }
}

impl FrozenVit {
    /// EVA-CLIP's, as InstructBLIP's checkpoints name it.
    ///
    /// # Errors
    /// Those of reading tensors.
    pub(crate) fn eva(shape: VitShape, qkv_bias: bool, weights: &Weights<'_>) -> Result<Self> {
        let VitShape { width, patch_size: side, .. } = shape;
        let embeddings = weights.at("embeddings");
        let patch_oi = embeddings.tensor("patch_embedding.weight", &[width, 3, side, side])?.flatten_from(1)?;
        let patch_bias_o = embeddings.tensor("patch_embedding.bias", &[width])?;
        let layers = (0..shape.layers).map(|index| {
            let layer = weights.at("encoder.layers").at(index);
            let qkv = layer.at("self_attn").linear("qkv", width, 3 * width, qkv_bias)?;
            Layer::new(shape, &layer, qkv, "projection")
        });
        Ok(Self {
            patch: Projection::new(patch_oi, Some(patch_bias_o))?,
            class_d: embeddings.tensor("class_embedding", &[1, 1, width])?.flatten_all()?,
            positions_ld: embeddings.tensor("position_embedding", &[1, shape.tokens(), width])?.squeeze(0)?,
            pre_norm: None,
            layers: layers.collect::<Result<_>>()?,
            post_norm: Some(Norm::new(&weights.at("post_layernorm"), width, shape.epsilon)?),
            heads: shape.heads,
            patch_size: side,
            activation: shape.activation,
        })
    }

    /// CLIP's, as transformers' `CLIPVisionModel` names it, up to the last block of the shape: what stands behind it in the
    /// checkpoint is not read.
    ///
    /// # Errors
    /// Those of reading tensors.
    pub(crate) fn clip(shape: VitShape, weights: &Weights<'_>) -> Result<Self> {
        let VitShape { width, patch_size: side, .. } = shape;
        let embeddings = weights.at("embeddings");
        let patch_oi = embeddings.tensor("patch_embedding.weight", &[width, 3, side, side])?.flatten_from(1)?;
        let layers = (0..shape.layers).map(|index| {
            let layer = weights.at("encoder.layers").at(index);
            let parts = [("q_proj", width), ("k_proj", width), ("v_proj", width)];
            let qkv = layer.at("self_attn").stacked(&parts, width, true)?;
            Layer::new(shape, &layer, qkv, "out_proj")
        });
        Ok(Self {
            patch: Projection::new(patch_oi, None)?,
            class_d: embeddings.tensor("class_embedding", &[width])?,
            positions_ld: embeddings.tensor("position_embedding.weight", &[shape.tokens(), width])?,
            // transformers spells it so
            pre_norm: Some(Norm::new(&weights.at("pre_layrnorm"), width, shape.epsilon)?),
            layers: layers.collect::<Result<_>>()?,
            post_norm: None,
            heads: shape.heads,
            patch_size: side,
            activation: shape.activation,
        })
    }

    /// `pixels_bchw [B, 3, S, S]` to `[B, L, D]`, the class token first.
    pub(crate) fn encode(&self, pixels_bchw: &Tensor) -> candle_core::Result<Tensor> {
        if !has_inference_kernel(pixels_bchw) {
            return self.encode_together(pixels_bchw);
        }
        // The rows of one image keep the cores busy, and what its layers hand on stays in their caches.
        let images = (0..pixels_bchw.dim(0)?).map(|image| self.encode_together(&pixels_bchw.narrow(0, image, 1)?));
        Tensor::cat(&images.collect::<candle_core::Result<Vec<_>>>()?, 0)
    }

    fn encode_together(&self, pixels_bchw: &Tensor) -> candle_core::Result<Tensor> {
        let normed = |norm: &Option<Norm>, x: Tensor| norm.as_ref().map_or(Ok(x.clone()), |norm| norm.apply(&x));
        let tokens_bld = self.patch.forward(&patches(pixels_bchw, self.patch_size)?, Rows::Many)?;
        let mut x = normed(&self.pre_norm, add_positions(&tokens_bld, &self.positions_ld, Some(&self.class_d))?)?;
        for layer in &self.layers {
            let qkv = layer.qkv.forward(&layer.norm_1.apply(&x)?, Rows::Many)?;
            x = (x + layer.out.forward(&attention(&qkv, self.heads, false, None)?, Rows::Many)?)?;
            let hidden = activation(&layer.fc1.forward(&layer.norm_2.apply(&x)?, Rows::Many)?, self.activation)?;
            x = (x + layer.fc2.forward(&hidden, Rows::Many)?)?;
        }
        normed(&self.post_norm, x)
    }
}
