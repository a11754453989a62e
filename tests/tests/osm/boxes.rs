//! Boxes of images that are lost, or become others.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::sync::{Arc, Mutex};

use manifests::{Artifact, BuildSpec};
use pipeline::tags;
use pipeline_tests::{World, column, open, run_with};

use super::{diffs, extract, refresh, until, without_ways};

/// Moves the box in an image's meta record eastwards by so little that it stays in its country.
fn move_box(world: &World, image: &str) {
    for archive in ["meta2.zip", "meta3.zip"] {
        let path = world.path("world").join(archive);
        let mut old = zip::ZipArchive::new(std::fs::File::open(&path).unwrap()).unwrap();
        let mut new = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
        let stored = zip::write::SimpleFileOptions::default().compression_method(zip::CompressionMethod::Stored);
        for number in 0..old.len() {
            let mut member = old.by_index(number).unwrap();
            let name = member.name().expect("a readable name").into_owned();
            let mut bytes = Vec::new();
            member.read_to_end(&mut bytes).unwrap();
            if name.contains(image) {
                move_east(&mut bytes);
            }
            new.start_file(&name, stored).unwrap();
            new.write_all(&bytes).unwrap();
        }
        std::fs::write(&path, new.finish().unwrap().into_inner()).unwrap();
    }
}

/// The floats of a pickle, `G` and eight bytes, that are longitudes of Finland.
fn move_east(pickle: &mut [u8]) {
    let mut moved = 0;
    for at in 0..pickle.len().saturating_sub(8) {
        let value = f64::from_be_bytes(pickle[at + 1..at + 9].try_into().unwrap());
        if pickle[at] == b'G' && (19.0..32.0).contains(&value) {
            pickle[at + 1..at + 9].copy_from_slice(&(value + 1e-5).to_be_bytes());
            moved += 1;
        }
    }
    assert_eq!(moved, 2, "west and east");
}

/// Tags of the objects that images were taken for, as they were refreshed last.
async fn centers(spec: &BuildSpec) -> BTreeMap<String, String> {
    column(&open(spec.clone()).await.unwrap(), Artifact::TagRefreshes, "center_tags").await
}

#[tokio::test(flavor = "multi_thread")]
async fn diffs_say_nothing_of_an_image_that_has_another_box_by_now() {
    let world = World::new(60);
    let spec = world.spec("work", &[]);
    run_with(spec.clone(), until("geotags")).await.unwrap();
    refresh(&spec, extract(&world.path("world/extract.osm.pbf")), Some(0.0)).await.unwrap();
    let edits = sandbox::edit_map(&world.path("world"), 0.12, 0).unwrap();
    let image = edits.images.iter().find(|id| id.contains("_FI_") && !edits.deleted.contains(id)).unwrap();
    move_box(&world, image);
    run_with(spec.clone(), until("geotags")).await.unwrap();
    let before = centers(&spec).await;

    let done = refresh(&spec, diffs(&world), Some(1.0)).await.unwrap();
    assert_eq!((done.diffs, done.unclear), (1, 1), "{done:?}");
    assert!(done.unclear_examples[0].contains(image) && done.unclear_examples[0].contains("box"), "{done:?}");
    assert_eq!(before[image], centers(&spec).await[image]);
    // an extract tells what the new box shows
    let done = refresh(&spec, extract(&edits.extract), Some(1.0)).await.unwrap();
    assert_eq!((done.images, done.unclear), (60, 0), "{done:?}");
    assert_ne!(before[image], centers(&spec).await[image]);
}

#[tokio::test(flavor = "multi_thread")]
async fn images_that_were_left_out_come_back_when_their_box_is_lost() {
    let world = World::new(40);
    let spec = world.spec("work", &["work.shards=4"]);
    let (build, _) = run_with(spec.clone(), until("geotags")).await.unwrap();
    let kinds = column(&build, Artifact::Geotags, "osm_kind").await;
    let ways = kinds.iter().filter(|(_, kind)| *kind == "w" || *kind == "a");
    let numbers: Vec<String> = ways.map(|(id, _)| id[1..].split('_').next().unwrap().to_owned()).collect();
    let less = without_ways(&world, &numbers);
    // the same map, which says that it covers another place
    let abroad = world.path("abroad.osm");
    let bounds = "<bounds minlat=\"1\" minlon=\"1\" maxlat=\"2\" maxlon=\"2\"/><node ";
    std::fs::write(&abroad, std::fs::read_to_string(&less).unwrap().replacen("<node ", bounds, 1)).unwrap();
    for next in [&less, &abroad] {
        let gone = refresh(&spec, extract(&less), Some(1.0)).await.unwrap().gone;
        assert!(gone > 8, "{gone}");
        let (build, _) = run_with(spec.clone(), until("geotags")).await.unwrap();
        let status = column(&build, Artifact::Geotags, "status").await;
        assert_eq!(status.values().filter(|status| *status == "excluded").count(), gone);
        if next == &less {
            for file in std::fs::read_dir(world.path("work/osm/finland")).unwrap() {
                let path = file.unwrap().path();
                if path.extension().is_some_and(|extension| extension == "state") {
                    std::fs::remove_file(path).unwrap();
                }
            }
        }
        let said = Mutex::new(String::new());
        let say = |line: &str| said.lock().unwrap().push_str(line);
        // nothing comes back by a refresh that is not accepted
        let refused = tags::refresh(&spec, extract(next), Some(0.0), Arc::default(), &say).await;
        assert!(refused.is_err() && !said.lock().unwrap().contains("brings back"), "{said:?}");
        let done = tags::refresh(&spec, extract(next), Some(1.0), Arc::default(), &say).await.unwrap();
        // nobody knows yet whether what they were taken for is there again
        assert_eq!((done.images, done.unjudged, done.back, done.written), (40, gone, 0, true), "{done:?}");
        // where they lie is known as long as the state is there
        let said = said.into_inner().unwrap();
        assert_eq!(said.contains(&format!("brings back {gone} images")), next == &less, "{said}");
        let (build, _) = run_with(spec.clone(), until("geotags")).await.unwrap();
        let status = column(&build, Artifact::Geotags, "status").await;
        assert!(status.len() == 40 && status.values().all(|status| status == "ok"), "{status:?}");
    }
    let full = refresh(&spec, extract(&world.path("world/extract.osm")), Some(1.0)).await.unwrap();
    assert_eq!((full.images, full.gone, full.outside), (40, 0, 0), "{full:?}");
}
