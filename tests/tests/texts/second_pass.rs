//! Captions that are written twice: drafts score the segments, names of the best are told to the captioner, and what it then
//! writes scores them again.

use std::collections::BTreeMap;

use manifests::{Artifact, BuildSpec};
use pipeline::build::Build;
use pipeline::run_options::RunOptions;
use pipeline_tests::{World, run, run_with, version};
use stages::Training;
use stages::table::Columns;
use workers::parts::PartReader;

async fn scored(spec: BuildSpec) -> Build {
    let until = RunOptions { until: Some("segment_scores".into()), ..RunOptions::default() };
    let (build, quarantined) = run_with(spec, until).await.unwrap();
    assert!(quarantined.is_empty(), "{quarantined:?}");
    build
}

/// The first caption of each image.
async fn captions(build: &Build, artifact: Artifact) -> BTreeMap<String, String> {
    let mut rows = BTreeMap::new();
    for part in build.pin(artifact).await.unwrap().parts {
        let reader = PartReader::open(&build.work, artifact, &part).await.unwrap();
        let batch = reader.read(&["image_id", "captions"]).await.unwrap();
        let columns = Columns::new(artifact, &batch);
        let ids = columns.text("image_id").unwrap();
        let texts = columns.texts("captions").unwrap().into_iter().map(|texts| texts[0].clone());
        rows.extend(ids.iter().map(|id| id.unwrap().to_owned()).zip(texts));
    }
    rows
}

/// Similarities of an image's segments with its captions.
async fn similarities(build: &Build, artifact: Artifact) -> Vec<(String, Vec<f32>)> {
    let mut rows = Vec::new();
    for part in build.pin(artifact).await.unwrap().parts {
        let reader = PartReader::open(&build.work, artifact, &part).await.unwrap();
        let batch = reader.read(&["image_id", "scores"]).await.unwrap();
        let columns = Columns::new(artifact, &batch);
        for row in 0..batch.num_rows() {
            let items = columns.structs("scores", row).unwrap();
            let similarity = columns.inner(&items).float32("similarity").unwrap().values().to_vec();
            rows.push((columns.text("image_id").unwrap().value(row).to_owned(), similarity));
        }
    }
    rows.sort_by(|a, b| a.0.cmp(&b.0));
    rows
}

const TABLES: [Artifact; 7] = [
    Artifact::DraftCaptions,
    Artifact::Segments,
    Artifact::SegmentFeatures,
    Artifact::DraftScores,
    Artifact::SegmentNames,
    Artifact::Captions,
    Artifact::SegmentScores,
];

async fn versions(build: &Build) -> Vec<u64> {
    let mut versions = Vec::new();
    for artifact in TABLES {
        versions.push(version(build, artifact).await);
    }
    versions
}

#[tokio::test(flavor = "multi_thread")]
async fn segments_inform_the_caption_and_the_new_caption_scores_them_again() {
    let world = World::new(14);
    // any trained model that reads captions to their end
    let quick = ["score.clip=none", "segment.segmenter=none", "pretrain.epochs=1", "pretrain.batch=4"];
    let (first, _) = run(world.spec("first", &quick)).await.unwrap();
    let trained = workers::train::records(&first.work, "finland", Training::Pretrain).await.unwrap().remove(0);
    let folder = world.path("first").join(format!("checkpoints/finland/pretrain/{}/result", trained.key));
    let clip = format!("score.clip={}", folder.display());
    let base = [clip.as_str(), "score.min_similarity=-1.0"];
    let once = scored(world.spec("once", &base)).await;
    let twice = |more: &[&str]| world.spec("twice", &[&base[..], &["caption.second_pass.enabled=true"], more].concat());
    let build = scored(twice(&[])).await;

    // drafts are what one pass writes, and score as it does
    let (drafts, written) =
        (captions(&build, Artifact::DraftCaptions).await, captions(&build, Artifact::Captions).await);
    assert_eq!(drafts, captions(&once, Artifact::Captions).await);
    let before = similarities(&build, Artifact::DraftScores).await;
    assert_eq!(before, similarities(&once, Artifact::SegmentScores).await);
    // what is written then goes on with names and shares, and the scores are others
    assert_eq!(written.len(), 14);
    for (id, text) in &written {
        let added = text.strip_prefix(&drafts[id]).unwrap_or_else(|| panic!("{text}"));
        assert!(added.starts_with(". Seen from above: ") && added.ends_with(" %)."), "{text}");
        let shares: i32 =
            added.split(" (").skip(1).map(|tail| tail.split(' ').next().unwrap().parse::<i32>().unwrap()).sum();
        assert!((1..=200).contains(&shares), "{text}");
    }
    let after = similarities(&build, Artifact::SegmentScores).await;
    assert!(before.iter().map(|row| &row.0).eq(after.iter().map(|row| &row.0)));
    assert!(before.iter().zip(&after).any(|(before, after)| before.1 != after.1));

    // nothing to do the second time; a setting of the second pass makes captions again, and what follows them
    let first = versions(&build).await;
    assert_eq!(versions(&scored(twice(&[])).await).await, first);
    let fewer = versions(&scored(twice(&["caption.second_pass.most_regions=1"])).await).await;
    let moved: Vec<bool> = first.iter().zip(&fewer).map(|(a, b)| a != b).collect();
    assert_eq!(moved, [false, false, false, false, false, true, true]);

    // other tags reach drafts, names and captions of their rows; pictures and masks are left alone
    let edited = sandbox::edit_tags(&world.path("world"), 0.2, 3).unwrap();
    let build = scored(twice(&["caption.second_pass.most_regions=1"])).await;
    let again = versions(&build).await;
    assert_eq!((again[1], again[2]), (fewer[1], fewer[2]));
    assert!(again[0] > fewer[0] && again[5] > fewer[5]);
    let now = captions(&build, Artifact::DraftCaptions).await;
    let others: Vec<&String> = now.iter().filter(|(id, text)| drafts[*id] != **text).map(|(id, _)| id).collect();
    assert!(!others.is_empty() && others.iter().all(|id| edited.contains(id)), "{others:?} {edited:?}");
}
