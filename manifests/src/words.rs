//! Numbers of things, in the words of messages and reports.

use std::fmt::Display;

/// `1 row`, `2 rows`; the noun is the last word of what is counted: `3 changed rows`.
pub fn count<N: Display + PartialEq + From<u8>>(number: N, noun: &str) -> String {
    if number == N::from(1) { format!("{number} {noun}") } else { format!("{number} {}", plural(noun)) }
}

fn plural(noun: &str) -> String {
    if let Some((head, whose)) = noun.split_once(" of ") {
        return format!("{} of {whose}", plural(head));
    }
    let is_vowel = |c: char| "aeiou".contains(c);
    match noun.strip_suffix('y') {
        Some(stem) if !stem.ends_with(is_vowel) => format!("{stem}ies"),
        // a hard ch
        _ if noun.ends_with("epoch") => format!("{noun}s"),
        _ if ["s", "x", "ch", "sh"].iter().any(|end| noun.ends_with(end)) => format!("{noun}es"),
        _ => format!("{noun}s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_is_singular_and_all_others_are_plural() {
        assert_eq!(count(1_u64, "row"), "1 row");
        assert_eq!(count(0_usize, "row"), "0 rows");
        assert_eq!(count(2_u32, "directory entry"), "2 directory entries");
        assert_eq!(count(3_usize, "batch"), "3 batches");
        assert_eq!(count(4_usize, "day"), "4 days");
        assert_eq!(count(5_usize, "file of vectors"), "5 files of vectors");
        assert_eq!(count(5_usize, "epoch"), "5 epochs");
        assert_eq!(count(1.5, "day"), "1.5 days");
    }
}
