//! The jobs of a run.

use k8s_openapi::api::batch::v1::{
    Job as KubernetesJob, JobSpec, PodFailurePolicy, PodFailurePolicyOnExitCodesRequirement,
    PodFailurePolicyOnPodConditionsPattern, PodFailurePolicyRule, SuccessPolicy, SuccessPolicyRule,
};
use k8s_openapi::api::core::v1::EnvVar;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::pod::{self, Needs, field, value};
use super::{CONTAINER, PROFILE_PATH, RUN_FOLDER, SPEC_PATH, job_labels, labels};
use crate::job::{Job, Run, Work};
use crate::profile::Profile;

/// How long a finished job stays for people to look at.
const KEPT_SECONDS: i32 = 86_400;
/// Times that a worker is started again.
const WORKER_RETRIES: i32 = 5;
/// Times that a rank is.
const RANK_RETRIES: i32 = 10;
/// Times that a driver is.
const DRIVER_RETRIES: i32 = 10;
/// The exit code of what no other try cures.
const PERMANENT: i32 = 65;

pub(super) fn job(run: &Run, job: &Job, profile: &Profile) -> KubernetesJob {
    let spec = match &job.work {
        Work::Map { workers, .. } => map(run, job, profile, *workers),
        Work::Train { attempt, nodes, ranks_per_node } => train(run, job, profile, *attempt, *nodes, *ranks_per_node),
        Work::Drive => drive(run, job, profile),
    };
    KubernetesJob {
        metadata: ObjectMeta {
            name: Some(job.name(run)),
            namespace: pod::some(&profile.kubernetes.namespace),
            // a driver that waits for room itself would keep its own workers out of a small queue
            labels: Some(if job.work == Work::Drive { labels(run, job) } else { job_labels(run, job, profile) }),
            ..ObjectMeta::default()
        },
        spec: Some(spec),
        status: None,
    }
}

fn map(run: &Run, job: &Job, profile: &Profile, workers: u32) -> JobSpec {
    let needs = Needs { resources: profile.resources(&job.step), share: 1, restart: "Never", ..Needs::default() };
    JobSpec {
        backoff_limit_per_index: Some(WORKER_RETRIES),
        // one worker that can go on is enough
        max_failed_indexes: Some(number(workers)),
        // a worker ends with 0 when the plan is closed: then nobody has anything to do
        success_policy: Some(SuccessPolicy {
            rules: vec![SuccessPolicyRule { succeeded_count: Some(1), succeeded_indexes: None }],
        }),
        pod_failure_policy: Some(failure_policy("FailIndex")),
        template: pod::template(run, job, profile, job.arguments(run, SPEC_PATH), needs),
        ..indexed(workers)
    }
}

fn train(run: &Run, job: &Job, profile: &Profile, attempt: u32, nodes: u32, ranks_per_node: u32) -> JobSpec {
    let ranks = nodes.saturating_mul(ranks_per_node);
    let needs = Needs {
        resources: profile.resources(&job.step),
        env: rank_environment(run, job, attempt, ranks),
        share: ranks_per_node,
        shared_memory: true,
        restart: "Never",
        ..Needs::default()
    };
    JobSpec {
        backoff_limit_per_index: Some(RANK_RETRIES),
        // a training lacks each of its ranks
        max_failed_indexes: Some(0),
        pod_failure_policy: Some(failure_policy("FailJob")),
        template: pod::template(run, job, profile, job.arguments(run, SPEC_PATH), needs),
        ..indexed(ranks)
    }
}

/// Variables by which ranks find each other: in the work store, under a name of the attempt.
pub(super) fn rank_environment(run: &Run, job: &Job, attempt: u32, ranks: u32) -> Vec<EnvVar> {
    vec![
        field("RANK", "metadata.annotations['batch.kubernetes.io/job-completion-index']"),
        value("WORLD_SIZE", ranks.to_string()),
        value("URBANCROSS_RENDEZVOUS", job.rendezvous(run, attempt)),
    ]
}

fn drive(run: &Run, job: &Job, profile: &Profile) -> JobSpec {
    let mut arguments = job.arguments(run, if run.whole.is_some() { RUN_FOLDER } else { SPEC_PATH });
    arguments.extend(["--engine", "kubernetes", "--profile", PROFILE_PATH].map(str::to_owned));
    let needs = Needs {
        resources: profile.driver(),
        share: 1,
        account: Some(profile.kubernetes.service_account.clone()),
        // without a policy for failures, so that a driver on a lost node is replaced while its old pod still ends
        restart: "OnFailure",
        ..Needs::default()
    };
    JobSpec {
        backoff_limit: Some(DRIVER_RETRIES),
        ttl_seconds_after_finished: Some(KEPT_SECONDS),
        template: pod::template(run, job, profile, arguments, needs),
        ..JobSpec::default()
    }
}

fn indexed(count: u32) -> JobSpec {
    JobSpec {
        completion_mode: Some("Indexed".to_owned()),
        completions: Some(number(count)),
        parallelism: Some(number(count)),
        // the only value that the server takes beside a policy for failures
        pod_replacement_policy: Some("Failed".to_owned()),
        ttl_seconds_after_finished: Some(KEPT_SECONDS),
        ..JobSpec::default()
    }
}

/// What no other try cures ends an index or the job; a pod that somebody else took away counts as no failure.
fn failure_policy(permanent: &str) -> PodFailurePolicy {
    let codes = PodFailurePolicyOnExitCodesRequirement {
        container_name: Some(CONTAINER.to_owned()),
        operator: "In".to_owned(),
        values: vec![PERMANENT],
    };
    let taken_away =
        PodFailurePolicyOnPodConditionsPattern { type_: "DisruptionTarget".to_owned(), status: "True".to_owned() };
    PodFailurePolicy {
        rules: vec![
            PodFailurePolicyRule { action: permanent.to_owned(), on_exit_codes: Some(codes), on_pod_conditions: None },
            PodFailurePolicyRule {
                action: "Ignore".to_owned(),
                on_exit_codes: None,
                on_pod_conditions: Some(vec![taken_away]),
            },
        ],
    }
}

fn number(count: u32) -> i32 {
    i32::try_from(count).unwrap_or(i32::MAX)
}
