//! Captions by a server of chat completions: what it is told, what is kept of it, and what becomes of a build when it
//! misbehaves in every way that servers do.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use manifests::attempts::Object;
use manifests::{Artifact, BuildSpec, Marker, paths};
use pipeline::build::Build;
use pipeline::progress::Progress;
use pipeline::run_options::RunOptions;
use pipeline_tests::chat::{Asked, ChatServer, Says};
use pipeline_tests::{World, column, open, run_with, version};
use serde_json::json;
use workers::WorkerError;
use workers::publish::Summary;

/// A committed sentence encoder.
const ENCODER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../stages/models/tests/goldens/sentence_xlmr_cls_dense");
const GOOD: &str = "A pond beside a narrow road, with some trees around it.";

fn spec(world: &World, server: &ChatServer, more: &[&str]) -> BuildSpec {
    let url = format!("caption.server.url={}", server.url);
    let all = [
        "caption.captioner=server",
        &url,
        "caption.server.model=m",
        "caption.server.tries=3",
        "score.clip=none",
        "segment.segmenter=none",
    ];
    world.spec("work", &[&all, more].concat())
}

async fn captioned(spec: BuildSpec) -> Result<Build, WorkerError> {
    let until = RunOptions { until: Some("captions".into()), ..RunOptions::default() };
    run_with(spec, until).await.map(|(build, _)| build)
}

/// Captions by image, and errors by image where there are some.
async fn captions(build: &Build) -> (Vec<String>, Vec<String>) {
    let errors = column(build, Artifact::Captions, "error").await;
    let served = column(build, Artifact::Captions, "served").await;
    let good = served.into_iter().filter(|(id, _)| errors[id].is_empty()).map(|(_, served)| served).collect();
    (good, errors.into_values().filter(|error| !error.is_empty()).collect())
}

async fn summary(build: &Build, stage: &str) -> Summary {
    build.work.get_sealed(&manifests::paths::summary("finland", stage)).await.unwrap().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_is_told_tags_and_asked_once() {
    let world = World::new(12);
    let server = ChatServer::start(|_| Says { after: Duration::from_millis(5), ..Says::text(GOOD) });
    let more = [
        "caption.server.key_env=PATH",
        "caption.server.requests_at_once=2",
        "caption.server.price_per_million_tokens_in=2.0",
        "caption.server.price_per_million_tokens_out=8.0",
    ];
    let build = captioned(spec(&world, &server, &more)).await.unwrap();
    let (served, errors) = captions(&build).await;
    assert_eq!((served, errors), (vec!["served-1 fp_7".to_owned(); 12], vec![]));
    let asked = server.asked.lock().unwrap().clone();
    assert_eq!(asked.len(), 12);
    assert!(server.most_at_once.load(Ordering::SeqCst) <= 2);
    let key = format!("Bearer {}", std::env::var("PATH").unwrap());
    for asked in &asked {
        assert_eq!(asked.authorization.as_ref(), Some(&key));
        assert!(asked.prompt().contains("which the map knows as: "), "{}", asked.prompt());
        assert!(!asked.prompt().contains("{tags}"));
        let url = asked.body["messages"][0]["content"][1]["image_url"]["url"].as_str().unwrap();
        assert!(url.starts_with("data:image/jpeg;base64,/9j/"));
    }
    let of_stage = summary(&build, "captions").await;
    assert_eq!((of_stage.usage.requests, of_stage.usage.tokens_in, of_stage.usage.tokens_out), (12, 1200, 120));
    assert!(of_stage.notes["server"].ends_with("price 0.003360"), "{:?}", of_stage.notes);
    // nothing is asked again, also at another address; another model is
    let elsewhere = ChatServer::start(|_| Says::text(GOOD));
    captioned(spec(&world, &elsewhere, &["caption.server.tries=9"])).await.unwrap();
    assert_eq!(elsewhere.requests(), 0);
    captioned(spec(&world, &elsewhere, &["caption.server.model=n"])).await.unwrap();
    assert_eq!(elsewhere.requests(), 12);
}

#[tokio::test(flavor = "multi_thread")]
async fn five_variants_come_in_one_answer_and_queries_know_no_tags() {
    let world = World::new(6);
    let variants = |count: usize| {
        let of = |i: usize| {
            let words = ["first", "second", "third", "fourth", "fifth"][i];
            json!({ "one_sentence": format!("A {words} lake."), "feature": "a pier", "caption": format!("It has a {words} pier.") })
        };
        json!({ "variants": (0..count).map(of).collect::<Vec<_>>() }).to_string()
    };
    // of each image: nonsense, then three, then all five
    let server = ChatServer::start(move |asked: &Asked| match &asked.body["response_format"]["type"] {
        kind if kind == "json_schema" => Says::text(&match asked.try_of_image % 3 {
            0 => "Sure! Here it is: {".to_owned(),
            1 => variants(3),
            _ => variants(5),
        }),
        _ => Says::text(GOOD),
    });
    let more = [
        "caption.captioner=geotags",
        "caption.structured=true",
        "caption.structured_captioner=server",
        "text_retrieval.encoder=",
    ];
    let until = |stage: &str| RunOptions { until: Some(stage.into()), ..RunOptions::default() };
    let (build, _) = run_with(spec(&world, &server, &more), until("structured_captions")).await.unwrap();
    let flagged = column(&build, Artifact::StructuredCaptions, "flagged").await;
    assert!(flagged.values().all(String::is_empty), "{flagged:?}");
    assert_eq!(server.requests(), 18);
    let asked = server.asked.lock().unwrap().clone();
    let schema = &asked[0].body["response_format"]["json_schema"]["schema"];
    assert_eq!(schema["properties"]["variants"]["minItems"], 5);
    let temperatures: Vec<f64> = (0..3)
        .map(|n| asked.iter().find(|a| a.try_of_image == n).unwrap().body["temperature"].as_f64().unwrap())
        .collect();
    assert_eq!(temperatures, [0.3, 0.6, 1.0]);
    assert_eq!(
        summary(&build, "structured_captions").await.usage.requests,
        18,
        "also what could not be read is paid for"
    );
    // queries
    let encoder = format!("text_retrieval.encoder={ENCODER}");
    let more = [more[0], more[1], more[2], &encoder, "text_retrieval.query_prompt=What is it?"];
    let (build, _) = run_with(spec(&world, &server, &more), until("query_texts")).await.unwrap();
    let texts = column(&build, Artifact::QueryTexts, "text").await;
    assert!(texts.len() == 6 && texts.values().all(|text| text == GOOD), "{texts:?}");
    let asked = server.asked.lock().unwrap().clone();
    assert_eq!(asked.len(), 24);
    assert!(asked[18..].iter().all(|asked| asked.prompt() == "What is it?"));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_fails_and_passes_costs_no_row() {
    let world = World::new(9);
    let limit = |seconds: &str| Says { headers: vec![("retry-after", seconds.into())], ..Says::error(429, "rate") };
    type Manner = (&'static str, fn(&Asked) -> Option<Says>);
    let manners: [Manner; 5] = [
        ("500 twice", |asked| (asked.try_of_image < 2).then(|| Says::error(500, "boom"))),
        ("a page of a proxy", |asked| {
            (asked.try_of_image < 1).then(|| Says { status: 200, body: "<html>".into(), ..Says::default() })
        }),
        ("a reply that is too long", |asked| {
            (asked.image == 1 && asked.try_of_image < 1).then(|| Says {
                status: 200,
                body: "x".repeat(5 << 20),
                ..Says::default()
            })
        }),
        ("no answer in time", |asked| {
            let after = Duration::from_millis(1300);
            (asked.image == 2 && asked.try_of_image < 1).then(|| Says { after, ..Says::text("late") })
        }),
        // more often than there are tries: a server at its limits that answers others does not fail
        ("too many", |asked| (asked.number % 3 != 0).then(|| Says::error(429, "rate"))),
    ];
    for (i, (what, manner)) in manners.into_iter().enumerate() {
        let server = ChatServer::start(move |asked: &Asked| manner(asked).unwrap_or_else(|| Says::text(GOOD)));
        let work = format!("work.url={}", world.path(&format!("work-{i}")).display());
        let more = ["caption.server.timeout_seconds=1", "caption.server.requests_at_once=3", &work];
        let build = captioned(spec(&world, &server, &more)).await.unwrap_or_else(|error| panic!("{what}: {error}"));
        let (served, errors) = captions(&build).await;
        assert_eq!((served.len(), errors), (9, vec![]), "{what}");
    }
    // everybody waits for as long as the server says
    let server =
        ChatServer::start(move |asked: &Asked| if asked.number == 0 { limit("0.6") } else { Says::text(GOOD) });
    let work = format!("work.url={}", world.path("work-limited").display());
    let build = captioned(spec(&world, &server, &["caption.server.requests_at_once=1", &work])).await.unwrap();
    assert_eq!(captions(&build).await.0.len(), 9);
    let asked = server.asked.lock().unwrap().clone();
    let waited = asked[1].at.duration_since(asked[0].at);
    assert!(waited >= Duration::from_millis(550), "{waited:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_concerns_one_image_stays_with_it() {
    let world = World::new(9);
    let refusal = || Says {
        status: 200,
        body: json!({ "choices": [{ "message": { "refusal": "I <cannot>" } }], "usage": { "prompt_tokens": 7 } })
            .to_string(),
        ..Says::default()
    };
    let server = ChatServer::start(move |asked: &Asked| match asked.image {
        0 => refusal(),
        1 => Says::error(413, "too_large"),
        2 => Says::error(400, "content_filter"),
        // a poisoned image: the server answers everything else
        3 => Says::error(500, "boom"),
        // says nothing, and nothing again
        4 => Says::text(""),
        _ => Says { after: Duration::from_millis(300), ..Says::text(GOOD) },
    });
    let build = captioned(spec(&world, &server, &["caption.server.requests_at_once=9"])).await.unwrap();
    let (served, mut errors) = captions(&build).await;
    errors.sort_unstable();
    assert_eq!((served.len(), errors.len()), (4, 5), "{errors:?}");
    let has = |words: &str| assert!(errors.iter().any(|error| error.contains(words)), "{words}: {errors:?}");
    has("the model refuses: I <cannot>");
    has("413 (made to fail with too_large)");
    has("content_filter");
    has("tried 3 times: 500");
    has("the model says nothing");
    let seeds: Vec<_> =
        server.asked.lock().unwrap().iter().filter(|a| a.image == 4).map(|a| a.body["seed"].clone()).collect();
    assert!(seeds.len() == 2 && seeds[0] != seeds[1], "the second try draws other words: {seeds:?}");
}

/// Also where a run begins with them, so that the server has not taken a request yet.
#[tokio::test(flavor = "multi_thread")]
async fn images_that_are_refused_say_nothing_of_the_server() {
    let world = World::new(12);
    let refused = Mutex::new(HashSet::new());
    // of the images, and none of other pictures
    let server = ChatServer::start(move |asked: &Asked| {
        let url = asked.body["messages"][0]["content"][1]["image_url"]["url"].as_str().unwrap_or_default();
        let mut refused = refused.lock().unwrap();
        if url.starts_with("data:image/jpeg") && refused.len() < 6 {
            refused.insert(url.to_owned());
        }
        if refused.contains(url) { Says::error(413, "too_large") } else { Says::text(GOOD) }
    });
    let spec = spec(&world, &server, &["caption.server.requests_at_once=1"]);
    let (served, errors) = captions(&captioned(spec.clone()).await.unwrap()).await;
    assert_eq!((served.len(), errors.len()), (6, 6), "{errors:?}");
    let again = RunOptions { until: Some("captions".into()), retry_errors: true, ..RunOptions::default() };
    let (build, _) = run_with(spec, again).await.unwrap();
    assert_eq!(captions(&build).await, (served, errors));
    assert!(server.requests() >= 12 + 6 + 2, "each run asked once more: {}", server.requests());
}

#[tokio::test(flavor = "multi_thread")]
async fn half_an_answer_is_no_text() {
    let world = World::new(6);
    let server = ChatServer::start(|_| {
        let rest = r#""feature": "a pier", "caption": "Water."}"#;
        let of = |words: &str| format!("{{\"one_sentence\": \"A {words} lake.\", {rest}");
        let [one, two, three] = ["first", "second", "third"].map(of);
        let said = Says::text(&format!("{{\"variants\": [{one}, {two}, {}", three.trim_end_matches("er.\"}")));
        Says { body: said.body.replace("\"stop\"", "\"length\""), ..said }
    });
    let more = [
        "caption.captioner=geotags",
        "caption.structured=true",
        "caption.structured_captioner=server",
        "caption.server.structured={ attempts = 1 }",
    ];
    let until = RunOptions { until: Some("structured_captions".into()), ..RunOptions::default() };
    let (build, _) = run_with(spec(&world, &server, &more), until).await.unwrap();
    let flagged = column(&build, Artifact::StructuredCaptions, "flagged").await;
    let why = "has 2 of 5 variants after 1 answer: 1 reached the limit of tokens";
    assert!(flagged.len() == 6 && flagged.values().all(|flagged| flagged == why), "{flagged:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_concerns_all_ends_the_stage_by_its_kind() {
    let world = World::new(30);
    let secret = std::env::var("PATH").unwrap();
    let elsewhere = ChatServer::start(|_| Says::text(GOOD));
    let moved = elsewhere.url.clone();
    let redirect = move |_: &Asked| Says { status: 307, headers: vec![("location", moved.clone())], ..Says::default() };
    let always = |says: Says| move |_: &Asked| says.clone();
    // servers quote what they refuse
    let quotes = |asked: &Asked| Says::error(401, asked.authorization.as_deref().unwrap_or_default());
    let cases: [(ChatServer, &[&str], u8, &str); 8] = [
        (ChatServer::start(quotes), &[], 65, "refuses the key"),
        (ChatServer::start(always(Says::error(429, "insufficient_quota"))), &[], 65, "no credit"),
        (ChatServer::start(always(Says::error(400, "bad_parameter"))), &[], 65, "requests was taken"),
        (ChatServer::start(redirect), &[], 65, "redirects"),
        (ChatServer::start(always(Says::error(500, "boom"))), &["caption.server.tries=1"], 75, "500"),
        // a server that has no room for anybody, nor for a greeting: nobody waits until patience is over
        (ChatServer::start(always(Says::error(429, "rate"))), &[], 75, "too many requests"),
        (
            ChatServer::start(always(Says::text(GOOD))),
            &["caption.server.revision=served-2"],
            65,
            "served-1 fp_7 answered",
        ),
        (ChatServer::start(always(Says::text(GOOD))), &["caption.server.model=x"], 65, "serves m, n"),
    ];
    for (server, more, code, words) in cases {
        let more = [&["caption.server.key_env=PATH"], more].concat();
        let error =
            captioned(spec(&world, &server, &more)).await.err().unwrap_or_else(|| panic!("{words}: it went well"));
        let said = error.to_string();
        assert_eq!(error.exit_code(), code, "{words}: {said}");
        assert!(said.contains(words) && !said.contains(&secret), "{words}: {said}");
        assert!(code == 75 || server.requests() < 30, "{words}: {} requests", server.requests());
    }
    assert_eq!(elsewhere.requests(), 0, "a key is for one address");
    let right = ChatServer::start(|_| Says::text(GOOD));
    captioned(spec(&world, &right, &["caption.server.revision=fp_7"])).await.unwrap();
    assert_eq!(right.requests(), 30);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_that_is_put_off_for_ever_holds_up_nobody() {
    let world = World::new(40);
    for at_once in [1, 3] {
        let server = ChatServer::start(|asked: &Asked| match asked.image {
            0 => Says::error(429, "rate"),
            _ => Says::text(GOOD),
        });
        let work = format!("work.url={}", world.path(&format!("work-{at_once}")).display());
        let requests = format!("caption.server.requests_at_once={at_once}");
        // of one shard one chunk is asked at a time: behind it nobody else is answered
        let more = ["work.shards=1", "caption.server.timeout_seconds=1", &requests, &work];
        let build = captioned(spec(&world, &server, &more)).await.unwrap_or_else(|error| panic!("{requests}: {error}"));
        let (served, errors) = captions(&build).await;
        assert_eq!((served.len(), errors.len()), (39, 1), "{requests}: {errors:?}");
        assert!(errors[0].contains("put off for") && errors[0].contains("429"), "{errors:?}");
        if at_once == 3 {
            let asked = server.asked.lock().unwrap().clone();
            let last = asked.iter().rposition(|asked| asked.image == 0).unwrap();
            let others = asked[..last].iter().filter(|asked| asked.image != 0).count();
            assert!(others >= 5, "the rest of its chunk waits for it: {others}");
        }
    }
}

/// That a server had no room for an image says nothing of how often it failed at it.
#[tokio::test(flavor = "multi_thread")]
async fn a_fault_among_replies_that_there_is_no_room_is_one_fault() {
    let world = World::new(4);
    let server = ChatServer::start(|asked: &Asked| match (asked.image, asked.try_of_image) {
        // as often as it is tried, so that the server is greeted, in a question of its own; and once less
        (0, 0..2) | (2, 0) => Says::error(429, "rate"),
        (0, 2) | (2, 1) => Says::error(500, "boom"),
        _ => Says::text(GOOD),
    });
    let more = ["caption.server.tries=2", "caption.server.requests_at_once=1", "work.shards=1"];
    let build = captioned(spec(&world, &server, &more)).await.unwrap();
    let (served, errors) = captions(&build).await;
    assert_eq!((served.len(), errors), (4, vec![]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_run_loses_few_answers() {
    let world = World::new(40);
    let server = ChatServer::start(|asked: &Asked| match asked.number {
        0..=29 => Says::text(GOOD),
        _ => Says { after: Duration::from_secs(60), ..Says::text(GOOD) },
    });
    let more = ["work.shards=1", "caption.server.requests_at_once=1"];
    let path = world.path("spec.toml");
    std::fs::write(&path, spec(&world, &server, &more).to_toml()).unwrap();
    let mut run = std::process::Command::new(pipeline_tests::urbancross())
        .args(["run", path.to_str().unwrap(), "--until", "captions"])
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    while server.requests() < 31 {
        assert!(run.try_wait().unwrap().is_none(), "it ended");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    run.kill().unwrap();
    run.wait().unwrap();
    let again = ChatServer::start(|_| Says::text(GOOD));
    let build = captioned(spec(&world, &again, &more)).await.unwrap();
    assert_eq!(captions(&build).await.0.len(), 40);
    // two at a time, put aside after sixteen
    assert!(again.requests() <= 24, "{} were asked again", again.requests() - 10);
    let of_stage = summary(&build, "captions").await;
    assert_eq!((of_stage.computed, of_stage.errors), (40, 0));
    // what was asked is told of the rows that it was asked for
    let folder = paths::markers("finland", "captions");
    let names = build.work.list(&folder).await.unwrap();
    let name = names.iter().find(|name| matches!(Object::of_name(name), Some((_, Object::Marker)))).unwrap();
    let marker: Marker = build.work.get_sealed(&format!("{folder}/{name}")).await.unwrap().unwrap();
    assert!(marker.taken_over > 0 && marker.usage.requests + marker.taken_over == 40, "{marker:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_is_not_there_is_known_before_any_work() {
    let world = World::new(30);
    let server = ChatServer::start(|_| Says::text(GOOD));
    let spec =
        |more: &[&str]| spec(&world, &server, &[&["caption.server.key_env=URBANCROSS_NO_SUCH_KEY"], more].concat());
    let error = run_with(spec(&[]), RunOptions::default()).await.err().unwrap();
    assert!(error.exit_code() == 65 && error.to_string().contains("URBANCROSS_NO_SUCH_KEY"), "{error}");
    let build = open(spec(&[])).await.unwrap();
    assert!(build.pin(Artifact::Geotags).await.unwrap().parts.is_empty(), "known before the first stage");
}

/// Also by a run that ends with the captions.
#[tokio::test(flavor = "multi_thread")]
async fn a_model_that_the_server_lacks_is_known_before_images_are_pulled() {
    let world = World::new(6);
    let server = ChatServer::start(|_| Says::text(GOOD));
    let spec = || spec(&world, &server, &["caption.server.model=x"]);
    let error = captioned(spec()).await.err().unwrap();
    assert!(error.exit_code() == 65 && error.to_string().contains("serves m, n"), "{error}");
    let build = open(spec()).await.unwrap();
    assert!(build.pin(Artifact::Images).await.unwrap().parts.is_empty(), "images were pulled in vain");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_does_not_wait_for_answers_and_keeps_those_that_came() {
    let world = World::new(40);
    let server = ChatServer::start(|asked: &Asked| match asked.number {
        0..=9 => Says::text(GOOD),
        _ => Says { after: Duration::from_secs(20), ..Says::text(GOOD) },
    });
    let stop = Arc::new(AtomicBool::new(false));
    // one at a time, and so two rows in a chunk
    let more = ["work.shards=20", "caption.server.requests_at_once=1"];
    let mut build = Build::open(spec(&world, &server, &more), stop.clone()).await.unwrap();
    let until = RunOptions { until: Some("captions".into()), ..RunOptions::default() };
    let began = std::time::Instant::now();
    let asked = server.asked.clone();
    tokio::spawn(async move {
        while asked.lock().unwrap().len() < 11 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        stop.store(true, Ordering::SeqCst);
    });
    let error = pipeline::run::run(&mut build, &until, &Progress::new(true)).await.err().unwrap();
    assert!(matches!(error, WorkerError::Stopped), "{error}");
    assert!(began.elapsed() < Duration::from_secs(15), "it waited for the server");
    let again = ChatServer::start(|_| Says::text(GOOD));
    let build = captioned(spec(&world, &again, &more)).await.unwrap();
    // three threads ask, each of which may have been within a chunk
    let asked_again = again.requests() - 30;
    assert!(asked_again <= 3, "of ten that were answered {asked_again} were asked again");
    assert_eq!(captions(&build).await.0.len(), 40);
    assert!(version(&build, Artifact::Captions).await < 20);
}
