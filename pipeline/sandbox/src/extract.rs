//! The OpenStreetMap extract: the same objects as XML, nodes before ways.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

use quick_xml::Writer;
use quick_xml::events::{BytesDecl, BytesEnd, BytesStart, BytesText, Event};

use crate::archive::Staged;
use crate::error::SandboxError;
use crate::scene::Tags;

/// Longitude and latitude, degrees.
pub type Position = (f64, f64);

/// An object of the map.
#[derive(Debug, Clone)]
pub struct Element {
    pub id: u64,
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

/// An extract in the making. Nodes go to the file at once, ways wait for the end.
pub struct Extract {
    staged: Staged,
    nodes: Writer<BufWriter<File>>,
    ways: Writer<Vec<u8>>,
}

impl Extract {
    pub fn create(path: &Path) -> Result<Extract, SandboxError> {
        let (staged, writer) = Staged::create(path)?;
        let mut nodes = Writer::new(writer);
        let begin = |nodes: &mut Writer<BufWriter<File>>| {
            nodes.write_event(Event::Decl(BytesDecl::new("1.0", Some("UTF-8"), None)))?;
            nodes.write_event(Event::Text(BytesText::new("\n")))?;
            let root =
                BytesStart::new("osm").with_attributes([("version", "0.6"), ("generator", "urbancross-sandbox")]);
            nodes.write_event(Event::Start(root))
        };
        begin(&mut nodes).map_err(SandboxError::storage(staged.path()))?;
        Ok(Extract { staged, nodes, ways: Writer::new(Vec::new()) })
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
            Geometry::Node(place) => node(&mut self.nodes, element.id, *place, &element.tags),
            Geometry::Way(line) => {
                for (index, (id, place)) in line.iter().enumerate() {
                    let closes = index > 0 && line.first().is_some_and(|first| first.0 == *id);
                    if !closes {
                        node(&mut self.nodes, *id, *place, &Tags::new())?;
                    }
                }
                let id = element.id.to_string();
                self.ways.write_event(Event::Text(BytesText::new("\n")))?;
                self.ways
                    .create_element("way")
                    .with_attributes([("id", id.as_str()), ("version", "1")])
                    .write_inner_content(|writer| {
                        for (id, _) in line {
                            writer
                                .create_element("nd")
                                .with_attribute(("ref", id.to_string().as_str()))
                                .write_empty()?;
                        }
                        write_tags(writer, &element.tags)
                    })?;
                Ok(())
            }
        }
    }

    pub fn complete(mut self) -> Result<Staged, SandboxError> {
        let ways = self.ways.into_inner();
        let mut finish = || {
            self.nodes.get_mut().write_all(&ways)?;
            self.nodes.write_event(Event::Text(BytesText::new("\n")))?;
            self.nodes.write_event(Event::End(BytesEnd::new("osm")))
        };
        finish().map_err(SandboxError::storage(self.staged.path()))?;
        self.staged.complete(self.nodes.into_inner())?;
        Ok(self.staged)
    }
}

fn node<W: Write>(writer: &mut Writer<W>, id: u64, (lon, lat): Position, tags: &Tags) -> std::io::Result<()> {
    let (id, lat, lon) = (id.to_string(), format!("{lat:.7}"), format!("{lon:.7}"));
    writer.write_event(Event::Text(BytesText::new("\n")))?;
    let element = writer.create_element("node").with_attributes([
        ("id", id.as_str()),
        ("version", "1"),
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

fn write_tags<W: Write>(writer: &mut Writer<W>, tags: &Tags) -> std::io::Result<()> {
    for (key, value) in tags {
        writer.create_element("tag").with_attributes([("k", key.as_str()), ("v", value.as_str())]).write_empty()?;
    }
    Ok(())
}
