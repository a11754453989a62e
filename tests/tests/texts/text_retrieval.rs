//! Retrieval of text by text: which vectors an edit touches, what a query may know, and the figures of a build.

use std::collections::BTreeMap;

use manifests::{Artifact, BuildSpec, paths};
use pipeline::build::Build;
use pipeline::progress::Progress;
use pipeline::run_options::RunOptions;
use pipeline::search::{Query, Question, SearchModel, Searcher};
use pipeline_tests::{World, column, edit_a_finnish_image, networks, run, run_with, version};
use workers::publish::Summary;
use workers::search::Filter;

/// A committed sentence encoder of three layers, which reads 32 pieces of a text.
const ENCODER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../stages/models/tests/goldens/sentence_xlmr_cls_dense");
const TABLES: [Artifact; 4] =
    [Artifact::StructuredEmbeddings, Artifact::QueryTexts, Artifact::QueryEmbeddings, Artifact::SentenceEmbeddings];

fn spec(world: &World, more: &[&str]) -> BuildSpec {
    let encoder = format!("text_retrieval.encoder={ENCODER}");
    let base = ["caption.structured=true", encoder.as_str(), "score.clip=none", "pretrain.epochs=1"];
    world.spec("work", &[&base[..], more].concat())
}

async fn embedded(spec: BuildSpec) -> Build {
    let until = RunOptions { until: Some("sentence_embeddings".into()), ..RunOptions::default() };
    let (build, quarantined) = run_with(spec, until).await.unwrap();
    assert!(quarantined.is_empty(), "{quarantined:?}");
    build
}

async fn computed(build: &Build, artifact: Artifact) -> u64 {
    let path = paths::summary("finland", artifact.name());
    build.work.get_sealed::<Summary>(&path).await.unwrap().unwrap().computed
}

async fn versions(build: &Build) -> BTreeMap<&'static str, u64> {
    let mut versions = BTreeMap::new();
    for artifact in [&TABLES[..], &[Artifact::StructuredCaptions, Artifact::Captions]].concat() {
        versions.insert(artifact.name(), version(build, artifact).await);
    }
    versions
}

/// Rows whose digest changed.
fn changed(before: &BTreeMap<String, String>, after: &BTreeMap<String, String>) -> u64 {
    after.iter().filter(|(id, digest)| before[*id] != **digest).count() as u64
}

#[tokio::test(flavor = "multi_thread")]
async fn an_edit_embeds_again_what_it_changed_and_nothing_else() {
    let world = World::new(60);
    let build = embedded(spec(&world, &[])).await;
    let sources = [
        (Artifact::StructuredEmbeddings, Artifact::StructuredCaptions, "variants_digest"),
        (Artifact::QueryEmbeddings, Artifact::QueryTexts, "text_digest"),
        (Artifact::SentenceEmbeddings, Artifact::Captions, "captions_digest"),
    ];
    let mut before = Vec::new();
    for (_, source, digest) in sources {
        before.push(column(&build, source, digest).await);
    }
    let edited = edit_a_finnish_image(&world);
    let build = embedded(spec(&world, &[])).await;
    for ((table, source, digest), before) in sources.into_iter().zip(before) {
        let changed = changed(&before, &column(&build, source, digest).await);
        assert!(changed > 0 && changed <= edited.len() as u64, "{}: {changed}", source.name());
        assert_eq!(computed(&build, table).await, changed, "{}", table.name());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_setting_touches_the_vectors_that_it_is_about() {
    let world = World::new(20);
    let before = versions(&embedded(spec(&world, &[])).await).await;
    let moved = |after: BTreeMap<&'static str, u64>| -> Vec<&'static str> {
        after.into_iter().filter(|(table, version)| before[table] != *version).map(|(table, _)| table).collect()
    };
    let same = ["text_retrieval.variants=mean", "text_retrieval.fusion_alpha=[0.5]"];
    assert!(moved(versions(&embedded(spec(&world, &same)).await).await).is_empty(), "figures, no vectors");
    let fields = ["text_retrieval.fields=[\"caption\"]"];
    assert_eq!(moved(versions(&embedded(spec(&world, &fields)).await).await), ["structured_embeddings"]);
    let pooling = ["text_retrieval.fields=[\"caption\"]", "text_retrieval.pooling=mean"];
    assert_eq!(
        moved(versions(&embedded(spec(&world, &pooling)).await).await),
        ["query_embeddings", "sentence_embeddings", "structured_embeddings"],
        "another way to read makes other vectors, never other words"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_query_knows_its_image_and_neither_tags_nor_captions_nor_prompt() {
    let world = World::new(9);
    let folder = networks::instructblip(&world.path("blip"));
    let weights = format!("caption.instructblip.weights={}", folder.display());
    let prompts =
        ["text_retrieval.query_prompt=zyzzyva, what is this?", "text_retrieval.query_prompt=another question"];
    let with = |prompt: &str| {
        let more = [
            "caption.captioner=instructblip",
            weights.as_str(),
            "caption.instructblip.max_new_tokens=3",
            "caption.instructblip.structured.max_new_tokens=1",
            "caption.instructblip.structured.attempts=5",
            prompt,
        ];
        spec(&world, &more)
    };
    let build = embedded(with(prompts[0])).await;
    let texts = column(&build, Artifact::QueryTexts, "text").await;
    assert_eq!(texts.len(), 9);
    assert!(texts.values().all(|text| text.contains("word") && !text.contains("zyzzyva")), "{texts:?}");
    // other tags: other captions, the same queries
    let before = versions(&build).await;
    edit_a_finnish_image(&world);
    let after = versions(&embedded(with(prompts[0])).await).await;
    assert_eq!(after["query_texts"], before["query_texts"], "tags say nothing to whoever writes queries");
    let asked = versions(&embedded(with(prompts[1])).await).await;
    assert_eq!(asked["query_texts"], before["query_texts"] + 1, "another question, other answers");
    assert_eq!(asked["structured_captions"], after["structured_captions"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn figures_of_both_stand_side_by_side() {
    let world = World::new(60);
    let (build, _) = run(spec(&world, &[])).await.unwrap();
    let evaluation = pipeline::evaluate::stored(&build).await.unwrap().unwrap();
    let text = evaluation.text.as_ref().unwrap();
    assert_eq!(text.model, evaluation.recall, "the trained model on the same rows");
    assert!(text.tags_to_tags && text.images_without_text == 0);
    assert!(text.text.exact.pessimistic.exceeds_chance(), "{}", text.text.exact.pessimistic.in_words());
    let page = pipeline::page::make(std::slice::from_ref(&build), &[], "now").await.unwrap();
    assert!(page.contains("Text by text") && page.contains("Tags to tags"));
    // another rule: new figures from the same vectors
    let (build, _) = run(spec(&world, &["text_retrieval.variants=first"])).await.unwrap();
    let again = pipeline::evaluate::stored(&build).await.unwrap().unwrap();
    assert_eq!(again.recall, evaluation.recall);
    // without an encoder nothing of it is there
    let off = world.spec("work", &["caption.structured=true", "score.clip=none", "pretrain.epochs=1"]);
    let (build, _) = run(off).await.unwrap();
    assert_eq!(pipeline::evaluate::stored(&build).await.unwrap().unwrap().text, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_text_searches_what_was_written() {
    let world = World::new(30);
    let build = embedded(spec(&world, &[])).await;
    let progress = Progress::new(true);
    let model = SearchModel::of_texts(&build).await.unwrap();
    let searcher = Searcher::open(model, [&build], &progress).await.unwrap();
    let question =
        |text: &str, filter| Question { query: Query::Text(text.into()), filter, countries: Vec::new(), most: 5 };
    let text = "a road";
    let answer = searcher.search(&question(text, Filter::default())).await.unwrap();
    assert!(answer.by_text && answer.compared == 30 && answer.found.len() == 5, "{answer:?}");
    assert!(answer.found.windows(2).all(|pair| pair[0].score >= pair[1].score));
    let train = Filter { split: Some("train".into()), ..Filter::default() };
    let of_train = searcher.search(&question(text, train)).await.unwrap();
    assert!(of_train.compared < 30 && of_train.found.iter().all(|found| found.split.as_deref() == Some("train")));
    for (query, expected) in [
        (Query::Text(String::new()), "the text is empty"),
        (Query::Text("a ".repeat(100)), "reads 30"),
        (Query::Picture { name: "a.jpg".into(), bytes: Vec::new() }, "search by a text"),
    ] {
        let question = Question { query, ..question("", Filter::default()) };
        let why = searcher.search(&question).await.unwrap_err().to_string();
        assert!(why.contains(expected), "{why}");
    }
    // a query that is pooled otherwise says nothing of these vectors
    let other = pipeline_tests::open(spec(&world, &["text_retrieval.pooling=mean"])).await.unwrap();
    let searcher = Searcher::open(SearchModel::of_texts(&other).await.unwrap(), [&other], &progress).await.unwrap();
    let why = searcher.search(&question(text, Filter::default())).await.unwrap_err().to_string();
    assert!(why.contains("run its build to its end"), "{why}");
    // a build without an encoder says what it needs
    let off = pipeline_tests::open(world.spec("work", &["score.clip=none"])).await.unwrap();
    let why = SearchModel::of_texts(&off).await.unwrap_err().to_string();
    assert!(why.contains("text_retrieval.encoder is empty"), "{why}");
}
