//! Refreshing the tags of a large country: a real work store with geo-tags, a state and rows of earlier refreshes, and the
//! program's own refresh of it, each in a process of its own: by an extract, by a day's diff, and by the extract again.
//!
//! usage: refresh_scale [IMAGES] [CHANGES] [FOLDER] [make | by-extract | by-diffs]
//!
//! With a fourth argument one of the steps alone is done, in a FOLDER that stays: `make` leaves `scale.toml` there, for another
//! version of the program to be measured on.
//!
//! Each image was taken for a house of its own: a way with four nodes and two or three tags. A day changes one house in a
//! hundred, and adds as many nodes elsewhere as CHANGES says. The store takes about 500 bytes an image.

#[path = "../../../tests/src/large.rs"]
#[allow(dead_code, reason = "less of it is needed here")]
mod large;
mod planet;

use std::error::Error;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use arrow::array::{ArrayRef, RecordBatch, new_null_array};
use large::{AT_ONCE, COUNTRY, Silent, id_of, planned, slice_of};
use manifests::spec::DeviceName;
use manifests::weights::Weights;
use manifests::{Artifact, BuildSpec, digest, shard_of};
use stages::stage::{InputRows, MapOutput, Outcome, Stage, StageContext, StageError, Transform};
use stages::table;
use workers::fetch::FetchSettings;
use workers::listing::Listing;
use workers::map::{MapContext, map_plan};
use workers::planning::VirtualInputs;
use workers::publish::publish;
use workers::slices::Slices;
use workers::stores::{SourceStore, WorkStore};
use workers::tables::Tables;
use workers::tag_refreshes::{Origins, Refresher, Until};

/// As the program has it: otherwise the peak is that of another allocator.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Last argument of a process that makes the store, of one that refreshes by the extract, and of one that refreshes by diffs.
const MAKE: &str = "make";
const BY_EXTRACT: &str = "by-extract";
const BY_DIFFS: &str = "by-diffs";

/// Geo-tags as the planet has them.
struct Houses;

impl Transform for Houses {
    fn transform(&mut self, rows: &InputRows) -> Result<MapOutput, StageError> {
        let schema = table::content_schema(Artifact::Geotags);
        let numbers: Vec<i64> = rows
            .image_ids
            .iter()
            .map(|id| id[1..].split('_').next().and_then(|n| n.parse().ok()).unwrap_or(0))
            .collect();
        let side = |at: usize| table::float64s(numbers.iter().map(|number| Some(planet::sides(*number)[at])));
        let text = |of: &dyn Fn(i64) -> String| table::texts(numbers.iter().map(|number| Some(of(*number))));
        let column = |name: &str, kind| -> ArrayRef {
            match name {
                "box_digest" | "tags_digest" => text(&|number| digest::of_bytes(&number.to_le_bytes())),
                "filepath" => table::texts(rows.image_ids.iter().map(|id| Some(format!("images2/{id}.jpg")))),
                "osm_kind" => text(&|_| "w".to_owned()),
                "osm_id" => table::int64s(numbers.iter().map(|number| Some(*number))),
                "west" => side(0),
                "south" => side(1),
                "east" => side(2),
                "north" => side(3),
                "center_tags" => text(&|number| {
                    let tags = planet::tags(number);
                    digest::canonical_json(
                        &tags.iter().map(|(k, v)| (*k, v.as_str())).collect::<std::collections::BTreeMap<_, _>>(),
                    )
                }),
                "surrounding_tags" => text(&|_| "[]".to_owned()),
                _ => new_null_array(kind, rows.len()),
            }
        };
        let columns = schema.fields().iter().map(|field| column(field.name(), field.data_type())).collect();
        let content = RecordBatch::try_new(schema.clone(), columns);
        let content = content.map_err(|e| StageError::Compute { stage: "houses", why: e.to_string() })?;
        Ok(MapOutput { outcomes: vec![Outcome::Good; rows.len()], content })
    }
}

fn peak_mib() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let kib = status.lines().find_map(|line| line.strip_prefix("VmHWM:")?.trim().trim_end_matches(" kB").parse().ok());
    kib.unwrap_or(0.0) / 1024.0
}

/// Of all cores.
fn processor_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields = stat.rsplit(')').next().unwrap_or_default().split_whitespace();
    // user and system time, in hundredths of a second
    fields.skip(11).take(2).filter_map(|ticks| ticks.parse::<f64>().ok()).sum::<f64>() / 100.0
}

/// Makes the geo-tags.
async fn build(spec: &BuildSpec, work: &WorkStore, images: u64, shards: u32) -> Result<(), Box<dyn Error>> {
    let mut by_shard: Vec<Vec<u32>> = vec![Vec::new(); shards as usize];
    for number in 1..=images {
        by_shard[shard_of(&id_of(number), shards) as usize].push(number as u32);
    }
    let mut slices = Slices::default();
    let batches = (0..).zip(by_shard).map(|(shard, numbers)| {
        let ids = numbers.into_iter().map(|number| id_of(number.into())).collect();
        Ok((shard, slice_of(ids, 0).expect("columns of the listing")))
    });
    slices.replace(Artifact::Listing, COUNTRY, batches).await?;
    let known = VirtualInputs::new(Listing::default(), slices);
    let (source, tables, stop) = (
        SourceStore::open(&spec.source.url, &Default::default())?,
        Tables::new(work),
        Arc::new(AtomicBool::new(false)),
    );
    let stage = Stage { source: None, open: |_| Ok(Box::new(Houses)), ..stages::geotags::stage() };
    let plan = planned(stage, work, &tables, &known.slices, shards).await?;
    known.slices.publish_plan(work, &plan, AT_ONCE).await?;
    let context = MapContext {
        work,
        slices: work,
        tables: &tables,
        source: &source,
        fetch: FetchSettings { concurrency: AT_ONCE, request_bytes: 1 << 20 },
        stop: &stop,
        observer: &Silent,
    };
    let weights = Weights::default();
    let stage_context = StageContext {
        spec,
        device: DeviceName::Cpu,
        model_folder: None,
        weights: &weights,
        server: None,
        stop: stop.clone(),
    };
    let mapped = map_plan(&context, &stage, &plan, stage_context, &[DeviceName::Cpu]).await?;
    publish(&tables, &plan, &mapped.finished).await?;
    Ok(())
}

async fn refresh(spec: &BuildSpec, work: &WorkStore, folder: &Path, how: &str) -> Result<(), Box<dyn Error>> {
    let tables = Tables::new(work);
    let say = |text: &str| eprintln!("  {text}; peak {:.0} MiB", peak_mib());
    let refresher = Refresher::new((work, &tables), spec, Arc::new(AtomicBool::new(false)), &say);
    let began = Instant::now();
    let extract = folder.join("planet.osm.pbf");
    let diffs = SourceStore::open(&format!("{}/", folder.join("replication").display()), &Default::default())?;
    let origins = match how {
        BY_EXTRACT => Origins::Extract(&extract, Some(1)),
        _ => Origins::Diffs(&diffs, Until(None)),
    };
    let done = refresher.refresh(origins, Some(1.0)).await?;
    println!(
        "{how}: {} images, {} looked at, {} changed, {} unclear, {} objects read, state of {} bytes: {:.1} s, {:.1} s of a \
         processor, peak {:.0} MiB",
        done.images,
        done.looked_at,
        done.changed,
        done.unclear,
        done.objects,
        done.state_bytes,
        began.elapsed().as_secs_f64(),
        processor_seconds(),
        peak_mib()
    );
    Ok(())
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let mut number = |default: u64| arguments.next().map_or(Ok(default), |text| text.parse::<u64>());
    let (images, changes) = (number(100_000)?, number(300_000)?);
    let parent = arguments.next().map_or_else(std::env::temp_dir, PathBuf::from);
    let how = arguments.next();
    let made = if how.is_some() { None } else { Some(tempfile::tempdir_in(&parent)?) };
    let folder = made.as_ref().map_or(parent.as_path(), |folder| folder.path());
    let shards = images.div_ceil(520).clamp(1, 10_000) as u32;
    let text = format!(
        "country = \"{COUNTRY}\"\n[source]\nkind = \"skyscript\"\nurl = \"{0}\"\n[work]\nurl = \"{0}\"\nshards = {shards}\n",
        folder.display()
    );
    let spec = BuildSpec::parse(&text, "scale", &[])?;
    let work = WorkStore::open(&spec.work.url, &Default::default())?;
    if let Some(how) = how.as_deref().filter(|how| *how != MAKE) {
        return refresh(&spec, &work, folder, how).await;
    }
    let began = Instant::now();
    build(&spec, &work, images, shards).await?;
    println!("geo-tags made in {:.1} s", began.elapsed().as_secs_f64());
    planet::write_extract(&folder.join("planet.osm.pbf"), images as i64)?;
    planet::write_diff(&folder.join("replication"), images as i64, changes as i64)?;
    std::fs::write(folder.join("scale.toml"), text)?;
    println!("planet written after {:.1} s", began.elapsed().as_secs_f64());
    if how.is_some() {
        return Ok(());
    }
    // processes of their own: what making the store took is no part of their memory
    for how in [BY_EXTRACT, BY_DIFFS] {
        let refreshed = std::process::Command::new(std::env::current_exe()?)
            .args([images.to_string(), changes.to_string(), folder.display().to_string(), how.to_owned()])
            .status()?;
        assert!(refreshed.success(), "the refresh {how} failed");
    }
    Ok(())
}
