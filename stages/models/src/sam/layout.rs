//! What the shapes of a checkpoint say about its network.

use super::config::{DecoderConfig, EncoderConfig, SamConfig, TinyVitConfig, VitConfig};
use std::collections::BTreeMap;

/// Shapes by the names of the original checkpoints.
pub(super) type Shapes = BTreeMap<String, Vec<usize>>;

/// MobileSAM's checkpoint does not say how large its input is.
const TINY_VIT_IMAGE_SIZE: usize = 1024;

/// The configuration that a checkpoint in the original names belongs to.
///
/// # Errors
/// The tensor that is missing or has the wrong number of dimensions, in words.
pub(super) fn config_of(shapes: &Shapes) -> Result<SamConfig, String> {
    let s = Reader(shapes);
    let decoder = s.decoder()?;
    let (image_size, encoder) = if shapes.contains_key("image_encoder.pos_embed") {
        s.vit()?
    } else if shapes.contains_key("image_encoder.patch_embed.seq.0.c.weight") {
        (TINY_VIT_IMAGE_SIZE, EncoderConfig::TinyVit(s.tiny_vit()?))
    } else {
        return Err("neither ViT nor TinyViT encodes the image".to_owned());
    };
    Ok(SamConfig { image_size, encoder, decoder })
}

struct Reader<'a>(&'a Shapes);

impl Reader<'_> {
    fn shape<const N: usize>(&self, name: &str) -> Result<[usize; N], String> {
        let shape = self.0.get(name).ok_or_else(|| format!("there is no tensor {name}"))?;
        let wrong = |_| format!("tensor {name} has shape {shape:?}, {N} dimensions are wanted");
        <[usize; N]>::try_from(shape.as_slice()).map_err(wrong)
    }

    /// How many of the names exist, from 0 on.
    fn count(&self, name: impl Fn(usize) -> String) -> usize {
        (0..).take_while(|&index| self.0.contains_key(&name(index))).count()
    }

    fn vit(&self) -> Result<(usize, EncoderConfig), String> {
        let [_, side, _, width] = self.shape("image_encoder.pos_embed")?;
        let [_, _, patch_size, _] = self.shape("image_encoder.patch_embed.proj.weight")?;
        let table = |index: usize| format!("image_encoder.blocks.{index}.attn.rel_pos_h");
        let depth = self.count(table);
        let (mut global_blocks, mut window, mut head_width) = (Vec::new(), side, width);
        for index in 0..depth {
            let [distances, d] = self.shape(&table(index))?;
            head_width = d;
            match distances.div_ceil(2) {
                here if here == side => global_blocks.push(index),
                here => window = here,
            }
        }
        let [mlp_width, _] = self.shape("image_encoder.blocks.0.mlp.lin1.weight")?;
        let heads = width / head_width.max(1);
        let vit = VitConfig { patch_size, width, depth, heads, mlp_width, window, global_blocks };
        Ok((side.saturating_mul(patch_size), EncoderConfig::Vit(vit)))
    }

    fn tiny_vit(&self) -> Result<TinyVitConfig, String> {
        let [first, ..] = self.shape::<4>("image_encoder.patch_embed.seq.2.c.weight")?;
        let [expanded, ..] = self.shape::<4>("image_encoder.layers.0.blocks.0.conv1.c.weight")?;
        let mut tiny = TinyVitConfig {
            widths: [first; 4],
            depths: [self.count(|index| format!("image_encoder.layers.0.blocks.{index}.conv1.c.weight")); 4],
            heads: [0; 3],
            windows: [0; 3],
            expansion: expanded / first.max(1),
        };
        for stage in 0..3 {
            let name = format!("image_encoder.layers.{stage}.downsample.conv3.c.weight");
            [tiny.widths[stage + 1], ..] = self.shape::<4>(&name)?;
            let biases =
                |index: usize| format!("image_encoder.layers.{}.blocks.{index}.attn.attention_biases", stage + 1);
            tiny.depths[stage + 1] = self.count(biases);
            let [heads, distances] = self.shape(&biases(0))?;
            (tiny.heads[stage], tiny.windows[stage]) = (heads, distances.isqrt());
        }
        Ok(tiny)
    }

    fn decoder(&self) -> Result<DecoderConfig, String> {
        let [tokens, width] = self.shape("mask_decoder.mask_tokens.weight")?;
        let layer = |index: usize| format!("mask_decoder.transformer.layers.{index}.mlp.lin1.weight");
        let [mlp_width, _] = self.shape(&layer(0))?;
        let cross = "mask_decoder.transformer.layers.0.cross_attn_token_to_image.q_proj.weight";
        let [inner, _] = self.shape(cross)?;
        let iou = |index: usize| format!("mask_decoder.iou_prediction_head.layers.{index}.weight");
        let [iou_head_width, _] = self.shape(&iou(0))?;
        let [mask_channels, ..] = self.shape::<4>("prompt_encoder.mask_downscaling.3.weight")?;
        Ok(DecoderConfig {
            width,
            depth: self.count(layer),
            mlp_width,
            attention_downsample: width / inner.max(1),
            multimask_outputs: tokens.saturating_sub(1),
            iou_head_depth: self.count(iou),
            iou_head_width,
            mask_channels,
            ..DecoderConfig::default()
        })
    }
}
