//! Requests to a cluster's dashboard, with bounds: tried again where that can help, and what a refusal means.

use std::time::Duration;

use engines::ray::jobs::shortened;
use reqwest::header::CONTENT_TYPE;
use reqwest::{Method, StatusCode};
use workers::WorkerError;

use super::address::{address, headers};
use crate::engine::fault::Fault;

const CONNECT_WITHIN: Duration = Duration::from_secs(5);
/// How long one request may take: the head waits for an agent for some seconds.
const ANSWER_WITHIN: Duration = Duration::from_secs(60);
/// Pauses between tries.
const PAUSES: [Duration; 3] = [Duration::from_millis(300), Duration::from_secs(1), Duration::from_secs(3)];
/// Longer replies are no job's, and logs that are longer are read where they lie.
const MOST_BYTES: usize = 64 << 20;

/// A cluster's dashboard.
pub(super) struct Dashboard {
    client: reqwest::Client,
    address: String,
    /// What no message may repeat.
    hidden: Vec<String>,
}

impl Dashboard {
    /// The one at an address, unless a variable says another.
    pub(super) fn open(of_profile: &str) -> Result<Self, WorkerError> {
        let variable = |name: &str| std::env::var(name).ok();
        let address = address(of_profile, &variable)?;
        let (headers, hidden) = headers(&variable)?;
        let client = reqwest::Client::builder()
            .default_headers(headers)
            .connect_timeout(CONNECT_WITHIN)
            .timeout(ANSWER_WITHIN)
            // headers are for this address alone
            .redirect(reqwest::redirect::Policy::none())
            .user_agent(concat!("urbancross/", env!("CARGO_PKG_VERSION")))
            .build()
            .map_err(|error| WorkerError::Configuration(format!("ray: {}", in_words(&error))))?;
        Ok(Self { client, address, hidden })
    }

    pub(super) fn address(&self) -> &str {
        &self.address
    }

    pub(super) async fn get(&self, path: &str) -> Result<Vec<u8>, Fault> {
        self.call(Method::GET, path, "application/json", &[]).await
    }

    /// Keeps bytes under a name that follows from them.
    pub(super) async fn put(&self, path: &str, bytes: Vec<u8>) -> Result<Vec<u8>, Fault> {
        self.call(Method::PUT, path, "application/octet-stream", &bytes).await
    }

    /// Of what may be posted twice.
    pub(super) async fn post(&self, path: &str, json: &str) -> Result<Vec<u8>, Fault> {
        self.call(Method::POST, path, "application/json", json.as_bytes()).await
    }

    /// Somebody else answers there.
    pub(super) fn is_none(&self, why: &str) -> WorkerError {
        WorkerError::Configuration(format!(
            "{}: this is no Jobs API of Ray ({why}); look at ray.address of the profile and at RAY_ADDRESS",
            self.address
        ))
    }

    async fn call(&self, method: Method, path: &str, kind: &str, body: &[u8]) -> Result<Vec<u8>, Fault> {
        let mut pauses = PAUSES.into_iter();
        loop {
            let fault = match self.once(method.clone(), path, kind, body).await {
                Err(Fault::Other(error)) if error.exit_code() == 75 => Fault::Other(error),
                ended => return ended,
            };
            let Some(pause) = pauses.next() else { return Err(fault) };
            tokio::time::sleep(pause).await;
        }
    }

    async fn once(&self, method: Method, path: &str, kind: &str, body: &[u8]) -> Result<Vec<u8>, Fault> {
        let url = format!("{}/{path}", self.address);
        let request = self.client.request(method, url).header(CONTENT_TYPE, kind).body(body.to_vec());
        let away = |error: &reqwest::Error| {
            Fault::Other(WorkerError::Transient(format!(
                "ray at {} does not answer ({}); is it up, and is this its dashboard's address",
                self.address,
                in_words(error)
            )))
        };
        let mut response = request.send().await.map_err(|error| away(&error))?;
        let (status, mut reply) = (response.status(), Vec::new());
        while let Some(chunk) = response.chunk().await.map_err(|error| away(&error))? {
            if reply.len() + chunk.len() > MOST_BYTES {
                return Err(Fault::Other(self.is_none(&format!("a reply of more than {} MiB", MOST_BYTES >> 20))));
            }
            reply.extend_from_slice(&chunk);
        }
        if status.is_success() { Ok(reply) } else { Err(self.fault(status, &reply)) }
    }

    fn fault(&self, status: StatusCode, reply: &[u8]) -> Fault {
        let reply = String::from_utf8_lossy(reply);
        // servers quote what they refuse
        let reply = self.hidden.iter().fold(reply.into_owned(), |reply, hidden| reply.replace(hidden, "[hidden]"));
        fault(status, &reply, &self.address)
    }
}

/// What a reply means that is no success.
fn fault(status: StatusCode, reply: &str, address: &str) -> Fault {
    let why = match shortened(reply) {
        line if line.is_empty() => "it gives no reason".to_owned(),
        line => line,
    };
    let said = format!("ray at {address} ({}): {why}", status.as_u16());
    Fault::Other(match status.as_u16() {
        // heads say it with 500, and agents with 400
        400 | 409 | 500 if reply.contains("already exists") => return Fault::AlreadyExists(said),
        404 if reply.contains("does not exist") => return Fault::NotFound(said),
        401 | 403 => WorkerError::Refused(format!(
            "{said}; put what it wants to see into RAY_AUTH_TOKEN, or headers as JSON into RAY_JOB_HEADERS"
        )),
        300..400 => WorkerError::Configuration(format!("{said}; it sends elsewhere: name the dashboard itself")),
        408 | 425 | 429 | 500.. => WorkerError::Transient(said),
        404 | 405 => WorkerError::Configuration(format!(
            "{said}; this is no Jobs API of Ray: look at ray.address of the profile and at RAY_ADDRESS"
        )),
        _ => WorkerError::Configuration(said),
    })
}

/// An error with its causes, without the address, which every message names already.
fn in_words(error: &reqwest::Error) -> String {
    if error.is_timeout() {
        return "no answer in time".into();
    }
    workers::cause::beneath(error).unwrap_or_else(|| "the request failed".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_are_known_by_what_can_be_done() {
        let of = |status: u16, reply: &str| fault(StatusCode::from_u16(status).unwrap(), reply, "http://head:8265");
        let exists = "Traceback (most recent call last):\n  File \"a\"\nValueError: Job with submission_id a already exists. \
                      Please use a different submission_id.\n.\n";
        assert!(
            matches!(of(500, exists), Fault::AlreadyExists(_)) && matches!(of(400, exists), Fault::AlreadyExists(_))
        );
        assert!(matches!(of(404, "Job a does not exist"), Fault::NotFound(_)));
        for (status, reply, code, said) in [
            (401, "Unauthorized: Missing authentication token", 65, "RAY_AUTH_TOKEN"),
            (403, "", 65, "it gives no reason"),
            (404, "404: Not Found", 65, "ray.address"),
            (405, "405: Method Not Allowed", 65, "no Jobs API"),
            (302, "", 65, "sends elsewhere"),
            (400, "TypeError: entrypoint must be a string", 65, "entrypoint must be"),
            (500, "No available agent to submit job, please try again later.", 75, "please try again"),
            (502, "<html>", 75, "502"),
            (503, "", 75, "503"),
            (429, "slow", 75, "slow"),
        ] {
            let Fault::Other(error) = of(status, reply) else { panic!("{status} {reply}") };
            assert_eq!(error.exit_code(), code, "{status}: {error}");
            assert!(error.to_string().contains(said) && error.to_string().contains("head:8265"), "{error}");
        }
    }
}
