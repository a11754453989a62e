//! LLaMA (Touvron et al., 2023) and its fine-tunes, after transformers' `LlamaForCausalLM`.

use super::batch_limits::{CacheNeed, Room};
use super::cache::KvCache;
use super::config::LlamaConfig;
use super::generate::{NextLogits, RequestId, Step};
use super::projection::Projection;
use super::weights::{self, Weights};
use super::{check_ids, check_prompts, last_rows, to_host};
use crate::checkpoint::{Checkpoint, read_json};
use crate::ops::embedding;
use crate::ops::inference::{
    AttentionMask, AttentionPaths, Gate, PathQueries, RotaryLayout, RotaryTable, Rows, gated, paged_attention,
    rms_norm, rotary,
};
use crate::{ModelError, Result};
use candle_core::{DType, Device, Tensor};

/// A frozen decoder.
#[derive(Clone, Debug)]
pub struct Llama {
    pub(super) config: LlamaConfig,
    pub(super) table_vd: Tensor,
    pub(super) layers: Vec<Layer>,
    pub(super) norm_d: Tensor,
    pub(super) head: Projection,
    pub(super) rotary: RotaryTable,
}

#[derive(Clone, Debug)]
pub(super) struct Layer {
    pub(super) input_norm_d: Tensor,
    /// Queries, keys and values behind each other.
    pub(super) qkv: Projection,
    pub(super) out: Projection,
    pub(super) post_norm_d: Tensor,
    /// The gate, then what it scales.
    pub(super) gate_up: Projection,
    pub(super) down: Projection,
}

impl Llama {
    /// Reads a folder with `config.json` and weights under Hugging Face's names.
    ///
    /// # Errors
    /// [`ModelError::Io`] and [`ModelError::Malformed`] with the file, [`ModelError::Config`] for a configuration
    /// that is not supported, [`ModelError::MissingTensor`] and [`ModelError::WrongShape`] with the tensor.
    pub fn load(folder: &std::path::Path, device: &Device, dtype: DType) -> Result<Self> {
        let config: LlamaConfig = read_json(&folder.join("config.json"))?;
        let checkpoint = Checkpoint::open_folder(folder, weights::FILES)?;
        Self::new(config, &Weights::new(&checkpoint, device, dtype), RotaryLayout::Halves)
    }

    pub(crate) fn new(config: LlamaConfig, weights: &Weights<'_>, layout: RotaryLayout) -> Result<Self> {
        config.validate()?;
        let c = &config;
        let (width, hidden) = (c.hidden_size, c.intermediate_size);
        let (q_width, kv_width) = (c.num_attention_heads * c.head_width(), c.kv_heads() * c.head_width());
        let model = weights.at("model");
        let table_vd = model.at("embed_tokens").tensor("weight", &[c.vocab_size, width])?;
        let layers = (0..c.num_hidden_layers).map(|layer| {
            let layer = model.at("layers").at(layer);
            let (attention, mlp) = (layer.at("self_attn"), layer.at("mlp"));
            let qkv = [("q_proj", q_width), ("k_proj", kv_width), ("v_proj", kv_width)];
            Ok(Layer {
                input_norm_d: layer.tensor("input_layernorm.weight", &[width])?,
                qkv: attention.stacked(&qkv, width, c.attention_bias)?,
                out: attention.linear("o_proj", q_width, width, c.attention_bias)?,
                post_norm_d: layer.tensor("post_attention_layernorm.weight", &[width])?,
                gate_up: mlp.stacked(&[("gate_proj", hidden), ("up_proj", hidden)], width, c.mlp_bias)?,
                down: mlp.linear("down_proj", hidden, width, c.mlp_bias)?,
            })
        });
        let layers = layers.collect::<Result<_>>()?;
        let head = match c.tie_word_embeddings {
            true => Projection::new(table_vd.clone(), None)?,
            false => weights.linear("lm_head", width, c.vocab_size, false)?,
        };
        let rotary = RotaryTable::new(c.max_position_embeddings, c.head_width(), c.theta(), layout, weights.device())?;
        let norm_d = model.tensor("norm.weight", &[width])?;
        Ok(Self { table_vd, layers, norm_d, head, rotary, config })
    }

    /// What tells this model from others, weights apart.
    pub fn config(&self) -> &LlamaConfig {
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

    /// Logits behind every position of one sequence: `embeddings_ld [L, D]` at `positions` to `[L, V]`.
    ///
    /// # Errors
    /// [`ModelError::Input`] for embeddings of another width, [`ModelError::Tensor`] if the device fails.
    pub fn logits(&self, embeddings_ld: &Tensor, positions: &[u32]) -> Result<Tensor> {
        let length = check_prompts(std::slice::from_ref(embeddings_ld), self.config.hidden_size)?;
        let mut session = self.session()?;
        session.cache.reserve(length)?;
        let slots = session.cache.table.insert(RequestId(0), length).to_vec();
        let queries = vec![PathQueries { slots, rows: length, mask: AttentionMask::Causal }];
        let hidden = session.run(embeddings_ld.clone(), positions, queries, Rows::Many, Wanted::AllRows)?;
        Ok(self.head.forward(&rms_norm(&hidden, &self.norm_d, self.config.rms_norm_eps)?, Rows::Few)?)
    }

    /// A batch of running sequences.
    ///
    /// # Errors
    /// [`ModelError::Tensor`] if the device has no room.
    pub fn session(&self) -> Result<LlamaSession<'_>> {
        self.session_of(usize::MAX)
    }

    /// The same, whose cache keeps within the room.
    pub(crate) fn session_within(&self, room: Room) -> Result<LlamaSession<'_>> {
        self.session_of(room.own_slots)
    }

    fn session_of(&self, most_slots: usize) -> Result<LlamaSession<'_>> {
        let c = &self.config;
        let (device, dtype) = (self.table_vd.device(), self.table_vd.dtype());
        let cache = KvCache::new(c.num_hidden_layers, c.kv_heads() * c.head_width(), most_slots, device, dtype)?;
        Ok(LlamaSession { llama: self, cache })
    }

    /// What a request of a prompt and `written` positions (of all beams) needs.
    pub(crate) fn cache_need(&self, prompt: usize, written: usize) -> CacheNeed {
        let c = &self.config;
        let width = c.num_hidden_layers * c.kv_heads() * c.head_width();
        let bytes_per_slot = (2 * width * self.table_vd.dtype().size_in_bytes()) as u64;
        CacheNeed { bytes_per_slot, own_slots: prompt + written, cross_slots: 0 }
    }
}

/// Sequences that a [`Llama`] continues, with their keys and values.
#[derive(Debug)]
pub struct LlamaSession<'a> {
    llama: &'a Llama,
    cache: KvCache,
}

/// Whose hidden states come out of the layers.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Wanted {
    AllRows,
    /// The last one of each query.
    LastRows,
}

impl LlamaSession<'_> {
    /// All layers for rows `x_rd` whose slots were handed out. Where the last row of each query is wanted, the others
    /// have left their keys and values behind, and the last layer leaves them out.
    fn run(
        &self,
        mut x_rd: Tensor,
        positions: &[u32],
        queries: Vec<PathQueries>,
        kind: Rows,
        wanted: Wanted,
    ) -> Result<Tensor> {
        let c = &self.llama.config;
        let (q_width, kv_width) = (c.num_attention_heads * c.head_width(), c.kv_heads() * c.head_width());
        let (scale, paths) = ((c.head_width() as f64).powf(-0.5), AttentionPaths::new(queries, None));
        for (index, layer) in self.llama.layers.iter().enumerate() {
            let normed = rms_norm(&x_rd, &layer.input_norm_d, c.rms_norm_eps)?;
            let qkv = layer.qkv.forward(&normed, kind)?;
            let qk = rotary(&qkv.narrow(1, 0, q_width + kv_width)?, positions, &self.llama.rotary)?;
            self.cache.write(
                index,
                &qk.narrow(1, q_width, kv_width)?,
                &qkv.narrow(1, q_width + kv_width, kv_width)?,
            )?;
            let q = qk.narrow(1, 0, q_width)?;
            let mut attended = paged_attention(&q, self.cache.layer(index), &paths, c.num_attention_heads, scale)?;
            if wanted == Wanted::LastRows && index + 1 == self.llama.layers.len() {
                (x_rd, attended) = (last_rows(&x_rd, paths.queries())?, last_rows(&attended, paths.queries())?);
            }
            x_rd = (x_rd + layer.out.forward(&attended, kind)?)?;
            let normed = rms_norm(&x_rd, &layer.post_norm_d, c.rms_norm_eps)?;
            let hidden = gated(&layer.gate_up.forward(&normed, kind)?, Gate::Silu)?;
            x_rd = (x_rd + layer.down.forward(&hidden, kind)?)?;
        }
        Ok(x_rd)
    }

    fn head(&self, x_rd: &Tensor) -> Result<Vec<f32>> {
        let normed = rms_norm(x_rd, &self.llama.norm_d, self.llama.config.rms_norm_eps)?;
        to_host(&self.llama.head.forward(&normed, Rows::Few)?)
    }
}

impl NextLogits for LlamaSession<'_> {
    /// `[L, D]`
    type Prompt = Tensor;

    fn vocab_size(&self) -> usize {
        self.llama.config.vocab_size
    }

    fn history(&self) -> &[u32] {
        &[]
    }

    fn admit(&mut self, prompts: &[(RequestId, Tensor)]) -> Result<Vec<f32>> {
        let embeddings: Vec<Tensor> = prompts.iter().map(|(_, prompt)| prompt.clone()).collect();
        let rows = check_prompts(&embeddings, self.llama.config.hidden_size)?;
        let longest = embeddings.iter().map(|prompt| prompt.dims()[0]).max().unwrap_or(0);
        if longest > self.llama.rotary.positions() {
            return Err(ModelError::Input(format!(
                "a prompt of {longest} positions, the network has {}",
                self.llama.rotary.positions()
            )));
        }
        if rows == 0 {
            return Ok(Vec::new());
        }
        self.cache.reserve(rows)?;
        let (mut queries, mut positions) = (Vec::new(), Vec::new());
        for ((id, _), prompt) in prompts.iter().zip(&embeddings) {
            let length = prompt.dims()[0];
            let slots = self.cache.table.insert(*id, length).to_vec();
            queries.push(PathQueries { slots, rows: length, mask: AttentionMask::Causal });
            positions.extend(0..length as u32);
        }
        let hidden = self.run(Tensor::cat(&embeddings, 0)?, &positions, queries, Rows::Many, Wanted::LastRows)?;
        self.head(&hidden)
    }

    fn advance(&mut self, steps: &[Step<'_>]) -> Result<Vec<f32>> {
        let tokens: Vec<u32> = steps.iter().flat_map(|step| step.branches).map(|branch| branch.token).collect();
        if tokens.is_empty() {
            return Ok(Vec::new());
        }
        let embeddings = self.llama.embed(&tokens)?;
        self.cache.reserve(tokens.len())?;
        let (mut queries, mut positions) = (Vec::new(), Vec::new());
        for step in steps {
            for slots in self.cache.table.branch(step.request, step.branches)? {
                positions.push(slots.len() as u32 - 1);
                queries.push(PathQueries { slots: slots.clone(), rows: 1, mask: AttentionMask::Causal });
            }
        }
        let hidden = self.run(embeddings, &positions, queries, Rows::Few, Wanted::LastRows)?;
        self.head(&hidden)
    }

    fn release(&mut self, id: RequestId) {
        self.cache.table.remove(id);
    }
}
