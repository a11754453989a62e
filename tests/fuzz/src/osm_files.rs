//! Readers of OpenStreetMap's files, and of what is kept of them.

use std::path::Path;

use osm::{Boxes, Diff, ImageBox, Kind, ReplicationState, State, SubjectKind, moment_of, read_extract};

use crate::pbf_writer as pbf;

const EXTRACT: &[u8] = include_bytes!("../corpus/osm/small.osm");
const DIFF: &[u8] = include_bytes!("../corpus/osm/small.osc");

fn boxes() -> Boxes {
    let image =
        |id: &str, kind, number, west: f64| ImageBox::new(id, kind, number, [west, 60.0, west + 0.0004, 60.0004]);
    let images = [
        image("a10_FI_19", SubjectKind::Area, 10, 25.0),
        image("n5_FI_19", SubjectKind::Node, 5, 25.0003),
        image("r20_FI_19", SubjectKind::Relation, 20, 25.01),
    ];
    Boxes::new(images.into_iter().flatten(), 100.0)
}

fn read(name: &str, bytes: &[u8]) -> Option<State> {
    let folder = tempfile::tempdir().expect("a folder for one file");
    let path: &Path = &folder.path().join(name);
    std::fs::write(path, bytes).expect("room for one file");
    read_extract(path, boxes(), folder.path(), &|| false).ok().map(|read| read.state)
}

/// Everything that can be asked of a state: before a diff, after it, and of its bytes.
fn used(mut state: State) {
    let boxes = state.boxes().all().len().min(8) as u32;
    let ask = |state: &State| (0..boxes).for_each(|number| _ = state.answer(number, &|key| key == "note"));
    ask(&state);
    if let Ok(diff) = Diff::read(DIFF) {
        state.apply(diff);
    }
    ask(&state);
    let bytes = state.to_bytes();
    let again = State::from_bytes(&bytes).expect("a state that was written is read again");
    assert_eq!(again.to_bytes(), bytes);
}

pub(crate) fn pbf(bytes: &[u8]) {
    read("x.osm.pbf", bytes).into_iter().for_each(used);
}

pub(crate) fn xml(bytes: &[u8]) {
    read("x.osm", bytes).into_iter().for_each(used);
}

/// A diff, and the same bytes as a `state.txt`.
pub(crate) fn diff(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    _ = (ReplicationState::parse(&text), moment_of(&text));
    let Some(mut state) = read("x.osm", EXTRACT) else { return };
    if let Ok(diff) = Diff::read(bytes) {
        state.apply(diff);
        used(state);
    }
}

pub(crate) fn state(bytes: &[u8]) {
    if let Ok(state) = State::from_bytes(bytes) {
        used(state);
    }
}

/// A small PBF, its blobs plain.
pub(crate) fn extracts() -> Vec<Vec<u8>> {
    let node = |id: i64, by: i32| pbf::Item {
        id,
        tags: if id == 3 { vec![("natural", "tree")] } else { Vec::new() },
        body: pbf::Body::Node(250_000_000 + by % 2 * 5_000, 600_000_000 + by / 2 * 5_000),
    };
    let members = [(Kind::Way as u64, 10), (Kind::Node as u64, 1)];
    let block = pbf::block(&[
        node(1, 0),
        node(2, 1),
        node(3, 3),
        node(4, 2),
        pbf::Item { id: 10, tags: vec![("building", "yes")], body: pbf::Body::Way(&[1, 2, 3, 4, 1]) },
        pbf::Item {
            id: 20,
            tags: vec![("type", "multipolygon"), ("landuse", "forest")],
            body: pbf::Body::Relation(&members),
        },
    ]);
    let header = pbf::header(Some(7), moment_of("2026-01-01"));
    vec![[pbf::blob("OSMHeader", &header, None), pbf::blob("OSMData", &block, None)].concat()]
}

pub(crate) fn states() -> Vec<Vec<u8>> {
    let after = |state: &State| {
        let mut state = state.clone();
        Diff::read(DIFF).into_iter().for_each(|diff| _ = state.apply(diff));
        state.to_bytes()
    };
    read("x.osm", EXTRACT).iter().flat_map(|state| [state.to_bytes(), after(state)]).collect()
}
