//! Commands by which a build runs on several workers.

use std::time::Duration;

use anyhow::Result;
use engines::Run;
use manifests::BuildSpec;
use workers::WorkerError;
use workers::pull::Share;

use super::arguments::{EngineArgs, EngineName, RunArgs, ShareArgs, SpecArgs, StepArgs};
use super::engine_runs::{
    OfRun, check_driven, check_once, claimant, not_driven, options_of, read_profile, restarted_job, run_options,
};
use super::several::{ExperimentArgs, Whole};
use super::told::end_of_run;
use super::{several_commands, stop_flag};
use crate::build::Build;
use crate::engine::{Engine, KubernetesEngine, Processes, Slurm};
use crate::logs::{self, Who};
use crate::progress::Progress;
use crate::run::RunEnd;
use crate::run_record::{DONE, DRIVER, RunRecord, run_id};

/// A driver: plans, starts workers, publishes, and again until all is done. One of a cluster leaves word how it ended.
pub(super) async fn drive(
    args: &SpecArgs,
    options: &RunArgs,
    (steps, experiment): (&StepArgs, &ExperimentArgs),
    engine: &EngineArgs,
) -> Result<()> {
    let run = engine.run.as_deref().filter(|_| engine.engine != EngineName::Processes);
    // a spec that cannot be read names no store for the word
    let spec = match Whole::read(&args.spec, &args.set.set, experiment)? {
        Whole::Build(spec) => *spec,
        Whole::Several(several) => {
            return several_commands::drive(&several, args, (options, steps, experiment), engine).await;
        }
    };
    let of_run = OfRun::begin(&spec, run, DRIVER.0, DRIVER.1)?;
    let ended = drive_to_end(spec, &args.set.set, options, steps, engine).await;
    let (of, ended) = match ended {
        Ok(Some(RunEnd::Done(_))) => (DONE, Ok(())),
        Ok(Some(RunEnd::Placed { .. })) => ("placed", Ok(())),
        Ok(None) => ("cancelled", Ok(())),
        Err(error) => ("", Err(error)),
    };
    OfRun::end(of_run, of, &ended).await;
    ended
}

/// How far a driver has come; `None`: its run was cancelled.
async fn drive_to_end(
    spec: BuildSpec,
    set: &[String],
    options: &RunArgs,
    steps: &StepArgs,
    engine: &EngineArgs,
) -> Result<Option<RunEnd>> {
    let progress = Progress::new(false);
    check_driven(&spec, steps.until.as_deref(), engine.engine)?;
    steps.until.iter().try_for_each(|until| crate::run::check_until(&spec, until))?;
    let is_cluster = engine.engine != EngineName::Processes;
    check_once(options, engine)?;
    let asked = options_of(options, steps, &engine.failed);
    let id = engine.run.clone().unwrap_or_else(|| run_id(&spec, &asked));
    let mut build = Build::connect(spec, stop_flag()).await?;
    if is_cluster && RunRecord::new(&build.work, &build.spec.country, &id).is_cancelled().await? {
        progress.note(&format!("run {id} was cancelled; `urbancross submit` begins it again"));
        return Ok(None);
    }
    if is_cluster {
        let job = restarted_job(engine.engine, &|name| std::env::var(name).ok());
        RunRecord::new(&build.work, &build.spec.country, &id).check_last_driver(job.as_deref()).await?;
    }
    build.source.required()?;
    build.list_source().await?;
    let options = run_options(options, steps, engine, set);
    let run = || {
        let (country, spec) = (build.spec.country.clone(), build.spec.to_toml());
        Run { id, country, spec, options: asked, ..Run::default() }
    };
    let engine = match engine.engine {
        EngineName::Processes => {
            let lease = Duration::from_secs(engine.lease.lease_seconds);
            Engine::Processes(Box::new(Processes::new(engine.workers as usize, lease)))
        }
        EngineName::Slurm => {
            let profile = read_profile(engine.profile.as_deref())?;
            Engine::Slurm(Box::new(Slurm::open(run(), profile).await?))
        }
        EngineName::Kubernetes => {
            let profile = read_profile(engine.profile.as_deref())?;
            Engine::Kubernetes(Box::new(KubernetesEngine::new(run(), profile)))
        }
        EngineName::Ray => return Err(not_driven().into()),
    };
    let end = crate::run::drive(&mut build, &options, &engine, &progress).await?;
    match &end {
        RunEnd::Done(quarantined) => end_of_run(&build, &options, quarantined).await?,
        RunEnd::Placed { step } => {
            progress.note(&format!("{step:21} workers have begun; a driver comes back when they have done"));
        }
    }
    Ok(Some(end))
}

pub(super) async fn worker(spec: BuildSpec, args: &ShareArgs) -> Result<()> {
    let share = share(args, &|name| std::env::var(name).ok())?;
    logs::identify(Who {
        stage: Some(args.stage.clone()),
        plan: Some(args.plan.clone()),
        run: args.run.clone(),
        worker: Some(share.claimant.worker.clone()),
        attempt: std::env::var("SLURM_RESTART_COUNT").ok(),
        node: Some(share.claimant.node.clone()),
        device: Some(spec.model.device.clone()),
        engine_job: share.claimant.engine_job.clone(),
    });
    let of = OfRun::begin(&spec, args.run.as_deref(), &args.stage, &share.index.to_string())?;
    // whoever started it here tells how far all of them are
    let progress = Progress::new(crate::launch::launched());
    let ended = crate::worker::work(spec, &args.stage, &args.plan, &share, stop_flag(), &progress).await;
    // several speak beside each other
    let ended =
        ended.map_err(|error| anyhow::Error::from(error).context(format!("worker {} of {}", share.index, args.stage)));
    OfRun::end(of, &args.plan, &ended).await;
    ended
}

/// Variables that say which of an engine's workers this is.
const INDEX: [&str; 3] = ["URBANCROSS_INDEX", "JOB_COMPLETION_INDEX", "SLURM_ARRAY_TASK_ID"];
const COUNT: &str = "URBANCROSS_COUNT";

fn share(args: &ShareArgs, variable: &dyn Fn(&str) -> Option<String>) -> Result<Share, WorkerError> {
    let number = |name: &str| {
        let read = |text: String| {
            let why = || WorkerError::Configuration(format!("{name} = {text:?}: it must be a whole number"));
            text.trim().parse::<u32>().map_err(|_| why())
        };
        variable(name).map(read).transpose()
    };
    let mut index = args.index;
    for name in INDEX {
        if index.is_none() {
            index = number(name)?;
        }
    }
    let count = match args.count {
        Some(count) => Some(count),
        None => number(COUNT)?,
    };
    let (index, count) = (index.unwrap_or(0), count.unwrap_or(1));
    if count == 0 || index >= count {
        let words = format!("worker {index} of {count}: numbers begin at 0 and end below the number of workers");
        return Err(WorkerError::Configuration(words));
    }
    let claimant = claimant(&index.to_string(), variable);
    Ok(Share { index, count, lease: Duration::from_secs(args.lease.lease_seconds), claimant, leaves: args.leave })
}

#[cfg(test)]
mod tests {
    use super::super::arguments::LeaseArgs;
    use super::*;

    fn args(index: Option<u32>, count: Option<u32>) -> ShareArgs {
        ShareArgs {
            stage: "images".into(),
            plan: "0".into(),
            run: None,
            index,
            count,
            leave: false,
            lease: LeaseArgs { lease_seconds: 60 },
        }
    }

    #[test]
    fn a_worker_knows_its_number_from_whoever_started_it() {
        let slurm = |name: &str| match name {
            "SLURM_ARRAY_TASK_ID" => Some("3".to_owned()),
            "SLURM_ARRAY_JOB_ID" => Some("17".to_owned()),
            "SLURMD_NODENAME" => Some("node2".to_owned()),
            COUNT => Some("8".to_owned()),
            _ => None,
        };
        let share = super::share(&args(None, None), &slurm).unwrap();
        assert_eq!((share.index, share.count), (3, 8));
        assert_eq!((share.claimant.node.as_str(), share.claimant.engine_job.as_deref()), ("node2", Some("17_3")));
        assert_eq!(super::share(&args(Some(5), Some(6)), &slurm).unwrap().index, 5, "the command line says more");
        assert_eq!(super::share(&args(None, None), &|_| None).unwrap().count, 1);
        for (index, count) in [(Some(8), Some(8)), (Some(0), Some(0))] {
            assert!(super::share(&args(index, count), &|_| None).unwrap_err().to_string().contains("begin at 0"));
        }
        let wrong = super::share(&args(None, None), &|name| (name == COUNT).then(|| "many".to_owned())).unwrap_err();
        assert!(wrong.exit_code() == 65 && wrong.to_string().contains("URBANCROSS_COUNT"), "{wrong}");
    }
}
