//! What a run would do: shown by `plan` for all steps, by `explain` for one step or for one image.
//!
//! What is up to date below a step that will run cannot be known before that has run: the rows that it makes may be those that
//! were there. So a shard of which an input will change has an upper bound, and only the others have reasons.

use std::collections::{BTreeMap, BTreeSet};

use manifests::words::count;
use manifests::{Artifact, Plan, PlanCounts, Reason};
use serde::Serialize;
use stages::stage::{ModelUse, Stage};
use stages::{Step, Training};
use workers::WorkerError;
use workers::removals::Removals;
use workers::train;

use crate::build::Build;
use crate::capacity::StepCapacity;
use crate::estimate::Estimate;
use crate::plan::{Model, counted, model_of, plan_stage, uncounted_plan};
use crate::served::Expected;
use crate::trainings::{NO_RUN, Outlook, TrainingState, current_record, outlook};
use crate::{preflight, settled};

/// One step of a build.
#[derive(Debug, Serialize)]
pub struct PlanLine {
    /// Name of the step.
    pub step: &'static str,
    /// Rows to compute; an upper bound where `exact` is false.
    pub rows: u64,
    /// Whether `rows` is known to the row, and not only bounded.
    pub exact: bool,
    /// Rows that stay as they are.
    pub kept: u64,
    /// Rows that stand though an input of theirs is another: their words are the same.
    #[serde(skip_serializing_if = "is_zero")]
    pub carried: u64,
    /// Shards whose rows are made and wait to be published: they are not among `rows`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub finished: Option<Finished>,
    /// Shards that are closed as failed: their rows are made only when somebody has opened them again.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failed: Option<Failed>,
    /// Of the rows that are known to change.
    pub reasons: BTreeMap<Reason, u64>,
    /// What else there is to say, for people.
    pub note: String,
    /// What the step takes in a whole build, where that can be counted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub estimate: Option<Estimate>,
    /// What a server will be asked for, where one answers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub server: Option<Expected>,
    /// What a cluster makes of it, where one was named.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cluster: Option<StepCapacity>,
    /// The model of its rows is trained before, or may be.
    #[serde(skip)]
    pub model_changes: bool,
    /// Whether a training must run.
    #[serde(skip)]
    pub(crate) training: Option<Outlook>,
}

/// Shards that a killed or stopped run has finished and not published. The next run publishes them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Finished {
    /// How many there are.
    pub shards: usize,
    /// Shards that have anything to do, these among them.
    pub of: usize,
    /// Rows that were computed for them.
    pub rows: u64,
}

/// Shards that workers have given up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Failed {
    /// Their numbers.
    pub shards: Vec<u32>,
    /// Why the first of them was closed.
    pub first: String,
}

impl Failed {
    /// For people.
    pub fn in_words(&self) -> String {
        let verb = if self.shards.len() == 1 { "is" } else { "are" };
        format!(
            "{} {verb} closed as failed: shard {}: {}; `urbancross run` makes them, and `urbancross retry SPEC --errors` opens \
             them to the workers of a driver",
            count(self.shards.len() as u64, "shard"),
            self.shards.first().copied().unwrap_or(0),
            self.first
        )
    }
}

impl Finished {
    /// For people.
    pub fn in_words(self) -> String {
        let (rows, shards) = (count(self.rows, "row"), count(self.of as u64, "shard"));
        let verb = if self.shards == 1 { "is finished and waits" } else { "are finished and wait" };
        format!("{} of {shards} {verb} for publishing ({rows} made)", self.shards)
    }
}

fn is_zero(rows: &u64) -> bool {
    *rows == 0
}

const DEPENDS: &str = "depends on the outcome of the stages above";

/// Upper bounds of the rows that steps above will change, by shard.
type ByShard = BTreeMap<u32, u64>;

/// What steps above will change.
#[derive(Default)]
struct Changes {
    tables: BTreeMap<Artifact, ByShard>,
    /// Whose model will be another, for certain or perhaps.
    models: BTreeMap<&'static str, bool>,
    /// Rows come into the geo-tags or leave them: their boxes are not known yet.
    boxes: bool,
}

impl Changes {
    fn rows(&self, artifact: Artifact) -> u64 {
        self.tables.get(&artifact).map_or(0, |shards| shards.values().sum())
    }

    /// Rows of a shard of a stage's inputs; `None`: none of them changes.
    fn above(&self, stage: &Stage, shard: u32, listed: u64) -> Option<u64> {
        let mut above = None;
        for input in stage.inputs {
            let rows = match input.artifact {
                // made of all boxes and all pictures at once
                Artifact::Assignment if self.boxes || self.tables.contains_key(&Artifact::Images) => Some(listed),
                Artifact::Assignment => {
                    self.tables.get(&Artifact::Geotags).map(|shards| shards.get(&shard).copied().unwrap_or(0))
                }
                table => self.tables.get(&table).and_then(|shards| shards.get(&shard).copied()),
            };
            above = rows.map(|rows| above.unwrap_or(0) + rows).or(above);
        }
        above
    }
}

/// What a preview looks at.
#[derive(Clone, Copy, Default)]
struct PreviewOptions {
    retry_errors: bool,
    retrain: bool,
    /// The only shard that is looked at. Of the others it is known what is settled; all other rows there may change.
    only: Option<u32>,
}

/// What a run would do.
///
/// # Errors
/// As planning: [`WorkerError::Broken`] for parts that cannot be read; a store that does not answer.
pub async fn preview(build: &mut Build, retry_errors: bool, retrain: bool) -> Result<Vec<PlanLine>, WorkerError> {
    build.assign_splits().await?;
    preview_with(build, PreviewOptions { retry_errors, retrain, only: None }).await
}

/// What a run would do, as far as one shard tells. No part of another shard is read. The caller has assigned the splits,
/// or they are settled.
///
/// # Errors
/// As [`preview`].
pub async fn preview_shard(build: &Build, shard: u32) -> Result<Vec<PlanLine>, WorkerError> {
    preview_with(build, PreviewOptions { only: Some(shard), ..PreviewOptions::default() }).await
}

async fn preview_with(build: &Build, options: PreviewOptions) -> Result<Vec<PlanLine>, WorkerError> {
    let mut changes = Changes::default();
    let mut lines = Vec::new();
    for step in stages::steps(&build.spec) {
        lines.push(match step {
            Step::Map(stage) => map_line(build, &stage, options, &mut changes).await?,
            Step::Train(training) => training_line(build, training, options, &mut changes).await?,
            Step::Evaluate => {
                let changing = !changes.tables.is_empty() || !changes.models.is_empty();
                let note = match crate::evaluate::stored_or_why(build).await? {
                    _ if changing => "after the stages above".to_owned(),
                    Ok(_) => "up to date".to_owned(),
                    Err(why) => format!("must run: {why}"),
                };
                PlanLine { exact: !changing, note, ..empty_line(step.name()) }
            }
        });
    }
    Ok(lines)
}

/// Rows that leave the tables because the source no longer offers them. Nothing is read again while the build sees the same
/// source and geo-tags.
///
/// # Errors
/// As planning.
pub async fn removals(build: &mut Build) -> Result<&Removals, WorkerError> {
    if build.removals.is_none() {
        let (geotags, model) = (stages::geotags::stage(), Model::default());
        let plan = uncounted_plan(build, &geotags, &model, false).await?;
        let settled = settled::shards(build, &geotags, &model, &plan).await?;
        let found = Removals::find(&build.work, &build.spec, (&plan.output, &settled), &build.virtual_inputs).await?;
        build.removals = Some(found);
    }
    Ok(build.removals.get_or_insert_default())
}

pub(crate) fn empty_line(step: &'static str) -> PlanLine {
    PlanLine {
        step,
        rows: 0,
        exact: true,
        kept: 0,
        carried: 0,
        finished: None,
        failed: None,
        reasons: BTreeMap::new(),
        note: String::new(),
        estimate: None,
        server: None,
        cluster: None,
        model_changes: false,
        training: None,
    }
}

async fn map_line(
    build: &Build,
    stage: &Stage,
    options: PreviewOptions,
    changes: &mut Changes,
) -> Result<PlanLine, WorkerError> {
    let listed = &build.virtual_inputs.listing.rows_by_shard;
    let trained_by = match stage.model {
        ModelUse::Scoring => Some(Training::Bootstrap),
        ModelUse::Retrieval => Some(Training::Pretrain),
        ModelUse::None | ModelUse::Named(_) | ModelUse::Served => None,
    };
    let model_changes = trained_by.and_then(|training| changes.models.get(training.name()).copied());
    let model = if model_changes.is_some() { None } else { model_of(build, stage).await? };
    let Some(model) = model else {
        changes.tables.insert(stage.output, (0..).zip(listed.iter().copied()).collect());
        let note = match (model_changes, options.only) {
            (Some(false), None) => "its model may change",
            (Some(false), Some(_)) => "its model may change: `urbancross plan` looks at all shards",
            _ => "its model will change",
        };
        let rows = listed.iter().sum();
        let model_changes = model_changes.is_some();
        return Ok(PlanLine { rows, exact: false, note: note.to_owned(), model_changes, ..empty_line(stage.name) });
    };
    let mut above: Vec<Option<u64>> =
        (0..).zip(listed).map(|(shard, listed)| changes.above(stage, shard, *listed)).collect();
    let plan = plan_below(build, stage, &model, options, &mut above).await?;
    let at_once = build.spec.work.concurrency;
    let begun = workers::planning::begun(&build.work, &build.tables, &plan, at_once).await?;
    let (mut line, shards) = line_of(stage.name, &plan.counts, &begun.finished, &above, listed);
    line.failed = begun.first_failure.map(|first| Failed { shards: begun.failed, first });
    if stage.output == Artifact::Geotags {
        changes.boxes = !line.exact || line.reasons.keys().any(|reason| *reason != Reason::InputChanged);
    }
    if !shards.is_empty() {
        changes.tables.insert(stage.output, shards);
    }
    Ok(line)
}

/// Counts a stage in the shards that are asked for, but in those of which an input is lost: it is made again before it is
/// read. Where a shard is not looked at, all of its rows may change: so `above` says afterwards.
async fn plan_below(
    build: &Build,
    stage: &Stage,
    model: &Model,
    options: PreviewOptions,
    above: &mut [Option<u64>],
) -> Result<Plan, WorkerError> {
    let plan = uncounted_plan(build, stage, model, options.retry_errors).await?;
    let lost: Vec<u32> = plan.inputs.iter().flat_map(|table| table.lost.iter().copied()).collect();
    if lost.is_empty() && options.only.is_none() {
        return plan_stage(build, stage, model, options.retry_errors).await;
    }
    let settled = settled::shards(build, stage, model, &plan).await?;
    if let Some(only) = options.only {
        let listed = &build.virtual_inputs.listing.rows_by_shard;
        for (shard, (above, listed)) in (0..).zip(above.iter_mut().zip(listed)) {
            if shard != only && !settled.contains(&shard) {
                *above = Some(*listed);
            }
        }
    }
    let is_known = |shard: u32| above[shard as usize].is_none() || !lost.contains(&shard);
    let is_wanted = |shard: u32| options.only.is_none_or(|only| only == shard) && is_known(shard);
    counted(build, stage, plan, settled, is_wanted).await
}

/// The line of a stage, and how many of its rows may change: `above` says of each shard how many rows of its inputs may, and
/// `finished` are the shards whose rows wait to be published.
fn line_of(
    step: &'static str,
    counts: &PlanCounts,
    finished: &BTreeSet<u32>,
    above: &[Option<u64>],
    listed: &[u64],
) -> (PlanLine, ByShard) {
    let mut line = PlanLine { exact: above.iter().all(Option::is_none), kept: counts.kept_rows, ..empty_line(step) };
    let mut changes: ByShard = (0..).zip(above).filter_map(|(shard, above)| Some((shard, (*above)?))).collect();
    for plan in &counts.stale {
        let changed = if above[plan.shard as usize].is_some() {
            plan.computed()
        } else if finished.contains(&plan.shard) {
            let known = line.finished.get_or_insert(Finished { shards: 0, of: counts.stale.len(), rows: 0 });
            (known.shards, known.rows) = (known.shards + 1, known.rows + plan.computed());
            (line.kept, line.carried) = (line.kept + plan.kept, line.carried + plan.carried);
            plan.changes.values().sum()
        } else {
            for (reason, rows) in &plan.changes {
                *line.reasons.entry(*reason).or_default() += rows;
            }
            line.rows += plan.computed();
            line.kept += plan.kept;
            line.carried += plan.carried;
            plan.changes.values().sum()
        };
        // what stands under a new recipe says to nobody that it is another
        if changed > 0 || above[plan.shard as usize].is_some() {
            *changes.entry(plan.shard).or_default() += changed;
        }
    }
    for (shard, rows) in &mut changes {
        if above[*shard as usize].is_some() {
            *rows = (*rows).min(listed[*shard as usize]);
            line.rows += *rows;
        }
    }
    if !line.exact {
        (line.kept, line.carried, line.note) = (0, 0, DEPENDS.to_owned());
    }
    (line, changes)
}

async fn training_line(
    build: &Build,
    training: Training,
    options: PreviewOptions,
    changes: &mut Changes,
) -> Result<PlanLine, WorkerError> {
    let above: u64 = train::training_inputs(&build.spec, training).iter().map(|a| changes.rows(*a)).sum();
    // what a first run would read is nobody's question where one shard is looked at
    let outlook = match options.only {
        Some(_) if current_record(build, training).await?.is_none() => Outlook::MustRun(NO_RUN.to_owned()),
        _ => outlook(build, training, options.retrain, above).await?,
    };
    let listed = build.virtual_inputs.listing.rows();
    if matches!(outlook, Outlook::Known(TrainingState::MustRun(_)) | Outlook::MustRun(_)) {
        // images that come in, or whose pictures change, are assigned again
        let is_assigned = ![Artifact::Geotags, Artifact::Images].iter().any(|table| changes.tables.contains_key(table));
        let rows = if is_assigned { preflight::training_rows(&build.virtual_inputs) } else { ("the source", listed) };
        preflight::batch(&build.spec, None, rows)?;
    }
    let (rows, note) = match &outlook {
        Outlook::Known(TrainingState::MustRun(next)) => (listed, next.run.begins.clone()),
        Outlook::MustRun(begins) => (listed, begins.clone()),
        Outlook::Open => (listed, format!("may run again: {DEPENDS}")),
        Outlook::Known(TrainingState::UpToDate { changed, .. }) => {
            (0, format!("up to date; {:.1} % of its rows changed since", 100.0 * changed.share()))
        }
        Outlook::UpToDate { at_most } => (0, format!("up to date; up to {:.1} % of its rows change", 100.0 * at_most)),
    };
    if rows > 0 {
        changes.models.insert(training.name(), !matches!(outlook, Outlook::Open));
    }
    Ok(PlanLine { rows, exact: false, note, training: Some(outlook), ..empty_line(training.name()) })
}

#[cfg(test)]
mod tests {
    use manifests::ShardPlan;

    use super::*;

    #[test]
    fn only_what_depends_on_nothing_that_changes_is_exact() {
        let stale = |shard, kept, changes: &[(Reason, u64)]| ShardPlan {
            shard,
            kept,
            carried: 0,
            changes: changes.iter().copied().collect(),
        };
        let both =
            vec![stale(0, 3, &[(Reason::InputChanged, 2), (Reason::Deleted, 1)]), stale(1, 0, &[(Reason::Deleted, 5)])];
        let counts = PlanCounts { stale: both, kept_rows: 4 };
        let none = BTreeSet::new();
        let (line, changes) = line_of("x", &counts, &none, &[None, None, None], &[5, 0, 4]);
        assert_eq!((line.rows, line.exact, line.kept, &*line.note), (2, true, 7, ""));
        assert_eq!(line.reasons[&Reason::Deleted], 6);
        assert_eq!(changes, BTreeMap::from([(0, 3), (1, 5)]));
        // the rows of shard 1 are gone because those that they are made of are: they come back
        let (line, changes) = line_of("x", &counts, &none, &[None, Some(5), None], &[5, 5, 4]);
        assert_eq!((line.rows, line.exact, line.kept, &*line.note), (7, false, 0, DEPENDS));
        assert_eq!(line.reasons, BTreeMap::from([(Reason::InputChanged, 2), (Reason::Deleted, 1)]));
        assert_eq!(changes, BTreeMap::from([(0, 3), (1, 5)]));
        let same_words = PlanCounts { stale: vec![ShardPlan { carried: 3, ..stale(0, 2, &[]) }], kept_rows: 4 };
        let (line, changes) = line_of("x", &same_words, &none, &[None, None], &[5, 4]);
        assert_eq!((line.rows, line.exact, line.kept, line.carried), (0, true, 6, 3));
        assert!(changes.is_empty(), "nothing below is touched");
        let (line, _) = line_of("x", &counts, &none, &[Some(9), Some(9), Some(0)], &[5, 5, 4]);
        assert_eq!((line.rows, line.reasons.len()), (10, 0), "never more than there are");
        // what waits for publishing is not computed again, and what is made of it changes all the same
        let (line, changes) = line_of("x", &counts, &BTreeSet::from([0]), &[None, None, None], &[5, 0, 4]);
        assert_eq!((line.rows, line.kept), (0, 7));
        assert_eq!(
            line.finished.unwrap().in_words(),
            "1 of 2 shards is finished and waits for publishing (2 rows made)"
        );
        assert_eq!(changes, BTreeMap::from([(0, 3), (1, 5)]));
        let (line, _) = line_of("x", &counts, &BTreeSet::from([0, 1]), &[Some(2), None, None], &[5, 0, 4]);
        assert_eq!((line.finished.unwrap().shards, line.rows), (1, 4), "its inputs change: it is made again");
    }
}
