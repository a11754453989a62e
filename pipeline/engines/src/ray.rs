//! Ray: a driver in Python that places the processes of a job as tasks.

use serde_json::{Value, json};

use crate::job::{Job, Run, Work};
use crate::memory;
use crate::profile::Profile;

const TEMPLATE: &str = include_str!("ray_driver.py");
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
    let mebibytes = memory::mebibytes(&resources.memory).ok_or_else(|| {
        format!("{:?} is no amount of memory: write it like \"16G\" in the profile", resources.memory)
    })?;
    let variables = match &job.work {
        Work::Train { attempt, .. } => json!({
            "WORLD_SIZE": processes.to_string(),
            "URBANCROSS_RENDEZVOUS": job.rendezvous(run, *attempt),
        }),
        Work::Map { .. } | Work::Drive => json!({}),
    };
    let needs = json!({
        "num_cpus": (resources.cpus / share).max(1),
        "num_gpus": gpus / share,
        "memory": (mebibytes / u64::from(share)).saturating_mul(1 << 20),
    });
    let file = format!("{}.py", job.name(run));
    let title = format!("{} of run {}, {}: {processes} processes as Ray tasks.", job.step, run.id, run.country);
    let flag = if is_training { "True" } else { "False" };
    // numbers, strings, lists and maps of them are the same in JSON and in Python
    let text = |value: Value| value.to_string();
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
    Ok((file, filled.into_iter().fold(TEMPLATE.to_owned(), |text, (mark, value)| text.replacen(mark, &value, 1))))
}
