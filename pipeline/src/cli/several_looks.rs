//! What commands show of each of several tasks. One that cannot be looked at hides none of the others.

use anyhow::Result;
use serde_json::json;
use workers::WorkerError;
use workers::stores::WorkStore;

use super::arguments::RunArgs;
use super::several::Several;
use super::told::{print_plan, print_status};
use super::{simulate_commands, stop_flag};
use crate::build::Build;
use crate::capacity::Question;
use crate::given::GivenPair;
use crate::left_out::LeftOut;
use crate::preview::PlanLine;
use crate::run_status::{RunStatus, run_statuses};
use crate::status::StatusLine;
use crate::tasks::{Task, What, builds};
use crate::{preflight, say};

/// What was found of a task.
enum Looked {
    /// What a build would do.
    Plan(Vec<PlanLine>),
    /// What its store holds; `None`: nothing is built.
    Status(Option<Vec<StatusLine>>),
    /// How an adaptation stands.
    Pair(String),
    /// Others say it.
    Nothing,
}

/// Shows each task, with its runs on clusters.
async fn each(
    several: &Several,
    (json, cluster): (bool, Option<&Question>),
    mut look: impl AsyncFnMut(usize, &Task) -> Result<(Looked, Vec<RunStatus>), WorkerError>,
) -> Result<()> {
    let (mut all, mut left_out) = (Vec::new(), LeftOut::default());
    for (number, task) in several.tasks.iter().enumerate() {
        let (looked, runs) = match look(number, task).await {
            Ok(looked) => looked,
            Err(WorkerError::Stopped) => return Err(WorkerError::Stopped.into()),
            Err(error) => {
                let mut fault = LeftOut::default();
                fault.add(task.name.clone(), &error);
                fault.say();
                left_out.append(fault);
                continue;
            }
        };
        let name = &task.name;
        if json {
            match looked {
                Looked::Plan(steps) => all.push(json!({ "task": name, "steps": steps })),
                Looked::Status(steps) => all.push(json!({ "task": name, "steps": steps.unwrap_or_default() })),
                Looked::Pair(state) => all.push(json!({ "task": name, "state": state })),
                Looked::Nothing => {}
            }
            continue;
        }
        if !matches!(looked, Looked::Nothing) {
            say!("== {name}");
        }
        match looked {
            Looked::Plan(lines) => {
                print_plan(&lines)?;
                cluster.map_or(Ok(()), |asked| simulate_commands::print_planned(&lines, asked))?;
            }
            Looked::Status(None) => say!("nothing is built yet"),
            Looked::Status(Some(lines)) => print_status(lines)?,
            Looked::Pair(state) => say!("{:21} {state}", "adapt"),
            Looked::Nothing => {}
        }
        for line in runs.iter().flat_map(RunStatus::in_words) {
            say!("{line}");
        }
    }
    left_out.append(several.left_out.clone());
    if json {
        all.extend(left_out.json());
        say!("{}", serde_json::to_string_pretty(&all)?);
    }
    Ok(left_out.end()?)
}

/// How an adaptation stands, from the stores alone.
async fn state_of_pair(pair: &GivenPair) -> Result<String, WorkerError> {
    let opened = match pair.open(&stop_flag()).await {
        Ok(opened) => opened,
        // what it needs is not there yet
        Err(error) if error.exit_code() == 65 => return Ok(format!("waits for its builds: {error}")),
        Err(error) => return Err(error),
    };
    Ok(match opened.finished(&pair.spec).await? {
        Some(record) => format!("up to date ({})", record.trained.best_validation()),
        None => "must run".to_owned(),
    })
}

/// What each task would do, and what a cluster makes of those that are builds.
pub(super) async fn plan(several: &Several, options: &RunArgs, cluster: Option<&Question>, json: bool) -> Result<()> {
    if let Some(asked) = cluster {
        simulate_commands::check_stages_of_any(builds(&several.tasks), &asked.rates)?;
    }
    // builds that have something to do, after which what needs them is decided anew
    let mut due = vec![false; several.tasks.len()];
    each(several, (json, cluster), async |number, task| {
        let looked = match &task.what {
            What::Build(spec) => {
                // one that cannot be looked at is not finished
                due[number] = true;
                match cluster {
                    Some(_) => preflight::check_elsewhere(spec, None, false)?,
                    None => preflight::check_plan(spec)?,
                }
                let mut build = Build::open(spec.as_ref().clone(), stop_flag()).await?;
                let mut lines = crate::preview::preview(&mut build, options.retry_errors, options.retrain).await?;
                build.keep_listing().await?;
                due[number] = lines.iter().any(|line| line.rows > 0 || line.finished.is_some());
                if let Some(asked) = cluster {
                    simulate_commands::add_steps(&build, &mut lines, asked).await?;
                }
                Looked::Plan(lines)
            }
            What::Adapt(_) | What::Variant(_) if task.after.iter().any(|before| due[*before]) => {
                Looked::Pair("waits for its builds, and is decided after them".to_owned())
            }
            What::Adapt(pair) | What::Variant(pair) => Looked::Pair(state_of_pair(pair).await?),
            What::Train(..) | What::Ablation(_) | What::Curves(..) => Looked::Nothing,
        };
        Ok((looked, Vec::new()))
    })
    .await
}

/// What the stores hold of each task.
pub(super) async fn status(several: &Several, json: bool) -> Result<()> {
    each(several, (json, None), async |_, task| {
        let (spec, name) = task.what.home();
        let work = WorkStore::open(&spec.work.url, &spec.work.options)?;
        let is_there = work.is_there().await?;
        let looked = match &task.what {
            What::Build(_) if !is_there => Looked::Status(None),
            What::Build(spec) => {
                let build = Build::open_work(spec.as_ref().clone(), stop_flag()).await?;
                Looked::Status(Some(crate::status::status(&build).await?))
            }
            What::Adapt(pair) | What::Variant(pair) => Looked::Pair(state_of_pair(pair).await?),
            What::Train(..) | What::Ablation(_) | What::Curves(..) => return Ok((Looked::Nothing, Vec::new())),
        };
        let runs = if json || !is_there { Vec::new() } else { run_statuses(&work, &name).await? };
        Ok((looked, runs))
    })
    .await
}
