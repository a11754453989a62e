//! CLIPScore and PerceptionScore of captions, by a small CLIP with random weights.

use std::path::Path;

use manifests::{Artifact, BuildSpec};
use models::clip::Clip;
use models::tokenizer::Tokenizer;
use pipeline::build::Build;
use pipeline::run_options::RunOptions;
use pipeline_tests::{World, column, networks, run_with, version};
use stages::table::Columns;
use workers::parts::PartReader;

/// What stands in the table of one image's captions.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Score {
    clip_score: f32,
    phrases: i32,
    explained_share: Option<f32>,
    perception_score: Option<f32>,
}

async fn scores(build: &Build) -> Vec<(String, Vec<Score>, bool)> {
    let mut rows = Vec::new();
    for part in build.pin(Artifact::CaptionScores).await.unwrap().parts {
        let reader = PartReader::open(&build.work, Artifact::CaptionScores, &part).await.unwrap();
        let batch = reader.read(&["image_id", "scores", "flagged"]).await.unwrap();
        let columns = Columns::new(Artifact::CaptionScores, &batch);
        for row in 0..batch.num_rows() {
            let items = columns.structs("scores", row).unwrap();
            let inner = columns.inner(&items);
            let all = (0..items.num_rows()).map(|i| Score {
                clip_score: inner.float32("clip_score").unwrap().value(i),
                phrases: inner.int32("phrases").unwrap().value(i),
                explained_share: inner.float32("explained_share").unwrap().iter().nth(i).unwrap(),
                perception_score: inner.float32("perception_score").unwrap().iter().nth(i).unwrap(),
            });
            let id = columns.text("image_id").unwrap().value(row).to_owned();
            let flagged = stages::table::option_text(columns.text("flagged").unwrap(), row).is_some();
            rows.push((id, all.collect(), flagged));
        }
    }
    rows.sort_by(|a, b| a.0.cmp(&b.0));
    rows
}

async fn scored(spec: BuildSpec) -> Build {
    let until = RunOptions { until: Some("caption_scores".into()), ..RunOptions::default() };
    let (build, quarantined) = run_with(spec, until).await.unwrap();
    assert!(quarantined.is_empty(), "{quarantined:?}");
    build
}

/// CLIPScore by its definition, with nothing of the stage.
async fn by_definition(build: &Build, folder: &Path, image_id: &str) -> f32 {
    let clip = Clip::load(folder, &candle_core::Device::Cpu, candle_core::DType::F32).unwrap();
    let tokenizer = Tokenizer::from_file(&folder.join("tokenizer.json")).unwrap();
    let (mut bytes, mut caption) = (Vec::new(), String::new());
    for (artifact, name) in [(Artifact::Images, "bytes"), (Artifact::Captions, "captions")] {
        for part in build.pin(artifact).await.unwrap().parts {
            let reader = PartReader::open(&build.work, artifact, &part).await.unwrap();
            let batch = reader.read(&["image_id", name]).await.unwrap();
            let columns = Columns::new(artifact, &batch);
            let Some(row) = columns.text("image_id").unwrap().iter().position(|id| id == Some(image_id)) else {
                continue;
            };
            match artifact {
                Artifact::Images => bytes = columns.binary(name).unwrap().value(row).to_vec(),
                _ => caption = columns.texts(name).unwrap()[row][0].clone(),
            }
        }
    }
    let view = pixels::clip_view(&pixels::decode(&bytes, &Default::default()).unwrap(), 32);
    let mut chw = vec![0f32; 3 * 32 * 32];
    let config = clip.config().clone();
    pixels::normalise_into(&view, &config.image_mean, &config.image_std, &mut chw);
    let tensor = |x: Vec<f32>| candle_core::Tensor::from_vec(x, (1, 3, 32, 32), &candle_core::Device::Cpu).unwrap();
    let vector = |x: candle_core::Tensor| x.flatten_all().unwrap().to_vec1::<f32>().unwrap();
    let image = vector(clip.encode_image(&tensor(chw)).unwrap());
    let ids = tokenizer.encode(&format!("A photo depicts {caption}"), 24).unwrap();
    let ids = candle_core::Tensor::from_vec(ids, (1, 24), &candle_core::Device::Cpu).unwrap();
    let text = vector(clip.encode_text(&ids).unwrap());
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f32>();
    2.5 * (dot(&image, &text) / (dot(&image, &image) * dot(&text, &text)).sqrt()).max(0.0)
}

#[tokio::test(flavor = "multi_thread")]
async fn captions_are_scored_by_the_named_clip_and_flagged_never_dropped() {
    let world = World::new(14);
    let folder = world.path("clip");
    networks::clip(&folder, 1);
    let named = format!("caption.score.clip={}", folder.display());
    let base = [named.as_str(), "score.clip=none", "score.min_similarity=0.0"];
    let spec = |more: &[&str]| world.spec("work", &[&base[..], more].concat());

    let build = scored(spec(&[])).await;
    let rows = scores(&build).await;
    assert_eq!(rows.len(), 14);
    for (id, row, flagged) in &rows {
        assert_eq!((row.len(), *flagged), (1, false), "{id}: one caption, no threshold");
        let score = row[0];
        let (share, perception) = (score.explained_share.unwrap(), score.perception_score.unwrap());
        assert!((0.0..=2.5).contains(&score.clip_score) && (0.0..=1.0).contains(&share), "{id}: {score:?}");
        assert!((perception - (0.5 * score.clip_score.min(1.0) + 0.5 * share)).abs() < 1e-6, "{id}: {score:?}");
        assert!(score.phrases > 0, "{id}");
    }
    let wanted = by_definition(&build, &folder, &rows[0].0).await;
    assert!((rows[0].1[0].clip_score - wanted).abs() < 1e-4, "{} {wanted}", rows[0].1[0].clip_score);

    // nothing to do the second time, nor for the same files elsewhere, nor on two devices
    let (first, captions) = (version(&build, Artifact::CaptionScores).await, version(&build, Artifact::Captions).await);
    let elsewhere = world.path("elsewhere");
    std::fs::rename(&folder, &elsewhere).unwrap();
    let moved = format!("caption.score.clip={}", elsewhere.display());
    let spec = |more: &[&str]| world.spec("work", &[&[moved.as_str()], &base[1..], more].concat());
    let build = scored(spec(&["model.device=cpu,cpu"])).await;
    assert_eq!(version(&build, Artifact::CaptionScores).await, first);
    let other = world.spec("other", &[&[moved.as_str(), "model.device=cpu,cpu"], &base[1..]].concat());
    assert_eq!(scores(&scored(other).await).await, rows, "the number of devices changes no score");

    // a threshold flags rows and leaves the captions alone; a stricter T_s explains less
    let build = scored(spec(&["caption.score.min_clip_score=2.5", "score.min_similarity=1.0"])).await;
    let strict = scores(&build).await;
    assert_eq!(version(&build, Artifact::CaptionScores).await, first + 1);
    assert_eq!(version(&build, Artifact::Captions).await, captions);
    assert!(strict.iter().all(|(_, row, flagged)| *flagged && row[0].explained_share == Some(0.0)), "{strict:?}");
    let reasons = column(&build, Artifact::CaptionScores, "flagged").await;
    assert!(reasons.values().all(|why| why.contains("CLIPScore")), "{reasons:?}");
    let page = pipeline::page::make(std::slice::from_ref(&build), &[], "now").await.unwrap();
    assert!(page.contains("PerceptionScore (ours)") && page.contains("14 images with a score below"));

    // other weights are another judge
    networks::clip(&elsewhere, 2);
    let again = scores(&scored(spec(&[])).await).await;
    assert_ne!(again, rows);
    // without segments half of the score is unknown, and says so
    let none = scored(spec(&["segment.segmenter=none"])).await;
    assert!(scores(&none).await.iter().all(|(_, row, _)| row[0].perception_score.is_none()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_judge_that_is_not_there_or_has_no_vocabulary_stops_the_build() {
    let world = World::new(3);
    let folder = world.path("clip");
    networks::clip(&folder, 1);
    std::fs::remove_file(folder.join("tokenizer.json")).unwrap();
    for (clip, word) in [(folder.display().to_string(), "tokenizer.json"), ("absent".into(), "caption.score.clip")] {
        let spec = world.spec("work", &[&format!("caption.score.clip={clip}"), "score.clip=none"]);
        let until = RunOptions { until: Some("caption_scores".into()), ..RunOptions::default() };
        let error = run_with(spec, until).await.err().unwrap();
        assert!(error.to_string().contains(word) && error.exit_code() == 65, "{error}");
    }
}
