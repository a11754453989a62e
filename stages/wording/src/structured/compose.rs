//! Structured captions from tags: five ways to say the same, since a map knows no more.

use super::{VARIANTS, Variant};
use crate::Tags;
use crate::caption::scene;
use crate::english::list;

/// Five variants of an image by its tags, always the same five. They differ in order and phrasing, not in content.
/// `None` when nothing can be named.
pub fn variants_from_tags(center: &Tags, surrounding: &[Tags]) -> Option<[Variant; VARIANTS]> {
    match scene(center, surrounding) {
        (None, kinds) if kinds.is_empty() => None,
        (None, kinds) => Some(std::array::from_fn(|way| alone(&list(&turned(&kinds, way)), way))),
        (Some(center), kinds) if kinds.is_empty() => Some(std::array::from_fn(|way| alone(&center, way))),
        (Some(center), kinds) => Some(std::array::from_fn(|way| surrounded(&center, &turned(&kinds, way), way))),
    }
}

/// Five variants of what a title says: "a lake, surrounded by woodland".
pub fn variants_from_scene(scene: &str) -> Option<[Variant; VARIANTS]> {
    let scene = scene.trim().trim_end_matches('.');
    scene.chars().any(char::is_alphabetic).then(|| std::array::from_fn(|way| alone(scene, way)))
}

/// The kinds from another one on: nobody knows which is the most important.
fn turned(kinds: &[String], way: usize) -> Vec<String> {
    let mut kinds = kinds.to_vec();
    let first = way % kinds.len().max(1);
    kinds.rotate_left(first);
    kinds
}

fn variant(one_sentence: String, feature: String, caption: String) -> Variant {
    Variant { one_sentence: capitalised(&one_sentence), feature, caption: capitalised(&caption) }
}

fn alone(scene: &str, way: usize) -> Variant {
    let (one_sentence, feature, caption) = match way % VARIANTS {
        0 => (format!("{scene}."), scene.to_owned(), format!("A satellite image of {scene}.")),
        1 => (
            format!("a view of {scene} from above."),
            format!("visible: {scene}"),
            format!("An aerial view of {scene}."),
        ),
        2 => (format!("from above: {scene}."), format!("on the ground: {scene}"), format!("Seen from above: {scene}.")),
        3 => (format!("{scene}, seen from above."), format!("contents: {scene}"), format!("This image shows {scene}.")),
        _ => (format!("the image shows {scene}."), format!("subject: {scene}"), format!("A top view of {scene}.")),
    };
    variant(one_sentence, feature, caption)
}

fn surrounded(center: &str, kinds: &[String], way: usize) -> Variant {
    let around = list(kinds);
    let (one_sentence, feature, caption) = match way % VARIANTS {
        0 => (
            format!("{center}, surrounded by {around}."),
            center.to_owned(),
            format!("A satellite image of {center}, surrounded by {around}."),
        ),
        1 => (
            format!("{around} around {center}."),
            around.clone(),
            format!("Seen from above: {center} in the middle, with {around} around."),
        ),
        2 => (
            format!("{center} with {around} nearby."),
            format!("{center}; {}", kinds.join("; ")),
            format!("An aerial view of {center}. Around: {around}."),
        ),
        3 => (
            format!("{center} next to {around}."),
            format!("{}; {center}", kinds.join("; ")),
            format!("This image shows {center}. Nearby: {around}."),
        ),
        _ => (
            format!("{around}, and {center} in the middle."),
            format!("in the middle: {center}; around: {around}"),
            format!("A top view of {around}, with {center} in the middle."),
        ),
    };
    variant(one_sentence, feature, caption)
}

fn capitalised(text: &str) -> String {
    let mut letters = text.chars();
    letters.next().map_or(String::new(), |first| first.to_uppercase().chain(letters).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::structured::{MAX_FIELD_CHARS, Variants};
    use crate::tags;

    fn check(variants: [Variant; VARIANTS]) {
        let mut kept = Variants::default();
        for variant in variants {
            for field in [&variant.one_sentence, &variant.feature, &variant.caption] {
                assert!(!field.is_empty() && field.chars().count() <= MAX_FIELD_CHARS, "{variant:?}");
            }
            assert!(kept.add(variant.clone()), "{variant:?} is there twice");
        }
        assert_eq!(kept.missing(), 0);
    }

    #[test]
    fn five_distinct_variants_say_what_the_tags_say() {
        let pitch = tags(&[("leisure", "pitch"), ("sport", "soccer"), ("name", "Jahnplatz")]);
        let (road, house) = (tags(&[("highway", "residential")]), tags(&[("building", "house")]));
        let all = variants_from_tags(&pitch, &[road.clone(), road.clone(), house.clone()]).unwrap();
        assert_eq!(all[0].one_sentence, "A soccer pitch, surrounded by two residential roads and a house.");
        assert_eq!(
            all[1].caption,
            "Seen from above: a soccer pitch in the middle, with a house and two residential \
                                    roads around."
        );
        for variant in &all {
            let text = variant.embedding_text();
            assert!(text.contains("soccer pitch") && text.contains("two residential roads") && text.contains("house"));
            assert!(!text.contains("Jahnplatz"), "{text}");
        }
        check(all);
        check(variants_from_tags(&pitch, &[]).unwrap());
        check(variants_from_tags(&Tags::new(), std::slice::from_ref(&road)).unwrap());
        check(variants_from_tags(&Tags::new(), &[road, house]).unwrap());
        check(variants_from_scene("a lake, surrounded by woodland.").unwrap());
        // the same tags, the same words
        assert_eq!(variants_from_tags(&pitch, &[]), variants_from_tags(&pitch, &[]));
    }

    #[test]
    fn nothing_is_said_about_nothing() {
        assert_eq!(variants_from_tags(&Tags::new(), &[]), None);
        assert_eq!(variants_from_tags(&tags(&[("name", "Kauppatori")]), &[tags(&[("tracktype", "grade2")])]), None);
        assert_eq!(variants_from_scene(" . "), None);
    }
}
