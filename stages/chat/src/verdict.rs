//! What a reply means.

use std::time::Duration;

use serde_json::Value;

use crate::answer::{self, Answer};

/// A reply as it came.
#[derive(Debug, Clone, Copy, Default)]
pub struct Reply<'a> {
    /// HTTP status.
    pub status: u16,
    /// Header `retry-after`: seconds or a date.
    pub retry_after: Option<&'a str>,
    /// Header `retry-after-ms`.
    pub retry_after_ms: Option<&'a str>,
    /// Header `location`.
    pub location: Option<&'a str>,
    /// As far as it is read.
    pub body: &'a [u8],
}

/// What a reply means for the question, for the next try and for others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// There is an answer, which may be a refusal.
    Answered(Answer),
    /// This request is not taken; others may be.
    NotTaken(String),
    /// The server has enough for now: everybody waits, so long at least.
    TooMany(String, Option<Duration>),
    /// Another try may be answered, after so long at least.
    Again(String, Option<Duration>),
    /// Nobody will be answered.
    Never(String),
}

/// Longer pauses are not believed.
const LONGEST_PAUSE: Duration = Duration::from_secs(600);
/// Words of a server in a message.
const MOST_CHARS: usize = 300;

/// The meaning of a reply that came at `now`, in seconds since 1970.
pub fn verdict(reply: Reply<'_>, now: i64) -> Verdict {
    let pause = pause(reply, now);
    match reply.status {
        200..=299 => match answer::read(reply.body) {
            Ok(answer) => Verdict::Answered(Answer { refusal: answer.refusal.map(|why| bounded(&why)), ..answer }),
            Err(why) => Verdict::Again(format!("the server's reply is no chat completion ({})", bounded(&why)), pause),
        },
        300..=399 => Verdict::Never(format!(
            "the server redirects to {}; name the address itself",
            bounded(reply.location.unwrap_or("another address"))
        )),
        401 | 403 => Verdict::Never(format!("the server refuses the key: {}", said(reply))),
        404 | 405 | 501 => Verdict::Never(format!(
            "the server has no such model, or speaks no chat completions at this address: {}",
            said(reply)
        )),
        402 => Verdict::Never(format!("the account cannot pay: {}", said(reply))),
        429 if has_code(reply.body, "insufficient_quota") => {
            Verdict::Never(format!("the account has no credit left: {}", said(reply)))
        }
        429 => Verdict::TooMany(format!("too many requests: {}", said(reply)), pause),
        408 | 409 | 425 => Verdict::Again(said(reply), pause),
        400..=499 if has_code(reply.body, "content_filter") || has_code(reply.body, "content_policy_violation") => {
            Verdict::Answered(Answer { refusal: Some(said(reply)), ..Answer::default() })
        }
        400..=499 => Verdict::NotTaken(format!("the server does not take the request: {}", said(reply))),
        503 => Verdict::TooMany(said(reply), pause),
        _ => Verdict::Again(said(reply), pause),
    }
}

/// Status and the server's own words.
fn said(reply: Reply<'_>) -> String {
    let words = serde_json::from_slice::<Value>(reply.body).ok().and_then(|body| {
        // OpenAI's form; FastAPI's; plain
        let found = [&body["error"]["message"], &body["detail"], &body["message"], &body["error"]];
        found.into_iter().find_map(|found| found.as_str().map(str::to_owned))
    });
    let words = words.unwrap_or_else(|| String::from_utf8_lossy(reply.body).into_owned());
    match bounded(&words) {
        words if words.is_empty() => reply.status.to_string(),
        words => format!("{} ({words})", reply.status),
    }
}

/// On one line, and not too much of it.
fn bounded(words: &str) -> String {
    let line = words.split(|c: char| c.is_whitespace() || c.is_control()).filter(|word| !word.is_empty());
    let line = line.collect::<Vec<_>>().join(" ");
    match line.char_indices().nth(MOST_CHARS) {
        None => line,
        Some((at, _)) => format!("{}…", &line[..at]),
    }
}

fn has_code(body: &[u8], code: &str) -> bool {
    serde_json::from_slice::<Value>(body)
        .is_ok_and(|body| [&body["error"]["code"], &body["error"]["type"]].into_iter().any(|found| found == code))
}

/// How long the server asks to wait.
fn pause(reply: Reply<'_>, now: i64) -> Option<Duration> {
    let seconds = |text: &str| text.trim().parse::<f64>().ok();
    let asked = reply.retry_after_ms.and_then(seconds).map(|ms| ms / 1000.0).or_else(|| {
        let text = reply.retry_after?;
        seconds(text).or_else(|| {
            let at = chrono::DateTime::parse_from_rfc2822(text.trim()).ok()?;
            Some(at.timestamp().saturating_sub(now) as f64)
        })
    })?;
    let asked = Duration::try_from_secs_f64(asked.max(0.0)).unwrap_or(LONGEST_PAUSE);
    Some(asked.min(LONGEST_PAUSE))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ERROR: &[u8] = br#"{"error":{"message":"no\nsuch\u0007 thing","type":"t","code":"c"}}"#;

    fn of(status: u16, body: &[u8]) -> Verdict {
        verdict(Reply { status, body, ..Reply::default() }, 0)
    }

    #[test]
    fn each_status_has_its_class() {
        assert!(
            matches!(of(200, br#"{"choices":[{"message":{"content":"a"}}]}"#), Verdict::Answered(a) if a.text == "a")
        );
        assert!(matches!(of(200, b"<html>"), Verdict::Again(..)), "a proxy that is up before its server");
        for status in [301, 307, 401, 402, 403, 404, 405, 501] {
            assert!(matches!(of(status, ERROR), Verdict::Never(_)), "{status}");
        }
        for status in [400, 413, 415, 422] {
            assert!(matches!(of(status, ERROR), Verdict::NotTaken(_)), "{status}");
        }
        for status in [408, 409, 425, 500, 502, 504, 529, 100, 0] {
            assert!(matches!(of(status, ERROR), Verdict::Again(..)), "{status}");
        }
        for status in [429, 503] {
            assert!(matches!(of(status, ERROR), Verdict::TooMany(..)), "{status}");
        }
        let quota = br#"{"error":{"message":"m","type":"insufficient_quota","code":"insufficient_quota"}}"#;
        assert!(matches!(of(429, quota), Verdict::Never(_)));
        let filter = br#"{"error":{"message":"m","code":"content_filter"}}"#;
        assert!(matches!(of(400, filter), Verdict::Answered(a) if a.refusal.as_deref() == Some("400 (m)")));
    }

    #[test]
    fn servers_are_quoted_on_one_bounded_line() {
        assert_eq!(of(500, ERROR), Verdict::Again("500 (no such thing)".into(), None));
        assert_eq!(of(500, br#"{"detail":"x"}"#), Verdict::Again("500 (x)".into(), None));
        assert_eq!(of(500, b""), Verdict::Again("500".into(), None));
        let Verdict::Again(long, _) = of(500, "ä".repeat(9999).as_bytes()) else { panic!() };
        assert!(long.chars().count() < MOST_CHARS + 10);
        assert!(matches!(of(500, b"\xff\xfe"), Verdict::Again(..)));
    }

    #[test]
    fn pauses_are_believed_within_bounds() {
        let asked = |retry_after: Option<&str>, retry_after_ms: Option<&str>| {
            pause(Reply { status: 429, retry_after, retry_after_ms, ..Reply::default() }, 1_445_412_400)
        };
        let seconds = |s| Some(Duration::from_secs_f64(s));
        assert_eq!(asked(Some("7"), None), seconds(7.0));
        assert_eq!(asked(Some(" 0.5 "), None), seconds(0.5));
        assert_eq!(asked(Some("7"), Some("250")), seconds(0.25));
        assert_eq!(asked(Some("Wed, 21 Oct 2015 07:28:00 GMT"), None), seconds(80.0));
        assert_eq!(asked(Some("Wed, 21 Oct 2009 07:28:00 GMT"), None), seconds(0.0));
        for silly in ["1e300", "inf", "99999999"] {
            assert_eq!(asked(Some(silly), None), Some(LONGEST_PAUSE), "{silly}");
        }
        for nothing in ["", "soon", "Wed, 99 Oct"] {
            assert_eq!(asked(Some(nothing), None), None, "{nothing}");
        }
        assert_eq!(asked(Some("-5"), None), seconds(0.0));
        assert_eq!(asked(Some("nan"), None), seconds(0.0));
    }
}
