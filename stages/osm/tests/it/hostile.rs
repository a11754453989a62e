//! Files that are no sound extracts and diffs: each is refused in words, before much is allocated.

use std::path::Path;

use osm::{
    Body, Boxes, Diff, ImageBox, Kind, Place, ReplicationState, State, SubjectKind, read_extract, read_pbf, read_xml,
};

use crate::pbf_writer as pbf;
use crate::planet::{Planet, deflate, id_of, osc, tags};

fn read_bytes(bytes: &[u8]) -> Result<usize, String> {
    let mut objects = 0;
    let read = read_pbf(bytes, &|_| true, &mut |_| {
        objects += 1;
        Ok(())
    });
    read.map(|_| objects).map_err(|error| error.to_string())
}

fn boxes() -> Boxes {
    let image = ImageBox::new("a10_FI_19", SubjectKind::Area, 10, [25.0, 60.0, 25.001, 60.001]).unwrap();
    Boxes::new([image], 100.0)
}

fn small() -> Planet {
    let mut planet = Planet::default();
    for (id, lon, lat) in [(1, 0, 0), (2, 5_000, 0), (3, 5_000, 5_000)] {
        let place = Place { lon: 250_000_000 + lon, lat: 600_000_000 + lat };
        planet.put(id, tags(&[("natural", "tree")]), Body::Node(Some(place)));
    }
    planet.put(10, tags(&[("building", "yes")]), Body::Way(vec![1, 2, 3, 1]));
    planet
}

fn extract(text: &str) -> Result<State, String> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.osm");
    std::fs::write(&path, text).unwrap();
    read_extract(&path, boxes(), folder.path(), &|| false).map(|read| read.state).map_err(|error| error.to_string())
}

#[test]
fn a_pbf_that_is_cut_anywhere_is_refused_or_has_fewer_blobs() {
    let whole = small().pbf();
    assert_eq!(read_bytes(&whole).unwrap(), 4);
    let mut kept = 0;
    for length in 0..whole.len() {
        match read_bytes(&whole[..length]) {
            // between two blobs nothing tells that there should be more
            Ok(objects) => kept += usize::from(objects < 4),
            Err(why) => assert!(why.contains("download it again") || why.contains("no .osm.pbf"), "{length}: {why}"),
        }
    }
    assert_eq!(kept, 1, "the end of the header");
}

#[test]
fn flipped_bytes_never_panic() {
    let whole = small().pbf();
    for at in 0..whole.len() {
        for flip in [1, 0x80, 0xff] {
            let mut bytes = whole.clone();
            bytes[at] ^= flip;
            _ = read_bytes(&bytes);
        }
    }
}

#[test]
fn blobs_that_claim_or_unpack_too_much_are_refused() {
    let header = pbf::blob("OSMHeader", &pbf::header(None, None), None);
    let with = |blob: &[u8]| read_bytes(&[&header[..], blob].concat()).unwrap_err();
    // 400 MiB of zeros in less than half a MiB
    let bomb = deflate(&vec![0; 400 << 20]);
    let mut message = Vec::new();
    pbf::number(&mut message, 2, 400 << 20);
    pbf::bytes(&mut message, 3, &bomb);
    let mut head = Vec::new();
    pbf::bytes(&mut head, 1, b"OSMData");
    pbf::number(&mut head, 3, message.len() as u64);
    let honest = [&(head.len() as u32).to_be_bytes()[..], &head, &message].concat();
    assert!(with(&honest).contains("33554432 bytes of an unpacked blob"), "{}", with(&honest));
    let liar = pbf::blob("OSMData", &[0; 10], Some(&bomb));
    assert!(with(&liar).contains("says that it has 10 bytes"), "{}", with(&liar));
    let mut head = Vec::new();
    pbf::bytes(&mut head, 1, b"OSMData");
    pbf::number(&mut head, 3, u64::MAX);
    let endless = [&(head.len() as u32).to_be_bytes()[..], &head].concat();
    assert!(with(&endless).contains("bytes of a blob"), "{}", with(&endless));
    assert!(with(&[0xff; 8]).contains("header has 4294967295 bytes"), "{}", with(&[0xff; 8]));
}

#[test]
fn ids_that_nobody_gave_and_members_of_no_kind() {
    let with = |item: pbf::Item<'_>| {
        let header = pbf::blob("OSMHeader", &pbf::header(None, None), None);
        read_bytes(&[header, pbf::blob("OSMData", &pbf::block(&[item]), None)].concat()).unwrap_err()
    };
    for id in [0, -5, (1 << 53) + 1, i64::MAX] {
        let why = with(pbf::Item { id, tags: vec![], body: pbf::Body::Node(0, 0) });
        assert!(why.contains(&format!("the id {id}")) && why.contains("2^53"), "{why}");
    }
    let why = with(pbf::Item { id: 1, tags: vec![], body: pbf::Body::Relation(&[(3, 1)]) });
    assert!(why.contains("unknown kind 3"), "{why}");
    let many = vec![1; osm::MOST_REFERENCES + 1];
    let why = with(pbf::Item { id: 1, tags: vec![], body: pbf::Body::Way(&many) });
    assert!(why.contains("100000 nodes of a way"), "{why}");
    let why = with(pbf::Item { id: 1, tags: vec![], body: pbf::Body::Node(1_900_000_000, 0) });
    assert!(why.contains("on Earth"), "{why}");
}

#[test]
fn histories_and_unknown_features_are_refused() {
    let with = |field: u64, feature: &str| {
        let mut header = Vec::new();
        pbf::bytes(&mut header, field, feature.as_bytes());
        read_bytes(&pbf::blob("OSMHeader", &header, None))
    };
    let (required, optional) = (4, 5);
    assert!(with(required, "HistoricalInformation").unwrap_err().contains("osmium time-filter"));
    assert!(with(required, "Sort.Magic").unwrap_err().contains("\"Sort.Magic\""));
    assert_eq!(with(optional, "Sort.Type_then_ID"), Ok(0));
    // places that only ways tell
    for field in [required, optional] {
        let why = with(field, "LocationsOnWays").unwrap_err();
        assert!(why.contains("osmium add-locations-to-ways"), "{why}");
    }
}

#[test]
fn xml_that_is_something_else_says_what_it_is() {
    let diff = osc(&[]);
    let node = |attributes: &str| extract(&format!("<osm><node {attributes}/></osm>")).unwrap_err();
    for (text, words) in [
        ("", "no <osm>"),
        ("<html></html>", "begins with <html>"),
        (diff.as_str(), "give it to --diffs"),
        ("<osm><node id='1' lat='60' lon='25'/>", "ends before </osm>"),
        ("<osm><node id='1' lat='60' lon='25'></way></osm>", "no XML"),
        ("<osm><way id='1'><nd ref='x'/></way></osm>", "\"x\""),
        ("<osm><way id='1'/><node id='1' lat='60' lon='25'/></osm>", "osmium sort"),
        ("<osm><node id='1' lat='&bomb;' lon='25'/></osm>", "attribute"),
    ] {
        let why = extract(text).unwrap_err();
        assert!(why.contains(words) && why.contains("x.osm"), "{text}: {why}");
    }
    for bad in ["id='1'", "id='1' lat='91' lon='0'", "id='1' lat='nan' lon='0'", "id='1' lat='60' lon='1e99'"] {
        assert!(node(bad).contains("node 1 lies nowhere on Earth"), "{}", node(bad));
    }
    assert!(node("id='-3' lat='60' lon='25'").contains("not uploaded"));
    assert!(node("id='1' visible='false'").contains("history"));
    let endless = format!("<osm><node id='1' lat='60' lon='25' user='{}'/></osm>", "x".repeat(3 << 20));
    assert!(extract(&endless).unwrap_err().contains("mebibyte"));
    let long = format!("<osm><node id='1' lat='60' lon='25'><tag k='a' v='{}'/></node></osm>", "x".repeat(5000));
    assert!(extract(&long).unwrap_err().contains("4096 bytes of a key or value"));
    let mut objects = 0;
    let read = read_xml("<osm></osm>".as_bytes(), &mut |_| {
        objects += 1;
        Ok(())
    });
    assert_eq!((read.is_ok(), objects), (true, 0));
    let lost = Diff::read(b"<osmChange><node id='1' lat='60' lon='25'/></osmChange>").err().unwrap().to_string();
    assert!(lost.contains("none of create, modify and delete"), "{lost}");
    assert!(Diff::read(b"<osm/>").err().unwrap().to_string().contains("give it to --osm"));
    assert!(Diff::read(&[0x1f, 0x8b, 8, 0, 1]).err().unwrap().to_string().contains("download it again"));
}

#[test]
fn ways_with_missing_nodes_are_lines_and_relations_in_circles_are_no_areas() {
    let mut planet = small();
    planet.put(11, tags(&[("landuse", "forest")]), Body::Way(vec![1, 2, 999, 3, 1]));
    planet.put(12, tags(&[("highway", "path")]), Body::Way(vec![998, 997]));
    let multipolygon = tags(&[("type", "multipolygon"), ("natural", "water")]);
    planet.put(20, multipolygon.clone(), Body::Relation(vec![id_of(Kind::Relation, 21)]));
    planet.put(21, multipolygon.clone(), Body::Relation(vec![id_of(Kind::Relation, 20), id_of(Kind::Way, 10)]));
    planet.put(22, multipolygon, Body::Relation(vec![id_of(Kind::Way, 996), id_of(Kind::Relation, 22)]));
    let folder = tempfile::tempdir().unwrap();
    for name in ["x.osm", "x.osm.pbf"] {
        let path = folder.path().join(name);
        planet.write(&path);
        let state = read_extract(&path, boxes(), folder.path(), &|| false).unwrap().state;
        let answer = state.answer(0, &|_| false).unwrap();
        let around: Vec<String> = answer.surrounding.iter().flat_map(|tags| tags.values().cloned()).collect();
        // the relation of which a way is there has its borders
        assert_eq!(around.iter().filter(|word| *word == "tree").count(), 3, "{around:?}");
        assert!(around.contains(&"forest".into()) && around.contains(&"water".into()), "{around:?}");
        assert!(!around.contains(&"path".into()), "{around:?}");
    }
}

#[test]
fn diffs_out_of_order_are_named_and_change_nothing() {
    let mut state = extract_with_sequence();
    let before = state.to_bytes();
    let mut planet = small();
    let change = planet.delete(id_of(Kind::Way, 10)).unwrap();
    let diff = || Diff::read(osc(std::slice::from_ref(&change)).as_bytes()).unwrap();
    for (sequence, timestamp, words) in [
        (7, 1_764_000_000, "diff 7 is in the state already"),
        (3, 1_764_000_000, "diff 3 is in the state already"),
        (9, 1_764_000_000, "diff 9 does not follow diff 7"),
        (8, 1_763_999_999, "before 2025-11-24T16:00:00Z"),
    ] {
        let why = state.apply_next(diff(), ReplicationState { sequence, timestamp }).unwrap_err().to_string();
        assert!(why.contains(words), "{why}");
        assert_eq!(state.to_bytes(), before);
    }
    assert!(state.answer(0, &|_| false).unwrap().center.is_some());
    state.apply_next(diff(), ReplicationState { sequence: 8, timestamp: 1_764_000_000 }).unwrap();
    assert_eq!(state.answer(0, &|_| false).unwrap().center, None);
    assert_eq!(state.sequence, Some(8));
    let mut unnumbered = extract("<osm><node id='1' lat='60' lon='25'/></osm>").unwrap();
    let why = unnumbered.apply_next(diff(), ReplicationState { sequence: 8, timestamp: 0 }).unwrap_err().to_string();
    assert!(why.contains("nobody knows"), "{why}");
}

fn extract_with_sequence() -> State {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.osm.pbf");
    small().write(&path);
    read_extract(&path, boxes(), folder.path(), &|| false).unwrap().state
}

#[test]
fn a_state_that_was_damaged_is_refused() {
    let bytes = extract_with_sequence().to_bytes();
    assert!(State::from_bytes(&bytes).is_ok());
    for length in 0..bytes.len() {
        assert!(State::from_bytes(&bytes[..length]).is_err(), "{length}");
    }
    for at in 0..bytes.len() {
        let mut flipped = bytes.clone();
        flipped[at] ^= 1;
        _ = State::from_bytes(&flipped);
    }
}

#[test]
fn names_of_files_say_how_they_are_read() {
    let folder = tempfile::tempdir().unwrap();
    let read = |name: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, b"BZh91AY").unwrap();
        read_extract(&path, boxes(), folder.path(), &|| false).unwrap_err().to_string()
    };
    assert!(read("x.txt").contains(".osm.pbf, .osm, .osm.gz or .osm.bz2"));
    let gone = read_extract(Path::new("/nowhere/x.osm"), boxes(), folder.path(), &|| false).unwrap_err().to_string();
    assert!(gone.contains("/nowhere/x.osm"), "{gone}");
    let path = folder.path().join("x.osm.pbf");
    small().write(&path);
    let stopped = read_extract(&path, boxes(), folder.path(), &|| true);
    assert!(stopped.is_ok(), "a small file is done before anybody looks");
}

/// Packed in two streams, as parallel packers write them.
#[test]
fn packed_xml_is_read_like_xml_and_says_when_it_was_cut() {
    let folder = tempfile::tempdir().unwrap();
    let plain = folder.path().join("x.osm");
    small().write(&plain);
    let text = std::fs::read(&plain).unwrap();
    let halves = text.split_at(text.len() / 2);
    let gz = |part: &[u8]| {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        std::io::Write::write_all(&mut encoder, part).unwrap();
        encoder.finish().unwrap()
    };
    let bz2 = |part: &[u8]| {
        let mut encoder = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::fast());
        std::io::Write::write_all(&mut encoder, part).unwrap();
        encoder.finish().unwrap()
    };
    let state = |path: &Path| {
        let read = read_extract(path, boxes(), folder.path(), &|| false);
        read.map(|read| read.state.to_bytes()).map_err(|error| error.to_string())
    };
    let wanted = state(&plain).unwrap();
    for (name, packed) in
        [("x.osm.gz", [gz(halves.0), gz(halves.1)].concat()), ("x.osm.bz2", [bz2(halves.0), bz2(halves.1)].concat())]
    {
        let path = folder.path().join(name);
        std::fs::write(&path, &packed).unwrap();
        assert_eq!(state(&path).unwrap(), wanted, "{name}");
        for bytes in [0, 3, packed.len() / 4, packed.len() / 2, packed.len() - 1] {
            std::fs::write(&path, &packed[..bytes]).unwrap();
            let refused = state(&path).unwrap_err();
            assert!(refused.contains(name), "{bytes} bytes: {refused}");
        }
        let mut damaged = packed.clone();
        damaged[packed.len() / 4] ^= 0x10;
        std::fs::write(&path, &damaged).unwrap();
        assert!(state(&path).is_err(), "{name}: a flipped bit");
    }
    let change = osc(&[]).into_bytes();
    assert!(Diff::read(&bz2(&change)).is_ok());
}

/// Packed bytes are bounded where they are fetched; what they unpack to is bounded here.
#[test]
fn a_diff_that_unpacks_to_far_more_than_it_has_is_refused() {
    use std::io::Write;
    let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    packed.write_all(b"<osmChange version=\"0.6\">").unwrap();
    let comment = [b"<!--".to_vec(), vec![b' '; 64 << 10], b"-->".to_vec()].concat();
    (0..1100).for_each(|_| packed.write_all(&comment).unwrap());
    packed.write_all(b"</osmChange>").unwrap();
    let packed = packed.finish().unwrap();
    assert!(packed.len() < 1 << 20);
    let why = Diff::read(&packed).err().unwrap().to_string();
    assert!(why.contains("unpacks to more than"), "{why}");
    // a quiet period's, as some programs write it
    assert!(Diff::read(b"<osmChange version=\"0.6\"/>").is_ok());
    assert!(Diff::read(b"<osmChange version=\"0.6\">").is_err());
}
