//! Diffs that are applied one after the other lead where a fresh extract leads.

use std::collections::BTreeSet;

use osm::{Body, Boxes, Change, Diff, ImageBox, Kind, Place, Rect, State, SubjectKind, read_extract};
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::planet::{Planet, id_of, osc, tags};

/// Side of the world, 1e-7 degrees: 5.6 km northwards at 60 degrees north, half of that eastwards.
const WORLD: i32 = 500_000;
const MARGIN_METERS: f64 = 100.0;
const WORDS: [(&str, &str); 9] = [
    ("building", "yes"),
    ("building", "house"),
    ("highway", "residential"),
    ("highway", "track"),
    ("landuse", "forest"),
    ("natural", "water"),
    ("note", "look again"),
    ("amenity", "bench"),
    ("barrier", "fence"),
];

struct World {
    planet: Planet,
    dice: ChaCha8Rng,
    next: i64,
    /// Corners of boxes, where half of the edits are.
    corners: Vec<Place>,
}

impl World {
    fn id(&mut self) -> i64 {
        self.next += 1;
        self.next
    }

    fn anywhere(&mut self) -> Place {
        if let Some(corner) = self.corners.choose(&mut self.dice).copied()
            && self.dice.random_bool(0.5)
        {
            return self.near(corner, 20_000);
        }
        let mut within = || self.dice.random_range(0..WORLD);
        Place { lon: 250_000_000 + within(), lat: 600_000_000 + within() }
    }

    fn near(&mut self, place: Place, reach: i32) -> Place {
        let mut by = || self.dice.random_range(-reach..=reach);
        Place { lon: place.lon + by(), lat: place.lat + by() }
    }

    fn tags(&mut self) -> osm::Tags {
        let count = self.dice.random_range(0..3);
        (0..count).map(|_| *WORDS.choose(&mut self.dice).unwrap()).map(|(k, v)| (k.into(), v.into())).collect()
    }

    fn node(&mut self, place: Place, tags: osm::Tags, changes: &mut Vec<Change>) -> i64 {
        let id = self.id();
        changes.push(self.planet.put(id, tags, Body::Node(Some(place))));
        id
    }

    fn way(&mut self, refs: Vec<i64>, changes: &mut Vec<Change>) -> i64 {
        let id = self.id();
        let tags = self.tags();
        changes.push(self.planet.put(id, tags, Body::Way(refs)));
        id
    }

    fn ring(&mut self, middle: Place, reach: f64, corners: usize, changes: &mut Vec<Change>) -> i64 {
        let mut refs: Vec<i64> = (0..corners)
            .map(|corner| {
                let angle = corner as f64 / corners as f64 * std::f64::consts::TAU;
                let place = Place {
                    lon: middle.lon + (angle.cos() * reach) as i32,
                    lat: middle.lat + (angle.sin() * reach) as i32,
                };
                self.node(place, tags(&[]), changes)
            })
            .collect();
        refs.push(refs[0]);
        self.way(refs, changes)
    }

    /// Something new: a thing, a house, a road, a field, or a field with a hole.
    fn create(&mut self, changes: &mut Vec<Change>) {
        let place = self.anywhere();
        match self.dice.random_range(0..10) {
            0..3 => {
                let tags = self.tags();
                _ = self.node(place, tags, changes);
            }
            3..6 => _ = self.ring(place, 1_500.0, 4, changes),
            6..8 => {
                let mut refs = Vec::new();
                // begins at a road that is there, now and then
                if self.dice.random_bool(0.5)
                    && let Some(way) = self.any(Kind::Way)
                    && let Some(node) = self.planet.refs(way).last()
                {
                    refs.push(*node);
                }
                let mut at = refs.first().and_then(|node| self.planet.place(*node)).unwrap_or(place);
                for _ in 0..self.dice.random_range(2..14) {
                    at = self.near(at, 6_000);
                    refs.push(self.node(at, tags(&[]), changes));
                }
                _ = self.way(refs, changes);
            }
            8 => _ = self.ring(place, 18_000.0, 16, changes),
            _ => {
                let ways = [self.ring(place, 18_000.0, 16, changes), self.ring(place, 5_000.0, 6, changes)];
                let mut of = self.tags();
                of.insert("type".into(), "multipolygon".into());
                let id = self.id();
                let members = ways.map(|way| id_of(Kind::Way, way)).to_vec();
                changes.push(self.planet.put(id, of, Body::Relation(members)));
            }
        }
    }

    fn any(&mut self, kind: Kind) -> Option<i64> {
        // the youngest are near boxes
        if self.dice.random_bool(0.3) {
            let young = self.planet.objects.keys().filter(|key| key.kind == kind).map(|key| key.id);
            return young
                .collect::<Vec<_>>()
                .iter()
                .rev()
                .take(200)
                .collect::<Vec<_>>()
                .choose(&mut self.dice)
                .map(|id| **id);
        }
        let all: Vec<i64> = self.planet.objects.keys().filter(|key| key.kind == kind).map(|key| key.id).collect();
        all.choose(&mut self.dice).copied()
    }

    fn put_again(&mut self, kind: Kind, id: i64, changes: &mut Vec<Change>, change: impl FnOnce(&mut osm::Object)) {
        if let Some(mut object) = self.planet.objects.get(&id_of(kind, id)).cloned() {
            change(&mut object);
            changes.push(self.planet.put(object.id, object.tags, object.body));
        }
    }

    fn is_used(&self, node: i64) -> bool {
        self.planet.objects.values().any(|object| matches!(&object.body, Body::Way(refs) if refs.contains(&node)))
    }

    fn edit(&mut self, changes: &mut Vec<Change>) -> Option<()> {
        match self.dice.random_range(0..100) {
            0..15 => self.create(changes),
            // another word
            15..35 => {
                let kind = *[Kind::Node, Kind::Way, Kind::Way, Kind::Relation].choose(&mut self.dice)?;
                let (id, mut tags) = (self.any(kind)?, self.tags());
                self.put_again(kind, id, changes, |object| {
                    tags.extend(object.tags.get("type").map(|kind| ("type".to_owned(), kind.clone())));
                    object.tags = tags;
                });
            }
            // a node is moved a little: the ways of it are not told
            35..60 => {
                let id = self.any(Kind::Node)?;
                let place = self.planet.place(id)?;
                let place = self.near(place, 2_500);
                self.put_again(Kind::Node, id, changes, |object| object.body = Body::Node(Some(place)));
            }
            // all of a way's nodes are dragged away, where it is small
            60..68 => {
                let way = self.any(Kind::Way)?;
                let mut refs = self.planet.refs(way);
                refs.sort_unstable();
                refs.dedup();
                let users = |node: &i64| {
                    let has = |object: &&osm::Object| matches!(&object.body, Body::Way(refs) if refs.contains(node));
                    self.planet.objects.values().filter(has).count()
                };
                if refs.len() > 5 || refs.iter().any(|node| users(node) > 1) {
                    return None;
                }
                let (from, to) = (self.planet.place(*refs.first()?)?, self.anywhere());
                for node in refs {
                    let place = self.planet.place(node)?;
                    let place = Place { lon: place.lon - from.lon + to.lon, lat: place.lat - from.lat + to.lat };
                    self.put_again(Kind::Node, node, changes, |object| object.body = Body::Node(Some(place)));
                }
            }
            68..72 => {
                let id = self.any(Kind::Node).filter(|id| !self.is_used(*id))?;
                let place = self.anywhere();
                self.put_again(Kind::Node, id, changes, |object| object.body = Body::Node(Some(place)));
            }
            // a way is deleted; its nodes stay or go
            72..80 => {
                let way = self.any(Kind::Way)?;
                let refs = self.planet.refs(way);
                let key = id_of(Kind::Way, way);
                let relations: Vec<i64> = self
                    .planet
                    .objects
                    .values()
                    .filter_map(|object| match &object.body {
                        Body::Relation(members) if members.contains(&key) => Some(object.id),
                        _ => None,
                    })
                    .collect();
                for relation in relations {
                    self.put_again(Kind::Relation, relation, changes, |object| {
                        if let Body::Relation(members) = &mut object.body {
                            members.retain(|member| *member != key);
                        }
                    });
                }
                changes.extend(self.planet.delete(key));
                if self.dice.random_bool(0.6) {
                    for node in refs {
                        if !self.is_used(node) {
                            changes.extend(self.planet.delete(id_of(Kind::Node, node)));
                        }
                    }
                }
            }
            80..83 => {
                let id = self.any(Kind::Node).filter(|id| !self.is_used(*id))?;
                changes.extend(self.planet.delete(id_of(Kind::Node, id)));
            }
            83..85 => {
                let id = self.any(Kind::Relation)?;
                changes.extend(self.planet.delete(id_of(Kind::Relation, id)));
            }
            // a corner goes, or a new one comes
            85..91 => {
                let way = self.any(Kind::Way)?;
                let mut refs = self.planet.refs(way);
                if refs.len() > 3 && self.dice.random_bool(0.4) {
                    refs.remove(1);
                } else {
                    let place = self.planet.place(*refs.first()?)?;
                    let place = self.near(place, 2_500);
                    let node = self.node(place, tags(&[]), changes);
                    refs.insert(1, node);
                }
                self.put_again(Kind::Way, way, changes, |object| object.body = Body::Way(refs));
            }
            // two roads that meet become one
            91..95 => {
                let way = self.any(Kind::Way)?;
                let refs = self.planet.refs(way);
                let last = refs.last()?;
                let other = self.planet.objects.values().find_map(|object| match &object.body {
                    Body::Way(refs) if refs.first() == Some(last) && object.id != way => {
                        Some((object.id, refs.clone()))
                    }
                    _ => None,
                });
                let (other, tail) = other?;
                let member = |object: &osm::Object| {
                    matches!(&object.body, Body::Relation(members)
                    if members.contains(&id_of(Kind::Way, other)))
                };
                if self.planet.objects.values().any(member) {
                    return None;
                }
                let whole = [&refs[..], &tail[1..]].concat();
                self.put_again(Kind::Way, way, changes, |object| object.body = Body::Way(whole));
                changes.extend(self.planet.delete(id_of(Kind::Way, other)));
            }
            // what was deleted comes back
            _ => {
                let gone: Vec<osm::Object> = self.planet.deleted.values().cloned().collect();
                let object = gone.choose(&mut self.dice)?.clone();
                let parts: Vec<osm::ObjectId> = match &object.body {
                    Body::Node(_) => Vec::new(),
                    Body::Way(refs) => refs.iter().map(|id| id_of(Kind::Node, *id)).collect(),
                    Body::Relation(members) => members.clone(),
                };
                if parts.iter().all(|part| self.planet.objects.contains_key(part)) {
                    changes.push(self.planet.put(object.id, object.tags, object.body));
                }
            }
        }
        Some(())
    }

    fn boxes(&mut self, count: usize) -> Vec<ImageBox> {
        let mut boxes = Vec::new();
        for number in 0..count {
            let kind = *[Kind::Node, Kind::Way, Kind::Way, Kind::Relation].choose(&mut self.dice).unwrap();
            let Some(id) = self.any(kind) else { continue };
            let middle = match kind {
                Kind::Node => self.planet.place(id),
                Kind::Way => self.planet.refs(id).first().and_then(|node| self.planet.place(*node)),
                Kind::Relation => None,
            };
            let place = self.anywhere();
            let low = self.near(middle.unwrap_or(place), 3_000);
            let subject = match (kind, self.dice.random_bool(0.5)) {
                (Kind::Node, _) => SubjectKind::Node,
                (Kind::Way, true) => SubjectKind::Way,
                (Kind::Relation, true) => SubjectKind::Relation,
                _ => SubjectKind::Area,
            };
            let high = Place { lon: low.lon + 8_000, lat: low.lat + 5_000 };
            let image_id = format!("x{number:03}");
            boxes.push(ImageBox { image_id, kind: subject, id, rect: Rect { low, high } });
        }
        boxes
    }
}

fn read(planet: &Planet, boxes: &[ImageBox], pbf: bool) -> State {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(if pbf { "x.osm.pbf" } else { "x.osm" });
    planet.write(&path);
    let boxes = Boxes::new(boxes.iter().cloned(), MARGIN_METERS);
    read_extract(&path, boxes, folder.path(), &|| false).unwrap().state
}

fn ignored(key: &str) -> bool {
    key == "note"
}

#[derive(Debug, Default)]
struct Tally {
    compared: usize,
    changed: usize,
    touched: usize,
    named: usize,
    objects: usize,
}

fn trial(seed: u64, tally: &mut Tally) {
    let mut world =
        World { planet: Planet::default(), dice: ChaCha8Rng::seed_from_u64(seed), next: 0, corners: Vec::new() };
    let mut nothing = Vec::new();
    for _ in 0..500 {
        world.create(&mut nothing);
    }
    let boxes = world.boxes(24);
    world.corners = boxes.iter().map(|image| image.rect.low).collect();
    let mut state = read(&world.planet, &boxes, seed.is_multiple_of(2));
    for step in 0..8 {
        let before: Vec<_> = (0..boxes.len() as u32).map(|number| state.answer(number, &ignored)).collect();
        let mut changes = Vec::new();
        while changes.len() < 60 {
            world.edit(&mut changes);
        }
        let diff = Diff::read(osc(&changes).as_bytes()).unwrap();
        let applied = state.apply(diff);
        tally.objects += applied.objects;
        tally.touched += applied.touched.len();
        if step % 3 == 1 {
            // what is stored is what there was
            let bytes = state.to_bytes();
            state = State::from_bytes(&bytes).unwrap();
            assert_eq!(state.to_bytes(), bytes);
        }
        let fresh = read(&world.planet, &boxes, step % 2 == 0);
        for number in 0..boxes.len() as u32 {
            let now = state.answer(number, &ignored);
            let changed = now != before[number as usize];
            assert!(
                !changed || applied.touched.contains(&number),
                "seed {seed}, step {step}: box {number} changed unseen"
            );
            tally.changed += usize::from(changed);
            if state.is_named(number) {
                continue;
            }
            tally.compared += 1;
            let image = &boxes[number as usize];
            assert_eq!(now, fresh.answer(number, &ignored), "seed {seed}, step {step}, box {number}: {image:?}");
        }
    }
    tally.named += state.missing().count();
}

#[test]
fn diffs_lead_where_a_fresh_extract_leads() {
    let mut tally = Tally::default();
    let seeds = std::env::var("SEEDS").ok().and_then(|seeds| seeds.parse().ok()).unwrap_or(40u64);
    for seed in 0..seeds {
        trial(seed, &mut tally);
    }
    println!("{tally:?}");
    let boxes = seeds as usize * 24;
    assert!(tally.changed * 4 > boxes, "edits reach boxes: {tally:?}");
    assert!(tally.named > 0, "some box is named, or nothing was tried: {tally:?}");
    assert!(tally.named * 5 < boxes, "few are named: {tally:?}");
}

#[test]
fn a_kind_of_edit_each() {
    let at = |lon: i32, lat: i32| Body::Node(Some(Place { lon: 250_000_000 + lon, lat: 600_000_000 + lat }));
    let mut planet = Planet::default();
    for (id, lon, lat) in
        [(1, 0, 0), (2, 1_000, 0), (3, 1_000, 1_000), (4, 0, 1_000), (5, 30_000, 500), (6, -30_000, 500)]
    {
        planet.put(id, tags(&[]), at(lon, lat));
    }
    planet.put(7, tags(&[("amenity", "bench")]), at(400, 400));
    planet.put(10, tags(&[("building", "yes")]), Body::Way(vec![1, 2, 3, 4, 1]));
    planet.put(11, tags(&[("highway", "track")]), Body::Way(vec![6, 5]));
    let low = Place { lon: 250_000_000 - 200, lat: 600_000_000 - 200 };
    let rect = Rect { low, high: Place { lon: low.lon + 1_400, lat: low.lat + 1_400 } };
    let boxes = vec![ImageBox { image_id: "a10_FI_19".into(), kind: SubjectKind::Area, id: 10, rect }];
    let mut state = read(&planet, &boxes, true);
    let now = |changes: Vec<Change>, state: &mut State, planet: &Planet| {
        let applied = state.apply(Diff::read(osc(&changes).as_bytes()).unwrap());
        let answer = state.answer(0, &ignored).unwrap();
        assert_eq!(Some(&answer), read(planet, &boxes, false).answer(0, &ignored).as_ref());
        let around: BTreeSet<String> = answer.surrounding.iter().flat_map(|tags| tags.values().cloned()).collect();
        (answer.center, around.into_iter().collect::<Vec<_>>().join(" "), applied.touched.len())
    };
    let house = Some(tags(&[("building", "yes")]));
    // the road crosses the box, though none of its nodes is near
    assert_eq!(now(vec![], &mut state, &planet), (house.clone(), "bench track".into(), 0));
    // the road leaves the box by its node, of which the way is not told
    let change = planet.put(5, tags(&[]), at(30_000, 90_000));
    assert_eq!(now(vec![change], &mut state, &planet), (house.clone(), "bench".into(), 1));
    let change = planet.put(5, tags(&[]), at(30_000, 600));
    assert_eq!(now(vec![change], &mut state, &planet), (house.clone(), "bench track".into(), 1));
    // re-tagged, created, moved away, deleted
    let change = planet.put(11, tags(&[("highway", "path")]), Body::Way(vec![6, 5]));
    assert_eq!(now(vec![change], &mut state, &planet), (house.clone(), "bench path".into(), 1));
    let change = planet.put(8, tags(&[("natural", "tree")]), at(500, 500));
    assert_eq!(now(vec![change], &mut state, &planet), (house.clone(), "bench path tree".into(), 1));
    let change = planet.put(8, tags(&[("natural", "tree")]), at(90_000, 90_000));
    assert_eq!(now(vec![change], &mut state, &planet), (house.clone(), "bench path".into(), 1));
    let change = planet.delete(id_of(Kind::Node, 7)).unwrap();
    assert_eq!(now(vec![change], &mut state, &planet), (house, "path".into(), 1));
    // far away
    let change = planet.put(9, tags(&[("natural", "tree")]), at(400_000, 400_000));
    assert_eq!(now(vec![change], &mut state, &planet).2, 0);
    // the centre is another, and goes
    let change = planet.put(10, tags(&[("building", "school"), ("note", "new")]), Body::Way(vec![1, 2, 3, 4, 1]));
    assert_eq!(now(vec![change], &mut state, &planet).0, Some(tags(&[("building", "school")])));
    let change = planet.delete(id_of(Kind::Way, 10)).unwrap();
    assert_eq!(now(vec![change], &mut state, &planet), (None, "path".into(), 1));
    assert_eq!(state.missing().count(), 0);
}

/// The number of an area says not whether it is a way's or a relation's: another object has it, too.
#[test]
fn what_has_the_number_of_an_area_by_chance_is_not_what_an_image_shows() {
    let at = |lon: i32, lat: i32| Body::Node(Some(Place { lon: 250_000_000 + lon, lat: 600_000_000 + lat }));
    let corners = [(1, 0, 0), (2, 1_000, 0), (3, 1_000, 1_000), (4, 0, 1_000)];
    let mut planet = Planet::default();
    for (id, lon, lat) in corners {
        planet.put(id, tags(&[]), at(lon, lat));
        // the same in another part of the country
        planet.put(id + 10, tags(&[]), at(lon + 30_000_000, lat));
    }
    planet.put(7, tags(&[("building", "yes")]), Body::Way(vec![1, 2, 3, 4, 1]));
    planet.put(17, tags(&[]), Body::Way(vec![11, 12, 13, 14, 11]));
    let low = Place { lon: 250_000_000 - 200, lat: 600_000_000 - 200 };
    let rect = Rect { low, high: Place { lon: low.lon + 1_400, lat: low.lat + 1_400 } };
    let boxes = vec![ImageBox { image_id: "a7_FI_19".into(), kind: SubjectKind::Area, id: 7, rect }];
    let route = (tags(&[("type", "route"), ("route", "bus")]), id_of(Kind::Node, 1));
    let forest = (tags(&[("type", "multipolygon"), ("landuse", "forest")]), id_of(Kind::Way, 17));
    for ((of_relation, member), is_abroad) in [(route, false), (forest.clone(), false), (forest, true)] {
        let mut planet = planet.clone();
        planet.put(7, of_relation.clone(), Body::Relation(vec![member]));
        let mut covered = planet.clone();
        if is_abroad {
            covered.objects.retain(|key, _| key.id < 10 && key.kind != Kind::Relation);
        }
        let mut state = read(&covered, &boxes, true);
        let mut center = |changes: Vec<Change>, planet: &Planet| {
            state.apply(Diff::read(osc(&changes).as_bytes()).unwrap());
            let answer = state.answer(0, &ignored).unwrap();
            assert_eq!(Some(&answer), read(planet, &boxes, false).answer(0, &ignored).as_ref());
            answer.center
        };
        let house = Some(tags(&[("building", "yes")]));
        assert_eq!(center(vec![], &planet), house);
        // a diff tells of the relation without its ways
        let mut named = of_relation;
        named.insert("name".into(), "Seven".into());
        let edited = planet.put(7, named, Body::Relation(vec![member]));
        assert_eq!(center(vec![edited], &planet), house);
        // it may be moved out of the picture
        let moved = corners.map(|(id, lon, lat)| planet.put(id, tags(&[]), at(lon + 20_000, lat)));
        assert_eq!(center(moved.to_vec(), &planet), house);
        let deleted = planet.delete(id_of(Kind::Way, 7)).unwrap();
        assert_eq!(center(vec![deleted], &planet), None);
    }
}
