//! Retrieval in the target of a pair before and after its adaptation, both ways (the paper's Figure 6).

use serde::Serialize;
use stages::adapt::Sampled;
use stages::evaluate::{Changes, Moves};
use workers::WorkerError;

use crate::pair::{Pair, Tested};
use crate::progress::Progress;
use crate::search::{Adapted, SearchModel};

/// Epochs whose first batch is shown, spread over the adaptation: the paper's curriculum has five bands.
const EPOCHS: usize = 6;

/// The same queries by two models.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct BeforeAndAfter {
    /// `SOURCE_to_TARGET`.
    pub pair: String,
    /// Whether the adaptation is of the tables as they are.
    pub is_up_to_date: bool,
    /// Figures of the source's own model on the pair's test part.
    pub before: Tested,
    /// Figures of the adapted one.
    pub after: Tested,
    /// Which queries changed, and how.
    pub changes: Changes,
    /// What the sampler made of the first batch of some epochs; none where no source is learnt from.
    pub sampled: Vec<Sampled>,
}

/// What is said of a comparison whose adaptation is of other tables.
pub(crate) const OUTDATED: &str =
    "tables have changed since this model was adapted; `urbancross adapt` with the pair's spec brings it up to date";

/// Compares the source's model with the one that was adapted with the pair's settings. Adapts nothing.
///
/// # Errors
/// [`WorkerError::Configuration`] if no adaptation with these settings is finished, or one had learnt from what is the pair's test part
/// now; otherwise as [`Pair::embedded`].
pub async fn before_and_after(pair: &Pair, progress: &Progress) -> Result<BeforeAndAfter, WorkerError> {
    let after = SearchModel::of_pair(&pair.spec, &pair.source, &pair.target, Adapted::After).await?;
    let (before, after) = (pair.model(None).await?, (after.digest, after.folder));
    let is_up_to_date = pair.finished(&pair.spec).await?.is_some();
    if !is_up_to_date {
        pair.check_unseen(&after.1)?;
        progress.note(&format!("warning: {}: {OUTDATED}", pair.name));
    }
    let changes = pair.changes([&before, &after], progress).await?;
    let (before, after) = (pair.test(&before).await?, pair.test(&after).await?);
    let sampled = pair.sampled(EPOCHS).await?;
    Ok(BeforeAndAfter { pair: pair.name.clone(), is_up_to_date, before, after, changes, sampled })
}

/// How many queries moved, in words.
pub fn in_words(moves: &Moves) -> String {
    format!("{} moved up, {} down, {} stayed", moves.rose, moves.fell, moves.stayed)
}
