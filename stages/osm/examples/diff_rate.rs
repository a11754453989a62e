//! How fast a day of diffs is matched with the boxes of images, all of it generated.
//!
//! `cargo run --release -p osm --example diff_rate -- 5200000 3000000`: so many boxes, so many changes.

mod generated;

use std::time::Instant;

use generated::{Dice, image, peak_mib, place};
use osm::{Action, Body, Boxes, Change, Diff, Kind, Object, ObjectId, Place, Tags, read_extract};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let number = |at: usize, otherwise: i64| args.get(at).and_then(|text| text.parse().ok()).unwrap_or(otherwise);
    diffs(number(0, 5_200_000), number(1, 3_000_000))
}

/// Matches a day of changes: seven nodes of ten changes, a fifth of them near an image's object.
fn diffs(images: i64, changes: i64) -> Result<(), Box<dyn std::error::Error>> {
    let mut dice = Dice(7);
    let began = Instant::now();
    let boxes = Boxes::new((1..=images).map(|number| image(number, place(&mut dice))), 100.0);
    println!("{images} boxes: {:.1} s, {} MiB", began.elapsed().as_secs_f64(), peak_mib());
    // a planet with nothing on it but a house for every 50th image
    let folder = std::env::temp_dir().join(format!("urbancross-diffs-{}", std::process::id()));
    std::fs::create_dir_all(&folder)?;
    let path = folder.join("x.osm");
    std::fs::write(&path, "<osm version=\"0.6\" osmosis_replication_sequence_number=\"1\"></osm>")?;
    let mut state = read_extract(&path, boxes, &folder, &|| false)?.state;
    std::fs::remove_dir_all(&folder)?;
    let mut houses = Diff::default();
    let low: Vec<(i64, Place)> =
        state.boxes().all().iter().step_by(50).map(|image| (image.id, image.rect.low)).collect();
    for (id, at) in &low {
        let corner = |by: i64| Place { lon: at.lon + (by % 2 * 9_000) as i32, lat: at.lat + (by / 2 * 9_000) as i32 };
        for by in 0..4 {
            houses.add(change(Action::Create, id * 10 + by, 1, &[], Body::Node(Some(corner(by)))));
        }
        let refs = [0, 1, 3, 2, 0].map(|by| id * 10 + by).to_vec();
        houses.add(change(Action::Create, *id, 1, &[("building", "yes")], Body::Way(refs)));
    }
    state.apply(houses);
    let began = Instant::now();
    let mut diff = Diff::default();
    let mut last = place(&mut dice);
    for number in 0..changes {
        let (id, near) = low[dice.next(low.len() as i64) as usize];
        let is_near = dice.next(5) == 0;
        diff.add(match (number % 10, is_near) {
            (0..7, true) => {
                let by = dice.next(4);
                let at =
                    Place { lon: near.lon + (by % 2 * 9_000) as i32 + 40, lat: near.lat + (by / 2 * 9_000) as i32 };
                change(Action::Modify, id * 10 + by, 2, &[], Body::Node(Some(at)))
            }
            (kind @ 0..7, false) => {
                // what is new together lies together
                let by = Place { lon: last.lon + 400, lat: last.lat + 250 };
                last = if kind == 0 { place(&mut dice) } else { by };
                change(Action::Create, 1_000_000_000 + number, 1, &[], Body::Node(Some(last)))
            }
            (7..9, true) => {
                let refs = [0, 1, 3, 2, 0].map(|by| id * 10 + by).to_vec();
                change(Action::Modify, id, 2, &[("building", "house")], Body::Way(refs))
            }
            (7..9, false) => {
                let refs = (1..6).map(|back| 1_000_000_000 + number - back).collect();
                change(Action::Create, 2_000_000_000 + number, 1, &[("highway", "track")], Body::Way(refs))
            }
            _ => {
                let ways = vec![ObjectId { kind: Kind::Way, id: 2_000_000_000 + number - 1 }];
                let tags = [("type", "multipolygon"), ("landuse", "forest")];
                change(Action::Create, 3_000_000_000 + number, 1, &tags, Body::Relation(ways))
            }
        });
    }
    println!("{changes} changes generated: {:.1} s, {} MiB", began.elapsed().as_secs_f64(), peak_mib());
    let began = Instant::now();
    let applied = state.apply(diff);
    let seconds = began.elapsed().as_secs_f64();
    println!(
        "matched {} objects with {images} boxes: {seconds:.1} s, {} images touched, {} unclear, peak {} MiB",
        applied.objects,
        applied.touched.len(),
        state.missing().count(),
        peak_mib()
    );
    let began = Instant::now();
    let bytes = state.to_bytes();
    println!(
        "state: {} bytes, written in {:.1} s, kept {:?}",
        bytes.len(),
        began.elapsed().as_secs_f64(),
        state.kept()
    );
    Ok(())
}

fn change(action: Action, id: i64, version: u32, tags: &[(&str, &str)], body: Body) -> Change {
    let tags: Tags = tags.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
    Change { action, object: Object { id, version: Some(version), tags, body } }
}
