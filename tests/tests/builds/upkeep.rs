//! A work store looked after: faults found and mended, what is old cleared away, and others' maintenance survived.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use manifests::Artifact;
use pipeline_tests::distant::Reads;
use pipeline_tests::{World, edit_a_finnish_image, open, python_with, recipes, run, tables, urbancross};
use workers::upkeep::gc::{Retention, gc};
use workers::upkeep::verify;

const QUICK: [&str; 3] = ["score.clip=none", "pretrain.epochs=1", "pretrain.batch=4"];
const NOW: Retention = Retention { keep: Duration::ZERO, delete: true };

async fn nothing_to_do(world: &World) {
    let mut build = open(world.spec("work", &QUICK)).await.unwrap();
    for line in pipeline::preview::preview(&mut build, false, false).await.unwrap() {
        assert_eq!(line.rows, 0, "{}: {}", line.step, line.note);
    }
}

fn part_files(world: &World, artifact: Artifact) -> Vec<PathBuf> {
    let folder = world.path(&format!("work/tables/{}/country=finland", artifact.name()));
    let mut files: Vec<PathBuf> = std::fs::read_dir(folder).unwrap().map(|e| e.unwrap().path()).collect();
    files.sort();
    files
}

#[tokio::test(flavor = "multi_thread")]
async fn faults_are_named_taken_out_and_made_again() {
    let world = World::new(30);
    let spec = world.path("spec.toml");
    std::fs::write(&spec, world.spec("work", &QUICK).to_toml()).unwrap();
    run(world.spec("work", &QUICK)).await.unwrap();
    let before = recipes(world.spec("work", &QUICK)).await;
    let verify = |more: &[&str]| Command::new(urbancross()).arg("verify").arg(&spec).args(more).output().unwrap();
    assert!(verify(&[]).status.success());

    // a flipped bit, a cut file, a file that is gone
    let [images, captions, segments] =
        [Artifact::Images, Artifact::Captions, Artifact::Segments].map(|artifact| part_files(&world, artifact));
    let mut bytes = std::fs::read(&images[0]).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 4;
    std::fs::write(&images[0], bytes).unwrap();
    std::fs::write(&captions[1], b"PAR1").unwrap();
    std::fs::remove_file(&segments[2]).unwrap();
    let output = verify(&[]);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(output.status.code(), Some(65), "{text}");
    for file in [&images[0], &captions[1], &segments[2]] {
        assert!(text.contains(&*file.file_name().unwrap().to_string_lossy()), "{text}");
    }
    assert!(verify(&["--repair"]).status.success());
    let (build, _) = run(world.spec("work", &QUICK)).await.unwrap();
    assert_eq!(recipes(world.spec("work", &QUICK)).await, before);
    let live = build.pin(Artifact::Images).await.unwrap();
    let kept = images[1..].iter().filter(|f| live.parts.iter().any(|p| f.ends_with(&p.path))).count();
    assert_eq!(kept, 2, "the other parts are the old ones");
    let faults = verify::faults(&build.work, &build.tables, "finland", |_| ()).await.unwrap();
    assert!(faults.is_empty(), "{faults:?}");

    // a log that names a checkpoint which is not there: nobody can read the table, and no row is lost
    let pointer = world.path("work/tables/captions/_delta_log/_last_checkpoint");
    std::fs::write(pointer, "{\"version\":90,\"size\":3}").unwrap();
    let output = verify(&[]);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.code() == Some(65) && text.contains("_delta_log/_last_checkpoint"), "{text}");
    assert!(verify(&["--repair"]).status.success() && verify(&[]).status.success());
    assert_eq!(recipes(world.spec("work", &QUICK)).await, before);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_cleared_away_is_not_missed() {
    let world = World::new(24);
    run(world.spec("work", &QUICK)).await.unwrap();
    for _ in 0..3 {
        edit_a_finnish_image(&world);
        run(world.spec("work", &QUICK)).await.unwrap();
    }
    let before = recipes(world.spec("work", &QUICK)).await;
    let build = open(world.spec("work", &QUICK)).await.unwrap();
    let dry = gc(&build.work, &build.tables, "finland", Retention { delete: false, ..NOW }).await.unwrap();
    let old = build.tables.pin(Artifact::Captions, "finland", Some(1)).await.unwrap();
    assert!(dry["parts"].objects > 0 && dry["markers"].objects > 0, "{dry:?}");
    let kept_a_week = Retention { keep: Duration::from_secs(7 * 86_400), delete: true };
    assert!(gc(&build.work, &build.tables, "finland", kept_a_week).await.unwrap().is_empty());
    // a running build of an hour ago has taken out parts that a slow reader may still read
    std::thread::sleep(Duration::from_millis(1100));
    gc(&build.work, &build.tables, "finland", NOW).await.unwrap();
    for artifact in tables(&build) {
        let live = build.pin(artifact).await.unwrap().parts.len();
        assert_eq!(part_files(&world, artifact).len(), live, "{}", artifact.name());
    }
    assert_eq!(recipes(world.spec("work", &QUICK)).await, before);
    nothing_to_do(&world).await;
    assert!(old.parts.iter().any(|p| !world.path(&format!("work/tables/captions/{}", p.path)).exists()));
    // and the next edit is built as ever
    edit_a_finnish_image(&world);
    run(world.spec("work", &QUICK)).await.unwrap();
    run(world.spec("fresh", &QUICK)).await.unwrap();
    let (work, fresh) = (recipes(world.spec("work", &QUICK)).await, recipes(world.spec("fresh", &QUICK)).await);
    for table in ["geotags", "images", "captions", "splits", "segments", "segment_scores"] {
        assert_eq!(work[table], fresh[table], "{table}");
    }
}

/// Hundreds of thousands of objects are deleted, and each request of a bucket takes a while.
#[tokio::test(flavor = "multi_thread")]
async fn deletions_wait_for_their_answers_side_by_side() {
    let world = World::new(24);
    let set = [&QUICK[..], &["work.shards=12"]].concat();
    run(world.spec("work", &set)).await.unwrap();
    let mut build = open(world.spec("work", &set)).await.unwrap();
    tokio::time::sleep(Duration::from_millis(20)).await;
    let dry = gc(&build.work, &build.tables, "finland", Retention { delete: false, ..NOW }).await.unwrap();
    let reads = Reads::count_from_afar(&mut build, Duration::from_millis(1));
    tokio::time::sleep(Duration::from_millis(20)).await;
    let cleared = gc(&build.work, &build.tables, "finland", NOW).await.unwrap();
    let most = reads.most_deletions_at_once();
    assert!(most > 8, "{most} at once");
    assert_eq!(cleared, dry, "what is said to be deleted");
    let left = gc(&build.work, &build.tables, "finland", Retention { delete: false, ..NOW }).await.unwrap();
    assert!(!left.contains_key("markers") && !left.contains_key("plans"), "{left:?}");
}

/// RESTORE, DELETE, OPTIMIZE and VACUUM by another program end in correct tables, or in a refusal that names the way
/// back.
#[tokio::test(flavor = "multi_thread")]
async fn maintenance_by_other_runs() {
    let Some(python) = python_with(&["deltalake"]) else { return };
    let world = World::new(24);
    run(world.spec("work", &QUICK)).await.unwrap();
    edit_a_finnish_image(&world);
    run(world.spec("work", &QUICK)).await.unwrap();
    let right = recipes(world.spec("work", &QUICK)).await;
    let maintain = |artifact: Artifact, what: &str| {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/peers/maintain.py");
        let table = world.path(&format!("work/tables/{}", artifact.name()));
        let output = Command::new(python).arg(script).arg(table).arg(what).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    };
    for (artifact, what) in [
        (Artifact::Captions, "restore 1"),
        (Artifact::Geotags, "restore 1"),
        (Artifact::Captions, "delete"),
        (Artifact::Images, "delete"),
        (Artifact::Captions, "vacuum"),
        (Artifact::Segments, "vacuum"),
    ] {
        maintain(artifact, what);
        run(world.spec("work", &QUICK)).await.unwrap_or_else(|e| panic!("{} {what}: {e}", artifact.name()));
        assert_eq!(recipes(world.spec("work", &QUICK)).await, right, "{} {what}", artifact.name());
        nothing_to_do(&world).await;
    }
    // what rewrites our files is refused, and the way back leads back
    maintain(Artifact::Captions, "optimize");
    let error = run(world.spec("work", &QUICK)).await.err().expect("refused");
    assert!(error.exit_code() == 65 && error.to_string().contains("verify --repair"), "{error}");
    let work =
        workers::stores::WorkStore::open(&world.path("work").display().to_string(), &Default::default()).unwrap();
    let all = workers::tables::Tables::new(&work);
    let faults = verify::faults(&work, &all, "finland", |_| ()).await.unwrap();
    verify::repair(&work, &all, "finland", &faults).await.unwrap();
    run(world.spec("work", &QUICK)).await.unwrap();
    assert_eq!(recipes(world.spec("work", &QUICK)).await, right);
    // so is what makes another table of it, and the version that is named leads back
    for what in ["add note", "set delta.appendOnly true", "set delta.enableChangeDataFeed true"] {
        maintain(Artifact::Captions, what);
        let error = run(world.spec("work", &QUICK)).await.err().expect("refused");
        assert!(error.exit_code() == 65, "{error}");
        let words = error.to_string();
        let version = words.split("RESTORE it to version ").nth(1).and_then(|rest| rest.split(' ').next());
        maintain(Artifact::Captions, &format!("restore {}", version.unwrap_or_else(|| panic!("{words}"))));
        run(world.spec("work", &QUICK)).await.unwrap_or_else(|e| panic!("{what}: {e}"));
        assert_eq!(recipes(world.spec("work", &QUICK)).await, right, "{what}");
    }
    maintain(Artifact::Captions, "optimize");
    maintain(Artifact::Captions, "restore -1");
    run(world.spec("work", &QUICK)).await.unwrap();
    assert_eq!(recipes(world.spec("work", &QUICK)).await, right);
}
