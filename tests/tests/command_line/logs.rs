//! Lines as objects, figures over HTTP, and what must never be told.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use pipeline_tests::{World, urbancross};
use serde_json::Value;

use crate::{call, ends, spec_file};

fn lines(stderr: &[u8]) -> Vec<Value> {
    let text = String::from_utf8_lossy(stderr);
    text.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"))).collect()
}

#[test]
fn every_line_of_a_run_is_an_object() {
    let world = World::new(6);
    let spec = &spec_file(&world);
    let output = call(&["run", spec, "--until", "images", "--log", "json"]);
    ends(&output, 0);
    let lines = lines(&output.stderr);
    for line in &lines {
        assert!(["ts", "level", "event", "message"].iter().all(|key| line[key].is_string()), "{line}");
    }
    let stage = |line: &&Value| line["event"] == "stage" && line["stage"] == "images" && line["seconds"].is_number();
    assert_eq!(lines.iter().filter(stage).count(), 1, "{lines:?}");
    let shards = lines.iter().filter(|line| line["event"] == "shard");
    assert!(shards.clone().count() > 0 && shards.clone().all(|line| line["shard"].is_u64()), "{lines:?}");
}

#[test]
fn workers_of_a_driver_say_who_they_are() {
    let world = World::new(6);
    let spec = &spec_file(&world);
    let output = call(&["drive", spec, "--until", "geotags", "--workers", "2", "--log", "json"]);
    ends(&output, 0);
    let lines = lines(&output.stderr);
    let of_workers: Vec<&Value> = lines.iter().filter(|line| line["worker"].is_string()).collect();
    assert!(!of_workers.is_empty(), "{lines:?}");
    for line in of_workers {
        assert!(line["stage"] == "geotags" && line["plan"].is_string() && line["node"].is_string(), "{line}");
    }
}

#[test]
fn secrets_are_never_told() {
    let secret = "wJalrXUtnFEMI-K7MDENG-bPxRfiCY";
    for format in ["text", "json"] {
        for spec in [format!("{secret}.toml"), "https://somebody:hunter22@host/x.toml?sig=c2lnbmF0dXJl".to_owned()] {
            let mut command = Command::new(urbancross());
            command.env("AWS_SECRET_ACCESS_KEY", secret).args(["plan", &spec, "--log", format]);
            let told = ends(&command.output().unwrap(), 65);
            assert!(told.contains("[hidden]"), "{told}");
            for never in [secret, "hunter22", "c2lnbmF0dXJl"] {
                assert!(!told.contains(never), "{told}");
            }
        }
    }
}

#[test]
fn figures_are_served_while_a_run_lives() {
    let world = World::new(24);
    let spec = &spec_file(&world);
    let mut run = Command::new(urbancross())
        .args(["run", spec, "--metrics", "0", "--set", "pretrain.epochs=500"])
        .stderr(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let mut told = BufReader::new(run.stderr.take().unwrap()).lines();
    let address =
        told.find_map(|line| Some(line.ok()?.strip_prefix("metrics: http://")?.strip_suffix("/metrics")?.to_owned()));
    let address = address.expect("an address");
    assert!(address.starts_with("127.0.0.1:"), "{address}");
    // whoever does not listen would stop it
    let listening = std::thread::spawn(move || told.for_each(drop));
    let wanted = [
        "urbancross_store_requests_total{op=\"put\",code=\"ok\"}",
        "urbancross_store_seconds_bucket{op=\"get\",le=\"+Inf\"}",
        "urbancross_rows_total{stage=\"images\",outcome=\"computed\"} 24",
        "urbancross_shard_seconds_count{stage=\"segments\",phase=\"map\"}",
        "urbancross_device_busy_ratio{device=\"cpu\"}",
        "urbancross_worker_idle_seconds_total{reason=\"input\"}",
    ];
    let until = Instant::now() + Duration::from_secs(60);
    let mut seen = String::new();
    while !wanted.iter().all(|line| seen.contains(line)) {
        assert!(Instant::now() < until, "{seen}");
        std::thread::sleep(Duration::from_millis(50));
        seen.clear();
        let mut visit = TcpStream::connect(&address).expect("the run lives");
        visit.write_all(b"GET /metrics HTTP/1.1\r\n\r\n").unwrap();
        visit.read_to_string(&mut seen).unwrap();
    }
    run.kill().unwrap();
    run.wait().unwrap();
    listening.join().unwrap();
}

#[test]
fn a_cluster_is_planned_from_what_was_measured() {
    let world = World::new(12);
    let spec = &spec_file(&world);
    assert!(ends(&call(&["simulate", spec, "--cluster", "8xH100"]), 65).contains("--rows"));
    ends(&call(&["run", spec, "--until", "images"]), 0);
    let output = call(&["simulate", spec, "--cluster", "8xH100", "--gpus", "1,8", "--rate", "segments=2", "--json"]);
    let told = ends(&output, 0);
    assert!(told.contains("work.shards = "), "too few shards: {told}");
    let found: Value = serde_json::from_slice(&output.stdout).unwrap();
    let step =
        |name: &str| found["steps"].as_array().unwrap().iter().find(|step| step["step"] == name).unwrap().clone();
    assert!(step("images")["rate"]["from"].as_str().unwrap().contains("measured"), "{found}");
    assert!(step("captions")["rate"].is_null() && step("captions")["rows"] == 12, "{found}");
    assert_eq!(step("segments")["rate"]["rows_per_second"], 2.0);
    let hours: Vec<f64> = found["curve"].as_array().unwrap().iter().map(|p| p["hours"].as_f64().unwrap()).collect();
    assert!(hours.len() == 2 && hours[1] <= hours[0], "{hours:?}");
    assert!(ends(&call(&["simulate", spec, "--cluster", "8xH100", "--rate", "segment=2"]), 65).contains("segments"));
    let planned = call(&["plan", spec, "--cluster", "8xH100,4/node", "--price-per-gpu-hour", "2"]);
    let told = ends(&planned, 0);
    assert!(told.contains("on 8 x H100, 4 per node") && told.contains("shards measured"), "{told}");
    ends(&call(&["plan", spec, "--cluster", "8"]), 2);
}

/// A build tried on a laptop says nothing of GPUs, but where no network is asked.
#[test]
fn rates_of_a_cpu_are_not_those_of_gpus() {
    let world = World::new(12);
    let spec = &spec_file(&world);
    ends(&call(&["run", spec, "--until", "segment_features"]), 0);
    let of = |cluster: &str, more: &[&str]| -> Value {
        let output = call(&[&["plan", spec, "--cluster", cluster, "--json"], more].concat());
        ends(&output, 0);
        serde_json::from_slice(&output.stdout).unwrap()
    };
    let step = |plan: &Value, name: &str| {
        plan.as_array().unwrap().iter().find(|line| line["step"] == name).unwrap()["cluster"].clone()
    };
    let (gpus, cpus) = (of("64xH100,8/node", &[]), of("4xCPU,1/node", &[]));
    let (on_gpus, on_cpus) = (step(&gpus, "segment_features"), step(&cpus, "segment_features"));
    assert!(on_gpus["rate"]["from"].as_str().unwrap().starts_with("counted operations on one NVIDIA"), "{on_gpus}");
    assert_eq!((&on_gpus["rate"]["measured"], &on_gpus["left_out"]["cpu"]), (&Value::Bool(false), &Value::from(3)));
    assert!(on_cpus["rate"]["from"].as_str().unwrap().contains("3 shards measured"), "{on_cpus}");
    assert!(on_cpus["left_out"].is_null(), "{on_cpus}");
    // no network: whatever runs them has processors
    let images = step(&gpus, "images");
    assert!(images["rate"]["from"].as_str().unwrap().contains("3 shards measured"), "{images}");
    let said = of("64xH100,8/node", &["--rate", "segment_features=5"]);
    assert_eq!(step(&said, "segment_features")["rate"]["rows_per_second"], 5.0);
    for command in [&["plan", spec, "--cluster", "64xH100,8/node"][..], &["simulate", spec, "--cluster", "64xH100"]] {
        let told = ends(&call(command), 0);
        let line = told.lines().find(|line| line.starts_with("left out: ")).unwrap_or_else(|| panic!("{told}"));
        let wanted = "3 shards of segment_features: CPUs made them, and these are GPUs";
        assert!(line.contains(wanted) && line.contains("--rate STAGE=ROWS"), "{line}");
    }
    let told = ends(&call(&["plan", spec, "--cluster", "4xCPU,1/node"]), 0);
    assert!(told.contains("CPU-hours") && !told.contains("left out: "), "{told}");
}

#[test]
fn words_of_a_step_or_run_that_is_none_are_refused() {
    let world = World::new(20);
    let spec = spec_file(&world);
    ends(&call(&["run", &spec, "--until", "geotags"]), 0);
    let said = ends(&call(&["logs", &spec, "--step", "nonsense"]), 65);
    assert!(said.contains("captions") && said.contains("pretrain"), "{said}");
    assert!(ends(&call(&["logs", &spec, "--run", "0000"]), 65).contains("there is none"));
    ends(&call(&["logs", &spec, "--step", "captions"]), 0);
}
