//! What a server said.

use manifests::plan::Usage;
use serde::Deserialize;

/// What came.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Answer {
    /// As it came; may be empty.
    pub text: String,
    /// Why the model, or what watches over it, says nothing to this image.
    pub refusal: Option<String>,
    /// The limit of tokens cut it off.
    pub is_cut: bool,
    /// The model that answered, by the server's words, with its fingerprint where there is one.
    pub served: String,
    /// What it took.
    pub usage: Usage,
}

#[derive(Deserialize)]
struct Completion {
    #[serde(default)]
    model: Option<String>,
    #[serde(default)]
    system_fingerprint: Option<String>,
    choices: Vec<Choice>,
    #[serde(default)]
    usage: Option<Counted>,
}

#[derive(Deserialize)]
struct Choice {
    message: Message,
    #[serde(default)]
    finish_reason: Option<String>,
}

#[derive(Deserialize)]
struct Message {
    #[serde(default)]
    content: Option<Content>,
    #[serde(default)]
    refusal: Option<String>,
}

/// Most servers send one text, some a list of parts.
#[derive(Deserialize)]
#[serde(untagged)]
enum Content {
    Text(String),
    Parts(Vec<Part>),
}

#[derive(Deserialize)]
struct Part {
    #[serde(default)]
    text: Option<String>,
}

#[derive(Deserialize)]
struct Counted {
    #[serde(default)]
    prompt_tokens: u64,
    #[serde(default)]
    completion_tokens: u64,
}

/// Names that servers give their models, at most.
const MOST_SERVED_CHARS: usize = 200;

impl Answer {
    /// Is it by this revision? An empty one is anybody; refusals may be by whoever stands before the model.
    pub fn is_by(&self, revision: &str) -> bool {
        let is_named = self.served == revision || self.served.split(' ').any(|word| word == revision);
        revision.is_empty() || is_named || self.refusal.is_some()
    }
}

/// The first choice of a completion.
///
/// # Errors
/// In words, why this is no completion.
pub(crate) fn read(body: &[u8]) -> Result<Answer, String> {
    let completion: Completion = serde_json::from_slice(body).map_err(|e| e.to_string())?;
    let choice = completion.choices.into_iter().next().ok_or("it has no choice")?;
    let filtered = choice.finish_reason.as_deref() == Some("content_filter");
    let filtered = filtered.then(|| "its content filter stopped the answer".to_owned());
    let counted = completion.usage.unwrap_or(Counted { prompt_tokens: 0, completion_tokens: 0 });
    let served = [completion.model, completion.system_fingerprint];
    let served: Vec<String> = served.into_iter().flatten().filter(|name| !name.is_empty()).collect();
    Ok(Answer {
        text: match choice.message.content {
            None => String::new(),
            Some(Content::Text(text)) => text,
            Some(Content::Parts(parts)) => parts.into_iter().filter_map(|part| part.text).collect(),
        },
        refusal: choice.message.refusal.filter(|why| !why.trim().is_empty()).or(filtered),
        is_cut: choice.finish_reason.as_deref() == Some("length"),
        served: served.join(" ").chars().filter(|c| !c.is_control()).take(MOST_SERVED_CHARS).collect(),
        usage: Usage { requests: 1, tokens_in: counted.prompt_tokens, tokens_out: counted.completion_tokens },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn completions_of_several_servers_are_read() {
        // OpenAI's, vLLM's, and the least that can be
        let openai = br#"{"id":"x","object":"chat.completion","model":"gpt-4.1-2025-04-14","system_fingerprint":"fp_1",
            "choices":[{"index":0,"message":{"role":"assistant","content":"a lake","refusal":null},"logprobs":null,
            "finish_reason":"stop"}],"usage":{"prompt_tokens":300,"completion_tokens":3,"total_tokens":303}}"#;
        let usage = Usage { requests: 1, tokens_in: 300, tokens_out: 3 };
        let served = "gpt-4.1-2025-04-14 fp_1".to_owned();
        let wanted = Answer { text: "a lake".into(), refusal: None, is_cut: false, served, usage };
        assert_eq!(read(openai), Ok(wanted));
        let parts = br#"{"choices":[{"message":{"content":[{"type":"text","text":"a "},{"text":"lake"}]},
            "finish_reason":"length"}]}"#;
        let read_parts = read(parts).unwrap();
        assert_eq!((read_parts.text.as_str(), read_parts.is_cut, read_parts.served.as_str()), ("a lake", true, ""));
        assert_eq!(read(br#"{"choices":[{"message":{"content":null}}]}"#).unwrap().text, "");
    }

    #[test]
    fn a_revision_is_the_model_or_its_fingerprint() {
        let by = |served: &str| Answer { served: served.into(), ..Answer::default() };
        assert!(by("").is_by("") && by("m fp").is_by("") && by("m fp").is_by("m fp"));
        assert!(by("m fp").is_by("m") && by("m fp").is_by("fp") && !by("m fp").is_by("f") && !by("").is_by("m"));
    }

    #[test]
    fn refusals_and_nonsense_are_told_apart() {
        let refused = br#"{"choices":[{"message":{"content":null,"refusal":"I cannot"}}],"usage":{"prompt_tokens":5}}"#;
        let refused = read(refused).unwrap();
        assert_eq!((refused.refusal.as_deref(), refused.usage.tokens_in), (Some("I cannot"), 5), "it is paid for");
        let filtered = br#"{"choices":[{"message":{"content":"a"},"finish_reason":"content_filter"}]}"#;
        assert!(read(filtered).unwrap().refusal.unwrap().contains("filter"));
        for body in [&b""[..], b"<html>", b"{}", br#"{"choices":[]}"#, br#"{"choices":[{"message":{"content":7}}]}"#] {
            assert!(read(body).is_err(), "{body:?}");
        }
        let claims = br#"{"choices":[{"message":{}}],"usage":{"prompt_tokens":18446744073709551615}}"#;
        let mut usage = read(claims).unwrap().usage;
        usage += usage;
        assert_eq!((usage.requests, usage.tokens_in), (2, u64::MAX));
    }
}
