//! `urbancross tags`.

use std::path::PathBuf;

use anyhow::Result;
use clap::{Args, Subcommand};
use manifests::words::count;
use workers::WorkerError;
use workers::tag_refreshes::{Refreshment, Until};

use super::arguments::SpecArgs;
use super::stop_flag_saying;
use crate::tags::{self, Wanted};
use crate::{aside, say};

#[derive(Debug, Subcommand)]
pub(super) enum TagsCommand {
    /// Read an extract or diffs, and write the tags that are others by now; the next run makes use of them
    Refresh(Box<RefreshArgs>),
}

#[derive(Debug, Args)]
pub(super) struct RefreshArgs {
    #[command(flatten)]
    spec: SpecArgs,
    #[arg(
        long,
        value_name = "FILE",
        required_unless_present = "diffs",
        conflicts_with = "diffs",
        help = "An extract: .osm.pbf, .osm or .osm.gz"
    )]
    osm: Option<PathBuf>,
    #[arg(
        long,
        value_name = "N",
        requires = "osm",
        help = "Number of the last diff in the extract, if it does not say it"
    )]
    sequence: Option<u64>,
    #[arg(
        long,
        value_name = "FOLDER",
        help = "A replication folder or its address: all diffs that follow the last refresh"
    )]
    diffs: Option<String>,
    #[arg(
        long,
        value_name = "TIME",
        requires = "diffs",
        value_parser = moment,
        help = "Only diffs up to this moment: 2026-11-27, 2026-11-27T10:30:00Z"
    )]
    until: Option<i64>,
    #[arg(
        long,
        value_name = "SHARE",
        value_parser = share,
        help = "Go on even if so large a share of the images gets other tags; otherwise source.osm.accept_share"
    )]
    accept_share: Option<f64>,
    #[arg(long, help = "Machine-readable output")]
    json: bool,
}

fn share(text: &str) -> Result<f64, &'static str> {
    let share = text.parse().ok().filter(|share| (0.0..=1.0).contains(share));
    share.ok_or("it must be a share between 0.0 and 1.0")
}

fn moment(text: &str) -> Result<i64, &'static str> {
    tags::moment(text).ok_or("it must be a moment such as 2026-11-27 or 2026-11-27T10:30:00Z")
}

pub(super) async fn tags(command: TagsCommand) -> Result<()> {
    let TagsCommand::Refresh(args) = command;
    let spec = args.spec.read()?;
    let stop = stop_flag_saying("diffs that are applied are written, and an extract is given up");
    let wanted = match (&args.osm, &args.diffs) {
        (Some(path), _) => Wanted::Extract(path.clone(), args.sequence),
        (None, diffs) => Wanted::Diffs(diffs.clone().unwrap_or_default(), Until(args.until)),
    };
    let said = |line: &str| aside!("{line}");
    let done = tags::refresh(&spec, wanted, args.accept_share, stop, &said).await?;
    if args.json {
        say!("{}", serde_json::to_string_pretty(&done)?);
    } else {
        for line in lines(&done) {
            say!("{line}");
        }
    }
    if done.stopped { Err(WorkerError::Stopped.into()) } else { Ok(()) }
}

/// What was done, for people.
fn lines(done: &Refreshment) -> Vec<String> {
    let mut lines = Vec::new();
    let mut changed = format!("{} of {} have other tags", done.changed, count(done.images, "image"));
    for (images, what) in [(done.gone, "left out: what they were taken for is gone"), (done.back, "back again")] {
        if images > 0 {
            changed += &format!("; {images} {what}");
        }
    }
    lines.push(changed);
    if !done.examples.is_empty() {
        lines.push(format!("  such as {}", done.examples.join(", ")));
    }
    if done.outside > 0 {
        lines.push(format!("{} outside of the extract: their tags stay", count(done.outside, "image")));
    }
    if done.unclear > 0 {
        let unclear = count(done.unclear, "image");
        lines.push(format!("{unclear} unclear from diffs alone: their tags stay until an extract is read (--osm)"));
        lines.extend(done.unclear_examples.iter().map(|why| format!("  {why}")));
    }
    let diffs = if done.diffs > 0 { format!("{} applied; ", count(done.diffs, "diff")) } else { String::new() };
    let state = match done.state_bytes {
        0 => String::new(),
        bytes => format!("; what the next diffs need has {}", count(bytes, "byte")),
    };
    lines.push(format!("{diffs}the tags show {}{state}", done.moment));
    lines.push(match (done.written, done.changed) {
        (false, _) => "nothing to write".to_owned(),
        (true, 0) => "written: at most geo-tags are looked at again, and no caption is made".to_owned(),
        (true, _) => "written: `urbancross plan` shows the rows that the next run makes again".to_owned(),
    });
    lines
}
