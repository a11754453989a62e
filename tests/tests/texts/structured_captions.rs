//! Structured captions: from tags by rule, and by an InstructBLIP whose random words are JSON.

use std::collections::{BTreeMap, HashSet};

use manifests::{Artifact, BuildSpec};
use pipeline::build::Build;
use pipeline::run_options::RunOptions;
use pipeline_tests::{World, column, networks, run_with, version};
use stages::table::{Columns, option_text};
use workers::parts::PartReader;

/// What stands in the table of one image.
#[derive(Debug, Clone, PartialEq)]
struct Row {
    variants: Vec<[String; 3]>,
    attempts: i32,
    flagged: Option<String>,
}

async fn table(build: &Build) -> BTreeMap<String, Row> {
    let mut rows = BTreeMap::new();
    for part in build.pin(Artifact::StructuredCaptions).await.unwrap().parts {
        let reader = PartReader::open(&build.work, Artifact::StructuredCaptions, &part).await.unwrap();
        let batch = reader.read(&["image_id", "variants", "attempts", "flagged"]).await.unwrap();
        let columns = Columns::new(Artifact::StructuredCaptions, &batch);
        for row in 0..batch.num_rows() {
            let items = columns.structs("variants", row).unwrap();
            let inner = columns.inner(&items);
            let field = |name: &str, i: usize| inner.text(name).unwrap().value(i).to_owned();
            let variants = (0..items.num_rows())
                .map(|i| ["one_sentence", "feature", "caption"].map(|name| field(name, i)))
                .collect();
            let attempts = columns.int32("attempts").unwrap().value(row);
            let flagged = option_text(columns.text("flagged").unwrap(), row).map(str::to_owned);
            let id = columns.text("image_id").unwrap().value(row).to_owned();
            assert!(rows.insert(id, Row { variants, attempts, flagged }).is_none());
        }
    }
    rows
}

async fn written(spec: BuildSpec) -> Build {
    let until = RunOptions { until: Some("structured_captions".into()), ..RunOptions::default() };
    let (build, quarantined) = run_with(spec, until).await.unwrap();
    assert!(quarantined.is_empty(), "{quarantined:?}");
    build
}

fn check_whole(row: &Row) {
    let distinct: HashSet<&[String; 3]> = row.variants.iter().collect();
    assert_eq!((distinct.len(), row.flagged.as_deref()), (5, None), "{row:?}");
    assert!(row.variants.iter().flatten().all(|field| !field.trim().is_empty()), "{row:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn tags_are_put_into_five_variants_by_rule() {
    let world = World::new(14);
    let spec = |more: &[&str]| world.spec("work", &[&["caption.structured=true", "score.clip=none"], more].concat());
    let build = written(spec(&[])).await;
    let rows = table(&build).await;
    assert_eq!(rows.len(), 14);
    rows.values().for_each(check_whole);
    assert!(rows.values().all(|row| row.attempts == 0), "nobody was asked");
    let digests = column(&build, Artifact::StructuredCaptions, "variants_digest").await;
    assert!(digests.values().all(|digest| !digest.is_empty()));
    // nothing to do again; captions are a table of their own
    let (first, captions) =
        (version(&build, Artifact::StructuredCaptions).await, version(&build, Artifact::Captions).await);
    let build = written(spec(&["caption.instructblip.seed=9"])).await;
    assert_eq!(version(&build, Artifact::StructuredCaptions).await, first);
    assert_eq!(version(&build, Artifact::Captions).await, captions);
    let page = pipeline::page::make(std::slice::from_ref(&build), &[], "now").await.unwrap();
    assert!(page.contains("70 variants of 14 images"));
    // off is the default
    let off = world.spec("work", &["score.clip=none"]);
    assert!(stages::steps(&off).iter().all(|step| step.name() != "structured_captions"));
}

/// Of the words that the network writes at random, every third is an answer.
fn says(i: u32, kinds: u32) -> String {
    let kind = i % kinds;
    match i % 3 {
        0 => {
            format!("{{\"one_sentence\": \"Lake {kind}.\", \"feature\": \"pier {kind}\", \"caption\": \"Water {i}\"}}")
        }
        1 => format!(
            "```json\n{{'One Sentence': 'Road {kind}', 'FEATURES': ['bend'], 'caption': 'A road {kind}',}}\n``` {i}"
        ),
        _ => format!("word{i}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn instructblip_is_asked_until_it_gave_five_distinct_ones() {
    let world = World::new(9);
    let folder = world.path("blip");
    networks::instructblip_without_tokenizers(&folder);
    networks::instructblip_tokenizers(&folder, |i| says(i, 48));
    let named = format!("caption.instructblip.weights={}", folder.display());
    let spec = |work: &str, more: &[&str]| {
        let base = [
            "caption.structured_captioner=instructblip",
            named.as_str(),
            "caption.structured=true",
            "caption.instructblip.max_new_tokens=2",
            "caption.instructblip.structured.max_new_tokens=1",
            "caption.instructblip.structured.temperature=8.0",
            "caption.instructblip.structured.top_p=1.0",
            "caption.instructblip.structured.attempts=60",
            "score.clip=none",
        ];
        world.spec(work, &[&base[..], more].concat())
    };
    let build = written(spec("work", &[])).await;
    let rows = table(&build).await;
    assert_eq!(rows.len(), 9);
    for row in rows.values() {
        check_whole(row);
        assert!((5..=60).contains(&row.attempts));
    }
    assert!(rows.values().any(|row| row.attempts > 5), "some answers were no good and were asked for again");
    assert!(rows.values().map(|row| &row.variants).collect::<HashSet<_>>().len() > 1, "images differ");
    // batches and devices change nothing, and ask nobody again
    let first = version(&build, Artifact::StructuredCaptions).await;
    let bounds = ["caption.instructblip.images_per_batch=1", "caption.instructblip.cache_mib=1"];
    assert_eq!(version(&written(spec("work", &bounds)).await, Artifact::StructuredCaptions).await, first);
    let other = [&bounds[..], &["model.device=cpu,cpu"]].concat();
    assert_eq!(table(&written(spec("other", &other)).await).await, rows);

    // a network that cannot say five different things: what it has is kept, and why it is not more
    networks::instructblip_tokenizers(&folder, |i| match i % 2 {
        0 => format!("{{\"one_sentence\": \"Lake.\", \"feature\": \"pier\", \"caption\": \"Water {}\"}}", i % 4),
        _ => format!("word{i}"),
    });
    let few = ["caption.instructblip.structured.attempts=8"];
    let build = written(spec("work", &few)).await;
    for (id, row) in table(&build).await {
        let why = row.flagged.as_deref().unwrap_or_else(|| panic!("{id} is flagged"));
        assert!(row.variants.len() <= 2 && row.attempts == 8, "{row:?}");
        assert!(why.contains(&format!("has {} of 5 variants after 8 answers", row.variants.len())), "{why}");
    }
    let page = pipeline::page::make(std::slice::from_ref(&build), &[], "now").await.unwrap();
    assert!(page.contains("images with fewer than five are flagged: 9"));
}
