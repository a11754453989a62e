//! Diffs: what was edited since, applied to what is kept.

use std::collections::hash_map::Entry;
use std::collections::{BTreeSet, HashMap, HashSet};
use std::io::{BufReader, Read};

use crate::area::{is_multipolygon, member_ways, relation_shape, way_shape};
use crate::element::{Body, Kind, ObjectId, Place, Tags};
use crate::file::unpacked;
use crate::replication::{Moment, ReplicationState};
use crate::shape::{Rect, Shape};
use crate::state::{KeptNode, KeptRelation, KeptWay};
use crate::xml::{Action, Change, read_changes};
use crate::{Missing, OsmError, State};

/// What became of an object in a diff; `None`: it was deleted.
struct Latest<T> {
    now: Option<T>,
    /// Nobody had it before this diff.
    is_first: bool,
}

/// The last word of a diff about each object.
#[derive(Default)]
pub struct Diff {
    nodes: HashMap<i64, Latest<(Place, Tags)>>,
    ways: HashMap<i64, Latest<(Vec<i64>, Tags)>>,
    relations: HashMap<i64, Latest<(Vec<ObjectId>, Tags)>>,
}

/// What a diff has done.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Applied {
    /// Objects of the diff.
    pub objects: usize,
    /// Numbers of boxes that may show something else now.
    pub touched: BTreeSet<u32>,
}

fn put<T>(latest: &mut HashMap<i64, Latest<T>>, id: i64, now: Option<T>, is_first: bool) {
    match latest.entry(id) {
        Entry::Occupied(mut known) => known.get_mut().now = now,
        Entry::Vacant(free) => _ = free.insert(Latest { now, is_first }),
    }
}

impl Diff {
    /// Reads an `.osc`, packed with gzip, bzip2 or not at all.
    ///
    /// # Errors
    /// As [`read_changes`].
    pub fn read(bytes: &[u8]) -> Result<Diff, OsmError> {
        Diff::read_from(unpacked(bytes))
    }

    /// Reads XML.
    ///
    /// # Errors
    /// As [`read_changes`].
    pub fn read_from(input: impl Read) -> Result<Diff, OsmError> {
        let mut diff = Diff::default();
        read_changes(BufReader::with_capacity(1 << 18, input), &mut |change| {
            diff.add(change);
            Ok(())
        })?;
        Ok(diff)
    }

    /// Adds a change; of an object that comes again the last one counts.
    pub fn add(&mut self, change: Change) {
        let is_first = change.is_first();
        let Change { action, object } = change;
        let there = action != Action::Delete;
        let tags = object.tags;
        match object.body {
            Body::Node(place) => {
                let now = place.filter(|_| there).map(|place| (place, tags));
                put(&mut self.nodes, object.id, now, is_first);
            }
            Body::Way(refs) => put(&mut self.ways, object.id, there.then_some((refs, tags)), is_first),
            Body::Relation(members) => {
                put(&mut self.relations, object.id, there.then_some((members, tags)), is_first);
            }
        }
    }

    /// Objects that it tells of.
    pub fn len(&self) -> usize {
        self.nodes.len() + self.ways.len() + self.relations.len()
    }

    /// Whether it tells nothing.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl State {
    /// Whether a diff is the one that comes next.
    ///
    /// # Errors
    /// [`OsmError::Sequence`] for one that was applied before, that is not the next, or that ends before this state.
    pub fn check_next(&self, diff: ReplicationState) -> Result<(), OsmError> {
        let refuse = |why: String| Err(OsmError::Sequence(why));
        let Some(sequence) = self.sequence else {
            return refuse("nobody knows which diffs are in the state: read an extract that says it first".into());
        };
        if diff.sequence <= sequence {
            return refuse(format!("diff {} is in the state already, which is at diff {sequence}", diff.sequence));
        }
        if diff.sequence != sequence + 1 {
            return refuse(format!(
                "diff {} does not follow diff {sequence}, which the state is at: bring the diffs between them, or read \
                 a newer extract",
                diff.sequence
            ));
        }
        if let Some(timestamp) = self.timestamp.filter(|timestamp| diff.timestamp < *timestamp) {
            return refuse(format!(
                "diff {} ends at {}, before {}, which the state shows: it is of another series (minutes, hours and days \
                 are numbered apart), or a clock was wrong",
                diff.sequence,
                Moment(diff.timestamp),
                Moment(timestamp)
            ));
        }
        Ok(())
    }

    /// Applies the diff that comes next.
    ///
    /// # Errors
    /// As [`check_next`](Self::check_next); nothing has changed then.
    pub fn apply_next(&mut self, diff: Diff, of: ReplicationState) -> Result<Applied, OsmError> {
        self.check_next(of)?;
        let applied = self.apply(diff);
        self.sequence = Some(of.sequence);
        self.timestamp = Some(of.timestamp);
        Ok(applied)
    }

    /// Applies a diff, whatever its number.
    pub fn apply(&mut self, diff: Diff) -> Applied {
        let mut applied = Applied { objects: diff.len(), ..Applied::default() };
        let mut changing = Changing {
            state: self,
            elsewhere: HashMap::new(),
            ways_elsewhere: HashMap::new(),
            affected: HashSet::new(),
        };
        // nodes first, as ways are made of them: a diff may have them in any order
        for (id, latest) in diff.nodes {
            changing.node(id, latest);
        }
        for (id, latest) in in_order(diff.ways) {
            changing.way(id, latest);
        }
        for (id, latest) in in_order(diff.relations) {
            changing.relation(id, latest);
        }
        let affected = changing.affected;
        self.settle(affected, &mut applied.touched);
        applied
    }

    /// Finds the boxes of affected objects, and of those that are made of them.
    fn settle(&mut self, affected: HashSet<ObjectId>, touched: &mut BTreeSet<u32>) {
        let mut all: BTreeSet<ObjectId> = affected.into_iter().collect();
        let of = |kind: Kind| move |id: &i64| ObjectId { kind, id: *id };
        for object in all.clone() {
            if object.kind == Kind::Node {
                all.extend(self.index.ways_of(object.id).iter().map(of(Kind::Way)));
            }
        }
        for object in all.clone() {
            if object.kind == Kind::Way {
                all.extend(self.index.relations_of(object.id).iter().map(of(Kind::Relation)));
            }
        }
        for object in all {
            let now = self.boxes_met(object);
            touched.extend(&now);
            touched.extend(self.boxes.of_subject(object));
            let before = self.index.place(object, now);
            touched.extend(&before);
            self.name_what_is_unclear(object, &before);
            // the tags of ways may repeat those of their relation, and no longer do
            if object.kind == Kind::Relation {
                let ways = self.relations.get(&object.id).map_or(&[][..], |relation| &relation.ways);
                for way in ways {
                    touched.extend(self.index.boxes_of(ObjectId { kind: Kind::Way, id: *way }));
                }
            }
        }
    }

    fn name_what_is_unclear(&mut self, object: ObjectId, before: &[u32]) {
        let is_partial = self.is_partial(object);
        let is_stranger = match object.kind {
            Kind::Way => self.ways.get(&object.id).is_some_and(|way| !way.is_complete),
            _ => false,
        };
        if !is_partial && !is_stranger {
            return;
        }
        for number in before.iter().filter(|_| is_partial) {
            self.name(*number, Missing::Partial(object));
        }
        let Some(shape) = self.shape_of(object) else { return };
        let Some(bounds) = shape.bounds() else { return };
        // of what is partial anything within its bounds may be meant
        let near = if is_partial { self.boxes.near(bounds) } else { self.boxes.near_shape(&shape) };
        for number in near {
            let watched = self.boxes.watched(number);
            if is_partial && watched.meets(bounds) {
                self.name(number, Missing::Partial(object));
            } else if is_stranger && shape.meets(watched) {
                self.name(number, Missing::Arrived(object));
            }
        }
    }
}

struct Changing<'s> {
    state: &'s mut State,
    /// Nodes of this diff that are not kept, for its ways.
    elsewhere: HashMap<i64, Place>,
    /// Ways of this diff that are not kept, for its relations.
    ways_elsewhere: HashMap<i64, KeptWay>,
    affected: HashSet<ObjectId>,
}

impl Changing<'_> {
    fn node(&mut self, id: i64, latest: Latest<(Place, Tags)>) {
        let state = &mut *self.state;
        let object = ObjectId { kind: Kind::Node, id };
        let Some((place, tags)) = latest.now else {
            if state.nodes.remove(&id).is_some() {
                self.affected.insert(object);
            }
            if !state.index.ways_of(id).is_empty() {
                state.gone.insert(object);
                self.affected.insert(object);
            }
            return;
        };
        state.gone.remove(&object);
        let is_near = state.boxes.any_holds(place);
        let known = state.nodes.get(&id).map(|node| node.is_complete);
        let is_used = !state.index.ways_of(id).is_empty() || state.is_subject(Kind::Node, id);
        if known.is_none() && !is_near && !is_used {
            self.elsewhere.insert(id, place);
            return;
        }
        let is_complete = known.unwrap_or(latest.is_first && is_near);
        if !is_complete && is_near {
            for number in state.boxes.near(Rect { low: place, high: place }) {
                if state.boxes.watched(number).holds(place) {
                    state.name(number, Missing::Arrived(object));
                }
            }
        }
        let tags = Some(tags).filter(|tags| !tags.is_empty()).map(Box::new);
        state.nodes.insert(id, KeptNode { place, tags, is_complete });
        self.affected.insert(object);
    }

    fn way(&mut self, id: i64, latest: Latest<(Vec<i64>, Tags)>) {
        let object = ObjectId { kind: Kind::Way, id };
        let known = self.forget_way(id);
        let state = &mut *self.state;
        let Some((refs, tags)) = latest.now else {
            if known.is_some() {
                self.affected.insert(object);
                if !state.index.relations_of(id).is_empty() {
                    state.gone.insert(object);
                }
            }
            return;
        };
        state.gone.remove(&object);
        let way = KeptWay { refs, tags, is_complete: known.unwrap_or(latest.is_first) };
        let is_used = state.is_subject(Kind::Way, id) || !state.index.relations_of(id).is_empty();
        // a node that is complete would no longer be, if one of its ways were left out
        let is_tied = way.refs.iter().any(|node| state.nodes.contains_key(node));
        if known.is_none() && !is_used && !is_tied && !State::is_near(&self.state.boxes, &self.shape(&way)) {
            self.ways_elsewhere.insert(id, way);
        } else {
            self.keep_way(id, way);
        }
    }

    fn keep_way(&mut self, id: i64, way: KeptWay) {
        let state = &mut *self.state;
        for node in &way.refs {
            if let Some(place) = self.elsewhere.get(node) {
                let kept = KeptNode { place: *place, tags: None, is_complete: false };
                state.nodes.entry(*node).or_insert(kept);
            }
        }
        state.index.link_way(id, &way.refs);
        state.ways.insert(id, way);
        self.affected.insert(ObjectId { kind: Kind::Way, id });
    }

    /// Takes a way out; says whether it was complete.
    fn forget_way(&mut self, id: i64) -> Option<bool> {
        let way = self.state.ways.remove(&id)?;
        self.state.index.unlink_way(id, &way.refs);
        Some(way.is_complete)
    }

    fn shape(&self, way: &KeptWay) -> Shape {
        way_shape(&way.refs, &way.tags, &mut |id| {
            let kept = self.state.nodes.get(&id).map(|node| node.place);
            kept.or_else(|| self.elsewhere.get(&id).copied())
        })
    }

    fn relation(&mut self, id: i64, latest: Latest<(Vec<ObjectId>, Tags)>) {
        let state = &mut *self.state;
        let object = ObjectId { kind: Kind::Relation, id };
        let known = state.relations.remove(&id);
        if let Some(relation) = &known {
            state.index.unlink_relation(id, &relation.ways);
            self.affected.insert(object);
            // its ways may no longer repeat its tags
            self.affected.extend(relation.ways.iter().map(|way| ObjectId { kind: Kind::Way, id: *way }));
        }
        let Some((members, tags)) = latest.now else { return };
        let ways: Vec<i64> = if is_multipolygon(&tags) { member_ways(&members).collect() } else { Vec::new() };
        let is_subject = self.state.is_subject(Kind::Relation, id);
        let is_tied = ways.iter().any(|way| self.state.ways.contains_key(way));
        let is_known = known.is_some() && !ways.is_empty();
        if !is_known && !is_tied && !is_subject && !State::is_near(&self.state.boxes, &self.shape_of_all(&ways)) {
            return;
        }
        for way in &ways {
            if let Some(kept) = self.ways_elsewhere.remove(way) {
                self.keep_way(*way, kept);
            }
        }
        let state = &mut *self.state;
        state.index.link_relation(id, &ways);
        state.relations.insert(id, KeptRelation { ways, tags });
        self.affected.insert(object);
    }

    fn shape_of_all(&self, ways: &[i64]) -> Shape {
        let way = |id: &i64| self.state.ways.get(id).or_else(|| self.ways_elsewhere.get(id));
        let ways: Vec<_> = ways.iter().map(|id| way(id).map(|way| (way.refs.as_slice(), self.shape(way)))).collect();
        relation_shape(&ways)
    }
}

/// By rising id, so that the same diff leaves the same state.
fn in_order<T>(latest: HashMap<i64, Latest<T>>) -> Vec<(i64, Latest<T>)> {
    let mut all: Vec<_> = latest.into_iter().collect();
    all.sort_unstable_by_key(|(id, _)| *id);
    all
}
