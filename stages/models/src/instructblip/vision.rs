use super::config::VisionConfig;
use crate::Result;
use crate::language::post_norm::Norm;
use crate::language::projection::Projection;
use crate::language::weights::Weights;
use crate::ops::inference::{Rows, has_inference_kernel};
use crate::ops::{Activation, activation, add_positions, attention, patches};
use candle_core::Tensor;

/// The frozen image tower: pixels to one vector per patch.
#[derive(Clone, Debug)]
pub(super) struct Vision {
    patch: Projection,
    class_d: Tensor,
    positions_ld: Tensor,
    layers: Vec<Layer>,
    post_norm: Norm,
    heads: usize,
    patch_size: usize,
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

impl Vision {
    pub(super) fn new(config: &VisionConfig, weights: &Weights<'_>) -> Result<Self> {
        let (c, width) = (config, config.hidden_size);
        let embeddings = weights.at("embeddings");
        let side = c.patch_size;
        let patch_oi = embeddings.tensor("patch_embedding.weight", &[width, 3, side, side])?.flatten_from(1)?;
        let patch_bias_o = embeddings.tensor("patch_embedding.bias", &[width])?;
        let layers = (0..c.num_hidden_layers).map(|index| {
            let layer = weights.at("encoder.layers").at(index);
            let (attention, mlp) = (layer.at("self_attn"), layer.at("mlp"));
            Ok(Layer {
                norm_1: Norm::new(&layer.at("layer_norm1"), width, c.layer_norm_eps)?,
                qkv: attention.linear("qkv", width, 3 * width, c.qkv_bias)?,
                out: attention.linear("projection", width, width, true)?,
                norm_2: Norm::new(&layer.at("layer_norm2"), width, c.layer_norm_eps)?,
                fc1: mlp.linear("fc1", width, c.intermediate_size, true)?,
                fc2: mlp.linear("fc2", c.intermediate_size, width, true)?,
            })
        });
        Ok(Self {
            patch: Projection::new(patch_oi, Some(patch_bias_o))?,
            class_d: embeddings.tensor("class_embedding", &[1, 1, width])?.flatten_all()?,
            positions_ld: embeddings.tensor("position_embedding", &[1, c.tokens(), width])?.squeeze(0)?,
            layers: layers.collect::<Result<_>>()?,
            post_norm: Norm::new(&weights.at("post_layernorm"), width, c.layer_norm_eps)?,
            heads: c.num_attention_heads,
            patch_size: side,
        })
    }

    /// `pixels_bchw [B, 3, S, S]` to `[B, L, D]`, the class token first.
    pub(super) fn encode(&self, pixels_bchw: &Tensor) -> candle_core::Result<Tensor> {
        if !has_inference_kernel(pixels_bchw) {
            return self.encode_together(pixels_bchw);
        }
        // The rows of one image keep the cores busy, and what its layers hand on stays in their caches.
        let images = (0..pixels_bchw.dim(0)?).map(|image| self.encode_together(&pixels_bchw.narrow(0, image, 1)?));
        Tensor::cat(&images.collect::<candle_core::Result<Vec<_>>>()?, 0)
    }

    fn encode_together(&self, pixels_bchw: &Tensor) -> candle_core::Result<Tensor> {
        let tokens_bld = self.patch.forward(&patches(pixels_bchw, self.patch_size)?, Rows::Many)?;
        let mut x = add_positions(&tokens_bld, &self.positions_ld, Some(&self.class_d))?;
        for layer in &self.layers {
            let qkv = layer.qkv.forward(&layer.norm_1.apply(&x)?, Rows::Many)?;
            x = (x + layer.out.forward(&attention(&qkv, self.heads, false, None)?, Rows::Many)?)?;
            let hidden = activation(&layer.fc1.forward(&layer.norm_2.apply(&x)?, Rows::Many)?, Activation::Gelu)?;
            x = (x + layer.fc2.forward(&hidden, Rows::Many)?)?;
        }
        self.post_norm.apply(&x)
    }
}
