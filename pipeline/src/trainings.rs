//! What becomes of a training: whether a finished run is up to date, an unfinished one goes on, or a new one begins, and from
//! which weights.

use std::collections::BTreeMap;
use std::sync::Arc;

use manifests::plan::PinnedTable;
use manifests::recipe::{parameter_differences, settings};
use manifests::words::count;
use manifests::{Artifact, digest, paths};
use serde::{Deserialize, Serialize};
use stages::{Training, pretrain};
use workers::WorkerError;
use workers::train::{self, ChangedShare, Leak, PendingRun, RunInputs, RunRows, Runs, TrainingRecord};

use crate::build::Build;

/// Whether a training must run.
#[derive(Debug)]
pub(crate) enum TrainingState {
    /// A finished run is up to date; `changed` says how far its rows have changed since.
    UpToDate { record: Box<TrainingRecord>, changed: ChangedShare },
    /// A run must be made, or continued.
    MustRun(Box<NextRun>),
}

/// What can be said of a training before the steps above it have run.
#[derive(Debug)]
pub(crate) enum Outlook {
    /// Nothing above it changes: what a run would decide.
    Known(TrainingState),
    /// It is up to date, whatever becomes of what changes above it: at most this share of its rows.
    UpToDate { at_most: f64 },
    /// It runs, and why.
    MustRun(String),
    /// What the steps above make decides.
    Open,
}

/// A run that must be made or continued, with the rows that it reads.
#[derive(Debug)]
pub(crate) struct NextRun {
    pub run: PendingRun,
    pub rows: RunRows,
}

/// A build's inputs of a training, as they are pinned.
struct Inputs<'b> {
    build: &'b Build,
    training: Training,
    parameters: String,
    tables: Vec<PinnedTable>,
    geotags: PinnedTable,
    /// Read when first asked for.
    rows: Option<RunRows>,
}

/// Bump when the same rows would be judged differently.
const JUDGED: u32 = 2;

/// How far a run's rows are from those of now.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Distance {
    changed: ChangedShare,
    leak: Option<Leak>,
}

impl<'b> Inputs<'b> {
    async fn pin(build: &'b Build, training: Training) -> Result<Inputs<'b>, WorkerError> {
        let parameters = digest::canonical_json(&pretrain::parameters(&build.spec, training, &build.weights));
        let mut tables = Vec::new();
        for artifact in train::training_inputs(&build.spec, training) {
            tables.push(build.pin(artifact).await?);
        }
        let geotags = build.pin(Artifact::Geotags).await?;
        Ok(Inputs { build, training, parameters, tables, geotags, rows: None })
    }

    async fn rows(&mut self) -> Result<&RunRows, WorkerError> {
        if self.rows.is_none() {
            let inputs = RunInputs {
                work: &self.build.work,
                source: self.build.source.url().as_str(),
                tables: &self.tables,
                geotags: &self.geotags,
                assignment: None,
            };
            self.rows = Some(RunRows::read(inputs).await?);
        }
        Ok(self.rows.get_or_insert_default())
    }

    fn reads_what(&self, record: &TrainingRecord) -> bool {
        let digests = |tables: &[PinnedTable]| tables.iter().map(PinnedTable::digest).collect::<Vec<_>>();
        digests(&record.inputs) == digests(&self.tables)
    }

    /// Has a run the settings of the spec?
    fn has_settings(&self, record: &TrainingRecord) -> bool {
        record.parameters == self.parameters && record.stage_version == pretrain::VERSION
    }

    /// The run that speaks for the tables as they are: one that read exactly these, or else the newest.
    fn current(&self, runs: &Runs) -> Option<TrainingRecord> {
        let newest = || runs.finished.iter().rev().filter(|record| self.has_settings(record));
        let found = newest().find(|r| self.reads_what(r)).or_else(|| newest().next());
        found.map(|record| TrainingRecord::clone(record))
    }

    /// The field of weights that are not at hand, if nothing else tells whether a run has the settings of the spec: their digest
    /// is among these.
    fn only_lacks(&self, record: &TrainingRecord) -> Option<&'static str> {
        let (then, now) = (settings(&record.parameters), settings(&self.parameters));
        let differs = |name: &str| then.get(name) != now.get(name);
        let used = self.build.spec.weights().into_iter().map(|used| used.field);
        let is_away = |field: &&str| self.build.weights.digest(field).is_empty();
        // a run that began with none had other settings, whatever these weights are
        let began_with_some = |field: &&str| then.get(*field).is_some_and(|text| is_digest(text.trim_matches('"')));
        let away: Vec<_> = used.filter(is_away).filter(began_with_some).filter(|field| differs(field)).collect();
        // what a network is like is read from its weights, too
        let is_theirs = |name: &str| away.contains(&name) || name.starts_with("model.network");
        let known = then.keys().chain(now.keys()).any(|name| differs(name) && !is_theirs(name));
        away.first().copied().filter(|_| !known && record.stage_version == pretrain::VERSION)
    }

    /// The field of weights without which it cannot be told whether a finished run has the settings of the spec; `None`: it can.
    fn lacks(&self, runs: &Runs) -> Option<&'static str> {
        let is_known = runs.finished.iter().any(|record| self.has_settings(record));
        runs.finished.iter().rev().filter(|_| !is_known).find_map(|record| self.only_lacks(record))
    }

    /// How far the rows of a run are from those of now; `None`: it did not record them. What was found is kept, so that
    /// the same question reads no table.
    async fn distance(&mut self, key: &str) -> Result<Option<Distance>, WorkerError> {
        let (build, training) = (self.build, self.training);
        let tables: Vec<_> = self.tables.iter().map(PinnedTable::digest).collect();
        let now = digest::of_value(&(JUDGED, tables, self.geotags.digest()));
        let run = paths::training_run(&build.spec.country, training.name(), key);
        let path = format!("{run}/distances/{now}.json");
        if let Some(distance) = build.work.get_sealed(&path).await? {
            return Ok(Some(distance));
        }
        let rows = self.rows().await?;
        let Some(then) = train::rows_of_run(&build.work, &build.spec.country, training, key, rows).await? else {
            return Ok(None);
        };
        let distance = Distance { changed: then.changed(rows), leak: then.leak(rows) };
        build.work.put_sealed(&path, &distance).await?;
        Ok(Some(distance))
    }

    /// The run that would begin now.
    fn fresh(&self, sequence: u64, warm_start: Option<String>, begins: String) -> PendingRun {
        PendingRun {
            key: train::run_key(self.training, &self.parameters, &self.tables, warm_start.as_deref()),
            stage_version: pretrain::VERSION,
            parameters: self.parameters.clone(),
            inputs: self.tables.clone(),
            warm_start,
            sequence,
            source: self.build.source.url().to_string(),
            begins,
        }
    }
}

fn is_digest(text: &str) -> bool {
    text.len() == 32 && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// The finished run whose model is the build's.
/// # Errors
/// A store that does not answer or lets nobody in.
pub async fn current_record(build: &Build, training: Training) -> Result<Option<TrainingRecord>, WorkerError> {
    let inputs = Inputs::pin(build, training).await?;
    Ok(inputs.current(&train::runs(&build.work, &build.spec.country, training).await?))
}

/// Why a build has no model to use, and what to do.
///
/// # Errors
/// A store that does not answer.
pub(crate) async fn no_model(build: &Build) -> Result<WorkerError, WorkerError> {
    let country = &build.spec.country;
    let BySettings { lacks, others, .. } = trainings_by_settings(build, Training::Pretrain).await?;
    Ok(WorkerError::Configuration(if let Some(field) = lacks {
        format!(
            "{country} has a trained model, but {}: bring the weights to where the spec says, or name another place (`--set \
             {field}=…`)",
            unknown_in_words(field)
        )
    } else if others.is_empty() {
        format!("{country} has no trained model yet: run its build first (`urbancross run` with its spec)")
    } else {
        format!(
            "{country} has a trained model, but its spec has other settings now: run its build again, or give the settings \
             that it was trained with (`--set`)"
        )
    }))
}

/// That `what` a build has, such as its vectors, is not by its model of now, in words; `None`: it is.
///
/// # Errors
/// A store that does not answer or lets nobody in.
pub(crate) async fn by_another_model(build: &Build, what: &str, digest: &str) -> Result<Option<String>, WorkerError> {
    let BySettings { current, lacks, .. } = trainings_by_settings(build, Training::Pretrain).await?;
    if let Some(field) = lacks {
        let unknown = unknown_in_words(field);
        return Ok(Some(format!("{what} of {} are by the model {digest:.12}, and {unknown}", build.spec.country)));
    }
    let now = current.as_ref().map(|record| record.trained.model_digest.as_str());
    Ok(other_model_in_words(&format!("{what} of {}", build.spec.country), digest, now))
}

fn other_model_in_words(what: &str, digest: &str, now: Option<&str>) -> Option<String> {
    let now = match now {
        Some(now) if now == digest => return None,
        Some(now) => format!("its model is {now:.12} by now"),
        None => "no finished training has the settings of its spec".to_owned(),
    };
    Some(format!(
        "{what} are by the model {digest:.12}, and {now}: run its build to its end (`urbancross run` with its spec), \
         which makes them again"
    ))
}

/// Held-out images that a model had learnt from, with how each was recognised.
pub(crate) type Learnt = BTreeMap<String, &'static str>;

/// Images that are validation or test now, and that a finished run of the build, or one that it descends from, was trained on.
/// A run that read the tables as they are was not: it would not have begun.
///
/// # Errors
/// Tables that cannot be read; a store that does not answer.
pub(crate) async fn learnt_and_held_out(build: &Build, record: &TrainingRecord) -> Result<Learnt, WorkerError> {
    let mut inputs = Inputs::pin(build, Training::Pretrain).await?;
    if inputs.reads_what(record) {
        return Ok(Learnt::new());
    }
    match inputs.distance(&record.key).await? {
        Some(Distance { leak: Some(_), .. }) => {}
        _ => return Ok(Learnt::new()),
    }
    let rows = inputs.rows().await?;
    let then = train::rows_of_run(&build.work, &build.spec.country, Training::Pretrain, &record.key, rows).await?;
    Ok(then.map(|then| then.leaked(rows)).unwrap_or_default())
}

/// Finished runs of a training by whose settings they have.
pub(crate) struct BySettings {
    /// The run whose model is the build's.
    pub current: Option<TrainingRecord>,
    /// The field that names weights which are not at hand, where only they tell whether one of the others is it.
    pub lacks: Option<&'static str>,
    /// Those with other settings than the spec's, as far as these are known.
    pub others: Vec<Arc<TrainingRecord>>,
}

/// That weights are not at hand by which finished runs are known again.
pub(crate) fn unknown_in_words(field: &str) -> String {
    format!("{field} is not on this machine, so it is not known whether a finished run has these settings")
}

/// The finished runs of a training.
pub(crate) async fn trainings_by_settings(build: &Build, training: Training) -> Result<BySettings, WorkerError> {
    let inputs = Inputs::pin(build, training).await?;
    let mut runs = train::runs(&build.work, &build.spec.country, training).await?;
    let (current, lacks) = (inputs.current(&runs), inputs.lacks(&runs));
    runs.finished.retain(|record| !inputs.has_settings(record));
    Ok(BySettings { current, lacks, others: runs.finished })
}

/// Whether a training must run when at most `above` rows of its tables are made again before it.
pub(crate) async fn outlook(
    build: &Build,
    training: Training,
    force: bool,
    above: u64,
) -> Result<Outlook, WorkerError> {
    if above == 0 {
        return Ok(Outlook::Known(training_state(build, training, force).await?));
    }
    let inputs = Inputs::pin(build, training).await?;
    let runs = train::runs(&build.work, &build.spec.country, training).await?;
    let is_lost = inputs.tables.iter().chain([&inputs.geotags]).any(|table| !table.lost.is_empty());
    match inputs.current(&runs) {
        Some(_) if force => return Ok(Outlook::MustRun(FORCED.to_owned())),
        None if runs.begun.is_empty() => return Ok(Outlook::MustRun(no_run(&inputs, &runs))),
        None => return Ok(Outlook::Open),
        // its rows cannot be counted
        Some(_) if is_lost => return Ok(Outlook::Open),
        Some(_) => {}
    }
    Ok(match training_state(build, training, force).await? {
        TrainingState::MustRun(_) => Outlook::Open,
        TrainingState::UpToDate { changed, .. } => {
            // a row that changed already may change again: never more than all of them
            let rows = changed.rows.max(1);
            let at_most = changed.changed.saturating_add(above).min(rows) as f64 / rows as f64;
            if at_most > build.spec.pretrain.retrain_above { Outlook::Open } else { Outlook::UpToDate { at_most } }
        }
    })
}

/// Why a training must run that no finished run stands for: what the run that is most like it has otherwise.
fn no_run(inputs: &Inputs<'_>, runs: &Runs) -> String {
    if let Some(field) = inputs.lacks(runs) {
        return unknown_in_words(field);
    }
    let others = runs.finished.iter().rev().map(|run| {
        let mut differences = parameter_differences(&run.parameters, &inputs.parameters);
        if run.stage_version != pretrain::VERSION {
            differences.push(format!("version of training: {} → {}", run.stage_version, pretrain::VERSION));
        }
        differences
    });
    no_run_in_words(&others.min_by_key(Vec::len).unwrap_or_default())
}

/// Differences that are named.
const MOST_NAMED: usize = 4;

fn no_run_in_words(differences: &[String]) -> String {
    if differences.is_empty() {
        return NO_RUN.to_owned();
    }
    let named = differences.iter().take(MOST_NAMED).map(String::as_str).collect::<Vec<_>>().join(", ");
    let more = differences.len().saturating_sub(MOST_NAMED);
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    format!("{NO_RUN}; the most alike has other ones: {named}{more}")
}

pub(crate) const NO_RUN: &str = "no finished run has these settings";
const FORCED: &str = "asked for with --retrain";

/// Decides about a training. `force` runs it again even if it is up to date.
///
/// Weights go on only where they saw nothing that is held out now: neither they nor any that they descend from.
///
/// # Errors
/// [`WorkerError::Configuration`] where `model.init` names weights that saw what is held out.
pub(crate) async fn training_state(
    build: &Build,
    training: Training,
    force: bool,
) -> Result<TrainingState, WorkerError> {
    let mut inputs = Inputs::pin(build, training).await?;
    let runs = train::runs(&build.work, &build.spec.country, training).await?;
    train::discard_unreadable(&build.work, &runs).await?;
    let (mut warm_start, mut begins) = (None, no_run(&inputs, &runs));
    if let Some(record) = inputs.current(&runs) {
        if inputs.reads_what(&record) && !force {
            let rows = inputs.tables.first().map_or(0, PinnedTable::rows);
            let changed = ChangedShare { rows, changed: 0 };
            return Ok(TrainingState::UpToDate { record: Box::new(record), changed });
        }
        let limit = build.spec.pretrain.retrain_above;
        let distance = inputs.distance(&record.key).await?;
        let why = match &distance {
            Some(distance) if !force && distance.leak.is_none() && distance.changed.share() <= limit => {
                return Ok(TrainingState::UpToDate { record: Box::new(record), changed: distance.changed });
            }
            _ if force => FORCED.to_owned(),
            Some(Distance { leak: None, changed }) => format!(
                "{:.1} % of its rows changed, more than pretrain.retrain_above = {:.1} %",
                100.0 * changed.share(),
                100.0 * limit
            ),
            _ => "the last run is no longer valid".to_owned(),
        };
        let refusal = match &distance {
            None => Some("the last run did not record which rows it saw".to_owned()),
            Some(Distance { leak: Some(leak), .. }) => Some(format!("the last weights were trained on {leak}")),
            Some(_) if record.source != build.source.url().as_str() => {
                Some(format!("the last weights were trained on another source, {}", record.source))
            }
            Some(_) => None,
        };
        begins = match refusal {
            Some(refusal) => format!("{why}; starts from scratch: {refusal}"),
            None => {
                warm_start = Some(record.key);
                format!("{why}; starts from the last weights")
            }
        };
    }
    if let Some(next) = unfinished(&mut inputs, &runs, force).await? {
        return Ok(TrainingState::MustRun(Box::new(next)));
    }
    let finished = runs.finished.iter().map(|r| r.sequence);
    let sequence = finished.chain(runs.begun.iter().map(|r| r.sequence)).max().map_or(0, |last| last + 1);
    inputs.rows().await?;
    // of a country a gigabyte: nobody asks for them again
    let mut rows = inputs.rows.take().unwrap_or_default();
    match &warm_start {
        Some(key) => {
            let seen = train::rows_of_run(&build.work, &build.spec.country, training, key, &rows).await?;
            rows.descend_from(&seen.unwrap_or_default());
        }
        None => begins = descend_from_init(build, &mut rows, begins)?,
    }
    Ok(TrainingState::MustRun(Box::new(NextRun { run: inputs.fresh(sequence, warm_start, begins), rows })))
}

/// A run that was begun on tables that have hardly changed since: it goes on with those that it pinned.
async fn unfinished(inputs: &mut Inputs<'_>, runs: &Runs, force: bool) -> Result<Option<NextRun>, WorkerError> {
    let (build, training) = (inputs.build, inputs.training);
    let parameters = inputs.parameters.clone();
    let ours = |r: &&PendingRun| r.parameters == parameters && r.stage_version == pretrain::VERSION;
    for begun in runs.begun.iter().rev().filter(ours) {
        // a run that is asked for again is one that starts from a finished one
        if force && begun.warm_start.is_none() {
            continue;
        }
        let now = inputs.rows().await?;
        let Some(rows) = train::rows_of_run(&build.work, &build.spec.country, training, &begun.key, now).await? else {
            continue;
        };
        let Some(distance) = inputs.distance(&begun.key).await? else { continue };
        let changed = distance.changed;
        let judged = distance.leak.is_none() && rows.learnt_and_held_out().is_none();
        if !judged || changed.share() > build.spec.pretrain.retrain_above {
            continue;
        }
        if changed.changed > 0 && !train::parts_are_there(&build.work, &begun.inputs, &build.spec.country).await? {
            continue;
        }
        let begins = match changed.changed {
            // told once, however often it was stopped
            0 if begun.begins.starts_with(GOES_ON) => begun.begins.clone(),
            0 => format!("{GOES_ON} ({})", begun.begins),
            n => format!("goes on with the tables that it pinned; {n} of {} changed since", count(changed.rows, "row")),
        };
        return Ok(Some(NextRun { run: PendingRun { begins, ..begun.clone() }, rows }));
    }
    Ok(None)
}

/// Why a run is that of an earlier process.
const GOES_ON: &str = "an unfinished run goes on from its last checkpoint";

/// Weights that the spec names to start from: what they saw, if they are ours, or that it is unknown.
fn descend_from_init(build: &Build, rows: &mut RunRows, begins: String) -> Result<String, WorkerError> {
    let named = &build.spec.model.init;
    if named.is_empty() {
        return Ok(begins);
    }
    match build.weights.path("model.init").and_then(|path| RunRows::of_weights(path, rows)) {
        None => Ok(format!("{begins}; from external weights ({named}), whose training data is unknown")),
        Some(seen) => match seen.leak(rows) {
            None => {
                rows.descend_from(&seen);
                Ok(format!("{begins}; from weights of ours ({named})"))
            }
            Some(leak) => Err(WorkerError::Configuration(format!(
                "model.init = {named:?}: these weights were trained on {leak}: figures would be false; start from \
                 other weights, or from none"
            ))),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_another_model_made_is_told_by_both() {
        let (older, newer) = ("a".repeat(64), "b".repeat(64));
        assert_eq!(other_model_in_words("vectors of finland", &older, Some(&older)), None);
        let said = other_model_in_words("vectors of finland", &older, Some(&newer)).unwrap();
        let wanted =
            "vectors of finland are by the model aaaaaaaaaaaa, and its model is bbbbbbbbbbbb by now: run its build";
        assert!(said.starts_with(wanted), "{said}");
        let said = other_model_in_words("figures of finland", &older, None).unwrap();
        assert!(said.contains("no finished training has the settings of its spec"), "{said}");
    }

    #[test]
    fn a_training_that_must_run_says_which_settings_are_new() {
        assert_eq!(no_run_in_words(&[]), NO_RUN);
        let differences =
            parameter_differences(r#"{"pairs":{"least":0.1},"seed":1}"#, r#"{"pairs":{"least":0.2},"seed":1}"#);
        assert_eq!(
            no_run_in_words(&differences),
            format!("{NO_RUN}; the most alike has other ones: parameter pairs.least: 0.1 → 0.2")
        );
        let many: Vec<String> = (0..6).map(|i| format!("parameter p{i}: 0 → 1")).collect();
        assert!(no_run_in_words(&many).ends_with("parameter p3: 0 → 1 and 2 more"));
    }
}
