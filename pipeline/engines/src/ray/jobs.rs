//! The job that a run is for Ray's Jobs API: what is posted, and what replies mean.

use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::job::Run;
use crate::profile::Profile;

use super::Needs;

/// How long the processes of a job have to end once it is stopped: as long as a driver waits for workers to leave what they have.
/// Ray's own default is 3 s.
pub const STOP_SECONDS: u32 = 75;
/// So much of a message is shown: Ray puts 20,000 characters of the log into it.
const MOST_CHARACTERS: usize = 300;

/// Name of the job of one try of a run, from 1.
pub fn name(run: &str, attempt: u32) -> String {
    format!("uc-{run}-try{attempt}")
}

/// The try that a job's name says.
pub fn attempt(name: &str) -> Option<u32> {
    name.rsplit_once("-try")?.1.parse().ok()
}

/// What is posted: the driver lies in a package that the cluster keeps. Credentials are not among it: everybody who sees the
/// dashboard sees it.
///
/// # Errors
/// An amount of memory that cannot be read.
pub fn submission(run: &Run, name: &str, (package, file): (&str, &str), profile: &Profile) -> Result<Value, String> {
    let mut job = json!({
        "entrypoint": format!("{} {file}", profile.ray.python),
        "submission_id": name,
        "runtime_env": {
            "working_dir": format!("gcs://{package}"),
            "env_vars": {
                "RAY_JOB_STOP_WAIT_TIME_S": STOP_SECONDS.to_string(),
                // what workers say is told as they say it
                "RAY_DEDUP_LOGS": "0",
                "RAY_COLOR_PREFIX": "0",
            },
        },
        "metadata": { "urbancross_run": run.id, "urbancross_of": run.country },
    });
    // without them it runs on the head node, which has no GPU for it
    if let (Some(needs), Some(job)) = (Needs::of_driver(profile)?, job.as_object_mut()) {
        let of = json!({
            "entrypoint_num_cpus": needs.cpus,
            "entrypoint_num_gpus": needs.gpus,
            "entrypoint_memory": needs.memory,
        });
        job.extend(of.as_object().cloned().unwrap_or_default());
    }
    Ok(job)
}

/// How far a job is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum State {
    /// It has not begun.
    Pending,
    /// Its driver runs.
    Running,
    /// Somebody has stopped it.
    Stopped,
    /// Its driver has ended well.
    Succeeded,
    /// Its driver has ended with something else, or could not be started.
    Failed,
}

/// A job as the Jobs API tells it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Seen {
    /// How far it is.
    pub status: State,
    /// Why, in Ray's words.
    #[serde(default)]
    pub message: Option<String>,
    /// What kind of failure it was.
    #[serde(default)]
    pub error_type: Option<String>,
    /// How its driver has ended.
    #[serde(default)]
    pub driver_exit_code: Option<i64>,
}

impl Seen {
    /// Reads a reply.
    ///
    /// # Errors
    /// It is no job.
    pub fn read(reply: &[u8]) -> Result<Self, String> {
        serde_json::from_slice(reply).map_err(|error| format!("what it says of a job is none: {error}"))
    }

    /// Is it still to begin, or at work?
    pub fn lives(&self) -> bool {
        matches!(self.status, State::Pending | State::Running)
    }

    /// Its state with Ray's reason, in a line.
    pub fn in_words(&self) -> String {
        let state = format!("{:?}", self.status).to_lowercase();
        let why = match (self.status, self.driver_exit_code) {
            // Ray ends it with the log's end
            (State::Failed, Some(code)) => match last_line(self.message.as_deref().unwrap_or_default()) {
                line if line.is_empty() => format!("its driver ended with {code}"),
                line => format!("its driver ended with {code}: {line}"),
            },
            (State::Failed | State::Pending, _) => shortened(self.message.as_deref().unwrap_or_default()),
            _ => String::new(),
        };
        if why.is_empty() { state } else { format!("{state} ({why})") }
    }

    /// The exit code that a job comes to which has failed: 75 where another try can help; `None`: it has not.
    pub fn failure(&self) -> Option<u8> {
        if self.status != State::Failed {
            return None;
        }
        Some(match (self.driver_exit_code, self.error_type.as_deref()) {
            (Some(75 | 143), _) => 75,
            // 128 and a signal, as shells and Python say it
            (Some(code), _) if !(0..=128).contains(&code) => 75,
            (Some(_), _) | (None, Some("RUNTIME_ENV_SETUP_FAILURE" | "JOB_ENTRYPOINT_COMMAND_START_ERROR")) => 65,
            (None, _) => 75,
        })
    }
}

/// The first line of a text, or the last one where that is a traceback's.
pub fn shortened(text: &str) -> String {
    if text.contains("Traceback (most") { last_line(text) } else { lines(text).next().unwrap_or_default() }
}

fn last_line(text: &str) -> String {
    lines(text).last().unwrap_or_default()
}

/// Lines that say something, for one line of a terminal.
fn lines(text: &str) -> impl Iterator<Item = String> {
    let lines = text.lines().filter(|line| line.chars().any(char::is_alphanumeric));
    lines.map(|line| line.trim().chars().filter(|c| !c.is_control()).take(MOST_CHARACTERS).collect())
}

/// The log of a job, from a reply.
///
/// # Errors
/// It is none.
pub fn log(reply: &[u8]) -> Result<String, String> {
    #[derive(Deserialize)]
    struct Log {
        logs: String,
    }
    serde_json::from_slice(reply).map(|log: Log| log.logs).map_err(|error| format!("what it says is no log: {error}"))
}

/// Ray's version, from a reply.
///
/// # Errors
/// It is none: somebody else answers at this address.
pub fn version(reply: &[u8]) -> Result<String, String> {
    #[derive(Deserialize)]
    struct Version {
        ray_version: String,
    }
    let version: Version = serde_json::from_slice(reply).map_err(|error| format!("it names no version: {error}"))?;
    Ok(version.ray_version)
}

/// What each node has that is alive, from a reply.
///
/// # Errors
/// It is no list of nodes.
pub fn nodes(reply: &[u8]) -> Result<Vec<Needs>, String> {
    let reply: Value = serde_json::from_slice(reply).map_err(|error| error.to_string())?;
    let nodes = reply.pointer("/data/result/result").and_then(Value::as_array).ok_or("it lists no nodes")?;
    let alive = nodes.iter().filter(|node| node["state"] == "ALIVE");
    let has = |of: &Map<String, Value>, name: &str| of.get(name).and_then(Value::as_f64).unwrap_or(0.0);
    let node = |node: &Value| {
        let of = node["resources_total"].as_object()?;
        Some(Needs { cpus: has(of, "CPU") as u32, gpus: has(of, "GPU") as u32, memory: has(of, "memory") as u64 })
    };
    Ok(alive.filter_map(node).collect())
}

/// Why no node has what a process of a step needs; `None`: one has.
pub fn too_small(step: &str, needs: Needs, nodes: &[Needs]) -> Option<String> {
    let fits = |node: &Needs| node.cpus >= needs.cpus && node.gpus >= needs.gpus && node.memory >= needs.memory;
    if nodes.iter().any(fits) {
        return None;
    }
    let most = |of: fn(&Needs) -> u64| nodes.iter().map(of).max().unwrap_or(0);
    const MEBIBYTE: u64 = 1 << 20;
    let of = |cpus: u64, gpus: u64, memory: u64| format!("{cpus} CPUs, {gpus} GPUs and {} MiB", memory / MEBIBYTE);
    Some(format!(
        "{step}: a process needs {}, and no node has all of it; the largest have {}",
        of(needs.cpus.into(), needs.gpus.into(), needs.memory),
        of(most(|node| node.cpus.into()), most(|node| node.gpus.into()), most(|node| node.memory))
    ))
}

#[cfg(test)]
mod tests;
