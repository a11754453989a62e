//! Speaks to a server of chat completions: as many requests at once as it may, pauses that it asks for, tries again where
//! that can help. What replies mean is [`chat::verdict`]'s.

mod pace;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use chat::{Answer, Question, Reply, Silence, Verdict, verdict};
use futures::{StreamExt, TryStreamExt};
use manifests::BuildSpec;
use manifests::spec::CaptionServerSpec;
use reqwest::header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderValue, LOCATION, RETRY_AFTER};
use tokio::runtime::Runtime;
use tokio::sync::{OnceCell, Semaphore};

use crate::backoff::Backoff;
use crate::error::WorkerError;
use crate::metrics::{self, Metric};
use pace::Pace;

/// Longer replies are cut, and then are no JSON.
const MOST_REPLY_BYTES: usize = 4 << 20;
/// A server that takes none of so many requests, and never took one, is asked whether it takes any at all.
const REFUSALS: u64 = 5;
/// Side of the picture that it is asked about: any model sees it, and none finds it too large.
const SMALL_PX: u32 = 64;
const CONNECT_WITHIN: Duration = Duration::from_secs(10);
const FIRST_BACKOFF: Duration = Duration::from_millis(500);
const LONGEST_BACKOFF: Duration = Duration::from_secs(60);
/// Times the time of an answer.
const PATIENCE: Duration = Duration::from_secs(5);
/// Shorter pauses are not worth a word.
const LONG_PAUSE: Duration = Duration::from_secs(5);
/// After a stop the answers that are under way may still come: they are paid for.
const GRACE: Duration = Duration::from_secs(5);
/// How often a blocked thread looks whether the run is to end.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// A server, with all that has to be kept in mind between requests.
pub struct ChatServer {
    client: reqwest::Client,
    /// What no message may repeat.
    key: Option<String>,
    /// Without a slash at its end.
    url: String,
    model: String,
    /// What must answer; empty: anything.
    revision: String,
    /// What it can always answer.
    greeting: bytes::Bytes,
    tries: u32,
    /// How long a request is put off that the server has no room for, while it answers others or a greeting.
    patience: Duration,
    at_once: usize,
    /// Of all threads together.
    places: Semaphore,
    pace: Pace,
    /// Questions that it answered.
    answered: AtomicU64,
    /// Requests that it did not take.
    not_taken: AtomicU64,
    /// Whether it takes one with a small picture, once that was in doubt.
    takes_pictures: OnceCell<bool>,
    /// Its own: threads may still wait for answers when that of the program ends.
    runtime: Option<Runtime>,
    stop: Arc<AtomicBool>,
}

/// The server that a spec names, or none. Nothing is sent yet.
///
/// # Errors
/// [`WorkerError::Configuration`] for a key that is not in the environment, or cannot be sent.
pub fn open(spec: &BuildSpec, stop: Arc<AtomicBool>) -> Result<Option<Arc<dyn chat::Server>>, WorkerError> {
    if !spec.caption.uses_server() {
        return Ok(None);
    }
    Ok(Some(Arc::new(ChatServer::new(&spec.caption.server, stop)?)))
}

/// Whether the server answers, takes the key and has the model; what it says, in words.
///
/// # Errors
/// [`WorkerError::Configuration`] for an address, a key or a model that is wrong; [`WorkerError::Transient`] if it does
/// not answer.
pub async fn probe(spec: &CaptionServerSpec) -> Result<String, WorkerError> {
    ChatServer::new(spec, Arc::default())?.probe().await
}

impl ChatServer {
    fn new(spec: &CaptionServerSpec, stop: Arc<AtomicBool>) -> Result<Self, WorkerError> {
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        let key = if spec.key_env.is_empty() { None } else { Some(key(&spec.key_env)?) };
        if let Some(key) = &key {
            headers.insert(AUTHORIZATION, bearer(&spec.key_env, key)?);
        }
        let client = reqwest::Client::builder()
            .default_headers(headers)
            .connect_timeout(CONNECT_WITHIN)
            .timeout(Duration::from_secs(spec.timeout_seconds))
            // the key is for this address alone
            .redirect(reqwest::redirect::Policy::none())
            .user_agent(concat!("urbancross/", env!("CARGO_PKG_VERSION")))
            .build()
            .map_err(|e| WorkerError::Configuration(format!("caption.server: {}", in_words(&e))))?;
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("caption server")
            .enable_all()
            .build()
            .map_err(|e| WorkerError::Transient(format!("no thread for caption.server: {e}")))?;
        Ok(Self {
            client,
            key,
            patience: PATIENCE * u32::try_from(spec.timeout_seconds).unwrap_or(u32::MAX),
            url: spec.url.trim_end_matches('/').to_owned(),
            model: spec.model.clone(),
            revision: spec.revision.clone(),
            greeting: chat::greeting(&spec.model, spec.token_limit).into(),
            tries: spec.tries,
            at_once: spec.requests_at_once,
            places: Semaphore::new(spec.requests_at_once),
            pace: Pace::new(spec.requests_per_minute),
            answered: AtomicU64::new(0),
            not_taken: AtomicU64::new(0),
            takes_pictures: OnceCell::new(),
            runtime: Some(runtime),
            stop,
        })
    }

    async fn probe(&self) -> Result<String, WorkerError> {
        let url = format!("{}/models", self.url);
        let reply = self.reply(self.client.get(&url)).await;
        let reply = reply.map_err(|why| WorkerError::Transient(format!("caption.server: {}: {why}", self.url)))?;
        let unlisted = || format!("{} at {}, which does not list its models", self.model, self.url);
        match reply.status {
            200..=299 => {
                let names = models(&reply.body);
                if names.is_empty() {
                    return Ok(unlisted());
                }
                if names.contains(&self.model) {
                    return Ok(format!("{} at {}", self.model, self.url));
                }
                const MOST: usize = 10;
                let shown = names.iter().take(MOST).map(String::as_str).collect::<Vec<_>>().join(", ");
                let more = if names.len() > MOST { ", …" } else { "" };
                Err(WorkerError::Configuration(format!(
                    "caption.server.model = {:?}: {} serves {shown}{more}",
                    self.model, self.url
                )))
            }
            // not every server lists its models
            404 | 405 | 501 => Ok(unlisted()),
            _ => {
                let said = |why: String| format!("caption.server: {}: {why}", self.url);
                match reply.verdict() {
                    Verdict::Never(why) | Verdict::NotTaken(why) => Err(WorkerError::Configuration(said(why))),
                    Verdict::Again(why, _) | Verdict::TooMany(why, _) => Err(WorkerError::Transient(said(why))),
                    Verdict::Answered(_) => Ok(format!("{} at {}", self.model, self.url)),
                }
            }
        }
    }

    async fn reply(&self, request: reqwest::RequestBuilder) -> Result<OwnedReply, String> {
        let mut response = request.send().await.map_err(|e| in_words(&e))?;
        let header = |name: &str| response.headers().get(name).and_then(|v| v.to_str().ok()).map(str::to_owned);
        let mut reply = OwnedReply {
            status: response.status().as_u16(),
            retry_after: header(RETRY_AFTER.as_str()),
            retry_after_ms: header("retry-after-ms"),
            location: header(LOCATION.as_str()),
            body: Vec::new(),
        };
        while let Some(chunk) = response.chunk().await.map_err(|e| in_words(&e))? {
            if reply.body.len() + chunk.len() > MOST_REPLY_BYTES {
                return Err(format!("its reply has more than {} MiB", MOST_REPLY_BYTES >> 20));
            }
            reply.body.extend_from_slice(&chunk);
        }
        if reply.status >= 300 {
            // servers quote what they refuse
            if let Some(key) = self.key.as_ref().filter(|key| !key.is_empty()) {
                reply.body = String::from_utf8_lossy(&reply.body).replace(key.as_str(), "[hidden]").into_bytes();
            }
        }
        Ok(reply)
    }

    /// Asks until there is an answer, or none to be hoped for.
    async fn answer(&self, question: Question) -> Result<Result<Answer, String>, Silence> {
        let Question { image_id, body } = question;
        let body = bytes::Bytes::from(body);
        let fresh = || Backoff::new(FIRST_BACKOFF, LONGEST_BACKOFF);
        let mut backoff = fresh();
        // of faults, and of replies that it has no room: the one says nothing of the other
        let (mut tries_of, mut last_answered) = ([0; 2], self.answered.load(Ordering::Relaxed));
        let mut put_off: Option<Instant> = None;
        // the server has no room for this request, and answers a greeting
        let mut greeted = false;
        loop {
            let verdict = {
                let _place = self.places.acquire().await.map_err(|_| Silence::Stopped)?;
                self.pace.turn().await;
                self.verdict(body.clone()).await
            };
            let answered = self.answered.load(Ordering::Relaxed);
            let (why, pause, is_busy) = match verdict {
                // rows of another revision would stand among those of this one
                Verdict::Answered(answer) if !answer.is_by(&self.revision) => {
                    let served = if answer.served.is_empty() { "nobody it names" } else { &answer.served };
                    return Err(Silence::Wrong(format!(
                        "revision = {:?}, and the server says that {served} answered: name what is served, which makes \
                         captions again, or serve what is named",
                        self.revision
                    )));
                }
                Verdict::Answered(answer) => {
                    self.answered.fetch_add(1, Ordering::Relaxed);
                    return Ok(Ok(answer));
                }
                Verdict::NotTaken(why) => {
                    let refusals = self.not_taken.fetch_add(1, Ordering::Relaxed) + 1;
                    // a run may begin with those images that it refuses, as with `--retry-errors`
                    if answered == 0 && refusals >= REFUSALS && !self.takes_pictures(&body).await {
                        return Err(Silence::Wrong(format!(
                            "{}: none of {refusals} requests was taken: {why}",
                            self.url
                        )));
                    }
                    return Ok(Err(why));
                }
                Verdict::Never(why) => return Err(Silence::Wrong(format!("{}: {why}", self.url))),
                Verdict::TooMany(why, pause) => (why, pause, true),
                Verdict::Again(why, pause) => (why, pause, false),
            };
            metrics::add(Metric::Retries, &[("kind", "chat")], 1.0);
            // a server at its limits is no server that fails, as long as it answers others meanwhile
            let others_are_answered = is_busy && answered > last_answered;
            last_answered = answered;
            let since = put_off.get_or_insert_with(Instant::now);
            let is_patient = since.elapsed() < self.patience;
            if others_are_answered && is_patient {
                (tries_of, backoff) = ([0; 2], fresh());
            } else {
                tries_of[usize::from(is_busy)] += 1;
            }
            let tries = tries_of[usize::from(is_busy)];
            let is_put_off = is_busy && (others_are_answered || greeted);
            let is_over = if is_put_off { !is_patient } else { tries >= self.tries };
            if is_over {
                let tried = format!("tried {tries} times: {why}");
                // is it this request that the server cannot do, or any?
                if !others_are_answered && !self.greets().await {
                    return Err(Silence::Unreachable(format!("{}: {image_id}: {tried}", self.url)));
                }
                if !is_busy {
                    return Ok(Err(tried));
                }
                if !is_patient {
                    let seconds = since.elapsed().as_secs();
                    return Ok(Err(format!("put off for {seconds} s while others are answered: {why}")));
                }
                // nobody is answered meanwhile, perhaps since nobody asks: the server is there all the same
                greeted = true;
            }
            tracing::debug!(event = "chat", image_id, tries, why, "trying again");
            let wait = backoff.next().max(pause.unwrap_or_default());
            if is_busy && self.pace.hold(pause.unwrap_or(wait)) >= LONG_PAUSE {
                tracing::warn!("caption.server: {why}; nothing is asked for {} s", pause.unwrap_or(wait).as_secs());
            }
            tokio::time::sleep(wait).await;
        }
    }

    async fn verdict(&self, body: bytes::Bytes) -> Verdict {
        let request = self.client.post(format!("{}/chat/completions", self.url)).body(body);
        match self.reply(request).await {
            Ok(reply) => reply.verdict(),
            Err(why) => Verdict::Again(why, None),
        }
    }

    /// Does the model answer anything at all?
    async fn greets(&self) -> bool {
        matches!(self.verdict(self.greeting.clone()).await, Verdict::Answered(_))
    }

    /// Does it take this request with a small picture in place of its own?
    async fn takes_pictures(&self, body: &[u8]) -> bool {
        let asked = self.takes_pictures.get_or_try_init(|| async {
            let data = vec![128; 3 * SMALL_PX as usize * SMALL_PX as usize];
            let grey = pixels::Rgb { width: SMALL_PX, height: SMALL_PX, data };
            let Some(body) = chat::with_picture(body, &pixels::encode_png(&grey)) else { return Ok(false) };
            match self.verdict(body.into()).await {
                Verdict::Answered(_) => Ok(true),
                Verdict::NotTaken(_) | Verdict::Never(_) => Ok(false),
                // it says neither, and may be asked again
                Verdict::TooMany(..) | Verdict::Again(..) => Err(()),
            }
        });
        asked.await.copied().unwrap_or(true)
    }

    async fn stopped(&self) {
        while !self.stop.load(Ordering::Relaxed) {
            tokio::time::sleep(LOOK_EVERY).await;
        }
        tokio::time::sleep(GRACE).await;
    }
}

impl Drop for ChatServer {
    /// Without waiting: the last owner may be a task.
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl chat::Server for ChatServer {
    fn ask(&self, questions: Vec<Question>) -> Result<Vec<Result<Answer, String>>, Silence> {
        let Some(runtime) = &self.runtime else { return Err(Silence::Stopped) };
        let asking = questions
            .into_iter()
            .enumerate()
            .map(|(number, question)| async move { self.answer(question).await.map(|answer| (number, answer)) });
        // as they come: those behind a question that is put off do not wait for it
        let answers = futures::stream::iter(asking).buffer_unordered(self.at_once).try_collect::<Vec<_>>();
        let answers = runtime.block_on(async {
            tokio::select! {
                answers = answers => answers,
                () = self.stopped() => Err(Silence::Stopped),
            }
        });
        let mut answers = answers?;
        answers.sort_unstable_by_key(|(number, _)| *number);
        Ok(answers.into_iter().map(|(_, answer)| answer).collect())
    }
}

/// A reply that was read.
struct OwnedReply {
    status: u16,
    retry_after: Option<String>,
    retry_after_ms: Option<String>,
    location: Option<String>,
    body: Vec<u8>,
}

impl OwnedReply {
    fn verdict(&self) -> Verdict {
        let reply = Reply {
            status: self.status,
            retry_after: self.retry_after.as_deref(),
            retry_after_ms: self.retry_after_ms.as_deref(),
            location: self.location.as_deref(),
            body: &self.body,
        };
        verdict(reply, unix_seconds())
    }
}

/// Ids of a list of models; empty where it is none.
fn models(body: &[u8]) -> Vec<String> {
    let body: serde_json::Value = serde_json::from_slice(body).unwrap_or_default();
    let listed = body["data"].as_array().into_iter().flatten();
    listed.filter_map(|model| model["id"].as_str().map(str::to_owned)).collect()
}

fn key(variable: &str) -> Result<String, WorkerError> {
    let wrong = |why: &str| WorkerError::Configuration(format!("caption.server.key_env = {variable:?}: {why}"));
    match std::env::var(variable).unwrap_or_default().trim() {
        "" => Err(wrong("the environment has no such variable: set it to the server's key")),
        key => Ok(key.to_owned()),
    }
}

/// As a header that no log shows.
fn bearer(variable: &str, key: &str) -> Result<HeaderValue, WorkerError> {
    let wrong = |why: &str| WorkerError::Configuration(format!("caption.server.key_env = {variable:?}: {why}"));
    let mut header = HeaderValue::from_str(&format!("Bearer {key}"))
        .map_err(|_| wrong("what it holds cannot be sent in a header"))?;
    header.set_sensitive(true);
    Ok(header)
}

/// An error with its causes, without the address, which every message names already.
fn in_words(error: &reqwest::Error) -> String {
    if error.is_timeout() {
        return "no answer in time (caption.server.timeout_seconds)".into();
    }
    crate::cause::beneath(error).unwrap_or_else(|| "the request failed".into())
}

fn unix_seconds() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs() as i64)
}
