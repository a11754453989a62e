//! How the model is measured.

use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Protocol {
    Standard,
    /// SkyScript's: equal texts and images are one item, any positive counts.
    Dedup,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct EvaluateSpec {
    pub protocol: Protocol,
    /// Image embeddings are the mean over flips and quarter turns: better, and named in the report.
    pub average_over_turns: bool,
}

impl Default for EvaluateSpec {
    fn default() -> Self {
        Self { protocol: Protocol::Standard, average_over_turns: false }
    }
}
