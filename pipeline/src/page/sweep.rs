//! The report of a sweep, and of trainings with and without segments.

use report::{Best, Block, Cell, Column, Level, LineChart, Report, Section, Table};

use super::chance::{chance, chance_column, no_better_than_chance, validated_no_better, validation_series};
use super::{figure_columns, figures};
use crate::sweep::{Curve, Point, SingleDomain};

/// Page of hyper-parameter curves.
pub fn curves(curves: &[Curve], generated_at: &str) -> String {
    let charts = curves.iter().map(|curve| {
        if curve.points.iter().any(|point| point.word.is_some()) {
            return Block::Table(words(curve));
        }
        let values: Vec<f64> = curve.points.iter().map(|point| point.value).collect();
        let (least, most) = (values.first().copied().unwrap_or(0.0), values.last().copied().unwrap_or(0.0));
        Block::LineChart(LineChart {
            caption: format!(
                "{} of {}: best validation recall of one training for each value.",
                curve.field, curve.country
            ),
            x_label: curve.field.clone(),
            y_label: "mR, percent".into(),
            // values that lie decades apart
            x_log: least > 0.0 && most >= 5.0 * least,
            y_log: false,
            series: validation_series(
                curve.points.iter().map(|point| (point.value, point.validation_mean_recall)),
                curve.points.iter().filter_map(|point| Some((point.value, point.validation_chance?))),
            ),
            best: Some(Best::Highest),
        })
    });
    let trainings = curves.iter().flat_map(|curve| curve.points.iter().map(move |point| (curve, point)));
    let trainings = trainings.map(|(curve, point)| {
        (format!("{} = {}", curve.field, point.name()), point.validation_mean_recall, point.validation_chance)
    });
    let named = |is: fn(&Point) -> bool| -> Vec<String> {
        let points = curves.iter().flat_map(|curve| curve.points.iter().map(move |point| (curve, point)));
        let named = points.filter(|(_, point)| is(point));
        named.map(|(curve, point)| format!("{} = {} of {}", curve.field, point.name(), curve.country)).collect()
    };
    let longer = longer(&named(|point| point.from_earlier_weights));
    let earlier = named(|point| point.of_earlier_tables);
    let earlier = (!earlier.is_empty()).then(|| Block::Note {
        level: Level::Warning,
        text: format!(
            "Not on equal terms: {} was validated before the last changes of the tables, on other images than the rest. `urbancross run \
             --retrain` trains it on the tables as they are.",
            earlier.join(", ")
        ),
    });
    let section = Section {
        id: "sweep".into(),
        title: "One setting varied, the others as in the spec".into(),
        lead: "Settings are chosen on the validation split; the test split plays no part.".into(),
        blocks: charts.chain(validated_no_better(trainings)).chain(longer).chain(earlier).collect(),
    };
    page("Hyper-parameters", vec![section], generated_at)
}

/// Warns of trainings that have learnt for longer than others.
fn longer(named: &[String]) -> Option<Block> {
    (!named.is_empty()).then(|| Block::Note {
        level: Level::Warning,
        text: format!(
            "Not on equal terms: {} went on from weights of earlier tables, and learnt for longer than the others. In a work \
             store of its own all begin from scratch.",
            named.join(", ")
        ),
    })
}

/// Values that are words have no axis.
fn words(curve: &Curve) -> Table {
    let row = |point: &Point| {
        vec![
            Cell::from(point.name()),
            Cell::from(point.validation_mean_recall),
            Cell::from(point.validation_chance),
            Cell::from(point.seconds),
        ]
    };
    Table {
        caption: format!("{} of {}: validation recall for each value.", curve.field, curve.country),
        columns: vec![
            Column::text(curve.field.clone()),
            Column::number("mR").unit("%").decimals(2).best(Best::Highest),
            chance_column(),
            Column::number("took").unit("s").decimals(1),
        ],
        rows: curve.points.iter().map(row).collect(),
    }
}

fn trained_on(line: &SingleDomain) -> String {
    format!("the training {} of {}", if line.with_segments { "with segments" } else { "without" }, line.country)
}

/// Page of the paper's Table 1.
pub fn single_domain(lines: &[SingleDomain], generated_at: &str) -> String {
    let mut columns = vec![Column::text("country"), Column::text("learns from")];
    columns.extend(figure_columns());
    columns.extend([chance_column(), Column::number("images").decimals(0)]);
    let rows = lines.iter().map(|line| {
        let from = if line.with_segments { "images and segments" } else { "images" };
        let mut row = vec![Cell::Text(line.country.clone()), Cell::Text(from.into())];
        row.extend(figures(&line.recall.exact.pessimistic));
        row.extend([chance(&line.recall.exact.pessimistic), Cell::Number(line.recall.image_gallery as f64)]);
        row
    });
    let table = Table {
        caption: "Recall in percent on the test split; ties count as lost.".into(),
        columns,
        rows: rows.collect(),
    };
    let section = Section {
        id: "single-domain".into(),
        title: "Within a country, with and without segments".into(),
        lead: String::new(),
        blocks: [
            vec![Block::Table(table)],
            lines.iter().filter_map(|line| no_better_than_chance(&line.country, &line.recall)).collect(),
            longer(&lines.iter().filter(|line| line.from_earlier_weights).map(trained_on).collect::<Vec<_>>())
                .into_iter()
                .collect(),
        ]
        .concat(),
    };
    page("The effect of segments", vec![section], generated_at)
}

fn page(title: &str, sections: Vec<Section>, generated_at: &str) -> String {
    report::render(&Report {
        title: title.to_owned(),
        subtitle: String::new(),
        generated_at: generated_at.to_owned(),
        facts: Vec::new(),
        sections,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_that_learnt_for_longer_is_named() {
        let point = |value: f64, from_earlier_weights: bool| Point {
            value,
            word: None,
            validation_mean_recall: 50.0,
            validation_chance: Some(5.0),
            best_epoch: 0,
            seconds: 1.0,
            from_earlier_weights,
            of_earlier_tables: value == 32.0,
        };
        let curve = |longer: bool| Curve {
            country: "finland".into(),
            field: "pretrain.batch".into(),
            points: vec![point(8.0, longer), point(16.0, false)],
        };
        let warning = "Not on equal terms: pretrain.batch = 8 of finland went on";
        assert!(curves(&[curve(true)], "today").contains(warning));
        assert!(!curves(&[curve(false)], "today").contains("Not on equal terms"));
        let earlier = Curve { points: vec![point(16.0, false), point(32.0, false)], ..curve(false) };
        assert!(
            curves(&[earlier], "today")
                .contains("pretrain.batch = 32 of finland was validated before the last changes")
        );
    }
}
