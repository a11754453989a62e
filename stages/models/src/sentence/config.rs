//! `config.json` of BERT and XLM-RoBERTa, with transformers' defaults where a value is left out.

use crate::language::config::{in_range, positive, refuse};
use crate::language::post_norm::Widths;
use crate::{ModelError, Result};
use serde::Deserialize;
use std::path::Path;

/// Bounds against hostile files: far beyond every published encoder.
const MAX_WIDTH: usize = 1 << 15;
const MAX_LAYERS: usize = 1 << 10;
const MAX_VOCABULARY: usize = 1 << 22;
const MAX_POSITIONS: usize = 1 << 20;

/// A Transformer that reads a text in both directions and normalises behind each sum (Devlin et al., 2019).
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default)]
pub struct BertConfig {
    /// Its kind, by transformers' name.
    pub model_type: String,
    /// Rows of the embedding table.
    pub vocab_size: usize,
    /// Width of a token.
    pub hidden_size: usize,
    /// Number of Transformer blocks.
    pub num_hidden_layers: usize,
    /// Attention heads of a block.
    pub num_attention_heads: usize,
    /// Width of the hidden layer of an MLP.
    pub intermediate_size: usize,
    /// Activation of the MLPs, by transformers' name.
    pub hidden_act: String,
    /// Rows of the table of positions.
    pub max_position_embeddings: usize,
    /// Kinds of text that the table of token types tells apart; all is of the first kind here.
    pub type_vocab_size: usize,
    /// Epsilon of every layer norm.
    pub layer_norm_eps: f64,
    /// How positions enter, by transformers' name.
    pub position_embedding_type: Option<String>,
    /// RoBERTa counts positions from behind this id.
    pub pad_token_id: Option<usize>,
}

impl Default for BertConfig {
    fn default() -> Self {
        Self {
            model_type: String::new(),
            vocab_size: 30_522,
            hidden_size: 768,
            num_hidden_layers: 12,
            num_attention_heads: 12,
            intermediate_size: 3072,
            hidden_act: "gelu".to_owned(),
            max_position_embeddings: 512,
            type_vocab_size: 2,
            layer_norm_eps: 1e-12,
            position_embedding_type: None,
            pad_token_id: None,
        }
    }
}

impl BertConfig {
    /// Reads the content of `config.json`; `path` is where it came from.
    ///
    /// # Errors
    /// [`ModelError::AnotherModel`] for another network, [`ModelError::Config`] with a value that does not fit.
    pub fn from_json(path: &Path, json: serde_json::Value) -> Result<Self> {
        let config: Self = serde_json::from_value(json).map_err(|error| ModelError::malformed(path, error))?;
        if !config.counts_behind_padding() && config.model_type != "bert" {
            let reason = format!(
                "model_type = {:?}; sentence encoders are \"bert\", \"roberta\" or \"xlm-roberta\"",
                config.model_type
            );
            return Err(ModelError::AnotherModel { path: path.to_owned(), reason });
        }
        config.validate()?;
        Ok(config)
    }

    /// RoBERTa's positions begin behind the padding's id.
    fn counts_behind_padding(&self) -> bool {
        ["roberta", "xlm-roberta", "camembert"].contains(&self.model_type.as_str())
    }

    /// The row of the first token in the table of positions.
    pub(super) fn first_position(&self) -> usize {
        if self.counts_behind_padding() { self.pad_token_id.unwrap_or(1) + 1 } else { 0 }
    }

    /// Longest text in tokens, its frame included.
    pub fn max_tokens(&self) -> usize {
        self.max_position_embeddings.saturating_sub(self.first_position())
    }

    pub(super) fn widths(&self) -> Widths {
        Widths { hidden: self.hidden_size, intermediate: self.intermediate_size, epsilon: self.layer_norm_eps }
    }

    fn validate(&self) -> Result<()> {
        in_range("vocab_size", self.vocab_size, MAX_VOCABULARY)?;
        in_range("hidden_size", self.hidden_size, MAX_WIDTH)?;
        in_range("num_hidden_layers", self.num_hidden_layers, MAX_LAYERS)?;
        in_range("num_attention_heads", self.num_attention_heads, self.hidden_size)?;
        in_range("intermediate_size", self.intermediate_size, 8 * MAX_WIDTH)?;
        in_range("max_position_embeddings", self.max_position_embeddings, MAX_POSITIONS)?;
        in_range("type_vocab_size", self.type_vocab_size, MAX_VOCABULARY)?;
        positive("layer_norm_eps", self.layer_norm_eps)?;
        if !self.hidden_size.is_multiple_of(self.num_attention_heads) {
            return refuse(format!(
                "hidden_size = {} cannot be divided among {} heads",
                self.hidden_size, self.num_attention_heads
            ));
        }
        if self.hidden_act != "gelu" {
            return refuse(format!("hidden_act = {:?}; sentence encoders have \"gelu\"", self.hidden_act));
        }
        if let Some(kind) = self.position_embedding_type.as_deref()
            && kind != "absolute"
        {
            return refuse(format!("position_embedding_type = {kind:?}; sentence encoders have \"absolute\""));
        }
        // a start, an end and something in between
        if self.max_tokens() < 3 {
            return refuse(format!(
                "max_position_embeddings = {} leaves no room for a text behind position {}",
                self.max_position_embeddings,
                self.first_position()
            ));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn read(json: serde_json::Value) -> Result<BertConfig> {
        BertConfig::from_json(Path::new("config.json"), json)
    }

    #[test]
    fn positions_of_roberta_begin_behind_the_padding() {
        let bert = read(json!({ "model_type": "bert" })).unwrap();
        assert_eq!((bert.first_position(), bert.max_tokens()), (0, 512));
        let xlm = json!({ "model_type": "xlm-roberta", "max_position_embeddings": 514, "type_vocab_size": 1 });
        let xlm = read(xlm).unwrap();
        assert_eq!((xlm.first_position(), xlm.max_tokens()), (2, 512));
    }

    #[test]
    fn values_that_describe_no_encoder_are_named() {
        let refused = |key: &str, value: serde_json::Value, expected: &str| {
            let mut json = json!({ "model_type": "bert" });
            json[key] = value;
            let message = read(json).unwrap_err().to_string();
            assert!(message.contains(expected), "{message}");
        };
        refused("model_type", json!("mpnet"), "model_type = \"mpnet\"");
        refused("num_attention_heads", json!(0), "num_attention_heads = 0");
        refused("num_attention_heads", json!(5), "among 5 heads");
        refused("vocab_size", json!(1_u64 << 40), "vocab_size");
        refused("hidden_act", json!("relu"), "relu");
        refused("position_embedding_type", json!("relative_key"), "relative_key");
        refused("max_position_embeddings", json!(2), "no room for a text");
        refused("layer_norm_eps", json!(0.0), "layer_norm_eps");
        refused("hidden_size", json!("wide"), "config.json");
    }
}
