//! The pieces of a caption that each name one thing, so that a part of an image can be compared with them.

use std::collections::HashSet;

/// Words between two things. A caption is cut here and at punctuation; "of" stays, since it joins ("a row of trees").
const CUTS: &[&str] = &[
    "above",
    "across",
    "alongside",
    "along",
    "among",
    "and",
    "are",
    "around",
    "as",
    "at",
    "behind",
    "below",
    "beside",
    "between",
    "bordered",
    "but",
    "by",
    "close",
    "containing",
    "contains",
    "during",
    "from",
    "has",
    "have",
    "in",
    "including",
    "inside",
    "into",
    "is",
    "near",
    "nearby",
    "next",
    "on",
    "onto",
    "opposite",
    "or",
    "outside",
    "over",
    "past",
    "running",
    "runs",
    "seen",
    "shows",
    "showing",
    "surrounded",
    "surrounding",
    "that",
    "through",
    "to",
    "towards",
    "under",
    "where",
    "which",
    "while",
    "with",
    "within",
];

/// Words at the start of a piece that name nothing.
const STARTS: &[&str] = &[
    "a", "an", "another", "few", "it", "its", "lot", "lots", "many", "more", "of", "one", "other", "several", "side",
    "some", "the", "their", "there", "these", "this", "us",
];

/// What a caption calls the picture itself.
const PICTURES: [&str; 6] = ["image", "photo", "photograph", "picture", "scene", "view"];

/// A caption of ordinary length has fewer.
pub const MAX_PHRASES: usize = 16;

/// Pieces in their order, lower case, without repetition, at most [`MAX_PHRASES`] of at most twelve words each.
///
/// The rule, which is ours: cut at punctuation and at the words that stand between things (prepositions except "of",
/// conjunctions, "is", "with", "surrounded" …); drop articles and "many", "some" … in front, and everything up to "image
/// of", "view of" …; drop pieces without a word of three letters. "An aerial view of two ponds beside a road, and a row
/// of trees" gives "two ponds", "road" and "row of trees".
pub fn phrases(caption: &str) -> Vec<String> {
    const MAX_WORDS: usize = 12;
    let mut found = Vec::new();
    let mut seen = HashSet::new();
    let mut piece: Vec<String> = Vec::new();
    let mut end_piece = |piece: &mut Vec<String>| {
        let words = std::mem::take(piece);
        let phrase = name_in(&words).iter().take(MAX_WORDS).cloned().collect::<Vec<_>>().join(" ");
        if !phrase.is_empty() && seen.insert(phrase.clone()) {
            found.push(phrase);
        }
    };
    for token in caption.split_whitespace() {
        let starts_apart = token.starts_with(|c: char| "([{\"“".contains(c));
        if starts_apart {
            end_piece(&mut piece);
        }
        for (place, part) in token.split([',', '.', ';', ':', '!', '?', '(', ')', '/', '–', '—']).enumerate() {
            if place > 0 {
                end_piece(&mut piece);
            }
            let word = part.trim_matches(|c: char| !c.is_alphanumeric()).to_lowercase();
            match word.as_str() {
                "" => {}
                cut if CUTS.contains(&cut) => end_piece(&mut piece),
                _ => piece.push(word),
            }
        }
    }
    end_piece(&mut piece);
    found.truncate(MAX_PHRASES);
    found
}

/// The words that name something; none where nothing does.
fn name_in(words: &[String]) -> &[String] {
    let mut rest = words;
    if let Some(at) = rest.windows(2).position(|pair| PICTURES.contains(&pair[0].as_str()) && pair[1] == "of") {
        rest = &rest[at + 2..];
    }
    while let Some((first, others)) = rest.split_first()
        && STARTS.contains(&first.as_str())
    {
        rest = others;
    }
    let names = |word: &String| word.chars().filter(|c| c.is_alphabetic()).count() >= 3;
    let only_the_picture = rest.last().is_some_and(|last| PICTURES.contains(&last.as_str()));
    if only_the_picture || !rest.iter().any(names) { &[] } else { rest }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_piece_names_one_thing() {
        for (caption, expected) in [
            (
                "a satellite image of a soccer pitch, surrounded by two residential roads and a house",
                &["soccer pitch", "two residential roads", "house"][..],
            ),
            ("An aerial view of two ponds beside a road, and a row of trees.", &["two ponds", "road", "row of trees"]),
            ("Many green trees are in two sides of a curved river .", &["green trees", "two sides of a curved river"]),
            ("There is a church (with a red roof); the church is old", &["church", "red roof", "old"]),
            ("the satellite image", &[]),
            ("", &[]),
            (" ,;. and of the 12 ", &[]),
            ("池 beside a озеро", &["озеро"]),
        ] {
            assert_eq!(phrases(caption), expected, "{caption}");
        }
    }

    #[test]
    fn pieces_are_few_and_short_whatever_comes() {
        let many: String = (0..1000).map(|i| format!("thing{i}, ")).collect();
        assert_eq!(phrases(&many).len(), MAX_PHRASES);
        let long = "tree ".repeat(10_000);
        assert_eq!(phrases(&long), [["tree"; 12].join(" ")]);
        assert_eq!(phrases("a road, a road; A ROAD"), ["road"]);
    }
}
