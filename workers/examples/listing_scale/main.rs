//! What listing a large source of SkyScript takes: a CSV, and archives of images and of records, in a process of its own.
//!
//! usage: listing_scale [ROWS] [FOLDER] [make | list]
//!
//! With a third argument one of the steps alone is done, in a FOLDER that stays: `make` leaves `scale.toml` there, for another
//! version of the program to be measured on.
//!
//! The archives hold members of one byte, as listing reads none of them. FOLDER takes about 550 bytes a row.

mod archives;

use std::error::Error;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::time::Instant;

use manifests::{Artifact, BuildSpec};
use workers::listing::list;
use workers::slices::Slices;
use workers::stores::{SourceStore, WorkStore};

/// As the program has it: otherwise the peak is that of another allocator.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const ARCHIVES: u64 = 6;

fn memory_mib(what: &str) -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let kib = status.lines().find_map(|line| line.strip_prefix(what)?.trim().trim_end_matches(" kB").parse().ok());
    kib.unwrap_or(0.0) / 1024.0
}

fn id_of(row: u64) -> String {
    format!("w{}_FI_19", row.wrapping_mul(2_654_435_761) % 9_000_000_000 + 1)
}

fn write(folder: &Path, rows: u64) -> std::io::Result<()> {
    std::fs::create_dir_all(folder.join("dataframe"))?;
    let mut csv = BufWriter::new(std::fs::File::create(folder.join("dataframe/all.csv"))?);
    writeln!(csv, "filepath,title,title_multi_objects")?;
    for row in 0..rows {
        let (id, part) = (id_of(row), row % ARCHIVES + 2);
        writeln!(
            csv,
            "images{part}/{id}.jpg,a satellite image of a residential building number {},\"a satellite image of a residential \
             building number {}, surrounded by a service road and a parking lot\"",
            row % 200,
            row % 200
        )?;
    }
    csv.flush()?;
    for part in 0..ARCHIVES {
        let ids = || (part..rows).step_by(ARCHIVES as usize).map(id_of);
        for (folder_name, ending) in [("images", "jpg"), ("meta", "pickle")] {
            let name = format!("{folder_name}{}", part + 2);
            let members = ids().map(|id| format!("{name}/{id}.{ending}"));
            archives::write(&folder.join(format!("{name}.zip")), members)?;
        }
    }
    Ok(())
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let rows = arguments.next().map_or(Ok(100_000), |text| text.parse::<u64>())?;
    let parent = arguments.next().map_or_else(std::env::temp_dir, PathBuf::from);
    let how = arguments.next();
    let made = if how.is_some() { None } else { Some(tempfile::tempdir_in(&parent)?) };
    let folder = made.as_ref().map_or(parent.as_path(), |folder| folder.path());
    let shards = rows.div_ceil(520).clamp(1, 10_000);
    let text = format!(
        "country = \"finland\"\n[source]\nkind = \"skyscript\"\nurl = \"{0}\"\ntables = [\"dataframe/all.csv\"]\ntokens = [\"FI\"]\n\
         meta = true\n[work]\nurl = \"{0}/work\"\nshards = {shards}\n",
        folder.display()
    );
    if how.as_deref() != Some("list") {
        write(folder, rows)?;
        std::fs::write(folder.join("scale.toml"), &text)?;
        println!("source written to {}", folder.display());
    }
    if how.is_none() {
        // a process of its own: what writing the source took is no part of its memory
        let listed = std::process::Command::new(std::env::current_exe()?)
            .args([rows.to_string(), folder.display().to_string(), "list".to_owned()])
            .status()?;
        assert!(listed.success(), "the listing failed");
    }
    if how.as_deref() != Some("list") {
        return Ok(());
    }
    let spec = BuildSpec::parse(&text, "scale", &[])?;
    let (source, work) = (
        SourceStore::open(&spec.source.url, &Default::default())?,
        WorkStore::open(&spec.work.url, &Default::default())?,
    );
    let (mut slices, began, before) = (Slices::default(), Instant::now(), memory_mib("VmRSS:"));
    let listing = list(&source, &work, &spec, &mut slices).await?;
    let of_a_row = |mib: f64| mib * f64::from(1 << 20) / rows as f64;
    let (peak, kept) = (memory_mib("VmHWM:"), memory_mib("VmRSS:"));
    println!(
        "{} rows of {rows} listed in {:.1} s: peak {peak:.0} MiB, {:.0} bytes a row; {kept:.0} MiB or {:.0} kept, {} slices",
        listing.rows(),
        began.elapsed().as_secs_f64(),
        of_a_row(peak - before),
        of_a_row(kept - before),
        slices.pin(Artifact::Listing).parts.len(),
    );
    Ok(())
}
