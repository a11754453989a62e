//! Commands by which a build runs on several workers.

use std::time::Duration;

use anyhow::Result;
use manifests::BuildSpec;
use workers::WorkerError;
use workers::claims::Claimant;
use workers::pull::Share;

use super::arguments::{EngineArgs, RunArgs, ShareArgs, SpecArgs};
use super::{build_commands, stop_flag};
use crate::build::Build;
use crate::engine::{Engine, Processes};
use crate::logs::{self, Who};
use crate::preflight;
use crate::progress::Progress;
use crate::run::RunEnd;
use crate::run_options::RunOptions;

pub(super) async fn drive(
    args: &SpecArgs,
    options: RunArgs,
    accept_removals: bool,
    until: Option<String>,
    engine: &EngineArgs,
) -> Result<()> {
    let progress = Progress::new(false);
    let spec = args.read()?;
    preflight::check_run(&spec, until.as_deref())?;
    let mut build = Build::connect(spec, stop_flag()).await?;
    build.source.required()?;
    build.list_source().await?;
    let options = RunOptions {
        retry_errors: options.retry_errors,
        retrain: options.retrain,
        accept_removals,
        until,
        allow_failed: engine.allow_failed as usize,
        set: args.set.set.clone(),
    };
    let processes = Processes::new(engine.workers as usize, Duration::from_secs(engine.lease_seconds));
    match crate::run::drive(&mut build, &options, &Engine::Processes(processes), &progress).await? {
        RunEnd::Done(quarantined) => build_commands::end_of_run(&build, &options, &quarantined).await,
        RunEnd::Placed { step } => {
            progress.note(&format!("{step:18} workers have begun"));
            Ok(())
        }
    }
}

pub(super) async fn worker(spec: BuildSpec, args: &ShareArgs) -> Result<()> {
    let share = share(args, &|name| std::env::var(name).ok())?;
    logs::identify(Who {
        stage: Some(args.stage.clone()),
        plan: Some(args.plan.clone()),
        worker: Some(share.claimant.worker.clone()),
        attempt: std::env::var("SLURM_RESTART_COUNT").ok(),
        node: Some(share.claimant.node.clone()),
        device: Some(spec.model.device.clone()),
        engine_job: share.claimant.engine_job.clone(),
        ..Who::default()
    });
    let progress = Progress::new(false);
    Ok(crate::worker::work(spec, &args.stage, &args.plan, &share, stop_flag(), &progress).await?)
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
    let slurm = || Some(format!("{}_{}", variable("SLURM_ARRAY_JOB_ID")?, variable("SLURM_ARRAY_TASK_ID")?));
    let claimant = Claimant {
        worker: index.to_string(),
        node: variable("NODE_NAME").or_else(|| variable("SLURMD_NODENAME")).unwrap_or_else(workers::claims::host),
        engine_job: slurm().or_else(|| variable("SLURM_JOB_ID")).or_else(|| variable("HOSTNAME")),
    };
    Ok(Share { index, count, lease: Duration::from_secs(args.lease_seconds), claimant })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(index: Option<u32>, count: Option<u32>) -> ShareArgs {
        ShareArgs { stage: "images".into(), plan: "0".into(), index, count, lease_seconds: 60 }
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
