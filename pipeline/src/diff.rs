//! `urbancross diff`: what of a build is another than it was at a moment, and why.

use chrono::{DateTime, NaiveDate, NaiveDateTime, TimeDelta};
use manifests::plan::PinnedTable;
use manifests::words::count;
use manifests::{Artifact, paths};
use serde::Serialize;
use stages::Step;
use stages::evaluate::Evaluation;
use workers::WorkerError;
use workers::accept::{Acceptance, acceptances};
use workers::changes::{self, TableChanges};

use crate::build::Build;
use crate::clock;

/// What has become of one table.
#[derive(Debug, Serialize)]
pub struct TableDiff {
    /// The stage that writes it; of what people write the table.
    pub step: &'static str,
    /// Which table it is.
    #[serde(skip)]
    pub(crate) artifact: Artifact,
    /// Its version then; `None`: it was not there.
    pub before: Option<u64>,
    /// Its version now; `None`: it is not there.
    pub after: Option<u64>,
    /// What lies between them.
    pub changes: TableChanges,
    /// What people accepted of it meanwhile, the newest first.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub accepted: Vec<Acceptance>,
}

/// The recall of a build then and now, in percent.
#[derive(Debug, Serialize)]
pub struct RecallDiff {
    /// The newest figure of that time; `None`: there was none.
    pub before: Option<f64>,
    /// The figure at the newest tables; `None`: they have not been evaluated.
    pub after: Option<f64>,
}

/// All that is another than it was.
#[derive(Debug, Serialize)]
pub struct Diff {
    /// The moment, in words.
    pub since: String,
    /// Tables in the order of their stages.
    pub tables: Vec<TableDiff>,
    /// Mean recall of the test split, exact pairs, ties lost.
    pub recall: RecallDiff,
}

/// A moment to compare with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Since {
    /// Milliseconds since 1970.
    Time(i64),
    /// While a table was at a version.
    Version(Artifact, u64),
}

impl Since {
    /// Reads `2026-11-27`, `2026-11-27T10:30` (UTC), `90m`, `2h`, `3d` ago, or `captions@12`.
    ///
    /// # Errors
    /// A message with the forms that are known.
    pub fn parse(text: &str, now_millis: i64) -> Result<Self, String> {
        let known = "give a time (2026-11-27, 2026-11-27T10:30 in UTC), how long ago (90m, 2h, 3d), or a version of a table \
                     (captions@12)";
        if let Some((table, version)) = text.split_once('@') {
            let Some(artifact) = Artifact::TABLES.into_iter().find(|artifact| artifact.name() == table) else {
                let names: Vec<&str> = Artifact::TABLES.iter().map(|artifact| artifact.name()).collect();
                return Err(format!("there is no table {table:?}; tables are {}", names.join(", ")));
            };
            let version = version.parse().map_err(|_| format!("{version:?} is no version; {known}"))?;
            return Ok(Self::Version(artifact, version));
        }
        let ago = |unit: char, seconds: i64| {
            let number: i64 = text.strip_suffix(unit)?.parse().ok()?;
            let delta = TimeDelta::try_seconds(number.checked_mul(seconds)?)?;
            now_millis.checked_sub(delta.num_milliseconds())
        };
        let ago = ago('m', 60).or_else(|| ago('h', 3600)).or_else(|| ago('d', 86_400));
        let day = || NaiveDate::parse_from_str(text, "%Y-%m-%d").ok()?.and_hms_opt(0, 0, 0);
        let minute = |form| NaiveDateTime::parse_from_str(text, form).ok();
        let naive = || day().or_else(|| minute("%Y-%m-%dT%H:%M")).or_else(|| minute("%Y-%m-%d %H:%M"));
        let exact = || DateTime::parse_from_rfc3339(text).ok().map(|time| time.timestamp_millis());
        let time = ago.or_else(|| naive().map(|time| time.and_utc().timestamp_millis())).or_else(exact);
        match time {
            Some(time) if time > now_millis => Err(format!("{text:?} lies ahead; {known}")),
            Some(time) => Ok(Self::Time(time)),
            None => Err(format!("{text:?}: {known}")),
        }
    }
}

/// What has become of all tables since a moment; of each at most so many changed rows are shown.
///
/// # Errors
/// [`WorkerError::Configuration`] for a version that never was, and where old parts are gone, as after `gc`; a store that does
/// not answer.
pub async fn diff(build: &Build, since: &Since, examples: usize) -> Result<Diff, WorkerError> {
    diff_until(build, since, None, examples).await
}

/// The same, with what the tables were at a later moment, in milliseconds since 1970, in place of what they are.
///
/// # Errors
/// As [`diff`].
pub(crate) async fn diff_until(
    build: &Build,
    since: &Since,
    end: Option<i64>,
    examples: usize,
) -> Result<Diff, WorkerError> {
    let (began, until) = moments(build, since).await?;
    let mut millis = began;
    let mut tables = Vec::new();
    for (step, output) in tables_in_order(build) {
        let after = match end {
            None => build.pin(output).await?,
            Some(end) => pinned(build, output, version_at(build, output, end).await?).await?,
        };
        let version = match since {
            Since::Version(artifact, version) if *artifact == output => {
                // the tables that follow may have been made of it
                millis = until;
                Some(*version)
            }
            _ => version_at(build, output, millis).await?,
        };
        let before = pinned(build, output, version).await?;
        // what people write is not there before they do
        if output.is_sparse() && before.parts.is_empty() && after.parts.is_empty() {
            continue;
        }
        still_there(build, step, &before, &after).await?;
        // of a table that was not there everything is new: nothing says more than its number
        let shown = if before.version.is_some() || output.is_sparse() { examples } else { 0 };
        let country = build.spec.country.as_str();
        let mut accepted = acceptances(&build.work, country, step).await?;
        let is_between = |millis| millis > began && end.is_none_or(|end| millis <= end);
        accepted.retain(|accepted| i64::try_from(accepted.by.millis).is_ok_and(is_between));
        let of_accepted = ((country, step), accepted.as_slice());
        let changes = changes::between(&build.work, output, (&before, &after), of_accepted, shown).await;
        tables.push(TableDiff {
            step,
            artifact: output,
            before: before.version,
            after: after.version,
            changes: changes?,
            accepted,
        });
    }
    let recall = RecallDiff {
        before: evaluated_at(build, until).await?.map(|evaluation| evaluation.mean_recall()),
        after: match end {
            None => crate::evaluate::stored(build).await?,
            Some(end) => evaluated_at(build, end).await?,
        }
        .map(|evaluation| evaluation.mean_recall()),
    };
    Ok(Diff { since: clock::at((began / 1000).max(0) as u64), tables, recall })
}

/// A table at a version; `None`: nothing is live yet.
pub(crate) async fn pinned(
    build: &Build,
    artifact: Artifact,
    version: Option<u64>,
) -> Result<PinnedTable, WorkerError> {
    match version {
        None => Ok(PinnedTable::empty(artifact)),
        version => build.tables.pin(artifact, &build.spec.country, version).await,
    }
}

/// The tables of a build with the steps that write them; what people write comes before the step that reads it.
fn tables_in_order(build: &Build) -> Vec<(&'static str, Artifact)> {
    let mut tables = Vec::new();
    for step in stages::steps(&build.spec) {
        let Step::Map(stage) = step else { continue };
        let sparse = stage.inputs.iter().map(|input| input.artifact).filter(|artifact| artifact.is_sparse());
        tables.extend(sparse.map(|artifact| (artifact.name(), artifact)));
        tables.push((stage.name, stage.output));
    }
    tables
}

/// Whether all files of an old version that have to be read are there.
async fn still_there(build: &Build, step: &str, before: &PinnedTable, after: &PinnedTable) -> Result<(), WorkerError> {
    let mut replaced = before.clone();
    replaced.parts.retain(|part| after.part(part.shard) != Some(part));
    let lost = workers::parts::lost(&build.work, &replaced, &build.spec.country).await?;
    match lost.is_empty() {
        true => Ok(()),
        false => Err(WorkerError::Configuration(format!(
            "{step}: its version {} lacks {}, cleared away as by `urbancross gc`; ask for a later moment",
            before.version.unwrap_or_default(),
            count(lost.len(), "part")
        ))),
    }
}

/// The first and the last moment that are meant. Of a version of a table: when it was written, from tables that were there by then,
/// and when the next one was, until which other tables were made from it.
async fn moments(build: &Build, since: &Since) -> Result<(i64, i64), WorkerError> {
    let (artifact, version) = match since {
        Since::Time(millis) => return Ok((*millis, *millis)),
        Since::Version(artifact, version) => (*artifact, *version),
    };
    let written = build.tables.written(artifact).await?;
    let Some(at) = written.iter().position(|(known, _)| *known == version) else {
        let range = match (written.first(), written.last()) {
            (Some((first, _)), Some((last, _))) => format!("its log has versions {first} to {last}"),
            _ => "there is no such table yet".to_owned(),
        };
        let name = artifact.name();
        return Err(WorkerError::Configuration(format!("table {name} has no version {version} in its log: {range}")));
    };
    let next = written.get(at + 1).map_or(i64::MAX, |(_, millis)| millis - 1);
    Ok((written[at].1, next.max(written[at].1)))
}

/// The newest version that was there at a moment.
async fn version_at(build: &Build, artifact: Artifact, millis: i64) -> Result<Option<u64>, WorkerError> {
    let written = build.tables.written(artifact).await?;
    Ok(written.into_iter().filter(|(_, at)| *at <= millis).map(|(version, _)| version).max())
}

/// The newest figures that were there at a moment.
async fn evaluated_at(build: &Build, millis: i64) -> Result<Option<Evaluation>, WorkerError> {
    let folder = paths::evaluation(&build.spec.country, "");
    let folder = folder.rsplit_once('/').map_or("", |(folder, _)| folder);
    let mut newest: Option<(i64, String)> = None;
    for name in build.work.list(folder).await? {
        let path = format!("{folder}/{}", name.rsplit('/').next().unwrap_or_default());
        let Some(meta) = build.work.head(&path).await? else { continue };
        let at = meta.last_modified.timestamp_millis();
        if at <= millis && newest.as_ref().is_none_or(|(newest, _)| at > *newest) {
            newest = Some((at, path));
        }
    }
    match newest {
        None => Ok(None),
        Some((_, path)) => build.work.get_sealed(&path).await,
    }
}

impl Diff {
    /// For people, a line each.
    pub fn in_words(&self) -> Vec<String> {
        let mut lines = vec![
            format!("since {}", self.since),
            format!(
                "{:21} {:>11} {:>8} {:>8} {:>8} {:>8} {:>8}  why",
                "step", "versions", "added", "removed", "changed", "remade", "kept"
            ),
        ];
        for TableDiff { step, before, after, changes, .. } in &self.tables {
            let version = |version: &Option<u64>| version.map_or("none".to_owned(), |version| version.to_string());
            let versions = match before == after {
                true => version(after),
                false => format!("{} → {}", version(before), version(after)),
            };
            let TableChanges { added, removed, changed, remade, kept, causes, .. } = changes;
            let mut causes: Vec<String> = causes.iter().map(|(cause, rows)| format!("{rows} {cause}")).collect();
            if changes.carried > 0 {
                causes.push(format!("{} kept: same words", changes.carried));
            }
            if changes.accepted > 0 {
                causes.push(format!("{} accepted", changes.accepted));
            }
            let line = format!(
                "{step:21} {versions:>11} {added:>8} {removed:>8} {changed:>8} {remade:>8} {kept:>8}  {}",
                causes.join(", ")
            );
            lines.push(line.trim_end().to_owned());
        }
        for TableDiff { step, accepted, .. } in &self.tables {
            lines.extend(accepted.iter().map(|one| format!("{step}: {}", crate::explain::accepted(one))));
        }
        for TableDiff { step, changes, .. } in &self.tables {
            if changes.examples.is_empty() {
                continue;
            }
            let others = changes.added + changes.removed + changes.changed - changes.examples.len() as u64;
            let more = if others > 0 { format!(", and {} more", count(others, "row")) } else { String::new() };
            lines.push(format!("{step}{more}:"));
            for row in &changes.examples {
                let said = |text: &Option<String>| text.as_deref().map_or("(nothing)".to_owned(), brief);
                lines.push(format!("  {}", row.image_id));
                lines.push(format!("    was  {}", said(&row.before)));
                lines.push(format!("    is   {}", said(&row.after)));
            }
        }
        let percent = |recall: Option<f64>| recall.map_or("none".to_owned(), |recall| format!("{recall:.2} %"));
        let RecallDiff { before, after } = self.recall;
        let moved = match (before, after) {
            (Some(before), Some(after)) => format!(" ({:+.2} points)", after - before),
            (_, None) => " (its newest tables have not been evaluated: `urbancross run`)".to_owned(),
            _ => String::new(),
        };
        lines.push(format!("mean recall of the test split: {} → {}{moved}", percent(before), percent(after)));
        lines
    }
}

/// Characters of a value that is shown in a line.
const SHOWN_CHARACTERS: usize = 200;

fn brief(text: &str) -> String {
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    match line.char_indices().nth(SHOWN_CHARACTERS) {
        None => line,
        Some((end, _)) => format!("{}…", &line[..end]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_read() {
        let now = 1_000_000_000_000;
        let time = |text: &str| match Since::parse(text, now) {
            Ok(Since::Time(millis)) => millis,
            other => panic!("{text}: {other:?}"),
        };
        assert_eq!(time("90m"), now - 90 * 60_000);
        assert_eq!(time("2h"), now - 2 * 3_600_000);
        assert_eq!(time("3d"), now - 3 * 86_400_000);
        assert_eq!(time("1970-01-02"), 86_400_000);
        assert_eq!(time("1970-01-01T01:30"), 90 * 60_000);
        assert_eq!(time("1970-01-01 01:30"), 90 * 60_000);
        assert_eq!(time("1970-01-01T02:00:00+01:00"), 3_600_000);
        assert_eq!(Since::parse("captions@12", now), Ok(Since::Version(Artifact::Captions, 12)));
        for wrong in [
            "",
            "yesterday",
            "-",
            "h",
            "99999999999999999999d",
            "9223372036854775807d",
            "captions@",
            "captions@-1",
            "2030-01-01",
            "ä",
        ] {
            assert!(Since::parse(wrong, now).is_err(), "{wrong}");
        }
        assert!(Since::parse("nothing@1", now).unwrap_err().contains("geotags"));
    }

    #[test]
    fn long_values_are_cut_between_characters() {
        assert_eq!(brief("a  b\nc"), "a b c");
        let cut = brief(&"ä".repeat(500));
        assert_eq!(cut.chars().count(), SHOWN_CHARACTERS + 1);
    }
}
