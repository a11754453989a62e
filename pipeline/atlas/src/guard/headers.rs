//! What a browser may do with our pages.

use axum::http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS, X_FRAME_OPTIONS,
};
use axum::http::{HeaderMap, HeaderName, HeaderValue};

use crate::tiles::Tiles;

pub(super) struct Headers {
    policy: HeaderValue,
}

impl Headers {
    pub(super) fn new(tiles: Option<&Tiles>) -> Self {
        // a site of tiles is an origin, which has no characters that a header may not have
        let policy = policy(tiles).parse().unwrap_or(HeaderValue::from_static("default-src 'none'"));
        Self { policy }
    }

    pub(super) fn set(&self, headers: &mut HeaderMap) {
        headers.insert(CONTENT_SECURITY_POLICY, self.policy.clone());
        headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        headers.insert(X_FRAME_OPTIONS, HeaderValue::from_static("DENY"));
        headers.insert(REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
        for (name, value) in [
            ("cross-origin-opener-policy", "same-origin"),
            ("cross-origin-resource-policy", "same-origin"),
            ("permissions-policy", "camera=(), geolocation=(), microphone=()"),
        ] {
            headers.insert(HeaderName::from_static(name), HeaderValue::from_static(value));
        }
        // what others may not see, a shared cache may not keep
        headers.entry(CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    }
}

/// Scripts, styles, pictures and data of this server, and nothing else; no script or style within a page.
fn policy(tiles: Option<&Tiles>) -> String {
    let tiles = tiles.map_or(String::new(), |tiles| format!(" {}", tiles.origin()));
    format!(
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'{tiles}; connect-src 'self'; base-uri \
         'none'; form-action 'self'; frame-ancestors 'none'"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_map_that_was_asked_for_may_be_fetched_from_elsewhere() {
        assert!(!policy(None).contains("http") && !policy(None).contains("unsafe"));
        let tiles = Tiles::new("https://tiles.example.org/{z}/{x}/{y}.png", "© somebody").unwrap();
        assert!(policy(Some(&tiles)).contains("img-src 'self' https://tiles.example.org;"));
        let mut headers = HeaderMap::new();
        Headers::new(Some(&tiles)).set(&mut headers);
        assert_eq!(headers[X_CONTENT_TYPE_OPTIONS], "nosniff");
        assert_eq!(headers[CACHE_CONTROL], "no-store");
    }
}
