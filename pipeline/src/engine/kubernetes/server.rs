//! What the engine asks of a server, and what it makes of one that does not answer.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use engines::kubernetes::{self, Object, Seen};
use workers::WorkerError;

use crate::engine::fault::Fault;
use crate::engine::kubectl::Kubectl;

/// How long a refusal must last to be believed: a server that starts refuses until it has read who may do what.
const REFUSAL_PATIENCE: Duration = Duration::from_secs(60);
/// Objects are typed and keep the rules: kubectl need not read the whole schema of the server first.
const UNCHECKED: &str = "--validate=false";

/// A server, by way of `kubectl`.
pub(super) struct Server {
    kubectl: Kubectl,
    pub(super) refusal_patience: Duration,
    answers: Mutex<Answers>,
}

/// How it has answered so far.
#[derive(Default)]
struct Answers {
    is_known: bool,
    refuses_since: Option<Instant>,
}

impl Server {
    pub(super) fn new(kubectl: Kubectl) -> Self {
        Self { kubectl, refusal_patience: REFUSAL_PATIENCE, answers: Mutex::default() }
    }

    /// Whether a driver goes on after an error, and asks again: workers go on without a server, and so does a driver that has
    /// reached it once.
    pub(super) fn passes(&self, error: &WorkerError) -> bool {
        let mut answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
        let is_passing = match error {
            WorkerError::Refused(_) => {
                answers.refuses_since.get_or_insert_with(Instant::now).elapsed() < self.refusal_patience
            }
            other => other.exit_code() == 75,
        };
        answers.is_known && is_passing
    }

    /// Creates objects; `false`: they are there already.
    pub(super) async fn create(&self, objects: &[Object]) -> Result<bool, WorkerError> {
        let problems = kubernetes::problems(objects);
        if !problems.is_empty() {
            return Err(WorkerError::Configuration(problems.join("; ")));
        }
        match self.call(&["create", UNCHECKED, "--filename=-"], Some(&yaml(objects))).await {
            Ok(_) => Ok(true),
            Err(Fault::AlreadyExists(_)) => Ok(false),
            Err(other) => Err(other.into()),
        }
    }

    /// Puts objects in the place of those of their names.
    pub(super) async fn replace(&self, objects: &[Object]) -> Result<(), WorkerError> {
        self.call(&["replace", UNCHECKED, "--filename=-"], Some(&yaml(objects))).await?;
        Ok(())
    }

    /// Deletes a job at once; its pods follow, also those of a node that is not heard of.
    pub(super) async fn delete(&self, name: &str) -> Result<(), WorkerError> {
        self.call(&["delete", "job", name, "--cascade=background", "--ignore-not-found"], None).await?;
        Ok(())
    }

    /// Ends all jobs of a label: their processes are told to stop, and with `now` have a second for it.
    pub(super) async fn end(&self, label: &str, now: bool) -> Result<(), WorkerError> {
        let all = ["--selector", label, "--ignore-not-found", "--wait=false"];
        self.call(&[&["delete", "jobs", "--cascade=foreground"], &all[..]].concat(), None).await?;
        if now {
            self.call(&[&["delete", "pods", "--grace-period=1"], &all[..]].concat(), None).await?;
        }
        Ok(())
    }

    /// What it says of all jobs of a label.
    pub(super) async fn seen(&self, label: &str) -> Result<Vec<Seen>, WorkerError> {
        let get = |kind: &'static str| ["get", kind, "--selector", label, "--output=json"];
        let jobs = self.call(&get("jobs"), None).await?;
        let pods = self.call(&get("pods"), None).await?;
        kubernetes::read(&jobs, &pods).map_err(|why| WorkerError::Broken(format!("kubectl get: {why}")))
    }

    /// What `kubectl` prints, line by line.
    pub(super) async fn lines(&self, arguments: &[&str], line: impl FnMut(&str)) -> Result<(), WorkerError> {
        Ok(self.kubectl.lines(arguments, line).await?)
    }

    async fn call(&self, arguments: &[&str], input: Option<&str>) -> Result<String, Fault> {
        let answer = self.kubectl.call(arguments, input).await;
        let is_known = matches!(answer, Ok(_) | Err(Fault::AlreadyExists(_)));
        if is_known {
            *self.answers.lock().unwrap_or_else(PoisonError::into_inner) = Answers { is_known, refuses_since: None };
        }
        answer
    }
}

fn yaml(objects: &[Object]) -> String {
    kubernetes::render(&objects.iter().map(Object::to_json).collect::<Vec<_>>())
}
