//! Which rows belong to a split, found by ids and without pixels.

use std::collections::{BTreeMap, BTreeSet};

use arrow::array::Array;
use manifests::{Artifact, PartFile};
use stages::table::Columns;

use crate::assignment::AssignedRow;
use crate::error::WorkerError;
use crate::parts::PartReader;
use crate::stores::WorkStore;
use crate::train::broken;

/// A row group of the images table with the rows of one split in it.
pub(super) struct Group {
    pub(super) shard: u32,
    pub(super) row_group: usize,
    /// Rows within the row group, with their ids.
    pub(super) rows: Vec<(usize, String)>,
}

/// Which rows are read.
#[derive(Clone, Copy)]
pub enum Members<'a> {
    /// Those of a split of the build.
    Split(&'a str),
    /// Those of a split under another assignment than the build's, by shard.
    Assigned(&'a [Vec<AssignedRow>], &'a str),
}

impl Members<'_> {
    pub(super) fn of_shard(self, shard: u32) -> Wanted {
        match self {
            Members::Split(split) => Wanted::Split(split.to_owned()),
            Members::Assigned(shards, split) => {
                let rows = shards.get(shard as usize).into_iter().flatten();
                Wanted::Ids(rows.filter(|row| row.split == split).map(|row| row.image_id.clone()).collect())
            }
        }
    }
}

/// Rows of a shard that are wanted.
pub(super) enum Wanted {
    Split(String),
    Ids(BTreeSet<String>),
}

/// What is read of a shard to know its rows of some splits.
pub(super) struct ShardIndex {
    pub(super) work: WorkStore,
    pub(super) images: PartFile,
    pub(super) captions: Option<PartFile>,
    pub(super) splits: Option<PartFile>,
    pub(super) wanted: Vec<Wanted>,
}

impl ShardIndex {
    /// The rows of each that is wanted.
    pub(super) async fn groups(self) -> Result<Vec<Vec<Group>>, WorkerError> {
        let members = self.members().await?;
        let reader = PartReader::open(&self.work, Artifact::Images, &self.images).await?;
        let batch = reader.read(&["image_id", "status"]).await?;
        let columns = Columns::new(Artifact::Images, &batch);
        let (ids, status) = (columns.text("image_id").map_err(broken)?, columns.text("status").map_err(broken)?);
        let row_groups = reader.row_groups();
        let of_members = |members: BTreeSet<String>| {
            let mut groups = Vec::new();
            let mut first = 0;
            for (row_group, length) in row_groups.iter().copied().enumerate() {
                let is_member = |row: &usize| {
                    let at = first + *row;
                    status.value(at) == "ok" && members.contains(ids.value(at))
                };
                let chosen =
                    (0..length).filter(is_member).map(|row| (row, ids.value(first + row).to_owned())).collect();
                groups.push(Group { shard: self.images.shard, row_group, rows: chosen });
                first += length;
            }
            groups
        };
        Ok(members.into_iter().map(of_members).collect())
    }

    /// For each that is wanted, the ids that have a caption.
    async fn members(&self) -> Result<Vec<BTreeSet<String>>, WorkerError> {
        let captioned = self.values(Artifact::Captions, &self.captions, "status").await?;
        let splits = match self.wanted.iter().any(|wanted| matches!(wanted, Wanted::Split(_))) {
            true => self.values(Artifact::Splits, &self.splits, "split").await?,
            false => BTreeMap::new(),
        };
        let is_wanted = |wanted: &Wanted, id: &str| match wanted {
            Wanted::Ids(ids) => ids.contains(id),
            Wanted::Split(split) => splits.get(id) == Some(split),
        };
        let of = |wanted: &Wanted| {
            let found = captioned.iter().filter(|(id, status)| *status == "ok" && is_wanted(wanted, id));
            found.map(|(id, _)| id.clone()).collect()
        };
        Ok(self.wanted.iter().map(of).collect())
    }

    /// Values of a part's column by id; none of a part that is not there.
    async fn values(
        &self,
        artifact: Artifact,
        part: &Option<PartFile>,
        column: &str,
    ) -> Result<BTreeMap<String, String>, WorkerError> {
        let Some(part) = part else { return Ok(BTreeMap::new()) };
        let batch = PartReader::open(&self.work, artifact, part).await?.read(&["image_id", column]).await?;
        let columns = Columns::new(artifact, &batch);
        let (ids, values) = (columns.text("image_id").map_err(broken)?, columns.text(column).map_err(broken)?);
        let known = (0..batch.num_rows()).filter(|row| !values.is_null(*row));
        Ok(known.map(|row| (ids.value(row).to_owned(), values.value(row).to_owned())).collect())
    }
}
