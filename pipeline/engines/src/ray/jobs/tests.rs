//! Replies as Ray 2.60 gave them.

use super::*;

const FAILED: &str = r#"{"type": "SUBMISSION", "job_id": null, "submission_id": "uc-1a2b3c4d-try1", "driver_info": null,
    "status": "FAILED", "entrypoint": "python3 t.py", "message": "Job entrypoint command failed with exit code 65, last available logs
    (truncated to 20,000 chars):\nerror: no such folder\n", "error_type": "JOB_ENTRYPOINT_COMMAND_ERROR", "start_time": 1, "end_time": 2,
    "metadata": {"a": "b"}, "runtime_env": {}, "driver_node_id": "4c", "driver_exit_code": 65}"#;

fn seen(status: &str, message: &str, error_type: Option<&str>, code: Option<i64>) -> Seen {
    let reply = json!({ "status": status, "message": message, "error_type": error_type, "driver_exit_code": code });
    Seen::read(reply.to_string().as_bytes()).unwrap()
}

#[test]
fn a_job_is_told_in_a_line() {
    let failed = Seen::read(FAILED.replace('\n', " ").as_bytes()).unwrap();
    assert_eq!(failed.in_words(), "failed (its driver ended with 65: error: no such folder)");
    assert_eq!((failed.failure(), failed.lives()), (Some(65), false));
    let running = seen("RUNNING", "Job is currently running.", None, None);
    assert_eq!((running.in_words().as_str(), running.lives(), running.failure()), ("running", true, None));
    let waits = seen("PENDING", "Job has not started yet. It may be waiting for resources.", None, None);
    assert_eq!(waits.in_words(), "pending (Job has not started yet. It may be waiting for resources.)");
    let message = "runtime_env setup failed: Failed to set up.\n[Node 1] Traceback (most recent call last):\n  File \"a\"\nOSError: \
                   Failed to download.\n\n";
    let no_package = seen("FAILED", message, Some("RUNTIME_ENV_SETUP_FAILURE"), None);
    assert_eq!(no_package.in_words(), "failed (OSError: Failed to download.)");
    assert_eq!(no_package.failure(), Some(65));
    assert!(shortened(&"\u{1b}[31mx".repeat(1000)).len() <= MOST_CHARACTERS);
}

#[test]
fn a_failure_is_passing_where_another_try_can_help() {
    for (code, kind, wanted) in [
        (Some(65), None, 65),
        (Some(75), None, 75),
        (Some(1), None, 65),
        (Some(143), None, 75),
        (Some(-9), None, 75),
        (Some(247), None, 75),
        (None, Some("JOB_SUPERVISOR_ACTOR_DIED"), 75),
        (None, Some("JOB_SUPERVISOR_ACTOR_START_TIMEOUT"), 75),
        (None, None, 75),
        (None, Some("JOB_ENTRYPOINT_COMMAND_START_ERROR"), 65),
    ] {
        assert_eq!(seen("FAILED", "", kind, code).failure(), Some(wanted), "{code:?} {kind:?}");
    }
    for well in ["SUCCEEDED", "STOPPED", "RUNNING", "PENDING"] {
        assert_eq!(seen(well, "", None, Some(65)).failure(), None, "{well}");
    }
}

#[test]
fn what_is_no_reply_is_refused() {
    for garbage in ["", "<html>", "[]", "{}", "{\"status\": \"LOST\"}", "{\"status\": 1}", "null"] {
        assert!(Seen::read(garbage.as_bytes()).is_err(), "{garbage}");
        assert!(log(garbage.as_bytes()).is_err() && version(garbage.as_bytes()).is_err(), "{garbage}");
        assert!(nodes(garbage.as_bytes()).is_err(), "{garbage}");
    }
    assert_eq!(log(b"{\"logs\": \"a\\n\"}").unwrap(), "a\n");
    assert_eq!(version(b"{\"version\": \"4\", \"ray_version\": \"2.60.0\"}").unwrap(), "2.60.0");
}

#[test]
fn tries_of_a_run_have_names_of_their_own() {
    assert_eq!(name("1a2b3c4d", 12), "uc-1a2b3c4d-try12");
    assert_eq!((attempt("uc-1a2b3c4d-try12"), attempt("uc-1a2b3c4d"), attempt("17")), (Some(12), None, None));
}

#[test]
fn a_job_has_its_driver_and_what_the_profile_gives_it() {
    let run = Run { id: "1a2b3c4d".into(), country: "finland".into(), ..Run::default() };
    let of = |profile: &str| {
        let profile = Profile::parse(profile).unwrap();
        submission(&run, "uc-1a2b3c4d-try1", ("a.zip", "uc-1a2b3c4d.py"), &profile).unwrap()
    };
    let job = of("[ray]\npython = \"/opt/ray/bin/python\"\n");
    assert_eq!(job["entrypoint"], "/opt/ray/bin/python uc-1a2b3c4d.py");
    assert_eq!(job["runtime_env"]["working_dir"], "gcs://a.zip");
    assert_eq!(job["runtime_env"]["env_vars"]["RAY_JOB_STOP_WAIT_TIME_S"], "75");
    assert!(job.get("entrypoint_num_gpus").is_none(), "it runs on the head node");
    let job = of("[stage.drive]\ngpus = 1\ncpus = 8\nmemory = \"1G\"\n");
    assert_eq!((&job["entrypoint_num_gpus"], &job["entrypoint_memory"]), (&json!(1), &json!(1 << 30)));
}

#[test]
fn nodes_are_asked_for_what_a_process_needs() {
    let node = |state: &str, gpus: f64| json!({ "state": state, "resources_total": { "CPU": 4.0, "GPU": gpus, "memory": 8e9, "node:1": 1.0 } });
    let reply = json!({ "data": { "result": { "result": [node("ALIVE", 1.0), node("DEAD", 8.0)] } } });
    let nodes = nodes(reply.to_string().as_bytes()).unwrap();
    assert_eq!(nodes, [Needs { cpus: 4, gpus: 1, memory: 8_000_000_000 }]);
    let needs = Needs { cpus: 4, gpus: 1, memory: 1 << 30 };
    assert_eq!(too_small("captions", needs, &nodes), None);
    let said = too_small("captions", Needs { gpus: 2, ..needs }, &nodes).unwrap();
    assert!(said.contains("captions: a process needs 4 CPUs, 2 GPUs and 1024 MiB"), "{said}");
    assert!(too_small("captions", needs, &[]).is_some());
}
