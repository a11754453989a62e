//! Commands that verify a work store and clear it up.

use std::time::Duration;

use anyhow::Result;
use manifests::BuildSpec;
use manifests::words::count;
use workers::WorkerError;
use workers::stores::WorkStore;
use workers::tables::Tables;
use workers::upkeep::{gc, verify};

use crate::progress::Progress;
use crate::say;

/// A century: nothing is older.
pub(super) const MOST_KEEP_DAYS: f64 = 36_525.0;

pub(super) async fn verify(spec: BuildSpec, repair: bool, json: bool) -> Result<()> {
    let work = WorkStore::open(&spec.work.url, &spec.work.options)?;
    work.required().await?;
    let tables = Tables::new(&work);
    let progress = Progress::new(json);
    let (mut files, mut bytes) = (0u64, 0u64);
    let faults = verify::faults(&work, &tables, &spec.country, |part| {
        files += 1;
        bytes += part.size_bytes;
    })
    .await?;
    if json {
        say!("{}", serde_json::to_string_pretty(&faults)?);
    } else {
        say!(
            "checked {} of {} ({}): {}",
            count(files, "part"),
            spec.country,
            count(bytes, "byte"),
            count(faults.len(), "fault")
        );
        for fault in &faults {
            // how many rows are in a file that is not ours is unknown
            let rows = fault.shard.map_or(String::new(), |_| format!(" ({})", count(fault.rows, "row")));
            // errors of reading begin with the file's path
            let why = fault.why.strip_prefix(&fault.file).unwrap_or(&fault.why).trim_start_matches([':', ' ']);
            say!("  {}{rows}: {why}", fault.file);
        }
    }
    if faults.is_empty() {
        return Ok(());
    }
    if !repair {
        let why = format!("{}; {}", count(faults.len(), "faulty file"), verify::advice(&faults));
        return Err(WorkerError::Broken(why).into());
    }
    let lost = verify::repair(&work, &tables, &spec.country, &faults).await?;
    lost.iter().for_each(|what| progress.note(&format!("warning: {what}")));
    let next = match lost.is_empty() {
        true if faults.iter().all(verify::Fault::is_of_log) => "no row is lost",
        true => "run the build to recompute their rows",
        false => "do as the warnings say, and only then run the build",
    };
    progress.note(&format!("removed the faulty files from the tables: {next}"));
    Ok(())
}

pub(super) async fn gc(spec: BuildSpec, delete: bool, keep_days: f64, json: bool) -> Result<()> {
    let keep = Duration::from_secs_f64(keep_days * 86_400.0);
    let work = WorkStore::open(&spec.work.url, &spec.work.options)?;
    work.required().await?;
    let cleared = gc::gc(&work, &Tables::new(&work), &spec.country, gc::Retention { keep, delete }).await?;
    if json {
        say!("{}", serde_json::to_string_pretty(&cleared)?);
        return Ok(());
    }
    let verb = if delete { "deleted" } else { "would be deleted (add --delete)" };
    for (kind, cleared) in &cleared {
        say!("{:12} {:>8} objects, {:>12} bytes {verb}", kind, cleared.objects, cleared.bytes);
    }
    if cleared.is_empty() {
        say!("{}: nothing unneeded is older than {}", spec.country, count(keep_days, "day"));
    }
    Ok(())
}
