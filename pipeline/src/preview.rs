//! What a run would do: shown by `plan` for all steps, by `explain` for one.
//!
//! What is up to date below a step that will run cannot be known before that has run: the rows that it makes may be those that
//! were there. So a shard of which an input will change has an upper bound, and only the others have reasons.

use std::collections::BTreeMap;

use manifests::{Artifact, PlanCounts, Reason};
use serde::Serialize;
use stages::stage::{ModelUse, Stage};
use stages::{Step, Training};
use workers::WorkerError;
use workers::removals::Removals;
use workers::train;

use crate::build::Build;
use crate::estimate::Estimate;
use crate::plan::{Model, counted, model_of, plan_stage, uncounted_plan};
use crate::preflight;
use crate::trainings::{Outlook, TrainingState, outlook};

/// One step of a build.
#[derive(Debug, Serialize)]
pub struct PlanLine {
    pub step: &'static str,
    /// Rows to compute; an upper bound where `exact` is false.
    pub rows: u64,
    pub exact: bool,
    pub kept: u64,
    /// Of the rows that are known to change.
    pub reasons: BTreeMap<Reason, u64>,
    pub note: String,
    /// What the step takes in a whole build, where that can be counted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub estimate: Option<Estimate>,
    /// The model of its rows is trained before, or may be.
    #[serde(skip)]
    pub model_moves: bool,
    /// What is to become of a training.
    #[serde(skip)]
    pub training: Option<Outlook>,
}

const DEPENDS: &str = "depends on the outcome of the stages above";

/// Upper bounds of the rows that steps above will change, by shard.
type ByShard = BTreeMap<u32, u64>;

/// What steps above will change.
#[derive(Default)]
struct Moving {
    tables: BTreeMap<Artifact, ByShard>,
    /// Whose model will be another, for certain or perhaps.
    models: BTreeMap<&'static str, bool>,
    /// Rows come into the geo-tags or leave them: their boxes are not known yet.
    boxes: bool,
}

impl Moving {
    fn rows(&self, artifact: Artifact) -> u64 {
        self.tables.get(&artifact).map_or(0, |shards| shards.values().sum())
    }

    /// Rows of a shard of a stage's inputs; `None`: all of them stand.
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

/// What a run would do.
pub async fn preview(build: &mut Build, retry_errors: bool, retrain: bool) -> Result<Vec<PlanLine>, WorkerError> {
    build.assign_splits().await?;
    let mut moving = Moving::default();
    let mut lines = Vec::new();
    for step in stages::steps(&build.spec) {
        lines.push(match step {
            Step::Map(stage) => map_line(build, &stage, retry_errors, &mut moving).await?,
            Step::Train(training) => training_line(build, training, retrain, &mut moving).await?,
            Step::Evaluate => {
                let moves = !moving.tables.is_empty() || !moving.models.is_empty();
                let stands = crate::evaluate::stored(build).await?.is_some();
                let note = match (moves, stands) {
                    (true, _) => "after the stages above",
                    (false, true) => "up to date",
                    (false, false) => "must run: its tables are new",
                };
                PlanLine { exact: !moves, note: note.to_owned(), ..empty_line(step.name()) }
            }
        });
    }
    Ok(lines)
}

/// Rows that leave the tables because the source no longer offers them. Where the geo-tags are settled there are none.
pub async fn removals(build: &Build) -> Result<Removals, WorkerError> {
    let geotags = stages::geotags::stage();
    let key = crate::settled::key(build, &geotags, &Model::default()).await?;
    if key.is_some_and(|key| build.settled.get(&geotags, &key).is_some()) {
        return Ok(Removals::default());
    }
    let plan = uncounted_plan(build, &geotags, &Model::default(), false).await?;
    let settled = build.settled.shards(&plan);
    Removals::find(&build.work, &build.spec, (&plan.output, &settled), &build.virtual_inputs).await
}

fn empty_line(step: &'static str) -> PlanLine {
    PlanLine {
        step,
        rows: 0,
        exact: true,
        kept: 0,
        reasons: BTreeMap::new(),
        note: String::new(),
        estimate: None,
        model_moves: false,
        training: None,
    }
}

async fn map_line(
    build: &Build,
    stage: &Stage,
    retry_errors: bool,
    moving: &mut Moving,
) -> Result<PlanLine, WorkerError> {
    let listed = &build.virtual_inputs.listing.rows_by_shard;
    let trained_by = match stage.model {
        ModelUse::Scoring => Some(Training::Bootstrap),
        ModelUse::Retrieval => Some(Training::Pretrain),
        ModelUse::None | ModelUse::Named(_) => None,
    };
    let model_moves = trained_by.and_then(|training| moving.models.get(training.name()).copied());
    let model = if model_moves.is_some() { None } else { model_of(build, stage).await? };
    let Some(model) = model else {
        moving.tables.insert(stage.output, (0..).zip(listed.iter().copied()).collect());
        let note = if model_moves == Some(false) { "its model may change" } else { "its model will change" };
        let rows = listed.iter().sum();
        let model_moves = model_moves.is_some();
        return Ok(PlanLine { rows, exact: false, note: note.to_owned(), model_moves, ..empty_line(stage.name) });
    };
    let above: Vec<Option<u64>> =
        (0..).zip(listed).map(|(shard, listed)| moving.above(stage, shard, *listed)).collect();
    let counts = counts_below(build, stage, &model, retry_errors, &above).await?;
    let (line, shards) = line_of(stage.name, &counts, &above, listed);
    if stage.output == Artifact::Geotags {
        moving.boxes = line.reasons.keys().any(|reason| *reason != Reason::InputChanged);
    }
    if !shards.is_empty() {
        moving.tables.insert(stage.output, shards);
    }
    Ok(line)
}

/// Counts a stage in all shards, but in those of which an input is lost: it is made again before it is read.
async fn counts_below(
    build: &Build,
    stage: &Stage,
    model: &Model,
    retry_errors: bool,
    above: &[Option<u64>],
) -> Result<PlanCounts, WorkerError> {
    let plan = uncounted_plan(build, stage, model, retry_errors).await?;
    if plan.inputs.iter().all(|table| table.lost.is_empty()) {
        return Ok(plan_stage(build, stage, model, retry_errors).await?.counts);
    }
    let lost: Vec<u32> = plan.inputs.iter().flat_map(|table| table.lost.iter().copied()).collect();
    let is_known = |shard: u32| above[shard as usize].is_none() || !lost.contains(&shard);
    let settled = build.settled.shards(&plan);
    Ok(counted(build, stage, plan, settled, is_known).await?.counts)
}

/// The line of a stage, and how many of its rows may change: `above` says of each shard how many rows of its inputs may.
fn line_of(step: &'static str, counts: &PlanCounts, above: &[Option<u64>], listed: &[u64]) -> (PlanLine, ByShard) {
    let mut line = PlanLine { exact: above.iter().all(Option::is_none), kept: counts.kept_rows, ..empty_line(step) };
    let mut moving: ByShard = (0..).zip(above).filter_map(|(shard, above)| Some((shard, (*above)?))).collect();
    for plan in &counts.stale {
        let of_shard = moving.entry(plan.shard).or_default();
        let changed = if above[plan.shard as usize].is_some() {
            plan.computed()
        } else {
            for (reason, rows) in &plan.changes {
                *line.reasons.entry(*reason).or_default() += rows;
            }
            line.rows += plan.computed();
            line.kept += plan.kept;
            plan.changes.values().sum()
        };
        *of_shard += changed;
    }
    for (shard, rows) in &mut moving {
        if above[*shard as usize].is_some() {
            *rows = (*rows).min(listed[*shard as usize]);
            line.rows += *rows;
        }
    }
    if !line.exact {
        (line.kept, line.note) = (0, DEPENDS.to_owned());
    }
    (line, moving)
}

async fn training_line(
    build: &Build,
    training: Training,
    retrain: bool,
    moving: &mut Moving,
) -> Result<PlanLine, WorkerError> {
    let above: u64 = train::training_inputs(&build.spec, training).iter().map(|a| moving.rows(*a)).sum();
    let outlook = outlook(build, training, retrain, above).await?;
    let listed = build.virtual_inputs.listing.rows();
    if matches!(outlook, Outlook::Known(TrainingState::Due(_)) | Outlook::Due(_)) {
        // images that come in, or whose pictures are others, are placed anew
        let is_placed = ![Artifact::Geotags, Artifact::Images].iter().any(|table| moving.tables.contains_key(table));
        let rows = if is_placed { preflight::training_rows(&build.virtual_inputs) } else { ("the source", listed) };
        preflight::batch(&build.spec, None, rows)?;
    }
    let (rows, note) = match &outlook {
        Outlook::Known(TrainingState::Due(due)) => (listed, due.run.begins.clone()),
        Outlook::Due(begins) => (listed, begins.clone()),
        Outlook::Open => (listed, format!("may run again: {DEPENDS}")),
        Outlook::Known(TrainingState::Stands { changed, .. }) => {
            (0, format!("up to date; {:.1} % of its rows changed since", 100.0 * changed.share()))
        }
        Outlook::Stands { at_most } => (0, format!("up to date; up to {:.1} % of its rows change", 100.0 * at_most)),
    };
    if rows > 0 {
        moving.models.insert(training.name(), !matches!(outlook, Outlook::Open));
    }
    Ok(PlanLine { rows, exact: false, note, training: Some(outlook), ..empty_line(training.name()) })
}

#[cfg(test)]
mod tests {
    use manifests::ShardPlan;

    use super::*;

    #[test]
    fn only_what_stands_on_what_stands_is_exact() {
        let stale = |shard, kept, changes: &[(Reason, u64)]| ShardPlan {
            shard,
            kept,
            changes: changes.iter().copied().collect(),
        };
        let stale =
            vec![stale(0, 3, &[(Reason::InputChanged, 2), (Reason::Deleted, 1)]), stale(1, 0, &[(Reason::Deleted, 5)])];
        let counts = PlanCounts { stale, kept_rows: 4 };
        let (line, moving) = line_of("x", &counts, &[None, None, None], &[5, 0, 4]);
        assert_eq!((line.rows, line.exact, line.kept, &*line.note), (2, true, 7, ""));
        assert_eq!(line.reasons[&Reason::Deleted], 6);
        assert_eq!(moving, BTreeMap::from([(0, 3), (1, 5)]));
        // the rows of shard 1 are gone because those that they are made of are: they come back
        let (line, moving) = line_of("x", &counts, &[None, Some(5), None], &[5, 5, 4]);
        assert_eq!((line.rows, line.exact, line.kept, &*line.note), (7, false, 0, DEPENDS));
        assert_eq!(line.reasons, BTreeMap::from([(Reason::InputChanged, 2), (Reason::Deleted, 1)]));
        assert_eq!(moving, BTreeMap::from([(0, 3), (1, 5)]));
        let (line, _) = line_of("x", &counts, &[Some(9), Some(9), Some(0)], &[5, 5, 4]);
        assert_eq!((line.rows, line.reasons.len()), (10, 0), "never more than there are");
    }
}
