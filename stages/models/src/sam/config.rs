//! Sizes of a Segment Anything model.

use crate::{ModelError, Result};
use serde::{Deserialize, Serialize};

/// Mean of the images that every published checkpoint was trained on, by channel, on the scale 0..255.
pub const PIXEL_MEAN: [f32; 3] = [123.675, 116.28, 103.53];

/// Standard deviation of the same images.
pub const PIXEL_STD: [f32; 3] = [58.395, 57.12, 57.375];

/// Everything that determines the shapes of a Segment Anything model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SamConfig {
    /// Side of the square input in pixels.
    pub image_size: usize,
    /// What embeds images.
    pub encoder: EncoderConfig,
    /// What answers prompts.
    pub decoder: DecoderConfig,
}

/// The network that embeds images.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum EncoderConfig {
    /// Of the original checkpoints: ViT-B, L and H.
    Vit(VitConfig),
    /// Of MobileSAM.
    TinyVit(TinyVitConfig),
}

/// A plain vision Transformer with windows (Li et al., "Exploring Plain Vision Transformer Backbones for Object
/// Detection").
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VitConfig {
    /// Side of the square that becomes one token, in pixels.
    pub patch_size: usize,
    /// Width of a token.
    pub width: usize,
    /// Number of Transformer blocks.
    pub depth: usize,
    /// Attention heads of a block.
    pub heads: usize,
    /// Width of the hidden layer of an MLP.
    pub mlp_width: usize,
    /// Side of a window in patches.
    pub window: usize,
    /// Blocks whose window is the whole image.
    pub global_blocks: Vec<usize>,
}

/// Wu et al., "TinyViT": a stage of convolutions, then three stages of Transformer blocks with windows.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TinyVitConfig {
    /// Channels of each stage.
    pub widths: [usize; 4],
    /// Blocks of each stage.
    pub depths: [usize; 4],
    /// Of the last three stages.
    pub heads: [usize; 3],
    /// Of the last three stages.
    pub windows: [usize; 3],
    /// Width of the hidden layer of each block as a multiple of its width.
    pub expansion: usize,
}

/// Prompt encoder and mask decoder.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DecoderConfig {
    /// Channels of the image embedding and of prompts.
    pub width: usize,
    /// Blocks of the two-way Transformer.
    pub depth: usize,
    /// Attention heads of a block.
    pub heads: usize,
    /// Width of the hidden layer of an MLP.
    pub mlp_width: usize,
    /// The attention between tokens and image is narrower by this factor.
    pub attention_downsample: usize,
    /// Masks for an ambiguous prompt; there is one more for a clear one.
    pub multimask_outputs: usize,
    /// Layers of the MLP that predicts a mask's quality.
    pub iou_head_depth: usize,
    /// Width of its hidden layers.
    pub iou_head_width: usize,
    /// Channels of the network that reads mask prompts.
    pub mask_channels: usize,
    /// Epsilon of the layer norms between attentions: 1e-5 in the original code, 1e-6 in transformers.
    pub layer_norm_epsilon: f64,
}

impl Default for DecoderConfig {
    /// The sizes of every published checkpoint.
    fn default() -> Self {
        Self {
            width: 256,
            depth: 2,
            heads: 8,
            mlp_width: 2048,
            attention_downsample: 2,
            multimask_outputs: 3,
            iou_head_depth: 3,
            iou_head_width: 256,
            mask_channels: 16,
            layer_norm_epsilon: 1e-5,
        }
    }
}

impl TinyVitConfig {
    /// TinyViT-5M, MobileSAM's encoder.
    pub fn tiny_vit_5m() -> Self {
        Self { widths: [64, 128, 160, 320], depths: [2, 2, 6, 2], heads: [4, 5, 10], windows: [7, 14, 7], expansion: 4 }
    }

    /// Stride of the convolution between stage `stage` and the next. The widths of the last stage stand for a stride of
    /// one in the reference code (`PatchMerging`), so that the embedding keeps a sixteenth of the image's side.
    pub(super) fn merge_stride(&self, stage: usize) -> usize {
        if [320, 448, 576].contains(&self.widths[stage + 1]) { 1 } else { 2 }
    }

    /// Side of the feature map of each stage.
    pub(super) fn sides(&self, image_size: usize) -> [usize; 4] {
        let mut sides = [image_size / 4; 4];
        for stage in 0..3 {
            sides[stage + 1] = sides[stage].div_ceil(self.merge_stride(stage));
        }
        sides
    }
}

/// Bounds far above every published model, so that no hostile configuration asks for memory without end.
const MAX_SIZE: usize = 16_384;
const MAX_DEPTH: usize = 128;

impl SamConfig {
    /// `vit-b`, `vit-l`, `vit-h` or `mobile` (MobileSAM).
    pub fn preset(name: &str) -> Option<Self> {
        let vit = |width: usize, depth: usize, heads: usize, global_blocks: [usize; 4]| {
            EncoderConfig::Vit(VitConfig {
                patch_size: 16,
                width,
                depth,
                heads,
                mlp_width: 4 * width,
                window: 14,
                global_blocks: global_blocks.to_vec(),
            })
        };
        let encoder = match name {
            "vit-b" => vit(768, 12, 12, [2, 5, 8, 11]),
            "vit-l" => vit(1024, 24, 16, [5, 11, 17, 23]),
            "vit-h" => vit(1280, 32, 16, [7, 15, 23, 31]),
            "mobile" => EncoderConfig::TinyVit(TinyVitConfig::tiny_vit_5m()),
            _ => return None,
        };
        Some(Self { image_size: 1024, encoder, decoder: DecoderConfig::default() })
    }

    /// Side of the image embedding.
    pub fn embedding_side(&self) -> usize {
        match &self.encoder {
            EncoderConfig::Vit(vit) => self.image_size / vit.patch_size.max(1),
            EncoderConfig::TinyVit(tiny) => tiny.sides(self.image_size)[3],
        }
    }

    /// Side of the masks that the decoder predicts, a quarter of the image.
    pub fn mask_side(&self) -> usize {
        4 * self.embedding_side()
    }

    /// Whether these sizes describe a network.
    ///
    /// # Errors
    /// [`ModelError::Config`] with the value that does not fit.
    pub fn validate(&self) -> Result<()> {
        let refuse = |what: String| Err(ModelError::Config(format!("segment anything: {what}")));
        let sizes = |what: &str, sizes: &[usize]| match sizes.iter().find(|&&size| size == 0 || size > MAX_SIZE) {
            Some(size) => refuse(format!("{what} {size} is not between 1 and {MAX_SIZE}")),
            None => Ok(()),
        };
        let divides = |what: &str, whole: usize, part: usize| match whole.is_multiple_of(part) {
            true => Ok(()),
            false => refuse(format!("{what}: {whole} cannot be divided by {part}")),
        };
        sizes("image_size", &[self.image_size])?;
        match &self.encoder {
            EncoderConfig::Vit(v) => {
                sizes("encoder size", &[v.patch_size, v.width, v.heads, v.mlp_width, v.window])?;
                divides("image size and patch size", self.image_size, v.patch_size)?;
                divides("encoder width and heads", v.width, v.heads)?;
                if v.depth > MAX_DEPTH || v.global_blocks.iter().any(|&block| block >= v.depth) {
                    return refuse(format!("global blocks {:?} of {} blocks", v.global_blocks, v.depth));
                }
            }
            EncoderConfig::TinyVit(t) => {
                sizes("encoder width", &t.widths)?;
                sizes("encoder heads, windows and expansion", &[t.heads, t.windows].concat())?;
                sizes("encoder expansion", &[t.expansion])?;
                divides("image size", self.image_size, 16)?;
                divides("width of the first stage", t.widths[0], 2)?;
                for stage in 0..3 {
                    divides("encoder width and heads", t.widths[stage + 1], t.heads[stage])?;
                }
                if t.depths.iter().any(|&depth| depth > MAX_DEPTH) {
                    return refuse(format!("depths {:?} are more than {MAX_DEPTH}", t.depths));
                }
            }
        }
        let d = &self.decoder;
        let decoder_sizes =
            [d.width, d.heads, d.mlp_width, d.attention_downsample, d.multimask_outputs, d.iou_head_width];
        sizes("decoder size", &decoder_sizes)?;
        sizes("mask channels", &[d.mask_channels])?;
        divides("decoder width", d.width, 8)?;
        divides("decoder width and attention downsampling", d.width, d.attention_downsample)?;
        divides("decoder width and heads", d.width, d.heads)?;
        divides("decoder attention width and heads", d.width / d.attention_downsample, d.heads)?;
        divides("mask channels", d.mask_channels, 4)?;
        if !(1..=MAX_DEPTH).contains(&d.depth) || !(2..=MAX_DEPTH).contains(&d.iou_head_depth) {
            return refuse(format!("decoder of {} layers, iou head of {}", d.depth, d.iou_head_depth));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn presets_are_valid_and_embed_a_sixteenth() {
        for name in ["vit-b", "vit-l", "vit-h", "mobile"] {
            let config = SamConfig::preset(name).unwrap();
            config.validate().unwrap();
            assert_eq!((config.embedding_side(), config.mask_side()), (64, 256), "{name}");
            let json = serde_json::to_string(&config).unwrap();
            assert_eq!(serde_json::from_str::<SamConfig>(&json).unwrap(), config);
        }
        assert!(SamConfig::preset("vit-g").is_none());
    }

    #[test]
    fn impossible_sizes_are_named() {
        let base = SamConfig::preset("vit-b").unwrap();
        let message = |change: &dyn Fn(&mut SamConfig)| {
            let mut config = base.clone();
            change(&mut config);
            config.validate().unwrap_err().to_string()
        };
        assert!(message(&|c| c.image_size = 1000).contains("1000 cannot be divided by 16"));
        assert!(message(&|c| c.image_size = usize::MAX).contains("image_size"));
        assert!(message(&|c| c.decoder.depth = 0).contains("0 layers"));
        assert!(message(&|c| c.decoder.heads = 7).contains("256 cannot be divided by 7"));
        let vit = |change: &dyn Fn(&mut VitConfig)| {
            message(&|c| match &mut c.encoder {
                EncoderConfig::Vit(vit) => change(vit),
                EncoderConfig::TinyVit(_) => unreachable!("the preset is a ViT"),
            })
        };
        assert!(vit(&|v| v.heads = 0).contains("encoder size 0"));
        assert!(vit(&|v| v.global_blocks = vec![12]).contains("[12]"));
    }
}
