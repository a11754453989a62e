//! Recall compared with guessing, and a warning where a model does no better.

use manifests::words::count;
use report::{Block, Cell, Column, Level, Series};
use training::recall::{BothWays, RecallReport, exceeds_chance};

/// Head of [`chance`].
pub(super) fn chance_column() -> Column {
    Column::number("chance").decimals(2)
}

/// The mR of guessing, shown beside a model's.
pub(super) fn chance(both: &BothWays) -> Cell {
    Cell::Number(both.chance_mean_recall)
}

/// A warning where a model does no better than guessing; `of` names it.
pub(super) fn no_better_than_chance(of: &str, recall: &RecallReport) -> Option<Block> {
    let quoted = &recall.exact.pessimistic;
    (!quoted.exceeds_chance()).then(|| Block::Note {
        level: Level::Warning,
        text: format!(
            "{of}: an mR of {:.2} is no better than guessing, which gives {:.2} over {} and {}. This \
             figure is no sign that anything was learnt.",
            quoted.mean_recall,
            quoted.chance_mean_recall,
            count(recall.image_gallery, "image"),
            count(recall.caption_gallery, "caption")
        ),
    })
}

/// The same of the best validation recall of some trainings, where chance is known; `of` names them.
pub(super) fn validated_no_better(trainings: impl Iterator<Item = (String, f64, Option<f64>)>) -> Option<Block> {
    let guesses = trainings.filter_map(|(of, recall, chance)| (!exceeds_chance(recall, chance?)).then_some(of));
    let guesses = guesses.collect::<Vec<_>>().join(", ");
    (!guesses.is_empty()).then(|| Block::Note {
        level: Level::Warning,
        text: format!("No better than guessing on the validation split: {guesses}."),
    })
}

/// Validation recall, with a line of what guessing gives where that is known.
pub(super) fn validation_series(
    recall: impl Iterator<Item = (f64, f64)>,
    chance: impl Iterator<Item = (f64, f64)>,
) -> Vec<Series> {
    let named = |name: &str, points: Vec<(f64, f64)>| Series { name: name.into(), points };
    let mut series = vec![named("validation", recall.collect()), named("guessing", chance.collect())];
    series.retain(|series| !series.points.is_empty());
    series
}

#[cfg(test)]
mod tests {
    use choices::Protocol;
    use stages::evaluate::{EvaluatedRow, recall_of};

    use super::*;

    /// Recall over as many images, one caption each, whose vectors lie on a circle.
    fn recall(images: usize, angle_of: impl Fn(usize, bool) -> f32) -> RecallReport {
        let vector = |angle: f32| vec![angle.cos(), angle.sin()];
        let rows: Vec<EvaluatedRow> = (0..images)
            .map(|i| EvaluatedRow {
                image_id: format!("i{i}"),
                bytes_digest: manifests::digest::of_bytes(&[i as u8]),
                embedding: vector(angle_of(i, true)),
                captions: vec![(format!("caption {i}"), vector(angle_of(i, false)))],
            })
            .collect();
        recall_of(&rows, Protocol::Standard).unwrap().report
    }

    #[test]
    fn a_figure_no_better_than_guessing_is_called_so() {
        // each caption lies six images away from its own
        let lost = recall(12, |i, image| (i + if image { 0 } else { 6 }) as f32 * 0.4);
        let Some(Block::Note { level: Level::Warning, text }) = no_better_than_chance("This model", &lost) else {
            panic!("{lost:?}")
        };
        assert!(text.starts_with("This model: an mR of ") && text.contains("no better than guessing"), "{text}");
        assert!(text.contains(&format!("gives {:.2} over 12 images", lost.exact.pessimistic.chance_mean_recall)));
        assert_eq!(no_better_than_chance("", &recall(12, |i, _| i as f32 * 0.4)), None, "it finds everything");
    }

    #[test]
    fn a_curve_has_chance_where_it_is_known() {
        let names = |series: Vec<Series>| series.into_iter().map(|s| s.name).collect::<Vec<_>>();
        let points = || [(1.0, 20.0), (2.0, 30.0)].into_iter();
        assert_eq!(names(validation_series(points(), points())), ["validation", "guessing"]);
        assert_eq!(names(validation_series(points(), std::iter::empty())), ["validation"]);
        let trainings = [("a", 20.0, Some(15.0)), ("b", 15.0, Some(15.0)), ("c", 1.0, None), ("d", 3.0, Some(15.0))];
        let trainings = trainings.map(|(of, recall, chance)| (of.to_owned(), recall, chance));
        let Some(Block::Note { text, .. }) = validated_no_better(trainings.into_iter()) else { panic!() };
        assert_eq!(text, "No better than guessing on the validation split: b, d.");
    }
}
