//! A small planet that can be edited, and written as an extract and as diffs.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

use osm::{Action, Body, Change, Kind, Object, ObjectId, Place, Tags};

use crate::pbf_writer as pbf;

/// Objects by kind and number, with their versions.
#[derive(Clone, Default)]
pub struct Planet {
    pub objects: BTreeMap<ObjectId, Object>,
    /// Last versions of what was deleted.
    pub deleted: BTreeMap<ObjectId, Object>,
}

pub fn tags(pairs: &[(&str, &str)]) -> Tags {
    pairs.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect()
}

pub fn id_of(kind: Kind, id: i64) -> ObjectId {
    ObjectId { kind, id }
}

impl Planet {
    /// Puts an object there; the change that tells of it.
    pub fn put(&mut self, id: i64, tags: Tags, body: Body) -> Change {
        let mut object = Object { id, version: None, tags, body };
        let key = object.object_id();
        let before = self.objects.get(&key).or(self.deleted.get(&key)).and_then(|object| object.version);
        object.version = Some(before.unwrap_or(0) + 1);
        self.deleted.remove(&key);
        self.objects.insert(key, object.clone());
        let action = if before.is_none() { Action::Create } else { Action::Modify };
        Change { action, object }
    }

    pub fn delete(&mut self, key: ObjectId) -> Option<Change> {
        let mut object = self.objects.remove(&key)?;
        object.version = object.version.map(|version| version + 1);
        self.deleted.insert(key, object.clone());
        Some(Change { action: Action::Delete, object })
    }

    pub fn place(&self, node: i64) -> Option<Place> {
        match self.objects.get(&id_of(Kind::Node, node))?.body {
            Body::Node(place) => place,
            _ => None,
        }
    }

    pub fn refs(&self, way: i64) -> Vec<i64> {
        match self.objects.get(&id_of(Kind::Way, way)).map(|way| &way.body) {
            Some(Body::Way(refs)) => refs.clone(),
            _ => Vec::new(),
        }
    }

    pub fn write(&self, path: &Path) {
        let written = if path.to_string_lossy().ends_with(".pbf") { self.pbf() } else { self.xml().into_bytes() };
        std::fs::write(path, written).unwrap();
    }

    fn xml(&self) -> String {
        let mut text = String::from("<?xml version='1.0'?>\n<osm version=\"0.6\">\n");
        self.objects.values().for_each(|object| element(&mut text, object));
        text + "</osm>\n"
    }

    pub fn pbf(&self) -> Vec<u8> {
        let objects: Vec<&Object> = self.objects.values().collect();
        let mut file = pbf::blob("OSMHeader", &pbf::header(Some(7), Some(1_764_000_000)), None);
        for (number, chunk) in objects.chunks(300).enumerate() {
            let members: Vec<Vec<(u64, i64)>> = chunk.iter().map(|object| members(object)).collect();
            let items: Vec<pbf::Item<'_>> =
                chunk.iter().zip(&members).map(|(object, members)| item(object, members)).collect();
            let message = pbf::block(&items);
            let deflated = deflate(&message);
            file.extend(pbf::blob("OSMData", &message, (number % 2 == 0).then_some(&deflated[..])));
        }
        file
    }
}

pub fn deflate(message: &[u8]) -> Vec<u8> {
    use std::io::Write;
    let mut encoder = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(message).unwrap();
    encoder.finish().unwrap()
}

fn members(object: &Object) -> Vec<(u64, i64)> {
    match &object.body {
        Body::Relation(members) => members.iter().map(|member| (member.kind as u64, member.id)).collect(),
        _ => Vec::new(),
    }
}

fn item<'a>(object: &'a Object, members: &'a [(u64, i64)]) -> pbf::Item<'a> {
    let tags = object.tags.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
    let body = match &object.body {
        Body::Node(place) => place.map(|place| pbf::Body::Node(place.lon, place.lat)).unwrap(),
        Body::Way(refs) => pbf::Body::Way(refs),
        Body::Relation(_) => pbf::Body::Relation(members),
    };
    pbf::Item { id: object.id, tags, body }
}

pub fn osc(changes: &[Change]) -> String {
    let mut text = String::from("<osmChange version=\"0.6\">\n");
    for change in changes {
        let action = match change.action {
            Action::Create => "create",
            Action::Modify => "modify",
            Action::Delete => "delete",
        };
        writeln!(text, "<{action}>").unwrap();
        element(&mut text, &change.object);
        writeln!(text, "</{action}>").unwrap();
    }
    text + "</osmChange>\n"
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('"', "&quot;").replace('<', "&lt;")
}

fn element(text: &mut String, object: &Object) {
    let (id, version) = (object.id, object.version.unwrap_or(1));
    let name = match &object.body {
        Body::Node(place) => {
            let degrees = |units: i32| f64::from(units) / 1e7;
            let place = place.unwrap();
            let (lon, lat) = (degrees(place.lon), degrees(place.lat));
            writeln!(text, "<node id=\"{id}\" version=\"{version}\" lat=\"{lat:.7}\" lon=\"{lon:.7}\">").unwrap();
            "node"
        }
        Body::Way(refs) => {
            writeln!(text, "<way id=\"{id}\" version=\"{version}\">").unwrap();
            refs.iter().for_each(|id| writeln!(text, "<nd ref=\"{id}\"/>").unwrap());
            "way"
        }
        Body::Relation(members) => {
            writeln!(text, "<relation id=\"{id}\" version=\"{version}\">").unwrap();
            for member in members {
                let kind = match member.kind {
                    Kind::Node => "node",
                    Kind::Way => "way",
                    Kind::Relation => "relation",
                };
                writeln!(text, "<member type=\"{kind}\" ref=\"{}\" role=\"outer\"/>", member.id).unwrap();
            }
            "relation"
        }
    };
    for (key, value) in &object.tags {
        writeln!(text, "<tag k=\"{}\" v=\"{}\"/>", escaped(key), escaped(value)).unwrap();
    }
    writeln!(text, "</{name}>").unwrap();
}
