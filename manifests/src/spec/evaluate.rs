//! How the model is measured.

use choices::Protocol;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// `[evaluate]`: how retrieval is measured.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct EvaluateSpec {
    /// Which answers count as right.
    pub protocol: Protocol,
    /// Image embeddings are the mean over flips and quarter turns: better, and named in the report.
    pub average_over_turns: bool,
}

impl Default for EvaluateSpec {
    fn default() -> Self {
        Self { protocol: Protocol::Standard, average_over_turns: false }
    }
}
