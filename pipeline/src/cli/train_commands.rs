//! Commands that train and adapt models and compare them.

use std::path::{Path, PathBuf};

use anyhow::Result;
use engines::{ADAPT, SWEPT_BOOTSTRAP, VARIANT};
use manifests::words::count;
use manifests::{BuildSpec, PairSpec};
use stages::Training;
use training::communicator::Communicator;
use workers::WorkerError;

use super::arguments::TryArgs;
use super::engine_runs::OfRun;
use super::report_commands::sound_specs;
use super::told::{print_ablation, print_curves, print_differences, say_tested};
use super::{check_page, figures, stop_flag};
use crate::ablate::{together, verdict_together};
use crate::build::Build;
use crate::clock::now;
use crate::given::{Given, GivenPair};
use crate::launch::{Job, side_by_side};
use crate::pair::Pair;
use crate::progress::Progress;
use crate::run::{current_or_trained, run_training};
use crate::say;
use crate::sweep::{Moves, Swept};
use crate::tasks::{Finished, finish_pair};
use crate::trainings::training_state;

/// One rank of a training, which leaves word how it ended where an engine started it.
pub(super) async fn train(
    spec: BuildSpec,
    training: &str,
    of: &TryArgs,
    (retrain, swept): (bool, Option<Moves>),
) -> Result<()> {
    let training = match training {
        "bootstrap" => Training::Bootstrap,
        "pretrain" => Training::Pretrain,
        other => {
            return Err(WorkerError::Configuration(format!("{other}: the trainings are bootstrap and pretrain")).into());
        }
    };
    let step = match (training, swept) {
        (training, None) => training.name(),
        (Training::Bootstrap, Some(_)) => SWEPT_BOOTSTRAP,
        (Training::Pretrain, Some(moves)) => moves.step(),
    };
    let rank = workers::rank_env::rank_info().ok().flatten().map_or(0, |info| info.rank);
    let of_run = OfRun::begin(&spec, of.run.as_deref(), step, &rank.to_string())?;
    let ended = train_as_rank(spec, training, (retrain, swept)).await;
    OfRun::end(of_run, &of.attempt.unwrap_or(1).to_string(), &ended).await;
    ended
}

/// Only rank 0 says what it does.
async fn train_as_rank(spec: BuildSpec, training: Training, (retrain, swept): (bool, Option<Moves>)) -> Result<()> {
    let rank_info = workers::rank_env::rank_info()?;
    workers::rank_env::share_cores(rank_info.as_ref());
    let spec = workers::rank_env::for_rank(spec, rank_info.as_ref())?;
    let progress = Progress::new(rank_info.as_ref().is_some_and(|rank_info| rank_info.rank > 0));
    let meet = |build: &Build| {
        let met = tokio::task::block_in_place(|| workers::rank_env::meet(&build.spec, rank_info.as_ref(), &build.work));
        met.inspect(|ranks| say_way(ranks.as_ref(), &progress))
    };
    if let (Training::Pretrain, Some(moves)) = (training, swept) {
        // its driver has decided how many shards may be closed as failed
        let swept = Swept::here(spec, moves, usize::MAX, &stop_flag(), &progress).await?;
        swept.finish(meet(swept.build())?.as_mut(), &progress).await?;
        return Ok(());
    }
    let mut build = Build::open_work(spec, stop_flag()).await?;
    build.weights = workers::weights::fetch(&build.work, &build.spec, &build.stop).await?;
    let mut ranks = meet(&build)?;
    let state = training_state(&build, training, retrain).await?;
    match swept {
        // what the build itself says of its training stays
        Some(_) => _ = current_or_trained(&build, training, state, ranks.as_mut(), &progress).await?,
        None => run_training(&build, training, state, ranks.as_mut(), &progress).await?,
    }
    Ok(())
}

/// How ranks reach each other: what was not chosen was decided by what they can.
fn say_way(ranks: &dyn Communicator, progress: &Progress) {
    if ranks.world_size() > 1 {
        progress.note(&format!("{}; tensors travel through {}", count(ranks.world_size(), "rank"), ranks.way()));
    }
}

/// One rank of an adaptation, which leaves word how it ended where an engine started it.
pub(super) async fn adapt(path: &Path, set: &[String], of: &TryArgs, whole: bool, json: bool) -> Result<()> {
    let given = match Given::read(path, set)? {
        Given::Pair(pair) => pair,
        // reading it as a pair says what it is instead
        Given::Build(_) => match PairSpec::read(path, set) {
            Ok((spec, source, target)) => Box::new(GivenPair { spec, source, target }),
            Err(error) => return Err(error.into()),
        },
    };
    let rank = workers::rank_env::rank_info().ok().flatten().map_or(0, |info| info.rank);
    let step = if whole { ADAPT } else { VARIANT };
    let of_run = OfRun::begin_of(&given.target, &given.name(), of.run.as_deref(), step, &rank.to_string())?;
    let ended = adapt_as_rank(&given, whole, json).await;
    OfRun::end(of_run, &of.attempt.unwrap_or(1).to_string(), &ended).await;
    ended
}

async fn adapt_as_rank(given: &GivenPair, whole: bool, json: bool) -> Result<()> {
    let rank_info = workers::rank_env::rank_info()?;
    workers::rank_env::share_cores(rank_info.as_ref());
    let pair = given.open(&stop_flag()).await?;
    let spec = workers::rank_env::for_rank(pair.source.spec.clone(), rank_info.as_ref())?;
    let mut ranks =
        tokio::task::block_in_place(|| workers::rank_env::meet(&spec, rank_info.as_ref(), &pair.target.work))?;
    let first = ranks.rank() == 0;
    let progress = Progress::new(json || !first);
    say_way(ranks.as_ref(), &progress);
    let record = pair.adapt(&pair.spec, ranks.as_mut(), &progress).await?;
    if !first {
        return Ok(());
    }
    let (report, before, after) = match record.as_ref().filter(|_| whole) {
        Some(record) => {
            let Finished { before, after, report } = finish_pair(&pair, record, &progress).await?;
            (Some(report), before, after)
        }
        None => {
            let (before, after) = (pair.model(None).await?, pair.model(record.as_ref()).await?);
            (None, pair.test(&before).await?, pair.test(&after).await?)
        }
    };
    if json {
        say!("{}", serde_json::to_string_pretty(&serde_json::json!({ "before": before, "after": after }))?);
        return Ok(());
    }
    for (when, tested) in [("before", &before), ("after", &after)] {
        say_tested(when, tested, &pair.target.spec.country)?;
    }
    if let Some(report) = report {
        say!("report: {report}");
    }
    Ok(())
}

pub(super) async fn ablate(
    paths: &[PathBuf],
    set: &[String],
    at_once: usize,
    report: Option<PathBuf>,
    json: bool,
) -> Result<()> {
    check_page(report.as_deref())?;
    let (stop, progress) = (stop_flag(), Progress::new(json));
    let mut pairs = Vec::with_capacity(paths.len());
    for path in paths {
        pairs.push(Pair::open(path, set, stop.clone()).await?);
    }
    pairs.iter().try_for_each(|pair| crate::ablate::check(&pair.spec))?;
    if at_once > 1 {
        let jobs: Vec<Job> =
            pairs.iter().zip(paths).flat_map(|(pair, path)| crate::ablate::jobs(pair, path, set)).collect();
        side_by_side(&jobs, at_once, &stop, &progress).await?;
    }
    let mut ablations = Vec::with_capacity(pairs.len());
    for pair in &pairs {
        ablations.push(crate::ablate::ablate(pair, &progress).await?);
    }
    if json {
        say!("{}", serde_json::to_string_pretty(&ablations)?);
    } else {
        ablations.iter().try_for_each(print_ablation)?;
        if let Some(lines) = together(&ablations) {
            say!("all pairs together");
            print_differences(lines.iter().map(|l| (l.variant, l.over_fine_tuning, l.over_joint_training)))?;
            say!("{}", verdict_together(&lines));
        }
    }
    if let Some(path) = report {
        let page = crate::page::ablation::make(&pairs, &ablations, &now()).await?;
        write_page(Some(path), || page)?;
    }
    Ok(())
}

pub(super) async fn sweep(
    path: &Path,
    set: &[String],
    over: &[String],
    report: Option<PathBuf>,
    json: bool,
) -> Result<()> {
    check_page(report.as_deref())?;
    let axes = over.iter().map(|text| crate::sweep::Axis::parse(text)).collect::<Result<Vec<_>, _>>()?;
    let curves = crate::sweep::sweep(&Given::read(path, set)?, &axes, 0, &stop_flag(), &Progress::new(json)).await?;
    if json {
        say!("{}", serde_json::to_string_pretty(&curves)?);
    } else {
        print_curves(&curves)?;
    }
    write_page(report, || crate::page::sweep::curves(&curves, &now()))
}

pub(super) async fn single_domain(
    specs: &[PathBuf],
    set: &[String],
    report: Option<PathBuf>,
    json: bool,
) -> Result<()> {
    check_page(report.as_deref())?;
    let specs = sound_specs(specs, set)?;
    let lines = crate::sweep::single_domain(specs, &stop_flag(), &Progress::new(json)).await?;
    if json {
        say!("{}", serde_json::to_string_pretty(&lines)?);
    } else {
        for line in &lines {
            let from = if line.with_segments { "with segments" } else { "without segments" };
            let figures = figures(&line.recall.exact.pessimistic);
            let longer =
                if line.from_earlier_weights { "; went on from earlier weights, so it learnt for longer" } else { "" };
            let earlier = if line.of_earlier_tables { "; trained before the tables' last changes" } else { "" };
            say!(
                "{figures} on {} {from}, {}{longer}{earlier}",
                line.country,
                count(line.recall.image_gallery, "image")
            );
        }
    }
    write_page(report, || crate::page::sweep::single_domain(&lines, &now()))
}

fn write_page(path: Option<PathBuf>, page: impl FnOnce() -> String) -> Result<()> {
    path.map_or(Ok(()), |path| super::write_page(&path, &page()))
}
