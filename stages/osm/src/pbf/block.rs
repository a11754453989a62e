//! A block: a table of texts, and groups of objects whose tags are numbers of texts.

use super::wire::{Fields, Packed, Running, Value};
use crate::element::{Body, Kind, Object, Tags, add_reference, add_tag, checked_id};
use crate::{ObjectId, OsmError, Place};

/// Most objects of a block: the format's authors advise 8,000.
const MOST_OBJECTS: usize = 4 << 20;
/// Most texts of a block.
const MOST_TEXTS: usize = 4 << 20;

/// How the numbers of a block are meant.
struct Frame<'a> {
    texts: Vec<&'a [u8]>,
    /// Units of 1e-9 degrees.
    granularity: i64,
    lat_offset: i64,
    lon_offset: i64,
}

type Take<'t> = &'t mut dyn FnMut(Object) -> Result<(), OsmError>;

pub(super) fn read(message: &[u8], wanted: &dyn Fn(Kind) -> bool, take: Take<'_>) -> Result<(), OsmError> {
    let mut frame = Frame { texts: Vec::new(), granularity: 100, lat_offset: 0, lon_offset: 0 };
    let mut groups = Vec::new();
    let mut fields = Fields::of(message);
    while let Some((number, value)) = fields.next()? {
        match number {
            1 => frame.add_texts(value.bytes()?)?,
            2 => add_bounded(&mut groups, value.bytes()?, "groups of a block")?,
            17 => frame.granularity = value.number()? as i64,
            19 => frame.lat_offset = value.number()? as i64,
            20 => frame.lon_offset = value.number()? as i64,
            _ => {}
        }
    }
    let mut left = MOST_OBJECTS;
    let mut counted = |object: Object| {
        left = left.checked_sub(1).ok_or(OsmError::Limit { what: "objects of a block", limit: MOST_OBJECTS as u64 })?;
        take(object)
    };
    for group in groups {
        let mut fields = Fields::of(group);
        while let Some((number, value)) = fields.next()? {
            match number {
                1 if wanted(Kind::Node) => counted(frame.node(value.bytes()?)?)?,
                2 if wanted(Kind::Node) => frame.dense(value.bytes()?, &mut counted)?,
                3 if wanted(Kind::Way) => counted(frame.way(value.bytes()?)?)?,
                4 if wanted(Kind::Relation) => counted(frame.relation(value.bytes()?)?)?,
                _ => {}
            }
        }
    }
    Ok(())
}

fn add_bounded<T>(list: &mut Vec<T>, item: T, what: &'static str) -> Result<(), OsmError> {
    if list.len() >= MOST_TEXTS {
        return Err(OsmError::Limit { what, limit: MOST_TEXTS as u64 });
    }
    list.push(item);
    Ok(())
}

/// Fields that nodes, ways and relations share.
#[derive(Default)]
struct Common<'a> {
    id: Option<i64>,
    keys: Packed<'a>,
    values: Packed<'a>,
    version: Option<u32>,
}

impl<'a> Common<'a> {
    fn take(&mut self, number: u64, value: Value<'a>) -> Result<(), OsmError> {
        match number {
            2 => self.keys = Packed::of(value)?,
            3 => self.values = Packed::of(value)?,
            4 => {
                let mut info = Fields::of(value.bytes()?);
                while let Some((number, value)) = info.next()? {
                    if number == 1 {
                        self.version = u32::try_from(value.number()?).ok();
                    }
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn object(self, frame: &Frame<'_>, body: Body) -> Result<Object, OsmError> {
        let id = self.id.ok_or_else(|| OsmError::Content("an object has no id: download the file again".into()))?;
        let mut tags = Tags::new();
        let (mut keys, mut values) = (self.keys, self.values);
        while let Some(key) = keys.next()? {
            add_tag(&mut tags, frame.text(key)?, frame.text(values.need()?)?)?;
        }
        Ok(Object { id: checked_id(id)?, version: self.version, tags, body })
    }
}

impl<'a> Frame<'a> {
    fn add_texts(&mut self, table: &'a [u8]) -> Result<(), OsmError> {
        let mut fields = Fields::of(table);
        while let Some((number, value)) = fields.next()? {
            if number == 1 {
                add_bounded(&mut self.texts, value.bytes()?, "texts of a block")?;
            }
        }
        Ok(())
    }

    fn text(&self, number: u64) -> Result<&'a str, OsmError> {
        let text = usize::try_from(number).ok().and_then(|at| self.texts.get(at));
        let text = text.and_then(|text| std::str::from_utf8(text).ok());
        text.ok_or_else(|| {
            OsmError::Content("a tag names a text that is not there, or no text: download it again".into())
        })
    }

    fn place(&self, lon: i64, lat: i64) -> Result<Place, OsmError> {
        let of = |offset: i64, value: i64| i128::from(offset) + i128::from(self.granularity) * i128::from(value);
        let place = Place::of_nanodegrees(of(self.lon_offset, lon), of(self.lat_offset, lat));
        place.ok_or_else(|| OsmError::Content("a node does not lie on Earth: download the file again".into()))
    }

    fn node(&self, message: &'a [u8]) -> Result<Object, OsmError> {
        let (mut common, mut lon, mut lat) = (Common::default(), 0, 0);
        let mut fields = Fields::of(message);
        while let Some((number, value)) = fields.next()? {
            match number {
                1 => common.id = Some(value.signed()?),
                8 => lat = value.signed()?,
                9 => lon = value.signed()?,
                _ => common.take(number, value)?,
            }
        }
        common.object(self, Body::Node(Some(self.place(lon, lat)?)))
    }

    fn dense(&self, message: &'a [u8], take: Take<'_>) -> Result<(), OsmError> {
        let [mut ids, mut lats, mut lons, mut tags, mut versions] = [Packed::default(); 5];
        let mut fields = Fields::of(message);
        while let Some((number, value)) = fields.next()? {
            match number {
                1 => ids = Packed::of(value)?,
                5 => {
                    let mut info = Fields::of(value.bytes()?);
                    while let Some((number, value)) = info.next()? {
                        if number == 1 {
                            versions = Packed::of(value)?;
                        }
                    }
                }
                8 => lats = Packed::of(value)?,
                9 => lons = Packed::of(value)?,
                10 => tags = Packed::of(value)?,
                _ => {}
            }
        }
        let [mut id, mut lat, mut lon] = [Running::default(); 3];
        while let Some(difference) = ids.next()? {
            let id = checked_id(id.plus(difference)?)?;
            let (lat, lon) = (lat.plus(lats.need()?)?, lon.plus(lons.need()?)?);
            let mut of_node = Tags::new();
            // keys and values of each node, and a 0; nothing at all where no node has any
            while let Some(key) = tags.next()?.filter(|key| *key != 0) {
                add_tag(&mut of_node, self.text(key)?, self.text(tags.need()?)?)?;
            }
            let version = versions.next()?.and_then(|version| u32::try_from(version).ok());
            take(Object { id, version, tags: of_node, body: Body::Node(Some(self.place(lon, lat)?)) })?;
        }
        Ok(())
    }

    fn way(&self, message: &'a [u8]) -> Result<Object, OsmError> {
        let (mut common, mut packed) = (Common::default(), Packed::default());
        let mut fields = Fields::of(message);
        while let Some((number, value)) = fields.next()? {
            match number {
                1 => common.id = Some(value.number()? as i64),
                8 => packed = Packed::of(value)?,
                _ => common.take(number, value)?,
            }
        }
        let (mut refs, mut running) = (Vec::new(), Running::default());
        while let Some(difference) = packed.next()? {
            add_reference(&mut refs, checked_id(running.plus(difference)?)?)?;
        }
        common.object(self, Body::Way(refs))
    }

    fn relation(&self, message: &'a [u8]) -> Result<Object, OsmError> {
        let [mut ids, mut kinds] = [Packed::default(); 2];
        let mut common = Common::default();
        let mut fields = Fields::of(message);
        while let Some((number, value)) = fields.next()? {
            match number {
                1 => common.id = Some(value.number()? as i64),
                9 => ids = Packed::of(value)?,
                10 => kinds = Packed::of(value)?,
                _ => common.take(number, value)?,
            }
        }
        let (mut members, mut running) = (Vec::new(), Running::default());
        while let Some(difference) = ids.next()? {
            let id = checked_id(running.plus(difference)?)?;
            let kind = match kinds.need()? {
                0 => Kind::Node,
                1 => Kind::Way,
                2 => Kind::Relation,
                other => return Err(OsmError::Content(format!("a relation has a member of the unknown kind {other}"))),
            };
            add_reference(&mut members, ObjectId { kind, id })?;
        }
        common.object(self, Body::Relation(members))
    }
}
