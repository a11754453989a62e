//! Which part each image of a build belongs to.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{Array, RecordBatch};
use futures::TryStreamExt;
use manifests::plan::PinnedTable;
use manifests::{Artifact, BuildSpec, Digest, digest, shard_of};
use sources::SourceError;
use sources::name::{ImageName, OsmObject};
use sources::split::{self, DropReason, Placement, Split, SplitRow};
use stages::table::{self, Columns, TableError, option_text};

use crate::concurrently::in_order;
use crate::error::WorkerError;
use crate::parts::PartReader;
use crate::stores::WorkStore;

/// Name of the split of images that are in no part.
pub(crate) const DROPPED: &str = "dropped";

/// The split of one image, made over all boxes and pictures of a country.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AssignedRow {
    /// Stem of the image's name.
    pub image_id: String,
    /// `train`, `val`, `test` or `dropped`.
    pub split: &'static str,
    /// Why it was dropped from its split.
    pub reason: Option<DropReason>,
}

impl AssignedRow {
    pub(crate) fn digest(&self) -> String {
        digest::of_value(&(self.split, self.reason.map(DropReason::as_str)))
    }
}

/// Splits of all images of a country, by shard, sorted by image id.
pub type Assignment = Vec<Vec<AssignedRow>>;

/// Splits of every image of published geo-tags, in parts of `ratio`. Looks at all boxes and at the digests of all
/// published pictures at once; about 200 bytes a row. Reads on `spec.work.concurrency` tasks.
///
/// # Errors
/// Parts that cannot be read, and given splits that leave nothing to train on.
pub async fn assigned(
    work: &WorkStore,
    spec: &BuildSpec,
    geotags: &PinnedTable,
    images: &PinnedTable,
    ratio: [u32; 3],
) -> Result<Assignment, WorkerError> {
    // what is lost is made again before anything is placed for good
    let shards = geotags.parts.iter().map(|part| part.shard).filter(|shard| !geotags.lost.contains(shard));
    let tables = Arc::new((geotags.clone(), images.clone()));
    let of_shards = shards.map(|shard| {
        let (work, tables) = (work.clone(), tables.clone());
        async move { placed_rows(&work, &tables.0, &tables.1, shard).await }
    });
    let mut read = in_order(of_shards, spec.work.concurrency, "splits");
    let mut rows = Vec::new();
    while let Some(of_shard) = read.try_next().await? {
        rows.extend(of_shard);
    }
    assign(rows, spec, ratio).map_err(|e| WorkerError::Configuration(e.to_string()))
}

/// The rows of a shard of the geo-tags.
async fn placed_rows(
    work: &WorkStore,
    geotags: &PinnedTable,
    images: &PinnedTable,
    shard: u32,
) -> Result<Vec<PlacedRow>, WorkerError> {
    let mut pictures = match read(work, images, shard, &["image_id", "status", "bytes_digest"]).await? {
        Some(batch) => pictures(&batch).map_err(broken)?,
        None => BTreeMap::new(),
    };
    let columns = ["image_id", "status", "filepath", "given_split", "west", "south", "east", "north"];
    match read(work, geotags, shard, &columns).await? {
        Some(batch) => rows_of(&batch, &mut pictures).map_err(broken),
        None => Ok(Vec::new()),
    }
}

/// Rows of an assignment as a batch of [`Artifact::Assignment`].
pub(crate) fn batch(rows: &[AssignedRow]) -> Result<RecordBatch, TableError> {
    let text = |of: fn(&AssignedRow) -> Option<String>| table::texts(rows.iter().map(of));
    let columns = vec![
        text(|row| Some(row.image_id.clone())),
        text(|row| Some(row.split.to_owned())),
        text(|row| row.reason.map(|reason| reason.as_str().to_owned())),
        text(|row| Some(row.digest())),
    ];
    table::content(Artifact::Assignment, columns)
}

/// What is kept of an assignment, whose rows lie in slices.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AssignedCounts {
    /// Of all rows; `None`: no split was assigned yet.
    digest: Option<Digest>,
    /// Images by the name of their split.
    by_split: BTreeMap<&'static str, u64>,
    /// Images that were dropped, and why.
    pub dropped: BTreeMap<DropReason, u64>,
}

impl AssignedCounts {
    /// Counts the rows.
    pub fn of(assignment: &Assignment) -> Self {
        let mut counts = Self::default();
        for row in assignment.iter().flatten() {
            *counts.by_split.entry(row.split).or_default() += 1;
            if let Some(reason) = row.reason {
                *counts.dropped.entry(reason).or_default() += 1;
            }
        }
        let parts = assignment.iter().flatten().flat_map(|row| {
            [row.image_id.as_bytes(), row.split.as_bytes(), row.reason.map_or("", DropReason::as_str).as_bytes()]
        });
        // none of no shard: that is none
        counts.digest = (!assignment.is_empty()).then(|| digest::of_parts(parts));
        counts
    }

    /// Whether splits were assigned, if of no image.
    pub fn is_made(&self) -> bool {
        self.digest.is_some()
    }

    /// Images that were looked at.
    pub fn images(&self) -> u64 {
        self.by_split.values().sum()
    }

    /// Images of a split.
    pub fn of_split(&self, split: &str) -> u64 {
        self.by_split.get(split).copied().unwrap_or_default()
    }
}

fn broken(error: TableError) -> WorkerError {
    WorkerError::Broken(error.to_string())
}

/// Some columns of a shard. A part that was lost is made again before anything is computed from it.
async fn read(
    work: &WorkStore,
    table: &PinnedTable,
    shard: u32,
    columns: &[&str],
) -> Result<Option<RecordBatch>, WorkerError> {
    let Some(part) = table.part(shard) else { return Ok(None) };
    PartReader::open(work, table.artifact, part).await?.read(columns).await.map(Some)
}

/// What a split needs to know of an image.
struct PlacedRow {
    image_id: Box<str>,
    object: Option<OsmObject>,
    given: Option<Split>,
    box_wsen: Option<[f64; 4]>,
    /// Digest of its bytes, once they were read.
    picture: Option<[u8; 16]>,
}

/// Digests of the pictures of a shard, by image.
fn pictures(batch: &RecordBatch) -> Result<BTreeMap<String, [u8; 16]>, TableError> {
    let columns = Columns::new(Artifact::Images, batch);
    let (ids, status, digests) = (columns.text("image_id")?, columns.text("status")?, columns.text("bytes_digest")?);
    let good = (0..batch.num_rows()).filter(|&row| status.value(row) == "ok");
    Ok(good.filter_map(|row| Some((ids.value(row).to_owned(), digest::bits(option_text(digests, row)?)))).collect())
}

fn rows_of(batch: &RecordBatch, pictures: &mut BTreeMap<String, [u8; 16]>) -> Result<Vec<PlacedRow>, TableError> {
    let columns = Columns::new(Artifact::Geotags, batch);
    let (ids, status) = (columns.text("image_id")?, columns.text("status")?);
    let (path, given) = (columns.text("filepath")?, columns.text("given_split")?);
    let edges =
        [columns.float64("west")?, columns.float64("south")?, columns.float64("east")?, columns.float64("north")?];
    let good = (0..batch.num_rows()).filter(|&row| status.value(row) == "ok");
    Ok(good
        .map(|row| PlacedRow {
            image_id: ids.value(row).into(),
            object: option_text(path, row).and_then(|p| ImageName::parse(p).ok()).map(|name| name.osm_object()),
            given: option_text(given, row).and_then(Split::parse),
            box_wsen: edges.iter().all(|e| !e.is_null(row)).then(|| edges.map(|e| e.value(row))),
            picture: pictures.remove(ids.value(row)),
        })
        .collect())
}

/// Splits of all rows, by shard. Boxes decide where there are boxes; else the source's own split; else a hash of the
/// image's object. Of identical pictures only those that are held out stay.
fn assign(rows: Vec<PlacedRow>, spec: &BuildSpec, ratio: [u32; 3]) -> Result<Assignment, SourceError> {
    let boxed = |row: &PlacedRow| Some((row.object?, row.box_wsen?));
    let split_rows = rows.iter().filter_map(|row| {
        let (osm_object, box_wsen) = boxed(row)?;
        Some(SplitRow { image_id: &row.image_id, osm_object, box_wsen })
    });
    let mut by_box = split::assign(split_rows, ratio)?.into_iter();
    let has_validation = rows.iter().any(|row| row.given == Some(Split::Val));
    let without_box = |row: &PlacedRow| match row.given {
        Some(Split::Train) if !has_validation && split::hash_share(&row.image_id, spec.split.val_share) => Split::Val,
        Some(given) => given,
        None => hashed_split(row, ratio),
    };
    let mut placements: Vec<Placement> = rows
        .iter()
        .map(|row| boxed(row).and_then(|_| by_box.next()).unwrap_or_else(|| without_box(row).into()))
        .collect();
    split::drop_identical(rows.iter().map(|row| row.picture), &mut placements);
    let mut shards: Assignment = (0..spec.work.shards).map(|_| Vec::new()).collect();
    for (PlacedRow { image_id, .. }, placement) in rows.into_iter().zip(placements) {
        let (split, reason) = match placement {
            Placement::Dropped(reason) => (DROPPED, Some(reason)),
            kept => (kept.split().map_or(DROPPED, Split::as_str), None),
        };
        let shard = shard_of(&image_id, spec.work.shards) as usize;
        shards[shard].push(AssignedRow { image_id: image_id.into(), split, reason });
    }
    for rows in &mut shards {
        rows.sort_by(|a, b| a.image_id.cmp(&b.image_id));
    }
    Ok(shards)
}

/// Split of a row without box or given split: by hash of its object, so that all images of one
/// object stay together.
fn hashed_split(row: &PlacedRow, ratio: [u32; 3]) -> Split {
    let key = row.object.map_or_else(|| row.image_id.to_string(), |object| object.to_string());
    let total = f64::from(ratio.iter().sum::<u32>().max(1));
    let test = f64::from(ratio[2]) / total;
    if split::hash_share(&key, test) {
        return Split::Test;
    }
    let val = f64::from(ratio[1]) / (total - f64::from(ratio[2])).max(1.0);
    // another key: the first hash already says "not test"
    if split::hash_share(&format!("{key}/val"), val) { Split::Val } else { Split::Train }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec() -> BuildSpec {
        let text = "country = \"x\"\n[source]\nkind = \"captioned\"\nurl = \"x\"\n[caption]\ncaptioner = \"given\"\n";
        BuildSpec::parse(text, "t", &[]).unwrap()
    }

    fn row(i: usize, given: Option<Split>) -> PlacedRow {
        PlacedRow { image_id: format!("image{i}").into(), object: None, given, box_wsen: None, picture: None }
    }

    #[test]
    fn what_is_kept_tells_assignments_of_equal_counts_apart() {
        let rows = |splits: [&'static str; 2]| -> Assignment {
            let named = ["a", "b"].into_iter().zip(splits);
            vec![named.map(|(id, split)| AssignedRow { image_id: id.into(), split, reason: None }).collect()]
        };
        let one = AssignedCounts::of(&rows(["train", "test"]));
        assert_eq!(one, AssignedCounts::of(&rows(["train", "test"])));
        assert_ne!(one, AssignedCounts::of(&rows(["test", "train"])));
        assert_eq!((one.images(), one.of_split("train"), one.of_split("val")), (2, 1, 0));
        assert!(one.is_made() && AssignedCounts::of(&vec![Vec::new()]).is_made());
        assert!(!AssignedCounts::of(&Vec::new()).is_made());
    }

    fn counts(shards: &[Vec<AssignedRow>]) -> [usize; 3] {
        let of = |split: &str| shards.iter().flatten().filter(|r| r.split == split).count();
        [of("train"), of("val"), of("test")]
    }

    #[test]
    fn a_given_split_without_validation_gets_one_from_train() {
        let rows = (0..1000).map(|i| row(i, Some(if i < 800 { Split::Train } else { Split::Test }))).collect();
        let [train, val, test] = counts(&assign(rows, &spec(), spec().split.ratio).unwrap());
        assert_eq!((train + val, test), (800, 200));
        assert!((50..120).contains(&val), "{val}");
        let mut rows: Vec<_> = (0..100).map(|i| row(i, Some(Split::Train))).collect();
        rows.push(row(100, Some(Split::Val)));
        assert_eq!(
            counts(&assign(rows, &spec(), spec().split.ratio).unwrap()),
            [100, 1, 0],
            "a given validation split is kept"
        );
    }

    #[test]
    fn rows_without_any_hint_follow_the_ratio() {
        let rows = (0..3000).map(|i| row(i, None)).collect();
        let [train, val, test] = counts(&assign(rows, &spec(), spec().split.ratio).unwrap());
        assert!(
            (1950..2250).contains(&train) && (230..370).contains(&val) && (520..680).contains(&test),
            "{train} {val} {test}"
        );
    }
}
