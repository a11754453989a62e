//! What a training, its checkpoints and the embedding stages ask of a network with two towers.

use std::path::Path;

use candle_core::{DType, Device, Tensor};
use serde_json::Value;

use crate::Result;
use crate::ops::Dropout;
use crate::parameters::Parameters;
use crate::preprocessing::Preprocessing;
use crate::tokenizer::Tokenizer;

/// Name of the learnable logarithm of the factor on cosines, a scalar among [`DualEncoder::parameters`]. It belongs to no
/// tower.
pub const LOGIT_SCALE: &str = "logit_scale";

/// The factor on cosines is at most 100: [`LOGIT_SCALE`], its logarithm, is clamped here after every step (CLIP, section
/// 2.5).
pub const MAX_LOGIT_SCALE: f64 = 4.605_170_185_988_092;

/// A network that puts images and texts into one space.
///
/// What differs between networks is behind this trait: the training loop, validation, checkpoints, the moving average, the
/// optimiser in parts and the stages that embed know nothing else.
pub trait DualEncoder: Sized + Send + Sync {
    /// Everything that tells this network from others of its kind, but its weights: a checkpoint continues only in the
    /// same network.
    fn identity(&self) -> Value;

    /// What is learnt, by name. Changing a variable changes the network.
    fn parameters(&self) -> &Parameters;

    /// What is kept but not learnt, such as running statistics; moved by [`DualEncoder::fold`] alone.
    fn buffers(&self) -> &Parameters;

    /// Whether some layer normalises over rows: then rows come in groups ([`Pass::groups`]), and all ranks go through all
    /// layers.
    fn normalises_groups(&self) -> bool {
        false
    }

    /// Where the network computes.
    fn device(&self) -> &Device;

    /// The type of weights and activations.
    fn dtype(&self) -> DType;

    /// Width E of the embeddings.
    fn embed_dim(&self) -> usize;

    /// The variable [`LOGIT_SCALE`], in f32 or f64.
    fn logit_scale(&self) -> Tensor;

    /// Whether a parameter is of the image tower; all others but [`LOGIT_SCALE`] are of the text tower.
    fn is_of_image_tower(name: &str) -> bool;

    /// How images become its input.
    fn preprocessing(&self) -> Preprocessing;

    /// Tokens of a text at most, L.
    fn context_length(&self) -> usize;

    /// Number of token ids that it knows.
    fn vocab_size(&self) -> usize;

    /// Which of the ids of one text are of the text, and which are padding.
    fn is_token(&self, input_ids_l: &[u32]) -> Vec<bool>;

    /// The image tower on what [`Preprocessing::load`] gives, ready to run.
    ///
    /// # Errors
    /// Images of another shape; [`ModelError::Config`](crate::ModelError::Config) where tokens are asked of a network that
    /// gives none.
    fn image_tower<'a>(&'a self, images: &Tensor, pass: Pass<'a>) -> Result<Box<dyn Tower + 'a>>;

    /// The text tower on `input_ids_bl` (`u32 [B, L]` in host memory), ready to run.
    ///
    /// # Errors
    /// Ids of another shape or outside the vocabulary; as [`DualEncoder::image_tower`].
    fn text_tower<'a>(&'a self, input_ids_bl: &Tensor, pass: Pass<'a>) -> Result<Box<dyn Tower + 'a>>;

    /// Takes a step's statistics into the running ones, group after group.
    ///
    /// # Errors
    /// Statistics of a layer that the network has not got.
    fn fold(&self, _: &[GroupStatistics]) -> Result<()> {
        Ok(())
    }

    /// Brings variables back into the range that they must not leave; called after each step.
    ///
    /// # Errors
    /// A tensor operation's.
    fn clamp(&self) -> Result<()>;

    /// Variables of its own with the same values, in another type or the same.
    ///
    /// # Errors
    /// A tensor operation's.
    fn copy_as(&self, dtype: DType) -> Result<Self>;

    /// A copy that never changes: the present weights, no gradients.
    ///
    /// # Errors
    /// A tensor operation's.
    fn frozen(&self) -> Result<Self>;

    /// The same weights, and whatever becomes of them, read without building a graph: for evaluation during training.
    ///
    /// # Errors
    /// A tensor operation's.
    fn without_gradients(&self) -> Result<Self>;

    /// Whether its towers build a graph.
    fn learns(&self) -> bool {
        self.logit_scale().track_op()
    }

    /// Writes configuration, parameters and buffers into a folder.
    ///
    /// # Errors
    /// The file system's.
    fn save(&self, folder: &Path) -> Result<()>;

    /// Reads what [`DualEncoder::save`] wrote.
    ///
    /// # Errors
    /// Missing or damaged files, those of another network.
    fn load(folder: &Path, device: &Device, dtype: DType) -> Result<Self>;

    /// Writes the network with its vocabulary as other programs read it, into a folder that [`DualEncoder::save`] wrote:
    /// each layout in a folder of its own, and what is needed where nobody else has such a network.
    ///
    /// # Errors
    /// The file system's.
    fn export(&self, tokenizer: &Tokenizer, folder: &Path) -> Result<()>;

    /// Overwrites parameters and buffers with those of a folder that [`DualEncoder::save`] wrote, read in the network's
    /// own type: a rounded weight would not continue bit for bit.
    ///
    /// # Errors
    /// As [`DualEncoder::load`].
    fn restore(&self, folder: &Path) -> Result<()> {
        let saved = Self::load(folder, &Device::Cpu, self.dtype())?;
        self.parameters().copy_from(saved.parameters())?;
        self.buffers().copy_from(saved.buffers())
    }

    /// Embeds images as [`Preprocessing::load`] gives them: `[B, E]`, not normalised in length.
    ///
    /// # Errors
    /// As [`DualEncoder::image_tower`].
    fn encode_image(&self, images: &Tensor) -> Result<Tensor> {
        embedding(self.image_tower(images, Pass::default())?.as_ref())
    }

    /// Embeds texts `u32 [B, L]`: `[B, E]`, not normalised in length.
    ///
    /// # Errors
    /// As [`DualEncoder::text_tower`].
    fn encode_text(&self, input_ids_bl: &Tensor) -> Result<Tensor> {
        embedding(self.text_tower(input_ids_bl, Pass::default())?.as_ref())
    }
}

/// How a tower is run: as it is used, unless something is said.
#[derive(Clone, Copy, Debug, Default)]
pub struct Pass<'a> {
    /// What the step drops.
    pub dropout: Option<&'a Dropout>,
    /// Which inputs are normalised together in a step. `None`: by running statistics, as the network is used.
    pub groups: Option<&'a Groups>,
    /// Whether the vectors of all tokens are wanted beside the embedding.
    pub tokens: bool,
}

/// A tower with its input, as a chain of layers.
///
/// A training step that keeps only what goes from layer to layer can run each layer again on its way back: the memory of
/// one layer instead of all (activation checkpointing, Chen et al. 2016). And between two layers ranks can add up what a
/// layer needs of all of them.
pub trait Tower {
    /// Number of layers, at least one.
    fn layers(&self) -> usize;

    /// Layer `index` on what the layer before gave; the first takes nothing. The last one gives the embeddings `[B, E]`,
    /// not normalised in length, and where they were asked for the tokens `[B, L, D]`: of texts as many as there are ids.
    ///
    /// # Errors
    /// A tensor operation's.
    fn layer(&self, index: usize, input: &[Tensor]) -> Result<LayerOutput>;

    /// All layers without an exchange between ranks.
    ///
    /// # Errors
    /// A tensor operation's.
    fn run(&self) -> Result<Vec<Tensor>> {
        (0..self.layers()).try_fold(Vec::new(), |x, index| Ok(self.layer(index, &x)?.tensors))
    }
}

fn embedding(tower: &dyn Tower) -> Result<Tensor> {
    let mut tensors = tower.run()?;
    Ok(tensors.swap_remove(0))
}

/// What a layer gives.
pub struct LayerOutput {
    /// What the next layer takes.
    pub tensors: Vec<Tensor>,
    /// How many of them, the last ones, are shares of sums over all inputs of a group: the next layer wants those of all
    /// ranks that have inputs of it, added up. In f32 or f64: a sum over many positions is more than half precision holds.
    pub shares: usize,
    /// What was found of the groups, for [`DualEncoder::fold`]; of added-up shares, so that all ranks find the same.
    pub statistics: Vec<GroupStatistics>,
}

impl From<Tensor> for LayerOutput {
    fn from(tensor: Tensor) -> Self {
        Self { tensors: vec![tensor], shares: 0, statistics: Vec::new() }
    }
}

/// What a layer has found of each group.
#[derive(Clone, Debug)]
pub struct GroupStatistics {
    /// Name of the layer.
    pub layer: String,
    /// One row for each group, in their order `[G, K]`; what stands in it is the layer's own affair.
    pub values_gk: Tensor,
}

/// Which inputs of a tower are normalised together: those of a group of rows, by their place in the global batch.
///
/// A group may have no input that counts. A layer then takes its running statistics in place of a mean and a variance of 0,
/// which would let the inputs grow from layer to layer.
#[derive(Clone, Debug)]
pub struct Groups {
    of_input: Vec<u32>,
    /// Inputs of each group that count.
    members: Vec<Vec<u32>>,
}

impl Groups {
    /// For each input its group, from 0, of so many, and whether it counts: what could not be read is normalised as the
    /// others are, and moves nothing.
    pub fn new(of_input: Vec<u32>, counts: &[bool], groups: usize) -> Self {
        let mut members = vec![Vec::new(); groups];
        for (input, (&group, _)) in of_input.iter().zip(counts).enumerate().filter(|(_, (_, counts))| **counts) {
            members[group as usize].push(input as u32);
        }
        Self { of_input, members }
    }

    /// G.
    pub fn len(&self) -> usize {
        self.members.len()
    }

    /// Whether there is no group.
    pub fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    /// Inputs of each group that count, here.
    pub fn counts(&self) -> impl Iterator<Item = usize> {
        self.members.iter().map(Vec::len)
    }

    /// Sums over the inputs of each group that count: `[B, C]` to `[G, C]`. A group's sum does not depend on which others
    /// are there.
    ///
    /// # Errors
    /// A tensor operation's.
    pub fn sums(&self, x_bc: &Tensor) -> Result<Tensor> {
        let sums = self.members.iter().map(|members| match members.is_empty() {
            true => Tensor::zeros((1, x_bc.dim(1)?), x_bc.dtype(), x_bc.device()),
            false => {
                let members = Tensor::from_slice(members, members.len(), x_bc.device())?;
                x_bc.index_select(&members, 0)?.sum_keepdim(0)
            }
        });
        Ok(Tensor::cat(&sums.collect::<candle_core::Result<Vec<_>>>()?, 0)?)
    }

    /// Gives each input the value of its group: `[G, C]` to `[B, C]`.
    ///
    /// # Errors
    /// A tensor operation's.
    pub fn spread(&self, x_gc: &Tensor) -> Result<Tensor> {
        let index = Tensor::from_slice(&self.of_input, self.of_input.len(), x_gc.device())?;
        Ok(x_gc.index_select(&index, 0)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_groups_sum_is_of_its_inputs_that_count() {
        let x = Tensor::new(&[[1f32, 10.0], [2.0, 20.0], [4.0, 40.0], [8.0, 80.0]], &Device::Cpu).unwrap();
        let groups = Groups::new(vec![2, 0, 2, 0], &[true, true, true, false], 3);
        assert_eq!(groups.counts().collect::<Vec<_>>(), [1, 0, 2]);
        let sums = groups.sums(&x).unwrap();
        assert_eq!(sums.to_vec2::<f32>().unwrap(), [[2.0, 20.0], [0.0, 0.0], [5.0, 50.0]]);
        let spread = groups.spread(&sums).unwrap();
        assert_eq!(spread.to_vec2::<f32>().unwrap(), [[5.0, 50.0], [2.0, 20.0], [5.0, 50.0], [2.0, 20.0]]);
    }
}
