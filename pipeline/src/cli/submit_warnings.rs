//! What `submit` warns of before it gives a run to a cluster.

use anyhow::Result;
use engines::{ADAPT, Profile, SWEPT, VARIANT};
use manifests::BuildSpec;
use manifests::words::count;
use stages::Step;
use workers::stores::WorkStore;

use crate::aside;
use crate::run_record::RunRecord;

/// Two runs of one country with different specs would undo each other's rows by turns.
pub(super) async fn warn_of_other_runs(work: &WorkStore, country: &str, run: &str) -> Result<()> {
    for other in RunRecord::all(work, country).await?.iter().filter(|other| *other != run) {
        let submission = RunRecord::new(work, country, other).submission().await?;
        let Some(submission) = submission else { continue };
        if crate::engine::jobs(&submission, country).await.is_some_and(|jobs| !jobs.live.is_empty()) {
            aside!(
                "warning: run {other} of {country} is under way with another spec or other options; where they differ the two \
                 undo each other's rows: end one with `urbancross cancel SPEC --run {other}`"
            );
        }
    }
    Ok(())
}

/// Shards for each worker below which some of them wait for the others.
const SHARDS_PER_WORKER: u32 = 4;

/// A profile that does not fit a build.
pub(super) fn warn_of_few_shards(spec: &BuildSpec, profile: &Profile) {
    let beside_builds = ["default", "drive", ADAPT, VARIANT].into_iter().chain(SWEPT);
    let steps = stages::steps(spec).iter().map(Step::name).chain(beside_builds).collect::<Vec<_>>();
    for name in profile.stage.keys().filter(|name| !steps.contains(&name.as_str())) {
        aside!("warning: stage.{name} of the profile is no step of this build; they are {}", steps.join(", "));
    }
    let stages = stages::map_stages(spec);
    let most = stages.iter().map(|stage| (profile.resources(stage.name).workers, stage.name)).max();
    if let Some((workers, stage)) = most
        && spec.work.shards < workers.saturating_mul(SHARDS_PER_WORKER)
    {
        aside!(
            "warning: {} for {} of {stage}: with fewer than {SHARDS_PER_WORKER} each, some wait for the others; set \
             work.shards = {} in a new work store",
            count(spec.work.shards, "shard"),
            count(workers, "worker"),
            workers.saturating_mul(SHARDS_PER_WORKER)
        );
    }
}
