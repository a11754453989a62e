//! Which rows a training saw, and which its ancestors saw: kept beside the run, so that no later question needs a part
//! that may be gone by then.
//!
//! Two questions are asked: how far the tables have moved since, and whether weights saw what is held out now.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, Float64Array, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, Float64Type, Schema};
use bytes::Bytes;
use manifests::plan::PinnedTable;
use manifests::{Artifact, digest};
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use serde::{Deserialize, Serialize};
use sources::box_grid::BoxGrid;
use sources::name::ImageName;
use stages::table::{Columns, TableError, option_text};

use super::broken;
use crate::error::WorkerError;
use crate::join::AssignedRow;
use crate::parts::PartReader;
use crate::stores::WorkStore;

/// What is remembered of one image.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct RunRow {
    /// Digest of everything that a training reads of it; `None` for a row that only an ancestor saw.
    pub digest: Option<String>,
    pub split: Option<String>,
    /// Was trained on, by the run or by one that it descends from.
    pub trained: bool,
    /// Digest of the picture's bytes, where it is known: the same picture may come back under another name.
    pub bytes: Option<String>,
    /// Its OpenStreetMap object.
    pub object: Option<String>,
    /// West, south, east, north in degrees.
    pub box_wsen: Option<[f64; 4]>,
}

/// Rows by image id. About 200 bytes a row.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct RunRows(BTreeMap<String, RunRow>);

/// How far tables have moved.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChangedShare {
    pub rows: u64,
    pub changed: u64,
}

impl ChangedShare {
    pub fn share(&self) -> f64 {
        if self.rows == 0 { 0.0 } else { self.changed as f64 / self.rows as f64 }
    }
}

/// Held-out images that weights were trained on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Leak {
    pub images: u64,
    /// One of them.
    pub image_id: String,
    pub how: String,
}

impl std::fmt::Display for Leak {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (images, image_id, how) = (self.images, &self.image_id, &self.how);
        let plural = if images == 1 { "image that is" } else { "images that are" };
        write!(f, "{images} {plural} validation or test now, such as {image_id} ({how})")
    }
}

/// Column that says whether a row of a table has changed for a training.
fn digest_column(artifact: Artifact) -> &'static str {
    match artifact {
        Artifact::Images => "bytes_digest",
        Artifact::Captions => "captions_digest",
        Artifact::Splits => "split_digest",
        Artifact::Segments => "segments_digest",
        // floats: their recipe stands for them
        _ => "recipe",
    }
}

impl RunRows {
    /// Reads what a training reads of each image, without reading what it learns from. Boxes and objects come from
    /// `geotags`.
    pub async fn read(work: &WorkStore, inputs: &[PinnedTable], geotags: &PinnedTable) -> Result<Self, WorkerError> {
        let mut all = BTreeMap::new();
        let shards: BTreeSet<u32> = inputs.iter().flat_map(|t| &t.parts).map(|p| p.shard).collect();
        for shard in shards {
            let mut rows = read_shard(work, inputs, shard).await?;
            place_shard(work, geotags, shard, &mut rows).await?;
            all.extend(rows);
        }
        Ok(Self(all))
    }

    /// The rows of an adaptation's target under its own parts.
    pub async fn of_assignment(
        work: &WorkStore,
        geotags: &PinnedTable,
        assignment: &[Vec<AssignedRow>],
    ) -> Result<Self, WorkerError> {
        let mut all = BTreeMap::new();
        for (shard, assigned) in (0..).zip(assignment) {
            let row = |row: &AssignedRow| {
                let (split, trained) = (Some(row.split.to_owned()), row.split == "train");
                (row.image_id.clone(), RunRow { split, trained, ..RunRow::default() })
            };
            let mut rows = assigned.iter().map(row).collect();
            place_shard(work, geotags, shard, &mut rows).await?;
            all.extend(rows);
        }
        Ok(Self(all))
    }

    /// What the weights in a folder saw; `None`: the folder does not say, as with weights made elsewhere.
    pub fn in_folder(folder: &Path) -> Option<Self> {
        let path = folder.join(super::ROWS_FILE);
        let bytes = std::fs::read(&path).ok()?;
        let rows = Self::from_bytes(bytes.into());
        rows.inspect_err(|why| tracing::warn!("{}: {why}; it is passed over", path.display())).ok()
    }

    /// How far `now` is from these rows.
    pub fn changed(&self, now: &RunRows) -> ChangedShare {
        let mut share = ChangedShare::default();
        let before = self.0.iter().filter(|(_, row)| row.digest.is_some()).map(|(id, _)| id);
        let ids: BTreeSet<&String> = before.chain(now.0.keys()).collect();
        for id in ids {
            let digest = |rows: &'_ RunRows| rows.0.get(id).and_then(|row| row.digest.clone());
            share.rows += 1;
            share.changed += u64::from(digest(self) != digest(now));
        }
        share
    }

    /// Whether weights trained on these rows saw what `now` holds out: the same image, by name or by its bytes, the same
    /// object, or ground that both show. Of a picture that was in training and, under another name, held out all along,
    /// the training that stands is no more to blame than a new one.
    pub fn leak(&self, now: &RunRows) -> Option<Leak> {
        let trained = || self.0.iter().filter(|(_, row)| row.trained);
        let ids: BTreeSet<&String> = trained().map(|(id, _)| id).collect();
        let objects: BTreeSet<&String> = trained().filter_map(|(_, row)| row.object.as_ref()).collect();
        let pictures: BTreeSet<&String> = trained().filter_map(|(_, row)| row.bytes.as_ref()).collect();
        let held_out_before = |id: &String, bytes: &String| {
            self.0.get(id).is_some_and(|row| !row.trained && row.bytes.as_ref() == Some(bytes))
        };
        let boxes = BoxGrid::new(trained().filter_map(|(_, row)| row.box_wsen));
        let held_out = now.0.iter().filter(|(_, row)| matches!(row.split.as_deref(), Some("val" | "test")));
        let mut leak: Option<Leak> = None;
        for (image_id, row) in held_out {
            let how = if ids.contains(image_id) {
                "the same image"
            } else if row.bytes.as_ref().is_some_and(|b| pictures.contains(b) && !held_out_before(image_id, b)) {
                "the same picture under another name"
            } else if row.object.as_ref().is_some_and(|object| objects.contains(object)) {
                "another image of the same OpenStreetMap object"
            } else if row.box_wsen.is_some_and(|wsen| boxes.overlaps(wsen)) {
                "an overlapping box"
            } else {
                continue;
            };
            leak.get_or_insert(Leak { images: 0, image_id: image_id.clone(), how: how.into() }).images += 1;
        }
        leak
    }

    /// Adds what an ancestor was trained on.
    pub fn descend_from(&mut self, ancestor: &RunRows) {
        for (image_id, old) in ancestor.0.iter().filter(|(_, row)| row.trained) {
            let row = self.0.entry(image_id.clone()).or_default();
            row.trained = true;
            row.bytes = row.bytes.take().or_else(|| old.bytes.clone());
            row.object = row.object.take().or_else(|| old.object.clone());
            row.box_wsen = row.box_wsen.or(old.box_wsen);
        }
    }

    /// Rows that the run or an ancestor was trained on.
    pub fn trained(&self) -> usize {
        self.0.values().filter(|row| row.trained).count()
    }

    /// As Parquet.
    pub fn to_bytes(&self) -> Result<Bytes, WorkerError> {
        let rows = || self.0.values();
        let texts = |of: fn(&RunRow) -> Option<&str>| Arc::new(rows().map(of).collect::<StringArray>()) as ArrayRef;
        let mut columns: Vec<ArrayRef> = vec![
            Arc::new(self.0.keys().map(Some).collect::<StringArray>()),
            texts(|row| row.digest.as_deref()),
            texts(|row| row.split.as_deref()),
            Arc::new(rows().map(|row| Some(row.trained)).collect::<BooleanArray>()),
            texts(|row| row.object.as_deref()),
            texts(|row| row.bytes.as_deref()),
        ];
        columns.extend((0..4).map(|edge| {
            Arc::new(rows().map(|row| row.box_wsen.map(|wsen| wsen[edge])).collect::<Float64Array>()) as ArrayRef
        }));
        let fields = [
            ("image_id", DataType::Utf8),
            ("digest", DataType::Utf8),
            ("split", DataType::Utf8),
            ("trained", DataType::Boolean),
            ("osm_object", DataType::Utf8),
            ("bytes_digest", DataType::Utf8),
            ("west", DataType::Float64),
            ("south", DataType::Float64),
            ("east", DataType::Float64),
            ("north", DataType::Float64),
        ];
        let fields: Vec<Field> = fields.into_iter().map(|(name, kind)| Field::new(name, kind, true)).collect();
        let write = || -> Result<Vec<u8>, parquet::errors::ParquetError> {
            let batch = RecordBatch::try_new(Arc::new(Schema::new(fields)), columns)?;
            let mut writer = ArrowWriter::try_new(Vec::new(), batch.schema(), None)?;
            writer.write(&batch)?;
            writer.into_inner()
        };
        write().map(Bytes::from).map_err(|e| WorkerError::Broken(format!("the rows of a training: {e}")))
    }

    /// # Errors
    /// What is wrong with the file.
    pub fn from_bytes(bytes: Bytes) -> Result<Self, String> {
        let reader =
            ParquetRecordBatchReaderBuilder::try_new(bytes).and_then(|b| b.build()).map_err(|e| e.to_string())?;
        let mut all = BTreeMap::new();
        for batch in reader {
            read_batch(&batch.map_err(|e| e.to_string())?, &mut all).ok_or("a column is missing or of another type")?;
        }
        Ok(Self(all))
    }
}

fn read_batch(batch: &RecordBatch, all: &mut BTreeMap<String, RunRow>) -> Option<()> {
    let text = |name| batch.column_by_name(name)?.as_string_opt::<i32>().cloned();
    let (ids, digests, splits, objects) = (text("image_id")?, text("digest")?, text("split")?, text("osm_object")?);
    // runs of older versions have none
    let pictures = text("bytes_digest");
    let trained = batch.column_by_name("trained")?.as_boolean_opt()?.clone();
    let edge = |name| batch.column_by_name(name)?.as_primitive_opt::<Float64Type>().cloned();
    let edges = [edge("west")?, edge("south")?, edge("east")?, edge("north")?];
    for row in 0..batch.num_rows() {
        let of = |column: &StringArray| option_text(column, row).map(str::to_owned);
        let remembered = RunRow {
            digest: of(&digests),
            split: of(&splits),
            trained: trained.value(row),
            bytes: pictures.as_ref().and_then(of),
            object: of(&objects),
            box_wsen: edges.iter().all(|e| !e.is_null(row)).then(|| [0, 1, 2, 3].map(|i| edges[i].value(row))),
        };
        all.insert(of(&ids)?, remembered);
    }
    Some(())
}

async fn read_shard(
    work: &WorkStore,
    inputs: &[PinnedTable],
    shard: u32,
) -> Result<BTreeMap<String, RunRow>, WorkerError> {
    let mut digests: BTreeMap<String, String> = BTreeMap::new();
    let mut splits: BTreeMap<String, String> = BTreeMap::new();
    let mut pictures: BTreeMap<String, String> = BTreeMap::new();
    for table in inputs {
        let Some(part) = table.part(shard) else { continue };
        let column = digest_column(table.artifact);
        let mut names = vec!["image_id", "status", column];
        names.extend((table.artifact == Artifact::Splits).then_some("split"));
        let batch = PartReader::open(work, table.artifact, part).await?.read(&names).await?;
        let mut read = || -> Result<(), TableError> {
            let columns = Columns::new(table.artifact, &batch);
            let (ids, status, of_row) = (columns.text("image_id")?, columns.text("status")?, columns.text(column)?);
            let split = if names.len() > 3 { Some(columns.text("split")?) } else { None };
            for row in (0..batch.num_rows()).filter(|&row| status.value(row) == "ok") {
                let entry = digests.entry(ids.value(row).to_owned()).or_default();
                entry.push_str(table.artifact.name());
                entry.push_str(of_row.value(row));
                if table.artifact == Artifact::Images {
                    pictures.insert(ids.value(row).to_owned(), of_row.value(row).to_owned());
                }
                if let Some(split) = split.and_then(|s| option_text(s, row)) {
                    splits.insert(ids.value(row).to_owned(), split.to_owned());
                }
            }
            Ok(())
        };
        read().map_err(broken)?;
    }
    let rows = digests.into_iter().map(|(id, text)| {
        let split = splits.remove(&id);
        let trained = split.as_deref() == Some("train");
        let digest = Some(digest::of_bytes(text.as_bytes()));
        let bytes = pictures.remove(&id);
        (id, RunRow { digest, split, trained, bytes, ..RunRow::default() })
    });
    Ok(rows.collect())
}

/// Fills in where a shard's images lie.
async fn place_shard(
    work: &WorkStore,
    geotags: &PinnedTable,
    shard: u32,
    rows: &mut BTreeMap<String, RunRow>,
) -> Result<(), WorkerError> {
    let Some(part) = geotags.part(shard) else { return Ok(()) };
    let reader = PartReader::open(work, Artifact::Geotags, part).await?;
    let batch = reader.read(&["image_id", "filepath", "west", "south", "east", "north"]).await?;
    place(&batch, rows).map_err(broken)
}

fn place(batch: &RecordBatch, rows: &mut BTreeMap<String, RunRow>) -> Result<(), TableError> {
    let columns = Columns::new(Artifact::Geotags, batch);
    let (ids, path) = (columns.text("image_id")?, columns.text("filepath")?);
    let edges =
        [columns.float64("west")?, columns.float64("south")?, columns.float64("east")?, columns.float64("north")?];
    for at in 0..batch.num_rows() {
        let Some(row) = rows.get_mut(ids.value(at)) else { continue };
        let name = option_text(path, at).and_then(|path| ImageName::parse(path).ok());
        row.object = name.map(|name| name.osm_object().to_string());
        let whole = edges.iter().all(|edge| !edge.is_null(at));
        row.box_wsen = whole.then(|| edges.map(|edge| edge.value(at))).filter(|wsen| sources::meta::is_box(*wsen));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(rows: &[(&str, &str, &str, [f64; 4])]) -> RunRows {
        let row = |&(id, split, object, wsen): &(&str, &str, &str, [f64; 4])| {
            let row = RunRow {
                digest: Some(format!("{id} {split}")),
                split: Some(split.into()),
                trained: split == "train",
                bytes: Some(format!("bytes of {id}")),
                object: Some(object.into()),
                box_wsen: Some(wsen),
            };
            (id.to_owned(), row)
        };
        RunRows(rows.iter().map(row).collect())
    }

    const HERE: [f64; 4] = [10.0, 50.0, 10.01, 50.01];
    const NEAR: [f64; 4] = [10.005, 50.005, 10.015, 50.015];
    const FAR: [f64; 4] = [20.0, 50.0, 20.01, 50.01];

    #[test]
    fn rows_survive_their_file() {
        let mut all = rows(&[("a", "train", "way/1", HERE), ("b", "test", "way/2", FAR)]);
        all.0.insert("c".into(), RunRow { trained: true, ..RunRow::default() });
        assert_eq!(RunRows::from_bytes(all.to_bytes().unwrap()).unwrap(), all);
        assert!(RunRows::from_bytes(Bytes::from_static(b"PAR1 torn")).is_err());
    }

    #[test]
    fn weights_that_saw_a_held_out_image_object_or_place_are_found() {
        let before = rows(&[("a", "train", "way/1", HERE), ("b", "test", "way/2", FAR)]);
        let leak = |now: &[(&str, &str, &str, [f64; 4])]| before.leak(&rows(now)).map(|leak| leak.how);
        assert_eq!(leak(&[("a", "train", "way/1", HERE), ("b", "val", "way/2", FAR)]), None);
        assert_eq!(leak(&[("a", "test", "way/1", HERE)]).unwrap(), "the same image");
        assert!(leak(&[("c", "val", "way/1", FAR)]).unwrap().contains("object"));
        assert!(leak(&[("c", "test", "way/3", NEAR)]).unwrap().contains("box"));
        assert_eq!(leak(&[("c", "train", "way/1", NEAR)]), None, "what is trained on now is no leak");
    }

    #[test]
    fn a_picture_under_another_name_is_found() {
        let named = |name: &str, bytes: &str, split: &str| {
            let mut one = rows(&[(name, split, name, if split == "train" { HERE } else { FAR })]);
            one.0.get_mut(name).unwrap().bytes = Some(bytes.into());
            one.0.into_iter().next().unwrap()
        };
        let before = RunRows([named("a", "1", "train"), named("b", "1", "test")].into());
        let leak = |name, bytes| before.leak(&RunRows([named(name, bytes, "test")].into())).map(|leak| leak.how);
        assert_eq!(leak("c", "1").unwrap(), "the same picture under another name");
        assert_eq!(leak("c", "2"), None);
        assert_eq!(leak("b", "1"), None, "held out all along");
    }

    #[test]
    fn an_ancestors_rows_count() {
        let mut child = rows(&[("b", "train", "way/2", FAR)]);
        child.descend_from(&rows(&[("a", "train", "way/1", HERE), ("z", "test", "way/9", FAR)]));
        assert_eq!(child.trained(), 2);
        assert!(child.leak(&rows(&[("a", "test", "way/1", HERE)])).is_some());
        assert!(child.leak(&rows(&[("z", "test", "way/9", [30.0, 1.0, 30.1, 1.1])])).is_none());
    }

    #[test]
    fn a_share_counts_added_removed_and_changed_rows() {
        let before = rows(&[("a", "train", "x", HERE), ("b", "train", "x", HERE), ("c", "train", "x", HERE)]);
        let now = rows(&[("a", "train", "x", HERE), ("b", "test", "x", HERE), ("d", "train", "x", HERE)]);
        assert_eq!(before.changed(&now), ChangedShare { rows: 4, changed: 3 });
    }
}
