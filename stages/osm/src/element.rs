//! OpenStreetMap's objects as they are read, and what one may be at most.

use std::collections::BTreeMap;

use crate::OsmError;

/// Tags of an object: key → value, sorted by key.
pub type Tags = BTreeMap<String, String>;

/// Ids are read up to here: what doubles hold exactly, a million times what OpenStreetMap has given out.
pub const MOST_ID: i64 = 1 << 53;
/// Nodes of a way, members of a relation. OpenStreetMap takes 2,000 and 32,000.
pub const MOST_REFERENCES: usize = 100_000;
/// Tags of an object.
pub const MOST_TAGS: usize = 5_000;
/// Bytes of a key or a value; OpenStreetMap takes 255 characters.
pub const MOST_TEXT_BYTES: usize = 4_096;

/// What an id counts: the kinds are numbered apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// A point.
    Node,
    /// A line of nodes.
    Way,
    /// A group of objects.
    Relation,
}

/// Which object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectId {
    /// What the number counts.
    pub kind: Kind,
    /// OpenStreetMap's number.
    pub id: i64,
}

impl std::fmt::Display for ObjectId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let kind = match self.kind {
            Kind::Node => "node",
            Kind::Way => "way",
            Kind::Relation => "relation",
        };
        write!(f, "{kind} {}", self.id)
    }
}

/// A place in units of 1e-7 degrees, in which OpenStreetMap itself keeps them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Place {
    /// East of Greenwich.
    pub lon: i32,
    /// North of the equator.
    pub lat: i32,
}

impl Place {
    /// From degrees; `None` outside of ±180 and ±90, or for what is no number.
    pub fn of_degrees(lon: f64, lat: f64) -> Option<Place> {
        let fits = lon.abs() <= 180.0 && lat.abs() <= 90.0;
        fits.then(|| Place { lon: (lon * 1e7).round() as i32, lat: (lat * 1e7).round() as i32 })
    }

    /// From units of 1e-9 degrees.
    pub(crate) fn of_nanodegrees(lon: i128, lat: i128) -> Option<Place> {
        let fits = lon.abs() <= 180_000_000_000 && lat.abs() <= 90_000_000_000;
        let near = |value: i128| ((value + 50).div_euclid(100)) as i32;
        fits.then(|| Place { lon: near(lon), lat: near(lat) })
    }
}

/// What an object is besides its tags.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Body {
    /// A node's place; `None` of one that a diff deletes.
    Node(Option<Place>),
    /// A way's nodes.
    Way(Vec<i64>),
    /// A relation's members.
    Relation(Vec<ObjectId>),
}

/// An object as a file has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Object {
    /// OpenStreetMap's number among those of its kind.
    pub id: i64,
    /// How often it was changed, where the file says it; 1: just created.
    pub version: Option<u32>,
    /// Its tags.
    pub tags: Tags,
    /// The rest.
    pub body: Body,
}

impl Object {
    /// Which object.
    pub fn object_id(&self) -> ObjectId {
        let kind = match self.body {
            Body::Node(_) => Kind::Node,
            Body::Way(_) => Kind::Way,
            Body::Relation(_) => Kind::Relation,
        };
        ObjectId { kind, id: self.id }
    }
}

/// An id that OpenStreetMap may have given.
pub(crate) fn checked_id(id: i64) -> Result<i64, OsmError> {
    match id {
        1..=MOST_ID => Ok(id),
        _ => Err(OsmError::Content(format!(
            "an object has the id {id}, and OpenStreetMap counts from 1 to at most 2^53: files of an editor that was \
             not uploaded are no extracts"
        ))),
    }
}

/// Adds a tag within the limits. Of a key that is there twice the last value counts.
pub(crate) fn add_tag(tags: &mut Tags, key: &str, value: &str) -> Result<(), OsmError> {
    if key.len() > MOST_TEXT_BYTES || value.len() > MOST_TEXT_BYTES {
        return Err(OsmError::Limit { what: "bytes of a key or value", limit: MOST_TEXT_BYTES as u64 });
    }
    tags.insert(key.to_owned(), value.to_owned());
    if tags.len() > MOST_TAGS {
        return Err(OsmError::Limit { what: "tags of an object", limit: MOST_TAGS as u64 });
    }
    Ok(())
}

/// Adds a reference within the limit.
pub(crate) fn add_reference<T>(references: &mut Vec<T>, reference: T) -> Result<(), OsmError> {
    if references.len() >= MOST_REFERENCES {
        return Err(OsmError::Limit { what: "nodes of a way or members of a relation", limit: MOST_REFERENCES as u64 });
    }
    references.push(reference);
    Ok(())
}
