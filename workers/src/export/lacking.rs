//! Shards that a table of an export has no rows of, though it should: a repair took out a damaged file and nothing made
//! its rows again, or no run came to its end.

use std::collections::{BTreeMap, BTreeSet};

use manifests::Artifact;
use manifests::plan::PinnedTable;
use manifests::words::count;

/// Shards that are named of each table.
const NUMBERED: usize = 8;

/// Shards, by the table that lacks their rows.
pub type Lacking = BTreeMap<Artifact, BTreeSet<u32>>;

/// Shards that `table` has no rows of, though by `all` tables of the export there may be some. Where every row of a
/// shard failed that is as it should be: whether something is left to do the caller knows. Nothing is said of a table
/// without any part.
pub fn lacking(table: &PinnedTable, all: &[PinnedTable]) -> BTreeSet<u32> {
    if table.parts.is_empty() {
        return BTreeSet::new();
    }
    let shards: BTreeSet<u32> = match table.artifact {
        // a part without rows counts: a repair puts one in the place of what it takes out
        Artifact::Splits => all.iter().flat_map(|table| &table.parts).map(|part| part.shard).collect(),
        _ => all.iter().filter(|table| table.artifact == Artifact::Splits).flat_map(with_rows).collect(),
    };
    let made: BTreeSet<u32> = with_rows(table).collect();
    &shards - &made
}

fn with_rows(table: &PinnedTable) -> impl Iterator<Item = u32> {
    table.parts.iter().filter(|part| part.rows > 0).map(|part| part.shard)
}

/// `1 shard of geotags (2), 3 shards of captions (0, 1, 2)`.
pub fn lacking_in_words(lacking: &Lacking) -> String {
    let of_tables = lacking.iter().map(|(artifact, shards)| {
        let named: Vec<String> = shards.iter().take(NUMBERED).map(u32::to_string).collect();
        let more = if shards.len() > NUMBERED { ", …" } else { "" };
        format!("{} of {} ({}{more})", count(shards.len(), "shard"), artifact.name(), named.join(", "))
    });
    of_tables.collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use manifests::PartFile;

    use super::*;

    /// A table with so many rows in each shard; `None`: it has no part of it.
    fn table(artifact: Artifact, rows: [Option<u64>; 3]) -> PinnedTable {
        let part = |(shard, rows): (u32, Option<u64>)| {
            Some(PartFile { path: shard.to_string(), shard, rows: rows?, size_bytes: 1 })
        };
        let parts = (0..).zip(rows).filter_map(part).collect();
        PinnedTable { parts, ..PinnedTable::empty(artifact) }
    }

    #[test]
    fn what_a_repair_took_out_is_lacking_and_so_is_what_was_never_made() {
        let splits = table(Artifact::Splits, [Some(4), Some(4), None]);
        let geotags = table(Artifact::Geotags, [Some(0), Some(4), Some(4)]);
        let captions = table(Artifact::Captions, [Some(4), None, None]);
        let all = [splits, geotags, captions];
        let of = |at: usize| lacking(&all[at], &all).into_iter().collect::<Vec<_>>();
        // of a shard that is in no split nothing is exported: the splits answer for it
        assert_eq!((of(0), of(1), of(2)), (vec![2], vec![0], vec![1]));
        assert!(lacking(&PinnedTable::empty(Artifact::Images), &all).is_empty(), "it is refused by its name");

        let rows = [Some(0), Some(4), None];
        let repaired = [table(Artifact::Splits, rows), table(Artifact::Captions, rows)];
        assert_eq!(lacking(&repaired[0], &repaired), BTreeSet::from([0]), "all tables have lost it");
    }

    #[test]
    fn shards_are_named_by_table() {
        let lacking = Lacking::from([(Artifact::Geotags, BTreeSet::from([2])), (Artifact::Captions, (0..9).collect())]);
        let said = lacking_in_words(&lacking);
        assert_eq!(said, "1 shard of geotags (2), 9 shards of captions (0, 1, 2, 3, 4, 5, 6, 7, …)");
    }
}
