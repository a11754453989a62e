//! Segments, and what tells noisy pairs apart, as other settings would have them, in parts beside the tables: a plan is mapped and not published.
//!
//! No log names such a part. Its shard's marker does: whoever asks for the same settings again finds it, and so does a run of
//! the build itself, should its spec take them over. `gc` clears away what no training that goes on reads.

use std::collections::BTreeMap;

use manifests::plan::PinnedTable;
use manifests::{Artifact, PartFile};
use stages::Training;
use stages::stage::ModelUse;
use training::communicator::Solo;
use workers::WorkerError;

use crate::build::Build;
use crate::plan::{model_of, plan_stage};
use crate::progress::Progress;
use crate::run::{current_or_trained, map_here};
use crate::trainings::training_state;

/// Makes the rows of these tables that the spec of an opened build wants and that are not there, and pins them in their
/// place.
pub(super) async fn segments(build: &mut Build, progress: &Progress) -> Result<(), WorkerError> {
    for stage in stages::map_stages(&build.spec) {
        if !matches!(stage.output, Artifact::SegmentFeatures | Artifact::SegmentScores | Artifact::PairQuality) {
            continue;
        }
        if stage.model == ModelUse::Scoring && build.spec.score.clip == "bootstrap" {
            let state = training_state(build, Training::Bootstrap, false).await?;
            current_or_trained(build, Training::Bootstrap, state, &mut Solo, progress).await?;
        }
        let model = model_of(build, &stage).await?.unwrap_or_default();
        let plan = plan_stage(build, &stage, &model, false).await?;
        if plan.counts.stale.is_empty() {
            continue;
        }
        let bar = progress.stage(stage.name, plan.computed());
        let mapped = map_here(build, &stage, &plan, &model, &bar).await?;
        bar.clear();
        if mapped.stopped {
            return Err(WorkerError::Stopped);
        }
        let mut parts: BTreeMap<u32, PartFile> =
            plan.output.parts.iter().map(|part| (part.shard, part.clone())).collect();
        parts.extend(mapped.finished.into_iter().map(|finished| (finished.marker.part.shard, finished.marker.part)));
        let parts = parts.into_values().collect();
        build.pin_instead(PinnedTable { version: plan.output.version, parts, ..PinnedTable::empty(stage.output) });
    }
    Ok(())
}
