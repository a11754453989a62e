//! A planet of houses: an extract of it and a day of its edits.

#[path = "../../../pipeline/sandbox/src/extract/pbf.rs"]
#[allow(dead_code, reason = "less of it is needed here")]
mod pbf;

use std::io::{BufWriter, Write};
use std::path::Path;

use flate2::Compression;
use flate2::write::{GzEncoder, ZlibEncoder};

/// As many objects as the usual writers put into a block.
const BLOCK: i64 = 8_000;

/// A number that only looks like chance.
fn mixed(number: i64, salt: u64) -> u64 {
    let mut mixed = (number as u64).wrapping_add(salt).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    mixed ^= mixed >> 29;
    mixed = mixed.wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed ^ (mixed >> 32)
}

/// South-western corner of an image's box, 1e-7 degrees: most of what is mapped lies in cities.
fn corner(image: i64) -> (i64, i64) {
    let city = (mixed(image, 1) % 40_000) as i64;
    let by = |salt| (mixed(image, salt) % 1_500_000) as i64 - 750_000;
    (city * 7_919 % 3_200_000 * 1_000 - 1_600_000_000 + by(2), city * 104_729 % 1_300_000 * 1_000 - 550_000_000 + by(3))
}

/// West, south, east, north, in degrees.
pub fn sides(image: i64) -> [f64; 4] {
    let (lon, lat) = corner(image);
    [lon, lat, lon + 30_000, lat + 18_000].map(|units| units as f64 / 1e7)
}

/// Tags of the house that an image was taken for.
pub fn tags(image: i64) -> Vec<(&'static str, String)> {
    let number = ("addr:housenumber", (mixed(image, 4) % 200).to_string());
    let name = (image % 10 == 0).then(|| ("name", format!("House {image}")));
    [number, ("building", "yes".to_owned())].into_iter().chain(name).collect()
}

/// A house's corner: node `4 * image + by`.
fn node(image: i64, by: i64) -> (i32, i32) {
    let (lon, lat) = corner(image);
    let (east, north) = [(0, 0), (1, 0), (1, 1), (0, 1)][by as usize];
    ((lon + 10_000 + 2_000 * east) as i32, (lat + 8_000 + 1_000 * north) as i32)
}

fn refs(image: i64) -> Vec<i64> {
    [0, 1, 2, 3, 0].map(|by| 4 * image + by).to_vec()
}

pub fn write_extract(path: &Path, images: i64) -> std::io::Result<()> {
    let mut file = BufWriter::with_capacity(1 << 20, std::fs::File::create(path)?);
    file.write_all(&pbf::blob("OSMHeader", &pbf::header(Some(1), Some(1_780_000_000)), None))?;
    let mut put = |items: &[pbf::Item<'_>]| -> std::io::Result<()> {
        let message = pbf::block(items);
        let mut deflated = ZlibEncoder::new(Vec::new(), Compression::fast());
        deflated.write_all(&message)?;
        file.write_all(&pbf::blob("OSMData", &message, Some(&deflated.finish()?)))
    };
    let all = || (1..=images).step_by(BLOCK as usize).map(|first| first..=images.min(first + BLOCK - 1));
    for block in all() {
        let corners = block.flat_map(|image| (0..4).map(move |by| (4 * image + by, node(image, by))));
        let item = |(id, (lon, lat))| pbf::Item { id, tags: Vec::new(), body: pbf::Body::Node(lon, lat) };
        put(&corners.map(item).collect::<Vec<_>>())?;
    }
    for block in all() {
        let houses: Vec<_> = block.map(|image| (image, refs(image), tags(image))).collect();
        let items = houses.iter().map(|(id, refs, tags)| pbf::Item {
            id: *id,
            tags: tags.iter().map(|(key, value)| (*key, value.as_str())).collect(),
            body: pbf::Body::Way(refs),
        });
        put(&items.collect::<Vec<_>>())?;
    }
    file.flush()
}

/// Of every hundredth image a corner is moved, and of every two-hundredth the house is another; besides nodes anywhere.
pub fn write_diff(folder: &Path, images: i64, changes: i64) -> std::io::Result<()> {
    std::fs::create_dir_all(folder.join("000/000"))?;
    let state = |sequence: u64| format!("sequenceNumber={sequence}\ntimestamp=2026-06-0{sequence}T00\\:00\\:00Z\n");
    std::fs::write(folder.join("state.txt"), state(2))?;
    std::fs::write(folder.join("000/000/002.state.txt"), state(2))?;
    let file = BufWriter::new(std::fs::File::create(folder.join("000/000/002.osc.gz"))?);
    let mut to = GzEncoder::new(file, Compression::fast());
    writeln!(to, "<osmChange version=\"0.6\"><modify>")?;
    let degrees = |units: i32| f64::from(units) / 1e7;
    for image in (100..=images).step_by(100) {
        let (id, (lon, lat)) = (4 * image, node(image, 0));
        writeln!(to, "<node id=\"{id}\" version=\"2\" lon=\"{:.7}\" lat=\"{:.7}\"/>", degrees(lon + 40), degrees(lat))?;
    }
    for image in (200..=images).step_by(200) {
        writeln!(to, "<way id=\"{image}\" version=\"2\">")?;
        refs(image).iter().try_for_each(|node| writeln!(to, "<nd ref=\"{node}\"/>"))?;
        writeln!(to, "<tag k=\"building\" v=\"house\"/></way>")?;
    }
    writeln!(to, "</modify><create>")?;
    for number in 0..changes {
        let (id, (lon, lat)) = (10_000_000_000 + number, node(mixed(number, 5) as i64 >> 2, 0));
        writeln!(to, "<node id=\"{id}\" version=\"1\" lon=\"{:.7}\" lat=\"{:.7}\"/>", degrees(lon), degrees(lat))?;
    }
    writeln!(to, "</create></osmChange>")?;
    to.finish()?.flush()
}
