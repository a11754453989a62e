//! `text_config` of Hugging Face's checkpoints, with transformers' defaults where a value is left out.

use crate::{ModelError, Result};
use serde::{Deserialize, Deserializer, Serialize};

/// Bounds against hostile files: far beyond every published network.
const MAX_WIDTH: usize = 1 << 17;
const MAX_LAYERS: usize = 1 << 10;
const MAX_VOCABULARY: usize = 1 << 22;
const MAX_POSITIONS: usize = 1 << 20;

/// A decoder of LLaMA's kind: LLaMA 1 and 2, Vicuna.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct LlamaConfig {
    /// Rows of the embedding table.
    pub vocab_size: usize,
    /// Width of a token.
    pub hidden_size: usize,
    /// Width of the hidden layer of an MLP.
    pub intermediate_size: usize,
    /// Number of Transformer blocks.
    pub num_hidden_layers: usize,
    /// Heads of queries in a block.
    pub num_attention_heads: usize,
    /// Fewer than `num_attention_heads` for grouped-query attention.
    pub num_key_value_heads: Option<usize>,
    /// `hidden_size / num_attention_heads` unless told.
    pub head_dim: Option<usize>,
    /// Longest sequence in tokens, prompt included.
    pub max_position_embeddings: usize,
    /// Epsilon of every norm.
    pub rms_norm_eps: f64,
    /// Base of the rotary angles (Su et al., "RoFormer").
    pub rope_theta: f64,
    /// Activation of the MLPs' gate, by transformers' name.
    pub hidden_act: String,
    /// Whether the projections of attention have a bias.
    pub attention_bias: bool,
    /// Whether those of the MLPs have one.
    pub mlp_bias: bool,
    /// Whether the embedding table is the head, too.
    pub tie_word_embeddings: bool,
    /// Longer contexts than trained for, which are not supported; transformers 5 keeps `rope_theta` in here.
    #[serde(alias = "rope_parameters")]
    pub rope_scaling: Option<serde_json::Value>,
}

impl Default for LlamaConfig {
    fn default() -> Self {
        Self {
            vocab_size: 32_000,
            hidden_size: 4096,
            intermediate_size: 11_008,
            num_hidden_layers: 32,
            num_attention_heads: 32,
            num_key_value_heads: None,
            head_dim: None,
            max_position_embeddings: 2048,
            rms_norm_eps: 1e-6,
            rope_theta: 10_000.0,
            hidden_act: "silu".to_owned(),
            attention_bias: false,
            mlp_bias: false,
            tie_word_embeddings: false,
            rope_scaling: None,
        }
    }
}

impl LlamaConfig {
    /// Heads of keys and values in a block.
    pub fn kv_heads(&self) -> usize {
        self.num_key_value_heads.unwrap_or(self.num_attention_heads)
    }

    /// The base of the rotary angles.
    pub fn theta(&self) -> f64 {
        let nested = self.rope_scaling.as_ref().and_then(|rope| rope.get("rope_theta")?.as_f64());
        nested.unwrap_or(self.rope_theta)
    }

    /// Width of one attention head.
    pub fn head_width(&self) -> usize {
        self.head_dim.unwrap_or(self.hidden_size / self.num_attention_heads.max(1))
    }

    /// Checks that the numbers describe a network that [`Llama`](super::Llama) can be.
    ///
    /// # Errors
    /// [`ModelError::Config`] with the value that does not fit.
    pub fn validate(&self) -> Result<()> {
        in_range("vocab_size", self.vocab_size, MAX_VOCABULARY)?;
        in_range("hidden_size", self.hidden_size, MAX_WIDTH)?;
        in_range("intermediate_size", self.intermediate_size, 8 * MAX_WIDTH)?;
        in_range("num_hidden_layers", self.num_hidden_layers, MAX_LAYERS)?;
        in_range("num_attention_heads", self.num_attention_heads, self.hidden_size)?;
        in_range("num_key_value_heads", self.kv_heads(), self.num_attention_heads)?;
        in_range("head_dim", self.head_width(), MAX_WIDTH)?;
        in_range("num_attention_heads * head_dim", self.num_attention_heads * self.head_width(), 8 * MAX_WIDTH)?;
        in_range("max_position_embeddings", self.max_position_embeddings, MAX_POSITIONS)?;
        positive("rms_norm_eps", self.rms_norm_eps)?;
        positive("rope_theta", self.theta())?;
        if self.head_dim.is_none() && !self.hidden_size.is_multiple_of(self.num_attention_heads) {
            return refuse(format!(
                "hidden_size = {} is no multiple of num_attention_heads = {}",
                self.hidden_size, self.num_attention_heads
            ));
        }
        if !self.num_attention_heads.is_multiple_of(self.kv_heads()) || !self.head_width().is_multiple_of(2) {
            return refuse(format!(
                "{} heads of width {} cannot share {} key heads and be turned by halves",
                self.num_attention_heads,
                self.head_width(),
                self.kv_heads()
            ));
        }
        if self.hidden_act != "silu" {
            return refuse(format!("hidden_act = {:?}, LLaMA's is \"silu\"", self.hidden_act));
        }
        let kind = |scaling: &serde_json::Value| {
            let kind = scaling.get("rope_type").or_else(|| scaling.get("type"));
            kind.and_then(|kind| kind.as_str()).unwrap_or("unknown").to_owned()
        };
        match self.rope_scaling.as_ref().map(kind).as_deref() {
            None | Some("default") => Ok(()),
            Some(kind) => refuse(format!("rope_scaling of kind {kind:?} is not supported")),
        }
    }
}

/// An encoder and decoder of T5's kind.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct T5Config {
    /// Rows of the embedding table.
    pub vocab_size: usize,
    /// Width of a token.
    pub d_model: usize,
    /// Width of one attention head; heads times this need not be `d_model`.
    pub d_kv: usize,
    /// Width of the hidden layer of an MLP.
    pub d_ff: usize,
    /// Blocks of the encoder.
    pub num_layers: usize,
    /// Blocks of the decoder; `num_layers` unless told.
    pub num_decoder_layers: Option<usize>,
    /// Attention heads of a block.
    pub num_heads: usize,
    /// Rows of the table that adds to attention scores by distance.
    pub relative_attention_num_buckets: usize,
    /// From this distance in tokens on, all share the last row.
    pub relative_attention_max_distance: usize,
    /// Epsilon of every norm.
    pub layer_norm_epsilon: f64,
    /// Kind of the MLPs, by transformers' name.
    pub feed_forward_proj: String,
    /// Whether the embedding table is the head, too.
    pub tie_word_embeddings: bool,
    /// Id that every written text begins with.
    pub decoder_start_token_id: u32,
}

impl Default for T5Config {
    fn default() -> Self {
        Self {
            vocab_size: 32_128,
            d_model: 512,
            d_kv: 64,
            d_ff: 2048,
            num_layers: 6,
            num_decoder_layers: None,
            num_heads: 8,
            relative_attention_num_buckets: 32,
            relative_attention_max_distance: 128,
            layer_norm_epsilon: 1e-6,
            feed_forward_proj: "relu".to_owned(),
            tie_word_embeddings: true,
            decoder_start_token_id: 0,
        }
    }
}

impl T5Config {
    /// Blocks of the decoder.
    pub fn decoder_layers(&self) -> usize {
        self.num_decoder_layers.unwrap_or(self.num_layers)
    }

    /// Width of all heads together.
    pub fn inner_width(&self) -> usize {
        self.num_heads * self.d_kv
    }

    /// Checks that the numbers describe a network that [`T5`](super::T5) can be.
    ///
    /// # Errors
    /// [`ModelError::Config`] with the value that does not fit.
    pub fn validate(&self) -> Result<()> {
        in_range("vocab_size", self.vocab_size, MAX_VOCABULARY)?;
        in_range("d_model", self.d_model, MAX_WIDTH)?;
        in_range("d_kv", self.d_kv, MAX_WIDTH)?;
        in_range("d_ff", self.d_ff, 8 * MAX_WIDTH)?;
        in_range("num_layers", self.num_layers, MAX_LAYERS)?;
        in_range("num_decoder_layers", self.decoder_layers(), MAX_LAYERS)?;
        in_range("num_heads", self.num_heads, MAX_WIDTH)?;
        in_range("num_heads * d_kv", self.inner_width(), 8 * MAX_WIDTH)?;
        in_range("relative_attention_num_buckets", self.relative_attention_num_buckets, 1 << 16)?;
        in_range("relative_attention_max_distance", self.relative_attention_max_distance, MAX_POSITIONS)?;
        positive("layer_norm_epsilon", self.layer_norm_epsilon)?;
        if self.relative_attention_num_buckets < 4
            || self.relative_attention_max_distance <= self.relative_attention_num_buckets / 2
        {
            return refuse(format!(
                "{} buckets do not cover distances up to {}",
                self.relative_attention_num_buckets, self.relative_attention_max_distance
            ));
        }
        if self.decoder_start_token_id as usize >= self.vocab_size {
            return refuse(format!("decoder_start_token_id = {} is no token", self.decoder_start_token_id));
        }
        match self.feed_forward_proj.as_str() {
            "gated-gelu" => Ok(()),
            other => refuse(format!("feed_forward_proj = {other:?}, Flan-T5's is \"gated-gelu\"")),
        }
    }
}

/// One id, several, or none.
pub(crate) fn end_ids<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Vec<u32>>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Ids {
        One(u32),
        Several(Vec<u32>),
    }
    Ok(Some(match Option::<Ids>::deserialize(deserializer)? {
        None => Vec::new(),
        Some(Ids::One(id)) => vec![id],
        Some(Ids::Several(ids)) => ids,
    }))
}

pub(crate) fn refuse(message: String) -> Result<()> {
    Err(ModelError::Config(message))
}

pub(crate) fn in_range(name: &str, value: usize, most: usize) -> Result<()> {
    match (1..=most).contains(&value) {
        true => Ok(()),
        false => refuse(format!("{name} = {value} is not within 1..={most}")),
    }
}

pub(crate) fn positive(name: &str, value: f64) -> Result<()> {
    match value.is_finite() && value > 0.0 {
        true => Ok(()),
        false => refuse(format!("{name} = {value} must be positive")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn published_networks_are_valid() {
        LlamaConfig::default().validate().unwrap();
        let xl = T5Config { d_model: 2048, d_ff: 5120, num_layers: 24, num_heads: 32, ..T5Config::default() };
        T5Config { feed_forward_proj: "gated-gelu".to_owned(), ..xl }.validate().unwrap();
    }

    #[test]
    fn the_rotary_base_is_found_where_transformers_5_keeps_it() {
        let json = serde_json::json!({"rope_parameters": {"rope_type": "default", "rope_theta": 500.0}});
        let config: LlamaConfig = serde_json::from_value(json).unwrap();
        config.validate().unwrap();
        assert_eq!((config.theta(), LlamaConfig::default().theta()), (500.0, 10_000.0));
    }

    #[test]
    fn values_that_describe_no_network_are_named() {
        let llama = |change: fn(&mut LlamaConfig), expected: &str| {
            let mut config = LlamaConfig::default();
            change(&mut config);
            let message = config.validate().unwrap_err().to_string();
            assert!(message.contains(expected), "{message}");
        };
        llama(|c| c.num_attention_heads = 0, "num_attention_heads = 0");
        llama(|c| c.num_attention_heads = 24, "num_attention_heads = 24");
        llama(|c| c.num_key_value_heads = Some(5), "5 key heads");
        llama(|c| c.head_dim = Some(usize::MAX / 2), "head_dim");
        llama(|c| c.vocab_size = usize::MAX, "vocab_size");
        llama(|c| c.rope_theta = f64::NAN, "rope_theta");
        llama(|c| c.hidden_act = "gelu".to_owned(), "gelu");
        llama(|c| c.rope_scaling = Some(serde_json::json!({"type": "dynamic", "factor": 2.0})), "dynamic");
        let t5 = |change: fn(&mut T5Config), expected: &str| {
            let mut config = T5Config { feed_forward_proj: "gated-gelu".to_owned(), ..T5Config::default() };
            change(&mut config);
            let message = config.validate().unwrap_err().to_string();
            assert!(message.contains(expected), "{message}");
        };
        t5(|c| c.feed_forward_proj = "relu".to_owned(), "relu");
        t5(|c| c.relative_attention_max_distance = 4, "distances up to 4");
        t5(|c| c.relative_attention_num_buckets = 1, "1 buckets");
        t5(|c| c.decoder_start_token_id = 40_000, "40000");
        t5(|c| c.num_heads = usize::MAX, "num_heads");
    }
}
