//! What is kept of the planet: objects in and near the boxes, so that diffs need no extract.
//!
//! Everything that reaches into a box or the margin around it is kept whole, with nodes that lie elsewhere, and so are the
//! objects that images were taken for. *Complete* are nodes and ways of which all users are known: those that were within a
//! margin when the extract was read, or were created by a diff. What is not complete may belong to objects that are not
//! kept; where such a thing comes close to a box, the box is *named*: only an extract tells what it shows now.

mod answer;
mod index;
mod kept;

use std::collections::{BTreeMap, HashSet};
use std::fmt;

use crate::area::{is_area, relation_shape, way_shape};
use crate::boxes::Boxes;
use crate::element::{Kind, ObjectId, Tags};
use crate::replication::Moment;
use crate::shape::Shape;
use crate::sorted::Sorted;
use crate::texts::Texts;

pub use answer::Answer;
pub(crate) use index::Index;
pub(crate) use kept::{KeptNode, KeptRelation, KeptWay, get_place, put_place};

/// Why a box needs the extract again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Missing {
    /// This came near the box from where nothing is kept, and may belong to more.
    Arrived(ObjectId),
    /// This is near the box, and has parts that are not kept.
    Partial(ObjectId),
}

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Missing::Arrived(object) => write!(f, "{object} came near it from outside of what is kept"),
            Missing::Partial(object) => write!(f, "{object} near it has parts outside of what is kept"),
        }
    }
}

/// What is kept of the planet, up to a moment.
#[derive(Debug, Clone, Default)]
pub struct State {
    pub(crate) boxes: Boxes,
    pub(crate) texts: Texts,
    pub(crate) nodes: Sorted<KeptNode>,
    pub(crate) ways: Sorted<KeptWay>,
    pub(crate) relations: Sorted<KeptRelation>,
    /// Nodes and ways that are used and known not to be there.
    pub(crate) gone: HashSet<ObjectId>,
    pub(crate) named: BTreeMap<u32, Missing>,
    /// The last diff that is in it; `None`: nobody knows.
    pub sequence: Option<u64>,
    /// The moment that it shows, seconds since 1970; `None`: nobody knows.
    pub timestamp: Option<i64>,
    pub(crate) index: Index,
}

impl State {
    /// One that keeps nothing yet.
    pub(crate) fn of(boxes: Boxes) -> State {
        State { boxes, ..State::default() }
    }

    /// The boxes that it is about.
    pub fn boxes(&self) -> &Boxes {
        &self.boxes
    }

    /// Objects that are kept: nodes, ways, relations.
    pub fn kept(&self) -> [usize; 3] {
        [self.nodes.len(), self.ways.len(), self.relations.len()]
    }

    /// Images that need the extract again, each with the first reason.
    pub fn missing(&self) -> impl Iterator<Item = (&str, Missing)> {
        self.named.iter().filter_map(|(number, why)| Some((self.boxes.all().image_id(*number)?, *why)))
    }

    /// Whether a box needs the extract again.
    pub fn is_named(&self, number: u32) -> bool {
        self.named.contains_key(&number)
    }

    /// What it shows, for people.
    pub fn moment(&self) -> String {
        let moment = self.timestamp.map_or("an unknown moment".to_owned(), |at| Moment(at).to_string());
        self.sequence.map_or(moment.clone(), |sequence| format!("diff {sequence}, {moment}"))
    }

    pub(crate) fn name(&mut self, number: u32, why: Missing) {
        self.named.entry(number).or_insert(why);
    }

    /// Whether an object is wanted by an image, wherever it lies.
    pub(crate) fn is_subject(&self, kind: Kind, id: i64) -> bool {
        self.boxes.of_subject(ObjectId { kind, id }).next().is_some()
    }

    /// Whether something reaches into a box or its margin.
    pub(crate) fn is_near(boxes: &Boxes, shape: &Shape) -> bool {
        boxes.near_shape(shape).into_iter().any(|number| shape.meets(boxes.kept(number)))
    }

    /// Whether a way with these tags encloses something where it is closed.
    pub(crate) fn encloses(&self, tags: &[u32]) -> bool {
        is_area(&self.texts.tags(tags))
    }

    /// Where a way lies by the nodes that are kept.
    pub(crate) fn shape_of_way(&self, way: &KeptWay) -> Shape {
        let place = &mut |id| self.nodes.get(id).map(|node| node.place);
        way_shape(&way.refs, || self.encloses(&way.tags), place)
    }

    /// Where an object lies; `None`: it is not kept.
    pub(crate) fn shape_of(&self, object: ObjectId) -> Option<Shape> {
        match object.kind {
            Kind::Node => self.nodes.get(object.id).map(|node| Shape::point(node.place)),
            Kind::Way => self.ways.get(object.id).map(|way| self.shape_of_way(&way)),
            Kind::Relation => self.relations.get(object.id).map(|relation| {
                let shape = |way: KeptWay| {
                    let shape = self.shape_of_way(&way);
                    (way.refs, shape)
                };
                let ways: Vec<_> = relation.ways.iter().map(|id| self.ways.get(*id).map(shape)).collect();
                relation_shape(&ways)
            }),
        }
    }

    /// Whether parts of an object are neither kept nor known not to be there.
    pub(crate) fn is_partial(&self, object: ObjectId) -> bool {
        let lacks = |kind: Kind, id: i64| !self.gone.contains(&ObjectId { kind, id });
        let way_lacks = |way: KeptWay| way.refs.iter().any(|id| !self.nodes.contains(*id) && lacks(Kind::Node, *id));
        match object.kind {
            Kind::Node => false,
            Kind::Way => self.ways.get(object.id).is_some_and(way_lacks),
            Kind::Relation => self.relations.get(object.id).is_some_and(|relation| {
                let part_lacks = |id: &i64| match self.ways.get(*id) {
                    Some(way) => way_lacks(way),
                    None => lacks(Kind::Way, *id),
                };
                relation.ways.iter().any(part_lacks)
            }),
        }
    }

    /// The numbers of an object's tags; `None`: it is not kept.
    fn tag_numbers(&self, object: ObjectId) -> Option<Vec<u32>> {
        match object.kind {
            Kind::Node => self.nodes.get(object.id).map(|node| node.tags.unwrap_or_default()),
            Kind::Way => self.ways.get(object.id).map(|way| way.tags),
            Kind::Relation => self.relations.get(object.id).map(|relation| relation.tags),
        }
    }

    /// Whether an object is kept.
    pub(crate) fn is_kept(&self, object: ObjectId) -> bool {
        match object.kind {
            Kind::Node => self.nodes.contains(object.id),
            Kind::Way => self.ways.contains(object.id),
            Kind::Relation => self.relations.contains(object.id),
        }
    }

    /// Whether an object is kept and has tags.
    pub(crate) fn has_tags(&self, object: ObjectId) -> bool {
        self.tag_numbers(object).is_some_and(|tags| !tags.is_empty())
    }

    /// An object's tags; `None`: it is not kept.
    pub(crate) fn tags_of(&self, object: ObjectId) -> Option<Tags> {
        self.tag_numbers(object).map(|numbers| self.texts.tags(&numbers))
    }
}
