//! How the model is measured.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Protocol {
    /// Only an image's own captions, and a caption's own image.
    Standard,
    /// SkyScript's: equal texts and images are one item, any positive counts.
    Dedup,
}

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
