//! An image and a prompt as the body of a request.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use manifests::spec::TokenLimitField;
use serde_json::{Value, json};

/// What the answer has to look like.
#[derive(Debug, Clone, PartialEq)]
pub enum AnswerForm {
    /// Any text.
    Words,
    /// Some JSON object.
    AnyObject,
    /// An object of this JSON Schema, under a name.
    Object(&'static str, Value),
}

/// Who is asked, and how answers are drawn.
#[derive(Debug, Clone, PartialEq)]
pub struct Model {
    /// As the server calls it.
    pub name: String,
    /// `low`, `high` or `auto`; empty: not said.
    pub detail: String,
    /// 0: the most likely tokens.
    pub temperature: f64,
    /// 1: not said.
    pub top_p: f64,
    /// Tokens of an answer at most.
    pub max_tokens: usize,
    /// How that is said.
    pub token_limit: TokenLimitField,
}

/// One request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Question {
    /// Which image it is about, for messages.
    pub image_id: String,
    /// JSON.
    pub body: Vec<u8>,
}

impl Question {
    /// The prompt, and the image as a data URL; `image` is encoded as JPEG, PNG, WebP or GIF.
    ///
    /// # Errors
    /// Bytes of another format.
    pub fn new(
        model: &Model,
        image_id: &str,
        image: &[u8],
        prompt: &str,
        form: &AnswerForm,
        seed: Option<u64>,
    ) -> Result<Self, String> {
        let url = data_url(image).ok_or("the image is neither JPEG nor PNG, WebP or GIF")?;
        let mut shown = json!({ "url": url });
        if !model.detail.is_empty() {
            shown["detail"] = model.detail.as_str().into();
        }
        let content = json!([{ "type": "text", "text": prompt }, { "type": "image_url", "image_url": shown }]);
        let mut body = json!({
            "model": model.name,
            "messages": [{ "role": "user", "content": content }],
            "temperature": model.temperature,
        });
        body[field_of(model.token_limit)] = model.max_tokens.into();
        if model.top_p < 1.0 {
            body["top_p"] = model.top_p.into();
        }
        if let Some(seed) = seed {
            // servers read it as a signed number
            body["seed"] = (seed >> 1).into();
        }
        match form {
            AnswerForm::Words => {}
            AnswerForm::AnyObject => body["response_format"] = json!({ "type": "json_object" }),
            AnswerForm::Object(name, schema) => {
                body["response_format"] = json!({
                    "type": "json_schema",
                    "json_schema": { "name": name, "strict": true, "schema": schema },
                });
            }
        }
        Ok(Self { image_id: image_id.to_owned(), body: body.to_string().into_bytes() })
    }
}

/// The field of a request that bounds the answer's tokens.
fn field_of(limit: TokenLimitField) -> &'static str {
    match limit {
        TokenLimitField::MaxTokens => "max_tokens",
        TokenLimitField::MaxCompletionTokens => "max_completion_tokens",
    }
}

/// The body of a question that every server can answer: whether one fails, or a request.
pub fn greeting(model: &str, token_limit: TokenLimitField) -> Vec<u8> {
    let mut body = json!({ "model": model, "messages": [{ "role": "user", "content": "Say yes." }] });
    body[field_of(token_limit)] = 16.into();
    body.to_string().into_bytes()
}

/// The body of a question with another picture: whether it is its own that a server does not take. `None` for what is
/// no body of a [`Question`], or no picture that servers know.
pub fn with_picture(body: &[u8], image: &[u8]) -> Option<Vec<u8>> {
    let mut body: Value = serde_json::from_slice(body).ok()?;
    *body.pointer_mut("/messages/0/content/1/image_url/url")? = data_url(image)?.into();
    Some(body.to_string().into_bytes())
}

fn data_url(image: &[u8]) -> Option<String> {
    Some(format!("data:{};base64,{}", media_type(image)?, STANDARD.encode(image)))
}

/// What servers know an image as, by its first bytes: names and headers may say anything.
pub fn media_type(image: &[u8]) -> Option<&'static str> {
    match image {
        [0xff, 0xd8, 0xff, ..] => Some("image/jpeg"),
        [0x89, b'P', b'N', b'G', 0x0d, 0x0a, 0x1a, 0x0a, ..] => Some("image/png"),
        [b'R', b'I', b'F', b'F', _, _, _, _, b'W', b'E', b'B', b'P', ..] => Some("image/webp"),
        [b'G', b'I', b'F', b'8', ..] => Some("image/gif"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn model() -> Model {
        Model {
            name: "m".into(),
            detail: String::new(),
            temperature: 0.2,
            top_p: 1.0,
            max_tokens: 9,
            token_limit: TokenLimitField::MaxTokens,
        }
    }

    fn asked(model: &Model, form: &AnswerForm, seed: Option<u64>) -> Value {
        let question = Question::new(model, "a", b"\xff\xd8\xff\xe0rest", "What \"is\" it?", form, seed).unwrap();
        serde_json::from_slice(&question.body).unwrap()
    }

    #[test]
    fn the_image_is_a_data_url_beside_the_prompt() {
        let body = asked(&model(), &AnswerForm::Words, None);
        let wanted = json!({
            "model": "m", "temperature": 0.2, "max_tokens": 9,
            "messages": [{ "role": "user", "content": [
                { "type": "text", "text": "What \"is\" it?" },
                { "type": "image_url", "image_url": { "url": "data:image/jpeg;base64,/9j/4HJlc3Q=" } },
            ] }],
        });
        assert_eq!(body, wanted);
    }

    #[test]
    fn another_picture_leaves_the_rest_of_a_question() {
        let form = AnswerForm::AnyObject;
        let question = |image: &[u8]| Question::new(&model(), "a", image, "b", &form, Some(7)).unwrap();
        let (one, other) = (question(b"\xff\xd8\xff\xe0rest"), b"\x89PNG\r\n\x1a\n..");
        let read = |body: &[u8]| serde_json::from_slice::<Value>(body).unwrap();
        assert_eq!(read(&with_picture(&one.body, other).unwrap()), read(&question(other).body));
        assert_eq!((with_picture(&one.body, b"BM"), with_picture(b"{}", other)), (None, None));
    }

    #[test]
    fn what_is_set_is_said_and_nothing_else() {
        let all =
            Model { detail: "high".into(), top_p: 0.5, token_limit: TokenLimitField::MaxCompletionTokens, ..model() };
        let schema = json!({ "type": "object" });
        let body = asked(&all, &AnswerForm::Object("five", schema.clone()), Some(u64::MAX));
        assert_eq!(body["messages"][0]["content"][1]["image_url"]["detail"], "high");
        assert_eq!((&body["top_p"], &body["max_completion_tokens"]), (&json!(0.5), &json!(9)));
        assert_eq!((body.get("max_tokens"), &body["seed"]), (None, &json!(i64::MAX)));
        let format = &body["response_format"];
        assert_eq!((&format["type"], &format["json_schema"]["schema"]), (&json!("json_schema"), &schema));
        assert_eq!(asked(&all, &AnswerForm::AnyObject, None)["response_format"], json!({ "type": "json_object" }));
    }

    #[test]
    fn formats_are_told_by_their_first_bytes() {
        for (bytes, wanted) in [
            (&b"\x89PNG\r\n\x1a\n.."[..], Some("image/png")),
            (b"RIFF\0\0\0\0WEBPVP8 ", Some("image/webp")),
            (b"GIF89a", Some("image/gif")),
            (b"II*\0", None),
            (b"", None),
        ] {
            assert_eq!(media_type(bytes), wanted);
        }
        assert!(Question::new(&model(), "a", b"BM", "", &AnswerForm::Words, None).is_err());
    }
}
