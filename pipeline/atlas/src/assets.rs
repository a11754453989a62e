//! Styles and scripts, inside the program.

use axum::Router;
use axum::extract::Path;
use axum::http::StatusCode;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::response::{IntoResponse, Response};
use axum::routing::get;

struct Asset {
    name: &'static str,
    kind: &'static str,
    text: &'static str,
}

macro_rules! assets {
    ($($name:literal: $kind:expr),* $(,)?) => {
        &[$(Asset { name: $name, kind: $kind, text: include_str!(concat!("../assets/", $name)) }),*]
    };
}

const CSS: &str = "text/css; charset=utf-8";
const SCRIPT: &str = "text/javascript; charset=utf-8";
const SVG: &str = "image/svg+xml";

static ASSETS: &[Asset] = assets! {
    "atlas.css": CSS,
    "icon.svg": SVG,
    "api.js": SCRIPT,
    "build.js": SCRIPT,
    "cards.js": SCRIPT,
    "image.js": SCRIPT,
    "map.js": SCRIPT,
    "review.js": SCRIPT,
    "search.js": SCRIPT,
    "space.js": SCRIPT,
    "tiles.js": SCRIPT,
    "view.js": SCRIPT,
};

/// Address of an asset.
pub(crate) fn address(name: &str) -> String {
    format!("/assets/{name}")
}

pub(crate) fn routes() -> Router {
    Router::new().route("/assets/{name}", get(asset))
}

async fn asset(Path(name): Path<String>) -> Response {
    match ASSETS.iter().find(|asset| asset.name == name) {
        // asked for again when the program may be another one
        Some(asset) => {
            ([(CONTENT_TYPE, asset.kind), (CACHE_CONTROL, "private, max-age=60")], asset.text).into_response()
        }
        None => StatusCode::NOT_FOUND.into_response(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Scripts and styles ask nobody else, and pages may hold neither.
    #[test]
    fn assets_name_no_other_site() {
        for asset in ASSETS {
            let text = asset.text.replace("http://www.w3.org/2000/svg", "");
            assert!(!text.contains("http://") && !text.contains("https://"), "{}", asset.name);
            assert!(!text.contains("innerHTML") && !text.contains("eval("), "{}", asset.name);
        }
    }
}
