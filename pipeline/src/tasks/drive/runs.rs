//! Adaptations and trainings of a driver: by its engine, or in its own process.

use engines::ADAPT;
use stages::Training;
use training::communicator::Solo;
use workers::WorkerError;
use workers::adapt::AdaptationRecord;

use crate::build::Build;
use crate::engine::{Engine, Placed, TrainJob};
use crate::given::GivenPair;
use crate::launch::OverSpec;
use crate::pair::Pair;
use crate::progress::Progress;
use crate::sweep::Moves;

/// Makes an adaptation; `None`: an engine has begun it, and somebody comes back.
pub(super) async fn adapt(
    pair: &Pair,
    of: &GivenPair,
    step: &'static str,
    engine: &Engine,
    progress: &Progress,
) -> Result<Option<AdaptationRecord>, WorkerError> {
    let job = job(pair, of, step)?;
    match engine.train(&job, progress).await? {
        Some(Placed::ComesBack) => return Ok(None),
        Some(Placed::Waits) => {}
        None => return pair.adapt(&of.spec, &mut Solo, progress).await,
    }
    match pair.finished(&of.spec).await? {
        Some(record) => Ok(Some(record)),
        None => Err(WorkerError::Transient(format!(
            "{}: its ranks have ended, and the store has no finished adaptation of these tables: others changed them meanwhile",
            pair.name
        ))),
    }
}

fn job<'a>(pair: &'a Pair, of: &GivenPair, step: &'static str) -> Result<TrainJob<'a>, WorkerError> {
    let (spec, beside) = of.files();
    let files = std::iter::once(("spec.toml".to_owned(), spec)).chain(beside).collect();
    // what follows a pair's own adaptation is made by its processes, too; one of many says nothing meanwhile
    let rest = vec![if step == ADAPT { "--whole" } else { "--json" }.to_owned()];
    Ok(TrainJob {
        step,
        run: pair.run(&of.spec)?,
        work: &pair.target.work,
        stop: &pair.target.stop,
        ranks: &pair.source.spec.ranks,
        over: OverSpec { command: "adapt", files, rest },
        beside_others: step != ADAPT,
    })
}

/// Does one run of a sweep over a finished build; the step that an engine has begun, if somebody comes back when it is done. Where
/// nobody does, or it did not suffice, the caller finds it unfinished.
pub(super) async fn swept(
    build: &Build,
    key: &str,
    moves: Moves,
    engine: &Engine,
    progress: &Progress,
) -> Result<Option<&'static str>, WorkerError> {
    let job = TrainJob::of_sweep(build, Training::Pretrain, key, moves.step());
    Ok((engine.train(&job, progress).await? == Some(Placed::ComesBack)).then_some(job.step))
}
