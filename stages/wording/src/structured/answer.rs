//! A language model's answer read as structured captions, as tolerantly as can be without guessing words.

use std::fmt;

use super::object::{Cursor, FIELD_NAMES, Fields, field_of};
use super::{MAX_FIELD_CHARS, Variant};
use crate::normalise::normalise_caption;
use crate::plain_text::clean_line;

/// Longer answers are read up to here.
const MAX_ANSWER_CHARS: usize = 8_192;
/// Braces that are tried.
const MAX_OBJECTS: usize = 64;

/// Why an answer, or an object of it, gives no variant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum AnswerProblem {
    /// There is no text.
    Empty,
    /// Nothing in it has one of the three fields.
    NoObject,
    /// The named field is missing, empty, or only what the instructions said.
    Lacks(&'static str),
}

impl AnswerProblem {
    /// The first that says more than that nothing was found.
    fn or(self, other: AnswerProblem) -> AnswerProblem {
        if self == AnswerProblem::NoObject { other } else { self }
    }
}

impl fmt::Display for AnswerProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            AnswerProblem::Empty => f.write_str("said nothing"),
            AnswerProblem::NoObject => f.write_str("held no object with the three texts"),
            AnswerProblem::Lacks(field) => write!(f, "lacked {field}"),
        }
    }
}

/// All variants of an answer, in their order, and why there are none, or why one more object is none.
///
/// `tags` are the words of the prompt that are no instruction: what they say is an answer, not an echo.
///
/// Understood are code fences and prose around objects, several objects, single and curly quotes, trailing commas, a
/// missing closing quote or brace, keys in other case or spacing or without quotes, lists of texts, escapes, quotes
/// inside of a text, plain `FEATURE: …` lines, and a repetition of `prompt` before it all. Each field becomes one line of
/// at most [`MAX_FIELD_CHARS`] characters.
pub fn parse_answer(answer: &str, prompt: &str, tags: Option<&str>) -> (Vec<Variant>, Option<AnswerProblem>) {
    let chars: Vec<char> = match answer.char_indices().nth(MAX_ANSWER_CHARS) {
        Some((end, _)) => whole_objects(&answer[..end]).chars().collect(),
        None => answer.chars().collect(),
    };
    let chars = without_prompt(&chars, prompt);
    if chars.iter().all(|c| c.is_whitespace()) {
        return (Vec::new(), Some(AnswerProblem::Empty));
    }
    let tags = tags.filter(|tags| !tags.is_empty());
    let echoed: Vec<String> = match tags {
        Some(tags) => prompt.split(tags).map(normalise_caption).collect(),
        None => vec![normalise_caption(prompt)],
    };
    let mut problem = AnswerProblem::NoObject;
    let mut variants = Vec::new();
    let mut next = 0;
    for _ in 0..MAX_OBJECTS {
        let Some(brace) = chars[next..].iter().position(|&c| c == '{') else { break };
        let mut cursor = Cursor::behind(chars, next + brace);
        match variant(cursor.object(), &echoed) {
            Ok(variant) => {
                variants.push(variant);
                next = cursor.position().min(chars.len());
            }
            Err(why) => {
                problem = problem.or(why);
                next += brace + 1;
            }
        }
    }
    if variants.is_empty() {
        match variant(labelled_lines(chars), &echoed) {
            Ok(variant) => variants.push(variant),
            Err(why) => problem = problem.or(why),
        }
    }
    // prose has braces, too
    let is_worth_a_word = variants.is_empty() || problem != AnswerProblem::NoObject;
    (variants, is_worth_a_word.then_some(problem))
}

/// An answer that breaks off, up to its last whole object: nobody can tell half a sentence from a whole one.
pub fn whole_objects(answer: &str) -> &str {
    answer.rfind('}').map_or("", |end| &answer[..=end])
}

/// The answer behind a repetition of the prompt, whose white space may differ.
fn without_prompt<'a>(answer: &'a [char], prompt: &str) -> &'a [char] {
    let mut at = 0;
    let mut wanted = prompt.chars().filter(|c| !c.is_whitespace()).peekable();
    if wanted.peek().is_none() {
        return answer;
    }
    for c in wanted {
        while answer.get(at).is_some_and(|c| c.is_whitespace()) {
            at += 1;
        }
        match answer.get(at) {
            Some(found) if found.to_lowercase().eq(c.to_lowercase()) => at += 1,
            _ => return answer,
        }
    }
    &answer[at..]
}

/// "FEATURE: a lake" on lines of their own, perhaps as a list or in bold; the text may stand on the next line.
fn labelled_lines(chars: &[char]) -> Fields {
    let text: String = chars.iter().collect();
    let mut fields = Fields::default();
    let mut open = None;
    for line in text.lines() {
        let line = line.trim_matches(|c: char| c.is_whitespace() || "*#>-•`".contains(c));
        let labelled = line.split_once(':').and_then(|(key, value)| {
            let key = key.trim_start_matches(|c: char| c.is_ascii_digit() || ".) ".contains(c));
            Some((field_of(key)?, value))
        });
        let (field, value) = match (labelled, open) {
            (Some(labelled), _) => labelled,
            (None, Some(field)) => (field, line),
            (None, None) => continue,
        };
        let value = value.trim_matches(|c: char| c.is_whitespace() || "*\"'“”‘’,".contains(c));
        open = value.is_empty().then_some(field);
        if !value.is_empty() && fields[field].is_none() {
            fields[field] = Some(value.to_owned());
        }
    }
    fields
}

/// Three fields that say something of their own.
fn variant(fields: Fields, echoed: &[String]) -> Result<Variant, AnswerProblem> {
    if fields.iter().all(Option::is_none) {
        return Err(AnswerProblem::NoObject);
    }
    let mut texts = FIELD_NAMES.iter().zip(fields).map(|(name, field)| {
        let text = clean_line(&field.unwrap_or_default(), MAX_FIELD_CHARS);
        if says_something(&text, echoed) { Ok(text) } else { Err(AnswerProblem::Lacks(name)) }
    });
    // one for each name
    let mut next = || texts.next().unwrap_or(Err(AnswerProblem::NoObject));
    Ok(Variant { one_sentence: next()?, feature: next()?, caption: next()? })
}

/// Not "...", not "one sentence" or "string", not a piece of an instruction that is long enough to be told from chance.
fn says_something(text: &str, echoed: &[String]) -> bool {
    const ECHO_WORDS: usize = 4;
    let key = normalise_caption(text);
    let placeholder = field_of(&key).is_some() || matches!(key.as_str(), "text" | "string" | "str" | "null" | "none");
    let echo = key.split(' ').count() >= ECHO_WORDS && echoed.iter().any(|said| said.contains(&key));
    key.chars().any(char::is_alphabetic) && !placeholder && !echo
}

#[cfg(test)]
mod tests {
    use super::*;

    const PROMPT: &str = "Describe this image. Answer with one JSON object with three texts: \"one_sentence\", \
                          \"feature\" and \"caption\", like {\"one_sentence\": \"...\", \"feature\": \"what stands out \
                          in it\", \"caption\": \"...\"}.";

    fn one(answer: &str) -> [String; 3] {
        let (mut variants, why) = parse_answer(answer, PROMPT, None);
        assert_eq!(variants.len(), 1, "{answer}: {variants:?} {why:?}");
        let Variant { one_sentence, feature, caption } = variants.remove(0);
        [one_sentence, feature, caption]
    }

    #[test]
    fn what_models_write_is_understood() {
        let wanted = ["A lake.", "a long pier", "A lake with a long pier, and a road."];
        for answer in [
            r#"{"one_sentence": "A lake.", "feature": "a long pier", "caption": "A lake with a long pier, and a road."}"#,
            // fences and prose
            "Sure! Here is the JSON:\n```json\n{\n  \"one_sentence\": \"A lake.\",\n  \"feature\": \"a long pier\",\n  \
             \"caption\": \"A lake with a long pier, and a road.\"\n}\n```\nLet me know {if} you need more.",
            // single quotes, trailing comma
            "{'one_sentence': 'A lake.', 'feature': 'a long pier', 'caption': 'A lake with a long pier, and a road.',}",
            // nothing closes
            r#"{"one_sentence": "A lake.", "feature": "a long pier", "caption": "A lake with a long pier, and a road."#,
            r#"{"one_sentence": "A lake.", "feature": "a long pier", "caption": "A lake with a long pier, and a road.""#,
            // keys
            r#"{"One Sentence": "A lake.", "FEATURES": ["a long pier"], " caption ": "A lake with a long pier, and a road."}"#,
            "{one-sentence: \"A lake.\", feature: \"a long pier\", caption: \"A lake with a long pier, and a road.\"}",
            "{\n one_sentence: A lake.,\n feature: a long pier,\n caption: A lake with a long pier, and a road.\n}",
            // a forgotten comma, typographic quotes, an equals sign
            "{\"one_sentence\": \"A lake.\"\n\"feature\": \"a long pier\"\n\"caption\": \"A lake with a long pier, and a road.\"}",
            "{“one_sentence”: “A lake.”, “feature”: “a long pier”, “caption”: “A lake with a long pier, and a road.”}",
            "{\"one_sentence\" = \"A lake.\", \"feature\" = \"a long pier\", \"caption\" = \"A lake with a long pier, and a road.\"}",
            // inside of another object, with fields nobody asked for
            r#"{"result": {"id": 3, "one_sentence": "A lake.", "feature": "a long pier", "caption": "A lake with a long pier, and a road.", "more": null}}"#,
            // escapes
            r#"{"one_sentence": "A\u0020lake.", "feature": "a\nlong\tpier", "caption": "A lake with a \u006cong pier, and a road."}"#,
            // lines
            "ONE_SENTENCE: A lake.\nFEATURE: a long pier\nCAPTION: A lake with a long pier, and a road.",
            "1. **One sentence:** \"A lake.\"\n2. **Feature:**\n\n   a long pier\n- **Caption**: A lake with a long pier, and a road.",
        ] {
            assert_eq!(one(answer), wanted, "{answer}");
        }
    }

    #[test]
    fn quotes_inside_of_a_text_stay() {
        let answer = r#"{'one_sentence': 'The city's lake, seen from above', "feature": "a "red" roof", 'caption': 'Roofs', trees'}"#;
        assert_eq!(one(answer), ["The city's lake, seen from above", "a \"red\" roof", "Roofs', trees"]);
        let answer =
            r#"{"one_sentence": "\ud83c\udf0a a lake", "feature": "\ud83c broken", "caption": "C:\\ \"x\" \q"}"#;
        assert_eq!(one(answer), ["🌊 a lake", "\u{fffd} broken", "C:\\ \"x\" q"]);
    }

    #[test]
    fn a_prompt_that_leaks_is_no_answer() {
        let object = r#"{"one_sentence": "A lake.", "feature": "a pier", "caption": "A lake with a pier."}"#;
        for leak in [PROMPT.to_owned(), PROMPT.to_uppercase(), PROMPT.replace(' ', "\n  ")] {
            assert_eq!(one(&format!("{leak} {object}"))[0], "A lake.");
            assert_eq!(parse_answer(&leak, PROMPT, None), (Vec::new(), Some(AnswerProblem::Empty)));
        }
        // only its end leaks: the example's own words are not taken for an answer
        let tail = &PROMPT[40..];
        assert_eq!(one(&format!("{tail} {object}"))[1], "a pier");
        assert!(matches!(parse_answer(tail, PROMPT, None), (none, Some(AnswerProblem::Lacks(_))) if none.is_empty()));
    }

    #[test]
    fn what_the_tags_say_is_no_echo_of_the_prompt() {
        let tags = "a soccer pitch, surrounded by two residential roads and a house";
        let prompt = format!(
            "Describe this satellite image, which the map knows as: {tags}. North is at the top. Name only what is \
             visible, and say sizes in words such as small, large, long or narrow."
        );
        let answer = |sentence: &str| {
            let rest = r#""feature": "goals", "caption": "A pitch.""#;
            parse_answer(&format!("{{\"one_sentence\": \"{sentence}\", {rest}}}"), &prompt, Some(tags))
        };
        let (variants, why) = answer("A soccer pitch surrounded by two residential roads and a house.");
        assert_eq!((variants.len(), why), (1, None));
        // what is asked around them still is
        for echo in ["Name only what is visible, and say sizes", "Describe this satellite image, which the map knows"] {
            assert_eq!(answer(echo), (Vec::new(), Some(AnswerProblem::Lacks("one_sentence"))), "{echo}");
        }
    }

    #[test]
    fn an_object_that_is_none_is_named_beside_others() {
        let whole = r#"{"one_sentence": "A lake.", "feature": "a pier", "caption": "A lake with a pier."}"#;
        let (variants, why) = parse_answer(&format!("[{whole}, {{\"one_sentence\": \"A pond.\"}}]"), PROMPT, None);
        assert_eq!((variants.len(), why), (1, Some(AnswerProblem::Lacks("feature"))));
    }

    #[test]
    fn an_answer_that_breaks_off_ends_with_its_last_object() {
        assert_eq!(whole_objects(r#"{"a": "b"}, {"a": "hal"#), r#"{"a": "b"}"#);
        assert_eq!(whole_objects("é}ü"), "é}");
        assert_eq!(whole_objects("FEATURE: a pi"), "");
        // longer ones break off where reading does
        let long = format!(
            "{{\"one_sentence\": \"A lake.\", \"feature\": \"a pier\", \"caption\": \"It is {}\"}}",
            "long ".repeat(MAX_ANSWER_CHARS)
        );
        assert!(parse_answer(&long, PROMPT, None).0.is_empty());
    }

    #[test]
    fn several_objects_are_several_variants() {
        let object =
            |i: usize| format!("{{\"one_sentence\": \"Lake {i}.\", \"feature\": \"pier\", \"caption\": \"x\"}}");
        let answer = format!("[{}, {},\n{}]", object(0), object(1), object(2));
        let sentences: Vec<String> =
            parse_answer(&answer, "", None).0.into_iter().map(|variant| variant.one_sentence).collect();
        assert_eq!(sentences, ["Lake 0.", "Lake 1.", "Lake 2."]);
    }

    #[test]
    fn what_is_missing_is_named() {
        for (answer, problem) in [
            ("", AnswerProblem::Empty),
            (" \n\t", AnswerProblem::Empty),
            ("A lake with a pier.", AnswerProblem::NoObject),
            ("{\"a\": 1}", AnswerProblem::NoObject),
            ("{\"one_sentence\": \"A lake.\", \"caption\": \"A lake.\"}", AnswerProblem::Lacks("feature")),
            ("{\"one_sentence\": \"\", \"feature\": \"x\", \"caption\": \"y\"}", AnswerProblem::Lacks("one_sentence")),
            (
                "{\"one_sentence\": \"A lake.\", \"feature\": \"pier\", \"caption\": \"...\"}",
                AnswerProblem::Lacks("caption"),
            ),
            (
                "{\"one_sentence\": \"one sentence\", \"feature\": \"string\", \"caption\": \"x\"}",
                AnswerProblem::Lacks("one_sentence"),
            ),
        ] {
            assert_eq!(parse_answer(answer, PROMPT, None), (Vec::new(), Some(problem)), "{answer}");
        }
        assert_eq!(AnswerProblem::Lacks("feature").to_string(), "lacked feature");
    }

    #[test]
    fn hostile_answers_take_little_time_and_give_bounded_lines() {
        let long = format!(
            "{{\"one_sentence\": \"{}\", \"feature\": \"\u{202e}<script>\u{0}x\", \"caption\": \"b\"}}",
            "a ".repeat(2_000)
        );
        let [sentence, feature, _] = one(&long);
        assert!(sentence.chars().count() <= MAX_FIELD_CHARS);
        assert_eq!(feature, "script x");
        for hostile in [
            "{".repeat(1 << 20),
            "{\"".repeat(1 << 18),
            "{\"caption\":".repeat(1 << 16),
            "{\"caption\":[".repeat(1 << 16),
            "[[[[{{{{\"\"\"\"''''::::,,,,".repeat(1 << 12),
            "\\u".repeat(1 << 16),
            format!("{{\"caption\": \"{}", "\\".repeat(1 << 16)),
            format!("{{\"caption\": \"{}", "\",".repeat(1 << 16)),
            "caption:".repeat(1 << 16),
            "п{\"о\":\"ж\"}".repeat(1 << 14),
        ] {
            let read: String = hostile.chars().take(MAX_ANSWER_CHARS).collect();
            for hostile in [hostile, read] {
                assert!(parse_answer(&hostile, PROMPT, Some("{")).0.is_empty());
                assert!(parse_answer(&hostile, &hostile, None).0.is_empty());
            }
        }
    }

    #[test]
    fn every_cut_of_an_answer_is_read_without_panic() {
        let answer =
            "Hé! ```{“one_sentence”: 'Ä lake\\u00e9.', \"feature\": [\"a\", b], caption: \"x \\\"y\\\" 池\",}```";
        let chars: Vec<char> = answer.chars().collect();
        for start in 0..chars.len() {
            for end in start..=chars.len() {
                let cut: String = chars[start..end].iter().collect();
                let _ = parse_answer(&cut, PROMPT, None);
            }
        }
    }
}
