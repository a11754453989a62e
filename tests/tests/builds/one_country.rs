//! One country from archives to recall: run, run again, edit tags, run again.

use manifests::{Artifact, Reason};
use pipeline::preview;
use pipeline_tests::{World, column, edit_a_finnish_image, open, run, tables};

#[tokio::test(flavor = "multi_thread")]
async fn a_build_is_whole_stands_and_follows_a_tag_edit() {
    let world = World::new(60);
    let (build, quarantined) = run(world.spec("work", &[])).await.unwrap();
    assert!(quarantined.is_empty(), "{quarantined:?}");

    // one row per image in every table
    let images = column(&build, Artifact::Images, "status").await;
    assert_eq!(images.len(), 60);
    for artifact in tables(&build) {
        let rows = column(&build, artifact, "status").await;
        assert_eq!(rows.keys().collect::<Vec<_>>(), images.keys().collect::<Vec<_>>(), "{}", artifact.name());
        assert!(rows.values().all(|status| status == "ok"), "{}", artifact.name());
    }
    let evaluation = pipeline::evaluate::stored(&build).await.unwrap().expect("figures");
    let splits = column(&build, Artifact::Splits, "split").await;
    assert_eq!(evaluation.recall.image_gallery, splits.values().filter(|split| *split == "test").count());
    assert!(evaluation.recall.image_gallery > 0 && evaluation.mean_recall() > 0.0);
    let page = pipeline::page::make(std::slice::from_ref(&build), &[], "now").await.unwrap();
    for part in ["Recall", "What it finds", "The build", "bootstrap", "data:image/jpeg"] {
        assert!(page.contains(part), "the report has no {part}");
    }

    // nothing to do the second time
    let mut again = open(world.spec("work", &[])).await.unwrap();
    for line in preview::preview(&mut again, false, false).await.unwrap() {
        assert_eq!(line.rows, 0, "{}: {}", line.step, line.note);
    }
    let versions_before = versions(&build).await;
    let (build, _) = run(world.spec("work", &[])).await.unwrap();
    assert_eq!(versions(&build).await, versions_before, "a run with nothing to do commits nothing");

    // other tags for one image in sixty
    let captions = column(&build, Artifact::Captions, "captions_digest").await;
    let edited = edit_a_finnish_image(&world);
    let mut planned = open(world.spec("work", &[])).await.unwrap();
    let lines = preview::preview(&mut planned, false, false).await.unwrap();
    let geotags = lines.iter().find(|l| l.step == "geotags").unwrap();
    assert_eq!(
        (geotags.rows, geotags.reasons.get(&Reason::InputChanged)),
        (edited.len() as u64, Some(&(edited.len() as u64)))
    );
    let (build, _) = run(world.spec("work", &[])).await.unwrap();
    let changed: Vec<String> = column(&build, Artifact::Captions, "captions_digest")
        .await
        .into_iter()
        .filter(|(id, digest)| captions[id] != *digest)
        .map(|(id, _)| id)
        .collect();
    assert_eq!(changed, edited, "captions of the edited images, and of no other");
    let after = versions(&build).await;
    for untouched in
        [Artifact::Images, Artifact::Segments, Artifact::SegmentFeatures, Artifact::ImageEmbeddings, Artifact::Splits]
    {
        assert_eq!(
            after[&untouched],
            versions_before[&untouched],
            "{} has no caption among its inputs",
            untouched.name()
        );
    }
    for touched in [Artifact::Geotags, Artifact::Captions, Artifact::SegmentScores, Artifact::TextEmbeddings] {
        assert_eq!(after[&touched], versions_before[&touched] + 1, "{}", touched.name());
        let summary: workers::publish::Summary =
            build.work.get_sealed(&manifests::paths::summary("finland", touched.name())).await.unwrap().unwrap();
        assert_eq!(summary.computed, edited.len() as u64, "{}", touched.name());
    }
    // and the reason is on record
    let mut explained = open(world.spec("work", &["score.max_segments=3"])).await.unwrap();
    let lines = pipeline::explain::explain(&mut explained, &edited[0]).await.unwrap().join("\n");
    assert!(lines.contains("parameter changed") && lines.contains("max_segments: 6 → 3"), "{lines}");
}

/// Versions of the tables that exist.
async fn versions(build: &pipeline::build::Build) -> std::collections::BTreeMap<Artifact, u64> {
    let mut versions = std::collections::BTreeMap::new();
    for artifact in Artifact::TABLES {
        versions.extend(build.pin(artifact).await.unwrap().version.map(|v| (artifact, v)));
    }
    versions
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_image_leaves_and_a_parameter_recomputes_its_stage_alone() {
    let world = World::new(30);
    let none = &["score.clip=none", "pretrain.epochs=1"];
    let (build, _) = run(world.spec("work", none)).await.unwrap();
    let before = versions(&build).await;
    // the candidate threshold touches scores, never masks
    let (build, _) =
        run(world.spec("work", &["score.clip=none", "pretrain.epochs=1", "score.max_segments=2"])).await.unwrap();
    let after = versions(&build).await;
    assert_eq!(after[&Artifact::Segments], before[&Artifact::Segments]);
    assert_eq!(after[&Artifact::SegmentScores], before[&Artifact::SegmentScores] + 1);
    // a limit on images: the others leave every table, old versions keep them
    let pinned = build.pin(Artifact::Images).await.unwrap();
    let (build, _) =
        run(world.spec("work", &["score.clip=none", "pretrain.epochs=1", "source.max_images=25", "pretrain.batch=4"]))
            .await
            .unwrap();
    let images = column(&build, Artifact::Images, "status").await;
    assert_eq!(images.len(), 25);
    for artifact in tables(&build) {
        let rows = column(&build, artifact, "status").await;
        assert!(rows.keys().eq(images.keys()), "{}: {rows:?}", artifact.name());
    }
    let old = build.tables.pin(Artifact::Images, "finland", pinned.version).await.unwrap();
    assert_eq!(old, pinned);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_any_model_for_scores_weights_are_one() {
    let world = World::new(24);
    let (build, _) =
        run(world.spec("work", &["score.clip=none", "pretrain.epochs=1", "pretrain.batch=4"])).await.unwrap();
    let steps: Vec<_> = stages::steps(&build.spec).iter().map(|s| s.name()).collect();
    assert!(!steps.contains(&"bootstrap") && !steps.contains(&"segment_features"));
    let page = pipeline::page::make(std::slice::from_ref(&build), &[], "now").await.unwrap();
    assert!(page.contains("every candidate has weight 1"));
}
