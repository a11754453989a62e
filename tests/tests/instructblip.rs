//! InstructBLIP as a build's captioner: a small network with random weights through the whole pipeline.

use std::path::Path;

use manifests::Artifact;
use pipeline_tests::{World, column, run, version};
use serde_json::json;
use stages::table::Columns;
use workers::parts::PartReader;

/// The committed golden network.
const NETWORK: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../stages/models/tests/goldens/instructblip_llama_grouped");

/// A vocabulary of made-up words; every text that is put in is one unknown word.
fn vocabulary(path: &Path, words: u32) {
    let vocab: serde_json::Map<_, _> =
        (0..words).map(|i| (if i == 3 { "[UNK]".to_owned() } else { format!("word{i}") }, json!(i))).collect();
    let tokenizer = json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": [], "normalizer": null,
        "pre_tokenizer": null, "post_processor": null, "decoder": null,
        "model": { "type": "WordLevel", "vocab": vocab, "unk_token": "[UNK]" },
    });
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, tokenizer.to_string()).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn instructblip_captions_once_in_any_batch_and_says_how_good_it_was() {
    let world = World::new(14);
    let folder = world.path("blip");
    std::fs::create_dir(&folder).unwrap();
    for name in ["config.json", "model.safetensors"] {
        std::fs::copy(Path::new(NETWORK).join(name), folder.join(name)).unwrap();
    }
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
    vocabulary(&folder.join("tokenizer.json"), 48);
    vocabulary(&folder.join("qformer_tokenizer/tokenizer.json"), 30);

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
    let (other, _) = run(spec("other", &["caption.instructblip.images_per_batch=1"])).await.unwrap();
    assert_eq!(column(&other, Artifact::Captions, "captions_digest").await, digests);
    let (build, _) = run(spec("work", &["caption.instructblip.quality={ min_words = 40 }"])).await.unwrap();
    assert_eq!(version(&build, Artifact::Captions).await, first + 1);
    let (flagged, again) = look_into(&build).await;
    assert_eq!((flagged, again), (14, 14), "no caption has forty words: all are flagged, none is dropped");
    let page = pipeline::page::make(std::slice::from_ref(&build), &[], "now").await.unwrap();
    assert!(page.contains("InstructBLIP"), "the report names the method");
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
