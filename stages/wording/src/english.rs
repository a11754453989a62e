//! The little English grammar a caption needs: articles, plurals, counts and lists.

/// Words that begin a noun's complement: the plural is put on what stands before them.
const COMPLEMENTS: [&str; 6] = [" of ", " with ", " under ", " on ", " in ", " for "];

/// Counts up to twelve are written out; beyond that nobody counts on a satellite image.
const NUMBERS: [&str; 13] =
    ["no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"];

/// "a soccer pitch", "an airport", "a university".
pub fn with_article(noun: &str) -> String {
    let vowel_letter = noun.starts_with(['a', 'e', 'i', 'o', 'u']);
    let consonant_sound = ["uni", "use", "euro", "one"].iter().any(|start| noun.starts_with(start));
    let article = if vowel_letter && !consonant_sound { "an" } else { "a" };
    format!("{article} {noun}")
}

/// "soccer pitches", "rows of trees", "intersections with traffic lights".
pub fn plural(noun: &str) -> String {
    let head_end = COMPLEMENTS.iter().filter_map(|word| noun.find(word)).min().unwrap_or(noun.len());
    let (head, complement) = noun.split_at(head_end);
    let ends_in = |endings: &[&str]| endings.iter().any(|ending| head.ends_with(ending));
    let head = match head.strip_suffix('y') {
        Some(stem) if !stem.ends_with(['a', 'e', 'i', 'o', 'u']) => format!("{stem}ies"),
        _ if ends_in(&["s", "x", "z", "ch", "sh"]) => format!("{head}es"),
        _ => format!("{head}s"),
    };
    head + complement
}

/// "two", …, "twelve", then "many".
pub fn number(count: usize) -> &'static str {
    NUMBERS.get(count).copied().unwrap_or("many")
}

/// "a", "a and b", "a, b and c".
pub fn list(items: &[String]) -> String {
    match items {
        [] => String::new(),
        [only] => only.clone(),
        [first @ .., last] => format!("{} and {last}", first.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn articles_follow_the_sound() {
        assert_eq!(with_article("airport"), "an airport");
        assert_eq!(with_article("university"), "a university");
        assert_eq!(with_article("house"), "a house");
        assert_eq!(with_article("industrial area"), "an industrial area");
    }

    #[test]
    fn plurals_go_on_the_head_of_the_phrase() {
        for (one, many) in [
            ("house", "houses"),
            ("church", "churches"),
            ("railway", "railways"),
            ("cemetery", "cemeteries"),
            ("bus stop", "bus stops"),
            ("row of trees", "rows of trees"),
            ("road under construction", "roads under construction"),
            ("intersection with traffic lights", "intersections with traffic lights"),
        ] {
            assert_eq!(plural(one), many);
        }
    }

    #[test]
    fn counts_and_lists_read_naturally() {
        assert_eq!((number(2), number(12), number(13)), ("two", "twelve", "many"));
        let items: Vec<String> = ["a", "b", "c"].map(String::from).to_vec();
        assert_eq!(list(&items), "a, b and c");
        assert_eq!(list(&items[..2]), "a and b");
        assert_eq!(list(&items[..1]), "a");
        assert_eq!(list(&[]), "");
    }
}
