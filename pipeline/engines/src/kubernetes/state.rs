//! What a server says of jobs, in words. It tells who runs and why not; whether something is done the store alone says.

use std::collections::BTreeMap;

use k8s_openapi::api::batch::v1::{Job, JobCondition};
use k8s_openapi::api::core::v1::Pod;
use manifests::words::count;
use serde::Deserialize;

use super::pods::{PodSeen, PodState};
use super::{QUEUE_LABEL, STAGE_LABEL};

/// What is true of a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum JobState {
    /// None of its pods runs yet.
    Starting,
    /// No node has room for some of its pods, and none of them runs.
    NoRoom,
    /// Some of its pods cannot start, for want of an image or of a secret, and none of them runs.
    CannotStart,
    /// Its pods run.
    Running,
    /// Some of its pods were killed or taken away, and others will come for them.
    Recovering,
    /// A node with one of its pods is not heard of; until it is, nobody comes for that pod.
    NodeLost,
    /// Kueue has not admitted it, or has taken its place away.
    WaitsForQuota,
    /// Somebody has suspended it.
    Suspended,
    /// It is being deleted.
    Cancelled,
    /// It has done what it can do.
    Succeeded,
    /// It has failed, and nothing of it runs again.
    Failed,
}

impl JobState {
    /// Does nothing of it run again?
    pub fn is_over(self) -> bool {
        matches!(self, JobState::Cancelled | JobState::Succeeded | JobState::Failed)
    }
}

/// A job as the server tells of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// Its name.
    pub name: String,
    /// The step that it works at.
    pub step: String,
    /// What is true of it.
    pub state: JobState,
    /// The same in words, with the reason.
    pub words: String,
    /// Has a process said that no other try helps?
    pub is_permanent: bool,
    /// Pods that run.
    pub running: usize,
}

#[derive(Deserialize)]
struct List<T> {
    items: Vec<T>,
}

/// Jobs and their pods as `kubectl get --output=json` lists them.
///
/// # Errors
/// What is no list of them.
pub fn read(jobs: &str, pods: &str) -> Result<Vec<Seen>, String> {
    let jobs: List<Job> = serde_json::from_str(jobs).map_err(|error| format!("no list of jobs: {error}"))?;
    let pods: List<Pod> = serde_json::from_str(pods).map_err(|error| format!("no list of pods: {error}"))?;
    Ok(jobs.items.iter().map(|job| seen(job, &pods.items)).collect())
}

/// What is true of a job among pods of any jobs.
pub fn seen(job: &Job, pods: &[Pod]) -> Seen {
    let uid = job.metadata.uid.as_deref();
    // a job that was made again has pods of an older one beside its own
    let is_own = |pod: &&Pod| {
        pod.metadata.owner_references.iter().flatten().any(|owner| Some(owner.uid.as_str()) == uid && uid.is_some())
    };
    let pods: Vec<PodSeen> = pods.iter().filter(is_own).map(PodSeen::of).collect();
    let (state, words) = verdict(job, &pods);
    let condition_is_permanent =
        condition(job, &["Failed", "FailureTarget"]).is_some_and(|c| c.reason.as_deref() == Some("PodFailurePolicy"));
    Seen {
        name: job.metadata.name.clone().unwrap_or_default(),
        step: job
            .metadata
            .labels
            .iter()
            .flatten()
            .find(|(key, _)| *key == STAGE_LABEL)
            .map_or(String::new(), |l| l.1.clone()),
        state,
        words,
        is_permanent: condition_is_permanent || pods.iter().any(|pod| pod.state == PodState::Permanent),
        running: pods.iter().filter(|pod| pod.state == PodState::Runs).count(),
    }
}

fn verdict(job: &Job, pods: &[PodSeen]) -> (JobState, String) {
    let left = pods.iter().filter(|pod| !pod.state.is_over()).count();
    let still = if left > 0 { format!("; {} still to end", count(left, "pod")) } else { String::new() };
    if job.metadata.deletion_timestamp.is_some() {
        return (JobState::Cancelled, format!("is being deleted{still}"));
    }
    if let Some(failed) = condition(job, &["Failed", "FailureTarget"]) {
        return (JobState::Failed, format!("failed: {}{}", reason(failed), causes(pods)));
    }
    if condition(job, &["SuccessCriteriaMet", "Complete"]).is_some() || has_succeeded(job, pods) {
        return (JobState::Succeeded, format!("succeeded{}{still}", lost_words(pods)));
    }
    let spec = job.spec.as_ref();
    if spec.and_then(|spec| spec.suspend).unwrap_or_default() {
        let has_queue = job.metadata.labels.iter().flatten().any(|(key, _)| key == QUEUE_LABEL);
        return match has_queue {
            true => (JobState::WaitsForQuota, format!("waits in its queue for quota{still}")),
            false => (JobState::Suspended, format!("is suspended{still}")),
        };
    }
    of_pods(job, pods)
}

/// What is true of a job whose conditions say nothing.
fn of_pods(job: &Job, pods: &[PodSeen]) -> (JobState, String) {
    let wanted = job.spec.as_ref().and_then(|spec| spec.completions.or(spec.parallelism)).unwrap_or(1).max(0);
    let latest = latest(pods);
    let having = |state: PodState| latest.iter().filter(move |pod| pod.state == state).copied().collect::<Vec<_>>();
    let (running, killed) = (having(PodState::Runs), having(PodState::Killed));
    let (permanent, evicted) = (having(PodState::Permanent), having(PodState::Evicted));
    let run = format!("{} of {} running", running.len(), count(wanted, "pod"));
    let first = |pods: &[&PodSeen], what: &str| {
        let more = if pods.len() > 1 { format!(" and {} more", pods.len() - 1) } else { String::new() };
        pods.first().map(|pod| format!("{}{more} {what}{}", pod.words(), pod.why())).unwrap_or_default()
    };
    if !having(PodState::Lost).is_empty() {
        let words = first(&having(PodState::Lost), "is not heard of");
        return (JobState::NodeLost, format!("{words}; {run}"));
    }
    let gone: Vec<&PodSeen> = killed.into_iter().chain(evicted).collect();
    if !gone.is_empty() {
        return (JobState::Recovering, format!("{}, another follows; {run}", first(&gone, "is gone")));
    }
    if !permanent.is_empty() && permanent.len() == latest.len() {
        return (JobState::Failed, format!("failed{}", causes(pods)));
    }
    if running.is_empty() {
        for (state, of_pod, what) in [
            (JobState::CannotStart, PodState::CannotStart, "cannot start"),
            (JobState::NoRoom, PodState::NoRoom, "has no node"),
        ] {
            if !having(of_pod).is_empty() {
                return (state, first(&having(of_pod), what));
            }
        }
        return (JobState::Starting, format!("starts; {run}"));
    }
    let leaving: Vec<&PodSeen> = running.into_iter().filter(|pod| pod.is_leaving()).collect();
    let out = [(permanent, "failed for good"), (leaving, "is told to leave")]
        .into_iter()
        .filter(|(pods, _)| !pods.is_empty())
        .map(|(pods, what)| format!("; {}", first(&pods, what)))
        .collect::<String>();
    (JobState::Running, format!("{run}{out}"))
}

/// A stage is closed as soon as one worker says so; a training and a driver need all of their pods.
fn has_succeeded(job: &Job, pods: &[PodSeen]) -> bool {
    let is_enough = job.spec.as_ref().is_some_and(|spec| spec.success_policy.is_some());
    is_enough && pods.iter().any(|pod| pod.state == PodState::Done)
}

/// The newest pod of each index.
fn latest(pods: &[PodSeen]) -> Vec<&PodSeen> {
    let mut by_index: BTreeMap<Option<u32>, &PodSeen> = BTreeMap::new();
    for pod in pods {
        let newest = by_index.entry(pod.index).or_insert(pod);
        // times are whole seconds; a pod that has not ended comes after one that has
        if (pod.created, !pod.state.is_over()) >= (newest.created, !newest.state.is_over()) {
            *newest = pod;
        }
    }
    by_index.into_values().collect()
}

fn condition<'a>(job: &'a Job, types: &[&str]) -> Option<&'a JobCondition> {
    let conditions = job.status.as_ref()?.conditions.as_deref()?;
    conditions.iter().find(|c| c.status == "True" && types.contains(&c.type_.as_str()))
}

fn reason(condition: &JobCondition) -> String {
    let text = |text: &Option<String>| text.clone().unwrap_or_default();
    match (text(&condition.message), text(&condition.reason)) {
        (message, _) if !message.is_empty() => message,
        (_, reason) if !reason.is_empty() => reason,
        _ => "the server gives no reason".to_owned(),
    }
}

/// Why pods failed, one for all.
fn causes(pods: &[PodSeen]) -> String {
    let failed = |state: PodState| pods.iter().find(move |pod| pod.state == state);
    let pod = failed(PodState::Permanent).or_else(|| failed(PodState::Killed));
    pod.map(|pod| format!("; {}{}", pod.words(), pod.why())).unwrap_or_default()
}

fn lost_words(pods: &[PodSeen]) -> String {
    let lost = pods.iter().find(|pod| pod.state == PodState::Lost);
    lost.map(|pod| format!("; {} is not heard of", pod.words())).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn job(status: Value) -> Value {
        json!({
            "metadata": { "name": "uc-1-images-2", "uid": "u", "labels": { STAGE_LABEL: "images" } },
            "spec": { "completions": 2, "template": {} },
            "status": status,
        })
    }

    fn pod(index: u32, status: Value) -> Value {
        json!({
            "metadata": {
                "name": format!("uc-1-images-2-{index}"),
                "annotations": { "batch.kubernetes.io/job-completion-index": index.to_string() },
                "ownerReferences": [{ "apiVersion": "batch/v1", "kind": "Job", "name": "uc-1-images-2", "uid": "u" }],
            },
            "spec": { "nodeName": "n1", "containers": [] },
            "status": status,
        })
    }

    fn read_one(job: Value, pods: Vec<Value>) -> Seen {
        read(&json!({ "items": [job] }).to_string(), &json!({ "items": pods }).to_string()).unwrap().remove(0)
    }

    #[test]
    fn what_keeps_a_job_from_starting_is_said() {
        let unschedulable = json!({ "phase": "Pending", "conditions": [{
            "type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/3 nodes have a GPU",
        }] });
        let seen = read_one(job(json!({})), vec![pod(0, unschedulable.clone()), pod(1, unschedulable)]);
        assert_eq!((seen.state, seen.step.as_str()), (JobState::NoRoom, "images"));
        assert!(seen.words.contains("worker 0") && seen.words.contains("0/3 nodes have a GPU"), "{}", seen.words);
        let no_image = json!({ "phase": "Pending", "containerStatuses": [{
            "name": "worker", "image": "x", "imageID": "", "ready": false, "restartCount": 0,
            "state": { "waiting": { "reason": "ImagePullBackOff", "message": "x: not found" } },
        }] });
        let seen = read_one(job(json!({})), vec![pod(0, no_image)]);
        assert_eq!(seen.state, JobState::CannotStart);
        assert!(seen.words.contains("ImagePullBackOff") && seen.words.contains("x: not found"), "{}", seen.words);
    }

    #[test]
    fn a_queue_is_no_whim() {
        let mut suspended = job(json!({}));
        suspended["spec"]["suspend"] = json!(true);
        assert_eq!(read_one(suspended.clone(), vec![]).state, JobState::Suspended);
        suspended["metadata"]["labels"][QUEUE_LABEL] = json!("gpus");
        let seen = read_one(suspended, vec![]);
        assert_eq!((seen.state, seen.words.as_str()), (JobState::WaitsForQuota, "waits in its queue for quota"));
    }

    #[test]
    fn memory_that_was_too_small_is_named() {
        let killed = json!({ "phase": "Failed", "containerStatuses": [{
            "name": "worker", "image": "x", "imageID": "", "ready": false, "restartCount": 0,
            "state": { "terminated": { "exitCode": 137, "reason": "OOMKilled" } },
        }] });
        let seen = read_one(job(json!({})), vec![pod(0, killed)]);
        assert_eq!(seen.state, JobState::Recovering);
        assert!(seen.words.contains("OOMKilled") && seen.words.contains("stage.NAME.memory"), "{}", seen.words);
    }

    #[test]
    fn a_training_needs_all_of_its_ranks() {
        let done = json!({ "phase": "Succeeded" });
        let seen = read_one(job(json!({})), vec![pod(0, done), pod(1, json!({ "phase": "Running" }))]);
        assert_eq!((seen.state, seen.running), (JobState::Running, 1));
    }

    #[test]
    fn what_is_no_list_is_an_error_and_strange_objects_are_none() {
        assert!(read("no JSON", "{}").unwrap_err().contains("jobs"));
        assert!(read("{\"items\": []}", "[]").unwrap_err().contains("pods"));
        for strange in [json!({}), json!({ "metadata": {}, "status": { "conditions": [] } })] {
            assert_eq!(read_one(strange, vec![json!({})]).state, JobState::Starting);
        }
    }
}
