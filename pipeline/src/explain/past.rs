//! What tables say of an image now, and said before: values instead of digests.

use std::collections::BTreeMap;

use manifests::Artifact;
use workers::WorkerError;
use workers::changes::{Said, is_shown, past};

use crate::build::Build;

/// Versions of a table that are looked at for what it said before: each costs a few requests.
const MOST_VERSIONS: u64 = 8;

/// What a table says of an image, and has said before.
pub(super) async fn said(build: &Build, artifact: Artifact, image_id: &str) -> Result<Vec<Said>, WorkerError> {
    let country = (build.spec.country.as_str(), build.spec.work.shards);
    past(&build.work, &build.tables, &build.pin(artifact).await?, country, image_id, MOST_VERSIONS).await
}

/// What is said, and what was before it.
pub(super) fn in_words(said: &[Said]) -> Vec<String> {
    let shown = |said: &Said| said.shown.clone().unwrap_or_else(|| "nothing".to_owned());
    match said {
        [] => Vec::new(),
        [now] => vec![shown(now)],
        [now, before, ..] => vec![shown(now), format!("before version {}: {}", now.since, shown(before))],
    }
}

/// What the tables that a row is made from said of its image.
pub(super) struct Past(BTreeMap<&'static str, Vec<Said>>);

impl Past {
    pub(super) async fn of(
        build: &Build,
        tables: impl Iterator<Item = Artifact>,
        image_id: &str,
    ) -> Result<Self, WorkerError> {
        let mut past = BTreeMap::new();
        for artifact in tables.filter(|artifact| is_shown(*artifact)) {
            past.insert(artifact.name(), said(build, artifact, image_id).await?);
        }
        Ok(Self(past))
    }

    /// What a field, as `table.field`, was where it had a digest.
    pub(super) fn value(&self, field: &str, digest: &str) -> Option<String> {
        let (table, field) = field.split_once('.')?;
        self.0.get(table)?.iter().find(|said| said.has(field, digest))?.shown.clone()
    }
}
