//! Garbage collection: parts that are not live, hints, checkpoints and log entries of the past.
//!
//! Safe beside running builds. First a horizon is committed to each table: from then on no commit brings in a part that
//! was written before it. Only then files are listed, and after them the log is read: what is live, or was taken out
//! lately, or a training has pinned, stays.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use futures::{StreamExt, TryStreamExt};
use manifests::plan::PinnedTable;
use manifests::{Artifact, paths};
use object_store::ObjectMeta;
use serde::{Deserialize, Serialize};
use stages::Training;

use crate::adapt;
use crate::error::WorkerError;
use crate::lease;
use crate::parts::written_millis;
use crate::stores::WorkStore;
use crate::tables::Tables;
use crate::tag_refreshes;
use crate::train;
use crate::train::claim::Claim;
use crate::upkeep::under_way::{UnderWay, under_way};

/// A training or an adaptation that this machine cannot see runs no longer than this.
const LONGEST_TRAINING: Duration = Duration::from_secs(30 * 86_400);

/// Entries of a table's log stay so much longer than all else: they are of all countries, of which each keeps what it likes.
const LOG_LONGER: Duration = Duration::from_secs(30 * 86_400);

/// Requests that are on their way at once.
const AT_ONCE: usize = 64;

/// Times of objects are in whole seconds on some stores, and a file system's clock ticks.
const TICK_MILLIS: i64 = 1000;

/// Files of a finished run that stay: the first two for ever, the others while its result is needed.
const WITH_RESULT: &[&str] = &["done.json", "rows.parquet", "result/", "curve.", "left_out.json"];

/// What is cleared away.
#[derive(Debug, Clone, Copy)]
pub struct Retention {
    /// Nothing younger goes.
    pub keep: Duration,
    /// Otherwise it is only counted.
    pub delete: bool,
}

/// Objects of one kind that are or would be deleted.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Cleared {
    /// How many.
    pub objects: u64,
    /// Their lengths together.
    pub bytes: u64,
}

/// By kind.
pub type Clearance = BTreeMap<&'static str, Cleared>;

struct Sweep<'a> {
    work: &'a WorkStore,
    delete: bool,
    /// By the store's clock.
    now_millis: i64,
    horizon_millis: u64,
    clearance: Clearance,
    /// What is to be deleted next.
    doomed: Vec<String>,
}

impl Sweep<'_> {
    fn is_old(&self, meta: &ObjectMeta) -> bool {
        self.is_older(meta, Duration::ZERO)
    }

    /// Older than what is kept by so much more?
    fn is_older(&self, meta: &ObjectMeta, more: Duration) -> bool {
        let horizon_millis = self.horizon_millis.saturating_sub(more.as_millis() as u64);
        u64::try_from(meta.last_modified.timestamp_millis()).is_ok_and(|millis| millis < horizon_millis)
    }

    fn take(&mut self, kind: &'static str, path: String, bytes: u64) {
        let cleared = self.clearance.entry(kind).or_default();
        cleared.objects += 1;
        cleared.bytes += bytes;
        if self.delete {
            self.doomed.push(path);
        }
    }

    /// Deletes what was taken until now.
    async fn flush(&mut self) -> Result<(), WorkerError> {
        let (work, doomed) = (self.work, std::mem::take(&mut self.doomed));
        let doomed = futures::stream::iter(doomed.into_iter().map(Ok::<_, WorkerError>));
        doomed.try_for_each_concurrent(AT_ONCE, |path: String| async move { work.delete(&path).await }).await
    }
}

/// Clears away what a country's builds no longer need, or counts it.
///
/// # Errors
/// The store's; what was deleted until then was not needed.
pub async fn gc(
    work: &WorkStore,
    tables: &Tables,
    country: &str,
    retention: Retention,
) -> Result<Clearance, WorkerError> {
    let own_millis = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis() as i64;
    // by a clock ahead of the store's the horizon would be beyond what others write; who only looks writes nothing
    let now_millis = match retention.delete {
        true => own_millis.min(work.now_millis().await?.saturating_add(TICK_MILLIS)),
        false => own_millis,
    };
    let horizon_millis = (now_millis.max(0) as u64).saturating_sub(retention.keep.as_millis() as u64);
    let (delete, clearance, doomed) = (retention.delete, Clearance::new(), Vec::new());
    let mut sweep = Sweep { work, delete, now_millis, horizon_millis, clearance, doomed };
    let at_first = under_way(work, tables, country, (horizon_millis, now_millis)).await?;
    for artifact in Artifact::TABLES {
        // a stage may take longer than anything is kept, and is published as a whole
        if at_first.stages.values().any(|table| *table == Some(artifact)) {
            continue;
        }
        if tables.live_files(artifact, country).await?.is_none() {
            continue;
        }
        if sweep.delete {
            tables.raise_horizon(artifact, country, horizon_millis).await?;
        }
        clear_parts(&mut sweep, tables, &at_first, artifact, country).await?;
        clear_log(&mut sweep, artifact).await?;
        sweep.flush().await?;
    }
    // what began meanwhile is no less under way
    let under_way = under_way(work, tables, country, (horizon_millis, now_millis)).await?;
    let slices = |artifact| format!("{}/{}", paths::table(artifact), paths::partition(country));
    for (kind, folder) in [
        ("markers", format!("markers/{country}")),
        ("plans", format!("plans/{country}")),
        ("slices", slices(Artifact::Listing)),
        ("slices", slices(Artifact::Assignment)),
    ] {
        if kind == "slices" && !under_way.stages.is_empty() {
            continue;
        }
        for (name, meta) in work.list_metas(&folder).await? {
            let stage = name.split('/').next().unwrap_or_default();
            if sweep.is_old(&meta) && (kind == "slices" || !under_way.stages.contains_key(stage)) {
                sweep.take(kind, format!("{folder}/{name}"), meta.size);
            }
        }
        sweep.flush().await?;
    }
    clear_vectors(&mut sweep, tables, country).await?;
    clear_tag_states(&mut sweep, tables, country).await?;
    clear_runs(&mut sweep, country).await?;
    sweep.flush().await?;
    clear_trainings(&mut sweep, country).await?;
    clear_adaptations(&mut sweep, country).await?;
    Ok(sweep.clearance)
}

/// Vectors that searches kept of parts of `images` that are no longer live.
async fn clear_vectors(sweep: &mut Sweep<'_>, tables: &Tables, country: &str) -> Result<(), WorkerError> {
    let folder = paths::all_kept_vectors(country);
    let files = sweep.work.list_metas(&folder).await?;
    if files.is_empty() {
        return Ok(());
    }
    let live = tables.live_files(Artifact::Images, country).await?.unwrap_or_default();
    let live: BTreeSet<&str> = live.parts.iter().filter_map(|part| part.path.rsplit('/').next()).collect();
    for (name, meta) in files {
        let part = paths::part_of_vectors(name.rsplit('/').next().unwrap_or_default());
        if sweep.is_old(&meta) && part.is_none_or(|part| !live.contains(part.as_str())) {
            sweep.take("vectors", format!("{folder}/{name}"), meta.size);
        }
    }
    Ok(())
}

/// What earlier refreshes of tags knew of the planet. What is listed first and is in use afterwards is found in use.
async fn clear_tag_states(sweep: &mut Sweep<'_>, tables: &Tables, country: &str) -> Result<(), WorkerError> {
    let folder = paths::tag_states(country);
    let objects = sweep.work.list_metas(&folder).await?;
    if objects.is_empty() {
        return Ok(());
    }
    let live = tag_refreshes::live_objects(sweep.work, tables, country).await?;
    for (name, meta) in objects {
        let path = format!("{folder}/{name}");
        if sweep.is_old(&meta) && !live.contains(&path) {
            sweep.take("tag states", path, meta.size);
        }
    }
    Ok(())
}

/// Records of runs by engines of which nothing was written lately; those of adaptations to the country too.
async fn clear_runs(sweep: &mut Sweep<'_>, country: &str) -> Result<(), WorkerError> {
    let of_country = paths::runs(country);
    let folder = of_country.rsplit_once('/').map_or("", |(folder, _)| folder);
    let to = format!("_to_{country}");
    let mut runs: BTreeMap<(String, String), Vec<(String, ObjectMeta)>> = BTreeMap::new();
    for (name, meta) in sweep.work.list_metas(folder).await? {
        let mut parts = name.split('/').map(str::to_owned);
        let (Some(of), Some(run)) = (parts.next(), parts.next()) else { continue };
        if of == country || of.ends_with(&to) {
            runs.entry((of, run)).or_default().push((name, meta));
        }
    }
    for objects in
        runs.into_values().filter(|objects| objects.iter().all(|(_, meta)| sweep.is_old(meta))).collect::<Vec<_>>()
    {
        for (name, meta) in objects {
            sweep.take("runs", format!("{folder}/{name}"), meta.size);
        }
    }
    Ok(())
}

/// Parts that trainings of the country, or adaptations from or to it, have begun with and not finished.
async fn pinned_by_trainings(work: &WorkStore, country: &str) -> Result<BTreeSet<(Artifact, String)>, WorkerError> {
    let mut pinned = BTreeSet::new();
    let mut pin = |tables: &[PinnedTable]| {
        for table in tables {
            pinned.extend(table.parts.iter().map(|part| (table.artifact, part.path.clone())));
        }
    };
    for training in [Training::Bootstrap, Training::Pretrain] {
        for begun in train::runs(work, country, training).await?.begun {
            pin(&begun.inputs);
        }
    }
    for (_, begun) in adapt::runs(work, country).await?.begun {
        pin(&begun.inputs);
    }
    Ok(pinned)
}

async fn clear_parts(
    sweep: &mut Sweep<'_>,
    tables: &Tables,
    under_way: &UnderWay,
    artifact: Artifact,
    country: &str,
) -> Result<(), WorkerError> {
    let partition = paths::partition(country);
    let folder = format!("{}/{partition}", paths::table(artifact));
    // files first, the log afterwards: what became live in between is found live
    let files = sweep.work.list_metas(&folder).await?;
    let lately = removed_lately(sweep, artifact).await?;
    let Some(live) = tables.live_files(artifact, country).await? else { return Ok(()) };
    // last: whoever begins looks, once that is written down, whether what it pinned is still there
    let pinned = pinned_by_trainings(sweep.work, country).await?;
    let foreign = live.foreign.iter().map(|(path, _)| path.clone());
    let live: BTreeSet<String> = live.parts.iter().map(|part| part.path.clone()).chain(foreign).collect();
    for (name, meta) in files {
        let path = format!("{partition}/{name}");
        let is_old = match written_millis(&name) {
            Some(millis) => millis < sweep.horizon_millis,
            None => sweep.is_old(&meta),
        };
        let is_ours = paths::shard_of_part(&name).is_some();
        let (is_in_log, path) = (live.contains(&path) || lately.contains(&path), (artifact, path));
        if is_old && is_ours && !is_in_log && !pinned.contains(&path) && !under_way.read.contains(&path) {
            sweep.take("parts", format!("{folder}/{name}"), meta.size);
        }
    }
    Ok(())
}

/// Names of log entries with what is known of them, in order of version.
async fn entries(work: &WorkStore, artifact: Artifact) -> Result<Vec<(u64, String, ObjectMeta)>, WorkerError> {
    let log = format!("{}/_delta_log", paths::table(artifact));
    let metas = work.list_metas(&log).await?;
    let mut entries: Vec<(u64, String, ObjectMeta)> = metas
        .into_iter()
        .filter_map(|(name, meta)| Some((name.get(..20)?.parse().ok()?, format!("{log}/{name}"), meta)))
        .collect();
    entries.sort_by_key(|(version, ..)| *version);
    Ok(entries)
}

/// Paths that commits after the horizon took out: a slow reader may be reading them.
async fn removed_lately(sweep: &Sweep<'_>, artifact: Artifact) -> Result<BTreeSet<String>, WorkerError> {
    #[derive(Deserialize)]
    struct Line {
        remove: Option<Remove>,
    }
    #[derive(Deserialize)]
    struct Remove {
        path: String,
    }
    let mut removed = BTreeSet::new();
    let entries = entries(sweep.work, artifact).await?.into_iter();
    let young = entries.filter(|(_, path, meta)| !sweep.is_old(meta) && path.ends_with(".json"));
    let read = |(_, path, _): (u64, String, ObjectMeta)| async move { sweep.work.get(&path).await };
    let mut read = futures::stream::iter(young).map(read).buffer_unordered(AT_ONCE);
    while let Some(entry) = read.try_next().await? {
        let Some(entry) = entry else { continue };
        let lines = entry.split(|byte| *byte == b'\n').filter_map(|line| serde_json::from_slice::<Line>(line).ok());
        // Delta writes paths as URLs
        removed.extend(lines.filter_map(|line| line.remove).map(|r| r.path.replace("%3D", "=")));
    }
    Ok(removed)
}

/// Entries before the newest checkpoint that is old: whoever reads the table needs none of them.
async fn clear_log(sweep: &mut Sweep<'_>, artifact: Artifact) -> Result<(), WorkerError> {
    let entries = entries(sweep.work, artifact).await?;
    let is_checkpoint = |path: &str| path.ends_with(".checkpoint.parquet");
    let old = entries.iter().filter(|(_, path, meta)| is_checkpoint(path) && sweep.is_older(meta, LOG_LONGER));
    let Some(first) = old.map(|(version, ..)| *version).max() else { return Ok(()) };
    for (version, path, meta) in entries {
        if version < first {
            sweep.take("log entries", path, meta.size);
        }
    }
    Ok(())
}

/// Checkpoints of finished trainings, and everything of those that nobody went on with. What runs saw stays for ever: it
/// is what later ones are judged by.
async fn clear_trainings(sweep: &mut Sweep<'_>, country: &str) -> Result<(), WorkerError> {
    let adaptations = adapt::runs(sweep.work, country).await?.begun;
    let adapted: BTreeSet<&str> = adaptations.iter().map(|(_, begun)| begun.source_model.as_str()).collect();
    for training in [Training::Bootstrap, Training::Pretrain] {
        let runs = train::runs(sweep.work, country, training).await?;
        let mut newest: BTreeMap<&str, &str> = BTreeMap::new();
        for record in &runs.finished {
            newest.insert(&record.parameters, &record.key);
        }
        let starts: BTreeSet<&str> = runs.begun.iter().filter_map(|run| run.warm_start.as_deref()).collect();
        for record in &runs.finished {
            let needs_result = newest.values().any(|key| *key == record.key)
                || starts.contains(record.key.as_str())
                || adapted.contains(record.trained.model_digest.as_str());
            let kept = if needs_result { WITH_RESULT } else { &WITH_RESULT[..2] };
            let run = paths::training_run(country, training.name(), &record.key);
            clear_run(sweep, &run, kept, Duration::ZERO).await?;
        }
        // on a store elsewhere a lease is all that says whether one of them is being trained
        let is_elsewhere = sweep.work.local_folder().is_none();
        let perhaps_running = is_elsewhere && lease::is_held(sweep.work, country, sweep.now_millis).await?;
        // nobody holds one while ranks train that somebody else has started
        let longer = if sweep.work.local_folder().is_some() { Duration::ZERO } else { LONGEST_TRAINING };
        for run in runs.begun.iter().filter(|_| !perhaps_running) {
            clear_run(sweep, &paths::training_run(country, training.name(), &run.key), &[], longer).await?;
        }
    }
    Ok(())
}

/// Checkpoints of finished adaptations, and everything of those that nobody went on with: they would begin anew with the
/// tables as they are then.
async fn clear_adaptations(sweep: &mut Sweep<'_>, country: &str) -> Result<(), WorkerError> {
    let runs = adapt::runs(sweep.work, country).await?;
    for run in runs.finished {
        clear_run(sweep, &run, WITH_RESULT, Duration::ZERO).await?;
    }
    for (run, begun) in runs.begun {
        // the claim of a folder on this machine tells whether somebody trains there; elsewhere nothing does
        let is_seen = sweep.work.local_folder().is_some() && begun.kept_in == sweep.work.url().as_str();
        let longer = if is_seen { Duration::ZERO } else { LONGEST_TRAINING };
        clear_run(sweep, &run, &[], longer).await?;
    }
    Ok(())
}

/// Clears a run's folder but for some files, if nothing in it was written lately, nor for so much `longer`, and nobody
/// trains it.
async fn clear_run(sweep: &mut Sweep<'_>, run: &str, kept: &[&str], longer: Duration) -> Result<(), WorkerError> {
    let _claim = match sweep.work.local_folder() {
        None => None,
        Some(folder) => match Claim::at_once(&folder.join(run))? {
            None => return Ok(()),
            claim => claim,
        },
    };
    let metas = sweep.work.list_metas(run).await?;
    if metas.iter().any(|(_, meta)| !sweep.is_older(meta, longer)) {
        return Ok(());
    }
    // by what a state is known goes first, and that the run was begun last: who is stopped between leaves no half state, and
    // the next one finds the rest
    let turn = |name: &str| match name {
        train::DUE_FILE => 2,
        name if name.starts_with(train::SAVED) || name.ends_with("position.json") => 0,
        _ => 1,
    };
    // while the claim is held
    for now in 0..3 {
        for (name, meta) in metas.iter().filter(|(name, _)| turn(name) == now) {
            if !kept.iter().any(|prefix| name.starts_with(prefix)) {
                sweep.take("checkpoints", format!("{run}/{name}"), meta.size);
            }
        }
        sweep.flush().await?;
    }
    Ok(())
}
