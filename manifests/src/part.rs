//! Parts: the Parquet files of a table, one for each shard.

use serde::{Deserialize, Serialize};

use crate::paths;
use crate::spec::MOST_SHARDS;

/// One Parquet file of a table: the rows of one shard.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct PartFile {
    /// Number of the shard, from 0.
    pub shard: u32,
    /// Path below the table's folder.
    pub path: String,
    /// Length of the file.
    pub size_bytes: u64,
    /// Rows in it.
    pub rows: u64,
}

/// Rows that a part may say it has. A larger number is damage; so many of each shard add up without overflow.
pub(crate) const MOST_ROWS: u64 = 1 << 40;

impl PartFile {
    /// Whether this can be a part of that shard of a country: what is read back from a store may say anything.
    pub fn is_of(&self, country: &str, shard: u32) -> bool {
        self.shard == shard
            && shard < MOST_SHARDS
            && self.rows <= MOST_ROWS
            && paths::shard_of_part_of(country, &self.path) == Some(shard)
    }
}
