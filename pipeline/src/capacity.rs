//! What a cluster makes of a build: hours, requests, bytes and money of each step, and how many GPUs it is worth.

pub mod left_out;

use std::collections::BTreeMap;

use engines::ClusterShape;
use engines::simulate::{Cluster, Outcome, Sharing, Times, shards, simulate};
use manifests::BuildSpec;
use manifests::spec::DeviceKind;
use serde::Serialize;
use workers::WorkerError;
use workers::rates::{Measured, Rates, Wanted, measured};

use crate::build::Build;
use crate::estimate;
use crate::preflight;
use left_out::LeftOut;

/// Fewer shards than this for each worker, and the last ones are waited for.
pub const FEWEST_SHARDS: usize = 4;

/// Simulations whose mean is told.
const RUNS: u64 = 5;

/// More GPUs are no longer worth it where less than this share of what is paid for computes what is kept.
const WORTH: f64 = 0.8;

/// What is asked.
#[derive(Debug, Clone)]
pub struct Question {
    /// The cluster.
    pub shape: ClusterShape,
    /// What things take.
    pub times: Times,
    /// How much durations of shards differ: deviation of their logarithm.
    pub spread: f64,
    /// Price of a GPU's hour.
    pub price: Option<f64>,
    /// Rows a second of one GPU that somebody knows better, by stage.
    pub rates: BTreeMap<String, f64>,
}

/// How fast one GPU makes rows of a stage, and how one knows.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Rate {
    /// Rows that one GPU, or one machine where there is none, makes in a second.
    pub rows_per_second: f64,
    /// How this is known.
    pub from: String,
    /// Somebody has measured it: operations were not just counted.
    pub measured: bool,
    /// The stores are slower than the device.
    pub waits_for_stores: bool,
}

/// What the store knows of a stage.
#[derive(Debug, Clone, Default)]
pub struct Known {
    /// What its finished shards took, of those that say something of the cluster's devices.
    pub measured: Measured,
    /// Finished shards that do not, by the kind of device that computed them.
    pub left_out: LeftOut,
    /// Bytes of the tables that it reads and writes, for each row; `None`: nothing is published.
    pub bytes_per_row: Option<f64>,
    /// Tables that it reads.
    pub inputs: usize,
    /// It fetches the pictures.
    pub fetches: bool,
}

/// What one step takes.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct StepCapacity {
    /// Name of the step.
    pub step: &'static str,
    /// Rows to make.
    pub rows: u64,
    /// `None`: nothing is known yet.
    pub rate: Option<Rate>,
    /// Shards whose rates were not taken, by the kind of device that computed them.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub left_out: LeftOut,
    /// Hours of one GPU for all rows.
    pub gpu_hours: Option<f64>,
    /// Hours on the cluster, of simulated workers that steal.
    pub hours: Option<f64>,
    /// Shards that are closed as failed, since too many of their workers were lost: nobody makes their rows in these hours.
    #[serde(skip_serializing_if = "is_none")]
    pub failed_shards: f64,
    /// The same with nobody taking what others have left.
    pub hours_static: Option<f64>,
    /// Requests of the stores, roughly.
    pub requests: u64,
    /// Bytes that are read and written, as far as they are known.
    pub bytes: Option<u64>,
    /// What more of would help.
    pub bottleneck: &'static str,
    /// The most GPUs that are worth it.
    pub best_gpus: Option<usize>,
    /// What all GPUs cost for so long.
    pub cost: Option<f64>,
}

/// Looks up what the store knows of each stage, for devices of a kind. Stages that ask no network run on processors, and those
/// that ask a server wait for it: what they took holds everywhere.
///
/// # Errors
/// A store that does not answer.
pub async fn known(build: &Build, kind: DeviceKind) -> Result<BTreeMap<&'static str, Known>, WorkerError> {
    let (country, at_once) = (&build.spec.country, build.spec.work.concurrency);
    let mut all = BTreeMap::new();
    for stage in stages::map_stages(&build.spec) {
        let mut bytes = None;
        for artifact in stage.inputs.iter().map(|input| input.artifact).chain([stage.output]) {
            let pinned = build.pin(artifact).await?;
            let size: u64 = pinned.parts.iter().map(|part| part.size_bytes).fold(0, u64::saturating_add);
            if pinned.rows() > 0 {
                *bytes.get_or_insert(0.0) += size as f64 / pinned.rows() as f64;
            }
        }
        let (settings, device) = (stage.pace(&build.spec, &build.weights), stage.asks_network().then_some(kind));
        let wanted = Wanted { settings: &settings, device };
        let Rates { counted, left_out } = measured(&build.work, country, stage.name, wanted, at_once).await?;
        let known = Known {
            measured: counted,
            left_out,
            bytes_per_row: bytes,
            inputs: stage.inputs.iter().filter(|input| !input.artifact.is_sparse()).count(),
            fetches: stage.source.is_some(),
        };
        all.insert(stage.name, known);
    }
    Ok(all)
}

/// Rows and rates of all steps; `rows` says how many rows a step makes.
pub fn steps(
    spec: &BuildSpec,
    known: &BTreeMap<&'static str, Known>,
    question: &Question,
    rows: impl Fn(&str) -> u64,
) -> Vec<StepCapacity> {
    let estimates: BTreeMap<_, _> =
        estimate::on(question.shape.device(), spec, &preflight::known_networks(spec), PER_MILLION)
            .into_iter()
            .collect();
    let steps = stages::steps(spec).into_iter().map(|step| step.name()).filter(|name| *name != "evaluate");
    let of_step = |step: &'static str| {
        let rate = rate(step, known.get(step), estimates.get(step), question);
        capacity(step, rows(step), rate, known.get(step), spec.work.shards as usize, question)
    };
    steps.map(of_step).collect()
}

/// Shards that a worker has under way, each with a lease.
const SHARDS_UNDER_WAY: f64 = 3.0;
/// Rows of which an estimate is asked for its rate.
const PER_MILLION: u64 = 1_000_000;

fn rate(step: &str, known: Option<&Known>, estimate: Option<&estimate::Estimate>, question: &Question) -> Option<Rate> {
    if let Some(rows_per_second) = question.rates.get(step) {
        return Some(Rate {
            rows_per_second: *rows_per_second,
            from: "--rate".into(),
            measured: true,
            waits_for_stores: false,
        });
    }
    if let Some(measured) = known.map(|known| &known.measured)
        && let Some(rows_per_second) = measured.rows_per_second()
    {
        let from = format!("{} measured", manifests::words::count(measured.shards, "shard"));
        return Some(Rate { rows_per_second, from, measured: true, waits_for_stores: measured.waits_for_stores() });
    }
    let estimate = estimate.filter(|estimate| estimate.hours > 0.0)?;
    // a training's hours are of all its epochs, over the rows of its split
    let rows_per_second = PER_MILLION as f64 / (estimate.hours * 3600.0);
    let from = format!("counted operations on {}", estimate.machine);
    Some(Rate { rows_per_second, from, measured: false, waits_for_stores: false })
}

/// Requests for each shard: its slices, claim, marker and part, and a footer and columns of each input; and beats of the leases. Looks
/// at what is open are not counted.
fn requests(rows: u64, shards: usize, known: &Known, seconds: f64, lease: f64) -> u64 {
    let of_shards = shards as u64 * (5 + 3 * known.inputs as u64);
    let of_rows = if known.fetches { rows } else { 0 };
    // each shard that is under way has its own
    let beats = if lease > 0.0 { (SHARDS_UNDER_WAY * seconds * 4.0 / lease) as u64 } else { 0 };
    of_shards + of_rows + beats
}

fn capacity(
    step: &'static str,
    rows: u64,
    rate: Option<Rate>,
    known: Option<&Known>,
    shards: usize,
    question: &Question,
) -> StepCapacity {
    let gpus = question.shape.gpus;
    let seconds = rate.as_ref().map(|rate| rows as f64 / rate.rows_per_second);
    let mut capacity = StepCapacity {
        step,
        rows,
        gpu_hours: seconds.map(|seconds| seconds / 3600.0),
        hours: None,
        hours_static: None,
        failed_shards: 0.0,
        requests: known.map_or(0, |known| {
            let shards = if rows == 0 { 0 } else { shards };
            requests(rows, shards, known, seconds.unwrap_or(0.0), question.times.lease)
        }),
        bytes: known.and_then(|known| known.bytes_per_row).map(|bytes| (bytes * rows as f64) as u64),
        bottleneck: if rate.is_some() { "devices" } else { "not known" },
        best_gpus: None,
        cost: None,
        left_out: known.map(|known| known.left_out.clone()).unwrap_or_default(),
        rate,
    };
    let Some(seconds) = seconds else { return capacity };
    if rows == 0 {
        capacity.hours = Some(0.0);
        return capacity;
    }
    match known {
        // ranks of a training hold no shards: they are as many as the spec says, and nobody has measured more
        None => (capacity.hours, capacity.bottleneck) = (Some(seconds / gpus as f64 / 3600.0), "ranks, if they scale"),
        Some(_) => {
            let on = |gpus, sharing| makespan(rows, seconds, shards, gpus, question, sharing);
            let Makespan { hours: made, failed_shards } = on(gpus, Sharing::Stealing);
            capacity.hours_static = Some(on(gpus, Sharing::Static).hours);
            capacity.failed_shards = failed_shards;
            capacity.bottleneck = match capacity.rate {
                Some(Rate { waits_for_stores: true, .. }) => "stores",
                _ if shards < FEWEST_SHARDS * gpus => "too few shards",
                _ if question.times.load > 0.2 * made * 3600.0 => "starting workers",
                _ => "devices",
            };
            capacity.hours = Some(made);
            // hours in which not all rows are made say nothing of what is worth it
            let is_worth = |gpus: &usize| {
                let on = on(*gpus, Sharing::Stealing);
                on.failed_shards == 0.0 && seconds / 3600.0 >= WORTH * *gpus as f64 * on.hours
            };
            let tried = std::iter::successors(Some(1), |gpus| Some(gpus * 2)).take_while(|n| *n < gpus);
            let best = tried.chain([gpus]).filter(is_worth).last();
            capacity.best_gpus = best.or((failed_shards == 0.0).then_some(1));
        }
    }
    capacity.cost = capacity.hours.zip(question.price).map(|(hours, price)| hours * gpus as f64 * price);
    capacity
}

fn is_none(shards: &f64) -> bool {
    *shards == 0.0
}

/// Means of several simulations of a stage.
struct Makespan {
    hours: f64,
    failed_shards: f64,
}

/// Of a stage whose rows take one GPU `seconds`.
fn makespan(rows: u64, seconds: f64, count: usize, gpus: usize, question: &Question, sharing: Sharing) -> Makespan {
    let cluster = Cluster { workers: gpus, per_node: question.shape.per_node };
    let one = |seed| {
        let shards = shards(count, rows, seconds, question.spread, seed);
        simulate(&shards, cluster, &question.times, sharing, seed)
    };
    let runs: Vec<_> = (0..RUNS).map(one).collect();
    let mean = |of: fn(&Outcome) -> f64| runs.iter().map(of).sum::<f64>() / RUNS as f64;
    Makespan { hours: mean(|run| run.seconds) / 3600.0, failed_shards: mean(|run| run.failed as f64) }
}

/// A point of the curve: all map stages of a build, one after the other, on so many GPUs.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Point {
    /// GPUs.
    pub gpus: usize,
    /// Hours if nothing were lost.
    pub ideal_hours: f64,
    /// Hours of workers that steal.
    pub hours: f64,
    /// Hours if nobody takes what others have left.
    pub static_hours: f64,
    /// Hours of all GPUs that are paid for.
    pub paid_gpu_hours: f64,
    /// What they cost.
    pub cost: Option<f64>,
    /// Shards for each worker.
    pub shards_per_worker: f64,
    /// Shards that are closed as failed, since too many of their workers were lost: nobody makes their rows in these hours.
    pub failed_shards: f64,
}

/// The map stages of a build on `gpus` GPUs. Steps that nothing is known of count for nothing, and trainings neither.
pub fn point(
    steps: &[StepCapacity],
    known: &BTreeMap<&'static str, Known>,
    shards: usize,
    question: &Question,
) -> Point {
    let gpus = question.shape.gpus;
    let mapped = || steps.iter().filter(|step| known.contains_key(step.step) && step.rows > 0);
    let sum = |sharing| {
        let of_step = |step: &StepCapacity| {
            let seconds = step.gpu_hours? * 3600.0;
            Some(makespan(step.rows, seconds, shards, gpus, question, sharing))
        };
        mapped().filter_map(of_step).fold((0.0, 0.0), |sum, step| (sum.0 + step.hours, sum.1 + step.failed_shards))
    };
    let (hours, failed_shards) = sum(Sharing::Stealing);
    Point {
        gpus,
        ideal_hours: mapped().filter_map(|step| step.gpu_hours).sum::<f64>() / gpus as f64,
        hours,
        static_hours: sum(Sharing::Static).0,
        paid_gpu_hours: hours * gpus as f64,
        cost: question.price.map(|price| price * hours * gpus as f64),
        shards_per_worker: shards as f64 / gpus as f64,
        failed_shards,
    }
}

/// What is wrong with so few shards; `None`: nothing.
pub fn few_shards(shards: usize, gpus: usize) -> Option<String> {
    (shards < FEWEST_SHARDS * gpus).then(|| {
        format!(
            "work.shards = {shards} for {gpus} workers: with fewer than {FEWEST_SHARDS} shards for each, most of them wait \
             for the last ones; set work.shards to {} or more before the first run, or take fewer workers",
            FEWEST_SHARDS * gpus
        )
    })
}

#[cfg(test)]
mod tests;
