//! Real extracts, where they are at hand: `URBANCROSS_TEST_DATA` names their folder.

use std::path::PathBuf;

use osm::{Body, Boxes, ImageBox, Kind, Rect, SubjectKind, read_extract, read_objects};

fn folder() -> Option<PathBuf> {
    let folder = std::env::var_os("URBANCROSS_TEST_DATA").map(|data| PathBuf::from(data).join("data/osm"));
    if folder.is_none() {
        println!("skipped: URBANCROSS_TEST_DATA is unset, and real extracts lie there");
    }
    folder
}

#[test]
fn real_extracts_are_read() {
    let Some(folder) = folder() else { return };
    let files = [
        "andorra.osm.pbf",
        "bautzen.osm",
        "monaco.osm.gz",
        "north-bayreuth.osm.gz",
        "one_way_dead_end.osm.pbf",
        "berlin-siegessaeule.osm.gz",
        "hohe-warte.osm.gz",
        "krautsand.osm.gz",
    ];
    for name in files {
        let mut counts = [0; 3];
        let read = read_objects(&folder.join(name), &|_| true, &mut |object| {
            counts[object.object_id().kind as usize] += 1;
            Ok(())
        });
        println!(
            "{name}: {counts:?} {:?}",
            read.as_ref().map(|header| (header.sequence, header.timestamp, header.bounds))
        );
        read.unwrap();
        match name {
            "north-bayreuth.osm.gz" => assert_eq!(counts[..2], [58_631, 7_801]),
            "berlin-siegessaeule.osm.gz" => assert_eq!(counts[..2], [5_117, 418]),
            _ => assert!(counts[0] > 100, "{name}: {counts:?}"),
        }
    }
}

/// The column in the middle of a roundabout in a park: squares, roads, paths and the park itself.
#[test]
fn what_lies_around_the_column_of_victory() {
    let Some(folder) = folder() else { return };
    let path = folder.join("berlin-siegessaeule.osm.gz");
    let mut buildings = Vec::new();
    let mut places = std::collections::HashMap::new();
    read_objects(&path, &|_| true, &mut |object| {
        match object.body {
            Body::Node(Some(place)) => _ = places.insert(object.id, place),
            Body::Way(refs) if object.tags.contains_key("building") => buildings.push((object.id, refs)),
            _ => {}
        }
        Ok(())
    })
    .unwrap();
    assert!(buildings.len() >= 5, "{}", buildings.len());
    let images = buildings.iter().filter_map(|(id, refs)| {
        let rect = Rect::around(refs.iter().filter_map(|node| places.get(node).copied()))?.grown(5_000, 3_000);
        Some(ImageBox { image_id: format!("a{id}_DE_19"), kind: SubjectKind::Area, id: *id, rect })
    });
    let boxes = Boxes::new(images, 100.0);
    let count = boxes.all().len();
    let scratch = tempfile::tempdir().unwrap();
    let read = read_extract(&path, boxes, scratch.path(), &|| false).unwrap();
    let state = read.state;
    let inside = count - read.outside.len();
    let answers: Vec<_> = (0..inside as u32).filter_map(|number| state.answer(number, &|_| false)).collect();
    assert!(!answers.is_empty());
    assert!(answers.iter().all(|answer| answer.center.as_ref().is_some_and(|tags| tags.contains_key("building"))));
    let around: usize = answers.iter().map(|answer| answer.surrounding.len()).sum();
    println!("{count} buildings, {inside} of them inside, {around} objects around them; kept {:?}", state.kept());
    assert!(around > answers.len(), "buildings have surroundings");
    assert!(state.kept()[0] > 0 && Kind::Node < Kind::Way);
}
