//! Pages of builds at work, asked as a browser or another site would: one look for many readers, and nothing written for
//! strangers.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use atlas::{
    BuildState, Compute, ComputeLimits, Decision, DecisionAsked, Desk, Edit, Edited, Failure, Guard, ImageName, Site,
    Trouble, Waiting, WaitingAsked, WaitingCaption, pages,
};
use axum::Router;
use axum::body::Body;
use axum::http::{Request, Response, StatusCode};
use futures::StreamExt;
use tower::ServiceExt;

/// Counts what it is asked.
#[derive(Default)]
struct Counts {
    looks: AtomicU64,
    decisions: AtomicU64,
}

#[async_trait]
impl Desk for Counts {
    fn countries(&self) -> Vec<String> {
        vec!["<finland>".into()]
    }

    async fn states(&self) -> Result<Vec<BuildState>, Trouble> {
        let look = self.looks.fetch_add(1, Ordering::SeqCst);
        Ok(vec![BuildState { country: format!("look {look}\n\nevent: x"), ..BuildState::default() }])
    }

    async fn failures(&self, _: String, step: String) -> Result<Vec<Failure>, Trouble> {
        Err(Trouble::NotThere(step))
    }

    async fn waiting(&self, asked: WaitingAsked) -> Result<Waiting, Trouble> {
        let captions = vec![WaitingCaption { id: asked.after, ..WaitingCaption::default() }];
        Ok(Waiting { captions, ..Waiting::default() })
    }

    async fn decide(&self, _: DecisionAsked) -> Result<Decision, Trouble> {
        self.decisions.fetch_add(1, Ordering::SeqCst);
        Ok(Decision::Done)
    }

    async fn edits(&self, country: String) -> Result<Vec<Edit>, Trouble> {
        Ok(vec![Edit { version: 4, origin: format!("diff of {country}"), ..Edit::default() }])
    }

    async fn edited(&self, _: String, version: u64) -> Result<Edited, Trouble> {
        let edit = Edit { version, origin: "<diff>".into(), ..Edit::default() };
        if version == 4 { Ok(Edited { edit, ..Edited::default() }) } else { Err(Trouble::NotThere("gone".into())) }
    }

    async fn picture(&self, _: ImageName) -> Result<Vec<u8>, Trouble> {
        Ok(vec![0xff, 0xd8])
    }
}

fn site() -> (Arc<Counts>, Router) {
    let limits = ComputeLimits { threads: 1, at_once: 2, waiting: 200, time: Duration::from_secs(2) };
    let compute = Arc::new(Compute::start(limits).unwrap());
    let guard = Guard::new([127, 0, 0, 1].into(), None, None, None).unwrap();
    let counts = Arc::new(Counts::default());
    let every = Duration::from_millis(50);
    let pages = vec![
        pages::build::page(counts.clone(), compute.clone(), every),
        pages::edit::page(counts.clone(), compute.clone(), true),
        pages::review::page(counts.clone(), compute),
    ];
    (counts, Site { pages, guard }.router())
}

fn request(method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> Request<Body> {
    let mut request = Request::builder().method(method).uri(path).header("host", "127.0.0.1:8080");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.body(Body::from(body.to_owned())).unwrap()
}

async fn answer(site: &Router, request: Request<Body>) -> Response<Body> {
    site.clone().oneshot(request).await.unwrap()
}

/// What a reader has heard when so many looks were told.
async fn hear(response: Response<Body>, looks: usize) -> String {
    let (mut heard, mut body) = (String::new(), response.into_body().into_data_stream());
    while heard.matches("event: states").count() < looks {
        let next = tokio::time::timeout(Duration::from_secs(5), body.next()).await.expect("news");
        heard += std::str::from_utf8(&next.expect("no end").unwrap()).unwrap();
    }
    heard
}

#[tokio::test(flavor = "multi_thread")]
async fn one_look_is_told_to_all_and_nobody_looks_for_nobody() {
    let (counts, site) = site();
    tokio::time::sleep(Duration::from_millis(120)).await;
    assert_eq!(counts.looks.load(Ordering::SeqCst), 0, "nobody reads");
    let mut readers = Vec::new();
    for _ in 0..100 {
        let response = answer(&site, request("GET", "/api/build", &[], "")).await;
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        readers.push(response);
    }
    let heard = futures::future::join_all(readers.into_iter().map(|reader| hear(reader, 3))).await;
    let looks = counts.looks.load(Ordering::SeqCst);
    assert!((3..40).contains(&looks), "{looks} looks for 100 readers");
    // an event is two lines, whatever a build is called
    assert!(heard.iter().all(|heard| heard.contains(r"look ") && !heard.contains("\nevent: x")));
    // all have gone
    tokio::time::sleep(Duration::from_millis(200)).await;
    let after = counts.looks.load(Ordering::SeqCst);
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_eq!(counts.looks.load(Ordering::SeqCst), after, "looks end with the last reader");
    // somebody comes back
    let heard = hear(answer(&site, request("GET", "/api/build", &[], "")).await, 1).await;
    assert!(heard.contains(&format!("look {after}")), "{heard}: nothing old is told");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_edit_is_found_by_its_version_and_the_newest_without() {
    let (_, site) = site();
    for (path, status, words) in [
        ("/edit", StatusCode::OK, "What became of &lt;diff&gt;"),
        ("/edit?country=%3Cfinland%3E&version=4", StatusCode::OK, "diff of &lt;finland&gt;"),
        ("/edit?version=5", StatusCode::NOT_FOUND, "gone"),
        ("/edit?version=-1", StatusCode::UNPROCESSABLE_ENTITY, "is no version"),
        ("/edit?version=%3Cb%3E", StatusCode::UNPROCESSABLE_ENTITY, "&lt;b&gt;"),
    ] {
        let response = answer(&site, request("GET", path, &[], "")).await;
        assert_eq!(response.status(), status, "{path}");
        let policy = response.headers()["content-security-policy"].to_str().unwrap().to_owned();
        assert!(policy.contains("script-src 'self'"), "{policy}");
        let page = axum::body::to_bytes(response.into_body(), 1 << 20).await.unwrap();
        let page = String::from_utf8(page.to_vec()).unwrap();
        assert!(page.contains(words) && !page.contains("<script>"), "{page}");
    }
    let picture = answer(&site, request("GET", "/edit/picture?country=a&id=b", &[], "")).await;
    assert_eq!(picture.headers()["content-type"], "image/jpeg");
}

#[tokio::test(flavor = "multi_thread")]
async fn too_many_readers_are_refused() {
    let (_, site) = site();
    let mut open = Vec::new();
    let refused = loop {
        let response = answer(&site, request("GET", "/api/build", &[], "")).await;
        if response.status() != StatusCode::OK {
            break response.status();
        }
        open.push(response);
        assert!(open.len() < 1000, "there is a bound");
    };
    assert_eq!(refused, StatusCode::SERVICE_UNAVAILABLE);
    open.clear();
    assert_eq!(answer(&site, request("GET", "/api/build", &[], "")).await.status(), StatusCode::OK);
}

#[tokio::test(flavor = "multi_thread")]
async fn only_this_site_decides() {
    let (counts, site) = site();
    let good = r#"{"country":"finland","id":"a","wish":"reject","author":"Anne","seen":"x"}"#;
    let json = ("content-type", "application/json");
    let own = ("origin", "http://127.0.0.1:8080");
    for (headers, body, status) in [
        (vec![json, ("origin", "https://evil.example")], good, StatusCode::FORBIDDEN),
        (vec![json, ("origin", "null")], good, StatusCode::FORBIDDEN),
        (vec![json, ("sec-fetch-site", "cross-site")], good, StatusCode::FORBIDDEN),
        (vec![json, ("sec-fetch-site", "same-site")], good, StatusCode::FORBIDDEN),
        (vec![own, ("content-type", "text/plain")], good, StatusCode::UNSUPPORTED_MEDIA_TYPE),
        (
            vec![own, ("content-type", "application/x-www-form-urlencoded")],
            "wish=reject",
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
        ),
        (vec![own, json], "{", StatusCode::BAD_REQUEST),
        (vec![own, json], r#"{"country":"finland"}"#, StatusCode::UNPROCESSABLE_ENTITY),
        (
            vec![own, json],
            r#"{"country":"f","id":"a","wish":"edit","author":"A","seen":"x","more":1}"#,
            StatusCode::UNPROCESSABLE_ENTITY,
        ),
    ] {
        let answered = answer(&site, request("POST", "/api/review", &headers, body)).await.status();
        assert_eq!(answered, status, "{headers:?} {body}");
    }
    let long = format!(r#"{{"texts":["{}"]}}"#, "x".repeat(1 << 20));
    let answered = answer(&site, request("POST", "/api/review", &[own, json], &long)).await.status();
    assert_eq!(answered, StatusCode::PAYLOAD_TOO_LARGE);
    let address = request("GET", "/api/review?wish=reject&id=a", &[], "");
    assert_eq!(answer(&site, address).await.status(), StatusCode::BAD_REQUEST);
    assert_eq!(answer(&site, request("GET", "/api/review?after=a", &[], "")).await.status(), StatusCode::OK);
    assert_eq!(counts.decisions.load(Ordering::SeqCst), 0);
    assert_eq!(answer(&site, request("POST", "/api/review", &[own, json], good)).await.status(), StatusCode::OK);
    assert_eq!(counts.decisions.load(Ordering::SeqCst), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn names_are_text() {
    let (_, site) = site();
    for path in ["/build", "/review"] {
        let response = answer(&site, request("GET", path, &[], "")).await;
        let page = axum::body::to_bytes(response.into_body(), 1 << 20).await.unwrap();
        let page = String::from_utf8_lossy(&page);
        assert!(!page.contains("<finland>"), "{path}");
        assert!(path == "/build" || page.contains("&lt;finland&gt;"));
    }
}
