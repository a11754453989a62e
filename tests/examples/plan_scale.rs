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

use manifests::spec::DeviceName;
use manifests::weights::Weights;
use manifests::{Artifact, BuildSpec};
use pipeline_tests::distant::Distant;
use pipeline_tests::large::{AT_ONCE, COUNTRY, Silent, listed, planned, stubs};
use stages::stage::{ASSIGNED_FROM, StageContext};
use workers::assignment::assigned;
use workers::fetch::FetchSettings;
use workers::map::{MapContext, map_plan};
use workers::planning::VirtualInputs;
use workers::publish::publish;
use workers::removals::Removals;
use workers::stores::{SourceStore, WorkStore};
use workers::tables::Tables;
use workers::train::{RunInputs, RunRows};

/// As the program has it: otherwise the peak is that of another allocator.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Last argument of the process that plans.
const PLAN_ALONE: &str = "plan-alone";
const REQUEST: Duration = Duration::from_millis(30);

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

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let mut number = |default: u64| arguments.next().map_or(Ok(default), |text| text.parse::<u64>());
    let (rows, shards) = (number(5_200_000)?, number(10_000)? as u32);
    let parent = arguments.next().map_or_else(std::env::temp_dir, PathBuf::from);
    let is_planner = arguments.next().as_deref() == Some(PLAN_ALONE);
    let made = if is_planner { None } else { Some(tempfile::tempdir_in(&parent)?) };
    let folder = made.as_ref().map_or(parent.as_path(), |folder| folder.path());
    let text = format!(
        "country = \"{COUNTRY}\"\n[source]\nkind = \"skyscript\"\nurl = \"{0}\"\n[work]\nurl = \"{0}\"\nshards = {shards}\nconcurrency = {AT_ONCE}\n",
        folder.display()
    );
    let spec = BuildSpec::parse(&text, "scale", &[])?;
    let work = WorkStore::open(&spec.work.url, &Default::default())?;
    if is_planner {
        return plan_alone(&spec, &work, rows, shards).await;
    }
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
            server: None,
            stop: stop.clone(),
        };
        let mapped = map_plan(&context, &stage, &plan, stage_context, &[DeviceName::Cpu]).await?;
        assert_eq!(mapped.finished.len(), shards as usize);
        publish(&tables, &plan, &mapped.finished).await?;
        println!("{} made after {:.1} s", stage.name, began.elapsed().as_secs_f64());
    }
    drop(known);
    // a process of its own: what making the tables took is no part of its memory
    let planner = std::process::Command::new(std::env::current_exe()?)
        .args([rows.to_string(), shards.to_string(), folder.display().to_string(), PLAN_ALONE.to_owned()])
        .status()?;
    assert!(planner.success(), "the planner failed");
    Ok(())
}

/// Plans over tables that were made before.
async fn plan_alone(spec: &BuildSpec, work: &WorkStore, rows: u64, shards: u32) -> Result<(), Box<dyn Error>> {
    let began = Instant::now();
    let mut known = listed(rows, shards, 1).await?;
    println!("edited listing cut into slices in {:.1} s", began.elapsed().as_secs_f64());
    println!("plan from local files:");
    let local = plan_all(work, &mut known, spec, (rows, shards)).await?;
    println!("plan from a store with {} ms a request, {AT_ONCE} at once:", REQUEST.as_millis());
    let slow = work.clone().over(|inner| Arc::new(Distant { inner, request: REQUEST, reads: Arc::default() }));
    let remote = plan_all(&slow, &mut known, spec, (rows, shards)).await?;
    println!("{rows} rows in {shards} shards: {local:.1} s local, {remote:.1} s remote, peak {:.0} MiB", peak_mib());
    Ok(())
}
