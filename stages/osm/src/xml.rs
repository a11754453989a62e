//! `.osm` and `.osc`: XML, read as a stream.

use std::io::{BufRead, Read};

use quick_xml::Reader;
use quick_xml::events::{BytesStart, Event};

use crate::element::{Body, Kind, Object, Tags, add_reference, add_tag, checked_id};
use crate::header::Header;
use crate::replication::moment_of;
use crate::{ObjectId, OsmError, Place, Rect};

/// Bytes of one element's own text between its angle brackets.
const MOST_ELEMENT_BYTES: u64 = 1 << 20;

/// What a diff does with an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// It is new.
    Create,
    /// It is another than before; all of it is told.
    Modify,
    /// It goes.
    Delete,
}

/// One line of a diff.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// What is done.
    pub action: Action,
    /// To which object; of a deleted one only the id counts.
    pub object: Object,
}

impl Change {
    /// Whether the object was never there before.
    pub fn is_first(&self) -> bool {
        self.action == Action::Create && self.object.version.is_none_or(|version| version == 1)
    }
}

/// Reads an extract.
///
/// # Errors
/// [`OsmError::Content`] for what is no such file, or ends early; [`OsmError::Limit`]; those of `take`.
pub fn read_xml(input: impl BufRead, take: &mut dyn FnMut(Object) -> Result<(), OsmError>) -> Result<Header, OsmError> {
    read(input, "osm", &mut |_, object| take(object))
}

/// Reads a diff.
///
/// # Errors
/// As [`read_xml`].
pub fn read_changes(
    input: impl BufRead,
    take: &mut dyn FnMut(Change) -> Result<(), OsmError>,
) -> Result<Header, OsmError> {
    read(input, "osmChange", &mut |action, object| {
        let lost = || OsmError::Content(format!("{} stands in none of create, modify and delete", object.object_id()));
        let action = action.ok_or_else(lost)?;
        take(Change { action, object })
    })
}

/// Ends what goes on for too long without a new element: the parser keeps all of it.
struct Paced<R> {
    inner: R,
    since: u64,
}

impl<R: BufRead> Read for Paced<R> {
    fn read(&mut self, out: &mut [u8]) -> std::io::Result<usize> {
        let read = self.inner.read(out)?;
        self.since += read as u64;
        Ok(read)
    }
}

impl<R: BufRead> BufRead for Paced<R> {
    fn fill_buf(&mut self) -> std::io::Result<&[u8]> {
        if self.since > MOST_ELEMENT_BYTES {
            let why = "an element has over a mebibyte between its angle brackets";
            return Err(std::io::Error::new(std::io::ErrorKind::InvalidData, why));
        }
        self.inner.fill_buf()
    }

    fn consume(&mut self, amount: usize) {
        self.since += amount as u64;
        self.inner.consume(amount);
    }
}

type Take<'t> = &'t mut dyn FnMut(Option<Action>, Object) -> Result<(), OsmError>;

fn read(input: impl BufRead, root: &str, take: Take<'_>) -> Result<Header, OsmError> {
    let mut reader = Reader::from_reader(Paced { inner: input, since: 0 });
    let mut buffer = Vec::new();
    let mut header: Option<Header> = None;
    let (mut action, mut open): (Option<Action>, Option<Object>) = (None, None);
    let mut ended = false;
    loop {
        buffer.clear();
        let at = reader.buffer_position();
        reader.get_mut().since = 0;
        let event = reader.read_event_into(&mut buffer).map_err(|error| unreadable(error, at))?;
        match event {
            Event::Eof => break,
            Event::Start(element) if header.is_none() => header = Some(read_root(&element, root)?),
            Event::Empty(element) if header.is_none() => {
                header = Some(Header { is_empty_root: true, ..read_root(&element, root)? });
            }
            Event::Start(element) => match element.name().as_ref() {
                b"create" => action = Some(Action::Create),
                b"modify" => action = Some(Action::Modify),
                b"delete" => action = Some(Action::Delete),
                name => open_or_add(name, &element, action, &mut open, &mut header)?,
            },
            Event::Empty(element) => {
                let name = element.name();
                open_or_add(name.as_ref(), &element, action, &mut open, &mut header)?;
                if is_object(name.as_ref())
                    && let Some(object) = open.take()
                {
                    take(action, object)?;
                }
            }
            Event::End(element) => match element.name().as_ref() {
                b"create" | b"modify" | b"delete" => action = None,
                name if is_object(name) => {
                    if let Some(object) = open.take() {
                        take(action, object)?;
                    }
                }
                name => ended |= name == root.as_bytes(),
            },
            _ => {}
        }
    }
    // an empty root, `<osm/>`, is whole too
    match header {
        Some(header) if ended || header.is_empty_root => Ok(header),
        Some(_) => Err(OsmError::Content(format!("it ends before </{root}>: download it again"))),
        None => Err(OsmError::Content(format!("it holds no <{root}>: it is empty, or no OpenStreetMap XML"))),
    }
}

fn unreadable(error: quick_xml::Error, at: u64) -> OsmError {
    match error {
        quick_xml::Error::Io(io) => OsmError::stream(std::io::Error::new(io.kind(), io.to_string())),
        other => OsmError::Content(format!("it is no XML from byte {at} on ({other}): download it again")),
    }
}

fn is_object(name: &[u8]) -> bool {
    matches!(name, b"node" | b"way" | b"relation")
}

fn read_root(element: &BytesStart<'_>, root: &str) -> Result<Header, OsmError> {
    let name = String::from_utf8_lossy(element.name().as_ref()).chars().take(40).collect::<String>();
    if name != root {
        let advice = match name.as_str() {
            "osmChange" => "it is a diff: give it to --diffs",
            "osm" => "it is an extract: give it to --osm",
            _ => "it is no OpenStreetMap XML",
        };
        return Err(OsmError::Content(format!("it begins with <{name}> and not <{root}>: {advice}")));
    }
    let mut header = Header::default();
    for (key, value) in attributes(element)? {
        match key.as_str() {
            "osmosis_replication_timestamp" | "timestamp" => header.timestamp = moment_of(&value),
            "osmosis_replication_sequence_number" => header.sequence = value.parse().ok(),
            _ => {}
        }
    }
    Ok(header)
}

/// Attributes that say something here.
fn attributes(element: &BytesStart<'_>) -> Result<Vec<(String, String)>, OsmError> {
    let broken =
        |why: String| OsmError::Content(format!("an attribute cannot be read ({why}): download the file again"));
    let mut all = Vec::new();
    for attribute in element.attributes() {
        let attribute = attribute.map_err(|e| broken(e.to_string()))?;
        let value = std::str::from_utf8(&attribute.value).map_err(|e| broken(e.to_string()))?;
        let value = quick_xml::escape::unescape(value).map_err(|e| broken(e.to_string()))?;
        all.push((String::from_utf8_lossy(attribute.key.as_ref()).into_owned(), value.into_owned()));
    }
    Ok(all)
}

fn open_or_add(
    name: &[u8],
    element: &BytesStart<'_>,
    action: Option<Action>,
    open: &mut Option<Object>,
    header: &mut Option<Header>,
) -> Result<(), OsmError> {
    match name {
        b"node" | b"way" | b"relation" => *open = Some(object(name, element, action)?),
        b"bounds" => {
            if let Some(header) = header {
                header.bounds = bounds(&attributes(element)?);
            }
        }
        b"tag" | b"nd" | b"member" => {
            let Some(object) = open else { return Ok(()) };
            let attributes = attributes(element)?;
            let of = |key: &str| attributes.iter().find(|(name, _)| name == key).map(|(_, value)| value.as_str());
            match (name, &mut object.body) {
                (b"tag", _) => {
                    let lacks = || OsmError::Content("a tag lacks its key or value: download the file again".into());
                    let (key, value) = of("k").zip(of("v")).ok_or_else(lacks)?;
                    add_tag(&mut object.tags, key, value)?;
                }
                (b"nd", Body::Way(refs)) => add_reference(refs, number(of("ref"))?)?,
                (b"member", Body::Relation(members)) => {
                    let kind = match of("type") {
                        Some("node") => Kind::Node,
                        Some("way") => Kind::Way,
                        Some("relation") => Kind::Relation,
                        _ => return Err(OsmError::Content("a relation has a member of no known kind".into())),
                    };
                    add_reference(members, ObjectId { kind, id: number(of("ref"))? })?;
                }
                _ => {}
            }
        }
        _ => {}
    }
    Ok(())
}

fn number(text: Option<&str>) -> Result<i64, OsmError> {
    let number = text.and_then(|text| text.parse().ok());
    let shown: String = text.unwrap_or_default().chars().take(40).collect();
    checked_id(number.ok_or_else(|| OsmError::Content(format!("an id is {shown:?}, which is no whole number")))?)
}

fn object(name: &[u8], element: &BytesStart<'_>, action: Option<Action>) -> Result<Object, OsmError> {
    let attributes = attributes(element)?;
    let of = |key: &str| attributes.iter().find(|(name, _)| name == key).map(|(_, value)| value.as_str());
    let id = number(of("id"))?;
    let degrees = |key: &str| of(key).and_then(|text| text.parse::<f64>().ok());
    let body = match name {
        b"node" => {
            let place = degrees("lon").zip(degrees("lat")).and_then(|(lon, lat)| Place::of_degrees(lon, lat));
            if place.is_none() && action != Some(Action::Delete) && of("visible") != Some("false") {
                return Err(OsmError::Content(format!(
                    "node {id} lies nowhere on Earth: lat or lon is missing or wrong"
                )));
            }
            Body::Node(place)
        }
        b"way" => Body::Way(Vec::new()),
        _ => Body::Relation(Vec::new()),
    };
    if action.is_none() && of("visible") == Some("false") {
        return Err(OsmError::Content(
            "it holds deleted objects, so it is a history: make an extract of one moment with `osmium time-filter`"
                .into(),
        ));
    }
    Ok(Object { id, version: of("version").and_then(|version| version.parse().ok()), tags: Tags::new(), body })
}

fn bounds(attributes: &[(String, String)]) -> Option<Rect> {
    let of = |key: &str| attributes.iter().find(|(name, _)| name == key).and_then(|(_, v)| v.parse::<f64>().ok());
    let low = Place::of_degrees(of("minlon")?, of("minlat")?)?;
    let high = Place::of_degrees(of("maxlon")?, of("maxlat")?)?;
    Some(Rect { low, high })
}
