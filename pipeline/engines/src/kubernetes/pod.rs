//! The pods of all jobs: who they are, what they may, and what they are given.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{
    Capabilities, ConfigMapVolumeSource, Container, EmptyDirVolumeSource, EnvFromSource, EnvVar, EnvVarSource,
    LocalObjectReference, ObjectFieldSelector, PodSecurityContext, PodSpec, PodTemplateSpec, ResourceRequirements,
    SeccompProfile, SecretEnvSource, SecurityContext, Toleration, Volume, VolumeMount,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::{CONTAINER, RUN_FOLDER, config_map_name, labels};
use crate::job::{Job, Run};
use crate::memory;
use crate::profile::{Kubernetes, Profile, Resources};

/// `nobody`. By number: a kubelet that must not start root refuses an image whose user is a name.
const USER: i64 = 65534;
/// How long a worker has for its shard when it is told to stop; Kubernetes' default.
const GRACE_SECONDS: i64 = 30;
/// How long a node may be silent before its pods are given up; the default is 300 s.
const SILENT_NODE_SECONDS: i64 = 30;
const GPU: &str = "nvidia.com/gpu";

/// What the pods of one job have beside others.
#[derive(Debug, Default)]
pub(super) struct Needs {
    pub(super) resources: Resources,
    pub(super) env: Vec<EnvVar>,
    /// Processes among which a machine's resources are divided.
    pub(super) share: u32,
    /// Memory that processes of a machine share, at /dev/shm.
    pub(super) shared_memory: bool,
    /// The account whose token the pod gets; none: it cannot talk to the server.
    pub(super) account: Option<String>,
    pub(super) restart: &'static str,
}

pub(super) fn template(
    run: &Run,
    job: &Job,
    profile: &Profile,
    arguments: Vec<String>,
    needs: Needs,
) -> PodTemplateSpec {
    let kubernetes = &profile.kubernetes;
    let (volumes, mounts) = volumes(run, kubernetes, needs.shared_memory);
    let container = Container {
        name: CONTAINER.to_owned(),
        image: Some(kubernetes.image.clone()),
        command: Some(std::iter::once("urbancross".to_owned()).chain(arguments).collect()),
        env: Some(environment(needs.env)),
        env_from: env_from(kubernetes),
        resources: Some(resources(&needs.resources, needs.share)),
        security_context: Some(container_security()),
        volume_mounts: Some(mounts),
        ..Container::default()
    };
    let spec = PodSpec {
        containers: vec![container],
        restart_policy: Some(needs.restart.to_owned()),
        automount_service_account_token: Some(needs.account.is_some()),
        service_account_name: needs.account,
        enable_service_links: Some(false),
        image_pull_secrets: some(&kubernetes.pull_secret).map(|name| vec![LocalObjectReference { name }]),
        node_selector: Some(kubernetes.node_selector.clone()).filter(|selector| !selector.is_empty()),
        priority_class_name: some(&kubernetes.priority_class),
        runtime_class_name: some(&kubernetes.runtime_class).filter(|_| needs.resources.gpus > 0),
        security_context: Some(pod_security()),
        termination_grace_period_seconds: Some(GRACE_SECONDS),
        tolerations: Some(tolerations(kubernetes)),
        volumes: Some(volumes),
        ..PodSpec::default()
    };
    let metadata = ObjectMeta { labels: Some(labels(run, job)), ..ObjectMeta::default() };
    PodTemplateSpec { metadata: Some(metadata), spec: Some(spec) }
}

pub(super) fn some(text: &str) -> Option<String> {
    Some(text.to_owned()).filter(|text| !text.is_empty())
}

pub(super) fn value(name: &str, value: impl Into<String>) -> EnvVar {
    EnvVar { name: name.to_owned(), value: Some(value.into()), value_from: None }
}

/// A variable that the server fills in.
pub(super) fn field(name: &str, path: &str) -> EnvVar {
    let field = ObjectFieldSelector { api_version: None, field_path: path.to_owned() };
    let source = EnvVarSource { field_ref: Some(field), ..EnvVarSource::default() };
    EnvVar { name: name.to_owned(), value: None, value_from: Some(source) }
}

pub(super) fn environment(more: Vec<EnvVar>) -> Vec<EnvVar> {
    // only these two folders can be written to
    let common = [
        field("NODE_NAME", "spec.nodeName"),
        value("HOME", "/tmp"),
        value("TMPDIR", "/tmp"),
        value("URBANCROSS_CACHE", "/cache"),
    ];
    common.into_iter().chain(more).collect()
}

fn env_from(kubernetes: &Kubernetes) -> Option<Vec<EnvFromSource>> {
    let name = some(&kubernetes.env_secret)?;
    Some(vec![EnvFromSource { secret_ref: Some(SecretEnvSource { name, optional: None }), ..EnvFromSource::default() }])
}

pub(super) fn resources(of_machine: &Resources, share: u32) -> ResourceRequirements {
    let share = share.max(1);
    let mut amounts = BTreeMap::from([
        ("cpu".to_owned(), Quantity((of_machine.cpus / share).max(1).to_string())),
        ("memory".to_owned(), Quantity(memory::share(&of_machine.memory, share))),
    ]);
    if of_machine.gpus > 0 {
        amounts.insert(GPU.to_owned(), Quantity((of_machine.gpus / share).max(1).to_string()));
    }
    // what is asked for is what is had: neither a neighbour's memory nor half a GPU
    ResourceRequirements { claims: None, limits: Some(amounts.clone()), requests: Some(amounts) }
}

pub(super) fn container_security() -> SecurityContext {
    SecurityContext {
        allow_privilege_escalation: Some(false),
        capabilities: Some(Capabilities { add: None, drop: Some(vec!["ALL".to_owned()]) }),
        read_only_root_filesystem: Some(true),
        ..SecurityContext::default()
    }
}

pub(super) fn pod_security() -> PodSecurityContext {
    PodSecurityContext {
        run_as_non_root: Some(true),
        run_as_user: Some(USER),
        run_as_group: Some(USER),
        fs_group: Some(USER),
        seccomp_profile: Some(SeccompProfile { localhost_profile: None, type_: "RuntimeDefault".to_owned() }),
        ..PodSecurityContext::default()
    }
}

pub(super) fn tolerations(kubernetes: &Kubernetes) -> Vec<Toleration> {
    let silent = ["not-ready", "unreachable"].map(|state| Toleration {
        key: Some(format!("node.kubernetes.io/{state}")),
        operator: Some("Exists".to_owned()),
        effect: Some("NoExecute".to_owned()),
        toleration_seconds: Some(SILENT_NODE_SECONDS),
        value: None,
    });
    let of_profile = kubernetes.tolerations.iter().map(|(key, value)| Toleration {
        key: Some(key.clone()),
        operator: Some(if value.is_empty() { "Exists" } else { "Equal" }.to_owned()),
        value: some(value),
        ..Toleration::default()
    });
    silent.into_iter().chain(of_profile).collect()
}

pub(super) fn volumes(run: &Run, kubernetes: &Kubernetes, shared_memory: bool) -> (Vec<Volume>, Vec<VolumeMount>) {
    let empty = |name: &str, medium: Option<&str>, size: Option<String>| {
        let folder = EmptyDirVolumeSource { medium: medium.map(str::to_owned), size_limit: size.map(Quantity) };
        Volume { name: name.to_owned(), empty_dir: Some(folder), ..Volume::default() }
    };
    let config = ConfigMapVolumeSource { name: config_map_name(run), ..ConfigMapVolumeSource::default() };
    let scratch = some(&kubernetes.scratch);
    let mut volumes = vec![
        (Volume { name: "run".to_owned(), config_map: Some(config), ..Volume::default() }, RUN_FOLDER),
        (empty("tmp", None, scratch.clone()), "/tmp"),
        (empty("cache", None, scratch), "/cache"),
    ];
    if shared_memory {
        volumes.push((empty("shm", Some("Memory"), None), "/dev/shm"));
    }
    let mount = |(volume, path): &(Volume, &str)| VolumeMount {
        name: volume.name.clone(),
        mount_path: (*path).to_owned(),
        read_only: volume.config_map.as_ref().map(|_| true),
        ..VolumeMount::default()
    };
    let mounts = volumes.iter().map(mount).collect();
    (volumes.into_iter().map(|(volume, _)| volume).collect(), mounts)
}
