//! Checks that every part is there and as it was written, and that checkpoints of the tables' logs can be believed.

use std::collections::{BTreeMap, BTreeSet};

use futures::TryStreamExt;
use manifests::plan::PinnedTable;
use manifests::{Artifact, PartFile, paths};
use serde::Serialize;

use crate::concurrently::in_order;
use crate::error::WorkerError;
use crate::parts::{self, PartReader, PartWriter};
use crate::reviews;
use crate::stores::WorkStore;
use crate::tables::Tables;

/// Parts that are being read; of each, some megabytes are in memory.
const PARTS_AT_ONCE: usize = 8;

/// Something that is not as it should be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Fault {
    /// Name of the table.
    pub table: &'static str,
    /// Path of the file below the table's folder.
    pub file: String,
    /// `None`: the file is no part of ours, or one of the table's log.
    pub shard: Option<u32>,
    /// Rows that the file is said to have.
    pub rows: u64,
    /// What is wrong with it.
    pub why: String,
}

impl Fault {
    /// Is the file a checkpoint of the table's log, or the pointer to one? No row is lost with it.
    pub fn is_of_log(&self) -> bool {
        self.file.contains("/_delta_log/")
    }
}

/// Reads every live file of a country's tables and compares it with its checksums; the log as it is without damaged
/// checkpoints. `seen` is told each part.
///
/// # Errors
/// [`WorkerError::Broken`] for a log that cannot be read, not even without its damaged checkpoints; a store that does not
/// answer. What else is wrong is the result.
pub async fn faults(
    work: &WorkStore,
    tables: &Tables,
    country: &str,
    mut seen: impl FnMut(&PartFile),
) -> Result<Vec<Fault>, WorkerError> {
    let mut faults = Vec::new();
    for artifact in Artifact::TABLES {
        let damaged = tables.damaged_checkpoints(artifact).await?;
        let read = tables.without_checkpoints(artifact, &damaged);
        let Some(live) = read.live_files(artifact, country).await? else { continue };
        let fault = |file: &str, shard, rows, why: String| Fault {
            table: artifact.name(),
            file: format!("{}/{file}", paths::table(artifact)),
            shard,
            rows,
            why,
        };
        let of_log = damaged.into_iter().map(|it| fault(&format!("_delta_log/{}", it.name), None, 0, it.why));
        faults.extend(of_log);
        faults.extend(live.foreign.iter().map(|(path, why)| fault(path, None, 0, why.clone())));
        let table = PinnedTable { parts: live.parts, ..PinnedTable::empty(artifact) };
        let lost = parts::lost(work, &table, country).await?;
        let looked_at = table.parts.iter().map(|part| {
            let (work, part, is_lost) = (work.clone(), part.clone(), lost.contains(&part.shard));
            async move {
                let why = match is_lost {
                    true => Some("is gone or has another size than was committed".to_owned()),
                    false => damage(&work, artifact, &part).await?,
                };
                Ok((part, why))
            }
        });
        let mut looked_at = in_order(looked_at, PARTS_AT_ONCE, "verify");
        while let Some((part, why)) = looked_at.try_next().await? {
            seen(&part);
            faults.extend(why.map(|why| fault(&part.path, Some(part.shard), part.rows, why)));
        }
    }
    Ok(faults)
}

async fn damage(work: &WorkStore, artifact: Artifact, part: &PartFile) -> Result<Option<String>, WorkerError> {
    let read = async { PartReader::open(work, artifact, part).await?.verify().await };
    match read.await {
        Ok(()) => Ok(None),
        Err(error @ WorkerError::Broken(_)) => {
            Ok(Some(parts::fault(&format!("{}/{}", paths::table(artifact), part.path), &error)))
        }
        Err(error) => Err(error),
    }
}

/// Tables of which no run makes rows again: what people decided, and tags by a map that is not at hand.
const KEPT: [Artifact; 2] = [Artifact::CaptionReviews, Artifact::TagRefreshes];

/// What undoes what another program did to a table of these; `None`: [`repair`] can take out all faults.
fn restoring(faults: &[Fault]) -> Option<(&Fault, String)> {
    let is_kept = |table: &str| KEPT.iter().any(|kept| kept.name() == table);
    let fault = faults.iter().find(|fault| fault.shard.is_none() && !fault.is_of_log() && is_kept(fault.table))?;
    let words = format!(
        "another program changed table {}, and what it holds no run makes again: restore it to its last version before \
         that (RESTORE, with the program that changed it or any that reads Delta tables)",
        fault.table
    );
    Some((fault, words))
}

/// Are there faults by which a table loses rows?
fn loses_rows(faults: &[Fault], artifact: Artifact) -> bool {
    faults.iter().any(|fault| fault.table == artifact.name() && !fault.is_of_log())
}

/// What brings refreshed tags back after a repair, in order.
fn refreshing(faults: &[Fault]) -> &'static str {
    match loses_rows(faults, Artifact::Geotags) {
        // of an image without geo-tags a refresh knows no box
        true => "`urbancross run SPEC --until geotags`, then `urbancross tags refresh SPEC --osm FILE`",
        false => "`urbancross tags refresh SPEC --osm FILE`",
    }
}

/// What to do about faults, in order.
pub fn advice(faults: &[Fault]) -> String {
    if let Some((_, words)) = restoring(faults) {
        return words;
    }
    if faults.iter().all(Fault::is_of_log) {
        return "run `urbancross verify --repair`, which takes them out of the tables' logs; no row is lost".to_owned();
    }
    let copies = match loses_rows(faults, Artifact::CaptionReviews) {
        true => "bring what is faulty of caption_reviews back from a copy, if there is one, and ",
        false => "",
    };
    let refresh = match loses_rows(faults, Artifact::TagRefreshes) {
        true => format!("then {}, ", refreshing(faults)),
        false => String::new(),
    };
    format!("{copies}run `urbancross verify --repair`, {refresh}then the build")
}

/// Removes damaged checkpoints from the logs, and takes faulty files out of the tables. A shard that loses its part gets
/// one without rows, so that the next run makes its rows again and no older commit comes back. What people decided cannot
/// be made again: such a shard goes back to the newest part of its past that is whole. Says what is lost.
///
/// # Errors
/// [`WorkerError::Configuration`] where another program has changed a table that no run makes again; otherwise as a commit:
/// [`WorkerError::Transient`] if the store does not answer or others commit all the time.
pub async fn repair(
    work: &WorkStore,
    tables: &Tables,
    country: &str,
    faults: &[Fault],
) -> Result<Vec<String>, WorkerError> {
    let mut lost = Vec::new();
    // nothing is taken out before all of it may be
    if let Some((fault, words)) = restoring(faults) {
        let why = format!("{} {}. Nothing was removed: {words}", fault.file, fault.why);
        return Err(WorkerError::Configuration(why));
    }
    for artifact in Artifact::TABLES {
        let folder = format!("{}/", paths::table(artifact));
        let of_table: BTreeMap<String, Option<u32>> = faults
            .iter()
            .filter(|fault| fault.table == artifact.name() && !fault.is_of_log())
            .map(|fault| (fault.file.trim_start_matches(&folder).to_owned(), fault.shard))
            .collect();
        let of_log = faults.iter().filter(|fault| fault.table == artifact.name() && fault.is_of_log());
        let of_log: Vec<&str> = of_log.filter_map(|fault| fault.file.rsplit('/').next()).collect();
        if !of_log.is_empty() {
            tables.remove_checkpoints(artifact, &of_log).await?;
        }
        if of_table.is_empty() {
            continue;
        }
        let mut empty = Vec::new();
        for shard in of_table.values().flatten().copied().collect::<BTreeSet<u32>>() {
            if artifact == Artifact::CaptionReviews {
                let (part, words) = reviews::gone_back(work, tables, country, shard).await?;
                empty.push(part);
                lost.push(format!("{words}; look at what is missing, and decide it again"));
                continue;
            }
            if artifact == Artifact::TagRefreshes {
                lost.push(format!(
                    "shard {shard} of {country} has lost its refreshed tags: before the whole build runs again refresh \
                     them once more, with the whole map ({}), or its images get back the tags of their archives",
                    refreshing(faults)
                ));
            }
            empty.push(PartWriter::create(work, artifact, country, shard)?.finish().await?);
        }
        tables.take_out(artifact, country, &of_table.into_keys().collect(), &empty).await?;
    }
    Ok(lost)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_advised_can_be_done() {
        let fault = |artifact: Artifact, shard| Fault {
            table: artifact.name(),
            file: "x.parquet".into(),
            shard,
            rows: 1,
            why: "is damaged".into(),
        };
        let repaired = "run `urbancross verify --repair`, then the build";
        assert_eq!(advice(&[fault(Artifact::Images, Some(1)), fault(Artifact::Captions, None)]), repaired);
        let tags = advice(&[fault(Artifact::Images, None), fault(Artifact::TagRefreshes, Some(1))]);
        assert!(tags.contains("--repair`, then `urbancross tags refresh SPEC --osm FILE`, then the build"), "{tags}");
        let boxes_too = advice(&[fault(Artifact::TagRefreshes, Some(1)), fault(Artifact::Geotags, Some(1))]);
        let (first, second) = (boxes_too.find("run SPEC --until geotags`, then"), boxes_too.find("tags refresh SPEC"));
        assert!(first.is_some() && first < second && boxes_too.ends_with("then the build"), "{boxes_too}");
        let reviews = advice(&[fault(Artifact::CaptionReviews, Some(1))]);
        assert!(reviews.contains("from a copy") && reviews.ends_with(repaired), "{reviews}");
        let of_log = |artifact: Artifact| {
            let log = format!("{}/_delta_log", paths::table(artifact));
            Fault { file: format!("{log}/_last_checkpoint"), ..fault(artifact, None) }
        };
        let logs = advice(&[of_log(Artifact::TagRefreshes), of_log(Artifact::Geotags)]);
        assert!(logs.contains("--repair") && logs.ends_with("no row is lost"), "{logs}");
        assert_eq!(advice(&[of_log(Artifact::CaptionReviews), fault(Artifact::Images, Some(1))]), repaired);
        for kept in KEPT {
            let restored = advice(&[fault(Artifact::Images, Some(1)), fault(kept, None)]);
            assert!(restored.contains("RESTORE") && !restored.contains("--repair"), "{restored}");
        }
    }
}
