//! Segment Anything as a build's segmenter: a small network with random weights through the whole pipeline.

use std::path::Path;

use manifests::Artifact;
use models::sam::{DecoderConfig, EncoderConfig, Sam, SamConfig, VitConfig};
use pipeline_tests::{World, column, run, version};
use stages::table::Columns;
use workers::parts::PartReader;

fn write_weights(folder: &Path, seed: u64) {
    let config = SamConfig {
        image_size: 64,
        encoder: EncoderConfig::Vit(VitConfig {
            patch_size: 16,
            width: 16,
            depth: 2,
            heads: 2,
            mlp_width: 32,
            window: 3,
            global_blocks: vec![1],
        }),
        decoder: DecoderConfig { width: 32, heads: 2, mlp_width: 32, iou_head_width: 16, ..DecoderConfig::default() },
    };
    let tensors = Sam::random_tensors(&config, seed).unwrap();
    Sam::save_hugging_face(&config, &tensors, folder).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn sam_cuts_once_and_again_only_for_other_weights_or_settings() {
    let world = World::new(16);
    let weights = world.path("sam");
    write_weights(&weights, 1);
    let named = format!("segment.sam.weights={}", weights.display());
    // weights that are not there stop the build before it starts
    let error = run(world.spec("work", &["segment.segmenter=sam", "segment.sam.weights=absent"])).await.err().unwrap();
    assert!(error.to_string().contains("segment.sam.weights") && error.exit_code() == 65, "{error}");

    let spec = |more: &[&str]| {
        let base = [
            "segment.segmenter=sam",
            named.as_str(),
            "segment.sam.points_per_side=3",
            "segment.sam.pred_iou_thresh=0.0",
            "segment.sam.stability_score_thresh=0.0",
            "score.clip=none",
            "pretrain.epochs=1",
            "pretrain.batch=4",
        ];
        world.spec("work", &[&base[..], more].concat())
    };
    let (build, quarantined) = run(spec(&[])).await.unwrap();
    assert!(quarantined.is_empty(), "{quarantined:?}");
    let masks = masks(&build).await;
    assert!(masks > 0, "random weights find something when nothing is filtered");
    let first = version(&build, Artifact::Segments).await;

    // thresholds of the selection, batches and time-outs leave the masks alone
    let same = ["score.min_area_share=0.3", "score.max_segments=1", "segment.sam.images_per_batch=1"];
    let digests = column(&build, Artifact::Segments, "segments_digest").await;
    let (build, _) = run(spec(&same)).await.unwrap();
    assert_eq!(version(&build, Artifact::Segments).await, first);

    // another setting of the generator, and other weights in the same place, cut again
    let (build, _) = run(spec(&["segment.sam.points_per_side=2"])).await.unwrap();
    assert_eq!(version(&build, Artifact::Segments).await, first + 1);
    write_weights(&weights, 2);
    let (build, _) = run(spec(&[])).await.unwrap();
    assert_eq!(version(&build, Artifact::Segments).await, first + 2);
    assert_ne!(column(&build, Artifact::Segments, "segments_digest").await, digests);

    // an image that takes too long becomes a failed row; later it is tried again on request
    let mut hurried = spec(&["segment.sam.points_per_side=4"]);
    hurried.segment.sam.timeout_seconds = 0;
    let (build, quarantined) = run(hurried).await.unwrap();
    assert_eq!(quarantined.iter().find(|q| q.stage == "segments").map(|q| q.rows), Some(16), "{quarantined:?}");
    let reasons = column(&build, Artifact::Segments, "error").await;
    assert!(reasons.values().all(|why| why.contains("timeout_seconds = 0")), "{reasons:?}");

    let page = pipeline::page::make(std::slice::from_ref(&build), &[], "now").await.unwrap();
    assert!(page.contains("Segment Anything"), "the report names the method");
}

/// Masks of all images; checks what is stored with each.
async fn masks(build: &pipeline::build::Build) -> usize {
    let mut count = 0;
    for part in build.pin(Artifact::Segments).await.unwrap().parts {
        let reader = PartReader::open(&build.work, Artifact::Segments, &part).await.unwrap();
        let batch = reader.read(&["width", "height", "segments"]).await.unwrap();
        let columns = Columns::new(Artifact::Segments, &batch);
        for row in 0..batch.num_rows() {
            let segments = stages::segment_features::RowSegments::read(&columns, row).unwrap();
            let items = columns.structs("segments", row).unwrap();
            let inner = columns.inner(&items);
            let (iou, stability) = (inner.float32("predicted_iou").unwrap(), inner.float32("stability_score").unwrap());
            let (x, y) = (inner.float32("point_x").unwrap(), inner.float32("point_y").unwrap());
            for i in 0..segments.rles.len() {
                let mask = segments.mask(i).unwrap();
                assert_eq!(mask.area_px() as i64, segments.areas_px[i]);
                assert!(iou.value(i).is_finite() && (0.0..=1.0).contains(&stability.value(i)));
                assert!(x.value(i) < segments.width as f32 && y.value(i) < segments.height as f32);
                count += 1;
            }
        }
    }
    count
}
