//! An image on the map.

use crate::OsmError;
use crate::element::{Kind, ObjectId, Place};
use crate::shape::Rect;

/// Longest side of a box. Those of images are a few hundred metres; very many cells would be full of a larger one.
pub const MOST_BOX_DEGREES: f64 = 1.0;

/// What an image's name says of the object that it was taken for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SubjectKind {
    /// A node.
    Node,
    /// A way that is a line.
    Way,
    /// An area: a closed way, or a multipolygon.
    Area,
    /// A relation.
    Relation,
}

/// An image on the map.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageBox {
    /// Stem of the image's name.
    pub image_id: String,
    /// Kind of the object that it was taken for.
    pub kind: SubjectKind,
    /// That object's number.
    pub id: i64,
    /// What it shows.
    pub rect: Rect,
}

impl ImageBox {
    /// From a name's parts and a box in degrees.
    ///
    /// # Errors
    /// [`OsmError::Content`] for a box that is not on Earth or too large, and for a number that no object has.
    pub fn new(
        image_id: &str,
        kind: SubjectKind,
        id: i64,
        [west, south, east, north]: [f64; 4],
    ) -> Result<Self, OsmError> {
        let low = Place::of_degrees(west, south);
        let high = Place::of_degrees(east, north);
        let fits =
            west <= east && south <= north && east - west <= MOST_BOX_DEGREES && north - south <= MOST_BOX_DEGREES;
        let (Some(low), Some(high), true) = (low, high, fits) else {
            return Err(OsmError::Content(format!(
                "{image_id}: its box ({west}, {south}, {east}, {north}) is none of at most {MOST_BOX_DEGREES} degree a side"
            )));
        };
        Ok(Self { image_id: image_id.to_owned(), kind, id: crate::element::checked_id(id)?, rect: Rect { low, high } })
    }

    /// Objects that it may have been taken for, the likelier first.
    pub fn subjects(&self) -> impl Iterator<Item = ObjectId> {
        let id = self.id;
        self.kind.kinds().iter().map(move |kind| ObjectId { kind: *kind, id })
    }
}

impl SubjectKind {
    /// Kinds of objects that it may mean, the likelier first.
    pub(crate) fn kinds(self) -> &'static [Kind] {
        match self {
            SubjectKind::Node => &[Kind::Node],
            SubjectKind::Way => &[Kind::Way],
            SubjectKind::Area => &[Kind::Way, Kind::Relation],
            SubjectKind::Relation => &[Kind::Relation],
        }
    }
}
