//! How far a build is, from its store alone: summaries, plans and markers, curves. Nothing is pinned or read of tables.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use atlas::{BuildState, Curve, Doing, StepState};
use manifests::words::count;
use manifests::{Artifact, paths};
use stages::fit::{CURVE_FILE, CurvePoint, read_curve};
use stages::{ModelUse, Step, Training};
use workers::WorkerError;
use workers::headway::{Headway, Headways};
use workers::publish::Summary;
use workers::{lease, train};

use crate::build::Build;

/// What is read of a curve: some ten thousand points.
const MOST_CURVE_BYTES: u64 = 2 << 20;
/// Points that are drawn.
const MOST_POINTS: usize = 400;
/// What clusters do is asked for less often: their programs answer slowly.
const RUNS_EVERY: Duration = Duration::from_secs(20);

/// What is kept between two looks.
#[derive(Default)]
pub(super) struct Looks {
    headways: Headways,
    runs: Option<(Instant, Vec<Vec<String>>)>,
}

/// Looks at a build.
pub(super) async fn look(build: &Build, looks: &mut Looks, now: f64) -> Result<BuildState, WorkerError> {
    let country = &build.spec.country;
    let at_work = lease::is_held(&build.work, country, (now * 1000.0) as i64).await?;
    let mut summaries: BTreeMap<&str, Summary> = BTreeMap::new();
    for stage in stages::map_stages(&build.spec) {
        let summary = build.work.get_record::<Summary>(&paths::summary(country, stage.name)).await?;
        summaries.extend(summary.map(|summary| (stage.name, summary)));
    }
    let ended = |stage: &str| summaries.get(stage).map_or(0.0, ended);
    let headways = looks.headways.look(&build.work, country, now, ended).await?;
    let mut state = BuildState { country: country.clone(), at_work, edges: edges(build), ..BuildState::default() };
    for step in stages::steps(&build.spec) {
        let of_step = match step {
            Step::Map(stage) => map_step(stage.name, summaries.get(stage.name), headways.get(stage.name), at_work),
            Step::Train(training) => {
                let (step, curve) = training_step(build, training, at_work).await?;
                state.curves.extend(curve);
                step
            }
            Step::Evaluate => evaluation(build).await?,
        };
        state.steps.push(of_step);
    }
    one_at_a_time(&mut state.steps);
    state.runs = runs(build, looks).await?;
    Ok(state)
}

fn ended(summary: &Summary) -> f64 {
    summary.started_unix_seconds + summary.seconds
}

/// A stage. Pure.
fn map_step(name: &str, summary: Option<&Summary>, headway: Option<&Headway>, at_work: bool) -> StepState {
    let mut step = StepState { name: name.to_owned(), ..StepState::default() };
    if let Some(summary) = summary {
        step.doing = Doing::Done;
        (step.rows, step.errors, step.excluded) = (Some(summary.rows), summary.errors, summary.excluded);
        (step.version, step.seconds, step.ended) = (summary.version, Some(summary.seconds), Some(ended(summary)));
        step.moved = summary.reasons.iter().map(|(why, rows)| format!("{rows} {why}")).collect();
    }
    let Some(headway) = headway.filter(|headway| summary.is_none_or(|s| headway.planned > ended(s))) else {
        return step;
    };
    if headway.shards == 0 {
        return step;
    }
    step.doing = if at_work { Doing::Runs } else { Doing::Stopped };
    step.shards = Some((headway.done, headway.shards));
    if at_work {
        step.rows_per_second = headway.rows_per_second;
        step.seconds_left = headway.rows_per_second.map(|rate| headway.rows_left as f64 / rate);
    } else if headway.done < headway.shards {
        step.note = format!("{} left", count(headway.shards - headway.done, "shard"));
    }
    step
}

/// A run works on one step: those before it that look unfinished are.
fn one_at_a_time(steps: &mut [StepState]) {
    let last = steps.iter().rposition(|step| step.doing == Doing::Runs);
    for step in steps.iter_mut().take(last.unwrap_or(0)).filter(|step| step.doing == Doing::Runs) {
        step.doing = Doing::Stopped;
    }
}

async fn training_step(
    build: &Build,
    training: Training,
    at_work: bool,
) -> Result<(StepState, Option<Curve>), WorkerError> {
    let country = &build.spec.country;
    let runs = train::runs(&build.work, country, training).await?;
    let mut step = StepState { name: training.name().to_owned(), ..StepState::default() };
    let (finished, begun) = (runs.finished.last(), runs.begun.last());
    if let Some(record) = finished {
        step.doing = Doing::Done;
        (step.rows, step.seconds) = (Some(record.trained.train_rows), Some(record.trained.seconds));
        step.note = record.trained.best_validation();
    }
    let open = begun.filter(|begun| finished.is_none_or(|finished| begun.sequence > finished.sequence));
    if let Some(begun) = open {
        step.doing = if at_work { Doing::Runs } else { Doing::Stopped };
        step.note = begun.begins.clone();
    }
    let key = open.map(|begun| &begun.key).or(finished.map(|record| &record.key));
    let Some(key) = key else { return Ok((step, None)) };
    let path = format!("{}/{CURVE_FILE}", paths::training_run(country, training.name(), key));
    let Some(meta) = build.work.head(&path).await? else { return Ok((step, None)) };
    let bytes = build.work.get_range(&path, 0..meta.size.min(MOST_CURVE_BYTES), None).await?;
    let points = read_curve(&String::from_utf8_lossy(&bytes));
    Ok((step, Some(curve(training.name(), open.is_none(), &points))))
}

fn curve(step: &str, finished: bool, points: &[CurvePoint]) -> Curve {
    let of = |value: fn(&CurvePoint) -> Option<f64>| -> Vec<(f64, f64)> {
        let all: Vec<(f64, f64)> = points.iter().filter_map(|p| Some((p.epoch, value(p)?))).collect();
        let all: Vec<(f64, f64)> = all.into_iter().filter(|(a, b)| a.is_finite() && b.is_finite()).collect();
        let every = all.len().div_ceil(MOST_POINTS).max(1);
        // the last one is always there
        all.iter().rev().step_by(every).rev().copied().collect()
    };
    Curve { step: step.to_owned(), finished, loss: of(|p| p.loss), recall: of(|p| p.validation_mean_recall) }
}

async fn evaluation(build: &Build) -> Result<StepState, WorkerError> {
    let mut step = StepState { name: Step::Evaluate.name().to_owned(), ..StepState::default() };
    let summary = paths::evaluation(&build.spec.country, "");
    let folder = summary.rsplit_once('/').map_or("", |(folder, _)| folder);
    if !build.work.list(folder).await?.is_empty() {
        step.doing = Doing::Done;
    }
    Ok(step)
}

async fn runs(build: &Build, looks: &mut Looks) -> Result<Vec<Vec<String>>, WorkerError> {
    if let Some((_, known)) = looks.runs.as_ref().filter(|(at, _)| at.elapsed() < RUNS_EVERY) {
        return Ok(known.clone());
    }
    let all = crate::run_status::run_statuses(&build.work, &build.spec.country).await?;
    // what is over is history
    let lines: Vec<Vec<String>> = all.iter().filter(|run| !run.done).map(|run| run.in_words()).collect();
    looks.runs = Some((Instant::now(), lines.clone()));
    Ok(lines)
}

/// Which step reads what which makes.
fn edges(build: &Build) -> Vec<(String, String)> {
    let spec = &build.spec;
    let mut edges: Vec<(String, String)> = Vec::new();
    let mut writer_of: BTreeMap<Artifact, &'static str> = BTreeMap::new();
    for step in stages::steps(spec) {
        let name = step.name();
        let inputs: Vec<Artifact> = match &step {
            Step::Map(stage) => stage.tables().collect(),
            Step::Train(training) => train::training_inputs(spec, *training),
            Step::Evaluate => [crate::evaluate::vectors_of(spec), vec![Artifact::Splits]].concat(),
        };
        let mut from: Vec<&str> = inputs.iter().filter_map(|input| writer_of.get(input).copied()).collect();
        if let Step::Map(stage) = &step {
            match stage.model {
                ModelUse::Scoring if spec.score.clip == "bootstrap" => from.push(Training::Bootstrap.name()),
                ModelUse::Retrieval => from.push(Training::Pretrain.name()),
                _ => {}
            }
            writer_of.insert(stage.output, name);
        }
        edges.extend(from.into_iter().map(|from| (from.to_owned(), name.to_owned())));
    }
    edges
}

#[cfg(test)]
mod tests {
    use super::*;

    fn summary() -> Summary {
        let reasons = BTreeMap::from([("reviewed".to_owned(), 1)]);
        Summary {
            started_unix_seconds: 100.0,
            seconds: 10.0,
            rows: 60,
            version: Some(3),
            reasons,
            ..Summary::default()
        }
    }

    fn headway(planned: f64) -> Headway {
        Headway { planned, shards: 4, done: 1, rows_left: 30, rows_per_second: Some(10.0) }
    }

    #[test]
    fn a_plan_after_the_last_end_is_work() {
        assert_eq!(map_step("captions", None, None, true).doing, Doing::Waits);
        let done = map_step("captions", Some(&summary()), Some(&headway(105.0)), true);
        assert_eq!((done.doing, done.shards, done.moved), (Doing::Done, None, vec!["1 reviewed".to_owned()]));
        let runs = map_step("captions", Some(&summary()), Some(&headway(111.0)), true);
        assert_eq!((runs.doing, runs.shards, runs.seconds_left), (Doing::Runs, Some((1, 4)), Some(3.0)));
        let stopped = map_step("captions", None, Some(&headway(1.0)), false);
        assert_eq!(
            (stopped.doing, stopped.note.as_str(), stopped.seconds_left),
            (Doing::Stopped, "3 shards left", None)
        );
        let mut steps = vec![runs.clone(), done_step(), runs];
        one_at_a_time(&mut steps);
        assert_eq!(steps.iter().map(|step| step.doing).collect::<Vec<_>>(), [Doing::Stopped, Doing::Done, Doing::Runs]);
    }

    fn done_step() -> StepState {
        map_step("images", Some(&summary()), None, true)
    }

    #[test]
    fn a_curve_keeps_its_last_point() {
        let point = |epoch: f64| CurvePoint { epoch, loss: Some(1.0 / (1.0 + epoch)), ..CurvePoint::default() };
        let points: Vec<CurvePoint> = (0..1000).map(|i| point(f64::from(i))).collect();
        let drawn = curve("pretrain", false, &points);
        assert!(drawn.loss.len() <= MOST_POINTS && drawn.recall.is_empty());
        assert_eq!(drawn.loss.last().map(|(epoch, _)| *epoch), Some(999.0));
        let hostile = [CurvePoint { epoch: f64::NAN, loss: Some(1.0), ..CurvePoint::default() }];
        assert!(curve("pretrain", true, &hostile).loss.is_empty());
    }
}
