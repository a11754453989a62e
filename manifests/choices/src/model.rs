use std::fmt;
use std::str::FromStr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A network by its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Preset {
    /// 1 M parameters, for demonstrations.
    #[serde(rename = "tiny")]
    Tiny,
    /// 2.7 M parameters: learns from some thousand images in minutes on a laptop.
    #[serde(rename = "small")]
    Small,
    /// CLIP ViT-B/32.
    #[serde(rename = "vit-b-32")]
    VitB32,
    /// CLIP ViT-B/16.
    #[serde(rename = "vit-b-16")]
    VitB16,
    /// CLIP ViT-L/14.
    #[serde(rename = "vit-l-14")]
    VitL14,
}

impl Preset {
    /// All of them.
    pub const ALL: [Preset; 5] = [Preset::Tiny, Preset::Small, Preset::VitB32, Preset::VitB16, Preset::VitL14];

    /// The name that a spec gives it.
    pub const fn name(self) -> &'static str {
        match self {
            Preset::Tiny => "tiny",
            Preset::Small => "small",
            Preset::VitB32 => "vit-b-32",
            Preset::VitB16 => "vit-b-16",
            Preset::VitL14 => "vit-l-14",
        }
    }

    /// Side of the patches that an image is cut into, in pixels.
    pub const fn patch_px(self) -> usize {
        match self {
            Preset::Tiny | Preset::Small | Preset::VitB16 => 16,
            Preset::VitB32 => 32,
            Preset::VitL14 => 14,
        }
    }
}

impl fmt::Display for Preset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Preset {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        let known = || format!("no such preset; there are {}", Self::ALL.map(Self::name).join(", "));
        Self::ALL.into_iter().find(|preset| preset.name() == name).ok_or_else(known)
    }
}

/// The non-linearity of a network: part of a checkpoint's identity, since exchanging one for the other costs points
/// without any error.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Activation {
    /// x * sigmoid(1.702 x): OpenAI's weights and those fine-tuned from them.
    QuickGelu,
    /// x * Phi(x) with the exact normal distribution function: weights of LAION-2B and DataComp, while LAION-400M's
    /// ViT-B/32 is `quick_gelu`.
    Gelu,
}
