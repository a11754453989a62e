//! `server`: a server of chat completions looks at the image and is told its tags.

mod captions;
mod queries;
mod session;
mod variants;

use manifests::BuildSpec;

use super::{Caption, Captions, QueryText, StructuredCaption, Way, told};
use crate::stage::ModelUse;
use captions::CaptionWriter;
use queries::QueryWriter;
use variants::VariantWriter;

pub(super) struct Server;

impl Captions for Server {
    fn looks(&self) -> bool {
        true
    }

    fn drops_tags(&self) -> bool {
        true
    }

    fn captions(&self) -> Way<Caption> {
        Way {
            model: |_| ModelUse::Served,
            settings: caption_settings,
            told: told::scene,
            open: |context| Ok(Box::new(CaptionWriter::open(context)?)),
        }
    }

    fn structured(&self) -> Option<Way<StructuredCaption>> {
        Some(Way {
            model: |_| ModelUse::Served,
            settings: structured_settings,
            told: told::scene,
            open: |context| Ok(Box::new(VariantWriter::open(context)?)),
        })
    }

    fn query_text(&self) -> Option<Way<QueryText>> {
        Some(Way {
            model: |_| ModelUse::Served,
            settings: query_settings,
            told: |_| None,
            open: |context| Ok(Box::new(QueryWriter::open(context)?)),
        })
    }
}

/// What changes words: who answers and what is asked. Not where the server stands, how it is paid, or how fast it may be
/// asked.
fn of(spec: &BuildSpec, fields: &[&str]) -> serde_json::Value {
    let all = serde_json::json!(spec.caption.server);
    let fields = ["model", "revision", "detail", "top_p", "seed"].iter().chain(fields);
    fields.map(|field| ((*field).to_owned(), all[*field].clone())).collect::<serde_json::Map<_, _>>().into()
}

fn caption_settings(spec: &BuildSpec) -> Option<serde_json::Value> {
    let fields = ["prompt", "prompt_without_tags", "temperature", "max_tokens", "quality"];
    Some(serde_json::json!({ "settings": of(spec, &fields) }))
}

fn structured_settings(spec: &BuildSpec) -> Option<serde_json::Value> {
    Some(serde_json::json!({ "settings": of(spec, &["structured"]) }))
}

fn query_settings(spec: &BuildSpec) -> Option<serde_json::Value> {
    let prompt = &spec.text_retrieval.query_prompt;
    Some(serde_json::json!({ "settings": of(spec, &["temperature", "max_tokens"]), "query_prompt": prompt }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(set: &[&str]) -> BuildSpec {
        let text = "country = \"x\"\n[source]\nkind = \"skyscript\"\nurl = \"x\"\n[caption]\ncaptioner = \"server\"\n\
                    [caption.server]\nurl = \"http://h/v1\"\nmodel = \"m\"\n";
        let set: Vec<String> = set.iter().map(|s| (*s).to_owned()).collect();
        BuildSpec::parse(text, "t", &set).unwrap()
    }

    #[test]
    fn identity_is_who_answers_and_what_is_asked() {
        let all =
            |set: &[&str]| [caption_settings, structured_settings, query_settings].map(|of| of(&spec(set)).unwrap());
        let base = all(&[]);
        for same in [
            "url=https://elsewhere/v1",
            "key_env=KEY",
            "requests_at_once=99",
            "requests_per_minute=5",
            "timeout_seconds=9",
            "tries=2",
            "price_per_million_tokens_in=2.0",
            "token_limit=max_completion_tokens",
        ] {
            assert_eq!(all(&[&format!("caption.server.{same}")]), base, "{same}");
        }
        for (other, changed) in [
            ("caption.server.model=n", [true, true, true]),
            ("caption.server.revision=r", [true, true, true]),
            ("caption.server.seed=1", [true, true, true]),
            ("caption.server.prompt=p", [true, false, false]),
            ("caption.server.temperature=0.5", [true, false, true]),
            ("caption.server.quality={ min_words = 9 }", [true, false, false]),
            ("caption.server.structured={ attempts = 9 }", [false, true, false]),
            ("text_retrieval.query_prompt=q", [false, false, true]),
        ] {
            let now = all(&[other]);
            assert_eq!([0, 1, 2].map(|i| now[i] != base[i]), changed, "{other}");
        }
    }
}
