use super::resnet_shape as resnet;
use crate::ops::Activation;
use crate::{ModelError, Result};
use choices::Preset;
use serde::{Deserialize, Serialize};

/// Everything that tells one CLIP from another, weights apart.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClipConfig {
    /// Width of the space that images and texts share.
    pub embed_dim: usize,
    /// The image tower.
    pub vision: VisionConfig,
    /// The text tower.
    pub text: TextConfig,
    /// Of the hidden layer of every MLP, in both towers.
    pub activation: Activation,
    /// Per channel (red, green, blue), of pixels in [0, 1].
    pub image_mean: [f32; 3],
    /// Per channel, as `image_mean`.
    pub image_std: [f32; 3],
    /// Natural logarithm of the initial factor on cosines.
    pub init_logit_scale: f64,
}

/// The image tower: a stem that makes tokens, and a Transformer over them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VisionConfig {
    /// Side of the square input in pixels.
    pub image_size: usize,
    /// Side of the square that becomes one token, in pixels; for a convolutional stem its total stride.
    pub patch_size: usize,
    /// Width of a token.
    pub width: usize,
    /// Number of Transformer blocks.
    pub layers: usize,
    /// Attention heads of a block; they divide the width.
    pub heads: usize,
    /// Width of the hidden layer of an MLP, in widths.
    pub mlp_ratio: f64,
    /// What makes tokens of pixels.
    pub stem: Stem,
    /// Which of the last block's tokens become the embedding.
    pub pool: Pool,
}

/// How pixels become tokens.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Stem {
    /// One linear map per patch, as in every published CLIP.
    Patch,
    /// 3 x 3 convolutions of stride 2 with these numbers of output channels, each with layer norm and activation, then
    /// one more to the width of the Transformer. Learns from few images where patches do not.
    ///
    /// `residual`: how many 3 x 3 convolutions of stride 1, each with layer norm, activation and a way around, follow
    /// on each of the former; as many numbers as `channels`, or none.
    Conv {
        /// Output channels of each convolution of stride 2.
        channels: Vec<usize>,
        /// Convolutions of stride 1 behind each of them.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        residual: Vec<usize>,
    },
    /// CLIP's ResNet, which is read and not trained. `patch_size` is its total stride, 32, and `width` that of its last
    /// places.
    ResNet {
        /// Channels behind the first convolutions: 64 in ResNet-50.
        width: usize,
        /// Bottlenecks of each of the four groups: 3, 4, 6, 3 in ResNet-50.
        blocks: Vec<usize>,
    },
}

/// How tokens become one vector.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Pool {
    /// A class token before the others.
    Cls,
    /// The mean of all tokens.
    Mean,
    /// An attention of the mean of all places over them, as ResNets have it.
    Attention,
}

/// The text tower: an embedding table and a causal Transformer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TextConfig {
    /// Tokens per text, start and end included.
    pub context_length: usize,
    /// Rows of the embedding table.
    pub vocab_size: usize,
    /// Width of a token.
    pub width: usize,
    /// Number of Transformer blocks.
    pub layers: usize,
    /// Attention heads of a block; they divide the width.
    pub heads: usize,
    /// Width of the hidden layer of an MLP, in widths.
    #[serde(default = "default_mlp_ratio")]
    pub mlp_ratio: f64,
    /// Which position becomes the embedding of the text.
    pub eot: Eot,
}

fn default_mlp_ratio() -> f64 {
    4.0
}

/// Where the end of a text stands: the position that its embedding is read at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Eot {
    /// The first occurrence of the largest id: OpenAI's rule, the end token being the last of the vocabulary.
    Argmax,
    /// The first occurrence of this id.
    Id(u32),
    /// The last position that does not hold this padding id.
    LastNonPad(u32),
}

/// Mean and deviation of OpenAI's training images.
pub const OPENAI_IMAGE_MEAN: [f32; 3] = [0.481_454_66, 0.457_827_5, 0.408_210_73];
/// Standard deviation of OpenAI's training images, per channel, of pixels in [0, 1].
pub const OPENAI_IMAGE_STD: [f32; 3] = [0.268_629_54, 0.261_302_6, 0.275_777_1];

/// ln(1 / 0.07)
pub const INIT_LOGIT_SCALE: f64 = 2.659_260_036_932_778;

/// Bounds against hostile configuration files: far beyond every published CLIP.
const MAX_WIDTH: usize = 1 << 14;
const MAX_LAYERS: usize = 1 << 10;
const MAX_VOCABULARY: usize = 1 << 24;
const MAX_POSITIONS: usize = 1 << 16;

/// Width of one attention head in the published models.
const HEAD_WIDTH: usize = 64;

impl ClipConfig {
    /// The configuration of a preset: ViTs as published by OpenAI, and two small networks.
    ///
    /// The small ones expect a vocabulary trained on their captions: set `text.vocab_size` to its size.
    pub fn preset(preset: Preset) -> Self {
        match preset {
            Preset::VitB32 => Self::openai(512, 32, 768, 12, 512),
            Preset::VitB16 => Self::openai(512, 16, 768, 12, 512),
            Preset::VitL14 => Self::openai(768, 14, 1024, 24, 768),
            Preset::Tiny => Self::from_scratch(
                96,
                VisionConfig {
                    image_size: 64,
                    patch_size: 16,
                    width: 128,
                    layers: 3,
                    heads: 4,
                    mlp_ratio: 4.0,
                    stem: Stem::Conv { channels: vec![24, 48, 96], residual: vec![] },
                    pool: Pool::Mean,
                },
                TextConfig {
                    context_length: 48,
                    vocab_size: 1000,
                    width: 96,
                    layers: 2,
                    heads: 3,
                    mlp_ratio: 4.0,
                    eot: Eot::Argmax,
                },
            ),
            Preset::Small => Self::from_scratch(
                128,
                VisionConfig {
                    image_size: 96,
                    patch_size: 16,
                    width: 192,
                    layers: 4,
                    heads: 6,
                    mlp_ratio: 4.0,
                    stem: Stem::Conv { channels: vec![32, 64, 128], residual: vec![] },
                    pool: Pool::Mean,
                },
                TextConfig {
                    context_length: 48,
                    vocab_size: 1600,
                    width: 128,
                    layers: 2,
                    heads: 4,
                    mlp_ratio: 4.0,
                    eot: Eot::Argmax,
                },
            ),
        }
    }

    /// CLIP's ResNet-50 as OpenAI published it.
    pub fn resnet_50() -> Self {
        let text = Self::openai(1024, 32, 768, 12, 512);
        let vision = VisionConfig::resnet(224, 64, vec![3, 4, 6, 3], HEAD_WIDTH);
        Self { vision, ..text }
    }

    /// Whether the image tower is a ResNet, which is read and not trained.
    pub fn is_resnet(&self) -> bool {
        matches!(self.vision.stem, Stem::ResNet { .. })
    }

    fn openai(embed_dim: usize, patch_size: usize, width: usize, layers: usize, text_width: usize) -> Self {
        Self {
            embed_dim,
            vision: VisionConfig {
                image_size: 224,
                patch_size,
                width,
                layers,
                heads: width / HEAD_WIDTH,
                mlp_ratio: 4.0,
                stem: Stem::Patch,
                pool: Pool::Cls,
            },
            text: TextConfig {
                context_length: 77,
                vocab_size: 49_408,
                width: text_width,
                layers: 12,
                heads: text_width / HEAD_WIDTH,
                mlp_ratio: 4.0,
                eot: Eot::Argmax,
            },
            activation: Activation::QuickGelu,
            image_mean: OPENAI_IMAGE_MEAN,
            image_std: OPENAI_IMAGE_STD,
            init_logit_scale: INIT_LOGIT_SCALE,
        }
    }

    fn from_scratch(embed_dim: usize, vision: VisionConfig, text: TextConfig) -> Self {
        Self {
            embed_dim,
            vision,
            text,
            activation: Activation::Gelu,
            image_mean: OPENAI_IMAGE_MEAN,
            image_std: OPENAI_IMAGE_STD,
            init_logit_scale: INIT_LOGIT_SCALE,
        }
    }

    /// Whether the image tower is that of the published models: only those have a place in others' formats.
    pub fn is_plain_vit(&self) -> bool {
        self.vision.stem == Stem::Patch && self.vision.pool == Pool::Cls
    }

    /// Checks that the numbers describe a network.
    ///
    /// # Errors
    /// [`ModelError::Config`] with the value that does not fit.
    pub fn validate(&self) -> Result<()> {
        let (v, t) = (&self.vision, &self.text);
        in_range("embed_dim", self.embed_dim, MAX_WIDTH)?;
        in_range("vision.image_size", v.image_size, MAX_POSITIONS)?;
        in_range("vision.patch_size", v.patch_size, v.image_size)?;
        tower("vision", v.width, v.layers, v.heads, v.mlp_ratio)?;
        tower("text", t.width, t.layers, t.heads, t.mlp_ratio)?;
        in_range("text.context_length", t.context_length, MAX_POSITIONS)?;
        in_range("text.vocab_size", t.vocab_size, MAX_VOCABULARY)?;
        if t.context_length < 2 {
            return config_error("text.context_length = 1 has no room for start and end".to_owned());
        }
        if !v.image_size.is_multiple_of(v.patch_size) {
            return config_error(format!(
                "vision.image_size = {} is no multiple of vision.patch_size = {}",
                v.image_size, v.patch_size
            ));
        }
        match (&v.stem, v.pool) {
            (Stem::ResNet { width, blocks }, Pool::Attention) => check_resnet(v, *width, blocks)?,
            (Stem::ResNet { .. }, _) | (_, Pool::Attention) => {
                return config_error("a ResNet ends in vision.pool = attention, and nothing else does".to_owned());
            }
            _ => {}
        }
        in_range("number of image tokens", self.vision.grid().pow(2), MAX_POSITIONS)?;
        if let Stem::Conv { channels, residual } = &v.stem {
            if !residual.is_empty() && residual.len() != channels.len() {
                return config_error(format!(
                    "vision.stem.conv.residual has {} numbers beside {} channels: give as many, or none",
                    residual.len(),
                    channels.len()
                ));
            }
            if let Some(&many) = residual.iter().find(|&&r| r > MAX_LAYERS) {
                return config_error(format!("vision.stem.conv.residual = {many} is not within 0..={MAX_LAYERS}"));
            }
            for &channels in channels {
                in_range("vision.stem.conv.channels", channels, MAX_WIDTH)?;
            }
            let stride = 1usize.checked_shl(channels.len() as u32 + 1).unwrap_or(0);
            if stride != v.patch_size {
                return config_error(format!(
                    "vision.patch_size = {}, and {} convolutions of stride 2 with the last one to the width make {stride}",
                    v.patch_size,
                    channels.len() + 1
                ));
            }
        }
        if self.image_std.iter().any(|&std| !std.is_finite() || std <= 0.0) {
            return config_error(format!("image_std = {:?} must be positive", self.image_std));
        }
        if self.image_mean.iter().any(|mean| !mean.is_finite()) || !self.init_logit_scale.is_finite() {
            return config_error("image_mean and init_logit_scale must be finite".to_owned());
        }
        Ok(())
    }
}

/// Numbers of a ResNet, each before it is computed with.
fn check_resnet(v: &VisionConfig, width: usize, blocks: &[usize]) -> Result<()> {
    in_range("vision.stem.res_net.width", width, MAX_WIDTH)?;
    for &blocks in blocks {
        in_range("vision.stem.res_net.blocks", blocks, MAX_LAYERS)?;
    }
    if blocks.len() != resnet::STAGES || !width.is_multiple_of(2) || v.patch_size != resnet::TOTAL_STRIDE {
        return config_error(format!(
            "a ResNet of {blocks:?} bottlenecks, {width} channels and vision.patch_size = {}: it has four groups, an even \
             number of channels and a total stride of {}",
            v.patch_size,
            resnet::TOTAL_STRIDE
        ));
    }
    match resnet::last_width(width) {
        last if last == v.width => Ok(()),
        last => config_error(format!("vision.width = {}, and {width} channels end in {last}", v.width)),
    }
}

impl VisionConfig {
    /// A ResNet for images of `image_size` pixels, whose attention has heads of `head_width`.
    pub(super) fn resnet(image_size: usize, width: usize, blocks: Vec<usize>, head_width: usize) -> Self {
        let last = width.saturating_mul(resnet::last_width(1));
        Self {
            image_size,
            patch_size: resnet::TOTAL_STRIDE,
            width: last,
            layers: 1,
            heads: last / head_width.max(1),
            mlp_ratio: 4.0,
            stem: Stem::ResNet { width, blocks },
            pool: Pool::Attention,
        }
    }

    /// Tokens along one side.
    pub fn grid(&self) -> usize {
        self.image_size / self.patch_size
    }

    /// Tokens of one image, with the class token, or the mean of an attention.
    pub fn tokens(&self) -> usize {
        self.grid().pow(2) + usize::from(self.pool != Pool::Mean)
    }

    /// Width of the hidden layer of an MLP.
    pub fn mlp_width(&self) -> usize {
        mlp_width(self.width, self.mlp_ratio)
    }
}

impl TextConfig {
    /// Width of the hidden layer of an MLP.
    pub fn mlp_width(&self) -> usize {
        mlp_width(self.width, self.mlp_ratio)
    }
}

fn mlp_width(width: usize, ratio: f64) -> usize {
    (width as f64 * ratio).round() as usize
}

fn config_error(message: String) -> Result<()> {
    Err(ModelError::Config(message))
}

fn in_range(name: &str, value: usize, most: usize) -> Result<()> {
    if (1..=most).contains(&value) {
        return Ok(());
    }
    config_error(format!("{name} = {value} is not within 1..={most}"))
}

fn tower(name: &str, width: usize, layers: usize, heads: usize, mlp_ratio: f64) -> Result<()> {
    in_range(&format!("{name}.width"), width, MAX_WIDTH)?;
    in_range(&format!("{name}.layers"), layers, MAX_LAYERS)?;
    in_range(&format!("{name}.heads"), heads, width)?;
    if !width.is_multiple_of(heads) {
        return config_error(format!("{name}.width = {width} is no multiple of {name}.heads = {heads}"));
    }
    if !(mlp_ratio > 0.0 && mlp_ratio <= 64.0) {
        return config_error(format!("{name}.mlp_ratio = {mlp_ratio} is not within (0, 64]"));
    }
    in_range(&format!("{name}.mlp_ratio * {name}.width"), mlp_width(width, mlp_ratio), 64 * MAX_WIDTH)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_preset_is_valid_and_survives_json() {
        for preset in Preset::ALL {
            let config = ClipConfig::preset(preset);
            assert_eq!(config.vision.patch_size, preset.patch_px());
            config.validate().unwrap();
            let json = serde_json::to_string(&config).unwrap();
            assert_eq!(serde_json::from_str::<ClipConfig>(&json).unwrap(), config);
        }
    }

    #[test]
    fn unknown_fields_are_refused() {
        let mut json = serde_json::to_value(ClipConfig::preset(Preset::Tiny)).unwrap();
        json["vision"]["dropout"] = 0.1.into();
        let message = serde_json::from_value::<ClipConfig>(json).unwrap_err().to_string();
        assert!(message.contains("dropout"), "{message}");
    }

    #[test]
    fn values_that_describe_no_network_are_named() {
        let broken = |change: fn(&mut ClipConfig), expected: &str| {
            let mut config = ClipConfig::preset(Preset::Tiny);
            change(&mut config);
            let message = config.validate().unwrap_err().to_string();
            assert!(message.contains(expected), "{message}");
        };
        broken(|c| c.vision.heads = 5, "vision.heads = 5");
        broken(|c| c.vision.patch_size = 24, "vision.patch_size = 24");
        broken(|c| c.vision.patch_size = 8, "make 16");
        broken(|c| c.text.layers = 0, "text.layers = 0");
        broken(
            |c| {
                if let Stem::Conv { residual, .. } = &mut c.vision.stem {
                    *residual = vec![1];
                }
            },
            "residual has 1 numbers beside 3",
        );
        broken(|c| c.vision.pool = Pool::Attention, "nothing else does");
        let resnet = |change: fn(&mut VisionConfig), expected: &str| {
            let mut config = ClipConfig::resnet_50();
            config.validate().unwrap();
            change(&mut config.vision);
            let message = config.validate().unwrap_err().to_string();
            assert!(message.contains(expected), "{message}");
        };
        resnet(|v| v.stem = Stem::ResNet { width: 64, blocks: vec![3, 4, 6] }, "four groups");
        resnet(|v| v.stem = Stem::ResNet { width: usize::MAX, blocks: vec![3, 4, 6, 3] }, "res_net.width");
        resnet(|v| v.stem = Stem::ResNet { width: 64, blocks: vec![3, 4, 0, 3] }, "res_net.blocks = 0");
        resnet(|v| v.width = 1024, "end in 2048");
        resnet(|v| v.pool = Pool::Cls, "nothing else does");
        broken(|c| c.text.mlp_ratio = f64::NAN, "text.mlp_ratio");
        broken(|c| c.text.vocab_size = usize::MAX, "text.vocab_size");
        broken(|c| c.image_std[1] = 0.0, "image_std");
    }
}
