//! Whatever people typed into a map: nothing panics, nothing grows, nothing strange comes out.

use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use wording::{
    MAX_CAPTION_CHARS, Tags, caption, caption_from_title, clean_tags, geotags_text, normalise_caption, phrase,
    skyscript_title, unknown_tags,
};

const FRAGMENTS: &[&str] = &[
    "highway",
    "building",
    "natural",
    "leisure",
    "sport",
    "surface",
    "roof:colour",
    "lanes",
    "tunnel",
    "yes",
    "no",
    "water",
    "residential",
    "pitch",
    "#ff0000",
    "#é",
    "a satellite image of ",
    "An aerial image. It shows: ",
    " of ",
    " with ",
    " and ",
    ", surrounded by ",
    "; ",
    ";",
    ",",
    ".",
    "road",
    "road of track",
    "natural tree",
    "generator source",
    "<script>alert(1)</script>",
    "&amp;",
    "\"",
    "'",
    "]]>",
    "\u{202e}",
    "\u{200f}שלום",
    "مسجد",
    "学校",
    "\0",
    "\r\n",
    "\t",
    "\u{7f}",
    "\u{feff}",
    "e\u{301}",
    "İ",
    "ﬁ",
    "𝔘",
    "🏠",
    "  ",
    " ",
    "-1",
    "99999999999999999999",
    "NaN",
];

fn text(rng: &mut ChaCha8Rng, max_fragments: usize) -> String {
    (0..rng.random_range(0..=max_fragments)).filter_map(|_| FRAGMENTS.choose(rng).copied()).collect()
}

fn tags(rng: &mut ChaCha8Rng) -> Tags {
    (0..rng.random_range(0..6)).map(|_| (text(rng, 2), text(rng, 2))).collect()
}

fn assert_one_clean_line(line: &str) {
    assert_eq!(line.trim(), line, "blanks at an end: {line:?}");
    assert!(!line.contains("  "), "double blank: {line:?}");
    assert!(!line.chars().any(|c| c.is_control() || matches!(c, '<' | '>' | '\u{202e}' | '\u{feff}')), "{line:?}");
    assert!(line.chars().count() <= MAX_CAPTION_CHARS, "too long: {line:?}");
}

#[test]
fn random_text_gives_clean_bounded_captions() {
    let mut rng = ChaCha8Rng::seed_from_u64(7);
    let mut captions = 0;
    for _ in 0..20_000 {
        let center = tags(&mut rng);
        let around: Vec<Tags> = (0..rng.random_range(0..5)).map(|_| tags(&mut rng)).collect();
        let clean = clean_tags(&center);
        assert_eq!(clean_tags(&clean), clean, "not idempotent: {center:?}");
        assert_eq!(phrase(&clean), phrase(&center));
        assert!(clean.len() + unknown_tags(&center).len() >= center.len());
        for line in [phrase(&center), caption(&center, &around)].into_iter().flatten() {
            captions += 1;
            assert_one_clean_line(&line);
            assert!(line.bytes().all(|b| b.is_ascii_lowercase() || b", -".contains(&b)), "{line:?}");
        }
        geotags_text(&center, &around);
        skyscript_title(&center, &around);
        let (title, multi) = (text(&mut rng, 9), text(&mut rng, 9));
        if let Some(line) = caption_from_title(&title, Some(&multi)) {
            assert_one_clean_line(&line);
        }
        let key = normalise_caption(&title);
        assert_eq!(normalise_caption(&key), key, "not a fixed point: {title:?}");
    }
    assert!(captions > 1_000, "the generator makes too few nameable objects: {captions}");
}

#[test]
fn ten_thousand_characters_are_no_trouble() {
    for long in
        ["x".repeat(10_000), "a b ".repeat(2_500), "\u{202e}<b>".repeat(2_500), "road of residential; ".repeat(500)]
    {
        let object = Tags::from([
            ("highway".into(), long.clone()),
            (long.clone(), "yes".into()),
            ("building".into(), "house".into()),
        ]);
        let around = vec![object.clone(); 300];
        let line = caption(&object, &around).expect("a house");
        assert_eq!(line, "a satellite image of a house, surrounded by many other houses");
        if let Some(line) = caption_from_title(&long, Some(&long)) {
            assert_one_clean_line(&line);
        }
        let surrounded = format!("a satellite image of building, surrounded by {long}");
        assert_one_clean_line(&caption_from_title(&surrounded, None).expect("a building"));
    }
}
