//! Who uses what, and what lies in which box: made from what is kept, never stored.

use super::State;
use crate::element::{Kind, ObjectId};
use crate::sorted::Sorted;

/// Ways by their nodes, relations by their ways, objects by box.
#[derive(Debug, Clone, Default)]
pub(crate) struct Index {
    ways_of_node: Sorted<Vec<i64>>,
    relations_of_way: Sorted<Vec<i64>>,
    /// Tagged objects that share a place with a box.
    by_box: Sorted<Vec<i64>>,
    boxes_of: Sorted<Vec<i64>>,
}

fn add(users: &mut Sorted<Vec<i64>>, used: i64, user: i64) {
    let mut of = users.get(used).unwrap_or_default();
    if !of.contains(&user) {
        of.push(user);
        users.insert(used, &of);
    }
}

fn remove(users: &mut Sorted<Vec<i64>>, used: i64, user: i64) {
    let Some(mut of) = users.get(used) else { return };
    of.retain(|other| *other != user);
    if of.is_empty() {
        users.remove(used);
    } else {
        users.insert(used, &of);
    }
}

/// An object as a number: ids have 53 bits.
fn key(object: ObjectId) -> i64 {
    (object.id << 2) | object.kind as i64
}

fn object_of(key: i64) -> ObjectId {
    let kind = match key & 3 {
        0 => Kind::Node,
        1 => Kind::Way,
        _ => Kind::Relation,
    };
    ObjectId { kind, id: key >> 2 }
}

impl Index {
    pub(crate) fn ways_of(&self, node: i64) -> Vec<i64> {
        self.ways_of_node.get(node).unwrap_or_default()
    }

    pub(crate) fn has_ways(&self, node: i64) -> bool {
        self.ways_of_node.contains(node)
    }

    pub(crate) fn relations_of(&self, way: i64) -> Vec<i64> {
        self.relations_of_way.get(way).unwrap_or_default()
    }

    pub(crate) fn in_box(&self, number: u32) -> Vec<ObjectId> {
        self.by_box.get(number.into()).unwrap_or_default().into_iter().map(object_of).collect()
    }

    pub(crate) fn boxes_of(&self, object: ObjectId) -> Vec<u32> {
        self.boxes_of.get(key(object)).unwrap_or_default().into_iter().map(|number| number as u32).collect()
    }

    pub(crate) fn link_way(&mut self, way: i64, refs: &[i64]) {
        refs.iter().for_each(|node| add(&mut self.ways_of_node, *node, way));
    }

    pub(crate) fn unlink_way(&mut self, way: i64, refs: &[i64]) {
        refs.iter().for_each(|node| remove(&mut self.ways_of_node, *node, way));
    }

    pub(crate) fn link_relation(&mut self, relation: i64, ways: &[i64]) {
        ways.iter().for_each(|way| add(&mut self.relations_of_way, *way, relation));
    }

    pub(crate) fn unlink_relation(&mut self, relation: i64, ways: &[i64]) {
        ways.iter().for_each(|way| remove(&mut self.relations_of_way, *way, relation));
    }

    /// Puts an object into these boxes and no others; gives those that it was in. Both are in order.
    pub(crate) fn place(&mut self, object: ObjectId, boxes: &[u32]) -> Vec<u32> {
        let before = self.boxes_of(object);
        if before == boxes {
            return before;
        }
        let key = key(object);
        for number in before.iter().filter(|number| boxes.binary_search(number).is_err()) {
            remove(&mut self.by_box, (*number).into(), key);
        }
        for number in boxes.iter().filter(|number| before.binary_search(number).is_err()) {
            add(&mut self.by_box, (*number).into(), key);
        }
        if boxes.is_empty() {
            self.boxes_of.remove(key);
        } else {
            self.boxes_of.insert(key, &boxes.iter().map(|number| i64::from(*number)).collect());
        }
        before
    }
}

impl State {
    /// Makes the index anew.
    pub(crate) fn reindex(&mut self) {
        let mut index = Index::default();
        for (id, way) in self.ways.iter() {
            index.link_way(id, &way.refs);
        }
        for (id, relation) in self.relations.iter() {
            index.link_relation(id, &relation.ways);
        }
        let nodes = self.nodes.iter().filter(|(_, node)| node.tags.is_some()).map(|(id, _)| (Kind::Node, id));
        let ways = self.ways.iter().map(|(id, _)| (Kind::Way, id));
        let relations = self.relations.iter().map(|(id, _)| (Kind::Relation, id));
        for (kind, id) in nodes.chain(ways).chain(relations) {
            let object = ObjectId { kind, id };
            index.place(object, &self.boxes_met(object));
        }
        self.index = index;
    }

    /// Boxes that share a place with an object that has tags.
    pub(crate) fn boxes_met(&self, object: ObjectId) -> Vec<u32> {
        if !self.has_tags(object) {
            return Vec::new();
        }
        let Some(shape) = self.shape_of(object) else { return Vec::new() };
        let all = self.boxes.all();
        let meets = |number: &u32| all.rect(*number).is_some_and(|rect| shape.meets(rect));
        self.boxes.near_shape(&shape).into_iter().filter(meets).collect()
    }
}
