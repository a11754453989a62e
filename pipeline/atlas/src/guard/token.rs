//! The token: in the address once, in a cookie from then on.

use axum::extract::Request;
use axum::http::Uri;
use axum::http::header::{AUTHORIZATION, COOKIE as COOKIES};
use subtle::ConstantTimeEq;
use url::form_urlencoded;

/// Name of the cookie.
pub(super) const COOKIE: &str = "urbancross_atlas";
/// Shorter ones can be guessed.
const LEAST_LETTERS: usize = 16;

/// A token that a reader must bring.
#[derive(Clone)]
pub struct Secret(String);

impl Secret {
    /// A token that somebody has chosen.
    ///
    /// # Errors
    /// Why it is none, in words.
    pub fn new(text: &str) -> Result<Self, String> {
        let text = text.trim();
        if text.len() < LEAST_LETTERS {
            return Err(format!("the token has {} letters; {LEAST_LETTERS} are the least", text.len()));
        }
        if !text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.~".contains(&b)) {
            return Err("a token may have letters, digits, and - _ . ~".into());
        }
        Ok(Self(text.to_owned()))
    }

    /// A token that nobody can guess: 32 hexadecimal digits.
    ///
    /// # Errors
    /// A system without random numbers.
    pub fn random() -> Result<Self, String> {
        let mut bytes = [0; 16];
        getrandom::fill(&mut bytes).map_err(|error| format!("no random numbers: {error}"))?;
        Ok(Self(bytes.iter().map(|byte| format!("{byte:02x}")).collect()))
    }

    /// What an address ends with that brings the token.
    pub fn in_address(&self) -> String {
        format!("?token={}", self.0)
    }

    pub(super) fn cookie(&self) -> &str {
        &self.0
    }

    /// Takes as long for a token that is nearly right as for one that is not at all.
    pub(super) fn is(&self, given: &str) -> bool {
        bool::from(self.0.as_bytes().ct_eq(given.as_bytes()))
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// How a request brings a token.
pub(super) enum Given {
    Header(String),
    Cookie(String),
    Address(String),
    Nowhere,
}

impl Given {
    pub(super) fn of(request: &Request) -> Self {
        let text = |value: &axum::http::HeaderValue| value.to_str().map(str::to_owned).ok();
        let bearer = request.headers().get(AUTHORIZATION).and_then(text);
        if let Some(token) = bearer.as_deref().and_then(|value| value.strip_prefix("Bearer ")) {
            return Given::Header(token.to_owned());
        }
        // the address before the cookie, which may be of a server that has ended
        if let Some((_, token)) = pairs(request.uri()).find(|(name, _)| name == "token") {
            return Given::Address(token.into_owned());
        }
        let cookies = request.headers().get_all(COOKIES).iter().filter_map(text);
        let pair = |cookies: String| {
            let of = |pair: &str| pair.trim().strip_prefix(COOKIE)?.strip_prefix('=').map(str::to_owned);
            cookies.split(';').find_map(of)
        };
        cookies.filter_map(pair).next().map_or(Given::Nowhere, Given::Cookie)
    }
}

/// The same page, without the token.
pub(super) fn without_token(uri: &Uri) -> String {
    // a path of two slashes would be another site's address
    let path = format!("/{}", uri.path().trim_start_matches('/'));
    let mut rest = form_urlencoded::Serializer::new(String::new());
    rest.extend_pairs(pairs(uri).filter(|(name, _)| name != "token"));
    match rest.finish() {
        rest if rest.is_empty() => path,
        rest => format!("{path}?{rest}"),
    }
}

fn pairs(uri: &Uri) -> form_urlencoded::Parse<'_> {
    form_urlencoded::parse(uri.query().unwrap_or_default().as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_long_and_fit_into_addresses_and_cookies() {
        assert!(Secret::new("short").unwrap_err().contains("16"));
        assert!(Secret::new("sixteen letters; and more").is_err());
        assert!(Secret::new("  sixteen-letters!  ").is_err());
        assert!(Secret::new(" sixteen-letters_ ").unwrap().is("sixteen-letters_"));
        let (one, other) = (Secret::random().unwrap(), Secret::random().unwrap());
        assert_eq!(one.0.len(), 32);
        assert!(!one.is(&other.0) && one.is(&one.0));
        assert_eq!(format!("{one:?}"), "Secret(…)");
    }

    #[test]
    fn the_token_leaves_the_address_and_nothing_leads_elsewhere() {
        let without = |uri: &str| without_token(&uri.parse().unwrap());
        assert_eq!(without("/image?id=a%26b&token=x&token=y"), "/image?id=a%26b");
        assert_eq!(without("/?token=x"), "/");
        assert_eq!(without("//evil.example/?token=x"), "/evil.example/");
    }
}
