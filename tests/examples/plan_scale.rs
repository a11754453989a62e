//! Planning a large country after an edit of one row in a hundred: the program's own planner, slices, parts and tables;
//! stages that compute nothing. Once from local files, and once where each request takes 30 ms.
//!
//! All that `plan` can read is read, as if no earlier run had left a shard settled: the rows that might leave, boxes and
//! pictures by which splits are assigned, the stages, and the rows of a training. Where the build was settled before the
//! edit, a plan reads the first three lines of these.
//!
//! usage: plan_scale [ROWS] [SHARDS] [FOLDER]
//!
//! A folder in memory (`/dev/shm`) keeps the making of the tables short; it takes about 300 bytes a row.

use std::collections::BTreeSet;
use std::error::Error;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use arrow::array::{ArrayRef, RecordBatch, new_null_array};
use manifests::spec::DeviceName;
use manifests::weights::Weights;
use manifests::{Artifact, BuildSpec, Plan, PlanCounts, digest};
use pipeline_tests::distant::Distant;
use stages::stage::{ASSIGNED_FROM, InputRows, MapOutput, Outcome, Stage, StageContext, StageError, Transform};
use stages::table;
use workers::assignment::assigned;
use workers::fetch::FetchSettings;
use workers::listing::Listing;
use workers::map::{MapContext, Observer, map_plan};
use workers::planning::{VirtualInputs, count};
use workers::publish::publish;
use workers::removals::Removals;
use workers::slices::Slices;
use workers::stores::{SourceStore, WorkStore};
use workers::tables::Tables;
use workers::train::{RunInputs, RunRows};

const COUNTRY: &str = "finland";
const AT_ONCE: usize = 64;
const REQUEST: Duration = Duration::from_millis(30);

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

fn stubs(spec: &BuildSpec) -> [Stage; 3] {
    let geotags = Stage { source: None, open: |_| Ok(Box::new(Stub(Artifact::Geotags))), ..stages::geotags::stage() };
    let images = Stage { source: None, open: |_| Ok(Box::new(Stub(Artifact::Images))), ..stages::images::stage() };
    let captions = Stage { open: |_| Ok(Box::new(Stub(Artifact::Captions))), ..stages::captions::stage(spec) };
    [geotags, images, captions]
}

struct Silent;

impl Observer for Silent {
    fn rows(&self, _: u64, _: u64, _: u64) {}
    fn note(&self, _: &str) {}
}

/// The listing, of which every hundredth row has another title in another generation.
fn slice(rows: u64, shards: u64, shard: u64, generation: u64) -> Result<RecordBatch, table::TableError> {
    let numbers: Vec<u64> = (0..rows.div_ceil(shards)).map(|i| i * shards + shard).filter(|n| *n < rows).collect();
    let mut ids: Vec<String> = numbers.iter().map(|n| format!("w{n}_FI_19")).collect();
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

async fn listed(rows: u64, shards: u32, generation: u64) -> Result<VirtualInputs, Box<dyn Error>> {
    let mut slices = Slices::default();
    let batches = (0..shards)
        .map(|shard| (shard, slice(rows, shards.into(), shard.into(), generation).expect("columns of the listing")));
    slices.replace(Artifact::Listing, COUNTRY, batches).await?;
    Ok(VirtualInputs::new(Listing::default(), slices))
}

async fn planned(
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

/// Plans everything after an edit: seconds of all.
async fn plan_all(
    work: &WorkStore,
    known: &mut VirtualInputs,
    spec: &BuildSpec,
    (rows, shards): (u64, u32),
) -> Result<f64, Box<dyn Error>> {
    let tables = Tables::new(work);
    known.set_assignment(COUNTRY, Vec::new()).await?;
    let began = Instant::now();
    let began_processor = processor_seconds();
    let (mut last, mut last_processor, mut printed) = (began, began_processor, 0);
    let mut done = |what: &str, found: String| {
        let (seconds, processor) = (last.elapsed().as_secs_f64(), processor_seconds() - last_processor);
        println!("  {what:17} {seconds:6.1} s ({processor:6.1} s of a processor), {found}; peak {:.0} MiB", peak_mib());
        (last, last_processor, printed) = (Instant::now(), processor_seconds(), printed + 1);
        if printed == 3 || printed == 7 {
            let (seconds, processor) = (began.elapsed().as_secs_f64(), processor_seconds() - began_processor);
            let what = if printed == 3 { "where all was settled before the edit" } else { "all of it" };
            println!("  {:17} {seconds:6.1} s ({processor:6.1} s of a processor) {what}", "");
        }
    };
    let pin = |artifact| tables.pin(artifact, COUNTRY, None);
    let geotags = pin(Artifact::Geotags).await?;
    let leaving = Removals::find(work, spec, (&geotags, &BTreeSet::new()), known).await?;
    assert!(leaving.in_words().is_empty());
    done("rows that leave", "none".to_owned());
    let images = pin(Artifact::Images).await?;
    let assignment = assigned(work, spec, &geotags, &images, spec.split.ratio).await?;
    let placed: u64 = assignment.iter().map(|rows| rows.len() as u64).sum();
    known.set_assignment(COUNTRY, assignment).await?;
    done("assigning splits", format!("{placed} rows placed"));
    let stale = [rows.div_ceil(100), 0, 0, 0];
    for (stage, stale) in stubs(spec).into_iter().chain([stages::splits::stage()]).zip(stale) {
        let plan = planned(stage, work, &tables, &known.slices, shards).await?;
        assert_eq!((plan.computed(), plan.kept()), (stale, rows - stale), "{}", stage.name);
        done(stage.name, format!("{stale} of {rows} rows stale"));
    }
    let inputs = [images, pin(Artifact::Captions).await?, pin(Artifact::Splits).await?];
    let source = spec.source.url.as_str();
    let read = RunRows::read(RunInputs { work, source, tables: &inputs, geotags: &geotags, assignment: None }).await?;
    done("a training's rows", format!("{} of the train split", read.trained()));
    Ok(began.elapsed().as_secs_f64())
}

/// Of all cores: what a run beside others can still be compared by.
fn processor_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields = stat.rsplit(')').next().unwrap_or_default().split_whitespace();
    // user and system time, in hundredths of a second
    fields.skip(11).take(2).filter_map(|ticks| ticks.parse::<f64>().ok()).sum::<f64>() / 100.0
}

fn peak_mib() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let kib = status.lines().find_map(|line| line.strip_prefix("VmHWM:")?.trim().trim_end_matches(" kB").parse().ok());
    kib.unwrap_or(0.0) / 1024.0
}

fn forget_peak() {
    // without the right to, the peak is that of everything before
    _ = std::fs::write("/proc/self/clear_refs", "5");
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let mut number = |default: u64| arguments.next().map_or(Ok(default), |text| text.parse::<u64>());
    let (rows, shards) = (number(5_200_000)?, number(10_000)? as u32);
    let parent = arguments.next().map_or_else(std::env::temp_dir, PathBuf::from);
    let folder = tempfile::tempdir_in(parent)?;
    let text = format!(
        "country = \"{COUNTRY}\"\n[source]\nkind = \"skyscript\"\nurl = \"{0}\"\n[work]\nurl = \"{0}\"\nshards = {shards}\nconcurrency = {AT_ONCE}\n",
        folder.path().display()
    );
    let spec = BuildSpec::parse(&text, "scale", &[])?;
    let work = WorkStore::open(&spec.work.url, &Default::default())?;
    let source = SourceStore::open(&spec.source.url, &Default::default())?;
    let (tables, began, stop) = (Tables::new(&work), Instant::now(), Arc::new(AtomicBool::new(false)));
    let mut known = listed(rows, shards, 0).await?;
    println!("listing cut into slices in {:.1} s", began.elapsed().as_secs_f64());
    for stage in stubs(&spec).into_iter().chain([stages::splits::stage()]) {
        if stage.output == Artifact::Splits {
            let [geotags, images] = ASSIGNED_FROM.map(|artifact| tables.pin(artifact, COUNTRY, None));
            let assignment = assigned(&work, &spec, &geotags.await?, &images.await?, spec.split.ratio).await?;
            known.set_assignment(COUNTRY, assignment).await?;
        }
        let plan = planned(stage, &work, &tables, &known.slices, shards).await?;
        known.slices.publish_plan(&work, &plan, AT_ONCE).await?;
        let context = MapContext {
            work: &work,
            slices: &work,
            tables: &tables,
            source: &source,
            fetch: FetchSettings { concurrency: AT_ONCE, request_bytes: 1 << 20 },
            stop: &stop,
            observer: &Silent,
        };
        let weights = Weights::default();
        let stage_context = StageContext {
            spec: &spec,
            device: DeviceName::Cpu,
            model_folder: None,
            weights: &weights,
            stop: stop.clone(),
        };
        let mapped = map_plan(&context, &stage, &plan, stage_context, &[DeviceName::Cpu]).await?;
        assert_eq!(mapped.finished.len(), shards as usize);
        publish(&tables, &plan, &mapped.finished).await?;
        println!("{} made after {:.1} s", stage.name, began.elapsed().as_secs_f64());
    }
    drop(known);
    forget_peak();
    let began = Instant::now();
    let mut known = listed(rows, shards, 1).await?;
    println!("edited listing cut into slices in {:.1} s", began.elapsed().as_secs_f64());
    println!("plan from local files:");
    let local = plan_all(&work, &mut known, &spec, (rows, shards)).await?;
    println!("plan from a store with {} ms a request, {AT_ONCE} at once:", REQUEST.as_millis());
    let slow = work.clone().over(|inner| Arc::new(Distant { inner, request: REQUEST, reads: Arc::default() }));
    let remote = plan_all(&slow, &mut known, &spec, (rows, shards)).await?;
    println!("{rows} rows in {shards} shards: {local:.1} s local, {remote:.1} s remote, peak {:.0} MiB", peak_mib());
    Ok(())
}
