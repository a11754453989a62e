//! What a diff says of an object last, and its bytes in memory.

use crate::element::{Kind, ObjectId, Place, Tags};
use crate::locations::{get, put};
use crate::sorted::{Value, get_list, put_list};
use crate::state::{get_place, put_place};

/// What became of an object in a diff.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Latest<T> {
    /// `None`: it was deleted.
    pub(crate) now: Option<(T, Tags)>,
    /// Nobody had it before this diff.
    pub(crate) is_first: bool,
}

/// Keys and values, one after the other.
pub(crate) fn put_texts(to: &mut Vec<u8>, tags: &Tags) {
    for text in tags.iter().flat_map(|(key, value)| [key, value]) {
        put(to, text.len() as i64);
        to.extend_from_slice(text.as_bytes());
    }
}

/// To the end of the bytes.
pub(crate) fn get_texts(mut bytes: &[u8]) -> Option<Tags> {
    let text = |bytes: &mut &[u8]| -> Option<String> {
        let length = usize::try_from(get(bytes)?).ok()?;
        let (text, rest) = bytes.split_at_checked(length)?;
        *bytes = rest;
        String::from_utf8(text.to_vec()).ok()
    };
    let mut tags = Tags::new();
    while !bytes.is_empty() {
        let key = text(&mut bytes)?;
        tags.insert(key, text(&mut bytes)?);
    }
    Some(tags)
}

/// What an object is besides its tags.
pub(crate) trait Part: Sized {
    fn put(&self, to: &mut Vec<u8>);
    fn get(bytes: &mut &[u8]) -> Option<Self>;
}

impl Part for Place {
    fn put(&self, to: &mut Vec<u8>) {
        put_place(to, *self);
    }

    fn get(bytes: &mut &[u8]) -> Option<Self> {
        get_place(bytes)
    }
}

impl Part for Vec<i64> {
    fn put(&self, to: &mut Vec<u8>) {
        put_list(to, self);
    }

    fn get(bytes: &mut &[u8]) -> Option<Self> {
        get_list(bytes)
    }
}

impl Part for Vec<ObjectId> {
    fn put(&self, to: &mut Vec<u8>) {
        put_list(to, &self.iter().map(|object| object.id).collect::<Vec<_>>());
        to.extend(self.iter().map(|object| object.kind as u8));
    }

    fn get(bytes: &mut &[u8]) -> Option<Self> {
        let ids = get_list(bytes)?;
        let (kinds, rest) = bytes.split_at_checked(ids.len())?;
        *bytes = rest;
        let kind = |kind: &u8| [Kind::Node, Kind::Way, Kind::Relation].get(usize::from(*kind)).copied();
        ids.into_iter().zip(kinds).map(|(id, of)| Some(ObjectId { kind: kind(of)?, id })).collect()
    }
}

impl<T: Part> Value for Latest<T> {
    fn write(&self, to: &mut Vec<u8>) {
        to.push(u8::from(self.is_first) | u8::from(self.now.is_some()) << 1);
        if let Some((part, tags)) = &self.now {
            part.put(to);
            put_texts(to, tags);
        }
    }

    fn read(bytes: &[u8]) -> Option<Self> {
        let (flags, mut bytes) = bytes.split_first()?;
        let now = if flags & 2 == 2 { Some((T::get(&mut bytes)?, get_texts(bytes)?)) } else { None };
        Some(Self { now, is_first: flags & 1 == 1 })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn again<T: Part + Clone + PartialEq + std::fmt::Debug>(part: T) {
        let tags: Tags = [("a", "ü"), ("b", "")].map(|(key, value)| (key.into(), value.into())).into();
        for now in [None, Some((part.clone(), Tags::new())), Some((part, tags))] {
            let latest = Latest { is_first: now.is_none(), now };
            let mut bytes = Vec::new();
            latest.write(&mut bytes);
            assert_eq!(Latest::read(&bytes), Some(latest));
        }
    }

    #[test]
    fn what_a_diff_says_is_read_as_it_was_written() {
        again(Place { lon: -5, lat: 7 });
        again(vec![3i64, 1, 1 << 53]);
        again([(Kind::Relation, 9), (Kind::Node, 2), (Kind::Way, 4)].map(|(kind, id)| ObjectId { kind, id }).to_vec());
    }
}
