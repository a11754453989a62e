//! InstructBLIP as a build's captioner: a small network with random weights through the whole pipeline.

use std::sync::Arc;

use arrow::array::{ArrayRef, BinaryArray, RecordBatch, StringArray};
use manifests::weights::{LocalWeights, Weights};
use manifests::{Artifact, BuildSpec};
use pipeline_tests::{World, column, networks, run, version};
use stages::stage::{InputRows, MapOutput, Outcome, StageContext};
use stages::table::{self, Columns};
use workers::parts::PartReader;

#[tokio::test(flavor = "multi_thread")]
async fn instructblip_captions_once_in_any_batch_and_says_how_good_it_was() {
    let world = World::new(14);
    let folder = world.path("blip");
    networks::instructblip_without_tokenizers(&folder);
    let named = format!("caption.instructblip.weights={}", folder.display());
    let spec = |work: &str, more: &[&str]| {
        let base = [
            "caption.captioner=instructblip",
            named.as_str(),
            "caption.instructblip.max_new_tokens=12",
            "caption.instructblip.num_beams=2",
            "segment.segmenter=none",
            "score.clip=none",
            "pretrain.epochs=1",
            "pretrain.batch=4",
        ];
        world.spec(work, &[&base[..], more].concat())
    };
    let error = run(spec("work", &[])).await.err().unwrap();
    assert!(error.to_string().contains("tokenizer") && error.exit_code() == 65, "{error}");
    networks::word_level(&folder.join("tokenizer.json"), 480, |i| format!("word{i}"));
    networks::word_level(&folder.join("qformer_tokenizer/tokenizer.json"), 30, |i| format!("word{i}"));
    let error = run(spec("work", &[])).await.err().unwrap();
    assert!(error.to_string().contains("480 entries") && error.exit_code() == 65, "{error}");
    networks::instructblip(&folder);

    let (build, quarantined) = run(spec("work", &[])).await.unwrap();
    assert!(quarantined.is_empty(), "{quarantined:?}");
    let digests = column(&build, Artifact::Captions, "captions_digest").await;
    assert_eq!(digests.len(), 14);
    let (flagged, again) = look_into(&build).await;
    assert!(flagged <= again && again > 0, "what is flagged was written twice: {flagged}, {again}");

    // nothing to do the second time; batches change no word; thresholds and the seed of the second try do
    let first = version(&build, Artifact::Captions).await;
    let (build, _) = run(spec("work", &["caption.instructblip.images_per_batch=1"])).await.unwrap();
    assert_eq!(version(&build, Artifact::Captions).await, first);
    // neither batches, nor the memory for them, nor the number of devices changes a word
    let bounds =
        ["caption.instructblip.images_per_batch=1", "caption.instructblip.cache_mib=1", "model.device=cpu,cpu"];
    let (other, _) = run(spec("other", &bounds)).await.unwrap();
    assert_eq!(column(&other, Artifact::Captions, "captions_digest").await, digests);
    let (build, _) = run(spec("work", &["caption.instructblip.quality={ min_words = 40 }"])).await.unwrap();
    assert_eq!(version(&build, Artifact::Captions).await, first + 1);
    let (flagged, again) = look_into(&build).await;
    assert_eq!((flagged, again), (14, 14), "no caption has forty words: all are flagged, none is dropped");
    let page = pipeline::page::make(std::slice::from_ref(&build), &[], "now").await.unwrap();
    assert!(page.contains("InstructBLIP"), "the report names the method");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caption_that_clip_finds_unlike_its_image_is_written_again() {
    let world = World::new(6);
    let (blip, clip) = (networks::instructblip(&world.path("blip")), world.path("clip"));
    networks::clip(&clip, 3);
    let spec = |more: &[&str]| {
        let named = [
            format!("caption.instructblip.weights={}", blip.display()),
            format!("caption.score.clip={}", clip.display()),
        ];
        let base = ["caption.captioner=instructblip", "caption.instructblip.max_new_tokens=12", "score.clip=none"];
        let all: Vec<&str> =
            base.into_iter().chain(named.iter().map(String::as_str)).chain(more.iter().copied()).collect();
        world.spec("work", &all)
    };
    let until = || pipeline::run_options::RunOptions { until: Some("captions".into()), ..Default::default() };
    let quality = "caption.instructblip.quality={ min_words = 1, max_repetition = 1.0 }";
    let (build, _) = pipeline_tests::run_with(spec(&[quality]), until()).await.unwrap();
    assert_eq!(look_into(&build).await, (0, 0), "without a threshold nothing is written twice");
    let (build, _) =
        pipeline_tests::run_with(spec(&[quality, "caption.score.min_clip_score=2.5"]), until()).await.unwrap();
    assert_eq!(look_into(&build).await, (6, 6));
    let reasons = column(&build, Artifact::Captions, "flagged").await;
    assert!(reasons.values().all(|why| why.contains("CLIPScore")), "{reasons:?}");
    // the judge's weights are now part of what a caption is made of, and known by their content
    let first = version(&build, Artifact::Captions).await;
    let (build, _) =
        pipeline_tests::run_with(spec(&[quality, "caption.score.min_clip_score=2.5"]), until()).await.unwrap();
    assert_eq!(version(&build, Artifact::Captions).await, first);
    networks::clip(&clip, 4);
    let (build, _) =
        pipeline_tests::run_with(spec(&[quality, "caption.score.min_clip_score=2.5"]), until()).await.unwrap();
    assert_eq!(version(&build, Artifact::Captions).await, first + 1);
}

/// Rows of the two tables that InstructBLIP reads.
fn rows(images: &[&[u8]], center_tags: &[Option<&str>]) -> InputRows {
    let none = || Arc::new(StringArray::new_null(images.len())) as ArrayRef;
    let geotags = RecordBatch::try_from_iter([
        ("title", none()),
        ("title_multi_objects", none()),
        ("given_captions", table::text_lists(&vec![Some(Vec::new()); images.len()]).unwrap()),
        ("center_tags", Arc::new(StringArray::from(center_tags.to_vec())) as ArrayRef),
        ("surrounding_tags", none()),
    ]);
    let pixels = RecordBatch::try_from_iter([("bytes", Arc::new(BinaryArray::from_iter_values(images)) as ArrayRef)]);
    InputRows {
        image_ids: (0..images.len()).map(|i| format!("image{i}")).collect(),
        tables: [(Artifact::Geotags, geotags.unwrap()), (Artifact::Images, pixels.unwrap())].into(),
        source: Vec::new(),
    }
}

#[test]
fn bad_rows_stay_with_their_images() {
    let folder = tempfile::tempdir().unwrap();
    let blip = networks::instructblip(&folder.path().join("blip"));
    let spec = BuildSpec::parse(
        "country = \"x\"\n[source]\nkind = \"skyscript\"\nurl = \"x\"\n[caption]\ncaptioner = \"instructblip\"\n\
         instructblip.weights = \"x\"\ninstructblip.max_new_tokens = 8\ninstructblip.images_per_batch = 2\n",
        "test",
        &["caption.instructblip.decoding=checkpoint".into()],
    )
    .unwrap();
    let mut weights = Weights::default();
    weights.insert("caption.instructblip.weights", LocalWeights { path: Some(blip.clone()), digest: "x".into() });
    let opened = || {
        let stage = stages::captions::stage(&spec);
        let device = stages::device::devices("captions", &spec).unwrap()[0];
        let (stop, model_folder) = (Default::default(), None);
        (stage.open)(&StageContext { spec: &spec, device, model_folder, weights: &weights, server: None, stop })
    };
    let image = pixels::encode_jpeg(&pixels::Rgb { width: 40, height: 30, data: vec![90; 40 * 30 * 3] }, 90);
    let (long, foreign) = (
        serde_json::json!({ "leisure": "park", "name": "x".repeat(10_000), "note": "ж".repeat(10_000) }).to_string(),
        serde_json::json!({ "building": "kirche", "name:fi": "Kauppatori", "name:ru": "Рынок" }).to_string(),
    );
    let images: [&[u8]; 6] = [&image, b"no image", &image, &image[..image.len() / 2], &image, &image];
    let tags = [None, None, Some(long.as_str()), None, Some(foreign.as_str()), Some("{ broken")];
    let map = |images: &[&[u8]], tags: &[Option<&str>]| -> MapOutput {
        opened().unwrap().transform(&rows(images, tags)).unwrap()
    };
    let output = map(&images, &tags);
    let good: Vec<bool> = output.outcomes.iter().map(|o| *o == Outcome::Good).collect();
    assert_eq!(good, [true, false, true, false, true, false], "{:?}", output.outcomes);
    let captions = |output: &MapOutput| Columns::new(Artifact::Captions, &output.content).texts("captions").unwrap();
    let all = captions(&output);
    for row in [0, 2, 4] {
        assert_eq!(all[row].len(), 1);
        // an image that fails beside it changes no word
        let mut alone = rows(&images[row..=row], &tags[row..=row]);
        alone.image_ids = vec![format!("image{row}")];
        assert_eq!(captions(&opened().unwrap().transform(&alone).unwrap())[0], all[row]);
    }
    // the checkpoint's own way of decoding
    let text = serde_json::json!({ "num_beams": 1, "max_new_tokens": 2, "min_length": 2 }).to_string();
    std::fs::write(blip.join("generation_config.json"), text).unwrap();
    let short = captions(&map(&images[..1], &tags[..1]));
    assert!(short[0][0].split_whitespace().count() <= 2 && short[0] != all[0], "{short:?}");
    // blanks say nothing: a caption that is none is no row of captions
    networks::instructblip_tokenizers(&blip, |i| " ".repeat(i as usize));
    let silent = map(&images, &tags);
    let texts = captions(&silent);
    let is_silent = |row: usize| matches!(&silent.outcomes[row], Outcome::Failed(why) if why.contains("says nothing"));
    assert!([0, 2, 4].into_iter().any(is_silent), "{:?}", silent.outcomes);
    assert!([0, 2, 4].into_iter().all(|row| is_silent(row) || !texts[row][0].trim().is_empty()), "{texts:?}");
    std::fs::write(blip.join("generation_config.json"), "{\"no_repeat_ngram_size\": 3}").unwrap();
    assert!(opened().err().unwrap().to_string().contains("no_repeat_ngram_size"));
}

/// Counts of flagged captions and of captions written twice.
async fn look_into(build: &pipeline::build::Build) -> (usize, usize) {
    let (mut flagged, mut again) = (0, 0);
    for part in build.pin(Artifact::Captions).await.unwrap().parts {
        let reader = PartReader::open(&build.work, Artifact::Captions, &part).await.unwrap();
        let batch = reader.read(&["captions", "quality", "flagged"]).await.unwrap();
        let columns = Columns::new(Artifact::Captions, &batch);
        let texts = columns.texts("captions").unwrap();
        for (row, texts) in texts.iter().enumerate() {
            assert_eq!(texts.len(), 1);
            let items = columns.structs("quality", row).unwrap();
            let inner = columns.inner(&items);
            let words = inner.int32("words").unwrap().value(0) as usize;
            assert_eq!(words, texts[0].split_whitespace().count());
            again += usize::from(inner.int32("attempts").unwrap().value(0) == 2);
            let why = stages::table::option_text(columns.text("flagged").unwrap(), row);
            flagged += usize::from(why.is_some());
        }
    }
    (flagged, again)
}
