//! A state as bytes: sorted ids as differences, texts once, deflated. The same state gives the same bytes.

mod reader;

use std::collections::BTreeSet;
use std::io::Write;

use flate2::Compression;
use flate2::write::ZlibEncoder;

use crate::element::{ObjectId, Place};
use crate::locations::put;
use crate::{Images, Missing, OsmError, State};
use reader::Reader;

const MAGIC: &[u8; 8] = b"UCOSM\0\0\x01";
/// Bytes that are packed or unpacked at a time: all of them would be another state.
const AT_ONCE: usize = 1 << 18;

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
