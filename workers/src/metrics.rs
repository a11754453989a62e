//! What a process has done so far, in figures: counted where it happens, written as Prometheus reads it.

mod serve;

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

pub use serve::serve;

/// A figure with its labels, by its name without `urbancross_`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Metric {
    /// Shards by stage and state, at the last look.
    Shards,
    /// Rows by stage and outcome.
    Rows,
    /// Seconds of shards by stage and phase.
    ShardSeconds,
    /// Claims on shards by result.
    Claims,
    /// Seconds since others saw this process alive.
    BeatAge,
    /// Seconds without work by reason.
    WorkerIdle,
    /// Share of the time that a device computed.
    DeviceBusy,
    /// Requests of stores by operation and outcome.
    StoreRequests,
    /// Seconds of requests by operation.
    StoreSeconds,
    /// Shards that somebody else finished first.
    DuplicateShards,
    /// Second tries by what was tried.
    Retries,
    /// Tokens that a server counted, of prompts or of answers.
    Tokens,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Counter,
    Gauge,
    Histogram,
}

impl Metric {
    fn family(self) -> (&'static str, Kind, &'static str) {
        match self {
            Metric::Shards => ("shards", Kind::Gauge, "Shards by stage and state, at the last look"),
            Metric::Rows => ("rows_total", Kind::Counter, "Rows by stage and outcome"),
            Metric::ShardSeconds => ("shard_seconds", Kind::Histogram, "Seconds of shards by stage and phase"),
            Metric::Claims => ("claims_total", Kind::Counter, "Claims on shards by result"),
            Metric::BeatAge => ("beat_age_seconds", Kind::Gauge, "Seconds since others saw this process alive"),
            Metric::WorkerIdle => ("worker_idle_seconds_total", Kind::Counter, "Seconds without work by reason"),
            Metric::DeviceBusy => ("device_busy_ratio", Kind::Gauge, "Share of the time that a device computed"),
            Metric::StoreRequests => ("store_requests_total", Kind::Counter, "Requests by operation and outcome"),
            Metric::StoreSeconds => ("store_seconds", Kind::Histogram, "Seconds of requests by operation"),
            Metric::DuplicateShards => {
                ("duplicate_shards_total", Kind::Counter, "Shards that somebody else finished first")
            }
            Metric::Retries => ("retries_total", Kind::Counter, "Second tries by what was tried"),
            Metric::Tokens => ("server_tokens_total", Kind::Counter, "Tokens that a server of texts counted"),
        }
    }
}

/// Upper bounds of a histogram's buckets: from a request to a long shard.
const BOUNDS: [f64; 12] = [0.005, 0.02, 0.05, 0.1, 0.5, 1.0, 5.0, 15.0, 60.0, 300.0, 1800.0, 7200.0];

#[derive(Debug, Clone, Default)]
struct Histogram {
    buckets: [u64; BOUNDS.len()],
    count: u64,
    sum: f64,
}

#[derive(Debug, Clone)]
enum Value {
    Number(f64),
    Histogram(Box<Histogram>),
}

/// Labels of a figure.
pub type Labels<'a> = &'a [(&'static str, &'a str)];

#[derive(Debug, Default)]
struct Figures {
    values: BTreeMap<(Metric, String), Value>,
    last_beat: Option<Instant>,
}

static FIGURES: Mutex<Figures> = Mutex::new(Figures { values: BTreeMap::new(), last_beat: None });

fn with<T>(act: impl FnOnce(&mut Figures) -> T) -> T {
    act(&mut FIGURES.lock().unwrap_or_else(PoisonError::into_inner))
}

/// Adds to a counter.
pub fn add(metric: Metric, labels: Labels<'_>, amount: f64) {
    with(|figures| figures.add(metric, labels, amount));
}

/// Sets what rises and falls.
pub fn set(metric: Metric, labels: Labels<'_>, value: f64) {
    with(|figures| figures.set(metric, labels, value));
}

/// Adds a duration to a histogram.
pub fn observe(metric: Metric, labels: Labels<'_>, seconds: f64) {
    with(|figures| figures.observe(metric, labels, seconds));
}

/// Others have seen that this process is alive.
pub(crate) fn beat() {
    with(|figures| figures.last_beat = Some(Instant::now()));
}

/// All figures of this process, in Prometheus' text format.
pub fn text() -> String {
    with(|figures| {
        if let Some(last) = figures.last_beat {
            figures.set(Metric::BeatAge, &[], last.elapsed().as_secs_f64());
        }
        figures.text()
    })
}

impl Figures {
    fn add(&mut self, metric: Metric, labels: Labels<'_>, amount: f64) {
        let value = self.values.entry((metric, written(labels))).or_insert(Value::Number(0.0));
        if let Value::Number(number) = value {
            *number += amount;
        }
    }

    fn set(&mut self, metric: Metric, labels: Labels<'_>, value: f64) {
        self.values.insert((metric, written(labels)), Value::Number(value));
    }

    fn observe(&mut self, metric: Metric, labels: Labels<'_>, seconds: f64) {
        let value = self.values.entry((metric, written(labels))).or_insert_with(|| Value::Histogram(Box::default()));
        if let Value::Histogram(histogram) = value {
            histogram.count += 1;
            histogram.sum += seconds;
            let bucket = BOUNDS.partition_point(|bound| *bound < seconds);
            histogram.buckets.iter_mut().skip(bucket).for_each(|bucket| *bucket += 1);
        }
    }

    fn text(&self) -> String {
        let (mut text, mut before) = (String::new(), None);
        for ((metric, labels), value) in &self.values {
            let (name, kind, help) = metric.family();
            if before != Some(*metric) {
                let kind = match kind {
                    Kind::Counter => "counter",
                    Kind::Gauge => "gauge",
                    Kind::Histogram => "histogram",
                };
                _ = writeln!(text, "# HELP urbancross_{name} {help}.\n# TYPE urbancross_{name} {kind}");
                before = Some(*metric);
            }
            match value {
                Value::Number(number) => _ = writeln!(text, "urbancross_{name}{} {number}", braced(labels)),
                Value::Histogram(histogram) => write_histogram(&mut text, name, labels, histogram),
            }
        }
        text
    }
}

fn write_histogram(text: &mut String, name: &str, labels: &str, histogram: &Histogram) {
    let comma = if labels.is_empty() { "" } else { "," };
    for (bound, below) in BOUNDS.iter().zip(&histogram.buckets) {
        _ = writeln!(text, "urbancross_{name}_bucket{{{labels}{comma}le=\"{bound}\"}} {below}");
    }
    let Histogram { count, sum, .. } = histogram;
    _ = writeln!(text, "urbancross_{name}_bucket{{{labels}{comma}le=\"+Inf\"}} {count}");
    _ = writeln!(text, "urbancross_{name}_sum{} {sum}", braced(labels));
    _ = writeln!(text, "urbancross_{name}_count{} {count}", braced(labels));
}

fn braced(labels: &str) -> String {
    if labels.is_empty() { String::new() } else { format!("{{{labels}}}") }
}

fn written(labels: Labels<'_>) -> String {
    let escaped = |value: &str| value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
    let all: Vec<String> = labels.iter().map(|(label, value)| format!("{label}=\"{}\"", escaped(value))).collect();
    all.join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_written_as_prometheus_reads_them() {
        let mut figures = Figures::default();
        figures.add(Metric::Claims, &[("result", "home")], 2.0);
        figures.add(Metric::Claims, &[("result", "home")], 1.0);
        figures.add(Metric::Claims, &[("result", "lost")], 1.0);
        figures.set(Metric::Shards, &[("stage", "images"), ("state", "done")], 7.0);
        figures.set(Metric::BeatAge, &[], 0.5);
        figures.observe(Metric::StoreSeconds, &[("op", "get")], 0.05);
        figures.observe(Metric::StoreSeconds, &[("op", "get")], 1e9);
        let text = figures.text();
        for line in [
            "# TYPE urbancross_claims_total counter",
            "urbancross_claims_total{result=\"home\"} 3",
            "urbancross_claims_total{result=\"lost\"} 1",
            "# TYPE urbancross_shards gauge",
            "urbancross_shards{stage=\"images\",state=\"done\"} 7",
            "urbancross_beat_age_seconds 0.5",
            "# TYPE urbancross_store_seconds histogram",
            "urbancross_store_seconds_bucket{op=\"get\",le=\"0.02\"} 0",
            "urbancross_store_seconds_bucket{op=\"get\",le=\"0.05\"} 1",
            "urbancross_store_seconds_bucket{op=\"get\",le=\"7200\"} 1",
            "urbancross_store_seconds_bucket{op=\"get\",le=\"+Inf\"} 2",
            "urbancross_store_seconds_count{op=\"get\"} 2",
        ] {
            assert!(text.lines().any(|found| found == line), "{line}\n{text}");
        }
        assert_eq!(text.matches("# TYPE urbancross_claims_total").count(), 1);
        assert_eq!(written(&[("op", "a\"b\\c\nd")]), r#"op="a\"b\\c\nd""#);
    }
}
