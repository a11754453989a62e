//! What real controllers said, replayed: at each event the words are true.

use std::collections::BTreeMap;
use std::path::PathBuf;

use engines::kubernetes::JobState::{
    self, Cancelled, Failed, NodeLost, Recovering, Running, Starting, Succeeded, Suspended,
};
use engines::kubernetes::{Seen, seen};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::Pod;
use serde_json::Value;

/// What was true after each event of the job or of one of its pods, where that changed, and when.
fn replay(stream: &str) -> Option<Vec<(f64, Seen)>> {
    let Ok(data) = std::env::var("URBANCROSS_TEST_DATA") else {
        println!("skipped: URBANCROSS_TEST_DATA is not set");
        return None;
    };
    let path = PathBuf::from(data).join("data/kubernetes_streams").join(format!("{stream}.jsonl"));
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let (mut job, mut pods) = (None::<Job>, BTreeMap::<String, Pod>::new());
    let mut told: Vec<(f64, Seen)> = Vec::new();
    for line in text.lines() {
        let event: Value = serde_json::from_str(line).unwrap();
        let (object, is_gone) = (&event["object"], event["type"] == "DELETED");
        match object["kind"].as_str() {
            Some("Job") => job = (!is_gone).then(|| serde_json::from_value(object.clone()).unwrap()),
            Some("Pod") => {
                let name = object["metadata"]["name"].as_str().unwrap().to_owned();
                match is_gone {
                    true => _ = pods.remove(&name),
                    false => _ = pods.insert(name, serde_json::from_value(object.clone()).unwrap()),
                }
            }
            _ => continue, // events
        }
        let Some(job) = &job else { continue };
        let now = seen(job, &pods.values().cloned().collect::<Vec<_>>());
        if told.last().is_none_or(|(_, before)| *before != now) {
            told.push((event["t"].as_f64().unwrap(), now));
        }
    }
    Some(told)
}

/// Checks what was true from when on: state and words.
fn holds(stream: &str, wanted: &[(f64, JobState, &str)]) {
    let Some(told) = replay(stream) else { return };
    let found: Vec<(f64, JobState, &str)> =
        told.iter().map(|(t, seen)| ((t * 100.0).round() / 100.0, seen.state, seen.words.as_str())).collect();
    assert_eq!(found, wanted, "{stream}");
}

#[test]
fn a_stage_that_is_closed_has_succeeded_before_its_pods_have_ended() {
    let wanted = [
        (1.26, Starting, "starts; 0 of 3 pods running"),
        (1.47, Running, "1 of 3 pods running"),
        (1.48, Running, "2 of 3 pods running"),
        (1.49, Running, "3 of 3 pods running"),
        (13.93, Succeeded, "succeeded; 2 pods still to end"),
        (14.22, Succeeded, "succeeded; 1 pod still to end"),
        (14.65, Succeeded, "succeeded"),
    ];
    holds("done", &wanted);
}

#[test]
fn a_killed_worker_is_named_until_another_runs() {
    let wanted = [
        (0.89, Starting, "starts; 0 of 3 pods running"),
        (1.02, Running, "1 of 3 pods running"),
        (1.03, Running, "2 of 3 pods running"),
        (1.07, Running, "3 of 3 pods running"),
        (5.08, Recovering, "worker 0 on n2 is gone (exit code 137), another follows; 2 of 3 pods running"),
        (14.37, Running, "2 of 3 pods running"),
        (14.5, Running, "3 of 3 pods running"),
        (16.28, Succeeded, "succeeded; 2 pods still to end"),
        (16.32, Succeeded, "succeeded; 1 pod still to end"),
        (16.33, Succeeded, "succeeded"),
    ];
    holds("worker-killed", &wanted);
}

#[test]
fn an_evicted_worker_is_told_to_leave_and_replaced() {
    let wanted = [
        (0.57, Starting, "starts; 0 of 3 pods running"),
        (0.63, Running, "1 of 3 pods running"),
        (0.65, Running, "2 of 3 pods running"),
        (0.66, Running, "3 of 3 pods running"),
        (4.76, Running, "3 of 3 pods running; worker 0 on n1 is told to leave (EvictionByEvictionAPI)"),
        (5.37, Recovering, "worker 0 on n1 is gone (EvictionByEvictionAPI), another follows; 2 of 3 pods running"),
        (14.55, Running, "2 of 3 pods running"),
        (14.59, Running, "3 of 3 pods running"),
        (15.97, Succeeded, "succeeded; 2 pods still to end"),
        (16.11, Succeeded, "succeeded; 1 pod still to end"),
        (16.12, Succeeded, "succeeded"),
    ];
    holds("evicted", &wanted);
}

#[test]
fn workers_that_can_never_work_fail_the_job() {
    let wanted = [
        (0.9, Starting, "starts; 0 of 3 pods running"),
        (0.99, Running, "1 of 3 pods running"),
        (1.0, Running, "2 of 3 pods running"),
        (1.0, Running, "3 of 3 pods running"),
        (13.01, Running, "2 of 3 pods running; worker 0 on n1 failed for good (exit code 65, see its log)"),
        (13.03, Running, "1 of 3 pods running; worker 0 on n1 and 1 more failed for good (exit code 65, see its log)"),
        (13.06, Failed, "failed; worker 0 on n1 (exit code 65, see its log)"),
        (14.04, Failed, "failed: Job has failed indexes; worker 0 on n1 (exit code 65, see its log)"),
    ];
    holds("permanent", &wanted);
}

#[test]
fn a_suspended_job_ends_its_pods_and_goes_on() {
    let wanted = [
        (1.32, Starting, "starts; 0 of 3 pods running"),
        (1.69, Running, "1 of 3 pods running"),
        (1.7, Running, "2 of 3 pods running"),
        (1.74, Running, "3 of 3 pods running"),
        (5.45, Suspended, "is suspended; 3 pods still to end"),
        (6.25, Suspended, "is suspended; 2 pods still to end"),
        (6.44, Suspended, "is suspended; 1 pod still to end"),
        (6.46, Suspended, "is suspended"),
        (9.63, Starting, "starts; 0 of 3 pods running"),
        (9.68, Running, "1 of 3 pods running"),
        (9.69, Running, "2 of 3 pods running"),
        (9.7, Running, "3 of 3 pods running"),
        (17.65, Succeeded, "succeeded; 2 pods still to end"),
        (17.67, Succeeded, "succeeded; 1 pod still to end"),
        (17.86, Succeeded, "succeeded"),
    ];
    holds("suspended", &wanted);
}

#[test]
fn a_cancelled_job_is_being_deleted_until_its_pods_have_ended() {
    let wanted = [
        (0.86, Starting, "starts; 0 of 3 pods running"),
        (1.13, Running, "1 of 3 pods running"),
        (1.28, Running, "2 of 3 pods running"),
        (1.54, Running, "3 of 3 pods running"),
        (5.06, Cancelled, "is being deleted; 3 pods still to end"),
        (5.67, Cancelled, "is being deleted; 2 pods still to end"),
        (5.85, Cancelled, "is being deleted; 1 pod still to end"),
        (5.87, Cancelled, "is being deleted"),
    ];
    holds("cancelled", &wanted);
}

#[test]
fn a_lost_node_is_named_and_others_close_the_stage() {
    let wanted = [
        (0.49, Starting, "starts; 0 of 3 pods running"),
        (0.62, Running, "1 of 3 pods running"),
        (0.68, Running, "2 of 3 pods running"),
        (0.69, Running, "3 of 3 pods running"),
        (13.5, NodeLost, "worker 1 on n2 is not heard of; 2 of 3 pods running"),
        (16.71, Succeeded, "succeeded; worker 1 on n2 is not heard of; 2 pods still to end"),
        (16.88, Succeeded, "succeeded; worker 1 on n2 is not heard of; 1 pod still to end"),
        (34.62, Succeeded, "succeeded"),
    ];
    holds("node-lost", &wanted);
}
