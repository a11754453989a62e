//! What follows an adaptation: its figures, vectors of the target's images, and its report.

use std::path::PathBuf;

use workers::WorkerError;
use workers::adapt::AdaptationRecord;

use super::page;
use crate::analyse::before_and_after;
use crate::pair::{Pair, Tested};
use crate::progress::Progress;
use crate::search::{SearchModel, keep_vectors};

/// What a finished adaptation came to.
#[derive(Debug, Clone, PartialEq)]
pub struct Finished {
    /// Figures of the source's own model on the pair's test part.
    pub before: Tested,
    /// Figures of the adapted one.
    pub after: Tested,
    /// Where the report lies.
    pub report: String,
}

/// Both models' figures on the target's test part; those that are known are used again.
pub(super) async fn figures(pair: &Pair, record: &AdaptationRecord) -> Result<[Tested; 2], WorkerError> {
    let (before, after) = (pair.model(None).await?, pair.model(Some(record)).await?);
    Ok([pair.test(&before).await?, pair.test(&after).await?])
}

/// Does what is left to do of a pair that was adapted: figures, vectors by which the adapted model finds the target's images,
/// and the report beside those of builds. What is there already is not made again.
///
/// # Errors
/// Rows or weights that cannot be read; a store that does not answer.
pub async fn finish_pair(pair: &Pair, record: &AdaptationRecord, progress: &Progress) -> Result<Finished, WorkerError> {
    let [before, after] = figures(pair, record).await?;
    let (digest, folder): (String, PathBuf) = pair.model(Some(record)).await?;
    let (name, spec) = (pair.name.clone(), pair.source.spec.clone());
    let model = SearchModel { name, digest, folder, spec, sentences: None, changed_since: Vec::new() };
    keep_vectors(&model, &pair.target, progress).await?;
    let (work, path) = (&pair.target.work, manifests::paths::report(&pair.name));
    let make = async || {
        let of = before_and_after(pair, progress).await?;
        crate::page::analysis::make(&[], &[(pair, of)], &crate::clock::now()).await
    };
    let report = page::put(work, &path, &(&before, &after), make).await?;
    Ok(Finished { before, after, report })
}
