//! Who had the idea: other sites may link here, but neither embed what is here nor send anything.

use axum::http::header::ORIGIN;
use axum::http::{HeaderMap, Method};

/// Whether a request comes from this site itself or from its user, as far as the browser tells. Programs that are no
/// browsers tell nothing, and have nobody's cookies.
pub(super) fn is_own(method: &Method, headers: &HeaderMap, host: &str) -> bool {
    let text = |name: &str| headers.get(name).map(|value| value.to_str().unwrap_or("unreadable"));
    let only_reads = matches!(*method, Method::GET | Method::HEAD);
    match text("sec-fetch-site") {
        Some("same-origin" | "none") => true,
        // a link that was followed
        Some(_) => {
            only_reads && text("sec-fetch-mode") == Some("navigate") && text("sec-fetch-dest") == Some("document")
        }
        // browsers leave it out where there is no TLS
        None => match headers.get(ORIGIN).map(|value| value.to_str().unwrap_or("unreadable")) {
            None => true,
            Some(origin) => {
                let authority = origin.split_once("://").map_or("", |(_, authority)| authority);
                only_reads || authority.eq_ignore_ascii_case(host)
            }
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn own(method: Method, headers: &[(&'static str, &'static str)]) -> bool {
        let headers = headers.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect();
        is_own(&method, &headers, "localhost:8080")
    }

    #[test]
    fn only_this_site_sends() {
        assert!(own(Method::POST, &[("sec-fetch-site", "same-origin")]));
        assert!(own(Method::POST, &[("origin", "http://localhost:8080")]));
        assert!(own(Method::POST, &[]), "no browser");
        for other in ["http://evil.example", "null", "http://localhost:9999", "http://localhost:8080.evil.example"] {
            assert!(!own(Method::POST, &[("origin", other)]), "{other}");
        }
        for site in ["cross-site", "same-site"] {
            let navigation = [("sec-fetch-site", site), ("sec-fetch-mode", "navigate"), ("sec-fetch-dest", "document")];
            assert!(!own(Method::POST, &navigation), "{site}");
            assert!(own(Method::GET, &navigation), "a link");
            assert!(
                !own(Method::GET, &[("sec-fetch-site", site), ("sec-fetch-mode", "no-cors")]),
                "an embedded picture"
            );
        }
        let framed = [("sec-fetch-site", "cross-site"), ("sec-fetch-mode", "navigate"), ("sec-fetch-dest", "iframe")];
        assert!(!own(Method::GET, &framed));
    }
}
