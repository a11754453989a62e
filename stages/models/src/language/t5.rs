//! Flan-T5 (Raffel et al., 2020; Chung et al., 2022), after transformers' `T5ForConditionalGeneration`.

use super::batch_limits::{CacheNeed, Room};
use super::cache::KvCache;
use super::config::T5Config;
use super::generate::{NextLogits, RequestId, Step};
use super::projection::Projection;
use super::t5_positions::{Sight, distance_bias};
use super::weights::Weights;
use super::{check_ids, check_prompts, to_host};
use crate::Result;
use crate::ops::embedding;
use crate::ops::inference::{AttentionMask, AttentionPaths, Gate, PathQueries, Rows, gated, paged_attention, rms_norm};
use candle_core::{DType, Tensor};

/// A frozen encoder and decoder.
#[derive(Clone, Debug)]
pub struct T5 {
    config: T5Config,
    table_vd: Tensor,
    encoder: Stack<EncoderLayer>,
    decoder: Stack<DecoderLayer>,
    head: Projection,
}

#[derive(Clone, Debug)]
struct Stack<L> {
    layers: Vec<L>,
    norm_d: Tensor,
    /// Relative positions, shared by all layers: `[buckets, heads]`.
    bias_nh: Vec<f32>,
}

#[derive(Clone, Debug)]
struct EncoderLayer {
    attention: SelfAttention,
    feed_forward: FeedForward,
}

#[derive(Clone, Debug)]
struct DecoderLayer {
    attention: SelfAttention,
    cross_norm_d: Tensor,
    cross_q: Projection,
    /// Keys and values behind each other.
    cross_kv: Projection,
    cross_out: Projection,
    feed_forward: FeedForward,
}

#[derive(Clone, Debug)]
struct SelfAttention {
    norm_d: Tensor,
    qkv: Projection,
    out: Projection,
}

#[derive(Clone, Debug)]
struct FeedForward {
    norm_d: Tensor,
    gate_up: Projection,
    down: Projection,
}

/// The type of the sums along the layers, and of what adds the most to them (`wo`): the published networks reach beyond f16
/// there, and transformers keeps both in f32 (`T5PreTrainedModel._keep_in_fp32_modules`).
fn residual_type(weights: DType) -> DType {
    match weights {
        DType::F16 => DType::F32,
        other => other,
    }
}

/// [`rms_norm`] of the sums, in the type of the weights.
fn normed(x_rd: &Tensor, norm_d: &Tensor, epsilon: f64) -> candle_core::Result<Tensor> {
    rms_norm(x_rd, norm_d, epsilon)?.to_dtype(norm_d.dtype())
}

/// Adds what came out in the weights' type to the sums.
fn added(x_rd: &Tensor, part_rd: &Tensor) -> candle_core::Result<Tensor> {
    x_rd + part_rd.to_dtype(x_rd.dtype())?
}

impl SelfAttention {
    fn new(layer: &Weights<'_>, config: &T5Config) -> Result<Self> {
        let (attention, inner) = (layer.at("SelfAttention"), config.inner_width());
        let norm_d = layer.tensor("layer_norm.weight", &[config.d_model])?;
        let qkv = attention.stacked(&[("q", inner), ("k", inner), ("v", inner)], config.d_model, false)?;
        Ok(Self { norm_d, qkv, out: attention.linear("o", inner, config.d_model, false)? })
    }
}

impl FeedForward {
    fn new(layer: &Weights<'_>, config: &T5Config) -> Result<Self> {
        let (dense, width, hidden) = (layer.at("DenseReluDense"), config.d_model, config.d_ff);
        Ok(Self {
            norm_d: layer.tensor("layer_norm.weight", &[width])?,
            gate_up: dense.stacked(&[("wi_0", hidden), ("wi_1", hidden)], width, false)?,
            down: dense.in_type(residual_type(dense.dtype())).linear("wo", hidden, width, false)?,
        })
    }

    /// Adds to `x_rd`.
    fn apply(&self, x_rd: &Tensor, epsilon: f64, kind: Rows) -> candle_core::Result<Tensor> {
        let hidden = self.gate_up.forward(&normed(x_rd, &self.norm_d, epsilon)?, kind)?;
        x_rd + self.down.forward(&gated(&hidden, Gate::GeluTanh)?.to_dtype(x_rd.dtype())?, kind)?
    }
}

impl<L> Stack<L> {
    fn new(
        weights: &Weights<'_>,
        config: &T5Config,
        layers: usize,
        layer: impl Fn(&Weights<'_>) -> Result<L>,
    ) -> Result<Self> {
        let block = weights.at("block");
        let first = block.at("0.layer.0.SelfAttention.relative_attention_bias");
        let shape = [config.relative_attention_num_buckets, config.num_heads];
        Ok(Self {
            layers: (0..layers).map(|index| layer(&block.at(index).at("layer"))).collect::<Result<_>>()?,
            norm_d: weights.tensor("final_layer_norm.weight", &[config.d_model])?,
            bias_nh: to_host(&first.tensor("weight", &shape)?)?,
        })
    }
}

impl T5 {
    pub(crate) fn new(config: T5Config, weights: &Weights<'_>) -> Result<Self> {
        config.validate()?;
        let (c, width, inner) = (&config, config.d_model, config.inner_width());
        let table_vd = weights.tensor("shared.weight", &[c.vocab_size, width])?;
        let encoder = Stack::new(&weights.at("encoder"), c, c.num_layers, |layer| {
            Ok(EncoderLayer {
                attention: SelfAttention::new(&layer.at(0), c)?,
                feed_forward: FeedForward::new(&layer.at(1), c)?,
            })
        })?;
        let decoder = Stack::new(&weights.at("decoder"), c, c.decoder_layers(), |layer| {
            let cross = layer.at("1.EncDecAttention");
            Ok(DecoderLayer {
                attention: SelfAttention::new(&layer.at(0), c)?,
                cross_norm_d: layer.at(1).tensor("layer_norm.weight", &[width])?,
                cross_q: cross.linear("q", width, inner, false)?,
                cross_kv: cross.stacked(&[("k", inner), ("v", inner)], width, false)?,
                cross_out: cross.linear("o", inner, width, false)?,
                feed_forward: FeedForward::new(&layer.at(2), c)?,
            })
        })?;
        let head = match c.tie_word_embeddings {
            // The tied table is scaled where it serves as head.
            true => Projection::new((&table_vd * (width as f64).powf(-0.5))?, None)?,
            false => weights.linear("lm_head", width, c.vocab_size, false)?,
        };
        Ok(Self { table_vd, encoder, decoder, head, config })
    }

    /// What tells this model from others, weights apart.
    pub fn config(&self) -> &T5Config {
        &self.config
    }

    /// Rows of the embedding table: `ids` to `[L, D]`.
    ///
    /// # Errors
    /// [`ModelError::Input`] for an id that the vocabulary has not.
    pub fn embed(&self, ids: &[u32]) -> Result<Tensor> {
        check_ids(ids, self.config.vocab_size)?;
        let ids = Tensor::new(ids, self.table_vd.device())?.unsqueeze(0)?;
        Ok(embedding(&self.table_vd, &ids)?.squeeze(0)?)
    }

    /// Logits behind every position of `decoder_ids` (with the start token), given the encoder's input
    /// `embeddings_ld [L, D]`; returns `[decoder length, V]`.
    ///
    /// # Errors
    /// [`ModelError::Input`] for embeddings of another width or an id that the vocabulary has not,
    /// [`ModelError::Tensor`] if the device fails.
    pub fn logits(&self, embeddings_ld: &Tensor, decoder_ids: &[u32]) -> Result<Tensor> {
        let (mut session, id) = (self.session()?, RequestId(0));
        session.read(&[(id, embeddings_ld.clone())])?;
        let embeddings = self.embed(decoder_ids)?;
        check_prompts(std::slice::from_ref(&embeddings), self.config.d_model)?;
        session.own.reserve(decoder_ids.len())?;
        let slots = session.own.table.insert(id, decoder_ids.len()).to_vec();
        let queries = vec![PathQueries { slots, rows: decoder_ids.len(), mask: AttentionMask::Causal }];
        let hidden = session.decode(&embeddings, queries, &[(id, decoder_ids.len())])?;
        session.head(&hidden)
    }

    /// A batch of running sequences.
    ///
    /// # Errors
    /// [`ModelError::Tensor`] if the device has no room.
    pub fn session(&self) -> Result<T5Session<'_>> {
        self.session_within(Room { rows: usize::MAX, own_slots: usize::MAX, cross_slots: usize::MAX })
    }

    /// The same, whose caches keep within the room.
    pub(crate) fn session_within(&self, room: Room) -> Result<T5Session<'_>> {
        let (layers, width) = (self.config.decoder_layers(), self.config.inner_width());
        let cache = |most| KvCache::new(layers, width, most, self.table_vd.device(), self.table_vd.dtype());
        let (own, cross) = (cache(room.own_slots)?, cache(room.cross_slots)?);
        Ok(T5Session { t5: self, own, cross, start: [self.config.decoder_start_token_id] })
    }

    /// What a request of a prompt and `written` positions (of all beams) needs.
    pub(crate) fn cache_need(&self, prompt: usize, written: usize) -> CacheNeed {
        let width = self.config.decoder_layers() * self.config.inner_width();
        let bytes_per_slot = (2 * width * self.table_vd.dtype().size_in_bytes()) as u64;
        // the start token has a place of its own
        CacheNeed { bytes_per_slot, own_slots: 1 + written, cross_slots: prompt }
    }

    /// The encoder over sequences one behind the other: `x_rd`, whose rows are divided among `queries`.
    fn encode(&self, x_rd: &Tensor, queries: Vec<PathQueries>) -> candle_core::Result<Tensor> {
        let (c, inner, epsilon) = (&self.config, self.config.inner_width(), self.config.layer_norm_epsilon);
        let reach = queries.iter().map(|path| path.rows).max().unwrap_or(0);
        let bias = distance_bias(c, &self.encoder.bias_nh, reach, Sight::Both);
        let paths = AttentionPaths::new(queries, Some(bias));
        let mut x_rd = x_rd.to_dtype(residual_type(x_rd.dtype()))?;
        for layer in &self.encoder.layers {
            let attention = &layer.attention;
            let qkv = attention.qkv.forward(&normed(&x_rd, &attention.norm_d, epsilon)?, Rows::Many)?;
            let part = |index| qkv.narrow(1, index * inner, inner)?.contiguous();
            let (keys, values) = (part(1)?, part(2)?);
            // T5 does not divide by the root of the head's width.
            let attended = paged_attention(&part(0)?, (&keys, &values), &paths, c.num_heads, 1.0)?;
            x_rd = added(&x_rd, &attention.out.forward(&attended, Rows::Many)?)?;
            x_rd = layer.feed_forward.apply(&x_rd, epsilon, Rows::Many)?;
        }
        normed(&x_rd, &self.encoder.norm_d, epsilon)
    }
}

/// Sequences that a [`T5`] continues, with their keys and values.
#[derive(Debug)]
pub struct T5Session<'a> {
    t5: &'a T5,
    /// Of the decoder's own tokens.
    own: KvCache,
    /// Of the encoder's output, one path per request for all its beams.
    cross: KvCache,
    start: [u32; 1],
}

impl T5Session<'_> {
    /// Encodes prompts and keeps what the decoder reads of them.
    fn read(&mut self, prompts: &[(RequestId, Tensor)]) -> Result<()> {
        let c = &self.t5.config;
        let embeddings: Vec<Tensor> = prompts.iter().map(|(_, prompt)| prompt.clone()).collect();
        let rows = check_prompts(&embeddings, c.d_model)?;
        self.cross.reserve(rows)?;
        let (mut queries, mut first) = (Vec::new(), 0u32);
        for ((id, _), prompt) in prompts.iter().zip(&embeddings) {
            let length = prompt.dims()[0];
            self.cross.table.insert(*id, length);
            queries.push(PathQueries {
                slots: (first..first + length as u32).collect(),
                rows: length,
                mask: AttentionMask::Full,
            });
            first += length as u32;
        }
        let encoded = self.t5.encode(&Tensor::cat(&embeddings, 0)?, queries)?;
        for (index, layer) in self.t5.decoder.layers.iter().enumerate() {
            let kv = layer.cross_kv.forward(&encoded, Rows::Many)?;
            let inner = c.inner_width();
            self.cross.write(index, &kv.narrow(1, 0, inner)?, &kv.narrow(1, inner, inner)?)?;
        }
        Ok(())
    }

    /// All decoder layers for rows `x_rd` whose slots were handed out; `owners` says how many rows each request has.
    fn decode(
        &self,
        x_rd: &Tensor,
        queries: Vec<PathQueries>,
        owners: &[(RequestId, usize)],
    ) -> candle_core::Result<Tensor> {
        let (c, inner) = (&self.t5.config, self.t5.config.inner_width());
        let epsilon = c.layer_norm_epsilon;
        let reach = queries.iter().map(|path| path.slots.len()).max().unwrap_or(0);
        let bias = distance_bias(c, &self.t5.decoder.bias_nh, reach, Sight::Back);
        let prompts = owners.iter().filter_map(|&(id, rows)| {
            let slots = self.cross.table.paths(id).first()?.clone();
            Some(PathQueries { slots, rows, mask: AttentionMask::Full })
        });
        let prompts = AttentionPaths::new(prompts.collect(), None);
        let own = AttentionPaths::new(queries, Some(bias));
        let mut x_rd = x_rd.to_dtype(residual_type(x_rd.dtype()))?;
        for (index, layer) in self.t5.decoder.layers.iter().enumerate() {
            let attention = &layer.attention;
            let qkv = attention.qkv.forward(&normed(&x_rd, &attention.norm_d, epsilon)?, Rows::Few)?;
            self.own.write(index, &qkv.narrow(1, inner, inner)?, &qkv.narrow(1, 2 * inner, inner)?)?;
            let q = qkv.narrow(1, 0, inner)?.contiguous()?;
            let attended = paged_attention(&q, self.own.layer(index), &own, c.num_heads, 1.0)?;
            x_rd = added(&x_rd, &attention.out.forward(&attended, Rows::Few)?)?;
            let q = layer.cross_q.forward(&normed(&x_rd, &layer.cross_norm_d, epsilon)?, Rows::Few)?;
            let attended = paged_attention(&q, self.cross.layer(index), &prompts, c.num_heads, 1.0)?;
            x_rd = added(&x_rd, &layer.cross_out.forward(&attended, Rows::Few)?)?;
            x_rd = layer.feed_forward.apply(&x_rd, epsilon, Rows::Few)?;
        }
        Ok(x_rd)
    }

    fn head(&self, x_rd: &Tensor) -> Result<Tensor> {
        let normed = normed(x_rd, &self.t5.decoder.norm_d, self.t5.config.layer_norm_epsilon)?;
        Ok(self.t5.head.forward(&normed, Rows::Few)?)
    }
}

impl NextLogits for T5Session<'_> {
    /// The encoder's input, `[L, D]`.
    type Prompt = Tensor;

    fn vocab_size(&self) -> usize {
        self.t5.config.vocab_size
    }

    fn history(&self) -> &[u32] {
        &self.start
    }

    fn admit(&mut self, prompts: &[(RequestId, Tensor)]) -> Result<Vec<f32>> {
        if prompts.is_empty() {
            return Ok(Vec::new());
        }
        self.read(prompts)?;
        self.own.reserve(prompts.len())?;
        let queries: Vec<PathQueries> = prompts
            .iter()
            .map(|(id, _)| PathQueries {
                slots: self.own.table.insert(*id, 1).to_vec(),
                rows: 1,
                mask: AttentionMask::Causal,
            })
            .collect();
        let owners: Vec<_> = prompts.iter().map(|(id, _)| (*id, 1)).collect();
        let embeddings = self.t5.embed(&vec![self.start[0]; prompts.len()])?;
        let hidden = self.decode(&embeddings, queries, &owners)?;
        // one row of each
        to_host(&self.head(&hidden)?)
    }

    fn advance(&mut self, steps: &[Step<'_>]) -> Result<Vec<f32>> {
        let tokens: Vec<u32> = steps.iter().flat_map(|step| step.branches).map(|branch| branch.token).collect();
        if tokens.is_empty() {
            return Ok(Vec::new());
        }
        let embeddings = self.t5.embed(&tokens)?;
        self.own.reserve(tokens.len())?;
        let mut queries = Vec::with_capacity(tokens.len());
        for step in steps {
            for slots in self.own.table.branch(step.request, step.branches)? {
                queries.push(PathQueries { slots: slots.clone(), rows: 1, mask: AttentionMask::Causal });
            }
        }
        let owners: Vec<_> = steps.iter().map(|step| (step.request, step.branches.len())).collect();
        let hidden = self.decode(&embeddings, queries, &owners)?;
        to_host(&self.head(&hidden)?)
    }

    fn release(&mut self, id: RequestId) {
        self.own.table.remove(id);
        self.cross.table.remove(id);
    }
}
