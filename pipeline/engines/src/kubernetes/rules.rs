//! What a server refuses, and what cannot work, though every field is of its type.

use k8s_openapi::api::batch::v1::{Job, JobSpec};
use k8s_openapi::api::core::v1::{ConfigMap, Container, PodSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::Object;
use crate::memory;

/// The longest label, and the longest name of a pod's host.
const LONGEST_LABEL: usize = 63;
const MOST_INDICES_AT_ONCE: i32 = 100_000;
/// The same where a job has more completions than that.
const MOST_INDICES_OF_MANY: i32 = 10_000;
const LARGEST_CONFIG_MAP: usize = 1 << 20;

/// What is wrong with objects, each with the object's name; empty: a server takes them.
pub fn problems(objects: &[Object]) -> Vec<String> {
    let of_object = |object: &Object| match object {
        Object::ConfigMap(object) => named(&object.metadata, of_config_map(object)),
        Object::Job(object) => named(&object.metadata, of_job(object)),
    };
    objects.iter().flat_map(of_object).collect()
}

fn named(metadata: &ObjectMeta, mut problems: Vec<String>) -> Vec<String> {
    problems.extend(of_metadata(metadata));
    let name = metadata.name.as_deref().unwrap_or("an object without a name");
    problems.into_iter().map(|problem| format!("{name}: {problem}")).collect()
}

fn of_metadata(metadata: &ObjectMeta) -> Vec<String> {
    let mut problems = Vec::new();
    for (what, name) in [("name", &metadata.name), ("namespace", &metadata.namespace)] {
        if !name.as_deref().is_none_or(is_label) {
            problems.push(format!(
                "its {what} {:?} is no label: use small letters, digits and hyphens, at most {LONGEST_LABEL}",
                name.as_deref().unwrap_or_default()
            ));
        }
    }
    for (key, value) in metadata.labels.iter().flatten() {
        if !is_label_value(value) {
            problems.push(format!("{value:?} cannot be the value of the label {key}"));
        }
    }
    problems
}

fn is_label(name: &str) -> bool {
    let inner = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    !name.is_empty()
        && name.len() <= LONGEST_LABEL
        && name.chars().all(inner)
        && !name.starts_with('-')
        && !name.ends_with('-')
}

fn is_label_value(value: &str) -> bool {
    let inner = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    let end = |c: char| c.is_ascii_alphanumeric();
    value.len() <= LONGEST_LABEL
        && value.chars().all(inner)
        && (value.is_empty() || (value.starts_with(end) && value.ends_with(end)))
}

fn of_config_map(object: &ConfigMap) -> Vec<String> {
    let bytes: usize = object.data.iter().flatten().map(|(name, text)| name.len() + text.len()).sum();
    let is_large = bytes > LARGEST_CONFIG_MAP;
    is_large
        .then(|| format!("spec and profile have {bytes} bytes, and {LARGEST_CONFIG_MAP} are the most"))
        .into_iter()
        .collect()
}

fn of_job(object: &Job) -> Vec<String> {
    let Some(spec) = &object.spec else { return vec!["it has no spec".to_owned()] };
    let mut problems = of_counts(spec, object.metadata.name.as_deref().unwrap_or_default());
    match &spec.template.spec {
        Some(pod) => {
            if spec.pod_failure_policy.is_some() && pod.restart_policy.as_deref() != Some("Never") {
                problems.push("a policy for failures wants restartPolicy Never".to_owned());
            }
            problems.extend(of_pod(pod));
        }
        None => problems.push("its pods have no spec".to_owned()),
    }
    problems
}

fn of_counts(spec: &JobSpec, name: &str) -> Vec<String> {
    let mut problems = Vec::new();
    if spec.pod_failure_policy.is_some() && spec.pod_replacement_policy.as_deref().is_some_and(|p| p != "Failed") {
        problems.push("a policy for failures wants podReplacementPolicy Failed".to_owned());
    }
    if spec.completion_mode.as_deref() != Some("Indexed") {
        if spec.backoff_limit_per_index.is_some() || spec.max_failed_indexes.is_some() || spec.success_policy.is_some()
        {
            problems.push("only an Indexed job has limits for each index and a policy for success".to_owned());
        }
        return problems;
    }
    let Some(completions) = spec.completions.filter(|count| *count > 0) else {
        problems.push("an Indexed job without completions has no pods: ask for one worker at least".to_owned());
        return problems;
    };
    let most = if completions > MOST_INDICES_AT_ONCE { MOST_INDICES_OF_MANY } else { MOST_INDICES_AT_ONCE };
    for (what, count) in [("parallelism", spec.parallelism), ("maxFailedIndexes", spec.max_failed_indexes)] {
        if count.is_some_and(|count| count > most) {
            problems
                .push(format!("{what} may be {most} at most with {completions} completions: ask for fewer workers"));
        }
    }
    if spec.max_failed_indexes.is_some() && spec.backoff_limit_per_index.is_none() {
        problems.push("maxFailedIndexes wants backoffLimitPerIndex".to_owned());
    }
    let host = format!("{name}-{}", completions - 1);
    if host.len() > LONGEST_LABEL {
        problems.push(format!(
            "{host:?} has {} characters, and the host of a pod has {LONGEST_LABEL} at most: ask for fewer workers",
            host.len()
        ));
    }
    problems
}

fn of_pod(pod: &PodSpec) -> Vec<String> {
    let mut problems = Vec::new();
    let security = pod.security_context.clone().unwrap_or_default();
    if security.run_as_non_root == Some(true) && security.run_as_user.is_none_or(|user| user == 0) {
        problems.push("runAsNonRoot wants a user by number, other than 0".to_owned());
    }
    let volumes: Vec<&str> = pod.volumes.iter().flatten().map(|volume| volume.name.as_str()).collect();
    for container in &pod.containers {
        for mount in container.volume_mounts.iter().flatten().filter(|mount| !volumes.contains(&mount.name.as_str())) {
            problems.push(format!("{} mounts {}, and there is no such volume", container.name, mount.name));
        }
        problems.extend(of_container(container));
    }
    problems
}

fn of_container(container: &Container) -> Vec<String> {
    let mut problems = Vec::new();
    if container.image.as_deref().is_none_or(str::is_empty) {
        problems.push("there is no image: set kubernetes.image in the profile".to_owned());
    }
    let resources = container.resources.clone().unwrap_or_default();
    let (limits, requests) = (resources.limits.unwrap_or_default(), resources.requests.unwrap_or_default());
    // the server's own resources may be asked for below their limit; those of devices may not
    for (name, limit) in limits.iter().filter(|(name, _)| name.contains('/')) {
        if requests.get(name).is_some_and(|request| request != limit) {
            problems.push(format!(
                "it asks for {} of {name} and may have {}: both must be the same",
                requests[name].0, limit.0
            ));
        }
    }
    for name in requests.keys().filter(|name| name.contains('/') && !limits.contains_key(*name)) {
        problems.push(format!("{name} wants a limit"));
    }
    if let Some(memory) = limits.get("memory").filter(|memory| memory::mebibytes(&memory.0).is_none_or(|mib| mib == 0))
    {
        problems.push(format!("{:?} is no amount of memory: write it like \"16G\" in the profile", memory.0));
    }
    problems
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::job::{Run, Work};
    use crate::profile::Profile;

    fn job(workers: u32) -> Job {
        let run =
            Run { id: "1a2b3c4d".into(), country: "x".into(), spec: "country = \"x\"\n".into(), ..Run::default() };
        let profile = Profile::parse("[kubernetes]\nimage = \"urbancross:1\"\n[stage.default]\ngpus = 1\n").unwrap();
        let work = Work::Map { plan: "9f8e7d6c".into(), workers, lease_seconds: 60 };
        match super::super::job(&run, &crate::job::Job { step: "captions".into(), work }, &profile) {
            Object::Job(job) => *job,
            Object::ConfigMap(_) => unreachable!(),
        }
    }

    /// What is said of a job that `break_it` has changed.
    fn said(break_it: impl FnOnce(&mut Job, &mut JobSpec, &mut PodSpec)) -> Vec<String> {
        let mut job = job(3);
        let mut spec = job.spec.take().unwrap();
        let mut pod = spec.template.spec.take().unwrap();
        break_it(&mut job, &mut spec, &mut pod);
        spec.template.spec = Some(pod);
        job.spec = Some(spec);
        problems(&[Object::Job(Box::new(job))])
    }

    #[test]
    fn what_is_rendered_breaks_no_rule() {
        assert_eq!(said(|_, _, _| ()), [] as [String; 0]);
        assert_eq!(problems(&[Object::Job(Box::new(job(100_000)))]), [] as [String; 0]);
    }

    #[test]
    fn each_rule_names_what_breaks_it() {
        let only = |found: Vec<String>, wanted: &str| {
            assert!(found.len() == 1 && found[0].contains(wanted) && found[0].contains(": "), "{wanted}: {found:?}");
        };
        only(
            said(|_, spec, _| spec.pod_replacement_policy = Some("TerminatingOrFailed".into())),
            "podReplacementPolicy",
        );
        only(said(|_, _, pod| pod.restart_policy = Some("OnFailure".into())), "restartPolicy Never");
        only(said(|_, spec, _| spec.completion_mode = None), "only an Indexed job");
        only(said(|_, spec, _| spec.completions = None), "without completions");
        only(said(|_, spec, _| spec.completions = Some(0)), "without completions");
        only(said(|_, spec, _| spec.backoff_limit_per_index = None), "wants backoffLimitPerIndex");
        only(said(|_, spec, _| spec.parallelism = Some(100_001)), "parallelism may be 100000 at most");
        let many = |spec: &mut JobSpec| spec.completions = Some(100_001);
        let few = said(|_, spec, _| (many(spec), spec.parallelism = Some(10_001)).1);
        only(few, "parallelism may be 10000 at most");
        let few = said(|_, spec, _| (many(spec), spec.max_failed_indexes = Some(10_001)).1);
        only(few, "maxFailedIndexes may be 10000 at most");
        only(said(|job, _, _| job.metadata.name = Some("a".repeat(62))), "64 characters");
        only(said(|job, _, _| job.metadata.name = Some("A_b".into())), "is no label");
        only(said(|job, _, _| job.metadata.namespace = Some("-".into())), "is no label");
        only(said(|job, _, _| _ = job.metadata.labels.as_mut().unwrap().insert("a".into(), "b c".into())), "label a");
        only(said(|_, _, pod| pod.security_context.as_mut().unwrap().run_as_user = None), "by number");
        only(said(|_, _, pod| pod.security_context.as_mut().unwrap().run_as_user = Some(0)), "by number");
        only(said(|_, _, pod| _ = pod.volumes.as_mut().unwrap().remove(1)), "mounts tmp");
        only(said(|_, _, pod| pod.containers[0].image = Some(String::new())), "kubernetes.image");
        let amounts = |pod: &mut PodSpec, of_requests: bool, name: &str, amount: Option<&str>| {
            let resources = pod.containers[0].resources.as_mut().unwrap();
            let map = if of_requests { &mut resources.requests } else { &mut resources.limits };
            let map = map.as_mut().unwrap();
            map.remove(name);
            map.extend(
                amount.map(|a| (name.to_owned(), k8s_openapi::apimachinery::pkg::api::resource::Quantity(a.into()))),
            );
        };
        only(said(|_, _, pod| amounts(pod, true, "nvidia.com/gpu", Some("2"))), "both must be the same");
        only(said(|_, _, pod| amounts(pod, false, "nvidia.com/gpu", None)), "wants a limit");
        only(said(|_, _, pod| amounts(pod, false, "memory", Some("a lot"))), "no amount of memory");
    }

    #[test]
    fn a_spec_that_no_config_map_holds_is_named() {
        let run = Run { id: "1a2b3c4d".into(), country: "x".into(), spec: "#".repeat(1 << 20), ..Run::default() };
        let found = problems(&[super::super::config_map(&run, &Profile::default())]);
        assert!(found.len() == 1 && found[0].contains("bytes"), "{found:?}");
    }
}
