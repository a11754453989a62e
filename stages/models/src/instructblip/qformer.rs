use super::config::QFormerConfig;
use crate::Result;
use crate::language::post_norm::{FeedForward, Norm, Residual, Widths, joint_projection};
use crate::language::projection::Projection;
use crate::language::weights::Weights;
use crate::ops::inference::{Rows, cross_attention};
use crate::ops::{add_positions, attention, embedding};
use candle_core::{DType, Tensor};

/// The frozen Q-Former: learnt queries that look at the image and at the instruction.
#[derive(Clone, Debug)]
pub(super) struct QFormer {
    words_vd: Tensor,
    positions_ld: Tensor,
    norm: Norm,
    layers: Vec<Layer>,
    heads: usize,
}

#[derive(Clone, Debug)]
struct Layer {
    qkv: Projection,
    out: Residual,
    cross: Option<Cross>,
    /// Of the queries.
    query_feed_forward: FeedForward,
    /// Of the instruction.
    text_feed_forward: FeedForward,
}

#[derive(Clone, Debug)]
struct Cross {
    q: Projection,
    /// Keys and values of the image, behind each other.
    kv: Projection,
    out: Residual,
}

impl Layer {
    fn new(layer: &Weights<'_>, config: &QFormerConfig, has_cross: bool) -> Result<Self> {
        let (width, image) = (config.hidden_size, config.encoder_hidden_size);
        let own = layer.at("attention");
        let widths = Widths { hidden: width, intermediate: config.intermediate_size, epsilon: config.layer_norm_eps };
        let cross = has_cross.then(|| {
            let cross = layer.at("crossattention");
            let attention = cross.at("attention");
            Ok::<_, crate::ModelError>(Cross {
                q: attention.linear("query", width, width, true)?,
                kv: attention.stacked(&[("key", width), ("value", width)], image, true)?,
                out: Residual::new(&cross.at("output"), width, widths)?,
            })
        });
        Ok(Self {
            qkv: joint_projection(&own.at("attention"), width)?,
            out: Residual::new(&own.at("output"), width, widths)?,
            cross: cross.transpose()?,
            query_feed_forward: FeedForward::new(layer, "_query", widths)?,
            text_feed_forward: FeedForward::new(layer, "", widths)?,
        })
    }
}

impl QFormer {
    pub(super) fn new(config: &QFormerConfig, weights: &Weights<'_>) -> Result<Self> {
        let (c, embeddings) = (config, weights.at("embeddings"));
        let table = |name: &str, rows| embeddings.at(name).tensor("weight", &[rows, c.hidden_size]);
        let layers = (0..c.num_hidden_layers).map(|index| {
            let has_cross = index.is_multiple_of(c.cross_attention_frequency);
            Layer::new(&weights.at("encoder.layer").at(index), c, has_cross)
        });
        Ok(Self {
            words_vd: table("word_embeddings", c.vocab_size)?,
            positions_ld: table("position_embeddings", c.max_position_embeddings)?,
            norm: Norm::new(&embeddings.at("layernorm"), c.hidden_size, c.layer_norm_eps)?,
            layers: layers.collect::<Result<_>>()?,
            heads: c.num_attention_heads,
        })
    }

    /// `queries_qd [Q, D]`, `ids_bl` and `mask_bl` (`u32` and `u8`, `[B, L]`, mask 1 = a token), `image_bkd [B, K, E]`
    /// to `[B, Q + L, D]`.
    pub(super) fn encode(
        &self,
        queries_qd: &Tensor,
        ids_bl: &Tensor,
        mask_bl: &Tensor,
        image_bkd: &Tensor,
    ) -> candle_core::Result<Tensor> {
        let ((batch, length), (count, width)) = (ids_bl.dims2()?, queries_qd.dims2()?);
        let queries = queries_qd.unsqueeze(0)?.broadcast_as((batch, count, width))?.contiguous()?;
        let mut x = queries;
        let mut mask = Tensor::ones((batch, count), DType::U8, image_bkd.device())?;
        if length > 0 {
            let text = add_positions(&embedding(&self.words_vd, ids_bl)?, &self.positions_ld, None)?;
            x = Tensor::cat(&[&x, &text], 1)?;
            mask = Tensor::cat(&[&mask, mask_bl], 1)?;
        }
        let mut x = self.norm.apply(&x)?;
        for layer in &self.layers {
            let attended = attention(&layer.qkv.forward(&x, Rows::Many)?, self.heads, false, Some(&mask))?;
            let attended = layer.out.apply(&x, &attended)?;
            let mut queries = attended.narrow(1, 0, count)?.contiguous()?;
            if let Some(cross) = &layer.cross {
                let seen = cross_attention(
                    &cross.q.forward(&queries, Rows::Many)?,
                    &cross.kv.forward(image_bkd, Rows::Many)?,
                    self.heads,
                )?;
                queries = cross.out.apply(&queries, &seen)?;
            }
            x = layer.query_feed_forward.apply(&queries)?;
            if length > 0 {
                let text = layer.text_feed_forward.apply(&attended.narrow(1, count, length)?.contiguous()?)?;
                x = Tensor::cat(&[x, text], 1)?;
            }
        }
        Ok(x)
    }
}
