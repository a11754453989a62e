//! The simulator beside real workers: processes that share a plan under leases, of which a node's worth is killed, and the
//! same shards, claims, loading and failure simulated. Shards sleep for as long as they are said to take, so that two
//! cores carry many workers.
//!
//! usage: simulated_beside_real [ROUNDS] [SHARDS] [MEAN_SECONDS] [WORKERS] [PER_NODE]

use std::error::Error;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use engines::simulate::{Cluster, Shard, Sharing, Times, replay, shards};
use manifests::attempts::Object;
use manifests::spec::DeviceName;
use manifests::weights::Weights;
use manifests::{BuildSpec, Marker, Plan, paths};
use pipeline_tests::distant::{Distant, Reads};
use pipeline_tests::large::{AT_ONCE, COUNTRY, Silent, listed, planned, stubs};
use stages::stage::{InputRows, MapOutput, Stage, StageContext, StageError, Transform};
use workers::claims::{Attempted, ClaimBoard, Claimant};
use workers::fetch::FetchSettings;
use workers::map::MapContext;
use workers::pull::{PullEnd, Share, pull};
use workers::stores::{SourceStore, WorkStore};
use workers::tables::Tables;

type Failure = Box<dyn Error>;

const LEASE: Duration = Duration::from_secs(4);
/// What opening the stage takes, as a network would.
const LOAD: Duration = Duration::from_secs(2);
/// From the loss of a node to the start of its workers elsewhere.
const REQUEUE: Duration = Duration::from_secs(6);
/// Three chunks of a shard.
const ROWS: u64 = 384;
/// How much durations differ: deviation of their logarithm.
const SPREAD: f64 = 0.5;
/// Mean seconds of a shard, for the workers.
const MEAN: &str = "SHARD_SECONDS";

/// Sleeps for its part of the shard.
struct Sleeps {
    seconds: Vec<f64>,
    stub: Box<dyn Transform>,
}

impl Transform for Sleeps {
    fn transform(&mut self, rows: &InputRows) -> Result<MapOutput, StageError> {
        let number = rows.image_ids.first().and_then(|id| id[1..].split('_').next()?.parse::<usize>().ok());
        let shard = number.unwrap_or(0) % self.seconds.len();
        std::thread::sleep(Duration::from_secs_f64(self.seconds[shard] * rows.len() as f64 / ROWS as f64));
        self.stub.transform(rows)
    }
}

fn open(context: &StageContext<'_>) -> Result<Box<dyn Transform>, StageError> {
    std::thread::sleep(LOAD);
    let count = context.spec.work.shards as usize;
    let mean: f64 = std::env::var(MEAN).ok().and_then(|text| text.parse().ok()).unwrap_or(1.0);
    let drawn = shards(count, count as u64 * ROWS, mean * count as f64, SPREAD, 1);
    let stub = (stubs(context.spec)[0].open)(context)?;
    Ok(Box::new(Sleeps { seconds: drawn.iter().map(|shard| shard.seconds).collect(), stub }))
}

fn stage(spec: &BuildSpec) -> Stage {
    Stage { open, ..stubs(spec)[0] }
}

fn spec(folder: &Path, shards: u32) -> Result<BuildSpec, Failure> {
    let url = folder.display();
    let text = format!(
        "country = \"{COUNTRY}\"\n[source]\nkind = \"skyscript\"\nurl = \"{url}\"\n[work]\nurl = \"{url}\"\nshards = {shards}\n"
    );
    Ok(BuildSpec::parse(&text, "simulated beside real", &[])?)
}

/// One worker's process; prints what a claim took it.
async fn work(folder: &Path, [shards, index, count]: [u32; 3], key: &str) -> Result<(), Failure> {
    let spec = spec(folder, shards)?;
    let (source, reads) = (SourceStore::open(&spec.source.url, &Default::default())?, Arc::new(Reads::default()));
    let work = WorkStore::open(&spec.work.url, &spec.work.options)?;
    let work = work.over(|inner| Arc::new(Distant { inner, request: Duration::ZERO, reads: reads.clone() }));
    let tables = Tables::new(&work);
    let stage = stage(&spec);
    let plan: Plan = work.get_sealed(&paths::plan(COUNTRY, stage.name, key)).await?.ok_or("no plan")?;
    let (stop, weights) = (Arc::new(AtomicBool::new(false)), Weights::default());
    let context = MapContext {
        work: &work,
        slices: &work,
        tables: &tables,
        source: &source,
        fetch: FetchSettings { concurrency: AT_ONCE, request_bytes: 1 << 20 },
        stop: &stop,
        observer: &Silent,
    };
    let device = DeviceName::Cpu;
    let stage_context =
        StageContext { spec: &spec, device, model_folder: None, weights: &weights, server: None, stop: stop.clone() };
    let claimant = Claimant { worker: index.to_string(), node: "here".into(), engine_job: None };
    let share = Share { index, count, lease: LEASE, claimant, leaves: false };
    let end = pull(&context, &stage, &plan, stage_context, &[device], &share).await?;
    assert_eq!(end, PullEnd::Closed);
    let claims = reads.writes(|path| path.ends_with(".claim.json"));
    println!("{}", claims.get(claims.len() / 2).map_or(0.0, Duration::as_secs_f64));
    Ok(())
}

/// Workers, and how many of them a node has.
#[derive(Clone, Copy)]
struct Setting {
    shards: u32,
    mean: f64,
    workers: u32,
    per_node: u32,
}

/// What becomes of the first node in the middle.
#[derive(Clone, Copy, PartialEq)]
enum Fate {
    Lives,
    ComesBack,
    IsLost,
}

fn start(folder: &Path, key: &str, index: u32, setting: Setting) -> Result<Child, Failure> {
    let numbers = [setting.shards, index, setting.workers].map(|number| number.to_string());
    let mut command = Command::new(std::env::current_exe()?);
    command.arg("worker").arg(folder).args(numbers).arg(key).env(MEAN, setting.mean.to_string());
    Ok(command.stdout(Stdio::piped()).spawn()?)
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(0.0)
}

fn millis(time: SystemTime) -> f64 {
    time.duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64() * 1e3)
}

/// Seconds of a real run, and of the same one simulated.
async fn both(setting: Setting, fate: Fate) -> Result<(f64, f64), Failure> {
    let folder = tempfile::tempdir()?;
    let (spec, workers) = (spec(folder.path(), setting.shards)?, setting.workers);
    let work = WorkStore::open(&spec.work.url, &spec.work.options)?;
    let (tables, stage) = (Tables::new(&work), stage(&spec));
    let known = listed(u64::from(setting.shards) * ROWS, setting.shards, 0).await?;
    let plan = planned(stage, &work, &tables, &known.slices, setting.shards).await?;
    known.slices.publish_plan(&work, &plan, AT_ONCE).await?;
    let board = ClaimBoard::new(&work, &plan, LEASE);
    let (began, began_millis, key) = (Instant::now(), millis(SystemTime::now()), plan.key());
    let mut children =
        (0..workers).map(|index| start(folder.path(), &key, index, setting)).collect::<Result<Vec<_>, _>>()?;
    let half = Duration::from_secs_f64(setting.mean * f64::from(setting.shards / workers) / 2.0) + LOAD;
    let (mut looks, mut lost_at, mut is_back) = (Vec::new(), None, false);
    let seconds = loop {
        let looked = Instant::now();
        let look = board.look().await?;
        looks.push(looked.elapsed().as_secs_f64());
        if look.is_over() {
            let last = look.shards.values().filter_map(|(_, attempts)| Some(attempts.span_millis()?.1)).max();
            break (last.unwrap_or(0) as f64 - began_millis) / 1e3;
        }
        if fate != Fate::Lives && lost_at.is_none() && began.elapsed() > half {
            for child in &mut children[..setting.per_node as usize] {
                child.kill()?;
                child.wait()?;
            }
            lost_at = Some(began.elapsed());
        }
        if fate == Fate::ComesBack && !is_back && lost_at.is_some_and(|at| began.elapsed() > at + REQUEUE) {
            is_back = true;
            for index in 0..setting.per_node {
                children[index as usize] = start(folder.path(), &key, index, setting)?;
            }
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    };
    let said = children.into_iter().map(|child| Ok(String::from_utf8(child.wait_with_output()?.stdout)?));
    let said = said.collect::<Result<Vec<_>, Failure>>()?;
    let claim = median(said.iter().filter_map(|text| text.trim().parse().ok()).collect());
    let look = median(looks);

    let markers = paths::markers(COUNTRY, stage.name);
    let mut made = vec![Shard { rows: ROWS, seconds: 0.0 }; setting.shards as usize];
    let mut first_claims = vec![f64::INFINITY; workers as usize];
    let (mut wait, mut beside) = (0.0, 0.0);
    for name in work.list(&markers).await? {
        let path = format!("{markers}/{name}");
        match Object::of_name(&name) {
            Some((_, Object::Marker)) => {
                let marker: Marker = work.get_sealed(&path).await?.ok_or("a marker is damaged")?;
                made[marker.part.shard as usize].seconds = marker.phases.map;
                wait += marker.phases.wait;
                beside += marker.phases.fetch + marker.phases.publish;
            }
            Some((_, Object::Claim(_))) => {
                let claim: Attempted = serde_json::from_slice(&std::fs::read(folder.path().join(&path))?)?;
                let at = (millis(std::fs::metadata(folder.path().join(&path))?.modified()?) - began_millis) / 1e3;
                let first = &mut first_claims[claim.by.worker.parse::<usize>()?];
                *first = first.min(at);
            }
            _ => {}
        }
    }
    let load = (median(first_claims) - look - claim).max(0.0);
    let requeue = if fate == Fate::IsLost { f64::INFINITY } else { REQUEUE.as_secs_f64() };
    let lease = LEASE.as_secs_f64();
    let times = Times { load, claim, look, lease, node_mtbf: f64::INFINITY, requeue };
    let cluster = Cluster { workers: workers as usize, per_node: setting.per_node as usize };
    let failures: Vec<(f64, usize)> = lost_at.iter().map(|at| (at.as_secs_f64(), 0)).collect();
    let outcome = replay(&made, cluster, &times, Sharing::Stealing, &failures);
    let device: f64 = made.iter().map(|shard| shard.seconds).sum();
    eprintln!(
        "  load {load:.2} s, look {look:.3} s, claim {claim:.3} s, lost at {:.1} s; device {device:.0} s, waited {wait:.0} s, \
         fetched and published {beside:.1} s; simulated lost {:.1} s",
        lost_at.map_or(0.0, |at| at.as_secs_f64()),
        outcome.lost_seconds
    );
    Ok((seconds, outcome.seconds))
}

#[tokio::main]
async fn main() -> Result<(), Failure> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [word, folder, shards, index, count, key] = &arguments[..]
        && word == "worker"
    {
        return work(Path::new(folder), [shards.parse()?, index.parse()?, count.parse()?], key).await;
    }
    let number = |at: usize, otherwise: f64| arguments.get(at).map_or(Ok(otherwise), |text| text.parse::<f64>());
    let (rounds, shards, mean) = (number(0, 3.0)? as u32, number(1, 120.0)? as u32, number(2, 3.0)?);
    let setting = Setting { shards, mean, workers: number(3, 12.0)? as u32, per_node: number(4, 4.0)? as u32 };
    let Setting { workers, per_node, .. } = setting;
    println!("{shards} shards of {mean} s in the mean, {workers} workers, a lease of {} s", LEASE.as_secs());
    for round in 1..=rounds {
        for (fate, name) in [
            (Fate::Lives, "undisturbed".to_owned()),
            (Fate::ComesBack, format!("{per_node} workers killed, back after {} s", REQUEUE.as_secs())),
            (Fate::IsLost, format!("{per_node} workers killed for good")),
        ] {
            let (real, simulated) = both(setting, fate).await?;
            println!(
                "round {round}, {name}: real {real:.1} s, simulated {simulated:.1} s, ratio {:.3}",
                simulated / real
            );
        }
    }
    Ok(())
}
