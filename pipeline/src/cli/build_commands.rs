//! Commands that plan, run and inspect a build.

use std::path::{Path, PathBuf};

use anyhow::Result;
use manifests::BuildSpec;
use manifests::words::count;
use workers::WorkerError;

use super::arguments::{EngineName, RunArgs, SpecArgs, StepArgs};
use super::engine_runs::{ray_profile, slurm_profile};
use super::fits;
use super::several::Whole;
use super::told::{end_of_run, print_plan, print_status, shown};
use super::{several_looks, simulate_commands, stop_flag, stop_flag_saying};
use crate::build::Build;
use crate::capacity::Question;
use crate::diff::Since;
use crate::doctor::{Finding, Machines};
use crate::progress::Progress;
use crate::run_options::RunOptions;
use crate::terminal::plain_lines;
use crate::{aside, last_overrides, preflight, say};

pub(super) async fn plan(args: &SpecArgs, options: RunArgs, cluster: Option<Question>, json: bool) -> Result<()> {
    let spec = match Whole::of(args)? {
        Whole::Build(spec) => *spec,
        Whole::Several(several) => return several_looks::plan(&several, &options, cluster.as_ref(), json).await,
    };
    match &cluster {
        // what runs there needs nothing of this machine
        Some(asked) => {
            simulate_commands::check_stages(&spec, &asked.rates)?;
            preflight::check_elsewhere(&spec, None, false)?;
        }
        None => preflight::check_plan(&spec)?,
    }
    let mut build = Build::open(spec, stop_flag()).await?;
    let progress = Progress::new(json);
    build.virtual_inputs.listing.notes.iter().for_each(|note| progress.note(note));
    note_missing_overrides(&build).await;
    crate::preview::removals(&mut build).await?.in_words().iter().for_each(|line| aside!("warning: {line}"));
    let mut lines = crate::preview::preview(&mut build, options.retry_errors, options.retrain).await?;
    build.keep_listing().await?;
    let listed = build.virtual_inputs.listing.rows();
    let estimates = crate::estimate::of(&build.spec, &preflight::known_networks(&build.spec), listed);
    if let Some(asked) = &cluster {
        simulate_commands::add_steps(&build, &mut lines, asked).await?;
    }
    let planned = |step: &str| lines.iter().find(|line| line.step == step).map(|line| line.rows);
    let served = crate::served::expected(&build, planned).await?;
    if json {
        for line in &mut lines {
            line.server = served.iter().find(|(step, _)| *step == line.step).map(|(_, expected)| expected.clone());
            let of = estimates.iter().find(|(step, _)| *step == line.step);
            line.estimate = of.map(|(_, estimate)| estimate.clone());
        }
        say!("{}", serde_json::to_string_pretty(&lines)?);
    } else {
        print_plan(&lines)?;
        for (step, expected) in served.iter().filter(|(_, expected)| expected.requests > 0) {
            say!("{}", expected.line(step));
        }
        for line in crate::estimate::in_words(&estimates, listed) {
            say!("{line}");
        }
        if let Some(asked) = &cluster {
            simulate_commands::print_planned(&lines, asked)?;
        }
    }
    // before geo-tags are published no split is assigned, and while they change none is final
    if lines.iter().any(|line| line.step == "splits" && line.exact) && build.virtual_inputs.assigned().images() > 0 {
        let found = preflight::splits(build.virtual_inputs.assigned(), &build.spec, None);
        if let Some(what) = found.unwrap_or_else(|error| Some(error.to_string())) {
            aside!("warning: {what}");
        }
    }
    Ok(())
}

/// Says which `--set` of the last run this command lacks.
async fn note_missing_overrides(build: &Build) {
    if let Some(what) = last_overrides::missing(&build.work, &build.spec).await {
        aside!("note: {what}");
    }
}

pub(super) async fn accept(args: &SpecArgs, step: &str, (write, by): (bool, Option<String>), json: bool) -> Result<()> {
    let author = match write {
        false => None,
        true => Some(by.or_else(crate::review::user_name).ok_or_else(|| {
            WorkerError::Configuration("nobody knows who accepts: name yourself with --by NAME".to_owned())
        })?),
    };
    let spec = args.read()?;
    preflight::check_plan(&spec)?;
    let mut build = Build::open(spec, stop_flag()).await?;
    note_missing_overrides(&build).await;
    let accepted = crate::accept::accept_step(&mut build, step, author.as_deref()).await?;
    let rows: u64 = accepted.rows.values().sum();
    if json {
        let (reasons, examples, others) = (&accepted.rows, &accepted.examples, accepted.others);
        let said = serde_json::json!({
            "step": step, "rows": rows, "reasons": reasons, "examples": examples, "others": others,
            "written": write && rows > 0,
        });
        say!("{}", serde_json::to_string_pretty(&said)?);
        return Ok(());
    }
    let reasons: Vec<String> = accepted.rows.iter().map(|(reason, n)| format!("{n} {}", reason.words())).collect();
    let stand = if write { "stand as they are" } else { "would stand as they are" };
    say!(
        "{} of {step} {stand}{}",
        count(rows, "stale row"),
        if rows > 0 { format!(": {}", reasons.join(", ")) } else { String::new() }
    );
    if !accepted.examples.is_empty() {
        say!("  such as {}", accepted.examples.join(", "));
    }
    if accepted.others > 0 {
        say!(
            "{} cannot: nothing is there that could stand, or a person decided otherwise",
            count(accepted.others, "other stale row")
        );
    }
    if !write && rows > 0 {
        say!("nothing is written: look at some with `urbancross explain`, then repeat with --write");
    }
    Ok(())
}

pub(super) async fn status(args: &SpecArgs, json: bool) -> Result<()> {
    let spec = match Whole::of(args)? {
        Whole::Build(spec) => *spec,
        Whole::Several(several) => return several_looks::status(&several, json).await,
    };
    let build = Build::open_work(spec, stop_flag()).await?;
    note_missing_overrides(&build).await;
    let lines = crate::status::status(&build).await?;
    if json {
        say!("{}", serde_json::to_string_pretty(&lines)?);
        return Ok(());
    }
    print_status(lines)?;
    for run in crate::run_status::run_statuses(&build.work, &build.spec.country).await? {
        run.in_words().iter().try_for_each(|line| Ok::<_, anyhow::Error>(say!("{line}")))?;
    }
    Ok(())
}

pub(super) async fn diff(args: &SpecArgs, since: &str, examples: usize, json: bool) -> Result<()> {
    let now_millis = (crate::clock::unix_seconds() * 1000.0) as i64;
    let since = Since::parse(since, now_millis).map_err(|why| WorkerError::Configuration(format!("--since {why}")))?;
    let build = Build::open_work(args.read()?, stop_flag()).await?;
    note_missing_overrides(&build).await;
    let diff = crate::diff::diff(&build, &since, examples).await?;
    if json {
        say!("{}", serde_json::to_string_pretty(&diff)?);
        return Ok(());
    }
    for line in diff.in_words() {
        say!("{}", plain_lines(&line));
    }
    Ok(())
}

pub(super) async fn explain(args: &SpecArgs, what: &str) -> Result<()> {
    let mut build = Build::open_work(args.read()?, stop_flag()).await?;
    build.list_source().await?;
    build.keep_listing().await?;
    note_missing_overrides(&build).await;
    for line in crate::explain::explain(&mut build, what).await? {
        say!("{}", plain_lines(&line));
    }
    Ok(())
}

pub(super) async fn run(args: &SpecArgs, options: RunArgs, steps: StepArgs) -> Result<()> {
    if let Some(info) = workers::rank_env::rank_info()? {
        let (rank, world_size) = (info.rank, info.world_size);
        let why = format!(
            "a launcher started this process as rank {rank} of {world_size}, but a build runs in one process: run it on \
             its own, and only its trainings as ranks (`urbancross train`)"
        );
        return Err(WorkerError::Configuration(why).into());
    }
    let progress = Progress::new(false);
    let spec = args.read()?;
    preflight::check_run(&spec, steps.until.as_deref())?;
    steps.until.iter().try_for_each(|until| crate::run::check_until(&spec, until))?;
    let mut build = Build::connect(spec, stop_flag()).await?;
    build.source.required()?;
    build.list_source().await?;
    note_missing_overrides(&build).await;
    let options = RunOptions {
        retry_errors: options.retry_errors,
        retrain: options.retrain,
        accept_removals: steps.accept_removals,
        until: steps.until,
        allow_failed: 0,
        set: args.set.set.clone(),
    };
    let quarantined = crate::run::run(&mut build, &options, &progress).await?;
    end_of_run(&build, &options, &quarantined).await
}

pub(super) async fn weights(spec: BuildSpec, fetch: bool, json: bool) -> Result<()> {
    let work = workers::stores::WorkStore::open(&spec.work.url, &spec.work.options)?;
    let stop = stop_flag_saying("what is fetched stays");
    if fetch {
        // the lock of the weights lies there
        if !spec.weights().is_empty() && !work.is_there().await? {
            aside!("note: creating the work store {}", work.url());
            work.make()?;
        }
        workers::weights::fetch(&work, &spec, &stop).await?;
    }
    let lines = workers::weights::lines(&work, &spec).await?;
    if json {
        say!("{}", serde_json::to_string_pretty(&lines)?);
        return Ok(());
    }
    if lines.is_empty() {
        say!("this build names no weights: everything is trained from the data");
    }
    for line in lines {
        let locked = if line.locked { ", locked" } else { "" };
        say!("{} = {}: {}{locked}, {}", line.field, line.source, line.state, line.folder.display());
        for (name, pin) in &line.files {
            say!("  {}  {:>14} bytes  {name}", pin.sha256, pin.bytes);
        }
    }
    let build = Build::connect(spec, stop).await?;
    match crate::export::place_of_model(&build).await? {
        None => say!("the build's own model: not trained yet"),
        Some((record, path)) => {
            say!("the build's own model: {} ({})", shown(&build, &path), record.trained.best_validation());
        }
    }
    Ok(())
}

pub(super) async fn doctor(
    spec: Option<PathBuf>,
    set: &[String],
    cluster: Option<(EngineName, &Path)>,
    json: bool,
) -> Result<()> {
    let profile = match cluster {
        None => None,
        Some((EngineName::Slurm, path)) => Some(slurm_profile(Some(path))?),
        Some((EngineName::Ray, path)) => Some(ray_profile(Some(path))?),
        Some((EngineName::Kubernetes | EngineName::Processes, _)) => {
            let why = "--engine: clusters that are looked at are those of slurm and of ray";
            return Err(WorkerError::Configuration(why.into()).into());
        }
    };
    let spec = spec.map(|path| BuildSpec::read(&path, set)).transpose()?;
    let machines = match cluster {
        None => Machines::This,
        Some((engine, _)) => Machines::Others { see_files: engine == EngineName::Slurm },
    };
    let mut findings = crate::doctor::examine(spec.as_ref(), machines).await;
    if let (Some(spec), Some((engine, _)), Some(profile)) = (&spec, cluster, &profile) {
        let problems: Vec<String> =
            fits::unknown(profile).chain(fits::of_build(spec, None, (engine, profile))).collect();
        let detail = if problems.is_empty() { "it fits the build".to_owned() } else { problems.join("; ") };
        findings.push(Finding { what: "profile".into(), good: problems.is_empty(), detail });
    }
    match (cluster, &profile) {
        (Some((EngineName::Ray, _)), Some(profile)) => findings.extend(crate::doctor::examine_ray(profile).await),
        (_, Some(profile)) => findings.extend(crate::doctor::examine_slurm(profile).await),
        _ => {}
    }
    if json {
        say!("{}", serde_json::to_string_pretty(&findings)?);
    } else {
        for finding in &findings {
            say!("{} {:14} {}", if finding.good { "ok  " } else { "BAD " }, finding.what, finding.detail);
        }
    }
    match findings.iter().filter(|f| !f.good).count() {
        0 => Ok(()),
        bad => Err(WorkerError::Configuration(format!("{bad} of {} checks failed", findings.len())).into()),
    }
}
