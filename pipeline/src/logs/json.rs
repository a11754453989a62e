//! Lines as objects: who says it, about which shard and row, what happened and how long it took.

use std::fmt::{Debug, Write};

use serde::Serialize;
use tracing::field::{Field, Visit};
use tracing::{Level, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;

use super::scrub::scrub;

/// Who writes a process's lines. What is not known is left out of them.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Who {
    /// The run that it belongs to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub run: Option<String>,
    /// Name of its stage.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stage: Option<String>,
    /// Key of its plan.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub plan: Option<String>,
    /// Its number among workers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub worker: Option<String>,
    /// Which try of the engine it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub attempt: Option<String>,
    /// Its host.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    /// Where it computes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub device: Option<String>,
    /// The job by which the engine knows it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub engine_job: Option<String>,
}

impl Who {
    /// A process that has not said who it is.
    pub(super) const NOBODY: Self = Self {
        run: None,
        stage: None,
        plan: None,
        worker: None,
        attempt: None,
        node: None,
        device: None,
        engine_job: None,
    };
}

/// Something that happened.
#[derive(Debug, Clone, Default)]
pub struct Event<'a> {
    /// `error`, `warn`, `info`, `debug` or `trace`.
    pub level: &'static str,
    /// Its kind, such as `shard`.
    pub event: &'a str,
    /// Name of the task of a run of several.
    pub task: Option<&'a str>,
    /// The step, where it is another than the process's own.
    pub stage: Option<&'a str>,
    /// Number of a shard.
    pub shard: Option<u64>,
    /// Which attempt on it.
    pub epoch: Option<u64>,
    /// Id of an image.
    pub row: Option<&'a str>,
    /// How long it took.
    pub seconds: Option<f64>,
    /// In words.
    pub message: &'a str,
}

#[derive(Serialize)]
struct Line<'a> {
    ts: String,
    level: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    task: Option<String>,
    #[serde(flatten)]
    who: Who,
    #[serde(skip_serializing_if = "Option::is_none")]
    shard: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    epoch: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    row: Option<String>,
    event: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    seconds: Option<f64>,
    message: String,
}

impl Event<'_> {
    /// The object, with the end of its line.
    pub(super) fn line(&self, who: &Who, secrets: &[String]) -> String {
        let clean = |text: &str| scrub(text, secrets);
        let mut who = who.clone();
        if let Some(stage) = self.stage {
            who.stage = Some(stage.to_owned());
        }
        let line = Line {
            ts: crate::clock::now_exactly(),
            level: self.level,
            task: self.task.or(Some(super::task()).filter(|name| !name.is_empty())).map(clean),
            who,
            shard: self.shard,
            epoch: self.epoch,
            row: self.row.map(clean),
            event: clean(self.event),
            seconds: self.seconds.filter(|seconds| seconds.is_finite()),
            message: clean(self.message),
        };
        serde_json::to_string(&line).expect("plain data serialises") + "\n"
    }
}

/// Turns what libraries say into lines.
pub(super) struct JsonLines;

impl<S: Subscriber> Layer<S> for JsonLines {
    fn on_event(&self, event: &tracing::Event<'_>, _: Context<'_, S>) {
        let mut said = Said::default();
        event.record(&mut said);
        let level = match *event.metadata().level() {
            Level::ERROR => "error",
            Level::WARN => "warn",
            Level::INFO => "info",
            Level::DEBUG => "debug",
            Level::TRACE => "trace",
        };
        super::event(&Event {
            task: None,
            level,
            event: said.event.as_deref().unwrap_or("note"),
            stage: said.stage.as_deref(),
            shard: said.shard,
            epoch: said.epoch,
            row: said.row.as_deref(),
            seconds: said.seconds,
            message: &said.message,
        });
    }
}

/// Fields of a library's event; those without a key of their own go behind the message.
#[derive(Debug, Default, PartialEq)]
struct Said {
    event: Option<String>,
    stage: Option<String>,
    shard: Option<u64>,
    epoch: Option<u64>,
    row: Option<String>,
    seconds: Option<f64>,
    message: String,
}

impl Visit for Said {
    fn record_u64(&mut self, field: &Field, value: u64) {
        match field.name() {
            "shard" => self.shard = Some(value),
            "epoch" => self.epoch = Some(value),
            _ => self.record_debug(field, &value),
        }
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        match field.name() {
            "seconds" => self.seconds = Some(value),
            _ => self.record_debug(field, &value),
        }
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        match field.name() {
            "event" => self.event = Some(value.to_owned()),
            "stage" => self.stage = Some(value.to_owned()),
            "row" => self.row = Some(value.to_owned()),
            _ => self.record_debug(field, &format_args!("{value}")),
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        // fields come in the order in which they were written, the message anywhere
        if field.name() == "message" {
            self.message = format!("{value:?}{}", std::mem::take(&mut self.message));
        } else {
            _ = write!(self.message, " {}={value:?}", field.name());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_says_who_and_what_and_no_secret() {
        let who = Who { worker: Some("3".into()), stage: Some("images".into()), ..Who::NOBODY };
        let event = Event {
            level: "info",
            event: "shard",
            shard: Some(7),
            epoch: Some(2),
            seconds: Some(1.5),
            message: "done\nat https://u:p@h/ with hunter22",
            ..Event::default()
        };
        let line = event.line(&who, &["hunter22".to_owned()]);
        assert!(line.ends_with("}\n") && line.matches('\n').count() == 1, "{line}");
        let read: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert_eq!((read["worker"].as_str(), read["stage"].as_str()), (Some("3"), Some("images")));
        assert_eq!(
            (read["shard"].as_u64(), read["epoch"].as_u64(), read["seconds"].as_f64()),
            (Some(7), Some(2), Some(1.5))
        );
        assert_eq!(read["message"], "done\nat https://[hidden]@h/ with [hidden]");
        assert!(read["ts"].as_str().unwrap().ends_with('Z') && read.get("plan").is_none());
        let other = Event { stage: Some("captions"), seconds: Some(f64::NAN), ..event };
        let read: serde_json::Value = serde_json::from_str(&other.line(&who, &[])).unwrap();
        assert_eq!((read["stage"].as_str(), read.get("seconds")), (Some("captions"), None));
    }
}
