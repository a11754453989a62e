//! What it costs that workers share a plan: many of them on shards that take no time to compute.
//!
//! In memory, where a request takes 5 ms, and on an S3-compatible server of this machine where Python has one (`moto`): that one
//! answers a request after the other, so that the more workers there are, the longer each of them waits for it.
//!
//! usage: AWS_ACCESS_KEY_ID=testing AWS_SECRET_ACCESS_KEY=testing claim_rate [WORKERS] [SHARDS] [ENDPOINT]
//!
//! ENDPOINT: a server with a bucket called `work`, in place of moto.

use std::error::Error;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use manifests::attempts::Object;
use manifests::spec::DeviceName;
use manifests::weights::Weights;
use manifests::{BuildSpec, paths};
use object_store::DynObjectStore;
use object_store::memory::InMemory;
use pipeline_tests::distant::{Distant, Reads};
use pipeline_tests::large::{AT_ONCE, COUNTRY, Silent, listed, planned, stubs};
use pipeline_tests::{python_with, s3};
use stages::stage::StageContext;
use workers::claims::Claimant;
use workers::fetch::FetchSettings;
use workers::map::{MapContext, map_plan};
use workers::pull::{PullEnd, Share, collect, pull};
use workers::stores::{SourceStore, WorkStore};
use workers::tables::Tables;

const LEASE: Duration = Duration::from_secs(60);

/// Where workers meet.
#[derive(Clone, Copy)]
enum Meeting<'s> {
    /// In memory, where a request takes so long.
    Memory(Duration),
    /// At an S3-compatible server, by its endpoint, each measurement below a folder of its own.
    Server(&'s str),
}

impl Meeting<'_> {
    fn name(self) -> String {
        match self {
            Meeting::Memory(request) => format!("{} ms a request", request.as_millis()),
            Meeting::Server(_) => "a local S3".to_owned(),
        }
    }

    /// A line of a spec: the store, and whatever opens it.
    fn work(self, folder: &Path) -> String {
        match self {
            Meeting::Memory(_) => format!("url = \"{}\"", folder.display()),
            Meeting::Server(endpoint) => {
                let name = folder.file_name().unwrap_or_default().display();
                format!("url = \"s3://work/{name}\"\noptions = {}", s3::options(endpoint))
            }
        }
    }
}

/// What workers took.
struct Measured {
    seconds: f64,
    /// Claims beyond one for each shard.
    doubled: usize,
    /// Of one claim and one marker, in milliseconds.
    median_millis: f64,
    listings: usize,
}

/// Medians of claims and of markers, added.
fn median_millis(reads: &Reads) -> f64 {
    let is_claim = |path: &str| path.ends_with(".claim.json");
    // `markers/COUNTRY/STAGE/KEY.json`: names of other objects have more dots
    let is_marker = |path: &str| path.contains("markers/") && path.matches('.').count() == 1;
    let median = |took: Vec<Duration>| took.get(took.len() / 2).map_or(0.0, |took| took.as_secs_f64() * 1e3);
    median(reads.writes(is_claim)) + median(reads.writes(is_marker))
}

/// What `count` workers take; 0 workers: one process that claims nothing.
async fn measured(count: u32, shards: u32, meeting: Meeting<'_>) -> Result<Measured, Box<dyn Error>> {
    let folder = tempfile::tempdir()?;
    let text = format!(
        "country = \"{COUNTRY}\"\n[source]\nkind = \"skyscript\"\nurl = \"{}\"\n[work]\n{}\nshards = {shards}\n",
        folder.path().display(),
        meeting.work(folder.path())
    );
    let spec = BuildSpec::parse(&text, "rate", &[])?;
    let source = SourceStore::open(&spec.source.url, &Default::default())?;
    let reads = Arc::new(Reads::default());
    let work = WorkStore::open(&spec.work.url, &spec.work.options)?.over(|inner| {
        let (inner, request) = match meeting {
            Meeting::Memory(request) => (Arc::new(InMemory::new()) as Arc<DynObjectStore>, request),
            Meeting::Server(_) => (inner, Duration::ZERO),
        };
        Arc::new(Distant { inner, request, reads: reads.clone() })
    });
    let tables = Tables::new(&work);
    let known = listed(u64::from(shards), shards, 0).await?;
    let [stage, ..] = stubs(&spec);
    let plan = planned(stage, &work, &tables, &known.slices, shards).await?;
    known.slices.publish_plan(&work, &plan, AT_ONCE).await?;
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
    let stage_context = StageContext {
        spec: &spec,
        device: DeviceName::Cpu,
        model_folder: None,
        weights: &weights,
        server: None,
        stop: stop.clone(),
    };
    let began = Instant::now();
    if count == 0 {
        map_plan(&context, &stage, &plan, stage_context, &[DeviceName::Cpu]).await?;
        return Ok(Measured { seconds: began.elapsed().as_secs_f64(), doubled: 0, median_millis: 0.0, listings: 0 });
    }
    let shares: Vec<Share> = (0..count)
        .map(|index| Share {
            index,
            count,
            lease: LEASE,
            claimant: Claimant { worker: index.to_string(), node: "here".into(), engine_job: None },
            leaves: false,
        })
        .collect();
    let workers =
        shares.iter().map(|share| pull(&context, &stage, &plan, stage_context.clone(), &[DeviceName::Cpu], share));
    for end in futures::future::try_join_all(workers).await? {
        assert_eq!(end, PullEnd::Closed);
    }
    let (seconds, listings) = (began.elapsed().as_secs_f64(), reads.listings());
    let collected = collect(&work, &tables, &plan, LEASE, AT_ONCE).await?;
    assert_eq!(collected.finished.len(), plan.counts.stale.len(), "nothing is lost");
    let names = work.list(&paths::markers(COUNTRY, stage.name)).await?;
    let claims = names.iter().filter(|name| matches!(Object::of_name(name), Some((_, Object::Claim(_))))).count();
    Ok(Measured { seconds, doubled: claims - plan.counts.stale.len(), median_millis: median_millis(&reads), listings })
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let workers = arguments.next().map_or(Ok(64), |count| count.parse())?;
    let shards = arguments.next().map_or(Ok(2_000), |count| count.parse())?;
    let given = arguments.next();
    let python = if given.is_some() { None } else { python_with(&s3::MODULES) };
    let moto = python.map(|python| {
        let folder = tempfile::tempdir()?;
        std::fs::create_dir(folder.path().join("world"))?;
        Ok::<_, std::io::Error>((s3::Server::start(python, &folder.path().join("world")), folder))
    });
    let moto = moto.transpose()?;
    let endpoint = given.as_deref().or(moto.as_ref().map(|(server, _)| server.endpoint.as_str()));
    let memory = [Duration::ZERO, Duration::from_millis(5)].map(Meeting::Memory);
    for meeting in memory.into_iter().chain(endpoint.map(Meeting::Server)) {
        let alone = measured(0, shards, meeting).await?;
        let one = measured(1, shards, meeting).await?;
        let all = measured(workers, shards, meeting).await?;
        let each = |of: &Measured, workers: u32| 1000.0 * of.seconds * f64::from(workers) / f64::from(shards);
        println!(
            "{}, {shards} shards without work: {:.1} ms a shard in one process, {:.1} with one worker that claims (claim and \
             marker: {:.1} ms, by medians), {:.1} ms of each of {workers} workers (claim and marker: {:.1} ms), {:.1} a \
             second, {} listings; {} shards claimed twice",
            meeting.name(),
            each(&alone, 1),
            each(&one, 1),
            one.median_millis,
            each(&all, workers),
            all.median_millis,
            f64::from(shards) / all.seconds,
            all.listings,
            all.doubled,
        );
    }
    Ok(())
}
