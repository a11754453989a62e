//! A worker: maps shards of a published plan beside others, and publishes nothing.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use manifests::{BuildSpec, Plan, digest, paths};
use stages::Step;
use stages::stage::{Stage, StageContext};
use workers::WorkerError;
use workers::claims::{ClaimBoard, Withdrawal};
use workers::map::MapContext;
use workers::pull::{PullEnd, Share, pull};

use crate::build::Build;
use crate::plan::{model_folder, model_of};
use crate::preflight;
use crate::progress::Progress;

/// Creations of one object that are raced to see whether the store keeps its word.
const RACERS: usize = 8;

/// Maps its share of a plan, and whatever others leave; returns when the plan is closed, or cannot be done any more: it tells
/// the others so, and whoever drives the build plans again.
///
/// # Errors
/// [`WorkerError::Configuration`] for what this worker can never do, [`WorkerError::Stopped`],
/// [`WorkerError::Transient`] for a store or a device that fails.
pub async fn work(
    spec: BuildSpec,
    stage: &str,
    plan: &str,
    share: &Share,
    stop: Arc<AtomicBool>,
    progress: &Progress,
) -> Result<(), WorkerError> {
    let stage = stage_named(&spec, stage)?;
    let mut build = Build::open_work(spec, stop).await?;
    let plan = read_plan(&build, &stage, plan).await?;
    let work = build.work.clone();
    let board = ClaimBoard::new(&work, &plan, share.lease);
    // before its slices are read: one that is published in between is not meant
    let published = board.published_millis().await?;
    match map(&mut build, &stage, &plan, share, progress).await {
        Err(WorkerError::Outdated(why)) => {
            progress.note(&format!("{}: {why}; whoever drives this build plans again", stage.name));
            let by = share.claimant.clone();
            board.withdraw(&Withdrawal { published_millis: published.unwrap_or(0), by, why }).await
        }
        mapped => mapped,
    }
}

async fn map(
    build: &mut Build,
    stage: &Stage,
    plan: &Plan,
    share: &Share,
    progress: &Progress,
) -> Result<(), WorkerError> {
    // the same hours on every node: what is refused here is refused before a network is loaded
    if share.count > 1 && !build.work.probe_put_if_absent(RACERS).await? {
        return Err(WorkerError::Configuration(format!(
            "{}: this store does not keep its word on conditional writes, so that two workers could take one shard for ever: \
             run a single worker, or use a store that has them",
            build.work.url()
        )));
    }
    if preflight::uses_network(&Step::Map(*stage)) {
        build.weights = workers::weights::fetch(&build.work, &build.spec, &build.stop).await?;
    }
    let model = model_of(build, stage).await?.unwrap_or_default();
    if model.digest != plan.model {
        return Err(WorkerError::Outdated("the plan is of another model than the newest".into()));
    }
    let devices = stages::device::devices(stage.name, &build.spec)?;
    let stage_context = StageContext {
        spec: &build.spec,
        device: devices[0],
        model_folder: model_folder(build, &model).await?,
        weights: &build.weights,
        server: workers::chat_server::open(&build.spec, build.stop.clone())?,
        stop: build.stop.clone(),
    };
    let rows = plan.counts.stale.iter().map(|shard| shard.rows()).sum();
    let bar = progress.stage(stage.name, rows);
    let context = MapContext {
        work: &build.work,
        slices: &build.work,
        tables: &build.tables,
        source: &build.source,
        fetch: build.fetch_settings(),
        stop: &build.stop,
        observer: &bar,
    };
    // before anything is made that no driver could commit
    build.tables.horizon_to_write(plan.output.artifact, &plan.country).await?;
    match pull(&context, stage, plan, stage_context, &devices, share).await? {
        PullEnd::Closed => Ok(()),
        PullEnd::Stopped => Err(WorkerError::Stopped),
    }
}

fn stage_named(spec: &BuildSpec, name: &str) -> Result<Stage, WorkerError> {
    let stages = stages::map_stages(spec);
    stages.iter().find(|stage| stage.name == name).copied().ok_or_else(|| {
        let names: Vec<&str> = stages.iter().map(|stage| stage.name).collect();
        WorkerError::Configuration(format!("--stage {name}: the stages with shards are {}", names.join(", ")))
    })
}

/// A published plan, if this program and this spec would make the rows that it wants.
async fn read_plan(build: &Build, stage: &Stage, key: &str) -> Result<Plan, WorkerError> {
    let path = paths::plan(&build.spec.country, stage.name, key);
    let Some(plan) = build.work.get_sealed::<Plan>(&path).await? else {
        // a driver that begins puts it there again
        return Err(WorkerError::Transient(format!(
            "there is no plan {}{path} that can be read: nobody has published it, or it was removed or damaged meanwhile; its \
             driver publishes it again",
            build.work.url()
        )));
    };
    if !plan.is_of(&build.spec.country) || plan.key() != key || plan.stage != stage.name {
        return Err(WorkerError::Broken(format!("{}{path} is no plan of {}", build.work.url(), stage.name)));
    }
    if plan.stage_version != stage.version {
        return Err(WorkerError::Configuration(format!(
            "the plan wants version {} of {}, and this program ({}) makes version {}: run the same version of urbancross \
             everywhere",
            plan.stage_version,
            stage.name,
            env!("CARGO_PKG_VERSION"),
            stage.version
        )));
    }
    let parameters = digest::canonical_json(&(stage.parameters)(&build.spec));
    if parameters != plan.parameters {
        return Err(WorkerError::Configuration(format!(
            "the plan of {} was made with other settings than this spec has: {} there, {parameters} here; give workers the \
             spec that drives the build",
            stage.name, plan.parameters
        )));
    }
    Ok(plan)
}
