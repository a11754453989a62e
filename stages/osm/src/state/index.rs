//! Who uses what, and what lies in which box: made from what is kept, never stored.

use std::collections::{BTreeSet, HashMap};

use super::State;
use crate::element::{Kind, ObjectId};

/// Ways by their nodes, relations by their ways, objects by box.
#[derive(Debug, Clone, Default)]
pub(crate) struct Index {
    ways_of_node: HashMap<i64, Vec<i64>>,
    relations_of_way: HashMap<i64, Vec<i64>>,
    /// Tagged objects that share a place with a box.
    by_box: HashMap<u32, BTreeSet<ObjectId>>,
    boxes_of: HashMap<ObjectId, Vec<u32>>,
}

fn add(users: &mut HashMap<i64, Vec<i64>>, used: i64, user: i64) {
    let of = users.entry(used).or_default();
    if !of.contains(&user) {
        of.push(user);
    }
}

fn remove(users: &mut HashMap<i64, Vec<i64>>, used: i64, user: i64) {
    if let Some(of) = users.get_mut(&used) {
        of.retain(|other| *other != user);
        if of.is_empty() {
            users.remove(&used);
        }
    }
}

impl Index {
    pub(crate) fn ways_of(&self, node: i64) -> &[i64] {
        self.ways_of_node.get(&node).map_or(&[], Vec::as_slice)
    }

    pub(crate) fn relations_of(&self, way: i64) -> &[i64] {
        self.relations_of_way.get(&way).map_or(&[], Vec::as_slice)
    }

    pub(crate) fn in_box(&self, number: u32) -> impl Iterator<Item = ObjectId> + '_ {
        self.by_box.get(&number).into_iter().flatten().copied()
    }

    pub(crate) fn boxes_of(&self, object: ObjectId) -> &[u32] {
        self.boxes_of.get(&object).map_or(&[], Vec::as_slice)
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

    /// Puts an object into these boxes and no others; gives those that it was in.
    pub(crate) fn place(&mut self, object: ObjectId, boxes: Vec<u32>) -> Vec<u32> {
        let before = self.boxes_of.remove(&object).unwrap_or_default();
        for number in &before {
            if let Some(objects) = self.by_box.get_mut(number) {
                objects.remove(&object);
            }
        }
        for number in &boxes {
            self.by_box.entry(*number).or_default().insert(object);
        }
        if !boxes.is_empty() {
            self.boxes_of.insert(object, boxes);
        }
        before
    }
}

impl State {
    /// Makes the index anew.
    pub(crate) fn reindex(&mut self) {
        let mut index = Index::default();
        for (id, way) in &self.ways {
            index.link_way(*id, &way.refs);
        }
        for (id, relation) in &self.relations {
            index.link_relation(*id, &relation.ways);
        }
        let nodes = self.nodes.iter().filter(|(_, node)| node.tags.is_some()).map(|(id, _)| (Kind::Node, *id));
        let ways = self.ways.keys().map(|id| (Kind::Way, *id));
        let relations = self.relations.keys().map(|id| (Kind::Relation, *id));
        for (kind, id) in nodes.chain(ways).chain(relations) {
            let object = ObjectId { kind, id };
            index.place(object, self.boxes_met(object));
        }
        self.index = index;
    }

    /// Boxes that share a place with an object that has tags.
    pub(crate) fn boxes_met(&self, object: ObjectId) -> Vec<u32> {
        if self.tags_of(object).is_none_or(|tags| tags.is_empty()) {
            return Vec::new();
        }
        let Some(shape) = self.shape_of(object) else { return Vec::new() };
        let all = self.boxes.all();
        let meets = |number: &u32| all.get(*number as usize).is_some_and(|image| shape.meets(image.rect));
        self.boxes.near_shape(&shape).into_iter().filter(meets).collect()
    }
}
