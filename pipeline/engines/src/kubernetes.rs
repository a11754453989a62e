//! Kubernetes: the objects of a run, the rules that they keep, and what the server says of them.
//!
//! The shape of the objects is that of measurements on a real control plane; docs/kubernetes.md says why each field is
//! there.

mod jobs;
mod pod;
mod pods;
mod rules;
mod state;
mod train_job;

use std::collections::BTreeMap;

use k8s_openapi::api::batch::v1;
use k8s_openapi::api::core::v1::ConfigMap;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde_json::Value;

pub use rules::problems;
pub use state::{JobState, Seen, read, seen};
pub use train_job::train_job;

use crate::job::{Job, Run};
use crate::profile::Profile;
use crate::yaml;

/// Label of everything that belongs to a run.
pub const RUN_LABEL: &str = "urbancross.dev/run";
/// Label of what a step's processes are.
pub const STAGE_LABEL: &str = "urbancross.dev/stage";
const QUEUE_LABEL: &str = "kueue.x-k8s.io/queue-name";

/// Folder of the run's spec and profile in every pod.
const RUN_FOLDER: &str = "/run/urbancross";
/// Path of the spec in every pod.
pub const SPEC_PATH: &str = "/run/urbancross/spec.toml";
/// Path of the profile in every pod; drivers give it on.
pub const PROFILE_PATH: &str = "/run/urbancross/profile.toml";
/// Name of the container that runs the program.
const CONTAINER: &str = "worker";

/// An object of a run.
#[derive(Debug, Clone, PartialEq)]
pub enum Object {
    /// What the pods read.
    ConfigMap(Box<ConfigMap>),
    /// Workers, ranks or a driver.
    Job(Box<v1::Job>),
}

impl Object {
    /// The object as the server reads it.
    pub fn to_json(&self) -> Value {
        // objects of strings and numbers: there is nothing that JSON cannot hold
        match self {
            Object::ConfigMap(object) => serde_json::to_value(object),
            Object::Job(object) => serde_json::to_value(object),
        }
        .unwrap_or_default()
    }
}

/// What the pods of a run read: the spec and the profile.
pub fn config_map(run: &Run, profile: &Profile) -> Object {
    // a profile is made of strings, numbers and maps of them, which TOML can write
    let profile_text = toml::to_string(profile).unwrap_or_default();
    let data = run.files().into_iter().chain([("profile.toml".to_owned(), profile_text)]);
    Object::ConfigMap(Box::new(ConfigMap {
        metadata: ObjectMeta {
            name: Some(config_map_name(run)),
            namespace: pod::some(&profile.kubernetes.namespace),
            labels: Some(BTreeMap::from([(RUN_LABEL.to_owned(), run.id.clone())])),
            ..ObjectMeta::default()
        },
        data: Some(data.collect()),
        ..ConfigMap::default()
    }))
}

/// The job as an object.
pub fn job(run: &Run, job: &Job, profile: &Profile) -> Object {
    Object::Job(Box::new(jobs::job(run, job, profile)))
}

/// Objects as documents of YAML, the same bytes every time.
pub fn render(objects: &[Value]) -> String {
    objects.iter().map(|object| format!("---\n{}", yaml::document(object))).collect()
}

fn config_map_name(run: &Run) -> String {
    format!("uc-{}", run.id)
}

fn labels(run: &Run, job: &Job) -> BTreeMap<String, String> {
    let labels = [(RUN_LABEL, run.id.clone()), (STAGE_LABEL, job.step.clone())];
    labels.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()
}

fn job_labels(run: &Run, job: &Job, profile: &Profile) -> BTreeMap<String, String> {
    let mut labels = labels(run, job);
    labels.extend(pod::some(&profile.kubernetes.queue).map(|queue| (QUEUE_LABEL.to_owned(), queue)));
    labels
}
