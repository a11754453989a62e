//! The OpenStreetMap extract: the same objects as XML, nodes before ways.

mod frame;
mod pbf;

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

use quick_xml::Writer;
use quick_xml::events::{BytesDecl, BytesEnd, BytesStart, BytesText, Event};

use crate::archive::Staged;
use crate::error::SandboxError;
use crate::scene::Tags;

pub use frame::{Frame, rounded};

/// Longitude and latitude, degrees.
pub type Position = (f64, f64);

/// The diff that a new world is up to date with, and the moment that it shows, seconds since 1970: 2026-01-01.
pub const FIRST_SEQUENCE: u64 = 100;
pub const FIRST_MOMENT: i64 = 1_767_225_600;
/// Seconds between two diffs.
pub const DIFF_SECONDS: i64 = 86_400;

/// An extract of a world that was edited so many times is up to date with this diff, at this moment.
pub fn moment_of(edits: u64) -> (u64, String) {
    // 2026 has no 29th of February, and no world is edited for years
    let days = edits.min(1_000) as u32;
    let (mut month, mut day, mut year) = (1u32, 1 + days, 2026u32);
    let length = |year: u32, month: u32| match month {
        2 => 28 + u32::from(year.is_multiple_of(4)),
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    };
    while day > length(year, month) {
        day -= length(year, month);
        (year, month) = if month == 12 { (year + 1, 1) } else { (year, month + 1) };
    }
    (FIRST_SEQUENCE + edits, format!("{year:04}-{month:02}-{day:02}T00:00:00Z"))
}

/// An object of the map.
#[derive(Debug, Clone)]
pub struct Element {
    pub id: u64,
    pub version: u32,
    pub tags: Tags,
    pub geometry: Geometry,
}

/// Where it lies; ways carry the ids of their nodes.
#[derive(Debug, Clone)]
pub enum Geometry {
    Node(Position),
    /// Open, or closed if the first node is the last.
    Way(Vec<(u64, Position)>),
}

/// An extract in the making, as XML and as PBF. Nodes go to the files at once, ways wait for the end.
pub struct Extract {
    staged: Staged,
    nodes: Writer<BufWriter<File>>,
    ways: Writer<Vec<u8>>,
    packed: Packed,
}

/// The same as PBF.
struct Packed {
    staged: Staged,
    file: BufWriter<File>,
    nodes: Vec<(i64, Position, Tags)>,
    ways: Vec<(i64, Vec<i64>, Tags)>,
}

/// Objects of a block.
const BLOCK: usize = 4_000;

impl Packed {
    fn create(path: &Path, edits: u64) -> Result<Packed, SandboxError> {
        let (staged, mut file) = Staged::create(path)?;
        let (sequence, moment) = (FIRST_SEQUENCE + edits, FIRST_MOMENT + edits as i64 * DIFF_SECONDS);
        let header = pbf::blob("OSMHeader", &pbf::header(Some(sequence), Some(moment)), None);
        file.write_all(&header).map_err(SandboxError::storage(staged.path()))?;
        Ok(Packed { staged, file, nodes: Vec::new(), ways: Vec::new() })
    }

    fn write_nodes(&mut self) -> std::io::Result<()> {
        let units = |degrees: f64| (degrees * 1e7).round() as i32;
        let item = |(id, (lon, lat), tags): &(i64, Position, Tags)| (*id, tags.clone(), (units(*lon), units(*lat)));
        let nodes: Vec<_> = self.nodes.drain(..).map(|node| item(&node)).collect();
        let items: Vec<pbf::Item<'_>> = nodes
            .iter()
            .map(|(id, tags, (lon, lat))| pbf::Item { id: *id, tags: texts(tags), body: pbf::Body::Node(*lon, *lat) })
            .collect();
        self.file.write_all(&pbf::blob("OSMData", &pbf::block(&items), None))
    }

    fn complete(mut self) -> Result<Staged, SandboxError> {
        let mut finish = || {
            if !self.nodes.is_empty() {
                self.write_nodes()?;
            }
            for ways in self.ways.chunks(BLOCK) {
                let items: Vec<pbf::Item<'_>> = ways
                    .iter()
                    .map(|(id, refs, tags)| pbf::Item { id: *id, tags: texts(tags), body: pbf::Body::Way(refs) })
                    .collect();
                self.file.write_all(&pbf::blob("OSMData", &pbf::block(&items), None))?;
            }
            Ok(())
        };
        finish().map_err(SandboxError::storage(self.staged.path()))?;
        self.staged.complete(self.file)?;
        Ok(self.staged)
    }
}

fn texts(tags: &Tags) -> Vec<(&str, &str)> {
    tags.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect()
}

impl Extract {
    /// `name.osm` and `name.osm.pbf`, of a world that was edited so many times.
    pub fn create(path: &Path, edits: u64) -> Result<Extract, SandboxError> {
        let (staged, writer) = Staged::create(path)?;
        let packed = Packed::create(&path.with_extension("osm.pbf"), edits)?;
        let (sequence, moment) = moment_of(edits);
        let mut nodes = Writer::new(writer);
        let begin = |nodes: &mut Writer<BufWriter<File>>| {
            nodes.write_event(Event::Decl(BytesDecl::new("1.0", Some("UTF-8"), None)))?;
            nodes.write_event(Event::Text(BytesText::new("\n")))?;
            let root = BytesStart::new("osm").with_attributes([
                ("version", "0.6"),
                ("generator", "urbancross-sandbox"),
                ("osmosis_replication_sequence_number", sequence.to_string().as_str()),
                ("osmosis_replication_timestamp", moment.as_str()),
            ]);
            nodes.write_event(Event::Start(root))
        };
        begin(&mut nodes).map_err(SandboxError::storage(staged.path()))?;
        Ok(Extract { staged, nodes, ways: Writer::new(Vec::new()), packed })
    }

    /// Adds the objects of a tile; a closed way repeats its first node id at the end.
    pub fn put(&mut self, elements: &[Element]) -> Result<(), SandboxError> {
        for element in elements {
            self.element(element).map_err(SandboxError::storage(self.staged.path()))?;
        }
        Ok(())
    }

    fn element(&mut self, element: &Element) -> std::io::Result<()> {
        match &element.geometry {
            Geometry::Node(place) => self.node(element.id, element.version, *place, &element.tags),
            Geometry::Way(line) => {
                for (index, (id, place)) in line.iter().enumerate() {
                    let closes = index > 0 && line.first().is_some_and(|first| first.0 == *id);
                    if !closes {
                        self.node(*id, 1, *place, &Tags::new())?;
                    }
                }
                let refs: Vec<i64> = line.iter().map(|(id, _)| *id as i64).collect();
                self.packed.ways.push((element.id as i64, refs, element.tags.clone()));
                let (id, version) = (element.id.to_string(), element.version.to_string());
                self.ways.write_event(Event::Text(BytesText::new("\n")))?;
                self.ways
                    .create_element("way")
                    .with_attributes([("id", id.as_str()), ("version", version.as_str())])
                    .write_inner_content(|writer| {
                    for (id, _) in line {
                        writer.create_element("nd").with_attribute(("ref", id.to_string().as_str())).write_empty()?;
                    }
                    write_tags(writer, &element.tags)
                })?;
                Ok(())
            }
        }
    }

    fn node(&mut self, id: u64, version: u32, place: Position, tags: &Tags) -> std::io::Result<()> {
        self.packed.nodes.push((id as i64, place, tags.clone()));
        if self.packed.nodes.len() >= BLOCK {
            self.packed.write_nodes()?;
        }
        node(&mut self.nodes, (id, version), place, tags)
    }

    /// Both files, the XML last.
    pub fn complete(mut self) -> Result<[Staged; 2], SandboxError> {
        let ways = self.ways.into_inner();
        let mut finish = || {
            self.nodes.get_mut().write_all(&ways)?;
            self.nodes.write_event(Event::Text(BytesText::new("\n")))?;
            self.nodes.write_event(Event::End(BytesEnd::new("osm")))
        };
        finish().map_err(SandboxError::storage(self.staged.path()))?;
        self.staged.complete(self.nodes.into_inner())?;
        Ok([self.packed.complete()?, self.staged])
    }
}

fn node<W: Write>(
    writer: &mut Writer<W>,
    (id, version): (u64, u32),
    (lon, lat): Position,
    tags: &Tags,
) -> std::io::Result<()> {
    let version = version.to_string();
    let (id, lat, lon) = (id.to_string(), format!("{lat:.7}"), format!("{lon:.7}"));
    writer.write_event(Event::Text(BytesText::new("\n")))?;
    let element = writer.create_element("node").with_attributes([
        ("id", id.as_str()),
        ("version", version.as_str()),
        ("lat", lat.as_str()),
        ("lon", lon.as_str()),
    ]);
    if tags.is_empty() {
        element.write_empty()?;
    } else {
        element.write_inner_content(|writer| write_tags(writer, tags))?;
    }
    Ok(())
}

pub fn write_tags<W: Write>(writer: &mut Writer<W>, tags: &Tags) -> std::io::Result<()> {
    for (key, value) in tags {
        writer.create_element("tag").with_attributes([("k", key.as_str()), ("v", value.as_str())]).write_empty()?;
    }
    Ok(())
}
