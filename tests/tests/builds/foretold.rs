//! `plan` and `explain` say what `run` then does, whatever others did to the tables.

use std::collections::BTreeMap;
use std::path::Path;

use manifests::commit::Replacement;
use manifests::plan::PinnedTable;
use manifests::words::count;
use manifests::{Artifact, paths};
use pipeline::build::Build;
use pipeline::explain::explain;
use pipeline::preview::preview;
use pipeline::status::status;
use pipeline_tests::{World, edit_a_finnish_image, open, recipes, run};
use stages::Step;
use workers::publish::Summary;
use workers::tables::Change;

const QUICK: [&str; 3] = ["score.clip=none", "pretrain.epochs=1", "pretrain.batch=4"];

type Recipes = BTreeMap<String, BTreeMap<String, String>>;

/// Asks, runs, and compares. `before` is what the tables hold.
async fn is_foretold(world: &World, what: &str, before: &Recipes) {
    let spec = || world.spec("work", &QUICK);
    let mut asked = open(spec()).await.unwrap();
    let lines = preview(&mut asked, false, false).await.unwrap_or_else(|e| panic!("{what}: {e}"));
    let json = serde_json::to_value(&lines).unwrap();
    let image = before["splits"].keys().next().or(before["images"].keys().next()).unwrap().clone();
    let of_image = explain(&mut asked, &image).await.unwrap_or_else(|e| panic!("{what}: {e}"));
    let mut explained = BTreeMap::new();
    for line in &lines {
        explained.insert(line.step, explain(&mut asked, line.step).await.unwrap().join("\n"));
    }
    _ = std::fs::remove_dir_all(world.path("work/summaries"));
    let (build, _) = run(spec()).await.unwrap_or_else(|e| panic!("{what}: {e}"));
    let after = recipes(spec()).await;
    let mut open_ones = 0;
    for (step, line) in stages::steps(&build.spec).iter().zip(&lines) {
        let name = line.step;
        let shown = format!("{what}, {name}: {line:?}\n{}", explained[name]);
        let summary: Option<Summary> = build.work.get_sealed(&paths::summary("finland", name)).await.unwrap();
        let (computed, reasons) = summary.map_or((0, BTreeMap::new()), |s| (s.computed + s.by_other_runs, s.reasons));
        match step {
            Step::Map(stage) if line.exact => {
                let foretold: BTreeMap<String, u64> =
                    line.reasons.iter().map(|(reason, rows)| (reason.words().to_owned(), *rows)).collect();
                // what a stopped run has finished waits for publishing, and is no longer to be made
                let finished = line.finished.as_ref().map_or(0, |finished| finished.rows);
                assert_eq!(line.rows + finished, computed, "{shown}");
                match finished {
                    0 => assert_eq!(foretold, reasons, "{shown}"),
                    _ => assert!(foretold.iter().all(|(why, rows)| reasons[why] >= *rows), "{shown}"),
                }
                assert!(
                    explained[name].contains(&format!("{} stale, {} up to date", count(line.rows, "row"), line.kept)),
                    "{shown}"
                );
                let state = of_image.iter().find_map(|line| line.strip_prefix(&format!("{name:21} ")));
                let table = stage.output.name();
                if state == Some("up to date") {
                    assert_eq!(before[table].get(&image), after[table].get(&image), "{shown}");
                }
                // of one shard alone it is not known whether a training runs
                let is_open = state.is_some_and(|state| state.starts_with("its model may change"));
                assert!(computed + line.carried > 0 || is_open || state == Some("up to date"), "{of_image:?} {shown}");
            }
            Step::Map(_) => {
                open_ones += 1;
                assert!(computed <= line.rows && explained[name].contains(&line.note), "{computed}, {shown}");
            }
            Step::Train(_) if line.note.starts_with("up to date") => assert_eq!(computed, 0, "{shown}"),
            Step::Train(_) => assert!(line.note.starts_with("may run again"), "{shown}"),
            Step::Evaluate => {}
        }
    }
    assert!(open_ones > 0, "nothing depends on anything: {what} {json}");
    // and then nothing is left to do, and all of them say so
    let mut again = open(spec()).await.unwrap();
    for line in preview(&mut again, false, false).await.unwrap() {
        assert_eq!(line.rows, 0, "{what}, {}: {}", line.step, line.note);
    }
}

async fn pin(build: &Build, artifact: Artifact) -> PinnedTable {
    build.tables.pin(artifact, "finland", None).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn plan_and_explain_say_what_run_then_does() {
    let world = World::new(30);
    let (build, _) = run(world.spec("work", &QUICK)).await.unwrap();
    let now = || recipes(world.spec("work", &QUICK));
    let old = pin(&build, Artifact::Captions).await;
    let old_tags = pin(&build, Artifact::Geotags).await;
    edit_a_finnish_image(&world);
    is_foretold(&world, "edited source", &now().await).await;
    // what DELETE leaves in the log
    for artifact in [Artifact::Captions, Artifact::Geotags, Artifact::Images] {
        let all = pin(&build, artifact).await.parts.into_iter().map(|part| part.path).collect();
        build.tables.take_out(artifact, "finland", &all, &[]).await.unwrap();
        is_foretold(&world, &format!("{} deleted", artifact.name()), &now().await).await;
    }
    // and what RESTORE does
    for old in [&old, &old_tags] {
        let live = pin(&build, old.artifact).await;
        let replacements = old
            .parts
            .iter()
            .map(|part| Replacement { base: live.part_name(part.shard).map(str::to_owned), part: part.clone() });
        let change = Change { artifact: old.artifact, country: "finland".into(), replacements: replacements.collect() };
        assert!(build.tables.commit(change).await.unwrap().overtaken.is_empty());
        is_foretold(&world, &format!("{} restored", old.artifact.name()), &now().await).await;
    }
    for lost in [&[Artifact::Captions][..], &[Artifact::Geotags], &[Artifact::Images, Artifact::Captions]] {
        let before = now().await;
        for artifact in lost {
            let part = pin(&build, *artifact).await.parts.remove(0);
            std::fs::remove_file(world.path("work").join(paths::table(*artifact)).join(part.path)).unwrap();
        }
        is_foretold(&world, &format!("a part of {lost:?} lost"), &before).await;
    }
}

/// A hint as programs wrote it before hints carried a digest of themselves.
fn unseal(file: &Path) {
    let sealed: serde_json::Value = serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap();
    std::fs::write(file, sealed["value"].to_string()).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn why_figures_are_made_again_is_said_and_what_an_older_program_counted_is_shown() {
    let world = World::new(30);
    run(world.spec("work", &QUICK)).await.unwrap();
    let said = async |set: &[&str]| {
        let mut build = open(world.spec("work", &[&QUICK, set].concat())).await.unwrap();
        let planned = preview(&mut build, false, false).await.unwrap().pop().unwrap();
        let explained = explain(&mut build, "evaluate").await.unwrap().join("\n");
        assert!(explained.starts_with(&format!("evaluate: {}", planned.note)), "{explained}");
        let status = status(&build).await.unwrap();
        assert!(planned.note == "up to date" || status.last().unwrap().state == planned.note);
        (planned.note, status)
    };
    let other = said(&["evaluate.protocol=dedup"]).await.0;
    assert_eq!(other, "must run: its tables or settings are new");
    let before = said(&[]).await.1.remove(0);
    let summary = world.path("work").join(paths::summary("finland", "geotags"));
    let figures = std::fs::read_dir(world.path("work/evaluations/finland")).unwrap().next().unwrap().unwrap().path();
    unseal(&summary);
    unseal(&figures);
    let (note, status) = said(&[]).await;
    assert_eq!(note, "must run: the figures that are there are written by an older program, without a checksum");
    assert_eq!((status[0].excluded, status[0].errors, before.excluded), (before.excluded, before.errors, Some(0)));
    std::fs::write(&figures, "{").unwrap();
    assert!(said(&[]).await.0.contains("damaged"));
    std::fs::remove_file(&summary).unwrap();
    assert_eq!(said(&[]).await.1[0].excluded, None, "nobody knows");
}
