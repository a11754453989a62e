//! Rows of a listing in the making, in few bytes each, by shard: they are read again shard by shard.

use std::collections::HashMap;

use manifests::digest;

use super::{ListedRow, ObjectRange};
use crate::archive::MemberPlace;

/// Room that is made for the rows of a shard, besides an eighth of what there is: doubling it would be half for nothing.
const ROOM: usize = 1_024;

/// Texts and numbers, one after the other.
pub(super) fn put(to: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        to.push(number as u8 | 0x80);
        number >>= 7;
    }
    to.push(number as u8);
}

/// `None`: the bytes end, or no number begins there.
pub(super) fn get(bytes: &mut &[u8]) -> Option<u64> {
    let mut number = 0;
    for at in 0..10 {
        let byte = *bytes.get(at)?;
        number |= u64::from(byte & 0x7f) << (7 * at).min(63);
        if byte < 0x80 {
            *bytes = &bytes[at + 1..];
            return Some(number);
        }
    }
    None
}

pub(super) fn put_text(to: &mut Vec<u8>, text: &str) {
    put(to, text.len() as u64);
    to.extend_from_slice(text.as_bytes());
}

pub(super) fn get_text<'b>(bytes: &mut &'b [u8]) -> Option<&'b str> {
    let length = usize::try_from(get(bytes)?).ok()?;
    let (text, rest) = bytes.split_at_checked(length)?;
    *bytes = rest;
    std::str::from_utf8(text).ok()
}

/// A text that may not be there: its length counts from 1.
pub(super) fn put_option(to: &mut Vec<u8>, text: Option<&str>) {
    put(to, text.map_or(0, |text| text.len() as u64 + 1));
    to.extend_from_slice(text.unwrap_or_default().as_bytes());
}

pub(super) fn get_option<'b>(bytes: &mut &'b [u8]) -> Option<Option<&'b str>> {
    let Some(length) = usize::try_from(get(bytes)?).ok()?.checked_sub(1) else { return Some(None) };
    let (text, rest) = bytes.split_at_checked(length)?;
    *bytes = rest;
    Some(Some(std::str::from_utf8(text).ok()?))
}

/// A path, which mostly holds the id: what is before it and behind it.
fn put_path(to: &mut Vec<u8>, path: &str, id: &str) {
    match path.rsplit_once(id) {
        Some((before, behind)) => {
            put(to, 1);
            put_text(to, before);
            put_text(to, behind);
        }
        None => {
            put(to, 0);
            put_text(to, path);
        }
    }
}

fn get_path(bytes: &mut &[u8], id: &str) -> Option<String> {
    let holds_id = get(bytes)? == 1;
    let mut path = get_text(bytes)?.to_owned();
    if holds_id {
        path.push_str(id);
        path.push_str(get_text(bytes)?);
    }
    Some(path)
}

/// A digest as its 16 bytes, and any other text as it is.
fn put_digest(to: &mut Vec<u8>, text: &str) {
    let bits = digest::bits(text);
    let is_digest = digest::of_bits(bits) == text;
    put(to, is_digest.into());
    if is_digest { to.extend_from_slice(&bits) } else { put_text(to, text) }
}

fn get_digest(bytes: &mut &[u8]) -> Option<String> {
    if get(bytes)? == 0 {
        return get_text(bytes).map(str::to_owned);
    }
    let (bits, rest) = bytes.split_first_chunk::<16>()?;
    *bytes = rest;
    Some(digest::of_bits(*bits))
}

/// The rows of all shards.
pub(super) struct Rows {
    shards: Vec<Shard>,
    /// Objects with their ETags: millions of rows lie in a few.
    objects: Vec<(String, Option<String>)>,
    numbers: HashMap<(String, Option<String>), u64>,
}

#[derive(Default)]
struct Shard {
    rows: u64,
    bytes: Vec<u8>,
}

impl Rows {
    pub(super) fn new(shards: u32) -> Self {
        let shards = (0..shards).map(|_| Shard::default()).collect();
        Self { shards, objects: Vec::new(), numbers: HashMap::new() }
    }

    pub(super) fn shards(&self) -> u32 {
        self.shards.len() as u32
    }

    pub(super) fn by_shard(&self) -> Vec<u64> {
        self.shards.iter().map(|shard| shard.rows).collect()
    }

    fn object(&mut self, place: &ObjectRange) -> u64 {
        let object = (place.object.clone(), place.etag.clone());
        let next = self.objects.len() as u64;
        let number = *self.numbers.entry(object.clone()).or_insert(next);
        if number == next {
            self.objects.push(object);
        }
        number
    }

    fn put_place(&mut self, to: &mut Vec<u8>, place: Option<&ObjectRange>, id: &str) {
        let Some(place) = place else { return put(to, 0) };
        match &place.member {
            None => {
                put(to, 1);
                put_path(to, &place.object, id);
                put_option(to, place.etag.as_deref());
                put(to, place.bytes.map_or(0, |bytes| bytes.saturating_add(1)));
            }
            Some(member) => {
                put(to, 2 + u64::from(member.stored));
                put(to, self.object(place));
                put_path(to, &member.name, id);
                put(to, member.crc32.into());
                put(to, member.compressed_bytes);
                put(to, member.uncompressed_bytes);
                put(to, member.header_offset);
            }
        }
    }

    fn get_place(&self, bytes: &mut &[u8], id: &str) -> Option<Option<ObjectRange>> {
        let kind = get(bytes)?;
        Some(match kind {
            0 => None,
            1 => {
                let object = get_path(bytes, id)?;
                let etag = get_option(bytes)?.map(str::to_owned);
                Some(ObjectRange { object, etag, bytes: get(bytes)?.checked_sub(1), member: None })
            }
            _ => {
                let (object, etag) = self.objects.get(usize::try_from(get(bytes)?).ok()?)?.clone();
                let member = MemberPlace {
                    name: get_path(bytes, id)?,
                    stored: kind == 3,
                    crc32: u32::try_from(get(bytes)?).ok()?,
                    compressed_bytes: get(bytes)?,
                    uncompressed_bytes: get(bytes)?,
                    header_offset: get(bytes)?,
                };
                Some(ObjectRange { object, etag, bytes: None, member: Some(member) })
            }
        })
    }

    pub(super) fn push(&mut self, shard: u32, row: &ListedRow) {
        let id = row.image_id.as_str();
        let mut bytes = Vec::new();
        put_text(&mut bytes, id);
        put_path(&mut bytes, &row.filepath, id);
        self.put_place(&mut bytes, Some(&row.image), id);
        self.put_place(&mut bytes, row.meta.as_ref(), id);
        put_option(&mut bytes, row.title.as_deref());
        put_option(&mut bytes, row.title_multi_objects.as_deref());
        put(&mut bytes, row.captions.len() as u64);
        row.captions.iter().for_each(|caption| put_text(&mut bytes, caption));
        put_option(&mut bytes, row.given_split.as_deref());
        put_digest(&mut bytes, &row.image_digest);
        put_digest(&mut bytes, &row.meta_digest);
        let Some(to) = self.shards.get_mut(shard as usize) else { return };
        if to.bytes.capacity() - to.bytes.len() < bytes.len() {
            to.bytes.reserve_exact(bytes.len() + to.bytes.len() / 8 + ROOM);
        }
        to.bytes.extend_from_slice(&bytes);
        to.rows += 1;
    }

    fn row(&self, bytes: &mut &[u8]) -> Option<ListedRow> {
        let image_id = get_text(bytes)?.to_owned();
        let filepath = get_path(bytes, &image_id)?;
        let (image, meta) = (self.get_place(bytes, &image_id)??, self.get_place(bytes, &image_id)?);
        let text = |bytes: &mut &[u8]| Some(get_option(bytes)?.map(str::to_owned));
        let (title, title_multi_objects) = (text(bytes)?, text(bytes)?);
        let captions = (0..get(bytes)?).map(|_| get_text(bytes).map(str::to_owned)).collect::<Option<_>>()?;
        let given_split = text(bytes)?;
        let (image_digest, meta_digest) = (get_digest(bytes)?, get_digest(bytes)?);
        Some(ListedRow {
            image_id,
            filepath,
            image,
            meta,
            title,
            title_multi_objects,
            captions,
            given_split,
            image_digest,
            meta_digest,
        })
    }

    /// The rows of each shard, in order of image id; those of a shard are gone afterwards.
    pub(super) fn into_shards(mut self) -> impl Iterator<Item = Vec<ListedRow>> {
        (0..self.shards.len()).map(move |shard| {
            let bytes = std::mem::take(&mut self.shards[shard].bytes);
            let mut open = bytes.as_slice();
            let mut rows: Vec<ListedRow> = std::iter::from_fn(|| self.row(&mut open)).collect();
            rows.sort_by(|a, b| a.image_id.cmp(&b.image_id));
            rows
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_read_as_they_were_pushed() {
        let member = |name: &str, stored| MemberPlace {
            name: name.into(),
            stored,
            crc32: u32::MAX,
            compressed_bytes: 5,
            uncompressed_bytes: 1 << 40,
            header_offset: u64::MAX,
        };
        let of = |object: &str, member| {
            let (object, etag) = (object.into(), Some("\"e\"".into()));
            ObjectRange { object, etag, bytes: None, member }
        };
        let plain = ListedRow {
            image_id: "a1_FI_19".into(),
            filepath: "images2/a1_FI_19.jpg".into(),
            image: of("images2.zip", Some(member("images2/a1_FI_19.jpg", true))),
            meta: Some(of("meta2.zip", Some(member("elsewhere", false)))),
            title: Some("ein Müller".into()),
            title_multi_objects: None,
            captions: vec![],
            given_split: None,
            image_digest: digest::of_bytes(b"1"),
            meta_digest: "no digest".into(),
        };
        let bare = ListedRow {
            image_id: "a/b".into(),
            filepath: "c.png".into(),
            image: ObjectRange { object: "x/c.png".into(), etag: None, bytes: Some(0), member: None },
            meta: None,
            title: None,
            title_multi_objects: Some(String::new()),
            captions: vec!["one".into(), String::new()],
            given_split: Some("test".into()),
            image_digest: String::new(),
            meta_digest: String::new(),
        };
        let mut rows = Rows::new(2);
        [&plain, &bare, &plain].into_iter().for_each(|row| rows.push(1, row));
        assert_eq!((rows.by_shard(), rows.objects.len()), (vec![0, 3], 2));
        let mut shards = rows.into_shards();
        assert_eq!(shards.next(), Some(vec![]));
        assert_eq!(shards.next(), Some(vec![bare, plain.clone(), plain]));
        assert_eq!(shards.next(), None);
    }
}
