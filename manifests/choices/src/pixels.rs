use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Random changes of a training image.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Augmentation {
    /// Least and greatest share of the area that a random crop keeps.
    pub crop_scale: [f32; 2],
    /// Mirror at random.
    pub flips: bool,
    /// Overhead images have no upright: quarter turns are free data.
    pub quarter_turns: bool,
    /// Greatest random change of brightness, contrast and saturation, as a share.
    pub colour_jitter: f32,
}

impl Default for Augmentation {
    fn default() -> Self {
        Self { crop_scale: [0.5, 1.0], flips: true, quarter_turns: true, colour_jitter: 0.2 }
    }
}

/// Graph-based segmentation (Felzenszwalb and Huttenlocher 2004), for colours on the scale 0..255 as in the paper and in
/// scikit-image's `felzenszwalb` on 8-bit images.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Felzenszwalb {
    /// Felzenszwalb's k: larger values give larger segments.
    pub scale: f32,
    /// Standard deviation of the Gaussian that smooths the image first, in pixels; 0: none.
    pub sigma_px: f32,
    /// Smaller segments are merged into the neighbour that is most alike.
    pub min_size_px: u32,
}

impl Default for Felzenszwalb {
    fn default() -> Self {
        Self { scale: 300.0, sigma_px: 0.8, min_size_px: 60 }
    }
}

/// How much of the image a picture of one segment shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Canvas {
    /// The whole image, everything outside of the mask in the background colour (UrbanCross' released code).
    Full,
    /// The mask's box with a margin.
    Cropped,
}

/// What stands where the segment is not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Background {
    /// White (UrbanCross' released code).
    White,
    /// The mean colour of CLIP's training images, which normalises to zero within rounding.
    Mean,
}
