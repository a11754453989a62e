//! Rows that would leave the tables because the source no longer offers their images. A missing archive looks like an
//! edit that removes all of its rows; whoever runs the build has to be told.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;

use arrow::array::RecordBatch;
use futures::TryStreamExt;
use manifests::plan::PinnedTable;
use manifests::words::count;
use manifests::{Artifact, BuildSpec, PartFile};
use sources::name::ImageName;
use stages::table::{Columns, TableError, option_text};

use crate::concurrently::in_order;
use crate::error::WorkerError;
use crate::parts::PartReader;
use crate::planning::VirtualInputs;
use crate::stores::WorkStore;

/// Good rows of a country that a run would take out of its tables.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Removals {
    /// Good rows that the tables hold.
    rows: u64,
    /// Rows that leave with an archive, by its name; and what is wrong with it.
    by_archive: BTreeMap<String, (&'static str, u64)>,
    /// Other rows that the source no longer offers.
    unlisted: u64,
    /// One of these.
    example: Option<String>,
}

impl Removals {
    /// Compares the rows of the geo-tags, which all other tables follow, with what the source offers now. Nothing leaves
    /// a settled shard, which is not read: all of its rows count as good ones.
    ///
    /// # Errors
    /// A part that cannot be read.
    pub async fn find(
        work: &WorkStore,
        spec: &BuildSpec,
        (geotags, settled): (&PinnedTable, &BTreeSet<u32>),
        known: &VirtualInputs,
    ) -> Result<Removals, WorkerError> {
        // a row keeps its shard: each part is compared with its own slice, so that a few are held at a time
        let (settled, others): (Vec<_>, Vec<_>) = geotags
            .parts
            .iter()
            .filter(|part| !geotags.lost.contains(&part.shard))
            .partition(|part| settled.contains(&part.shard));
        let mut found = Removals { rows: settled.iter().map(|part| part.rows).sum(), ..Removals::default() };
        let comparison = Arc::new(Comparison {
            work: work.clone(),
            slices: known.slices.store().clone(),
            listing: known.slices.pin(Artifact::Listing),
            gone: known.listing.gone.clone(),
            meta: spec.source.meta,
        });
        let of_shards = others.into_iter().map(|part| {
            let (comparison, part) = (comparison.clone(), part.clone());
            async move { comparison.of_shard(&part).await }
        });
        let mut compared = in_order(of_shards, spec.work.concurrency, "rows that leave");
        while let Some(of_shard) = compared.try_next().await? {
            found.add(of_shard);
        }
        Ok(found)
    }

    fn add(&mut self, other: Removals) {
        self.rows += other.rows;
        for (archive, (what, rows)) in other.by_archive {
            self.by_archive.entry(archive).or_insert((what, 0)).1 += rows;
        }
        self.unlisted += other.unlisted;
        self.example = self.example.take().or(other.example);
    }

    fn leaving(&self) -> u64 {
        self.by_archive.values().map(|(_, rows)| rows).sum::<u64>() + self.unlisted
    }

    /// Are these more than half of all, too many to be removed unasked?
    pub fn are_most(&self) -> bool {
        2 * self.leaving() > self.rows
    }

    /// One sentence for each cause; none where all rows stay.
    pub fn in_words(&self) -> Vec<String> {
        let leave = |rows: u64| {
            let verb = if rows == 1 { "leaves" } else { "leave" };
            format!("{} {verb} the tables", count(rows, "row"))
        };
        let archives = self.by_archive.iter();
        let mut lines: Vec<String> =
            archives.map(|(archive, (what, rows))| format!("{archive} {what}: its {}", leave(*rows))).collect();
        lines.extend(self.example.as_ref().map(|example| {
            let rows = leave(self.unlisted);
            format!("{rows} (such as {example}): no longer in the source, or no longer selected by the spec")
        }));
        lines
    }

    /// Why a run refuses, and how to go on.
    pub fn refusal(&self, country: &str) -> String {
        format!(
            "{} of the {} of {country} would leave the tables: {}; bring back what is missing, or run with \
             --accept-removals to remove these rows and everything computed from them",
            self.leaving(),
            count(self.rows, "row"),
            self.in_words().join("; ")
        )
    }
}

/// What the parts of the geo-tags are compared with.
struct Comparison {
    work: WorkStore,
    slices: WorkStore,
    listing: PinnedTable,
    gone: BTreeMap<String, &'static str>,
    /// Are geo-tags read from archives too?
    meta: bool,
}

impl Comparison {
    async fn of_shard(&self, part: &PartFile) -> Result<Removals, WorkerError> {
        let broken = |e: TableError| WorkerError::Broken(e.to_string());
        let listed = match self.listing.part(part.shard) {
            Some(slice) => {
                let reader = PartReader::open(&self.slices, Artifact::Listing, slice).await?;
                Some(reader.read(&["image_id"]).await?)
            }
            None => None,
        };
        let reader = PartReader::open(&self.work, Artifact::Geotags, part).await?;
        let rows = reader.read(&["image_id", "status", "filepath"]).await?;
        self.compare(&rows, listed.as_ref()).map_err(broken)
    }

    fn compare(&self, rows: &RecordBatch, listed: Option<&RecordBatch>) -> Result<Removals, TableError> {
        let listed = listed.map(|listed| Columns::new(Artifact::Listing, listed).text("image_id")).transpose()?;
        let listed: HashSet<&str> = listed.into_iter().flatten().flatten().collect();
        let columns = Columns::new(Artifact::Geotags, rows);
        let (ids, status) = (columns.text("image_id")?, columns.text("status")?);
        let filepaths = columns.text("filepath")?;
        let mut found = Removals::default();
        for row in (0..rows.num_rows()).filter(|&row| status.value(row) == "ok") {
            found.rows += 1;
            let filepath = option_text(filepaths, row).unwrap_or_default();
            let gone = archives_of(filepath, self.meta).into_iter().find_map(|name| self.gone.get_key_value(&name));
            if let Some((archive, what)) = gone {
                found.by_archive.entry(archive.clone()).or_insert((what, 0)).1 += 1;
            } else if !listed.contains(ids.value(row)) {
                found.unlisted += 1;
                found.example.get_or_insert_with(|| filepath.to_owned());
            }
        }
        Ok(found)
    }
}

/// The archives that a row is made from; a row of a captioned folder is made from none.
fn archives_of(filepath: &str, meta: bool) -> Vec<String> {
    let Ok(name) = ImageName::parse(filepath) else { return Vec::new() };
    let meta = meta.then(|| format!("{}.zip", name.meta_part()));
    [format!("{}.zip", name.part)].into_iter().chain(meta).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn removals(rows: u64, archive: u64, unlisted: u64) -> Removals {
        let by_archive = (archive > 0).then(|| ("images3.zip".to_owned(), ("is no longer in the source", archive)));
        let example = (unlisted > 0).then(|| "images2/a.jpg".to_owned());
        Removals { rows, by_archive: by_archive.into_iter().collect(), unlisted, example }
    }

    #[test]
    fn a_missing_archive_is_named_with_its_rows() {
        assert_eq!(removals(9, 0, 0).in_words(), [""; 0]);
        assert_eq!(
            removals(300, 140, 1).in_words(),
            [
                "images3.zip is no longer in the source: its 140 rows leave the tables",
                "1 row leaves the tables (such as images2/a.jpg): no longer in the source, or no longer selected by the \
                 spec"
            ]
        );
    }

    #[test]
    fn more_than_half_of_the_rows_are_most() {
        assert!(!removals(0, 0, 0).are_most());
        assert!(!removals(4, 1, 1).are_most());
        assert!(removals(4, 2, 1).are_most() && removals(3, 0, 2).are_most());
    }

    #[test]
    fn a_row_needs_its_archive_and_that_of_its_geotags() {
        let filepath = "images3/w1_FI_19.jpg";
        assert_eq!(archives_of(filepath, true), ["images3.zip", "meta3.zip"]);
        assert_eq!(archives_of(filepath, false), ["images3.zip"]);
        assert!(archives_of("airport_3.jpg", true).is_empty());
    }
}
