//! Who may ask: every request passes here before any page sees it.

mod headers;
mod host;
mod origin;
mod token;

use std::net::IpAddr;
use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::header::{CONTENT_TYPE, HOST, LOCATION, SET_COOKIE};
use axum::http::{HeaderValue, StatusCode, Version};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use url::Url;

use crate::tiles::Tiles;
use headers::Headers;
use host::Hosts;
pub use token::Secret;
use token::{Given, without_token};

/// Who may ask, and what answers allow a browser.
pub struct Guard {
    hosts: Hosts,
    secret: Option<Secret>,
    is_https: bool,
    headers: Headers,
}

impl Guard {
    /// For a server that listens at an address. `public` is the address that people use, where that is another one: of a
    /// proxy, for one. A server that others can reach needs a secret.
    ///
    /// # Errors
    /// What is missing, in words.
    pub fn new(
        listens: IpAddr,
        public: Option<&Url>,
        secret: Option<Secret>,
        tiles: Option<&Tiles>,
    ) -> Result<Self, String> {
        if secret.is_none() && Self::needs_secret(listens, public) {
            return Err(format!("others can reach {listens}: a token is needed"));
        }
        let hosts = Hosts::new(listens, public)?;
        let is_https = public.is_some_and(|url| url.scheme() == "https");
        Ok(Self { hosts, secret, is_https, headers: Headers::new(tiles) })
    }

    /// Answers to the name of this machine as well, where others can reach the server.
    #[must_use]
    pub fn named(mut self, machine: &str) -> Self {
        self.hosts.add(machine);
        self
    }

    /// Whether more than this machine can reach a server.
    pub fn needs_secret(listens: IpAddr, public: Option<&Url>) -> bool {
        !listens.is_loopback() || public.is_some()
    }

    /// What is answered instead of a page; `None`: the request may pass.
    fn refusal(&self, request: &Request) -> Option<Response> {
        if request.version() > Version::HTTP_11 {
            return Some(words(StatusCode::HTTP_VERSION_NOT_SUPPORTED, "this server speaks HTTP/1.1"));
        }
        let mut hosts = request.headers().get_all(HOST).iter();
        let host = hosts.next().and_then(|host| host.to_str().ok()).unwrap_or_default();
        if hosts.next().is_some() || !self.hosts.allow(host) {
            return Some(words(
                StatusCode::MISDIRECTED_REQUEST,
                "this server does not answer to that name: open the address that it printed when it began, or start it \
                 with --public-url",
            ));
        }
        if !origin::is_own(request.method(), request.headers(), host) {
            return Some(words(StatusCode::FORBIDDEN, "another site has asked for this: it is refused"));
        }
        let secret = self.secret.as_ref()?;
        match Given::of(request) {
            Given::Header(given) | Given::Cookie(given) if secret.is(&given) => None,
            Given::Address(given) if secret.is(&given) => Some(self.welcome(secret, request)),
            _ => Some(words(
                StatusCode::UNAUTHORIZED,
                "this atlas asks for a token: open the whole address that the server printed when it began, with ?token=",
            )),
        }
    }

    /// Sets the cookie, and leads to the same page without the token in its address.
    fn welcome(&self, secret: &Secret, request: &Request) -> Response {
        let secure = if self.is_https { "; Secure" } else { "" };
        let cookie = format!("{}={}; Path=/; HttpOnly; SameSite=Strict{secure}", token::COOKIE, secret.cookie());
        let mut response = StatusCode::SEE_OTHER.into_response();
        for (name, value) in [(SET_COOKIE, cookie), (LOCATION, without_token(request.uri()))] {
            match HeaderValue::try_from(value) {
                Ok(value) => response.headers_mut().insert(name, value),
                Err(_) => return words(StatusCode::BAD_REQUEST, "the address has characters that none has"),
            };
        }
        response
    }
}

/// Lets a request pass, or answers in its place; every answer gets the headers that bind a browser.
pub(crate) async fn check(State(guard): State<Arc<Guard>>, request: Request, next: Next) -> Response {
    let mut response = match guard.refusal(&request) {
        Some(refusal) => refusal,
        None => next.run(request).await,
    };
    guard.headers.set(response.headers_mut());
    response
}

fn words(status: StatusCode, text: &'static str) -> Response {
    (status, [(CONTENT_TYPE, "text/plain; charset=utf-8")], text).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::body::Body;

    const SECRET: &str = "correct-horse-battery";

    fn open() -> Guard {
        Guard::new([127, 0, 0, 1].into(), None, None, None).unwrap()
    }

    fn closed() -> Guard {
        let secret = Secret::new(SECRET).unwrap();
        Guard::new([0, 0, 0, 0].into(), None, Some(secret), None).unwrap()
    }

    fn refused(guard: &Guard, address: &str, headers: &[(&str, &str)]) -> Option<u16> {
        let mut request = Request::builder().uri(address);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let refusal = guard.refusal(&request.body(Body::empty()).unwrap());
        refusal.map(|response| response.status().as_u16())
    }

    #[test]
    fn a_server_that_others_reach_needs_a_token() {
        let error = Guard::new([0, 0, 0, 0].into(), None, None, None).err().unwrap();
        assert!(error.contains("token"), "{error}");
        let proxied = Url::parse("https://atlas.example.org/").unwrap();
        assert!(Guard::new([127, 0, 0, 1].into(), Some(&proxied), None, None).is_err());
    }

    #[test]
    fn names_that_lead_here_from_elsewhere_are_refused() {
        assert_eq!(refused(&open(), "/", &[("host", "localhost:8080")]), None);
        assert_eq!(refused(&open(), "/", &[("host", "rebound.example:8080")]), Some(421));
        assert_eq!(refused(&open(), "/", &[]), Some(421));
        assert_eq!(refused(&open(), "/", &[("host", "localhost"), ("host", "evil.example")]), Some(421));
    }

    #[test]
    fn the_token_opens_by_cookie_or_header_and_the_address_only_leads_on() {
        let host = ("host", "192.0.2.1:8080");
        let cookie = format!("{}={SECRET}", token::COOKIE);
        let bearer = format!("Bearer {SECRET}");
        assert_eq!(refused(&closed(), "/", &[host]), Some(401));
        assert_eq!(refused(&closed(), "/", &[host, ("cookie", &cookie)]), None);
        assert_eq!(refused(&closed(), "/", &[host, ("authorization", &bearer)]), None);
        assert_eq!(refused(&closed(), &format!("/?token={SECRET}"), &[host]), Some(303));
        for wrong in ["", "correct-horse-batterz", "correct-horse-batter", "correct-horse-battery-staple"] {
            assert_eq!(refused(&closed(), &format!("/?token={wrong}"), &[host]), Some(401), "{wrong}");
            let cookie = format!("{}={wrong}", token::COOKIE);
            assert_eq!(refused(&closed(), "/", &[host, ("cookie", &cookie)]), Some(401), "{wrong}");
        }
    }

    #[test]
    fn the_cookie_is_for_this_site_alone_and_over_tls_only_where_there_is_tls() {
        let cookie = |guard: &Guard, host: &str| {
            let request = Request::builder().uri(format!("/image?id=a&token={SECRET}")).header("host", host);
            let response = guard.refusal(&request.body(Body::empty()).unwrap()).unwrap();
            assert_eq!(response.headers()[LOCATION], "/image?id=a");
            response.headers()[SET_COOKIE].to_str().unwrap().to_owned()
        };
        let plain = cookie(&closed(), "192.0.2.1:8080");
        assert!(plain.contains("HttpOnly; SameSite=Strict") && !plain.contains("Secure"), "{plain}");
        let public = Url::parse("https://atlas.example.org/").unwrap();
        let secret = Secret::new(SECRET).unwrap();
        let proxied = Guard::new([127, 0, 0, 1].into(), Some(&public), Some(secret), None).unwrap();
        assert!(cookie(&proxied, "atlas.example.org").ends_with("; Secure"));
    }
}
