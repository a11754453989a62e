//! Columns of whole tables, a batch after the other.

use futures::TryStreamExt;
use manifests::Artifact;
use stages::table::{Columns, TableError};
use workers::WorkerError;
use workers::parts::batches;

use crate::build::Build;

/// Shows columns of every part of a table, in order, while the next ones are read.
pub(super) async fn each(
    build: &Build,
    artifact: Artifact,
    columns: &[&str],
    mut show: impl FnMut(&Columns<'_>) -> Result<(), TableError>,
) -> Result<(), WorkerError> {
    let table = build.pin(artifact).await?;
    let mut read = batches(&build.work, &table, columns, build.spec.work.concurrency);
    while let Some(batch) = read.try_next().await? {
        show(&Columns::new(artifact, &batch)).map_err(|e| WorkerError::Broken(e.to_string()))?;
    }
    Ok(())
}
