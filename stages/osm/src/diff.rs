//! Diffs: what was edited since, applied to what is kept.

use std::collections::BTreeSet;
use std::io::{BufReader, Read};

use crate::area::{is_area, is_multipolygon, member_ways, relation_shape, way_shape};
use crate::element::{Body, Kind, ObjectId, Place, Tags};
use crate::file::unpacked;
use crate::latest::Latest;
use crate::replication::{Moment, ReplicationState};
use crate::shape::{Rect, Shape};
use crate::sorted::{Sorted, Value};
use crate::state::{KeptNode, KeptRelation, KeptWay};
use crate::xml::{Action, Change, read_changes};
use crate::{Missing, OsmError, State};

/// The last word of a diff about each object. A node takes a dozen bytes: a day of the planet has millions.
#[derive(Default)]
pub struct Diff {
    nodes: Sorted<Latest<Place>>,
    ways: Sorted<Latest<Vec<i64>>>,
    relations: Sorted<Latest<Vec<ObjectId>>>,
}

/// Unpacked bytes for each packed one: XML has some twenty.
const MOST_UNPACKED: u64 = 100;
/// So much is unpacked of any diff.
const LEAST_UNPACKED_BYTES: u64 = 64 << 20;

/// Ends what unpacks to more than anything sound does.
struct Bounded<R> {
    inner: R,
    left: u64,
}

impl<R: Read> Read for Bounded<R> {
    fn read(&mut self, to: &mut [u8]) -> std::io::Result<usize> {
        let read = self.inner.read(to)?;
        match self.left.checked_sub(read as u64) {
            Some(left) => self.left = left,
            None => {
                let why = format!("it unpacks to more than {MOST_UNPACKED} times what it has: nothing sound does");
                return Err(std::io::Error::new(std::io::ErrorKind::InvalidData, why));
            }
        }
        Ok(read)
    }
}

/// What a diff has done.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Applied {
    /// Objects of the diff.
    pub objects: usize,
    /// Numbers of boxes that may show something else now.
    pub touched: BTreeSet<u32>,
}

fn put<T>(latest: &mut Sorted<Latest<T>>, id: i64, now: Option<(T, Tags)>, is_first: bool)
where
    Latest<T>: Value,
{
    let is_first = latest.get(id).map_or(is_first, |known| known.is_first);
    latest.insert(id, &Latest { now, is_first });
}

impl Diff {
    /// Reads an `.osc`, packed with gzip, bzip2 or not at all.
    ///
    /// # Errors
    /// As [`read_changes`].
    pub fn read(bytes: &[u8]) -> Result<Diff, OsmError> {
        let most = (bytes.len() as u64).saturating_mul(MOST_UNPACKED).max(LEAST_UNPACKED_BYTES);
        Diff::read_from(Bounded { inner: unpacked(bytes), left: most })
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
        let mut changing = Changing { state: self, diff: &diff, affected: Vec::new() };
        // nodes first, as ways are made of them: a diff may have them in any order
        for (id, latest) in diff.nodes.iter() {
            changing.node(id, latest);
        }
        for (id, latest) in diff.ways.iter() {
            changing.way(id, latest);
        }
        for (id, latest) in diff.relations.iter() {
            changing.relation(id, latest);
        }
        let affected = changing.affected;
        drop(diff);
        self.settle(affected, &mut applied.touched);
        applied
    }

    /// Finds the boxes of affected objects, and of those that are made of them.
    fn settle(&mut self, affected: Vec<ObjectId>, touched: &mut BTreeSet<u32>) {
        let mut all = affected;
        let in_order = |all: &mut Vec<ObjectId>| {
            all.sort_unstable();
            all.dedup();
        };
        in_order(&mut all);
        for (kind, user) in [(Kind::Node, Kind::Way), (Kind::Way, Kind::Relation)] {
            for at in 0..all.len() {
                let users = match all[at] {
                    object if object.kind != kind => continue,
                    object if kind == Kind::Node => self.index.ways_of(object.id),
                    object => self.index.relations_of(object.id),
                };
                all.extend(users.into_iter().map(|id| ObjectId { kind: user, id }));
            }
            in_order(&mut all);
        }
        for object in all {
            let now = self.boxes_met(object);
            touched.extend(&now);
            touched.extend(self.boxes.of_subject(object));
            let before = self.index.place(object, &now);
            touched.extend(&before);
            self.name_what_is_unclear(object, &before);
            // the tags of ways may repeat those of their relation, and no longer do
            if object.kind == Kind::Relation {
                for way in self.relations.get(object.id).map_or(Vec::new(), |relation| relation.ways) {
                    touched.extend(self.index.boxes_of(ObjectId { kind: Kind::Way, id: way }));
                }
            }
        }
    }

    fn name_what_is_unclear(&mut self, object: ObjectId, before: &[u32]) {
        let is_partial = self.is_partial(object);
        let is_stranger = match object.kind {
            Kind::Way => self.ways.get(object.id).is_some_and(|way| !way.is_complete),
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
    /// What it does not keep it may still need: nodes for ways, and ways for relations.
    diff: &'s Diff,
    affected: Vec<ObjectId>,
}

impl Changing<'_> {
    fn node(&mut self, id: i64, latest: Latest<Place>) {
        let state = &mut *self.state;
        let object = ObjectId { kind: Kind::Node, id };
        let Some((place, tags)) = latest.now else {
            if state.nodes.remove(id).is_some() {
                self.affected.push(object);
            }
            if state.index.has_ways(id) {
                state.gone.insert(object);
                self.affected.push(object);
            }
            return;
        };
        state.gone.remove(&object);
        let is_near = state.boxes.any_holds(place);
        let known = state.nodes.get(id).map(|node| node.is_complete);
        if known.is_none() && !is_near && !state.index.has_ways(id) && !state.is_subject(Kind::Node, id) {
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
        let tags = (!tags.is_empty()).then(|| state.texts.numbers(&tags));
        state.nodes.insert(id, &KeptNode { place, tags, is_complete });
        self.affected.push(object);
    }

    fn way(&mut self, id: i64, latest: Latest<Vec<i64>>) {
        let object = ObjectId { kind: Kind::Way, id };
        let known = self.forget_way(id);
        let state = &mut *self.state;
        let Some((refs, tags)) = latest.now else {
            if known.is_some() {
                self.affected.push(object);
                if !state.index.relations_of(id).is_empty() {
                    state.gone.insert(object);
                }
            }
            return;
        };
        state.gone.remove(&object);
        let is_used = state.is_subject(Kind::Way, id) || !state.index.relations_of(id).is_empty();
        // a node that is complete would no longer be, if one of its ways were left out
        let is_tied = refs.iter().any(|node| state.nodes.contains(*node));
        if known.is_some() || is_used || is_tied || State::is_near(&self.state.boxes, &self.shape(&refs, &tags)) {
            self.keep_way(id, refs, &tags, known.unwrap_or(latest.is_first));
        }
    }

    /// The place of a node of this diff.
    fn told(&self, node: i64) -> Option<Place> {
        self.diff.nodes.get(node)?.now.map(|(place, _)| place)
    }

    fn keep_way(&mut self, id: i64, refs: Vec<i64>, tags: &Tags, is_complete: bool) {
        for node in refs.iter().filter(|node| !self.state.nodes.contains(**node)).collect::<BTreeSet<_>>() {
            if let Some(place) = self.told(*node) {
                self.state.nodes.insert(*node, &KeptNode { place, tags: None, is_complete: false });
            }
        }
        let state = &mut *self.state;
        state.index.link_way(id, &refs);
        let tags = state.texts.numbers(tags);
        state.ways.insert(id, &KeptWay { refs, tags, is_complete });
        self.affected.push(ObjectId { kind: Kind::Way, id });
    }

    /// Takes a way out; says whether it was complete.
    fn forget_way(&mut self, id: i64) -> Option<bool> {
        let way = self.state.ways.remove(id)?;
        self.state.index.unlink_way(id, &way.refs);
        Some(way.is_complete)
    }

    fn shape(&self, refs: &[i64], tags: &Tags) -> Shape {
        way_shape(refs, || is_area(tags), &mut |id| {
            let kept = self.state.nodes.get(id).map(|node| node.place);
            kept.or_else(|| self.told(id))
        })
    }

    fn relation(&mut self, id: i64, latest: Latest<Vec<ObjectId>>) {
        let state = &mut *self.state;
        let object = ObjectId { kind: Kind::Relation, id };
        let known = state.relations.remove(id);
        if let Some(relation) = &known {
            state.index.unlink_relation(id, &relation.ways);
            self.affected.push(object);
            // its ways may no longer repeat its tags
            self.affected.extend(relation.ways.iter().map(|way| ObjectId { kind: Kind::Way, id: *way }));
        }
        let Some((members, tags)) = latest.now else { return };
        let ways: Vec<i64> = if is_multipolygon(&tags) { member_ways(&members).collect() } else { Vec::new() };
        let is_subject = self.state.is_subject(Kind::Relation, id);
        let is_tied = ways.iter().any(|way| self.state.ways.contains(*way));
        let is_known = known.is_some() && !ways.is_empty();
        if !is_known && !is_tied && !is_subject && !State::is_near(&self.state.boxes, &self.shape_of_all(&ways)) {
            return;
        }
        for way in &ways {
            if !self.state.ways.contains(*way)
                && let Some(latest) = self.diff.ways.get(*way)
                && let Some((refs, tags)) = latest.now
            {
                self.keep_way(*way, refs, &tags, latest.is_first);
            }
        }
        let state = &mut *self.state;
        state.index.link_relation(id, &ways);
        let tags = state.texts.numbers(&tags);
        state.relations.insert(id, &KeptRelation { ways, tags });
        self.affected.push(object);
    }

    fn shape_of_all(&self, ways: &[i64]) -> Shape {
        let way = |id: i64| match self.state.ways.get(id) {
            Some(way) => {
                let shape = self.shape(&way.refs, &self.state.texts.tags(&way.tags));
                Some((way.refs, shape))
            }
            None => {
                let (refs, tags) = self.diff.ways.get(id)?.now?;
                let shape = self.shape(&refs, &tags);
                Some((refs, shape))
            }
        };
        let ways: Vec<_> = ways.iter().map(|id| way(*id)).collect();
        relation_shape(&ways)
    }
}
