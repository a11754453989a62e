//! A training as Kubeflow's TrainJob, for clusters whose quotas and dashboards want one.

use k8s_openapi::api::core::v1::{EnvVar, SecretVolumeSource, Volume, VolumeMount};
use serde_json::{Value, json};

use super::jobs::rank_environment;
use super::{SPEC_PATH, job_labels, pod};
use crate::job::{Job, Run, Work};
use crate::profile::Profile;

/// The runtime that Kubeflow's trainer brings along, and the names that it gives to its parts.
const RUNTIME: &str = "torch-distributed";
const NODE: &str = "node";
/// Folder with a file for each variable of the secret: a trainer takes variables by name only.
const SECRET_FOLDER: &str = "/run/urbancross-env";

/// A training as a TrainJob; `None`: the job is no training.
///
/// It has no time to live: a finished one that is deleted by the trainer is started again.
pub fn train_job(run: &Run, job: &Job, profile: &Profile) -> Option<Value> {
    let Work::Train { attempt, nodes, ranks_per_node } = job.work else { return None };
    let kubernetes = &profile.kubernetes;
    let (mut volumes, mut mounts) = pod::volumes(run, kubernetes, true);
    let mut command = vec!["urbancross".to_owned()];
    command.extend(job.arguments(run, SPEC_PATH));
    if let Some(secret) = pod::some(&kubernetes.env_secret) {
        let source = SecretVolumeSource { secret_name: Some(secret), ..SecretVolumeSource::default() };
        volumes.push(Volume { name: "env".to_owned(), secret: Some(source), ..Volume::default() });
        mounts.push(VolumeMount {
            name: "env".to_owned(),
            mount_path: SECRET_FOLDER.to_owned(),
            read_only: Some(true),
            ..VolumeMount::default()
        });
        let script =
            format!("for file in {SECRET_FOLDER}/*; do export \"${{file##*/}}=$(cat \"$file\")\"; done; exec \"$@\"");
        command.splice(0..0, ["sh".to_owned(), "-c".to_owned(), script, "sh".to_owned()]);
    }
    let ranks = nodes.saturating_mul(ranks_per_node);
    let env: Vec<EnvVar> = pod::environment(rank_environment(run, job, attempt, ranks));
    let mut pod = json!({
        "containers": [{ "name": NODE, "securityContext": pod::container_security(), "volumeMounts": mounts }],
        "securityContext": pod::pod_security(),
        "tolerations": pod::tolerations(kubernetes),
        "volumes": volumes,
    });
    if !kubernetes.node_selector.is_empty() {
        pod["nodeSelector"] = json!(kubernetes.node_selector);
    }
    if !kubernetes.pull_secret.is_empty() {
        pod["imagePullSecrets"] = json!([{ "name": kubernetes.pull_secret }]);
    }
    let node = json!({ "name": NODE, "template": { "spec": { "template": { "spec": pod } } } });
    Some(json!({
        "apiVersion": "trainer.kubeflow.org/v1alpha1",
        "kind": "TrainJob",
        "metadata": {
            "name": job.name(run),
            "namespace": kubernetes.namespace,
            "labels": job_labels(run, job, profile),
        },
        "spec": {
            "runtimeRef": { "name": RUNTIME },
            "runtimePatches": [{
                "manager": "urbancross.dev/render",
                "trainingRuntimeSpec": { "template": { "spec": { "replicatedJobs": [node] } } },
            }],
            "trainer": {
                "image": kubernetes.image,
                "command": command,
                "env": env,
                "numNodes": ranks,
                "numProcPerNode": 1,
                "resourcesPerNode": pod::resources(&profile.resources(&job.step), ranks_per_node),
            },
        },
    }))
}
