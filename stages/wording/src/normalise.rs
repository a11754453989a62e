//! The key under which two captions count as equal.

use icu_normalizer::ComposingNormalizerBorrowed;

/// Key for "equal caption": Unicode NFKC, lower case, every run of punctuation and white space one blank,
/// apostrophes removed ("church's" and "churchs" are one word). Group recall, duplicate masks and text
/// deduplication compare captions by this key; texts without letters and digits share the empty key.
pub fn normalise_caption(text: &str) -> String {
    let lowered = text.to_lowercase();
    let nfkc = ComposingNormalizerBorrowed::new_nfkc();
    let mut key = String::with_capacity(lowered.len());
    let mut blank_pending = false;
    for character in nfkc.normalize_iter(lowered.chars()) {
        // NFKC can turn one character into upper-case ones (㏊, ™): lower again, per character.
        for character in character.to_lowercase() {
            if character.is_alphanumeric() {
                if blank_pending && !key.is_empty() {
                    key.push(' ');
                }
                blank_pending = false;
                key.push(character);
            } else if !matches!(character, '\'' | '\u{2019}' | '\u{300}'..='\u{36f}') {
                blank_pending = true;
            }
        }
    }
    key
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn captions_that_say_the_same_share_a_key() {
        let key = "many green trees are in two sides of a curved river";
        for text in [
            "many green trees are in two sides of a curved river .",
            "Many  green trees are in two sides of a curved river",
            "\tmany green trees,are in two sides of a curved\u{a0}river!\n",
            "ｍany green trees are in two sides of a curved river",
        ] {
            assert_eq!(normalise_caption(text), key);
        }
        assert_eq!(normalise_caption("the church's roof"), normalise_caption("The church’s roof."));
        assert_eq!(normalise_caption("cafe\u{301}"), normalise_caption("CAFÉ"));
        assert_ne!(normalise_caption("two houses"), normalise_caption("three houses"));
    }

    #[test]
    fn the_key_is_a_fixed_point() {
        for text in ["", " . , ", "A™ B ㏊", "ﬁeld-path", "İstanbul", "\u{202e}abc\0def", "学校 と 道"] {
            let key = normalise_caption(text);
            assert_eq!(normalise_caption(&key), key, "{text:?}");
            assert!(!key.starts_with(' ') && !key.ends_with(' ') && !key.contains("  "));
        }
        assert_eq!(normalise_caption(" . , "), "");
    }
}
