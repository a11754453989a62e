//! A map in little memory: keys in order, as differences, each with its value's bytes, in leaves of two kilobytes.
//!
//! A node takes a dozen bytes where a hash table takes fifty, and a way thirty where that takes seven hundred. Whoever
//! looks something up reads through half a leaf.

use std::marker::PhantomData;
use std::ops::Range;

use crate::locations::{get, put};

/// A leaf that has more is cut in two.
const MOST_BYTES: usize = 2_048;
/// Room that is made in a leaf that had none.
const ROOM: usize = 64;

/// What can be kept.
pub(crate) trait Value: Sized {
    fn write(&self, to: &mut Vec<u8>);
    /// What [`write`](Self::write) wrote; `None` for anything else.
    fn read(bytes: &[u8]) -> Option<Self>;
}

/// Entries: difference to the key before (of the first one: 0), length of the value, value.
#[derive(Debug, Clone)]
struct Leaf {
    first: i64,
    last: i64,
    bytes: Vec<u8>,
}

/// An entry among the bytes of a leaf.
struct Entry {
    key: i64,
    /// All of it.
    all: Range<usize>,
    /// Where its difference ends.
    difference_ends: usize,
    value: Range<usize>,
}

impl Leaf {
    fn of(key: i64, value: &[u8]) -> Leaf {
        let mut leaf = Leaf { first: key, last: key, bytes: Vec::with_capacity(MOST_BYTES) };
        entry(&mut leaf.bytes, 0, value);
        leaf
    }

    /// The entry at `at`, where `before` is the key before it.
    fn entry(&self, at: usize, before: i64) -> Option<Entry> {
        let mut rest = self.bytes.get(at..)?;
        let key = before.checked_add(get(&mut rest)?)?;
        let difference_ends = self.bytes.len() - rest.len();
        let length = usize::try_from(get(&mut rest)?).ok()?;
        let begins = self.bytes.len() - rest.len();
        let value = begins..begins.checked_add(length).filter(|end| *end <= self.bytes.len())?;
        Some(Entry { key, all: at..value.end, difference_ends, value })
    }

    /// The key before a key, if any, and the first entry that is not below it.
    fn at(&self, key: i64) -> (Option<i64>, Option<Entry>) {
        let (mut before, mut at) = (None, 0);
        while let Some(entry) = self.entry(at, before.unwrap_or(self.first)) {
            if entry.key >= key {
                return (before, Some(entry));
            }
            (before, at) = (Some(entry.key), entry.all.end);
        }
        (before, None)
    }

    /// Puts bytes in the place of others.
    fn replace(&mut self, range: Range<usize>, with: &[u8]) {
        if self.bytes.len() + with.len() > self.bytes.capacity() + range.len() {
            self.bytes.reserve_exact(with.len() + ROOM);
        }
        self.bytes.splice(range, with.iter().copied());
    }

    /// Cuts it in two; `None`: it has one entry.
    fn cut(&mut self) -> Option<Leaf> {
        let (mut before, mut at) = (self.first, 0);
        while let Some(entry) = self.entry(at, before) {
            let is_last = entry.all.end == self.bytes.len();
            if at > 0 && (entry.all.end > self.bytes.len() / 2 || is_last) {
                let mut bytes = Vec::with_capacity(self.bytes.len() - at + ROOM);
                put(&mut bytes, 0);
                bytes.extend_from_slice(&self.bytes[entry.difference_ends..]);
                let right = Leaf { first: entry.key, last: self.last, bytes };
                self.bytes.truncate(at);
                self.bytes.shrink_to(at + ROOM);
                self.last = before;
                return Some(right);
            }
            (before, at) = (entry.key, entry.all.end);
        }
        None
    }
}

fn entry(to: &mut Vec<u8>, difference: i64, value: &[u8]) {
    put(to, difference);
    put(to, value.len() as i64);
    to.extend_from_slice(value);
}

/// A map of numbers to values.
#[derive(Debug, Clone)]
pub(crate) struct Sorted<V> {
    leaves: Vec<Leaf>,
    len: usize,
    of: PhantomData<fn() -> V>,
}

impl<V> Default for Sorted<V> {
    fn default() -> Self {
        Self { leaves: Vec::new(), len: 0, of: PhantomData }
    }
}

impl<V: Value> Sorted<V> {
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// The leaf that holds a key, if any does.
    fn leaf(&self, key: i64) -> Option<usize> {
        let at = self.leaves.partition_point(|leaf| leaf.first <= key).checked_sub(1)?;
        (self.leaves[at].last >= key).then_some(at)
    }

    fn bytes_of(&self, key: i64) -> Option<&[u8]> {
        let leaf = &self.leaves[self.leaf(key)?];
        let found = leaf.at(key).1.filter(|entry| entry.key == key)?;
        Some(&leaf.bytes[found.value])
    }

    pub(crate) fn contains(&self, key: i64) -> bool {
        self.bytes_of(key).is_some()
    }

    pub(crate) fn get(&self, key: i64) -> Option<V> {
        V::read(self.bytes_of(key)?)
    }

    /// Puts a value there, in the place of the one that was.
    pub(crate) fn insert(&mut self, key: i64, value: &V) {
        let mut packed = Vec::new();
        value.write(&mut packed);
        let at = self.leaves.partition_point(|leaf| leaf.first <= key).saturating_sub(1);
        let is_last = at + 1 >= self.leaves.len();
        let Some(leaf) = self.leaves.get_mut(at) else {
            self.leaves.push(Leaf::of(key, &packed));
            self.len = 1;
            return;
        };
        if key > leaf.last {
            self.len += 1;
            if is_last && leaf.bytes.len() + packed.len() > MOST_BYTES {
                // what comes in order leaves full leaves behind
                leaf.bytes.shrink_to_fit();
                self.leaves.push(Leaf::of(key, &packed));
                return;
            }
            entry(&mut leaf.bytes, key - leaf.last, &packed);
            leaf.last = key;
        } else {
            let (before, found) = leaf.at(key);
            let Some(next) = found else { return };
            let mut bytes = Vec::with_capacity(packed.len() + 20);
            entry(&mut bytes, before.map_or(0, |before| key - before), &packed);
            if next.key == key {
                leaf.replace(next.all, &bytes);
            } else {
                put(&mut bytes, next.key - key);
                leaf.replace(next.all.start..next.difference_ends, &bytes);
                leaf.first = leaf.first.min(key);
                self.len += 1;
            }
        }
        if leaf.bytes.len() > MOST_BYTES
            && let Some(right) = leaf.cut()
        {
            self.leaves.insert(at + 1, right);
        }
    }

    pub(crate) fn remove(&mut self, key: i64) -> Option<V> {
        let at = self.leaf(key)?;
        let leaf = &mut self.leaves[at];
        let (before, found) = leaf.at(key);
        let found = found.filter(|entry| entry.key == key)?;
        let value = V::read(&leaf.bytes[found.value.clone()]);
        self.len -= 1;
        match (leaf.entry(found.all.end, key), before) {
            (None, None) => _ = self.leaves.remove(at),
            (None, Some(before)) => {
                leaf.bytes.truncate(found.all.start);
                leaf.last = before;
            }
            (Some(next), before) => {
                let mut bytes = Vec::new();
                put(&mut bytes, before.map_or(0, |before| next.key - before));
                leaf.replace(found.all.start..next.difference_ends, &bytes);
                if before.is_none() {
                    leaf.first = next.key;
                }
            }
        }
        value
    }

    /// By rising key.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (i64, V)> + '_ {
        self.leaves.iter().flat_map(|leaf| {
            let (mut before, mut at) = (leaf.first, 0);
            std::iter::from_fn(move || {
                let entry = leaf.entry(at, before)?;
                (before, at) = (entry.key, entry.all.end);
                Some((entry.key, V::read(&leaf.bytes[entry.value])?))
            })
        })
    }
}

/// Numbers, whatever their order.
impl Value for Vec<i64> {
    fn write(&self, to: &mut Vec<u8>) {
        put_list(to, self);
    }

    fn read(mut bytes: &[u8]) -> Option<Self> {
        get_list(&mut bytes)
    }
}

pub(crate) fn put_list(to: &mut Vec<u8>, numbers: &[i64]) {
    put(to, numbers.len() as i64);
    let mut last = 0i64;
    for number in numbers {
        put(to, number.wrapping_sub(last));
        last = *number;
    }
}

pub(crate) fn get_list(bytes: &mut &[u8]) -> Option<Vec<i64>> {
    let count = usize::try_from(get(bytes)?).ok().filter(|count| *count <= bytes.len())?;
    let mut last = 0i64;
    let mut numbers = Vec::with_capacity(count);
    for _ in 0..count {
        last = last.wrapping_add(get(bytes)?);
        numbers.push(last);
    }
    Some(numbers)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    fn same(map: &Sorted<Vec<i64>>, known: &BTreeMap<i64, Vec<i64>>) {
        assert_eq!(map.len(), known.len());
        assert!(map.iter().eq(known.iter().map(|(key, value)| (*key, value.clone()))));
        for leaf in &map.leaves {
            assert!(leaf.bytes.len() <= MOST_BYTES || leaf.at(leaf.last).1.is_some_and(|entry| entry.all.start == 0));
        }
    }

    proptest! {
        #[test]
        fn it_does_what_a_tree_does(
            steps in prop::collection::vec((0..4u8, -400..400i64, prop::collection::vec(any::<i64>(), 0..9)), 1..900),
            stretch in prop::sample::select(vec![1i64, 1_000, 1 << 40]),
        ) {
            let (mut map, mut known) = (Sorted::<Vec<i64>>::default(), BTreeMap::new());
            for (step, key, value) in steps {
                let key = key * stretch;
                if step == 0 {
                    prop_assert_eq!(map.remove(key), known.remove(&key));
                } else {
                    map.insert(key, &value);
                    known.insert(key, value);
                }
                prop_assert_eq!(map.get(key), known.get(&key).cloned());
                prop_assert_eq!(map.contains(key + 1), known.contains_key(&(key + 1)));
            }
            same(&map, &known);
            for key in known.keys().copied().collect::<Vec<_>>() {
                prop_assert_eq!(map.remove(key), known.remove(&key));
                prop_assert!(!map.contains(key));
            }
            same(&map, &known);
        }
    }

    #[test]
    fn what_comes_in_order_fills_its_leaves() {
        let mut map = Sorted::<Vec<i64>>::default();
        (0..100_000).for_each(|key| map.insert(key * 3, &vec![key]));
        let bytes: usize = map.leaves.iter().map(|leaf| leaf.bytes.capacity()).sum();
        assert!(bytes < 100_000 * 7, "{bytes}");
        assert!(map.leaves.len() < bytes / 1_900);
        assert_eq!(map.get(3 * 4_711), Some(vec![4_711]));
        // a value that is larger than a leaf has one of its own
        let large: Vec<i64> = (0..5_000).map(|number| number * 1_000_003).collect();
        map.insert(3 * 4_711 + 1, &large);
        map.insert(3 * 4_711 + 2, &vec![2]);
        assert_eq!((map.get(3 * 4_711 + 1), map.get(3 * 4_711 + 2)), (Some(large), Some(vec![2])));
        assert_eq!(map.get(3 * 4_712), Some(vec![4_712]));
    }
}
