//! Curves over settings (the paper's Figure 5), and what segments are worth within a country (its Table 1).

use std::path::Path;
use std::process::Command;

use pipeline::sweep::{Curve, SingleDomain};
use pipeline_tests::{World, open, rows, run, urbancross};

/// What a command prints with `--json`, and the page that it writes.
fn told(arguments: &[&str], spec: &Path, page: &Path) -> (serde_json::Value, String) {
    let output = Command::new(urbancross()).args(arguments).arg(spec).arg("--json").arg("--report").arg(page).output();
    let output = output.unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    (serde_json::from_slice(&output.stdout).unwrap(), std::fs::read_to_string(page).unwrap())
}

fn files_below(folder: &Path) -> usize {
    let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    entries.map(|path| if path.is_dir() { files_below(&path) } else { 1 }).sum()
}

#[tokio::test(flavor = "multi_thread")]
async fn settings_become_curves_and_segments_a_table() {
    let world = World::new(40);
    // a bootstrap of one epoch finds hardly a segment similar to its caption
    let text = world.spec_text("work").replace("[score]\n", "[score]\nmin_similarity = -1.0\n");
    let (build, _) = run(manifests::BuildSpec::parse(&text, "t", &[]).unwrap()).await.unwrap();
    // what the network makes of segments is told after each epoch that learns from them
    let report = pipeline::page::make(std::slice::from_ref(&build), &[], "now").await.unwrap();
    assert!(report.contains("What pretrain makes of segments") && !report.contains("What bootstrap makes"));
    let (spec, page) = (world.path("finland.toml"), world.path("page.html"));
    std::fs::write(&spec, &text).unwrap();

    let over = [
        "sweep",
        "--over",
        "pretrain.learning_rate=1e-3,1e-5",
        "--over",
        "pretrain.batch=8,16",
        "--over",
        "pretrain.segments_per_image=0,2",
        "--over",
        "pretrain.epochs=1,2",
    ];
    let (curves, html) = told(&over, &spec, &page);
    let curves: Vec<Curve> = serde_json::from_value(curves).unwrap();
    let fields: Vec<&str> = curves.iter().map(|curve| curve.field.as_str()).collect();
    assert_eq!(fields, ["learning_rate", "batch", "segments_per_image", "epochs"].map(|f| format!("pretrain.{f}")));
    for curve in &curves {
        assert_eq!((curve.country.as_str(), curve.points.len()), ("finland", 2));
        assert!(curve.points[0].value < curve.points[1].value, "{curve:?}");
        assert!(curve.points.iter().all(|point| (0.0..=100.0).contains(&point.validation_mean_recall)), "{curve:?}");
        let chances: Vec<f64> = curve.points.iter().filter_map(|point| point.validation_chance).collect();
        assert!(chances.len() == 2 && chances[0] > 0.0 && chances[0] == chances[1], "one validation split: {curve:?}");
        assert!(html.contains(&curve.field));
    }
    assert!(html.contains("guessing"), "chance is a line of each chart");
    assert!(html.contains("<svg"));
    let again: Vec<Curve> = serde_json::from_value(told(&over, &spec, &page).0).unwrap();
    assert_eq!(again, curves, "what was trained stands");

    // settings of segments: these are made beside the tables, which stay as they are
    let build = open(manifests::BuildSpec::parse(&text, "t", &[]).unwrap()).await.unwrap();
    let before = rows(&build).await;
    let over = [
        "sweep",
        "--over",
        "score.max_segments=1,3",
        "--over",
        "score.crop_margin=0.1,0.4",
        "--over",
        "score.bootstrap_epochs=1,2",
        "--over",
        "evaluate.average_over_turns=false,true",
        "--over",
        "evaluate.protocol=standard,dedup",
    ];
    let (curves, html) = told(&over, &spec, &page);
    let curves: Vec<Curve> = serde_json::from_value(curves).unwrap();
    let of = |at: usize, point: usize| &curves[at].points[point];
    assert_eq!((curves.len(), of(3, 1).name().as_str(), of(4, 0).name().as_str()), (5, "true", "standard"));
    // the base's own value is the base's own training
    let base = of(1, 0).validation_mean_recall;
    assert!(
        [of(2, 0), of(3, 0), of(4, 0)].iter().all(|point| (point.validation_mean_recall - base).abs() < 1e-3),
        "{curves:?}"
    );
    assert!(html.contains("score.max_segments") && html.contains("evaluate.protocol of finland"));
    assert_eq!(rows(&build).await, before, "no row of the build has changed");
    let build = open(manifests::BuildSpec::parse(&text, "t", &[]).unwrap()).await.unwrap();
    assert_eq!(rows(&build).await, before, "nor has a newer version come");
    let said = |over: &[&str]| {
        let output = Command::new(urbancross()).arg("sweep").args(over).arg(&spec).output().unwrap();
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    let parts = || files_below(&world.path("work/tables"));
    let made = parts();
    let again = said(&["--over", "score.max_segments=1,3", "--over", "score.crop_margin=0.4"]);
    assert!(!again.contains("epochs") && parts() == made, "what was made stands: {again}");
    let pair = said(&["--over", "adapt.batch=2,4"]);
    assert!(pair.contains("name the spec of a pair"), "{pair}");

    // a value that cannot be trained with is found before those that can are trained
    for (over, words) in [
        ("pretrain.epochs=3,0", "pretrain.epochs = 0"),
        ("pretrain.dropout=0.1,nan", "pretrain.dropout = NaN"),
        ("pretrain.batch=4,4096", "pretrain.batch = 4096 is more than"),
    ] {
        let output = Command::new(urbancross()).args(["sweep", "--over", over]).arg(&spec).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        let first = format!("with {}", over.split(',').next().unwrap());
        assert!(output.status.code() == Some(65) && said.contains(words) && !said.contains(&first), "{said}");
    }

    let (table, html) = told(&["single-domain"], &spec, &page);
    let lines: Vec<SingleDomain> = serde_json::from_value(table.clone()).unwrap();
    assert_eq!(lines.iter().map(|line| line.with_segments).collect::<Vec<_>>(), [false, true]);
    assert_eq!(lines[0].recall.image_gallery, lines[1].recall.image_gallery);
    assert_ne!(lines[0].model_digest, lines[1].model_digest, "learning from segments is another model");
    assert!(html.contains("finland"));
    assert!(html.contains("chance"));
    assert_eq!(told(&["single-domain"], &spec, &page).0, table);
    let printed = Command::new(urbancross()).arg("single-domain").arg(&spec).output().unwrap().stdout;
    let quoted = lines[0].recall.exact.pessimistic.in_words();
    assert!(String::from_utf8_lossy(&printed).starts_with(&quoted) && quoted.starts_with("mR "), "{quoted}");
    assert!(quoted.contains(" (chance "), "{quoted}");
}

/// A driver gives segments to workers, and each value's training or measure to a process of its own; what the build says of itself
/// stays.
#[tokio::test(flavor = "multi_thread")]
async fn a_driven_sweep_is_that_of_one_process() {
    let world = World::new(40);
    let spec = |work: &str| {
        let path = world.path(&format!("{work}.toml"));
        let text = world.spec_text(work).replace("[score]\n", "[score]\nmin_similarity = -1.0\n");
        std::fs::write(&path, &text).unwrap();
        (path, manifests::BuildSpec::parse(&text, "t", &[]).unwrap())
    };
    let ([alone, driven], mut builds) = (["alone", "driven"].map(|work| spec(work).0), Vec::new());
    for work in ["alone", "driven"] {
        builds.push(run(spec(work).1).await.unwrap().0);
    }
    let over = "--over score.max_segments=1,3 --over score.bootstrap_epochs=1,2 --over evaluate.average_over_turns=false,true \
                --over pretrain.epochs=1";
    let over: Vec<&str> = over.split_whitespace().collect();
    let curves = |of: &Path| -> Vec<Curve> {
        let told = told(&[&["sweep"][..], &over].concat(), of, &world.path("page.html")).0;
        let mut curves: Vec<Curve> = serde_json::from_value(told).unwrap();
        curves.iter_mut().flat_map(|curve| &mut curve.points).for_each(|point| point.seconds = 0.0);
        curves
    };
    let wanted = curves(&alone);
    let read = |path: &str| std::fs::read(world.path("driven").join(path));
    let of_itself = ["bootstrap", "pretrain"].map(|training| manifests::paths::summary("finland", training));
    let before = of_itself.clone().map(|path| read(&path).unwrap());
    let tables = rows(&builds[1]).await;

    let drive = || {
        let mut driver = Command::new(urbancross());
        driver.arg("drive").arg(&driven).args(["--workers", "2", "--run", "r", "--lease-seconds", "5"]).args(&over);
        let output = driver.output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{said}");
        said
    };
    let said = drive();
    assert!(said.contains("9 of 9 tasks finished"), "{said}");
    // which processes there were: the driver itself has neither mapped, nor trained, nor measured
    let left_word = |number: usize, step: &str| {
        read(&manifests::paths::last_words("finland", &format!("r-{number}"), step, "0")).is_ok()
    };
    for (task, step) in [
        (1, "segment_scores"),
        (1, "swept_segments"),
        (4, "swept_bootstrap"),
        (4, "segment_scores"),
        (4, "swept_segments"),
        (6, "swept_measure"),
        (7, "swept_training"),
    ] {
        assert!(left_word(task, step), "{step} of task {task}: {said}");
    }
    // what is there is not made again
    let again = drive();
    assert!(again.contains("9 of 9 tasks finished") && !again.contains("epochs in"), "{again}");
    assert_eq!(curves(&driven), wanted);
    assert_eq!(of_itself.map(|path| read(&path).unwrap()), before, "the build's own trainings are told as they were");
    assert_eq!(rows(&open(spec("driven").1).await.unwrap()).await, tables);
}
