//! Which preset the shapes of a file of weights belong to.

use super::config::{ClipConfig, Pool};
use super::config_files::OPEN_CLIP;
use super::names::Naming;
use super::places::places;
use super::weights::declarations;
use crate::checkpoint::Checkpoint;
use crate::{ModelError, Result};
use choices::{Activation, Preset};
use std::fmt;
use std::path::Path;

/// What the shapes of a checkpoint say of its network. They do not say which activation it was trained with.
#[derive(Clone, Debug, PartialEq)]
pub struct SeenPreset {
    /// The preset whose shapes these are.
    pub preset: Preset,
    /// Side of the images.
    pub image_size: usize,
    /// Positions of texts.
    pub context_length: usize,
}

impl SeenPreset {
    /// Looks at the shapes of a file of weights, which are not read.
    ///
    /// # Errors
    /// [`ModelError::AnotherModel`] if they fit no preset, and those of opening.
    pub fn of_file(file: &Path) -> Result<Self> {
        of_checkpoint(&Checkpoint::open(file)?.unwrapped())
    }
}

impl ClipConfig {
    /// What the shapes of a file of weights say of its network, with the activation that they do not tell. No weights are
    /// read.
    ///
    /// # Errors
    /// As [`SeenPreset::of_file`], and [`ModelError::Malformed`] where both leave open how pixels are normalised.
    pub fn of_shapes(file: &Path, activation: Activation) -> Result<Self> {
        match config_of(&Checkpoint::open(file)?.unwrapped())? {
            (Some(Preset::VitL14), _) if activation == Activation::Gelu => Err(ModelError::malformed(
                file,
                format!(
                    "a ViT-L/14 with activation = \"gelu\" may be LAION-2B's, which takes pixels of mean and deviation \
                     0.5, or another's, which takes OpenAI's, and the wrong ones cost points without an error: copy \
                     the file into a folder with the {OPEN_CLIP} of its repository beside it, and name it by its path \
                     there"
                ),
            )),
            (_, config) => Ok(Self { activation, ..config }),
        }
    }
}

impl fmt::Display for SeenPreset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { preset, image_size, context_length } = self;
        write!(f, "{preset} for images of {image_size} pixels and texts of {context_length} tokens")
    }
}

pub(super) fn of_checkpoint(checkpoint: &Checkpoint) -> Result<SeenPreset> {
    let (preset, config) = config_of(checkpoint)?;
    let Some(preset) = preset else {
        return Err(ModelError::AnotherModel {
            path: checkpoint.path().to_owned(),
            reason: "it is a CLIP with a ResNet-50, which is read for evaluations and scores and not trained; put the \
                     open_clip_config.json of its network beside it, or name a vision Transformer"
                .to_owned(),
        });
    };
    let (image_size, context_length) = (config.vision.image_size, config.text.context_length);
    Ok(SeenPreset { preset, image_size, context_length })
}

/// The network of these shapes, and its preset; a ResNet-50 is none.
fn config_of(checkpoint: &Checkpoint) -> Result<(Option<Preset>, ClipConfig)> {
    let naming = Naming::recognise(checkpoint);
    let rows = |name: &str| {
        let stored = naming.stored(name, checkpoint);
        checkpoint.shape(stored.names().first()?)?.first().copied()
    };
    let presets = Preset::ALL.map(|preset| (Some(preset), ClipConfig::preset(preset)));
    for (preset, config) in presets.into_iter().chain([(None, ClipConfig::resnet_50())]) {
        if let Some(config) = with_rows(config, rows)
            && places(checkpoint, &declarations(&config)).is_ok()
        {
            return Ok((preset, config));
        }
    }
    Err(ModelError::AnotherModel {
        path: checkpoint.path().to_owned(),
        reason: format!(
            "its shapes fit none of the presets {}: put the {OPEN_CLIP} that describes its network beside it",
            Preset::ALL.map(Preset::name).join(", ")
        ),
    })
}

/// The network with tables of as many rows as a checkpoint has.
fn with_rows(mut config: ClipConfig, rows: impl Fn(&str) -> Option<usize>) -> Option<ClipConfig> {
    config.text.vocab_size = rows("token_embedding.weight")?;
    config.text.context_length = rows("positional_embedding")?;
    let before = usize::from(config.vision.pool != Pool::Mean);
    let positions = match config.is_resnet() {
        true => "visual.attnpool.positional_embedding",
        false => "visual.positional_embedding",
    };
    let patches = rows(positions)?.checked_sub(before)?;
    config.vision.image_size = patches.isqrt().checked_mul(config.vision.patch_size)?;
    (config.validate().is_ok() && config.vision.grid().pow(2) == patches).then_some(config)
}
