//! What a cluster would make of a build.

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::Result;
use clap::Args;
use engines::ClusterShape;
use engines::cluster::MOST_GPUS;
use engines::profile::LEASE_SECONDS;
use engines::simulate::Times;
use manifests::words::count;
use manifests::{Artifact, BuildSpec};
use report::{LineChart, Series};
use workers::WorkerError;

use super::arguments::SpecArgs;
use super::numbers::within;
use super::{check_page, stop_flag, write_page};
use crate::build::Build;
use crate::capacity::{self, Known, Point, Question, StepCapacity, left_out};
use crate::preview::PlanLine;
use crate::{aside, say};

/// What a claim and a look take of a store near by.
const CLAIM_SECONDS: f64 = 0.05;
const LOOK_SECONDS: f64 = 0.2;

#[derive(Debug, Args)]
pub(super) struct SimulateArgs {
    #[arg(long, value_name = "GPUS", help = "Such as `64xH100,8/node`")]
    cluster: ClusterShape,
    #[arg(
        long,
        value_parser = within("a whole number", 1..=MOST_ROWS),
        allow_negative_numbers = true,
        help = "Images of the build; otherwise those that its work store holds"
    )]
    rows: Option<u64>,
    #[arg(
        long,
        value_delimiter = ',',
        value_parser = within("a whole number", 1..=MOST_GPUS),
        allow_negative_numbers = true,
        help = "Numbers of GPUs to compare, such as 1,8,64,512"
    )]
    gpus: Vec<usize>,
    #[command(flatten)]
    rates: RateArgs,
    #[arg(
        long,
        default_value_t = 24.0,
        value_parser = within("a number of hours", 0.1..=1e6),
        allow_negative_numbers = true,
        help = "Mean time between failures of one node"
    )]
    mtbf_hours: f64,
    #[arg(
        long,
        default_value_t = 120.0,
        value_parser = within("a number of seconds", 0.0..=1e6),
        allow_negative_numbers = true,
        help = "From a node's failure to the start of its workers elsewhere"
    )]
    requeue_seconds: f64,
    #[arg(
        long,
        default_value_t = 60.0,
        value_parser = within("a number of seconds", 0.0..=1e6),
        allow_negative_numbers = true,
        help = "From a worker's start to its first shard"
    )]
    load_seconds: f64,
    #[arg(
        long,
        default_value_t = 60.0,
        value_parser = within("a number of seconds", 1.0..=1e6),
        allow_negative_numbers = true,
        help = "How long a worker that is not heard of keeps its shards"
    )]
    lease_seconds: f64,
    #[arg(
        long,
        default_value_t = 0.3,
        value_parser = within("a number", 0.0..=3.0),
        allow_negative_numbers = true,
        help = "How much durations of shards differ: deviation of their logarithm"
    )]
    spread: f64,
    #[command(flatten)]
    price: PriceArgs,
    #[arg(long, value_name = "FILE", help = "Draw here as SVG how much of what is paid for is kept")]
    chart: Option<PathBuf>,
    #[arg(long, help = "Machine-readable output")]
    json: bool,
}

#[derive(Debug, Args)]
pub(super) struct RateArgs {
    #[arg(
        long,
        value_name = "STAGE=ROWS",
        value_parser = stage_rate,
        requires = "cluster",
        help = "Rows a second of one GPU, where you know them"
    )]
    rate: Vec<(String, f64)>,
}

#[derive(Debug, Args)]
pub(super) struct PriceArgs {
    #[arg(
        long,
        value_parser = within("a price", 0.0..=1e6),
        allow_negative_numbers = true,
        help = "What an hour of one GPU costs"
    )]
    price_per_gpu_hour: Option<f64>,
}

/// More images than anybody has.
const MOST_ROWS: u64 = 1_000_000_000_000;

fn stage_rate(text: &str) -> Result<(String, f64), String> {
    let read =
        text.split_once('=').and_then(|(stage, rows)| Some((stage.trim().to_owned(), rows.trim().parse().ok()?)));
    read.filter(|(_, rows): &(String, f64)| (1e-6..=1e9).contains(rows))
        .ok_or_else(|| "it must be a stage and its rows a second, such as `segments=1.5`".to_owned())
}

/// What things take where nobody says.
fn question_times() -> Times {
    Times {
        load: 60.0,
        claim: CLAIM_SECONDS,
        look: LOOK_SECONDS,
        lease: LEASE_SECONDS as f64,
        node_mtbf: 24.0 * 3600.0,
        requeue: 120.0,
    }
}

/// The question of a `plan`, which says less.
pub(super) fn question(shape: ClusterShape, rates: &RateArgs, price: &PriceArgs) -> Question {
    let times = question_times();
    Question { shape, times, spread: 0.3, price: price.price_per_gpu_hour, rates: rates.rate.iter().cloned().collect() }
}

pub(super) async fn simulate(spec: &SpecArgs, args: SimulateArgs) -> Result<()> {
    check_page(args.chart.as_deref())?;
    let spec = spec.read()?;
    let asked = question(args.cluster.clone(), &args.rates, &args.price);
    check_stages(&spec, &asked.rates)?;
    let times = Times {
        load: args.load_seconds,
        lease: args.lease_seconds,
        node_mtbf: args.mtbf_hours * 3600.0,
        requeue: args.requeue_seconds,
        ..asked.times
    };
    check_times(&times)?;
    let asked = Question { times, spread: args.spread, ..asked };
    let build = Build::connect(spec, stop_flag()).await?;
    let rows = rows(&build, args.rows).await?;
    let known = capacity::known(&build, asked.shape.device()).await?;
    let steps = capacity::steps(&build.spec, &known, &asked, |_| rows);
    let shards = build.spec.work.shards as usize;
    let curve = curve(&steps, &known, shards, &asked, &args.gpus);
    if args.json {
        say!("{}", serde_json::to_string_pretty(&serde_json::json!({ "steps": steps, "curve": curve }))?);
    } else {
        print_steps(&steps, &asked)?;
        print_curve(&curve, shards, &asked)?;
    }
    if let Some(path) = &args.chart {
        write_page(path, &chart(&curve).svg())?;
    }
    warn_of_few_shards(shards, curve.iter().map(|point| point.gpus).max().unwrap_or(1));
    Ok(())
}

/// Most times that loading may take of what a node lives: of more workers than that hardly one would live to its first claim.
const LONGEST_LOADING: f64 = 5.0;

fn check_times(times: &Times) -> Result<(), WorkerError> {
    match times.load > LONGEST_LOADING * times.node_mtbf {
        false => Ok(()),
        true => Err(WorkerError::Configuration(format!(
            "--load-seconds {} on nodes that fail once in {:.0} s (--mtbf-hours): hardly a worker would live to its first claim",
            times.load, times.node_mtbf
        ))),
    }
}

/// A misspelt stage would go unnoticed.
pub(super) fn check_stages(spec: &BuildSpec, rates: &BTreeMap<String, f64>) -> Result<(), WorkerError> {
    check_stages_of_any([spec], rates)
}

/// The same of several builds, of which some may do without a stage.
pub(super) fn check_stages_of_any<'s>(
    builds: impl IntoIterator<Item = &'s BuildSpec>,
    rates: &BTreeMap<String, f64>,
) -> Result<(), WorkerError> {
    let mut names: Vec<&str> = Vec::new();
    for step in builds.into_iter().flat_map(stages::steps) {
        if !names.contains(&step.name()) {
            names.push(step.name());
        }
    }
    match rates.keys().find(|stage| !names.contains(&stage.as_str())) {
        None => Ok(()),
        Some(wrong) => Err(WorkerError::Configuration(format!(
            "--rate {wrong}: there is no such step; the steps are {}",
            names.join(", ")
        ))),
    }
}

/// Adds to the lines of a plan what a cluster makes of each step.
pub(super) async fn add_steps(build: &Build, lines: &mut [PlanLine], asked: &Question) -> Result<(), WorkerError> {
    let known = capacity::known(build, asked.shape.device()).await?;
    let rows = |step: &str| lines.iter().find(|line| line.step == step).map_or(0, |line| line.rows);
    let capacities = capacity::steps(&build.spec, &known, asked, rows);
    for line in lines {
        line.cluster = capacities.iter().find(|capacity| capacity.step == line.step).cloned();
    }
    warn_of_few_shards(build.spec.work.shards as usize, asked.shape.gpus);
    Ok(())
}

async fn rows(build: &Build, said: Option<u64>) -> Result<u64, WorkerError> {
    if let Some(rows) = said {
        return Ok(rows);
    }
    match build.pin(Artifact::Geotags).await?.rows() {
        0 => Err(WorkerError::Configuration(format!(
            "{} holds no images yet: say with --rows how many there will be",
            build.work.url()
        ))),
        rows => Ok(rows),
    }
}

fn curve(
    steps: &[StepCapacity],
    known: &BTreeMap<&'static str, Known>,
    shards: usize,
    asked: &Question,
    gpus: &[usize],
) -> Vec<Point> {
    let gpus = if gpus.is_empty() { &[asked.shape.gpus][..] } else { gpus };
    let of = |gpus: &usize| {
        let shape = ClusterShape { gpus: *gpus, ..asked.shape.clone() };
        capacity::point(steps, known, shards, &Question { shape, ..asked.clone() })
    };
    gpus.iter().map(of).collect()
}

/// Says when a cluster has too many workers for the shards of a build.
fn warn_of_few_shards(shards: usize, gpus: usize) {
    if let Some(why) = capacity::few_shards(shards, gpus) {
        aside!("warning: {why}");
    }
}

/// The table of a build's steps on a cluster.
pub(super) fn print_steps(steps: &[StepCapacity], asked: &Question) -> Result<()> {
    let shape = &asked.shape;
    say!(
        "\non {} x {}, {} per node, nodes failing once in {:.0} h",
        shape.gpus,
        shape.kind,
        shape.per_node,
        asked.times.node_mtbf / 3600.0
    );
    let unit = shape.unit();
    let (rate, gpu_hours, best) = (format!("rows/s/{unit}"), format!("{unit}-hours"), format!("best {unit}s"));
    let [rows, hours, requests, bytes, cost] = ["rows", "hours", "requests", "GB", "cost"];
    say!(
        "{:21} {rows:>12} {rate:>10} {gpu_hours:>10} {hours:>9} {requests:>11} {bytes:>9} {best:>9} {cost:>9}  bottleneck; \
          rate from",
        "step"
    );
    let number = |value: Option<f64>| value.map_or("?".to_owned(), |value| format!("{value:.2}"));
    for step in steps {
        let rate = step.rate.as_ref();
        let from = rate.map_or("run it once on a few rows, or say --rate", |rate| rate.from.as_str());
        let best = step.best_gpus.map_or(String::new(), |gpus| gpus.to_string());
        let cost = step.cost.map_or(String::new(), |cost| format!("{cost:.0}"));
        let gigabytes = step.bytes.map(|bytes| bytes as f64 / 1e9);
        say!(
            "{:21} {:>12} {:>10} {:>10} {:>9} {:>11} {:>9} {best:>9} {cost:>9}  {}; {from}",
            step.step,
            step.rows,
            number(rate.map(|rate| rate.rows_per_second)),
            number(step.gpu_hours),
            number(step.hours),
            step.requests,
            number(gigabytes),
            step.bottleneck,
        );
    }
    let unknown: Vec<&str> = steps.iter().filter(|step| step.rate.is_none()).map(|step| step.step).collect();
    let sum = |of: fn(&StepCapacity) -> Option<f64>| steps.iter().filter_map(of).sum::<f64>();
    let without = if unknown.is_empty() { String::new() } else { format!(", without {}", unknown.join(", ")) };
    let cost = asked.price.map_or(String::new(), |_| format!(", {:.0} to pay", sum(|step| step.cost)));
    say!("all of them: {:.1} {unit}-hours, {:.2} hours{cost}{without}", sum(|s| s.gpu_hours), sum(|s| s.hours));
    for step in steps.iter().filter(|step| step.failed_shards > 0.0) {
        say!("of {} {}", step.step, closed_in_words(step.failed_shards));
    }
    let is_measured = |step: &&StepCapacity| step.rate.as_ref().is_some_and(|rate| rate.measured);
    let others = steps.iter().filter(|step| !is_measured(step)).map(|step| (step.step, &step.left_out));
    for line in left_out::in_words(&others.collect::<Vec<_>>(), shape.device()) {
        say!("{line}");
    }
    Ok(())
}

/// The same of the lines of a plan.
pub(super) fn print_planned(lines: &[PlanLine], asked: &Question) -> Result<()> {
    let steps: Vec<StepCapacity> = lines.iter().filter_map(|line| line.cluster.clone()).collect();
    print_steps(&steps, asked)
}

fn chart(curve: &[Point]) -> LineChart {
    // hours in which not all rows are made would keep more than all
    let whole = || curve.iter().filter(|point| point.failed_shards == 0.0);
    let series = |name: &str, hours: fn(&Point) -> f64| Series {
        name: name.to_owned(),
        points: whole().map(|point| (point.gpus as f64, 100.0 * point.ideal_hours / hours(point))).collect(),
    };
    LineChart {
        x_label: "GPUs".to_owned(),
        y_label: "% of the paid time that is kept".to_owned(),
        x_log: true,
        series: vec![series("stealing", |point| point.hours), series("static", |point| point.static_hours)],
        ..LineChart::default()
    }
}

fn closed_in_words(shards: f64) -> String {
    format!(
        "{shards:.1} shards are closed as failed, since five of their workers were lost in turn: nobody makes their rows in these \
         hours; with more shards (work.shards) each is at risk for less time"
    )
}

fn print_curve(curve: &[Point], shards: usize, asked: &Question) -> Result<()> {
    let unit = asked.shape.unit();
    say!("\nmap stages in {}, hours; `ideal` loses nothing", count(shards, "shard"));
    say!(
        "{:>6} {:>9} {:>9} {:>9} {:>15} {:>10} {:>14}",
        format!("{unit}s"),
        "static",
        "stealing",
        "ideal",
        format!("paid {unit}-hours"),
        "cost",
        "shards/worker"
    );
    for point in curve {
        let cost = point.cost.map_or(String::new(), |cost| format!("{cost:.0}"));
        say!(
            "{:>6} {:>9.2} {:>9.2} {:>9.2} {:>15.1} {cost:>10} {:>14.1}",
            point.gpus,
            point.static_hours,
            point.hours,
            point.ideal_hours,
            point.paid_gpu_hours,
            point.shards_per_worker
        );
    }
    for point in curve.iter().filter(|point| point.failed_shards > 0.0) {
        say!("with {} {unit}s {}", point.gpus, closed_in_words(point.failed_shards));
    }
    if asked.rates.is_empty() {
        say!("rates are those of the table above; trainings are not among them");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn workers_live_to_their_first_claim() {
        let times = |load, hours| Times { load, node_mtbf: hours * 3600.0, ..question_times() };
        assert!(check_times(&times(60.0, 0.1)).is_ok() && check_times(&times(1e9, f64::INFINITY)).is_ok());
        assert_eq!(check_times(&times(1e6, 0.1)).unwrap_err().exit_code(), 65);
    }

    #[test]
    fn a_rate_is_a_stage_and_a_number() {
        assert_eq!(stage_rate("segments = 1.5"), Ok(("segments".into(), 1.5)));
        for wrong in ["segments", "segments=", "segments=0", "segments=-1", "segments=NaN", "segments=inf"] {
            assert!(stage_rate(wrong).unwrap_err().contains("`segments=1.5`"), "{wrong}");
        }
    }
}
