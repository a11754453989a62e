//! The Transformer: ids to one vector for each token.

use super::config::BertConfig;
use crate::Result;
use crate::language::post_norm::{FeedForward, Norm, Residual, joint_projection};
use crate::language::projection::Projection;
use crate::language::weights::Weights;
use crate::ops::inference::Rows;
use crate::ops::{attention, embedding};
use candle_core::{DType, Device, Tensor};

/// Texts of one length that stand behind each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Run {
    pub(super) texts: usize,
    pub(super) tokens_each: usize,
}

/// Texts of these lengths as runs.
pub(super) fn runs(lengths: impl IntoIterator<Item = usize>) -> Vec<Run> {
    let mut runs: Vec<Run> = Vec::new();
    for tokens_each in lengths {
        match runs.last_mut() {
            Some(run) if run.tokens_each == tokens_each => run.texts += 1,
            _ => runs.push(Run { texts: 1, tokens_each }),
        }
    }
    runs
}

/// A frozen BERT. Texts lie behind each other without padding, so that no token waits for those of a longer text and no
/// vector depends on its neighbours.
#[derive(Clone, Debug)]
pub(super) struct Bert {
    words_vd: Tensor,
    /// With the vector of the first token type in each.
    positions_ld: Tensor,
    norm: Norm,
    layers: Vec<Layer>,
    heads: usize,
    first_position: usize,
}

#[derive(Clone, Debug)]
struct Layer {
    qkv: Projection,
    out: Residual,
    feed_forward: FeedForward,
}

impl Bert {
    pub(super) fn new(config: &BertConfig, weights: &Weights<'_>) -> Result<Self> {
        let (c, width, embeddings) = (config, config.hidden_size, weights.at("embeddings"));
        let table = |name: &str, rows| embeddings.at(name).tensor("weight", &[rows, width]);
        let kinds = table("token_type_embeddings", c.type_vocab_size)?;
        let layers = (0..c.num_hidden_layers).map(|index| {
            let layer = weights.at("encoder.layer").at(index);
            let own = layer.at("attention");
            Ok(Layer {
                qkv: joint_projection(&own.at("self"), width)?,
                out: Residual::new(&own.at("output"), width, c.widths())?,
                feed_forward: FeedForward::new(&layer, "", c.widths())?,
            })
        });
        Ok(Self {
            words_vd: table("word_embeddings", c.vocab_size)?,
            positions_ld: table("position_embeddings", c.max_position_embeddings)?
                .broadcast_add(&kinds.narrow(0, 0, 1)?)?,
            norm: Norm::new(&embeddings.at("LayerNorm"), width, c.layer_norm_eps)?,
            layers: layers.collect::<Result<_>>()?,
            heads: c.num_attention_heads,
            first_position: c.first_position(),
        })
    }

    /// Ids of texts behind each other, as many as the runs have tokens, to `f32 [T, D]` on the CPU.
    pub(super) fn encode(&self, ids: &[u32], runs: &[Run]) -> candle_core::Result<Tensor> {
        let first = self.first_position as u32;
        let positions = runs.iter().flat_map(|run| (0..run.texts).flat_map(|_| (first..).take(run.tokens_each)));
        let words = self.looked_up(&self.words_vd, ids.to_vec())?;
        let mut x = self.norm.apply_to_sum(&words, &self.looked_up(&self.positions_ld, positions.collect())?)?;
        for layer in &self.layers {
            let attended = self.attend(&layer.qkv.forward(&x, Rows::Many)?, runs)?;
            x = layer.feed_forward.apply(&layer.out.apply(&x, &attended)?)?;
        }
        x.to_dtype(DType::F32)?.to_device(&Device::Cpu)
    }

    pub(super) fn is_on_cpu(&self) -> bool {
        self.words_vd.device().is_cpu()
    }

    fn looked_up(&self, table: &Tensor, rows: Vec<u32>) -> candle_core::Result<Tensor> {
        let count = rows.len();
        embedding(table, &Tensor::from_vec(rows, (1, count), table.device())?)?.squeeze(0)
    }

    /// Each text by itself: `qkv_te [T, 3 D]` to `[T, D]`.
    fn attend(&self, qkv_te: &Tensor, runs: &[Run]) -> candle_core::Result<Tensor> {
        let mut start = 0;
        let attended = runs.iter().map(|&Run { texts, tokens_each }| {
            let tokens = texts * tokens_each;
            let own = qkv_te.narrow(0, start, tokens)?.reshape((texts, tokens_each, qkv_te.dim(1)?))?;
            start += tokens;
            attention(&own, self.heads, false, None)?.flatten(0, 1)
        });
        Tensor::cat(&attended.collect::<candle_core::Result<Vec<_>>>()?, 0)
    }
}
