//! OpenStreetMap as a source of geo-tags: extracts, diffs, and what lies in the boxes of images.
//!
//! An extract is read once, as a stream. What lies in or near a box stays in a [`State`], and nothing else of the planet:
//! diffs are applied to it without the extract. What a state cannot tell it names.

mod area;
mod boxes;
mod diff;
mod element;
mod error;
mod extract;
mod file;
mod header;
mod image_box;
mod images;
mod latest;
mod locations;
mod pbf;
mod replication;
mod shape;
mod sorted;
mod state;
mod stored;
mod texts;
mod xml;

pub use boxes::Boxes;
pub use diff::{Applied, Diff};
pub use element::{Body, Kind, MOST_ID, MOST_REFERENCES, MOST_TAGS, MOST_TEXT_BYTES, Object, ObjectId, Place, Tags};
pub use error::OsmError;
pub use extract::{ReadExtract, read_extract};
pub use file::read_objects;
pub use header::Header;
pub use image_box::{ImageBox, MOST_BOX_DEGREES, SubjectKind};
pub use images::Images;
pub use pbf::read_pbf;
pub use replication::{Moment, ReplicationState, diff_path, moment_of, state_path};
pub use shape::{Rect, Shape, segment_meets};
pub use state::{Answer, Missing, State};
pub use xml::{Action, Change, read_changes, read_xml};
