//! Memory of an ingest: it follows what is wanted and what is under way, never the size of the archive.
//!
//! `URBANCROSS_MEMBERS=1000000` makes the large archive as large as one of SkyScript's.

use std::io::{BufWriter, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use pipeline_tests::urbancross;
use zip::write::SimpleFileOptions;

const MIB: u64 = 1 << 20;
/// What an ingest may take, however large its archive is.
const MOST_BYTES: u64 = 300 * MIB;
/// As many in the small archive, where every other member is wanted, as in the large one.
const WANTED: usize = 10_000;

fn members() -> usize {
    let asked = std::env::var("URBANCROSS_MEMBERS").ok().and_then(|members| members.parse().ok());
    asked.unwrap_or(100_000).max(2 * WANTED)
}

/// A source whose archive has so many members, and the spec of a build of it.
fn source(folder: &Path, members: usize) -> std::io::Result<()> {
    let pictures: Vec<Vec<u8>> = (0..16).map(picture).collect();
    let dataframe = folder.join("dataframe");
    std::fs::create_dir_all(&dataframe)?;
    let mut table = BufWriter::new(std::fs::File::create(dataframe.join("all.csv"))?);
    writeln!(table, "filepath,title")?;
    let mut archive = zip::ZipWriter::new(BufWriter::new(std::fs::File::create(folder.join("images2.zip"))?));
    let stored = SimpleFileOptions::default().compression_method(zip::CompressionMethod::Stored);
    for i in 0..members {
        let is_wanted = i % (members / WANTED) == 0;
        let name = format!("images2/w{}_{}_19.jpg", 100_000_000 + i, if is_wanted { "FI" } else { "US" });
        archive.start_file(&name, stored)?;
        archive.write_all(if is_wanted { &pictures[i % pictures.len()] } else { b"x" })?;
        writeln!(table, "{name},a house")?;
    }
    archive.finish()?;
    let spec = format!(
        "country = \"finland\"\n[source]\nkind = \"skyscript\"\nurl = {folder:?}\ntables = [\"dataframe/all.csv\"]\n\
         tokens = [\"FI\"]\nmeta = false\n[work]\nurl = \"work\"\n"
    );
    std::fs::write(folder.join("spec.toml"), spec)
}

/// A JPEG of some kilobytes: noise over a colour.
fn picture(seed: u32) -> Vec<u8> {
    const SIDE: u32 = 96;
    let mut state = seed + 1;
    let data = (0..3 * SIDE * SIDE).map(|_| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        100 + (state >> 26) as u8
    });
    let rgb = pixels::Rgb::new(SIDE, SIDE, data.collect()).expect("a picture of that size");
    pixels::encode_jpeg(&rgb, 90)
}

/// Most memory that an ingest had: the mark only rises, so that the last look before the end counts.
fn peak_bytes(folder: &Path) -> u64 {
    let mut ingest = Command::new(urbancross());
    ingest.arg("run").arg(folder.join("spec.toml")).args(["--until", "images"]);
    let mut ingest = ingest.stdout(Stdio::null()).spawn().unwrap();
    let status = format!("/proc/{}/status", ingest.id());
    let mut peak = 0;
    let ended = loop {
        if let Some(ended) = ingest.try_wait().unwrap() {
            break ended;
        }
        let status = std::fs::read_to_string(&status).unwrap_or_default();
        let mark = status.lines().find_map(|line| line.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB"));
        peak = mark.and_then(|kib| kib.parse::<u64>().ok()).map_or(peak, |kib| peak.max(kib << 10));
        std::thread::sleep(Duration::from_millis(5));
    };
    assert!(ended.success() && peak > 0, "{ended}, {peak} bytes");
    peak
}

#[cfg(target_os = "linux")]
#[test]
fn an_ingests_peak_does_not_grow_with_its_archive() {
    let peaks = [2 * WANTED, members()].map(|members| {
        let folder = tempfile::tempdir().unwrap();
        source(folder.path(), members).unwrap();
        peak_bytes(folder.path())
    });
    println!("{} MiB with {} members, {} MiB with {}", peaks[0] / MIB, 2 * WANTED, peaks[1] / MIB, members());
    assert!(peaks[1] < MOST_BYTES, "{} MiB with {} members", peaks[1] / MIB, members());
    assert!(peaks[1] < peaks[0] + 64 * MIB, "{peaks:?}");
}
