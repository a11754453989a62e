//! The routes, asked as a browser or a hostile client would, with an atlas of one image.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use atlas::{
    About, Answer, Atlas, Compute, ComputeLimits, Found, Guard, Image, ImageName, Layout, Plot, Points, Query,
    Question, Secret, Site, Size, Tiles, Trouble, pages,
};
use axum::Router;
use axum::body::Body;
use axum::http::{Request, Response, StatusCode};
use tower::ServiceExt;

const SECRET: &str = "a-token-of-the-tests";

/// Knows one image, and answers with what it was asked.
struct One;

#[async_trait]
impl Atlas for One {
    async fn about(&self) -> Result<About, Trouble> {
        Ok(About { countries: vec!["finland".into()], ..About::default() })
    }

    async fn search(&self, question: Question) -> Result<Answer, Trouble> {
        let id = match question.query {
            Query::Text(text) if text == "forever" => std::future::pending().await,
            Query::Text(text) => text,
            Query::Picture(bytes) => format!("{} bytes", bytes.len()),
            Query::Like(name) => name.id,
        };
        let image = ImageName { country: question.narrowed.country.unwrap_or_default(), id };
        Ok(Answer { found: vec![Found { image, ..Found::default() }], ..Answer::default() })
    }

    async fn picture(&self, image: ImageName, _: Size) -> Result<Vec<u8>, Trouble> {
        match image.id.as_str() {
            "one" => Ok(vec![0xff, 0xd8]),
            _ => Err(Trouble::NotThere("there is no such image".into())),
        }
    }

    async fn image(&self, image: ImageName) -> Result<Image, Trouble> {
        self.picture(image.clone(), Size::Full).await?;
        Ok(Image { found: Found { image, ..Found::default() }, ..Image::default() })
    }

    async fn points(&self) -> Result<Arc<Points>, Trouble> {
        Err(Trouble::Broken("s3://secret/place".into()))
    }

    async fn plot(&self, _: String, _: Layout) -> Result<Arc<Plot>, Trouble> {
        panic!("on purpose")
    }

    async fn borders(&self) -> Result<Arc<Vec<Vec<[f32; 2]>>>, Trouble> {
        Ok(Arc::new(vec![vec![[1.0, 2.0], [3.0, 4.0]]]))
    }
}

fn site(secret: Option<&str>, tiles: Option<Tiles>) -> Router {
    let limits = ComputeLimits { threads: 1, at_once: 1, waiting: 1, time: Duration::from_millis(300) };
    let compute = Arc::new(Compute::start(limits).unwrap());
    let listens = if secret.is_some() { [0, 0, 0, 0] } else { [127, 0, 0, 1] };
    let secret = secret.map(|secret| Secret::new(secret).unwrap());
    let guard = Guard::new(listens.into(), None, secret, tiles.as_ref()).unwrap();
    Site { pages: pages::all(Arc::new(One), compute, tiles), guard }.router()
}

fn request(path: &str) -> Request<Body> {
    Request::builder().uri(path).header("host", "127.0.0.1:8080").body(Body::empty()).unwrap()
}

async fn answer(site: &Router, request: Request<Body>) -> Response<Body> {
    site.clone().oneshot(request).await.unwrap()
}

async fn get(site: &Router, path: &str) -> (StatusCode, String) {
    let response = answer(site, request(path)).await;
    let status = response.status();
    let body = axum::body::to_bytes(response.into_body(), 1 << 20).await.unwrap();
    (status, String::from_utf8_lossy(&body).into_owned())
}

#[tokio::test]
async fn pages_assets_and_answers_are_served() {
    let site = site(None, None);
    for path in
        ["/", "/space", "/image?country=finland&id=one", "/assets/atlas.css", "/assets/search.js", "/api/borders"]
    {
        assert_eq!(get(&site, path).await.0, StatusCode::OK, "{path}");
    }
    let (status, body) = get(&site, "/api/search?text=a+lake&country=finland&most=3").await;
    assert!(status.is_success() && body.contains(r#""country":"finland","id":"a lake""#), "{body}");
    let (_, body) = get(&site, "/api/search?like=one&like_country=finland&country=&from_year=").await;
    assert!(body.contains(r#""id":"one""#), "{body}");
    assert_eq!(get(&site, "/thumbnail?country=finland&id=one").await.0, StatusCode::OK);
}

#[tokio::test]
async fn every_answer_binds_the_browser() {
    let tiles = Tiles::new("https://tiles.example.org/{z}/{x}/{y}.png", "©").unwrap();
    for (site, elsewhere) in [(site(None, None), false), (site(None, Some(tiles)), true)] {
        for path in ["/", "/assets/search.js", "/api/search?text=a", "/no-such-page", "/api/points"] {
            let response = answer(&site, request(path)).await;
            let policy = response.headers()["content-security-policy"].to_str().unwrap();
            assert!(policy.starts_with("default-src 'none'; script-src 'self'; style-src 'self';"), "{path}: {policy}");
            assert!(!policy.contains("unsafe") && policy.contains("https:") == elsewhere, "{path}: {policy}");
            assert_eq!(response.headers()["x-content-type-options"], "nosniff", "{path}");
            assert_eq!(response.headers()["referrer-policy"], "no-referrer", "{path}");
        }
    }
}

#[tokio::test]
async fn pages_hold_no_script_and_no_style() {
    let site = site(None, None);
    for path in ["/", "/space", "/image?country=finland&id=one", "/no-such-page"] {
        let (_, page) = get(&site, path).await;
        let scripts = page.matches("<script").count();
        assert_eq!(page.matches(r#"></script>"#).count(), scripts, "{path}: a script with a text");
        let is_handler = |rest: &str| {
            rest.split(['=', ' ', '>', '<']).next().is_some_and(|name| rest[name.len()..].starts_with('='))
        };
        assert!(!page.split(" on").skip(1).any(is_handler), "{path}: a handler within the page");
        assert!(!page.contains("<style") && !page.contains(" style="), "{path}");
    }
}

#[tokio::test]
async fn nothing_but_tables_can_be_read() {
    let site = site(None, None);
    for path in [
        "/assets/../Cargo.toml",
        "/assets/..%2f..%2fCargo.toml",
        "/assets/%2e%2e/Cargo.toml",
        "/assets//etc/passwd",
        "/image?country=finland&id=../../etc/passwd",
        "/picture?country=..%2F..&id=one%00",
        "/thumbnail?country=finland&id=..%5C..%5Cone",
        "/etc/passwd",
        "//etc/passwd",
    ] {
        assert_eq!(get(&site, path).await.0, StatusCode::NOT_FOUND, "{path}");
    }
    assert_eq!(get(&site, "/picture?country=finland").await.0, StatusCode::BAD_REQUEST);
}

#[tokio::test]
async fn other_names_and_other_sites_are_refused() {
    let site = site(None, None);
    let of = |name: &'static str, value: &'static str| {
        let mut request = request("/api/search?text=a");
        request.headers_mut().insert(name, value.parse().unwrap());
        request
    };
    assert_eq!(answer(&site, of("host", "rebound.example")).await.status(), StatusCode::MISDIRECTED_REQUEST);
    assert_eq!(answer(&site, of("sec-fetch-site", "cross-site")).await.status(), StatusCode::FORBIDDEN);
    assert_eq!(answer(&site, of("sec-fetch-site", "same-origin")).await.status(), StatusCode::OK);
}

#[tokio::test]
async fn a_token_is_asked_for_everywhere_and_becomes_a_cookie() {
    let site = site(Some(SECRET), None);
    for path in ["/", "/assets/atlas.css", "/api/points", "/picture?country=finland&id=one", "/no-such-page"] {
        assert_eq!(get(&site, path).await.0, StatusCode::UNAUTHORIZED, "{path}");
    }
    let response = answer(&site, request(&format!("/space?token={SECRET}"))).await;
    assert_eq!(
        (response.status(), &response.headers()["location"]),
        (StatusCode::SEE_OTHER, &"/space".parse().unwrap())
    );
    let cookie = response.headers()["set-cookie"].to_str().unwrap();
    let mut request = request("/space");
    request.headers_mut().insert("cookie", cookie.split(';').next().unwrap().parse().unwrap());
    assert_eq!(answer(&site, request).await.status(), StatusCode::OK);
}

#[tokio::test]
async fn uploads_are_bounded() {
    let site = site(None, None);
    let upload = |bytes: usize| {
        let request = Request::post("/api/search?country=spain").header("host", "localhost");
        request.body(Body::from(vec![7; bytes])).unwrap()
    };
    let response = answer(&site, upload(1000)).await;
    let body = axum::body::to_bytes(response.into_body(), 1 << 20).await.unwrap();
    assert!(String::from_utf8_lossy(&body).contains("1000 bytes"));
    for bytes in [0, (8 << 20) + 1] {
        assert_eq!(answer(&site, upload(bytes)).await.status(), StatusCode::UNPROCESSABLE_ENTITY, "{bytes}");
    }
    let elsewhere = Request::post("/space").header("host", "localhost").body(Body::empty()).unwrap();
    assert_eq!(answer(&site, elsewhere).await.status(), StatusCode::METHOD_NOT_ALLOWED);
}

#[tokio::test]
async fn what_goes_wrong_is_said_without_secrets() {
    let site = site(None, None);
    let (status, body) = get(&site, "/api/points").await;
    assert!(status == StatusCode::INTERNAL_SERVER_ERROR && !body.contains("secret"), "{body}");
    let (status, body) = get(&site, "/api/plot").await;
    assert!(status == StatusCode::INTERNAL_SERVER_ERROR && body.contains("log"), "{body}");
    let (status, body) = get(&site, "/api/plot?layout=sideways").await;
    let json: serde_json::Value = serde_json::from_str(&body).unwrap();
    let why = json["error"].as_str().unwrap();
    assert!(status == StatusCode::BAD_REQUEST && why.contains("sideways") && why.contains("neighbours"), "{body}");
    // a slip of the hand is no search for everything
    for (path, words) in [
        ("/api/search?text=a&top=-1", ["no parameter `top`", "`most`"]),
        ("/api/search?text=a&form_year=2018", ["no parameter `form_year`", "`from_year`"]),
        ("/api/plot?models=a", ["no parameter `models`", "`model`"]),
    ] {
        let (status, body) = get(&site, path).await;
        assert!(status == StatusCode::BAD_REQUEST && words.iter().all(|words| body.contains(words)), "{path}: {body}");
    }
    let (status, body) = get(&site, "/api/search?text=a&most=-1").await;
    assert!(status == StatusCode::UNPROCESSABLE_ENTITY && body.contains("between 1 and 200"), "{body}");
    let (status, body) = get(&site, "/api/no-such").await;
    assert!(status == StatusCode::NOT_FOUND && body.starts_with(r#"{"error":"#), "{body}");
    // nor what the guard or the routes refuse
    let foreign = Request::builder().uri("/api/search?text=a").header("host", "rebound.example").body(Body::empty());
    let other =
        Request::builder().method("DELETE").uri("/api/search").header("host", "127.0.0.1:8080").body(Body::empty());
    for (request, wanted) in
        [(foreign.unwrap(), StatusCode::MISDIRECTED_REQUEST), (other.unwrap(), StatusCode::METHOD_NOT_ALLOWED)]
    {
        let response = answer(&site, request).await;
        assert_eq!(
            (response.status(), &response.headers()["content-type"]),
            (wanted, &"application/json".parse().unwrap())
        );
        assert!(response.headers().contains_key("content-security-policy"));
        let body = axum::body::to_bytes(response.into_body(), 1 << 16).await.unwrap();
        let json: serde_json::Value = serde_json::from_slice(&body).unwrap();
        assert!(!json["error"].as_str().unwrap().is_empty(), "{json}");
    }
    let (status, body) = get(&site, "/image?country=finland").await;
    assert!(status == StatusCode::BAD_REQUEST && body.contains("<!DOCTYPE html>") && body.contains("id"), "{body}");
    let (status, body) = get(&site, "/api/search?text=forever").await;
    assert!(status == StatusCode::SERVICE_UNAVAILABLE && body.contains("too long"), "{body}");
    let (status, body) = get(&site, "/api/search?text=").await;
    assert!(status == StatusCode::UNPROCESSABLE_ENTITY && body.contains("empty"), "{body}");
    let (status, body) = get(&site, "/api/search?text=a&within=1,2").await;
    assert!(status == StatusCode::UNPROCESSABLE_ENTITY && body.contains("west,south,east,north"), "{body}");
}
