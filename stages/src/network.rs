//! The network that is trained here and embeds tables: named once, all else knows a [`DualEncoder`].

use models::clip::Clip;
use models::dual_encoder::DualEncoder;

use crate::device::{dtype, opening_error};
use crate::stage::{StageContext, StageError};

/// The retrieval network of a build.
pub type Network = Clip;

/// Loads the model that was handed to a stage.
///
/// # Errors
/// [`StageError::Configuration`] for a folder without a model, [`StageError::Unreachable`] if it is not read now.
pub fn load_network(stage: &'static str, context: &StageContext<'_>) -> Result<Network, StageError> {
    let folder = context.model_folder(stage)?;
    let device = context.device(stage)?;
    <Network as DualEncoder>::load(folder, &device, dtype(context.spec))
        .and_then(|network| network.frozen())
        .map_err(|e| opening_error(stage, &device, format!("model {}: {e}", folder.display()), &e))
}
