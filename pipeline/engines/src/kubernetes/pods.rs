//! What a server says of one pod.

use k8s_openapi::api::core::v1::{ContainerState, Pod};

const INDEX: &str = "batch.kubernetes.io/job-completion-index";
/// The exit code of what no other try cures.
const PERMANENT: i32 = 65;

/// What is true of a pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum PodState {
    /// It waits for its image, or for nothing that is known.
    Starts,
    NoRoom,
    CannotStart,
    Runs,
    /// Its node is not heard of.
    Lost,
    /// It was ended by a signal, or by an error that may pass.
    Killed,
    /// Somebody took it away.
    Evicted,
    /// It said that no other try helps.
    Permanent,
    Done,
}

impl PodState {
    pub(super) fn is_over(self) -> bool {
        matches!(self, PodState::Killed | PodState::Evicted | PodState::Permanent | PodState::Done)
    }
}

/// A pod as the server tells of it.
#[derive(Debug)]
pub(super) struct PodSeen {
    pub(super) index: Option<u32>,
    node: String,
    /// Seconds since 1970.
    pub(super) created: i64,
    pub(super) state: PodState,
    why: String,
}

impl PodSeen {
    pub(super) fn of(pod: &Pod) -> Self {
        let (metadata, spec) = (&pod.metadata, pod.spec.as_ref());
        let index = metadata.annotations.iter().flatten().find(|(key, _)| *key == INDEX);
        let (state, why) = state(pod);
        Self {
            index: index.and_then(|(_, index)| index.parse().ok()),
            node: spec.and_then(|spec| spec.node_name.clone()).unwrap_or_default(),
            created: metadata.creation_timestamp.as_ref().map_or(0, |time| time.0.as_second()),
            state,
            why,
        }
    }

    /// Does it run, and has somebody decided to take it away?
    pub(super) fn is_leaving(&self) -> bool {
        self.state == PodState::Runs && !self.why.is_empty()
    }

    /// `worker 3 on node7`.
    pub(super) fn words(&self) -> String {
        let who = self.index.map_or("the driver".to_owned(), |index| format!("worker {index}"));
        if self.node.is_empty() { who } else { format!("{who} on {}", self.node) }
    }

    /// The reason in brackets, if one is known.
    pub(super) fn why(&self) -> String {
        if self.why.is_empty() { String::new() } else { format!(" ({})", self.why) }
    }
}

fn state(pod: &Pod) -> (PodState, String) {
    let Some(status) = &pod.status else { return (PodState::Starts, String::new()) };
    let condition = |kind: &str, is: &str| {
        status.conditions.iter().flatten().find(|condition| condition.type_ == kind && condition.status == is)
    };
    let container = status.container_statuses.iter().flatten().next();
    let now = container.and_then(|container| container.state.clone()).unwrap_or_default();
    let disruption = condition("DisruptionTarget", "True");
    let disrupted = disruption.and_then(|condition| condition.reason.clone()).unwrap_or_default();
    match status.phase.as_deref() {
        Some("Succeeded") => (PodState::Done, String::new()),
        Some("Failed") if exit_code(&now) == Some(PERMANENT) => {
            (PodState::Permanent, "exit code 65, see its log".to_owned())
        }
        Some("Failed") if disruption.is_some() => (PodState::Evicted, disrupted),
        Some("Failed") => (PodState::Killed, killed(&now, status.reason.as_deref())),
        Some("Running") => {
            // it has no probe, so only a silent node makes one that runs unready
            let is_silent = now.running.is_some() && condition("Ready", "False").is_some();
            let is_tainted = disrupted == "DeletionByTaintManager";
            match (is_silent || is_tainted || status.reason.as_deref() == Some("NodeLost"), &now.waiting) {
                (true, _) => (PodState::Lost, disrupted),
                // a driver starts again in its own pod
                (false, Some(waiting)) => {
                    let last = container.and_then(|c| c.last_state.clone()).unwrap_or_default();
                    let why = waiting.reason.clone().unwrap_or_default();
                    match exit_code(&last) {
                        Some(PERMANENT) => (PodState::Killed, format!("{why}, exit code 65, see its log")),
                        _ => (PodState::Killed, format!("{why}, {}", killed(&last, None))),
                    }
                }
                (false, None) => (PodState::Runs, disrupted),
            }
        }
        _ => {
            if let Some(condition) = condition("PodScheduled", "False") {
                return (PodState::NoRoom, condition.message.clone().unwrap_or_default());
            }
            match &now.waiting {
                Some(waiting) if waiting.reason.as_deref().is_some_and(is_stuck) => {
                    let parts = [waiting.reason.clone(), waiting.message.clone()];
                    (PodState::CannotStart, parts.into_iter().flatten().collect::<Vec<_>>().join(": "))
                }
                _ => (PodState::Starts, String::new()),
            }
        }
    }
}

/// Is this reason to wait an error?
fn is_stuck(reason: &str) -> bool {
    ["Err", "BackOff", "Invalid"].iter().any(|part| reason.contains(part))
}

fn exit_code(state: &ContainerState) -> Option<i32> {
    state.terminated.as_ref().map(|terminated| terminated.exit_code)
}

fn killed(state: &ContainerState, reason_of_pod: Option<&str>) -> String {
    let reason = state.terminated.as_ref().and_then(|terminated| terminated.reason.as_deref());
    match (exit_code(state), reason, reason_of_pod) {
        (Some(_), Some("OOMKilled"), _) => "OOMKilled: raise stage.NAME.memory in the profile".to_owned(),
        (Some(code), _, _) => format!("exit code {code}"),
        (None, _, Some(reason)) => reason.to_owned(),
        (None, _, None) => String::new(),
    }
}
