//! A network that is no CLIP: a bag of words beside a small convolution with batch normalisation.

use std::path::Path;

use candle_core::{D, DType, Device, Tensor};
use models::dual_encoder::{
    DualEncoder, GroupStatistics, Groups, LOGIT_SCALE, LayerOutput, MAX_LOGIT_SCALE, Pass, Tower,
};
use models::ops::{Dropout, conv2d, embedding, project};
use models::parameters::{Declaration, Init, Parameters};
use models::preprocessing::Preprocessing;
use serde_json::{Value, json};

use crate::trainer::tests::{LENGTH, SIDE};

const CHANNELS: usize = 5;
const WORD_WIDTH: usize = 6;
const EMBED_DIM: usize = 8;
const VOCABULARY: usize = 12;
const EPSILON: f64 = 1e-5;
const MOMENTUM: f64 = 0.1;
const NORM: &str = "visual.norm";

#[derive(Clone, Debug)]
pub(in crate::trainer) struct Tiny {
    parameters: Parameters,
    buffers: Parameters,
    learns: bool,
    device: Device,
    dtype: DType,
}

impl Tiny {
    pub(in crate::trainer) fn init(seed: u64, dtype: DType) -> Self {
        let declare = |name: &str, shape: &[usize], init| Declaration { name: name.into(), shape: shape.into(), init };
        let normal = |fan_in: usize| Init::Normal { standard_deviation: (fan_in as f64).powf(-0.5) };
        let (zeros, ones) = (Init::Constant(0.0), Init::Constant(1.0));
        let learnt = [
            declare("visual.conv", &[CHANNELS, 3, 3, 3], normal(27)),
            declare("visual.norm.weight", &[CHANNELS], ones),
            declare("visual.norm.bias", &[CHANNELS], zeros),
            declare("visual.proj", &[CHANNELS, EMBED_DIM], normal(CHANNELS)),
            declare("words", &[VOCABULARY, WORD_WIDTH], normal(1)),
            declare("text_projection", &[WORD_WIDTH, EMBED_DIM], normal(WORD_WIDTH)),
            declare(LOGIT_SCALE, &[], Init::Constant(2.0)),
        ];
        let kept =
            [declare("visual.norm.mean", &[CHANNELS], zeros), declare("visual.norm.variance", &[CHANNELS], ones)];
        let make = |declarations: &[Declaration]| Parameters::init(declarations, seed, &Device::Cpu, dtype).unwrap();
        Self { parameters: make(&learnt), buffers: make(&kept), learns: true, device: Device::Cpu, dtype }
    }

    fn tensor(&self, name: &str) -> Tensor {
        let var = self.parameters.get(name).or(self.buffers.get(name)).unwrap();
        if self.learns { var.as_tensor().clone() } else { var.as_detached_tensor() }
    }
}

struct Images<'a> {
    network: &'a Tiny,
    pixels_bhwc: Tensor,
    pass: Pass<'a>,
}

impl Images<'_> {
    /// Number of values of each group that count.
    fn counts(&self, groups: &Groups, positions: usize) -> candle_core::Result<Tensor> {
        let counts: Vec<f64> = groups.counts().map(|count| (count * positions) as f64).collect();
        Tensor::from_vec(counts, (groups.len(), 1), &self.network.device)?.to_dtype(self.network.dtype)
    }
}

/// `[B, C]` beside `[B, P, C]`.
fn per_position(x_bc: &Tensor) -> candle_core::Result<Tensor> {
    x_bc.unsqueeze(1)
}

impl Tower for Images<'_> {
    fn layers(&self) -> usize {
        3
    }

    fn layer(&self, index: usize, input: &[Tensor]) -> models::Result<LayerOutput> {
        let (network, groups) = (self.network, self.pass.groups);
        let share = |tensors: Vec<Tensor>| LayerOutput { tensors, shares: 1, statistics: Vec::new() };
        match (index, groups) {
            // the convolution, and sums with their counts
            (0, groups) => {
                let x = conv2d(&self.pixels_bhwc, &network.tensor("visual.conv"), None, 4, 1)?;
                let x_bpc = x.flatten(1, 2)?;
                let Some(groups) = groups else { return Ok(x_bpc.into()) };
                let sums = groups.sums(&x_bpc.sum(1)?)?;
                let counts = self.counts(groups, x_bpc.dim(1)?)?;
                Ok(share(vec![x_bpc, Tensor::cat(&[sums, counts], 1)?]))
            }
            // less the mean, and sums of squares
            (1, Some(groups)) => {
                let (x_bpc, sums) = (&input[0], &input[1]);
                let mean_gc = sums.narrow(1, 0, CHANNELS)?.broadcast_div(&at_least_one(sums)?)?;
                let mean_gc = or_running(&mean_gc, sums, &network.tensor("visual.norm.mean"))?;
                let centred = x_bpc.broadcast_sub(&per_position(&groups.spread(&mean_gc)?)?)?;
                let squares = groups.sums(&centred.sqr()?.sum(1)?)?;
                let known = Tensor::cat(&[mean_gc, sums.narrow(1, CHANNELS, 1)?], 1)?.detach();
                Ok(share(vec![centred, known, squares]))
            }
            (1, None) => {
                let mean_c = network.tensor("visual.norm.mean");
                Ok(input[0].broadcast_sub(&mean_c)?.into())
            }
            (_, groups) => {
                let mut statistics = Vec::new();
                let variance = match groups {
                    None => network.tensor("visual.norm.variance").unsqueeze(0)?.unsqueeze(0)?,
                    Some(groups) => {
                        let (known, squares) = (&input[1], &input[2]);
                        let count = at_least_one(known)?;
                        let values_gk = Tensor::cat(&[known.clone(), squares.detach()], 1)?;
                        statistics.push(GroupStatistics { layer: NORM.into(), values_gk });
                        let variance_gc = squares.broadcast_div(&count)?;
                        let running_c = network.tensor("visual.norm.variance");
                        per_position(&groups.spread(&or_running(&variance_gc, known, &running_c)?)?)?
                    }
                };
                let y = input[0].broadcast_div(&(variance + EPSILON)?.sqrt()?)?;
                let y = y.broadcast_mul(&network.tensor("visual.norm.weight"))?;
                let tokens_bpc = y.broadcast_add(&network.tensor("visual.norm.bias"))?.relu()?;
                let pooled = project(&tokens_bpc.mean(1)?, &network.tensor("visual.proj"))?;
                let tokens = self.pass.tokens.then_some(tokens_bpc);
                Ok(LayerOutput { tensors: [pooled].into_iter().chain(tokens).collect(), shares: 0, statistics })
            }
        }
    }
}

/// The column of counts behind the sums `[G, 1]`.
fn at_least_one(sums: &Tensor) -> candle_core::Result<Tensor> {
    sums.narrow(1, CHANNELS, 1)?.maximum(1.0)?.detach().contiguous()
}

/// The group's own statistics `[G, C]`, or the running ones `[C]` where no input of the group counts.
fn or_running(own_gc: &Tensor, sums: &Tensor, running_c: &Tensor) -> candle_core::Result<Tensor> {
    let counts_g1 = sums.narrow(1, CHANNELS, 1)?.minimum(1.0)?.detach().contiguous()?;
    let running_gc = running_c.detach().broadcast_as(own_gc.shape())?;
    own_gc.broadcast_mul(&counts_g1)? + running_gc.broadcast_mul(&(1.0 - &counts_g1)?)?
}

struct Texts<'a> {
    network: &'a Tiny,
    ids_bl: Tensor,
    dropout: Option<&'a Dropout>,
    tokens: bool,
}

impl Tower for Texts<'_> {
    fn layers(&self) -> usize {
        2
    }

    fn layer(&self, index: usize, input: &[Tensor]) -> models::Result<LayerOutput> {
        let is_word_bl1 = self.ids_bl.ne(0u32)?.to_dtype(self.network.dtype)?.unsqueeze(D::Minus1)?;
        if index == 0 {
            let words = embedding(&self.network.tensor("words"), &self.ids_bl)?.broadcast_mul(&is_word_bl1)?;
            return Ok(self.dropout.map_or(Ok(words.clone()), |dropout| dropout.apply(0, &words))?.into());
        }
        let bag = input[0].sum(1)?.broadcast_div(&is_word_bl1.sum(1)?.maximum(1.0)?)?;
        let embeddings = project(&bag, &self.network.tensor("text_projection"))?;
        let tokens = self.tokens.then(|| input[0].clone());
        let tensors = [embeddings].into_iter().chain(tokens).collect();
        Ok(LayerOutput { tensors, shares: 0, statistics: Vec::new() })
    }
}

impl DualEncoder for Tiny {
    fn identity(&self) -> Value {
        json!({ "kind": "bag of words and convolution" })
    }

    fn parameters(&self) -> &Parameters {
        &self.parameters
    }

    fn buffers(&self) -> &Parameters {
        &self.buffers
    }

    fn normalises_groups(&self) -> bool {
        true
    }

    fn device(&self) -> &Device {
        &self.device
    }

    fn dtype(&self) -> DType {
        self.dtype
    }

    fn embed_dim(&self) -> usize {
        EMBED_DIM
    }

    fn logit_scale(&self) -> Tensor {
        self.tensor(LOGIT_SCALE)
    }

    fn is_of_image_tower(name: &str) -> bool {
        name.starts_with("visual.")
    }

    fn preprocessing(&self) -> Preprocessing {
        Preprocessing { side_px: SIDE, mean: [0.5; 3], std: [0.25; 3] }
    }

    fn context_length(&self) -> usize {
        LENGTH
    }

    fn vocab_size(&self) -> usize {
        VOCABULARY
    }

    fn is_token(&self, input_ids_l: &[u32]) -> Vec<bool> {
        input_ids_l.iter().map(|&id| id != 0).collect()
    }

    fn image_tower<'a>(&'a self, images: &Tensor, pass: Pass<'a>) -> models::Result<Box<dyn Tower + 'a>> {
        let pixels_bhwc = images.permute((0, 2, 3, 1))?.contiguous()?.to_dtype(self.dtype)?;
        Ok(Box::new(Images { network: self, pixels_bhwc, pass }))
    }

    fn text_tower<'a>(&'a self, input_ids_bl: &Tensor, pass: Pass<'a>) -> models::Result<Box<dyn Tower + 'a>> {
        let Pass { dropout, tokens, .. } = pass;
        Ok(Box::new(Texts { network: self, ids_bl: input_ids_bl.clone(), dropout, tokens }))
    }

    fn fold(&self, statistics: &[GroupStatistics]) -> models::Result<()> {
        let fold = |name: &str, value: &Tensor| -> models::Result<()> {
            let running = &self.buffers.get(name).unwrap();
            let moved = ((running.as_detached_tensor() * (1.0 - MOMENTUM))? + (value * MOMENTUM)?)?;
            Ok(running.set(&moved)?)
        };
        for GroupStatistics { layer, values_gk } in statistics {
            for group in 0..values_gk.dim(0)? {
                let values_k = values_gk.get(group)?;
                let count: f64 = values_k.get(CHANNELS)?.to_dtype(DType::F64)?.to_scalar()?;
                if count > 1.0 {
                    fold(&format!("{layer}.mean"), &values_k.narrow(0, 0, CHANNELS)?)?;
                    let squares = values_k.narrow(0, CHANNELS + 1, CHANNELS)?;
                    fold(&format!("{layer}.variance"), &(squares / (count - 1.0))?)?;
                }
            }
        }
        Ok(())
    }

    fn clamp(&self) -> models::Result<()> {
        let scale = self.parameters.get(LOGIT_SCALE).unwrap();
        Ok(scale.set(&scale.as_detached_tensor().minimum(MAX_LOGIT_SCALE)?)?)
    }

    fn copy_as(&self, dtype: DType) -> models::Result<Self> {
        let (parameters, buffers) = (self.parameters.to_dtype(dtype)?, self.buffers.to_dtype(dtype)?);
        Ok(Self { parameters, buffers, dtype, ..self.clone() })
    }

    fn frozen(&self) -> models::Result<Self> {
        Ok(Self { learns: false, ..self.copy_as(self.dtype)? })
    }

    fn without_gradients(&self) -> models::Result<Self> {
        Ok(Self { learns: false, ..self.clone() })
    }

    fn save(&self, folder: &Path) -> models::Result<()> {
        self.parameters.save_safetensors(&folder.join("parameters.safetensors"))?;
        self.buffers.save_safetensors(&folder.join("buffers.safetensors"))
    }

    fn load(folder: &Path, device: &Device, dtype: DType) -> models::Result<Self> {
        let read = |name: &str| Parameters::load_safetensors(&folder.join(name), device, dtype);
        let (parameters, buffers) = (read("parameters.safetensors")?, read("buffers.safetensors")?);
        Ok(Self { parameters, buffers, learns: true, device: device.clone(), dtype })
    }

    fn export(&self, _: &models::tokenizer::Tokenizer, _: &Path) -> models::Result<()> {
        Ok(())
    }
}
