//! The learning curve of a run: a line for each point, appended as it goes.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;

use serde::{Deserialize, Serialize};
use training::trainer::{Event, Phases};

use super::segments::SeenSegments;

/// File of a run folder with one [`CurvePoint`] per line.
pub const CURVE_FILE: &str = "curve.jsonl";

/// A point of the learning curves.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct CurvePoint {
    /// Epochs done, with a fraction inside of an epoch.
    pub epoch: f64,
    /// Loss of one step; about twenty steps of an epoch are noted.
    pub loss: Option<f64>,
    /// Parts of the loss, by name.
    #[serde(default)]
    pub parts: BTreeMap<String, f64>,
    /// Learning rate of that step.
    pub learning_rate: Option<f64>,
    /// Mean recall on the validation split, in percent, ties lost.
    pub validation_mean_recall: Option<f64>,
    /// The mR of guessing over that split.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub validation_chance: Option<f64>,
    /// Seconds of the phases of an epoch's steps, where they are measured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub phases: Option<Phases>,
    /// Segments of a few validation images by the network of an epoch, where segments are learnt from.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub segments: Vec<SeenSegments>,
}

/// Appends to the run's learning curve.
pub(crate) struct Curve {
    file: std::fs::File,
    /// The mR of guessing, if an earlier start of the run has validated.
    pub(crate) validation_chance: Option<f64>,
}

impl Curve {
    pub(crate) fn open(folder: &Path) -> std::io::Result<Self> {
        let path = folder.join(CURVE_FILE);
        let earlier = read_curve(&std::fs::read_to_string(&path).unwrap_or_default());
        let validation_chance = earlier.iter().rev().find_map(|point| point.validation_chance);
        let file = std::fs::OpenOptions::new().create(true).append(true).open(path)?;
        Ok(Self { file, validation_chance })
    }

    /// The mR of guessing and `segments` belong to an epoch that ends.
    pub(crate) fn note(
        &mut self,
        event: &Event,
        steps_per_epoch: usize,
        (validation_chance, segments): (Option<f64>, Vec<SeenSegments>),
    ) {
        let point = match event {
            // about twenty points an epoch draw a curve
            Event::Step(p) if (p.step + 1).is_multiple_of((steps_per_epoch / 20).max(1)) => CurvePoint {
                epoch: p.epoch as f64 + (p.step + 1) as f64 / steps_per_epoch as f64,
                loss: Some(p.loss),
                parts: p.parts.iter().map(|(name, value)| ((*name).to_owned(), *value)).collect(),
                learning_rate: Some(p.learning_rate),
                ..CurvePoint::default()
            },
            Event::Step(_) | Event::Saved => return,
            Event::EpochEnd(end) => CurvePoint {
                epoch: (end.epoch + 1) as f64,
                validation_mean_recall: Some(end.metric),
                validation_chance,
                phases: end.phases,
                segments,
                ..CurvePoint::default()
            },
        };
        let line = serde_json::to_string(&point).expect("plain data serialises");
        // a curve with a gap is no reason to end a training
        if let Err(error) = writeln!(self.file, "{line}") {
            tracing::warn!(%error, "the learning curve was not written");
        }
    }
}

/// Reads a run's curve. A resumed run repeats some points: the last of each epoch position counts.
pub fn read_curve(text: &str) -> Vec<CurvePoint> {
    let mut points: Vec<CurvePoint> = text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    points.reverse();
    let mut seen = std::collections::BTreeSet::new();
    points.retain(|p| seen.insert((p.epoch.to_bits(), p.validation_mean_recall.is_some())));
    points.sort_by(|a, b| a.epoch.total_cmp(&b.epoch));
    points
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_resumed_curve_has_each_point_once() {
        let line = |epoch: f64, loss: f64| {
            let point = CurvePoint { epoch, loss: Some(loss), ..CurvePoint::default() };
            serde_json::to_string(&point).unwrap()
        };
        let text = [line(0.5, 3.0), line(1.0, 2.0), "{broken".into(), line(0.5, 2.9)].join("\n");
        let losses: Vec<_> = read_curve(&text).iter().filter_map(|p| p.loss).collect();
        assert_eq!(losses, [2.9, 2.0]);
    }

    #[test]
    fn an_epochs_line_has_its_phases_where_they_are_measured() {
        let folder = tempfile::tempdir().unwrap();
        let measured = Phases { data: 0.5, forward: 1.0, backward: 2.0, all_reduce: 0.0, optimiser: 0.25 };
        let best = training::checkpoint::Best { epoch: 0, metric: 50.0 };
        for (epoch, phases) in [None, Some(measured)].into_iter().enumerate() {
            let end = training::trainer::EpochEnd { epoch, metric: 50.0, best, phases };
            let chance = (epoch == 0).then_some(12.5);
            let mut curve = Curve::open(folder.path()).unwrap();
            assert_eq!(curve.validation_chance, (epoch > 0).then_some(12.5), "that of an earlier start");
            curve.note(&Event::EpochEnd(end), 10, (chance, Vec::new()));
        }
        let text = std::fs::read_to_string(folder.path().join(CURVE_FILE)).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        assert!(!lines[0].contains("phases"), "{text}");
        assert!(lines[1].contains(r#""phases":{"data":0.5,"forward":1.0,"#), "{text}");
        assert_eq!(read_curve(&text).iter().map(|point| point.phases).collect::<Vec<_>>(), [None, Some(measured)]);
    }
}
