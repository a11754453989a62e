use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Which image tower embeds segments.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum SegmentTower {
    /// The image tower itself.
    #[default]
    Shared,
    /// The image tower as it was before training.
    Frozen,
    /// A copy of the image tower that is trained on segments alone.
    Separate,
}

/// Which galleries are searched, and which answers count as right.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Protocol {
    /// Only an image's own captions, and a caption's own image.
    #[default]
    Standard,
    /// SkyScript's: equal texts and images are one item, any positive counts.
    Dedup,
}
