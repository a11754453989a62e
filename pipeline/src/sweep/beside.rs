//! Segments, and what tells noisy pairs apart, as other settings would have them, in parts beside the tables: a plan is mapped
//! and not published.
//!
//! No log names such a part. Its shard's marker does: whoever asks for the same settings again finds it, and so does a run of
//! the build itself, should its spec take them over. `gc` clears away what no training that goes on reads.

use std::collections::BTreeMap;

use engines::SWEPT_BOOTSTRAP;
use manifests::plan::PinnedTable;
use manifests::{Artifact, PartFile};
use stages::Training;
use stages::stage::ModelUse;
use training::communicator::Solo;
use workers::WorkerError;
use workers::map::MapResult;
use workers::pull::collect;

use crate::build::Build;
use crate::engine::{Engine, Placed, TrainJob};
use crate::plan::{model_of, plan_stage};
use crate::progress::Progress;
use crate::run::{current_or_trained, map_by};
use crate::trainings::{TrainingState, training_state};

/// Tables that are made so.
pub(crate) const STAGES: [Artifact; 3] = [Artifact::SegmentFeatures, Artifact::SegmentScores, Artifact::PairQuality];

/// Makes the rows of these tables that the spec of an opened build wants and that are not there, where `engine` has its
/// workers, and pins them in their place; so many shards may fail, and have no rows then. The step that an engine has
/// begun, if somebody comes back when it is done.
pub(crate) async fn segments(
    build: &mut Build,
    engine: &Engine,
    allow_failed: usize,
    progress: &Progress,
) -> Result<Option<&'static str>, WorkerError> {
    for stage in stages::map_stages(&build.spec) {
        if !STAGES.contains(&stage.output) {
            continue;
        }
        let is_bootstrapped = stage.model == ModelUse::Scoring && build.spec.score.clip == "bootstrap";
        if is_bootstrapped && !bootstrap(build, engine, progress).await? {
            return Ok(Some(SWEPT_BOOTSTRAP));
        }
        let model = model_of(build, &stage).await?.unwrap_or_default();
        let plan = plan_stage(build, &stage, &model, false).await?;
        if plan.counts.stale.is_empty() {
            continue;
        }
        let bar = progress.stage(stage.name, plan.computed());
        // whoever finds all of it there needs no device
        let there = collect(&build.work, &build.tables, &plan, engine.lease(), build.spec.work.concurrency).await?;
        let mapped = match there.is_closed() && there.failed.len() <= allow_failed {
            true => Some(MapResult {
                finished: there.finished,
                failed: there.failed,
                span: None,
                stopped: false,
                outdated: None,
            }),
            false => map_by(engine, build, &stage, &plan, &model, &bar).await?,
        };
        let Some(mapped) = mapped else { return Ok(Some(stage.name)) };
        bar.clear();
        if mapped.stopped {
            return Err(WorkerError::Stopped);
        }
        if let Some(why) = mapped.outdated {
            return Err(WorkerError::Outdated(why));
        }
        if let Some(failed) = mapped.failed.get(allow_failed) {
            return Err(WorkerError::Broken(format!(
                "{}: shard {} failed: {}; mend the cause and open such shards again with `urbancross retry SPEC \
                 --errors`, or go on without them with --allow-failed {}",
                stage.name,
                failed.shard,
                failed.why(),
                mapped.failed.len()
            )));
        }
        let mut parts: BTreeMap<u32, PartFile> =
            plan.output.parts.iter().map(|part| (part.shard, part.clone())).collect();
        // what the tables have of these was made by other settings
        for failed in &mapped.failed {
            parts.remove(&failed.shard);
        }
        parts.extend(mapped.finished.into_iter().map(|finished| (finished.marker.part.shard, finished.marker.part)));
        let parts = parts.into_values().collect();
        build.pin_instead(PinnedTable { version: plan.output.version, parts, ..PinnedTable::empty(stage.output) });
    }
    Ok(None)
}

/// Trains what scores segments, if need be; `false`: an engine has begun it, and somebody comes back.
async fn bootstrap(build: &Build, engine: &Engine, progress: &Progress) -> Result<bool, WorkerError> {
    let state = training_state(build, Training::Bootstrap, false).await?;
    if let TrainingState::MustRun(next) = state {
        let job = TrainJob::of_sweep(build, Training::Bootstrap, &next.run.key, SWEPT_BOOTSTRAP);
        if engine.train(&job, progress).await? == Some(Placed::ComesBack) {
            return Ok(false);
        }
    }
    // by an engine that waits it is finished, or goes on here from its last checkpoint
    let state = training_state(build, Training::Bootstrap, false).await?;
    current_or_trained(build, Training::Bootstrap, state, &mut Solo, progress).await?;
    Ok(true)
}
