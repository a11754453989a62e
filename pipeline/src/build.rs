//! A build at hand: its spec, its two stores, and what the source offers.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;

use manifests::plan::PinnedTable;
use manifests::weights::Weights;
use manifests::{Artifact, BuildSpec, shard_of};
use sources::name::ImageName;
use sources::split::{self, SplitRow};
use stages::table::{Columns, TableError, option_text};
use workers::WorkerError;
use workers::fetch::FetchSettings;
use workers::join::{AssignedRow, VirtualInputs};
use workers::parts::PartReader;
use workers::stores::{SourceStore, WorkStore};
use workers::tables::Tables;

/// A build, opened.
///
/// It sees the store as it was when it was opened: the live parts of its tables are pinned one after the other, each
/// before the tables that it is made from, and the source is listed last. So whatever a stage computes from is at least
/// as new as everything that went into the parts it replaces; its own commits move the pins on.
pub struct Build {
    pub spec: BuildSpec,
    pub source: SourceStore,
    pub work: WorkStore,
    pub tables: Tables,
    /// The listing of the source, and the split assignment once it is known.
    pub virtual_inputs: VirtualInputs,
    /// What the spec's fields name; fetched before the first step of a run.
    pub weights: Weights,
    /// Folder of this machine for checkpoints of work stores that are elsewhere.
    pub scratch: PathBuf,
    pub stop: std::sync::Arc<AtomicBool>,
    pins: BTreeMap<Artifact, PinnedTable>,
    /// Commits of this build since it was opened.
    commits: u64,
}

impl Build {
    /// Opens the stores and lists the source. Makes nothing.
    pub async fn open(spec: BuildSpec, stop: std::sync::Arc<AtomicBool>) -> Result<Build, WorkerError> {
        let mut build = Build::connect(spec, stop).await?;
        build.list_source().await?;
        Ok(build)
    }

    /// Opens the stores of a build that was run before: enough for `status` and `report`.
    pub async fn open_work(spec: BuildSpec, stop: std::sync::Arc<AtomicBool>) -> Result<Build, WorkerError> {
        let build = Build::connect(spec, stop).await?;
        build.work.required().await?;
        Ok(build)
    }

    /// Lists what the source offers, after a look whether all live parts are there.
    pub async fn list_source(&mut self) -> Result<(), WorkerError> {
        self.find_lost().await?;
        self.source.required()?;
        self.virtual_inputs.listing = workers::listing::list(&self.source, &self.work, &self.spec).await?;
        crate::preflight::rows(&self.virtual_inputs.listing, &self.spec)
    }

    /// Opens the stores, whether or not anything is there.
    pub async fn connect(spec: BuildSpec, stop: std::sync::Arc<AtomicBool>) -> Result<Build, WorkerError> {
        let source = SourceStore::open(&spec.source.url, &spec.source.options)?;
        let work = WorkStore::open(&spec.work.url, &spec.work.options)?;
        let tables = Tables::new(&work);
        let weights = workers::weights::known(&work, &spec).await?;
        // a folder for each work store: the same run in another store is another run
        let key = &manifests::digest::of_bytes(work.url().as_str().as_bytes())[..12];
        let scratch = std::env::temp_dir().join("urbancross").join(key);
        let (virtual_inputs, pins) = (VirtualInputs::default(), BTreeMap::new());
        workers::layout::check(&work, &spec).await?;
        let mut build = Build { spec, source, work, tables, virtual_inputs, weights, scratch, stop, pins, commits: 0 };
        build.pin_all().await?;
        Ok(build)
    }

    /// Looks at the store and the source again, after somebody else changed what this build had pinned.
    pub async fn refresh(&mut self) -> Result<(), WorkerError> {
        self.pin_all().await?;
        self.list_source().await?;
        self.virtual_inputs.assignment.clear();
        Ok(())
    }

    async fn pin_all(&mut self) -> Result<(), WorkerError> {
        let outputs: Vec<Artifact> = stages::map_stages(&self.spec).iter().map(|stage| stage.output).collect();
        for artifact in outputs.into_iter().rev() {
            let pinned = self.tables.pin(artifact, &self.spec.country, None).await?;
            self.pins.insert(artifact, pinned);
        }
        Ok(())
    }

    /// Looks for parts that are live and not there: their rows are made again.
    async fn find_lost(&mut self) -> Result<(), WorkerError> {
        for table in self.pins.values_mut() {
            table.lost = workers::parts::lost(&self.work, table, &self.spec.country).await?;
        }
        Ok(())
    }

    /// Makes sure that this store may be written to with this spec.
    pub async fn claim_layout(&self) -> Result<(), WorkerError> {
        workers::layout::claim(&self.work, &self.spec, &self.pins.values().collect::<Vec<_>>()).await
    }

    pub fn fetch_settings(&self) -> FetchSettings {
        FetchSettings { concurrency: self.spec.work.concurrency, request_bytes: self.spec.work.request_mib << 20 }
    }

    /// The live parts of this country in a table, as this build sees them.
    pub async fn pin(&self, artifact: Artifact) -> Result<PinnedTable, WorkerError> {
        match self.pins.get(&artifact) {
            Some(pinned) => Ok(pinned.clone()),
            None => self.tables.pin(artifact, &self.spec.country, None).await,
        }
    }

    pub fn commits(&self) -> u64 {
        self.commits
    }

    /// Takes note of a table's parts after a commit of this build.
    pub fn moved_on(&mut self, live: PinnedTable) {
        self.commits += 1;
        self.pins.insert(live.artifact, live);
    }

    /// Places every image of the published geo-tags in a split.
    pub async fn assign_splits(&mut self) -> Result<(), WorkerError> {
        self.virtual_inputs.assignment = self.assigned(self.spec.split.ratio).await?;
        Ok(())
    }

    /// Splits of every image of the published geo-tags, by shard, in parts of `ratio`. Looks at all boxes at once; about
    /// 100 bytes a row.
    pub async fn assigned(&self, ratio: [u32; 3]) -> Result<Vec<Vec<AssignedRow>>, WorkerError> {
        let geotags = self.pin(Artifact::Geotags).await?;
        let mut rows = Vec::with_capacity(geotags.rows() as usize);
        // what is lost is made again before anything is placed for good
        for part in geotags.parts.iter().filter(|part| !geotags.lost.contains(&part.shard)) {
            let reader = PartReader::open(&self.work, Artifact::Geotags, part).await?;
            let batch = reader
                .read(&["image_id", "status", "filepath", "given_split", "west", "south", "east", "north"])
                .await?;
            placed_rows(&batch, &mut rows).map_err(|e| WorkerError::Broken(e.to_string()))?;
        }
        assign(rows, &self.spec, ratio).map_err(|e| WorkerError::Configuration(e.to_string()))
    }
}

/// What a split needs to know of an image.
struct PlacedRow {
    image_id: String,
    name: Option<ImageName>,
    given: Option<split::Split>,
    box_wsen: Option<[f64; 4]>,
}

fn placed_rows(batch: &arrow::record_batch::RecordBatch, rows: &mut Vec<PlacedRow>) -> Result<(), TableError> {
    use arrow::array::Array;
    let columns = Columns::new(Artifact::Geotags, batch);
    let (ids, status) = (columns.text("image_id")?, columns.text("status")?);
    let (path, given) = (columns.text("filepath")?, columns.text("given_split")?);
    let edges =
        [columns.float64("west")?, columns.float64("south")?, columns.float64("east")?, columns.float64("north")?];
    for row in (0..batch.num_rows()).filter(|&row| status.value(row) == "ok") {
        rows.push(PlacedRow {
            image_id: ids.value(row).to_owned(),
            name: option_text(path, row).and_then(|p| ImageName::parse(p).ok()),
            given: option_text(given, row).and_then(split::Split::parse),
            box_wsen: edges.iter().all(|e| !e.is_null(row)).then(|| edges.map(|e| e.value(row))),
        });
    }
    Ok(())
}

/// Splits of all rows, by shard. Boxes decide where there are boxes; else the source's own split;
/// else a hash of the image's object.
fn assign(
    rows: Vec<PlacedRow>,
    spec: &BuildSpec,
    ratio: [u32; 3],
) -> Result<Vec<Vec<AssignedRow>>, sources::SourceError> {
    let mut shards: Vec<Vec<AssignedRow>> = (0..spec.work.shards).map(|_| Vec::new()).collect();
    let mut place = |image_id: String, split: &'static str, reason: Option<&'static str>| {
        let shard = shard_of(&image_id, spec.work.shards) as usize;
        shards[shard].push(AssignedRow { image_id, split, reason });
    };
    let boxed: Vec<SplitRow<'_>> = rows
        .iter()
        .filter_map(|r| {
            Some(SplitRow { image_id: &r.image_id, osm_object: r.name.as_ref()?.osm_object(), box_wsen: r.box_wsen? })
        })
        .collect();
    let ids: Vec<String> = boxed.iter().map(|r| r.image_id.to_owned()).collect();
    let (placements, _) = split::assign(boxed, ratio)?;
    for (image_id, placement) in ids.into_iter().zip(placements) {
        match placement {
            split::Placement::Dropped(reason) => place(image_id, "dropped", Some(reason.as_str())),
            kept => place(image_id, kept.split().map_or("dropped", split::Split::as_str), None),
        }
    }
    let has_validation = rows.iter().any(|r| r.given == Some(split::Split::Val));
    for row in rows.iter().filter(|r| r.box_wsen.is_none() || r.name.is_none()) {
        let split = match row.given {
            Some(split::Split::Train) if !has_validation && split::hash_share(&row.image_id, spec.split.val_share) => {
                "val"
            }
            Some(given) => given.as_str(),
            None => hashed_split(row, ratio),
        };
        place(row.image_id.clone(), split, None);
    }
    for rows in &mut shards {
        rows.sort_by(|a, b| a.image_id.cmp(&b.image_id));
    }
    Ok(shards)
}

/// Split of a row without box or given split: by hash of its object, so that all images of one
/// object stay together.
fn hashed_split(row: &PlacedRow, ratio: [u32; 3]) -> &'static str {
    let key = row.name.as_ref().map_or_else(|| row.image_id.clone(), |n| n.osm_object().to_string());
    let total = f64::from(ratio.iter().sum::<u32>().max(1));
    let test = f64::from(ratio[2]) / total;
    if split::hash_share(&key, test) {
        return "test";
    }
    let val = f64::from(ratio[1]) / (total - f64::from(ratio[2])).max(1.0);
    // another key: the first hash already says "not test"
    if split::hash_share(&format!("{key}/val"), val) { "val" } else { "train" }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec() -> BuildSpec {
        let text = "country = \"x\"\n[source]\nkind = \"captioned\"\nurl = \"x\"\n[caption]\ncaptioner = \"given\"\n";
        BuildSpec::parse(text, "t", &[]).unwrap()
    }

    fn row(i: usize, given: Option<split::Split>) -> PlacedRow {
        PlacedRow { image_id: format!("image{i}"), name: None, given, box_wsen: None }
    }

    fn counts(shards: &[Vec<AssignedRow>]) -> [usize; 3] {
        let of = |split: &str| shards.iter().flatten().filter(|r| r.split == split).count();
        [of("train"), of("val"), of("test")]
    }

    #[test]
    fn a_given_split_without_validation_gets_one_from_train() {
        let rows =
            (0..1000).map(|i| row(i, Some(if i < 800 { split::Split::Train } else { split::Split::Test }))).collect();
        let [train, val, test] = counts(&assign(rows, &spec(), spec().split.ratio).unwrap());
        assert_eq!((train + val, test), (800, 200));
        assert!((50..120).contains(&val), "{val}");
        let mut rows: Vec<_> = (0..100).map(|i| row(i, Some(split::Split::Train))).collect();
        rows.push(row(100, Some(split::Split::Val)));
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
