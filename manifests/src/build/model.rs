//! The retrieval model and its device.

use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ModelSpec {
    /// `vit-b-32`, `vit-b-16`, `vit-l-14`, or one of the small ones: `tiny`, `small`.
    pub preset: String,
    /// Weights to start from: a folder or file here, the address of one (`s3://`, `https://` …), or `owner/name` on
    /// the hub; empty: random, from the seed.
    pub init: String,
    /// `train` (a small vocabulary from the train captions), or a tokenizer file, named like `init`.
    pub tokenizer: String,
    pub vocabulary: usize,
    /// Tokens per caption; 0: the preset's.
    pub context_length: usize,
    /// Input side in pixels; 0: the preset's.
    pub image_size_px: usize,
    /// `cpu` or `cuda:N`.
    pub device: String,
    /// Type of weights and activations. Losses, optimiser and moving average are f32 or wider in any case.
    pub precision: Precision,
}

/// Floating-point type of a network.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Precision {
    #[default]
    F32,
    Bf16,
    F16,
}

impl Default for ModelSpec {
    fn default() -> Self {
        Self {
            preset: "small".into(),
            init: String::new(),
            tokenizer: "train".into(),
            vocabulary: 2000,
            context_length: 0,
            image_size_px: 0,
            device: "cpu".into(),
            precision: Precision::F32,
        }
    }
}
