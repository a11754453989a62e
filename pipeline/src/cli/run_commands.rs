//! Commands that look after runs on clusters.

use std::collections::BTreeSet;
use std::io::IsTerminal;
use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::Result;
use engines::ray::jobs::STOP_SECONDS;
use engines::{Profile, Run};
use manifests::words::count;
use manifests::{BuildSpec, paths};
use workers::WorkerError;
use workers::claims::reopen;
use workers::stores::WorkStore;

use super::arguments::LogsArgs;
use super::several::{Whole, is_of};
use super::stop_flag;
use crate::engine::{KubernetesEngine, RayJobs, Slurm};
use crate::run_record::{DRIVER, RunRecord, Submission};
use crate::run_status::{RunStatus, begun_last, run_statuses};
use crate::terminal::plain_lines;
use crate::{aside, say};

pub(super) async fn retry(whole: &Whole, errors: bool, shard: Option<u32>, stage: Option<&str>) -> Result<()> {
    if !errors && shard.is_none() {
        return Err(WorkerError::Configuration("say which: --errors, or --shard N".into()).into());
    }
    if let Some(name) = stage {
        // of any build: others of a folder may do without it
        let mut names: Vec<&str> = Vec::new();
        for of in whole.builds().into_iter().flat_map(stages::map_stages) {
            if !names.contains(&of.name) {
                names.push(of.name);
            }
        }
        if !names.contains(&name) {
            let why = format!("--stage {name}: the stages with shards are {}", names.join(", "));
            return Err(WorkerError::Configuration(why).into());
        }
    }
    let mut opened = 0;
    for spec in whole.builds() {
        opened += retry_build(spec, shard, stage, matches!(whole, Whole::Several(_))).await?;
    }
    if opened == 0 {
        aside!(
            "no shard that is to be made is closed as failed; rows that failed are computed again with `--retry-errors`"
        );
    } else {
        aside!("{} open again: start the same `drive` or `submit` again", count(opened, "shard"));
    }
    Ok(whole.end()?)
}

/// Opens the shards of one build; how many.
async fn retry_build(spec: &BuildSpec, shard: Option<u32>, stage: Option<&str>, named: bool) -> Result<usize> {
    let stages = stages::map_stages(spec);
    let work = WorkStore::open(&spec.work.url, &spec.work.options)?;
    if named && !work.is_there().await? {
        return Ok(0);
    }
    work.required().await?;
    let mut opened = 0;
    for of in stages.iter().filter(|of| stage.is_none_or(|name| name == of.name)) {
        for failed in reopen(&work, &spec.country, (of.name, of.output), shard).await? {
            let country = if named { format!(" of {}", spec.country) } else { String::new() };
            say!(
                "{:21} shard {}{country} is open again; it had failed: {}",
                of.name,
                failed.shard,
                plain_lines(&failed.why())
            );
            opened += 1;
        }
    }
    Ok(opened)
}

/// How often a watcher looks.
const WATCH: Duration = Duration::from_secs(2);

/// How far the runs on clusters are, of a build or of each task.
pub(super) async fn runs(whole: &Whole, watch: bool, json: bool) -> Result<()> {
    let stop = stop_flag();
    let homes = whole.homes();
    loop {
        let (mut runs, mut newest) = (Vec::new(), BTreeSet::new());
        for home in &homes {
            if let Some(work) = home.work().await? {
                let of_home = run_statuses(&work, &home.name).await?;
                newest.extend(begun_last(&of_home).map(|run| run.driven.clone()));
                runs.extend(of_home);
            }
        }
        // how earlier ones ended says nothing of what was begun since
        let judged = || runs.iter().filter(|run| newest.contains(&run.driven));
        if json {
            let mut told: Vec<serde_json::Value> = runs.iter().map(|run| serde_json::json!(run)).collect();
            told.extend(whole.left_out().json());
            say!("{}", serde_json::to_string_pretty(&told)?);
        } else if runs.is_empty() {
            aside!(
                "no run was submitted to a cluster; how far builds are `urbancross status SPEC` says without --runs"
            );
        } else {
            if watch && std::io::stdout().is_terminal() {
                // from the top of an empty screen
                say!("\x1b[H\x1b[2J");
            }
            for line in runs.iter().flat_map(RunStatus::in_words) {
                say!("{}", plain_lines(&line));
            }
        }
        let is_over = judged().all(|run| run.jobs.as_deref() == Some(""));
        if !watch || is_over || stop.load(Ordering::Relaxed) {
            let failed: usize = judged().filter_map(|run| run.step.as_ref()).map(|step| step.failed.len()).sum();
            if let Some(error) = judged().filter(|run| !run.done).find_map(RunStatus::error) {
                return Err(error.into());
            }
            return match failed {
                0 => Ok(whole.end()?),
                failed => Err(WorkerError::Broken(format!("{} failed", count(failed, "shard"))).into()),
            };
        }
        tokio::time::sleep(WATCH).await;
    }
}

pub(super) async fn cancel(whole: &Whole, run: Option<&str>, now: bool) -> Result<()> {
    let (mut cancelled, mut stopped) = (0, BTreeSet::new());
    // of a run of several tasks: first nobody is to begin another
    for home in whole.homes() {
        let Some(work) = home.work().await? else { continue };
        for id in RunRecord::all(&work, &home.name).await?.iter().filter(|id| is_of(id, run)) {
            RunRecord::new(&work, &home.name, id).set_cancelled(true).await?;
        }
    }
    for home in whole.homes() {
        let Some(work) = home.work().await? else { continue };
        for id in RunRecord::all(&work, &home.name).await?.iter().filter(|id| is_of(id, run)) {
            let Some(submission) = RunRecord::new(&work, &home.name, id).submission().await? else {
                return Err(WorkerError::Missing { what: "the run", path: id.clone() }.into());
            };
            if submission.engine == "ray" {
                // its tasks have one job
                if stopped.insert((submission.run(&home.name).driven().to_owned(), submission.profile.clone())) {
                    stop_job(&submission, now).await?;
                }
                say!("run {id} is cancelled; what is done stays done");
                cancelled += 1;
                continue;
            }
            let profile = Profile::parse(&submission.profile).map_err(WorkerError::Broken)?;
            let of_task = submission.run(&home.name);
            // its first driver is no task's
            let of_all = of_task.whole.clone().map(|id| Run { id, ..of_task.clone() });
            for run in std::iter::once(of_task).chain(of_all) {
                match submission.engine.as_str() {
                    "kubernetes" => KubernetesEngine::new(run, profile.clone()).cancel(now).await?,
                    _ => _ = Slurm::open(run, profile.clone()).await?.cancel(now).await?,
                }
            }
            say!("run {id} is cancelled; what is done stays done");
            cancelled += 1;
        }
    }
    match run {
        Some(run) if cancelled == 0 => Err(WorkerError::Missing { what: "the run", path: run.to_owned() }.into()),
        _ if cancelled == 0 => {
            aside!("no run was submitted");
            Ok(whole.end()?)
        }
        _ => Ok(whole.end()?),
    }
}

/// Stops the job of a run on Ray.
async fn stop_job(submission: &Submission, now: bool) -> Result<()> {
    if RayJobs::of(submission)?.cancel().await?.is_some() && now {
        aside!(
            "Ray gives a job {STOP_SECONDS} s to end, and cannot be told to make it shorter; its workers leave what they have"
        );
    }
    Ok(())
}

/// Shows what processes of a run said last, each below a line with its name.
pub(super) async fn logs(whole: &Whole, args: &LogsArgs) -> Result<()> {
    let mut homes = Vec::new();
    for home in whole.homes() {
        let Some(work) = home.work().await? else { continue };
        let known = RunRecord::all(&work, &home.name).await?;
        homes.push((home, work, known));
    }
    let known: Vec<String> = homes.iter().flat_map(|(_, _, known)| known.clone()).collect();
    if let Some(run) = args.run.as_ref().filter(|run| !known.iter().any(|known| is_of(known, Some(run)))) {
        return Err(unknown("run", run, &known));
    }
    let mut steps: Vec<String> = Vec::new();
    for step in homes.iter().flat_map(|(home, ..)| &home.steps) {
        if !steps.contains(step) {
            steps.push(step.clone());
        }
    }
    let of_driver = ["begin", "drive"].map(str::to_owned);
    if let Some(step) = args.step.as_ref().filter(|step| !steps.contains(step) && !of_driver.contains(step)) {
        return Err(unknown("step", step, &steps));
    }
    if known.is_empty() {
        aside!("no run was submitted to a cluster, whose logs are shown here");
    }
    let (stop, mut shown) = (stop_flag(), BTreeSet::new());
    loop {
        for (home, work, known) in &homes {
            for run in known.iter().filter(|run| is_of(run, args.run.as_deref())) {
                let driver_is_shown = show_job_log((work, &home.name, run), args, &mut shown).await?;
                show_logs((work, &home.name, run), args, driver_is_shown, &mut shown).await?;
            }
        }
        if !args.follow || stop.load(Ordering::Relaxed) {
            return Ok(whole.end()?);
        }
        tokio::time::sleep(WATCH).await;
    }
}

/// Shows the words of one run; of those that are followed the lines that were not `shown` yet.
async fn show_logs(
    (work, country, run): (&WorkStore, &str, &str),
    args: &LogsArgs,
    driver_is_shown: bool,
    shown: &mut BTreeSet<(String, String, usize)>,
) -> Result<()> {
    let folder = format!("{}/logs", paths::run(country, run));
    let wanted = |name: &&String| args.wants(name) && !(driver_is_shown && **name == of_driver());
    for name in work.list(&folder).await?.iter().filter(wanted) {
        let Some(bytes) = work.get(&format!("{folder}/{name}")).await? else { continue };
        show((name.trim_end_matches(".log"), run), &String::from_utf8_lossy(&bytes), args, shown)?;
    }
    Ok(())
}

/// The last words of a run's driver, which are among those of its first task.
fn of_driver() -> String {
    format!("{}-{}.log", DRIVER.0, DRIVER.1)
}

/// Shows what the driver of a run on Ray said, by the cluster, which has all of it; `false`: there is no more than in the store.
async fn show_job_log(
    (work, country, run): (&WorkStore, &str, &str),
    args: &LogsArgs,
    shown: &mut BTreeSet<(String, String, usize)>,
) -> Result<bool> {
    if !args.wants(&of_driver()) {
        return Ok(false);
    }
    let submission = RunRecord::new(work, country, run).submission().await?;
    let Some(submission) = submission.filter(|submission| submission.engine == "ray") else { return Ok(false) };
    let of_run = submission.run(country);
    if of_run.task_id(0) != run {
        return Ok(false);
    }
    match RayJobs::of(&submission)?.log().await {
        Ok(Some((job, log))) => show((&job, of_run.driven()), &log, args, shown).map(|()| true),
        Ok(None) => Ok(false),
        // the store has the last words of everybody who could write there
        Err(error) => {
            aside!("warning: {error}");
            Ok(false)
        }
    }
}

/// Shows lines of a process of a run; of one that is followed those that were not `shown` yet.
fn show(
    (process, run): (&str, &str),
    text: &str,
    args: &LogsArgs,
    shown: &mut BTreeSet<(String, String, usize)>,
) -> Result<()> {
    let lines: Vec<&str> = text.lines().filter(|line| !args.errors || is_error(line)).collect();
    if !args.follow && !lines.is_empty() {
        say!("== {process} of run {run}");
    }
    // what is followed is written anew as a whole: only lines that were not there yet are told
    let mut times = std::collections::BTreeMap::new();
    for line in lines {
        let time = times.entry(line).and_modify(|times| *times += 1).or_insert(1);
        if !args.follow {
            say!("{line}");
        } else if shown.insert((format!("{run} {process}"), line.to_owned(), *time)) {
            say!("{process}: {line}");
        }
    }
    Ok(())
}

fn unknown(what: &str, name: &str, known: &[String]) -> anyhow::Error {
    let known = if known.is_empty() { "there is none".to_owned() } else { format!("there are {}", known.join(", ")) };
    WorkerError::Configuration(format!("--{what} {name}: no {what} of this build is called so; {known}")).into()
}

fn is_error(line: &str) -> bool {
    line.starts_with("error")
        || ["\"level\":\"error\"", "\"level\":\"warn\"", "warning:", " WARN "].iter().any(|mark| line.contains(mark))
}

#[cfg(test)]
mod tests {
    #[test]
    fn errors_and_warnings_are_known_in_words_and_in_json() {
        for (line, is_error) in [
            ("error: no such file", true),
            ("12:00 warning: the node is slow", true),
            (r#"{"ts":1.0,"level":"error","message":"x"}"#, true),
            (r#"{"ts":1.0,"level":"warn","message":"x"}"#, true),
            (r#"{"ts":1.0,"level":"info","message":"warned"}"#, false),
        ] {
            assert_eq!(super::is_error(line), is_error, "{line}");
        }
    }
}
