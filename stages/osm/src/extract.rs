//! An extract, read once for its relations and once for the rest: what reaches into a box or its margin is kept.

use std::fs::File;
use std::io::{BufWriter, Read, Seek, SeekFrom, Write};
use std::path::Path;
use std::sync::Arc;

use crate::area::{is_area, is_multipolygon, member_ways, relation_shape, way_shape};
use crate::boxes::Boxes;
use crate::element::{Body, Kind, Object, ObjectId, Place, Tags};
use crate::file::read_objects;
use crate::header::Header;
use crate::latest::{get_texts, put_texts};
use crate::locations::{LocationWriter, Locations};
use crate::shape::Shape;
use crate::sorted::{get_list, put_list};
use crate::state::{KeptNode, KeptRelation, KeptWay};
use crate::{OsmError, State};

/// What an extract has told.
#[derive(Debug)]
pub struct ReadExtract {
    /// What is kept of it.
    pub state: State,
    /// What it says of itself.
    pub header: Header,
    /// Images whose boxes do not lie within it: nothing is known of them.
    pub outside: Vec<String>,
    /// Objects that it holds: nodes, ways, relations.
    pub objects: [u64; 3],
    /// What the index of nodes took on the disk.
    pub index_bytes: u64,
}

/// Reads an extract for these boxes. Memory grows with what lies in and near boxes, with the multipolygons of the extract,
/// and by a sixteenth of a byte for each of its nodes; places lie on the disk, in a file without a name in `scratch`.
///
/// # Errors
/// [`OsmError`] for a file that cannot be read, is damaged or is not sorted by kind; `stop` ends it with
/// [`OsmError::Io`] of the kind `Interrupted`.
pub fn read_extract(
    path: &Path,
    boxes: Boxes,
    scratch: &Path,
    stop: &dyn Fn() -> bool,
) -> Result<ReadExtract, OsmError> {
    let check = |objects: u64| {
        let interrupted = || std::io::Error::from(std::io::ErrorKind::Interrupted);
        if objects.is_multiple_of(65_536) && stop() { Err(OsmError::io(path)(interrupted())) } else { Ok(()) }
    };
    // packed: a country has hundreds of thousands, and of most nothing is kept
    let mut relations: Vec<(i64, Box<[u8]>)> = Vec::new();
    let mut members: Vec<i64> = Vec::new();
    let mut seen = 0;
    let header = read_objects(path, &|kind| kind == Kind::Relation, &mut |object| {
        seen += 1;
        check(seen)?;
        let Body::Relation(parts) = object.body else { return Ok(()) };
        let is_area = is_multipolygon(&object.tags);
        if is_area || boxes.of_subject(ObjectId { kind: Kind::Relation, id: object.id }).next().is_some() {
            let ways: Vec<i64> = if is_area { member_ways(&parts).collect() } else { Vec::new() };
            relations.push((object.id, packed(&ways, &object.tags).into()));
            members.extend(ways);
        }
        Ok(())
    })?;
    let (boxes, outside) = within(boxes, &header);
    let mut reading = Reading {
        state: State::of(boxes),
        writer: Some(LocationWriter::create(scratch)?),
        locations: None,
        parts: Parts::create(scratch, members)?,
        objects: [0, 0, seen],
    };
    let mut seen = 0;
    read_objects(path, &|kind| kind != Kind::Relation, &mut |object| {
        seen += 1;
        check(seen)?;
        reading.take(object)
    })?;
    reading.locations()?;
    for (id, relation) in relations {
        let (ways, tags) = unpacked(&relation).ok_or_else(|| OsmError::Content(format!("relation {id} was lost")))?;
        reading.relation(id, ways, &tags)?;
    }
    reading.finish(header, outside).map_err(|why| why.inside(path))
}

/// Boxes that an extract claims to cover, and the others' images.
fn within(boxes: Boxes, header: &Header) -> (Boxes, Vec<String>) {
    let Some(bounds) = header.bounds else { return (boxes, Vec::new()) };
    let images = boxes.all();
    let is_within =
        |number: u32| images.rect(number).is_some_and(|rect| bounds.holds(rect.low) && bounds.holds(rect.high));
    let outside = (0..images.len() as u32).filter(|number| !is_within(*number));
    let outside: Vec<String> = outside.filter_map(|number| images.image_id(number)).map(str::to_owned).collect();
    if outside.is_empty() {
        return (boxes, outside);
    }
    (Boxes::of(Arc::new(images.filtered(is_within)), boxes.margin_meters()), outside)
}

/// Ways whose nodes are looked for together.
const WAYS_AT_ONCE: usize = 1 << 16;

struct Reading {
    state: State,
    /// Until the first way.
    writer: Option<LocationWriter>,
    locations: Option<Locations>,
    parts: Parts,
    objects: [u64; 3],
}

impl Reading {
    fn take(&mut self, object: Object) -> Result<(), OsmError> {
        match object.body {
            Body::Node(Some(place)) => self.node(object.id, place, object.tags),
            Body::Way(refs) => self.way(object.id, refs, object.tags),
            _ => Ok(()),
        }
    }

    fn node(&mut self, id: i64, place: Place, tags: Tags) -> Result<(), OsmError> {
        self.objects[0] += 1;
        let Some(writer) = &mut self.writer else {
            return Err(OsmError::Content(format!(
                "node {id} comes after a way, whose place is not known by then: sort the file with `osmium sort`"
            )));
        };
        writer.push(id, place)?;
        let is_complete = self.state.boxes.any_holds(place);
        if is_complete || self.state.is_subject(Kind::Node, id) {
            let tags = (!tags.is_empty()).then(|| self.state.texts.numbers(&tags));
            self.state.nodes.insert(id, &KeptNode { place, tags, is_complete });
        }
        Ok(())
    }

    fn locations(&mut self) -> Result<&mut Locations, OsmError> {
        if let Some(writer) = self.writer.take() {
            self.locations = Some(writer.finish()?);
        }
        self.locations.as_mut().ok_or_else(|| OsmError::Content("no index of nodes was made".into()))
    }

    fn shape(&mut self, refs: &[i64], tags: &Tags) -> Result<Shape, OsmError> {
        let locations = self.locations()?;
        let mut failed = None;
        let shape = way_shape(refs, || is_area(tags), &mut |id| match locations.get(id) {
            Ok(place) => place,
            Err(error) => {
                failed = Some(error);
                None
            }
        });
        failed.map_or(Ok(shape), Err)
    }

    fn way(&mut self, id: i64, refs: Vec<i64>, tags: Tags) -> Result<(), OsmError> {
        self.objects[1] += 1;
        let shape = self.shape(&refs, &tags)?;
        let is_complete = State::is_near(&self.state.boxes, &shape);
        if is_complete || self.state.is_subject(Kind::Way, id) {
            let tags = self.state.texts.numbers(&tags);
            self.state.ways.insert(id, &KeptWay { refs, tags, is_complete });
        } else if self.parts.is_wanted(id) {
            self.parts.put(id, &refs, &tags)?;
        }
        Ok(())
    }

    fn relation(&mut self, id: i64, members: Vec<i64>, tags: &Tags) -> Result<(), OsmError> {
        let mut ways: Vec<Option<(Vec<i64>, Tags)>> = Vec::with_capacity(members.len());
        for way in &members {
            let kept = self.state.ways.get(*way).map(|way| (way.refs, self.state.texts.tags(&way.tags)));
            ways.push(if kept.is_some() { kept } else { self.parts.get(*way)? });
        }
        let mut shapes = Vec::with_capacity(ways.len());
        for way in &ways {
            shapes.push(match way {
                Some((refs, tags)) => Some((refs.as_slice(), self.shape(refs, tags)?)),
                None => None,
            });
        }
        let is_near = State::is_near(&self.state.boxes, &relation_shape(&shapes));
        if !is_near && !self.state.is_subject(Kind::Relation, id) {
            return Ok(());
        }
        let state = &mut self.state;
        for (id, way) in members.iter().zip(ways) {
            match way {
                Some(_) if state.ways.contains(*id) => {}
                Some((refs, tags)) => {
                    let tags = state.texts.numbers(&tags);
                    state.ways.insert(*id, &KeptWay { refs, tags, is_complete: false });
                }
                None => _ = state.gone.insert(ObjectId { kind: Kind::Way, id: *id }),
            }
        }
        let tags = state.texts.numbers(tags);
        state.relations.insert(id, &KeptRelation { ways: members, tags });
        Ok(())
    }

    /// Adds the nodes of what is kept.
    fn finish(mut self, header: Header, outside: Vec<String>) -> Result<ReadExtract, OsmError> {
        // some ways at a time: all of their nodes would be a list of its own
        let ways: Vec<i64> = self.state.ways.iter().map(|(id, _)| id).collect();
        for ways in ways.chunks(WAYS_AT_ONCE) {
            let refs = ways.iter().filter_map(|id| self.state.ways.get(*id)).flat_map(|way| way.refs);
            let mut used: Vec<i64> = refs.filter(|id| !self.state.nodes.contains(*id)).collect();
            used.sort_unstable();
            used.dedup();
            for id in used {
                match self.locations()?.get(id)? {
                    Some(place) => {
                        self.state.nodes.insert(id, &KeptNode { place, tags: None, is_complete: false });
                    }
                    None => _ = self.state.gone.insert(ObjectId { kind: Kind::Node, id }),
                }
            }
        }
        let index_bytes = self.locations()?.bytes();
        let mut state = self.state;
        state.sequence = header.sequence;
        state.timestamp = header.timestamp;
        state.reindex();
        Ok(ReadExtract { state, header, outside, objects: self.objects, index_bytes })
    }
}

/// Ways that relations are made of, on the disk until it is known which are kept.
struct Parts {
    file: BufWriter<File>,
    /// Ways in order, with offset and length; length 0: not seen yet.
    places: Vec<(i64, u64, u32)>,
    offset: u64,
}

fn failed(cause: std::io::Error) -> OsmError {
    OsmError::Io { path: "the parts of relations in the folder for temporary files".into(), cause }
}

impl Parts {
    fn create(folder: &Path, mut wanted: Vec<i64>) -> Result<Self, OsmError> {
        let file = BufWriter::new(tempfile::tempfile_in(folder).map_err(failed)?);
        wanted.sort_unstable();
        wanted.dedup();
        Ok(Self { file, places: wanted.into_iter().map(|id| (id, 0, 0)).collect(), offset: 0 })
    }

    fn place(&self, id: i64) -> Option<usize> {
        self.places.binary_search_by_key(&id, |(id, ..)| *id).ok()
    }

    fn is_wanted(&self, id: i64) -> bool {
        self.place(id).is_some()
    }

    fn put(&mut self, id: i64, refs: &[i64], tags: &Tags) -> Result<(), OsmError> {
        let Some(place) = self.place(id) else { return Ok(()) };
        let bytes = packed(refs, tags);
        self.file.write_all(&bytes).map_err(failed)?;
        self.places[place] = (id, self.offset, bytes.len() as u32);
        self.offset += bytes.len() as u64;
        Ok(())
    }

    fn get(&mut self, id: i64) -> Result<Option<(Vec<i64>, Tags)>, OsmError> {
        let found = self.place(id).map(|place| self.places[place]).filter(|(.., length)| *length > 0);
        let Some((_, offset, length)) = found else { return Ok(None) };
        self.file.flush().map_err(failed)?;
        let file = self.file.get_mut();
        let mut bytes = vec![0; length as usize];
        file.seek(SeekFrom::Start(offset)).map_err(failed)?;
        file.read_exact(&mut bytes).map_err(failed)?;
        file.seek(SeekFrom::End(0)).map_err(failed)?;
        let way = unpacked(&bytes).ok_or_else(|| failed(std::io::Error::other("it was changed meanwhile")))?;
        Ok(Some(way))
    }
}

/// References and tags in a few bytes.
fn packed(refs: &[i64], tags: &Tags) -> Vec<u8> {
    let mut bytes = Vec::new();
    put_list(&mut bytes, refs);
    put_texts(&mut bytes, tags);
    bytes
}

fn unpacked(mut bytes: &[u8]) -> Option<(Vec<i64>, Tags)> {
    Some((get_list(&mut bytes)?, get_texts(bytes)?))
}
