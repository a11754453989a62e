//! The files of the word table: lines of columns between tabs, with comments.
//!
//! They are part of the program. What is wrong in one of them is found by the first test that reads it, so that reading
//! panics with the line in place of handing on an error that no user could mend.

use super::{Noun, Words};

/// Lines as columns.
pub(super) type Lines = Vec<Vec<&'static str>>;

/// The lines that belong together by their first columns, in the order in which they first appear.
pub(super) fn group<K: PartialEq + Copy>(text: &'static str, key: impl Fn(&[&'static str]) -> K) -> Vec<(K, Lines)> {
    let mut groups: Vec<(K, Lines)> = Vec::new();
    for line in text.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
        let columns: Vec<&str> = line.split('\t').collect();
        assert!(columns.len() > 1 && columns.iter().all(|column| *column == column.trim()), "word table: {line:?}");
        let key = key(&columns);
        match groups.iter_mut().find(|(of, _)| *of == key) {
            Some((_, lines)) => lines.push(columns),
            None => groups.push((key, vec![columns])),
        }
    }
    groups
}

/// Kind and words.
pub(super) fn noun(columns: &[&'static str]) -> Noun {
    match columns {
        ["count", words] => Noun::Count(words),
        ["mass", words] => Noun::Mass(words),
        ["plural", words] => Noun::Plural(words),
        ["hidden"] => Noun::Hidden,
        other => panic!("word table: {other:?} is no kind with its words"),
    }
}

/// Values and words of each key.
pub(super) fn pairs(text: &'static str) -> Words {
    let of_key = |(key, lines): (&'static str, Lines)| (key, lines.iter().map(|line| (line[1], line[2])).collect());
    group(text, |line| line[0]).into_iter().map(of_key).collect()
}
