//! A state as bytes: sorted ids as differences, texts once, deflated. The same state gives the same bytes.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::sync::Arc;

use flate2::Compression;
use flate2::read::ZlibDecoder;
use flate2::write::ZlibEncoder;

use crate::boxes::{Boxes, ImageBox, SubjectKind};
use crate::element::{Kind, ObjectId, Place};
use crate::locations::{get, put};
use crate::shape::Rect;
use crate::state::{KeptNode, KeptRelation, KeptWay};
use crate::texts::TagNumbers;
use crate::{Images, Missing, OsmError, State};

const MAGIC: &[u8; 8] = b"UCOSM\0\0\x01";
/// Bytes that one stored byte may become; those of real states become three to six.
const MOST_RATIO: u64 = 100;
const MOST_MARGIN_METERS: f64 = 10_000.0;
/// Bytes that are packed or unpacked at a time: all of them would be another state.
const AT_ONCE: usize = 1 << 18;
/// Bytes of a number at most.
const NUMBER_BYTES: usize = 10;

fn broken() -> OsmError {
    OsmError::Content("the state is damaged, or was written by another version: read an extract with --osm".into())
}

/// Sorted numbers, one after the other, packed as they come.
struct Writer {
    bytes: Vec<u8>,
    packed: ZlibEncoder<Vec<u8>>,
    length: u64,
    /// Numbers of texts in the file, by those in memory.
    texts: Vec<u32>,
    last: i64,
}

impl Writer {
    fn number(&mut self, number: i64) {
        put(&mut self.bytes, number);
        if self.bytes.len() >= AT_ONCE {
            self.pack();
        }
    }

    fn pack(&mut self) {
        self.length += self.bytes.len() as u64;
        // a vector takes everything
        _ = self.packed.write_all(&self.bytes);
        self.bytes.clear();
    }

    fn text(&mut self, text: &str) {
        self.number(text.len() as i64);
        self.bytes.extend_from_slice(text.as_bytes());
    }

    fn id(&mut self, id: i64) {
        self.number(id.wrapping_sub(self.last));
        self.last = id;
    }

    fn ids(&mut self, ids: &[i64]) {
        self.number(ids.len() as i64);
        let mut last = 0;
        for id in ids {
            self.number(id.wrapping_sub(last));
            last = *id;
        }
    }

    fn place(&mut self, place: Place) {
        self.number(place.lon.into());
        self.number(place.lat.into());
    }

    fn tags(&mut self, tags: &[u32]) {
        self.number((tags.len() / 2) as i64);
        for number in tags {
            let text = self.texts.get(*number as usize).copied().unwrap_or_default();
            self.number(text.into());
        }
    }

    fn object(&mut self, object: ObjectId) {
        self.number(object.kind as i64);
        self.number(object.id);
    }

    fn option(&mut self, number: Option<i64>) {
        self.number(number.is_some().into());
        self.number(number.unwrap_or_default());
    }

    /// Everything, behind the length that it has unpacked.
    fn finish(mut self) -> Vec<u8> {
        self.pack();
        let mut packed = self.packed.finish().unwrap_or_default();
        if let Some(length) = packed.get_mut(MAGIC.len()..MAGIC.len() + 8) {
            length.copy_from_slice(&self.length.to_le_bytes());
        }
        packed
    }
}

impl State {
    /// Numbers of the texts that are in use, in order of the texts.
    fn used_texts(&self) -> Vec<u32> {
        let mut is_used = vec![false; self.texts.len()];
        let mut mark = |tags: &[u32]| {
            for number in tags {
                if let Some(is_used) = is_used.get_mut(*number as usize) {
                    *is_used = true;
                }
            }
        };
        self.nodes.iter().filter_map(|(_, node)| node.tags).for_each(|tags| mark(&tags));
        self.ways.iter().for_each(|(_, way)| mark(&way.tags));
        self.relations.iter().for_each(|(_, relation)| mark(&relation.tags));
        let mut used: Vec<u32> = (0..).zip(is_used).filter(|(_, is_used)| *is_used).map(|(number, _)| number).collect();
        used.sort_unstable_by(|a, b| self.texts.get(*a).cmp(self.texts.get(*b)));
        used
    }

    /// As bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        let texts = self.used_texts();
        let head: Vec<u8> = MAGIC.iter().copied().chain([0; 8]).collect();
        let packed = ZlibEncoder::new(head, Compression::fast());
        let mut to = Writer { bytes: Vec::new(), packed, length: 0, texts: vec![0; self.texts.len()], last: 0 };
        to.number(self.boxes.margin_meters().to_bits() as i64);
        to.option(self.sequence.map(|sequence| sequence as i64));
        to.option(self.timestamp);
        to.number(texts.len() as i64);
        for (number, text) in (0..).zip(texts) {
            to.text(self.texts.get(text));
            to.texts[text as usize] = number;
        }
        let images = self.boxes.all();
        to.number(images.len() as i64);
        for image in images.iter() {
            to.text(&image.image_id);
            to.number(image.kind as i64);
            to.number(image.id);
            to.place(image.rect.low);
            to.place(image.rect.high);
        }
        to.number(self.nodes.len() as i64);
        for (id, node) in self.nodes.iter() {
            to.id(id);
            to.place(node.place);
            to.number(i64::from(node.is_complete) | i64::from(node.tags.is_some()) << 1);
            node.tags.iter().for_each(|tags| to.tags(tags));
        }
        to.last = 0;
        to.number(self.ways.len() as i64);
        for (id, way) in self.ways.iter() {
            to.id(id);
            to.number(way.is_complete.into());
            to.ids(&way.refs);
            to.tags(&way.tags);
        }
        to.last = 0;
        to.number(self.relations.len() as i64);
        for (id, relation) in self.relations.iter() {
            to.id(id);
            to.ids(&relation.ways);
            to.tags(&relation.tags);
        }
        to.number(self.gone.len() as i64);
        self.gone.iter().copied().collect::<BTreeSet<_>>().into_iter().for_each(|object| to.object(object));
        to.number(self.named.len() as i64);
        for (number, why) in &self.named {
            let (kind, object) = match why {
                Missing::Arrived(object) => (0, object),
                Missing::Partial(object) => (1, object),
            };
            to.number((*number).into());
            to.number(kind);
            to.object(*object);
        }
        to.finish()
    }

    /// Reads what [`to_bytes`](Self::to_bytes) wrote.
    ///
    /// # Errors
    /// [`OsmError::Content`] for anything else.
    pub fn from_bytes(bytes: &[u8]) -> Result<State, OsmError> {
        let mut from = Reader::of(bytes).ok_or_else(broken)?;
        let state = from.state().filter(|_| from.is_at_end());
        let mut state = state.ok_or_else(broken)?;
        state.reindex();
        Ok(state)
    }

    /// The images of a state, without the rest.
    ///
    /// # Errors
    /// [`OsmError::Content`] for what no state begins with.
    pub fn images_of_bytes(bytes: &[u8]) -> Result<Images, OsmError> {
        let images = Reader::of(bytes).and_then(|mut from| from.head()?.images());
        images.map(|images| images.sorted().0).ok_or_else(broken)
    }
}

/// Numbers and texts, unpacked as they are asked for.
struct Reader<'b> {
    packed: ZlibDecoder<&'b [u8]>,
    bytes: Vec<u8>,
    at: usize,
    /// Bytes that are still packed.
    left: u64,
    last: i64,
}

/// What comes before the images.
struct Head<'r, 'b> {
    from: &'r mut Reader<'b>,
    state: State,
    margin_meters: f64,
}

impl<'b> Reader<'b> {
    fn of(bytes: &'b [u8]) -> Option<Self> {
        let (length, packed) = bytes.strip_prefix(MAGIC.as_slice())?.split_at_checked(8)?;
        let left = u64::from_le_bytes(length.try_into().ok()?);
        if left > (packed.len() as u64).saturating_mul(MOST_RATIO) {
            return None;
        }
        Some(Self { packed: ZlibDecoder::new(packed), bytes: Vec::new(), at: 0, left, last: 0 })
    }

    /// Unpacks so many bytes, if there are so many.
    fn fill(&mut self, wanted: usize) -> Option<()> {
        let open = self.bytes.len() - self.at;
        if open >= wanted || self.left == 0 {
            return Some(());
        }
        self.bytes.drain(..self.at);
        self.at = 0;
        let more = wanted.max(AT_ONCE) - open;
        let more = self.left.min(more as u64);
        let read = (&mut self.packed).take(more).read_to_end(&mut self.bytes).ok()?;
        self.left -= more;
        (read as u64 == more).then_some(())
    }

    /// Whether everything was read, and nothing follows.
    fn is_at_end(&mut self) -> bool {
        self.left == 0 && self.at == self.bytes.len() && matches!(self.packed.read(&mut [0]), Ok(0))
    }

    fn number(&mut self) -> Option<i64> {
        self.fill(NUMBER_BYTES)?;
        let mut open = &self.bytes[self.at..];
        let number = get(&mut open)?;
        self.at = self.bytes.len() - open.len();
        Some(number)
    }

    /// A number of things, each of which takes at least so many bytes.
    fn count(&mut self, least_bytes: u64) -> Option<usize> {
        let count = u64::try_from(self.number()?).ok()?;
        let open = (self.bytes.len() - self.at) as u64 + self.left;
        usize::try_from(count).ok().filter(|_| count <= open / least_bytes)
    }

    fn text(&mut self) -> Option<&str> {
        let length = self.count(1)?;
        self.fill(length)?;
        let text = self.bytes.get(self.at..self.at.checked_add(length)?)?;
        self.at += length;
        std::str::from_utf8(text).ok()
    }

    fn place(&mut self) -> Option<Place> {
        Some(Place { lon: i32::try_from(self.number()?).ok()?, lat: i32::try_from(self.number()?).ok()? })
    }

    /// Ids rise: nothing is there twice.
    fn id(&mut self) -> Option<i64> {
        let id = self.last.checked_add(self.number()?).filter(|id| *id > self.last)?;
        self.last = id;
        Some(id)
    }

    fn ids(&mut self) -> Option<Vec<i64>> {
        let count = self.count(1)?;
        let mut last = 0i64;
        let mut ids = Vec::with_capacity(count);
        for _ in 0..count {
            last = last.checked_add(self.number()?)?;
            ids.push(last);
        }
        Some(ids)
    }

    /// Numbers of texts, of which there are so many.
    fn tags(&mut self, texts: usize) -> Option<TagNumbers> {
        let count = self.count(2)? * 2;
        let number = |number: i64| u32::try_from(number).ok().filter(|number| (*number as usize) < texts);
        (0..count).map(|_| number(self.number()?)).collect()
    }

    fn object(&mut self) -> Option<ObjectId> {
        let kind = match self.number()? {
            0 => Kind::Node,
            1 => Kind::Way,
            2 => Kind::Relation,
            _ => return None,
        };
        Some(ObjectId { kind, id: self.number()? })
    }

    fn option(&mut self) -> Option<Option<i64>> {
        let is_some = self.number()? == 1;
        let number = self.number()?;
        Some(is_some.then_some(number))
    }

    fn head(&mut self) -> Option<Head<'_, 'b>> {
        let margin_meters = f64::from_bits(self.number()? as u64);
        if !(0.0..=MOST_MARGIN_METERS).contains(&margin_meters) {
            return None;
        }
        let sequence = self.option()?.map(u64::try_from).transpose().ok()?;
        let mut state = State { sequence, timestamp: self.option()?, ..State::default() };
        for number in 0..self.count(1)? {
            // each is there once
            let text = self.text()?;
            if state.texts.number(text) as usize != number {
                return None;
            }
        }
        Some(Head { from: self, state, margin_meters })
    }

    fn state(&mut self) -> Option<State> {
        let mut head = self.head()?;
        let images = head.images()?;
        let Head { from, mut state, margin_meters } = head;
        state.boxes = Boxes::of(Arc::new(images.sorted().0), margin_meters);
        let texts = state.texts.len();
        for _ in 0..from.count(4)? {
            let (id, place, flags) = (from.id()?, from.place()?, from.number()?);
            let tags = if flags & 2 == 2 { Some(from.tags(texts)?) } else { None };
            state.nodes.insert(id, &KeptNode { place, tags, is_complete: flags & 1 == 1 });
        }
        from.last = 0;
        for _ in 0..from.count(4)? {
            let (id, is_complete) = (from.id()?, from.number()? == 1);
            let (refs, tags) = (from.ids()?, from.tags(texts)?);
            state.ways.insert(id, &KeptWay { refs, tags, is_complete });
        }
        from.last = 0;
        for _ in 0..from.count(3)? {
            let id = from.id()?;
            let (ways, tags) = (from.ids()?, from.tags(texts)?);
            state.relations.insert(id, &KeptRelation { ways, tags });
        }
        for _ in 0..from.count(2)? {
            let object = from.object()?;
            state.gone.insert(object);
        }
        for _ in 0..from.count(4)? {
            let number = u32::try_from(from.number()?).ok()?;
            let kind = from.number()?;
            let object = from.object()?;
            state.named.insert(number, if kind == 0 { Missing::Arrived(object) } else { Missing::Partial(object) });
        }
        Some(state)
    }
}

impl Head<'_, '_> {
    fn images(&mut self) -> Option<Images> {
        let from = &mut *self.from;
        let mut images = Images::default();
        for _ in 0..from.count(7)? {
            let image_id = from.text()?.to_owned();
            let kind = match from.number()? {
                0 => SubjectKind::Node,
                1 => SubjectKind::Way,
                2 => SubjectKind::Area,
                3 => SubjectKind::Relation,
                _ => return None,
            };
            let id = from.number()?;
            let (low, high) = (from.place()?, from.place()?);
            let degrees = |units: i32| f64::from(units) / 1e7;
            let wsen = [degrees(low.lon), degrees(low.lat), degrees(high.lon), degrees(high.lat)];
            // checks that it is a box at all
            ImageBox::new(&image_id, kind, id, wsen).ok()?;
            images.push(&ImageBox { image_id, kind, id, rect: Rect { low, high } });
        }
        Some(images)
    }
}
