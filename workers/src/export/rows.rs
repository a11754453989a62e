//! The rows of an export: images of the wanted splits with their captions and what is known of their ground.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{Array, RecordBatch};
use futures::{Stream, StreamExt};
use manifests::plan::PinnedTable;
use manifests::{Artifact, PartFile};
use stages::table::{Columns, TableError, option_text};

use super::{ExportRequest, Lacking};
use crate::concurrently::in_order;
use crate::error::WorkerError;
use crate::parts::PartReader;
use crate::stores::WorkStore;

/// Shards that are read before they are written: a request to a store that is far away takes longer than writing rows.
const SHARDS_AHEAD: usize = 4;
/// Row groups of images, likewise, which are larger.
const GROUPS_AHEAD: usize = 3;

/// Which rows are exported.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Filter {
    /// Names of splits; none: training, validation and test. Images that were dropped are of none of these: they overlap
    /// another split's ground, or equal a picture of it.
    pub splits: Vec<String>,
    /// Shards that are left out whole: of their images a table has no rows.
    pub without: Lacking,
}

/// What is exported unless other splits are named.
const SPLITS: [&str; 3] = ["train", "val", "test"];

impl Filter {
    fn wants(&self, split: &str) -> bool {
        match self.splits.is_empty() {
            true => SPLITS.contains(&split),
            false => self.splits.iter().any(|wanted| wanted == split),
        }
    }

    pub(super) fn in_words(&self) -> String {
        match self.splits.is_empty() {
            true => "in any split".to_owned(),
            false => format!("in {}", self.splits.join(", ")),
        }
    }
}

/// What is known of an image, without its pixels.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct About {
    pub image_id: String,
    pub split: String,
    pub captions: Vec<String>,
    /// Who wrote them: a captioner, or `person`.
    pub captioner: Option<String>,
    pub source: Option<String>,
    pub osm_kind: Option<String>,
    pub osm_id: Option<i64>,
    pub year: Option<i32>,
    pub time: Option<String>,
    pub gsd_meters: Option<f64>,
    /// West, south, east, north in degrees.
    pub ground: Option<[f64; 4]>,
    /// JSON, as the table holds it.
    pub center_tags: Option<String>,
    pub surrounding_tags: Option<String>,
}

/// An image with its encoded bytes.
#[derive(Debug)]
pub(super) struct ImageRow {
    pub about: About,
    pub width: i32,
    pub height: i32,
    pub bytes: Vec<u8>,
}

pub(super) fn broken(error: TableError) -> WorkerError {
    WorkerError::Broken(error.to_string())
}

/// The tables of an export.
pub(super) struct Rows {
    work: WorkStore,
    tables: BTreeMap<Artifact, PinnedTable>,
    filter: Filter,
}

impl Rows {
    pub(super) fn of(request: &ExportRequest<'_>) -> Result<Arc<Self>, WorkerError> {
        let tables: BTreeMap<Artifact, PinnedTable> = request.tables.iter().map(|t| (t.artifact, t.clone())).collect();
        for artifact in request.format.tables() {
            if tables.get(artifact).is_none_or(|table| table.parts.is_empty()) {
                return Err(WorkerError::Configuration(format!(
                    "{} has no table {} in {}: run its build first (`urbancross run` with its spec)",
                    request.country,
                    artifact.name(),
                    request.work.url()
                )));
            }
        }
        Ok(Arc::new(Self { work: request.work.clone(), tables, filter: request.filter.clone() }))
    }

    /// What is read of the shards that have splits and are not left out, in their order.
    pub(super) fn ahead<F, T>(
        self: &Arc<Self>,
        read: impl Fn(Arc<Self>, u32) -> F,
    ) -> impl Stream<Item = Result<T, WorkerError>>
    where
        F: Future<Output = Result<T, WorkerError>> + Send + 'static,
        T: Send + 'static,
    {
        let without = &self.filter.without;
        let splits = self.tables.get(&Artifact::Splits).into_iter().flat_map(|table| &table.parts);
        let shards = splits.map(|part| part.shard);
        let shards: Vec<u32> = shards.filter(|shard| !without.values().any(|shards| shards.contains(shard))).collect();
        in_order(shards.into_iter().map(move |shard| read(self.clone(), shard)), SHARDS_AHEAD, "an export")
    }

    fn part(&self, artifact: Artifact, shard: u32) -> Option<&PartFile> {
        self.tables.get(&artifact)?.part(shard)
    }

    /// Columns of a table's rows in a shard.
    pub(super) async fn read(
        &self,
        artifact: Artifact,
        shard: u32,
        columns: &[&str],
    ) -> Result<Option<RecordBatch>, WorkerError> {
        let Some(part) = self.part(artifact, shard) else { return Ok(None) };
        Ok(Some(PartReader::open(&self.work, artifact, part).await?.read(columns).await?))
    }

    /// The wanted images of a shard with their splits, by id.
    pub(super) async fn splits(&self, shard: u32) -> Result<BTreeMap<String, String>, WorkerError> {
        let Some(batch) = self.read(Artifact::Splits, shard, &["image_id", "status", "split"]).await? else {
            return Ok(BTreeMap::new());
        };
        let columns = Columns::new(Artifact::Splits, &batch);
        let split = columns.text("split").map_err(broken)?;
        let mut wanted = BTreeMap::new();
        for (row, id) in good_rows(&columns, batch.num_rows())? {
            if let Some(split) = option_text(split, row)
                && self.filter.wants(split)
            {
                wanted.insert(id.to_owned(), split.to_owned());
            }
        }
        Ok(wanted)
    }

    /// The wanted images of a shard that have a caption, by id.
    pub(super) async fn about(&self, shard: u32) -> Result<BTreeMap<String, About>, WorkerError> {
        let of_captions = ["image_id", "status", "captions", "captioner"];
        let (splits, captions, geotags) = tokio::try_join!(
            self.splits(shard),
            self.read(Artifact::Captions, shard, &of_captions),
            self.read(Artifact::Geotags, shard, &GEOTAGS),
        )?;
        let mut all = BTreeMap::new();
        if let Some(batch) = captions {
            let columns = Columns::new(Artifact::Captions, &batch);
            let captioner = columns.text("captioner").map_err(broken)?;
            let mut captions = columns.texts("captions").map_err(broken)?;
            for (row, id) in good_rows(&columns, batch.num_rows())? {
                let captions = std::mem::take(&mut captions[row]);
                if let Some(split) = splits.get(id)
                    && !captions.is_empty()
                {
                    let (image_id, split) = (id.to_owned(), split.clone());
                    let captioner = option_text(captioner, row).map(str::to_owned);
                    all.insert(id.to_owned(), About { image_id, split, captions, captioner, ..About::default() });
                }
            }
        }
        if let Some(batch) = geotags {
            let columns = Columns::new(Artifact::Geotags, &batch);
            let geotags = GeotagColumns::of(&columns).map_err(broken)?;
            for (row, id) in good_rows(&columns, batch.num_rows())? {
                if let Some(about) = all.get_mut(id) {
                    geotags.put(row, about);
                }
            }
        }
        Ok(all)
    }

    /// The wanted images of a shard without their pixels.
    pub(super) async fn identities(&self, shard: u32) -> Result<Vec<About>, WorkerError> {
        let (mut about, batch) =
            tokio::try_join!(self.about(shard), self.read(Artifact::Images, shard, &["image_id", "status"]))?;
        let Some(batch) = batch else { return Ok(Vec::new()) };
        let columns = Columns::new(Artifact::Images, &batch);
        let ids = good_rows(&columns, batch.num_rows())?;
        Ok(ids.filter_map(|(_, id)| about.remove(id)).collect())
    }

    /// The wanted images of a shard, the first row group of them read already; `None`: the shard has none.
    pub(super) async fn images(&self, shard: u32) -> Result<Option<ShardImages>, WorkerError> {
        let about = self.about(shard).await?;
        let Some(part) = self.part(Artifact::Images, shard).filter(|_| !about.is_empty()) else { return Ok(None) };
        let reader = PartReader::open(&self.work, Artifact::Images, part).await?;
        let groups = reader.row_groups().len();
        let images = Arc::new(Images { reader, about });
        let first = if groups > 0 { images.group(0).await? } else { Vec::new() };
        Ok(Some(ShardImages { images, first, groups }))
    }
}

/// Rows without error, with their ids.
pub(super) fn good_rows<'a>(
    columns: &Columns<'a>,
    rows: usize,
) -> Result<impl Iterator<Item = (usize, &'a str)>, WorkerError> {
    let (ids, status) = (columns.text("image_id").map_err(broken)?, columns.text("status").map_err(broken)?);
    Ok((0..rows).filter(|&row| status.value(row) == "ok").map(|row| (row, ids.value(row))))
}

/// The images of a shard on their way.
pub(super) struct ShardImages {
    images: Arc<Images>,
    first: Vec<ImageRow>,
    groups: usize,
}

struct Images {
    reader: PartReader,
    about: BTreeMap<String, About>,
}

impl ShardImages {
    /// The wanted rows of each row group, which may be none.
    pub(super) fn groups(self) -> impl Stream<Item = Result<Vec<ImageRow>, WorkerError>> {
        let others = (1..self.groups).map(move |group| {
            let images = self.images.clone();
            async move { images.group(group).await }
        });
        futures::stream::iter([Ok(self.first)]).chain(in_order(others, GROUPS_AHEAD, "an export"))
    }
}

impl Images {
    async fn group(&self, group: usize) -> Result<Vec<ImageRow>, WorkerError> {
        let columns = ["image_id", "status", "bytes", "width", "height"];
        let batch = self.reader.read_row_group(&columns, group).await?;
        let columns = Columns::new(Artifact::Images, &batch);
        let bytes = columns.binary("bytes").map_err(broken)?;
        let (width, height) = (columns.int32("width").map_err(broken)?, columns.int32("height").map_err(broken)?);
        let mut rows = Vec::new();
        for (row, id) in good_rows(&columns, batch.num_rows())? {
            if let Some(about) = self.about.get(id) {
                let (about, bytes) = (about.clone(), bytes.value(row).to_vec());
                rows.push(ImageRow { about, width: width.value(row), height: height.value(row), bytes });
            }
        }
        Ok(rows)
    }
}

const GEOTAGS: [&str; 14] = [
    "image_id",
    "status",
    "source",
    "osm_kind",
    "osm_id",
    "year",
    "west",
    "south",
    "east",
    "north",
    "time",
    "gsd_meters",
    "center_tags",
    "surrounding_tags",
];

struct GeotagColumns<'a> {
    texts: [&'a arrow::array::StringArray; 5],
    osm_id: &'a arrow::array::Int64Array,
    year: &'a arrow::array::Int32Array,
    gsd_meters: &'a arrow::array::Float64Array,
    edges: [&'a arrow::array::Float64Array; 4],
}

impl<'a> GeotagColumns<'a> {
    fn of(columns: &Columns<'a>) -> Result<Self, TableError> {
        let (text, edge) = (|name| columns.text(name), |name| columns.float64(name));
        Ok(Self {
            texts: [text("source")?, text("osm_kind")?, text("time")?, text("center_tags")?, text("surrounding_tags")?],
            osm_id: columns.int64("osm_id")?,
            year: columns.int32("year")?,
            gsd_meters: columns.float64("gsd_meters")?,
            edges: [edge("west")?, edge("south")?, edge("east")?, edge("north")?],
        })
    }

    fn put(&self, row: usize, about: &mut About) {
        let texts = self.texts.map(|column| option_text(column, row).map(str::to_owned));
        [about.source, about.osm_kind, about.time, about.center_tags, about.surrounding_tags] = texts;
        about.osm_id = self.osm_id.is_valid(row).then(|| self.osm_id.value(row));
        about.year = self.year.is_valid(row).then(|| self.year.value(row));
        about.gsd_meters = self.gsd_meters.is_valid(row).then(|| self.gsd_meters.value(row));
        let edges = self.edges.map(|column| if column.is_valid(row) { column.value(row) } else { f64::NAN });
        // a box that is none, such as of a table that another program wrote, has no ground
        let [west, south, east, north] = edges;
        let is_box = edges.iter().all(|edge| edge.is_finite()) && west < east && south < north;
        about.ground = is_box.then_some(edges);
    }
}

impl ImageRow {
    /// What a name of the encoded image ends with.
    pub(super) fn extension(&self) -> &'static str {
        match self.bytes.as_slice() {
            [0xff, 0xd8, ..] => "jpg",
            [0x89, b'P', b'N', b'G', ..] => "png",
            [b'I', b'I', ..] | [b'M', b'M', ..] => "tif",
            [b'B', b'M', ..] => "bmp",
            [b'R', b'I', b'F', b'F', ..] => "webp",
            _ => "img",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// They show what is held out: who learns from all of an export must not learn from them.
    #[test]
    fn images_that_were_dropped_are_exported_by_name_alone() {
        let all = Filter::default();
        assert!(all.wants("train") && all.wants("val") && all.wants("test") && !all.wants("dropped"));
        let named = Filter { splits: vec!["dropped".to_owned()], ..Filter::default() };
        assert!(named.wants("dropped") && !named.wants("train"));
    }
}
