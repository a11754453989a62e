//! What runs left with nothing to do, so that a later run with nothing to do finds that out without reading a table.
//!
//! One object for each country, overwritten, and only a hint: without it everything is looked at again.

use std::collections::BTreeMap;

use manifests::{Artifact, Digest, RowStatuses, digest, paths};
use serde::{Deserialize, Serialize};
use stages::stage::Stage;
use workers::WorkerError;

use crate::build::Build;
use crate::plan::Model;

/// A stage of which every row is as it should be.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Settled {
    /// Everything that decides about its rows ([`key`]).
    key: Digest,
    pub rows: u64,
    pub statuses: RowStatuses,
}

/// By stage.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct SettledStages(BTreeMap<String, Settled>);

impl SettledStages {
    pub async fn read(build: &Build) -> Result<Self, WorkerError> {
        Ok(build.work.get_hint(&paths::settled(&build.spec.country)).await?.unwrap_or_default())
    }

    /// The stage, if it was settled with this key.
    pub fn get(&self, stage: &Stage, key: &str) -> Option<&Settled> {
        self.0.get(stage.name).filter(|settled| settled.key == key)
    }

    pub async fn put(
        &mut self,
        build: &Build,
        stage: &Stage,
        key: Digest,
        rows: u64,
        statuses: RowStatuses,
    ) -> Result<(), WorkerError> {
        self.0.insert(stage.name.to_owned(), Settled { key, rows, statuses });
        build.work.put_json(&paths::settled(&build.spec.country), self).await
    }
}

/// Everything that decides about a stage's rows, by whole tables. `None`: a part was lost, so that nothing is settled.
pub async fn key(build: &Build, stage: &Stage, model: &Model) -> Result<Option<Digest>, WorkerError> {
    let output = build.pin(stage.output).await?;
    let mut lost = !output.lost.is_empty();
    let mut inputs = Vec::new();
    for artifact in stage.tables() {
        inputs.push(match artifact {
            Artifact::Listing => digest::of_value(&build.virtual_inputs.listing.shard_digests()),
            table => {
                let pinned = build.pin(table).await?;
                lost |= !pinned.lost.is_empty();
                pinned.digest()
            }
        });
    }
    // the assignment is a function of its tables and the spec
    let assigned = stage.inputs.iter().any(|input| input.artifact == Artifact::Assignment);
    inputs.extend(assigned.then(|| digest::of_value(&build.spec.split)));
    let parameters = digest::canonical_json(&(stage.parameters)(&build.spec));
    let of_stage = (stage.name, stage.version, build.spec.work.shards, &model.digest, parameters);
    Ok((!lost).then(|| digest::of_value(&(of_stage, output.digest(), inputs))))
}
