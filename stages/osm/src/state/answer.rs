//! What a box shows.

use super::State;
use crate::area::is_closed;
use crate::element::{Kind, ObjectId, Place, Tags};
use crate::image_box::{ImageBox, MOST_BOX_DEGREES, SubjectKind};
use crate::shape::Rect;

/// How far from its image's box an area may have been moved, 1e-7 degrees.
const MOST_MOVED: i32 = (MOST_BOX_DEGREES * 1e7) as i32;

/// The tags of an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// Of the object that it was taken for; `None`: that is not there.
    pub center: Option<Tags>,
    /// Of the others in its box, the nearest to its middle first, as SkyScript lists them.
    pub surrounding: Vec<Tags>,
}

impl State {
    /// What a box shows, without the keys that are `ignored`. An object of which no tag is left is none, and a way that
    /// only repeats the tags of its multipolygon is the same object.
    pub fn answer(&self, number: u32, ignored: &dyn Fn(&str) -> bool) -> Option<Answer> {
        let image = self.boxes.all().get(number)?;
        let subjects: Vec<ObjectId> = image.subjects().filter(|object| self.is_kept(*object)).collect();
        let meets = |object: &&ObjectId| self.shape_of(**object).is_some_and(|shape| shape.meets(image.rect));
        let elsewhere = |object: &&ObjectId| self.may_have_moved(&image, **object);
        let subject = subjects.iter().find(meets).or_else(|| subjects.iter().find(elsewhere)).copied();
        let visible = |object: ObjectId| -> Option<Tags> {
            let mut tags = self.tags_of(object)?;
            let is_structure = |key: &str| object.kind == Kind::Relation && key == "type";
            tags.retain(|key, _| !ignored(key) && !is_structure(key));
            Some(tags)
        };
        let mut around: Vec<(f64, ObjectId, Tags)> = (self.index.in_box(number).into_iter())
            .filter(|object| Some(*object) != subject)
            .filter_map(|object| {
                let bounds = self.shape_of(object)?.bounds()?;
                let tags = visible(object).filter(|tags| !tags.is_empty())?;
                Some((distance(bounds, image.rect), object, tags))
            })
            .collect();
        let center = subject.and_then(visible);
        let repeats = |object: ObjectId, tags: &Tags| {
            object.kind == Kind::Way
                && self.index.relations_of(object.id).iter().any(|relation| {
                    let relation = ObjectId { kind: Kind::Relation, id: *relation };
                    let same = visible(relation).as_ref() == Some(tags);
                    same && (Some(relation) == subject || self.index.boxes_of(relation).contains(&number))
                })
        };
        around.retain(|(_, object, tags)| !repeats(*object, tags));
        around.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
        Some(Answer { center, surrounding: around.into_iter().map(|(_, _, tags)| tags).collect() })
    }

    /// Whether an image that no longer shows an object may have been taken for it. The number of an area is a way's or a
    /// relation's, and the other one with this number lies anywhere and may be anything.
    fn may_have_moved(&self, image: &ImageBox, object: ObjectId) -> bool {
        if image.kind != SubjectKind::Area {
            return true;
        }
        let is_area = match object.kind {
            Kind::Node => false,
            Kind::Way => self.ways.get(object.id).is_some_and(|way| is_closed(&way.refs)),
            // ways are kept of multipolygons alone
            Kind::Relation => self.relations.get(object.id).is_some_and(|relation| !relation.ways.is_empty()),
        };
        let is_near = match self.shape_of(object).and_then(|shape| shape.bounds()) {
            Some(bounds) => image.rect.grown(MOST_MOVED, MOST_MOVED).meets(bounds),
            // what has lost its nodes may have been here; what diffs told of without them lies outside of the extract
            None => !self.is_partial(object),
        };
        is_area && is_near
    }
}

/// From the middle of an object's bounds to that of a box; in units that only compare.
fn distance(bounds: Rect, image: Rect) -> f64 {
    let middle = |rect: Rect, of: fn(Place) -> i32| (f64::from(of(rect.low)) + f64::from(of(rect.high))) / 2.0;
    let apart = |of: fn(Place) -> i32| middle(bounds, of) - middle(image, of);
    let shrunk = (middle(image, |place| place.lat) / 1e7).to_radians().cos();
    (apart(|place| place.lon) * shrunk).hypot(apart(|place| place.lat))
}
