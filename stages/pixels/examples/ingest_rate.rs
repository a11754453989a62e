//! Images a second from encoded bytes to CLIP input, on one thread.
//!
//!     ingest_rate FOLDER [REPEATS]
//!
//! Reads all JPEGs of a folder into memory, then decodes, resizes and normalises them; prints the rate
//! of the fastest pass and what its parts take.

use std::error::Error;
use std::path::Path;
use std::time::{Duration, Instant};

use pixels::{ClipPreprocess, DecodeLimits};

const SIDE: u32 = 224;

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let folder = arguments.next().ok_or("usage: ingest_rate FOLDER [REPEATS]")?;
    let repeats: usize = arguments.next().map_or(Ok(3), |repeats| repeats.parse())?;
    let images = read_jpegs(Path::new(&folder))?;
    let limits = DecodeLimits::default();
    let mut preprocess = ClipPreprocess::new(SIDE, limits);
    let mut values = vec![0.0; preprocess.values()];

    let mut whole = Duration::MAX;
    let mut decoding = Duration::MAX;
    for _ in 0..repeats {
        whole = whole.min(timed(|| {
            for image in &images {
                preprocess.encoded_into(image, &mut values)?;
                std::hint::black_box(&values);
            }
            Ok(())
        })?);
        decoding = decoding.min(timed(|| {
            for image in &images {
                std::hint::black_box(pixels::decode(image, &limits)?);
            }
            Ok(())
        })?);
    }
    let count = images.len() as f64;
    println!("images {count}");
    println!("images_per_second {:.1}", count / whole.as_secs_f64());
    println!(
        "microseconds_per_image {:.0} of which decode {:.0}",
        1e6 * whole.as_secs_f64() / count,
        1e6 * decoding.as_secs_f64() / count
    );
    Ok(())
}

fn timed(pass: impl FnOnce() -> Result<(), Box<dyn Error>>) -> Result<Duration, Box<dyn Error>> {
    let start = Instant::now();
    pass()?;
    Ok(start.elapsed())
}

fn read_jpegs(folder: &Path) -> Result<Vec<Vec<u8>>, Box<dyn Error>> {
    let mut paths = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "jpg") {
            paths.push(path);
        }
    }
    paths.sort();
    paths.iter().map(|path| Ok(std::fs::read(path)?)).collect()
}
