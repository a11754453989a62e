//! Ray: a driver in Python that places the processes of a job as tasks.

use serde_json::{Map, Value, json};

use crate::job::{ADAPT, Job, Run, VARIANT, Work};
use crate::memory;
use crate::profile::{Profile, Resources};

const TEMPLATE: &str = include_str!("ray_driver.py");
const WHOLE: &str = include_str!("ray_run.py");
/// Stands for the spec in the arguments until a task has written it down.
const SPEC_PATH: &str = "spec.toml";

/// The driver of a job, and the name of its file.
///
/// # Errors
/// An amount of memory that cannot be read.
pub fn driver(run: &Run, job: &Job, profile: &Profile) -> Result<(String, String), String> {
    let resources = profile.resources(&job.step);
    let (processes, share, is_training) = match &job.work {
        Work::Map { workers, .. } => (*workers, 1, false),
        Work::Train { nodes, ranks_per_node, .. } => (nodes.saturating_mul(*ranks_per_node), *ranks_per_node, true),
        Work::Drive => (1, 1, false),
    };
    let share = share.max(1);
    let gpus = if job.work == Work::Drive { 0 } else { resources.gpus };
    let variables = match &job.work {
        Work::Train { attempt, .. } => json!({
            "WORLD_SIZE": processes.to_string(),
            "URBANCROSS_RENDEZVOUS": job.rendezvous(run, *attempt),
        }),
        Work::Map { .. } | Work::Drive => json!({}),
    };
    let needs = needs(&resources, gpus, share)?;
    let file = format!("{}.py", job.name(run));
    let title = format!("{} of run {}, {}: {processes} processes as Ray tasks.", job.step, run.id, run.country);
    let flag = if is_training { "True" } else { "False" };
    let filled = [
        ("@TITLE@", title),
        ("@FILE@", file.clone()),
        ("@SPEC_PATH@", SPEC_PATH.to_owned()),
        ("@ARGUMENTS@", text(json!(job.arguments(run, SPEC_PATH)))),
        ("@VARIABLES@", text(variables)),
        ("@PROCESSES@", processes.to_string()),
        ("@NEEDS@", text(needs)),
        ("@TOGETHER@", flag.to_owned()),
        // last: nothing is looked for in what people wrote
        ("@SPEC@", text(json!(run.spec))),
    ];
    Ok((file, fill(TEMPLATE, filled)))
}

/// The driver of a run of several tasks, and the name of its file. It has as many slots as the step of these that wants most.
///
/// # Errors
/// An amount of memory that cannot be read.
pub fn whole(run: &Run, steps: &[String], profile: &Profile) -> Result<(String, String), String> {
    let (mut slots, mut by_step) = (1, Map::new());
    for step in steps {
        let is_training = TRAININGS.contains(&step.as_str());
        let resources = if is_training { profile.training(step) } else { profile.resources(step) };
        let share = if is_training { resources.gpus.max(1) } else { 1 };
        slots = slots.max(resources.workers.saturating_mul(share));
        by_step.insert(step.clone(), needs(&resources, resources.gpus, share)?);
    }
    let others = profile.resources("");
    by_step.insert(String::new(), needs(&others, others.gpus, 1)?);
    let (workers, lease) = (slots.to_string(), profile.lease_seconds.max(1).to_string());
    let mut options = ["--workers", &workers, "--lease-seconds", &lease].map(str::to_owned).to_vec();
    options.extend(run.options.iter().cloned());
    let file = format!("uc-{}.py", run.id);
    let files: Map<String, Value> = run.files().into_iter().map(|(name, spec)| (name, json!(spec))).collect();
    let filled = [
        ("@TITLE@", format!("All tasks of run {}, at most {slots} processes at once as Ray tasks.", run.id)),
        ("@FILE@", file.clone()),
        ("@OPTIONS@", text(json!(options))),
        ("@NEEDS@", text(Value::Object(by_step))),
        // last: nothing is looked for in what people wrote
        ("@FILES@", text(Value::Object(files))),
    ];
    Ok((file, fill(WHOLE, filled)))
}

/// Steps whose processes are ranks.
const TRAININGS: [&str; 4] = ["bootstrap", "pretrain", ADAPT, VARIANT];

/// What one of `share` processes of a machine has.
fn needs(resources: &Resources, gpus: u32, share: u32) -> Result<Value, String> {
    let mebibytes = memory::mebibytes(&resources.memory).ok_or_else(|| {
        format!("{:?} is no amount of memory: write it like \"16G\" in the profile", resources.memory)
    })?;
    Ok(json!({
        "num_cpus": (resources.cpus / share).max(1),
        "num_gpus": gpus / share,
        "memory": (mebibytes / u64::from(share)).saturating_mul(1 << 20),
    }))
}

/// Numbers, strings, lists and maps of them are the same in JSON and in Python.
fn text(value: Value) -> String {
    value.to_string()
}

fn fill<const N: usize>(template: &str, filled: [(&str, String); N]) -> String {
    filled.into_iter().fold(template.to_owned(), |text, (mark, value)| text.replacen(mark, &value, 1))
}
