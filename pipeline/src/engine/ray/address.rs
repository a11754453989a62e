//! Where a cluster's Jobs API is, and what it is shown so that it lets one in. Credentials come from variables alone.

use reqwest::header::{AUTHORIZATION, HeaderMap, HeaderName, HeaderValue};
use url::Url;
use workers::WorkerError;

/// Variables of Ray's own clients, of which the first that is set says more than a profile.
const ADDRESSES: [&str; 2] = ["RAY_API_SERVER_ADDRESS", "RAY_ADDRESS"];
/// Headers as JSON, as Ray's own client takes them.
const HEADERS: &str = "RAY_JOB_HEADERS";
/// The token of a cluster that wants one, or the file that it is in.
const TOKEN: (&str, &str) = ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH");

/// The address that is used, without a slash at its end: a variable's, where it is of HTTP, or else the profile's.
///
/// # Errors
/// An address that is none, or that has a password in it.
pub fn address(of_profile: &str, variable: &dyn Fn(&str) -> Option<String>) -> Result<String, WorkerError> {
    let is_http = |text: &String| text.starts_with("http://") || text.starts_with("https://");
    let set = ADDRESSES.iter().find_map(|name| Some((*name, variable(name).filter(is_http)?)));
    let (name, text) = set.unwrap_or(("ray.address", of_profile.to_owned()));
    let wrong = |why: &str| {
        WorkerError::Configuration(format!(
            "{name}: {why}; it must be the address of the head's dashboard, such as http://head:8265"
        ))
    };
    let url = Url::parse(&text).map_err(|error| wrong(&error.to_string()))?;
    if !["http", "https"].contains(&url.scheme()) || url.host_str().is_none() {
        return Err(wrong(&format!("{text:?} is no address of HTTP")));
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(wrong(&format!("it has a name or a password in it: put headers into the variable {HEADERS}")));
    }
    if url.query().is_some() || url.fragment().is_some() {
        return Err(wrong(&format!("{text:?} has something behind its path")));
    }
    Ok(url.as_str().trim_end_matches('/').to_owned())
}

/// Headers of all requests, and their values, which no message may repeat.
///
/// # Errors
/// Variables that hold no headers; what they hold is not said.
pub(super) fn headers(variable: &dyn Fn(&str) -> Option<String>) -> Result<(HeaderMap, Vec<String>), WorkerError> {
    let wrong = |name: &str, why: &str| WorkerError::Configuration(format!("{name}: {why}"));
    let (mut headers, mut hidden) = (HeaderMap::new(), Vec::new());
    if let Some(text) = variable(HEADERS) {
        let none = || wrong(HEADERS, "it must be headers as JSON, such as {\"Authorization\": \"Bearer …\"}");
        let given: std::collections::BTreeMap<String, String> = serde_json::from_str(&text).map_err(|_| none())?;
        for (name, value) in given {
            let name = HeaderName::from_bytes(name.as_bytes()).map_err(|_| none())?;
            headers.insert(name, sensitive(&value).ok_or_else(none)?);
            hidden.push(value);
        }
    }
    let token = match (variable(TOKEN.0), variable(TOKEN.1)) {
        (Some(token), _) => Some((TOKEN.0, token)),
        (None, Some(path)) => {
            let read = std::fs::read_to_string(&path);
            Some((TOKEN.1, read.map_err(|error| wrong(TOKEN.1, &format!("{path}: {error}")))?))
        }
        (None, None) => None,
    };
    let token = token.map(|(name, token)| (name, token.trim().to_owned())).filter(|(_, token)| !token.is_empty());
    if let Some((name, token)) = token.filter(|_| !headers.contains_key(AUTHORIZATION)) {
        let value = sensitive(&format!("Bearer {token}"));
        headers.insert(AUTHORIZATION, value.ok_or_else(|| wrong(name, "it cannot be sent in a header"))?);
        hidden.push(token);
    }
    hidden.retain(|value| !value.is_empty());
    Ok((headers, hidden))
}

/// A value that no log shows.
fn sensitive(value: &str) -> Option<HeaderValue> {
    let mut value = HeaderValue::from_str(value).ok()?;
    value.set_sensitive(true);
    Some(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_variable_says_more_than_the_profile_where_it_is_of_http() {
        let with = |name: &'static str, value: &'static str| {
            address("http://head:8265/", &|asked| (asked == name).then(|| value.to_owned())).unwrap()
        };
        assert_eq!(with("RAY_ADDRESS", "https://proxy/ray/"), "https://proxy/ray");
        assert_eq!(with("RAY_API_SERVER_ADDRESS", "http://10.0.0.1:1"), "http://10.0.0.1:1");
        // where a driver runs it is the cluster's own
        assert_eq!(with("RAY_ADDRESS", "10.0.0.1:6379"), "http://head:8265");
        assert_eq!(with("RAY_ADDRESS", "auto"), "http://head:8265");
    }

    #[test]
    fn what_is_no_address_is_refused() {
        for (wrong, said) in [
            ("head:8265", "no address of HTTP"),
            ("ray://head:10001", "no address of HTTP"),
            ("", "http://head:8265"),
            ("http://", "http://head:8265"),
            ("http://me:secret@head:8265", "RAY_JOB_HEADERS"),
            ("http://head:8265/?a=b", "behind its path"),
        ] {
            let error = address(wrong, &|_| None).unwrap_err();
            assert!(error.exit_code() == 65 && error.to_string().contains(said), "{wrong}: {error}");
            assert!(!error.to_string().contains("secret"), "{error}");
        }
    }

    #[test]
    fn headers_come_from_variables_and_are_told_nobody() {
        let set = |pairs: &'static [(&str, &str)]| {
            headers(&|asked| pairs.iter().find(|(name, _)| *name == asked).map(|(_, value)| (*value).to_owned()))
        };
        assert!(set(&[]).unwrap().0.is_empty());
        let (found, hidden) =
            set(&[(HEADERS, r#"{"Authorization": "Basic xyz", "X-A": "b"}"#), (TOKEN.0, "t")]).unwrap();
        assert_eq!(
            (&found["authorization"], &found["x-a"]),
            (&HeaderValue::from_static("Basic xyz"), &HeaderValue::from_static("b"))
        );
        assert!(found["authorization"].is_sensitive() && hidden == ["Basic xyz", "b"]);
        let (found, hidden) = set(&[(TOKEN.0, " token\n")]).unwrap();
        assert!(found["authorization"] == "Bearer token" && hidden == ["token"]);
        for wrong in ["secret", "[\"secret\"]", r#"{"a b": "secret"}"#, r#"{"a": 1}"#, "{\"a\": \"secret\\n\"}"] {
            let of = |asked: &str| (asked == HEADERS).then(|| wrong.to_owned());
            let error = headers(&of).unwrap_err();
            assert!(error.exit_code() == 65 && error.to_string().contains(HEADERS), "{error}");
            assert!(!error.to_string().contains("secret"), "{error}");
        }
        assert!(set(&[(TOKEN.1, "/no/such/file")]).unwrap_err().to_string().contains("/no/such/file"));
    }
}
