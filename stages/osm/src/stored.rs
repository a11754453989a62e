//! A state as bytes: sorted ids as differences, texts once, deflated. The same state gives the same bytes.

use std::collections::{BTreeSet, HashMap};
use std::io::{Read, Write};

use flate2::Compression;
use flate2::read::ZlibDecoder;
use flate2::write::ZlibEncoder;

use crate::boxes::{Boxes, ImageBox, SubjectKind};
use crate::element::{Kind, ObjectId, Place, Tags};
use crate::locations::{get, put};
use crate::shape::Rect;
use crate::state::{KeptNode, KeptRelation, KeptWay};
use crate::{Missing, OsmError, State};

const MAGIC: &[u8; 8] = b"UCOSM\0\0\x01";
/// Bytes that one stored byte may become; those of real states become three to six.
const MOST_RATIO: u64 = 100;
const MOST_MARGIN_METERS: f64 = 10_000.0;

fn broken() -> OsmError {
    OsmError::Content("the state is damaged, or was written by another version: read an extract with --osm".into())
}

/// Sorted numbers, one after the other.
struct Writer {
    bytes: Vec<u8>,
    texts: HashMap<String, i64>,
    last: i64,
}

impl Writer {
    fn id(&mut self, id: i64) {
        put(&mut self.bytes, id.wrapping_sub(self.last));
        self.last = id;
    }

    fn ids(&mut self, ids: &[i64]) {
        put(&mut self.bytes, ids.len() as i64);
        let mut last = 0;
        for id in ids {
            put(&mut self.bytes, id.wrapping_sub(last));
            last = *id;
        }
    }

    fn place(&mut self, place: Place) {
        put(&mut self.bytes, place.lon.into());
        put(&mut self.bytes, place.lat.into());
    }

    fn tags(&mut self, tags: &Tags) {
        put(&mut self.bytes, tags.len() as i64);
        for text in tags.iter().flat_map(|(key, value)| [key, value]) {
            put(&mut self.bytes, self.texts.get(text).copied().unwrap_or_default());
        }
    }

    fn object(&mut self, object: ObjectId) {
        put(&mut self.bytes, object.kind as i64);
        put(&mut self.bytes, object.id);
    }

    fn option(&mut self, number: Option<i64>) {
        put(&mut self.bytes, number.is_some().into());
        put(&mut self.bytes, number.unwrap_or_default());
    }
}

fn sorted<T>(map: &HashMap<i64, T>) -> Vec<(i64, &T)> {
    let mut all: Vec<_> = map.iter().map(|(id, value)| (*id, value)).collect();
    all.sort_unstable_by_key(|(id, _)| *id);
    all
}

impl State {
    /// As bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        let tags = self.nodes.values().filter_map(|node| node.tags.as_deref());
        let tags = tags.chain(self.ways.values().map(|way| &way.tags)).chain(self.relations.values().map(|r| &r.tags));
        let texts: BTreeSet<&String> =
            tags.flat_map(|tags| tags.iter().flat_map(|(key, value)| [key, value])).collect();
        let mut to = Writer { bytes: Vec::new(), texts: HashMap::new(), last: 0 };
        put(&mut to.bytes, self.boxes.margin_meters().to_bits() as i64);
        to.option(self.sequence.map(|sequence| sequence as i64));
        to.option(self.timestamp);
        put(&mut to.bytes, texts.len() as i64);
        for (number, text) in texts.into_iter().enumerate() {
            put(&mut to.bytes, text.len() as i64);
            to.bytes.extend_from_slice(text.as_bytes());
            to.texts.insert(text.clone(), number as i64);
        }
        put(&mut to.bytes, self.boxes.all().len() as i64);
        for image in self.boxes.all() {
            put(&mut to.bytes, image.image_id.len() as i64);
            to.bytes.extend_from_slice(image.image_id.as_bytes());
            put(&mut to.bytes, image.kind as i64);
            put(&mut to.bytes, image.id);
            to.place(image.rect.low);
            to.place(image.rect.high);
        }
        put(&mut to.bytes, self.nodes.len() as i64);
        for (id, node) in sorted(&self.nodes) {
            to.id(id);
            to.place(node.place);
            put(&mut to.bytes, i64::from(node.is_complete) | i64::from(node.tags.is_some()) << 1);
            node.tags.as_deref().into_iter().for_each(|tags| to.tags(tags));
        }
        to.last = 0;
        put(&mut to.bytes, self.ways.len() as i64);
        for (id, way) in sorted(&self.ways) {
            to.id(id);
            put(&mut to.bytes, way.is_complete.into());
            to.ids(&way.refs);
            to.tags(&way.tags);
        }
        to.last = 0;
        put(&mut to.bytes, self.relations.len() as i64);
        for (id, relation) in sorted(&self.relations) {
            to.id(id);
            to.ids(&relation.ways);
            to.tags(&relation.tags);
        }
        put(&mut to.bytes, self.gone.len() as i64);
        self.gone.iter().copied().collect::<BTreeSet<_>>().into_iter().for_each(|object| to.object(object));
        put(&mut to.bytes, self.named.len() as i64);
        for (number, why) in &self.named {
            let (kind, object) = match why {
                Missing::Arrived(object) => (0, object),
                Missing::Partial(object) => (1, object),
            };
            put(&mut to.bytes, (*number).into());
            put(&mut to.bytes, kind);
            to.object(*object);
        }
        let mut packed = MAGIC.to_vec();
        packed.extend_from_slice(&(to.bytes.len() as u64).to_le_bytes());
        let mut encoder = ZlibEncoder::new(packed, Compression::fast());
        // a vector takes everything
        _ = encoder.write_all(&to.bytes);
        encoder.finish().unwrap_or_default()
    }

    /// Reads what [`to_bytes`](Self::to_bytes) wrote.
    ///
    /// # Errors
    /// [`OsmError::Content`] for anything else.
    pub fn from_bytes(bytes: &[u8]) -> Result<State, OsmError> {
        let rest = bytes.strip_prefix(MAGIC.as_slice()).ok_or_else(broken)?;
        let (length, packed) = rest.split_at_checked(8).ok_or_else(broken)?;
        let length = length.try_into().map(u64::from_le_bytes).map_err(|_| broken())?;
        if length > (packed.len() as u64).saturating_mul(MOST_RATIO) {
            return Err(broken());
        }
        let mut unpacked = Vec::new();
        ZlibDecoder::new(packed).take(length + 1).read_to_end(&mut unpacked).map_err(|_| broken())?;
        if unpacked.len() as u64 != length {
            return Err(broken());
        }
        read_state(&unpacked).ok_or_else(broken)
    }
}

struct Reader<'b> {
    bytes: &'b [u8],
    texts: Vec<String>,
    last: i64,
}

impl Reader<'_> {
    fn number(&mut self) -> Option<i64> {
        get(&mut self.bytes)
    }

    /// A number of things, each of which takes at least so many bytes.
    fn count(&mut self, least_bytes: usize) -> Option<usize> {
        let count = usize::try_from(self.number()?).ok()?;
        (count <= self.bytes.len() / least_bytes).then_some(count)
    }

    fn text(&mut self) -> Option<String> {
        let length = usize::try_from(self.number()?).ok()?;
        let (text, rest) = self.bytes.split_at_checked(length)?;
        self.bytes = rest;
        String::from_utf8(text.to_vec()).ok()
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

    fn tags(&mut self) -> Option<Tags> {
        let count = self.count(2)?;
        let mut tags = Tags::new();
        for _ in 0..count {
            let key = usize::try_from(self.number()?).ok()?;
            let value = usize::try_from(self.number()?).ok()?;
            tags.insert(self.texts.get(key)?.clone(), self.texts.get(value)?.clone());
        }
        Some(tags)
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

    fn boxes(&mut self, margin_meters: f64) -> Option<Boxes> {
        let count = self.count(7)?;
        let mut images = Vec::with_capacity(count);
        for _ in 0..count {
            let image_id = self.text()?;
            let kind = match self.number()? {
                0 => SubjectKind::Node,
                1 => SubjectKind::Way,
                2 => SubjectKind::Area,
                3 => SubjectKind::Relation,
                _ => return None,
            };
            let id = self.number()?;
            let (low, high) = (self.place()?, self.place()?);
            let degrees = |units: i32| f64::from(units) / 1e7;
            let wsen = [degrees(low.lon), degrees(low.lat), degrees(high.lon), degrees(high.lat)];
            // checks that it is a box at all
            ImageBox::new(&image_id, kind, id, wsen).ok()?;
            images.push(ImageBox { image_id, kind, id, rect: Rect { low, high } });
        }
        Some(Boxes::new(images, margin_meters))
    }
}

fn read_state(bytes: &[u8]) -> Option<State> {
    let mut from = Reader { bytes, texts: Vec::new(), last: 0 };
    let margin_meters = f64::from_bits(from.number()? as u64);
    if !(0.0..=MOST_MARGIN_METERS).contains(&margin_meters) {
        return None;
    }
    let sequence = from.option()?.map(u64::try_from).transpose().ok()?;
    let timestamp = from.option()?;
    for _ in 0..from.count(1)? {
        let text = from.text()?;
        from.texts.push(text);
    }
    let mut state = State::of(from.boxes(margin_meters)?);
    (state.sequence, state.timestamp) = (sequence, timestamp);
    for _ in 0..from.count(4)? {
        let (id, place, flags) = (from.id()?, from.place()?, from.number()?);
        let tags = if flags & 2 == 2 { Some(Box::new(from.tags()?)) } else { None };
        state.nodes.insert(id, KeptNode { place, tags, is_complete: flags & 1 == 1 });
    }
    from.last = 0;
    for _ in 0..from.count(4)? {
        let (id, is_complete) = (from.id()?, from.number()? == 1);
        let (refs, tags) = (from.ids()?, from.tags()?);
        state.ways.insert(id, KeptWay { refs, tags, is_complete });
    }
    from.last = 0;
    for _ in 0..from.count(3)? {
        let id = from.id()?;
        let (ways, tags) = (from.ids()?, from.tags()?);
        state.relations.insert(id, KeptRelation { ways, tags });
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
    if !from.bytes.is_empty() {
        return None;
    }
    state.reindex();
    Some(state)
}
