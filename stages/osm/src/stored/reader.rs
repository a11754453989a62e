//! A state out of its bytes. They may be anybody's: everything is checked before it is believed or takes memory.

use std::io::Read;
use std::sync::Arc;

use flate2::read::ZlibDecoder;

use super::{AT_ONCE, MAGIC};
use crate::boxes::Boxes;
use crate::element::{Kind, ObjectId, Place};
use crate::image_box::{ImageBox, SubjectKind};
use crate::locations::get;
use crate::shape::Rect;
use crate::state::{KeptNode, KeptRelation, KeptWay};
use crate::texts::TagNumbers;
use crate::{Images, Missing, State};

/// Bytes that one stored byte may become; those of real states become three to six.
const MOST_RATIO: u64 = 100;
const MOST_MARGIN_METERS: f64 = 10_000.0;
/// Bytes of a number at most.
const NUMBER_BYTES: usize = 10;

/// Numbers and texts, unpacked as they are asked for.
pub(super) struct Reader<'b> {
    packed: ZlibDecoder<&'b [u8]>,
    bytes: Vec<u8>,
    at: usize,
    /// Bytes that are still packed.
    left: u64,
    last: i64,
}

/// What comes before the images.
pub(super) struct Head<'r, 'b> {
    from: &'r mut Reader<'b>,
    state: State,
    margin_meters: f64,
}

impl<'b> Reader<'b> {
    pub(super) fn of(bytes: &'b [u8]) -> Option<Self> {
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
    pub(super) fn is_at_end(&mut self) -> bool {
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

    pub(super) fn head(&mut self) -> Option<Head<'_, 'b>> {
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

    pub(super) fn state(&mut self) -> Option<State> {
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
    pub(super) fn images(&mut self) -> Option<Images> {
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
