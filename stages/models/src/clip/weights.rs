//! The variables of a CLIP: names (open_clip's), shapes, starts, and how the network takes them up.

use super::config::{ClipConfig, Pool, Stem};
use super::resnet::{self, ResNetWeights};
use super::source::{Declarations, Gradients, Source};
use crate::ops::Block;
use crate::parameters::{Declaration, Init, Parameters};
use candle_core::{Result, Tensor};

/// Tensors of the image tower.
#[derive(Clone, Debug)]
pub(super) enum VisionWeights {
    Vit(Box<VitWeights>),
    ResNet(Box<ResNetWeights>),
}

/// Tensors of a vision Transformer.
#[derive(Clone, Debug)]
pub(super) struct VitWeights {
    pub(super) stem: StemWeights,
    pub(super) class_d: Option<Tensor>,
    pub(super) positions_ld: Tensor,
    pub(super) ln_pre: Norm,
    pub(super) blocks: Vec<Block>,
    pub(super) ln_post: Norm,
    pub(super) projection: Tensor,
}

#[derive(Clone, Debug)]
pub(super) enum StemWeights {
    Patch { weight_oi: Tensor },
    Conv { stages: Vec<ConvStage>, last: Convolution },
}

/// A convolution that halves, and those of stride 1 that follow it.
#[derive(Clone, Debug)]
pub(super) struct ConvStage {
    pub(super) halving: (Convolution, Norm),
    pub(super) residual: Vec<(Convolution, Norm)>,
}

#[derive(Clone, Debug)]
pub(super) struct Convolution {
    pub(super) weight_ohwi: Tensor,
    pub(super) bias_o: Tensor,
}

#[derive(Clone, Debug)]
pub(super) struct Norm {
    pub(super) weight_d: Tensor,
    pub(super) bias_d: Tensor,
}

/// Tensors of the text tower.
#[derive(Clone, Debug)]
pub(super) struct TextWeights {
    pub(super) table_vd: Tensor,
    pub(super) positions_ld: Tensor,
    pub(super) blocks: Vec<Block>,
    pub(super) ln_final: Norm,
    pub(super) projection: Tensor,
}

/// Names, shapes and starts of all variables; deviations as in OpenAI's CLIP (`initialize_parameters`).
pub(super) fn declarations(config: &ClipConfig) -> Vec<Declaration> {
    let mut list = Declarations(Vec::new());
    match &config.vision.stem {
        Stem::ResNet { width, blocks } => resnet::declare(&mut list, config, *width, blocks),
        Stem::Patch | Stem::Conv { .. } => declare_vit(&mut list, config),
    }
    let t = &config.text;
    list.normal("token_embedding.weight", &[t.vocab_size, t.width], 0.02);
    list.normal("positional_embedding", &[t.context_length, t.width], 0.01);
    list.blocks("transformer", t.layers, t.width, t.mlp_width());
    list.norm("ln_final", t.width);
    list.normal("text_projection", &[t.width, config.embed_dim], (t.width as f64).powf(-0.5));
    list.push("logit_scale", &[], Init::Constant(config.init_logit_scale));
    list.0
}

fn declare_vit(list: &mut Declarations, config: &ClipConfig) {
    let v = &config.vision;
    let scale = (v.width as f64).powf(-0.5);
    match &v.stem {
        Stem::Patch => {
            let inputs = 3 * v.patch_size * v.patch_size;
            let shape = [v.width, 3, v.patch_size, v.patch_size];
            list.normal("visual.conv1.weight", &shape, (inputs as f64).powf(-0.5));
        }
        Stem::Conv { channels, residual } => {
            let mut inputs = 3;
            for (stage, &outputs) in channels.iter().chain([&v.width]).enumerate() {
                let name = format!("visual.stem.{stage}");
                list.convolution(&name, inputs, outputs);
                if stage < channels.len() {
                    list.norm(&format!("{name}.ln"), outputs);
                }
                for extra in 0..residual.get(stage).copied().unwrap_or(0) {
                    list.convolution(&format!("{name}.residual.{extra}"), outputs, outputs);
                    list.norm(&format!("{name}.residual.{extra}.ln"), outputs);
                }
                inputs = outputs;
            }
        }
        // has no tokens
        Stem::ResNet { .. } => {}
    }
    if v.pool == Pool::Cls {
        list.normal("visual.class_embedding", &[v.width], scale);
    }
    list.normal("visual.positional_embedding", &[v.tokens(), v.width], scale);
    list.norm("visual.ln_pre", v.width);
    list.blocks("visual.transformer", v.layers, v.width, v.mlp_width());
    list.norm("visual.ln_post", v.width);
    list.normal("visual.proj", &[v.width, config.embed_dim], scale);
}

impl Source<'_> {
    fn norm(&self, name: &str) -> Result<Norm> {
        Ok(Norm { weight_d: self.tensor(&format!("{name}.weight"))?, bias_d: self.tensor(&format!("{name}.bias"))? })
    }

    fn convolution(&self, name: &str) -> Result<Convolution> {
        Ok(Convolution {
            weight_ohwi: self.tensor(&format!("{name}.conv.weight"))?,
            bias_o: self.tensor(&format!("{name}.conv.bias"))?,
        })
    }

    fn normed_convolution(&self, name: &str) -> Result<(Convolution, Norm)> {
        Ok((self.convolution(name)?, self.norm(&format!("{name}.ln"))?))
    }

    fn conv_stage(&self, stage: usize, residual: &[usize]) -> Result<ConvStage> {
        let name = format!("visual.stem.{stage}");
        let extra = 0..residual.get(stage).copied().unwrap_or(0);
        Ok(ConvStage {
            halving: self.normed_convolution(&name)?,
            residual: extra.map(|i| self.normed_convolution(&format!("{name}.residual.{i}"))).collect::<Result<_>>()?,
        })
    }

    fn blocks(
        &self,
        tower: &str,
        layers: usize,
        heads: usize,
        causal: bool,
        config: &ClipConfig,
    ) -> Result<Vec<Block>> {
        (0..layers)
            .map(|layer| {
                let tensor = |part: &str| self.tensor(&format!("{tower}.resblocks.{layer}.{part}"));
                Ok(Block {
                    ln_1_weight_d: tensor("ln_1.weight")?,
                    ln_1_bias_d: tensor("ln_1.bias")?,
                    in_proj_weight: tensor("attn.in_proj_weight")?,
                    in_proj_bias: tensor("attn.in_proj_bias")?,
                    out_proj_weight: tensor("attn.out_proj.weight")?,
                    out_proj_bias_d: tensor("attn.out_proj.bias")?,
                    ln_2_weight_d: tensor("ln_2.weight")?,
                    ln_2_bias_d: tensor("ln_2.bias")?,
                    fc_weight: tensor("mlp.c_fc.weight")?,
                    fc_bias_m: tensor("mlp.c_fc.bias")?,
                    proj_weight: tensor("mlp.c_proj.weight")?,
                    proj_bias_d: tensor("mlp.c_proj.bias")?,
                    heads,
                    causal,
                    activation: config.activation,
                })
            })
            .collect()
    }
}

impl VisionWeights {
    pub(super) fn new(config: &ClipConfig, parameters: &Parameters, gradients: Gradients) -> Result<Self> {
        let (source, v) = (Source { parameters, gradients }, &config.vision);
        let stem = match &v.stem {
            Stem::Patch => StemWeights::Patch { weight_oi: source.tensor("visual.conv1.weight")? },
            Stem::Conv { channels, residual } => StemWeights::Conv {
                stages: (0..channels.len()).map(|stage| source.conv_stage(stage, residual)).collect::<Result<_>>()?,
                last: source.convolution(&format!("visual.stem.{}", channels.len()))?,
            },
            Stem::ResNet { width, blocks } => {
                return Ok(Self::ResNet(Box::new(ResNetWeights::new(&source, v, *width, blocks)?)));
            }
        };
        Ok(Self::Vit(Box::new(VitWeights {
            stem,
            class_d: match v.pool {
                Pool::Cls => Some(source.tensor("visual.class_embedding")?),
                Pool::Mean | Pool::Attention => None,
            },
            positions_ld: source.tensor("visual.positional_embedding")?,
            ln_pre: source.norm("visual.ln_pre")?,
            blocks: source.blocks("visual.transformer", v.layers, v.heads, false, config)?,
            ln_post: source.norm("visual.ln_post")?,
            projection: source.tensor("visual.proj")?,
        })))
    }
}

impl TextWeights {
    pub(super) fn new(config: &ClipConfig, parameters: &Parameters, gradients: Gradients) -> Result<Self> {
        let (source, t) = (Source { parameters, gradients }, &config.text);
        Ok(Self {
            table_vd: source.tensor("token_embedding.weight")?,
            positions_ld: source.tensor("positional_embedding")?,
            blocks: source.blocks("transformer", t.layers, t.heads, true, config)?,
            ln_final: source.norm("ln_final")?,
            projection: source.tensor("text_projection")?,
        })
    }
}

pub(super) fn logit_scale(parameters: &Parameters, gradients: Gradients) -> Result<Tensor> {
    Source { parameters, gradients }.tensor("logit_scale")
}
