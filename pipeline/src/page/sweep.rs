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
    let earlier = earlier(&named(|point| point.of_earlier_tables), "validated");
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

/// Warns of trainings that know less of the tables than others.
fn earlier(named: &[String], was: &str) -> Option<Block> {
    (!named.is_empty()).then(|| Block::Note {
        level: Level::Warning,
        text: format!(
            "Not on equal terms: {} was {was} before the last changes of the tables, on other images than the rest. `urbancross run \
             --retrain` trains it on the tables as they are.",
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
    // figures of unlike galleries, as protocols have them, are no rivals
    let chance = |point: &Point| point.validation_chance.map(f64::to_bits);
    let alike = curve.points.windows(2).all(|two| chance(&two[0]) == chance(&two[1]));
    let recall = Column::number("mR").unit("%").decimals(2);
    Table {
        caption: format!("{} of {}: validation recall for each value.", curve.field, curve.country),
        columns: vec![
            Column::text(curve.field.clone()),
            if alike { recall.best(Best::Highest) } else { recall },
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
            earlier(&lines.iter().filter(|line| line.of_earlier_tables).map(trained_on).collect::<Vec<_>>(), "trained")
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

    /// A smaller gallery is easier to search.
    #[test]
    fn the_best_is_marked_only_among_galleries_of_one_size() {
        let point = |word: &str, recall: f64, chance: f64| Point {
            value: 0.0,
            word: Some(word.into()),
            validation_mean_recall: recall,
            validation_chance: Some(chance),
            best_epoch: 0,
            seconds: 1.0,
            from_earlier_weights: false,
            of_earlier_tables: false,
        };
        let page = |chance: f64| {
            let points = vec![point("standard", 40.0, 5.0), point("dedup", 50.0, chance)];
            words(&Curve { country: "finland".into(), field: "evaluate.protocol".into(), points })
        };
        let marked = |table: Table| table.columns.iter().any(|column| column.best.is_some());
        assert!(marked(page(5.0)) && !marked(page(8.0)));
    }

    #[test]
    fn a_training_of_earlier_tables_is_named() {
        let rows = [stages::evaluate::EvaluatedRow {
            image_id: "i".into(),
            bytes_digest: "d".into(),
            embedding: vec![1.0],
            captions: vec![("x".into(), vec![1.0])],
        }];
        let line = |of_earlier_tables: bool| SingleDomain {
            country: "finland".into(),
            with_segments: true,
            model_digest: "m".into(),
            recall: stages::evaluate::recall_of(&rows, choices::Protocol::Standard).unwrap().report,
            from_earlier_weights: false,
            of_earlier_tables,
        };
        let warning = "the training with segments of finland was trained before the last changes";
        assert!(single_domain(&[line(true)], "today").contains(warning));
        assert!(!single_domain(&[line(false)], "today").contains("Not on equal terms"));
    }

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
