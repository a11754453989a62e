//! A country as large as one likes: the program's own planner, slices, parts and tables, and stages that compute nothing.

use std::error::Error;
use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, new_null_array};
use manifests::{Artifact, BuildSpec, Plan, PlanCounts, digest};
use stages::stage::{InputRows, MapOutput, Outcome, Stage, StageError, Transform};
use stages::table;
use workers::listing::Listing;
use workers::map::Observer;
use workers::planning::{VirtualInputs, count};
use workers::slices::Slices;
use workers::stores::WorkStore;
use workers::tables::Tables;

/// Name of the country.
pub const COUNTRY: &str = "finland";
/// Requests at a time.
pub const AT_ONCE: usize = 64;

/// Fills the digests that other stages read, and nothing else.
struct Stub(Artifact);

impl Transform for Stub {
    fn transform(&mut self, rows: &InputRows) -> Result<MapOutput, StageError> {
        let schema = table::content_schema(self.0);
        let digest = |image_id: &String| Some(digest::of_bytes(image_id.as_bytes()));
        let column = |name: &str, kind| -> ArrayRef {
            match name {
                "box_digest" | "tags_digest" | "bytes_digest" | "captions_digest" => {
                    table::texts(rows.image_ids.iter().map(digest))
                }
                "filepath" => table::texts(rows.image_ids.iter().map(|id| Some(format!("images2/{id}.jpg")))),
                "west" | "south" => table::float64s(rows.image_ids.iter().map(|id| Some(degrees(id)))),
                "east" | "north" => table::float64s(rows.image_ids.iter().map(|id| Some(degrees(id) + 1e-4))),
                _ => new_null_array(kind, rows.len()),
            }
        };
        let columns = schema.fields().iter().map(|field| column(field.name(), field.data_type())).collect();
        let content = RecordBatch::try_new(schema.clone(), columns);
        let content = content.map_err(|e| StageError::Compute { stage: "stub", why: e.to_string() })?;
        Ok(MapOutput { outcomes: vec![Outcome::Good; rows.len()], content })
    }
}

/// Somewhere on a diagonal: boxes that do not overlap.
fn degrees(image_id: &str) -> f64 {
    image_id.trim_start_matches('w').split('_').next().and_then(|n| n.parse::<f64>().ok()).unwrap_or(0.0) * 1e-5
}

pub fn stubs(spec: &BuildSpec) -> [Stage; 3] {
    let geotags = Stage { source: None, open: |_| Ok(Box::new(Stub(Artifact::Geotags))), ..stages::geotags::stage() };
    let images = Stage { source: None, open: |_| Ok(Box::new(Stub(Artifact::Images))), ..stages::images::stage() };
    let captions = Stage { open: |_| Ok(Box::new(Stub(Artifact::Captions))), ..stages::captions::stage(spec) };
    [geotags, images, captions]
}

pub struct Silent;

impl Observer for Silent {
    fn rows(&self, _: u64, _: u64, _: u64) {}
    fn note(&self, _: &str) {}
}

/// The listing, of which every hundredth row has another title in another generation.
pub fn slice(rows: u64, shards: u64, shard: u64, generation: u64) -> Result<RecordBatch, table::TableError> {
    let numbers = (0..rows.div_ceil(shards)).map(|i| i * shards + shard).filter(|n| *n < rows);
    slice_of(numbers.map(id_of).collect(), generation)
}

/// The name of an image.
pub fn id_of(number: u64) -> String {
    format!("w{number}_FI_19")
}

/// A listing of these images.
pub fn slice_of(mut ids: Vec<String>, generation: u64) -> Result<RecordBatch, table::TableError> {
    ids.sort_unstable();
    let number = |id: &String| id[1..].split('_').next().and_then(|n| n.parse::<u64>().ok()).unwrap_or(0);
    let text = |of: &dyn Fn(&String) -> String| table::texts(ids.iter().map(|id| Some(of(id))));
    let edited = |id: &String| if number(id).is_multiple_of(100) { generation } else { 0 };
    let title = |id: &String| format!("a satellite image of field {} of {}", edited(id), number(id));
    let place = |name| {
        let of_type = table::content_schema(Artifact::Listing).field_with_name(name).map(|f| f.data_type().clone());
        of_type.map_or_else(|_| table::texts(Vec::<Option<String>>::new()), |kind| new_null_array(&kind, ids.len()))
    };
    let object = || {
        let columns = vec![
            text(&|_| "images2.zip".to_owned()),
            text(&|_| "\"etag\"".to_owned()),
            text(&|id| format!("images2/{id}.jpg")),
            table::bools(ids.iter().map(|_| Some(true))),
            table::int64s(ids.iter().map(|id| Some(number(id) as i64))),
            table::int64s(ids.iter().map(|_| Some(20_000))),
            table::int64s(ids.iter().map(|_| Some(20_000))),
            table::int64s(ids.iter().map(|id| Some(20_000 * number(id) as i64))),
        ];
        table::structures(Artifact::Listing, "image", columns, None)
    };
    let columns = vec![
        text(&|id| id.clone()),
        text(&|id| format!("images2/{id}.jpg")),
        text(&title),
        text(&title),
        table::text_lists(&vec![Some(Vec::new()); ids.len()])?,
        table::texts(ids.iter().map(|_| None::<String>)),
        text(&|id| digest::of_bytes(title(id).as_bytes())),
        text(&|id| digest::of_bytes(id.as_bytes())),
        text(&|_| String::new()),
        object()?,
        place("meta"),
    ];
    table::content(Artifact::Listing, columns)
}

pub async fn listed(rows: u64, shards: u32, generation: u64) -> Result<VirtualInputs, Box<dyn Error>> {
    let mut slices = Slices::default();
    let batches = (0..shards).map(|shard| {
        Ok((shard, slice(rows, shards.into(), shard.into(), generation).expect("columns of the listing")))
    });
    slices.replace(Artifact::Listing, COUNTRY, batches).await?;
    Ok(VirtualInputs::new(Listing::default(), slices))
}

pub async fn planned(
    stage: Stage,
    work: &WorkStore,
    tables: &Tables,
    slices: &Slices,
    shards: u32,
) -> Result<Plan, Box<dyn Error>> {
    let mut inputs = Vec::new();
    for input in stage.inputs {
        inputs.push(match input.artifact {
            slice if !slice.is_table() => slices.pin(slice),
            artifact => tables.pin(artifact, COUNTRY, None).await?,
        });
    }
    let plan = Arc::new(Plan {
        stage: stage.name.to_owned(),
        stage_version: stage.version,
        country: COUNTRY.to_owned(),
        shards,
        output: tables.pin(stage.output, COUNTRY, None).await?,
        inputs,
        model: String::new(),
        parameters: "{}".to_owned(),
        retry_errors: false,
        counts: PlanCounts::default(),
    });
    let counts = count(work, slices, stage, &plan, |_| true, AT_ONCE).await?;
    Ok(Plan { counts, ..Arc::unwrap_or_clone(plan) })
}
