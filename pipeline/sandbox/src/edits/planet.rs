//! The map in memory, with what was changed in it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use quick_xml::events::{BytesStart, Event};
use quick_xml::{Reader, Writer};

use crate::error::SandboxError;
use crate::extract::{Element, Geometry, Position, rounded, write_tags};
use crate::scene::Tags;

/// Whether it is a way, and its number.
pub type Id = (bool, u64);

/// What an object is besides its tags.
#[derive(Debug, Clone, PartialEq)]
pub enum Body {
    Node(Position),
    Way(Vec<u64>),
}

#[derive(Debug, Clone, PartialEq)]
struct Object {
    version: u32,
    tags: Tags,
    body: Body,
}

/// All objects, and the state of changed ones before the edits.
#[derive(Default)]
pub struct Planet {
    objects: BTreeMap<Id, Object>,
    before: BTreeMap<Id, Option<Object>>,
    next: u64,
}

impl Planet {
    /// Reads an extract that the sandbox wrote.
    pub fn read(path: &Path) -> Result<Planet, SandboxError> {
        let damaged = |reason: String| SandboxError::damaged(path, reason);
        let mut reader = Reader::from_file(path).map_err(|error| damaged(error.to_string()))?;
        let mut planet = Planet::default();
        let (mut buffer, mut open): (Vec<u8>, Option<(Id, Object)>) = (Vec::new(), None);
        loop {
            buffer.clear();
            match reader.read_event_into(&mut buffer).map_err(|error| damaged(error.to_string()))? {
                Event::Eof => return Ok(planet),
                Event::Start(element) => add(&element, &mut open).map_err(damaged)?,
                Event::Empty(element) => {
                    add(&element, &mut open).map_err(damaged)?;
                    if element.name().as_ref() == b"node" {
                        planet.objects.extend(open.take());
                    }
                }
                Event::End(element) if [&b"node"[..], b"way"].contains(&element.name().as_ref()) => {
                    planet.objects.extend(open.take());
                }
                _ => {}
            }
        }
    }

    /// New objects get numbers of this diff alone.
    pub fn begin(&mut self, sequence: u64) {
        self.next = 9_000_000_000 + sequence * 1_000_000;
    }

    /// Objects of a kind whose numbers lie in a range.
    pub fn between(&self, is_way: bool, range: std::ops::Range<u64>) -> impl Iterator<Item = Id> + '_ {
        self.objects.range((is_way, range.start)..(is_way, range.end)).map(|(id, _)| *id)
    }

    /// Objects that were changed.
    pub fn changed(&self) -> usize {
        self.before.len()
    }

    fn remember(&mut self, id: Id) {
        let now = self.objects.get(&id).cloned();
        self.before.entry(id).or_insert(now);
    }

    pub fn create(&mut self, body: Body, tags: Tags) -> Id {
        self.next += 1;
        let id = (matches!(body, Body::Way(_)), self.next);
        let body = match body {
            Body::Node(place) => Body::Node(rounded(place)),
            way => way,
        };
        self.remember(id);
        self.objects.insert(id, Object { version: 1, tags, body });
        id
    }

    fn change(&mut self, id: Id, change: impl FnOnce(&mut Object)) {
        if !self.objects.contains_key(&id) {
            return;
        }
        self.remember(id);
        let version = self.before.get(&id).and_then(Option::as_ref).map_or(1, |before| before.version + 1);
        if let Some(object) = self.objects.get_mut(&id) {
            change(object);
            object.version = version;
        }
    }

    pub fn retag(&mut self, id: Id, change: impl FnOnce(&mut Tags)) {
        self.change(id, |object| change(&mut object.tags));
    }

    fn nodes(&self, id: Id) -> Vec<u64> {
        match self.objects.get(&id).map(|object| &object.body) {
            Some(Body::Way(refs)) => refs.iter().copied().collect::<BTreeSet<_>>().into_iter().collect(),
            Some(Body::Node(_)) => vec![id.1],
            None => Vec::new(),
        }
    }

    /// An object goes, with its nodes.
    pub fn delete(&mut self, id: Id) {
        for node in self.nodes(id).into_iter().map(|node| (false, node)).chain([id]) {
            if self.objects.contains_key(&node) {
                self.remember(node);
                self.objects.remove(&node);
            }
        }
    }

    /// The nodes of an object are moved; of a way nothing else is told.
    pub fn shift(&mut self, id: Id, by: Position) {
        for node in self.nodes(id) {
            self.change((false, node), |object| {
                if let Body::Node(place) = &mut object.body {
                    *place = rounded((place.0 + by.0, place.1 + by.1));
                }
            });
        }
    }

    /// Where an object begins.
    pub fn place(&self, id: Id) -> Option<Position> {
        let node = self.nodes(id).first().copied()?;
        self.place_of_node(node)
    }

    fn place_of_node(&self, node: u64) -> Option<Position> {
        match self.objects.get(&(false, node))?.body {
            Body::Node(place) => Some(place),
            Body::Way(_) => None,
        }
    }

    /// All of it, for an extract.
    pub fn elements(&self) -> Vec<Element> {
        let refs = |object: &Object| match &object.body {
            Body::Way(refs) => refs.clone(),
            Body::Node(_) => Vec::new(),
        };
        let used: BTreeSet<u64> = self.objects.values().flat_map(refs).collect();
        let geometry = |id: &Id, object: &Object| match &object.body {
            Body::Node(place) => (!used.contains(&id.1)).then_some(Geometry::Node(*place)),
            Body::Way(refs) => {
                let places = refs.iter().map(|node| Some((*node, self.place_of_node(*node)?)));
                places.collect::<Option<Vec<_>>>().map(Geometry::Way)
            }
        };
        let element = |(id, object): (&Id, &Object)| {
            let geometry = geometry(id, object)?;
            Some(Element { id: id.1, version: object.version, tags: object.tags.clone(), geometry })
        };
        self.objects.iter().filter_map(element).collect()
    }

    /// What was changed, as a diff.
    pub fn diff(&self) -> std::io::Result<Vec<u8>> {
        let mut writer = Writer::new_with_indent(Vec::new(), b' ', 1);
        writer.create_element("osmChange").with_attribute(("version", "0.6")).write_inner_content(|writer| {
            for (id, before) in &self.before {
                let now = self.objects.get(id);
                let (action, object) = match (before, now) {
                    (None, Some(now)) => ("create", now),
                    (Some(_), Some(now)) => ("modify", now),
                    (Some(before), None) => ("delete", before),
                    (None, None) => continue,
                };
                let version = object.version + u32::from(action == "delete");
                writer.create_element(action).write_inner_content(|writer| write(writer, *id, version, object))?;
            }
            Ok(())
        })?;
        Ok(writer.into_inner())
    }
}

fn add(element: &BytesStart<'_>, open: &mut Option<(Id, Object)>) -> Result<(), String> {
    let attribute = |name: &str| -> Result<String, String> {
        let found = element.try_get_attribute(name).map_err(|e| e.to_string())?.ok_or(format!("no {name}"))?;
        let text = std::str::from_utf8(&found.value).map_err(|e| e.to_string())?;
        quick_xml::escape::unescape(text).map(|text| text.into_owned()).map_err(|e| e.to_string())
    };
    let number = |name: &str| attribute(name)?.parse::<u64>().map_err(|e| e.to_string());
    let degrees = |name: &str| attribute(name)?.parse::<f64>().map_err(|e| e.to_string());
    let object = |body: Body| -> Result<Object, String> {
        Ok(Object { version: number("version")? as u32, tags: Tags::new(), body })
    };
    match (element.name().as_ref(), open.as_mut()) {
        (b"node", _) => {
            let place = (degrees("lon")?, degrees("lat")?);
            *open = Some(((false, number("id")?), object(Body::Node(place))?));
        }
        (b"way", _) => *open = Some(((true, number("id")?), object(Body::Way(Vec::new()))?)),
        (b"nd", Some((_, Object { body: Body::Way(refs), .. }))) => refs.push(number("ref")?),
        (b"tag", Some((_, object))) => _ = object.tags.insert(attribute("k")?, attribute("v")?),
        _ => {}
    }
    Ok(())
}

fn write(writer: &mut Writer<Vec<u8>>, id: Id, version: u32, object: &Object) -> std::io::Result<()> {
    let (id, version) = (id.1.to_string(), version.to_string());
    let attributes = [("id", id.as_str()), ("version", version.as_str())];
    match &object.body {
        Body::Node((lon, lat)) => {
            let (lon, lat) = (format!("{lon:.7}"), format!("{lat:.7}"));
            let node = writer.create_element("node").with_attributes(attributes);
            let node = node.with_attributes([("lat", lat.as_str()), ("lon", lon.as_str())]);
            node.write_inner_content(|writer| write_tags(writer, &object.tags))?;
        }
        Body::Way(refs) => {
            writer.create_element("way").with_attributes(attributes).write_inner_content(|writer| {
                for node in refs {
                    writer.create_element("nd").with_attribute(("ref", node.to_string().as_str())).write_empty()?;
                }
                write_tags(writer, &object.tags)
            })?;
        }
    }
    Ok(())
}
