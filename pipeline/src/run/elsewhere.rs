//! Stages whose shards workers elsewhere map: a plan is published for them, and what they did is gathered.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use manifests::attempts::ShardTurn;
use manifests::words::count;
use manifests::{Plan, ShardPlan, paths};
use stages::stage::Stage;
use workers::WorkerError;
use workers::claims::{ClaimBoard, FailedShard, Look, Withdrawal, pause_between_looks};
use workers::map::MapResult;
use workers::pull::{Collected, collect};

use crate::build::Build;
use crate::engine::{Engine, MapJob, Placed};
use crate::progress::{Progress, StageBar};
use crate::run_options::RunOptions;
use crate::run_record::{Placement, RunRecord};

/// How often a driver looks how far its workers are, where a look takes no time.
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// How often it looks whether the plan is still where workers read it.
const LOOK_FOR_PLAN_EVERY: Duration = Duration::from_secs(10);
/// Times that all shards of a plan seemed closed and some were not, before a driver gives up.
const MOST_REOPENED: usize = 5;

/// Failed shards that are named in a message.
const NAMED: usize = 5;
/// Shards that are told by number of each of them.
const NUMBERED: usize = 20;

async fn gather(build: &Build, engine: &Engine, plan: &Plan) -> Result<Collected, WorkerError> {
    collect(&build.work, &build.tables, plan, engine.lease(), build.spec.work.concurrency).await
}

/// Waits until the next look, after one that took so long, or until somebody stops the build.
async fn wait(build: &Build, engine: &Engine, took: Duration) {
    let (began, pause) = (Instant::now(), pause_between_looks(took, 1, engine.lease()).max(LOOK_EVERY));
    while began.elapsed() < pause && !build.stop.load(Ordering::Relaxed) {
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// Rows of a plan that nobody has to make again: those of shards that are done, and what was put aside of others, which
/// `aside` knows by shard, with its time. What a worker has only in its memory is lost with it.
async fn rows_kept(
    board: &ClaimBoard<'_>,
    plan: &Plan,
    look: &Look,
    aside: &mut BTreeMap<u32, (i64, u64)>,
) -> Result<u64, WorkerError> {
    let is_done = |turn: ShardTurn| turn == ShardTurn::Done;
    for (shard, (turn, attempts)) in &look.shards {
        let Some(millis) = attempts.put_aside_millis().filter(|_| !is_done(*turn)) else { continue };
        // a driver looks far more often than workers put something aside
        if aside.get(shard).is_none_or(|(read, _)| *read != millis) {
            aside.insert(*shard, (millis, board.put_aside(*shard).await?));
        }
    }
    let rows = |stale: &ShardPlan| match look.shards.get(&stale.shard) {
        Some((turn, _)) if is_done(*turn) => stale.rows(),
        _ => aside.get(&stale.shard).map_or(0, |(_, rows)| (*rows).min(stale.rows())),
    };
    Ok(plan.counts.stale.iter().map(rows).sum())
}

/// Maps a plan by workers elsewhere; `None`: they have begun, and somebody comes back when they have done. Ends early where a
/// worker has found that the plan cannot be done any more.
pub(super) async fn map(
    build: &Build,
    stage: &Stage,
    plan: &Plan,
    engine: &Engine,
    bar: &StageBar<'_>,
) -> Result<Option<MapResult>, WorkerError> {
    let (board, key) = (ClaimBoard::new(&build.work, plan, engine.lease()), plan.key());
    // when the plan was last seen where workers read it
    let mut published: Option<Instant> = None;
    let (mut aside, mut reopened) = (BTreeMap::new(), 0);
    loop {
        let began = Instant::now();
        let look = board.look().await?;
        let (took, turns) = (began.elapsed(), &look.shards);
        let closed = turns.values().filter(|(turn, _)| turn.is_closed()).count();
        bar.stand_at(rows_kept(&board, plan, &look, &mut aside).await?);
        if closed == turns.len() {
            let collected = gather(build, engine, plan).await?;
            // a marker that cannot be read, or whose part is gone, was taken away: its shard is open again
            if collected.is_closed() {
                engine.end_of_stage(false).await;
                let Collected { finished, failed, span, .. } = collected;
                return Ok(Some(MapResult { finished, failed, span, stopped: false, outdated: None }));
            }
            reopened += 1;
            if reopened > MOST_REOPENED {
                return Err(WorkerError::Broken(format!(
                    "{}: markers of finished shards could not be read {reopened} times, and their shards were made again: workers of \
                     another version than the driver's, or something damages {}; give all processes of a run one version",
                    stage.name,
                    build.work.url()
                )));
            }
            if build.stop.load(Ordering::Relaxed) {
                return Err(WorkerError::Stopped);
            }
            wait(build, engine, took).await;
            continue;
        }
        // what was said before this plan was published was said of what is no longer there either
        if let Some(Withdrawal { why, .. }) = look.withdrawn.filter(|_| published.is_some()) {
            // they leave what they have begun: its rows may still be wanted
            engine.end_of_stage(true).await;
            let Collected { finished, span, .. } = gather(build, engine, plan).await?;
            let (failed, outdated) = (Vec::new(), Some(why));
            return Ok(Some(MapResult { finished, failed, span, stopped: false, outdated }));
        }
        if build.stop.load(Ordering::Relaxed) {
            engine.end_of_stage(true).await;
            // what is done is published, as a run that maps by itself does
            let Collected { finished, span, .. } = gather(build, engine, plan).await?;
            let (failed, outdated) = (Vec::new(), None);
            return Ok(Some(MapResult { finished, failed, span, stopped: true, outdated }));
        }
        if published.is_none() {
            board.forget_withdrawal().await?;
            build.virtual_inputs.slices.publish_plan(&build.work, plan, build.spec.work.concurrency).await?;
            published = Some(Instant::now());
            record(build, engine, stage, &key).await?;
            engine.check_wanted(&build.work).await?;
        }
        if published.is_some_and(|at| at.elapsed() > LOOK_FOR_PLAN_EVERY) {
            // somebody may have cleared it away or damaged it
            let there = build.work.get_sealed::<Plan>(&paths::plan(&plan.country, stage.name, &key)).await?;
            if there.is_none() {
                build.virtual_inputs.slices.publish_plan(&build.work, plan, build.spec.work.concurrency).await?;
            }
            published = Some(Instant::now());
        }
        // a poisoned one is closed by the next worker that looks
        let is_free = |turn: &ShardTurn| matches!(turn, ShardTurn::Open { .. } | ShardTurn::Poisoned);
        let free_shards = turns.values().filter(|(turn, _)| is_free(turn)).count();
        let job = MapJob { stage: stage.name, plan: &key, open_shards: turns.len() - closed, free_shards };
        let placed = engine.place(build, &job, bar).await?;
        for worker in engine.take_killed() {
            board.end_lost(&worker, &workers::claims::node(&|name| std::env::var(name).ok())).await?;
        }
        match placed {
            Placed::ComesBack => return Ok(None),
            Placed::Waits => wait(build, engine, took).await,
        }
    }
}

/// Writes down which plan workers are placed for, where nobody else does.
async fn record(build: &Build, engine: &Engine, stage: &Stage, key: &str) -> Result<(), WorkerError> {
    let Some(run) = engine.recorded_run() else { return Ok(()) };
    let record = RunRecord::new(&build.work, &build.spec.country, run);
    let placed = record.placements().await?;
    let before = placed.iter().filter(|placed| placed.step == stage.name && placed.plan == key);
    if matches!(engine, Engine::Processes(_)) {
        // they have ended with the driver that started them
        record.forget_ends(stage.name).await?;
    }
    let placement = Placement {
        step: stage.name.to_owned(),
        plan: key.to_owned(),
        attempt: before.map(|placed| placed.attempt).max().unwrap_or(0) + 1,
        processes: 0,
        unix_seconds: crate::clock::unix_seconds() as u64,
        jobs: Vec::new(),
    };
    record.place(&placement).await
}

/// Are the shards of a plan that nobody has made those alone that are closed as failed?
pub(super) async fn only_failed(build: &Build, engine: &Engine, plan: &Plan) -> Result<bool, WorkerError> {
    if matches!(engine, Engine::Here) {
        return Ok(false);
    }
    let collected = gather(build, engine, plan).await?;
    Ok(collected.is_closed() && collected.finished.is_empty())
}

/// Goes on without failed shards, as far as that is allowed.
///
/// # Errors
/// More failed than are allowed, with their numbers and reasons.
pub(super) fn tolerate(
    stage: &Stage,
    failed: &[FailedShard],
    options: &RunOptions,
    progress: &Progress,
) -> Result<(), WorkerError> {
    if failed.is_empty() {
        return Ok(());
    }
    // many shards often fail of one cause
    let mut causes: Vec<(String, Vec<String>)> = Vec::new();
    for shard in failed {
        let (why, number) = (shard.why(), shard.shard.to_string());
        match causes.iter_mut().find(|(known, _)| *known == why) {
            Some((_, shards)) => shards.push(number),
            None => causes.push((why, vec![number])),
        }
    }
    let named = causes.iter().take(NAMED).map(|(why, shards)| match &shards[..] {
        [one] => format!("shard {one}: {why}"),
        several if several.len() > NUMBERED => {
            format!("shards {} and {} more: {why}", several[..NUMBERED].join(", "), several.len() - NUMBERED)
        }
        several => format!("shards {}: {why}", several.join(", ")),
    });
    let named: Vec<String> = named.collect();
    let more = match causes.len().saturating_sub(NAMED) {
        0 => String::new(),
        others => format!(" and {}", count(others, "other cause")),
    };
    let what = format!("{}: {} failed: {}{more}", stage.name, count(failed.len(), "shard"), named.join("; "));
    if failed.len() <= options.allow_failed {
        progress.note(&format!("warning: {what}; going on without"));
        return Ok(());
    }
    Err(WorkerError::Broken(format!(
        "{what}; mend the cause and open them again with `urbancross retry SPEC --errors`, or go on without them with \
         --allow-failed {}",
        failed.len()
    )))
}

#[cfg(test)]
mod tests {
    use manifests::attempts::Object;
    use manifests::plan::PinnedTable;
    use manifests::{Artifact, PartFile, PlanCounts, Reason};
    use workers::stores::WorkStore;

    use super::*;

    #[tokio::test]
    async fn only_rows_count_that_nobody_makes_again() {
        let folder = tempfile::tempdir().unwrap();
        let work = WorkStore::open(&folder.path().display().to_string(), &Default::default()).unwrap();
        let stale = |shard| ShardPlan { shard, kept: 0, carried: 0, changes: BTreeMap::from([(Reason::New, 15)]) };
        let plan = Plan {
            stage: "captions".into(),
            stage_version: 1,
            country: "x".into(),
            shards: 4,
            output: PinnedTable::empty(Artifact::Captions),
            inputs: vec![PinnedTable::empty(Artifact::Geotags)],
            model: String::new(),
            parameters: "{}".into(),
            retry_errors: false,
            counts: PlanCounts { stale: (0..4).map(stale).collect(), kept_rows: 0 },
        };
        let path = |shard: u32, object: Object| {
            format!("{}/{}", paths::markers("x", "captions"), object.name(&plan.shard_key(shard)))
        };
        let board = ClaimBoard::new(&work, &plan, Duration::ZERO);
        let mut aside = BTreeMap::new();
        work.put(&path(0, Object::Marker), Default::default()).await.unwrap();
        // each of its workers was killed
        work.put(&path(1, Object::Failed), Default::default()).await.unwrap();
        // one was killed in the middle of it, and what it had put aside is there
        work.put(&path(2, Object::Claim(1)), Default::default()).await.unwrap();
        let part = PartFile { shard: 2, path: paths::part("x", 2, "a"), size_bytes: 1, rows: 6 };
        work.put_sealed(&path(2, Object::Partial), &part).await.unwrap();
        // and another before it had put anything aside
        work.put(&path(3, Object::Claim(1)), Default::default()).await.unwrap();
        let look = board.look().await.unwrap();
        assert_eq!(rows_kept(&board, &plan, &look, &mut aside).await.unwrap(), 15 + 6);
        // the next worker has finished it
        work.put(&path(2, Object::Marker), Default::default()).await.unwrap();
        let look = board.look().await.unwrap();
        assert_eq!(rows_kept(&board, &plan, &look, &mut aside).await.unwrap(), 15 + 15);
        // a marker that cannot be read is taken away
        work.delete(&path(0, Object::Marker)).await.unwrap();
        let look = board.look().await.unwrap();
        assert_eq!(rows_kept(&board, &plan, &look, &mut aside).await.unwrap(), 15);
    }
}
