//! Searches through very many vectors: how long one takes, how much memory, and whether the answers are those of a
//! comparison with everything. The vectors are clusters of unit length; they are left for `tests/peers/index_peer.py`.
//!
//! usage: index_rate FOLDER [ROWS] [WIDTH] [QUERIES]

use std::fs::File;
use std::io::{BufWriter, Read, Write};
use std::path::Path;
use std::time::Instant;

use stages::search::{Top, similarity};
use workers::search::index::{IndexFile, IndexWriter, Wanted, look};

const CLUSTERS: u64 = 2000;
const ROWS_OF_A_BATCH: usize = 4096;
const BATCHES_OF_A_FILE: usize = 16;
const MOST: usize = 10;
/// Queries whose answers are compared with those of a pass over everything.
const CHECKED: usize = 10;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let number = |at: usize, default| arguments.get(at).map_or(Ok(default), |n| n.parse::<usize>());
    let folder = Path::new(arguments.first().ok_or("usage: index_rate FOLDER [ROWS] [WIDTH] [QUERIES]")?);
    let (rows, width, queries) = (number(1, 1_000_000)?, number(2, 512)?, number(3, 100)?);
    let mut random = Random(7);
    let centres: Vec<Vec<f32>> = (0..CLUSTERS).map(|_| (0..width).map(|_| random.normal()).collect()).collect();
    let mut draw = || {
        let centre = &centres[(random.next() % CLUSTERS) as usize];
        let vector: Vec<f32> = centre.iter().map(|number| 0.8 * number + random.normal()).collect();
        let length = similarity(&vector, &vector).sqrt() as f32;
        vector.into_iter().map(|number| number / length).collect::<Vec<f32>>()
    };

    let (mut raw, mut files, mut seconds) =
        (BufWriter::new(File::create(folder.join("vectors.f32"))?), Vec::new(), 0.0);
    for first in (0..rows).step_by(ROWS_OF_A_BATCH * BATCHES_OF_A_FILE) {
        let mut writer = IndexWriter::create(&folder.join("draft"))?;
        for start in (first..rows.min(first + ROWS_OF_A_BATCH * BATCHES_OF_A_FILE)).step_by(ROWS_OF_A_BATCH) {
            let vectors: Vec<Vec<f32>> = (start..rows.min(start + ROWS_OF_A_BATCH)).map(|_| draw()).collect();
            raw.write_all(&vectors.iter().flatten().flat_map(|number| number.to_le_bytes()).collect::<Vec<u8>>())?;
            let ids: Vec<String> = (start..start + vectors.len()).map(|row| format!("a{row:012}_FI")).collect();
            let rows: Vec<(&str, &[f32])> =
                ids.iter().zip(&vectors).map(|(id, v)| (id.as_str(), v.as_slice())).collect();
            let began = Instant::now();
            writer.write(&rows)?;
            seconds += began.elapsed().as_secs_f64();
        }
        let began = Instant::now();
        writer.finish(&format!("{first:09}"))?;
        seconds += began.elapsed().as_secs_f64();
    }
    raw.flush()?;
    let asked: Vec<Vec<f32>> = (0..queries).map(|_| draw()).collect();
    std::fs::write(
        folder.join("queries.f32"),
        asked.iter().flatten().flat_map(|n| n.to_le_bytes()).collect::<Vec<u8>>(),
    )?;
    println!("ours: {rows} x {width}: copied in {seconds:.1} s");

    let before = resident_mib()?;
    let began = Instant::now();
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        if path.extension().is_some_and(|ending| ending == "arrow") {
            files.push(IndexFile::open(&path)?);
        }
    }
    println!(
        "ours: checked and opened in {:.2} s, {:.0} MiB in memory",
        began.elapsed().as_secs_f64(),
        resident_mib()? - before
    );
    let wanted: Vec<Wanted<'_>> = files.iter().map(|file| (file, None, None)).collect();
    let (mut times, mut found) = (Vec::new(), Vec::new());
    for query in &asked {
        let began = Instant::now();
        let scan = look(&wanted, query, MOST).ok_or("a query that cannot be looked up")?;
        times.push(began.elapsed().as_secs_f64() * 1e3);
        found.push(scan.top.into_sorted());
    }
    times.sort_by(f64::total_cmp);
    println!(
        "ours: median {:.1} ms, slowest {:.1} ms; {:.0} MiB in memory, the vectors are {:.0} MiB",
        times[times.len() / 2],
        times[times.len() - 1],
        resident_mib()? - before,
        (rows * width * 4) as f64 / f64::from(1 << 20)
    );

    let mut tops: Vec<Top<()>> = (0..asked.len().min(CHECKED)).map(|_| Top::new(MOST)).collect();
    let (mut raw, mut bytes) = (File::open(folder.join("vectors.f32"))?, vec![0; width * 4]);
    for row in 0..rows {
        raw.read_exact(&mut bytes)?;
        let vector: Vec<f32> = bytes.as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
        for (top, query) in tops.iter_mut().zip(&asked) {
            top.offer(similarity(query, &vector), &format!("a{row:012}_FI"), || ());
        }
    }
    let checked = tops.len();
    let equal = tops.into_iter().zip(found).filter(|(top, found)| top.clone().into_sorted() == *found).count();
    println!("ours: {equal} of {checked} answers are those of a comparison with everything");
    Ok(())
}

struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        // splitmix64
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// Sum of the four parts of a number, as wide as a normal distribution.
    fn normal(&mut self) -> f32 {
        let bits = self.next();
        let sum: f32 = (0..4).map(|part| ((bits >> (16 * part)) & 0xFFFF) as f32 / 65_535.0 - 0.5).sum();
        sum * 3f32.sqrt()
    }
}

fn resident_mib() -> Result<f64, Box<dyn std::error::Error>> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).ok_or("no VmRSS")?;
    Ok(line.trim().trim_end_matches(" kB").trim().parse::<f64>()? / 1024.0)
}
