//! The whole site: its pages, and what every request passes on the way to them.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::{DefaultBodyLimit, Request};
use axum::http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use axum::http::{HeaderValue, StatusCode, Uri};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::{Extension, Router};

use crate::assets;
use crate::guard::{Guard, check};
use crate::layout::{Nav, Shell};
use crate::trouble::Trouble;

/// Most bytes of a body, unless a page says otherwise.
const BODY_BYTES: usize = 64 << 10;
/// How long a request may take until its answer begins: a long search, and an upload before.
const REQUEST_TIME: Duration = Duration::from_secs(90);

/// A page, or several that belong together.
pub struct Page {
    /// Its entry in the navigation; none for pages that others lead to.
    pub nav: Option<Nav>,
    /// Its routes, with whatever state they need.
    pub routes: Router,
}

/// Pages behind one guard.
pub struct Site {
    /// In the order of the navigation.
    pub pages: Vec<Page>,
    /// Who may ask.
    pub guard: Guard,
}

impl Site {
    /// All routes, ready to be served.
    pub fn router(self) -> Router {
        let nav: Vec<Nav> = self.pages.iter().filter_map(|page| page.nav.clone()).collect();
        let shell = Shell::new(nav);
        let mut routes = Router::new().merge(assets::routes());
        for page in self.pages {
            routes = routes.merge(page.routes);
        }
        let lost = shell.clone();
        routes
            .fallback(move |address: Uri| async move {
                match address.path().starts_with("/api/") {
                    true => Trouble::NotThere(format!("there is no {}", address.path())).into_response(),
                    false => lost.lost(),
                }
            })
            .layer(DefaultBodyLimit::max(BODY_BYTES))
            .layer(middleware::from_fn(in_time))
            .layer(Extension(shell))
            .layer(middleware::from_fn_with_state(Arc::new(self.guard), check))
            .layer(middleware::from_fn(in_json))
    }
}

/// Whatever refuses a request to `/api/` says so as the pages' scripts read it, also where that is no code of ours.
async fn in_json(request: Request, next: Next) -> Response {
    let is_api = request.uri().path().starts_with("/api/");
    let response = next.run(request).await;
    let status = response.status();
    let is_json = |kind: &HeaderValue| kind.as_bytes().starts_with(b"application/json");
    if !is_api || status.as_u16() < 400 || response.headers().get(CONTENT_TYPE).is_some_and(is_json) {
        return response;
    }
    let (mut parts, body) = response.into_parts();
    let said = axum::body::to_bytes(body, BODY_BYTES).await.unwrap_or_default();
    let why = match std::str::from_utf8(&said) {
        Ok(words) if !words.is_empty() => words,
        _ => status.canonical_reason().unwrap_or("refused"),
    };
    let body = serde_json::json!({ "error": why }).to_string();
    parts.headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    parts.headers.remove(CONTENT_LENGTH);
    Response::from_parts(parts, body.into())
}

/// Ends what takes too long before its answer begins; an answer that has begun may go on, such as a stream of events.
async fn in_time(request: Request, next: Next) -> Response {
    match tokio::time::timeout(REQUEST_TIME, next.run(request)).await {
        Ok(response) => response,
        Err(_) => (StatusCode::REQUEST_TIMEOUT, Trouble::Slow.to_string()).into_response(),
    }
}
