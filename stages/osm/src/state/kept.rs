//! Objects that are kept, and their bytes in memory.

use crate::element::Place;
use crate::locations::{get, put};
use crate::sorted::{Value, get_list, put_list};
use crate::texts::TagNumbers;

/// A node that is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct KeptNode {
    pub(crate) place: Place,
    /// Of nodes within a margin, and of those that images were taken for.
    pub(crate) tags: Option<TagNumbers>,
    pub(crate) is_complete: bool,
}

/// A way that is kept, with all its nodes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct KeptWay {
    pub(crate) refs: Vec<i64>,
    pub(crate) tags: TagNumbers,
    pub(crate) is_complete: bool,
}

/// A relation that is kept; of multipolygons with all their ways.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct KeptRelation {
    pub(crate) ways: Vec<i64>,
    pub(crate) tags: TagNumbers,
}

/// To the end of the bytes.
fn get_tags(mut bytes: &[u8]) -> Option<TagNumbers> {
    let mut tags = TagNumbers::new();
    while !bytes.is_empty() {
        tags.push(u32::try_from(get(&mut bytes)?).ok()?);
    }
    Some(tags)
}

fn put_tags(to: &mut Vec<u8>, tags: &[u32]) {
    tags.iter().for_each(|number| put(to, (*number).into()));
}

fn flag(bytes: &mut &[u8]) -> Option<u8> {
    let (flag, rest) = bytes.split_first()?;
    *bytes = rest;
    Some(*flag)
}

pub(crate) fn put_place(to: &mut Vec<u8>, place: Place) {
    to.extend_from_slice(&place.lon.to_le_bytes());
    to.extend_from_slice(&place.lat.to_le_bytes());
}

pub(crate) fn get_place(bytes: &mut &[u8]) -> Option<Place> {
    let ([lon, lat], rest) = (bytes.as_chunks::<4>().0.first_chunk::<2>()?, bytes.get(8..)?);
    *bytes = rest;
    Some(Place { lon: i32::from_le_bytes(*lon), lat: i32::from_le_bytes(*lat) })
}

impl Value for KeptNode {
    fn write(&self, to: &mut Vec<u8>) {
        put_place(to, self.place);
        // most have no tags: the place and a byte
        to.push(u8::from(self.is_complete) | u8::from(self.tags.is_some()) << 1);
        put_tags(to, self.tags.as_deref().unwrap_or_default());
    }

    fn read(mut bytes: &[u8]) -> Option<Self> {
        let place = get_place(&mut bytes)?;
        let flags = flag(&mut bytes)?;
        let tags = if flags & 2 == 2 { Some(get_tags(bytes)?) } else { None };
        Some(Self { place, tags, is_complete: flags & 1 == 1 })
    }
}

impl Value for KeptWay {
    fn write(&self, to: &mut Vec<u8>) {
        to.push(self.is_complete.into());
        put_list(to, &self.refs);
        put_tags(to, &self.tags);
    }

    fn read(mut bytes: &[u8]) -> Option<Self> {
        let is_complete = flag(&mut bytes)? == 1;
        Some(Self { refs: get_list(&mut bytes)?, tags: get_tags(bytes)?, is_complete })
    }
}

impl Value for KeptRelation {
    fn write(&self, to: &mut Vec<u8>) {
        put_list(to, &self.ways);
        put_tags(to, &self.tags);
    }

    fn read(mut bytes: &[u8]) -> Option<Self> {
        Some(Self { ways: get_list(&mut bytes)?, tags: get_tags(bytes)? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn again<T: Value + PartialEq + std::fmt::Debug>(value: &T) {
        let mut bytes = Vec::new();
        value.write(&mut bytes);
        assert_eq!(T::read(&bytes).as_ref(), Some(value));
    }

    #[test]
    fn what_is_kept_is_read_as_it_was_written() {
        let place = Place { lon: -1_800_000_000, lat: 900_000_000 };
        for tags in [None, Some(vec![]), Some(vec![0, 7, 8, u32::MAX])] {
            again(&KeptNode { place, tags: tags.clone(), is_complete: tags.is_some() });
            let tags = tags.unwrap_or_default();
            again(&KeptWay { refs: vec![5, 1 << 53, 4, 5], tags: tags.clone(), is_complete: tags.is_empty() });
            again(&KeptRelation { ways: vec![], tags });
        }
        assert_eq!(KeptNode::read(&[1, 2, 3]), None);
    }
}
