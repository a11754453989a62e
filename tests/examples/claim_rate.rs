//! What it costs that workers share a plan: many of them on shards that take no time to compute.
//!
//! usage: claim_rate [WORKERS] [SHARDS]

use std::error::Error;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use manifests::attempts::Object;
use manifests::spec::DeviceName;
use manifests::weights::Weights;
use manifests::{BuildSpec, paths};
use object_store::DynObjectStore;
use object_store::memory::InMemory;
use pipeline_tests::distant::Distant;
use pipeline_tests::large::{AT_ONCE, COUNTRY, Silent, listed, planned, stubs};
use stages::stage::StageContext;
use workers::claims::Claimant;
use workers::fetch::FetchSettings;
use workers::map::{MapContext, map_plan};
use workers::pull::{PullEnd, Share, collect, pull};
use workers::stores::{SourceStore, WorkStore};
use workers::tables::Tables;

const LEASE: Duration = Duration::from_secs(60);

/// A store in memory where each request takes a while.
fn store(address: &str, request: Duration) -> Result<WorkStore, Box<dyn Error>> {
    let memory: Arc<DynObjectStore> = Arc::new(InMemory::new());
    let distant = Arc::new(Distant { inner: memory, request, reads: Arc::default() });
    Ok(WorkStore::open(address, &Default::default())?.over(|_| distant))
}

/// Seconds that `count` workers take, and their claims; 0 workers: one process that claims nothing.
async fn measured(count: u32, shards: u32, request: Duration) -> Result<(f64, usize), Box<dyn Error>> {
    let folder = tempfile::tempdir()?;
    let text = format!(
        "country = \"{COUNTRY}\"\n[source]\nkind = \"skyscript\"\nurl = \"{0}\"\n[work]\nurl = \"{0}\"\nshards = {shards}\n",
        folder.path().display()
    );
    let spec = BuildSpec::parse(&text, "rate", &[])?;
    let (work, source) = (store(&spec.work.url, request)?, SourceStore::open(&spec.source.url, &Default::default())?);
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
        return Ok((began.elapsed().as_secs_f64(), 0));
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
    let seconds = began.elapsed().as_secs_f64();
    let collected = collect(&work, &tables, &plan, LEASE, AT_ONCE).await?;
    assert_eq!(collected.finished.len(), plan.counts.stale.len(), "nothing is lost");
    let names = work.list(&paths::markers(COUNTRY, stage.name)).await?;
    let claims = names.iter().filter(|name| matches!(Object::of_name(name), Some((_, Object::Claim(_))))).count();
    Ok((seconds, claims - plan.counts.stale.len()))
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1).map(|argument| argument.parse::<u32>());
    let workers = arguments.next().transpose()?.unwrap_or(64);
    let shards = arguments.next().transpose()?.unwrap_or(2_000);
    for request in [Duration::ZERO, Duration::from_millis(5)] {
        let (alone, _) = measured(0, shards, request).await?;
        let (one, _) = measured(1, shards, request).await?;
        let (all, doubled) = measured(workers, shards, request).await?;
        let each = |seconds: f64, workers: u32| 1000.0 * seconds * f64::from(workers) / f64::from(shards);
        println!(
            "{} ms a request, {shards} shards without work: {:.1} ms a shard in one process, {:.1} with one worker that \
             claims, {:.1} ms of each of {workers} workers; {doubled} shards claimed twice",
            request.as_millis(),
            each(alone, 1),
            each(one, 1),
            each(all, workers),
        );
    }
    Ok(())
}
