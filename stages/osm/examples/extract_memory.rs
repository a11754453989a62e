//! What memory and disk an extract takes, generated as large as a country.
//!
//! `cargo run --release -p osm --example extract_memory -- 450000000 [FOLDER]`: an `.osm.pbf` of so many nodes, an eighth as many
//! ways and as many multipolygons as countries have, read for 20,000 boxes. FOLDER takes the file and the index.

mod generated;
#[path = "../../../pipeline/sandbox/src/extract/pbf.rs"]
#[allow(dead_code, reason = "less of it is needed here")]
mod pbf;

use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::time::Instant;

use generated::{Dice, image, peak_mib, place};
use osm::{Boxes, Place, read_extract};

/// As many objects as the usual writers put into a block.
const BLOCK: i64 = 8_000;

/// Writes the file block by block.
fn write(path: &Path, nodes: i64) -> std::io::Result<()> {
    let mut dice = Dice(99);
    let mut file = BufWriter::with_capacity(1 << 20, std::fs::File::create(path)?);
    file.write_all(&pbf::blob("OSMHeader", &pbf::header(Some(1), None), None))?;
    let mut put = |items: &[pbf::Item<'_>]| -> std::io::Result<()> {
        let message = pbf::block(items);
        let mut deflated = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::fast());
        deflated.write_all(&message)?;
        file.write_all(&pbf::blob("OSMData", &message, Some(&deflated.finish()?)))
    };
    let mut at = place(&mut dice);
    for first in (1..=nodes).step_by(BLOCK as usize) {
        let block = first..=nodes.min(first + BLOCK - 1);
        let items = block.map(|id| {
            // nodes of a way, and ways of a relation, lie beside each other
            at = if id % 40 == 1 {
                place(&mut dice)
            } else {
                Place { lon: at.lon + dice.next(900) as i32, lat: at.lat + dice.next(600) as i32 }
            };
            pbf::Item { id, tags: Vec::new(), body: pbf::Body::Node(at.lon, at.lat) }
        });
        put(&items.collect::<Vec<_>>())?;
    }
    let ways = nodes / 8;
    for first in (1..=ways).step_by(BLOCK as usize) {
        let block = first..=ways.min(first + BLOCK - 1);
        let refs: Vec<(i64, Vec<i64>)> = block.map(|way| (way, (way * 8 - 7..=way * 8).collect())).collect();
        let items = refs.iter().map(|(id, refs)| pbf::Item {
            id: *id,
            tags: vec![("highway", "residential")],
            body: pbf::Body::Way(refs),
        });
        put(&items.collect::<Vec<_>>())?;
    }
    let relations = nodes / 600;
    for first in (1..=relations).step_by(BLOCK as usize) {
        let block = first..=relations.min(first + BLOCK - 1);
        let members: Vec<(i64, Vec<(u64, i64)>)> =
            block.map(|id| (id, (0..5).map(|i| (1, (id * 5 + i) % ways + 1)).collect())).collect();
        let items = members.iter().map(|(id, members)| pbf::Item {
            // images were taken for none of them
            id: id + 1_000_000_000,
            tags: vec![("type", "multipolygon"), ("landuse", "forest")],
            body: pbf::Body::Relation(members),
        });
        put(&items.collect::<Vec<_>>())?;
    }
    file.flush()
}

fn measure(folder: &Path, nodes: i64) -> Result<(), Box<dyn std::error::Error>> {
    let path = folder.join("x.osm.pbf");
    write(&path, nodes)?;
    let mut dice = Dice(7);
    let boxes = Boxes::new((1..=20_000).map(|number| image(number, place(&mut dice))), 100.0);
    let (began, before) = (Instant::now(), peak_mib());
    let read = read_extract(&path, boxes, folder, &|| false)?;
    println!(
        "{nodes} nodes, {} ways, {} relations in {:.2} GB: {:.1} s; index {:.1} bytes a node; kept {:?}; peak {} MiB, of which {before} \
         before",
        read.objects[1],
        read.objects[2],
        std::fs::metadata(&path)?.len() as f64 / 1e9,
        began.elapsed().as_secs_f64(),
        read.index_bytes as f64 / nodes as f64,
        read.state.kept(),
        peak_mib()
    );
    Ok(())
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let nodes = args.next().map_or(Ok(20_000_000), |nodes| nodes.parse())?;
    let parent = args.next().map_or_else(std::env::temp_dir, PathBuf::from);
    let folder = parent.join(format!("urbancross-extract-{}", std::process::id()));
    std::fs::create_dir_all(&folder)?;
    let measured = measure(&folder, nodes);
    std::fs::remove_dir_all(&folder)?;
    measured
}
