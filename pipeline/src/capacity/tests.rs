use manifests::plan::Phases;

use super::*;

fn question(gpus: usize) -> Question {
    let times = Times { load: 60.0, claim: 0.05, look: 0.2, lease: 60.0, node_mtbf: f64::INFINITY, requeue: 120.0 };
    let shape = ClusterShape { gpus, kind: "H100".into(), per_node: 8 };
    Question { shape, times, spread: 0.3, price: Some(2.0), rates: BTreeMap::new() }
}

fn measured_at(rows: u64, map: f64, fetch: f64) -> Known {
    let measured =
        Measured { shards: 3, rows, phases: Phases { map, fetch, ..Phases::default() }, ..Measured::default() };
    Known { measured, bytes_per_row: Some(1000.0), inputs: 2, ..Known::default() }
}

fn spec(set: &[&str]) -> BuildSpec {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../manifests/countries/finland.toml");
    let set: Vec<String> = set.iter().map(|s| s.to_string()).collect();
    BuildSpec::read(&path, &set).unwrap()
}

#[test]
fn what_was_measured_goes_before_what_was_counted_and_what_is_said_before_both() {
    let (spec, mut asked) = (spec(&[]), question(8));
    let rate = |known: &BTreeMap<&'static str, Known>, asked: &Question| {
        let steps = steps(&spec, known, asked, |_| 1_000_000);
        steps.into_iter().find(|step| step.step == "segments").unwrap().rate.unwrap()
    };
    let nothing = BTreeMap::from([("segments", Known::default())]);
    let counted = rate(&nothing, &asked);
    // 0.666 s an image on the card
    assert!((counted.rows_per_second * 0.666 - 1.0).abs() < 0.1 && counted.from.contains("H200"), "{counted:?}");
    let known = BTreeMap::from([("segments", measured_at(100, 10.0, 1.0))]);
    let measured = rate(&known, &asked);
    assert_eq!((measured.rows_per_second, measured.from.as_str()), (10.0, "3 shards measured"));
    asked.rates.insert("segments".into(), 7.0);
    assert_eq!(rate(&known, &asked).rows_per_second, 7.0);
}

/// A spec of a laptop asks what a cluster would make of it: counted operations are those of the cluster's devices.
#[test]
fn counted_operations_are_of_the_devices_of_the_cluster() {
    let spec = spec(&["model.device=cpu", "model.precision=f32"]);
    let known = BTreeMap::from([("segments", Known { left_out: [("cpu", 4)].into(), ..Known::default() })]);
    let segments = |shape: &str| {
        let asked = Question { shape: shape.parse().unwrap(), ..question(8) };
        steps(&spec, &known, &asked, |_| 100).into_iter().find(|step| step.step == "segments").unwrap()
    };
    let (gpus, cpus) = (segments("8xH100").rate.unwrap(), segments("8xcpu").rate.unwrap());
    assert!(gpus.from.contains("H200") && cpus.from.contains("two cores"), "{gpus:?} {cpus:?}");
    assert!(gpus.rows_per_second > 10.0 * cpus.rows_per_second, "{gpus:?} {cpus:?}");
    let told = serde_json::to_value(segments("8xH100")).unwrap();
    assert_eq!(told["left_out"], serde_json::json!({ "cpu": 4 }));
}

#[test]
fn a_stage_of_which_nothing_is_known_has_no_hours() {
    let capacity = capacity("images", 1000, None, Some(&Known::default()), 256, &question(8));
    assert_eq!((capacity.gpu_hours, capacity.hours, capacity.cost), (None, None, None));
    assert_eq!(capacity.bottleneck, "not known");
    let nothing = capacity_of(0, 10.0, 8);
    assert_eq!((nothing.hours, nothing.requests), (Some(0.0), 0));
}

fn capacity_of(rows: u64, rows_per_second: f64, gpus: usize) -> StepCapacity {
    let rate = Rate { rows_per_second, from: String::new(), measured: true, waits_for_stores: false };
    capacity("images", rows, Some(rate), Some(&measured_at(1, 1.0, 0.0)), 256, &question(gpus))
}

#[test]
fn hours_fall_with_gpus_until_shards_or_loading_bound_them() {
    // 80 hours of one GPU
    let [one, eight, many] = [1, 8, 128].map(|gpus| capacity_of(2_880_000, 10.0, gpus));
    assert_eq!(one.gpu_hours, Some(80.0));
    assert!((one.hours.unwrap() - 80.0).abs() < 0.1, "{one:?}");
    assert!((10.0..10.5).contains(&eight.hours.unwrap()), "{eight:?}");
    assert_eq!((eight.bottleneck, eight.best_gpus), ("devices", Some(8)));
    assert_eq!(many.bottleneck, "too few shards");
    assert!(many.best_gpus.unwrap() < 128 && many.hours > Some(80.0 / 128.0), "{many:?}");
    let short = capacity_of(2880, 10.0, 8);
    assert_eq!((short.bottleneck, short.best_gpus), ("starting workers", Some(1)));
    assert!((eight.cost.unwrap() - 2.0 * 8.0 * eight.hours.unwrap()).abs() < 1e-9);
    assert_eq!(eight.bytes, Some(2_880_000_000));
    assert!(few_shards(256, 64).is_none() && few_shards(256, 65).unwrap().contains("260 or more"));
}

#[test]
fn stores_that_are_slower_than_devices_are_named() {
    let known = measured_at(100, 1.0, 300.0);
    let rate = rate("images", Some(&known), None, &question(8)).unwrap();
    assert_eq!((rate.rows_per_second, rate.waits_for_stores), (1.0, true));
    assert_eq!(capacity("images", 100_000, Some(rate), Some(&known), 256, &question(8)).bottleneck, "stores");
}

#[test]
fn a_curve_sums_stages_with_shards_alone() {
    let asked = question(8);
    let known = BTreeMap::from([("images", measured_at(100, 10.0, 0.0))]);
    let steps = steps(&spec(&["caption.captioner=geotags"]), &known, &asked, |_| 288_000);
    let point = point(&steps, &known, 256, &asked);
    assert!((point.ideal_hours - 1.0).abs() < 1e-9, "{point:?}");
    assert!(point.hours > 1.0 && point.static_hours >= point.hours - 0.05, "{point:?}");
    assert_eq!((point.shards_per_worker, point.failed_shards), (32.0, 0.0));
}

/// Nodes that fail more often than a shard is done: hours in which rows are not made are no answer.
#[test]
fn shards_that_five_workers_are_lost_with_are_told() {
    let mut asked = question(8);
    asked.times.node_mtbf = 200.0;
    let known = BTreeMap::from([("images", measured_at(1000, 1000.0, 0.0))]);
    let steps = steps(&spec(&["caption.captioner=geotags"]), &known, &asked, |_| 32_000);
    let point = point(&steps, &known, 64, &asked);
    assert!(point.failed_shards >= 1.0, "{point:?}");
    let images = steps.iter().find(|step| step.step == "images").unwrap();
    assert!(images.failed_shards >= 1.0 && images.best_gpus.is_none(), "{images:?}");
}
