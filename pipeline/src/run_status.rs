//! How far a run by an engine is, from the store alone; and what the engine says of its jobs, where it answers.

use std::collections::HashMap;
use std::time::Duration;

use engines::Profile;
use futures::{StreamExt, TryStreamExt};
use manifests::attempts::ShardTurn;
use manifests::words::count;
use manifests::{Plan, paths};
use serde::Serialize;
use workers::WorkerError;
use workers::claims::ClaimBoard;
use workers::headway::rate;
use workers::stores::WorkStore;

use crate::clock::unix_seconds;
use crate::engine::LEASE;
use crate::run_record::{DONE, Placement, ProcessEnd, RunRecord, Submission};

/// Failed shards whose reasons are looked up: the others most often failed of the same.
const REASONS: usize = 20;
/// Claims and reasons that are read at a time.
const AT_ONCE: usize = 16;

/// How far a run is.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct RunStatus {
    /// Name of the run.
    pub run: String,
    /// The run that its drivers drive: itself, or that of all tasks.
    #[serde(skip)]
    pub driven: String,
    /// When it was last begun, by the clock of who submitted it; where nobody has said, when it last placed something.
    #[serde(skip)]
    pub begun: u64,
    /// What starts its workers.
    pub engine: String,
    /// Whether somebody has cancelled it.
    pub cancelled: bool,
    /// The last step that was placed; `None`: none was.
    pub step: Option<StepStatus>,
    /// Whether nothing is left to do.
    pub done: bool,
    /// Why the last driver ended, if it did not end well.
    pub driver_error: Option<String>,
    /// Its exit code; 0: it ended well, or none has ended.
    pub driver_code: u8,
    /// Where the engine keeps what processes said.
    pub logs: String,
    /// What the engine says of its jobs, in words; `None`: it does not answer here.
    pub jobs: Option<String>,
    /// What to do next, if anything.
    pub advice: String,
}

/// How far the last placed step of a run is.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct StepStatus {
    /// Name of the stage or training.
    pub name: String,
    /// Which try it is, from 1.
    pub attempt: u32,
    /// Shards of the plan that are done, or of a training nothing.
    pub done: usize,
    /// Shards that somebody works on.
    pub running: usize,
    /// Shards that nobody works on.
    pub open: usize,
    /// Shards that are closed as failed, the first of them with the reasons.
    pub failed: Vec<String>,
    /// Rows a second lately; 0: not known.
    pub rows_per_second: f64,
    /// Seconds that are left at that rate.
    pub seconds_left: Option<f64>,
    /// Who works on what, and since when nothing was heard of it.
    pub workers: Vec<WorkerStatus>,
    /// Workers and ranks that ended with something else than success, with their messages.
    pub ended: Vec<String>,
}

/// A worker that has a shard.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct WorkerStatus {
    /// Its number.
    pub worker: String,
    /// Where it runs.
    pub node: String,
    /// The engine's name of its job.
    pub job: Option<String>,
    /// The shard that it has.
    pub shard: u32,
    /// Seconds since it was heard of.
    pub silent_seconds: f64,
    /// Whether it was silent for so long that others take its shard.
    pub lost: bool,
}

/// The states of all runs of a build, or of a pair by its name, that engines were given, newest placement first.
///
/// # Errors
/// A store that does not answer.
pub async fn run_statuses(work: &WorkStore, country: &str) -> Result<Vec<RunStatus>, WorkerError> {
    let mut statuses = Vec::new();
    for run in RunRecord::all(work, country).await? {
        let record = RunRecord::new(work, country, &run);
        let Some(submission) = record.submission().await? else { continue };
        let placements = record.placements().await?;
        let last = placements.iter().max_by_key(|placement| placement.unix_seconds);
        let lease =
            Profile::parse(&submission.profile).map_or(LEASE, |profile| Duration::from_secs(profile.lease_seconds));
        let step = match last {
            Some(placement) => Some(step_status((work, country), &record, placement, lease).await?),
            None => None,
        };
        let cancelled = record.is_cancelled().await?;
        let jobs = match &submission.whole {
            // a task that has not begun goes on as long as its run does
            Some(whole) if step.is_none() => {
                let of_all = Submission { run: whole.clone(), ..submission.clone() };
                let mut jobs = crate::engine::jobs(&of_all, country).await;
                if let Some(jobs) = jobs.as_mut().filter(|jobs| !jobs.live.is_empty()) {
                    jobs.live = format!("not begun; of the whole run {}", jobs.live);
                }
                jobs
            }
            _ => crate::engine::jobs(&submission, country).await,
        };
        let (jobs, failed) = jobs.map_or((None, None), |jobs| (Some(jobs.live), jobs.ended));
        let driver = record.last_driver().await?;
        let done = driver.as_ref().is_some_and(|end| end.code == 0 && end.of == DONE);
        let failed = failed.filter(|_| !done && driver.as_ref().is_none_or(|end| end.code == 0));
        let driver_code = failed.as_ref().map_or(driver.as_ref().map_or(0, |end| end.code), |failed| failed.code);
        let driver_error = driver.filter(|end| end.code != 0).map(|end| ended_in_words("the last driver", &end));
        // a driver that was never started leaves no word
        let driver_error = driver_error.or(failed.map(|failed| failed.words));
        let advice = if done { String::new() } else { advice(cancelled, step.as_ref(), jobs.as_deref()) };
        let placed = last.map_or(0, |placement| placement.unix_seconds);
        let begun = Some(record.begun().await?).filter(|begun| *begun > 0).unwrap_or(placed);
        let driven = submission.whole.unwrap_or_else(|| run.clone());
        let (engine, logs) = (submission.engine, submission.logs);
        statuses.push((
            placed.max(begun),
            RunStatus {
                run,
                driven,
                begun,
                engine,
                cancelled,
                step,
                done,
                driver_error,
                driver_code,
                logs,
                jobs,
                advice,
            },
        ));
    }
    statuses.sort_by_key(|(at, _)| std::cmp::Reverse(*at));
    Ok(statuses.into_iter().map(|(_, status)| status).collect())
}

/// The run of a build or pair that was begun last, whichever has placed something since.
pub fn begun_last(statuses: &[RunStatus]) -> Option<&RunStatus> {
    // of several the first, which is the newest otherwise
    statuses.iter().rev().max_by_key(|status| status.begun)
}

async fn step_status(
    (work, country): (&WorkStore, &str),
    record: &RunRecord<'_>,
    placement: &Placement,
    lease: Duration,
) -> Result<StepStatus, WorkerError> {
    let Placement { step, plan, attempt, .. } = placement;
    let of = if plan.is_empty() { attempt.to_string() } else { plan.clone() };
    let ended = record.ends(step, &of).await?.into_iter().filter(|(_, end)| end.code != 0);
    let mut status = StepStatus {
        name: step.clone(),
        attempt: *attempt,
        done: 0,
        running: 0,
        open: 0,
        failed: Vec::new(),
        rows_per_second: 0.0,
        seconds_left: None,
        workers: Vec::new(),
        ended: ended.map(|(process, end)| ended_in_words(&process, &end)).collect(),
    };
    let path = paths::plan(country, step, plan);
    let Some(plan) = work.get_sealed::<Plan>(&path).await?.filter(|plan| plan.is_of(country)) else {
        return Ok(status);
    };
    let of_plan: HashMap<u32, u64> = plan.counts.stale.iter().map(|stale| (stale.shard, stale.rows())).collect();
    let rows = |shard: u32| of_plan.get(&shard).copied().unwrap_or(0);
    // not since it was placed: who places a plan again finds shards that were done before
    let (mut began, mut ends, mut left_rows) = (f64::INFINITY, Vec::new(), 0);
    let board = ClaimBoard::new(work, &plan, lease);
    let (mut failed, mut at_work) = (Vec::new(), Vec::new());
    for (shard, (turn, attempts)) in board.look().await?.shards {
        match turn {
            ShardTurn::Done => {
                status.done += 1;
                if let Some((first, last)) = attempts.span_millis() {
                    began = began.min(first as f64 / 1000.0);
                    ends.push((last as f64 / 1000.0, rows(shard)));
                }
                continue;
            }
            ShardTurn::Failed => {
                failed.push(shard);
                continue;
            }
            ShardTurn::Running { silent_millis } => {
                status.running += 1;
                at_work.push((shard, attempts.epoch(), silent_millis, false));
            }
            ShardTurn::Open { .. } | ShardTurn::Poisoned => {
                status.open += 1;
                if let Some(heard_millis) = attempts.unended_since() {
                    let silent = (unix_seconds() * 1000.0) as i64 - heard_millis;
                    at_work.push((shard, attempts.epoch(), silent, true));
                }
            }
        }
        left_rows += rows(shard);
    }
    let board = &board;
    let reasons = futures::stream::iter(failed.iter().take(REASONS).copied()).map(|shard| board.failed(shard));
    let reasons: Vec<_> = reasons.buffered(AT_ONCE).try_collect().await?;
    let reasons = reasons.iter().map(|failed| format!(": {}", failed.why())).chain(std::iter::repeat(String::new()));
    status.failed = failed.iter().zip(reasons).map(|(shard, why)| format!("shard {shard}{why}")).collect();
    let workers = futures::stream::iter(at_work).map(|of_shard| worker(board, of_shard));
    let workers: Vec<_> = workers.buffered(AT_ONCE).try_collect().await?;
    status.workers = workers.into_iter().flatten().collect();
    ends.sort_by(|(a, _), (b, _)| a.total_cmp(b));
    if let Some(rate) = rate(&ends, began, unix_seconds()).filter(|_| left_rows > 0) {
        status.rows_per_second = rate;
        status.seconds_left = Some(left_rows as f64 / rate);
    }
    Ok(status)
}

async fn worker(
    board: &ClaimBoard<'_>,
    (shard, epoch, silent_millis, lost): (u32, u32, i64, bool),
) -> Result<Option<WorkerStatus>, WorkerError> {
    let claimant = board.claimed_by(shard, epoch).await?;
    Ok(claimant.map(|by| WorkerStatus {
        worker: by.worker,
        node: by.node,
        job: by.engine_job,
        shard,
        silent_seconds: silent_millis as f64 / 1000.0,
        lost,
    }))
}

fn ended_in_words(process: &str, end: &ProcessEnd) -> String {
    format!("{process} on {} ended with {}: {}", end.by.node, end.code, end.message)
}

fn advice(cancelled: bool, step: Option<&StepStatus>, jobs: Option<&str>) -> String {
    let waits = step.is_some_and(|step| step.open + step.running > 0);
    match (cancelled, step, jobs) {
        (true, ..) => "cancelled: `urbancross submit` begins it again".to_owned(),
        (_, Some(step), _) if !step.failed.is_empty() && !waits => format!(
            "{} failed: mend the cause, then `urbancross retry SPEC --errors` and `urbancross submit SPEC`",
            count(step.failed.len(), "shard")
        ),
        (_, _, Some("")) if waits => "no job is left: `urbancross submit` goes on".to_owned(),
        (_, _, Some("")) => "no job is left; if steps are missing above, `urbancross submit` goes on".to_owned(),
        _ => String::new(),
    }
}

impl RunStatus {
    /// Why the run does not go on, if its last driver says so.
    pub fn error(&self) -> Option<WorkerError> {
        let words = self.driver_error.clone()?;
        Some(match self.driver_code {
            75 | 143 => WorkerError::Transient(words),
            _ => WorkerError::Broken(words),
        })
    }

    /// The state in lines for people.
    pub fn in_words(&self) -> Vec<String> {
        let jobs = self.jobs.as_deref().map(|jobs| if jobs.is_empty() { "no jobs" } else { jobs });
        let jobs = jobs.unwrap_or("it does not answer here");
        let jobs = if self.done { "done" } else { jobs };
        let mut lines = vec![format!("run {} by {}: {jobs}", self.run, self.engine)];
        if let Some(step) = &self.step {
            let shards = step.done + step.running + step.open + step.failed.len();
            let mut line = format!("  {} (try {})", step.name, step.attempt);
            if shards > 0 {
                line += &format!(
                    ": {} of {} done, {} running, {} open, {} failed",
                    step.done,
                    count(shards, "shard"),
                    step.running,
                    step.open,
                    step.failed.len()
                );
            }
            if let Some(left) = step.seconds_left {
                line += &format!(", {:.1} rows/s, {left:.0} s left", step.rows_per_second);
            }
            lines.push(line);
            lines.extend(step.workers.iter().map(|worker| {
                let state = if worker.lost { "lost" } else { "alive" };
                let job = worker.job.as_deref().map_or(String::new(), |job| format!(", job {job}"));
                format!(
                    "    worker {} on {}{job}: shard {}, {state}, heard of {:.0} s ago",
                    worker.worker, worker.node, worker.shard, worker.silent_seconds
                )
            }));
            lines.extend(step.failed.iter().take(REASONS).map(|failed| format!("    failed: {failed}")));
            let others = step.failed.len().saturating_sub(REASONS);
            lines.extend((others > 0).then(|| format!("    failed: {}", count(others, "other shard"))));
            lines.extend(step.ended.iter().map(|ended| format!("    worker {ended}")));
        }
        lines.extend(self.driver_error.iter().map(|error| format!("  {error}")));
        if !self.advice.is_empty() {
            lines.push(format!("  {}; logs: {}", self.advice, self.logs));
        }
        lines
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::time::SystemTime;

    use manifests::attempts::Object;
    use manifests::plan::PinnedTable;
    use manifests::{Artifact, PlanCounts, Reason, ShardPlan};
    use workers::claims::Claimant;

    use super::*;
    use crate::run_record::DRIVER;

    fn step(open: usize, failed: &[&str]) -> StepStatus {
        StepStatus {
            name: "captions".into(),
            attempt: 1,
            done: 3,
            running: 0,
            open,
            failed: failed.iter().map(|why| (*why).to_owned()).collect(),
            rows_per_second: 0.0,
            seconds_left: None,
            workers: Vec::new(),
            ended: Vec::new(),
        }
    }

    #[test]
    fn a_status_says_what_to_do() {
        assert!(advice(true, None, None).contains("submit"));
        assert!(advice(false, Some(&step(0, &["shard 3: torn"])), Some("")).contains("retry SPEC --errors"));
        assert!(advice(false, Some(&step(2, &[])), Some("")).contains("goes on"));
        assert_eq!(advice(false, Some(&step(2, &[])), Some("captions RUNNING 2")), "");
        assert_eq!(advice(false, Some(&step(2, &[])), None), "", "nobody knows");
    }

    fn submission(run: &str) -> Submission {
        Submission {
            run: run.into(),
            engine: "of another version".into(),
            spec: String::new(),
            profile: String::new(),
            options: Vec::new(),
            first_job: "1".into(),
            logs: String::new(),
            whole: None,
        }
    }

    /// A plan of so many shards with ten rows each, where workers find it.
    async fn published(work: &WorkStore, shards: u32) -> Plan {
        let stale = |shard| ShardPlan { shard, kept: 0, carried: 0, changes: BTreeMap::from([(Reason::New, 10)]) };
        let plan = Plan {
            stage: "captions".into(),
            stage_version: 1,
            country: "x".into(),
            shards,
            output: PinnedTable::empty(Artifact::Captions),
            inputs: vec![PinnedTable::empty(Artifact::Geotags)],
            model: String::new(),
            parameters: "{}".into(),
            retry_errors: false,
            counts: PlanCounts { stale: (0..shards).map(stale).collect(), kept_rows: 0 },
        };
        work.put_sealed(&paths::plan("x", "captions", &plan.key()), &plan).await.unwrap();
        plan
    }

    #[tokio::test]
    async fn of_many_failed_shards_the_first_say_why() {
        let folder = tempfile::tempdir().unwrap();
        let work = WorkStore::open(&folder.path().display().to_string(), &Default::default()).unwrap();
        let plan = published(&work, 30).await;
        for shard in 0..25 {
            let path = format!("{}/{}", paths::markers("x", "captions"), Object::Failed.name(&plan.shard_key(shard)));
            let failed = workers::claims::FailedShard { shard, attempts: Vec::new(), epochs: 3 };
            work.put_json(&path, &failed).await.unwrap();
        }
        let record = RunRecord::new(&work, "x", "a");
        let placement = Placement {
            step: "captions".into(),
            plan: plan.key(),
            attempt: 1,
            processes: 1,
            unix_seconds: 1,
            jobs: Vec::new(),
        };
        let step = step_status((&work, "x"), &record, &placement, LEASE).await.unwrap();
        assert_eq!((step.failed.len(), step.open), (25, 5));
        let (first, others) = step.failed.split_at(REASONS);
        assert!(first.iter().all(|failed| failed.contains(": each of its workers was lost")), "{first:?}");
        assert_eq!(others, ["shard 20", "shard 21", "shard 22", "shard 23", "shard 24"]);
    }

    #[tokio::test]
    async fn a_plan_that_is_placed_again_is_no_faster() {
        let folder = tempfile::tempdir().unwrap();
        let work = WorkStore::open(&folder.path().display().to_string(), &Default::default()).unwrap();
        let plan = published(&work, 4).await;
        let put = async |shard: u32, object: Object, seconds_ago: u64| {
            let path = format!("{}/{}", paths::markers("x", "captions"), object.name(&plan.shard_key(shard)));
            work.put(&path, Default::default()).await.unwrap();
            let file = std::fs::File::options().write(true).open(folder.path().join(path)).unwrap();
            file.set_modified(SystemTime::now() - Duration::from_secs(seconds_ago)).unwrap();
        };
        let record = RunRecord::new(&work, "x", "a");
        record.submit(&submission("a")).await.unwrap();
        let placement = Placement {
            step: "captions".into(),
            plan: plan.key(),
            attempt: 2,
            processes: 1,
            unix_seconds: unix_seconds() as u64 - 1,
            jobs: Vec::new(),
        };
        record.place(&placement).await.unwrap();
        for shard in 0..3 {
            put(shard, Object::Claim(1), 1000).await;
            put(shard, Object::Marker, 800).await;
            let step = run_statuses(&work, "x").await.unwrap().remove(0).step.unwrap();
            assert_eq!((step.done, step.open), (shard as usize + 1, 3 - shard as usize));
            assert!(step.rows_per_second > 0.0 && step.rows_per_second < 1.0, "{step:?}");
            assert!(step.seconds_left.unwrap() > 10.0, "{step:?}");
        }
    }

    #[tokio::test]
    async fn the_run_that_was_begun_last_is_known_though_another_has_placed_since() {
        let folder = tempfile::tempdir().unwrap();
        let work = WorkStore::open(&folder.path().display().to_string(), &Default::default()).unwrap();
        for run in ["a", "b"] {
            RunRecord::new(&work, "x", run).submit(&submission(run)).await.unwrap();
        }
        let [a, b] = ["a", "b"].map(|run| RunRecord::new(&work, "x", run));
        a.begin(1).await.unwrap();
        let placement = Placement {
            step: "pretrain".into(),
            plan: String::new(),
            attempt: 1,
            processes: 1,
            unix_seconds: 9,
            jobs: vec!["2".into()],
        };
        a.place(&placement).await.unwrap();
        b.begin(5).await.unwrap();
        let by = Claimant { worker: "last".into(), node: "node1".into(), engine_job: None };
        let end = ProcessEnd { code: 65, message: "no weights".into(), of: String::new(), by };
        b.end(DRIVER.0, DRIVER.1, &end).await.unwrap();
        let statuses = run_statuses(&work, "x").await.unwrap();
        assert_eq!(statuses.iter().map(|status| status.run.as_str()).collect::<Vec<_>>(), ["a", "b"]);
        let last = begun_last(&statuses).unwrap();
        assert_eq!((last.run.as_str(), last.error().map(|error| error.exit_code())), ("b", Some(65)));
    }

    #[test]
    fn a_status_is_told_in_lines() {
        let mut step = step(1, &["shard 3: torn (on node2)"]);
        step.workers.push(WorkerStatus {
            worker: "2".into(),
            node: "node1".into(),
            job: Some("17_2".into()),
            shard: 5,
            silent_seconds: 4.2,
            lost: false,
        });
        let status = RunStatus {
            driven: "1a2b3c4d".into(),
            run: "1a2b3c4d".into(),
            begun: 0,
            engine: "slurm".into(),
            cancelled: false,
            step: Some(step),
            done: false,
            driver_error: Some("the last driver on node1 ended with 65: no such folder".into()),
            driver_code: 65,
            logs: "/logs/uc-*.log".into(),
            jobs: Some("captions RUNNING 1".into()),
            advice: "look".into(),
        };
        let lines = status.in_words().join("\n");
        assert!(lines.contains("3 of 5 shards done, 0 running, 1 open, 1 failed"), "{lines}");
        assert!(
            lines.contains("ended with 65: no such folder") && lines.contains("look; logs: /logs/uc-*.log"),
            "{lines}"
        );
        assert!(lines.contains("worker 2 on node1, job 17_2: shard 5, alive, heard of 4 s ago"), "{lines}");
    }
}
