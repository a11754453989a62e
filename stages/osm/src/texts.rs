//! Keys and values of tags, each once: what is kept has their numbers.

use std::hash::{BuildHasher, RandomState};

use crate::element::Tags;

/// Texts and their numbers, in order of arrival.
#[derive(Debug, Clone, Default)]
pub(crate) struct Texts {
    all: String,
    ends: Vec<u64>,
    /// Numbers by hash, each one more, and 0 where there is none; half of them or more are free.
    slots: Vec<u32>,
    hasher: RandomState,
}

/// Tags as numbers: key, value, key, value, in order of the keys.
pub(crate) type TagNumbers = Vec<u32>;

impl Texts {
    pub(crate) fn len(&self) -> usize {
        self.ends.len()
    }

    /// A text; of a number that was not given out an empty one.
    pub(crate) fn get(&self, number: u32) -> &str {
        let number = number as usize;
        let begins = number.checked_sub(1).and_then(|before| self.ends.get(before)).copied().unwrap_or(0);
        let ends = self.ends.get(number).copied().unwrap_or(begins);
        self.all.get(begins as usize..ends as usize).unwrap_or_default()
    }

    /// Where a text is, or would be.
    fn slot(&self, text: &str) -> usize {
        let mask = self.slots.len() - 1;
        let mut at = self.hasher.hash_one(text) as usize & mask;
        while let Some(number) = self.slots[at].checked_sub(1) {
            if self.get(number) == text {
                break;
            }
            at = (at + 1) & mask;
        }
        at
    }

    /// The number of a text, which it gets if it has none.
    pub(crate) fn number(&mut self, text: &str) -> u32 {
        if self.ends.len() * 2 >= self.slots.len() {
            self.slots = vec![0; (self.slots.len() * 2).max(64)];
            for number in 0..self.ends.len() as u32 {
                let at = self.slot(self.get(number));
                self.slots[at] = number + 1;
            }
        }
        let at = self.slot(text);
        if self.slots[at] == 0 {
            self.all.push_str(text);
            self.ends.push(self.all.len() as u64);
            self.slots[at] = self.ends.len() as u32;
        }
        self.slots[at] - 1
    }

    pub(crate) fn numbers(&mut self, tags: &Tags) -> TagNumbers {
        tags.iter().flat_map(|(key, value)| [key, value]).map(|text| self.number(text)).collect()
    }

    pub(crate) fn tags(&self, numbers: &[u32]) -> Tags {
        let pairs = numbers.as_chunks::<2>().0.iter();
        pairs.map(|[key, value]| (self.get(*key).to_owned(), self.get(*value).to_owned())).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_has_one_number_and_a_number_one_text() {
        let mut texts = Texts::default();
        for round in 0..2 {
            for number in 0..5_000u32 {
                let text = if number == 17 { String::new() } else { format!("text {number} ü") };
                assert_eq!(texts.number(&text), number, "round {round}");
                assert_eq!(texts.get(number), text);
            }
        }
        assert_eq!((texts.len(), texts.get(5_000)), (5_000, ""));
        let tags: Tags = [("a", "1"), ("b", "1")].map(|(key, value)| (key.into(), value.into())).into();
        let numbers = texts.numbers(&tags);
        assert_eq!(numbers[1], numbers[3]);
        assert_eq!(texts.tags(&numbers), tags);
    }
}
