//! Ray: a driver in Python of a whole run, whose workers and ranks are tasks, and the job that it is given as.

pub mod jobs;

use serde_json::{Map, Value, json};

use crate::job::{ADAPT, Run, step_like};
use crate::memory;
use crate::profile::{Profile, Resources};

const TEMPLATE: &str = include_str!("ray_driver.py");

/// Steps whose processes are ranks, and those that are like them.
const TRAININGS: [&str; 3] = ["bootstrap", "pretrain", ADAPT];

/// What one process of a step has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Needs {
    /// Processor cores.
    pub cpus: u32,
    /// GPUs.
    pub gpus: u32,
    /// Memory in bytes.
    pub memory: u64,
}

impl Needs {
    /// What each process of a step has: a machine of a training is divided among its ranks.
    ///
    /// # Errors
    /// An amount of memory that cannot be read.
    pub fn of(step: &str, profile: &Profile) -> Result<Self, String> {
        let (resources, share) = resources(step, profile);
        Self::part(&resources, share)
    }

    /// What the driver itself has, if the profile says it: it evaluates, too.
    ///
    /// # Errors
    /// An amount of memory that cannot be read.
    pub fn of_driver(profile: &Profile) -> Result<Option<Self>, String> {
        profile.stage.get("drive").map(|resources| Self::part(resources, 1)).transpose()
    }

    fn part(resources: &Resources, share: u32) -> Result<Self, String> {
        let mebibytes = memory::mebibytes(&resources.memory).ok_or_else(|| {
            format!("{:?} is no amount of memory: write it like \"16G\" in the profile", resources.memory)
        })?;
        Ok(Self {
            cpus: (resources.cpus / share).max(1),
            gpus: resources.gpus / share,
            memory: (mebibytes / u64::from(share)).saturating_mul(1 << 20),
        })
    }

    /// As tasks of Ray are told.
    fn options(self) -> Value {
        json!({ "num_cpus": self.cpus, "num_gpus": self.gpus, "memory": self.memory })
    }
}

/// What a step's machines have, and how many processes share one.
fn resources(step: &str, profile: &Profile) -> (Resources, u32) {
    if TRAININGS.contains(&step_like(step)) {
        let resources = profile.training(step);
        let share = resources.gpus.max(1);
        (resources, share)
    } else {
        (profile.resources(step), 1)
    }
}

/// The driver of a run of tasks that have these steps, and the name of its file. It has as many slots as the step that wants most
/// processes.
///
/// # Errors
/// An amount of memory that cannot be read.
pub fn driver(run: &Run, steps: &[String], profile: &Profile) -> Result<(String, String), String> {
    let (mut slots, mut by_step) = (1, Map::new());
    for step in steps {
        let (resources, share) = resources(step, profile);
        slots = slots.max(resources.workers.saturating_mul(share));
        by_step.insert(step.clone(), Needs::of(step, profile)?.options());
    }
    by_step.insert(String::new(), Needs::of("", profile)?.options());
    let (workers, lease) = (slots.to_string(), profile.lease_seconds.max(1).to_string());
    let words = ["--run", &run.id, "--workers", &workers, "--lease-seconds", &lease];
    let options: Vec<&str> = words.into_iter().chain(run.options.iter().map(String::as_str)).collect();
    let file = format!("uc-{}.py", run.id);
    let files: Map<String, Value> = run.files().into_iter().map(|(name, spec)| (name, json!(spec))).collect();
    let filled = [
        ("@TITLE@", format!("All tasks of run {}, at most {slots} processes at once as Ray tasks.", run.id)),
        ("@FILE@", file.clone()),
        // numbers, strings, lists and maps of them are the same in JSON and in Python
        ("@PROGRAM@", json!(profile.ray.program).to_string()),
        ("@OPTIONS@", json!(options).to_string()),
        ("@NEEDS@", Value::Object(by_step).to_string()),
        // last: nothing is looked for in what people wrote
        ("@FILES@", Value::Object(files).to_string()),
    ];
    let text = filled.into_iter().fold(TEMPLATE.to_owned(), |text, (mark, value)| text.replacen(mark, &value, 1));
    Ok((file, text))
}
