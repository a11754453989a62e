//! One stage of a run: plan, map, publish, and again where others were faster.

use std::time::Instant;

use manifests::words::count;
use manifests::{Artifact, Plan, RowStatuses, paths};
use stages::stage::{ModelUse, Stage, StageContext};
use workers::WorkerError;
use workers::map::{MapContext, MapResult, map_plan};
use workers::publish::{Published, Summary, problems_digest, publish, quarantine};

use super::{Quarantined, before, elsewhere};
use crate::build::Build;
use crate::clock::unix_seconds;
use crate::engine::Engine;
use crate::memory::LowMemory;
use crate::plan::{Model, model_folder, model_of, plan_stage};
use crate::progress::{Progress, StageBar};
use crate::run_options::RunOptions;

/// How a stage ended.
pub(super) enum StageEnd {
    /// All of its rows are as they should be; those that are out.
    Done(Option<Quarantined>),
    /// Workers elsewhere have begun, and somebody comes back when they have done.
    Placed,
}

pub(super) async fn run_stage(
    build: &mut Build,
    stage: &Stage,
    options: &RunOptions,
    engine: &Engine,
    progress: &Progress,
) -> Result<StageEnd, WorkerError> {
    let (started, began) = (unix_seconds(), Instant::now());
    // what was done before others overtook this run
    let mut before: Option<Summary> = None;
    loop {
        let Some(model) = model_of(build, stage).await? else {
            return Err(WorkerError::Broken(format!("{}: the training before it left no model", stage.name)));
        };
        if stage.output == Artifact::Geotags {
            let removals = before::check_removals(build, options).await?;
            removals.in_words().iter().for_each(|line| progress.note(&format!("warning: {line}")));
        }
        if !options.retry_errors
            && let Some(key) = crate::settled::key(build, stage, &model).await?
            && let Some(known) = build.settled.get(stage, &key)
            && known.statuses.problems == problems_digest(&build.virtual_inputs.listing.problems)
        {
            progress.stage(stage.name, 0).unchanged(known.rows);
            return quarantined(build, stage, &known.statuses).map(StageEnd::Done);
        }
        // boxes and given splits tell before any image is pulled whether a part stays empty; pictures tell afterwards
        if matches!(stage.output, Artifact::Images | Artifact::Splits) {
            before::assign_splits(build, options.until.as_deref(), progress).await?;
            before::check_batch(build, options).await?;
        }
        let plan = plan_stage(build, stage, &model, options.retry_errors).await?;
        let total = plan.counts.stale.iter().map(|s| s.rows()).sum::<u64>();
        let bar = progress.stage(stage.name, total);
        if plan.counts.stale.is_empty() {
            bar.unchanged(plan.counts.kept_rows);
            return settle(build, stage, &model, before, true).await.map(StageEnd::Done);
        }
        let Some(mapped) = map_by(engine, build, stage, &plan, &model, &bar).await? else {
            return Ok(StageEnd::Placed);
        };
        if mapped.finished.is_empty()
            && let Some(why) = mapped.outdated
        {
            return Err(WorkerError::Outdated(why));
        }
        let nothing = mapped.finished.is_empty() && !mapped.failed.is_empty();
        if nothing {
            elsewhere::tolerate(stage, &mapped.failed, options, progress)?;
            return settle(build, stage, &model, before, false).await.map(StageEnd::Done);
        }
        let published = publish(&build.tables, &plan, &mapped.finished).await?;
        // workers elsewhere may have been at it long before this driver came back, and others when it began
        let (from, to) = mapped.span.unwrap_or((started, started + began.elapsed().as_secs_f64()));
        let from = before.as_ref().map_or(from, |before| before.started_unix_seconds.min(from));
        let mut summary = summary_of(&plan, &mapped, &published, before.unwrap_or_default());
        (summary.started_unix_seconds, summary.seconds) = (from, to - from);
        if stage.output == Artifact::Splits {
            for (reason, images) in &build.virtual_inputs.assigned().dropped {
                progress.note(&format!("{:21} {images} dropped: {}", stage.name, reason.words()));
                summary.notes.insert(format!("dropped ({})", reason.words()), images.to_string());
            }
        }
        if !summary.usage.is_none() {
            let asked = crate::served::in_words(&summary.usage, &build.spec.caption.server);
            summary.notes.insert(crate::progress::ASKED.into(), asked);
        }
        bar.finish(&summary);
        if mapped.stopped {
            return Err(WorkerError::Stopped);
        }
        if let Some(why) = mapped.outdated {
            return Err(WorkerError::Outdated(why));
        }
        if published.overtaken.is_empty() {
            build.after_commit(published.live);
            elsewhere::tolerate(stage, &mapped.failed, options, progress)?;
            let all = mapped.failed.is_empty();
            return settle(build, stage, &model, Some(summary), all).await.map(StageEnd::Done);
        }
        progress.note(&format!(
            "{}: another run changed {} meanwhile, or `gc` began to clear up; planning again",
            stage.name,
            count(published.overtaken.len(), "shard")
        ));
        before = Some(Summary { kept: 0, ..summary });
        build.count_commit();
        build.refresh().await?;
    }
}

/// Maps a plan where an engine has its workers; `None`: they have begun, and somebody comes back when they have done.
pub(crate) async fn map_by(
    engine: &Engine,
    build: &Build,
    stage: &Stage,
    plan: &Plan,
    model: &Model,
    bar: &StageBar<'_>,
) -> Result<Option<MapResult>, WorkerError> {
    match engine {
        Engine::Here => map_here(build, stage, plan, model, bar).await.map(Some),
        _ => elsewhere::map(build, stage, plan, engine, bar).await,
    }
}

/// Maps a plan in this process, from the slices in its memory.
async fn map_here(
    build: &Build,
    stage: &Stage,
    plan: &Plan,
    model: &Model,
    bar: &StageBar<'_>,
) -> Result<MapResult, WorkerError> {
    build.work.put_sealed_if_absent(&paths::plan(&plan.country, stage.name, &plan.key()), plan).await?;
    let context = MapContext {
        work: &build.work,
        slices: build.virtual_inputs.slices.store(),
        tables: &build.tables,
        source: &build.source,
        fetch: build.fetch_settings(),
        stop: &build.stop,
        observer: bar,
    };
    let devices = stages::device::devices(stage.name, &build.spec)?;
    let stage_context = StageContext {
        spec: &build.spec,
        device: devices[0],
        model_folder: model_folder(build, model).await?,
        weights: &build.weights,
        server: workers::chat_server::open(&build.spec, build.stop.clone())?,
        stop: build.stop.clone(),
    };
    let _low_memory = (stage.model == ModelUse::None).then(LowMemory::begin);
    map_plan(&context, stage, plan, stage_context, &devices).await
}

/// What a stage did, added to what it had done `before` others overtook it.
fn summary_of(plan: &Plan, mapped: &MapResult, published: &Published, before: Summary) -> Summary {
    let mut summary = Summary {
        stage: plan.stage.clone(),
        country: plan.country.clone(),
        kept: plan.counts.kept_rows,
        reasons: plan.reasons().into_iter().map(|(r, n)| (r.words().to_owned(), n)).collect(),
        version: published.live.version,
        made_by: crate::made_by(),
        ..before
    };
    for finished in &mapped.finished {
        let marker = &finished.marker;
        match finished.by_other_runs || published.overtaken.contains(&marker.part.shard) {
            true => summary.by_other_runs += marker.computed,
            false => {
                summary.computed += marker.computed;
                summary.usage += marker.usage;
            }
        }
        summary.kept += marker.kept;
        summary.carried += marker.carried;
        summary.deleted += marker.deleted;
        summary.errors += marker.errors;
    }
    summary
}

/// Writes down what became of a stage's rows: the quarantine listing, the summary of a run that changed something, and
/// last that nothing is left to do, if that is so.
async fn settle(
    build: &mut Build,
    stage: &Stage,
    model: &Model,
    changed: Option<Summary>,
    is_whole: bool,
) -> Result<Option<Quarantined>, WorkerError> {
    let listing = &build.virtual_inputs.listing;
    let problems = if stage.output == Artifact::Geotags { listing.problems.as_slice() } else { &[] };
    let country = &build.spec.country;
    let live = build.pin(stage.output).await?;
    let mut statuses =
        quarantine(&build.work, &live, stage.name, country, problems, build.spec.work.concurrency).await?;
    statuses.problems = problems_digest(&listing.problems);
    if let Some(mut summary) = changed {
        summary.rows = statuses.ok;
        summary.excluded = statuses.excluded;
        summary.errors = statuses.errors;
        if !problems.is_empty() {
            summary.notes.insert("source rows left out".into(), listing.rows_left_out.to_string());
        }
        build.work.put_sealed(&paths::summary(country, stage.name), &summary).await?;
    }
    if is_whole && let Some(key) = crate::settled::key(build, stage, model).await? {
        crate::settled::put(build, stage, model, key, live.rows(), statuses.clone()).await?;
    }
    quarantined(build, stage, &statuses)
}

/// Tables without which nothing is left to train or to evaluate. A build without a segment or a score goes on.
const NEEDED: [Artifact; 6] = [
    Artifact::Geotags,
    Artifact::Splits,
    Artifact::Images,
    Artifact::Captions,
    Artifact::ImageEmbeddings,
    Artifact::TextEmbeddings,
];

/// Rows of a stage that are out, if there are any.
///
/// # Errors
/// [`WorkerError::Broken`] where no row is left to go on with.
fn quarantined(build: &Build, stage: &Stage, statuses: &RowStatuses) -> Result<Option<Quarantined>, WorkerError> {
    let source = Some(&build.virtual_inputs.listing).filter(|_| stage.output == Artifact::Geotags);
    let rows = statuses.errors + source.map_or(0, |listing| listing.rows_left_out);
    let is_listed = rows > 0 || source.is_some_and(|listing| !listing.problems.is_empty());
    let listing = format!("{}{}", build.work.url(), paths::quarantine(&build.spec.country, stage.name));
    if let (0, Some(first)) = (statuses.ok, &statuses.first_error)
        && NEEDED.contains(&stage.output)
    {
        return Err(WorkerError::Broken(format!(
            "{}: no row is left to go on with: {} failed; the first: {first}; all of them: {listing}",
            stage.name,
            count(statuses.errors, "row")
        )));
    }
    if let (0, Some(first), Artifact::Geotags) = (statuses.ok, &statuses.first_excluded, stage.output) {
        return Err(WorkerError::Broken(format!(
            "{}: no image is left to go on with: {} left out; the first: {first}",
            stage.name,
            count(statuses.excluded, "image")
        )));
    }
    Ok(is_listed.then(|| Quarantined { stage: stage.name.to_owned(), rows, listing }))
}
