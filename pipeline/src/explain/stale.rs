//! What makes the rows of a step stale, and what somebody let stand.

use std::collections::BTreeMap;

use manifests::words::count;
use stages::stage::Stage;
use workers::WorkerError;
use workers::accept::Acceptance;
use workers::join::ShardJoin;

use crate::accept::in_words;
use crate::build::Build;
use crate::plan::{Model, plan_stage, uncounted_plan};

/// Acceptances of a stage that are shown, the newest.
pub(super) const SHOWN_ACCEPTANCES: usize = 3;

/// What somebody accepted at once, in words.
pub(crate) fn accepted(one: &Acceptance) -> String {
    format!("{} accepted unchanged {} ({})", count(one.count(), "row"), in_words(&one.by), one.reasons())
}

/// Shards that are asked what differs between their rows and what is wanted.
const MOST_SHARDS_ASKED: usize = 32;

/// What made the rows of a stage stale, field by field and with the values of parameters before and now.
pub(super) async fn causes(build: &Build, stage: &Stage, model: &Model) -> Result<Vec<String>, WorkerError> {
    let plan = uncounted_plan(build, stage, model, false).await?;
    if plan.inputs.iter().any(|table| !table.lost.is_empty()) {
        // what is lost is made again before it is read
        return Ok(Vec::new());
    }
    let plan = plan_stage(build, stage, model, false).await?;
    let mut causes = BTreeMap::<String, u64>::new();
    for stale in plan.counts.stale.iter().take(MOST_SHARDS_ASKED) {
        let join = ShardJoin::load(build.input_stores(), stage, &plan, stale.shard, None).await?;
        for (cause, rows) in join.causes().await? {
            *causes.entry(cause).or_default() += rows;
        }
    }
    let shards = plan.counts.stale.len();
    let some =
        (shards > MOST_SHARDS_ASKED).then(|| format!("    of {MOST_SHARDS_ASKED} of the {shards} stale shards:"));
    let lines = causes.into_iter().map(|(cause, rows)| format!("      {cause} ({})", count(rows, "row")));
    Ok(some.into_iter().chain(lines).collect())
}
