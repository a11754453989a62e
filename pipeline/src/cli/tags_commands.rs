//! `urbancross tags`.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use anyhow::Result;
use clap::{Args, Subcommand};
use manifests::BuildSpec;
use manifests::spec::DeviceKind;
use manifests::words::count;
use workers::WorkerError;
use workers::tag_refreshes::{Foretold, Refreshment, Until};

use super::arguments::SpecArgs;
use super::simulate_commands::{PriceArgs, RateArgs};
use super::told::print_plan;
use super::{simulate_commands, stop_flag_saying};
use crate::build::Build;
use crate::capacity;
use crate::tags::watch::{LEAST_PAUSE, Round};
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
        conflicts_with = "diffs",
        help = "An extract: .osm.pbf, .osm.bz2, .osm.gz or .osm; either it or --diffs is needed"
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
    #[arg(long, help = "Write nothing: show the rows that a run would make again, what they take and what they cost")]
    plan: bool,
    #[arg(
        long,
        value_name = "GPUS",
        requires = "plan",
        help = "Whose hours the plan shows, such as `64xH100,8/node`; otherwise one device as the spec names it"
    )]
    cluster: Option<engines::ClusterShape>,
    #[command(flatten)]
    rates: RateArgs,
    #[command(flatten)]
    price: PriceArgs,
    #[arg(
        long,
        value_name = "PAUSE",
        value_parser = pause,
        conflicts_with_all = ["osm", "plan", "until"],
        help = "Go on with every diff that comes, a line a round, until it is told to stop: 10m, 1h, 1d"
    )]
    every: Option<Duration>,
    #[arg(long, help = "Machine-readable output")]
    json: bool,
}

fn pause(text: &str) -> Result<Duration, String> {
    let units = [('s', 1), ('m', 60), ('h', 3600), ('d', 86_400)];
    let of = |(unit, seconds): (char, u64)| text.strip_suffix(unit)?.parse::<u64>().ok()?.checked_mul(seconds);
    let pause = units.into_iter().find_map(of).map(Duration::from_secs);
    let fits = |pause: &Duration| (LEAST_PAUSE..=MOST_PAUSE).contains(pause);
    pause.filter(fits).ok_or_else(|| "it must be a pause between 10s and 366d, such as 10m, 1h or 1d".to_owned())
}

const MOST_PAUSE: Duration = Duration::from_secs(366 * 86_400);

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
    if let (Some(every), Some(diffs)) = (args.every, &args.diffs) {
        return watch(&spec, diffs, (every, args.accept_share), stop, args.json).await;
    }
    let wanted = match (&args.osm, &args.diffs) {
        (Some(path), _) => Wanted::Extract(path.clone(), args.sequence),
        (None, Some(diffs)) => Wanted::Diffs(diffs.clone(), Until(args.until)),
        (None, None) => return Err(nothing_named(&spec).await?.into()),
    };
    let said = |line: &str| aside!("{line}");
    if args.plan {
        let foretold = tags::foretell(&spec, wanted, stop.clone(), &said).await?;
        return plan(spec, &foretold, &args, stop).await;
    }
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

/// What to say to somebody who names neither an extract nor diffs.
async fn nothing_named(spec: &BuildSpec) -> Result<WorkerError> {
    let moment = tags::shown(spec).await?;
    let next = match moment {
        None => "begin with an extract of the country, --osm FILE; from then on --diffs FOLDER is enough".to_owned(),
        Some(moment) => format!(
            "the tags show {moment}: --diffs FOLDER (a replication folder or its address) brings what was edited since, --osm FILE \
             reads a newer extract"
        ),
    };
    Ok(WorkerError::Configuration(format!("nothing is named to refresh the tags of {} from: {next}", spec.country)))
}

/// Prints what a refresh would make a run do.
async fn plan(spec: BuildSpec, foretold: &Foretold, args: &RefreshArgs, stop: Arc<AtomicBool>) -> Result<()> {
    let mut steps = tags::foretold::steps(&spec, foretold);
    let build = Build::open_work(spec, stop).await?;
    let one = || {
        let kind = match crate::estimate::kind(&build.spec) {
            DeviceKind::Cpu => "CPU",
            DeviceKind::Cuda => "GPU",
        };
        engines::ClusterShape { gpus: 1, kind: kind.into(), per_node: 1 }
    };
    let asked = simulate_commands::question(args.cluster.clone().unwrap_or_else(one), &args.rates, &args.price);
    simulate_commands::check_stages(&build.spec, &asked.rates)?;
    let rows = |step: &str| steps.iter().find(|line| line.step == step).map_or(0, |line| line.rows);
    let capacities = capacity::steps(&build.spec, &capacity::known(&build, asked.shape.device()).await?, &asked, rows);
    let planned = |step: &str| steps.iter().find(|line| line.step == step).map(|line| line.rows);
    let served = crate::served::expected(&build, planned).await?;
    if args.json {
        for line in &mut steps {
            line.server = served.iter().find(|(step, _)| *step == line.step).map(|(_, expected)| expected.clone());
            line.cluster = capacities.iter().find(|capacity| capacity.step == line.step).cloned();
        }
        say!("{}", serde_json::to_string_pretty(&serde_json::json!({ "refresh": foretold, "steps": steps }))?);
        return Ok(());
    }
    counted(&foretold.done).iter().try_for_each(|line| Ok::<_, anyhow::Error>(say!("{line}")))?;
    let accept = args.accept_share.unwrap_or(build.spec.source.osm.accept_share);
    if foretold.share() > accept {
        say!("more than source.osm.accept_share = {accept}: the refresh will ask for --accept-share");
    }
    say!("\nnothing is written; after this refresh a run would make, beside what `urbancross plan` shows already:");
    print_plan(&steps)?;
    for (step, expected) in served.iter().filter(|(_, expected)| expected.requests > 0) {
        say!("{}", expected.line(step));
    }
    simulate_commands::print_steps(&capacities, &asked)
}

/// Refreshes again and again, and ends well when it is told to stop.
async fn watch(
    spec: &BuildSpec,
    diffs: &str,
    settings: (Duration, Option<f64>),
    stop: Arc<AtomicBool>,
    json: bool,
) -> Result<()> {
    let tell = |round: &Round| match json {
        true => {
            let line = serde_json::to_string(round).unwrap_or_default();
            crate::say::line(format_args!("{line}"))
        }
        false => crate::say::line(format_args!("{}", round.in_words())),
    };
    // that nobody reads it any more is no reason to stop
    let tell = |round: &Round| _ = tell(round);
    Ok(tags::watch::watch(spec, diffs, settings, stop, &tell).await?)
}

/// What was found, for people.
fn counted(done: &Refreshment) -> Vec<String> {
    let mut lines = Vec::new();
    let mut changed = done.in_words();
    let others = [
        (done.gone, "left out: no longer in OpenStreetMap"),
        (done.back, "back again"),
        (done.unjudged, "back with the next run, for the next extract to judge"),
    ];
    for (images, what) in others {
        if images > 0 {
            changed += &format!("; {images} {what}");
        }
    }
    lines.push(changed);
    if !done.examples.is_empty() {
        lines.push(format!("  such as {}", done.examples.join(", ")));
    }
    if done.outside > 0 {
        lines.push(format!("{} outside of the extract: no change of tags", count(done.outside, "image")));
    }
    if done.unclear > 0 {
        let unclear = count(done.unclear, "image");
        lines.push(format!("{unclear} unclear from diffs alone: no change of tags until an extract is read (--osm)"));
        lines.extend(done.unclear_examples.iter().map(|why| format!("  {why}")));
    }
    lines
}

/// The same with what was written.
fn lines(done: &Refreshment) -> Vec<String> {
    let mut lines = counted(done);
    if done.waiting > 0 {
        lines.push(format!("{} left for later, as --until asks", count(done.waiting, "diff")));
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_image_is_told_as_one() {
        let done = Refreshment {
            images: 60,
            changed: 1,
            unjudged: 1,
            outside: 1,
            unclear: 1,
            waiting: 1,
            moment: "diff 7".into(),
            ..Refreshment::default()
        };
        let expected = [
            "1 of 60 images has other tags; 1 back with the next run, for the next extract to judge",
            "1 image outside of the extract: no change of tags",
            "1 image unclear from diffs alone: no change of tags until an extract is read (--osm)",
            "1 diff left for later, as --until asks",
            "the tags show diff 7",
            "nothing to write",
        ];
        assert_eq!(lines(&done), expected);
    }
}
