//! Segment Anything's own image encoder.

use super::config::{SamConfig, VitConfig};
use super::neck::Neck;
use super::source::{Dense, Norm, Tensors};
use crate::Result;
use crate::ops::{Activation, RelativePositions, activation, patches, window_attention};
use candle_core::Tensor;

const NORM_EPSILON: f64 = 1e-6;

/// `ImageEncoderViT`: patches, Transformer blocks with windows, neck.
#[derive(Clone, Debug)]
pub(super) struct Vit {
    patch_size: usize,
    patch_embed: Dense,
    /// `[H * W, D]`
    positions_ld: Tensor,
    blocks: Vec<Block>,
    neck: Neck,
}

#[derive(Clone, Debug)]
struct Block {
    norm_1: Norm,
    qkv: Dense,
    positions: RelativePositions,
    heads: usize,
    window: usize,
    out: Dense,
    norm_2: Norm,
    fc_1: Dense,
    fc_2: Dense,
}

impl Vit {
    pub(super) fn load(source: &mut dyn Tensors, config: &SamConfig, v: &VitConfig) -> Result<Self> {
        let side = config.embedding_side();
        let patch = [v.width, 3, v.patch_size, v.patch_size];
        let patch_embed = Dense {
            weight_oi: source.tensor("image_encoder.patch_embed.proj.weight", &patch)?.reshape((v.width, ()))?,
            bias_o: source.tensor("image_encoder.patch_embed.proj.bias", &[v.width])?,
        };
        let positions = source.tensor("image_encoder.pos_embed", &[1, side, side, v.width])?;
        let blocks = (0..v.depth).map(|index| {
            let window = if v.global_blocks.contains(&index) { side } else { v.window };
            Block::load(source, index, window, v)
        });
        Ok(Self {
            patch_size: v.patch_size,
            patch_embed,
            positions_ld: positions.reshape((side * side, v.width))?,
            blocks: blocks.collect::<Result<_>>()?,
            neck: Neck::load(source, v.width, config.decoder.width)?,
        })
    }

    /// `pixel_values_bchw [B, 3, S, S]` to `[B, S / patch, S / patch, D]`.
    pub(super) fn forward(&self, pixel_values_bchw: &Tensor) -> candle_core::Result<Tensor> {
        let (batch, _, height, width) = pixel_values_bchw.dims4()?;
        let (rows, cols) = (height / self.patch_size, width / self.patch_size);
        let x = self.patch_embed.apply(&patches(pixel_values_bchw, self.patch_size)?)?;
        let mut x = x.broadcast_add(&self.positions_ld)?.reshape((batch, rows, cols, ()))?;
        for block in &self.blocks {
            x = block.forward(&x)?;
        }
        self.neck.forward(&x)
    }
}

impl Block {
    fn load(source: &mut dyn Tensors, index: usize, window: usize, v: &VitConfig) -> Result<Self> {
        let name = |part: &str| format!("image_encoder.blocks.{index}.{part}");
        let table = [2 * window - 1, v.width / v.heads];
        Ok(Self {
            norm_1: Norm::load(source, &name("norm1"), v.width, NORM_EPSILON)?,
            qkv: Dense::load(source, &name("attn.qkv"), v.width, 3 * v.width)?,
            positions: RelativePositions::Decomposed {
                height: source.tensor(&name("attn.rel_pos_h"), &table)?,
                width: source.tensor(&name("attn.rel_pos_w"), &table)?,
            },
            heads: v.heads,
            window,
            out: Dense::load(source, &name("attn.proj"), v.width, v.width)?,
            norm_2: Norm::load(source, &name("norm2"), v.width, NORM_EPSILON)?,
            fc_1: Dense::load(source, &name("mlp.lin1"), v.width, v.mlp_width)?,
            fc_2: Dense::load(source, &name("mlp.lin2"), v.mlp_width, v.width)?,
        })
    }

    fn forward(&self, x: &Tensor) -> candle_core::Result<Tensor> {
        // Positions that fill up a window are zero behind the norm, so that only the bias is left of them.
        let qkv = self.qkv.apply(&self.norm_1.apply(x)?)?;
        let attended = window_attention(&qkv, &self.qkv.bias_o, self.heads, self.window, &self.positions)?;
        let x = (x + self.out.apply(&attended)?)?;
        let hidden = activation(&self.fc_1.apply(&self.norm_2.apply(&x)?)?, Activation::Gelu)?;
        &x + self.fc_2.apply(&hidden)?
    }
}
